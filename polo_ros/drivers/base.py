"""What a driver is: the one thing that touches the robot, real or simulated."""

from __future__ import annotations

import abc
from dataclasses import dataclass

from polo_ros.tasks.base import FloatArray, Task


class DriverError(RuntimeError):
    """The robot cannot be read or written; the bridge goes to its safe stop and reports the reason."""


@dataclass(frozen=True)
class RobotState:
    """What the robot measures at one moment."""

    time: float  # s, of acquisition; simulation: simulation time, monotonic across resets
    qpos: FloatArray  # (nq,)
    qvel: FloatArray  # (nv,)
    act: FloatArray  # (na,)


class Driver(abc.ABC):
    """Connects the bridge to one robot.

    A driver is made for one task and seed; found by name in the entry-point group `polo_ros.drivers`.
    The bridge calls connect, then read / write once a control period from one thread, then stop and
    close. Every method may raise DriverError.
    """

    # A simulation advances by one control period when written to; a robot advances by itself.
    simulated: bool = False

    def __init__(self, task: Task, seed: int) -> None:
        self.task = task
        self.seed = seed

    @abc.abstractmethod
    def connect(self) -> None:
        """Open the connection. No motion."""

    @abc.abstractmethod
    def read(self) -> RobotState:
        """The newest state."""

    @abc.abstractmethod
    def write(self, action: FloatArray) -> None:
        """Apply controls (nu,), already limited. A simulation then advances one control period."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Make the robot safe without further commands; may be called at any time, repeatedly."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release the connection; after it only connect is allowed."""

    def reset(self, episode: int) -> None:
        """Start episode number `episode`: a simulation draws a new start state; a robot cannot."""
        raise DriverError(f"driver '{type(self).__name__}' cannot reset the robot")

    @property
    def can_reset(self) -> bool:
        """Whether reset is supported."""
        return type(self).reset is not Driver.reset
