"""What ROS adds to planning: a realtime session, measured from its bag."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from polo_ros.replay.bag_reader import BagReader
from polo_ros.replay.bag_types import PLANNER_STATUS
from polo_ros.replay.summary import summarise


def bench_session(duration: float, task: str = "cartpole_swingup") -> dict[str, object]:
    """Run a session of `duration` s of robot time; latency beyond planning in ms, and what was lost.

    `beyond_plan_ms` is the time from the arrival of a state at the planner to the publication of its
    plan, less the planning itself: decoding, prediction, encoding, waiting for threads.

    Raises:
        RuntimeError: the session failed, with the end of its output.
    """
    with tempfile.TemporaryDirectory(prefix="polo_bench_") as folder:
        run_dir = Path(folder) / "run"
        command = [str(Path(sys.prefix) / "bin" / "polo"), "launch", "sim", f"task:={task}"]
        command += ["clock:=realtime", f"duration:={duration}", f"run_dir:={run_dir}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=duration * 3 + 120, check=False)
        if done.returncode:
            raise RuntimeError(f"session ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        facts = summarise(run_dir, make_video=False)
        beyond = np.array(
            [
                message.latency_ms - message.plan_ms
                for _, message in BagReader(run_dir / "bag").decoded(types=[PLANNER_STATUS])
            ]
        )
    return {
        "task": task,
        "duration_s": duration,
        "steps": facts["steps"],
        "real_time_factor": facts["real_time_factor"],
        "missed_steps": facts["missed_steps"],
        "transitions_lost": facts["transitions_lost"],
        "plan_ms_p50": facts["plan_ms_p50"],
        "plan_ms_p99": facts["plan_ms_p99"],
        "beyond_plan_ms_p50": float(np.percentile(beyond, 50)),
        "beyond_plan_ms_p99": float(np.percentile(beyond, 99)),
        "success": facts["success"],
    }
