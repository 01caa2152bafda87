"""Table 1: LOOP's lookahead over what was learned from a record alone."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from polo_ros.experiments.base import Claim, Experiment, Outcomes, Trial, mean_and_error
from polo_ros.experiments.loop_comparison import SMALL, settings_of
from polo_ros.experiments.loop_recording import DATASETS, MEDIUM, REPLAY
from polo_ros.learning.offline_config import ALGORITHMS
from polo_ros.tasks.base import FloatArray

TASKS = ("hopper", "half_cheetah", "walker2d")
LEARNED = 100_000  # control periods of soft actor-critic
RECORDED = 100_000  # control periods of its actor then
EPISODES = 5  # of each planner, of 1000 control periods at most

# D4RL's returns of a random policy and of an expert, between which scores are 0 and 100 (Fu et al. 2020).
REFERENCES = {
    "hopper": (-20.272305, 3234.3),
    "half_cheetah": (-280.178953, 12135.0),
    "walker2d": (1.629008, 4592.3),
}
# The paper's table 1, on D4RL's own records: the algorithm by itself, None where it is not told, and with lookahead.
PUBLISHED: Mapping[tuple[str, str], Mapping[str, tuple[float | None, float]]] = {
    ("hopper", MEDIUM): {"crr": (65.73, 85.83), "plas": (32.08, 56.47), "mbop": (None, 48.8)},
    ("half_cheetah", MEDIUM): {"crr": (41.14, 41.54), "plas": (39.33, 39.54), "mbop": (None, 44.6)},
    ("walker2d", MEDIUM): {"crr": (69.98, 79.18), "plas": (46.20, 52.66), "mbop": (None, 41.0)},
    ("hopper", REPLAY): {"crr": (27.69, 29.08), "plas": (29.29, 31.29), "mbop": (None, 12.4)},
    ("half_cheetah", REPLAY): {"crr": (42.29, 42.84), "plas": (43.96, 44.25), "mbop": (None, 42.3)},
    ("walker2d", REPLAY): {"crr": (19.84, 27.30), "plas": (35.59, 41.16), "mbop": (None, 9.7)},
}
ALONE, LOOP = "none", "loop"  # planners of `evaluate`
BARS = {  # in the figure's order: label and colour of algorithm and planner
    ("crr", ALONE): ("CRR", "lightcoral"),
    ("crr", LOOP): ("LOOP on CRR", "tab:red"),
    ("plas", ALONE): ("PLAS", "lightskyblue"),
    ("plas", LOOP): ("LOOP on PLAS", "tab:blue"),
    ("mbop", LOOP): ("MBOP", "tab:gray"),
}
TABLE = "results.csv"

# As SMALL, for what is learned offline.
SMALL_OFFLINE: Mapping[str, Any] = {
    **SMALL,
    "arc.horizon": 2,
    "plas.cvae_updates": 4,
    "plas.cvae_hidden": 8,
    "train.updates": 4,
    "train.batch_size": 16,
}

Set = tuple[str, str]  # task and dataset


class Offline(Experiment):
    """Normalised scores of what was learned from six records, by itself and with lookahead."""

    name = "loop.offline"
    paper = "LOOP, table 1"
    question = "does lookahead improve on what was learned from a record alone?"
    default_seeds = 3

    def trials(self, budget: str, seeds: int) -> list[Trial]:
        """A recording for each task, trainings on it and what came of each."""
        full = budget == "full"
        found = []
        for task in TASKS if full else TASKS[:1]:
            recording = _recording(task, full)
            found.append(recording)
            configs = {algorithm: _config(algorithm, task, full) for algorithm in ALGORITHMS}
            for data, algorithm, seed in itertools.product(DATASETS, ALGORITHMS, range(seeds)):
                settings = {"agent": algorithm, "task": task, "seed": seed, "config": configs[algorithm]}
                found += _trained(recording, data, settings, full)
        return found

    def claims(self, outcomes: Outcomes) -> list[Claim]:
        """Lookahead improves on both algorithms, and with CRR is no worse than MBOP."""
        above = []
        for algorithm, name in (("crr", "CRR"), ("plas", "PLAS")):
            alone, loop = (averages(outcomes, algorithm, planner) for planner in (ALONE, LOOP))
            gain, error = mean_and_error(loop - alone)  # of each seed: both had the same policies and starts
            gains = improvements(outcomes, algorithm)
            figures = {
                "difference, standard error": [gain, error],
                f"score of {name}, standard error": list(mean_and_error(alone)),
                f"score of LOOP on {name}, standard error": list(mean_and_error(loop)),
                "improvement, percent": {f"{task} {data}": gain for (task, data), gain in gains.items()},
                "improvement of the average over the datasets, percent": _improvement(alone.mean(), loop.mean()),
            }
            claim = (
                f"LOOP's score on {name} is above that of {name}, averaged over the datasets, by more than its error"
            )
            above.append(Claim(claim, gain > error, figures))
        loop, mbop = (averages(outcomes, algorithm, LOOP) for algorithm in ("crr", "mbop"))
        ahead, error = mean_and_error(loop - mbop)
        return [
            *above,
            Claim(
                "LOOP's score on CRR is not below MBOP's, averaged over the datasets, beyond one standard error",
                ahead >= -error,
                {
                    "score of LOOP on CRR, standard error": list(mean_and_error(loop)),
                    "score of MBOP, standard error": list(mean_and_error(mbop)),
                    "difference, standard error": [ahead, error],
                },
            ),
        ]

    def extras(self, outcomes: Outcomes) -> Mapping[str, str]:
        """The table, with the published numbers beside ours."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(table(outcomes)[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table(outcomes))
        return {TABLE: text.getvalue()}

    def draw(self, outcomes: Outcomes, figure: Figure) -> None:
        """Bars for each dataset; dashes are the published scores, and dotted lines what the records themselves got."""
        figure.set_size_inches(11, 4.5)
        ax = figure.subplots()
        sets = datasets(outcomes)
        width = 0.8 / len(BARS)
        for place, ((algorithm, planner), (label, colour)) in enumerate(BARS.items()):
            at = np.arange(len(sets)) + (place - (len(BARS) - 1) / 2) * width
            found = [mean_and_error(scores(outcomes, one, algorithm, planner)) for one in sets]
            means, errors = zip(*found, strict=True)
            ax.bar(at, means, width, yerr=errors, color=colour, capsize=2, label=label)
            published = [PUBLISHED[one][algorithm][planner == LOOP] for one in sets]
            heights = [np.nan if value is None else value for value in published]
            label = "" if place else "published, on D4RL's records"
            ax.plot(at, heights, "k_", ms=9, label=label)
        for index, one in enumerate(sets):
            of_data = _data_score(outcomes, one)
            if of_data is not None:
                label = "" if index else "the record's episodes"
                ax.hlines(of_data, index - 0.45, index + 0.45, "k", "dotted", lw=1, label=label)
        ax.set_xticks(range(len(sets)), [f"{task}\n{data}" for task, data in sets])
        ax.axhline(0.0, color="k", lw=0.8)
        ax.set(ylabel="normalised score")
        ax.legend(ncols=2)


