"""InvertedPendulum of gymnasium: keep a pole upright on a cart."""

from __future__ import annotations

from typing import Any

from polo_ros.tasks.base import FloatArray, ObservationSpec
from polo_ros.tasks.gym_task import GymTask, as_number


class InvertedPendulum(GymTask):
    """A pole on a cart stays within 0.2 rad of upright, or the episode ends.

    Reward: 1 for every period that ends upright; in version 4 for every period.
    """

    name = "inverted_pendulum"
    description = "keep a pole upright on a cart (gymnasium's InvertedPendulum; needs polo_ros[gym])"
    control_dt = 0.04
    observation_spec = ObservationSpec(
        (
            ("cart_position", 1),  # m
            ("angle", 1),  # rad from upright
            ("cart_velocity", 1),  # m/s
            ("rotation", 1),  # rad/s
        )
    )

    file = "inverted_pendulum.xml"
    noise = 0.01

    UPRIGHT = 0.2  # rad

    def upright(self, obs: Any) -> Any:
        """Whether obs (..., 4) is within 0.2 rad of upright, and finite, (...,) bool."""
        angle = self.observation_spec.view(obs)["angle"][..., 0]
        return (abs(angle) <= self.UPRIGHT) & (abs(obs) < float("inf")).all(-1)

    def terminated(self, obs: Any) -> Any:
        """Whether the pole has fallen in obs (..., 4), (...,) bool."""
        return ~self.upright(obs)

    def reward(self, obs: Any, action: Any, next_obs: Any) -> Any:
        """Reward (...,), 0 or 1."""
        standing = as_number(self.upright(next_obs), next_obs)
        return standing if self.version == 5 else standing * 0.0 + 1.0

    def success(self, observations: FloatArray) -> bool | None:
        """Whether the pole never fell."""
        return bool(self.upright(observations).all())
