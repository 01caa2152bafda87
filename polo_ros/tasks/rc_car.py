"""A car of 1:10 on a circle, within a larger one: the RC car of LOOP (Sikchi et al. 2021, section 6.3).

The car, its start and its reward are Ahn's (2019, "Autonomous drifting using reinforcement learning").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import mujoco
import numpy as np

from polo_ros import resources
from polo_ros.tasks.base import FloatArray, ObservationSpec, Task
from polo_ros.tasks.gym_task import as_number


class RcCar(Task):
    """Drive along a circle of 1 m counter-clockwise at a target speed, and stay within 1.2 m.

    Reward, of next_obs: -|r - 1 m| - 0.25 (v - v*)^2 - 0.25 (|theta| - pi/2)+^2, with v the speed in m/s and theta the
    angle from the car's axis to the circle's tangent in rad: sideways is free, backwards is not. Cost: 1 where
    r > 1.2 m.

    Controls are -1 .. 1: wheels from 0 to 10 m/s, steering from pi/6 to the right to pi/6 to the left. At rest the
    wheels stand still, which is -1, and brakes.

    Who simulates it is driver `rc_car`. The model holds state, sensors and pictures, and MuJoCo knows of no tyres:
    agents that plan in MuJoCo plan for something else. The task is for learned models.

    Args:
        target_speed: m/s, v*. The tyres hold the car on the circle up to 3.2 m/s; at 3.8 m/s it can stay there only
            by drifting.

    Raises:
        ValueError: A target speed that is not above 0.
    """

    name = "rc_car"
    description = "an RC car on a circle, by learned models (its tyres are not MuJoCo's)"
    control_dt = 0.1
    discount = 0.99
    episode_steps = 100
    simulator = "rc_car"
    observation_spec = ObservationSpec(
        (
            ("offset", 1),  # m, r - 1: how far outside of the circle
            ("heading", 2),  # cosine and sine of theta
            ("velocity", 2),  # m/s, forwards and to the left
            ("rotation", 1),  # rad/s
        ),
        scales=(("offset", 0.5), ("heading", 1.0), ("velocity", 1.0), ("rotation", 2.0)),
    )

    RADIUS = 1.0  # m
    ALLOWED = 0.2  # m outside of it
    # Of the start, on the left and downwards: m, rad, m/s, rad/s, to either side.
    START_OFFSET, START_ANGLE, START_SIDEWAYS, START_ROTATION = 0.25, math.pi / 3.0, 0.6, 2.0

    def __init__(self, target_speed: float = 1.0) -> None:
        if not 0.0 < target_speed < math.inf:
            raise ValueError(f"target speed {target_speed} m/s is not above 0")
        self.target_speed = target_speed
        self.model = mujoco.MjModel.from_xml_path(str(resources.path("models", "rc_car.xml")))

    @cached_property
    def resting_action(self) -> FloatArray:
        """Wheels that stand still, (2,): zero would be 5 m/s."""
        return np.array([-1.0, 0.0])

    def reset(self, rng: np.random.Generator) -> FloatArray:
        """Near the circle and more or less along it, at up to twice the target speed, sliding and turning."""
        x = -self.RADIUS + rng.uniform(-self.START_OFFSET, self.START_OFFSET)
        yaw = -0.5 * math.pi + rng.uniform(-self.START_ANGLE, self.START_ANGLE)
        forwards = rng.uniform(0.0, 2.0 * self.target_speed)
        sideways = rng.uniform(-self.START_SIDEWAYS, self.START_SIDEWAYS)
        rotation = rng.uniform(-self.START_ROTATION, self.START_ROTATION)
        c, s = math.cos(yaw), math.sin(yaw)
        qvel = np.array([c * forwards - s * sideways, s * forwards + c * sideways, rotation])
        return self.pack(0.0, np.array([x, 0.0, yaw]), qvel, np.empty(0))

    def observe(self, sensordata: FloatArray) -> FloatArray:
        """Observations (..., 6) from sensor readings (..., 12)."""
        x, y, c, s = (sensordata[..., column] for column in (0, 1, 3, 4))
        radius = np.hypot(x, y)
        away = np.maximum(radius, 1e-9)  # in the very middle there is no tangent, and theta is 0
        obs = np.empty((*sensordata.shape[:-1], 6))
        obs[..., 0] = radius - self.RADIUS
        obs[..., 1] = (s * x - c * y) / away
        obs[..., 2] = (c * x + s * y) / away
        obs[..., 3:5] = sensordata[..., 6:8]
        obs[..., 5] = sensordata[..., 11]
        return obs

    def reward(self, obs: Any, action: Any, next_obs: Any) -> Any:
        """Reward (...,)."""
        backwards = (abs(self.heading_error(next_obs)) - 0.5 * math.pi).clip(min=0.0)
        too_fast = self.speed(next_obs) - self.target_speed
        offset = self.observation_spec.view(next_obs)["offset"][..., 0]
        return -abs(offset) - 0.25 * too_fast * too_fast - 0.25 * backwards * backwards

    def cost(self, obs: Any, action: Any, next_obs: Any) -> Any:
        """1 where the car is outside of 1.2 m in next_obs, else 0, (...,)."""
        return as_number(self.outside(next_obs), next_obs)

    def outside(self, obs: Any) -> Any:
        """Whether the car is further than 1.2 m from the middle in obs (..., 6), (...,) bool."""
        return self.observation_spec.view(obs)["offset"][..., 0] > self.ALLOWED

    def speed(self, obs: Any) -> Any:
        """Speed (...,) in m/s in obs (..., 6)."""
        velocity = self.observation_spec.view(obs)["velocity"]
        return (velocity * velocity).sum(-1) ** 0.5

    def heading_error(self, obs: Any) -> Any:
        """Theta (...,) in rad, -pi .. pi: how far to the left of the car's axis the way along the circle is."""
        heading = self.observation_spec.view(obs)["heading"]
        return _arctan2(heading[..., 1], heading[..., 0])

    def slip(self, obs: Any) -> Any:
        """Angle (...,) in rad from the car's axis to where it goes, -pi .. pi: what makes a drift."""
        velocity = self.observation_spec.view(obs)["velocity"]
        return _arctan2(velocity[..., 1], velocity[..., 0])

    def success(self, observations: FloatArray) -> bool | None:
        """Whether the second half of the episode is never outside, and its mean speed within 20 % of the target.

        None for less than an episode.
        """
        if len(observations) <= self.episode_steps:
            return None
        half = observations[len(observations) // 2 :]
        speed = float(self.speed(half).mean())
        return abs(speed - self.target_speed) <= 0.2 * self.target_speed and not self.outside(half).any()

    def measures(self, observations: FloatArray) -> Mapping[str, float]:
        """`outside_periods`, which ended outside; `mean_speed`, m/s; `mean_offset`, m; `mean_slip`, rad.

        An offset to either side is one. Slip counts where the car is faster than 0.1 m/s, and is nan where it never is.
        """
        offset = self.observation_spec.view(observations)["offset"][:, 0]
        speed = self.speed(observations)
        sliding = np.abs(self.slip(observations))[speed > 0.1]
        return {
            "outside_periods": float(np.count_nonzero(self.outside(observations[1:]))),
            "mean_speed": float(speed.mean()),
            "mean_offset": float(np.abs(offset).mean()),
            "mean_slip": float(sliding.mean()) if len(sliding) else math.nan,
        }


def _arctan2(y: Any, x: Any) -> Any:
    return y.arctan2(x) if hasattr(y, "arctan2") else np.arctan2(y, x)


class RcCarDrift(RcCar):
    """The same at 3.8 m/s: the tyres do not hold the car on the circle, and it stays there only sideways."""

    name = "rc_car_drift"
    description = "the RC car at a speed at which it must drift"

    def __init__(self) -> None:
        super().__init__(target_speed=3.8)
