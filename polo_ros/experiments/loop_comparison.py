"""LOOP against its baselines: trials that learn online, the areas under their curves, and how these are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from polo_ros.agents.configs import CONFIGS
from polo_ros.config import flatten, replace
from polo_ros.experiments.base import Outcomes, Trial, mean_and_error, means_and_errors, plain
from polo_ros.session.config import for_task
from polo_ros.tasks.base import FloatArray

COLOURS = {
    "loop": "tab:red",
    "sac": "tab:gray",
    "pets_restricted": "tab:blue",
    "loop_sarsa": "tab:green",
    "loop_no_arc": "tab:orange",
}

# A small budget shows that everything works, in milliseconds a step; nothing is learned by it.
SMALL: Mapping[str, Any] = {
    "arc.rollouts": 8,
    "arc.iterations": 1,
    "cem.rollouts": 8,
    "cem.iterations": 1,
    "cem.elites": 2,
    "ensemble.members": 2,
    "ensemble.elites": 2,
    "ensemble.hidden": 8,
    "ensemble.layers": 1,
    "prediction.particles": 2,
    "fit.every": 40,
    "fit.min_transitions": 16,
    "fit.max_epochs": 2,
    "fit.weight_decay": [0.0],
    "networks.hidden": 8,
    "sac.warmup": 40,
    "sac.update_every": 20,
    "sac.gradient_steps": 2,
    "sac.batch_size": 16,
    "evaluation.steps": 10,
}
SMALL_STEPS = 120


def settings_of(agent: str, task: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of an agent by dotted name, as JSON has them: the task's own, with changes."""
    settings: dict[str, Any] = plain(flatten(replace(for_task(CONFIGS[agent], task, agent=agent), changes)))
    return settings


def trial(
    agent: str,
    task: str,
    seed: int,
    *,
    full: bool,
    steps: int,
    every: int,
    snapshots: Sequence[int] = (),
    changes: Mapping[str, Any] | None = None,
    label: str = "",
) -> Trial:
    """An agent that learns a task online, tried in two episodes on a grid of steps.

    Args:
        agent: By name.
        task: By name.
        seed: Of everything.
        full: The full budget; the small one has SMALL_STEPS.
        steps: Control periods of the full budget.
        every: Control periods between two evaluations of the full budget.
        snapshots: After how many control periods weights are kept.
        changes: Of the task's settings.
        label: Of the changes.
    """
    known = flatten(CONFIGS[agent])
    if not full:
        steps, every = SMALL_STEPS, SMALL_STEPS // 2
    changes = {
        **(changes or {}),
        **({} if full else {name: value for name, value in SMALL.items() if name in known}),
        "evaluation.every": every,
        "evaluation.episodes": 2,
    }
    return Trial(
        name=f"{task}-{agent}{label and '-'}{label}-s{seed}",
        job="loop_learning:learn",
        settings={
            "agent": agent,
            "task": task,
            "steps": steps,
            "seed": seed,
            "config": settings_of(agent, task, changes),
            "snapshots": list(snapshots),
        },
        cost=steps * (1.0 if agent == "sac" else 4.0),
        facts={"agent": agent, "task": task, "seed": seed, "label": label},
    )


def curves(outcomes: Outcomes, agent: str, task: str, label: str = "") -> tuple[FloatArray, FloatArray]:
    """When an agent was tried, (points,) control periods, and its mean returns then, (seeds, points)."""
    found = [numbers for _, numbers in outcomes.of(agent=agent, task=task, label=label)]
    return np.array(found[0]["evaluated_at"]), np.array([numbers["evaluations"] for numbers in found]).mean(axis=2)


def areas(outcomes: Outcomes, agent: str, task: str) -> FloatArray:
    """Area under each seed's curve over the steps of the run, (seeds,): the mean of its evaluations on the grid."""
    return np.asarray(curves(outcomes, agent, task)[1].mean(axis=1))


def area_figures(outcomes: Outcomes, agents: Sequence[str], task: str) -> dict[str, list[float]]:
    """Mean area and standard error of each agent, as a claim shows them."""
    return {
        f"{task}: area of {agent}, standard error": list(mean_and_error(areas(outcomes, agent, task)))
        for agent in agents
    }


def draw_curves(outcomes: Outcomes, ax: Any, agents: Sequence[str], task: str) -> None:
    """Return without exploring over the steps of learning, mean and standard error of the seeds."""
    for agent in agents:
        steps, returns = curves(outcomes, agent, task)
        mean, error = means_and_errors(returns)
        ax.plot(steps, mean, color=COLOURS[agent], label=agent)
        ax.fill_between(steps, mean - error, mean + error, color=COLOURS[agent], alpha=0.2)
    ax.set(title=task, xlabel="control period", ylabel="return without exploring")
