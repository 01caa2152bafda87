"""Learns a policy, its values and a dynamics model from a dataset alone: dataset in, weights out.

Sikchi et al. 2021, "Learning Off-Policy with Online Planning", section 5.2: whatever learns values offline gives LOOP
its terminal value and its actor; the model is fitted to the same data.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from polo_ros.learning import checkpoint as checkpoints
from polo_ros.learning import offline_policy
from polo_ros.learning.actor_critic import used_inputs
from polo_ros.learning.crr import Crr
from polo_ros.learning.dynamics_fit import FitError, FitProgress, FitReport, fit
from polo_ros.learning.gaussian_ensemble import GaussianEnsemble
from polo_ros.learning.loop_weights import MODEL
from polo_ros.learning.mbop import Mbop
from polo_ros.learning.offline_algorithm import OfflineAlgorithm
from polo_ros.learning.offline_batches import OfflineBatches, OfflineError
from polo_ros.learning.offline_config import ALGORITHMS, OfflineConfig
from polo_ros.learning.online_learner import settings_of
from polo_ros.learning.plas import Plas
from polo_ros.learning.weights import Arrays, Weights, under
from polo_ros.replay.dataset import Dataset
from polo_ros.seeding import Stream, generator
from polo_ros.tasks.base import Task

__all__ = ["Diverged", "OfflineError", "OfflineLearner"]

_OPEN = ("train.updates", "train.log_every", "train.save_every")  # change nothing that is learned


class Diverged(OfflineError):
    """A training that came to nothing that could be used; what it had learned before is kept."""


class OfflineLearner:
    """Learns by updates, of which each is determined by seed and number: a pause between two leaves no trace.

    torch is set to one thread, for the process.

    Args:
        task: What is learned.
        data: What is learned from.
        algorithm: One of ALGORITHMS.
        config: Settings.
        seed: Of every random number.

    Attributes:
        done: Updates made, those of `preparation` included.
        total: Updates that `config` asks for, likewise.
        report: Of the model's fit; None: not fitted by this instance.

    Raises:
        DatasetError: Data of another task or model.
        OfflineError: Nothing in it can be learned from.
        ValueError: Unknown algorithm.
    """

    CHUNK = 64  # updates whose transitions are gathered at once, and after which all is checked
    # Means of values this many times what rewards can add up to are no values any more.
    BEYOND = 10.0

    def __init__(
        self, task: Task, data: Dataset, algorithm: str, config: OfflineConfig | None = None, seed: int = 0
    ) -> None:
        if algorithm not in ALGORITHMS:
            raise ValueError(f"unknown algorithm '{algorithm}'; algorithms: {', '.join(ALGORITHMS)}")
        torch.set_num_threads(1)
        self.config = config or OfflineConfig()
        self.algorithm = algorithm
        self.seed = seed
        self._task = task
        train, networks = self.config.train, self.config.networks
        self.batches = OfflineBatches(
            task, data, networks.inputs, train.standardise, train.holdout, generator(seed, Stream.DATA)
        )
        self.discount = train.discount or task.discount
        nobs, nu = task.observation_spec.size, int(task.model.nu)
        common: tuple[Any, ...] = (nobs, nu, self.discount, generator(seed, Stream.WEIGHTS))
        self._returns: npt.NDArray[np.float32] | None = None
        self._followed = False
        self._learned: OfflineAlgorithm
        if algorithm == "crr":
            self._learned = Crr(networks, self.config.crr, *common)
        elif algorithm == "plas":
            self._learned = Plas(networks, self.config.plas, *common)
        else:
            self._learned = Mbop(networks, self.config.mbop, *common)
            if self.config.mbop.value == "returns":
                self._returns = self.batches.returns(self.discount, self.config.mbop.return_steps)
            else:
                self._followed = True
                self.batches.only_followed()
        if not len(self.batches.usable):
            raise OfflineError(f"none of {len(data)} rows of the data can be learned from")
        self.ensemble: GaussianEnsemble | None = None
        if train.model:
            self.ensemble = GaussianEnsemble(
                self.config.ensemble,
                nobs,
                nu,
                generator(seed, Stream.WEIGHTS, 1),
                used_inputs(task, self.config.ensemble.inputs),
            )
        self.report: FitReport | None = None
        self._model_figures: dict[str, float] = {}
        self.done = 0
        self._limit = self._largest_value()

    # ---- learning --------------------------------------------------------------------------

    @property
    def preparation(self) -> int:
        """Updates of something else before those of actor and critics."""
        return self._learned.preparation

    @property
    def total(self) -> int:
        """Updates to be made in all."""
        return self._learned.preparation + self.config.train.updates

    @property
    def model_missing(self) -> bool:
        """Whether a model is wanted that is not fitted yet."""
        return self.ensemble is not None and not self._model_figures

    @property
    def whole(self) -> bool:
        """Whether there is something to act by: a model, if one is wanted, and updates of actor and critics."""
        return not self.model_missing and self.done > self.preparation

    def fit_model(self, progress: Callable[[FitProgress], None] | None = None) -> dict[str, float]:
        """Fit the dynamics ensemble; returns figures by name.

        Args:
            progress: Called after each epoch; what it raises ends the fit and leaves no trace of it.

        Raises:
            OfflineError: Too little data, or a fit that came to numbers that are not finite.
        """
        if self.ensemble is None:
            raise ValueError("train.model = False: there is no model to fit")
        data = self.batches.for_model(self.config.train.model_transitions)
        try:
            rng = generator(self.seed, Stream.MODEL)
            self.report = fit(self.ensemble, data, self.config.fit, rng, progress, self._task)
        except FitError as error:
            raise OfflineError(f"the model: {error}") from None
        self._model_figures = dict(sorted(self.report.metrics().items()))
        return dict(self._model_figures)

    def advance(self, updates: int) -> dict[str, float]:
        """Make updates; returns their mean figures by name: of those of the last kind, where there are two.

        Args:
            updates: How many.

        Raises:
            Diverged: They came to numbers that are not finite, or to values that rewards cannot add up to.
                Everything is as it was after the last update before that was checked.
        """
        sums: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        end = self.done + updates
        while self.done < end:
            # A chunk is drawn whole, wherever in it one begins: that is what makes pauses leave no trace.
            chunk, skipped = divmod(self.done, self.CHUNK)
            # Two kinds of updates are told apart.
            here = self.preparation if self.done < self.preparation else end
            stop = min(end - self.done, here - self.done, self.CHUNK - skipped) + skipped
            kept = self._keep()
            try:
                found = self._chunk(chunk, skipped, stop)
            except BaseException:  # in the midst of a chunk: what is saved then must be what `done` says
                self._take_back(kept)
                raise
            problem = self._problem(found, stop - skipped)
            if problem:
                self._take_back(kept)
                raise Diverged(f"training diverged after update {self.done}, which is kept: {problem}")
            self.done += stop - skipped
            sums.update(found)
            counts.update({name: stop - skipped for name in found})
        return {name: total / counts[name] for name, total in sums.items()}

    def _chunk(self, chunk: int, first: int, stop: int) -> Counter[str]:
        """Sums of the figures of the updates `first` to `stop` of a chunk."""
        train, learned = self.config.train, self._learned
        rng = generator(self.seed, Stream.UPDATE, chunk)
        size = train.batch_size
        batches = self.batches.draw(rng, self.CHUNK, size, followed=self._followed, returns=self._returns)
        count, width = learned.noise_shape
        noise = torch.tensor(rng.standard_normal((self.CHUNK, count, size, width), dtype=np.float32))
        sums: Counter[str] = Counter()
        for index, batch in enumerate(batches):
            if first <= index < stop:
                preparing = chunk * self.CHUNK + index < learned.preparation
                sums.update((learned.prepare if preparing else learned.step)(batch, noise[index]))
        return sums

    def _problem(self, sums: Counter[str], updates: int) -> str:
        """What is wrong with networks or figures; empty: nothing."""
        for name, net in self._learned.networks.items():
            if not bool(torch.isfinite(net.theta).all()):
                return f"the weights of '{name}' are not finite"
        for name, total in sums.items():
            if not math.isfinite(total):
                return f"{name} is not finite"
        value = sums.get("value", 0.0) / updates
        if abs(value) > self.BEYOND * self._limit:
            return f"values are {value:.3g} in the mean, and rewards add up to {self._limit:.3g} at most"
        return ""

    def _largest_value(self) -> float:
        """What rewards can add up to at most; at least 1, as values begin near 0 and not at it."""
        reward = self.batches.data.reward
        largest = max(abs(float(reward.max())), abs(float(reward.min())))
        return max(1.0, largest / (1.0 - self.discount)) if self.discount < 1.0 else math.inf

    def _keep(self) -> list[torch.Tensor]:
        return [vector.clone() for vector in self._vectors()]

    def _take_back(self, kept: list[torch.Tensor]) -> None:
        for vector, before in zip(self._vectors(), kept, strict=True):
            vector.copy_(before)
        # Counts of Adam follow from what was made: one of `prepare` or one of `step` each.
        for name, adam in self._learned.adams.items():
            adam.steps = self._steps_of(name)

    def _steps_of(self, name: str) -> int:
        prepared = min(self.done, self.preparation)
        return prepared if name in ("encoder", "decoder") else self.done - prepared

    def _vectors(self) -> list[torch.Tensor]:
        vectors = [net.theta for net in self._learned.networks.values()]
        for adam in self._learned.adams.values():
            vectors += [adam.mean, adam.square]
        return vectors

    # ---- what came of it -------------------------------------------------------------------

    def weights(self) -> Weights:
        """What was learned by now, as planners read it: OfflinePolicy."""
        arrays: Arrays = {}
        for name in self._learned.exported:
            arrays.update(self._learned.networks[name].arrays(name))
            self.batches.inputs.fold(arrays, name)
        if self.ensemble is not None:
            arrays.update({MODEL + name: array for name, array in self.ensemble.arrays().items()})
        training = hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]
        return Weights(self.algorithm, self._task.name, self._task.model_hash, self.done, 0, arrays, training)

    def metrics(self) -> dict[str, float]:
        """Figures of policy and model by name, of rows that were held out; nothing is drawn.

        `action_distance`: root mean square, over rows and actuators, of policy less recorded action, in half control
        ranges. `action_outside`: share of the policy's actions, actuator by actuator, beyond the data's range.
        `model_...`: see FitReport.
        """
        out = {f"model_{name}": value for name, value in self._model_figures.items()}
        held = self.batches.held
        if not len(held):
            return out
        policy = offline_policy.make_policy(self.algorithm, self._task, self.config, self.weights().arrays)
        data, scale = self.batches.data, self.batches.range
        actions, recorded = policy.mean(data.observation[held]), data.action[held]
        off = scale.normalise(actions) - scale.normalise(recorded)
        # Data are float32: an action at their very edge is not outside.
        slack = 1e-5 * scale.scale
        outside = (actions < self.batches.action_low - slack) | (actions > self.batches.action_high + slack)
        out["action_distance"] = math.sqrt(float(np.square(off, dtype=np.float64).mean()))
        out["action_outside"] = float(outside.mean())
        return out

    # ---- saved and restored whole ----------------------------------------------------------

    def settings(self) -> dict[str, Any]:
        """Settings that count for this algorithm, by dotted names."""
        config = self.config
        parts = {"networks": config.networks, self.algorithm: getattr(config, self.algorithm), "train": config.train}
        if config.train.model:
            parts.update(ensemble=config.ensemble, fit=config.fit)
        return settings_of(**parts)

    def identity(self) -> dict[str, Any]:
        """All that decides what is learned, by name."""
        settings = {name: value for name, value in self.settings().items() if name not in _OPEN}
        return {**settings, "seed": self.seed, "data": self.batches.data.digest}

    def save(self, path: Path) -> None:
        """Write a checkpoint from which `restore` goes on exactly."""
        checkpoints.save(
            path,
            checkpoints.Checkpoint(
                kind=f"offline_{self.algorithm}",
                task=self._task.name,
                model_hash=self._task.model_hash,
                config=self.settings(),
                state={
                    "seed": self.seed,
                    "data": self.batches.data.digest,
                    "done": self.done,
                    "model": self._model_figures,
                },
                arrays=self._arrays(),
            ),
        )

    def restore(self, path: Path) -> tuple[str, ...]:
        """Go on from a checkpoint of the same algorithm, settings, seed and data; returns warnings to pass on.

        How many updates are made, logged and saved may differ. Nothing changes if it raises.

        Raises:
            FileNotFoundError: No checkpoint there.
            CheckpointError: It is damaged, or of something else.
        """
        spec = {name: (array.dtype, array.shape) for name, array in self._arrays().items()}
        found = checkpoints.load(
            path,
            kind=f"offline_{self.algorithm}",
            task=self._task.name,
            model_hash=self._task.model_hash,
            spec=spec,
        )
        state, arrays = found.state, found.arrays
        before = {**found.config, "seed": state.get("seed"), "data": state.get("data")}
        if changed := differences(before, self.identity()):
            raise checkpoints.CheckpointError(f"checkpoint {path} is of another training: {changed}")
        done, figures = state.get("done"), state.get("model")
        if not isinstance(done, int) or isinstance(done, bool) or done < 0 or not isinstance(figures, dict):
            raise checkpoints.CheckpointError(f"checkpoint {path}: done is {done!r} and model {figures!r}")
        elites: tuple[int, ...] = ()
        if self.ensemble is not None:
            try:
                elites = self.ensemble.check_elites(arrays["elites"])
            except ValueError as error:
                raise checkpoints.CheckpointError(f"checkpoint {path}: {error}") from None
        self.done, self._model_figures = done, {str(name): float(value) for name, value in sorted(figures.items())}
        for name, net in self._learned.networks.items():
            net.load(arrays, name)
        for name, adam in self._learned.adams.items():
            net = self._learned.networks[name]
            net.load(arrays, f"adam.{name}.mean", adam.mean)
            net.load(arrays, f"adam.{name}.square", adam.square)
            adam.steps = self._steps_of(name)
        if self.ensemble is not None:
            self.ensemble.load(under(arrays, MODEL), elites)
        return found.warnings

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, net in self._learned.networks.items():
            arrays.update(net.arrays(name))
        for name, adam in self._learned.adams.items():
            net = self._learned.networks[name]
            arrays.update(net.arrays(f"adam.{name}.mean", adam.mean))
            arrays.update(net.arrays(f"adam.{name}.square", adam.square))
        if self.ensemble is not None:
            everyone = self.ensemble.arrays(range(self.ensemble.config.members))
            arrays.update({MODEL + name: array for name, array in everyone.items()})
            arrays["elites"] = np.array(self.ensemble.elites, np.int64)
        return arrays


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In words, in what `identity` was another one; empty: in nothing that changes what is learned."""
    names = [name for name in {**before, **now} if name not in _OPEN and before.get(name) != now.get(name)]
    return ", ".join(f"{name} was {before.get(name)} and is {now.get(name)} now" for name in names)
