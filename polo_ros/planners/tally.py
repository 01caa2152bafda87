"""How a search went: what the samplers tell of themselves, gathered while they plan."""

from __future__ import annotations

import math

import numpy as np

from polo_ros.planners.base import PlanResult
from polo_ros.planners.choice import Choice
from polo_ros.planners.objective import Scores
from polo_ros.planners.pace import Pace
from polo_ros.tasks.base import FloatArray


class Tally:
    """Figures of one plan; of its rounds the last one counts that came to anything.

    Args:
        asked: Candidates that the search would evaluate, given time.
    """

    def __init__(self, asked: int) -> None:
        self._asked = asked
        self._invalid = 0
        self._best = self._mean = -math.inf
        self._effective = self._spread = self._gate = 0.0

    def count(self, scores: Scores) -> None:
        """Add a round of candidates."""
        self._invalid += scores.invalid
        self._spread, self._gate = scores.spread, scores.gate

    def found(self, scores: FloatArray, top: int, effective: float) -> None:
        """Take the figures of a round: scores (N,) of its candidates, the best of them, and how many it went by."""
        self._best = float(scores[top])
        self._mean = float(scores[np.isfinite(scores)].mean())
        self._effective = effective

    def result(self, actions: FloatArray, pace: Pace, choice: Choice) -> PlanResult:
        """All of it, with the actions (H, nu) that the search came to."""
        return PlanResult(
            actions=actions,
            rollouts=pace.evaluated,
            rollouts_asked=self._asked,
            invalid_rollouts=self._invalid,
            best_score=self._best,
            mean_score=self._mean,
            effective_samples=self._effective,
            value_gate=self._gate,
            value_spread=self._spread,
            constraint_active=choice.active,
            predicted_cost=choice.cost,
            feasible_fraction=choice.feasible,
            infeasible=choice.infeasible,
            within_limit=choice.within,
        )
