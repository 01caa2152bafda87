"""Processes for trials, forked from one that has imported what they need: torch alone takes two seconds."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path


class NurseryClosed(RuntimeError):
    """The process that forks the others is gone."""


class Nursery:
    """Starts a process for each trial, and tells when it has ended. All of them end with it. A context manager.

    Args:
        program: A module to run as `python -m program FD`, which calls `hatch(FD)` first.
        folder: Where it runs; nothing in it can be imported by accident.
    """

    def __init__(self, program: str, folder: Path) -> None:
        # One message is one packet, so that none is cut or joined to another.
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", program, str(theirs.fileno())],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                # One thread, as each trial has: forking beside the threads of a library is not safe.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
                # A process group of its own: all that a trial has started ends with it.
                start_new_session=True,
            )

    def start(self, folder: Path, module: str) -> None:
        """Start a process in `folder`, where its output goes to `log`; `module` is what it is going to import."""
        try:
            self._socket.send(json.dumps([str(folder), module]).encode())
        except OSError as error:
            raise NurseryClosed(f"trials cannot be started: {error}") from error

    def ended(self, timeout: float) -> dict[Path, int]:
        """Exit codes of processes that have ended since it was last asked; waits for the first of them.

        Args:
            timeout: s to wait at most.

        Raises:
            NurseryClosed: Nobody is there to tell.
        """
        found: dict[Path, int] = {}
        while select.select([self._socket], [], [], 0.0 if found else timeout)[0]:
            try:
                packet = self._socket.recv(1 << 16)
            except ConnectionResetError:
                packet = b""
            if not packet:
                raise NurseryClosed(f"the process that starts trials ended with {self._process.wait()}")
            folder, code = json.loads(packet)
            found[Path(folder)] = int(code)
        return found

    def close(self) -> None:
        """Kill whatever still runs."""
        self._socket.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def hatch(number: int) -> Path:
    """Fork a process for each folder that is asked for on socket `number`; in that process it returns the folder.

    In the process that called it, it never returns. Once nobody can ask any more that one ends, and all it has forked.
    """
    asked = socket.socket(fileno=number)
    children: dict[int, tuple[int, str]] = {}  # process id and folder, by a descriptor that is readable at its end
    while True:
        for ready in select.select([number, *children], [], [])[0]:
            if ready != number:
                pid, folder = children.pop(ready)
                os.close(ready)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with contextlib.suppress(BrokenPipeError):
                    asked.send(json.dumps([folder, code]).encode())
                continue
            packet = asked.recv(1 << 16)
            if not packet:
                os.killpg(0, signal.SIGKILL)
            folder, module = json.loads(packet)
            with contextlib.suppress(Exception):  # what is wrong with it, its own process will say
                importlib.import_module(module)
            sys.stdout.flush()  # or each of them would say it again
            # A child's collector would visit all that was imported, and copy its pages, once more at its end.
            gc.collect()
            gc.freeze()
            pid = os.fork()
            if pid == 0:
                for descriptor in (number, *children):
                    os.close(descriptor)
                asked.detach()
                _settle(Path(folder))
                return Path(folder)
            children[os.pidfd_open(pid)] = pid, folder


def _settle(folder: Path) -> None:
    """Make `folder` the current one, and its file `log` the output."""
    os.chdir(folder)
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
