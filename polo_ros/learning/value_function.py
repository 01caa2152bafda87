"""The value ensemble as planners see it: numpy only, checked weights in, values out.

The networks and how they are learned stand in `value_ensemble.py`; this file shares their layout and
keeps torch out of the planner's process.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from polo_ros.config import Config, option
from polo_ros.learning.optimism import CONVENTIONS, log_sum_exp
from polo_ros.learning.weights import Arrays, Shapes, WeightsError
from polo_ros.planners.objective import ValueEstimate
from polo_ros.tasks.base import FloatArray

KIND = "value_ensemble"


@dataclass(frozen=True)
class ValueConfig(Config):
    """Settings of the value ensemble, for the learner and the planner alike.

    Networks work in units of the value scale (`scale`), so that the other settings carry over between
    tasks. Defaults are the paper's humanoid (appendix A) where it names them; it does not name kappa,
    sigma and lambda.
    """

    members: int = option(6, "networks in the ensemble, K", low=1, high=10_000)
    hidden: int = option(16, "units of a hidden layer", low=1, high=4096)
    layers: int = option(2, "hidden layers, with tanh; 0: linear", low=0, high=8)
    initial: str = option(
        "", "weights to begin with: path of a .safetensors file, or a name of the share folder's; empty: untrained"
    )
    inputs: str = option("", "observation groups that the value depends on, separated by commas; empty: all")
    scale: float = option(0.0, "value that counts as 1; 0: 1 / (1 - discount)", unit="reward", low=0.0, high=1e12)
    kappa: float = option(
        1.0,
        "optimism over the ensemble, eq. 6; 0: mean, below 0: pessimism",
        unit="1 / value scale",
        low=-1e6,
        high=1e6,
        live=True,
    )
    convention: str = option(
        "normalised", "eq. 6: (1/kappa) log mean exp(kappa V), or log sum exp(kappa V) as printed", choices=CONVENTIONS
    )
    prior_scale: float = option(1.0, "factor of the randomised prior functions; 1: eq. 5", low=0.0, high=1e3)
    prior_variance: float = option(
        1.0, "lambda of eq. 5: prior variance of a parameter times its fan-in", low=1e-9, high=1e6
    )
    sigma: float = option(
        0.05, "standard deviation of the noise on targets, eq. 5", unit="value scale", low=0.0, high=1e3
    )
    gate: str = option(
        "spread",
        "what turns the value down: nothing, or disagreement and lack of data",
        choices=("none", "spread"),
        live=True,
    )
    gate_spread: float = option(
        0.25, "disagreement at which the value counts half", unit="value scale", low=1e-9, high=1e6, live=True
    )
    gate_margin: float = option(
        1.0,
        "how far outside the range of its data the value is still used",
        unit="standard deviations",
        low=0.0,
        high=1e6,
        live=True,
    )

    def value_scale(self, discount: float) -> float:
        """The value scale in units of reward: `scale`, or what a reward of 1 for ever is worth."""
        if self.scale > 0.0:
            return self.scale
        if not 0.0 <= discount < 1.0:
            raise ValueError(f"discount = {discount} gives no value scale: set the value's 'scale' above 0")
        return 1.0 / (1.0 - discount)


def layer_sizes(config: ValueConfig, nobs: int) -> list[tuple[int, int]]:
    """(inputs, outputs) of each layer."""
    sizes = [nobs] + [config.hidden] * config.layers + [1]
    return list(itertools.pairwise(sizes))


def shapes(config: ValueConfig, nobs: int) -> Shapes:
    """Names and shapes of the weights, as `weights.decode` asks for them."""
    out: dict[str, tuple[int, ...]] = {}
    for part in ("learned", "prior"):
        for index, (inputs, outputs) in enumerate(layer_sizes(config, nobs)):
            out[f"{part}.{index}.weight"] = (config.members, inputs, outputs)
            out[f"{part}.{index}.bias"] = (config.members, 1, outputs)
    for name in ("obs_mean", "obs_std", "data_low", "data_high"):
        out[name] = (nobs,)
    for name in ("value_scale", "prior_scale"):
        out[name] = (1,)
    return out


def gate_weight(mode: str, spread: float, gate_spread: float, outside: float = 0.0) -> float:
    """Share of the learned value that a planner should use, 0 .. 1.

    `none` is always 1: optimism about the unknown is what explores. `spread` is
    (1 - outside) / (1 + (spread / gate_spread)^2): one half at `gate_spread`, and nothing where no
    terminal state is near any data.

    Args:
        mode: `none` or `spread`.
        spread: Mean standard deviation over the members at the terminal states, in value scales.
        gate_spread: In value scales.
        outside: Fraction of the terminal states that lie outside the range of the data.
    """
    if mode == "none":
        return 1.0
    if mode != "spread":
        raise ValueError(f"unknown gate '{mode}'; gates: none, spread")
    if not (np.isfinite(spread) and np.isfinite(outside)):
        return 0.0
    return float((1.0 - outside) / (1.0 + (spread / gate_spread) ** 2))


class ValueFunction:
    """K value networks with their priors, evaluated in float32 as batched matrix products.

    V_k(s) = value_scale (f_k(z) + prior_scale p_k(z)), z = (s - obs_mean) / obs_std. Learned network f_k
    and prior p_k of all members run as one batch of 2 K networks. Buffers are kept between calls: an
    instance belongs to one thread.

    Args:
        config: As the learner's; kappa and the gate are this side's own.
        arrays: Weights that passed `weights.decode` with `shapes(config, nobs)`.

    Raises:
        WeightsError: A scale or deviation that is not above zero, or a range that is upside down.
    """

    # Rows evaluated at once: the activations of a chunk stay in the cache.
    CHUNK = 1024

    def __init__(self, config: ValueConfig, arrays: Arrays) -> None:
        for name in ("obs_std", "value_scale"):
            if not (arrays[name] > 0.0).all():
                raise WeightsError(f"weights '{name}' contain {arrays[name].min()}, expected values above 0")
        if (arrays["data_low"] > arrays["data_high"]).any():
            raise WeightsError("weights 'data_low' are above 'data_high', expected a range")
        self.config = config
        self.value_scale = float(arrays["value_scale"][0])
        prior_scale = arrays["prior_scale"]
        self._weights: list[npt.NDArray[np.float32]] = []
        self._biases: list[npt.NDArray[np.float32]] = []
        for index in range(config.layers + 1):
            factor = prior_scale if index == config.layers else np.ones(1, np.float32)
            for kind, store in (("weight", self._weights), ("bias", self._biases)):
                both = (arrays[f"learned.{index}.{kind}"], factor * arrays[f"prior.{index}.{kind}"])
                store.append(np.ascontiguousarray(np.concatenate(both), np.float32))
        self._mean = np.array(arrays["obs_mean"])
        self._inverse_std = 1.0 / arrays["obs_std"]
        self._margin = config.gate_margin * arrays["obs_std"]
        self._low = arrays["data_low"] - self._margin
        self._high = arrays["data_high"] + self._margin
        self._activations: list[npt.NDArray[np.float32]] = []

    @property
    def members(self) -> int:
        """K."""
        return self.config.members

    @property
    def nobs(self) -> int:
        """Entries of an observation."""
        return len(self._mean)

    def values(self, observations: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """Each member's value (K, ...) of observations (..., nobs), in units of reward."""
        return np.asarray(self._scaled(observations) * np.float32(self.value_scale), np.float32)

    def __call__(self, observations: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """Optimistic value (...) of observations (..., nobs), eq. 6, in units of reward."""
        return self._optimistic(self._scaled(observations))

    def estimate(self, observations: FloatArray) -> ValueEstimate:
        """Optimistic value, spread and gate at terminal observations (N, nobs).

        Rows that are not finite (a diverged candidate) have no say in spread and gate.
        """
        scaled = self._scaled(observations)
        value = self._optimistic(scaled).astype(np.float64)
        spread = self.spread(scaled)
        mean = float(np.add.reduce(spread)) / max(1, len(spread))
        if not math.isfinite(mean):
            finite = np.isfinite(spread)
            if not finite.any():
                return ValueEstimate(value, 0.0, 0.0)
            observations, mean = observations[finite], float(spread[finite].mean())
        outside = 0.0
        if self.config.gate != "none":
            inside = (observations >= self._low) & (observations <= self._high)
            outside = 1.0 - float(np.count_nonzero(inside.all(axis=-1))) / max(1, len(observations))
        gate = gate_weight(self.config.gate, mean, self.config.gate_spread, outside)
        return ValueEstimate(value, mean * self.value_scale, gate)

    @staticmethod
    def spread(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Standard deviation over the members (...) of values (K, ...)."""
        share = np.float32(1.0 / len(values))
        deviation = values - share * np.add.reduce(values, axis=0)
        np.square(deviation, out=deviation)
        return np.asarray(np.sqrt(share * np.add.reduce(deviation, axis=0)))

    def _optimistic(self, scaled: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        config = self.config
        return np.asarray(log_sum_exp(scaled, config.kappa, config.convention) * np.float32(self.value_scale))

    def _scaled(self, observations: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """Each member's value (K, ...) in value scales."""
        if observations.shape[-1] != self.nobs:
            raise ValueError(f"observation has {observations.shape[-1]} entries, expected {self.nobs}")
        batch = observations.shape[:-1]
        flat = observations.reshape(-1, self.nobs)
        out = np.empty((self.members, len(flat)), np.float32)
        for start in range(0, len(flat), self.CHUNK):
            part = flat[start : start + self.CHUNK]
            self._run(part, out[:, start : start + len(part)])
        return out.reshape(self.members, *batch)

    def _run(self, observations: npt.NDArray[np.floating[Any]], out: npt.NDArray[np.float32]) -> None:
        """Write values (K, n) of n observations into `out`, in value scales."""
        n = len(observations)
        if not self._activations or self._activations[0].shape[0] != n:
            self._activations = [np.empty((n, self.nobs), np.float32)]
            self._activations += [np.empty((2 * self.members, n, w.shape[2]), np.float32) for w in self._weights]
        h = self._activations[0]
        np.subtract(observations, self._mean, out=h, casting="same_kind")
        h *= self._inverse_std
        last = len(self._weights) - 1
        for index, (weight, bias) in enumerate(zip(self._weights, self._biases, strict=True)):
            h = np.matmul(h, weight, out=self._activations[index + 1])
            h += bias
            if index < last:
                np.tanh(h, out=h)
        np.add(h[: self.members, :, 0], h[self.members :, :, 0], out=out)
