"""Figure 2: exploration of worlds without any reward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from polo_ros import drivers, tasks
from polo_ros.agents.polo import PoloConfig
from polo_ros.agents.run import PoloRun
from polo_ros.config import replace
from polo_ros.experiments import comparison
from polo_ros.experiments.agents import settings_of
from polo_ros.experiments.base import (
    Claim,
    Experiment,
    Outcomes,
    Trial,
    Workplace,
    above,
    mean_and_error,
    means_and_errors,
    save_arrays,
)
from polo_ros.seeding import Stream, generator
from polo_ros.tasks.base import FloatArray
from polo_ros.tasks.point_mass import PointMass

WORLDS = ("point_mass_box", "point_mass_maze")
AGENTS: Mapping[str, Mapping[str, Any]] = {
    "random": {},
    "greedy": {"mppi.horizon": 1},  # on the same ensemble
    "POLO": {"mppi.horizon": 32},
}
GRIDS = (5, 10, 20)  # cells along a side: as wide as a corridor, half of it, and the agent itself
JUDGED = 10
EVERY = 20  # steps between two points of a curve
MAP = 41  # points along a side of a picture of the value


def explore(settings: Mapping[str, Any], workplace: Workplace) -> dict[str, Any]:
    """Go about a world for some steps; numbers are coverages over time."""
    task = cast(PointMass, tasks.make(settings["task"]))
    steps, seed, agent = settings["steps"], settings["seed"], settings["agent"]
    maps: dict[str, npt.NDArray[np.float32]] = {}
    if agent == "random":
        positions = _random_walk(task, steps, seed)
    else:
        config = replace(PoloConfig(), settings["config"])
        positions = np.empty((steps, 2))
        with PoloRun(task, config, seed=seed, threads=1) as run:
            for start in range(0, steps, EVERY):
                end = min(steps, start + EVERY)
                found = run.go(end - start).transitions
                positions[start:end] = [t.next_observation[:2] for t in found]
                if end in settings["maps"] and run.planner.value is not None:
                    maps[f"map_{end}"] = run.planner.value(_grid(task))
                workplace.progress(end / steps, f"step {end} of {steps}")
    save_arrays(workplace, positions=positions, **maps)
    return {
        f"coverage_{cells}": [task.coverage(positions[:end], cells) for end in range(EVERY, steps + 1, EVERY)]
        for cells in GRIDS
    }


def _random_walk(task: PointMass, steps: int, seed: int) -> FloatArray:
    """Positions (T, 2) under a new uniform control every step."""
    rng = generator(seed, Stream.PLANNING)
    driver = drivers.simulator(task, seed)
    driver.connect()
    driver.reset(0)
    positions = np.empty((steps, 2))
    try:
        for step in range(steps):
            driver.write(rng.uniform(task.action_low, task.action_high))
            positions[step] = driver.read().qpos[:2]
    finally:
        driver.close()
    return positions


def _grid(task: PointMass) -> FloatArray:
    """Observations (MAP, MAP, nobs) at rest all over the arena, [x, y]."""
    axis = np.linspace(-task.ARENA, task.ARENA, MAP)
    grid = np.zeros((MAP, MAP, task.observation_spec.size))
    grid[..., :2] = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    return grid


class Exploration(Experiment):
    """Coverage of a box and a maze: random, greedy on the ensemble, POLO."""

    name = "polo.exploration"
    paper = "POLO, figure 2"
    question = "does planning for the ensemble's uncertainty explore where random and greedy agents do not?"
    default_seeds = 10
    reads_files = True

    def trials(self, budget: str, seeds: int) -> list[Trial]:
        """Every agent in both worlds, all seeds."""
        steps = 1000 if budget == "full" else 100
        cheap = comparison.SMALL if budget == "small" else {}
        out = []
        for world in WORLDS:
            for agent, config in AGENTS.items():
                for seed in range(seeds):
                    settings: dict[str, Any] = {"task": world, "agent": agent, "steps": steps, "seed": seed}
                    if agent != "random":
                        settings["config"] = settings_of(world, {**cheap, **config})
                        settings["maps"] = [steps // 10, 3 * steps // 10, steps] if seed == 0 else []
                    out.append(
                        Trial(
                            name=f"explore-{world}-{agent}-s{seed}",
                            job="polo_exploration:explore",
                            settings=settings,
                            cost=0.0 if agent == "random" else 1.0,
                            facts={"world": world, "agent": agent, "seed": seed},
                        )
                    )
        return out

    def claims(self, outcomes: Outcomes) -> list[Claim]:
        """POLO > greedy > random by more than a standard error, and POLO sees 80 % of the maze."""
        out = []
        for world in WORLDS:
            ends = {agent: mean_and_error(self._curves(outcomes, world, agent, JUDGED)[:, -1]) for agent in AGENTS}
            for better, worse in (("POLO", "greedy"), ("greedy", "random")):
                out.append(
                    Claim(
                        f"{world}: {better} covers more than {worse}, beyond one standard error of each",
                        above(ends[better], ends[worse]),
                        {f"coverage of {agent}, standard error": list(ends[agent]) for agent in (better, worse)},
                    )
                )
        maze = {cells: self._curves(outcomes, "point_mass_maze", "POLO", cells)[:, -1].mean() for cells in GRIDS}
        out.append(
            Claim(
                f"POLO covers at least 80 % of the maze (grid of {JUDGED} x {JUDGED})",
                bool(maze[JUDGED] >= 0.8),
                {f"coverage, grid of {cells} x {cells}": value for cells, value in maze.items()},
            )
        )
        return out

    def draw(self, outcomes: Outcomes, figure: Figure) -> None:
        """Coverage over time for each world; POLO's value of the maze at three times, with the path so far."""
        figure.set_size_inches(11, 5.5)
        axes = figure.subplot_mosaic([["box", "maze", "maze"], ["map0", "map1", "map2"]])
        for world, place in zip(WORLDS, ("box", "maze"), strict=True):
            for agent, colour in zip(AGENTS, ("tab:gray", "tab:blue", "tab:red"), strict=True):
                curves = self._curves(outcomes, world, agent, JUDGED)
                x = EVERY * np.arange(1, curves.shape[1] + 1)
                mean, error = means_and_errors(curves)
                axes[place].plot(x, 100 * mean, color=colour, label=agent)
                axes[place].fill_between(x, 100 * (mean - error), 100 * (mean + error), color=colour, alpha=0.25)
            axes[place].set(title=world, xlabel="step", ylabel="coverage, %", ylim=(0, 100))
        axes["box"].legend()
        arrays = outcomes.arrays("explore-point_mass_maze-POLO-s0")
        times = sorted(int(name.removeprefix("map_")) for name in arrays if name.startswith("map_"))
        for place, end in zip(("map0", "map1", "map2"), times, strict=False):
            ax = axes[place]
            image = ax.imshow(arrays[f"map_{end}"].T, origin="lower", extent=(-1, 1, -1, 1), cmap="coolwarm")
            ax.plot(*arrays["positions"][:end].T, color="k", lw=0.6)
            ax.set(title=f"optimistic value after {end} steps", xticks=[], yticks=[])
            ax.grid(False)
            figure.colorbar(image, ax=ax)

    @staticmethod
    def _curves(outcomes: Outcomes, world: str, agent: str, cells: int) -> FloatArray:
        """(seeds, points) coverage over time."""
        found = outcomes.of(world=world, agent=agent)
        return np.array([numbers[f"coverage_{cells}"] for _, numbers in found])
