"""True-model dynamics that are not sure of the model: each candidate in several that differ a little."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

from polo_ros.config import Config, option
from polo_ros.dynamics.base import Floats, Rollouts, Step
from polo_ros.dynamics.mujoco import MujocoDynamics
from polo_ros.seeding import Stream, generator
from polo_ros.tasks.base import FloatArray, Task
from polo_ros.tasks.perturbation import Spread, perturbed


@dataclass(frozen=True)
class SpreadConfig(Config):
    """How far the models of an ensemble are from the task's."""

    mass: float = option(0.1, "largest share by which the mass of a body differs", low=0.0, high=0.9)
    friction: float = option(0.3, "the same for friction", low=0.0, high=0.9)
    gain: float = option(0.1, "the same for the force of an actuator", low=0.0, high=0.9)
    damping: float = option(0.3, "the same for the damping of a joint", low=0.0, high=0.9)


class RandomisedDynamics:
    """Rolls every candidate out in M models: the task's own, and others that are perturbed.

    The models take the place of particles, and each is a member of its own, so that plans can be pessimistic (LOOP's
    eq. 9) and cautious (eq. 10) about what is not known of a robot. Member 0 is the task's model. A candidate that
    diverges in any of them is invalid. What it costs is M times the physics.

    Args:
        task: Gives model and observations.
        spread: How far the others are from the task's.
        members: M, at least 1.
        seed: Draws the others, which are the same for the same seed.
        threads: Worker threads; 0: one a core.
    """

    def __init__(self, task: Task, spread: Spread, members: int, seed: int, threads: int = 0) -> None:
        rng = generator(seed, Stream.MEMBERS)
        self.models: list[mujoco.MjModel] = [
            task.model,
            *(perturbed(task.model, spread, rng) for _ in range(members - 1)),
        ]
        self.members = members
        # Row n M + m of a batch is candidate n in model m.
        self._rows = MujocoDynamics(task, threads, self.models)

    def rollout(self, starts: FloatArray, actions: FloatArray) -> Rollouts:
        """Roll actions (N, H, nu) from states (N, nstate) or one state (nstate,); M particles each."""
        found = self._rows.rollout(self._each(starts), np.repeat(actions, self.members, axis=0))
        return Rollouts(self._by_candidate(found.observations), self._all(found.valid), members=self.members)

    def advance(self, start: FloatArray, actions: FloatArray) -> FloatArray:
        """The state (nstate,) after actions (T, nu) from `start` (nstate,), in the task's own model."""
        return self._rows.advance(start, actions)

    def begin(self, starts: FloatArray, n: int) -> Floats:
        """Put n candidates at states (n, nstate) or at one (nstate,); returns their observations (n, M, nobs)."""
        return self._by_candidate(self._rows.begin(self._each(starts), n * self.members)[:, 0])

    def step(self, actions: Floats) -> Step:
        """Go on by actions (N, nu), or (N, M, nu): each particle's own."""
        rows = np.repeat(actions, self.members, axis=0) if actions.ndim == 2 else actions.reshape(-1, actions.shape[-1])
        found = self._rows.step(rows)
        valid = self._all(found.valid)
        rewards = np.where(valid[:, None], self._by_candidate(found.rewards[:, 0]), 0.0)
        observations = self._by_candidate(found.observations[:, 0])
        return Step(observations, rewards, self._by_candidate(found.ended[:, 0]), valid)

    def select(self, indices: npt.NDArray[np.int64]) -> Floats:
        """Go on with the candidates `indices` (N',), some perhaps several times; returns observations (N', M, nobs)."""
        rows = np.asarray(indices)[:, None] * self.members + np.arange(self.members)
        return self._by_candidate(self._rows.select(rows.ravel())[:, 0])

    def close(self) -> None:
        """Stop the worker threads."""
        self._rows.close()

    def _each(self, starts: FloatArray) -> FloatArray:
        return starts if starts.ndim == 1 else np.repeat(starts, self.members, axis=0)

    def _by_candidate(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return rows.reshape(-1, self.members, *rows.shape[1:])

    def _all(self, valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        return np.asarray(self._by_candidate(valid).all(axis=1))
