"""What an agent is to those who run it, in one process or as ROS nodes: a planner and a learner."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from polo_ros.learning.weights import Arrays, Weights
from polo_ros.planners.base import PlanResult
from polo_ros.replay.transition import Transition
from polo_ros.safety.timeline import TimedPlan
from polo_ros.tasks.base import FloatArray


def required_version(step: int, update_every: int) -> int:
    """Version of the weights that a lockstep plan for control period `step` uses."""
    return step // update_every


class AgentPlanner(Protocol):
    """Plans online, with weights that it takes over between two plans. An instance belongs to one thread.

    What a plan depends on beside its state, warm start and weights is the seed and the step planned from, so that it
    can be made again.
    """

    kind: str  # of the weights
    horizon: int  # control periods that a plan reaches, H
    weights_version: int

    def check_weights(self, data: bytes) -> Arrays:
        """Arrays of a safetensors file if they fit; raises WeightsError."""
        ...

    def use_weights(self, arrays: Arrays, version: int) -> None:
        """Plan with checked weights from the next plan on."""
        ...

    def configure(self, config: Any) -> None:
        """Take changed settings from the next plan on; the warm start stays."""
        ...

    def start(self, state: FloatArray) -> FloatArray:
        """What plans begin with at physics state (nstate,): the state, or an observation for a learned model."""
        ...

    def predict(self, start: FloatArray, actions: FloatArray) -> FloatArray:
        """What plans begin with after actions (T, nu), which the robot is going to play in the meantime."""
        ...

    def plan(
        self, start: FloatArray, state_step: int, first_step: int, episode: int, deadline: float = math.inf
    ) -> tuple[TimedPlan, PlanResult]:
        """Plan for control periods from `first_step` on.

        Args:
            start: At the start of `first_step`, measured or predicted.
            state_step: Step of the measured state behind it.
            first_step: Control period in which the plan's first action takes effect.
            episode: A new one forgets the warm start.
            deadline: time.perf_counter() value, s, by which to answer.
        """
        ...

    def close(self) -> None:
        """Stop the rollout threads."""
        ...


class Update(Protocol):
    """How one update of a learner went."""

    @property
    def step(self) -> int:
        """Newest transition seen."""
        ...

    @property
    def version(self) -> int:
        """Of the weights that it made."""
        ...

    @property
    def transitions(self) -> int:
        """In the replay buffer."""
        ...

    @property
    def transitions_lost(self) -> int:
        """Gaps seen in the numbering of transitions."""
        ...

    @property
    def updates(self) -> int:
        """So far."""
        ...

    @property
    def updates_skipped(self) -> int:
        """Scheduled but dropped, since the learner lagged behind."""
        ...

    @property
    def lag_s(self) -> float:
        """s, of the newest transition behind the update's schedule."""
        ...

    @property
    def message(self) -> str:
        """What went wrong, or was left out; empty: nothing."""
        ...

    def figures(self) -> Mapping[str, float]:
        """Everything else, by name; nan where there is nothing to tell."""
        ...


class AgentLearner(Protocol):
    """Learns in the background: transitions in, weights out."""

    version: int
    message: str  # why a transition was refused last

    @property
    def last_step(self) -> int:
        """Newest transition seen; -1: none."""
        ...

    @property
    def lost(self) -> Sequence[int]:
        """Gaps seen in the numbering of transitions, of each robot."""
        ...

    def observe(self, transition: Transition, robot: int = 0) -> bool:
        """Keep a transition; whether it was kept."""
        ...

    def due(self, step: int) -> bool:
        """Whether the schedule asks for an update after a transition of `step`."""
        ...

    def update(self) -> Update:
        """Learn; always makes the version that the schedule names."""
        ...

    def weights(self) -> Weights:
        """What was learned by now, for planners."""
        ...

    def save(self, path: Path) -> None:
        """Write a checkpoint from which `restore` goes on exactly."""
        ...

    def restore(self, path: Path) -> tuple[str, ...]:
        """Go on from a checkpoint; returns warnings to pass on. Raises FileNotFoundError, CheckpointError."""
        ...

    def close(self) -> None:
        """Stop the rollout threads."""
        ...
