"""Value targets by N-step trajectory optimisation: POLO's eq. 7.

    y^k(s) = max over a_0 .. a_(N-1) of  sum_t gamma^t r(s_t, a_t) + gamma^N V_k(s_N)

Dynamics are deterministic, so the maximum over policies is one over open-loop sequences (paper,
appendix C). It is taken over sampled sequences. What happens along them does not depend on V, so the
members share the rollouts of a state: each member picks its own best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from polo_ros.dynamics.base import Dynamics
from polo_ros.learning.target_config import TargetConfig
from polo_ros.planners.noise import noise_filter
from polo_ros.planners.objective import Objective
from polo_ros.tasks.base import FloatArray, Task

__all__ = ["Futures", "TargetConfig", "TargetPlanner", "chosen"]

# Members' values (K, n) of observations (n, nobs), in units of reward.
MemberValues = Callable[[FloatArray], npt.NDArray[np.floating[Any]]]


@dataclass(frozen=True)
class Futures:
    """What the sequences tried from B states lead to: eq. 7 without V."""

    returns: FloatArray  # (B, M) sum of gamma^t r_t, t < N; -inf where the model diverged
    last: FloatArray  # (B, M, nobs) observation of s_N; finite
    discounts: FloatArray  # (B, M) gamma^N; 0 where a terminal state came first
    valid: npt.NDArray[np.bool_]  # (B,) whether any sequence is usable

    def targets(self, values: npt.NDArray[np.floating[Any]], choice: str = "member") -> npt.NDArray[np.floating[Any]]:
        """y^k (K, B) from the members' values (K, B, M) of `last`; -inf where not `valid`."""
        return np.asarray(chosen(torch.as_tensor(self.returns + self.discounts * values), choice).numpy())


def chosen(totals: torch.Tensor, choice: str) -> torch.Tensor:
    """What each member makes of the chosen sequences, (K, B) of `totals` (K, B, M) by TargetConfig.choice."""
    if choice == "member":
        return totals.amax(dim=-1)
    best = totals.mean(dim=0).argmax(dim=-1)
    return totals.gather(-1, best.expand(len(totals), -1).unsqueeze(-1)).squeeze(-1)


class TargetPlanner:
    """Tries action sequences from many states in few large batches.

    Sequence 0 of a state is its nominal one, unperturbed. The others add Gaussian noise, filtered as
    n_t = b0 e_t + b1 n_(t-1) and scaled by half the control range, as the planner's. Further iterations
    draw around the sequence that is best for the members' mean; the one before stays a candidate.

    Args:
        task: Reward, discount, termination, control range.
        dynamics: The model.
        config: Settings.
    """

    def __init__(self, task: Task, dynamics: Dynamics, config: TargetConfig) -> None:
        self.config = config
        self._task = task
        self._dynamics = dynamics
        self._low, self._high = task.action_low, task.action_high
        self._scale = task.action_scale
        self._objective = Objective(task)
        self._filter = noise_filter(config.horizon, config.filter_b0, config.filter_b1)

    def futures(
        self, values: MemberValues, states: FloatArray, nominal: FloatArray, rng: np.random.Generator
    ) -> Futures:
        """Roll out sequences from `states` (B, nstate) around `nominal` (B, N, nu).

        `values` is asked only between iterations, to choose the sequence to go on from.
        """
        config = self.config
        expected = (len(states), config.horizon, len(self._low))
        if nominal.shape != expected:
            raise ValueError(f"nominal has shape {nominal.shape}, expected {expected}")
        per_batch = max(1, config.batch // config.rollouts)
        parts = [
            self._batch(values, states[start : start + per_batch], nominal[start : start + per_batch], rng)
            for start in range(0, len(states), per_batch)
        ]
        returns, last, discounts = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return Futures(returns, last, discounts, np.asarray((returns > -np.inf).any(axis=1)))

    def __call__(
        self, values: MemberValues, states: FloatArray, nominal: FloatArray, rng: np.random.Generator
    ) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """Targets y^k (K, B) by eq. 7 in units of reward, and where they are valid (B,)."""
        futures = self.futures(values, states, nominal, rng)
        return np.asarray(
            futures.targets(_member_values(values, futures.last), self.config.choice), np.float64
        ), futures.valid

    def _batch(
        self, values: MemberValues, states: FloatArray, nominal: FloatArray, rng: np.random.Generator
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """returns, last and discounts of Futures for a few states."""
        config = self.config
        starts = np.repeat(states, config.rollouts, axis=0)
        for iteration in range(config.iterations):
            actions = self._sample(nominal, rng)
            returns, last, discounts = self._evaluate(starts, actions)
            if iteration < config.iterations - 1:
                scores = returns + discounts * _member_values(values, last).mean(axis=0)
                best = scores.argmax(axis=1)
                found = scores[np.arange(len(best)), best] > -np.inf
                chosen = actions[np.arange(len(best)), best]
                nominal = np.where(found[:, None, None], chosen, nominal)
        return returns, last, discounts

    def _sample(self, nominal: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Candidates (B, M, N, nu) around nominal (B, N, nu)."""
        config = self.config
        size, horizon, nu = nominal.shape
        noise = self._filter @ rng.standard_normal((size, config.rollouts, horizon, nu), dtype=np.float32)
        noise[:, 0] = 0.0
        actions = noise * (config.sigma * self._scale)
        actions += nominal[:, None]
        return np.asarray(np.clip(actions, self._low, self._high, out=actions))

    def _evaluate(self, starts: FloatArray, actions: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Roll actions (B, M, N, nu) from starts (B M, nstate); returns, last and discounts of Futures."""
        size, rollouts, horizon, nu = actions.shape
        flat = actions.reshape(size * rollouts, horizon, nu)
        found = self._objective.returns(self._dynamics.rollout(starts, flat), flat)
        discounts = np.full(len(flat), self._task.discount**horizon)
        if found.alive is not None:
            discounts[~found.alive] = 0.0
        last = found.terminal
        usable = found.valid & np.isfinite(found.reward) & np.isfinite(last).all(axis=1)
        returns = np.where(usable, found.reward, -np.inf)
        last[~usable] = 0.0
        shape = (size, rollouts)
        return returns.reshape(shape), last.reshape(*shape, -1), discounts.reshape(shape)


def _member_values(values: MemberValues, last: FloatArray) -> npt.NDArray[np.floating[Any]]:
    """(K, B, M) of observations (B, M, nobs)."""
    flat = values(last.reshape(-1, last.shape[-1]))
    return np.asarray(flat).reshape(-1, *last.shape[:2])
