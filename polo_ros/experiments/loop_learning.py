"""The job of LOOP's experiments: an agent that learns online, which can be interrupted.

Settings: `agent`, `task`, `steps`, `seed`, `config` (all settings of the agent) and `snapshots`: after how many control
periods weights are kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polo_ros import tasks
from polo_ros.agents import loop, sac
from polo_ros.agents.configs import CONFIGS
from polo_ros.agents.loop_config import LoopConfig
from polo_ros.agents.online import Evaluation, OnlineResult, OnlineRun, observations
from polo_ros.config import replace
from polo_ros.experiments.base import Workplace, save_arrays
from polo_ros.files import write_whole
from polo_ros.learning.actor_critic import ActionRange
from polo_ros.planners.base import PlanResult
from polo_ros.replay.transition import Transition
from polo_ros.safety.timeline import TimedPlan
from polo_ros.tasks.base import FloatArray, Task

BLOCKS = 15  # parts of a run that distances between actor and plan are averaged in
SAVED_EVERY = 500  # control periods: at most so many are done again
REPORTED_EVERY = 20  # control periods

# What torch loads for its first optimiser takes a second: here it is loaded once, before trials are forked.
torch.optim.Adam([torch.zeros(1, requires_grad=True)])


def snapshot(folder: Path, steps: int) -> Path:
    """Where a trial keeps the weights that it had after so many control periods."""
    return folder / f"snapshot-{steps}.safetensors"


class ComparedPlanner(loop.LoopPlanner):
    """A LoopPlanner that notes how far its plans are from what its actor would do.

    Args:
        task, config, seed, exploring: As of LoopPlanner.

    Attributes:
        distances: L2 distance between the actor's action without noise and a plan's first one, both in -1 .. 1, of
            every plan (Sikchi et al. 2021, figure 4); of one that explores from the end of the warm-up on.
    """

    def __init__(self, task: Task, config: LoopConfig, seed: int, exploring: bool = True) -> None:
        super().__init__(task, config, seed, exploring, threads=1)
        self._compared_from = config.sac.warmup if exploring else 0
        self.distances: list[float] = []
        self._units = ActionRange(task)

    def plan(
        self, start: FloatArray, state_step: int, first_step: int, episode: int, deadline: float = np.inf
    ) -> tuple[TimedPlan, PlanResult]:
        """As LoopPlanner."""
        plan, result = super().plan(start, state_step, first_step, episode, deadline)
        if state_step >= self._compared_from:
            apart = self._units.normalise(plan.actions[0]) - self._units.normalise(self.actor(start))
            self.distances.append(float(np.linalg.norm(apart)))
        return plan, result


@dataclass
class Record:
    """What happened, as JSON has it; each entry with the number of control periods behind it where it is not of all."""

    lengths: list[int] = field(default_factory=list)  # of episodes, control periods; the last one perhaps unfinished
    returns: list[float] = field(default_factory=list)  # of episodes
    evaluations: list[tuple[int, list[float]]] = field(default_factory=list)
    fits: list[tuple[int, dict[str, float]]] = field(default_factory=list)  # of the model, and how they went
    messages: list[tuple[int, str]] = field(default_factory=list)  # of updates after the warm-up
    distances: list[float] = field(default_factory=list)  # see ComparedPlanner
    evaluation_distances: list[tuple[int, float]] = field(default_factory=list)  # the same, means of evaluations
    # Of tasks with a cost. Of each episode: its cost as plans count it, how many plans were infeasible, control periods
    # with a cost whose plan was said to keep to the limit (`silent`), Task.measures.
    figures: list[dict[str, float]] = field(default_factory=list)
    evaluation_figures: list[tuple[int, list[dict[str, float]]]] = field(default_factory=list)  # the same, no plans

    def cut(self, steps: int, warmup: int) -> Record:
        """The part of it that lies within the first `steps` control periods, at the end of which an episode ended."""
        episodes = int(np.searchsorted(np.cumsum(self.lengths), steps)) + 1
        return Record(
            self.lengths[:episodes],
            self.returns[:episodes],
            [entry for entry in self.evaluations if entry[0] <= steps],
            [entry for entry in self.fits if entry[0] <= steps],
            [entry for entry in self.messages if entry[0] <= steps],
            self.distances[: max(0, steps - warmup)],
            [entry for entry in self.evaluation_distances if entry[0] <= steps],
            self.figures[:episodes],
            [entry for entry in self.evaluation_figures if entry[0] <= steps],
        )


def learn(settings: Mapping[str, Any], workplace: Workplace) -> dict[str, Any]:
    """Act and learn, tried from time to time without exploring; goes on where it was stopped, to the same bits.

    `evaluation_distances` are means of each evaluation; `distance` is of what was played while learning. Arrays are
    `distances` and, of each fit of the model, `fitted_at` and its figures. Of tasks with a cost there are
    `episode_lengths` in control periods, and `episode_figures` and `evaluation_figures` by name; see Record.
    """
    task = tasks.make(settings["task"])
    config = replace(CONFIGS[settings["agent"]], settings["config"])
    with make_run(task, config, settings["seed"]) as run:
        record = run_recorded(run, settings, workplace, config.sac.warmup, SAVED_EVERY)
    limited: dict[str, Any] = {}
    if task.has_cost:
        limited["episode_lengths"] = record.lengths
        limited["episode_figures"] = _columns(record.figures)
        evaluated = [_columns(figures) for _, figures in record.evaluation_figures]
        limited["evaluation_figures"] = {name: [found[name] for found in evaluated] for name in evaluated[0]}
    names = {name for _, fit in record.fits for name in fit}  # not every fit knows errors further ahead
    save_arrays(
        workplace,
        distances=np.array(record.distances),
        fitted_at=np.array([step for step, _ in record.fits]),
        **{f"model_{name}": np.array([fit.get(name, np.nan) for _, fit in record.fits]) for name in sorted(names)},
    )
    return {
        "evaluated_at": [step for step, _ in record.evaluations],
        "evaluations": [returns for _, returns in record.evaluations],
        "episode_returns": record.returns,
        "model": record.fits[-1][1] if record.fits else {},
        "messages": [f"{step}: {text}" for step, text in record.messages],
        "distance": float(np.mean(record.distances)) if record.distances else None,
        "distance_blocks": _blocks(record.distances, config.sac.warmup, settings["steps"]),
        "evaluation_distances": [apart for _, apart in record.evaluation_distances],
        **limited,
    }


def make_run(task: Task, config: Any, seed: int) -> OnlineRun:
    """The agent with its robot and learner; the planners of one with an actor that it departs from are compared."""
    if isinstance(config, sac.SacAgentConfig):
        return sac.make_run(task, config, seed=seed)
    if not config.lookahead.value:
        return loop.make_run(task, config, seed=seed, threads=1)
    planners = ComparedPlanner(task, config, seed), ComparedPlanner(task, config, seed, exploring=False)
    return OnlineRun(task, config.evaluation, planners, loop.make_learner(task, config, seed), seed)


def run_recorded(
    run: OnlineRun, settings: Mapping[str, Any], workplace: Workplace, warmup: int, saved_every: int
) -> Record:
    """Let a run go, from where it was stopped, to `steps` control periods; returns what happened.

    Args:
        run: That has not begun.
        settings: `steps` and `snapshots`, as of `learn`.
        workplace: Where it is saved.
        warmup: Its control periods of random actions.
        saved_every: Control periods that it is saved after, between two episodes: at most so many, and what is left
            of an episode, are done again.
    """
    steps = settings["steps"]
    checkpoint, kept = workplace.folder / "learner", workplace.folder / "record.json"
    planner = run.planner
    distances = planner.distances if isinstance(planner, ComparedPlanner) else []
    record, seen = Record(), 0
    if checkpoint.exists() and kept.exists():
        # Killed between the two files, the record is ahead.
        record = Record(**json.loads(kept.read_text(encoding="utf-8")))
        seen = run.restore(checkpoint, np.repeat(np.arange(len(record.lengths)), record.lengths))
        record = record.cut(seen, warmup)
        distances.extend(record.distances)
    record.distances = distances
    saved = seen
    learned = 0  # updates that the record has
    limited = run.task.has_cost
    episode: list[Transition] = []  # the one under way, of tasks with a cost
    infeasible = silent = 0  # plans of the episodes before

    def watch(transition: Transition) -> None:
        if limited:
            episode.append(transition)
        if transition.episode == len(record.lengths):
            record.lengths.append(0)
            record.returns.append(0.0)
        record.lengths[-1] += 1
        record.returns[-1] += transition.reward
        done = transition.step + 1
        if done in settings["snapshots"]:
            write_whole(snapshot(workplace.folder, done), run.learner.weights().encode())
        if done % REPORTED_EVERY == 0 or done == steps:
            words = f"step {done} of {steps}, reward {transition.reward:.2f}"
            workplace.progress(done / steps, words)

    def watch_evaluation(found: Evaluation) -> None:
        record.evaluations.append((found.step, list(found.returns)))
        if isinstance(run.evaluation_planner, ComparedPlanner):
            record.evaluation_distances.append((found.step, float(np.mean(run.evaluation_planner.distances))))
            run.evaluation_planner.distances.clear()
        if limited:
            each = zip(found.costs, found.measures, strict=True)
            record.evaluation_figures.append((found.step, [{"cost": cost, **measures} for cost, measures in each]))

    def take(result: OnlineResult) -> None:
        nonlocal learned, infeasible, silent
        if episode:
            record.figures.append(
                {
                    "cost": result.episode_costs[episode[-1].episode],
                    "infeasible": result.infeasible_plans - infeasible,
                    "silent": result.silent_costs - silent,
                    **run.task.measures(observations(episode)),
                }
            )
            infeasible, silent = result.infeasible_plans, result.silent_costs
            episode.clear()
        for update in result.updates[learned:]:
            figures, done = update.figures(), update.step + 1
            model = {name[len("model_") :]: value for name, value in figures.items() if name.startswith("model_")}
            model.pop("ms", None)  # the only one that is of time
            if model:
                record.fits.append((done, model))
            if update.message and done >= warmup:
                record.messages.append((done, update.message))
        learned = len(result.updates)

    def between(result: OnlineResult) -> None:
        nonlocal saved
        take(result)
        done = seen + result.steps
        if done - saved >= saved_every:
            # The record first: one that is ahead of its checkpoint can be cut, one that is behind is of no use.
            write_whole(kept, json.dumps(asdict(record)))
            run.save(checkpoint)
            saved = done

    if seen < steps:
        take(run.go(steps - seen, watch, watch_evaluation, between))
    return record


def _columns(figures: list[dict[str, float]]) -> dict[str, list[float]]:
    """Figures of episodes by name."""
    return {name: [found[name] for found in figures] for name in figures[0]}


def _blocks(distances: list[float], warmup: int, steps: int) -> list[float | None]:
    """Mean distance in each of BLOCKS parts of a run; None where all of it is warm-up."""
    everything = np.concatenate((np.full(min(warmup, steps), np.nan), distances))[:steps]
    parts = [part[np.isfinite(part)] for part in np.array_split(everything, BLOCKS)]
    return [float(part.mean()) if len(part) else None for part in parts]
