"""The humanoid that stays on its feet: the getup task's reward from a standing start."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from polo_ros.tasks.base import FloatArray
from polo_ros.tasks.humanoid_getup import HumanoidGetup


class HumanoidStand(HumanoidGetup):
    """A humanoid, upright at first, is to keep its root at a height of 1.1 m. Reward: as HumanoidGetup."""

    name = "humanoid_stand"
    description = "stay upright (27 degrees of freedom)"

    @cached_property
    def start_pose(self) -> FloatArray:
        """Joint positions (nq,), upright."""
        return np.array(self.model.qpos0)

    def success(self, observations: FloatArray) -> bool | None:
        """Whether the root stays at 1.0 m or above throughout; None for a run of less than a second."""
        long_enough = self.last_second(observations) is not None
        return bool((self.root_height(observations) >= self.SUCCESS_HEIGHT).all()) if long_enough else None
