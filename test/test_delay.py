"""`polo bag delay`: delays that a simulated robot was given are found in what was recorded of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polo_ros.drivers.mujoco import MujocoDriver, MujocoSettings
from polo_ros.replay.delay import estimate
from polo_ros.replay.transition import Transition
from polo_ros.tasks.base import Task
from polo_ros.tasks.cartpole_swingup import CartpoleSwingup
from polo_ros.tasks.humanoid_getup import HumanoidGetup

TASKS: dict[str, Task] = {task.name: task for task in (CartpoleSwingup(), HumanoidGetup())}


def record(task: Task, steps: int, old: int, late: int, strength: float = 0.5) -> list[Transition]:
    """A robot with delays under random commands."""
    dt = task.control_dt
    driver = MujocoDriver(task, 0, MujocoSettings(old * dt, late * dt))
    driver.connect()
    rng = np.random.default_rng(1)
    found = []
    for step in range(steps):
        robot = driver.read()
        state = task.pack(robot.time, robot.qpos, robot.qvel, robot.act)
        action = strength * rng.uniform(task.action_low, task.action_high)
        nothing = np.zeros(task.observation_spec.size)
        found.append(Transition(step, 0, step, state, nothing, action, 0.0, nothing))
        driver.write(action)
    return found


@settings(deadline=None, max_examples=10)
@given(st.sampled_from(sorted(TASKS)), st.integers(0, 4), st.integers(0, 4))
def test_delays_of_sensing_and_actuation_add_up(name: str, old: int, late: int) -> None:
    task = TASKS[name]
    found = estimate(task, record(task, 120, old, late), longest=10)
    assert found["periods"] == old + late
    assert found["delay"] == pytest.approx((old + late) * task.control_dt)
    assert found["clear"]
    # The model is the robot, but for the solver's warm start, which no state holds.
    others = [error for late_, error in enumerate(found["errors"]) if late_ != old + late]
    assert found["errors"][old + late] < 0.2 * min(others)


def test_gaps_and_resets_are_no_motion() -> None:
    task = TASKS["cartpole_swingup"]
    whole = record(task, 300, 1, 1)
    holes = [t for t in whole if t.step % 60 != 50]
    found = estimate(task, holes, longest=5)
    assert found["periods"] == 2
    assert found["errors"][2] == pytest.approx(0.0, abs=1e-6)
    assert found["steps"] < len(holes) - 5 * 6


def test_a_robot_that_is_not_moved_tells_nothing() -> None:
    task = TASKS["cartpole_swingup"]
    still = record(task, 120, 1, 1, strength=0.0)
    assert not estimate(task, still, longest=5)["clear"]
    with pytest.raises(ValueError, match=r"20 control periods come after 10 others in a row, of 31; 50 are needed"):
        estimate(task, still[:31], longest=10)
