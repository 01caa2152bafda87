"""The simulated RC car: a bicycle with brush tyres behind the model of task rc_car."""

from __future__ import annotations

import math

import numpy as np

from polo_ros.drivers.base import Driver, DriverError, NoSettings, RobotState
from polo_ros.drivers.bicycle import Bicycle
from polo_ros.seeding import Stream, generator
from polo_ros.tasks.base import FloatArray, Task

WHEEL_SPEED = 10.0  # m/s, at control 1; at -1 the wheels stand still
STEERING = math.pi / 6.0  # rad, at control 1: to the left
STEP = 0.0005  # s, of integration; see Bicycle.advance


class RcCarDriver(Driver):
    """Simulates an RC car, with tyres that slide, one control period at every write; for task rc_car.

    Episode k of a seed always begins in the same state, and nothing else is random. The time goes on through resets
    and reconnections.

    Args:
        task: One whose model has joints x, y and yaw, and two controls of -1 .. 1: wheels and steering.
        seed: Of starts.
        settings: None.

    Raises:
        ValueError: Another model.
    """

    simulated = True

    def __init__(self, task: Task, seed: int, settings: NoSettings | None = None) -> None:
        super().__init__(task, seed, settings)
        model = task.model
        joints = [model.joint(index).name for index in range(model.njnt)]
        if joints != ["x", "y", "yaw"] or model.nq != 3 or model.nu != 2:
            raise ValueError(
                f"the model of task '{task.name}' has joints {', '.join(joints)} and {model.nu} actuators; "
                "driver 'rc_car' simulates joints x, y, yaw with two: use task 'rc_car'"
            )
        self.car = Bicycle()
        self._steps = math.ceil(task.control_dt / STEP - 1e-9)
        self._connected = False
        self._time = 0.0
        self._pose = self._velocity = (0.0, 0.0, 0.0)

    def connect(self) -> None:
        """Start episode 0."""
        self._connected = True
        self.reset(0)

    def read(self) -> RobotState:
        """The simulated state. Raises DriverError: not connected."""
        self._check()
        vx, vy, rate = self._velocity
        c, s = math.cos(self._pose[2]), math.sin(self._pose[2])
        qvel = np.array([c * vx - s * vy, s * vx + c * vy, rate])
        return RobotState(self._time, np.array(self._pose), qvel, np.empty(0))

    def write(self, action: FloatArray) -> None:
        """Drive for one control period under controls (2,).

        Raises:
            DriverError: not connected, or wrong controls.
        """
        self._check()
        if np.shape(action) != (2,) or not np.isfinite(action).all():
            raise DriverError(f"controls {np.array2string(np.asarray(action))} are not 2 finite numbers")
        wheels, steering = 0.5 * (1.0 + float(action[0])) * WHEEL_SPEED, float(action[1]) * STEERING
        period = self.task.control_dt
        self._pose, self._velocity = self.car.advance(self._pose, self._velocity, wheels, steering, period, self._steps)
        self._time += period

    def stop(self) -> None:
        """Nothing: the simulation stands still until the next write."""

    def close(self) -> None:
        """Forget the connection, but not the time."""
        self._connected = False

    def reset(self, episode: int) -> None:
        """Start episode number `episode` from the state that seed and number draw.

        Raises:
            DriverError: not connected.
        """
        self._check()
        _, qpos, qvel, _ = self.task.unpack(self.task.reset(generator(self.seed, Stream.EPISODE, episode)))
        x, y, yaw = (float(value) for value in qpos)
        c, s = math.cos(yaw), math.sin(yaw)
        self._pose = x, y, yaw
        self._velocity = float(c * qvel[0] + s * qvel[1]), float(c * qvel[1] - s * qvel[0]), float(qvel[2])

    def _check(self) -> None:
        if not self._connected:
            raise DriverError("the simulation is not connected; call connect first")
