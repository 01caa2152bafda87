"""Fits a dynamics ensemble to transitions: hold-out, early stopping, elites.

After LOOP (Sikchi et al. 2021, section 6.1) and the code that it descends from (Chua et al. 2018; Janner et al. 2019);
docs/algorithms/loop.md says what was chosen where they differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from polo_ros.learning.fit_config import FitConfig
from polo_ros.learning.gaussian_ensemble import GaussianEnsemble, gaussian_loss
from polo_ros.tasks.base import Task

__all__ = ["FitConfig", "FitError", "FitProgress", "FitReport", "Transitions", "fit", "horizon_error"]

Floats = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.int64]

_CHUNK = 1024  # rows of the hold-out evaluated at once
_AHEAD = 8  # steps, at most, that errors ahead are told of


class FitError(ValueError):
    """A fit that was refused, or undone; the ensemble is as it was before. The message says why."""


@dataclass(frozen=True)
class Transitions:
    """What happened, in the order in which it did."""

    observations: Floats  # (B, nobs)
    actions: Floats  # (B, nu)
    rewards: Floats  # (B,)
    next_observations: Floats  # (B, nobs)
    places: Indices | None = (
        None  # (B,) of each in its record, rising, where some of it was left out; None: nothing was
    )

    def __len__(self) -> int:
        return len(self.rewards)


@dataclass(frozen=True)
class FitProgress:
    """After an epoch."""

    epoch: int  # from 1
    gradient_steps: int
    holdout_error: float  # mean over the members, of what the criterion names
    waited: int  # epochs since a member improved enough


@dataclass(frozen=True)
class FitReport:
    """What came of a fit. Errors are of held-out transitions, in the targets' own units unless said otherwise."""

    epochs: int
    gradient_steps: int
    stopped: str  # "patience", "epochs" or "steps"
    fitted: int  # transitions that gradients were taken on
    held_out: int
    elites: tuple[int, ...]  # best first
    member_mse: tuple[float, ...]  # (K,) mean over transitions and entries of [reward, change]
    mse: float  # mean over the elites
    nll: float  # nats an entry, mean over the elites
    within_1_sigma: float  # share of entries; 0.683 where the predicted deviations are right
    within_2_sigma: float  # 0.954
    disagreement: float  # deviation of the elites' means, in deviations of the targets, mean over entries
    horizon_error: tuple[float, ...]  # after 1, 2, .. steps, see `horizon_error`; empty: nothing long enough held out

    def metrics(self) -> dict[str, float]:
        """Its figures by name, for status messages and logs."""
        names = ["epochs", "gradient_steps", "fitted", "held_out", "mse", "nll"]
        names += ["within_1_sigma", "within_2_sigma", "disagreement"]
        out = {name: float(getattr(self, name)) for name in names}
        out.update({f"error_after_{step}": error for step, error in enumerate(self.horizon_error, 1)})
        return out


def fit(
    ensemble: GaussianEnsemble,
    data: Transitions,
    config: FitConfig,
    rng: np.random.Generator,
    progress: Callable[[FitProgress], None] | None = None,
    task: Task | None = None,
) -> FitReport:
    """Fit all members to `data`, beginning with the weights that they have.

    Runs of transitions are held out, others every time. The inputs' statistics are those of the rest, and each member
    goes through it in an order of its own, drawn anew for every epoch. A fit ends when no member's hold-out error has
    dropped by `improvement` for more than `patience` epochs. Every member then takes back the weights of the epoch with
    its lowest error, and the members with the lowest become the elites. By mean squared error that is often an epoch
    whose variances are still those of a worse model, and too wide.

    With `config.shuffle`, what the task says is interchangeable in an observation changes places anew for every epoch,
    and rewards are those of the task for what is seen then. What is held out stays as it was recorded.

    Sets torch to one thread, for the process: two that wait for each other beside other work are many times slower.

    Args:
        ensemble: Fitted in place.
        data: In the order of time; episodes may follow one another.
        config: Settings.
        rng: Draws what is held out, and orders.
        progress: Called after each epoch; what it raises ends the fit.
        task: Says what is interchangeable; not asked without `config.shuffle`.

    Raises:
        ValueError: `config.shuffle` without a task.
        FitError: Too little data, other sizes, numbers that are not finite, or a fit that came to such numbers.
            Whatever is raised, the ensemble is as it was.
    """
    torch.set_num_threads(1)
    if config.shuffle and task is None:
        raise ValueError("shuffle = True asks a task what is interchangeable, and none is given")
    _check(ensemble, data, config)
    everyone = range(ensemble.config.members)
    before, elites = ensemble.arrays(everyone), ensemble.elites
    try:
        return _fit(ensemble, data, config, rng, progress, task if config.shuffle else None)
    except BaseException:
        ensemble.load(before, elites)
        raise


