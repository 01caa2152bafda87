"""POLO's learner: Algorithm 1, lines 4 to 9 (Lowrey et al. 2019, "Plan Online, Learn Offline")."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from polo_ros.dynamics.base import Dynamics
from polo_ros.learning import checkpoint as checkpoints
from polo_ros.learning.learner_config import LearnerConfig
from polo_ros.learning.normaliser import Normaliser
from polo_ros.learning.online_learner import OnlineLearner, settings_of
from polo_ros.learning.targets import TargetConfig, TargetPlanner, chosen
from polo_ros.learning.value_ensemble import KIND, ValueConfig, ValueEnsemble, regression_loss, shapes
from polo_ros.learning.weights import Weights, WeightsError, read_initial, under
from polo_ros.replay.transition import Transition
from polo_ros.seeding import Stream, generator
from polo_ros.tasks.base import FloatArray, Task
from polo_ros.tensors import float32

__all__ = ["LearnerConfig", "LearnerMetrics", "PoloLearner", "TargetNoise"]


@dataclass(frozen=True)
class LearnerMetrics:
    """How one update went: LearnerStatus without ROS. Values in units of reward; nan: nothing was fitted."""

    step: int  # newest transition seen; of several robots their mean
    version: int
    transitions: int  # in the buffer
    transitions_lost: int
    transitions_refused: int
    updates: int
    updates_skipped: int
    lag_s: float  # s, of the newest transition behind the update's schedule
    value_loss: float  # mean squared error, eq. 5's first term
    target_mean: float
    target_std: float
    value_mean: float
    value_spread: float
    target_ms: float
    fit_ms: float
    message: str

    def figures(self) -> dict[str, float]:
        """How the fit went, by name."""
        names = ("value_loss", "target_mean", "target_std", "value_mean", "value_spread", "target_ms", "fit_ms")
        return {name: getattr(self, name) for name in names}


class PoloLearner(OnlineLearner):
    """Learns the value ensemble from transitions.

    The state of the random numbers is (seed, number of the update) and (seed, number of the transition):
    the same transitions and schedule give the same weights, bit for bit, whichever process learns.

    Args:
        task: What is learned.
        dynamics: The model that targets are planned on; `close` closes it.
        value: Settings of the ensemble.
        targets: Settings of the targets.
        learner: Settings of schedule and regression.
        seed: Of every random number.
        robots: How many robots transitions come from, each with a numbering of its own.
    """

    KEPT = "polo"

    def __init__(
        self,
        task: Task,
        dynamics: Dynamics,
        *,
        value: ValueConfig | None = None,
        targets: TargetConfig | None = None,
        learner: LearnerConfig | None = None,
        seed: int = 0,
        robots: int = 1,
    ) -> None:
        self.config = learner or LearnerConfig()
        super().__init__(task, self.config.capacity, seed, robots)
        self.value_config = value or ValueConfig()
        self.target_config = targets or TargetConfig()
        nobs = task.observation_spec.size
        self.ensemble = ValueEnsemble(
            self.value_config, nobs, self.value_config.value_scale(task.discount), generator(seed, Stream.WEIGHTS)
        )
        self._normaliser = Normaliser(
            nobs,
            self.config.normaliser_transitions,
            task.observation_spec.scale,
            task.observation_spec.mask(self.value_config.inputs),
        )
        if self.value_config.initial:
            self._begin_with(self.value_config.initial)
        self._dynamics = dynamics
        self._planner = TargetPlanner(task, dynamics, self.target_config)
        self._optimiser = torch.optim.Adam(self.ensemble.parameters(), lr=self.config.learning_rate)
        self._noise = TargetNoise(seed, self.value_config.members)

    def _begin_with(self, name: str) -> None:
        task, ensemble = self._task, self.ensemble
        arrays = read_initial(name, KIND, task.name, task.model_hash, shapes(self.value_config, ensemble.nobs))
        for word, scale in (("value_scale", ensemble.value_scale), ("prior_scale", self.value_config.prior_scale)):
            if arrays[word][0] != np.float32(scale):
                raise WeightsError(
                    f"initial weights '{name}': {word} is {arrays[word][0]:g}, the settings give {scale:g}"
                )
        ensemble.load(arrays)
        self._normaliser.adopt(arrays["obs_mean"], arrays["obs_std"], arrays["data_low"], arrays["data_high"])

    @property
    def update_every(self) -> int:
        """Control periods between two updates (Algorithm 1, line 5)."""
        return self.config.update_every

    def observe(self, transition: Transition, robot: int = 0) -> bool:
        """Keep a transition (line 4); see OnlineLearner."""
        kept = super().observe(transition, robot)
        if kept:
            self._normaliser.add(transition.observation)
        return kept

    def close(self) -> None:
        """Stop the threads of the model that targets are planned on."""
        self._dynamics.close()

    # ---- the update ------------------------------------------------------------------------

    def update(self) -> LearnerMetrics:
        """Plan targets and regress on them (lines 6 to 9); always makes the version that the schedule names.

        Before `min_transitions`, where the model diverges from every state drawn, and where targets or fit are not
        finite, the weights stay as they are and the message says so.
        """
        number = self.updates
        self._next_version()
        message, self.message = self.message, ""
        fit = _Fit()
        if len(self.buffer) < self.config.min_transitions:
            few = f"{len(self.buffer)} transitions, fewer than min_transitions = {self.config.min_transitions}"
            message = message or few
        else:
            fit = self._fit(generator(self.seed, Stream.UPDATE, number))
            message = message or fit.message
        return LearnerMetrics(
            **self._progress(),
            value_loss=fit.value_loss,
            target_mean=fit.target_mean,
            target_std=fit.target_std,
            value_mean=fit.value_mean,
            value_spread=fit.value_spread,
            target_ms=fit.target_ms,
            fit_ms=fit.fit_ms,
            message=message,
        )

    def weights(self) -> Weights:
        """What was learned by now, for the planner."""
        return Weights(
            kind=KIND,
            task=self._task.name,
            model_hash=self._task.model_hash,
            version=self.version,
            effective_step=self.last_step + 1,
            arrays=self.ensemble.arrays(),
        )

    def _fit(self, rng: np.random.Generator) -> _Fit:
        config, ensemble, scale = self.config, self.ensemble, self.ensemble.value_scale
        began = time.perf_counter()
        wanted = config.gradient_steps * config.batch_size
        indexes = self.buffer.sample(rng, config.target_states or wanted)
        normaliser = self._normaliser
        ensemble.set_statistics(normaliser.mean, normaliser.std, normaliser.low, normaliser.high)
        futures = self._planner.futures(
            self._values,
            self.buffer.take("state", indexes),
            self.buffer.following_actions(indexes, self.target_config.horizon),
            rng,
        )
        usable = np.flatnonzero(futures.valid)
        planned = time.perf_counter()
        target_ms = 1e3 * (planned - began)
        if not len(usable):
            return _Fit(message=f"the model diverged from all {len(indexes)} states drawn", target_ms=target_ms)

        with torch.no_grad():
            kept = indexes[usable]
            z = ensemble.normalise(float32(self.buffer.take("observation", kept)))
            last = futures.last[usable]  # (B, M, nobs)
            z_last = ensemble.normalise(float32(last.reshape(-1, last.shape[-1])))
            returns = float32(futures.returns[usable] / scale)  # (B, M)
            discounts = float32(futures.discounts[usable])
            noise = float32(self.value_config.sigma * self._noise(self.buffer.serials(kept)))  # (K, B)
            # The priors are the same all through the update.
            prior, prior_last = ensemble.prior(z), ensemble.prior(z_last)
            rows, rollouts = returns.shape
            z_last = z_last.view(rows, rollouts, -1)
            prior_last = prior_last.view(-1, rows, rollouts)

        @torch.no_grad()
        def targets(pick: torch.Tensor) -> torch.Tensor:
            """y^k (K, b) of the states `pick` (b,), eq. 7, in value scales, by the current networks."""
            ends = z_last[pick]
            values = ensemble.learned(ends.reshape(-1, ends.shape[-1])).view(-1, *ends.shape[:2])
            values = values + prior_last[:, pick]
            return chosen(returns[pick] + discounts[pick] * values, self.target_config.choice)

        before = targets(torch.arange(rows))
        if not bool(torch.isfinite(before).all()):
            found = f"{int((~torch.isfinite(before)).sum())} of {before.numel()} targets are not finite"
            return _Fit(message=f"{found}: nothing was fitted", target_ms=target_ms)
        kept_parameters = [parameter.detach().clone() for parameter in ensemble.parameters()]
        kept_moments = copy.deepcopy(self._optimiser.state_dict())
        order = np.concatenate([rng.permutation(rows) for _ in range(-(-wanted // rows))])[:wanted]
        losses = 0.0
        for pick in torch.tensor(order).view(config.gradient_steps, config.batch_size):
            goal = before[:, pick] if config.bootstrap == "update" else targets(pick)
            predictions = ensemble.learned(z[pick]) + prior[:, pick]
            loss, error = regression_loss(
                predictions, goal + noise[:, pick], ensemble.penalty(), self.value_config, len(self.buffer)
            )
            self._optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            self._optimiser.step()
            losses += float(error.detach())
        if not all(bool(torch.isfinite(parameter).all()) for parameter in ensemble.parameters()):
            with torch.no_grad():
                for parameter, value in zip(ensemble.parameters(), kept_parameters, strict=True):
                    parameter.copy_(value)
            self._optimiser.load_state_dict(kept_moments)
            return _Fit(message="the fit gave weights that are not finite: the ones before stay", target_ms=target_ms)
        with torch.no_grad():
            values = scale * (ensemble.learned(z) + prior)
        return _Fit(
            value_loss=losses / config.gradient_steps * scale**2,
            target_mean=scale * float(before.mean()),
            target_std=scale * float(before.std(correction=0)),
            value_mean=float(values.mean()),
            value_spread=float(values.std(dim=0, correction=0).mean()),
            target_ms=target_ms,
            fit_ms=1e3 * (time.perf_counter() - planned),
        )

    @torch.no_grad()
    def _values(self, observations: FloatArray) -> npt.NDArray[np.float32]:
        """Members' values (K, n) of observations (n, nobs)."""
        return np.asarray(self.ensemble(float32(observations)).numpy())

    # ---- saved and restored whole ----------------------------------------------------------

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        arrays: dict[str, npt.NDArray[Any]] = {}
        arrays.update({f"value.{name}": array for name, array in self.ensemble.arrays().items()})
        arrays.update({f"normaliser.{name}": array for name, array in self._normaliser.arrays().items()})
        for index, parameter in enumerate(self.ensemble.parameters()):
            state = self._optimiser.state.get(parameter, {})
            for name in ("exp_avg", "exp_avg_sq"):
                moment = state.get(name, torch.zeros_like(parameter))
                arrays[f"adam.{index}.{name}"] = moment.numpy().copy()
            arrays[f"adam.{index}.step"] = np.array([float(state.get("step", 0.0))])
        return arrays

    def _load(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        self.ensemble.load(under(arrays, "value."))
        self._normaliser.load(under(arrays, "normaliser."))
        for index, parameter in enumerate(self.ensemble.parameters()):
            steps = float(arrays[f"adam.{index}.step"][0])
            if steps:
                self._optimiser.state[parameter] = {
                    "step": torch.tensor(steps),
                    "exp_avg": float32(arrays[f"adam.{index}.exp_avg"]),
                    "exp_avg_sq": float32(arrays[f"adam.{index}.exp_avg_sq"]),
                }
            else:
                self._optimiser.state.pop(parameter, None)

    def _settings(self) -> dict[str, Any]:
        return settings_of(value=self.value_config, targets=self.target_config, learner=self.config)

    def _spec(self) -> checkpoints.Spec:
        single, double = np.dtype(np.float32), np.dtype(np.float64)
        out: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        for name, shape in shapes(self.value_config, self.ensemble.nobs).items():
            out[f"value.{name}"] = (single, tuple(shape))
        for name, array in self._normaliser.arrays().items():
            out[f"normaliser.{name}"] = (double, array.shape)
        for index, parameter in enumerate(self.ensemble.parameters()):
            for name in ("exp_avg", "exp_avg_sq"):
                out[f"adam.{index}.{name}"] = (single, tuple(parameter.shape))
            out[f"adam.{index}.step"] = (double, (1,))
        return out


@dataclass(frozen=True)
class _Fit:
    """What an update found out; nothing, if nothing was fitted."""

    value_loss: float = math.nan
    target_mean: float = math.nan
    target_std: float = math.nan
    value_mean: float = math.nan
    value_spread: float = math.nan
    target_ms: float = 0.0
    fit_ms: float = 0.0
    message: str = ""


class TargetNoise:
    """Standard normal noise of each member on each transition's target, eq. 5's y~ before sigma.

    Eq. 5 asks for one noise per data point that stays: noise drawn anew at every update would average
    out, and with it the disagreement that it is there for. It is a function of the seed and the
    transition's serial number, so that nothing is stored with the data.

    Args:
        seed: Of the learner.
        members: K.
    """

    BLOCK = 256

    def __init__(self, seed: int, members: int) -> None:
        self._seed = seed
        self._members = members
        self._blocks: dict[int, npt.NDArray[np.float32]] = {}

    def __call__(self, serials: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Noise (K, n) of the transitions with these serial numbers (n,)."""
        numbers = np.unique(serials // self.BLOCK)
        self._blocks = {int(number): self._block(int(number)) for number in numbers}
        table = np.stack([self._blocks[int(number)] for number in numbers])
        rows = np.searchsorted(numbers, serials // self.BLOCK)
        return np.asarray(table[rows, serials % self.BLOCK].T)

    def _block(self, number: int) -> npt.NDArray[np.float32]:
        if number in self._blocks:
            return self._blocks[number]
        rng = generator(self._seed, Stream.TARGETS, number)
        return rng.standard_normal((self.BLOCK, self._members), dtype=np.float32)