def score(task: str, value: Any) -> Any:
    """Normalised score of a return, or of an array of them: 0 for D4RL's random policy, 100 for its expert."""
    low, high = REFERENCES[task]
    return 100.0 * (value - low) / (high - low)


def datasets(outcomes: Outcomes) -> list[Set]:
    """Task and name of the datasets that were learned from, in the trials' order."""
    return list(dict.fromkeys((t.facts["task"], t.facts["data"]) for t in outcomes.trials if "planned" in t.facts))


def scores(outcomes: Outcomes, one: Set, algorithm: str, planner: str) -> FloatArray:
    """Score of each seed's policy on one dataset, (seeds,): of the mean over its episodes."""
    task, data = one
    found = outcomes.of(task=task, data=data, algorithm=algorithm, planned=True)
    return np.array([score(task, np.mean(numbers[planner])) for _, numbers in found])


def averages(outcomes: Outcomes, algorithm: str, planner: str) -> FloatArray:
    """Score of each seed, (seeds,), averaged over the datasets."""
    return np.asarray(np.mean([scores(outcomes, one, algorithm, planner) for one in datasets(outcomes)], axis=0))


def improvements(outcomes: Outcomes, algorithm: str) -> dict[Set, float | None]:
    """By how many percent lookahead raises the mean score on each dataset; None where it is not above 0 without."""
    found: dict[Set, float | None] = {}
    for one in datasets(outcomes):
        alone, loop = (float(scores(outcomes, one, algorithm, planner).mean()) for planner in (ALONE, LOOP))
        found[one] = _improvement(alone, loop)
    return found


