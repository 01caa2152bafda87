"""Model predictive path integral control (MPPI), as POLO plans (Lowrey et al. 2019, section 2.3)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from polo_ros.config import Config, option
from polo_ros.dynamics.base import Dynamics
from polo_ros.planners.base import PlanResult, shifted
from polo_ros.planners.choice import Choice
from polo_ros.planners.evaluate import evaluate
from polo_ros.planners.noise import knot_basis, noise_filter
from polo_ros.planners.objective import Objective
from polo_ros.planners.pace import Pace
from polo_ros.planners.tally import Tally
from polo_ros.tasks.base import FloatArray, Task


@dataclass(frozen=True)
class MppiConfig(Config):
    """Settings of MPPI.

    The paper's "temperature" is read as the factor kappa that multiplies returns, as in the public
    code of its authors' group: larger is greedier. The effective sample size says what it does.
    """

    rollouts: int = option(32, "candidates a plan", low=1, high=100_000, live=True)
    horizon: int = option(50, "control periods that a plan looks ahead", low=1, high=1000)
    iterations: int = option(
        1, "times that the candidates are drawn anew around their mean", low=1, high=100, live=True
    )
    sigma: float = option(
        0.2,
        "standard deviation of the noise before the filter",
        unit="half control range",
        low=0.0,
        high=10.0,
        live=True,
    )
    filter_b0: float = option(1.0, "noise filter: n_t = b0 e_t + b1 n_(t-1) + b2 n_(t-2)", low=0.0, high=1.0, live=True)
    filter_b1: float = option(0.0, "noise filter, see filter_b0", low=-2.0, high=2.0, live=True)
    filter_b2: float = option(0.0, "noise filter, see filter_b0", low=-1.0, high=1.0, live=True)
    knots: int = option(
        0,
        "noise is drawn at this many evenly spaced steps, at most mppi.horizon, with sigma there, and interpolated "
        "(cubic from 4 on); the filter is then not used. 0: drawn at every step and filtered",
        low=0,
        live=True,
    )
    kappa: float = option(
        1.25, "inverse temperature: weights are exp(kappa (R - max R))", low=1e-6, high=1e6, live=True
    )
    fill: str = option("repeat", "row that enters the warm start at its end", choices=("repeat", "zero"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.knots > self.horizon:
            raise ValueError(
                f"knots = {self.knots} is above horizon = {self.horizon}: a control period has at most one knot"
            )


class Mppi:
    """Perturb a nominal sequence, roll out, average by exponentiated return.

    Candidate 0 is the nominal sequence itself, so that a plan is never lost to bad luck. Controls are
    clipped to the actuators' range before they are rolled out.

    Args:
        task: Control range, and what holds the robot at rest.
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
        config: MppiConfig,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.horizon = config.horizon
        self.config = config
        self._dynamics = dynamics
        self._objective = objective
        self._choice = Choice(task, dynamics, objective)
        self._low, self._high = task.action_low, task.action_high
        self._scale = task.action_scale
        self._rest = task.resting_action
        self._white = self._noise = np.empty((0, 0, 0), np.float32)
        self._clock = clock
        self._basis = np.empty((0, 0), np.float32)  # (H, rows of white noise), sigma included
        self._basis_of: tuple[float, ...] = ()
        self._candidates = np.empty((0, 0, 0))
        self._row_low = self._row_high = self._row_scale = np.empty(0)
        self.nominal = np.empty((0, 0))
        self.reset()

    def reset(self) -> None:
        """Forget the warm start."""
        self.nominal = np.tile(self._rest, (self.horizon, 1))
        self._choice.reset()

    def shift(self, steps: int) -> None:
        """Move the warm start `steps` control periods on."""
        last = self._rest if self.config.fill == "zero" else self.nominal[-1]
        self.nominal = shifted(self.nominal, steps, last)

    def plan(self, start: FloatArray, rng: np.random.Generator, deadline: float = math.inf) -> PlanResult:
        """Plan from physics state `start` (nstate,).

        Returns the best answer found by `deadline` (a value of the clock, s): a few candidates are always
        evaluated, and the weights are taken over those that were.
        """
        config = self.config
        choice = self._choice
        pace = Pace(deadline, config.rollouts, self._clock, reserved=choice.begin(start, deadline))
        tally = Tally(config.rollouts * config.iterations)
        for _ in range(config.iterations):
            if not pace.chunk(config.rollouts):
                break
            candidates = self._sample(rng)
            choice.anew(candidates[1:], rng)
            scores = evaluate(self._dynamics, self._objective, start, candidates, pace, self._clock)
            tally.count(scores)
            ranking = choice.rank(candidates, scores)
            if ranking.score[ranking.top] == -math.inf:
                continue  # every candidate diverged: the nominal sequence is the best that is known
            weights = ranking.weights(config.kappa)
            tally.found(scores.score, ranking.top, 1.0 / float(weights @ weights))
            evaluated = candidates[: len(weights)].reshape(len(weights), -1)
            self.nominal = np.matmul(weights, evaluated).reshape(self.horizon, -1)
        self.nominal = choice.settle(self.nominal)
        return tally.result(self.nominal.copy(), pace, choice)

    def _sample(self, rng: np.random.Generator) -> FloatArray:
        """Candidates (N, H, nu) around the nominal sequence."""
        config = self.config
        nu = self.nominal.shape[1]
        coefficients = (config.sigma, config.filter_b0, config.filter_b1, config.filter_b2, config.knots)
        if self._basis_of != coefficients:
            if config.knots:
                basis = knot_basis(self.horizon, config.knots)
            else:
                basis = noise_filter(self.horizon, config.filter_b0, config.filter_b1, config.filter_b2)
            self._basis = config.sigma * basis
            self._basis_of = coefficients
        drawn = self._basis.shape[1]
        if self._white.shape != (drawn, config.rollouts, nu):
            self._white = np.empty((drawn, config.rollouts, nu), np.float32)
            self._noise = np.empty((self.horizon, config.rollouts, nu), np.float32)
            self._candidates = np.empty((config.rollouts, self.horizon, nu))
            # Bounds and scales of whole rows: numpy's loops are slow along an axis of nu only.
            self._row_low, self._row_high = np.tile(self._low, self.horizon), np.tile(self._high, self.horizon)
            self._row_scale = np.tile(self._scale, config.rollouts).astype(np.float32)
        white, noise = self._white.reshape(drawn, -1), self._noise.reshape(self.horizon, -1)
        rng.standard_normal(dtype=np.float32, out=self._white)
        np.matmul(self._basis, white, out=noise)
        noise *= self._row_scale
        self._noise[:, 0] = 0.0
        np.add(self.nominal, self._noise.transpose(1, 0, 2), out=self._candidates)
        flat = self._candidates.reshape(config.rollouts, -1)
        np.maximum(flat, self._row_low, out=flat)
        np.minimum(flat, self._row_high, out=flat)
        return self._candidates
