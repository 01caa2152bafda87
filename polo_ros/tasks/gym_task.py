"""What the MuJoCo tasks of gymnasium share: models, states, starts, the reward for going forward.

The models come with the PyPI package gymnasium at run time. Numbers are those of its version 5 environments; where
version 4 differs, tasks take `version=4`.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np

from polo_ros.tasks.assets import package_file
from polo_ros.tasks.base import FloatArray, Task


class GymTask(Task):
    """A task of gymnasium whose observation is qpos and qvel, or a part of them.

    The model is gymnasium's own, physics included, and gets sensors: of qpos, of qvel, and behind them what a task
    adds. Groups of the observation that gymnasium does not have are `added`; they hold what the reward needs beyond
    the others, come last, and a learned function may leave them out.

    Args:
        version: 5 or 4, of gymnasium's environment.

    Raises:
        ValueError: Another version.
    """

    discount = 0.99
    episode_steps = 1000
    added: tuple[str, ...] = ()

    file: str  # name of the model among gymnasium's
    skipped: int = 0  # leading entries of qpos that gymnasium does not show: where the robot is does not matter
    top_speed: float = np.inf  # at which velocities are clipped in the observation, rad/s or m/s
    noise: float  # how far starts are from the model's initial qpos and qvel: uniform, +-
    normal_velocities: bool = False  # whether qvel of starts is drawn from a normal distribution instead

    def __init__(self, version: int = 5) -> None:
        if version not in (4, 5):
            raise ValueError(f"version {version} of task '{self.name}' is unknown; versions: 4, 5")
        self.version = version
        path = package_file(
            "gymnasium",
            *("envs", "mujoco", "assets", self.model_file),
            distribution="gymnasium",
            extra="gym",
            what=f"the model of {self.name}",
        )
        spec = mujoco.MjSpec.from_file(str(path))
        _add_state_sensors(spec)
        self.add_sensors(spec)
        self.model = _compile(spec)

    @property
    def model_file(self) -> str:
        """Name of the model's file among gymnasium's."""
        return self.file

    @property
    def gymnasium_groups(self) -> tuple[str, ...]:
        """Groups that make up gymnasium's observation."""
        return tuple(name for name, _ in self.observation_spec.groups if name not in self.added)

    def add_sensors(self, spec: Any) -> None:
        """Add to `spec` the sensors that follow those of qpos and qvel; by default none."""

    def reset(self, rng: np.random.Generator) -> FloatArray:
        """The model's initial state with noise, (nstate,).

        The same generator gives gymnasium's start, but that orientations are normalised here at once: there the first
        physics step does it.
        """
        model = self.model
        qpos = model.qpos0 + rng.uniform(-self.noise, self.noise, model.nq)
        mujoco.mj_normalizeQuat(model, qpos)
        if self.normal_velocities:
            return self.pack(0.0, qpos, self.noise * rng.standard_normal(model.nv), np.empty(0))
        return self.pack(0.0, qpos, rng.uniform(-self.noise, self.noise, model.nv), np.empty(0))

    def observe(self, sensordata: FloatArray) -> FloatArray:
        """Observations (..., nobs) from sensor readings (..., nsensordata)."""
        nq, nv = self.model.nq, self.model.nv
        velocities, size = nq - self.skipped, nq + nv - self.skipped
        obs = np.empty((*sensordata.shape[:-1], self.observation_spec.size))
        obs[..., :velocities] = sensordata[..., self.skipped : nq]
        np.clip(sensordata[..., nq : nq + nv], -self.top_speed, self.top_speed, out=obs[..., velocities:size])
        self.observe_added(sensordata, obs[..., size:])
        return obs

    def observe_added(self, sensordata: FloatArray, obs: FloatArray) -> None:
        """Write the groups that gymnasium does not have into obs (..., their size)."""


