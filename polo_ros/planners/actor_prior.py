"""What an actor would do: closed-loop rollouts of a policy, whose actions are candidates of a planner."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from polo_ros.dynamics.base import StepwiseDynamics
from polo_ros.planners.policy import Policy
from polo_ros.tasks.base import FloatArray


class ActorPrior:
    """Sequences of actions that a policy takes in a model (LOOP, section 5.1).

    Args:
        dynamics: Of one particle a candidate: each candidate acts on one future. Where that is drawn, candidates of an
            actor without noise differ by it.
        policy: Acts.
    """

    def __init__(self, dynamics: StepwiseDynamics, policy: Policy) -> None:
        self._dynamics = dynamics
        self._policy = policy

    def propose(
        self,
        start: FloatArray,
        n: int,
        horizon: int,
        sampled: bool,
        rng: np.random.Generator,
        disturb: Callable[[FloatArray], FloatArray] | None = None,
    ) -> FloatArray:
        """What the policy does.

        Args:
            start: As the dynamics ask for it.
            n: How many sequences.
            horizon: H, control periods.
            sampled: Draw actions from the policy.
            rng: For that.
            disturb: Changes the actions (n, nu) of a period before they are taken; the policy sees where that leads.

        Returns:
            Actions (n, H, nu).
        """
        seen = self._dynamics.begin(start, n)[:, 0]
        actions = []
        for step in range(horizon):
            action = self._policy.sample(seen, rng) if sampled else self._policy.mean(seen)
            actions.append(action if disturb is None else disturb(action))
            if step < horizon - 1:
                seen = self._dynamics.step(actions[-1]).observations[:, 0]
        # Where the model diverged, so may the policy: such a candidate is then invalid, as any other.
        return np.nan_to_num(np.stack(actions, axis=1))
