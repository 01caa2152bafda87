"""POLO's humanoid that gets up from the floor (Lowrey et al. 2019, section 3.2, appendix A and A.1)."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import mujoco
import numpy as np

from polo_ros.tasks.base import FloatArray, ObservationView
from polo_ros.tasks.humanoid import Humanoid


class HumanoidGetup(Humanoid):
    """A humanoid, on its back at first, is to bring its root to a height of 1.1 m.

    Reward (appendix A.1): R(s) = 1 - (1.1 - Root_z) up to 1.1 m, 1 above.
    """

    name = "humanoid_getup"
    description = "get up from the floor (27 degrees of freedom, dense reward)"

    SUCCESS_HEIGHT = 1.0  # m, to be kept through the last second

    @cached_property
    def start_pose(self) -> FloatArray:
        """Joint positions (nq,) of the humanoid lying on its back, as physics settles them."""
        data = mujoco.MjData(self.model)
        data.qpos[2] = 0.25
        data.qpos[3:7] = (np.sqrt(0.5), 0.0, -np.sqrt(0.5), 0.0)  # x axis up, head towards -x
        mujoco.mj_step(self.model, data, nstep=round(3.0 / self.model.opt.timestep))
        return np.array(data.qpos)

    def state_reward(self, seen: ObservationView) -> Any:
        """R(s) of appendix A.1, (...,)."""
        return 1.0 - (self.TARGET_HEIGHT - seen["root_height"][..., 0]).clip(min=0.0)

    def success(self, observations: FloatArray) -> bool | None:
        """Whether the root stays at 1.0 m or above through the last second; None for a shorter run."""
        last = self.last_second(observations)
        return None if last is None else bool((self.root_height(last) >= self.SUCCESS_HEIGHT).all())


class HumanoidGetupSparse(HumanoidGetup):
    """The same with R_sparse(s) of appendix A.1: 1 above 1.1 m, else 0."""

    name = "humanoid_getup_sparse"
    description = "get up from the floor (27 degrees of freedom, sparse reward)"

    def state_reward(self, seen: ObservationView) -> Any:
        """R_sparse(s) of appendix A.1, (...,)."""
        return 1.0 * (seen["root_height"][..., 0] > self.TARGET_HEIGHT)
