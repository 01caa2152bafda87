"""What a bridge alone needs, as on a robot's own board: time to start, memory, processor."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path

from polo_ros import resources

# What the bridge logs: its driver answers; the first plan is there.
READY, CONTROL = "is connected", "control begins"


def bench_bridge(duration: float, task: str = "cartpole_swingup", driver: str = "mock") -> dict[str, object]:
    """Start a bridge, then a planner, and watch the bridge in control for `duration` s.

    `start_s` is from the start of its process until its driver is connected. `cpu`, in cores, and memory are its own.

    Raises:
        RuntimeError: it did not get there, with what it printed.
    """
    settings = ["--ros-args"]
    for setting in (f"task:={task}", "clock:=realtime", "learner:=false", "recorder:=false"):
        settings += ["-p", setting]
    command = [str(resources.executable("bridge")), *settings, "-p", f"driver:={driver}"]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            _await(process, READY, began + 30.0)
            start = time.monotonic() - began
            planner = subprocess.Popen(
                [str(resources.executable("planner")), *settings],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                _await(process, CONTROL, time.monotonic() + 30.0)
                before, cpu = time.monotonic(), _cpu(process.pid)
                time.sleep(duration)
                used = (_cpu(process.pid) - cpu) / (time.monotonic() - before)
                status = dict(
                    line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
                )
                maps = Path(f"/proc/{process.pid}/maps").read_text()
            finally:
                planner.terminate()
                planner.wait(timeout=20.0)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=20.0)
    return {
        "task": task,
        "driver": driver,
        "start_s": start,
        "memory_mb": int(status["VmRSS"].split()[0]) / 1024,
        "cpu": used,
        "threads": int(status["Threads"]),
        "torch": "libtorch" in maps,
    }


def _await(process: subprocess.Popen[bytes], text: str, limit: float) -> None:
    """Read what it prints until `text` is in it."""
    assert process.stdout is not None
    printed = ""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while text not in printed:
            if time.monotonic() > limit or process.poll() is not None:
                raise RuntimeError(f"the bridge did not get as far as '{text}': {printed[-2000:]}")
            if selector.select(timeout=0.05):
                printed += os.read(process.stdout.fileno(), 65536).decode(sys.getdefaultencoding(), "replace")


def _cpu(process: int) -> float:
    """Processor time so far, s."""
    words = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