class ForwardTask(GymTask):
    """Go forward, along x, and spare the motors.

    Reward: forward_weight (x' - x) / control_dt - control_weight |u|^2, with x in m in the group `x` of both
    observations: gymnasium takes the mean velocity through the period, which no single state shows.
    """

    added: tuple[str, ...] = ("x",)
    forward_weight: float = 1.0
    control_weight: float

    def observe_added(self, sensordata: FloatArray, obs: FloatArray) -> None:
        """Write x, the first entry of qpos, into obs (..., 1)."""
        obs[..., 0] = sensordata[..., 0]

    def reward(self, obs: Any, action: Any, next_obs: Any) -> Any:
        """Reward (...,)."""
        view = self.observation_spec.view
        way = view(next_obs)["x"][..., 0] - view(obs)["x"][..., 0]
        return (self.forward_weight / self.control_dt) * way - self.control_weight * (action * action).sum(-1)

    def measures(self, observations: FloatArray) -> Mapping[str, float]:
        """`distance` gone forward, m, and mean `speed`, m/s; nan for a single observation."""
        x = self.observation_spec.view(observations)["x"][:, 0]
        distance = float(x[-1] - x[0])
        seconds = (len(x) - 1) * self.control_dt
        return {"distance": distance, "speed": distance / seconds if seconds else float("nan")}


class HealthyTask(ForwardTask):
    """Go forward without falling: an episode ends in the first state that is not healthy.

    Reward: as ForwardTask, plus healthy_reward in every period that ends in a healthy state; in version 4 in every
    period.
    """

    healthy_reward: float

    @abc.abstractmethod
    def healthy(self, obs: Any) -> Any:
        """Whether obs (..., nobs) is healthy, (...,) bool; what is not finite is not."""

    def terminated(self, obs: Any) -> Any:
        """Whether obs (..., nobs) is not healthy, (...,) bool."""
        return ~self.healthy(obs)

    def reward(self, obs: Any, action: Any, next_obs: Any) -> Any:
        """Reward (...,)."""
        forward = super().reward(obs, action, next_obs)
        if self.version == 4:
            return forward + self.healthy_reward
        return forward + self.healthy_reward * as_number(self.healthy(next_obs), next_obs)


def as_number(flags: Any, like: Any) -> Any:
    """`flags` (...,), a bool array or tensor, as 0 and 1 of the dtype of `like`."""
    return flags.astype(like.dtype) if isinstance(like, np.ndarray) else flags.to(like.dtype)


def _add_state_sensors(spec: Any) -> None:
    """Sensors whose readings begin with qpos and qvel. A free joint's orientation is read normalised."""
    kind, thing = mujoco.mjtSensor, mujoco.mjtObj
    free = [joint for joint in spec.joints if joint.type == mujoco.mjtJoint.mjJNT_FREE]
    bodies = [joint.parent for joint in free]
    for body in bodies:  # qvel has a free joint's angular velocity in the body's own frame, as a gyro at its origin
        body.add_site(name=f"{body.name}_origin")
    turning = [joint.name for joint in spec.joints if joint.type != mujoco.mjtJoint.mjJNT_FREE]
    for body in bodies:
        spec.add_sensor(type=kind.mjSENS_FRAMEPOS, objtype=thing.mjOBJ_XBODY, objname=body.name)
        spec.add_sensor(type=kind.mjSENS_FRAMEQUAT, objtype=thing.mjOBJ_XBODY, objname=body.name)
    for name in turning:
        spec.add_sensor(type=kind.mjSENS_JOINTPOS, objtype=thing.mjOBJ_JOINT, objname=name)
    for body in bodies:
        spec.add_sensor(type=kind.mjSENS_FRAMELINVEL, objtype=thing.mjOBJ_XBODY, objname=body.name)
        spec.add_sensor(type=kind.mjSENS_GYRO, objtype=thing.mjOBJ_SITE, objname=f"{body.name}_origin")
    for name in turning:
        spec.add_sensor(type=kind.mjSENS_JOINTVEL, objtype=thing.mjOBJ_JOINT, objname=name)


def _compile(spec: Any) -> mujoco.MjModel:
    """The model of `spec`, a total mass set as MuJoCo wants it now: the compiler's attribute is deprecated."""
    total = spec.compiler.settotalmass
    spec.compiler.settotalmass = -1.0
    model = spec.compile()
    if total > 0.0:
        mujoco.mj_setTotalmass(model, total)
        mujoco.mj_setConst(model, mujoco.MjData(model))
    return model
