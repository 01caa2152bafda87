"""What a program of ours does to its process: no stray files, no exception out of nowhere, yielding threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from polo_ros.nodes.base import _signals_to_ros_only
from polo_ros.process import prepare

DIVERGE = """
import numpy as np
from learning_fakes import CartTask
from polo_ros.dynamics.mujoco import MujocoDynamics
from polo_ros.process import prepare
{prepare}
task = CartTask()
task.model.actuator_gear[:] = 1e30
dynamics = MujocoDynamics(task, threads=2)
valid = dynamics.rollout(np.zeros(3), np.ones((8, 5, 1))).valid
dynamics.close()
print(int(valid.sum()))
"""


def diverge(folder: Path, prepare_line: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", DIVERGE.format(prepare=prepare_line)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout + done.stderr


def test_diverged_candidates_leave_neither_a_log_file_nor_a_warning(tmp_path: Path) -> None:
    diverge(tmp_path, "pass")
    assert (tmp_path / "MUJOCO_LOG.TXT").exists(), "MuJoCo itself does not log any more: prepare() can go"
    (tmp_path / "MUJOCO_LOG.TXT").unlink()
    assert diverge(tmp_path, "prepare()") == "0\n"
    assert not list(tmp_path.iterdir())


def test_linear_algebra_has_one_thread() -> None:
    threadpool_limits(2)
    np.ones((2, 2)) @ np.ones((2, 2))
    assert 2 in {pool["num_threads"] for pool in threadpool_info()}
    prepare()
    assert {pool["num_threads"] for pool in threadpool_info()} == {1}


def test_a_signal_does_not_break_into_what_a_node_is_doing() -> None:
    # Whoever started the tests may have had them ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with _signals_to_ros_only():
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(os.getpid(), number)
                sum(range(1000))  # Python handles signals between two instructions
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            sum(range(1000))
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("node", ["bridge", "planner", "recorder", "monitor"])
def test_only_the_learner_loads_torch(tmp_path: Path, node: str) -> None:
    """It takes hundreds of MB and seconds: a robot's board may have neither."""
    code = f"""
from polo_ros import resources
resources.activate()
import polo_ros.nodes.{node}, sys
print([name for name in ("torch", "scipy", "matplotlib") if name in sys.modules])
"""
    # Elsewhere than in a checkout, whose modules Python would find first.
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert found.stdout.strip() == "[]", found.stderr
