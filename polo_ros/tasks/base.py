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
    """Names and sizes of the groups that make up an observation vector, in order.

    Attributes:
        groups: Name and number of entries of each.
        scales: Name and usual magnitude, in its own unit, of groups that a learned function is to see divided by it.
            A group without one is standardised by statistics of the data, which change while a robot learns.
    """

    groups: tuple[tuple[str, int], ...]
    scales: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        sizes = dict(self.groups)
        if len(sizes) != len(self.groups):
            raise ValueError(f"observation groups {[name for name, _ in self.groups]} are not distinct")
        for name, scale in self.scales:
            if name not in sizes:
                raise ValueError(f"a scale is given for unknown observation group '{name}'; groups: {', '.join(sizes)}")
            if not 0.0 < scale < np.inf:
                raise ValueError(f"scale {scale} of observation group '{name}' is not above 0")

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

    @cached_property
    def scale(self) -> FloatArray:
        """Scale of each entry, (nobs,); nan where none is given."""
        known = dict(self.scales)
        return np.concatenate([np.full(size, known.get(name, np.nan)) for name, size in self.groups])

    def mask(self, names: str) -> npt.NDArray[np.bool_]:
        """Which entries belong to the groups `names`, separated by commas, (nobs,); empty: all do.

        Raises:
            ValueError: An unknown group.
        """
        chosen = np.zeros(self.size, bool)
        for name in names.split(",") if names else self.slices:
            if name.strip() not in self.slices:
                raise ValueError(f"unknown observation group '{name.strip()}'; groups: {', '.join(self.slices)}")
            chosen[self.slices[name.strip()]] = True
        return chosen

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
    added: tuple[str, ...] = ()  # observation groups for the reward alone: a policy does not see them unless told to
    episode_steps: int = 0  # control periods after which the episode is cut; 0: never
    simulator: str = "mujoco"  # driver that simulates its robot where none is named
    # What is commanded instead of a plan while stopped, faulted or without a fresh plan. "zero": resting_action;
    # "hold": the last action again, if there was none the positions where servos are; "damp": forces against the
    # velocities of joints that have motors.
    safe_stop: str = "zero"
    safe_stop_damping: float | FloatArray = 0.0  # N m s/rad or N s/m at the joint, of "damp"; one or (nu,)

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

    @property
    def has_cost(self) -> bool:
        """Whether `cost` says what anything costs: a limit is one on nothing otherwise."""
        return type(self).cost is not Task.cost

    def terminated(self, obs: Any) -> Any:
        """Whether obs (..., nobs) is terminal, (...,) bool; by default never."""
        return obs[..., 0] != obs[..., 0]

    def disturb(self, state: FloatArray, episode_step: int, rng: np.random.Generator) -> FloatArray | None:
        """What happens in the world that no planner foresees: a changed state, or None for none.

        A simulated world calls it at the end of every control period; rollouts never do.

        Args:
            state: Physics state (nstate,) that the period ended in; not to be written to. The time stays as it is.
            episode_step: Control periods since the episode began, from 1.
            rng: Made anew for every period from the session's seed, the episode and `episode_step`.
        """
        return None

    def unforeseen(self, obs: Any, next_obs: Any) -> Any:
        """Whether `disturb` has changed what is seen between obs and next_obs (..., nobs), (...,) bool.

        Models of the dynamics are not fitted to such transitions: rollouts foresee no disturbance either, and a few
        large changes that nothing foretells would outweigh all others.
        """
        return obs[..., 0] != obs[..., 0]

    def shuffled(
        self, obs: FloatArray, next_obs: FloatArray, rng: np.random.Generator
    ) -> tuple[FloatArray, FloatArray]:
        """Transitions that could as well have been: what is interchangeable in obs and next_obs in other places.

        Of several things that are seen alike, as landmarks, it does not matter to where they are seen next which is
        which: what is learned of one is true of all. Each transition has places of its own, the same before and after.
        Rewards are then other ones, `reward` tells which. By default nothing is interchangeable.

        Args:
            obs: (B, nobs); not to be written to.
            next_obs: (B, nobs), the same.
            rng: Draws the places.
        """
        return obs, next_obs

    def success(self, observations: FloatArray) -> bool | None:
        """Whether a run with these observations (T, nobs) did the task; None: not defined."""
        return None

    def measures(self, observations: FloatArray) -> Mapping[str, float]:
        """Figures of a run with these observations (T, nobs), for its summary.

        Args:
            observations: Of one episode, from its start on; at least one.

        Returns:
            Figures by name; nan where the run is too short for one.
        """
        return {}

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
        """What holds the robot at rest, (nu,): zero control, or the nearest that is in range."""
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

    def advance(self, data: mujoco.MjData, state: FloatArray, actions: FloatArray) -> FloatArray:
        """The physics state (nstate,) after `actions` (T, nu), each for a control period, from `state` (nstate,).

        `data` is for working in; whatever it held is gone, and what MuJoCo warned of stays in it.
        """
        mujoco.mj_resetData(self.model, data)
        mujoco.mj_setState(self.model, data, state, FULLPHYSICS)
        for action in actions:
            data.ctrl[:] = action
            mujoco.mj_step(self.model, data, nstep=self.physics_steps)
        reached = np.empty(self.nstate)
        mujoco.mj_getState(self.model, data, reached, FULLPHYSICS)
        return reached

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
