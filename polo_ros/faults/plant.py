"""A robot that moves by itself: the task's model, simulated in the time of the steady clock."""

from __future__ import annotations

import copy
import math
import time

import mujoco

from polo_ros.drivers.base import Driver, DriverError, RobotState
from polo_ros.seeding import Stream, generator
from polo_ros.tasks.base import FULLPHYSICS, FloatArray, Task


class Plant(Driver):
    """Goes on with its last command, as motors do, whoever is connected to it and however late the next one comes.

    Args:
        task: Gives the model.
        seed: Of the state it begins in.
    """

    TIMESTEP = 0.002  # s
    LONGEST = 2.0  # s that are simulated at once: who was away for longer finds the robot as it was then

    def __init__(self, task: Task, seed: int) -> None:
        super().__init__(task, seed)
        self._model = copy.copy(task.model)
        self._model.opt.timestep = self.TIMESTEP
        self._data = mujoco.MjData(self._model)
        start = task.reset(generator(seed, Stream.EPISODE, 0))
        mujoco.mj_setState(self._model, self._data, start, FULLPHYSICS)
        self._data.time = 0.0
        self._at: float | None = None  # steady time that has been simulated; None: it was never connected
        self.acquired = 0.0  # steady time of the newest state

    def connect(self) -> None:
        """From the first time on it moves."""
        self._at = self._at if self._at is not None else time.monotonic()

    def read(self) -> RobotState:
        """Where it is now."""
        self._advance()
        data = self._data
        return RobotState(float(data.time), data.qpos.copy(), data.qvel.copy(), data.act.copy())

    def write(self, action: FloatArray) -> None:
        """From now on it moves under `action`."""
        self._advance()
        self._data.ctrl[:] = action

    def stop(self) -> None:
        """Motors off."""
        if self._at is not None:
            self.write(self.task.resting_action)

    def close(self) -> None:
        """It stays where it is connected to nobody."""

    def _advance(self) -> None:
        if self._at is None:
            raise DriverError("not connected")
        self.acquired = now = time.monotonic()
        steps = math.floor(min(now - self._at, self.LONGEST) / self.TIMESTEP)
        self._at = now if now - self._at > self.LONGEST else self._at + steps * self.TIMESTEP
        if steps:
            mujoco.mj_step(self._model, self._data, nstep=steps)
