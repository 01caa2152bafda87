"""What POLO's humanoid tasks share: body, observations, control cost (Lowrey et al. 2019, appendix A)."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import mujoco
import numpy as np

from polo_ros import resources
from polo_ros.tasks.base import FloatArray, ObservationSpec, ObservationView, Task

BODY_GROUPS = (
    ("torso_direction", 3),
    ("torso_normal", 3),
    ("neck_to_right_hand", 3),
    ("neck_to_left_hand", 3),
    ("hip_to_right_foot", 3),
    ("hip_to_left_foot", 3),
    ("root_velocity", 3),
    ("root_rotation", 3),
    ("touch", 5),  # head, right hand, left hand, right foot, left foot
    ("root_height", 1),
    ("hand_heights", 2),  # right, left
    ("foot_heights", 2),
)

# How far these get when somebody gets up, so that a value sees all of them alike: 1 for directions, m/s, rad/s, m.
BODY_SCALES = (
    ("torso_direction", 1.0),
    ("torso_normal", 1.0),
    ("neck_to_right_hand", 1.0),
    ("neck_to_left_hand", 1.0),
    ("hip_to_right_foot", 1.0),
    ("hip_to_left_foot", 1.0),
    ("root_velocity", 2.0),
    ("root_rotation", 4.0),
    ("touch", 0.5),
    ("root_height", 0.5),
    ("hand_heights", 0.5),
    ("foot_heights", 0.5),
)


class Humanoid(Task):
    """A humanoid with 27 degrees of freedom and 21 torque motors. The root is the torso, which stands at 1.27 m.

    Control cost: the paper "penalize[s] an actuator's applied force scaled by the inverse of the mass
    matrix" and gives neither formula nor weight. Read here as

        CONTROL_WEIGHT * sum_i (gear_i u_i)^2 * w_i

    with w_i the inverse inertia that motor i's joint feels, the diagonal entry of the inverse mass
    matrix at qpos0 (MuJoCo's dof_invweight0): constant, so that it costs one product a step.

    Observations are the 34 of the table in appendix A, all in the world's frame, and behind them what a
    task's reward needs beyond. Velocities are in m/s and rad/s. Touch is f / (f + weight), 0 .. 1, with f the
    normal force and weight the humanoid's own: bounded, and one half where a foot carries everything.

    Args:
        head_size: Radius of the head relative to the nominal one; its mass follows by its density, and the
            touch sensor's zone with it. Above 1 for the paper's figure 4b: a value learned at 1.0 used elsewhere.

    Raises:
        ValueError: head_size is not positive and finite.
    """

    control_dt = 0.008
    discount = 0.99
    episode_steps = 600
    observation_spec = ObservationSpec(BODY_GROUPS, BODY_SCALES)

    TARGET_HEIGHT = 1.1  # m
    CONTROL_WEIGHT = 1e-7  # full random control costs about 0.03

    def __init__(self, head_size: float = 1.0) -> None:
        if not 0.0 < head_size < float("inf"):
            raise ValueError(f"head_size {head_size} is not a positive number; 1.0 is the nominal head")
        spec = mujoco.MjSpec.from_file(str(resources.path("models", "humanoid.xml")))
        for head in (spec.geom("head"), spec.site("head_touch")):
            head.size = head_size * head.size
        self.extend_model(spec)
        self.model = spec.compile()
        joints = self.model.actuator_trnid[:, 0]
        inverse_inertia = self.model.dof_invweight0[self.model.jnt_dofadr[joints]]
        gear = self.model.actuator_gear[:, 0]
        self._control_cost = self.CONTROL_WEIGHT * gear**2 * inverse_inertia
        self._weight = float(self.model.body("torso").subtreemass[0] * np.linalg.norm(self.model.opt.gravity))

    def extend_model(self, spec: mujoco.MjSpec) -> None:
        """Add to `spec` what the world has beside the humanoid; by default nothing.

        The humanoid's joints and sensors must stay the first ones.
        """

    @cached_property
    def start_pose(self) -> FloatArray:
        """Joint positions (nq,) that starts are near: upright, soles on the floor, unless a task says otherwise."""
        return np.array(self.model.qpos0)

    def reset(self, rng: np.random.Generator) -> FloatArray:
        """At rest near the start pose: the humanoid's every degree of freedom off by a little, the root never lower."""
        model, body = self.model, 6 + self.model.nu
        offset, velocity = np.zeros(model.nv), np.zeros(model.nv)
        offset[:body] = rng.uniform(-0.01, 0.01, body)
        offset[2] = abs(offset[2])  # a body pushed into the floor would start with a jump
        velocity[:body] = rng.uniform(-0.01, 0.01, body)
        qpos = self.start_pose.copy()
        mujoco.mj_integratePos(model, qpos, offset, 1.0)
        return self.pack(0.0, qpos, velocity, np.empty(0))

    def observe(self, sensordata: FloatArray) -> FloatArray:
        """Observations (..., nobs) from sensor readings (..., nsensordata).

        Sensors stand in the order of the observation, so that most is one copy. The four direction vectors
        are worked on with candidates along the last axis, where numpy's loops are long.
        """
        sensors = sensordata.reshape(-1, self.model.nsensordata)
        obs = np.empty((len(sensors), self.observation_spec.size))
        obs[:, :29] = sensors[:, :29]
        between = np.subtract(sensors[:, 6:18].T, sensors[:, 32:44].T, order="C").reshape(4, 3, -1)
        lengths = between[:, 0] * between[:, 0]
        lengths += between[:, 1] * between[:, 1]
        lengths += between[:, 2] * between[:, 2]
        between /= np.sqrt(lengths, out=lengths)[:, None]
        obs[:, 6:18] = between.reshape(12, -1).T
        force = sensors[:, 24:29]
        np.divide(force, force + self._weight, out=obs[:, 24:29])
        obs[:, 29] = sensors[:, 31]
        obs[:, 30:34] = sensors[:, 8:18:3]
        self.observe_more(sensors, obs[:, 34:])
        return obs.reshape(*sensordata.shape[:-1], -1)

    def observe_more(self, sensors: FloatArray, obs: FloatArray) -> None:
        """Write what the task sees beyond the paper's 34 into obs (N, nobs - 34), from sensors (N, nsensordata)."""

    def reward(self, obs: Any, action: Any, next_obs: Any) -> Any:
        """Reward of the state that `obs` shows less the cost of `action`, (...,)."""
        return self.state_reward(self.observation_spec.view(obs)) - self.control_cost(action)

    @abc.abstractmethod
    def state_reward(self, seen: ObservationView) -> Any:
        """R(s) of appendix A, (...,)."""

    def control_cost(self, action: Any) -> Any:
        """Cost (...,) of controls (..., nu); see the class."""
        cost = self._control_cost
        return (action * action) @ (cost if isinstance(action, np.ndarray) else action.new_tensor(cost))

    def root_height(self, obs: Any) -> Any:
        """Height of the root in m, (...,), in obs (..., nobs)."""
        return self.observation_spec.view(obs)["root_height"][..., 0]

    def last_second(self, observations: FloatArray) -> FloatArray | None:
        """The last second of observations (T, nobs); None if there is less."""
        second = round(1.0 / self.control_dt)
        return None if len(observations) < second else observations[-second:]

    def measures(self, observations: FloatArray) -> Mapping[str, float]:
        """Heights of the root in m: `mean_height`, and `last_second_height`, the lowest of the last second."""
        height = self.root_height(observations)
        return {
            "mean_height": float(height.mean()),
            "last_second_height": float(height[-round(1.0 / self.control_dt) :].min()),
        }
