"""What a dynamics model is to a planner: many futures of one or many starts at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from polo_ros.tasks.base import FloatArray


@dataclass(frozen=True)
class Rollouts:
    """Predicted futures of N candidates. Arrays are views of buffers that the next rollout reuses."""

    observations: FloatArray  # (N, H + 1, nobs), from the start to the end
    valid: npt.NDArray[np.bool_]  # (N,) False where the model diverged


class Dynamics(Protocol):
    """Predicts what actions lead to."""

    def rollout(self, starts: FloatArray, actions: FloatArray) -> Rollouts:
        """Roll actions (N, H, nu) from starts (N, nstate) or one start (nstate,)."""
        ...

    def advance(self, start: FloatArray, actions: FloatArray) -> FloatArray:
        """The state (nstate,) after actions (T, nu) from `start` (nstate,)."""
        ...

    def close(self) -> None:
        """Stop worker threads."""
        ...
