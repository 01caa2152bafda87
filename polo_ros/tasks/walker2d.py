"""Walker2d of gymnasium: two planar legs walk."""

from __future__ import annotations

from typing import Any

from polo_ros.tasks.base import ObservationSpec
from polo_ros.tasks.gym_task import HealthyTask


class Walker2d(HealthyTask):
    """Walk; reward of HealthyTask with a control weight of 1e-3 and 1 for health.

    Healthy: height between 0.8 and 2 m, angle within 1 rad. In version 4 the right foot has half the friction.
    """

    name = "walker2d"
    description = "walk with two legs in a plane (gymnasium's Walker2d; needs polo_ros[gym])"
    control_dt = 0.008
    observation_spec = ObservationSpec(
        (
            ("height", 1),  # m
            ("angle", 1),  # rad, pitch
            ("joints", 6),  # rad: right thigh, leg, foot, left thigh, leg, foot
            ("velocity", 2),  # m/s, x and z, within +-10
            ("rotation", 1),  # rad/s, within +-10
            ("joint_velocities", 6),  # rad/s, within +-10
            ("x", 1),  # m
        )
    )

    skipped = 1
    top_speed = 10.0
    noise = 5e-3
    control_weight = 1e-3
    healthy_reward = 1.0

    HEIGHTS = (0.8, 2.0)  # m
    TILTED = 1.0  # rad

    @property
    def model_file(self) -> str:
        """Name of the model's file among gymnasium's."""
        return "walker2d_v5.xml" if self.version == 5 else "walker2d.xml"

    def healthy(self, obs: Any) -> Any:
        """Whether obs (..., 18) is upright, (...,) bool."""
        seen = self.observation_spec.view(obs)
        height, angle = seen["height"][..., 0], seen["angle"][..., 0]
        low, high = self.HEIGHTS
        return (low < height) & (height < high) & (abs(angle) < self.TILTED)
