"""Figure 4a: do targets by longer trajectory optimisation make the value learn faster?"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from polo_ros.experiments.agents import settings_of
from polo_ros.experiments.base import Claim, Experiment, Outcomes, Trial, above, mean_and_error, means_and_errors
from polo_ros.experiments.polo_horizon import EPISODE, TASK, planner
from polo_ros.tasks.base import FloatArray

HORIZON = 16  # of planning: short, so that the value decides
STEPS_AHEAD = (1, 8, 32)  # N


class NStep(Experiment):
    """Getup learning with N-step targets, everything else equal."""

    name = "polo.n_step"
    paper = "POLO, figure 4a"
    question = "does a larger N in the value's targets (eq. 7) make learning faster?"
    default_seeds = 3

    def trials(self, budget: str, seeds: int) -> list[Trial]:
        """One learner for each N and seed."""
        episodes = 6 if budget == "full" else 1
        return [
            Trial(
                name=f"getup-learn-n{ahead}-s{seed}",
                job="agents:learn",
                settings={
                    "task": TASK,
                    "steps": episodes * EPISODE,
                    "seed": seed,
                    "config": settings_of(TASK, {**planner(budget, HORIZON), "targets.horizon": ahead}),
                },
                cost=HORIZON + ahead,
                facts={"N": ahead, "seed": seed},
            )
            for seed in range(seeds)
            for ahead in STEPS_AHEAD
        ]

    def claims(self, outcomes: Outcomes) -> list[Claim]:
        """Mean reward over all of learning: the sooner it rises, the higher."""
        means = {ahead: mean_and_error(outcomes.column("mean_reward", N=ahead)) for ahead in STEPS_AHEAD}
        figures = {f"N={ahead}: mean reward a step while learning, standard error": means[ahead] for ahead in means}
        first = means[STEPS_AHEAD[0]]
        return [
            Claim(
                f"N={ahead} learns faster than N=1, beyond one standard error of each",
                above(means[ahead], first),
                figures,
            )
            for ahead in STEPS_AHEAD[1:]
        ]

    def draw(self, outcomes: Outcomes, figure: Figure) -> None:
        """Mean reward of each episode."""
        ax = figure.subplots()
        for ahead, colour in zip(STEPS_AHEAD, ("tab:gray", "tab:blue", "tab:red"), strict=True):
            curves = self._curves(outcomes, ahead)
            x = EPISODE * np.arange(1, curves.shape[1] + 1)
            mean, error = means_and_errors(curves)
            ax.errorbar(x, mean, error, color=colour, marker="o", capsize=3, label=f"N = {ahead}")
        ax.set(xlabel="steps of learning", ylabel="mean reward a step, by episode")
        ax.legend()

    @staticmethod
    def _curves(outcomes: Outcomes, ahead: int) -> FloatArray:
        """(seeds, episodes)."""
        return np.array([numbers["episode_returns"] for _, numbers in outcomes.of(N=ahead)]) / EPISODE
