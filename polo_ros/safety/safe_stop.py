"""What is played instead of a plan."""

from __future__ import annotations

import numpy as np

from polo_ros.tasks.actuators import Actuators
from polo_ros.tasks.base import FloatArray, Task
from polo_ros.tasks.safe_stop import check_safe_stop


class SafeStop:
    """Task.safe_stop as a function of what was played last and of what is measured.

    Args:
        task: Gives kind and damping.

    Raises:
        ValueError: It is none for the task's actuators.
    """

    def __init__(self, task: Task) -> None:
        check_safe_stop(task)
        self._kind = task.safe_stop
        self._resting = np.array(task.resting_action)
        self._actuators = actuators = Actuators.of(task.model)
        # Servos whose standstill is known: force 0 where they are.
        self._servos = actuators.position_servo & (actuators.joint >= 0) & actuators.direct
        self._servos &= np.nan_to_num(actuators.gain) != 0.0
        self._gain = np.where(self._servos, actuators.gain, 1.0)
        if self._kind == "damp":
            self._damping = np.asarray(task.safe_stop_damping) / (actuators.gear * actuators.gain)

    def action(self, last: FloatArray | None, qpos: FloatArray | None, qvel: FloatArray | None) -> FloatArray:
        """Controls (nu,), which may be out of range.

        Args:
            last: What was played before, (nu,); None: nothing.
            qpos: Measured positions (nq,); None: not known.
            qvel: Measured velocities (nv,); None: not known.
        """
        if self._kind == "damp" and qvel is not None:
            with np.errstate(over="ignore"):
                return -self._damping * qvel[self._actuators.qvel]
        if self._kind == "hold" and last is not None:
            return last
        if self._kind == "hold" and qpos is not None and qvel is not None and self._servos.any():
            here = -self._actuators.bias_force(qpos, np.zeros_like(qvel)) / self._gain
            return np.where(self._servos, here, self._resting)
        return self._resting
