"""What ROS adds to planning: a realtime session, measured from its bag."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from polo_ros.replay.bag_reader import BagReader
from polo_ros.replay.bag_types import PLAN, PLANNER_STATUS, STATE
from polo_ros.replay.summary import summarise
from polo_ros.tasks.base import FloatArray

PARTS = 6  # of a session, to see whether anything grows


def bench_session(duration: float, task: str = "cartpole_swingup") -> dict[str, object]:
    """Run a session of `duration` s of robot time; latency beyond planning in ms, and what was lost.

    `beyond_plan_ms` is the time from the publication of a state to the arrival of its plan at the
    recorder, less the planning itself: both ways through the middleware, decoding, prediction, encoding,
    waiting for a core. `planner_ms` is the planner's part of it, from the arrival of the state to the
    publication of the plan.

    Raises:
        RuntimeError: the session failed, with the end of its output.
    """
    with tempfile.TemporaryDirectory(prefix="polo_bench_") as folder:
        run_dir = Path(folder) / "run"
        command = [str(Path(sys.prefix) / "bin" / "polo"), "launch", "sim", f"task:={task}"]
        command += ["clock:=realtime", f"duration:={duration}", f"run_dir:={run_dir}"]
        memory = _watch(command, limit=duration * 3 + 120)
        facts = summarise(run_dir, make_video=False)
        beyond = beyond_plan_ms(run_dir / "bag")
        statuses = (message for _, message in BagReader(run_dir / "bag").decoded(types=[PLANNER_STATUS]))
        inside = np.array([status.latency_ms - status.plan_ms for status in statuses if status.plan_id])
    return {
        "task": task,
        "duration_s": duration,
        "steps": facts["steps"],
        "real_time_factor": facts["real_time_factor"],
        "missed_steps": facts["missed_steps"],
        "transitions_lost": facts["transitions_lost"],
        "plan_ms_p50": facts["plan_ms_p50"],
        "plan_ms_p99": facts["plan_ms_p99"],
        "planner_ms_p50": float(np.percentile(inside, 50)),
        "planner_ms_p99": float(np.percentile(inside, 99)),
        "beyond_plan_ms_p50": float(np.percentile(beyond, 50)),
        "beyond_plan_ms_p99": float(np.percentile(beyond, 99)),
        "beyond_plan_ms_p99_over_time": [float(np.percentile(part, 99)) for part in np.array_split(beyond, PARTS)],
        "memory_mb_over_time": {name: _thinned(sizes) for name, sizes in memory.items()},
        "success": facts["success"],
    }


def _watch(command: list[str], limit: float) -> dict[str, list[float]]:
    """Run a session; resident memory of its nodes once a second, MB."""
    memory: dict[str, list[float]] = {}
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + limit
            while process.poll() is None:
                if time.monotonic() > end:
                    raise RuntimeError(f"session did not end within {limit:.0f} s")
                for name, size in _nodes(process.pid):
                    memory.setdefault(name, []).append(size)
                time.sleep(1.0)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait()
        output.seek(0)
        printed = output.read()
    if process.returncode:
        raise RuntimeError(f"session ended with {process.returncode}: {printed[-4000:]}")
    return memory


def _nodes(launcher: int) -> Iterator[tuple[str, float]]:
    """Name and resident memory in MB of each node that `launcher`, a process number, has started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
            words = (folder / "cmdline").read_text().split("\0")
        except OSError:  # it has just ended
            continue
        if int(status["PPid"]) != launcher or "VmRSS" not in status:
            continue
        for word in words:
            if Path(word).parent.name == "polo_ros":  # lib/polo_ros/<node>
                yield Path(word).name, int(status["VmRSS"].split()[0]) / 1024
                break


def _thinned(values: list[float]) -> list[float]:
    """PARTS + 1 evenly spaced of the values, less the last three seconds, in which nodes end."""
    kept = values[:-3] or values
    return [round(kept[round(index)], 1) for index in np.linspace(0, len(kept) - 1, PARTS + 1)]


def beyond_plan_ms(bag: Path) -> FloatArray:
    """What came on top of planning between each state and the first plan for it, ms, (plans,).

    A plan whose state or status is not in the bag is left out.
    """
    published: dict[tuple[int, int], int] = {}  # ns, of the state of an episode's step
    arrived: dict[int, tuple[tuple[int, int], int]] = {}  # state and ns, of a plan by its number
    out: list[float] = []
    for record, message in BagReader(bag).decoded(types=[STATE, PLAN, PLANNER_STATUS]):
        if record.topic.type == STATE:
            published[message.episode, message.step] = record.publish_time_ns  # a waiting bridge repeats it
        elif record.topic.type == PLAN:
            arrived.setdefault(message.plan_id, ((message.episode, message.state_step), record.log_time_ns))
        elif message.plan_id in arrived:
            state, at = arrived.pop(message.plan_id)
            if state in published:
                out.append(1e-6 * (at - published[state]) - message.plan_ms)
    return np.array(out)
