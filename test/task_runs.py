"""Controls played on a task's model."""

from __future__ import annotations

import mujoco
import numpy as np
from mujoco.rollout import rollout

from polo_ros.tasks.base import FloatArray, Task


def play(task: Task, actions: FloatArray, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """States (N, T, nstate) after each action of (N, T, nu), and observations (N, T, nobs) before it."""
    start = task.reset(np.random.default_rng(seed))
    states, sensordata = rollout(
        task.model,
        mujoco.MjData(task.model),
        np.tile(start, (len(actions), 1)),
        actions,
    )
    return states, task.observe(sensordata)
