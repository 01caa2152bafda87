"""Jobs of the POLO experiments: learning, which can be interrupted, and acting with what was learned.

Settings of both: `task`, `steps`, `seed`, `config` (all settings of the agent, see `settings_of`) and for the humanoid
perhaps `head_size`; of acting also `video`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polo_ros import drivers, tasks
from polo_ros.agents.polo import PoloConfig
from polo_ros.agents.run import PoloRun, RunResult, run_polo
from polo_ros.config import flatten, replace
from polo_ros.experiments.base import Workplace, save_arrays
from polo_ros.files import replacing, write_whole
from polo_ros.planners.base import PlanResult
from polo_ros.replay.transition import Transition
from polo_ros.replay.video import make_video
from polo_ros.session.config import for_task
from polo_ros.tasks.base import FloatArray, Task
from polo_ros.tasks.humanoid import Humanoid
from polo_ros.tasks.humanoid_getup import HumanoidGetup

WEIGHTS = "weights.safetensors"
VIDEO = "video.gif"


def settings_of(task: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of the agent by dotted name: the task's own, with changes."""
    return flatten(replace(for_task(PoloConfig(), task), changes))


def learn(settings: Mapping[str, Any], workplace: Workplace) -> dict[str, Any]:
    """Act and learn; the weights stay in the workplace as WEIGHTS, and what happened as arrays."""
    task, config = _made(settings)
    seed = settings["seed"]
    return _report(task, _learn(task, config, settings["steps"], seed, workplace), seed, workplace)


def act(settings: Mapping[str, Any], workplace: Workplace) -> dict[str, Any]:
    """Act with the weights of the trial that is needed, or without any: plain MPC.

    With `video` the poses stay as array `qpos` (T, nq), and a picture of them in the workplace as VIDEO; where that
    cannot be made, the number `video` says why.
    """
    task, config = _made(settings)
    seed = settings["seed"]
    weights = [folder / WEIGHTS for folder in workplace.needed.values()]
    result = _act(task, config, settings["steps"], seed, workplace, weights)
    if not settings.get("video"):
        return _report(task, record(result), seed, workplace)
    qpos = np.array([task.unpack(transition.state)[1] for transition in result.transitions])
    numbers = _report(task, record(result), seed, workplace, qpos=qpos)
    numbers["video"] = make_video(task.model, qpos, len(qpos) * task.control_dt, workplace.folder / VIDEO) or VIDEO
    return numbers


def _made(settings: Mapping[str, Any]) -> tuple[Task, PoloConfig]:
    name = settings["task"]
    task = HumanoidGetup(settings["head_size"]) if "head_size" in settings else tasks.make(name)
    return task, replace(PoloConfig(), settings["config"])


def _report(task: Task, record: Record, seed: int, workplace: Workplace, **more: FloatArray) -> dict[str, Any]:
    """Numbers of a run, those of its last episode by the task's own measures; what happened as arrays."""
    arrays = {"rewards": record.rewards, "episodes": record.episodes, "observations": record.observations, **more}
    if isinstance(task, Humanoid):
        arrays["height"] = task.root_height(record.observations)
    save_arrays(workplace, **arrays)
    last = _from_its_start(task, seed, record)
    return {
        **task.measures(last),
        "mean_reward": float(record.rewards.mean()),
        "episode_returns": record.returns(),
        "success": task.success(last),
    }


def _from_its_start(task: Task, seed: int, record: Record) -> FloatArray:
    """Observations (T + 1, nobs) of the last episode and of the state that it began in, which is drawn again."""
    driver = drivers.simulator(task, seed)
    driver.connect()
    driver.reset(int(record.episodes[-1]))
    robot = driver.read()
    driver.close()
    start = task.observe(task.sense(task.pack(robot.time, robot.qpos, robot.qvel, robot.act)))
    return np.concatenate((start[None], record.last_episode()))


@dataclass(frozen=True)
class Record:
    """A run as arrays."""

    observations: FloatArray  # (T, nobs) after each control period
    rewards: FloatArray  # (T,)
    episodes: FloatArray  # (T,)

    def returns(self) -> FloatArray:
        """Undiscounted return of each episode, (episodes,)."""
        return np.array([self.rewards[self.episodes == number].sum() for number in np.unique(self.episodes)])

    def last_episode(self) -> FloatArray:
        """Observations (T, nobs) of the last episode."""
        last: FloatArray = self.observations[self.episodes == self.episodes[-1]]
        return last


def record(result: RunResult) -> Record:
    """What an experiment keeps of a run."""
    transitions = result.transitions
    return Record(
        np.array([transition.next_observation for transition in transitions]),
        np.array([transition.reward for transition in transitions]),
        np.array([transition.episode for transition in transitions], float),
    )


def _learn(task: Task, config: PoloConfig, steps: int, seed: int, workplace: Workplace) -> Record:
    """POLO acts and learns for `steps` control periods.

    A task with episodes of a fixed length is saved after each of them, and a training that was interrupted goes
    on from there to the same bits.
    """
    chunk = task.episode_steps or steps
    checkpoint, kept = workplace.folder / "learner", workplace.folder / "record.npz"
    parts: list[Record] = []
    with PoloRun(task, config, seed=seed, threads=1) as run:
        assert run.learner is not None
        if checkpoint.exists() and kept.exists():
            with np.load(kept, allow_pickle=False) as file:
                before = Record(file["observations"], file["rewards"], file["episodes"])
            seen = run.restore(checkpoint, before.episodes)
            # Killed between the two files, the record is an episode ahead.
            parts.append(Record(before.observations[:seen], before.rewards[:seen], before.episodes[:seen]))
        done = sum(len(part.rewards) for part in parts)
        while done < steps:
            watch = _Watch(workplace, done, steps)
            parts.append(record(run.go(min(chunk, steps - done), watch)))
            done = sum(len(part.rewards) for part in parts)
            joined = _joined(parts)
            if task.episode_steps and done % task.episode_steps == 0:
                # The record first: one that is ahead of its checkpoint can be cut, one that is behind is of no use.
                _keep(kept, joined)
                run.save(checkpoint)
        weights = run.learner.weights().encode()
    write_whole(workplace.folder / WEIGHTS, weights)
    return _joined(parts)


def _act(
    task: Task, config: PoloConfig, steps: int, seed: int, workplace: Workplace, weights: Sequence[Path]
) -> RunResult:
    """Act for `steps` control periods and learn nothing."""
    data = weights[0].read_bytes() if weights else None
    watch = _Watch(workplace, 0, steps)
    return run_polo(task, config, steps=steps, seed=seed, threads=1, learn=False, weights=data, watch=watch)


def _joined(parts: list[Record]) -> Record:
    return Record(
        np.concatenate([part.observations for part in parts]),
        np.concatenate([part.rewards for part in parts]),
        np.concatenate([part.episodes for part in parts]),
    )


def _keep(path: Path, whole: Record) -> None:
    with replacing(path) as partial, open(partial, "wb") as file:
        np.savez(file, observations=whole.observations, rewards=whole.rewards, episodes=whole.episodes)


class _Watch:
    """Reports progress once in a while."""

    PERIOD = 20  # control periods

    def __init__(self, workplace: Workplace, done: int, steps: int) -> None:
        self._workplace = workplace
        self._done = done
        self._steps = steps

    def __call__(self, transition: Transition, found: PlanResult) -> None:
        self._done += 1
        if self._done % self.PERIOD == 0 or self._done == self._steps:
            words = f"step {self._done} of {self._steps}, reward {transition.reward:.2f}"
            self._workplace.progress(self._done / self._steps, words)
