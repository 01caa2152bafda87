"""Experiments of the toy's jobs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np

from polo_ros.experiments.base import Claim, Experiment, Outcomes, Trial


class Toy(Experiment):
    """One trial a seed, and one that sums them up."""

    name = "toy"
    paper = "nobody, figure 0"
    question = "does it work?"
    default_seeds = 2
    reads_files = True

    def __init__(self, numbers: Mapping[int, float] | None = None, factor: float = 2.0) -> None:
        self.numbers = numbers or {}
        self.factor = factor

    def trials(self, budget: str, seeds: int) -> list[Trial]:
        drawn = [
            Trial(
                f"draw-{seed}", "toy_experiment.jobs:draw", {"number": self.numbers.get(seed, seed)}, facts={"s": seed}
            )
            for seed in range(1, seeds + 1)
        ]
        needs = tuple(trial.name for trial in drawn)
        return [*drawn, Trial("total", "toy_experiment.jobs:total", {"factor": self.factor}, needs)]

    def claims(self, outcomes: Outcomes) -> list[Claim]:
        total = outcomes.numbers["total"]["number"]
        return [
            Claim("the total is 6", np.bool_(total == 6.0), {"total": np.float64(total), "none": np.nan}),
            Claim("pigs fly", False, {}),
        ]

    def draw(self, outcomes: Outcomes, figure: matplotlib.figure.Figure) -> None:
        figure.subplots().plot(outcomes.arrays("draw-1")["curve"])

    def extras(self, outcomes: Outcomes) -> Mapping[str, Path | str]:
        total = f"{outcomes.numbers['total']['number']} in all\n"
        return {"first.txt": outcomes.folders["draw-1"] / "note.txt", "total.txt": total}


class Counted(Toy):
    """The same, judged and drawn by numbers alone, and one more trial a seed that nothing depends on."""

    reads_files = False

    def trials(self, budget: str, seeds: int) -> list[Trial]:
        apart = [Trial(f"apart-{seed}", "toy_experiment.jobs:draw", {"number": -seed}) for seed in range(1, seeds + 1)]
        return [*super().trials(budget, seeds), *apart]

    def draw(self, outcomes: Outcomes, figure: matplotlib.figure.Figure) -> None:
        pass

    def extras(self, outcomes: Outcomes) -> Mapping[str, Path | str]:
        return {}


class Single(Toy):
    """One trial of a job and settings."""

    def __init__(self, job: str, settings: Mapping[str, Any]) -> None:
        self.trial = Trial("one", job, settings)

    def trials(self, budget: str, seeds: int) -> list[Trial]:
        return [self.trial]

    def claims(self, outcomes: Outcomes) -> list[Claim]:
        return []

    def draw(self, outcomes: Outcomes, figure: matplotlib.figure.Figure) -> None:
        pass

    def extras(self, outcomes: Outcomes) -> Mapping[str, Path | str]:
        return {}
