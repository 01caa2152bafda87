"""Does the robot do what its model says?"""

from __future__ import annotations

import mujoco
import numpy as np

from polo_ros.safety.limits import SafetyConfig
from polo_ros.tasks.actuators import Actuators
from polo_ros.tasks.base import FloatArray, Task


class TrackingMonitor:
    """Compares each measured state with the one predicted from the state before and the action played then.

    Prediction is the task's own model, stepped for one control period; compared are the joints that actuators move.
    Periods that took a quarter longer or shorter than `control_dt` by the robot's own clock are left out.

    Args:
        task: Gives the model.
        config: Thresholds, and for how many periods in a row they must be exceeded.
    """

    JITTER = 0.25  # of a control period

    def __init__(self, task: Task, config: SafetyConfig) -> None:
        self._task = task
        self._data = mujoco.MjData(task.model)
        self._periods = config.tracking_periods
        joints = np.unique(Actuators.of(task.model).joint)
        joints = joints[joints >= 0]
        model = task.model
        self._names = [model.joint(int(j)).name or f"number {j}" for j in joints]
        # Name, unit, threshold, where in a physics state: time, qpos, qvel, act.
        self._compared = [
            (word, limit, 1 + start + np.array(address[joints]))
            for word, limit, start, address in (
                ("position", config.tracking_position_error, 0, model.jnt_qposadr),
                ("velocity", config.tracking_velocity_error, model.nq, model.jnt_dofadr),
            )
            if limit > 0.0
        ]
        self._predicted: FloatArray | None = None
        self._exceeded = 0

    @property
    def active(self) -> bool:
        """Whether anything is compared."""
        return bool(self._compared and self._names)

    def expect(self, state: FloatArray, action: FloatArray) -> None:
        """From `state` (nstate,) controls (nu,) are played for a control period."""
        if not self.active:
            return
        predicted = self._task.advance(self._data, state, action[None])
        # MuJoCo resets a simulation that blew up, and its time with it.
        usable = predicted[0] > state[0] and bool(np.isfinite(predicted).all())
        self._predicted = predicted if usable else None

    def fault(self, state: FloatArray) -> str:
        """What the measured `state` (nstate,) says after what was expected; empty if nothing, or not yet."""
        predicted, self._predicted = self._predicted, None
        if predicted is None or abs(state[0] - predicted[0]) > self.JITTER * self._task.control_dt:
            return ""
        found = ""
        for word, limit, where in self._compared:
            error = np.abs(state[where] - predicted[where])
            worst = int(np.argmax(error))
            if error[worst] > limit:
                found = (
                    f"tracking: {word} of joint '{self._names[worst]}' is {state[where[worst]]:.4g}, "
                    f"{predicted[where[worst]]:.4g} was predicted, for {self._exceeded + 1} periods in a row; "
                    f"allowed difference {limit:g}"
                )
                break
        self._exceeded = self._exceeded + 1 if found else 0
        return found if self._exceeded >= self._periods else ""

    def reset(self) -> None:
        """The next state does not follow from the last."""
        self._predicted = None
        self._exceeded = 0
