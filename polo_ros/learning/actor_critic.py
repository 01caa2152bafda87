"""Actor and critics as planners see them: numpy only, checked weights in, actions and values out.

The networks and how they are learned stand in `actor.py`, `critic.py` and `sac.py`; this file shares their layout and
keeps torch out of the planner's process.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from polo_ros.config import Config, option
from polo_ros.learning.weights import Arrays, Shapes
from polo_ros.tasks.base import FloatArray, Task

KIND = "actor_critic"
REDUCTIONS = ("min", "mean", "first")

Floats = npt.NDArray[np.floating[Any]]
Singles = npt.NDArray[np.float32]

# Bounds of the logarithm of the standard deviation.
LOG_STD_LOW, LOG_STD_HIGH = -20.0, 2.0


@dataclass(frozen=True)
class ActorCriticConfig(Config):
    """Sizes of actor and critics, for the learner and the planner alike. Defaults are those of LOOP's public code."""

    critics: int = option(2, "critics that learn side by side", low=1, high=100)
    hidden: int = option(256, "units of a hidden layer, of the actor and of each critic", low=1, high=4096)
    layers: int = option(2, "hidden layers, with ReLU", low=1, high=8)
    inputs: str = option(
        "",
        "observation groups that actor and critics depend on, separated by commas; "
        "empty: all but those that only the reward needs",
    )


def actor_sizes(config: ActorCriticConfig, nobs: int, nu: int) -> tuple[int, ...]:
    """Entries of the actor's input, hidden layers and output: mean and log standard deviation."""
    return (nobs, *[config.hidden] * config.layers, 2 * nu)


def critic_sizes(config: ActorCriticConfig, nobs: int, nu: int) -> tuple[int, ...]:
    """Entries of a critic's input, observation and action, hidden layers and output."""
    return (nobs + nu, *[config.hidden] * config.layers, 1)


def shapes(config: ActorCriticConfig, nobs: int, nu: int) -> Shapes:
    """Names and shapes of the weights, as `weights.decode` asks for them."""
    out: dict[str, tuple[int, ...]] = {}
    for part, members, sizes in (
        ("actor", 1, actor_sizes(config, nobs, nu)),
        ("critic", config.critics, critic_sizes(config, nobs, nu)),
    ):
        for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            out[f"{part}.{index}.weight"] = (members, inputs, outputs)
            out[f"{part}.{index}.bias"] = (members, 1, outputs)
    return out


def input_gain(task: Task, inputs: str = "") -> Singles:
    """What each entry of an observation is multiplied by before a network sees it, (nobs,).

    1 / scale where the task names a scale, 1 where it does not, 0 for what is no input. No statistics of the data: a
    critic whose inputs move forgets what it knew.

    Args:
        task: Whose observations.
        inputs: Groups that are inputs, separated by commas; empty: all but the task's `added` ones.

    Raises:
        ValueError: An unknown group.
    """
    spec = task.observation_spec
    gain = np.where(np.isfinite(spec.scale), 1.0 / spec.scale, 1.0)
    return np.where(used_inputs(task, inputs), gain, 0.0).astype(np.float32)


def used_inputs(task: Task, inputs: str = "") -> npt.NDArray[np.bool_]:
    """Which entries of an observation a learned function depends on, (nobs,); arguments and errors as input_gain's."""
    spec = task.observation_spec
    return spec.mask(inputs or ",".join(name for name, _ in spec.groups if name not in task.added))


class ActionRange:
    """Between actions in the robot's units and those that networks work in, -1 .. 1 within the actuators' range.

    An actuator without a range is taken to have one of -1 .. 1.

    Args:
        task: Whose actions.
    """

    def __init__(self, task: Task) -> None:
        self.bounded = np.isfinite(task.action_low) & np.isfinite(task.action_high)  # (nu,) whether there is a range
        self.scale = task.action_scale
        self.low = np.where(self.bounded, task.action_low, -1.0)
        self.high = np.where(self.bounded, task.action_high, 1.0)
        self.centre = 0.5 * (self.low + self.high)

    def normalise(self, actions: Floats) -> Singles:
        """Actions (..., nu) in -1 .. 1."""
        return np.asarray((actions - self.centre) / self.scale, np.float32)

    def physical(self, actions: Floats) -> FloatArray:
        """Actions (..., nu) in the robot's units, within range, of actions in -1 .. 1."""
        out = np.multiply(actions, self.scale, dtype=np.float64)
        out += self.centre
        # centre + scale may be a bit above the range.
        return np.clip(out, self.low, self.high, out=out)


class ActorPolicy:
    """The policy of one actor, in float32: see planners/policy.py. An instance belongs to one thread.

    Args:
        task: Whose observations and actions.
        config: As the learner's.
        arrays: Weights that passed `weights.decode` with `shapes`.
    """

    def __init__(self, task: Task, config: ActorCriticConfig, arrays: Arrays) -> None:
        self.nobs, self.nu = task.observation_spec.size, task.model.nu
        self._range = ActionRange(task)
        weights, biases = layers(arrays, "actor")
        weights[0] = weights[0] * input_gain(task, config.inputs)[:, None]
        self._net = Networks(weights, biases)

    def mean(self, observations: Floats) -> FloatArray:
        """The action without noise, (..., nu) of observations (..., nobs): tanh of the Gaussian's mean, in range."""
        found = self._gaussian(observations)[:, : self.nu]
        return self._out(np.tanh(found), observations)

    def sample(self, observations: Floats, rng: np.random.Generator) -> FloatArray:
        """Actions drawn from the policy, (..., nu) of observations (..., nobs), in range."""
        found = self._gaussian(observations)
        noise = rng.standard_normal((len(found), self.nu), dtype=np.float32)
        noise *= np.exp(np.clip(found[:, self.nu :], LOG_STD_LOW, LOG_STD_HIGH))
        noise += found[:, : self.nu]
        return self._out(np.tanh(noise, out=noise), observations)

    def _gaussian(self, observations: Floats) -> Singles:
        """Mean and log standard deviation before tanh, (n, 2 nu)."""
        _check_last(observations, self.nobs, "observation")
        return np.asarray(self._net(observations.reshape(-1, self.nobs))[0])

    def _out(self, actions: Singles, observations: Floats) -> FloatArray:
        return self._range.physical(actions).reshape(*observations.shape[:-1], self.nu)


