"""POLO with what it has learned against plain MPC of the same horizon: what several experiments do and claim."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from polo_ros.experiments.agents import VIDEO, settings_of
from polo_ros.experiments.base import Claim, Experiment, Outcomes, Trial, mean_and_error
from polo_ros.tasks.humanoid import Humanoid

COLOURS = {"MPC": "tab:gray", "POLO": "tab:red"}

# What was learned is tested on the ensemble's mean: the optimism of eq. 6 explores, which is over then.
TESTING: Mapping[str, Any] = {"value.kappa": 0.0}

# A small budget shows that everything works, in milliseconds a step; nothing is learned by it.
SMALL: Mapping[str, Any] = {
    "mppi.rollouts": 4,
    "targets.horizon": 4,
    "targets.rollouts": 4,
    "learner.target_states": 4,
    "learner.gradient_steps": 4,
}


def trials(
    task: str,
    changes: Mapping[str, Any],
    *,
    learning: int,
    acting: int,
    seeds: int,
    video: bool = False,
) -> list[Trial]:
    """One learner; runs of each agent from starts, and with disturbances, that learning has not seen.

    Args:
        task: By name.
        changes: Settings of the agent that differ from the task's own.
        learning: Steps of learning.
        acting: Steps of each run after it.
        seeds: Runs of each agent.
        video: Whether the first run of POLO is filmed.
    """
    config = settings_of(task, changes)
    horizon = config["mppi.horizon"]
    learned = Trial(
        name=f"{task}-learn-h{horizon}-s0",
        job="agents:learn",
        settings={"task": task, "steps": learning, "seed": 0, "config": config},
        cost=horizon * learning,
        facts={"agent": "learning", "horizon": horizon},
    )
    out = [learned]
    for seed in range(seeds):
        for agent, needs in (("POLO", (learned.name,)), ("MPC", ())):
            tested = {**config, **(TESTING if needs else {})}
            filmed = {"video": True} if video and agent == "POLO" and seed == 0 else {}
            out.append(
                Trial(
                    name=f"{task}-{agent.lower()}-h{horizon}-s{seed}",
                    job="agents:act",
                    settings={"task": task, "steps": acting, "seed": 1000 + seed, "config": tested, **filmed},
                    needs=needs,
                    cost=horizon * acting,
                    facts={"agent": agent, "horizon": horizon, "seed": seed},
                )
            )
    return out


def horizons(outcomes: Outcomes) -> list[int]:
    """Planning horizons that were tried, the shortest first."""
    return sorted({trial.facts["horizon"] for trial in outcomes.trials})


def two_of_three(what: str, held: npt.NDArray[np.bool_], figures: Mapping[str, Any]) -> Claim:
    """The claim that POLO does `what` in at least two thirds of its runs; `held` (runs,) says in which."""
    return Claim(f"POLO {what} in at least 2 of 3 runs", 3 * int(held.sum()) >= 2 * len(held), figures)


def not_worse(outcomes: Outcomes) -> Claim:
    """The claim that what was learned does not harm: POLO's mean reward is at least MPC's, at every horizon."""
    found = horizons(outcomes)
    polo, mpc = (
        [float(outcomes.column("mean_reward", agent=agent, horizon=horizon).mean()) for horizon in found]
        for agent in ("POLO", "MPC")
    )
    return Claim(
        "POLO's mean reward is at least MPC's" + (" at every horizon" if len(found) > 1 else ""),
        all(p >= m for p, m in zip(polo, mpc, strict=True)),
        {"horizons": found, "POLO": polo, "MPC": mpc},
    )


class Filmed(Experiment):
    """POLO and plain MPC on a humanoid's task at the horizon of its settings; POLO's first episode is filmed.

    Subclasses set `task` beside what Experiment asks for.
    """

    task: type[Humanoid]
    default_seeds = 3
    reads_files = True

    def trials(self, budget: str, seeds: int) -> list[Trial]:
        """The paper's 20 episodes of learning, then episodes of both agents."""
        full, episode = budget == "full", self.task.episode_steps
        return trials(
            self.task.name,
            {} if full else {**SMALL, "mppi.horizon": 4},
            learning=20 * episode if full else episode,
            acting=episode,
            seeds=seeds,
            video=True,
        )

    def extras(self, outcomes: Outcomes) -> Mapping[str, Path]:
        """The film, if it could be made."""
        films = (outcomes.folders[trial.name] / VIDEO for trial in outcomes.trials if trial.settings.get("video"))
        made = next((path for path in films if path.is_file()), None)
        return {VIDEO: made} if made else {}


def draw_heights(outcomes: Outcomes, ax: Any, colours: Mapping[str, str], line: float, **facts: Any) -> None:
    """Root height over time of the agents' episodes; `line` is the height that is asked for, m."""
    for agent, colour in colours.items():
        for index, (trial, _) in enumerate(outcomes.of(agent=agent, **facts)):
            height = outcomes.arrays(trial.name)["height"]
            time = Humanoid.control_dt * np.arange(len(height))
            ax.plot(time, height, color=colour, alpha=0.7, label=None if index else agent)
    ax.axhline(line, color="k", lw=0.8, ls="--")
    ax.set(xlabel="time, s", ylabel="root height, m")
    ax.legend()


def draw_by_horizon(outcomes: Outcomes, ax: Any, number: str, label: str) -> None:
    """One number of both agents over the planning horizon, with the standard error over runs."""
    found = horizons(outcomes)
    for agent, colour in COLOURS.items():
        points = [mean_and_error(outcomes.column(number, agent=agent, horizon=h)) for h in found]
        means, errors = zip(*points, strict=True)
        ax.errorbar(found, means, errors, color=colour, marker="o", capsize=3, label=agent)
    ax.set(xlabel="planning horizon, steps", ylabel=label, xscale="log")
    ax.set_xticks(found, [str(h) for h in found])
    ax.minorticks_off()


def draw_learning(outcomes: Outcomes, ax: Any, episode_steps: int) -> None:
    """Mean reward of each episode of learning; beside it that of the runs after it."""
    (_, numbers) = outcomes.of(agent="learning")[0]
    means = [total / episode_steps for total in numbers["episode_returns"]]
    ax.plot(range(1, len(means) + 1), means, color="tab:blue", marker="o", label="while learning")
    for agent, colour in COLOURS.items():
        mean, error = mean_and_error(outcomes.column("mean_reward", agent=agent))
        ax.axhline(mean, color=colour, label=agent)
        ax.axhspan(mean - error, mean + error, color=colour, alpha=0.2)
    ax.set(xlabel="episode", ylabel="mean reward a step")
    ax.legend()
