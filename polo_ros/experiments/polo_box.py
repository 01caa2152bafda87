"""Appendix A.3: the humanoid that pushes a slippery box."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from polo_ros.experiments import comparison
from polo_ros.experiments.base import Claim, Outcomes
from polo_ros.tasks.humanoid_box import HumanoidBox

EPISODE = HumanoidBox.episode_steps
NEAR = 0.3  # m from the target


class Box(comparison.Filmed):
    """Pushing a box to its target, with what was learned in 20 episodes and without."""

    name = "polo.box"
    paper = "POLO, appendix A.3"
    question = "does the humanoid push the box to its target, and better with a learned value than by plain MPC?"
    task = HumanoidBox

    def claims(self, outcomes: Outcomes) -> list[Claim]:
        """The box is where it should be in the end, and POLO no worse than MPC."""
        final = outcomes.column("final_distance", agent="POLO")
        return [
            comparison.two_of_three(
                f"has the box within {NEAR} m of its target at the end",
                final <= NEAR,
                {
                    "distance at the end, m": final,
                    "least distance, m": outcomes.column("least_distance", agent="POLO"),
                    "MPC's distance at the end, m": outcomes.column("final_distance", agent="MPC"),
                },
            ),
            comparison.not_worse(outcomes),
        ]

    def draw(self, outcomes: Outcomes, figure: Figure) -> None:
        """Reward while learning, and the box's way to its target over time."""
        left, right = figure.subplots(1, 2)
        comparison.draw_learning(outcomes, left, EPISODE)
        task = HumanoidBox()
        for agent, colour in comparison.COLOURS.items():
            for trial, _ in outcomes.of(agent=agent):
                distance = task.distance(outcomes.arrays(trial.name)["observations"])
                time = task.control_dt * np.arange(1, len(distance) + 1)
                right.plot(time, distance, color=colour, alpha=0.7)
        right.axhline(NEAR, color="k", lw=0.8, ls="--")
        right.set(xlabel="time, s", ylabel="distance of the box from its target, m")
