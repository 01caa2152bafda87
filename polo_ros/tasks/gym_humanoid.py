"""Humanoid of gymnasium: two legs walk under a body with arms."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from polo_ros.tasks.base import FloatArray, ObservationSpec
from polo_ros.tasks.contact_wrenches import add_contact_sensors, contact_wrenches
from polo_ros.tasks.gym_task import HealthyTask


class GymHumanoid(HealthyTask):
    """Walk; reward of HealthyTask with weights of 1.25 forward and 0.1 for controls, and 5 for health, less contacts.

    x is the centre of mass. Contacts cost 5e-7 times the sum of squares of the wrenches on all bodies, at most 10; the
    cost is the group `contact`. In version 4 contacts cost nothing, and there is no such group.

    Not observed are gymnasium's inertias, velocities and outer forces of bodies (cinert, cvel, cfrc_ext) and actuator
    forces: they follow from the others or from the action, and a model that predicts 45 numbers learns sooner than one
    that predicts 348. This is its observation with all four `include_..._in_observation=False`.

    Healthy: height between 1 and 2 m. Not to be confused with POLO's humanoid of the tasks humanoid_*.
    """

    name = "humanoid"
    description = "walk with a humanoid (gymnasium's Humanoid; needs polo_ros[gym])"
    control_dt = 0.015
    observation_spec = ObservationSpec(
        (
            ("height", 1),  # m
            ("orientation", 4),  # quaternion w x y z
            ("joints", 17),  # rad: abdomen 3, right leg 4, left leg 4, right arm 3, left arm 3
            ("velocity", 3),  # m/s
            ("rotation", 3),  # rad/s, in the torso's frame
            ("joint_velocities", 17),  # rad/s
            ("x", 1),  # m, of the centre of mass
            ("contact", 1),  # cost of contacts, 0 .. 10
        )
    )
    added: tuple[str, ...] = ("x", "contact")

    file = "humanoid.xml"
    skipped = 2
    noise = 1e-2
    forward_weight = 1.25
    control_weight = 0.1
    healthy_reward = 5.0

    HEIGHTS = (1.0, 2.0)  # m
    CONTACT_WEIGHT = 5e-7
    CONTACT_LIMIT = 10.0  # of the cost

    def __init__(self, version: int = 5) -> None:
        if version == 4:
            self.observation_spec = ObservationSpec(type(self).observation_spec.groups[:-1])
            self.added = ("x",)
        super().__init__(version)

    def add_sensors(self, spec: Any) -> None:
        """Add the sensor of the centre of mass and those of contacts, which begin with it."""
        if self.version == 5:
            add_contact_sensors(spec, "torso")
        else:
            spec.add_sensor(type=mujoco.mjtSensor.mjSENS_SUBTREECOM, objtype=mujoco.mjtObj.mjOBJ_BODY, objname="torso")

    def observe_added(self, sensordata: FloatArray, obs: FloatArray) -> None:
        """Write x and the cost of contacts into obs (..., 2)."""
        more = sensordata[..., self.model.nq + self.model.nv :]
        obs[..., 0] = more[..., 0]
        if self.version == 5:
            wrenches = contact_wrenches(more)
            squares = np.einsum("...bi,...bi->...", wrenches, wrenches)
            np.minimum(self.CONTACT_WEIGHT * squares, self.CONTACT_LIMIT, out=obs[..., 1])

    def reward(self, obs: Any, action: Any, next_obs: Any) -> Any:
        """Reward (...,)."""
        reward = super().reward(obs, action, next_obs)
        if self.version == 4:
            return reward
        return reward - self.observation_spec.view(next_obs)["contact"][..., 0]

    def healthy(self, obs: Any) -> Any:
        """Whether obs (..., 47) stands, (...,) bool."""
        height = self.observation_spec.view(obs)["height"][..., 0]
        low, high = self.HEIGHTS
        return (low < height) & (height < high)
