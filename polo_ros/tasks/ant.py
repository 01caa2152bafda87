"""Ant of gymnasium: four legs walk."""

from __future__ import annotations

from typing import Any

import numpy as np

from polo_ros.tasks.base import FloatArray, ObservationSpec
from polo_ros.tasks.contact_wrenches import add_contact_sensors, contact_wrenches
from polo_ros.tasks.gym_task import HealthyTask


class Ant(HealthyTask):
    """Walk; reward of HealthyTask with a control weight of 0.5 and 1 for health, less what contacts cost.

    Contacts cost 5e-4 times the sum of squares of the wrenches on all bodies, their entries clipped to +-1 N or N m.
    The sum is the group `contact`: gymnasium shows the 78 entries themselves, which is no task for a learned model,
    and this is its observation with `include_cfrc_ext_in_observation=False`. In version 4 contacts cost nothing, and
    there is no such group.

    Healthy: height between 0.2 and 1 m, all finite.
    """

    name = "ant"
    description = "walk with four legs (gymnasium's Ant; needs polo_ros[gym])"
    control_dt = 0.05
    observation_spec = ObservationSpec(
        (
            ("height", 1),  # m
            ("orientation", 4),  # quaternion w x y z
            ("joints", 8),  # rad: hip and ankle of each leg
            ("velocity", 3),  # m/s
            ("rotation", 3),  # rad/s, in the torso's frame
            ("joint_velocities", 8),  # rad/s
            ("x", 1),  # m
            ("contact", 1),  # sum of squares of clipped wrenches
        )
    )
    added: tuple[str, ...] = ("x", "contact")

    file = "ant.xml"
    skipped = 2
    noise = 0.1
    normal_velocities = True
    control_weight = 0.5
    healthy_reward = 1.0

    HEIGHTS = (0.2, 1.0)  # m
    CONTACT_WEIGHT = 5e-4
    CONTACT_LIMIT = 1.0  # N or N m

    def __init__(self, version: int = 5) -> None:
        if version == 4:
            self.observation_spec = ObservationSpec(type(self).observation_spec.groups[:-1])
            self.added = ("x",)
        super().__init__(version)

    def add_sensors(self, spec: Any) -> None:
        """Add the sensors of contacts."""
        if self.version == 5:
            add_contact_sensors(spec, "torso")

    def observe_added(self, sensordata: FloatArray, obs: FloatArray) -> None:
        """Write x and the sum of squares of contacts into obs (..., 2)."""
        super().observe_added(sensordata, obs)
        if self.version == 5:
            wrenches = contact_wrenches(sensordata[..., self.model.nq + self.model.nv :])
            clipped = np.clip(wrenches, -self.CONTACT_LIMIT, self.CONTACT_LIMIT)
            np.einsum("...bi,...bi->...", clipped, clipped, out=obs[..., 1])

    def reward(self, obs: Any, action: Any, next_obs: Any) -> Any:
        """Reward (...,)."""
        reward = super().reward(obs, action, next_obs)
        if self.version == 4:
            return reward
        return reward - self.CONTACT_WEIGHT * self.observation_spec.view(next_obs)["contact"][..., 0]

    def healthy(self, obs: Any) -> Any:
        """Whether obs (..., 29) is at a height to walk at, (...,) bool."""
        height = self.observation_spec.view(obs)["height"][..., 0]
        low, high = self.HEIGHTS
        return (low <= height) & (height <= high) & (abs(obs) < float("inf")).all(-1)
