"""A dataset holds what was written, is whole or not there, and is never read into memory to be opened."""

from __future__ import annotations

import json
import os
import resource
import secrets
import signal
import stat
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from offline_samples import stretch

from polo_ros import tasks
from polo_ros.replay.dataset import (
    COLUMNS,
    STARTS,
    Dataset,
    DatasetError,
    DatasetWriter,
    Rows,
    leftovers,
)
from polo_ros.tasks.base import Task


@cache
def task() -> Task:
    return tasks.make("point_mass_box")


def rows(lengths: list[int], seed: int = 0, terminated: bool = True, whole: bool = True) -> Rows:
    """Random trajectories of these lengths; each ends its episode."""
    rng = np.random.default_rng(seed)
    nobs, nu = task().observation_spec.size, task().model.nu
    n = sum(lengths)
    chains = [rng.standard_normal((length + 1, nobs)).astype(np.float32) for length in lengths]
    ends = np.zeros(n, bool)
    ends[np.cumsum(lengths) - 1] = True
    begins = np.roll(ends, 1)
    return Rows(
        observation=np.concatenate([chain[:-1] for chain in chains]),
        action=rng.uniform(-1.0, 1.0, (n, nu)).astype(np.float32),
        reward=rng.standard_normal(n).astype(np.float32),
        next_observation=np.concatenate([chain[1:] for chain in chains]),
        cost=rng.uniform(size=n).astype(np.float32),
        terminated=ends & terminated,
        begins=begins,
        first=begins & whole,
        last=ends,
    )


def part(everything: Rows, begin: int, end: int) -> Rows:
    return Rows(*(column[begin:end] for column in everything))


def write(path: Path, everything: Rows, size: int = 0) -> Dataset:
    """Write in parts of `size` rows; 0: all at once."""
    n = len(everything.reward)
    with DatasetWriter(path, task(), task().model_hash, {"sources": ["made here"]}) as writer:
        for begin in range(0, n, size or n):
            writer.append(part(everything, begin, begin + (size or n)))
    return Dataset.open(path)


def test_columns_come_back_as_they_were_written(tmp_path: Path) -> None:
    everything = rows([5, 1, 7])
    dataset = write(tmp_path / "data", everything, size=3)
    for name in COLUMNS[:-1]:
        found = getattr(dataset, name)
        np.testing.assert_array_equal(found, getattr(everything, name))
        assert found.dtype == (np.bool_ if name == "terminated" else np.float32)
    np.testing.assert_array_equal(dataset.trajectory, [0] * 5 + [1] + [2] * 7)
    assert dataset.trajectory.dtype == np.int32
    np.testing.assert_array_equal(dataset.starts, [0, 5, 6, 13])
    assert (len(dataset), dataset.trajectories) == (13, 3)
    assert (dataset.task, dataset.model_hash) == (task().name, task().model_hash)
    assert dataset.facts["sources"] == ["made here"]
    assert (dataset.nobs, dataset.nu) == (task().observation_spec.size, task().model.nu)
    assert dataset.for_task(task()) is dataset
    dataset.verify()


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), size=st.integers(1, 20), whole=st.booleans())
def test_statistics_and_digest_do_not_depend_on_the_parts_it_was_written_in(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], size: int, whole: bool
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    everything = rows(lengths, whole=whole)
    dataset, at_once = write(folder / "parts", everything, size), write(folder / "whole", everything)
    assert dataset.digest == at_once.digest
    found = dataset.facts["statistics"]
    for name in ("reward", "cost"):
        column = getattr(everything, name).astype(np.float64)
        expected = [column.min(), column.max(), column.mean(), column.std()]
        np.testing.assert_allclose([found[name][key] for key in ("min", "max", "mean", "std")], expected, atol=1e-12)
    np.testing.assert_allclose(found["action"]["mean"], everything.action.astype(np.float64).mean(axis=0), atol=1e-12)
    for name, where in task().observation_spec.slices.items():
        column = everything.observation[:, where].astype(np.float64)
        np.testing.assert_allclose(found["observation"][name]["std"], column.std(axis=0), atol=1e-12)
        np.testing.assert_array_equal(found["observation"][name]["max"], column.max(axis=0))
    assert found["terminated"] == len(lengths) / sum(lengths)
    returns = [piece.sum(dtype=np.float64) for piece in np.split(everything.reward, np.cumsum(lengths)[:-1])]
    assert found["whole_trajectories"] == (len(lengths) if whole else 0)
    if whole:
        assert found["return"]["mean"] == pytest.approx(np.mean(returns), abs=1e-12)
        assert found["return"]["min"] == pytest.approx(np.min(returns), abs=1e-12)
    else:
        assert found["return"] is None


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    everything = rows([4, 4])
    before = write(tmp_path / "one", everything)
    everything.cost[3] += 1.0
    after = write(tmp_path / "two", everything)
    assert before.digest != after.digest
    for dataset in (before, after):
        dataset.verify()
    with open(tmp_path / "one" / "cost.npy", "r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x01")
    with pytest.raises(DatasetError, match="damaged: its digest is"):
        Dataset.open(tmp_path / "one").verify()


