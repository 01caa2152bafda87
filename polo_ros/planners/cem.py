"""The cross-entropy method (CEM), as PETS plans (Chua et al. 2018), and LOOP without ARC."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from polo_ros.config import Config, option
from polo_ros.dynamics.base import Dynamics
from polo_ros.planners.base import PlanResult
from polo_ros.planners.gaussian import GaussianSearch, edges_option
from polo_ros.planners.objective import Objective
from polo_ros.planners.pace import Pace
from polo_ros.planners.tally import Tally
from polo_ros.tasks.base import FloatArray, Task


@dataclass(frozen=True)
class CemConfig(Config):
    """Settings of CEM."""

    rollouts: int = option(100, "candidates an iteration", low=1, high=100_000)
    horizon: int = option(3, "control periods that a plan looks ahead", low=1, high=1000)
    iterations: int = option(5, "times that the Gaussian is moved", low=1, high=100, live=True)
    elites: int = option(20, "best candidates, at most all, that the Gaussian moves to", low=1, high=100_000, live=True)
    sigma: float = option(
        0.5,
        "standard deviation of the noise on the solution before",
        unit="half control range",
        low=0.0,
        high=10.0,
        live=True,
    )
    keep: float = option(0.1, "share of its mean and variance that an iteration keeps", low=0.0, high=1.0, live=True)
    edges: str = edges_option()


class Cem(GaussianSearch):
    """Draws around the plan of the period before, moves to the best, again and again. The plan is the mean.

    Args:
        task: Range and rest of the actuators.
        dynamics: Rolls candidates out.
        objective: Scores them.
        config: Settings; may be replaced between two plans, but for the horizon.
        clock: What deadlines are read on, s.
    """

    def __init__(
        self,
        task: Task,
        dynamics: Dynamics,
        objective: Objective,
        config: CemConfig,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(task, dynamics, objective, config.horizon, clock)
        self.config = config

    def plan(self, start: FloatArray, rng: np.random.Generator, deadline: float = math.inf) -> PlanResult:
        """Plan from `start`, as the dynamics ask for it.

        With a deadline, s of the clock, later iterations may fall short or be left out.
        """
        config, gaussian, choice = self.config, self._gaussian, self._choice
        pace = Pace(deadline, config.rollouts, self._clock, reserved=choice.begin(start, deadline))
        gaussian.edges = config.edges
        gaussian.widen(config.sigma)
        tally = Tally(config.rollouts * config.iterations)
        for _ in range(config.iterations):
            if not pace.chunk(config.rollouts):
                break
            drawn = gaussian.draw(rng, config.rollouts)
            choice.anew(drawn, rng)
            scores = self._evaluate(start, drawn, pace)
            tally.count(scores)
            ranked = choice.rank(drawn, scores).score
            elites = min(config.elites, int(np.count_nonzero(np.isfinite(ranked))))
            if not elites:
                continue  # every candidate diverged: what was found before is the best that is known
            # Beyond the limit ranks are costs: among equals, as where a cost is 0 or 1 a period, scores decide.
            chosen = np.lexsort((-scores.score, -ranked))[:elites]
            tally.found(scores.score, int(chosen[0]), float(elites))
            gaussian.move(drawn[chosen], np.full(elites, 1.0 / elites), config.keep, config.keep)
        gaussian.mean = choice.settle(gaussian.mean)
        return tally.result(gaussian.mean.copy(), pace, choice)
