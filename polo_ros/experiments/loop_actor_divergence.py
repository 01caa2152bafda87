"""Figure 4: how far plans are from the actor whose values they use, with ARC and without."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from polo_ros.experiments import loop_comparison as comparison
from polo_ros.experiments.base import Claim, Experiment, Outcomes, Trial, mean_and_error, means_and_errors
from polo_ros.tasks.base import FloatArray

AGENTS = ("loop", "loop_no_arc")
TASK = "walker2d"
STEPS, EVERY = 15_000, 1_500
SHARE = 0.5  # of the distance without ARC


class ActorDivergence(Experiment):
    """Distance between what the actor does and what is planned, while learning, and what is learned."""

    name = "loop.actor_divergence"
    paper = "LOOP, figure 4"
    question = "does ARC keep plans near the actor, and does that help learning?"
    default_seeds = 3

    def trials(self, budget: str, seeds: int) -> list[Trial]:
        """LOOP, and LOOP with CEM for ARC."""
        return [
            comparison.trial(agent, TASK, seed, full=budget == "full", steps=STEPS, every=EVERY)
            for agent in AGENTS
            for seed in range(seeds)
        ]

    def claims(self, outcomes: Outcomes) -> list[Claim]:
        """ARC's plans are nearer, and LOOP learns more with them."""
        areas = [float(comparison.areas(outcomes, agent, TASK).mean()) for agent in AGENTS]
        return [
            _nearer("of what is played while learning", [outcomes.column("distance", agent=agent) for agent in AGENTS]),
            _nearer("of plans without exploring", [_of_evaluations(outcomes, agent) for agent in AGENTS]),
            Claim(
                "the area under LOOP's curve is above that of LOOP without ARC",
                areas[0] > areas[1],
                comparison.area_figures(outcomes, AGENTS, TASK),
            ),
        ]

    def draw(self, outcomes: Outcomes, figure: Figure) -> None:
        """Distances over time on the left, dashed without exploring, learning curves on the right."""
        left, right = figure.subplots(1, 2)
        for agent in AGENTS:
            found = outcomes.of(agent=agent)
            blocks = np.array([numbers["distance_blocks"] for _, numbers in found], float)  # None becomes nan
            mean, error = means_and_errors(blocks)
            length = found[0][0].settings["steps"] / blocks.shape[1]
            middles = length * (np.arange(blocks.shape[1]) + 0.5)
            colour = comparison.COLOURS[agent]
            left.plot(middles, mean, color=colour, marker="o", ms=3, label=agent)
            left.fill_between(middles, mean - error, mean + error, color=colour, alpha=0.2)
            evaluated = np.mean([numbers["evaluation_distances"] for _, numbers in found], axis=0)
            left.plot(found[0][1]["evaluated_at"], evaluated, color=colour, ls="--", label=f"{agent}, not exploring")
        left.set(xlabel="control period", ylabel="distance between actor and plan, L2 in -1 .. 1", ylim=(0.0, None))
        left.legend()
        comparison.draw_curves(outcomes, right, AGENTS, TASK)


def _of_evaluations(outcomes: Outcomes, agent: str) -> FloatArray:
    """Mean distance of the evaluations of each seed (seeds,)."""
    found = np.array([numbers["evaluation_distances"] for _, numbers in outcomes.of(agent=agent)])
    return np.asarray(found.mean(axis=1))


def _nearer(which: str, distances: Sequence[FloatArray]) -> Claim:
    """Of distances (seeds,) with ARC and without."""
    with_arc, without = distances
    return Claim(
        f"plans of ARC are less than {SHARE} times as far from the actor's action as those of CEM, {which}",
        bool(with_arc.mean() < SHARE * without.mean()),
        {
            "mean distance with ARC, standard error": list(mean_and_error(with_arc)),
            "mean distance without, standard error": list(mean_and_error(without)),
        },
    )