def test_next_actions_stop_where_the_trajectory_does(tmp_path: Path) -> None:
    everything = rows([3, 2])
    dataset = write(tmp_path / "data", everything)
    batch = dataset.take(np.arange(5))
    np.testing.assert_array_equal(batch.continues, [True, True, False, True, False])
    np.testing.assert_array_equal(batch.next_action[[0, 1, 3]], everything.action[[1, 2, 4]])
    assert not batch.next_action[[2, 4]].any()
    pairs = dataset.take([[0, 1], [3, 4]])
    assert pairs.next_action.shape == (2, 2, dataset.nu) and pairs.reward.shape == (2, 2)


def test_samples_are_rows_and_reach_them_all(tmp_path: Path) -> None:
    everything = rows([3, 1, 2])
    dataset = write(tmp_path / "data", everything)
    batch = dataset.sample(np.random.default_rng(1), 400)
    which = [int(np.flatnonzero((everything.observation == row).all(axis=1))[0]) for row in batch.observation]
    np.testing.assert_array_equal(batch.action, everything.action[which])
    assert set(which) == set(range(6))
    again = dataset.sample(np.random.default_rng(1), 400)
    np.testing.assert_array_equal(batch.reward, again.reward)


def test_windows_lie_within_one_trajectory_and_all_are_drawn(tmp_path: Path) -> None:
    dataset = write(tmp_path / "data", rows([5, 2, 3]))
    windows = dataset.windows(np.random.default_rng(0), 300, 3)
    assert windows.shape == (300, 3)
    np.testing.assert_array_equal(np.diff(windows, axis=1), 1)
    assert (dataset.trajectory[windows] == dataset.trajectory[windows[:, :1]]).all()
    assert set(windows[:, 0]) == {0, 1, 2, 7}
    counts = np.unique(windows[:, 0], return_counts=True)[1]
    assert counts.min() > 300 / 4 / 2  # each is as likely as any other
    with pytest.raises(DatasetError, match="no trajectory has 6 rows; the longest has 5"):
        dataset.windows(np.random.default_rng(0), 1, 6)


def test_data_of_something_else_is_refused(tmp_path: Path) -> None:
    dataset = write(tmp_path / "data", rows([3]))
    with pytest.raises(DatasetError, match="task: point_mass_box, expected cartpole_swingup"):
        dataset.for_task(tasks.make("cartpole_swingup"))
    with DatasetWriter(tmp_path / "old", task(), "feedfeedfeedfeed") as writer:
        writer.append(rows([3]))
    with pytest.raises(DatasetError, match="model: feedfeedfeedfeed, expected"):
        Dataset.open(tmp_path / "old").for_task(task())
    with DatasetWriter(tmp_path / "imported", task(), "") as writer:
        writer.append(rows([3]))
    Dataset.open(tmp_path / "imported").for_task(task())  # its model is not known


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r._replace(reward=np.full(4, np.nan)), "reward is not finite"),
        (lambda r: r._replace(reward=np.full(4, 1e300)), "reward is not finite, or beyond the range of float32"),
        (lambda r: r._replace(action=r.action[:, :0]), "action has shape"),
        (lambda r: r._replace(first=r.first[:2]), "first has shape"),
        (lambda r: r._replace(begins=np.zeros(4, bool)), "the first row does not begin a trajectory"),
        (lambda r: r._replace(terminated=np.ones(4, bool)), "goes on after it terminated"),
        (lambda r: r._replace(next_observation=r.next_observation + 1), "is not the next_observation before it"),
    ],
)
def test_rows_that_cannot_be_are_refused_and_leave_nothing(tmp_path: Path, change, reason: str) -> None:
    with pytest.raises(DatasetError, match=reason), DatasetWriter(tmp_path / "data", task(), "") as writer:
        writer.append(change(rows([4])))
    assert list(tmp_path.iterdir()) == []


def test_rows_join_across_parts_or_are_refused(tmp_path: Path) -> None:
    everything = rows([4])
    with DatasetWriter(tmp_path / "data", task(), "") as writer:
        writer.append(part(everything, 0, 2))
        with pytest.raises(DatasetError, match="is not the next_observation before it"):
            writer.append(part(everything, 3, 4))
        writer.append(part(everything, 2, 4))
    assert Dataset.open(tmp_path / "data").trajectories == 1


def test_a_dataset_is_whole_or_not_there(tmp_path: Path) -> None:
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import test_dataset as t
writer = t.DatasetWriter(Path({str(tmp_path)!r}) / "data", t.task(), "")
writer.append(t.rows([100]))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".data.partial")
    for path in (tmp_path / "data", left):
        with pytest.raises(DatasetError, match="not a dataset"):
            Dataset.open(path)
    assert len(write(tmp_path / "data", rows([2]))) == 2  # the next try is not hindered
    assert leftovers(tmp_path / "data") == [left] and leftovers(tmp_path / "dat") == []


