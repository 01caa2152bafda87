"""`polo dataset FILE.hdf5`: files in D4RL's and Minari's layouts, made here of gymnasium's own environments."""

from __future__ import annotations

import json
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest

from polo_ros import tasks
from polo_ros.cli import main
from polo_ros.replay import offline_files
from polo_ros.replay.dataset import Dataset, DatasetError
from polo_ros.replay.offline_files import from_files
from polo_ros.tasks.base import FloatArray, Task

ENVIRONMENTS = {"half_cheetah": "HalfCheetah-v5", "hopper": "Hopper-v5", "inverted_pendulum": "InvertedPendulum-v5"}


class Episode(NamedTuple):
    """What gymnasium gave."""

    observations: FloatArray  # (T + 1, ...)
    actions: FloatArray
    rewards: FloatArray
    terminated: bool  # at its end; else it was cut
    x: FloatArray  # (T + 1,) m


@cache
def task(name: str) -> Task:
    return tasks.make(name)


@cache
def episodes(name: str, count: int = 4, steps: int = 25) -> tuple[Episode, ...]:
    """Episodes of random actions, at most `steps` long."""
    import gymnasium

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env = gymnasium.make(ENVIRONMENTS[name], disable_env_checker=True).unwrapped
    rng = np.random.default_rng(0)
    found = []
    for seed in range(count):
        observations, actions, rewards = [env.reset(seed=seed)[0]], [], []
        x, terminated = [env.data.qpos[0]], False
        while len(actions) < steps and not terminated:
            actions.append(rng.uniform(env.action_space.low, env.action_space.high))
            observation, reward, terminated, _, _ = env.step(actions[-1])
            observations.append(observation)
            rewards.append(reward)
            x.append(env.data.qpos[0])
        found.append(Episode(np.array(observations), np.array(actions), np.array(rewards), terminated, np.array(x)))
    return tuple(found)


def d4rl(path: Path, found: tuple[Episode, ...], following: bool = False, **changes: Any) -> Path:
    """A file in D4RL's layout; what is None in `changes` is left out."""
    last = [np.arange(len(e.rewards)) == len(e.rewards) - 1 for e in found]
    columns: dict[str, Any] = {
        "observations": np.concatenate([e.observations[:-1] for e in found]).astype(np.float32),
        "actions": np.concatenate([e.actions for e in found]).astype(np.float32),
        "rewards": np.concatenate([e.rewards for e in found]).astype(np.float32),
        "terminals": np.concatenate([end & e.terminated for end, e in zip(last, found, strict=True)]),
        "timeouts": np.concatenate([end & (not e.terminated) for end, e in zip(last, found, strict=True)]),
    }
    if following:
        columns["next_observations"] = np.concatenate([e.observations[1:] for e in found]).astype(np.float32)
    with h5py.File(path, "w") as file:
        for name, column in {**columns, **changes}.items():
            if column is not None:
                file[name] = column
        file.create_group("metadata")["algorithm"] = "random"
    return path


def minari(path: Path, found: tuple[Episode, ...]) -> Path:
    """A folder in Minari's layout."""
    (path / "data").mkdir(parents=True)
    with h5py.File(path / "data" / "main_data.hdf5", "w") as file:
        for number, e in enumerate(found):
            last = np.arange(len(e.rewards)) == len(e.rewards) - 1
            group = file.create_group(f"episode_{number}")
            group.attrs["total_steps"] = len(e.rewards)
            group["observations"], group["actions"], group["rewards"] = e.observations, e.actions, e.rewards
            group["terminations"], group["truncations"] = last & e.terminated, last & (not e.terminated)
            group.create_group("infos")["x_position"] = e.x
    (path / "data" / "metadata.json").write_text(json.dumps({"dataset_id": "test-v0"}))
    return path


def made(tmp_path: Path, path: Path, name: str, **options: Any) -> tuple[dict[str, Any], Dataset]:
    facts = from_files([path], tmp_path / "data", name, **options)
    dataset = Dataset.open(tmp_path / "data").for_task(task(name))
    dataset.verify()
    return facts, dataset


def column(dataset: Dataset, group: str, name: str = "observation") -> Any:
    return getattr(dataset, name)[:, task(dataset.task).observation_spec.slices[group]]


