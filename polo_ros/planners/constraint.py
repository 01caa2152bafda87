"""Planning under a limit on costs, as safe LOOP plans (Sikchi et al. 2021, section 5.2, eq. 10).

Which candidates keep to the limit, and what the others are for, is said here once, for every search.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from polo_ros.config import Config, option
from polo_ros.tasks.base import FloatArray


@dataclass(frozen=True)
class ConstraintConfig(Config):
    """A limit on what plans may cost, by `Task.cost`. Defaults are those of LOOP's public code, where it has them."""

    active: bool = option(False, "plan within constraint.limit, for tasks that have a cost", live=True)
    limit: float = option(
        0.2,
        "what a plan may cost, d0, in the worst future predicted",
        unit="cost",
        low=0.0,
        high=1e9,
        live=True,
    )
    measure: str = option(
        "sum",
        "what is limited: the sum of costs over the horizon, or that of the worst control period",
        choices=("sum", "step"),
        live=True,
    )
    discounted: bool = option(False, "whether the cost of period t counts discount^t, as in the paper", live=True)
    first: bool = option(
        True,
        "whether the first period's cost counts; where it is one of the state that plans begin with, none changes it",
        live=True,
    )
    minimal: int = option(
        10,
        "candidates of an iteration, at most all, that must keep to the limit; while fewer do, cost is minimised and "
        "reward ignored",
        low=1,
        high=100_000,
        live=True,
    )
    kappa: float = option(
        1.0,
        "inverse temperature meanwhile: weights are exp(kappa (least cost - cost)); CEM takes its elites",
        unit="1/cost",
        low=1e-6,
        high=1e6,
        live=True,
    )
    rolls: int = option(
        16,
        "times that a plan, and the best candidate beside it, are predicted once more before one is played; the worst "
        "counts: candidates are chosen by luck as well. A model that leaves nothing to chance is asked once",
        low=1,
        high=10_000,
        live=True,
    )
    anew: float = option(
        0.5,
        "while too few candidates keep to the limit: share of the samples replaced by constant actions drawn from all "
        "of the range, as a search that is stuck at an end of it would not leave it",
        low=0.0,
        high=1.0,
        live=True,
    )


def worst_cost(costs: npt.NDArray[np.floating[Any]], config: ConstraintConfig, discount: float) -> FloatArray:
    """What candidates cost, (N,): the left side of eq. 10.

    Args:
        costs: Of each control period, (N, H) or, of P particles of whichever members, (N, P, H).
        config: What is limited.
        discount: gamma, per control period.
    """
    found = np.asarray(costs, np.float64)
    if config.discounted:
        found = found * discount ** np.arange(found.shape[-1])
    if not config.first:
        found = found[..., 1:]
    of_future = found.sum(axis=-1) if config.measure == "sum" else found.max(axis=-1, initial=0.0)
    return np.asarray(of_future if of_future.ndim == 1 else of_future.max(axis=-1))


@dataclass(frozen=True)
class Ranking:
    """What candidates are ranked by."""

    score: FloatArray  # (N,) -inf: not to be used
    kappa: float | None = None  # inverse temperature of these scores; None: the search's own
    feasible: float = 1.0  # 0 .. 1, share that keeps to the limit
    infeasible: bool = False  # too few do: scores are costs with their sign turned
    reward: FloatArray | None = None  # (N,) then: what decides among equally dear candidates

    @property
    def top(self) -> int:
        """The best candidate."""
        best = np.flatnonzero(self.score == self.score.max())
        return int(best[0] if self.reward is None else best[self.reward[best].argmax()])

    def weights(self, kappa: float) -> FloatArray:
        """Weights (N,), exp(kappa (score - max score)), with a sum of 1; of at least one score above -inf.

        Equally dear candidates share their weights by reward: where a control period costs 0 or 1, costs are often
        equal, and say nothing of the way back within the limit.
        """
        scale = kappa if self.kappa is None else self.kappa
        weights = np.exp(scale * (self.score - self.score.max()))
        if self.reward is not None:
            usable = np.flatnonzero(weights > 0.0)
            costs, group = np.unique(self.score[usable], return_inverse=True)
            if len(costs) < len(usable):
                highest = np.full(len(costs), -np.inf)
                np.maximum.at(highest, group, self.reward[usable])
                within = np.exp(kappa * (self.reward[usable] - highest[group]))
                shared = np.bincount(group, weights[usable]) / np.bincount(group, within)
                weights[usable] = shared[group] * within
        weights /= weights.sum()
        return np.asarray(weights)


def rank(score: FloatArray, cost: FloatArray | None, config: ConstraintConfig) -> Ranking:
    """What to rank candidates by: reward among those within the limit or, if these are too few, cost among all.

    Args:
        score: (N,), -inf for candidates that must not be used.
        cost: (N,) from `worst_cost`; None: nothing is limited.
        config: The limit, and how few are too few.
    """
    if cost is None:
        return Ranking(score)
    valid = np.isfinite(score)
    within = valid & (cost <= config.limit)
    found = int(np.count_nonzero(within))
    share = found / len(score)
    if found and found >= min(config.minimal, int(np.count_nonzero(valid))):
        return Ranking(np.where(within, score, -np.inf), None, share)
    return Ranking(np.where(valid, -cost, -np.inf), config.kappa, share, True, score)
