"""Runs a set of processes: starts them, shows their output, restarts them, and stops every one of them.

One thread, one loop. Each process leads a session and process group of its own, so that a terminal's Ctrl-C reaches
the launcher alone, which then stops all of them in order: SIGINT, after `sigterm_timeout` SIGTERM, after
`sigkill_timeout` SIGKILL. No process outlives the launcher: a process's own children are killed when it ends, and
when the launcher itself is killed, the kernel (PR_SET_PDEATHSIG) and `guardian` end what is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PR_SET_PDEATHSIG = 1
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)
STOPPED = (0, -signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGTERM)  # good answers to a stop
STARTING = 5.0  # s that a process may take until it knows how to answer a stop
LONGEST_LINE = 1 << 16  # bytes of output without a line end before it is shown all the same

# Loaded here, since nothing may be imported between fork and exec.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True)
class ProcessSpec:
    """One process to run.

    Attributes:
        name: what it is called in the output.
        command: program and arguments.
        environment: all of its environment variables.
        respawn: start it again whenever it ends, until shutdown.
        respawn_delay: time before that, s.
        respawn_max_retries: restarts before giving up; negative: never give up.
        shutdown_on_exit: its end is the end of all.
        sigterm_timeout: time from SIGINT to SIGTERM at shutdown, s.
        sigkill_timeout: time from SIGTERM to SIGKILL, s.
    """

    name: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    respawn: bool = False
    respawn_delay: float = 0.0
    respawn_max_retries: int = -1
    shutdown_on_exit: bool = False
    sigterm_timeout: float = 5.0
    sigkill_timeout: float = 5.0


class _Child:
    """A process specification and the process that runs for it, if any."""

    def __init__(self, spec: ProcessSpec) -> None:
        self.spec = spec
        self.process: subprocess.Popen[bytes] | None = None
        self.buffer = b""
        self.restarts = 0
        self.started = 0.0
        self.start_at: float | None = None  # when to start it again
        self.next_signal: signal.Signals | None = None
        self.signal_at = 0.0


class Supervisor:
    """Runs processes until one that matters ends, all have ended, or a signal asks to stop.

    Args:
        specs: the processes, started in this order.
        say: takes each line for the user; prints it by default.
    """

    def __init__(self, specs: Sequence[ProcessSpec], say: Callable[[str], None] | None = None) -> None:
        self._children = [_Child(spec) for spec in specs]
        self._say = say or _print
        self._selector = selectors.DefaultSelector()
        self._guardian: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._failed = False
        self._interrupts = 0
        self._deaf = False  # the user's terminal or pipe is gone

    def run(self) -> int:
        """Run until shutdown is complete; must be called from the main thread.

        Returns:
            0 after an orderly end, 1 if a process failed for good or had to be killed.
        """
        with self._signals() as wakeup:
            try:
                self._selector.register(wakeup, selectors.EVENT_READ)
                self._start_guardian()
                for child in self._children:
                    if not self._stopping:
                        self._start(child)
                while self._busy():
                    for key, _ in self._selector.select(self._patience()):
                        if key.data is None:
                            self._on_signals(os.read(wakeup, 4096))
                        else:
                            self._read(key.data)
                    self._reap()
                    self._on_time()
            finally:
                self._kill_all()
                self._selector.close()
                self._stop_guardian()
        return int(self._failed)

    # Starting

    def _start(self, child: _Child) -> None:
        spec = child.spec
        child.start_at = None
        try:
            child.process = subprocess.Popen(
                spec.command,
                env=spec.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509 - there is one thread
            )
        except (OSError, subprocess.SubprocessError) as error:
            self._show(child, f"cannot start {spec.command[0]}: {error}")
            self._failed = True
            self.shutdown(f"{spec.name} cannot be started")
            return
        child.started = time.monotonic()
        self._tell_guardian(f"+{child.process.pid} {spec.sigterm_timeout + spec.sigkill_timeout}")
        self._show(child, f"started, process {child.process.pid}")
        assert child.process.stdout is not None
        os.set_blocking(child.process.stdout.fileno(), False)
        self._selector.register(child.process.stdout, selectors.EVENT_READ, child)

    # Running

    def _busy(self) -> bool:
        return any(child.process is not None or child.start_at is not None for child in self._children)

    def _patience(self) -> float | None:
        """Time until something is due, s; None: nothing is."""
        due = [child.start_at for child in self._children if child.start_at is not None]
        due += [child.signal_at for child in self._children if child.process and child.next_signal]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _on_time(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.start_at is not None and child.start_at <= now:
                self._start(child)
            elif child.process is not None and child.next_signal is not None and child.signal_at <= now:
                self._escalate(child)

    def _read(self, child: _Child) -> bool:
        """Show what a process has written; whether there was something."""
        assert child.process is not None and child.process.stdout is not None
        try:
            data = os.read(child.process.stdout.fileno(), LONGEST_LINE)
        except BlockingIOError:
            return False
        if not data:
            with contextlib.suppress(KeyError):  # closed by the process before it ended
                self._selector.unregister(child.process.stdout)
            return False
        *lines, child.buffer = (child.buffer + data).split(b"\n")
        for line in lines:
            self._show(child, line.decode(errors="replace").rstrip("\r"))
        if len(child.buffer) > LONGEST_LINE:
            self._show(child, child.buffer.decode(errors="replace"))
            child.buffer = b""
        return True

    def _reap(self) -> None:
        for child in self._children:
            process = child.process
            if process is None:
                continue
            # WNOWAIT keeps the process number taken until the rest of its group is gone.
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            _kill(process.pid, signal.SIGKILL)
            code = process.wait()
            while self._read(child):
                pass
            if child.buffer:
                self._show(child, child.buffer.decode(errors="replace"))
                child.buffer = b""
            self._forget(child)
            self._on_exit(child, code)

    def _forget(self, child: _Child) -> None:
        assert child.process is not None and child.process.stdout is not None
        with contextlib.suppress(KeyError):
            self._selector.unregister(child.process.stdout)
        child.process.stdout.close()
        self._tell_guardian(f"-{child.process.pid}")
        child.process = None

    def _on_exit(self, child: _Child, code: int) -> None:
        spec = child.spec
        self._show(child, "ended" if code == 0 else f"ended: {describe(code)}")
        if self._stopping:
            # Who was killed since the user was in a hurry had no chance to answer well.
            hurried = code == -signal.SIGKILL and self._interrupts > 1
            self._failed |= not hurried and not ended_well(code, time.monotonic() - child.started)
            return
        if spec.respawn and (spec.respawn_max_retries < 0 or child.restarts < spec.respawn_max_retries):
            child.restarts += 1
            child.start_at = time.monotonic() + spec.respawn_delay
            return
        if code != 0:
            self._failed = True
        if spec.shutdown_on_exit:
            self.shutdown(f"{spec.name} has ended")

    # Stopping

    def shutdown(self, reason: str) -> None:
        """Ask every process to stop, as Ctrl-C would; `run` returns when all have."""
        if self._stopping:
            return
        self._stopping = True
        self._line(f"[polo launch] stopping: {reason}")
        for child in self._children:
            child.start_at = None
            if child.process is not None:
                child.next_signal = signal.SIGINT
                self._escalate(child)

    def _escalate(self, child: _Child) -> None:
        """Send a process the signal that is due and set the time of the next."""
        assert child.process is not None
        number, spec, now = child.next_signal, child.spec, time.monotonic()
        if number == signal.SIGINT:
            child.next_signal, child.signal_at = (signal.SIGTERM, now + spec.sigterm_timeout)
        elif number == signal.SIGTERM:
            self._show(child, "does not stop; sending SIGTERM")
            child.next_signal, child.signal_at = (signal.SIGKILL, now + spec.sigkill_timeout)
        else:
            number = signal.SIGKILL
            self._show(child, "does not stop; sending SIGKILL")
            child.next_signal = None
        _kill(child.process.pid, number)

    def _on_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGCHLD:
                continue
            self._interrupts += number != signal.SIGHUP  # a closing terminal sends several; they are no hurry
            name = signal.Signals(number).name
            if not self._stopping:
                self.shutdown(name)
                continue
            if number == signal.SIGHUP:
                continue
            self._line(f"[polo launch] {name} again: hurrying")
            for child in self._children:
                if child.process is not None and child.next_signal is not None:
                    self._escalate(child)

    def _kill_all(self) -> None:
        """Leave nothing behind, whatever went wrong."""
        for child in self._children:
            if child.process is not None:
                _kill(child.process.pid, signal.SIGKILL)
                child.process.wait()
                self._forget(child)

    # The guardian

    def _start_guardian(self) -> None:
        self._guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("guardian.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _tell_guardian(self, line: str) -> None:
        assert self._guardian is not None
        stream = self._guardian.stdin
        assert stream is not None
        with contextlib.suppress(BrokenPipeError):  # someone killed it; the kernel's signal still works
            stream.write(f"{line}\n".encode())
            stream.flush()

    def _stop_guardian(self) -> None:
        if self._guardian is not None:
            assert self._guardian.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._guardian.stdin.close()
            self._guardian.wait()

    # Talking

    def _show(self, child: _Child, line: str) -> None:
        self._line(f"[{child.spec.name}] {line}")

    def _line(self, line: str) -> None:
        if self._deaf:
            return
        try:
            self._say(line)
        except OSError as error:  # the terminal is gone, or nobody reads the pipe any more
            self._deaf = True
            self.shutdown(f"output is closed: {error}")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[int]:
        """Signals as bytes on a pipe, while this is active."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
        descriptor = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        try:
            yield reader
        finally:
            signal.set_wakeup_fd(descriptor)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(reader)
            os.close(writer)


def ended_well(code: int, age: float) -> bool:
    """Whether a process that was asked to stop has answered with a good return code.

    Args:
        code: return code; negative: the signal that ended it.
        age: time since it was started, s. Python exits with 1 when it is interrupted while it still starts.
    """
    return code in STOPPED or (code > 0 and age < STARTING)


def describe(code: int) -> str:
    """A process's return code in words."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _print(line: str) -> None:
    try:
        print(line, flush=True)
    except OSError:
        # Python flushes standard output once more at its end, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _kill(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _die_with(parent: int) -> Callable[[], None] | None:
    """What a new process runs first: ask the kernel for SIGTERM when the launcher dies."""
    if _LIBC is None:
        return None
    prctl = _LIBC.prctl

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return ask
