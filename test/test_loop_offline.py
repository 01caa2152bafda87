"""The experiment of what was learned offline: records that go on where they were stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polo_ros import tasks
from polo_ros.agents import sac
from polo_ros.agents.configs import CONFIGS
from polo_ros.agents.online import OnlineRun
from polo_ros.config import replace
from polo_ros.experiments import loop_recording
from polo_ros.experiments.base import Workplace, plain
from polo_ros.experiments.loop_comparison import SMALL, settings_of
from polo_ros.experiments.loop_recording import MEDIUM, REPLAY, record
from polo_ros.replay.dataset import Dataset
from polo_ros.replay.transition import Transition
from polo_ros.safety.timeline import TimedPlan

TASK = "inverted_pendulum"  # random actions let the pole fall within some ten periods: there are several episodes


def small(agent: str, changes: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Settings of a trial with all of SMALL that the agent knows."""
    known = settings_of(agent, TASK, {})
    used = {name: value for name, value in {**SMALL, **changes}.items() if name in known}
    return {"agent": agent, "task": TASK, "seed": 3, "config": settings_of(agent, TASK, used), **more}


RECORDING = small("sac", {"evaluation.every": 60, "evaluation.episodes": 2}, steps=120, recorded=70)


class Killed(RuntimeError):
    """Stands for the end of the process: nothing after it is done."""


def place(folder: Path, *needed: Path, progress: Callable[[float, str], None] = lambda done, words: None) -> Workplace:
    folder.mkdir(exist_ok=True)
    return Workplace(folder, {path.name: path for path in needed}, progress)


# ---- recording ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Folder and numbers of a recording that nobody stopped."""
    folder = tmp_path_factory.mktemp("recorded")
    return folder, plain(record(RECORDING, place(folder)))


def test_the_replay_dataset_is_what_soft_actor_critic_saw(recorded: tuple[Path, dict[str, Any]]) -> None:
    folder, numbers = recorded
    config, seen = replace(CONFIGS["sac"], RECORDING["config"]), list[Transition]()
    with sac.make_run(tasks.make(TASK), config, seed=3) as run:
        run.go(120, seen.append)
    data = Dataset.open(folder / REPLAY).for_task(tasks.make(TASK))
    data.verify()
    for name in ("observation", "action", "reward", "next_observation", "terminated"):
        column = np.array([getattr(transition, name) for transition in seen])
        np.testing.assert_array_equal(getattr(data, name), column.astype(getattr(data, name).dtype))
    episodes = np.array([transition.episode for transition in seen])
    np.testing.assert_array_equal(data.trajectory, episodes)
    found = numbers["datasets"][REPLAY]
    whole = [np.sum([t.reward for t in seen if t.episode == episode]) for episode in range(episodes[-1])]
    assert found["rows"] == 120 and found["trajectories"] == episodes[-1] + 1 >= 4
    assert found["whole_trajectories"] == len(whole), "the last episode was cut"
    assert found["mean_return"] == pytest.approx(np.mean(whole))
    assert numbers["evaluated_at"] == [60, 120]


def test_the_medium_dataset_is_of_the_actor_in_the_end(recorded: tuple[Path, dict[str, Any]]) -> None:
    """By its own noise around what it does without; from starts that were not learned from."""
    folder, _ = recorded
    task, config = tasks.make(TASK), replace(CONFIGS["sac"], RECORDING["config"])
    replay, data = Dataset.open(folder / REPLAY), Dataset.open(folder / MEDIUM).for_task(task)
    data.verify()
    assert len(data) == 70 and data.facts["recorded"]["steps"] == 120
    starts = {name: kept.observation[kept.starts[:-1]] for name, kept in ((REPLAY, replay), (MEDIUM, data))}
    assert not (starts[REPLAY][:, None] == starts[MEDIUM]).all(axis=2).any()
    with sac.make_run(task, config, seed=3) as run:
        run.go(120)
        planner = sac.SacPlanner(task, replace(config, {"sac.warmup": 0}), 3 + loop_recording.APART)
        planner.use_weights(planner.check_weights(run.learner.weights().encode()), 1)

    def action(index: int) -> Any:
        plan: TimedPlan = planner.plan(data.observation[index].astype(np.float64), index, index, 0)[0]
        return plan.actions[0]

    np.testing.assert_allclose(data.action, [action(index) for index in range(70)], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kill", ["step 100 ", "medium-replay", "acts", "medium"])
def test_a_killed_recording_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: tuple[Path, dict[str, Any]], kill: str
) -> None:
    """While it learns, before each of the two datasets is written, and while the actor acts."""
    monkeypatch.setattr(loop_recording, "SAVED_EVERY", 10)
    monkeypatch.setattr(loop_recording, "REPORTED_EVERY", 30)
    write = loop_recording._write

    def progress(done: float, words: str) -> None:
        assert 0.0 <= done <= 1.0
        if words.startswith(kill):
            raise Killed

    def watched_write(task: Any, seen: Any, path: Path, facts: Any) -> None:
        if path.name == kill:
            raise Killed
        write(task, seen, path, facts)

    monkeypatch.setattr(loop_recording, "_write", watched_write)
    with pytest.raises(Killed):
        record(RECORDING, place(tmp_path, progress=progress))
    restored: list[int] = []
    restore = OnlineRun.restore

    def watched_restore(run: OnlineRun, path: Path, episodes: Any) -> int:
        restored.append(restore(run, path, episodes))
        return restored[-1]

    monkeypatch.setattr(loop_recording, "_write", write)
    monkeypatch.setattr(OnlineRun, "restore", watched_restore)
    assert plain(record(RECORDING, place(tmp_path))) == recorded[1], "digests of both datasets are among the numbers"
    assert restored and restored[0] > 0


def test_a_recording_that_would_forget_is_refused(tmp_path: Path) -> None:
    settings = small("sac", {"sac.capacity": 119}, steps=120, recorded=70)
    with pytest.raises(ValueError, match=r"sac.capacity = 119 keeps less than the 120 control periods"):
        record(settings, place(tmp_path))
