"""True-model dynamics in steps longer than the robot's: cheaper by that factor, and less exact."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from polo_ros.config import Config, option
from polo_ros.dynamics.base import Dynamics, Rollouts
from polo_ros.dynamics.mujoco import MujocoDynamics
from polo_ros.dynamics.randomised import RandomisedDynamics, SpreadConfig
from polo_ros.tasks.base import FloatArray, Task


@dataclass(frozen=True)
class DynamicsConfig(Config):
    """How planning simulates."""

    stride: int = option(
        1,
        "control periods that one step of a candidate's simulation takes: more is cheaper, less exact",
        low=1,
        high=16,
    )
    members: int = option(
        1,
        "models that each candidate is simulated in: the task's, and others that differ by dynamics.spread; plans can "
        "then be pessimistic, and limits on costs hold in the worst of them. Costs as many times the physics",
        low=1,
        high=100,
    )
    spread: SpreadConfig = field(default_factory=SpreadConfig)

    @property
    def exact(self) -> bool:
        """Whether planning simulates the task's model, as it is and alone."""
        return self.stride == self.members == 1


class CoarseDynamics:
    """The task's model with `stride` times its physics time step, behind the interface of every control period.

    Actions are averaged over the periods of a step. Observations of the periods within a step are those at its end:
    rewards and discounts stay those of single periods, and planners need not know. A horizon that is no multiple of
    `stride` is simulated beyond its end with the last action.

    Args:
        task: Gives the model and the observations.
        threads: Worker threads; 0: one a core.
        stride: Control periods a step.
        simulated: Makes what the longer steps are simulated in, of the task with such a model; None: that model alone.
    """

    def __init__(
        self, task: Task, threads: int, stride: int, simulated: Callable[[Task], Dynamics] | None = None
    ) -> None:
        coarse = copy.copy(task)
        coarse.model = copy.copy(task.model)
        coarse.model.opt.timestep *= stride
        coarse.control_dt = task.control_dt * stride
        self._coarse = simulated(coarse) if simulated is not None else MujocoDynamics(coarse, threads)
        self._fine = MujocoDynamics(task, threads=1)
        self._stride = stride

    def rollout(self, starts: FloatArray, actions: FloatArray) -> Rollouts:
        """Roll actions (N, H, nu) from starts (N, nstate) or one start (nstate,)."""
        n, horizon, nu = actions.shape
        steps = -(-horizon // self._stride)
        missing = steps * self._stride - horizon
        if missing:
            actions = np.concatenate((actions, np.repeat(actions[:, -1:], missing, axis=1)), axis=1)
        found = self._coarse.rollout(starts, actions.reshape(n, steps, self._stride, nu).mean(axis=2))
        ends = -(-np.arange(horizon + 1) // self._stride)
        return Rollouts(found.observations[..., ends, :], found.valid, members=found.members, drawn=found.drawn)

    def advance(self, start: FloatArray, actions: FloatArray) -> FloatArray:
        """The state (nstate,) after actions (T, nu) from `start` (nstate,), in the task's own steps."""
        return self._fine.advance(start, actions)

    def close(self) -> None:
        """Stop the worker threads."""
        self._coarse.close()
        self._fine.close()


def for_planning(task: Task, config: DynamicsConfig, threads: int = 0, seed: int = 0) -> Dynamics:
    """What a planner simulates with; `seed` draws the models of `config.members`."""

    def exact(task: Task) -> Dynamics:
        if config.members == 1:
            return MujocoDynamics(task, threads)
        return RandomisedDynamics(task, config.spread, config.members, seed, threads)

    return exact(task) if config.stride == 1 else CoarseDynamics(task, threads, config.stride, exact)
