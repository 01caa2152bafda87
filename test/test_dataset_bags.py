"""`polo dataset`: what bags hold becomes rows; what cannot be a row is counted by kind, named, and left out."""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import bag_samples as samples
import bag_sessions
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polo_ros import tasks
from polo_ros.cli import main
from polo_ros.drivers.mujoco import MujocoDriver
from polo_ros.replay import transition_blocks
from polo_ros.replay.bag_dataset import from_bags
from polo_ros.replay.bag_reader import BagReader
from polo_ros.replay.bag_tools import recover
from polo_ros.replay.bag_types import BagError
from polo_ros.replay.bag_writer import BagWriter, TopicInfo
from polo_ros.replay.dataset import Dataset, DatasetError
from polo_ros.replay.transition import Transition
from polo_ros.replay.transition_blocks import TransitionBlocks
from polo_ros.tasks.base import FloatArray, Task

NAME = "cartpole_swingup"


@cache
def task() -> Task:
    return tasks.make(NAME)


def session(seed: int = 0, steps: int = 40, episode_steps: int = 0) -> list[Transition]:
    """A simulated session; every seed begins elsewhere."""
    return bag_sessions.play(task(), MujocoDriver(task(), seed), steps, bag_sessions.swings(task()), episode_steps)


def later(found: list[Transition], by: int) -> list[Transition]:
    """The same periods with steps that are `by` higher; recorded as much later."""
    return [replace(t, step=t.step + by) for t in found]


def write(path: Path, found: list[Transition], **changes: Any) -> Path:
    bag_sessions.write(path, task(), found, **changes)
    return path


def made(tmp_path: Path, *bags: Path, **options: Any) -> tuple[dict[str, Any], Dataset]:
    facts = from_bags(bags, tmp_path / "data", **options)
    dataset = Dataset.open(tmp_path / "data").for_task(task())
    dataset.verify()
    return facts, dataset


def assert_rows(dataset: Dataset, expected: list[Transition]) -> None:
    for name in ("observation", "action", "next_observation", "reward", "terminated"):
        wanted = np.array([getattr(t, name) for t in expected])
        kind = np.bool_ if name == "terminated" else np.float32
        np.testing.assert_array_equal(getattr(dataset, name), wanted.astype(kind), err_msg=name)


# ---- what becomes rows ------------------------------------------------------------------------


def test_a_session_becomes_trajectories_of_whole_episodes(tmp_path: Path) -> None:
    found = session(steps=60, episode_steps=20)
    facts, dataset = made(tmp_path, write(tmp_path / "bag", found))
    assert_rows(dataset, found)
    np.testing.assert_array_equal(dataset.starts, [0, 20, 40, 60])
    assert (facts["task"], facts["model_hash"]) == (NAME, task().model_hash)
    assert (facts["rows"], facts["left_out"], facts["problems"]) == (60, {}, [])
    assert facts["sources"] == [{"path": str(tmp_path / "bag"), "robot": "", "read": 60, "rows": 60}]
    returns = [sum(t.reward for t in found[begin : begin + 20]) for begin in (0, 20, 40)]
    assert facts["statistics"]["whole_trajectories"] == 3
    assert facts["statistics"]["return"]["max"] == pytest.approx(max(returns), rel=1e-6)
    assert dataset.facts["sources"] == facts["sources"]


def test_a_row_ends_where_the_next_begins(tmp_path: Path) -> None:
    _, dataset = made(tmp_path, write(tmp_path / "bag", session(steps=60, episode_steps=20)))
    inner = np.flatnonzero(np.diff(dataset.trajectory) == 0)
    np.testing.assert_array_equal(dataset.next_observation[inner], dataset.observation[inner + 1])


