"""Claw: three fingers turn a valve, after the D'Claw of "Deep Dynamics Models" (PDDM, Nagabandi et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np

from polo_ros import resources
from polo_ros.tasks.base import FloatArray, ObservationSpec, Task
from polo_ros.tasks.gym_task import as_number


class Claw(Task):
    """Turn a valve with three handles to a target angle a quarter to half a turn away, another every episode.

    Reward: -10 |e| + 1 where |e| < 0.25 rad + 10 where |e| < 0.1 rad, with e the angle in rad between valve and target
    the shorter way round, in next_obs.

    The task's numbers are those of the paper's code: start pose, angles, control period, episode, observation, reward.
    The model is polo_ros' own (models/claw.xml) and only resembles the robot: three fingers with three joints each,
    position servos in rad, a round base, a valve of three handles with friction.

    The target is a body on a hinge without contacts: its angle is a part of the physics state and stays as it is.
    """

    name = "claw"
    description = "turn a valve with three fingers (9 actuators)"
    control_dt = 0.1
    discount = 0.99
    episode_steps = 500
    safe_stop = "hold"
    observation_spec = ObservationSpec(
        (
            ("claw", 9),  # rad: three joints a finger
            ("claw_velocity", 9),  # rad/s
            ("valve", 1),  # rad
            ("valve_velocity", 1),  # rad/s
            ("target", 1),  # rad
        )
    )

    START_POSE = (0.0, -1.0, 1.35)  # rad, of each finger
    VALVE_START = 0.25 * math.pi  # rad, +-
    TARGETS = (0.5 * math.pi, math.pi)  # rad, to either side
    BONUSES = ((0.25, 1.0), (0.1, 10.0))  # rad, reward

    def __init__(self) -> None:
        self.model = mujoco.MjModel.from_xml_path(str(resources.path("models", "claw.xml")))

    def reset(self, rng: np.random.Generator) -> FloatArray:
        """Fingers around the valve at rest; the angles of valve and target drawn."""
        valve = rng.uniform(-self.VALVE_START, self.VALVE_START)
        target = rng.choice((-1.0, 1.0)) * rng.uniform(*self.TARGETS)
        qpos = np.array([*self.START_POSE * 3, valve, target])
        return self.pack(0.0, qpos, np.zeros(self.model.nv), np.empty(0))

    def observe(self, sensordata: FloatArray) -> FloatArray:
        """Observations (..., 21): the sensors as they are, in memory of their own."""
        return np.array(sensordata)

    def reward(self, obs: Any, action: Any, next_obs: Any) -> Any:
        """Reward (...,)."""
        error = self.error(next_obs)
        reward = -10.0 * error
        for most, bonus in self.BONUSES:
            reward = reward + bonus * as_number(error < most, next_obs)
        return reward

    def error(self, obs: Any) -> Any:
        """Angle (...,) in rad between valve and target, 0 .. pi, in obs (..., 21)."""
        seen = self.observation_spec.view(obs)
        return abs((seen["valve"] - seen["target"] + math.pi)[..., 0] % (2.0 * math.pi) - math.pi)

    def success(self, observations: FloatArray) -> bool | None:
        """Whether the valve is within 0.25 rad of its target at the end."""
        return bool(self.error(observations[-1]) < self.BONUSES[0][0])

    def measures(self, observations: FloatArray) -> Mapping[str, float]:
        """`last_error` and `mean_error`, rad."""
        error = self.error(observations)
        return {"last_error": float(error[-1]), "mean_error": float(error.mean())}
