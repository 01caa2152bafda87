"""LOOP's lookahead objectives: rewards of a model, and an actor's values behind them (Sikchi et al. 2021, eq. 3)."""

from __future__ import annotations

import numpy as np

from polo_ros.dynamics.base import Rollouts
from polo_ros.planners.objective import Objective, Returns, TerminalValue, ValueEstimate
from polo_ros.planners.policy import ActionValues, Policy
from polo_ros.tasks.base import FloatArray


class PolicyValue:
    """V(s) = Q(s, pi(s)), pi without noise: the value of going on as the actor does."""

    def __init__(self, critic: ActionValues, policy: Policy) -> None:
        self._critic = critic
        self._policy = policy

    def estimate(self, observations: FloatArray) -> ValueEstimate:
        """Value of observations (N, nobs)."""
        return self.estimate_of(observations, self._policy.mean(observations))

    def estimate_of(self, observations: FloatArray, actions: FloatArray) -> ValueEstimate:
        """Value of actions (N, nu) at observations (N, nobs), and of the actor's after them."""
        return ValueEstimate(np.asarray(self._critic.values(observations, actions), np.float64), 0.0, 1.0)


class PublishedLookahead(Objective):
    """The objective that LOOP's public code computes, which is not the paper's.

    Rewards are not discounted, the last of the H actions is not rewarded but valued, Q(s_(H-1), a_(H-1)), and the step
    that it leads to only tells whether a candidate ended, which makes its value 0.
    """

    def returns(self, rollouts: Rollouts, actions: FloatArray) -> Returns:
        """What N candidates with actions (N, H, nu) collect before the last action, and where they take it."""
        ended = self.ended(rollouts)
        rewards = self.rewards(rollouts, actions, ended)
        obs = rollouts.observations
        terminal = obs[..., -2, :].astype(np.float64, order="C")
        last = actions[:, None, -1] if obs.ndim == 4 else actions[:, -1]
        action = np.array(np.broadcast_to(last, (*terminal.shape[:-1], actions.shape[-1])))
        self._discounts = np.ones(1)  # of the value
        reward = rewards[..., :-1].sum(axis=-1, dtype=np.float64)
        alive = None if ended is None else ~ended[..., -1]
        cost = self.cost(rollouts, actions, ended)
        return Returns(reward, terminal, alive, rollouts.valid, action, cost, rollouts.members, rollouts.drawn)

    def estimate(self, returns: Returns, value: TerminalValue) -> ValueEstimate:
        """The value of the last actions where they are taken, laid flat."""
        if not isinstance(value, PolicyValue) or returns.action is None:
            raise TypeError("a value of states cannot value actions")
        flat = returns.terminal.reshape(-1, returns.terminal.shape[-1])
        return value.estimate_of(flat, returns.action.reshape(len(flat), -1))