class CriticFunction:
    """Action values of K critics, in float32. An instance belongs to one thread.

    Args:
        task: Whose observations and actions.
        config: As the learner's.
        arrays: Weights that passed `weights.decode` with `shapes`.
        reduction: What `values` makes of the members: their `min`, `mean`, or the `first` alone.

    Raises:
        ValueError: Unknown reduction.
    """

    def __init__(self, task: Task, config: ActorCriticConfig, arrays: Arrays, reduction: str = "min") -> None:
        check_reduction(reduction)
        self.nobs, self.nu = task.observation_spec.size, task.model.nu
        self.reduction = reduction
        weights, biases = layers(arrays, "critic")
        if reduction == "first":  # nobody asks the others
            weights, biases = [w[:1] for w in weights], [b[:1] for b in biases]
        # Units are part of the first layer, so that no call has to convert them.
        scale = ActionRange(task)
        gain = np.concatenate([input_gain(task, config.inputs), 1.0 / scale.scale])
        offset = np.concatenate([np.zeros(self.nobs), -scale.centre / scale.scale])
        biases[0] = biases[0] + offset @ weights[0].astype(np.float64)[:, None]
        weights[0] = weights[0] * gain[:, None]
        self._net = Networks(weights, biases)

    def members(self, observations: Floats, actions: Floats) -> Singles:
        """Each member's value, (K, ...) of observations (..., nobs) and actions (..., nu) in the robot's units."""
        _check_last(observations, self.nobs, "observation")
        _check_last(actions, self.nu, "action")
        batch = observations.shape[:-1]
        flat = self._net(observations.reshape(-1, self.nobs), actions.reshape(-1, self.nu))
        return np.asarray(flat[..., 0].reshape(-1, *batch))

    def values(self, observations: Floats, actions: Floats) -> Singles:
        """Value (...) of observations (..., nobs) and actions (..., nu), in units of reward."""
        return np.asarray(reduce_members(self.members(observations, actions), self.reduction))


def check_reduction(reduction: str) -> None:
    """Raise ValueError if there is no such way to make one value of several."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"unknown reduction '{reduction}'; reductions: {', '.join(REDUCTIONS)}")


def reduce_members(values: Any, reduction: str) -> Any:
    """One value (...) of the members' (K, ...), a numpy array or a tensor."""
    if reduction == "first":
        return values[0]
    if reduction == "mean":
        return values.mean(0)
    return values.min(0) if isinstance(values, np.ndarray) else values.amin(0)


class Networks:
    """Networks (K, nin, n) with ReLU, in chunks whose activations stay in the cache; buffers are kept between calls."""

    CHUNK = 512

    def __init__(self, weights: Sequence[Floats], biases: Sequence[Floats]) -> None:
        self._weights = [np.ascontiguousarray(weight, np.float32) for weight in weights]
        self._biases = [np.ascontiguousarray(bias, np.float32) for bias in biases]
        self._buffers: list[Singles] = []

    def __call__(self, *inputs: Floats) -> Singles:
        """Outputs (K, n, nout) of inputs (n, ...), whose columns stand side by side in the given order."""
        n = len(inputs[0])
        out = np.empty((len(self._weights[0]), n, self._weights[-1].shape[2]), np.float32)
        for start in range(0, n, self.CHUNK):
            stop = min(start + self.CHUNK, n)
            self._run([part[start:stop] for part in inputs], out[:, start:stop])
        return out

    def _run(self, inputs: Sequence[Floats], out: Singles) -> None:
        n = len(inputs[0])
        if not self._buffers or self._buffers[0].shape[0] < n:
            members = len(self._weights[0])
            self._buffers = [np.empty((n, self._weights[0].shape[1]), np.float32)]
            self._buffers += [np.empty((members, n, weight.shape[2]), np.float32) for weight in self._weights]
        h = np.concatenate(inputs, axis=1, out=self._buffers[0][:n], casting="same_kind")
        last = len(self._weights) - 1
        for index, (weight, bias) in enumerate(zip(self._weights, self._biases, strict=True)):
            h = np.matmul(h, weight, out=self._buffers[index + 1][:, :n])
            h += bias
            if index < last:
                np.maximum(h, 0.0, out=h)
        out[:] = h


def layers(arrays: Arrays, part: str) -> tuple[list[Floats], list[Floats]]:
    """Weights (K, nin, n) and biases (K, 1, n) of one part, layer by layer."""
    count = sum(name.startswith(f"{part}.") and name.endswith(".weight") for name in arrays)
    weights: list[Floats] = [arrays[f"{part}.{index}.weight"] for index in range(count)]
    biases: list[Floats] = [arrays[f"{part}.{index}.bias"] for index in range(count)]
    return weights, biases


def _check_last(values: Floats, size: int, word: str) -> None:
    if values.shape[-1] != size:
        raise ValueError(f"{word} has {values.shape[-1]} entries, expected {size}")
