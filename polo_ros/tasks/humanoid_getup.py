"""POLO's humanoid that gets up from the floor (Lowrey et al. 2019, section 3.2, appendix A and A.1)."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import mujoco
import numpy as np

from polo_ros import resources
from polo_ros.tasks.base import FloatArray, ObservationSpec, Task


class HumanoidGetup(Task):
    """A humanoid, on its back at first, is to bring its root to a height of 1.1 m.

    Reward (appendix A.1): R(s) = 1 - (1.1 - Root_z) up to 1.1 m, 1 above. The root is the torso, which
    stands at 1.27 m.

    Control cost: the paper "penalize[s] an actuator's applied force scaled by the inverse of the mass
    matrix" and gives neither formula nor weight. Read here as

        CONTROL_WEIGHT * sum_i (gear_i u_i)^2 * w_i

    with w_i the inverse inertia that motor i's joint feels, the diagonal entry of the inverse mass
    matrix at qpos0 (MuJoCo's dof_invweight0): constant, so that it costs one product a step.

    Observations are the 34 of the table in appendix A, all in the world's frame. Velocities are in m/s and
    rad/s. Touch is f / (f + weight), 0 .. 1, with f the normal force and weight the humanoid's own: bounded,
    and one half where a foot carries everything.
    """

    name = "humanoid_getup"
    description = "get up from the floor (27 degrees of freedom, dense reward)"
    control_dt = 0.008
    discount = 0.99
    episode_steps = 600
    observation_spec = ObservationSpec(
        (
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
    )

    TARGET_HEIGHT = 1.1  # m
    SUCCESS_HEIGHT = 1.0  # m, to be kept through the last second
    CONTROL_WEIGHT = 1e-7  # full random control costs about 0.03

    def __init__(self) -> None:
        self.model = mujoco.MjModel.from_xml_path(str(resources.path("models", "humanoid.xml")))
        joints = self.model.actuator_trnid[:, 0]
        inverse_inertia = self.model.dof_invweight0[self.model.jnt_dofadr[joints]]
        gear = self.model.actuator_gear[:, 0]
        self._control_cost = self.CONTROL_WEIGHT * gear**2 * inverse_inertia
        self._weight = float(mujoco.mj_getTotalmass(self.model) * np.linalg.norm(self.model.opt.gravity))

    def reset(self, rng: np.random.Generator) -> FloatArray:
        """Supine and at rest, every degree of freedom off by a little and the root never lower."""
        model = self.model
        offset = rng.uniform(-0.01, 0.01, model.nv)
        offset[2] = abs(offset[2])  # a body pushed into the floor would start with a jump
        qpos = self._supine.copy()
        mujoco.mj_integratePos(model, qpos, offset, 1.0)
        return self.pack(0.0, qpos, rng.uniform(-0.01, 0.01, model.nv), np.empty(0))

    @cached_property
    def _supine(self) -> FloatArray:
        """Joint positions (nq,) of the humanoid lying on its back, as physics settles them."""
        data = mujoco.MjData(self.model)
        data.qpos[2] = 0.25
        data.qpos[3:7] = (np.sqrt(0.5), 0.0, -np.sqrt(0.5), 0.0)  # x axis up, head towards -x
        mujoco.mj_step(self.model, data, nstep=round(3.0 / self.model.opt.timestep))
        return np.array(data.qpos)

    def observe(self, sensordata: FloatArray) -> FloatArray:
        """Observations (..., 34) from sensor readings (..., 44).

        Sensors stand in the order of the observation, so that most is one copy. The four direction vectors
        are worked on with candidates along the last axis, where numpy's loops are long.
        """
        sensors = sensordata.reshape(-1, 44)
        obs = np.empty((len(sensors), 34))
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
        return obs.reshape(*sensordata.shape[:-1], 34)

    def reward(self, obs: Any, action: Any, next_obs: Any) -> Any:
        """Height reward of `obs` less the cost of `action`, (...,)."""
        height = self.observation_spec.view(obs)["root_height"][..., 0]
        return self.height_reward(height) - self.control_cost(action)

    def height_reward(self, height: Any) -> Any:
        """R(s) of appendix A.1, (...,), from the root's height (...,) in m."""
        return 1.0 - (self.TARGET_HEIGHT - height).clip(min=0.0)

    def control_cost(self, action: Any) -> Any:
        """Cost (...,) of controls (..., nu); see the class."""
        cost = self._control_cost
        return (action * action) @ (cost if isinstance(action, np.ndarray) else action.new_tensor(cost))

    def success(self, observations: FloatArray) -> bool | None:
        """Whether the root stays at 1.0 m or above through the last second; None for a shorter run."""
        second = round(1.0 / self.control_dt)
        if len(observations) < second:
            return None
        heights = self.observation_spec.view(observations[-second:])["root_height"]
        return bool((heights >= self.SUCCESS_HEIGHT).all())


class HumanoidGetupSparse(HumanoidGetup):
    """The same with R_sparse(s) of appendix A.1: 1 above 1.1 m, else 0."""

    name = "humanoid_getup_sparse"
    description = "get up from the floor (27 degrees of freedom, sparse reward)"

    def height_reward(self, height: Any) -> Any:
        """R_sparse(s) of appendix A.1, (...,)."""
        return 1.0 * (height > self.TARGET_HEIGHT)
