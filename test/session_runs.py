"""Sessions as users start them, for tests: on their own ROS domain, local, bounded in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from polo_ros.replay.bag_reader import read_transitions
from polo_ros.replay.bag_types import BagError
from polo_ros.replay.transition import Transition

POLO = Path(sys.prefix) / "bin" / "polo"


def environment(domain: int) -> dict[str, str]:
    """The test's environment with a ROS domain of its own; it must have the machine to itself as well."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        raise RuntimeError("a session beside other tests: mark the test with pytest.mark.alone")
    return {**os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}


@contextmanager
def session(run_dir: Path, domain: int, *arguments: str, file: str = "sim") -> Iterator[subprocess.Popen[str]]:
    """A session that is running; stopped, and waited for, at the end."""
    process = subprocess.Popen(
        [str(POLO), "launch", file, f"run_dir:={run_dir}", *arguments],
        env=environment(domain),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise


def whole_session(run_dir: Path, domain: int, *arguments: str, timeout: float = 120.0) -> str:
    """Run a session to its end; what it printed."""
    with session(run_dir, domain, *arguments) as process:
        output, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, output
    return output


def transitions(run_dir: Path) -> list[Transition]:
    """All transitions in the session's bag."""
    return list(read_transitions(run_dir / "bag"))


def safely(run_dir: Path) -> list[Transition]:
    """The transitions so far; none if the bag is not there yet."""
    try:
        return transitions(run_dir)
    except BagError:
        return []


def node_process(run_dir: Path, node: str) -> int:
    """Process id of a node of the session that writes to `run_dir`; 0: not there."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            files = [word for word in command if word.endswith(".yaml")]
            if any(word.endswith(f"lib/polo_ros/{node}") for word in command) and any(
                str(run_dir) in Path(file).read_text() for file in files
            ):
                return int(entry.name)
        except (OSError, ValueError):
            continue
    return 0


def wait_until(condition: object, timeout: float, what: str) -> None:
    """Wait for `condition()`; fail naming `what` after `timeout` s."""
    limit = time.monotonic() + timeout
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < limit, f"{what} did not happen within {timeout} s"
        time.sleep(0.1)
