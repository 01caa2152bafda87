"""What makes one candidate better than another: discounted reward plus a terminal value, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from polo_ros.config import Config, option
from polo_ros.dynamics.base import Flags, Rollouts
from polo_ros.planners.constraint import ConstraintConfig, worst_cost
from polo_ros.tasks.base import FloatArray, Task


@dataclass(frozen=True)
class ObjectiveConfig(Config):
    """What a plan is judged by."""

    rewards: bool = option(True, "count rewards before the horizon; false: the learned value alone judges", live=True)
    pessimism: float = option(
        0.0,
        "a score is the mean over the models of dynamics.members less so many of their deviations, LOOP's eq. 9; one "
        "model has none",
        low=0.0,
        high=1000.0,
        live=True,
    )


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
    cost: FloatArray | None = None  # (N,) in the worst future predicted; None: it is not limited
    drawn: bool = False  # as of Rollouts


@dataclass(frozen=True)
class Returns:
    """What candidates collect before the horizon; with an axis of P particles after N where the model has them."""

    reward: FloatArray  # (N,) discounted sum
    terminal: FloatArray  # (N, nobs) observations at the horizon
    alive: npt.NDArray[np.bool_] | None  # (N,) not ended before the horizon; None: the task never ends
    valid: npt.NDArray[np.bool_]  # (N,) did not diverge
    action: FloatArray | None = None  # (N, nu) taken at the terminal observations, for objectives that value actions
    cost: FloatArray | None = None  # (N,), without an axis of particles, in the worst of them; None: it is not limited
    members: int = 0  # as of Rollouts
    drawn: bool = False  # the same


class Objective:
    """Scores rollouts by POLO eq. 3: sum of gamma^t r(s_t, a_t) plus gamma^H r_f(s_H).

    Of a model with particles a candidate's score is their mean: LOOP eq. 3's expectation under the model. With
    `config.pessimism` it is LOOP's eq. 9,

        mean over members of R  -  pessimism * standard deviation over members of R,

    a member's R being the mean of its own particles: what the members disagree about is held against a candidate,
    chance is not. Candidates cost what the worst of all particles does (eq. 10, planners/constraint.py).

    `value`, `config` and `constraint` are swapped by assignment, between two plans; without a value rewards alone
    count. `discount` is the task's if None.
    """

    def __init__(
        self,
        task: Task,
        value: TerminalValue | None = None,
        config: ObjectiveConfig | None = None,
        discount: float | None = None,
    ) -> None:
        self.task = task
        self.discount = task.discount if discount is None else discount
        self.value = value
        self.config = config or ObjectiveConfig()
        self.constraint = ConstraintConfig()
        self._terminates = type(task).terminated is not Task.terminated
        self._discounts = np.ones(1)

    def __call__(self, rollouts: Rollouts, actions: FloatArray) -> Scores:
        """Score N candidates with actions (N, H, nu)."""
        return self.score([self.returns(rollouts, actions)])

    def returns(self, rollouts: Rollouts, actions: FloatArray) -> Returns:
        """What N candidates with actions (N, H, nu) collect before the horizon, and where they end."""
        obs = rollouts.observations
        horizon = actions.shape[1]
        if len(self._discounts) != horizon + 1:
            self._discounts = self.discount ** np.arange(horizon + 1)
        ended = self.ended(rollouts)
        rewards = self.rewards(rollouts, actions, ended)
        # A copy: the observations may live in memory that the next rollout writes to.
        terminal = obs[..., -1, :].astype(np.float64, order="C")
        # Particles laid flat: one product, not one a candidate.
        flat = rewards if rewards.ndim == 2 else rewards.reshape(-1, horizon)
        reward = (flat @ self._discounts[:-1]).reshape(rewards.shape[:-1])
        alive = None if ended is None else ~ended[..., -1]
        cost = self.cost(rollouts, actions, ended)
        return Returns(reward, terminal, alive, rollouts.valid, None, cost, rollouts.members, rollouts.drawn)

    def ended(self, rollouts: Rollouts) -> Flags | None:
        """Whether this or an earlier observation of a candidate is terminal, (N, H + 1); None: the task never ends."""
        if not self._terminates:
            return None
        return np.asarray(np.logical_or.accumulate(self.task.terminated(rollouts.observations), axis=-1))

    def rewards(self, rollouts: Rollouts, actions: FloatArray, ended: Flags | None) -> FloatArray:
        """Rewards (N, H) of candidates that end where their task does."""
        rewards: Any = rollouts.rewards
        if rewards is None:
            rewards = self._of_task(self.task.reward, rollouts, actions)
        # The step into a terminal state still pays; nothing after it does.
        return rewards if ended is None else np.where(ended[..., :-1], 0.0, rewards)

    def cost(self, rollouts: Rollouts, actions: FloatArray, ended: Flags | None) -> FloatArray | None:
        """What candidates cost, (N,), nothing after their end; None while that is not limited."""
        if not self.constraint.active:
            return None
        costs = self._of_task(self.task.cost, rollouts, actions)
        if ended is not None:
            costs = np.where(ended[..., :-1], 0.0, costs)
        return worst_cost(costs, self.constraint, self.discount)

    def _of_task(self, function: Callable[[Any, Any, Any], Any], rollouts: Rollouts, actions: FloatArray) -> Any:
        """A function of the task, (N, H), of every predicted step."""
        obs = rollouts.observations
        return function(obs[..., :-1, :], actions[:, None] if obs.ndim == 4 else actions, obs[..., 1:, :])

    def score(self, parts: Sequence[Returns]) -> Scores:
        """Scores of the candidates of all parts, in order; of one horizon.

        The value is asked once for all of them: its gate is a share of the value that all candidates of
        a plan must have in common, or their scores could not be compared.
        """
        whole = parts[0] if len(parts) == 1 else _joined(parts)
        score = whole.reward if self.config.rewards else np.zeros_like(whole.reward)
        spread = gate = 0.0
        if self.value is not None:
            estimate = self.estimate(whole, self.value)
            spread, gate = estimate.spread, estimate.gate
            terminal = estimate.value.reshape(score.shape)
            if whole.alive is not None:
                terminal = np.where(whole.alive, terminal, 0.0)
            score = score + (self._discounts[-1] * gate) * terminal
        if score.ndim == 2:
            score = self._expected(score, whole.members)
        usable = whole.valid & np.isfinite(score)
        if whole.cost is not None:
            usable &= np.isfinite(whole.cost)
        invalid = len(usable) - int(np.count_nonzero(usable))
        if invalid:
            score = np.where(usable, score, -np.inf)
        return Scores(score, invalid, spread, gate, whole.cost, whole.drawn)

    def _expected(self, score: FloatArray, members: int) -> FloatArray:
        """Scores (N,) of those of particles (N, P)."""
        if not self.config.pessimism:
            return np.asarray(score.mean(axis=1))
        if not members:
            raise ValueError(
                f"pessimism = {self.config.pessimism} asks which models predict, but a candidate's particles are of "
                "none in particular, or not as many of each"
            )
        of_member = score.reshape(len(score), members, -1).mean(axis=2)
        return np.asarray(of_member.mean(axis=1) - self.config.pessimism * of_member.std(axis=1))

    def estimate(self, returns: Returns, value: TerminalValue) -> ValueEstimate:
        """The value of what candidates end in, laid flat."""
        return value.estimate(returns.terminal.reshape(-1, returns.terminal.shape[-1]))


def _joined(parts: Sequence[Returns]) -> Returns:
    alive = [part.alive for part in parts if part.alive is not None]
    action = [part.action for part in parts if part.action is not None]
    cost = [part.cost for part in parts if part.cost is not None]
    return Returns(
        np.concatenate([part.reward for part in parts]),
        np.concatenate([part.terminal for part in parts]),
        np.concatenate(alive) if alive else None,
        np.concatenate([part.valid for part in parts]),
        np.concatenate(action) if action else None,
        np.concatenate(cost) if cost else None,
        parts[0].members,
        parts[0].drawn,
    )
