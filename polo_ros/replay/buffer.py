"""The newest transitions, in preallocated arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from polo_ros.replay.transition import Transition
from polo_ros.tasks.base import FloatArray

Indexes = npt.NDArray[np.int64]
AnyArray = npt.NDArray[Any]


class ReplayBuffer:
    """Ring buffer of transitions; the oldest make room (POLO, section 2.5).

    Transitions are addressed by age: index 0 is the oldest that is kept, len - 1 the newest. Indexes
    hold until the next `add`. A saved and loaded buffer behaves as the one that was saved.

    Several robots share one buffer: their transitions lie mixed, as they came, and are followed robot by robot.

    Args:
        capacity: Transitions kept, of all robots together.
        nstate: Length of a physics state.
        nobs: Length of an observation.
        nu: Length of an action.
        robots: Robots that transitions come from.
    """

    def __init__(self, capacity: int, nstate: int, nobs: int, nu: int, robots: int = 1) -> None:
        for name, value in (("capacity", capacity), ("robots", robots)):
            if value < 1:
                raise ValueError(f"{name} = {value} is below its minimum 1")
        self.capacity = capacity
        self.robots = robots
        self.added = 0  # transitions ever added
        self._columns: dict[str, AnyArray] = {
            "state": np.zeros((capacity, nstate)),
            "observation": np.zeros((capacity, nobs)),
            "action": np.zeros((capacity, nu)),
            "reward": np.zeros(capacity),
            "next_observation": np.zeros((capacity, nobs)),
            "terminated": np.zeros(capacity, np.bool_),
            "truncated": np.zeros(capacity, np.bool_),
            "safe_stop": np.zeros(capacity, np.bool_),
            "limited": np.zeros(capacity, np.bool_),
            "step": np.zeros(capacity, np.int64),
            "episode": np.zeros(capacity, np.int64),
            "episode_step": np.zeros(capacity, np.int64),
        }
        if robots > 1:  # what one robot has saved stays readable
            self._columns["robot"] = np.zeros(capacity, np.int64)

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, transition: Transition, robot: int = 0) -> None:
        """Keep a transition of one robot, counted from 0.

        Raises:
            ValueError: Wrong sizes, numbers that are not finite, or no such robot; nothing is kept.
        """
        if not 0 <= robot < self.robots:
            raise ValueError(f"robot {robot} is none of the {self.robots}")
        self.check(transition)
        slot = self.added % self.capacity
        for name, column in self._columns.items():
            column[slot] = robot if name == "robot" else getattr(transition, name)
        self.added += 1

    def check(self, transition: Transition) -> None:
        """Raise ValueError if the transition does not fit."""
        for name in ("state", "observation", "action", "reward", "next_observation"):
            value, expected = np.asarray(getattr(transition, name)), self._columns[name].shape[1:]
            if value.shape != expected:
                raise ValueError(f"transition {transition.step}: {name} has shape {value.shape}, expected {expected}")
            if not np.isfinite(value).all():
                raise ValueError(f"transition {transition.step}: {name} contains values that are not finite")

    def take(self, name: str, indexes: Indexes) -> AnyArray:
        """One column of the transitions at `indexes`, as a copy."""
        return self._columns[name][self._slots(indexes)]

    def serials(self, indexes: Indexes) -> Indexes:
        """How many transitions were ever added before each: a number that a transition keeps for life."""
        return self.added - len(self) + np.asarray(indexes, np.int64)

    def sample(self, rng: np.random.Generator, n: int) -> Indexes:
        """Indexes (n,) drawn uniformly, with replacement."""
        if not len(self):
            raise ValueError("the replay buffer is empty: nothing to sample from")
        return rng.integers(len(self), size=n)

    def following_actions(self, indexes: Indexes, horizon: int) -> FloatArray:
        """The actions played from each transition on, (n, horizon, nu).

        Row 0 is the transition's own action. Zeros follow where the record of its episode ends.
        """
        line, place = self._robot_by_robot()
        ahead = np.arange(horizon)
        wanted = place[np.asarray(indexes, np.int64)][:, None] + ahead
        slots = self._slots(line[np.minimum(wanted, len(self) - 1)])
        first = slots[:, :1]
        joined = wanted < len(self)
        joined &= self._columns["step"][slots] == self._columns["step"][first] + ahead
        for name in ("episode", "robot"):
            if name in self._columns:
                joined &= self._columns[name][slots] == self._columns[name][first]
        # A gap in the record ends it, even if numbers should fit again later.
        joined = np.logical_and.accumulate(joined, axis=1)
        return np.where(joined[..., None], self._columns["action"][slots], 0.0)

    def _robot_by_robot(self) -> tuple[Indexes, Indexes]:
        """All indexes, those of one robot after those of another, each in order (len,); and where each index is."""
        everything = np.arange(len(self))
        if self.robots == 1:
            return everything, everything
        line = np.argsort(self.take("robot", everything), kind="stable")
        place = np.empty_like(line)
        place[line] = everything
        return line, place

    def arrays(self) -> dict[str, AnyArray]:
        """Everything that `load` needs, oldest transition first."""
        order = self._slots(np.arange(len(self)))
        out = {name: column[order] for name, column in self._columns.items()}
        out["added"] = np.array([self.added], np.int64)
        return out

    def spec(self) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """Dtype and shape of what `arrays` returns; -1 stands for the number of transitions."""
        out = {name: (column.dtype, (-1, *column.shape[1:])) for name, column in self._columns.items()}
        out["added"] = (np.dtype(np.int64), (1,))
        return out

    def load(self, arrays: dict[str, AnyArray]) -> None:
        """Go on from what `arrays` returned; a smaller buffer keeps the newest.

        Raises:
            ValueError: The columns differ in length, the count cannot be, or there are more robots.
        """
        size, added = len(arrays["step"]), int(arrays["added"][0])
        for name in self._columns:
            if len(arrays[name]) != size:
                raise ValueError(f"buffer column '{name}' has {len(arrays[name])} transitions, expected {size}")
        if added < size:
            raise ValueError(f"buffer 'added' = {added}, expected at least the {size} transitions kept")
        if "robot" in self._columns and size and not 0 <= arrays["robot"].min() <= arrays["robot"].max() < self.robots:
            raise ValueError(f"buffer 'robot' goes up to {arrays['robot'].max()}, expected 0 to {self.robots - 1}")
        if size < min(added, self.capacity):
            # A larger buffer than the saved one: age cannot be told from `added` any more, so count anew.
            added = size
        kept = min(size, self.capacity)
        self.added = added
        slots = (added - kept + np.arange(kept)) % self.capacity
        for name, column in self._columns.items():
            column[slots] = arrays[name][size - kept :]

    def _slots(self, indexes: Indexes) -> Indexes:
        oldest = self.added - len(self)
        return np.asarray((oldest + np.asarray(indexes)) % self.capacity, np.int64)
