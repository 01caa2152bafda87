"""Appendix A.2: the humanoid that walks."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from polo_ros.experiments import comparison
from polo_ros.experiments.base import Claim, Outcomes
from polo_ros.tasks.humanoid_walk import HumanoidWalk

EPISODE = HumanoidWalk.episode_steps
SPEED_ERROR = 0.3  # m/s, mean over the last 2 s


class Walk(comparison.Filmed):
    """Walking at 1 m/s, with what was learned in 20 episodes and without."""

    name = "polo.walk"
    paper = "POLO, appendix A.2"
    question = "does the humanoid walk at 1 m/s, and better with a learned value than by plain MPC?"
    task = HumanoidWalk

    def claims(self, outcomes: Outcomes) -> list[Claim]:
        """POLO walks, and no worse than MPC."""
        error, lowest, upright = (
            outcomes.column(name, agent="POLO") for name in ("speed_error", "lowest_height", "upright_s")
        )
        return [
            comparison.two_of_three(
                f"walks at 1 m/s without a fall (mean |speed - 1| of the last 2 s at most {SPEED_ERROR})",
                (error <= SPEED_ERROR) & (lowest >= HumanoidWalk.FALLEN_HEIGHT),
                {
                    "mean |speed - 1| of the last 2 s, m/s": error,
                    "mean speed of the last 2 s, m/s": outcomes.column("speed", agent="POLO"),
                    "time before a fall, s": upright,
                    "MPC's mean |speed - 1| of the last 2 s, m/s": outcomes.column("speed_error", agent="MPC"),
                    "MPC's time before a fall, s": outcomes.column("upright_s", agent="MPC"),
                },
            ),
            comparison.not_worse(outcomes),
        ]

    def draw(self, outcomes: Outcomes, figure: Figure) -> None:
        """Reward while learning, and speed over time."""
        left, right = figure.subplots(1, 2)
        comparison.draw_learning(outcomes, left, EPISODE)
        half_second = np.ones(63) / 63  # a step's sway would hide what the steps come to
        for agent, colour in comparison.COLOURS.items():
            for trial, _ in outcomes.of(agent=agent):
                seen = HumanoidWalk.observation_spec.view(outcomes.arrays(trial.name)["observations"])
                speed = np.convolve(seen["root_velocity"][:, 0], half_second, mode="valid")
                time = HumanoidWalk.control_dt * np.arange(len(half_second), len(half_second) + len(speed))
                right.plot(time, speed, color=colour, alpha=0.7)
        right.axhline(HumanoidWalk.TARGET_SPEED, color="k", lw=0.8, ls="--")
        right.set(xlabel="time, s", ylabel="speed along x, mean of half a second, m/s")