def test_costs_are_the_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cost(self: Task, obs: FloatArray, action: FloatArray, next_obs: FloatArray) -> FloatArray:
        return np.asarray(abs(action[..., 0]) + 10.0 * obs[..., 0] ** 2 + next_obs[..., 0] ** 2)

    monkeypatch.setattr(type(task()), "cost", cost)
    found = session()
    _, dataset = made(tmp_path, write(tmp_path / "bag", found))
    expected = [abs(t.action[0]) + 10.0 * t.observation[0] ** 2 + t.next_observation[0] ** 2 for t in found]
    np.testing.assert_array_equal(dataset.cost, np.array(expected, np.float32))
    assert dataset.facts["statistics"]["cost"]["max"] > 0.0


def test_a_cost_that_is_no_number_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bag = write(tmp_path / "bag", session())
    # As of a task whose function fails far from the states that it is checked in when it is made.
    monkeypatch.setattr(
        type(task()),
        "cost",
        lambda self, obs, action, next_obs: np.log(-1.0 - 0.0 * obs[..., 0] + (2.5 if obs.shape != (40, 5) else 0.0)),
    )
    with pytest.raises(DatasetError, match="its cost is not one finite number for each row"):
        from_bags([bag], tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_several_sessions_follow_each_other(tmp_path: Path) -> None:
    one, two = session(0), session(1)
    facts, dataset = made(tmp_path, write(tmp_path / "one", one), write(tmp_path / "two", two))
    assert_rows(dataset, one + two)
    assert dataset.trajectories == 2
    assert facts["problems"] == []


def test_splits_join_whether_in_one_folder_or_given_one_by_one(tmp_path: Path) -> None:
    found = session(steps=60)
    facts = {"task": NAME}
    writer = BagWriter(tmp_path / "bag", samples.topics(), 0.4, facts, flush_s=0.0)
    for t in found:
        writer.write("/transition", bag_sessions.message(task(), t), samples.log_time(t.step), 0)
    writer.close()
    files = sorted((tmp_path / "bag").glob("*.mcap"))
    assert len(files) == 3
    for name, bags in (("folder", [tmp_path / "bag"]), ("files", files)):
        made_facts = from_bags(bags, tmp_path / name)
        dataset = Dataset.open(tmp_path / name)
        assert_rows(dataset, found)
        assert (dataset.trajectories, made_facts["problems"]) == (1, [])
    assert Dataset.open(tmp_path / "folder").digest == Dataset.open(tmp_path / "files").digest
    # Out of their order nothing is lost but the joints.
    from_bags(files[::-1], tmp_path / "reversed")
    assert (len(Dataset.open(tmp_path / "reversed")), Dataset.open(tmp_path / "reversed").trajectories) == (60, 3)


def test_robots_of_a_fleet_are_trajectories_of_their_own(tmp_path: Path) -> None:
    one, two = session(0), session(1)
    bag_sessions.write_robots(tmp_path / "bag", task(), {"/a/transition": one, "/b/transition": two})
    facts, dataset = made(tmp_path, tmp_path / "bag")
    assert_rows(dataset, one + two)
    assert dataset.trajectories == 2
    assert [(source["robot"], source["rows"]) for source in facts["sources"]] == [("a", 40), ("b", 40)]


def test_a_bag_that_was_cut_gives_what_is_readable(tmp_path: Path) -> None:
    found = session(steps=60)
    topics = samples.topics()
    writer = BagWriter(tmp_path / "bag", topics, 0.0, {"task": NAME}, flush_s=0.0)
    for t in found:
        writer.write("/transition", bag_sessions.message(task(), t), samples.log_time(t.step), 0)
        if t.step % 10 == 9:
            writer.flush()
    path = writer.path  # never closed, as after SIGKILL; and its last chunk is torn
    path.write_bytes(path.read_bytes()[:-400])
    facts, dataset = made(tmp_path, tmp_path / "bag")
    assert_rows(dataset, found[:50])
    assert any("recording was cut" in problem for problem in facts["problems"])
    # Recovered, it is the same rows; both together are these rows once.
    recover(tmp_path / "bag")
    facts = from_bags([tmp_path / "bag", tmp_path / "bag_recovered"], tmp_path / "both")
    assert (facts["rows"], facts["left_out"]) == (50, {"duplicate": 50})
    assert facts["digest"] == dataset.digest


# ---- where trajectories end -------------------------------------------------------------------


def test_gaps_end_trajectories_and_are_reported(tmp_path: Path) -> None:
    found = [t for t in session(steps=40) if t.step not in (10, 11, 25)]
    facts, dataset = made(tmp_path, write(tmp_path / "bag", found))
    assert_rows(dataset, found)
    np.testing.assert_array_equal(dataset.starts, [0, 10, 23, 37])
    assert facts["left_out"] == {}
    (problem,) = facts["problems"]
    assert problem.startswith(f"{tmp_path}/bag: 2 gaps in the steps") and problem.endswith("9 -> 12, 24 -> 26")
    assert facts["statistics"]["whole_trajectories"] == 0


def test_a_new_episode_begins_a_trajectory_with_or_without_a_flag(tmp_path: Path) -> None:
    found = session(steps=40, episode_steps=10)
    silent = [replace(t, truncated=False) for t in found]
    _, dataset = made(tmp_path, write(tmp_path / "bag", silent))
    np.testing.assert_array_equal(dataset.starts, [0, 10, 20, 30, 40])


def test_a_robot_that_was_put_elsewhere_begins_a_trajectory(tmp_path: Path) -> None:
    found = session(steps=20)
    found[12:] = [replace(t, observation=t.observation + 0.1) for t in found[12:13]] + found[13:]
    facts, dataset = made(tmp_path, write(tmp_path / "bag", found))
    np.testing.assert_array_equal(dataset.starts, [0, 12, 20])
    assert "1 rows begin elsewhere than the one before ended" in facts["problems"][0]
    assert facts["problems"][0].endswith("step 12")


def test_the_end_of_a_task_ends_a_trajectory(tmp_path: Path) -> None:
    found = session(steps=20)
    found[7] = replace(found[7], terminated=True)
    _, dataset = made(tmp_path, write(tmp_path / "bag", found))
    np.testing.assert_array_equal(dataset.starts, [0, 8, 20])
    np.testing.assert_array_equal(np.flatnonzero(dataset.terminated), [7])
    assert not dataset.take([7]).continues[0]


@pytest.mark.parametrize("keep", [True, False])
def test_safe_stops_are_rows_unless_they_are_not_wanted(tmp_path: Path, keep: bool) -> None:
    found = session(steps=30)
    stopped = [replace(t, safe_stop=12 <= t.step < 15) for t in found]
    facts = SESSION_FACTS
    topics = [samples.topic("/transition", samples.TRANSITION)]
    with BagWriter(tmp_path / "bag", topics, 0.0, facts, flush_s=0.0) as writer:
        for t in stopped:
            cdr = message(t, safe_stop=t.safe_stop)
            writer.write("/transition", cdr, samples.log_time(t.step), samples.log_time(t.step))
    words = ["dataset", str(tmp_path / "bag"), "--out", str(tmp_path / "data")]
    assert main([*words, *([] if keep else ["--no-safe-stops"])]) == 0
    dataset = Dataset.open(tmp_path / "data")
    if keep:
        assert (len(dataset), dataset.trajectories, dataset.facts["left_out"]) == (30, 1, {})
    else:
        np.testing.assert_array_equal(dataset.starts, [0, 12, 27])
        assert dataset.facts["left_out"] == {"safe_stop": 3}
        assert_rows(dataset, found[:12] + found[15:])


# ---- what is left out -------------------------------------------------------------------------

SESSION_FACTS = {"task": NAME}


def message(t: Transition, **changes: Any) -> bytes:
    """A transition as a message with some of its fields changed."""
    fields: dict[str, Any] = {
        "header": samples.header(t.state[0]),
        "episode": t.episode,
        "episode_step": t.episode_step,
        "model_hash": task().model_hash,
        "qpos": t.state[1:3],
        "qvel": t.state[3:5],
        "observation": t.observation,
        "action": t.action,
        "reward": t.reward,
        "next_observation": t.next_observation,
        "terminated": t.terminated,
        "truncated": t.truncated,
        **changes,
    }
    return samples.transition(t.step, **fields)


def spoiled(path: Path, found: list[Transition], changes: dict[int, Callable[[Transition], bytes]]) -> Path:
    """A bag in which some steps are changed."""
    topics = [samples.topic("/transition", samples.TRANSITION)]
    with BagWriter(path, topics, 0.0, SESSION_FACTS, flush_s=0.0) as writer:
        for t in found:
            cdr = changes[t.step](t) if t.step in changes else message(t)
            writer.write("/transition", cdr, samples.log_time(t.step), samples.log_time(t.step))
    return path


SPOILED: dict[str, tuple[dict[str, Any], str]] = {
    "models": ({"model_hash": "feedfeedfeedfeed"}, "rows are of another model, and left out: feedfeedfeedfeed"),
    "models, of another length": ({"model_hash": "old"}, "rows are of another model, and left out: old"),
    "sizes": ({"observation": np.zeros(3)}, r"sizes than the task, and left out: \(observation, action"),
    "sizes of the action": ({"action": np.zeros(2)}, "sizes than the task, and left out"),
    "sizes of what came next": ({"next_observation": np.zeros(1)}, "sizes than the task, and left out"),
    "not_finite": ({"reward": np.nan}, "not finite, or beyond float32, and left out: step 5, step 6"),
    "not_finite for float32": ({"action": np.array([1e200])}, "and left out: step 5, step 6"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_rows_that_cannot_be_are_left_out_and_named(tmp_path: Path, kind: str) -> None:
    fields, text = SPOILED[kind]
    found = session(steps=20)
    bag = spoiled(tmp_path / "bag", found, {step: lambda t: message(t, **fields) for step in (5, 6)})
    facts, dataset = made(tmp_path, bag)
    assert_rows(dataset, found[:5] + found[7:])
    np.testing.assert_array_equal(dataset.starts, [0, 5, 18])
    assert facts["left_out"] == {kind.split()[0].strip(","): 2}
    (problem,) = facts["problems"]
    assert re.search(rf"^{tmp_path}/bag: 2 .*{text}", problem), problem


def test_messages_that_cannot_be_decoded_are_left_out_and_named(tmp_path: Path) -> None:
    found = session(steps=20)
    bag = spoiled(tmp_path / "bag", found, {5: lambda t: message(t)[:50], 9: lambda t: b""})
    facts, dataset = made(tmp_path, bag)
    assert_rows(dataset, [t for t in found if t.step not in (5, 9)])
    assert facts["left_out"] == {"undecodable": 2}
    assert any("2 rows cannot be decoded" in problem for problem in facts["problems"])
    assert facts["sources"][0]["read"] == 20


def test_sessions_of_other_tasks_are_left_out_and_named(tmp_path: Path) -> None:
    other = tasks.make("point_mass_box")
    bag_sessions.record(tmp_path / "other", other, steps=15)
    found = session()
    facts, dataset = made(tmp_path, write(tmp_path / "bag", found), tmp_path / "other")
    assert_rows(dataset, found)
    assert facts["left_out"] == {"task": 15}
    assert facts["problems"] == [
        f"{tmp_path}/other: 15 rows are of another task, 'point_mass_box', and left out: other_0.mcap"
    ]
    # The first bag says which task it is, unless the command does.
    facts = from_bags([tmp_path / "bag", tmp_path / "other"], tmp_path / "second", task_name="point_mass_box")
    assert (facts["task"], facts["rows"], facts["left_out"]) == ("point_mass_box", 15, {"task": 40})


def test_a_session_given_twice_counts_once(tmp_path: Path) -> None:
    found = session(steps=40, episode_steps=20)
    bag = write(tmp_path / "bag", found)
    facts, dataset = made(tmp_path, bag, bag, bag / "bag_0.mcap")
    assert_rows(dataset, found)
    assert facts["left_out"] == {"duplicate": 80}
    assert dataset.trajectories == 2


def test_splits_that_overlap_count_once_and_join(tmp_path: Path) -> None:
    found = session(steps=40)
    one, two = write(tmp_path / "one", found[:25]), write(tmp_path / "two", found[15:])
    facts, dataset = made(tmp_path, one, two)
    assert_rows(dataset, found)
    assert (dataset.trajectories, facts["left_out"]) == (1, {"duplicate": 10})
    assert "10 rows were there already, and left out: step 15, step 16" in facts["problems"][0]
    # In one folder too, where a file repeats the end of the one before.
    both = tmp_path / "both"
    both.mkdir()
    (one / "one_0.mcap").rename(both / "both_0.mcap")
    (two / "two_0.mcap").rename(both / "both_1.mcap")
    facts = from_bags([both], tmp_path / "again")
    assert (facts["rows"], facts["trajectories"], facts["left_out"]) == (40, 1, {"duplicate": 10})
    assert facts["digest"] == dataset.digest


def test_another_robot_that_does_the_same_is_no_duplicate(tmp_path: Path) -> None:
    found = session()
    bag_sessions.write_robots(tmp_path / "bag", task(), {"/a/transition": found, "/b/transition": found})
    facts, _ = made(tmp_path, tmp_path / "bag")
    assert (facts["rows"], facts["left_out"]) == (80, {})


def test_steps_that_fall_are_left_out(tmp_path: Path) -> None:
    found = session(steps=20)
    mixed = [*found[:8], found[9], found[8], *found[10:]]  # 8 comes too late
    facts, dataset = made(tmp_path, write(tmp_path / "bag", mixed))
    assert_rows(dataset, [t for t in found if t.step != 8])
    assert facts["left_out"] == {"order": 1}
    assert dataset.trajectories == 2
    assert any("left out: step 8" in problem for problem in facts["problems"])


def test_a_bridge_that_counts_anew_begins_another_run(tmp_path: Path) -> None:
    one, two = session(0, steps=20), session(1, steps=30)
    facts, dataset = made(tmp_path, write(tmp_path / "bag", [*one, *two]))
    assert_rows(dataset, [*one, *two])
    np.testing.assert_array_equal(dataset.starts, [0, 20, 50])
    assert facts["left_out"] == {}


@pytest.mark.parametrize("block", [1, 4, 4096])
def test_a_bridge_that_counts_anew_is_told_without_its_first_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(transition_blocks, "BLOCK", block)
    one, two = session(0, steps=20), session(1, steps=15)[3:]
    late = [*one[:8], one[9], one[8], *one[10:]]  # one row was published before the one that it comes behind
    topics = [samples.topic("/transition", samples.TRANSITION)]
    with BagWriter(tmp_path / "bag", topics, 0.0, SESSION_FACTS, flush_s=0.0) as writer:
        for start, run in ((0, late), (100, two)):
            for t in run:
                writer.write(
                    "/transition", message(t), samples.log_time(start + t.step), samples.log_time(start + t.step)
                )
    facts, dataset = made(tmp_path, tmp_path / "bag")
    assert_rows(dataset, [t for t in one if t.step != 8] + two)
    np.testing.assert_array_equal(dataset.starts, [0, 8, 19, 31])
    assert facts["left_out"] == {"order": 1}


def test_a_model_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transition_blocks, "BLOCK", 4)
    found = session(steps=20)
    bag = spoiled(tmp_path / "bag", found, {step: lambda t: message(t, model_hash="old") for step in range(12)})
    facts, dataset = made(tmp_path, bag)
    assert_rows(dataset, found[12:])
    assert facts["problems"] == [f"{bag}: 12 rows are of another model, and left out: old"]


def test_another_robots_messages_cost_no_other_row(tmp_path: Path) -> None:
    found = session(steps=20)
    stray = message(replace(found[8], step=500), model_hash="feedfeedfeedfeed")
    bag = spoiled(tmp_path / "bag", [*found[:8], replace(found[8], step=500), *found[8:]], {500: lambda _: stray})
    facts, dataset = made(tmp_path, bag)
    assert_rows(dataset, found)
    assert (dataset.trajectories, facts["left_out"]) == (1, {"models": 1})


def with_stray(path: Path, found: list[Transition], place: int) -> Path:
    """A bag in which a row with a step far ahead stands before `found[place]`."""
    stray = replace(session(1, steps=2)[1], step=1 << 50)
    topics = [samples.topic("/transition", samples.TRANSITION)]
    with BagWriter(path, topics, 0.0, SESSION_FACTS, flush_s=0.0) as writer:
        for t in [*found[:place], stray, *found[place:]]:
            writer.write("/transition", message(t), samples.START + t.step % (1 << 40), 0)
    return path


@pytest.mark.parametrize("place", [0, 10, 20])
def test_a_stray_step_far_ahead_costs_no_other_row(tmp_path: Path, place: int) -> None:
    found = session(steps=20)
    facts = from_bags([with_stray(tmp_path / "bag", found, place)], tmp_path / "data")
    assert facts["rows"] - facts["left_out"].get("order", 0) == (21 if place == 20 else 19)
    dataset = Dataset.open(tmp_path / "data")
    rows = {tuple(row) for row in dataset.observation}
    assert all(tuple(t.observation.astype(np.float32)) in rows for t in found)


@pytest.mark.parametrize("block", [1, 4])
def test_a_stray_step_is_told_wherever_it_stands_in_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(transition_blocks, "BLOCK", block)
    found = session(steps=10)
    for place in range(10):
        bag = with_stray(tmp_path / f"bag{place}", found, place)
        facts = from_bags([bag], tmp_path / f"data{place}")
        assert_rows(Dataset.open(tmp_path / f"data{place}"), found)
        assert (facts["trajectories"], facts["left_out"]) == (1, {"order": 1}), place


# ---- bags that give nothing -------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, *words: str) -> str:
    assert main(["dataset", *words, "--out", str(tmp_path / "data"), "--json"]) == 1
    assert not (tmp_path / "data").exists()
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]
    return str(json.loads(capsys.readouterr().out)["error"])


def test_bags_without_transitions_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    BagWriter(tmp_path / "silent", samples.topics()[1:], 0.0, SESSION_FACTS).close()
    assert "silent: no transitions are recorded in it" in refused(capsys, tmp_path, str(tmp_path / "silent"))
    BagWriter(tmp_path / "empty", samples.topics(), 0.0, SESSION_FACTS).close()
    text = refused(capsys, tmp_path, str(tmp_path / "empty"))
    assert text.startswith(f"{tmp_path}/data: no transition of task '{NAME}' in these bags")
    # Beside others they are only named.
    facts, _ = made(tmp_path, write(tmp_path / "bag", session()), tmp_path / "silent")
    assert facts["problems"] == [f"{tmp_path}/silent: no transitions are recorded in it"]


def test_bags_of_nothing_but_another_model_say_which(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = spoiled(tmp_path / "bag", session(steps=3), {k: lambda t: message(t, model_hash="old") for k in range(3)})
    text = refused(capsys, tmp_path, str(bag))
    assert f"{bag}: 3 rows are of another model, and left out: old" in text


def test_bags_that_do_not_name_their_task_need_it_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag_sessions.write(tmp_path / "bag", task(), session(), info={"task": ""})
    assert "name it with --task" in refused(capsys, tmp_path, str(tmp_path / "bag"))
    words = ["dataset", str(tmp_path / "bag"), "--out", str(tmp_path / "data"), "--task", NAME]
    assert main(words) == 0
    assert f"40 rows in 1 trajectories of {NAME}" in capsys.readouterr().out


def test_what_is_no_bag_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere: no such bag" in refused(capsys, tmp_path, str(tmp_path / "nowhere"))
    (tmp_path / "x.mcap").write_bytes(b"not a bag at all")
    assert "not an MCAP file" in refused(capsys, tmp_path, str(tmp_path / "x.mcap"))


def older(definition: str) -> str:
    """A Transition that does not say how a period ended."""
    main_type, separator, others = definition.partition("=" * 80)
    kept = [line for line in main_type.splitlines() if "next_observation" not in line]
    return "\n".join([*kept, separator + others])


def test_another_version_of_the_message_says_what_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    text = older(samples.definition(samples.TRANSITION))
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg(text, samples.TRANSITION))
    new = samples.store().deserialize_cdr(message(session(steps=1)[0]), samples.TRANSITION)
    types = store.types
    header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](0, 0), "world")
    names = [name for name, _ in store.fielddefs[samples.TRANSITION][1]]
    old = types[samples.TRANSITION](*[header if name == "header" else getattr(new, name) for name in names])
    cdr = bytes(store.serialize_cdr(old, samples.TRANSITION))
    topic = TopicInfo("/transition", samples.TRANSITION, text)
    with BagWriter(tmp_path / "bag", [topic], 0.0, SESSION_FACTS, flush_s=0.0) as writer:
        for step in range(3):
            writer.write("/transition", cdr, samples.log_time(step), 0)
    text = refused(capsys, tmp_path, str(tmp_path / "bag"))
    assert "3 rows cannot be decoded" in text
    assert "another version" in text and "next_observation" in text