def test_writers_of_one_dataset_do_not_touch_each_others_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = DatasetWriter(tmp_path / "data", task(), "")
    writer.append(rows([3]))
    for name in (".data.partial", f".data.partial{os.getpid()}", ".data.partialx"):
        (tmp_path / name).mkdir(exist_ok=True)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DatasetError, match="no rows"), DatasetWriter(tmp_path / "data", task(), ""):
        pass
    # Not even where the name is taken, by whatever chance.
    taken = leftovers(tmp_path / "data")[-1].name.removeprefix(".data.partial")
    monkeypatch.setattr(secrets, "token_hex", lambda size: taken)
    with pytest.raises(DatasetError, match="cannot be written: File exists"):
        DatasetWriter(tmp_path / "data", task(), "")
    assert sorted(tmp_path.iterdir()) == before
    writer.close()
    writer.abort()
    assert len(Dataset.open(tmp_path / "data")) == 3


def test_a_dataset_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "data", rows([2]))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o750


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    writer = DatasetWriter(tmp_path / "data", task(), "")
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(DatasetError, match="data: cannot be written: File too large"), writer:
            for seed in range(100):
                writer.append(rows([100], seed))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_and_nothing_is_made_of_nothing(tmp_path: Path) -> None:
    write(tmp_path / "data", rows([2]))
    with pytest.raises(DatasetError, match="exists already; name a new folder"):
        DatasetWriter(tmp_path / "data", task(), "")
    with pytest.raises(DatasetError, match="no rows"), DatasetWriter(tmp_path / "empty", task(), ""):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("name", [*COLUMNS, STARTS])
@pytest.mark.parametrize("damage", ["missing", "short", "long", "other", "pickle"])
def test_files_that_are_not_what_was_written_are_named(tmp_path: Path, name: str, damage: str) -> None:
    write(tmp_path / "data", rows([3, 3]))
    path = tmp_path / "data" / f"{name}.npy"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "short":
        path.write_bytes(content[:-1])
    elif damage == "long":
        path.write_bytes(content + b"\x00")
    elif damage == "other":
        swapped = {b"<f4": b"<i4", b"<i4": b"<f4", b"|b1": b"|u1", b"<i8": b"<f8"}
        kind = next(kind for kind in swapped if kind in content[:128])
        path.write_bytes(content[:128].replace(kind, swapped[kind]) + content[128:])
    else:
        path.write_bytes(content[:128].replace(b"'descr': '", b"'descr': 'O#")[:128].ljust(128) + content[128:])
    with pytest.raises(DatasetError, match=rf"{name}\.npy: "):
        Dataset.open(tmp_path / "data")


def test_starts_that_do_not_rise_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "data", rows([3, 3]))
    with open(tmp_path / "data" / "starts.npy", "r+b") as stream:
        stream.seek(128 + 8)
        stream.write((9).to_bytes(8, "little"))
    with pytest.raises(DatasetError, match="trajectories do not rise from row 0 to 6"):
        Dataset.open(tmp_path / "data")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "x"}, "its format is not 'polo_ros.dataset'"),
        ({"version": 99}, "version 99 of the format, expected 1"),
        ({"rows": 7}, r"observation is \('<f4', \(6, 4\)\), expected <f4 of \(7, 4\)"),
        ({"trajectories": 0}, "6 rows in 0 trajectories"),
        ({"rows": "many"}, "incomplete: ValueError"),
        ({"files": None}, "incomplete: AttributeError"),
        ({"observation_groups": [["position", 3]]}, "with 4 observations cannot be"),
    ],
)
def test_a_description_that_contradicts_the_files_is_refused(tmp_path: Path, change, reason: str) -> None:
    write(tmp_path / "data", rows([3, 3]))
    path = tmp_path / "data" / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DatasetError, match=reason):
        Dataset.open(tmp_path / "data")


@pytest.mark.parametrize("text", ["", "[", "[]", "3", "\x00", '{"format": "polo_ros.dataset"}', "[" * 100_000])
def test_what_is_no_description_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DatasetError, match=r"dataset\.json: "):
        Dataset.open(tmp_path)


def test_opening_and_sampling_read_next_to_nothing(tmp_path: Path) -> None:
    """A dataset of 1 GB, sparse on disk."""
    write(tmp_path / "data", rows([1000]))
    count = 20_000_000
    stretch(tmp_path / "data", count)
    before = _resident()
    dataset = Dataset.open(tmp_path / "data")
    assert len(dataset) == count
    batch = dataset.sample(np.random.default_rng(0), 32)
    assert batch.observation.shape == (32, 4)
    dataset.windows(np.random.default_rng(0), 16, 50)
    assert _resident() - before < 200e6


def _resident() -> int:
    """Memory of this process, bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
