"""What makes one candidate better than another: discounted reward plus a terminal value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from polo_ros.dynamics.base import Rollouts
from polo_ros.tasks.base import FloatArray, Task


@dataclass(frozen=True)
class ValueEstimate:
    """A learned value at some states, and how far it is to be trusted there."""

    value: FloatArray  # (N,)
    spread: float  # mean standard deviation over the ensemble, in units of value
    gate: float  # 0 .. 1, share of the value to use


class TerminalValue(Protocol):
    """A learned value of observations, as planners see it."""

    def estimate(self, observations: FloatArray) -> ValueEstimate:
        """Value of observations (N, nobs)."""
        ...


@dataclass(frozen=True)
class Scores:
    """One score a candidate; -inf for candidates that must not be used."""

    score: FloatArray  # (N,)
    invalid: int
    spread: float
    gate: float


class Objective:
    """Scores rollouts by POLO eq. 3: sum of gamma^t r(s_t, a_t) plus gamma^H r_f(s_H).

    `value` is swapped by assignment, between two plans; None plans on rewards alone.
    """

    def __init__(self, task: Task, value: TerminalValue | None = None) -> None:
        self.task = task
        self.value = value
        self._terminates = type(task).terminated is not Task.terminated
        self._discounts = np.ones(1)

    def __call__(self, rollouts: Rollouts, actions: FloatArray) -> Scores:
        """Score N candidates with actions (N, H, nu)."""
        obs = rollouts.observations
        horizon = actions.shape[1]
        if len(self._discounts) != horizon + 1:
            self._discounts = self.task.discount ** np.arange(horizon + 1)
        rewards = self.task.reward(obs[:, :-1], actions, obs[:, 1:])
        alive = None
        if self._terminates:
            # The step into a terminal state still pays; nothing after it does.
            ended = np.logical_or.accumulate(self.task.terminated(obs), axis=1)
            rewards = np.where(ended[:, :-1], 0.0, rewards)
            alive = ~ended[:, -1]
        score = rewards @ self._discounts[:-1]
        spread = gate = 0.0
        if self.value is not None:
            estimate = self.value.estimate(obs[:, -1])
            spread, gate = estimate.spread, estimate.gate
            terminal = estimate.value if alive is None else np.where(alive, estimate.value, 0.0)
            score = score + (self._discounts[-1] * gate) * terminal
        usable = rollouts.valid & np.isfinite(score)
        invalid = len(usable) - int(np.count_nonzero(usable))
        if invalid:
            score = np.where(usable, score, -np.inf)
        return Scores(score, invalid, spread, gate)
