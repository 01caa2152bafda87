"""Swing a pole up by pushing its cart, and keep it up."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from polo_ros import resources
from polo_ros.tasks.base import FloatArray, ObservationSpec, Task


class CartpoleSwingup(Task):
    """A pole on a cart, hanging at first; the cart has 1.8 m of rail to either side.

    Reward: upright * centred * easy, each in [0, 1] and smooth:
    (1 + cos angle) / 2, 1 / (1 + x^2) with x in m, and 1 - 0.1 u^2.
    """

    name = "cartpole_swingup"
    description = "swing a pole up by pushing its cart, and keep it up"
    control_dt = 0.02
    discount = 0.99
    observation_spec = ObservationSpec(
        (("cart_position", 1), ("cart_velocity", 1), ("pole_sin", 1), ("pole_cos", 1), ("pole_velocity", 1))
    )

    SWINGUP_TIME = 5.0  # s, after which the pole has to be up
    UPRIGHT = 0.2  # rad

    # Sensors: position, velocity, the pole's z axis (sin, 0, cos), angular velocity.
    _READ = np.array([0, 1, 2, 4, 5])

    def __init__(self) -> None:
        self.model = mujoco.MjModel.from_xml_path(str(resources.path("models", "cartpole.xml")))

    def reset(self, rng: np.random.Generator) -> FloatArray:
        """The cart near the middle of the rail, the pole hanging, both almost at rest."""
        qpos = np.array([0.0, np.pi]) + rng.uniform(-0.05, 0.05, 2)
        return self.pack(0.0, qpos, rng.uniform(-0.01, 0.01, 2), np.empty(0))

    def observe(self, sensordata: FloatArray) -> FloatArray:
        """Observations (..., 5) from sensor readings (..., 6)."""
        return np.take(sensordata, self._READ, axis=-1)

    def reward(self, obs: Any, action: Any, next_obs: Any) -> Any:
        """Reward (...,), in [0, 1]."""
        view = self.observation_spec.view(obs)
        upright = 0.5 + 0.5 * view["pole_cos"][..., 0]
        centred = 1.0 / (1.0 + view["cart_position"][..., 0] ** 2)
        easy = 1.0 - 0.1 * action[..., 0] ** 2
        return upright * centred * easy

    def success(self, observations: FloatArray) -> bool | None:
        """Whether the pole is within 0.2 rad of upright from 5 s on; None for a shorter run."""
        late = observations[round(self.SWINGUP_TIME / self.control_dt) :]
        if len(late) == 0:
            return None
        return bool((np.abs(self.angle(late)) < self.UPRIGHT).all())

    def angle(self, obs: FloatArray) -> FloatArray:
        """Angle of the pole from upright (...,), rad, in [-pi, pi]."""
        view = self.observation_spec.view(obs)
        return np.asarray(np.arctan2(view["pole_sin"][..., 0], view["pole_cos"][..., 0]))
