"""Figure 3, middle: does a learned value help a hand that turns a die?"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from polo_ros.experiments import comparison
from polo_ros.experiments.base import Claim, Experiment, Outcomes, Trial

TASK = "hand_reorient"
LEARNING = 2500  # steps
ACTING = 1000  # steps
CORE_HOURS = 0.5  # the paper: "For a similar task, POLO only required 1 CPU hour"


class Hand(Experiment):
    """MPC and POLO at the same horizons, after 2500 steps without a single reset."""

    name = "polo.hand"
    paper = "POLO, figure 3 middle"
    question = "does a learned value help the hand to turn a die, where a short horizon is enough?"
    default_seeds = 3

    def trials(self, budget: str, seeds: int) -> list[Trial]:
        """One learner a horizon; `seeds` runs of each agent, which see other targets than the learner."""
        full = budget == "full"
        return [
            trial
            for horizon in ((8, 16, 32) if full else (2, 4))
            for trial in comparison.trials(
                TASK,
                {**({} if full else comparison.SMALL), "mppi.horizon": horizon},
                learning=LEARNING if full else 50,
                acting=ACTING if full else 100,
                seeds=seeds,
            )
        ]

    def claims(self, outcomes: Outcomes) -> list[Claim]:
        """POLO is never worse, and cheap."""
        learning = [trial for trial, _ in outcomes.of(agent="learning")]
        hours = np.array([outcomes.cpu_s[trial.name] for trial in learning]) / 3600.0
        return [
            comparison.not_worse(outcomes),
            Claim(
                f"learning for {learning[0].settings['steps']} steps takes at most {CORE_HOURS} core-hours",
                bool((hours <= CORE_HOURS).all()),
                {
                    "horizons": [trial.facts["horizon"] for trial in learning],
                    "core-hours": hours,
                },
            ),
        ]

    def draw(self, outcomes: Outcomes, figure: Figure) -> None:
        """Reward, angle and targets reached over horizon."""
        axes = figure.subplots(1, 3)
        labels = {
            "mean_reward": "mean reward a step",
            "mean_angle": "mean angle to the target, rad",
            "targets_reached": "share of targets reached",
        }
        for ax, (number, label) in zip(axes, labels.items(), strict=True):
            comparison.draw_by_horizon(outcomes, ax, number, label)
        axes[0].legend()
