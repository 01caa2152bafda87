"""docs/your_own_robot.md, done as it says."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import socket
import socketserver
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from session_runs import POLO, environment, safely, session, transitions, wait_until

TEXT = (Path(__file__).parents[1] / "docs" / "your_own_robot.md").read_text("utf-8")
DOMAIN = 130


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.M | re.S)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tutorial's files in a folder."""
    source = tmp_path_factory.mktemp("source")
    for text in [*blocks("toml"), *blocks("python"), *blocks("yaml")]:
        path = source / text.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return source


@pytest.fixture(scope="module")
def installed(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its package, installed into a folder of its own."""
    site = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), str(written / "my_robot")], check=True, timeout=120)
    return site


def polo(written: Path, installed: Path, domain: int, arguments: list[str]) -> str:
    done = subprocess.run(
        [str(POLO), *arguments],
        env={**environment(domain), "PYTHONPATH": str(installed)},
        cwd=written,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def commands() -> list[list[str]]:
    return [shlex.split(line)[1:] for text in blocks("bash") for line in text.splitlines() if line.startswith("polo ")]


def test_the_tutorials_commands_swing_the_pendulum_up(written: Path, installed: Path, tmp_path: Path) -> None:
    run, sim, _ = commands()
    figures = json.loads(polo(written, installed, DOMAIN, run))
    assert figures["steps"] == 300 and figures["success"] is True
    output = polo(written, installed, DOMAIN, [*sim, f"run_dir:={tmp_path}"])
    assert "pendulum (seed 0, lockstep, mujoco)" in output
    assert len(transitions(tmp_path)) == 200


class _Board(socketserver.StreamRequestHandler):
    """The tutorial's motor board, with a motor that turns as fast as it is told."""

    angle = 0.0
    written: list[float] = []
    lines: list[socket.socket] = []

    def handle(self) -> None:
        _Board.lines.append(self.request)
        for line in self.rfile:
            word, *rest = line.decode().split()
            if word == "w":
                _Board.written.append(float(rest[0]))
                _Board.angle += 0.02 * float(rest[0])
            self.wfile.write(f"{_Board.angle} 0.0\n".encode())


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


class _Robot:
    """The board at the tutorial's address; may be switched off and on."""

    def __init__(self) -> None:
        self._server: _Server | None = None

    def __enter__(self) -> _Robot:
        _Board.written, _Board.lines = [], []
        self._server = _Server(("127.0.0.1", 7000), _Board)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        for line in _Board.lines:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)


def test_the_tutorials_driver_runs_a_session_and_leaves_the_robot_at_rest(
    written: Path, installed: Path, tmp_path: Path
) -> None:
    with _Robot():
        output = polo(written, installed, DOMAIN + 1, [*commands()[-1], "duration:=2", f"run_dir:={tmp_path}"])
    assert "pendulum (seed 0, realtime, pendulum_board)" in output
    found = transitions(tmp_path)
    assert len(found) >= 95 and any(t.plan_id for t in found)
    assert _Board.written[0] == _Board.written[-1] == 0.0, "at rest before the first plan and after the last"
    assert len(_Board.written) >= len(found) and max(map(abs, _Board.written)) <= 0.7
    # A transition is what the action of its own period did: the board turns by 0.02 rad for a command of 1.
    for t in found:
        turned = t.next_observation - t.observation
        angle = np.arctan2(t.next_observation[0], t.next_observation[2]) - np.arctan2(
            t.observation[0], t.observation[2]
        )
        assert np.isfinite(turned).all()
        assert np.mod(angle - 0.02 * t.action[0] + np.pi, 2 * np.pi) - np.pi == pytest.approx(0.0, abs=1e-6)
    # The session's time begins at 0 s and goes by whole periods, whatever clock the board has.
    assert 0.0 <= found[0].state[0] < 1.0


def test_a_board_that_hangs_up_is_connected_again(
    written: Path, installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(installed))
    monkeypatch.chdir(written)
    arguments = commands()[-1][2:]
    with session(tmp_path, DOMAIN + 2, *arguments, file="robot") as process:
        with _Robot():
            wait_until(lambda: len(safely(tmp_path)) > 20, 60, "control")
        before = safely(tmp_path)[-1].step
        with _Robot():
            wait_until(lambda: safely(tmp_path)[-1].step > before + 20, 60, "control again")
            wait_until(lambda: any(t.plan_id for t in safely(tmp_path)[-10:]), 60, "plans again")
        assert process.poll() is None
    steps = [t.step for t in transitions(tmp_path)]
    times = [t.state[0] for t in transitions(tmp_path)]
    assert steps == sorted(set(steps)) and times == sorted(times)