def horizon_error(ensemble: GaussianEnsemble, observations: Floats, actions: Floats, scale: Floats) -> Floats:
    """How far open-loop predictions are off after 1 .. H steps, (H,).

    Each elite's mean is rolled from the first observation through all actions. The figure is the root mean square over
    sequences, elites and entries of the error in units of `scale`; entries of scale 0 are left out.

    Args:
        ensemble: The model.
        observations: (S, H + 1, nobs) of S sequences.
        actions: (S, H, nu).
        scale: (nobs,), usually the deviation of the observations: an error of 1 is then as bad as guessing their mean.
    """
    entries = scale > 0.0
    members = ensemble.config.members
    predicted = np.broadcast_to(observations[:, 0], (members, *observations[:, 0].shape)).astype(np.float64)
    out = np.empty(actions.shape[1])
    for t in range(len(out)):
        played = np.broadcast_to(actions[:, t], (members, *actions[:, t].shape))
        predicted = predicted + ensemble.predict(predicted, played)[0][..., 1:]
        error = (predicted[list(ensemble.elites)] - observations[:, t + 1])[..., entries] / scale[entries]
        out[t] = math.sqrt(np.square(error).mean()) if error.size else 0.0
    return out


def _check(ensemble: GaussianEnsemble, data: Transitions, config: FitConfig) -> None:
    n = len(data)
    sizes = {
        "observations": (n, ensemble.nobs),
        "actions": (n, ensemble.nu),
        "rewards": (n,),
        "next_observations": (n, ensemble.nobs),
    }
    for name, expected in sizes.items():
        array = getattr(data, name)
        if array.shape != expected:
            raise FitError(f"cannot fit: {name} have shape {array.shape}, expected {expected}")
        with np.errstate(over="ignore"):
            finite = np.isfinite(array.astype(np.float32))
        if not finite.all():
            row = int(np.argwhere(~finite)[0][0])
            raise FitError(f"cannot fit: {name} contain {array[row]} at transition {row}, expected finite float32")
    if n < config.min_transitions:
        raise FitError(f"cannot fit: {n} transitions are below min_transitions = {config.min_transitions}")


@dataclass(frozen=True)
class _Split:
    fitted: Indices
    runs: list[Indices]  # held out, each of transitions in a row

    @property
    def held(self) -> Indices:
        return np.concatenate(self.runs)


def _split(n: int, config: FitConfig, rng: np.random.Generator, places: Indices | None = None) -> _Split:
    length = min(config.holdout_run, max(1, int(config.holdout * n)))
    wanted = max(1, round(config.holdout * n))
    # By places in the record: runs as long as episodes are to begin with them, whatever was left out before.
    number = (np.arange(n) if places is None else places) // length
    runs = np.split(np.arange(n), np.flatnonzero(np.diff(number)) + 1)
    chosen: list[Indices] = []
    count = 0
    for index in rng.permutation(len(runs)):
        if count >= wanted or count + len(runs[index]) >= n:
            break
        chosen.append(runs[index])
        count += len(runs[index])
    kept = np.ones(n, bool)
    kept[np.concatenate(chosen)] = False
    return _Split(np.flatnonzero(kept), chosen)


