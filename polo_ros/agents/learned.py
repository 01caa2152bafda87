"""What weights hold for who plans with them, whichever way they were learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from polo_ros.learning.weights import Arrays
from polo_ros.planners.policy import ActionValues, Policy


@dataclass(frozen=True)
class Learned:
    """A policy, its values and a model of the world.

    Attributes:
        policy: Acts.
        critic: Values actions as what comes if the policy acts after them; None: rewards alone count.
        model: Weights of the dynamics ensemble's elites, as EnsembleDynamics takes them; None: there is none.
    """

    policy: Policy
    critic: ActionValues | None
    model: Arrays | None


class WeightsReader(Protocol):
    """Makes what planners need of weights of one kind."""

    @property
    def kind(self) -> str:
        """Of the weights."""
        ...

    @property
    def discount(self) -> float:
        """A control period, gamma, that values were learned with."""
        ...

    def check(self, data: bytes) -> Arrays:
        """Arrays of a safetensors file if they fit; raises WeightsError."""
        ...

    def read(self, arrays: Arrays) -> Learned:
        """What is in arrays that passed `check`."""
        ...
