"""Batches of a recorded dataset, as networks see them; what is drawn is read, the rest stays on disk."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.signal import lfilter

from polo_ros.learning.actor_critic import ActionRange, input_gain, used_inputs
from polo_ros.learning.dynamics_fit import Transitions
from polo_ros.learning.sac import Batch
from polo_ros.learning.weights import Arrays
from polo_ros.replay.dataset import Dataset
from polo_ros.tasks.base import FloatArray, Task
from polo_ros.tensors import float32

Indexes = npt.NDArray[np.int64]

_CHUNK = 65_536  # rows that are read at once where all are
_RUN = 64  # rows in a row that are held out, or fitted, together


class OfflineError(ValueError):
    """Data or a training that cannot be used, or one that failed; the message says why."""


class Inputs:
    """Observations as networks see them: times the task's gain, then standardised by the data.

    Args:
        gain: (nobs,) of `input_gain`.
        mean: (nobs,) of observations times gain.
        std: (nobs,).
    """

    def __init__(self, gain: npt.NDArray[np.float32], mean: FloatArray, std: FloatArray) -> None:
        self._factor = gain / std
        self._offset = -mean / std
        self._mean, self._std = mean, std

    def __call__(self, observations: npt.NDArray[Any]) -> FloatArray:
        """Inputs (..., nobs) of observations (..., nobs)."""
        return np.asarray(observations * self._factor + self._offset, np.float64)

    def fold(self, arrays: Arrays, part: str) -> None:
        """Make the network `part`, whose inputs begin with the observation, one of observations times gain alone."""
        nobs = len(self._mean)
        weight, bias = arrays[f"{part}.0.weight"].astype(np.float64), arrays[f"{part}.0.bias"].astype(np.float64)
        weight[:, :nobs] /= self._std[:, None]
        arrays[f"{part}.0.bias"] = (bias - (self._mean @ weight[:, :nobs])[:, None]).astype(np.float32)
        arrays[f"{part}.0.weight"] = weight.astype(np.float32)


class OfflineBatches:
    """Draws batches of a dataset.

    Args:
        task: Whose data it is.
        data: Transitions.
        inputs: Observation groups that networks see, of ActorCriticConfig.
        standardise: Whether observations are standardised by the data.
        holdout: Share of the rows that is never drawn: whole runs of 64, `HELD` rows at most.
        rng: Draws what is held out, and what a model is fitted to.

    Attributes:
        held: Rows that are held out.
        usable: Rows that are drawn from.
        action_low: (nu,) lowest actions in the data.
        action_high: (nu,) highest ones.

    Raises:
        DatasetError: Data of another task or model.
        OfflineError: Actions that no policy can take: beyond -1 .. 1 of an actuator without a range.
    """

    HELD = 4096  # rows held out at most: enough for a figure

    def __init__(
        self, task: Task, data: Dataset, inputs: str, standardise: bool, holdout: float, rng: np.random.Generator
    ) -> None:
        self.data = data.for_task(task)
        self._task = task
        self.range = ActionRange(task)
        gain = input_gain(task, inputs)
        nobs, nu = task.observation_spec.size, task.model.nu
        total, squares = np.zeros(nobs), np.zeros(nobs)
        self.action_low, self.action_high = np.full(nu, np.inf), np.full(nu, -np.inf)
        shift = data.observation[0].astype(np.float64)  # sums of squares of what is left lose nothing
        for first in range(0, len(data), _CHUNK):
            rows = slice(first, first + _CHUNK)
            moved = data.observation[rows] - shift
            total += moved.sum(axis=0)
            squares += np.square(moved).sum(axis=0)
            np.minimum(self.action_low, data.action[rows].min(axis=0), out=self.action_low)
            np.maximum(self.action_high, data.action[rows].max(axis=0), out=self.action_high)
        self._check_actions()
        mean, std = np.zeros(nobs), np.ones(nobs)
        if standardise:
            centre = total / len(data)
            spread = np.sqrt(np.maximum(squares / len(data) - centre**2, 0.0)) * gain
            mean = (centre + shift) * gain
            # An entry that hardly moves keeps its unit: float32 could not tell one value of it from another.
            std = np.where((spread < 1e-8) | (spread < 1e-4 * np.abs(mean)), 1.0, spread)
        self.inputs = Inputs(gain, mean, std)
        runs = np.arange(-(-len(data) // _RUN))
        # Few data have the more need of what they hold out.
        least = int(holdout > 0.0 and len(runs) > 1)
        count = min(max(least, round(holdout * len(runs))), self.HELD // _RUN)
        held = runs[rng.permutation(len(runs))[:count]]
        self.held = _rows(np.sort(held), len(data))
        drawn = np.ones(len(data), bool)
        drawn[self.held] = False
        self.usable = np.flatnonzero(drawn)
        self._order = rng.permutation(len(runs))

    def _check_actions(self) -> None:
        """Of actuators with a range the supervisor has clipped what was recorded, and an import what was read."""
        slack = 1e-5  # data are float32
        beyond = (self.action_low < self.range.low - slack) | (self.action_high > self.range.high + slack)
        for index in np.flatnonzero(~self.range.bounded & beyond):
            raise OfflineError(
                f"actuator '{self._task.model.actuator(index).name}' has no ctrlrange: a policy stays within -1 .. 1, "
                f"and in the data it has {self.action_low[index]:g} .. {self.action_high[index]:g}: give it a range"
            )

    def only_followed(self) -> None:
        """Draw no rows from now on whose next action is unknown: the last of a trajectory, unless it ended there."""
        known = np.ones(len(self.data), bool)
        ends = self.data.starts[1:] - 1
        known[ends] = self.data.terminated[ends]
        self.usable = self.usable[known[self.usable]]

    def returns(self, discount: float, steps: int) -> npt.NDArray[np.float32]:
        """What came from each row on, (T,): discounted rewards of `steps` rows, 0: of all, of its trajectory."""
        out = np.empty(len(self.data))
        for first, stop in itertools.pairwise(self.data.starts):
            part = out[first:stop]
            part[:] = lfilter([1.0], [1.0, -discount], self.data.reward[first:stop][::-1].astype(np.float64))[::-1]
            if 0 < steps < len(part):
                part[:-steps] -= discount**steps * part[steps:].copy()
        return out.astype(np.float32)

    def draw(
        self, rng: np.random.Generator, steps: int, size: int, *, followed: bool = False, returns: Any = None
    ) -> Iterator[Batch]:
        """Batches of `steps` updates, of rows drawn uniformly, with replacement; all are read at once.

        Args:
            rng: Draws rows.
            steps: Updates.
            size: Rows of each.
            followed: With the next recorded actions; see `only_followed`.
            returns: (T,) that take the place of rewards, nothing following them.

        Raises:
            OfflineError: There is nothing to draw from.
        """
        if not len(self.usable):
            raise OfflineError(f"none of {len(self.data)} rows of the data can be learned from")
        data = self.data
        rows = self.usable[rng.integers(len(self.usable), size=steps * size)]
        actions = self.range.normalise(data.action[rows])
        inputs = float32(np.concatenate((self.inputs(data.observation[rows]), actions), axis=1))
        ahead = float32(self.inputs(data.next_observation[rows]))
        if returns is not None:
            rewards, not_terminal = float32(returns[rows]), torch.zeros(len(rows))
        else:
            rewards, not_terminal = float32(data.reward[rows]), float32(~data.terminated[rows])
        following = None
        if followed:  # where a trajectory ended any action will do: its value counts nothing
            following = float32(self.range.normalise(data.action[np.minimum(rows + 1, len(data) - 1)]))
        for index in range(steps):
            part = slice(index * size, (index + 1) * size)
            next_action = None if following is None else following[part]
            yield Batch(inputs[part], rewards[part], ahead[part], not_terminal[part], next_action)

    def for_model(self, most: int) -> Transitions:
        """Transitions for a dynamics model, in order: all, or so many at most, in runs drawn from everywhere.

        Leaves out transitions that `Task.disturb` changed, and the last one of a trajectory where its next observation
        is the start of the next trajectory, as in imported files.
        """
        rows = np.arange(len(self.data))
        if len(rows) > most:
            rows = _rows(np.sort(self._order[: max(1, most // _RUN)]), len(rows))
        data = self.data
        observations, ahead = data.observation[rows], data.next_observation[rows]
        kept = ~np.asarray(self._task.unforeseen(observations, ahead))
        last = np.flatnonzero(np.isin(rows, data.starts[1:-1] - 1))
        # Without the entries that begin anew with each trajectory, as the way gone.
        seen = used_inputs(self._task)
        kept[last] &= (ahead[last] != data.observation[rows[last] + 1])[:, seen].any(axis=1)
        rows = rows[kept]
        return Transitions(observations[kept], data.action[rows], data.reward[rows], ahead[kept], places=rows)


def _rows(runs: Indexes, rows: int) -> Indexes:
    """The rows of these runs."""
    found = (runs[:, None] * _RUN + np.arange(_RUN)).ravel()
    return found[found < rows]
