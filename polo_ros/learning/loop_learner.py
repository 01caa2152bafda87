"""LOOP's learner: soft actor-critic beside a dynamics ensemble, both from the same transitions.

Sikchi et al. 2021, "Learning Off-Policy with Online Planning", section 5 and Figure 1: values are learned off-policy
and without planning; the model is fitted again from time to time on all that was seen.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from polo_ros.learning import checkpoint as checkpoints
from polo_ros.learning import loop_weights
from polo_ros.learning.actor_critic import ActorCriticConfig, used_inputs
from polo_ros.learning.dynamics_fit import FitError, FitReport, Transitions, fit
from polo_ros.learning.fit_config import FitConfig
from polo_ros.learning.gaussian_ensemble import EnsembleConfig, GaussianEnsemble
from polo_ros.learning.online_learner import settings_of
from polo_ros.learning.sac import SacLosses
from polo_ros.learning.sac_config import SacConfig
from polo_ros.learning.sac_learner import SacLearner, SacMetrics
from polo_ros.learning.weights import Weights, under
from polo_ros.seeding import Stream, generator
from polo_ros.tasks.base import Task

__all__ = ["LoopLearner", "LoopMetrics"]


@dataclass(frozen=True)
class LoopMetrics(SacMetrics):
    """How one update went, that of the model included."""

    model_ms: float = 0.0
    model: dict[str, float] = field(default_factory=dict)  # of a fit that this update has made; see FitReport.metrics

    def figures(self) -> dict[str, float]:
        """How the fits went, by name."""
        return {
            **super().figures(),
            "model_ms": self.model_ms,
            **{f"model_{name}": value for name, value in self.model.items()},
        }


class LoopLearner(SacLearner):
    """A SacLearner that fits a dynamics ensemble as well.

    The ensemble is fitted anew, from its last weights and on everything in the buffer but what was unforeseen, with the
    first update of every `fit.every` control periods, from the first on: also before actor and critics learn.

    Args:
        task: What is learned.
        networks: Sizes of actor and critics.
        config: Schedule and losses of actor and critics.
        ensemble: Sizes of the model; None: none is learned.
        fit: How and when it is fitted.
        values: Whether actor and critics are learned; without it they stay as they begin.
        seed: Of every random number.
    """

    KEPT = "loop"

    def __init__(
        self,
        task: Task,
        *,
        networks: ActorCriticConfig | None = None,
        config: SacConfig | None = None,
        ensemble: EnsembleConfig | None = None,
        fit: FitConfig | None = None,
        values: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(task, networks=networks, config=config, seed=seed)
        self.fit_config = fit or FitConfig()
        self.ensemble: GaussianEnsemble | None = None
        if ensemble is not None:
            self.ensemble = GaussianEnsemble(
                ensemble,
                task.observation_spec.size,
                task.model.nu,
                generator(seed, Stream.WEIGHTS, 1),
                used_inputs(task, ensemble.inputs),
            )
        self._values = values
        self.fits = 0
        self._fitted = 0  # number of the last period of `fit.every` steps that a fit was made in
        self.report: FitReport | None = None  # of the newest fit

    def update(self) -> LoopMetrics:
        """Fit the model if it is time, and make the gradient steps of one update.

        A fit that is refused, or undone, leaves the model as it is, and the message says why.
        """
        began = time.perf_counter()
        model, problem = self._fit_model()
        model_ms = 1e3 * (time.perf_counter() - began)
        if problem:
            self.message = self.message or problem
        found = super().update()
        values = {entry.name: getattr(found, entry.name) for entry in dataclasses.fields(SacMetrics)}
        return LoopMetrics(**values, model_ms=model_ms, model=model)

    def weights(self) -> Weights:
        """What was learned by now, for planners."""
        found = super().weights()
        arrays = found.arrays
        if self.ensemble is not None:
            arrays = loop_weights.join(arrays, self.ensemble.arrays(), self.fits)
        return dataclasses.replace(found, kind=loop_weights.KIND, arrays=arrays)

    def _fit(self, rng: np.random.Generator) -> tuple[SacLosses | None, str]:
        return super()._fit(rng) if self._values else (None, "")

    def _fit_model(self) -> tuple[dict[str, float], str]:
        """Figures of a fit, and why none was made that was due."""
        period = (self.last_step + 1) // self.fit_config.every
        if self.ensemble is None or period <= self._fitted:
            return {}, ""
        self._fitted = period
        indexes = np.arange(len(self.buffer))
        taken = [self.buffer.take(name, indexes) for name in ("observation", "action", "reward", "next_observation")]
        unforeseen = np.asarray(self._task.unforeseen(taken[0], taken[3]))
        if unforeseen.any():
            taken, indexes = [values[~unforeseen] for values in taken], indexes[~unforeseen]
        rng = generator(self.seed, Stream.MODEL, self.fits)
        try:
            data = dataclasses.replace(Transitions(*taken), places=indexes)
            self.report = fit(self.ensemble, data, self.fit_config, rng, task=self._task)
        except FitError as error:
            return {}, str(error)
        self.fits += 1
        return self.report.metrics(), ""

    # ---- saved and restored whole ----------------------------------------------------------

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        arrays = super()._arrays()
        if self.ensemble is not None:
            everyone = self.ensemble.arrays(range(self.ensemble.config.members))
            arrays.update({loop_weights.MODEL + name: array for name, array in everyone.items()})
            arrays["elites"] = np.array(self.ensemble.elites, np.int64)
            arrays["fits"] = np.array([self.fits, self._fitted], np.int64)
        return arrays

    def _check(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        super()._check(arrays)
        if self.ensemble is not None:
            self.ensemble.check_elites(arrays["elites"])

    def _load(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        super()._load(arrays)
        if self.ensemble is not None:
            self.ensemble.load(under(arrays, loop_weights.MODEL), self.ensemble.check_elites(arrays["elites"]))
            self.fits, self._fitted = (int(count) for count in arrays["fits"])

    def _settings(self) -> dict[str, Any]:
        settings = super()._settings()
        if self.ensemble is not None:
            settings.update(settings_of(ensemble=self.ensemble.config, fit=self.fit_config))
        return settings

    def _spec(self) -> checkpoints.Spec:
        spec = dict(super()._spec())
        if self.ensemble is not None:
            config, single, whole = self.ensemble.config, np.dtype(np.float32), np.dtype(np.int64)
            layout = loop_weights.model_shapes(config, self.ensemble.nobs, self.ensemble.nu, config.members)
            spec.update({name: (single, shape) for name, shape in layout.items()})
            spec["elites"], spec["fits"] = (whole, (config.used,)), (whole, (2,))
        return spec