def test_fields_that_another_version_adds_or_moves_do_not_matter(tmp_path: Path) -> None:
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    head, separator, others = samples.definition(samples.TRANSITION).partition("=" * 80)
    lines = [line for line in head.splitlines() if line.strip() and not line.startswith("#")]
    text = "\n".join(["string label", "uint8[3] code", *reversed(lines), separator + others])
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg(text, samples.TRANSITION))
    types, found = store.types, session(steps=10)
    with BagWriter(
        tmp_path / "bag", [TopicInfo("/transition", samples.TRANSITION, text)], 0.0, SESSION_FACTS
    ) as writer:
        for t in found:
            new = samples.store().deserialize_cdr(message(t), samples.TRANSITION)
            values = {name: getattr(new, name, None) for name, _ in store.fielddefs[samples.TRANSITION][1]}
            values["header"] = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](0, 0), "world")
            values |= {"label": "x" * (t.step % 3), "code": np.arange(3, dtype=np.uint8)}
            cdr = bytes(store.serialize_cdr(types[samples.TRANSITION](**values), samples.TRANSITION))
            writer.write("/transition", cdr, samples.log_time(t.step), 0)
    facts, dataset = made(tmp_path, tmp_path / "bag")
    assert_rows(dataset, found)
    assert facts["problems"] == []


