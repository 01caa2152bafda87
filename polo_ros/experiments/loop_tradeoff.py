"""Theorem 1: a longer horizon makes up for bad values where the model is good, and harms where it is not.

Models and values are those of one learner at several times, named by the control periods that they were learned from.
Every model meets every value.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from polo_ros.experiments import loop_online
from polo_ros.experiments.base import Claim, Experiment, Outcomes, Trial, above, mean_and_error, means_and_errors
from polo_ros.tasks.base import FloatArray

AGENT, TASK = loop_online.KEPT
HORIZONS = (1, 2, 3, 5, 8, 12)


class Tradeoff(Experiment):
    """Return against the horizon, for good and bad models and values."""

    name = "loop.tradeoff"
    paper = "LOOP, theorem 1"
    question = "does a longer horizon make up for bad values, and harm where the model is bad?"
    default_seeds = 3

    def trials(self, budget: str, seeds: int) -> list[Trial]:
        """The learners of loop.online on half_cheetah, then every model with every value."""
        full = budget == "full"
        snapshots = list(loop_online.snapshots(full)) if full else list(loop_online.snapshots(full)[::2])
        horizons = list(HORIZONS if full else HORIZONS[:2])
        out = []
        for seed in range(seeds):
            learner = loop_online.trial(AGENT, TASK, seed, full)
            kept = {name: learner.settings[name] for name in ("agent", "task", "seed", "config")}
            settings = {**kept, "horizons": horizons}
            out.append(learner)
            for model, value in itertools.product(snapshots, repeat=2):
                out.append(
                    Trial(
                        name=f"{TASK}-lookahead-m{model}-v{value}-s{seed}",
                        job="loop_lookahead:act",
                        settings={
                            **settings,
                            "model": model,
                            "value": value,
                            "episodes": 2,
                            "steps": 200 if full else 10,
                        },
                        needs=(learner.name,),
                        cost=1_000.0,
                        facts={"model": model, "value": value, "seed": seed, "horizons": horizons},
                    )
                )
            out.append(
                Trial(
                    name=f"{TASK}-errors-s{seed}",
                    job="loop_lookahead:measure",
                    settings={
                        **settings,
                        "snapshots": snapshots,
                        "episodes": 2,
                        "steps": 1_000 if full else 40,
                        "behind": 500 if full else 10,
                    },
                    needs=(learner.name,),
                    cost=1_000.0,
                    facts={"errors": snapshots, "seed": seed},
                )
            )
        return out

    def claims(self, outcomes: Outcomes) -> list[Claim]:
        """What the theorem's bound says of horizons, with the first snapshot as bad and the last one as good."""
        snapshots, horizons = _snapshots(outcomes), _horizons(outcomes)
        bad, good = snapshots[0], snapshots[-1]
        bad_value, bad_model = _returns(outcomes, good, bad), _returns(outcomes, bad, good)
        ends = {
            name: [mean_and_error(returns[:, index]) for index in (0, -1)]
            for name, returns in (("bad value", bad_value), ("bad model", bad_model))
        }
        best = {
            "bad value": horizons[int(bad_value.mean(axis=0).argmax())],
            "bad model": horizons[int(bad_model.mean(axis=0).argmax())],
        }

        def figures(name: str) -> dict[str, Any]:
            return {
                f"return at H = {horizon}, standard error": list(end)
                for horizon, end in zip((horizons[0], horizons[-1]), ends[name], strict=True)
            }

        words = f"the longest horizon, {horizons[-1]}, earns {{}} than the shortest, beyond one standard error of each"
        return [
            Claim(
                "good model, bad value: " + words.format("more"),
                above(ends["bad value"][1], ends["bad value"][0]),
                figures("bad value"),
            ),
            Claim(
                "bad model, good value: " + words.format("less"),
                above(ends["bad model"][0], ends["bad model"][1]),
                figures("bad model"),
            ),
            Claim(
                "the best horizon with a bad model and a good value is shorter than with a good model and a bad value",
                best["bad model"] < best["bad value"],
                {
                    **{f"best horizon, {name}": horizon for name, horizon in best.items()},
                    **{
                        f"model of {model}, value of {value}: {what} at H = {horizons}": curve.tolist()
                        for model, value in itertools.product(snapshots, repeat=2)
                        for what, curve in zip(
                            ("returns", "standard errors"),
                            means_and_errors(_returns(outcomes, model, value)),
                            strict=True,
                        )
                    },
                },
            ),
            Claim(
                "the last snapshot's model and value are better than the first's: they have smaller errors",
                all(errors[-1] < errors[0] for errors in _errors(outcomes).values()),
                {f"{name}, by snapshot": list(errors) for name, errors in _errors(outcomes).items()},
            ),
        ]

    def draw(self, outcomes: Outcomes, figure: Figure) -> None:
        """A panel for each model, with a line for each value; errors of models on the right."""
        figure.set_size_inches(11, 4)
        snapshots, horizons = _snapshots(outcomes), _horizons(outcomes)
        axes = figure.subplots(1, len(snapshots) + 1)
        values = _errors(outcomes)["value error"]
        colours = ("tab:gray", "tab:blue", "tab:red")[-len(snapshots) :]
        for ax, model in zip(axes, snapshots, strict=False):
            for value, error, colour in zip(snapshots, values, colours, strict=True):
                mean, spread = means_and_errors(_returns(outcomes, model, value))
                label = f"value of {value}: error {error:.3g}"
                ax.errorbar(horizons, mean, spread, color=colour, marker="o", ms=3, capsize=3, label=label)
            ax.set(title=f"model of {model} periods", xlabel="horizon H", ylabel="return")
        axes[0].legend()
        for index, (model, colour) in enumerate(zip(snapshots, colours, strict=True)):
            mean, spread = means_and_errors(_numbers(outcomes, "model_errors")[:, index])
            axes[-1].errorbar(horizons, mean, spread, color=colour, marker="o", ms=3, capsize=3, label=f"{model}")
        axes[-1].set(title="error of the model", xlabel="steps ahead", ylabel="deviations of the observations")
        axes[-1].legend()
        for ax in axes:
            ax.set_xticks(horizons)


def _snapshots(outcomes: Outcomes) -> list[int]:
    return sorted({trial.facts["model"] for trial in outcomes.trials if "model" in trial.facts})


def _horizons(outcomes: Outcomes) -> list[int]:
    horizons: list[int] = next(trial.facts["horizons"] for trial in outcomes.trials if "model" in trial.facts)
    return horizons


def _returns(outcomes: Outcomes, model: int, value: int) -> FloatArray:
    """Mean return of the episodes, (seeds, horizons)."""
    found = [numbers["returns"] for _, numbers in outcomes.of(model=model, value=value)]
    return np.asarray(np.array(found, float).mean(axis=2))


def _numbers(outcomes: Outcomes, name: str) -> npt.NDArray[np.float64]:
    """Errors (seeds, snapshots, ...)."""
    return np.array([numbers[name] for _, numbers in outcomes.of(errors=_snapshots(outcomes))], float)


def _errors(outcomes: Outcomes) -> dict[str, FloatArray]:
    """Errors (snapshots,) that are to tell good from bad, means over the seeds."""
    return {
        "model error after one step": _numbers(outcomes, "model_errors").mean(axis=0)[:, 0],
        "model error after the longest horizon": _numbers(outcomes, "model_errors").mean(axis=0)[:, -1],
        "value error": _numbers(outcomes, "value_errors").mean(axis=0),
    }
