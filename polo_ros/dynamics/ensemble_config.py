"""Settings of a learned dynamics ensemble and the layout of its weights, without torch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polo_ros.config import Config, option

KIND = "dynamics_ensemble"

PROPAGATIONS = ("tsinf", "ts1")
REWARDS = ("predicted", "task")


@dataclass(frozen=True)
class EnsembleConfig(Config):
    """Sizes of the networks, for who fits them and who plans with them alike. Defaults are LOOP's public code's."""

    members: int = option(7, "networks in the ensemble, K", low=1, high=1000)
    elites: int = option(
        5, "networks that plans use, those with the lowest hold-out error; at most all", low=1, high=1000
    )
    hidden: int = option(200, "units of a hidden layer", low=1, high=4096)
    layers: int = option(4, "hidden layers, with swish; 0: linear", low=0, high=8)
    log_var_max: float = option(
        0.5, "soft upper bound of a predicted log-variance", unit="ln of a target's unit^2", low=-9.0, high=30.0
    )
    log_var_min: float = option(
        -10.0, "soft lower bound of a predicted log-variance", unit="ln of a target's unit^2", low=-30.0, high=0.0
    )
    inputs: str = option(
        "",
        "observation groups that predictions depend on, separated by commas; empty: all but those that only the reward "
        "needs. All are predicted",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.log_var_min >= self.log_var_max:
            raise ValueError(f"log_var_min = {self.log_var_min} is not below log_var_max = {self.log_var_max}")

    @property
    def used(self) -> int:
        """How many elites there are."""
        return min(self.elites, self.members)


@dataclass(frozen=True)
class PredictionConfig(Config):
    """How the ensemble predicts what candidates lead to (trajectory sampling, Chua et al. 2018, section 5).

    Defaults are LOOP's: 4 particles in each of 5 elites, each of which stays with its particles.
    """

    propagation: str = option(
        "tsinf", "who predicts a particle: one elite to the end, or at each step a random one", choices=PROPAGATIONS
    )
    particles: int = option(
        20, "futures a candidate, P, dealt out evenly among the elites; a score is their mean", low=1, high=10_000
    )
    sampled: bool = option(True, "draw next observations from the predicted distribution; false: take its mean")
    rewards: str = option(
        "predicted", "rewards that the model predicts, or those of the task at predicted observations", choices=REWARDS
    )

    def members(self, ensemble: EnsembleConfig) -> int:
        """How many elites a candidate's particles are of, equal parts of them each; 0: that cannot be told."""
        shared = self.propagation == "tsinf" and self.particles % ensemble.used == 0
        return ensemble.used if shared else 0


def layer_sizes(config: EnsembleConfig, nobs: int, nu: int) -> list[tuple[int, int]]:
    """(inputs, outputs) of each layer: from observation and action to mean and log-variance of reward and change."""
    sizes = [nobs + nu] + [config.hidden] * config.layers + [2 * (1 + nobs)]
    return list(itertools.pairwise(sizes))


def shapes(config: EnsembleConfig, nobs: int, nu: int, members: int = 0) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of the weights of `members` networks, as `weights.decode` asks for them; 0: of the elites."""
    members = members or config.used
    out: dict[str, tuple[int, ...]] = {}
    for index, (inputs, outputs) in enumerate(layer_sizes(config, nobs, nu)):
        out[f"{index}.weight"] = (members, inputs, outputs)
        out[f"{index}.bias"] = (members, 1, outputs)
    for name in ("log_var_max", "log_var_min"):
        out[name] = (members, 1, 1 + nobs)
    for name in ("input_mean", "input_std"):
        out[name] = (nobs + nu,)
    return out


def check(arrays: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Raise ValueError if weights of the right shapes are no model's: see EnsembleDynamics."""
    if not (arrays["input_std"] > 0.0).all():
        raise ValueError(f"weights 'input_std' contain {arrays['input_std'].min()}, expected values above 0")
    if not (arrays["log_var_min"] < arrays["log_var_max"]).all():
        raise ValueError("weights 'log_var_min' are not below 'log_var_max', expected bounds")
