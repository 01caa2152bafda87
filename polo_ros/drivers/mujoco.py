"""The simulated robot: MuJoCo steps the task's own model."""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from dataclasses import dataclass

import mujoco
import numpy as np

from polo_ros.config import Config, option
from polo_ros.drivers.base import Driver, DriverError, RobotState, periods
from polo_ros.seeding import Stream, generator
from polo_ros.tasks.base import FULLPHYSICS, FloatArray, Task

# Warnings after which MuJoCo has thrown the simulation's state away.
_DIVERGED = {
    mujoco.mjtWarning.mjWARN_BADQPOS: ("position", "qpos"),
    mujoco.mjtWarning.mjWARN_BADQVEL: ("velocity", "qvel"),
    mujoco.mjtWarning.mjWARN_BADQACC: ("acceleration", "qacc"),
}


@dataclass(frozen=True)
class MujocoSettings(Config):
    """What a simulated robot has in common with a real one."""

    sensing_delay: float = option(
        0.0, "age of a state when it is read, in whole control periods, rounded up", unit="s", low=0.0, high=1.0
    )
    actuation_delay: float = option(
        0.0, "time from a command to its effect, in whole control periods, rounded up", unit="s", low=0.0, high=1.0
    )


class MujocoDriver(Driver):
    """Simulates one control period at every write.

    Episode k of a seed always begins in the same state, and its world draws the same disturbances. The time goes on
    through resets and reconnections, since it is the session's clock.

    With delays a state that is read is an older one, stamped so, and a command takes effect later; an episode's start
    state is the first one that is read.

    Args:
        task: What is simulated.
        seed: Of starts and disturbances.
        settings: Delays.
    """

    simulated = True
    settings_type = MujocoSettings
    settings: MujocoSettings

    def __init__(self, task: Task, seed: int, settings: MujocoSettings | None = None) -> None:
        super().__init__(task, seed, settings)
        self._old = periods(self.settings.sensing_delay, task.control_dt)
        self._time = self._old * task.control_dt  # s, at the last good state; no state that is read is older than 0 s
        self._late = periods(self.settings.actuation_delay, task.control_dt)
        self.actuation_delay = self._late * task.control_dt
        self._seen: deque[RobotState] = deque()  # states under way to the reader, the oldest first; none: no delay
        self._under_way: deque[FloatArray] = deque()  # commands under way to the robot
        self._data: mujoco.MjData | None = None
        self._diverged = ""
        self._episode = self._step = 0
        # Most worlds do nothing of their own accord, and asking them costs more than a small model's physics.
        self._disturbed = type(task).disturb is not Task.disturb

    def connect(self) -> None:
        """Make the simulation and start episode 0."""
        self._data = mujoco.MjData(self.task.model)
        self.reset(0)

    def read(self) -> RobotState:
        """The simulated state.

        Raises:
            DriverError: not connected, or the simulation diverged and was not reset since.
        """
        data = self._healthy()
        if self._seen:
            return dataclasses.replace(copy.deepcopy(self._seen[0]), age=self._old * self.task.control_dt)
        return self._now(data)

    def write(self, action: FloatArray) -> None:
        """Simulate one control period under controls (nu,).

        Raises:
            DriverError: not connected, wrong controls, or the simulation diverges.
        """
        data, model = self._healthy(), self.task.model
        if np.shape(action) != (model.nu,) or not np.isfinite(action).all():
            raise DriverError(f"controls {np.array2string(np.asarray(action))} are not {model.nu} finite numbers")
        if self._late:
            self._under_way.append(np.array(action))
            action = self._under_way.popleft()
        data.ctrl[:] = action
        mujoco.mj_step(model, data, nstep=self.task.physics_steps)
        self._diverged = self._divergence(data)
        self._healthy()
        self._time = float(data.time)
        self._step += 1
        if self._disturbed:
            self._disturb(data)
        if self._old:
            self._seen.append(self._now(data))
            self._seen.popleft()

    def stop(self) -> None:
        """Zero control; the simulation stands still until the next write."""
        if self._data is not None:
            self._data.ctrl[:] = self.task.resting_action
            self._under_way = deque([self.task.resting_action] * self._late)

    def close(self) -> None:
        """Forget the simulation, but not its time."""
        self._data = None

    def reset(self, episode: int) -> None:
        """Start episode number `episode` from the state that seed and number draw.

        Raises:
            DriverError: not connected.
        """
        data = self._connected()
        mujoco.mj_resetData(self.task.model, data)
        state = self.task.reset(generator(self.seed, Stream.EPISODE, episode))
        mujoco.mj_setState(self.task.model, data, state, FULLPHYSICS)
        data.time = self._time - self._old * self.task.control_dt
        self._diverged = ""
        self._episode, self._step = episode, 0
        self._under_way = deque([self.task.resting_action] * self._late)
        self._seen.clear()
        # Nothing was commanded while the start state was on its way to the reader.
        data.ctrl[:] = self.task.resting_action
        for _ in range(self._old):
            self._seen.append(self._now(data))
            mujoco.mj_step(self.task.model, data, nstep=self.task.physics_steps)
        if self._old:
            self._seen.append(self._now(data))
            self._diverged = self._divergence(data)
            self._time = float(data.time)

    @staticmethod
    def _now(data: mujoco.MjData) -> RobotState:
        return RobotState(float(data.time), data.qpos.copy(), data.qvel.copy(), data.act.copy())

    def _disturb(self, data: mujoco.MjData) -> None:
        """What happens in the world besides physics, at the end of a control period."""
        state = np.empty(self.task.nstate)
        mujoco.mj_getState(self.task.model, data, state, FULLPHYSICS)
        rng = generator(self.seed, Stream.WORLD, self._episode << 32 | self._step)
        changed = self.task.disturb(state, self._step, rng)
        if changed is not None:
            mujoco.mj_setState(self.task.model, data, changed, FULLPHYSICS)
            data.time = self._time

    def _connected(self) -> mujoco.MjData:
        if self._data is None:
            raise DriverError("the simulation is not connected; call connect first")
        return self._data

    def _healthy(self) -> mujoco.MjData:
        data = self._connected()
        if self._diverged:
            raise DriverError(self._diverged)
        return data

    def _divergence(self, data: mujoco.MjData) -> str:
        """What went wrong in the last step, in words; empty: nothing."""
        for warning, (quantity, symbol) in _DIVERGED.items():
            if data.warning[warning].number > 0:
                index = int(data.warning[warning].lastinfo)
                return (
                    f"simulation of '{self.task.name}' diverged after {self._time:.3f} s: "
                    f"bad {quantity} {symbol}[{index}] ({warning.name}); reset it, "
                    "or lower the model's timestep or the actuators' forces"
                )
        if not all(np.isfinite(part).all() for part in (data.qpos, data.qvel, data.act)):
            return f"simulation of '{self.task.name}' diverged after {self._time:.3f} s: its state is not finite"
        return ""