def joined_as_published(path: Path) -> dict[str, list[Any]]:
    """D4RL's rule, row by row: what follows is the row behind; the last row of a cut episode has none."""
    out: dict[str, list[Any]] = {"observation": [], "action": [], "reward": [], "next": [], "terminated": []}
    with h5py.File(path) as file:
        data = {name: file[name][:] for name in ("observations", "actions", "rewards", "terminals", "timeouts")}
    for i in range(len(data["rewards"]) - 1):
        if data["timeouts"][i]:
            continue
        row = data["observations"][i], data["actions"][i], data["rewards"][i]
        for name, value in zip(out, (*row, data["observations"][i + 1], data["terminals"][i]), strict=True):
            out[name].append(value)
    return out


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_rows_are_joined_as_d4rl_joins_them(tmp_path: Path, name: str) -> None:
    path = d4rl(tmp_path / "file.hdf5", episodes(name))
    facts, dataset = made(tmp_path, path, name)
    expected = joined_as_published(path)
    shown = ~task(name).observation_spec.mask("x") if "x" in task(name).added else slice(None)
    np.testing.assert_array_equal(dataset.observation[:, shown], expected["observation"])
    np.testing.assert_array_equal(dataset.next_observation[:, shown], expected["next"])
    np.testing.assert_array_equal(dataset.action, expected["action"])
    np.testing.assert_array_equal(dataset.reward, expected["reward"])
    np.testing.assert_array_equal(dataset.terminated, expected["terminated"])
    assert dataset.trajectories == len(episodes(name))
    assert dataset.model_hash == ""
    total = sum(len(e.rewards) for e in episodes(name))
    assert facts["sources"] == [{"path": str(path), "layout": "d4rl", "read": total, "rows": len(dataset)}]
    assert facts["left_out"] == {"no_next": total - len(dataset)}


@pytest.mark.parametrize("name", ["half_cheetah", "hopper"])
@pytest.mark.parametrize("layout", ["d4rl", "minari"])
def test_the_way_that_gymnasium_does_not_show_follows_from_its_rewards(tmp_path: Path, name: str, layout: str) -> None:
    found = episodes(name)
    if layout == "d4rl":
        path = d4rl(tmp_path / "file.hdf5", found, following=True)
    else:
        path = minari(tmp_path / "file", found)
    facts, dataset = made(tmp_path, path, name)
    way = np.concatenate([e.x[:-1] - e.x[0] for e in found])
    reached = np.concatenate([e.x[1:] - e.x[0] for e in found])
    np.testing.assert_allclose(column(dataset, "x")[:, 0], way, atol=1e-5)
    np.testing.assert_allclose(column(dataset, "x", "next_observation")[:, 0], reached, atol=1e-5)
    again = task(name).reward(
        *(a.astype(np.float64) for a in (dataset.observation, dataset.action)),
        dataset.next_observation.astype(np.float64),
    )
    np.testing.assert_allclose(again, dataset.reward, atol=1e-4)
    returns = [e.rewards.sum() for e in found]
    statistics = facts["statistics"]
    assert statistics["whole_trajectories"] == len(found)
    assert statistics["return"]["mean"] == pytest.approx(np.mean(returns), rel=1e-5)
    assert facts["left_out"] == {} and facts["problems"] == []


def test_terminal_states_that_are_not_in_the_file_are_said(tmp_path: Path) -> None:
    found = episodes("hopper", 4, 400)
    assert all(e.terminated for e in found)
    facts, dataset = made(tmp_path, d4rl(tmp_path / "file.hdf5", found), "hopper")
    # The last one of the file has nothing behind it.
    assert dataset.terminated.sum() == len(found) - 1
    assert any(f"{len(found) - 1} rows end in a terminal state that is not in the file" in p for p in facts["problems"])
    assert not dataset.take(np.flatnonzero(dataset.terminated)).continues.any()


def test_without_timeouts_episodes_end_by_their_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = episodes("half_cheetah")
    monkeypatch.setattr(type(task("half_cheetah")), "episode_steps", 25)
    _, dataset = made(tmp_path, d4rl(tmp_path / "file.hdf5", found, timeouts=None), "half_cheetah")
    np.testing.assert_array_equal(np.diff(dataset.starts), [24] * len(found))


