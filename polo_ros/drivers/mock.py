"""A robot without physics or hardware: its joints go where they are told."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import mujoco
import numpy as np

from polo_ros.config import Config, option
from polo_ros.drivers.base import Driver, DriverError, RobotState, periods
from polo_ros.seeding import Stream, generator
from polo_ros.tasks.actuators import HINGE_OR_SLIDE
from polo_ros.tasks.base import FloatArray, Task


@dataclass(frozen=True)
class MockSettings(Config):
    """What a mock robot does badly."""

    following_time: float = option(
        0.0, "time constant with which joints follow commands; 0: at once", unit="s", low=0.0, high=10.0
    )
    delay: float = option(
        0.0, "time from a command to its effect, in whole control periods, rounded up", unit="s", low=0.0, high=10.0
    )
    loss: float = option(0.0, "share of the commands that never arrive: the one before stays", low=0.0, high=1.0)
    noise: float = option(
        0.0, "standard deviation of the positions' measurement error", unit="rad or m", low=0.0, high=10.0
    )


class MockDriver(Driver):
    """Mirrors commands: each motor's joint moves to its home position plus the command.

    For trying out a session's wiring with neither physics nor a robot. Units are taken at face value: a
    command of 0.5 puts a hinge at 0.5 rad, a slide at 0.5 m from home, within the joint's range. Joints
    without a motor, motors without a hinge or slide, and activations stay at home.

    It is `simulated` although it simulates nothing: what the word says of a driver is that time advances
    by one control period at every write and not by itself. So lockstep, pause and reset work with it,
    and in real time the bridge paces it like any robot.

    Args:
        task: Gives the joints and the control period.
        seed: Of noise and losses.
        settings: What the robot does badly.
    """

    simulated = True
    settings_type = MockSettings
    settings: MockSettings

    def __init__(self, task: Task, seed: int, settings: MockSettings | None = None) -> None:
        super().__init__(task, seed, settings)
        following_time = self.settings.following_time
        self._share = 1.0 - math.exp(-task.control_dt / following_time) if following_time > 0.0 else 1.0
        self._late = periods(self.settings.delay, task.control_dt)
        self.actuation_delay = self._late * task.control_dt
        model = task.model
        self._motors = np.array(
            [
                motor
                for motor in range(model.nu)
                if model.actuator_trntype[motor] == int(mujoco.mjtTrn.mjTRN_JOINT)
                and model.jnt_type[model.actuator_trnid[motor, 0]] in HINGE_OR_SLIDE
            ],
            dtype=int,
        )
        joints = model.actuator_trnid[self._motors, 0]
        self._qpos_index = model.jnt_qposadr[joints]
        self._qvel_index = model.jnt_dofadr[joints]
        limited = model.jnt_limited[joints].astype(bool)
        self._low = np.where(limited, model.jnt_range[joints, 0], -np.inf)
        self._high = np.where(limited, model.jnt_range[joints, 1], np.inf)
        self._home = model.qpos0[self._qpos_index]
        self._connected = False
        self._time = 0.0
        self.reset(0)

    def connect(self) -> None:
        """Nothing to open."""
        self._connected = True

    def read(self) -> RobotState:
        """Where the joints are, measured.

        Raises:
            DriverError: not connected.
        """
        self._require()
        qpos = self._qpos.copy()
        if self.settings.noise > 0.0:
            qpos[self._qpos_index] += self._rng.normal(0.0, self.settings.noise, len(self._qpos_index))
        return RobotState(self._time, qpos, self._qvel.copy(), np.zeros(self.task.model.na))

    def write(self, action: FloatArray) -> None:
        """Move towards controls (nu,) for one control period.

        Raises:
            DriverError: not connected, or wrong controls.
        """
        self._require()
        if np.shape(action) != (self.task.model.nu,) or not np.isfinite(action).all():
            raise DriverError(
                f"controls {np.array2string(np.asarray(action))} are not {self.task.model.nu} finite numbers"
            )
        if not (self.settings.loss and self._rng.random() < self.settings.loss):
            self._arrived = np.asarray(action)[self._motors]
        self._under_way.append(self._arrived)
        command = self._under_way.popleft()
        before = self._qpos[self._qpos_index]
        target = np.clip(self._home + command, self._low, self._high)
        after = before + self._share * (target - before)
        self._qpos[self._qpos_index] = after
        self._qvel[self._qvel_index] = (after - before) / self.task.control_dt
        self._time += self.task.control_dt

    def stop(self) -> None:
        """Stand still where it is; commands under way are lost."""
        self._qvel[:] = 0.0
        self._let_go(self._qpos[self._qpos_index] - self._home)

    def close(self) -> None:
        """Nothing to release."""
        self._connected = False

    def reset(self, episode: int) -> None:
        """All joints at home, at rest; the time goes on."""
        self._qpos = np.array(self.task.model.qpos0)
        self._qvel = np.zeros(self.task.model.nv)
        self._rng = generator(self.seed, Stream.EPISODE, episode)
        self._let_go(np.zeros(len(self._motors)))

    def _let_go(self, command: FloatArray) -> None:
        """Whatever was commanded before: `command` is all that the joints know of."""
        self._arrived = command
        self._under_way = deque([command] * self._late)

    def _require(self) -> None:
        if not self._connected:
            raise DriverError("the mock robot is not connected; call connect first")
