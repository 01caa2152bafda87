"""Hopper of gymnasium: a planar leg hops."""

from __future__ import annotations

from typing import Any

from polo_ros.tasks.base import ObservationSpec
from polo_ros.tasks.gym_task import HealthyTask


class Hopper(HealthyTask):
    """Hop; reward of HealthyTask with a control weight of 1e-3 and 1 for health.

    Healthy: height above 0.7 m, angle within 0.2 rad, all other positions and velocities within 100. gymnasium looks
    at velocities before it clips them to 10 for the observation, this task after: it misses velocities beyond 100.
    """

    name = "hopper"
    description = "hop on one leg in a plane (gymnasium's Hopper; needs polo_ros[gym])"
    control_dt = 0.008
    observation_spec = ObservationSpec(
        (
            ("height", 1),  # m
            ("angle", 1),  # rad, pitch
            ("joints", 3),  # rad: thigh, leg, foot
            ("velocity", 2),  # m/s, x and z, within +-10
            ("rotation", 1),  # rad/s, within +-10
            ("joint_velocities", 3),  # rad/s, within +-10
            ("x", 1),  # m
        )
    )

    file = "hopper.xml"
    skipped = 1
    top_speed = 10.0
    noise = 5e-3
    control_weight = 1e-3
    healthy_reward = 1.0

    LOWEST = 0.7  # m
    TILTED = 0.2  # rad
    BEYOND = 100.0  # rad, m/s or rad/s

    def healthy(self, obs: Any) -> Any:
        """Whether obs (..., 12) is upright, (...,) bool."""
        seen = self.observation_spec.view(obs)
        others = obs[..., 1:-1]  # all but the height and x
        upright = (seen["height"][..., 0] > self.LOWEST) & (abs(seen["angle"][..., 0]) < self.TILTED)
        return upright & (abs(others) < self.BEYOND).all(-1)
