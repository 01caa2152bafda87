"""Figure 3, left: does a learned value let the humanoid plan less far ahead?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from polo_ros.experiments import comparison
from polo_ros.experiments.agents import settings_of
from polo_ros.experiments.base import Claim, Experiment, Outcomes, Trial

TASK = "humanoid_getup"
EPISODE = 600  # steps
OPTIMISTIC = "POLO, as optimistic as while learning"
STANDS = 1.0  # m, root height through the last second

# The paper's planner: noise 0.2, temperature 1.25 read as kappa. Its filter is not given: this one makes plain MPC at
# the paper's horizon do what the paper says of it.
PLANNER: Mapping[str, Any] = {
    "mppi.sigma": 0.2,
    "mppi.filter_b0": 0.6,
    "mppi.filter_b1": 0.8,
    "mppi.kappa": 1.25,
}


def planner(budget: str, horizon: int) -> dict[str, Any]:
    """Settings of the planner, and in a small budget of a cheap learner."""
    return {**PLANNER, **(comparison.SMALL if budget == "small" else {}), "mppi.horizon": horizon}


def horizons(budget: str) -> tuple[int, ...]:
    """Planning horizons of the figure."""
    return (8, 16, 32, 64) if budget == "full" else (4, 8)


def learning_steps(budget: str) -> int:
    """Steps of learning: the paper's 20 episodes of 600, or one."""
    return 12_000 if budget == "full" else EPISODE


def learn(horizon: int, budget: str) -> Trial:
    """POLO learns to get up with this horizon; other experiments use what it learned."""
    config = settings_of(TASK, planner(budget, horizon))
    return Trial(
        name=f"getup-learn-h{horizon}-s0",
        job="agents:learn",
        settings={"task": TASK, "steps": learning_steps(budget), "seed": 0, "config": config},
        cost=horizon * learning_steps(budget),
        facts={"agent": "learning", "horizon": horizon},
    )


def act(name: str, horizon: int, budget: str, seed: int, learned: Trial | None, agent: str, **settings: Any) -> Trial:
    """One episode with what was learned, or plain MPC; on starts that learning has not seen."""
    config = {**planner(budget, horizon), **(comparison.TESTING if learned else {}), **settings.pop("config", {})}
    return Trial(
        name=f"getup-{name}-h{horizon}-s{seed}",
        job="agents:act",
        settings={
            "task": TASK,
            "steps": EPISODE if budget == "full" else 150,  # little more than the last second that is judged
            "seed": 1000 + seed,
            "config": settings_of(TASK, config),
            **settings,
        },
        needs=(learned.name,) if learned else (),
        cost=horizon * EPISODE,
        facts={"agent": agent, "horizon": horizon, "seed": seed, **settings},
    )


class Horizon(Experiment):
    """MPC and POLO at the same horizons, after the same 12 000 steps."""

    name = "polo.horizon"
    paper = "POLO, figure 3 left"
    question = "does a learned value let the humanoid get up where plain MPC of the same horizon sits?"
    default_seeds = 3

    def trials(self, budget: str, seeds: int) -> list[Trial]:
        """One learner a horizon; `seeds` episodes of each agent."""
        out = []
        for horizon in horizons(budget):
            learned = learn(horizon, budget)
            out.append(learned)
            for seed in range(seeds):
                out.append(act("polo", horizon, budget, seed, learned, "POLO"))
                out.append(act("mpc", horizon, budget, seed, None, "MPC"))
        for seed in range(seeds):
            optimistic = {"value.kappa": learned.settings["config"]["value.kappa"]}
            out.append(act("optimistic", horizon, budget, seed, learned, OPTIMISTIC, config=optimistic))
        return out

    def claims(self, outcomes: Outcomes) -> list[Claim]:
        """POLO is never worse, and stands where MPC sits."""
        last = comparison.horizons(outcomes)[-1]
        polo, mpc, optimistic = (
            outcomes.column("last_second_height", agent=agent, horizon=last) for agent in ("POLO", "MPC", OPTIMISTIC)
        )
        return [
            comparison.not_worse(outcomes),
            comparison.two_of_three(
                f"stands at H={last} (root at {STANDS} m or more through the last second)",
                polo >= STANDS,
                {"lowest root height of the last second, m": polo, OPTIMISTIC: optimistic},
            ),
            Claim(
                f"at H={last} plain MPC does not stand in any trial",
                bool((mpc < STANDS).all()),
                {"lowest root height of the last second, m": mpc},
            ),
        ]

    def draw(self, outcomes: Outcomes, figure: Figure) -> None:
        """Reward over horizon, and height over time at the longest."""
        left, right = figure.subplots(1, 2)
        comparison.draw_by_horizon(outcomes, left, "mean_reward", "mean reward a step")
        left.legend()
        last = comparison.horizons(outcomes)[-1]
        comparison.draw_heights(outcomes, right, comparison.COLOURS, STANDS, horizon=last)
        right.set_title(f"H = {last}")