def _improvement(alone: float, loop: float) -> float | None:
    """In percent; None: there is nothing above 0 to improve on."""
    return 100.0 * (float(loop) / float(alone) - 1.0) if alone > 0.0 else None


def table(outcomes: Outcomes) -> list[dict[str, Any]]:
    """A row for each dataset and algorithm: scores, mean and standard error of the seeds, and the published ones."""
    rows = []
    for one, algorithm in itertools.product(datasets(outcomes), ALGORITHMS):
        task, data = one
        alone, loop = (mean_and_error(scores(outcomes, one, algorithm, planner)) for planner in (ALONE, LOOP))
        trained = outcomes.of(task=task, data=data, algorithm=algorithm, trained=True)
        published_alone, published_loop = PUBLISHED[one][algorithm]
        rows.append(
            {
                "task": task,
                "dataset": data,
                "algorithm": algorithm,
                "record": _rounded(_data_score(outcomes, one)),
                "alone": _rounded(alone[0]),
                "alone_error": _rounded(alone[1]),
                "lookahead": _rounded(loop[0]),
                "lookahead_error": _rounded(loop[1]),
                "improvement_percent": _rounded(improvements(outcomes, algorithm)[one]),
                "published_alone": _rounded(published_alone),
                "published_lookahead": _rounded(published_loop),
                "diverged": sum(bool(numbers["problem"]) for _, numbers in trained),
            }
        )
    return rows


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _data_score(outcomes: Outcomes, one: Set) -> float | None:
    """Mean score of the whole episodes in a dataset; None: it has none."""
    task, data = one
    ((_, numbers),) = outcomes.of(recorded=task)
    found = numbers["datasets"][data]["mean_return"]
    return None if found is None else float(score(task, found))


def _config(agent: str, task: str, full: bool, **changes: Any) -> dict[str, Any]:
    """All settings of an agent: what it uses for the task, in a small budget made small."""
    known = {} if full else settings_of(agent, task, {})
    small = {name: value for name, value in SMALL_OFFLINE.items() if name in known}
    return settings_of(agent, task, {**small, **changes})


def _recording(task: str, full: bool) -> Trial:
    """Soft actor-critic, with the settings that it has as LOOP's baseline."""
    steps = LEARNED if full else 120
    tried = {"evaluation.every": steps // 10 if full else steps // 2, "evaluation.episodes": 2}
    return Trial(
        name=f"{task}-record",
        job="loop_recording:record",
        settings={
            "agent": "sac",
            "task": task,
            "steps": steps,
            "recorded": RECORDED if full else 120,
            "seed": 0,
            "config": _config("sac", task, full, **tried),
        },
        cost=1_100.0,
        facts={"recorded": task},
    )


def _trained(recording: Trial, data: str, settings: Mapping[str, Any], full: bool) -> list[Trial]:
    """One training on a dataset of a recording, and what came of it."""
    task, algorithm, seed = (settings[name] for name in ("task", "agent", "seed"))
    facts = {"task": task, "data": data, "algorithm": algorithm, "seed": seed}
    training = Trial(
        name=f"{task}-{data}-{algorithm}-s{seed}",
        job="loop_trained:train",
        settings={**settings, "data": data},
        needs=(recording.name,),
        cost=250.0,
        facts={**facts, "trained": True},
    )
    trying = Trial(
        name=f"{training.name}-tried",
        job="loop_trained:evaluate",
        settings={**settings, "episodes": EPISODES if full else 1, "steps": 1_000 if full else 10},
        needs=(training.name,),
        cost=60.0,
        facts={**facts, "planned": True},
    )
    return [training, trying]
