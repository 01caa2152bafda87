"""The job of `loop.offline` that records: what soft actor-critic saw while it learned, and what its actor does then.

Two datasets of a task come of it. `medium-replay`: all transitions of a run of soft actor-critic, warm-up included.
`medium`: control periods of the actor as it is at the end, its actions drawn, from other starts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from polo_ros import tasks
from polo_ros.agents import sac
from polo_ros.agents.configs import CONFIGS
from polo_ros.agents.online import OnlineRun
from polo_ros.agents.sac import SacAgentConfig
from polo_ros.config import replace
from polo_ros.experiments.base import Workplace
from polo_ros.experiments.loop_learning import run_recorded
from polo_ros.learning.sac_learner import SacLearner
from polo_ros.replay.buffer import ReplayBuffer
from polo_ros.replay.dataset import Dataset, DatasetWriter, Rows
from polo_ros.replay.transition import Transition
from polo_ros.tasks.base import Task

MEDIUM, REPLAY = "medium", "medium-replay"
DATASETS = (MEDIUM, REPLAY)

SAVED_EVERY = 5_000  # control periods: what is saved holds all that was seen
REPORTED_EVERY = 1_000  # control periods
APART = 1 << 20  # added to the seed of who only acts: other starts, and other noise
ACTING = 0.1  # share of the time that acting takes, about


def record(settings: Mapping[str, Any], workplace: Workplace) -> dict[str, Any]:
    """Learn, and write what was seen; then act, and write that too. Goes on where it was stopped, to the same bits.

    Settings: `agent` (sac), `task`, `seed`, `config` (all settings of the agent), `steps` (control periods of learning)
    and `recorded` (control periods of acting after it).
    """
    task = tasks.make(settings["task"])
    config = replace(CONFIGS[settings["agent"]], settings["config"])
    steps, recorded, seed = settings["steps"], settings["recorded"], settings["seed"]
    if config.sac.capacity < steps:
        raise ValueError(f"sac.capacity = {config.sac.capacity} keeps less than the {steps} control periods of the run")

    def learning(done: float, words: str) -> None:
        workplace.progress((1.0 - ACTING) * done, words)

    learner = sac.make_learner(task, config, seed)
    with _run(task, config, learner, seed, learn=True) as run:
        place = dataclasses.replace(workplace, progress=learning)
        record = run_recorded(run, {"steps": steps, "snapshots": ()}, place, config.sac.warmup, SAVED_EVERY)
    about = {"agent": settings["agent"], "seed": seed, "steps": steps}
    _write(task, learner.buffer, workplace.folder / REPLAY, {"recorded": {**about, "of": "learning"}})
    if not (workplace.folder / MEDIUM).exists():
        seen = _act(task, config, learner, seed + APART, recorded, workplace)
        _write(task, seen, workplace.folder / MEDIUM, {"recorded": {**about, "of": "the actor then"}})
    return {
        "evaluated_at": [step for step, _ in record.evaluations],
        "evaluations": [returns for _, returns in record.evaluations],
        "datasets": {name: _described(workplace.folder / name) for name in DATASETS},
    }


def _run(task: Task, config: SacAgentConfig, learner: SacLearner, seed: int, learn: bool) -> OnlineRun:
    planners = sac.SacPlanner(task, config, seed), sac.SacPlanner(task, config, seed, exploring=False)
    return OnlineRun(task, config.evaluation, planners, learner, seed, learn)


def _act(
    task: Task, config: SacAgentConfig, learner: SacLearner, seed: int, steps: int, workplace: Workplace
) -> ReplayBuffer:
    """What the actor of a learner does in `steps` control periods, drawing its actions; nothing is learned."""
    seen = ReplayBuffer(steps, task.nstate, task.observation_spec.size, int(task.model.nu))

    def watch(transition: Transition) -> None:
        seen.add(transition)
        if len(seen) % REPORTED_EVERY == 0:
            done = 1.0 - ACTING + ACTING * len(seen) / steps
            workplace.progress(done, f"acts: step {len(seen)} of {steps}")

    # Nothing random to begin with, and no evaluation to speak of.
    acting = {"sac.warmup": 0, "evaluation.every": 0, "evaluation.episodes": 1, "evaluation.steps": 1}
    with _run(task, replace(config, acting), learner, seed, learn=False) as run:
        run.go(steps, watch)
    return seen


def _write(task: Task, seen: ReplayBuffer, path: Path, facts: Mapping[str, Any]) -> None:
    """Make a dataset of transitions of one robot that follow each other without a gap; one that is there stays."""
    if path.exists():
        return
    everything = np.arange(len(seen))
    observation, action, ahead = (seen.take(name, everything) for name in ("observation", "action", "next_observation"))
    terminated = seen.take("terminated", everything)
    episode = seen.take("episode", everything)
    rows = Rows(
        observation=observation,
        action=action,
        reward=seen.take("reward", everything),
        next_observation=ahead,
        cost=np.asarray(task.cost(observation, action, ahead)),
        terminated=terminated,
        begins=np.append(True, episode[1:] != episode[:-1]),
        first=seen.take("episode_step", everything) == 0,
        last=terminated | seen.take("truncated", everything),
    )
    with DatasetWriter(path, task, task.model_hash, facts) as writer:
        writer.append(rows)


def _described(path: Path) -> dict[str, Any]:
    """Figures of a dataset: its rows, trajectories, and the returns and actions in it."""
    data = Dataset.open(path)
    statistics = data.facts["statistics"]
    returns = statistics["return"]
    return {
        "rows": len(data),
        "trajectories": data.trajectories,
        "whole_trajectories": statistics["whole_trajectories"],
        "mean_return": None if returns is None else returns["mean"],
        "std_return": None if returns is None else returns["std"],
        "action_std": statistics["action"]["std"],
        "digest": data.digest,
    }
