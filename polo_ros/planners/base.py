"""What a planner is: a start state in, a sequence of actions out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from polo_ros.tasks.base import FloatArray


@dataclass(frozen=True)
class PlanResult:
    """The actions found and how the search went."""

    actions: FloatArray  # (H, nu)
    rollouts: int  # candidates evaluated
    rollouts_asked: int
    invalid_rollouts: int  # candidates that diverged
    best_score: float
    mean_score: float
    effective_samples: float
    value_gate: float  # 0 .. 1, share of the terminal value in use
    value_spread: float  # standard deviation over the ensemble at terminal states
    constraint_active: bool = False
    predicted_cost: float = 0.0  # of `actions`, in the worst future predicted; 0 without a constraint
    feasible_fraction: float = 1.0  # of the last iteration's candidates, those that keep to the limit
    infeasible: bool = False  # these were too few: cost was minimised, and reward ignored
    within_limit: bool = True  # predicted_cost is, where a constraint is active


class Planner(Protocol):
    """Plans online. The warm start lives inside."""

    horizon: int

    def plan(self, start: FloatArray, rng: np.random.Generator, deadline: float = math.inf) -> PlanResult:
        """Plan from `start`, a physics state or an observation as the dynamics ask for it.

        `deadline` is a time.perf_counter() value, s.
        """
        ...

    def shift(self, steps: int) -> None:
        """Move the warm start `steps` control periods on."""
        ...

    def reset(self) -> None:
        """Forget the warm start."""
        ...


def shifted(sequence: FloatArray, steps: int, last: FloatArray) -> FloatArray:
    """A sequence (H, nu) `steps` control periods later; rows `last` (nu,) enter at its end."""
    if steps <= 0:
        return sequence
    kept = sequence[steps:]
    return np.concatenate((kept, np.tile(last, (len(sequence) - len(kept), 1))))