@pytest.mark.parametrize("following", [True, False])
@pytest.mark.parametrize("size", [1, 7, 25])
def test_files_are_read_in_parts_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, following: bool
) -> None:
    path = d4rl(tmp_path / "file.hdf5", episodes("hopper"), following)
    whole = from_files([path], tmp_path / "whole", "hopper")
    monkeypatch.setattr(offline_files, "CHUNK", size)
    parts = from_files([path], tmp_path / "parts", "hopper")
    assert (parts["rows"], parts["left_out"], parts["problems"]) == (
        whole["rows"],
        whole["left_out"],
        whole["problems"],
    )
    one, other = (Dataset.open(tmp_path / name) for name in ("whole", "parts"))
    np.testing.assert_allclose(one.observation, other.observation, atol=1e-6)
    np.testing.assert_array_equal(one.starts, other.starts)


def test_minari_is_read_from_folder_or_file_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    found = episodes("hopper", 12, 5)
    folder = minari(tmp_path / "hopper" / "random-v0", found)
    digests = set()
    for number, path in enumerate((folder, folder / "data", folder / "data" / "main_data.hdf5")):
        out = tmp_path / f"data{number}"
        assert main(["dataset", str(path), "--task", "hopper", "--out", str(out)]) == 0
        dataset = Dataset.open(out)
        digests.add(dataset.digest)
        np.testing.assert_array_equal(dataset.action, np.concatenate([e.actions for e in found]).astype(np.float32))
        np.testing.assert_array_equal(np.diff(dataset.starts), [len(e.rewards) for e in found])
    assert len(digests) == 1


def test_several_files_are_one_dataset(tmp_path: Path) -> None:
    one = d4rl(tmp_path / "one.hdf5", episodes("hopper"), True)
    two = minari(tmp_path / "two", episodes("hopper"))
    facts = from_files([one, two], tmp_path / "data", "hopper")
    assert facts["trajectories"] == 2 * len(episodes("hopper"))
    assert [source["layout"] for source in facts["sources"]] == ["d4rl", "minari"]


def test_rows_that_are_not_finite_are_left_out_and_cut_the_trajectory(tmp_path: Path) -> None:
    found = episodes("half_cheetah", 1)
    reward = found[0].rewards.astype(np.float32)
    reward[10] = np.nan
    facts, dataset = made(tmp_path, d4rl(tmp_path / "file.hdf5", found, True, rewards=reward), "half_cheetah")
    assert facts["left_out"] == {"not_finite": 1}
    np.testing.assert_array_equal(dataset.starts, [0, 10, 24])


def test_rows_that_do_not_join_begin_a_trajectory(tmp_path: Path) -> None:
    found = episodes("half_cheetah", 1)
    following = found[0].observations[1:].astype(np.float32)
    following[10, 0] += 0.5
    path = d4rl(tmp_path / "file.hdf5", found, next_observations=following)
    facts, dataset = made(tmp_path, path, "half_cheetah")
    np.testing.assert_array_equal(dataset.starts, [0, 11, 25])
    assert "1 rows begin elsewhere" in facts["problems"][0]


def test_actions_are_scaled_if_asked_for_and_clipped_to_the_range(tmp_path: Path) -> None:
    pen, rng, n = task("pen"), np.random.default_rng(0), 30
    given = rng.uniform(-1.0, 1.0, (n, 24)).astype(np.float32)
    given[3, 2] = 1.5
    found = (Episode(rng.standard_normal((n + 1, 45)), given, np.zeros(n), False, np.zeros(n + 1)),)
    path = d4rl(tmp_path / "file.hdf5", found, True)
    assert main(["dataset", str(path), "--task", "pen", "--scale-actions", "--out", str(tmp_path / "data")]) == 0
    dataset = Dataset.open(tmp_path / "data").for_task(pen)
    middle, half = 0.5 * (pen.action_high + pen.action_low), 0.5 * (pen.action_high - pen.action_low)
    np.testing.assert_allclose(dataset.action, middle + half * np.clip(given, -1.0, 1.0), atol=1e-6)
    assert any("1 rows have actions beyond the range" in problem for problem in dataset.facts["problems"])


# ---- what is refused --------------------------------------------------------------------------


