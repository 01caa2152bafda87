"""The motor board of docs/your_own_robot.md, with a motor that turns as fast as it is told, and the tutorial's code."""

from __future__ import annotations

import contextlib
import re
import socket
import socketserver
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

TUTORIAL = Path(__file__).parents[1] / "docs" / "your_own_robot.md"


def blocks(language: str) -> list[str]:
    """The tutorial's files in a language; each begins with a comment that names it."""
    return re.findall(rf"^```{language}\n(.*?)^```", TUTORIAL.read_text("utf-8"), re.M | re.S)


def tutorial() -> dict[str, Any]:
    """Names of the tutorial's task and driver, `Pendulum` and `Board`."""
    names: dict[str, Any] = {}
    for text in blocks("python"):
        if text.startswith(("# my_robot/my_robot/pendulum.py", "# my_robot/my_robot/board.py")):
            exec(compile(text, "tutorial", "exec"), names)
    return names


class MotorBoard:
    """A board that may be switched off and on; it keeps its angle.

    Args:
        port: 0: a free one, the same each time that it is switched on.
    """

    TURN = 0.02  # rad that it turns in a control period at a command of 1

    def __init__(self, port: int = 0) -> None:
        self.address = ("127.0.0.1", port)
        self.angle = self.velocity = 0.0
        self.written: list[float] = []
        self._lines: list[socket.socket] = []
        self._server: socketserver.ThreadingTCPServer | None = None

    def switch_on(self) -> None:
        board = self

        class Line(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                board._lines.append(self.request)
                with contextlib.suppress(OSError):
                    for line in self.rfile:
                        self.wfile.write(board._answer(*line.decode().split()))

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._server = Server(self.address, Line)
        self.address = ("127.0.0.1", self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def switch_off(self) -> None:
        if self._server is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._server = None
        for line in self._lines:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        self._lines.clear()

    def _answer(self, word: str, value: str = "0") -> bytes:
        if word == "w":
            self.written.append(float(value))
            self.velocity = float(value)
            self.angle += self.TURN * self.velocity
        return f"{self.angle} {self.velocity}\n".encode()

    def __enter__(self) -> MotorBoard:
        self.switch_on()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.switch_off()
