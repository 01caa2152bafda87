"""Figure 3, right: is the learned value about the task, or only a help to the rewards before it?"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from polo_ros.experiments import comparison
from polo_ros.experiments.base import Claim, Experiment, Outcomes, Trial
from polo_ros.experiments.polo_horizon import act, horizons, learn

RAISED = 0.5  # m, root height of somebody who sits; it begins at 0.1 m
SECOND = 125  # steps

# The learned value of the state at the horizon is all that is judged by.
VALUE_ALONE = {"objective.rewards": False}


class ValueOnly(Experiment):
    """MPC on the learned value without rewards, greedily and over the whole horizon."""

    name = "polo.value_only"
    paper = "POLO, figure 3 right"
    question = "does the learned value alone raise the humanoid?"
    default_seeds = 3
    reads_files = True

    def trials(self, budget: str, seeds: int) -> list[Trial]:
        """The value of the longest horizon's learner, judged by it alone and together with the rewards."""
        longest = horizons(budget)[-1]
        learned = learn(longest, budget)
        out = [learned]
        for seed in range(seeds):
            out.append(act("value", longest, budget, seed, learned, "value alone", config=VALUE_ALONE))
            out.append(act("greedy", 1, budget, seed, learned, "greedy on it", config=VALUE_ALONE))
            out.append(act("polo", longest, budget, seed, learned, "POLO"))
        return out

    def claims(self, outcomes: Outcomes) -> list[Claim]:
        """Whether the root is up in the last second."""
        ends = {agent: self._ends(outcomes, agent) for agent in ("value alone", "greedy on it")}
        return [
            Claim(
                f"the learned value alone raises the root to {RAISED} m or more",
                bool(ends["value alone"].mean() >= RAISED),
                {"mean root height of the last second, m": ends["value alone"]},
            ),
            Claim(
                "greedy on the learned value does not",
                bool(ends["greedy on it"].mean() < RAISED),
                {"mean root height of the last second, m": ends["greedy on it"]},
            ),
        ]

    def draw(self, outcomes: Outcomes, figure: Figure) -> None:
        """Height over time."""
        colours = {"value alone": "tab:red", "greedy on it": "tab:blue", "POLO": "tab:gray"}
        comparison.draw_heights(outcomes, figure.subplots(), colours, RAISED)

    @staticmethod
    def _ends(outcomes: Outcomes, agent: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        found = outcomes.of(agent=agent)
        return np.array([outcomes.arrays(trial.name)["height"][-SECOND:].mean() for trial, _ in found])