def refused(tmp_path: Path, *words: str) -> None:
    out = tmp_path / "made"
    assert main(["dataset", *words, "--out", str(out)]) == 1
    assert not [path for path in tmp_path.iterdir() if "made" in path.name]


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("half_cheetah", {"actions": np.zeros((100, 5))}, "actions have 5 entries, expected 6"),
        ("half_cheetah", {"actions": None}, "'actions' is missing in /"),
        ("half_cheetah", {"rewards": np.zeros(7)}, "rewards has 7 rows, observations 100"),
        ("half_cheetah", {"rewards": 1.0}, "//rewards is a single value, expected one for each row"),
        ("half_cheetah", {"timeouts": np.zeros(1)}, "timeouts has 1 rows, observations 100"),
        ("half_cheetah", {"next_observations": np.zeros((99, 17))}, "next_observations has 99 rows, observations 100"),
        ("half_cheetah", {"rewards": np.zeros((100, 2))}, r"rewards has shape \(100, 2\), expected 1 dim"),
        ("half_cheetah", {"rewards": [b"x"] * 100}, "rewards is not an array of numbers"),
        ("half_cheetah", {"observations": None}, "neither D4RL's layout nor Minari's; it holds"),
        ("half_cheetah", {"observations": np.zeros((100, 11))}, "observations have 11 entries; those of task"),
        ("ant", {}, r"those of task 'ant' have 29, .*contact \(1\)$"),
        ("hopper", {}, "observations have 17 entries; those of task 'hopper' have 12"),
    ],
)
def test_files_that_cannot_be_of_the_task_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, changes: dict[str, Any], reason: str
) -> None:
    if name == "ant":
        changes = {"observations": np.zeros((100, 27)), "actions": np.zeros((100, 8))}
    elif name == "hopper":
        changes = {"actions": np.zeros((100, 3))}
    path = d4rl(tmp_path / "file.hdf5", episodes("half_cheetah"), **changes)
    with pytest.raises(DatasetError, match=reason):
        from_files([path], tmp_path / "data", name)
    assert [path.name for path in tmp_path.iterdir()] == ["file.hdf5"]


@pytest.mark.parametrize("factor", [0.0, 10.0, -1.0])
def test_rewards_for_something_else_are_refused(tmp_path: Path, factor: float) -> None:
    found = episodes("half_cheetah")
    rewards = factor * np.concatenate([e.rewards for e in found])
    path = d4rl(tmp_path / "file.hdf5", found, rewards=rewards)
    with pytest.raises(DatasetError, match="its rewards are not those of task 'half_cheetah'"):
        from_files([path], tmp_path / "data", "half_cheetah")


def test_what_is_no_such_file_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "file.hdf5"
    text.write_text("not HDF5")
    for words, reason in (
        ([str(text), "--task", "hopper"], "file.hdf5: cannot be read: "),
        ([str(tmp_path / "nowhere.hdf5"), "--task", "hopper"], "nowhere.hdf5: no such file"),
        ([str(text)], "does not say what task it is of; name it with --task"),
        ([str(text), str(tmp_path), "--task", "hopper"], "bags and files of others do not go into one dataset"),
        ([str(text), "--task", "hopper", "--no-safe-stops"], "--no-safe-stops is for bags; "),
        ([str(tmp_path), "--scale-actions"], "--scale-actions is for files of others; actions in "),
    ):
        refused(tmp_path, *words)
        assert reason in capsys.readouterr().err


def test_minari_of_another_shape_is_refused(tmp_path: Path) -> None:
    folder = minari(tmp_path / "file", episodes("hopper"))
    with h5py.File(folder / "data" / "main_data.hdf5", "r+") as file:
        del file["episode_2/rewards"]
        file["episode_2/rewards"] = np.zeros(3)
    with pytest.raises(DatasetError, match="episode_2: rewards have 3 entries"):
        from_files([folder], tmp_path / "data", "hopper")
    with h5py.File(folder / "data" / "main_data.hdf5", "r+") as file:
        file["episode_00"] = h5py.SoftLink("/nowhere")
    with pytest.raises(DatasetError, match="'episode_00' cannot be read: .* in /"):
        from_files([folder], tmp_path / "data", "hopper")
    with h5py.File(folder / "data" / "main_data.hdf5", "r+") as file:
        del file["episode_00"], file["episode_1/actions"]
        file["episode_1/actions"] = h5py.SoftLink("/nowhere")
    with pytest.raises(DatasetError, match="'actions' cannot be read: .* in /episode_1"):
        from_files([folder], tmp_path / "data", "hopper")
    with h5py.File(folder / "data" / "main_data.hdf5", "r+") as file:
        del file["episode_0/observations"]
        file.create_group("episode_0/observations")["camera"] = np.zeros(3)
    with pytest.raises(DatasetError, match="observations is not an array of numbers"):
        from_files([folder], tmp_path / "data", "hopper")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_without_h5py_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = d4rl(tmp_path / "file.hdf5", episodes("hopper"))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DatasetError, match=r"pip install 'polo_ros\[offline\]'"):
        from_files([path], tmp_path / "data", "hopper")