class _Best:
    """Each member's weights at its lowest hold-out error, and how long the last real improvement is ago."""

    def __init__(self, ensemble: GaussianEnsemble, config: FitConfig) -> None:
        self._ensemble = ensemble
        self._relative, self._improvement = config.criterion == "mse", config.improvement
        self._kept = [parameter.detach().clone() for parameter in ensemble.parameters()]
        members = ensemble.config.members
        self.error = np.full(members, np.inf)
        self._reference = np.full(members, np.inf)
        self.waited = 0

    @torch.no_grad()
    def count(self, error: Floats) -> None:
        """Take in the errors (K,) after an epoch."""
        better = error < self.error
        members = torch.from_numpy(np.flatnonzero(better))
        for kept, parameter in zip(self._kept, self._ensemble.parameters(), strict=True):
            kept[members] = parameter[members]
        self.error = np.where(better, error, self.error)
        wanted = (1.0 - self._improvement) * self._reference if self._relative else self._reference - self._improvement
        gained = error < wanted
        self._reference = np.where(gained, error, self._reference)
        self.waited = 0 if gained.any() else self.waited + 1

    @torch.no_grad()
    def restore(self) -> None:
        """Give every member its best weights, and make the best members the elites."""
        for kept, parameter in zip(self._kept, self._ensemble.parameters(), strict=True):
            parameter.copy_(kept)
        order = np.argsort(self.error, kind="stable")
        self._ensemble.elites = tuple(int(member) for member in order[: self._ensemble.config.used])


def _fit(
    ensemble: GaussianEnsemble,
    data: Transitions,
    config: FitConfig,
    rng: np.random.Generator,
    progress: Callable[[FitProgress], None] | None,
    task: Task | None,
) -> FitReport:
    split = _split(len(data), config, rng, data.places)
    held = split.held
    ensemble.set_statistics(np.concatenate((data.observations, data.actions), axis=1)[split.fitted])
    inputs, targets = _tensors(ensemble, data)
    seen, wanted = inputs, targets  # what gradients are taken on

    groups = ensemble.parameter_groups(config.weight_decay, config.train_bounds)
    optimiser = torch.optim.Adam(groups, lr=config.learning_rate, fused=True)
    best = _Best(ensemble, config)
    orders = np.tile(split.fitted, (ensemble.config.members, 1))
    epoch = steps = 0
    stopped = ""
    while not stopped:
        rng.permuted(orders, axis=1, out=orders)
        if task is not None:
            seen, wanted = _tensors(ensemble, _shuffled(data, task, rng))
        shuffled = torch.from_numpy(orders)
        for first in range(0, orders.shape[1], config.batch_size):
            batch = shuffled[:, first : first + config.batch_size]
            mean, log_var = ensemble(seen[batch])
            loss = gaussian_loss(mean, log_var, wanted[batch]).sum()
            if config.train_bounds:
                loss = loss + config.bound_penalty * ensemble.bound_width()
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            steps += 1
            if steps == config.max_steps:
                stopped = "steps"
                break
        epoch += 1
        error = _holdout_error(ensemble, inputs, targets, held, config.criterion)
        if not np.isfinite(error).all():
            members = np.flatnonzero(~np.isfinite(error)).tolist()
            raise FitError(f"fit undone: the hold-out error of members {members} is not finite after epoch {epoch}")
        best.count(error)
        if progress is not None:
            progress(FitProgress(epoch, steps, float(error.mean()), best.waited))
        if not stopped and epoch == config.max_epochs:
            stopped = "epochs"
        if not stopped and best.waited > config.patience:
            stopped = "patience"
    best.restore()
    if not all(bool(torch.isfinite(parameter).all()) for parameter in ensemble.parameters()):
        raise FitError("fit undone: it ended in weights that are not finite")
    return _report(ensemble, data, split, targets.numpy(), epoch, steps, stopped)


