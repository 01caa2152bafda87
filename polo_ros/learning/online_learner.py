"""What learners that follow a robot share: transitions in their order, a schedule of updates, checkpoints."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from polo_ros.config import flatten
from polo_ros.learning import checkpoint as checkpoints
from polo_ros.learning.weights import under
from polo_ros.replay.buffer import ReplayBuffer
from polo_ros.replay.transition import Transition
from polo_ros.tasks.base import Task

# Steps that may be missing between two transitions: hours of control, and no number that a liar makes up.
MAX_GAP = 10_000_000

_COUNTERS = ("version", "updates", "updates_skipped", "transitions_refused")
_OF_ROBOTS = ("last_step", "transitions_lost")  # `newest` and `lost`, where there is one robot


class OnlineLearner(abc.ABC):
    """Keeps the transitions of one or more robots, and says when the next update is due.

    Subclasses say what an update is, and what of it a checkpoint keeps. torch is set to one thread: the networks are
    small, and the cores belong to planning.

    Args:
        task: What is learned.
        capacity: Transitions that are kept, of all robots.
        seed: Of every random number.
        robots: How many robots transitions come from, each with a numbering of its own.

    Attributes:
        newest: Of each robot the step of its newest transition, -1 before the first.
        lost: Of each robot how many steps were missing.
        version: Of the weights; the schedule names it.
        message: Why a transition was refused last.
    """

    KEPT: str  # kind of its checkpoints

    def __init__(self, task: Task, capacity: int, seed: int, robots: int = 1) -> None:
        if seed < 0:
            raise ValueError(f"seed = {seed} is below its minimum 0")
        torch.set_num_threads(1)
        self.seed = seed
        self._task = task
        self.buffer = ReplayBuffer(capacity, task.nstate, task.observation_spec.size, task.model.nu, robots)
        self.newest = [-1] * robots
        self.lost = [0] * robots
        self._scheduled = 0  # several robots: number of the newest update that was made by the schedule
        self.version = 0
        self.updates = 0
        self.updates_skipped = 0
        self.transitions_refused = 0
        self.message = ""

    # ---- transitions -----------------------------------------------------------------------

    @property
    def last_step(self) -> int:
        """Step of the newest transition, -1 before the first; of several robots their mean, rounded down."""
        return (sum(self.newest) + len(self.newest)) // len(self.newest) - 1

    @property
    def transitions_lost(self) -> int:
        """Steps missing in the robots' numberings."""
        return sum(self.lost)

    def observe(self, transition: Transition, robot: int = 0) -> bool:
        """Keep a transition of one robot, counted from 0.

        Returns whether it was kept. One that is out of order, of wrong size or not finite is refused and counted, and
        `message` says why; a gap in the robot's steps is counted as lost.
        """
        last = self.newest[robot]
        if last >= 0 and transition.step > last + MAX_GAP:
            return self._refuse(f"transition {transition.step} is too far from the last one, {last}")
        if transition.step <= last:
            return self._refuse(f"transition {transition.step} is not newer than the last one, {last}")
        try:
            self.buffer.add(transition, robot)
        except ValueError as error:
            return self._refuse(str(error))
        # The first one seen may lie anywhere: a learner may join late.
        self.lost[robot] += transition.step - last - 1 if last >= 0 else 0
        self.newest[robot] = transition.step
        return True

    def _refuse(self, reason: str) -> bool:
        self.transitions_refused += 1
        self.message = reason
        return False

    # ---- the schedule ----------------------------------------------------------------------

    @property
    @abc.abstractmethod
    def update_every(self) -> int:
        """Control periods between two updates."""

    def due(self, step: int) -> bool:
        """Whether the schedule asks for an update after a transition of `step`.

        Of several robots none counts more than another: their mean step does. So updates come as often as with one
        robot, whatever the number of robots, and a robot that stands still slows them down without stopping them.
        """
        if len(self.newest) == 1:
            return (step + 1) % self.update_every == 0
        return (self.last_step + 1) // self.update_every > self._scheduled

    def _next_version(self) -> None:
        """Count the update that begins, and those that the schedule names between it and the one before."""
        self._scheduled = version = (self.last_step + 1) // self.update_every
        self.updates_skipped += max(0, version - self.version - 1) if self.version else 0
        # Late updates may fall into one period of the schedule: versions rise all the same.
        self.version = max(version, self.version + 1)
        self.updates += 1

    def _progress(self) -> dict[str, Any]:
        """How far it is, after an update: what the figures of all learners begin with."""
        return {
            "step": max(self.last_step, 0),
            "version": self.version,
            "transitions": len(self.buffer),
            "transitions_lost": self.transitions_lost,
            "transitions_refused": self.transitions_refused,
            "updates": self.updates,
            "updates_skipped": self.updates_skipped,
            # s, of the newest transition behind the update's schedule
            "lag_s": (self.last_step + 1 - self._scheduled * self.update_every) * self._task.control_dt,
        }

    # ---- saved and restored whole ----------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write a checkpoint from which `restore` goes on exactly."""
        arrays = {f"buffer.{name}": array for name, array in self.buffer.arrays().items()}
        if len(self.newest) > 1:
            arrays["robots"] = np.array([self.newest, self.lost], np.int64)
        checkpoints.save(
            path,
            checkpoints.Checkpoint(
                kind=self.KEPT,
                task=self._task.name,
                model_hash=self._task.model_hash,
                config=self._settings(),
                state={name: getattr(self, name) for name in (*_COUNTERS, *_OF_ROBOTS, "seed")},
                arrays={**arrays, **self._arrays()},
            ),
        )

    def restore(self, path: Path) -> tuple[str, ...]:
        """Go on from a checkpoint; returns warnings to pass on. Nothing changes if it raises.

        Raises:
            FileNotFoundError: No checkpoint there.
            CheckpointError: It is damaged, of another task, model or layout.
        """
        spec: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
            f"buffer.{name}": layout for name, layout in self.buffer.spec().items()
        }
        if len(self.newest) > 1:
            spec["robots"] = (np.dtype(np.int64), (2, len(self.newest)))
        found = checkpoints.load(
            path,
            kind=self.KEPT,
            task=self._task.name,
            model_hash=self._task.model_hash,
            spec={**spec, **self._spec()},
        )
        for name in (*_COUNTERS, *_OF_ROBOTS, "seed"):
            value = found.state.get(name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise checkpoints.CheckpointError(f"checkpoint {path}: {name} is {value!r}, expected an integer")
        arrays = found.arrays
        try:
            self._check(arrays)
            self.buffer.load(under(arrays, "buffer."))
        except ValueError as error:
            raise checkpoints.CheckpointError(f"checkpoint {path}: {error}") from None
        warnings = list(found.warnings)
        for name, now in {**self._settings(), "seed": self.seed}.items():
            before = found.state["seed"] if name == "seed" else found.config.get(name)
            if before != now:
                warnings.append(f"{name} was {before} in the checkpoint and is {now} now")
        for name in _COUNTERS:
            setattr(self, name, found.state[name])
        by_robot = arrays.get("robots", np.array([[found.state[name]] for name in _OF_ROBOTS]))
        self.newest, self.lost = by_robot.tolist()
        self._scheduled = (self.last_step + 1) // self.update_every
        self._load(arrays)
        return tuple(warnings)

    @abc.abstractmethod
    def _settings(self) -> dict[str, Any]:
        """Settings of which a checkpoint says that they changed."""

    @abc.abstractmethod
    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All that a checkpoint keeps beside counters and transitions."""

    @abc.abstractmethod
    def _spec(self) -> checkpoints.Spec:
        """Types and shapes of these arrays."""

    @abc.abstractmethod
    def _load(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Take over what `_arrays` gave."""

    def _check(self, arrays: dict[str, npt.NDArray[Any]]) -> None:  # noqa: B027  most have nothing to check
        """Raise ValueError for numbers of a checkpoint that cannot be; its layout is right."""


def settings_of(**configs: Any) -> dict[str, Any]:
    """Settings by dotted names, as a checkpoint's JSON gives them back."""
    return {
        f"{part}.{name}": list(value) if isinstance(value, tuple) else value
        for part, config in configs.items()
        for name, value in flatten(config).items()
    }
