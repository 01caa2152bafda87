"""Which plan a search answers with where costs are limited."""

from __future__ import annotations

import math

import numpy as np

from polo_ros.dynamics.base import Dynamics
from polo_ros.planners.constraint import Ranking, rank
from polo_ros.planners.objective import Objective, Scores
from polo_ros.tasks.base import FloatArray, Task


class Choice:
    """Ranks a search's candidates, stands in for a mean that costs too much, and lets a search begin anew.

    The mean of plans that pass an obstacle on either side runs into it: limits hold for candidates, not for what lies
    between them. So the mean and the best candidate seen are rolled out once more, and where the mean does not keep to
    the limit, the candidate is played if that costs less. While too few candidates keep to the limit, part of them is
    drawn from all of the range. Without an active constraint nothing is done, and nothing rolled out.

    Args:
        task: Range of the actuators.
        dynamics: Rolls out what is played.
        objective: Has the limit, and finds what a plan costs.

    Attributes:
        active: Whether costs are limited in this plan.
        cost: Of what is played, in the worst future predicted once more; 0 without a constraint.
        within: Whether that is within the limit.
        feasible: Share of the newest candidates that keep to the limit.
        infeasible: Too few of these do, so that they were ranked by cost.
    """

    def __init__(self, task: Task, dynamics: Dynamics, objective: Objective) -> None:
        self._dynamics = dynamics
        self._objective = objective
        # Where an actuator has no range, what noise on it is measured by.
        unit, rest = task.action_scale, task.resting_action
        self._low = np.where(np.isfinite(task.action_low), task.action_low, rest - unit)
        self._high = np.where(np.isfinite(task.action_high), task.action_high, rest + unit)
        self._stuck = False
        self._drawn = True  # predictions, as far as is known
        self.begin(np.empty(0))

    def reset(self) -> None:
        """Forget the plan before."""
        self._stuck = False

    def begin(self, start: FloatArray, deadline: float = math.inf) -> int:
        """Go on with the next plan, from `start`, as the dynamics ask for it.

        Returns how many rollouts `settle` will make beside the search, which must fit before a deadline too.
        """
        self._start = start
        self._hurried = math.isfinite(deadline)
        self._best: FloatArray | None = None
        # (within the limit, its score or beyond the limit its negative cost, its score): larger is better.
        self._best_key = (False, -math.inf, -math.inf)
        self.active = self._objective.constraint.active
        self.cost, self.feasible, self.infeasible, self.within = 0.0, 1.0, False, True
        return 2 * self._rolls if self.active else 0

    def anew(self, drawn: FloatArray, rng: np.random.Generator) -> None:
        """Write over part of what is drawn (N, H, nu) if too few of the candidates before kept to the limit."""
        if not (self.active and self._stuck):
            return
        n = int(self._objective.constraint.anew * len(drawn))
        if n:
            # A deadline cuts off the last candidates, and these may be the ones that save the plan.
            rows = slice(n) if self._hurried else slice(-n, None)
            drawn[rows] = rng.uniform(self._low, self._high, (n, len(self._low)))[:, None]

    def rank(self, candidates: FloatArray, scores: Scores) -> Ranking:
        """What to rank evaluated candidates (N, H, nu) by."""
        if scores.cost is None:
            return Ranking(scores.score)
        found = rank(scores.score, scores.cost, self._objective.constraint)
        self.feasible, self.infeasible = found.feasible, found.infeasible
        self._stuck = found.infeasible
        self._drawn = scores.drawn
        top = found.top
        if found.score[top] == -math.inf:
            return found  # all diverged: nothing can be told of them
        cost = float(scores.cost[top])
        within = cost <= self._objective.constraint.limit
        score = float(scores.score[top])
        key = within, score if within else -cost, score
        if key > self._best_key:
            self._best, self._best_key = candidates[top].copy(), key
        return found

    def settle(self, plan: FloatArray) -> FloatArray:
        """What to play, (H, nu): what the search has come to, unless the best candidate is needed.

        Both are predicted again, several times where chance has a part in it. A candidate that was the best of many
        has had luck, and a mean was never rolled out at all.
        """
        if not self.active:
            return plan
        limit = self._objective.constraint.limit
        plans = plan[None] if self._best is None else np.stack((plan, self._best))
        costs = self._judged(plans)
        chosen = 0 if costs[0] <= limit else int(costs.argmin())
        self.cost = float(costs[chosen])
        self.within = self.cost <= limit
        return np.array(plans[chosen])

    @property
    def _rolls(self) -> int:
        return self._objective.constraint.rolls if self._drawn else 1

    def _judged(self, plans: FloatArray) -> FloatArray:
        """What plans (n, H, nu) cost in the worst of all futures predicted, (n,); inf where one diverges."""
        rolls = self._rolls
        rows = np.repeat(plans, rolls, axis=0)
        found = self._objective.returns(self._dynamics.rollout(self._start, rows), rows)
        if found.cost is None:
            return np.zeros(len(plans))
        costs = np.where(found.valid & np.isfinite(found.cost), found.cost, np.inf)
        return np.asarray(costs.reshape(len(plans), rolls).max(axis=1))
