"""Pen of Adroit: a hand turns a pen until it points where the target does (Rajeswaran et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np

from polo_ros.tasks.adroit import delete_unused_materials, pen_world
from polo_ros.tasks.base import FloatArray, ObservationSpec, Task
from polo_ros.tasks.gym_task import as_number


class Pen(Task):
    """Turn a pen in the hand until it points as the target beside the hand does, another direction every episode.

    Reward, with d the pen's distance from the goal in m and c the cosine between its axis and the target's, both of
    next_obs: c - d, 10 more where c > 0.9 and 50 more where c > 0.95 while d < 0.075 m, and 5 less where the pen is
    below 0.075 m: it was dropped.

    Actions are positions in rad within each joint's range: gymnasium's -1 .. 1 are scaled to these. Physics is
    gymnasium-robotics' AdroitHandPen, but that the target is a body on a ball joint, without contacts: its
    direction is a part of the physics state and stays as it is in every rollout.

    Args:
        drop_ends: Whether a dropped pen ends the episode, as in mj_envs' pen-v0, or nothing does, as in
            gymnasium-robotics.
    """

    name = "pen"
    description = "point a pen in the Adroit hand (24 actuators; needs polo_ros[hand])"
    control_dt = 0.01
    discount = 0.99
    episode_steps = 100  # as in pen-v0; 200 in gymnasium-robotics
    safe_stop = "hold"
    observation_spec = ObservationSpec(
        (
            ("hand", 24),  # rad, joint positions
            ("position", 3),  # m, of the pen
            ("velocity", 6),  # m/s, rad/s, of its three slides and three hinges
            ("orientation", 3),  # axis of the pen
            ("target", 3),  # axis of the target
            ("position_error", 3),  # m, of the pen from the goal
            ("orientation_error", 3),  # orientation - target
        )
    )

    NEAR = 0.075  # m from the goal, for bonuses
    DROPPED = 0.075  # m above the table
    BONUSES = ((0.9, 10.0), (0.95, 50.0))  # cosine, reward
    ALIGNED = 0.95  # cosine that counts as success
    SUCCESS_STEPS = 20  # control steps with success, more than which are wanted

    def __init__(self, drop_ends: bool = True) -> None:
        self.drop_ends = drop_ends
        self.model = _model()
        self._target = int(self.model.joint("target").qposadr[0])

    def reset(self, rng: np.random.Generator) -> FloatArray:
        """Hand stretched, pen at the goal; the target turned about x and y by up to 1 rad."""
        model = self.model
        angles = np.array([rng.uniform(-1.0, 1.0), rng.uniform(-1.0, 1.0), 0.0])
        qpos = model.qpos0.copy()
        mujoco.mju_euler2Quat(qpos[self._target : self._target + 4], angles, "xyz")
        return self.pack(0.0, qpos, np.zeros(model.nv), np.empty(0))

    def observe(self, sensordata: FloatArray) -> FloatArray:
        """Observations (..., 45) from sensor readings (..., 42)."""
        obs = np.empty((*sensordata.shape[:-1], 45))
        obs[..., :42] = sensordata
        np.subtract(sensordata[..., 33:36], sensordata[..., 36:39], out=obs[..., 42:])
        return obs

    def reward(self, obs: Any, action: Any, next_obs: Any) -> Any:
        """Reward (...,)."""
        distance, cosine = self._distance(next_obs), self._cosine(next_obs)
        reward = cosine - distance - 5.0 * as_number(self.dropped(next_obs), next_obs)
        for least, bonus in self.BONUSES:
            reward = reward + bonus * as_number((distance < self.NEAR) & (cosine > least), next_obs)
        return reward

    def dropped(self, obs: Any) -> Any:
        """Whether the pen is below the hand in obs (..., 45), (...,) bool."""
        return self.observation_spec.view(obs)["position"][..., 2] < self.DROPPED

    def terminated(self, obs: Any) -> Any:
        """Whether the pen was dropped, if that ends the episode, (...,) bool."""
        return self.dropped(obs) if self.drop_ends else super().terminated(obs)

    def success(self, observations: FloatArray) -> bool | None:
        """Whether the pen was at the goal and aligned for more than 20 steps; None for a run that is no longer."""
        return None if len(observations) <= self.SUCCESS_STEPS else self._aligned(observations) > self.SUCCESS_STEPS

    def measures(self, observations: FloatArray) -> Mapping[str, float]:
        """`aligned_steps`: at the goal with a cosine above 0.95; `mean_cosine`."""
        return {
            "aligned_steps": float(self._aligned(observations)),
            "mean_cosine": float(self._cosine(observations).mean()),
        }

    def _aligned(self, observations: FloatArray) -> int:
        near = self._distance(observations) < self.NEAR
        return int((near & (self._cosine(observations) > self.ALIGNED)).sum())

    def _distance(self, obs: Any) -> Any:
        error = self.observation_spec.view(obs)["position_error"]
        return (error * error).sum(-1) ** 0.5

    def _cosine(self, obs: Any) -> Any:
        seen = self.observation_spec.view(obs)
        return (seen["orientation"] * seen["target"]).sum(-1)


def _model() -> mujoco.MjModel:
    """pen-v0's world with the target on a ball joint, and the observation as sensors."""
    spec = pen_world()
    spec.modelname = Pen.name
    spec.delete(spec.body("vive_tracker"))
    for geom in spec.body("table").geoms:
        geom.material = ""  # a picture, which is gone
    delete_unused_materials(spec)
    target = spec.body("target")
    for geom in target.geoms:
        geom.contype = geom.conaffinity = 0
    # Its mass at the joint: gravity turns it by nothing at all. How much it weighs does not matter.
    target.explicitinertial = True
    target.mass, target.inertia, target.ipos = 0.1, [1e-3] * 3, [0.0] * 3
    target.gravcomp = 1.0
    # The defaults of the hand's joints are limited, damped and heavy.
    target.add_joint(
        name="target",
        type=mujoco.mjtJoint.mjJNT_BALL,
        limited=mujoco.mjtLimited.mjLIMITED_FALSE,
        damping=[0.0] * 3,
        armature=0.0,
        frictionloss=0.0,
    )

    kind, thing = mujoco.mjtSensor, mujoco.mjtObj
    joints = [joint.name for joint in spec.joints]
    pen = {"objtype": thing.mjOBJ_XBODY, "objname": "Object"}
    for joint in joints[:24]:
        spec.add_sensor(type=kind.mjSENS_JOINTPOS, objtype=thing.mjOBJ_JOINT, objname=joint)
    spec.add_sensor(type=kind.mjSENS_FRAMEPOS, **pen)
    for joint in joints[24:30]:
        spec.add_sensor(type=kind.mjSENS_JOINTVEL, objtype=thing.mjOBJ_JOINT, objname=joint)
    spec.add_sensor(type=kind.mjSENS_FRAMEZAXIS, **pen)
    spec.add_sensor(type=kind.mjSENS_FRAMEZAXIS, objtype=thing.mjOBJ_XBODY, objname="target")
    spec.add_sensor(type=kind.mjSENS_FRAMEPOS, **pen, reftype=thing.mjOBJ_SITE, refname="eps_ball")
    return spec.compile()
