"""Actor Regularized Control (ARC), as LOOP plans (Sikchi et al. 2021, section 5.1)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from polo_ros.config import Config, option
from polo_ros.dynamics.base import Dynamics
from polo_ros.planners.actor_prior import ActorPrior
from polo_ros.planners.base import PlanResult
from polo_ros.planners.gaussian import GaussianSearch, edges_option
from polo_ros.planners.objective import Objective
from polo_ros.planners.pace import Pace
from polo_ros.planners.tally import Tally
from polo_ros.tasks.base import FloatArray, Task

EXECUTED = ("draw", "mean")


@dataclass(frozen=True)
class ArcConfig(Config):
    """Settings of ARC. Defaults are those of LOOP's public code."""

    rollouts: int = option(105, "candidates an iteration, N, those of the actor among them", low=1, high=100_000)
    horizon: int = option(3, "control periods that a plan looks ahead, H", low=1, high=1000)
    iterations: int = option(5, "times that the Gaussian is moved, m", low=1, high=100, live=True)
    beta: float = option(0.05, "share of the candidates that the actor proposes", low=0.0, high=1.0, live=True)
    sigma: float = option(
        0.5,
        "standard deviation of the noise on the solution before",
        unit="half control range",
        low=0.0,
        high=10.0,
        live=True,
    )
    kappa: float = option(
        1.0, "1/eta: weights are exp(kappa (L - max L))", unit="1/reward", low=1e-6, high=1e6, live=True
    )
    keep: float = option(0.1, "share of its variance that an iteration keeps", low=0.0, high=1.0, live=True)
    actor: str = option(
        "mean", "what the actor proposes: its action without noise, or one drawn from it", choices=("mean", "sample")
    )
    noise: float = option(
        0.0,
        "standard deviation of noise on the actor's actions: offline, with beta 1, candidates differ by it",
        unit="half control range",
        low=0.0,
        high=10.0,
        live=True,
    )
    executed: str = option(
        "draw",
        "what a plan is: a candidate drawn by its weight, to explore, or the mean",
        choices=EXECUTED,
        live=True,
    )
    edges: str = edges_option()


class Arc(GaussianSearch):
    """Iterated importance sampling that starts from a mixture of the actor and the solution before.

    The prior over sequences is beta pi + (1 - beta) N(mu_(t-1), sigma^2): the actor's proposals, and the plan of the
    period before, shifted, with noise. Each iteration weights the candidates by exp(kappa L) and moves the Gaussian to
    their mean and variance (eq. 8); the actor's proposals stay among the candidates. What is found is as close to the
    prior as a few such steps leave it (eq. 6), so that values learned from the actor are of what is done.

    With beta = 1 all candidates are the actor's, with `noise` on their actions, and one iteration is all there is to
    do: the plan is their weighted mean (`executed` mean). So LOOP plans with what was learned offline (section 5.2).
    Costs may be limited (`Objective.constraint`): eq. 8 is then taken over the candidates that keep to the limit.

    Args:
        task: Range and rest of the actuators.
        dynamics: Rolls candidates out.
        objective: L: scores them.
        config: Settings; may be replaced between two plans, but for the horizon.
        prior: Proposes what the actor would do; None: there is no actor yet.
        clock: What deadlines are read on, s.
    """

    def __init__(
        self,
        task: Task,
        dynamics: Dynamics,
        objective: Objective,
        config: ArcConfig,
        prior: ActorPrior | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(task, dynamics, objective, config.horizon, clock)
        self.config = config
        self.prior = prior

    def plan(self, start: FloatArray, rng: np.random.Generator, deadline: float = math.inf) -> PlanResult:
        """Plan from `start`, as the dynamics ask for it.

        With a deadline, s of the clock, later iterations may fall short or be left out; the actor's proposals are
        evaluated first.
        """
        config, gaussian, choice = self.config, self._gaussian, self._choice
        pace = Pace(deadline, config.rollouts, self._clock, reserved=choice.begin(start, deadline))
        gaussian.edges = config.edges
        gaussian.widen(config.sigma)
        proposed = self._proposed(start, rng)
        candidates, weights = gaussian.mean[None], np.ones(1)
        tally = Tally(config.rollouts * config.iterations)
        for _ in range(config.iterations):
            if not pace.chunk(config.rollouts):
                break
            drawn = np.concatenate((proposed, gaussian.draw(rng, config.rollouts - len(proposed))))
            choice.anew(drawn[len(proposed) :], rng)
            scores = self._evaluate(start, drawn, pace)
            tally.count(scores)
            ranking = choice.rank(drawn, scores)
            if ranking.score[ranking.top] == -math.inf:
                continue  # every candidate diverged: what was found before is the best that is known
            candidates = drawn[: len(scores.score)]
            weights = ranking.weights(config.kappa)
            tally.found(scores.score, ranking.top, 1.0 / float(weights @ weights))
            gaussian.move(candidates, weights, 0.0, config.keep)
        if config.executed == "draw" and not choice.infeasible:  # else nothing is left to chance
            gaussian.mean = candidates[rng.choice(len(weights), p=weights)].copy()
        gaussian.mean = choice.settle(gaussian.mean)
        return tally.result(gaussian.mean.copy(), pace, choice)

    def _proposed(self, start: FloatArray, rng: np.random.Generator) -> FloatArray:
        """The actor's sequences (n, H, nu)."""
        share = self.config.beta if self.prior is not None else 0.0
        n = min(self.config.rollouts, math.ceil(share * self.config.rollouts - 1e-9))
        if self.prior is None or n == 0:
            return self._gaussian.mean[None][:0]
        noise = self.config.noise
        disturb = partial(self._gaussian.disturb, sigma=noise, rng=rng) if noise else None
        return self.prior.propose(start, n, self.horizon, self.config.actor == "sample", rng, disturb)