def _tensors(ensemble: GaussianEnsemble, data: Transitions) -> tuple[torch.Tensor, torch.Tensor]:
    """Standardised inputs (B, nobs + nu), and targets (B, 1 + nobs)."""
    change = np.subtract(data.next_observations, data.observations, dtype=np.float64)
    targets = torch.tensor(np.column_stack((data.rewards, change)), dtype=torch.float32)
    return ensemble.normalise(data.observations, data.actions), targets


def _shuffled(data: Transitions, task: Task, rng: np.random.Generator) -> Transitions:
    """The same transitions with what is interchangeable in other places, and rewards of these."""
    if type(task).shuffled is Task.shuffled:
        return data
    seen, then = (np.asarray(values, np.float64) for values in (data.observations, data.next_observations))
    observations, later = task.shuffled(seen, then, rng)
    rewards = np.asarray(task.reward(observations, data.actions, later))
    return Transitions(observations, data.actions, rewards, later)


@torch.no_grad()
def _holdout_error(
    ensemble: GaussianEnsemble, inputs: torch.Tensor, targets: torch.Tensor, held: Indices, criterion: str
) -> Floats:
    """Each member's error (K,) over held-out transitions and entries."""
    rows = torch.from_numpy(held)
    total = np.zeros(ensemble.config.members)
    for first in range(0, len(rows), _CHUNK):
        part = rows[first : first + _CHUNK]
        mean, log_var = ensemble(inputs[part])
        if criterion == "mse":
            error = (mean - targets[part]).square().mean(dim=(1, 2))
        else:
            error = gaussian_loss(mean, log_var, targets[part])
        total += len(part) / len(rows) * error.numpy()
    return total


def _report(
    ensemble: GaussianEnsemble,
    data: Transitions,
    split: _Split,
    targets: Floats,
    epochs: int,
    steps: int,
    stopped: str,
) -> FitReport:
    held = split.held
    elites = list(ensemble.elites)
    mean, variance = ensemble.predict(data.observations[held], data.actions[held])
    wanted = targets[held]
    error = np.square(mean - wanted, dtype=np.float64).mean(axis=(1, 2))
    mean, variance = mean[elites].astype(np.float64), variance[elites].astype(np.float64)
    squares = np.square(mean - wanted) / variance
    spread = wanted.std(axis=0, dtype=np.float64)
    moves = spread > 0.0
    disagreement = mean.std(axis=0).mean(axis=0)[moves] / spread[moves]
    return FitReport(
        epochs=epochs,
        gradient_steps=steps,
        stopped=stopped,
        fitted=len(split.fitted),
        held_out=len(held),
        elites=ensemble.elites,
        member_mse=tuple(float(one) for one in error),
        mse=float(error[elites].mean()),
        nll=float(0.5 * (squares + np.log(2.0 * np.pi * variance)).mean()),
        within_1_sigma=float((squares <= 1.0).mean()),
        within_2_sigma=float((squares <= 4.0).mean()),
        disagreement=float(disagreement.mean()) if moves.any() else 0.0,
        horizon_error=_errors_ahead(ensemble, data, split),
    )


def _errors_ahead(ensemble: GaussianEnsemble, data: Transitions, split: _Split) -> tuple[float, ...]:
    length = min(_AHEAD, max(len(run) for run in split.runs))
    pieces = [run[first : first + length] for run in split.runs for first in range(0, len(run) - length + 1, length)]
    # What follows a transition is not the next one where an episode ends, or the record has a gap.
    joined = (data.next_observations[:-1] == data.observations[1:]).all(axis=1)
    runs = [piece for piece in pieces if joined[piece[:-1]].all()]
    if not runs:
        return ()
    rows = np.stack(runs)
    observations = np.concatenate((data.observations[rows], data.next_observations[rows[:, -1:]]), axis=1)
    scale = data.observations[split.fitted].std(axis=0, dtype=np.float64)
    errors = horizon_error(ensemble, observations, data.actions[rows], scale)
    return tuple(float(error) for error in errors)
