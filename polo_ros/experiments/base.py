"""What an experiment is: trials that run by themselves, claims about what they found, a figure."""

from __future__ import annotations

import abc
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from polo_ros.tasks.base import FloatArray

if TYPE_CHECKING:  # a trial's process has nothing to draw
    from matplotlib.figure import Figure

BUDGETS = ("full", "small")


@dataclass(frozen=True)
class Trial:
    """One piece of work in a process of its own, done again only if what it depends on has changed.

    Two experiments that ask for the same job with the same settings share its outcome.

    Attributes:
        name: Unique in its experiment, and a file name.
        job: `module:function` in polo_ros.experiments, or `package.module:function` in another package; called with
            the settings and a Workplace, returns numbers as JSON has them. It must depend on these two only: no
            clock, no global random numbers.
        settings: As JSON has them.
        needs: Names of trials whose files it reads.
        cost: Expected time, in any unit: the longest begin first.
        facts: What the experiment tells its trials apart by; of no influence on the outcome.
        exclusive: Measures time, and must have the machine to itself.
    """

    name: str
    job: str
    settings: Mapping[str, Any]
    needs: tuple[str, ...] = ()
    cost: float = 1.0
    facts: Mapping[str, Any] = field(default_factory=dict)
    exclusive: bool = False


@dataclass(frozen=True)
class Workplace:
    """Where a trial works.

    Attributes:
        folder: The trial's own folder, kept with its outcome.
        needed: Folders of the trials that it needs, by name.
        progress: To be called with what is done so far, 0 .. 1, and a few words.
    """

    folder: Path
    needed: Mapping[str, Path]
    progress: Callable[[float, str], None]


@dataclass(frozen=True)
class Claim:
    """Something that the paper says, and whether it came out."""

    claim: str
    holds: bool
    figures: Mapping[str, Any]  # the numbers that decide it


@dataclass(frozen=True)
class Outcomes:
    """What the trials found: numbers as JSON has them, and arrays in files."""

    trials: tuple[Trial, ...]
    numbers: Mapping[str, Mapping[str, Any]]  # by name of trial
    folders: Mapping[str, Path] = field(default_factory=dict)
    cpu_s: Mapping[str, float] = field(default_factory=dict)  # time on a processor, of all attempts together

    def of(self, **facts: Any) -> list[tuple[Trial, Mapping[str, Any]]]:
        """Trials with these facts, with their numbers."""
        return [
            (trial, self.numbers[trial.name])
            for trial in self.trials
            if all(trial.facts.get(name) == value for name, value in facts.items())
        ]

    def column(self, number: str, **facts: Any) -> FloatArray:
        """One number of all trials with these facts, (trials,); nan where a trial has none."""
        found = [numbers[number] for _, numbers in self.of(**facts)]
        return np.array([np.nan if value is None else value for value in found], float)

    def arrays(self, name: str) -> Mapping[str, Any]:
        """Arrays that a trial has saved by `save_arrays`."""
        with np.load(self.folders[name] / "arrays.npz", allow_pickle=False) as file:
            return {key: file[key] for key in file.files}


class Experiment(abc.ABC):
    """A figure of a paper: which trials it takes, what they do, what is claimed of them, how it looks.

    Subclasses set `name` (`polo.horizon`), `paper` (where the figure stands) and `question` (one sentence), and
    `reads_files` if what is claimed, drawn or left as extras takes more than the numbers of its trials.
    """

    name: str
    paper: str
    question: str
    default_seeds: int
    reads_files = False

    @abc.abstractmethod
    def trials(self, budget: str, seeds: int) -> list[Trial]:
        """The trials of a budget, `full` or `small`, over seeds 0 .. seeds - 1."""

    @abc.abstractmethod
    def claims(self, outcomes: Outcomes) -> list[Claim]:
        """What holds and what does not."""

    @abc.abstractmethod
    def draw(self, outcomes: Outcomes, figure: Figure) -> None:
        """Draw the figure."""

    def extras(self, outcomes: Outcomes) -> Mapping[str, Path | str]:
        """What is worth a place beside the figure, by the name that it gets there: a trial's file, or text."""
        return {}


def save_arrays(workplace: Workplace, **arrays: Any) -> None:
    """Keep arrays with a trial's outcome, for `Outcomes.arrays`."""
    np.savez_compressed(workplace.folder / "arrays.npz", **arrays)


def plain(value: Any) -> Any:
    """`value` as JSON has it: numpy's numbers and arrays become Python's, what is not finite becomes None."""
    return json.loads(json.dumps(_plain(value)))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def mean_and_error(values: FloatArray) -> tuple[float, float]:
    """Mean and standard error of the mean of values (n,); the error of a single value is 0."""
    mean, error = means_and_errors(values)
    return float(mean), float(error)


def above(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether a mean is above another one, beyond one standard error of each; both as of mean_and_error."""
    return one[0] - one[1] > other[0] + other[1]


def means_and_errors(curves: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard error over the first axis of (n, ...)."""
    n = len(curves)
    error = np.std(curves, axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.zeros(curves.shape[1:])
    return np.asarray(np.mean(curves, axis=0)), np.asarray(error)
