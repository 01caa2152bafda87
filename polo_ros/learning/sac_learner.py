"""The learner of soft actor-critic: transitions in, weights of actor and critics out."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from polo_ros.learning import checkpoint as checkpoints
from polo_ros.learning.actor_critic import KIND, ActionRange, ActorCriticConfig, input_gain, shapes
from polo_ros.learning.mlp import Mlp
from polo_ros.learning.online_learner import OnlineLearner, settings_of
from polo_ros.learning.sac import Batch, Sac, SacLosses
from polo_ros.learning.sac_config import SacConfig
from polo_ros.learning.weights import Weights
from polo_ros.seeding import Stream, generator
from polo_ros.tasks.base import Task
from polo_ros.tensors import float32

__all__ = ["SacLearner", "SacMetrics"]


@dataclass(frozen=True)
class SacMetrics:
    """How one update went, as means over its gradient steps; nan: nothing was fitted."""

    step: int  # newest transition seen
    version: int
    transitions: int  # in the buffer
    transitions_lost: int
    transitions_refused: int
    updates: int
    updates_skipped: int
    lag_s: float  # s, of the newest transition behind the update's schedule
    gradient_steps: int  # made in this update
    critic_loss: float  # mean squared error, in squared units of reward
    actor_loss: float
    value_mean: float  # mean target of the critics, in units of reward
    entropy: float  # nat, of the actor's actions in -1 .. 1
    temperature: float  # of the update's last step
    fit_ms: float
    message: str

    def figures(self) -> dict[str, float]:
        """How the fit went, by name; those that a value learned otherwise has too mean the same."""
        return {
            "value_loss": self.critic_loss,
            "target_mean": self.value_mean,
            "fit_ms": self.fit_ms,
            "gradient_steps": float(self.gradient_steps),
            "gradient_step_ms": self.fit_ms / self.gradient_steps if self.gradient_steps else math.nan,
            "actor_loss": self.actor_loss,
            "entropy": self.entropy,
            "temperature": self.temperature,
        }


class SacLearner(OnlineLearner):
    """Learns actor and critics from one robot's transitions.

    The state of the random numbers is (seed, number of the update): the same transitions and schedule give the same
    weights, bit for bit.

    Args:
        task: What is learned.
        networks: Sizes of actor and critics.
        config: Schedule and losses.
        seed: Of every random number.
    """

    CHUNK = 64  # gradient steps whose transitions are gathered at once
    KEPT = "sac"  # kind of its checkpoints

    def __init__(
        self,
        task: Task,
        *,
        networks: ActorCriticConfig | None = None,
        config: SacConfig | None = None,
        seed: int = 0,
    ) -> None:
        self.config = config or SacConfig()
        super().__init__(task, self.config.capacity, seed)
        self.networks = networks or ActorCriticConfig()
        nobs, nu = task.observation_spec.size, task.model.nu
        self._gain = input_gain(task, self.networks.inputs)
        self._range = ActionRange(task)
        discount = self.config.discount or task.discount
        self.sac = Sac(self.networks, self.config, nobs, nu, discount, generator(seed, Stream.WEIGHTS))

    @property
    def update_every(self) -> int:
        """Control periods between two updates."""
        return self.config.update_every

    def close(self) -> None:
        """There are no threads."""

    # ---- the update ------------------------------------------------------------------------

    def update(self) -> SacMetrics:
        """Make the gradient steps of one update; always makes the version that the schedule names.

        Before the warm-up is over, where there is nothing to learn from, and where the fit does not end in finite
        numbers, everything learned stays as it is and the message says so.
        """
        number = self.updates
        self._next_version()
        message, self.message = self.message, ""
        began = time.perf_counter()
        losses, problem = self._fit(generator(self.seed, Stream.UPDATE, number))
        return SacMetrics(
            **self._progress(),
            gradient_steps=0 if losses is None else self.config.gradient_steps,
            critic_loss=math.nan if losses is None else losses.critic,
            actor_loss=math.nan if losses is None else losses.actor,
            value_mean=math.nan if losses is None else losses.value,
            entropy=math.nan if losses is None else losses.entropy,
            temperature=self.sac.temperature,
            fit_ms=1e3 * (time.perf_counter() - began),
            message=message or problem,
        )

    def weights(self) -> Weights:
        """What was learned by now, for actors and planners."""
        arrays = {**self.sac.actor.net.arrays("actor"), **self.sac.critic.net.arrays("critic")}
        return Weights(
            kind=KIND,
            task=self._task.name,
            model_hash=self._task.model_hash,
            version=self.version,
            effective_step=self.last_step + 1,
            arrays=arrays,
        )

    def _fit(self, rng: np.random.Generator) -> tuple[SacLosses | None, str]:
        """Mean losses of an update; None, and why, where nothing was learned."""
        if self.last_step + 1 < self.config.warmup:
            return None, f"{self.last_step + 1} control periods, fewer than warmup = {self.config.warmup}"
        if not len(self.buffer):
            return None, "the replay buffer is empty: nothing to learn from"
        usable = self._followed() if self.config.next_action == "played" else None
        if usable is not None and not len(usable):
            return None, f"none of {len(self.buffer)} transitions is followed by a next one: nothing to learn from"
        kept = {name: vector.clone() for name, vector in self.sac.vectors().items()}
        counts = {name: adam.steps for name, adam in self.sac.adams.items()}
        total = np.zeros(len(dataclasses.fields(SacLosses)))
        for batch, noise in self._batches(rng, usable):
            total += dataclasses.astuple(self.sac.step(batch, noise))
        finite = all(bool(torch.isfinite(vector).all()) for vector in self.sac.vectors().values())
        if not (finite and np.isfinite(total).all()):
            for name, vector in self.sac.vectors().items():
                vector.copy_(kept[name])
            for name, adam in self.sac.adams.items():
                adam.steps = counts[name]
            return None, "the fit gave numbers that are not finite: the weights before stay"
        return SacLosses(*(total / self.config.gradient_steps)), ""

    def _batches(
        self, rng: np.random.Generator, usable: npt.NDArray[np.int64] | None
    ) -> Iterator[tuple[Batch, torch.Tensor]]:
        """Transitions and noise of each gradient step; transitions are drawn uniformly, with replacement."""
        config, buffer = self.config, self.buffer
        nu = self._task.model.nu
        for start in range(0, config.gradient_steps, self.CHUNK):
            steps = min(self.CHUNK, config.gradient_steps - start)
            rows = steps * config.batch_size
            indexes = buffer.sample(rng, rows) if usable is None else usable[rng.integers(len(usable), size=rows)]
            observations = self._gain * buffer.take("observation", indexes)
            actions = self._range.normalise(buffer.take("action", indexes))
            inputs = float32(np.concatenate((observations, actions), axis=1))
            rewards = float32(buffer.take("reward", indexes))
            ahead = float32(self._gain * buffer.take("next_observation", indexes))
            # Time limits are not the end: the value goes on behind them.
            not_terminal = float32(~buffer.take("terminated", indexes))
            played = None
            if usable is not None:
                played = float32(self._range.normalise(buffer.following_actions(indexes, 2)[:, 1]))
            noise = float32(rng.standard_normal((steps, 2, config.batch_size, nu), dtype=np.float32))
            for index in range(steps):
                part = slice(index * config.batch_size, (index + 1) * config.batch_size)
                next_action = None if played is None else played[part]
                yield Batch(inputs[part], rewards[part], ahead[part], not_terminal[part], next_action), noise[index]

    def _followed(self) -> npt.NDArray[np.int64]:
        """Indexes of transitions whose target is known from the record alone: terminal, or another one follows."""
        everything = np.arange(len(self.buffer))
        known = np.array(self.buffer.take("terminated", everything))
        step, episode = self.buffer.take("step", everything), self.buffer.take("episode", everything)
        known[:-1] |= (step[1:] == step[:-1] + 1) & (episode[1:] == episode[:-1])
        return np.flatnonzero(known)

    # ---- saved and restored whole ----------------------------------------------------------

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        arrays: dict[str, npt.NDArray[Any]] = {}
        for prefix, net, vector in self._networks():
            arrays.update(net.arrays(prefix, vector))
        for name, vector in self._scalars().items():
            arrays[name] = np.array(vector.numpy())
        arrays["adam.steps"] = np.array([adam.steps for adam in self.sac.adams.values()], np.int64)
        return arrays

    def _load(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        for prefix, net, vector in self._networks():
            net.load(arrays, prefix, vector)
        for name, vector in self._scalars().items():
            vector.copy_(torch.tensor(arrays[name]))
        for adam, steps in zip(self.sac.adams.values(), arrays["adam.steps"], strict=True):
            adam.steps = int(steps)

    def _networks(self) -> Iterator[tuple[str, Mlp, torch.Tensor]]:
        """Name, layout and vector of everything that is laid out as a network."""
        sac = self.sac
        for name, net in (("actor", sac.actor.net), ("critic", sac.critic.net), ("target", sac.target.net)):
            yield name, net, net.theta
            if name in sac.adams:
                yield f"adam.{name}.mean", net, sac.adams[name].mean
                yield f"adam.{name}.square", net, sac.adams[name].square

    def _scalars(self) -> dict[str, torch.Tensor]:
        vectors = self.sac.vectors()
        return {name: vectors[name] for name in vectors if name.endswith("temperature") or ".temperature." in name}

    def _settings(self) -> dict[str, Any]:
        return settings_of(networks=self.networks, sac=self.config)

    def _spec(self) -> checkpoints.Spec:
        single = np.dtype(np.float32)
        layers = shapes(self.networks, self._task.observation_spec.size, self._task.model.nu)
        out: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        for prefix, _, _ in self._networks():
            like = "actor" if "actor" in prefix else "critic"
            for name, shape in layers.items():
                part, _, rest = name.partition(".")
                if part == like:
                    out[f"{prefix}.{rest}"] = (single, tuple(shape))
        for name in self._scalars():
            out[name] = (single, (1,))
        out["adam.steps"] = (np.dtype(np.int64), (len(self.sac.adams),))
        return out