# ---- while it is written ----------------------------------------------------------------------


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write(tmp_path / "bag", session(steps=3000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        text = refused(capsys, tmp_path, str(bag))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert "cannot be written: File too large" in text


def test_a_dataset_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, dataset = made(tmp_path, write(tmp_path / "bag", session()))
    assert main(["dataset", str(tmp_path / "bag"), "--out", str(tmp_path / "data")]) == 1
    assert "exists already" in capsys.readouterr().err
    assert Dataset.open(tmp_path / "data").digest == dataset.digest


def test_half_written_datasets_are_named_and_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag, left = write(tmp_path / "bag", session(steps=3)), tmp_path / ".data.partial12"
    left.mkdir()
    words = ["dataset", str(bag), "--out", str(tmp_path / "data")]
    assert main(words) == 0
    assert f"  leftover   {left}: half-written, by a command that was killed" in capsys.readouterr().out
    assert main(words) == 1
    assert f"{left}: half-written" in capsys.readouterr().err
    assert left.is_dir()


def test_the_command_says_what_was_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = [t for t in session(steps=60, episode_steps=20) if t.step != 30]
    bag = write(tmp_path / "bag", found)
    done = subprocess.run(
        [str(Path(sys.executable).parent / "polo"), "dataset", str(bag), "--out", str(tmp_path / "data")],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert "59 rows in 4 trajectories" in done.stdout
    assert "of 2 whole trajectories" in done.stdout
    assert f"from       {bag}: 59 of 59 rows" in done.stdout
    assert "1 gaps in the steps" in done.stdout
    assert main(["dataset", str(bag), "--out", str(tmp_path / "again"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["rows"], facts["trajectories"]) == (59, 4)


# ---- many at a time as one by one -------------------------------------------------------------


def one_by_one(path: Path) -> list[tuple[Any, ...]]:
    return [
        (
            *(t.step, t.episode, t.episode_step, model_hash, t.observation.tolist(), t.action.tolist(), t.reward),
            *(t.next_observation.tolist(), t.terminated, t.truncated, t.safe_stop),
        )
        for _, t, model_hash in BagReader(path).every_transition()
    ]


def many_at_a_time(path: Path) -> tuple[list[tuple[Any, ...]], int]:
    blocks = TransitionBlocks(BagReader(path), "/transition")
    rows: list[tuple[Any, ...]] = []
    for block in blocks:
        names = ["step", "episode", "episode_step", "model_hash", "observation", "action", "reward"]
        names += ["next_observation", "terminated", "truncated", "safe_stop"]
        columns = [getattr(block, name).tolist() for name in names]
        columns[3] = [value.decode() for value in columns[3]]
        rows += zip(*columns, strict=True)
    return rows, blocks.undecodable


SIZES = st.integers(0, 3)
FLOATS = st.floats(allow_nan=False)
MESSAGES = st.fixed_dictionaries(
    {
        "step": st.integers(0, 1 << 62),
        "episode": st.integers(0, 2**32 - 1),
        "episode_step": st.integers(0, 2**32 - 1),
        "model_hash": st.sampled_from(["", "a", "0123456789abcdef", "fedcba9876543210"]),
        "qpos": SIZES.map(np.ones),
        "act": SIZES.map(np.ones),
        "observation": st.lists(FLOATS, max_size=3).map(np.array),
        "action": st.lists(FLOATS, max_size=2).map(np.array),
        "reward": FLOATS,
        "next_observation": st.lists(FLOATS, max_size=3).map(np.array),
        "terminated": st.booleans(),
        "truncated": st.booleans(),
        "safe_stop": st.booleans(),
    }
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(messages=st.lists(MESSAGES, min_size=1, max_size=8), damage=st.none() | st.tuples(SIZES, st.integers(0, 400)))
def test_many_at_a_time_are_what_they_are_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, messages: list[dict[str, Any]], damage: tuple[int, int] | None
) -> None:
    path = tmp_path_factory.mktemp("bags") / "bag"
    with BagWriter(path, samples.topics(), 0.0, SESSION_FACTS, flush_s=0.0) as writer:
        for number, fields in enumerate(messages):
            cdr = samples.transition(**{**fields, "header": samples.header(0.0)})
            if damage is not None and damage[0] == number:
                cdr = cdr[: damage[1]]
            writer.write("/transition", cdr, samples.log_time(number), 0)
    rows, undecodable = many_at_a_time(path)
    expected = one_by_one(path)
    assert rows == expected
    assert undecodable == len(messages) - len(expected)


def test_a_session_is_read_in_one_block(tmp_path: Path) -> None:
    """Rows that the quick decoder does not know would each be a block of their own."""
    bag_sessions.record(tmp_path / "bag", task(), steps=200)
    blocks = list(TransitionBlocks(BagReader(tmp_path / "bag"), "/transition"))
    assert [len(block) for block in blocks] == [200]


def test_a_bag_that_is_gone_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bag = write(tmp_path / "bag", session())
    read = BagReader.records

    def fails(self: BagReader, *arguments: Any) -> Any:
        yield from list(read(self, *arguments))[:10]
        raise BagError("the disk is gone")

    monkeypatch.setattr(BagReader, "records", fails)
    with pytest.raises(BagError, match="the disk is gone"):
        from_bags([bag], tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]
