"""Gaussians over sequences of actions, within the actuators' range: what ARC and CEM draw from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from polo_ros.config import option
from polo_ros.dynamics.base import Dynamics
from polo_ros.planners.base import shifted
from polo_ros.planners.choice import Choice
from polo_ros.planners.evaluate import evaluate
from polo_ros.planners.objective import Objective, Scores
from polo_ros.planners.pace import Pace
from polo_ros.seeding import truncated_normal
from polo_ros.tasks.base import FloatArray, Task

EDGES = ("narrow", "clip")


def edges_option() -> Any:
    """The configuration field `edges` of a search."""
    return option(
        "narrow",
        "draws near an end of an actuator's range: narrow, closer together, as PETS and LOOP have it, so that a mean "
        "that has come there stays; or clip",
        choices=EDGES,
        live=True,
    )


class ActionGaussian:
    """A diagonal Gaussian over sequences (H, nu), and the warm start of the next one.

    Draws lie within two deviations of the mean. Where the range of an actuator is less than that away, they are drawn
    closer together: no clipping piles them up at its ends (Chua et al. 2018, PETS' public code, and LOOP's). A mean at
    an end then stays there for ever. Where that is likely, with actuators that saturate or rest at an end, `edges` clip
    lets draws keep their deviation and ends what is beyond the range there.

    Args:
        task: Range and rest of the actuators.
        horizon: H.

    Attributes:
        mean: (H, nu), between two plans the warm start.
        variance: (H, nu).
        edges: One of EDGES, what becomes of draws near the ends of the range.
    """

    edges = EDGES[0]

    def __init__(self, task: Task, horizon: int) -> None:
        self._low, self._high = task.action_low, task.action_high
        self._scale = task.action_scale
        self._rest = task.resting_action
        self.horizon = horizon
        self.mean = self.variance = np.empty((0, 0))
        self.reset()

    def reset(self) -> None:
        """Begin with rest."""
        self.mean = np.tile(self._rest, (self.horizon, 1))
        self.widen(0.0)

    def shift(self, steps: int) -> None:
        """Move the mean `steps` control periods on; its last row is repeated."""
        self.mean = shifted(self.mean, steps, self.mean[-1])

    def widen(self, sigma: float) -> None:
        """Let the deviation be `sigma` half control ranges everywhere."""
        self.variance = np.tile((sigma * self._scale) ** 2, (self.horizon, 1))

    def draw(self, rng: np.random.Generator, n: int) -> FloatArray:
        """Sequences (n, H, nu)."""
        deviation = np.sqrt(self.variance)
        if self.edges == "narrow":
            room = 0.5 * np.minimum(self.mean - self._low, self._high - self.mean)
            deviation = np.minimum(deviation, np.maximum(room, 0.0))
        drawn = truncated_normal(rng, (n, *self.mean.shape))
        drawn *= deviation
        drawn += self.mean
        return np.clip(drawn, self._low, self._high, out=drawn)

    def disturb(self, actions: FloatArray, sigma: float, rng: np.random.Generator) -> FloatArray:
        """Actions (n, nu) with normal noise of `sigma` half control ranges, within the range."""
        drawn = rng.standard_normal(actions.shape)
        drawn *= sigma * self._scale
        drawn += actions
        return np.clip(drawn, self._low, self._high, out=drawn)

    def move(self, sequences: FloatArray, weights: FloatArray, keep_mean: float, keep_variance: float) -> None:
        """Move to the mean and variance of weighted sequences (n, H, nu).

        Args:
            sequences: What was drawn.
            weights: (n,), with a sum of 1.
            keep_mean: Share of the mean before that is kept.
            keep_variance: Share of the variance before that is kept. The variance is that around the new, whole mean.
        """
        flat = sequences.reshape(len(sequences), -1)
        mean = weights @ flat
        variance = weights @ np.square(flat - mean)
        self.mean = keep_mean * self.mean + (1.0 - keep_mean) * mean.reshape(self.mean.shape)
        self.variance = keep_variance * self.variance + (1.0 - keep_variance) * variance.reshape(self.mean.shape)


class GaussianSearch:
    """A planner that moves an ActionGaussian to better and better candidates; subclasses say how.

    Args:
        task: Range and rest of the actuators.
        dynamics: Rolls candidates out.
        objective: Scores them.
        horizon: H.
        clock: What deadlines are read on, s.
    """

    def __init__(
        self, task: Task, dynamics: Dynamics, objective: Objective, horizon: int, clock: Callable[[], float]
    ) -> None:
        self.horizon = horizon
        self._dynamics = dynamics
        self._objective = objective
        self._clock = clock
        self._gaussian = ActionGaussian(task, horizon)
        self._choice = Choice(task, dynamics, objective)

    @property
    def mean(self) -> FloatArray:
        """Warm start of the next plan, (H, nu)."""
        return self._gaussian.mean

    def reset(self) -> None:
        """Forget the warm start."""
        self._gaussian.reset()
        self._choice.reset()

    def shift(self, steps: int) -> None:
        """Move the warm start `steps` control periods on."""
        self._gaussian.shift(steps)

    def _evaluate(self, start: FloatArray, candidates: FloatArray, pace: Pace) -> Scores:
        """Scores of the first candidates, as many as there is time for."""
        return evaluate(self._dynamics, self._objective, start, candidates, pace, self._clock)
