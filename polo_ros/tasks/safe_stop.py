"""Whether a task's safe stop is one, for the actuators of its model."""

from __future__ import annotations

import mujoco
import numpy as np

from polo_ros.tasks.actuators import Actuators, BoolArray
from polo_ros.tasks.base import Task

SAFE_STOPS = ("zero", "hold", "damp")


def check_safe_stop(task: Task) -> None:
    """Refuse a safe stop that would move the robot.

    Raises:
        ValueError: Task.safe_stop is unknown; it is "zero" for position servos, unless the task has a `resting_action`
            of its own; or it is "damp" and the actuators cannot, or Task.safe_stop_damping is not what can be done.
    """
    if task.safe_stop not in SAFE_STOPS:
        raise ValueError(
            f"task '{task.name}': safe_stop '{task.safe_stop}' is unknown; choices: {', '.join(SAFE_STOPS)}"
        )
    actuators = Actuators.of(task.model)
    if task.safe_stop == "zero" and type(task).resting_action is Task.resting_action:
        _refuse(
            task,
            actuators,
            actuators.position_servo,
            "is a position servo, which moves to position 0 when its control is zero; use safe_stop 'hold', or say "
            "where it is to rest with a resting_action of the task's own",
        )
    if task.safe_stop == "damp":
        _check_damping(task, actuators)


def _check_damping(task: Task, actuators: Actuators) -> None:
    motors = (actuators.joint >= 0) & actuators.direct & (actuators.bias == 0.0).all(-1)
    motors &= (actuators.gear * np.nan_to_num(actuators.gain)) != 0.0
    _refuse(task, actuators, ~motors, "is no motor at a hinge or slide, as safe_stop 'damp' needs")
    damping = np.asarray(task.safe_stop_damping, np.float64)
    if damping.shape not in ((), (task.model.nu,)) or not (np.isfinite(damping) & (damping > 0.0)).all():
        raise ValueError(
            f"task '{task.name}': safe_stop_damping = {damping} is not a number > 0, or one for each of "
            f"{task.model.nu} actuators, as safe_stop 'damp' needs"
        )
    # A force that is held for a period reverses a velocity v to v (1 - d dt / m): from 2 on it drives instead of damps.
    data = mujoco.MjData(task.model)
    mujoco.mj_forward(task.model, data)
    inverse = np.zeros((task.model.nv, task.model.nv))
    mujoco.mj_solveM(task.model, data, inverse, np.eye(task.model.nv))
    dampers = np.zeros(task.model.nv)
    np.add.at(dampers, actuators.qvel, damping)
    root = np.sqrt(dampers)  # M^-1 D has the eigenvalues of D^(1/2) M^-1 D^(1/2), which is symmetric
    share = float(np.linalg.eigvalsh(root[:, None] * inverse * root).max()) * task.control_dt
    if share > 1.0:
        raise ValueError(
            f"task '{task.name}': safe_stop_damping {damping} would reverse velocities within a control period of "
            f"{task.control_dt} s instead of damping them; at the model's initial pose {1.0 / share:.3g} times as "
            "much is the most"
        )


def _refuse(task: Task, actuators: Actuators, wrong: BoolArray, because: str) -> None:
    if wrong.any():
        name = actuators.names[int(np.flatnonzero(wrong)[0])]
        raise ValueError(f"task '{task.name}': safe_stop '{task.safe_stop}': actuator '{name}' {because}")
