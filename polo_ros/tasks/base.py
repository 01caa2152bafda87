"""What a task is: a model, what is seen of it, what is wanted, how it starts and ends."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import mujoco
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
FULLPHYSICS = mujoco.mjtState.mjSTATE_FULLPHYSICS


class ObservationView(Protocol):
    """A batch of observations whose groups are read by name: `obs["root_height"]` is (..., size)."""

    def __getitem__(self, group: str) -> Any: ...


@dataclass(frozen=True)
class ObservationSpec:
    """Names and sizes of the groups that make up an observation vector, in order."""

    groups: tuple[tuple[str, int], ...]

    @cached_property
    def slices(self) -> Mapping[str, slice]:
        """Where each group lies in the vector."""
        out: dict[str, slice] = {}
        start = 0
        for name, size in self.groups:
            out[name] = slice(start, start + size)
            start += size
        return out

    @cached_property
    def size(self) -> int:
        """Length of the vector, nobs."""
        return sum(size for _, size in self.groups)

    def view(self, obs: Any) -> ObservationView:
        """Read groups of `obs` (..., nobs), a numpy array or a torch tensor, by name."""
        if obs.shape[-1] != self.size:
            raise ValueError(f"observation has {obs.shape[-1]} entries, expected {self.size}")
        return _View(obs, self.slices)


class _View:
    __slots__ = ("_obs", "_slices")

    def __init__(self, obs: Any, slices: Mapping[str, slice]) -> None:
        self._obs = obs
        self._slices = slices

    def __getitem__(self, group: str) -> Any:
        try:
            return self._obs[..., self._slices[group]]
        except KeyError:
            names = ", ".join(self._slices)
            raise KeyError(f"unknown observation group '{group}'; groups: {names}") from None


class Task(abc.ABC):
    """One thing to do with one robot model.

    The physics state of a task is MuJoCo's FULLPHYSICS vector, (nstate,) = [time, qpos, qvel, act].
    Observations are computed from MJCF sensors only, so that a rollout gets them from C.
    `observe`, `reward`, `cost` and `terminated` work on whole batches (..., n); the last three on
    numpy arrays and torch tensors alike.

    Subclasses set `name`, `description`, `model`, `control_dt`, `discount` and `observation_spec`.
    """

    name: str
    description: str
    model: mujoco.MjModel
    control_dt: float  # s, one control period; a whole number of physics steps
    discount: float  # gamma, per control period
    observation_spec: ObservationSpec
    episode_steps: int = 0  # control periods after which the episode is cut; 0: never
    safe_stop: str = "zero"  # "zero": zero control (within range); "hold": repeat the last action

    # ---- what the subclass says ------------------------------------------------------------

    @abc.abstractmethod
    def reset(self, rng: np.random.Generator) -> FloatArray:
        """Draw a start state, (nstate,)."""

    @abc.abstractmethod
    def observe(self, sensordata: FloatArray) -> FloatArray:
        """Observations (..., nobs) from sensor readings (..., nsensordata)."""

    @abc.abstractmethod
    def reward(self, obs: Any, action: Any, next_obs: Any) -> Any:
        """Reward (...,) of obs (..., nobs), action (..., nu), next_obs (..., nobs)."""

    def cost(self, obs: Any, action: Any, next_obs: Any) -> Any:
        """Constraint cost (...,) >= 0; a task without constraints costs nothing."""
        return 0.0 * obs[..., 0]

    def terminated(self, obs: Any) -> Any:
        """Whether obs (..., nobs) is terminal, (...,) bool; by default never."""
        return obs[..., 0] != obs[..., 0]

    def success(self, observations: FloatArray) -> bool | None:
        """Whether a run with these observations (T, nobs) did the task; None: not defined."""
        return None

    # ---- what follows from it --------------------------------------------------------------

    @cached_property
    def physics_steps(self) -> int:
        """Physics steps in one control period."""
        steps = round(self.control_dt / self.model.opt.timestep)
        if steps < 1 or abs(steps * self.model.opt.timestep - self.control_dt) > 1e-9:
            raise ValueError(
                f"task '{self.name}': control_dt {self.control_dt} s is not a whole number of "
                f"physics steps of {self.model.opt.timestep} s"
            )
        return int(steps)

    @cached_property
    def action_low(self) -> FloatArray:
        """Lowest control, (nu,); -inf where the actuator has no range."""
        limited = self.model.actuator_ctrllimited.astype(bool)
        return np.where(limited, self.model.actuator_ctrlrange[:, 0], -np.inf)

    @cached_property
    def action_high(self) -> FloatArray:
        """Highest control, (nu,); inf where the actuator has no range."""
        limited = self.model.actuator_ctrllimited.astype(bool)
        return np.where(limited, self.model.actuator_ctrlrange[:, 1], np.inf)

    @cached_property
    def action_scale(self) -> FloatArray:
        """Half the control range, (nu,): the unit of noise on controls; 1 where the actuator has no range."""
        bounded = np.isfinite(self.action_low) & np.isfinite(self.action_high)
        return np.where(bounded, 0.5 * np.where(bounded, self.action_high - self.action_low, 2.0), 1.0)

    @cached_property
    def resting_action(self) -> FloatArray:
        """Zero control, or the nearest that is in range, (nu,)."""
        return np.clip(np.zeros(self.model.nu), self.action_low, self.action_high)

    @cached_property
    def nstate(self) -> int:
        """Length of the physics state."""
        size = int(mujoco.mj_stateSize(self.model, FULLPHYSICS))
        expected = 1 + self.model.nq + self.model.nv + self.model.na
        if size != expected:
            raise ValueError(
                f"task '{self.name}': the model keeps {size - expected} state values beyond time, "
                "qpos, qvel and act (plugins or delays), which are not supported"
            )
        return size

    @cached_property
    def model_hash(self) -> str:
        """First 16 hex digits of the sha256 of the compiled model."""
        buffer = np.empty(mujoco.mj_sizeModel(self.model), np.uint8)
        mujoco.mj_saveModel(self.model, None, buffer)
        return hashlib.sha256(buffer.tobytes()).hexdigest()[:16]

    def pack(self, time: float, qpos: FloatArray, qvel: FloatArray, act: FloatArray) -> FloatArray:
        """Join the parts of a physics state; raises ValueError on wrong sizes."""
        model = self.model
        for label, part, size in (("qpos", qpos, model.nq), ("qvel", qvel, model.nv), ("act", act, model.na)):
            if np.shape(part) != (size,):
                raise ValueError(f"{label} has shape {np.shape(part)}, expected ({size},)")
        return np.concatenate(([time], qpos, qvel, act))

    def unpack(self, state: FloatArray) -> tuple[float, FloatArray, FloatArray, FloatArray]:
        """Split a physics state (nstate,) into time, qpos, qvel, act."""
        nq, nv = self.model.nq, self.model.nv
        return float(state[0]), state[1 : 1 + nq], state[1 + nq : 1 + nq + nv], state[1 + nq + nv :]

    def sense(self, state: FloatArray, action: FloatArray | None = None) -> FloatArray:
        """Sensor readings (nsensordata,) at one state, with `action` applied (zeros if None)."""
        data = self._scratch
        mujoco.mj_setState(self.model, data, state, FULLPHYSICS)
        data.ctrl[:] = 0.0 if action is None else action
        data.qacc_warmstart[:] = 0.0
        mujoco.mj_forward(self.model, data)
        return np.array(data.sensordata)

    @cached_property
    def _scratch(self) -> mujoco.MjData:
        return mujoco.MjData(self.model)
