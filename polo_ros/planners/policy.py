"""A learned policy and its action values, as planners and evaluators see them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from polo_ros.tasks.base import FloatArray

Floats = npt.NDArray[np.floating[Any]]


class Policy(Protocol):
    """Actions of observations, in the robot's units and within the actuators' range."""

    def mean(self, observations: Floats) -> FloatArray:
        """Actions (..., nu) without noise of observations (..., nobs)."""
        ...

    def sample(self, observations: Floats, rng: np.random.Generator) -> FloatArray:
        """Actions (..., nu) drawn from the policy at observations (..., nobs)."""
        ...


class ActionValues(Protocol):
    """Values of actions, in units of reward."""

    def values(self, observations: Floats, actions: Floats) -> Floats:
        """Value (...) of observations (..., nobs) and actions (..., nu) in the robot's units."""
        ...
