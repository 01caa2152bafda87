"""Where a plan leads: paths of the model's leaf bodies, for those who look at a session."""

from __future__ import annotations

import mujoco
import numpy as np

from polo_ros.tasks.base import FULLPHYSICS, FloatArray, Task


def leaf_bodies(model: mujoco.MjModel) -> list[int]:
    """Moving bodies without children: hands, feet, a pole's end."""
    parents = set(model.body_parentid[1:].tolist())
    return [body for body in range(1, model.nbody) if body not in parents and model.body_weldid[body] != 0]


def trace(task: Task, start: FloatArray, actions: FloatArray) -> FloatArray:
    """Paths of the leaf bodies' centres of mass when `actions` are played from `start`.

    Args:
        task: Gives the model.
        start: Physics state (nstate,).
        actions: (T, nu).

    Returns:
        World positions in m, (bodies, T + 1, 3), bodies as `leaf_bodies` orders them; after a
        divergence the last positions before it.
    """
    model = task.model
    data = mujoco.MjData(model)
    bodies = leaf_bodies(model)
    paths = np.empty((len(bodies), len(actions) + 1, 3))
    mujoco.mj_setState(model, data, start, FULLPHYSICS)
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    paths[:, 0] = data.xipos[bodies]
    for t, action in enumerate(actions):
        data.ctrl[:] = action
        before = data.time
        mujoco.mj_step(model, data, nstep=task.physics_steps)
        if data.time < before:  # MuJoCo reset what blew up
            paths[:, t + 1 :] = paths[:, t : t + 1]
            break
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        paths[:, t + 1] = data.xipos[bodies]
    return paths
