"""One control period as the learner sees it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from polo_ros.tasks.base import FloatArray


@dataclass(frozen=True)
class Transition:
    """State, action, reward and what came of it; the ROS message Transition without ROS."""

    step: int
    episode: int
    episode_step: int
    state: FloatArray  # (nstate,) physics state at the start of the period
    observation: FloatArray  # (nobs,)
    action: FloatArray  # (nu,) as written to the driver
    reward: float
    next_observation: FloatArray  # (nobs,)
    terminated: bool = False
    truncated: bool = False
    safe_stop: bool = False
    limited: bool = False
    plan_id: int = 0
    weights_version: int = 0

    @property
    def finite(self) -> bool:
        """Whether every number is."""
        arrays = (self.state, self.observation, self.action, self.next_observation)
        return math.isfinite(self.reward) and all(bool(np.isfinite(array).all()) for array in arrays)
