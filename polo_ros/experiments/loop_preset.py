"""What LOOP's light preset gives away: its curve beside that of the published settings."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from polo_ros import resources
from polo_ros.agents.configs import CONFIGS
from polo_ros.config import flatten, read_parameters
from polo_ros.experiments import loop_comparison as comparison
from polo_ros.experiments import loop_online
from polo_ros.experiments.base import Claim, Experiment, Outcomes, Trial, above, mean_and_error, means_and_errors
from polo_ros.tasks.base import FloatArray

AGENT, TASK = loop_online.KEPT
STEPS = 6_000  # of which the light preset's are the first of its run in `loop.online`
PUBLISHED = "loop_paper.yaml"


def published(seed: int, full: bool) -> Trial:
    """LOOP with the settings of its public code, evaluated when `loop.online` evaluates."""
    known = flatten(CONFIGS[AGENT])
    settings = read_parameters(resources.path("config", PUBLISHED))
    return comparison.trial(
        AGENT,
        TASK,
        seed,
        full=full,
        steps=STEPS,
        every=loop_online.TASKS[TASK][1],
        changes={name: value for name, value in settings.items() if name in known},
        label="published",
    )


class Preset(Experiment):
    """Returns of the light preset and of the published settings over the same control periods."""

    name = "loop.preset"
    paper = "LOOP, settings of its public code"
    question = "what does a preset that two cores can run cost in return?"
    default_seeds = 3

    def trials(self, budget: str, seeds: int) -> list[Trial]:
        """LOOP with both."""
        full = budget == "full"
        light = [loop_online.trial(AGENT, TASK, seed, full) for seed in range(seeds)]
        return [*light, *(published(seed, full) for seed in range(seeds))]

    def claims(self, outcomes: Outcomes) -> list[Claim]:
        """The light preset learns no worse."""
        areas = {name: returns.mean(axis=1) for name, (_, returns) in _both(outcomes).items()}
        light, whole = (mean_and_error(areas[name]) for name in ("light", "published"))
        return [
            Claim(
                "the light preset's area is not below the published settings', beyond one standard error of each",
                not above(whole, light),
                {
                    "light: area, standard error": list(light),
                    "published: area, standard error": list(whole),
                    **{
                        f"{name}: mean returns after {steps.tolist()} control periods": returns.mean(axis=0).tolist()
                        for name, (steps, returns) in _both(outcomes).items()
                    },
                },
            )
        ]

    def draw(self, outcomes: Outcomes, figure: Figure) -> None:
        """Both curves."""
        ax = figure.subplots()
        for name, (steps, returns) in _both(outcomes).items():
            mean, error = means_and_errors(returns)
            (line,) = ax.plot(steps, mean, label=name)
            ax.fill_between(steps, mean - error, mean + error, color=line.get_color(), alpha=0.2)
        ax.set(title=TASK, xlabel="control period", ylabel="return without exploring")
        ax.legend()


def _both(outcomes: Outcomes) -> dict[str, tuple[FloatArray, FloatArray]]:
    """When each was tried, (points,) control periods, and its mean returns then, (seeds, points)."""
    whole, returns = comparison.curves(outcomes, AGENT, TASK, label="published")
    steps, light = comparison.curves(outcomes, AGENT, TASK)
    shared = np.isin(steps, whole)
    return {"light": (steps[shared], light[:, shared]), "published": (whole, returns)}
