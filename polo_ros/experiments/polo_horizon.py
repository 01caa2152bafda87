"""Figure 3, left: does a learned value let the humanoid plan less far ahead?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from polo_ros.experiments.agents import settings_of
from polo_ros.experiments.base import Claim, Experiment, Outcomes, Trial, mean_and_error

TASK = "humanoid_getup"
EPISODE = 600  # steps
STANDS = 1.0  # m, root height through the last second

# The paper's planner: noise 0.2, temperature 1.25 read as kappa. Its filter is not given: this one makes plain MPC at
# the paper's horizon do what the paper says of it.
PLANNER: Mapping[str, Any] = {
    "mppi.sigma": 0.2,
    "mppi.filter_b0": 0.6,
    "mppi.filter_b1": 0.8,
    "mppi.kappa": 1.25,
}


def horizons(budget: str) -> tuple[int, ...]:
    """Planning horizons of the figure."""
    return (8, 16, 32, 64) if budget == "full" else (4, 8)


def learning_steps(budget: str) -> int:
    """Steps of learning: the paper's 20 episodes of 600, or two short of that."""
    return 12_000 if budget == "full" else EPISODE


def learn(horizon: int, budget: str, seed: int = 0, **changes: Any) -> Trial:
    """POLO learns to get up with this horizon; other experiments use what it learned."""
    config = {**PLANNER, "mppi.horizon": horizon, **changes}
    return Trial(
        name=f"getup-learn-h{horizon}-s{seed}",
        job="agents:learn",
        settings={"task": TASK, "steps": learning_steps(budget), "seed": seed, "config": settings_of(TASK, config)},
        cost=horizon * learning_steps(budget),
        facts={"agent": "learning", "horizon": horizon},
    )


def act(name: str, horizon: int, seed: int, learned: Trial | None, agent: str, **settings: Any) -> Trial:
    """One episode with what was learned, or plain MPC; on starts that learning has not seen."""
    config = {**PLANNER, "mppi.horizon": horizon, **settings.pop("config", {})}
    return Trial(
        name=f"getup-{name}-h{horizon}-s{seed}",
        job="agents:act",
        settings={"task": TASK, "steps": EPISODE, "seed": 1000 + seed, "config": settings_of(TASK, config), **settings},
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
                out.append(act("polo", horizon, seed, learned, "POLO"))
                out.append(act("mpc", horizon, seed, None, "MPC"))
        return out

    def claims(self, outcomes: Outcomes) -> list[Claim]:
        """POLO is never worse, and stands where MPC sits."""
        found = sorted({trial.facts["horizon"] for trial in outcomes.trials})
        means: dict[str, list[float]] = {agent: [] for agent in ("MPC", "POLO")}
        for agent, values in means.items():
            for horizon in found:
                values.append(float(outcomes.column("mean_reward", agent=agent, horizon=horizon).mean()))
        last = found[-1]
        polo, mpc = (outcomes.column("last_second_height", agent=agent, horizon=last) for agent in ("POLO", "MPC"))
        return [
            Claim(
                "POLO's mean reward is at least MPC's at every horizon",
                all(p >= m for p, m in zip(means["POLO"], means["MPC"], strict=True)),
                {"horizons": found, "POLO": means["POLO"], "MPC": means["MPC"]},
            ),
            Claim(
                f"at H={last} POLO stands (root at {STANDS} m or more through the last second) in 2 of 3 trials",
                3 * int((polo >= STANDS).sum()) >= 2 * len(polo),
                {"lowest root height of the last second, m": polo},
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
        found = sorted({trial.facts["horizon"] for trial in outcomes.trials})
        for agent, colour in (("MPC", "tab:gray"), ("POLO", "tab:red")):
            points = [mean_and_error(outcomes.column("mean_reward", agent=agent, horizon=h)) for h in found]
            means, errors = np.array(points).T
            left.errorbar(found, means, errors, color=colour, marker="o", capsize=3, label=agent)
            for trial, _ in outcomes.of(agent=agent, horizon=found[-1]):
                height = outcomes.arrays(trial.name)["height"]
                right.plot(0.008 * np.arange(len(height)), height, color=colour, alpha=0.7)
        left.set(xlabel="planning horizon, steps", ylabel="mean reward a step", xscale="log", xticks=found)
        left.set_xticks(found, [str(h) for h in found])
        left.legend()
        right.axhline(STANDS, color="k", lw=0.8, ls="--")
        right.set(xlabel="time, s", ylabel="root height, m", title=f"H = {found[-1]}")
