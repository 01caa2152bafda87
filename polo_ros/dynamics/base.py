"""What a dynamics model is to a planner: many futures of one or many starts at once.

A start is what a model begins with: a physics state (nstate,) for MuJoCo, an observation (nobs,) for a learned model.
Planners pass it on without reading it; the code that joins a planner with a model knows which it is. A model that is
not sure of the future predicts P particles a candidate, which all have the candidate's actions; the others have no such
axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from polo_ros.tasks.base import FloatArray

Floats = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rollouts:
    """Predicted futures of N candidates. Arrays are views of buffers that the next rollout reuses."""

    observations: Floats  # (N, H + 1, nobs) or, of P particles, (N, P, H + 1, nobs), from the start to the end
    valid: Flags  # (N,) False where the model diverged
    rewards: Floats | None = None  # (N, H) or (N, P, H) as the model predicts them; None: the task tells
    members: int = 0  # models that the particles are of, equal parts in their order; 0: of none in particular
    drawn: bool = False  # chance had a part: the same candidates may come out otherwise the next time


class Dynamics(Protocol):
    """Predicts what actions lead to."""

    def rollout(self, starts: FloatArray, actions: FloatArray) -> Rollouts:
        """Roll actions (N, H, nu) from N starts or one start."""
        ...

    def advance(self, start: FloatArray, actions: FloatArray) -> FloatArray:
        """Where actions (T, nu) lead from `start`: what a later rollout would begin with."""
        ...

    def close(self) -> None:
        """Stop worker threads."""
        ...


@dataclass(frozen=True)
class Step:
    """One control period of N candidates with P particles each.

    Observations are views, which the step after next reuses, or a selection between the two.
    """

    observations: Floats  # (N, P, nobs) where it led
    rewards: Floats  # (N, P); 0 for particles that had ended before
    ended: Flags  # (N, P) whether this or an earlier observation is terminal
    valid: Flags  # (N,) False where the model diverged


class StepwiseDynamics(Protocol):
    """Dynamics rolled one control period at a time, for policies that must see where they are before they act."""

    def begin(self, starts: FloatArray, n: int) -> Floats:
        """Put n candidates at N = n starts or at one start; returns their observations (n, P, nobs)."""
        ...

    def step(self, actions: Floats) -> Step:
        """Go on by actions (N, nu), or (N, P, nu): each particle's own."""
        ...

    def select(self, indices: npt.NDArray[np.int64]) -> Floats:
        """Go on with the candidates `indices` (N',), some perhaps several times; returns observations (N', P, nobs)."""
        ...
