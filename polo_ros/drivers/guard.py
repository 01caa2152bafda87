"""Stands between the bridge and any driver: calls in their order, states and commands that can be believed."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any

import numpy as np

from polo_ros.drivers.base import Driver, DriverError, RobotState
from polo_ros.tasks.base import FloatArray


class Life(Enum):
    """Where a driver is in its life."""

    CLOSED = auto()
    CONNECTED = auto()
    ACTIVE = auto()


class GuardedDriver(Driver):
    """A driver that is trusted with nothing.

    - Commands reach it only while it is active, and only if they are finite and within the actuators' ranges: the
      supervisor has seen to that before, and this is the check that it has.
    - A state that it returns has the model's sizes, is finite, and is not older than the one before.
    - Whatever it raises arrives as DriverError, named; what stops or closes it goes through in every state.

    Args:
        driver: Closed.
    """

    # s that a robot's clock may seem to go back: stamps are of measurements, which may overtake each other a little.
    BACKWARDS = 1e-3

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver.task, driver.seed, driver.settings)
        self.driver = driver
        self.simulated = driver.simulated
        self.actuation_delay = driver.actuation_delay
        self.life = Life.CLOSED
        self._time = -math.inf
        model = driver.task.model
        self._sizes = (("qpos", model.nq), ("qvel", model.nv), ("act", model.na))
        self._low, self._high = driver.task.action_low, driver.task.action_high

    def connect(self) -> None:
        """As the driver's.

        Raises:
            DriverError: It is connected already, or fails.
        """
        if self.life is not Life.CLOSED:
            raise DriverError("is connected already")
        self._call(self.driver.connect)
        self.life, self._time = Life.CONNECTED, -math.inf

    def activate(self) -> None:
        """As the driver's.

        Raises:
            DriverError: It is not connected, or fails.
        """
        if self.life is Life.CLOSED:
            raise DriverError("is not connected; call connect first")
        if self.life is Life.CONNECTED:
            self._call(self.driver.activate)
            self.life = Life.ACTIVE

    def read(self) -> RobotState:
        """As the driver's, and believed.

        Raises:
            DriverError: It is not connected, fails, or returns what cannot be.
        """
        if self.life is Life.CLOSED:
            raise DriverError("is not connected; call connect first")
        robot = self._call(self.driver.read)
        if not isinstance(robot, RobotState):
            raise DriverError(f"read returned {type(robot).__name__}, not RobotState")
        arrays = {name: self._checked(name, getattr(robot, name), size) for name, size in self._sizes}
        try:
            time = float(robot.time)
        except (TypeError, ValueError):
            raise DriverError(f"time = {robot.time!r} is not a number") from None
        if not math.isfinite(time):
            raise DriverError(f"time = {time} is not finite")
        if time < self._time - self.BACKWARDS:
            raise DriverError(f"time went back from {self._time:.6f} s to {time:.6f} s")
        self._time = max(time, self._time)
        return RobotState(time, **arrays, age=self._age(robot.age))

    def write(self, action: FloatArray) -> None:
        """As the driver's.

        Raises:
            DriverError: It is not active, fails, or the controls are none that the robot may get.
        """
        if self.life is not Life.ACTIVE:
            raise DriverError("is not active; call activate first")
        if np.shape(action) != self._low.shape or not np.isfinite(action).all():
            raise DriverError(f"controls {np.array2string(np.asarray(action))} are not {len(self._low)} finite numbers")
        outside = np.flatnonzero((action < self._low) | (action > self._high))
        if len(outside):
            i = int(outside[0])
            raise DriverError(f"control {i} = {action[i]:g} is not within {self._low[i]:g} .. {self._high[i]:g}")
        self._call(self.driver.write, action)

    def stop(self) -> None:
        """As the driver's; afterwards it is not active, even if it fails."""
        if self.life is Life.ACTIVE:
            self.life = Life.CONNECTED
        self._call(self.driver.stop)

    def close(self) -> None:
        """As the driver's; afterwards it is closed, even if it fails."""
        self.life = Life.CLOSED
        self._call(self.driver.close)

    def reset(self, episode: int) -> None:
        """As the driver's."""
        if self.life is Life.CLOSED:
            raise DriverError("is not connected; call connect first")
        self._call(self.driver.reset, episode)

    @property
    def can_reset(self) -> bool:
        """As the driver's."""
        return self.driver.can_reset

    def status(self) -> Mapping[str, object]:
        """As the driver's.

        Raises:
            DriverError: It fails, or returns what is no mapping.
        """
        found = self._call(self.driver.status)
        if not isinstance(found, Mapping):
            raise DriverError(f"status returned {type(found).__name__}, not a mapping")
        return found

    def _call(self, method: Callable[..., Any], *args: Any) -> Any:
        try:
            return method(*args)
        except DriverError:
            raise
        except BaseException as error:  # a driver of others may fail in any way, and one that exits ends no control
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise  # somebody's Ctrl-C
            raise DriverError(f"{method.__name__} failed: {type(error).__name__}: {error}") from error

    @staticmethod
    def _age(value: Any) -> float:
        try:
            age = float(value)
        except (TypeError, ValueError):
            raise DriverError(f"age = {value!r} is not a number") from None
        if not 0.0 <= age < math.inf:
            raise DriverError(f"age = {age} is not a finite number of seconds >= 0")
        return age

    @staticmethod
    def _checked(name: str, value: Any, size: int) -> FloatArray:
        """A float64 array of its own, or DriverError."""
        try:
            array = np.array(value, np.float64)
        except (TypeError, ValueError):
            raise DriverError(f"{name} is not an array of numbers") from None
        if array.shape != (size,):
            raise DriverError(f"{name} has shape {array.shape}, expected ({size},)")
        if not np.isfinite(array).all():
            raise DriverError(f"{name}[{int(np.flatnonzero(~np.isfinite(array))[0])}] is not finite")
        return array
