"""Figure 3: LOOP learns online, and so do its parts alone."""

from __future__ import annotations

from matplotlib.figure import Figure

from polo_ros.experiments import loop_comparison as comparison
from polo_ros.experiments.base import Claim, Experiment, Outcomes, Trial

AGENTS = ("loop", "sac", "pets_restricted", "loop_sarsa")
TASKS = {  # control periods, and those between two evaluations
    "inverted_pendulum": (5_000, 500),
    "hopper": (20_000, 2_000),
    "half_cheetah": (20_000, 2_000),
}
LOCOMOTION = ("half_cheetah", "hopper")
RATIO = 1.5  # of the areas, LOOP over SAC
KEPT = ("loop", "half_cheetah")  # whose weights `loop.tradeoff` plans with


def trial(agent: str, task: str, seed: int, full: bool) -> Trial:
    """One of the runs."""
    steps, every = TASKS[task]
    kept = snapshots(full) if (agent, task) == KEPT else ()
    return comparison.trial(agent, task, seed, full=full, steps=steps, every=every, snapshots=kept)


def snapshots(full: bool) -> tuple[int, ...]:
    """After how many control periods weights are kept: at the end of the warm-up, later, and at the end."""
    return (1_000, 5_000, 20_000) if full else (40, 80, 120)


class Online(Experiment):
    """Return without exploring over the control periods learned from."""

    name = "loop.online"
    paper = "LOOP, figure 3"
    question = "does LOOP learn from fewer control periods than SAC, PETS of its horizon and LOOP-SARSA?"
    default_seeds = 3

    def trials(self, budget: str, seeds: int) -> list[Trial]:
        """All agents on all tasks."""
        return [
            trial(agent, task, seed, budget == "full") for task in TASKS for agent in AGENTS for seed in range(seeds)
        ]

    def claims(self, outcomes: Outcomes) -> list[Claim]:
        """LOOP is well above SAC in locomotion, and above every baseline on most tasks."""
        area = {
            task: {agent: float(comparison.areas(outcomes, agent, task).mean()) for agent in AGENTS} for task in TASKS
        }
        # A ratio to what is not above zero says nothing.
        ratios = {task: area[task]["loop"] / area[task]["sac"] for task in LOCOMOTION if area[task]["sac"] > 0.0}
        best = [task for task in TASKS if all(area[task]["loop"] > area[task][agent] for agent in AGENTS[1:])]
        figures = {
            name: value for task in TASKS for name, value in comparison.area_figures(outcomes, AGENTS, task).items()
        }
        return [
            Claim(
                f"the area under LOOP's curve is at least {RATIO} times SAC's on half_cheetah or hopper",
                any(ratio >= RATIO for ratio in ratios.values()),
                {f"{task}: LOOP's area over SAC's": ratios.get(task) for task in LOCOMOTION},
            ),
            Claim(
                "the area under LOOP's curve is above every baseline's on at least 2 of 3 tasks",
                len(best) >= 2,
                {"tasks on which it is": best, **figures},
            ),
        ]

    def draw(self, outcomes: Outcomes, figure: Figure) -> None:
        """A panel for each task."""
        figure.set_size_inches(11, 4)
        axes = figure.subplots(1, len(TASKS))
        for ax, task in zip(axes, TASKS, strict=True):
            comparison.draw_curves(outcomes, ax, AGENTS, task)
        axes[0].legend()
