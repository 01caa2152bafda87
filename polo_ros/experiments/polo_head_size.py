"""Figure 4b: how well does a value serve a body that it was not learned on?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from polo_ros.experiments.base import Claim, Experiment, Outcomes, Trial, mean_and_error
from polo_ros.experiments.polo_horizon import act, horizons, learn

SIZES = (1.0, 1.5, 2.0)  # radius of the head over the nominal one


class HeadSize(Experiment):
    """The value learned with the nominal head, used on larger heads at several planning horizons."""

    name = "polo.head_size"
    paper = "POLO, figure 4b"
    question = "does a longer planning horizon make up for a value learned on another body?"
    default_seeds = 3

    def trials(self, budget: str, seeds: int) -> list[Trial]:
        """Episodes for every size and horizon; the model that plans has the larger head too."""
        longest = horizons(budget)[-1]
        learned = learn(longest, budget)
        out = [learned]
        for horizon in horizons(budget)[-3:]:
            for size in SIZES:
                for seed in range(seeds):
                    # With the nominal head, at the learner's horizon, it is an episode of polo.horizon.
                    known = size == 1.0 and horizon == longest
                    larger = {} if known else {"head_size": size}
                    name = "polo" if known else f"head{size:g}"
                    trial = act(name, horizon, budget, seed, learned, "POLO", **larger)
                    out.append(replace(trial, facts={**trial.facts, "head_size": size}))
        return out

    def claims(self, outcomes: Outcomes) -> list[Claim]:
        """Reward lost to the largest head, at the shortest and at the longest horizon."""
        found = self._horizons(outcomes)
        lost = {}
        for horizon in found:
            nominal, large = (self._rewards(outcomes, horizon, size)[0] for size in (SIZES[0], SIZES[-1]))
            lost[horizon] = nominal - large
        return [
            Claim(
                f"H={found[-1]} loses less to a head of size {SIZES[-1]:g} than H={found[0]}",
                lost[found[-1]] < lost[found[0]],
                {f"H={horizon}: mean reward lost": value for horizon, value in lost.items()},
            ),
            Claim(
                f"at head size {SIZES[-1]:g} H={found[-1]} earns more than H={found[0]}",
                self._rewards(outcomes, found[-1], SIZES[-1])[0] > self._rewards(outcomes, found[0], SIZES[-1])[0],
                {f"H={horizon}: mean reward": self._rewards(outcomes, horizon, SIZES[-1])[0] for horizon in found},
            ),
        ]

    def draw(self, outcomes: Outcomes, figure: Figure) -> None:
        """Mean reward over head size, a line for each horizon."""
        ax = figure.subplots()
        for horizon in self._horizons(outcomes):
            points = [self._rewards(outcomes, horizon, size) for size in SIZES]
            means, errors = np.array(points).T
            ax.errorbar(SIZES, means, errors, marker="o", capsize=3, label=f"H = {horizon}")
        ax.set(xlabel="head size", ylabel="mean reward a step")
        ax.legend()

    @staticmethod
    def _horizons(outcomes: Outcomes) -> list[int]:
        return sorted({trial.facts["horizon"] for trial in outcomes.trials if trial.facts["agent"] == "POLO"})

    @staticmethod
    def _rewards(outcomes: Outcomes, horizon: int, size: float) -> tuple[float, float]:
        found = outcomes.column("mean_reward", agent="POLO", horizon=horizon, head_size=size)
        return mean_and_error(found)
