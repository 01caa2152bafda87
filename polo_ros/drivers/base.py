"""What a driver is: the one thing that touches the robot, real or simulated."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from polo_ros.config import Config
from polo_ros.tasks.base import FloatArray, Task


class DriverError(RuntimeError):
    """The robot cannot be read or written; the bridge goes to its safe stop and reports the reason."""


@dataclass(frozen=True)
class RobotState:
    """What the robot measures at one moment."""

    time: float  # s, of acquisition, by the robot's clock; simulation: simulation time, monotonic across resets
    qpos: FloatArray  # (nq,)
    qvel: FloatArray  # (nv,)
    act: FloatArray  # (na,)
    age: float = 0.0  # s since acquisition when it was read, as far as the driver knows


@dataclass(frozen=True)
class NoSettings(Config):
    """Of a driver that has none."""


class Driver(abc.ABC):
    """Connects the bridge to one robot.

    A driver is made for one task; found by name in the entry-point group `polo_ros.drivers`. Its life, each step called
    from one thread; every method may raise DriverError:

        closed -- connect --> connected -- activate --> active
                                 ^------- stop -----------'
        close: from anywhere to closed

    `connect` opens communication, without motion and without power; from then on `read` works. Only an active robot
    takes commands: `write`, once a control period. `stop` makes it safe and inactive, at any time and repeatedly;
    what is safe, limp or held, is the driver's to say. A driver need not check the order of calls: the bridge has its
    drivers in a GuardedDriver.

    Joints stand in the model's order, in SI units: rad, m, rad/s, m/s, and controls in the actuators' units.

    Args:
        task: What the robot is for; gives model and control period.
        seed: Of the session; for simulations.
        settings: An instance of `settings_type`; None: its defaults.
    """

    # A simulation advances by one control period when written to; a robot advances by itself.
    simulated: bool = False

    # s from a write to its effect on the robot, as far as the driver knows; plans are made for that moment.
    actuation_delay: float = 0.0

    # What users can set: `<name of the driver>.<name of the setting>` is a parameter of the bridge.
    settings_type: ClassVar[type[Config]] = NoSettings

    def __init__(self, task: Task, seed: int, settings: Any = None) -> None:
        self.task = task
        self.seed = seed
        self.settings = self.settings_type() if settings is None else settings

    @abc.abstractmethod
    def connect(self) -> None:
        """Open the connection. No motion."""

    @abc.abstractmethod
    def read(self) -> RobotState:
        """The newest state. Must not wait for longer than a fraction of a control period."""

    @abc.abstractmethod
    def write(self, action: FloatArray) -> None:
        """Apply controls (nu,), already limited. A simulation then advances one control period."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Make the robot safe without further commands; at any time, repeatedly, and without effect when closed."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release the connection; after it only connect is allowed. Without effect when closed."""

    def activate(self) -> None:
        """Get ready for commands, as by switching on the power; the robot holds still until the first one."""
        return

    def reset(self, episode: int) -> None:
        """Start episode number `episode`: a simulation draws a new start state; a robot cannot."""
        raise DriverError(f"driver '{type(self).__name__}' cannot reset the robot")

    @property
    def can_reset(self) -> bool:
        """Whether reset is supported; asked after connect."""
        return type(self).reset is not Driver.reset

    def status(self) -> Mapping[str, object]:
        """What to show of the robot in /diagnostics, such as voltages and temperatures.

        Called at any time, and from another thread than the rest: must neither wait nor ask the robot.
        """
        return {}


def periods(delay: float, period: float) -> int:
    """Whole control periods of `period` s that `delay` s lasts, rounded up."""
    # Of 0.06 s and 0.02 s it is three, whatever the last bit says.
    return math.ceil(delay / period - 1e-9)
