"""Figures 5 and 6: what a limit on costs costs in return, and what it saves."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from polo_ros import resources
from polo_ros.agents.configs import CONFIGS
from polo_ros.config import flatten, read_parameters
from polo_ros.experiments import loop_comparison as comparison
from polo_ros.experiments.base import Claim, Experiment, Outcomes, Trial, above, mean_and_error, means_and_errors
from polo_ros.tasks.base import FloatArray

GOALS, CAR = ("point_goal", "car_goal"), "rc_car"
AGENTS = {
    **dict.fromkeys(GOALS, ("loop", "safe_loop")),
    CAR: ("loop", "safe_loop", "pets", "safe_pets"),
}
STEPS = {**dict.fromkeys(GOALS, (15_000, 3_000)), CAR: (5_000, 1_000)}  # control periods, and between two evaluations
# Of all agents alike, so that what differs is what they are; a task's own file need not be there.
SHARED = ("safe.yaml", "{task}.safe.yaml", "loop_safe.yaml")
# What Safety Gym counts of an episode, and control periods outside.
COSTS = {**dict.fromkeys(GOALS, "cost_estimate"), CAR: "outside_periods"}
LATE = 0.2  # share of training, at its end, whose episodes are judged
CHEAPER, KEPT = 0.1, 0.8  # cost and return of safe_loop, over those of loop
# Return and cost after 1e6 simulation steps, 200 000 control periods, as omnisafe's benchmark has measured them.
PUBLISHED = {
    "point_goal": {"loop": (25.08, 55.23), "safe_loop": (22.94, 0.04)},
    "car_goal": {"loop": (25.41, 62.64), "safe_loop": (22.09, 0.16)},
}
COLOURS = {"loop": "tab:red", "safe_loop": "tab:green", "pets": "tab:gray", "safe_pets": "tab:blue"}


def settings_of(agent: str, task: str) -> dict[str, Any]:
    """What all agents of the experiment share on a task, as far as this one knows it."""
    known = flatten(CONFIGS[agent])
    shared: dict[str, Any] = {}
    for file in SHARED:
        try:
            path = resources.path("config", file.format(task=task))
        except FileNotFoundError:
            if "{task}" in file:
                continue
            raise
        shared.update(read_parameters(path))
    return {name: value for name, value in shared.items() if name in known}


class Safe(Experiment):
    """Return and cost of training episodes, with a limit on costs and without."""

    name = "loop.safe"
    paper = "LOOP, figures 5 and 6"
    question = "does planning within a limit on costs keep to it, and what return does that take?"
    default_seeds = 3

    def trials(self, budget: str, seeds: int) -> list[Trial]:
        """LOOP with and without the limit, on the car PETS too."""
        return [
            comparison.trial(
                agent,
                task,
                seed,
                full=budget == "full",
                steps=steps,
                every=every,
                changes=settings_of(agent, task),
            )
            for task, (steps, every) in STEPS.items()
            for agent in AGENTS[task]
            for seed in range(seeds)
        ]

    def claims(self, outcomes: Outcomes) -> list[Claim]:
        """Little cost for little return, and more return than without values."""
        goals = {task: {agent: _late(outcomes, agent, task) for agent in AGENTS[task]} for task in GOALS}
        safe_loop, safe_pets = (
            [mean_and_error(values) for values in _late_of_seeds(outcomes, agent, CAR)]
            for agent in ("safe_loop", "safe_pets")
        )
        return [
            Claim(
                f"on both goals safe_loop's cost is at most {CHEAPER} times loop's, and its return at least {KEPT} "
                "times, in the last fifth of training",
                all(_little(found["loop"], found["safe_loop"]) for found in goals.values()),
                {name: value for task in GOALS for name, value in _figures(outcomes, task).items()},
            ),
            Claim(
                "on the car safe_loop's return is above safe_pets' beyond one standard error of each, and it is "
                "outside no more often in the mean, in the last fifth of training",
                above(safe_loop[0], safe_pets[0]) and safe_loop[1][0] <= safe_pets[1][0],
                _figures(outcomes, CAR),
            ),
        ]

    def draw(self, outcomes: Outcomes, figure: Figure) -> None:
        """Returns above, costs below, a column for each task; dashed what omnisafe came to after 200 000 periods."""
        figure.set_size_inches(11, 6)
        axes = figure.subplots(2, len(STEPS), sharex="col")
        for column, task in enumerate(STEPS):
            for agent in AGENTS[task]:
                for row, (steps, values) in enumerate(_curves(outcomes, agent, task)):
                    mean, error = means_and_errors(values)
                    ax = axes[row, column]
                    ax.plot(steps, mean, color=COLOURS[agent], label=agent)
                    ax.fill_between(steps, mean - error, mean + error, color=COLOURS[agent], alpha=0.2)
                    if agent in PUBLISHED.get(task, {}):
                        ax.axhline(PUBLISHED[task][agent][row], color=COLOURS[agent], ls="--", lw=1)
            axes[0, column].set(title=task, ylabel="return of a training episode")
            axes[1, column].set(xlabel="control period", ylabel=f"{COSTS[task].replace('_', ' ')} of it")
        axes[0, -1].legend()


def _curves(outcomes: Outcomes, agent: str, task: str) -> tuple[tuple[FloatArray, FloatArray], ...]:
    """When training episodes ended, (episodes,) control periods, with their returns and costs, (seeds, episodes)."""
    found = [numbers for _, numbers in outcomes.of(agent=agent, task=task)]
    ends = np.cumsum(found[0]["episode_lengths"])
    returns = np.array([numbers["episode_returns"] for numbers in found])
    costs = np.array([numbers["episode_figures"][COSTS[task]] for numbers in found])
    return (ends, returns), (ends, costs)


def _late(outcomes: Outcomes, agent: str, task: str) -> tuple[float, float]:
    """Mean return and cost of the episodes that ended in the last fifth of training."""
    returns, costs = (values.mean() for values in _late_of_seeds(outcomes, agent, task))
    return float(returns), float(costs)


def _late_of_seeds(outcomes: Outcomes, agent: str, task: str) -> tuple[FloatArray, ...]:
    """The same of each seed, (seeds,)."""
    return tuple(
        np.asarray(values[:, ends > (1.0 - LATE) * ends[-1]].mean(axis=1))
        for ends, values in _curves(outcomes, agent, task)
    )


def _little(loop: tuple[float, float], safe: tuple[float, float]) -> bool:
    """Whether the limit saves most of the cost and little of the return; no share is one of nothing, or of a loss."""
    return loop[0] > 0.0 and safe[0] >= KEPT * loop[0] and safe[1] <= CHEAPER * loop[1]


def _figures(outcomes: Outcomes, task: str) -> dict[str, Any]:
    """What decides, with standard errors, and what may be of interest beside it."""
    figures: dict[str, Any] = {}
    for agent in AGENTS[task]:
        returns, costs = _late_of_seeds(outcomes, agent, task)
        trials = outcomes.of(agent=agent, task=task)
        found = [numbers for _, numbers in trials]
        whole = [np.array(numbers["episode_figures"][COSTS[task]]) for numbers in found]
        # While actions are random there is no plan to speak of.
        warmup = trials[0][0].settings["config"]["sac.warmup"]
        planned = [sum(n["episode_lengths"]) - warmup for n in found]
        behind = np.concatenate(
            [costs[np.cumsum([0, *n["episode_lengths"][:-1]]) >= warmup] for costs, n in zip(whole, found, strict=True)]
        )
        infeasible, silent = (
            [sum(n["episode_figures"][name]) / periods for n, periods in zip(found, planned, strict=True)]
            for name in ("infeasible", "silent")
        )
        name = f"{task}: {agent}"
        figures[f"{name}: return, standard error"] = list(mean_and_error(returns))
        figures[f"{name}: return of each seed"] = [float(value) for value in returns]
        figures[f"{name}: {COSTS[task]}, standard error"] = list(mean_and_error(costs))
        figures[f"{name}: mean of all training episodes"] = float(np.mean([costs.mean() for costs in whole]))
        figures[f"{name}: episodes behind the warm-up, those with a cost, mean of all of them"] = [
            len(behind),
            int(np.count_nonzero(behind)),
            float(behind.mean()) if len(behind) else np.nan,
        ]
        figures[f"{name}: infeasible plans, share"] = float(np.mean(infeasible))
        figures[f"{name}: costs that no plan foresaw, share of periods"] = float(np.mean(silent))
        figures[f"{name}: last evaluation, return and cost"] = [
            float(np.mean([numbers["evaluations"][-1] for numbers in found])),
            float(np.mean([numbers["evaluation_figures"][COSTS[task]][-1] for numbers in found])),
        ]
        if agent in PUBLISHED.get(task, {}):
            figures[f"{name}: omnisafe's return and cost after 200 000 periods"] = list(PUBLISHED[task][agent])
    return figures
