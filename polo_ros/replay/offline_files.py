"""Datasets of files that others made: D4RL's HDF5 layout, and Minari's.

D4RL (Fu et al. 2020) has one array a column: observations, actions, rewards, terminals, timeouts, and perhaps
next_observations. Where the latter are missing, rows are joined as its `qlearning_dataset` does: what follows a row is
the row behind it, and the last row of an episode that was cut is left out. Minari has a group an episode, with one
observation more than actions.

Neither knows which model the robot was.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from polo_ros import tasks
from polo_ros.replay.dataset import Dataset, DatasetError, DatasetWriter, Rows
from polo_ros.tasks.base import FloatArray, Task
from polo_ros.tasks.gym_task import ForwardTask

BoolArray = npt.NDArray[np.bool_]

CHUNK = 65536  # rows read at once
MINARI = "main_data.hdf5"

LEFT_OUT = {
    "no_next": "rows end an episode that was cut, and what came next is not in the file",
    "not_finite": "rows have numbers that are not finite, or beyond float32",
}
NOTED = {
    "unseen_end": "rows end in a terminal state that is not in the file: the row behind them is taken for it",
    "clipped": "rows have actions beyond the range of the task, and are clipped to it",
    "jump": "rows begin elsewhere than the one before ended: a new trajectory begins with each",
}


def is_foreign(path: Path) -> bool:
    """Whether a path is one of these files, or Minari's folder of one."""
    return path.suffix in (".hdf5", ".h5") or _minari_file(path) is not None


def from_files(paths: Sequence[Path], out: Path, task_name: str, scale_actions: bool = False) -> dict[str, Any]:
    """Make a dataset of D4RL's or Minari's files.

    Rewards and ends are the file's. A group `x` of a ForwardTask's observation, which gymnasium does not show, is what
    makes the task's reward the file's: each trajectory begins at 0 m, and moves by as much as was rewarded.

    Args:
        paths: HDF5 files, or folders of Minari datasets.
        out: The dataset's folder, which must not exist.
        task_name: The task.
        scale_actions: Whether the file's actions are -1 .. 1, to be scaled to the task's range.

    Returns:
        Facts, as of `bag_dataset.from_bags`.

    Raises:
        DatasetError: A file has another layout, its observations or rewards cannot be the task's, no row is left, or
            the dataset cannot be written.
    """
    if not task_name:
        raise DatasetError(f"{paths[0]}: the file does not say what task it is of; name it with --task")
    task = tasks.make(task_name)
    left_out: Counter[str] = Counter()
    problems: list[str] = []
    sources: list[dict[str, Any]] = []
    with DatasetWriter(out, task, "") as writer:
        for path in paths:
            counts, before = Counter[str](), writer.rows
            layout = _read(path, task, writer, counts, scale_actions)
            sources.append(
                {"path": str(path), "layout": layout, "read": counts.pop("read", 0), "rows": writer.rows - before}
            )
            for kind, count in (+counts).items():
                if kind in LEFT_OUT:
                    left_out[kind] += count
                text = f"{LEFT_OUT[kind]}; they are left out" if kind in LEFT_OUT else NOTED[kind]
                problems.append(f"{path}: {count} {text}")
        if not writer.rows:
            raise DatasetError(f"{out}: no row in these files: {'; '.join(problems)}")
        writer.note(sources=sources, left_out=dict(left_out), problems=problems)
    return Dataset.open(out).summary()


def _minari_file(path: Path) -> Path | None:
    """Minari's file in a folder, if it is one of its datasets."""
    return next((file for file in (path / "data" / MINARI, path / MINARI) if file.is_file()), None)


def _read(path: Path, task: Task, writer: DatasetWriter, counts: Counter[str], scale_actions: bool) -> str:
    """Append the rows of a file; returns the name of its layout."""
    try:
        import h5py
    except ImportError:
        raise DatasetError(f"{path}: h5py is needed to read it: pip install 'polo_ros[offline]'") from None
    name = path if path.is_file() else _minari_file(path)
    if name is None:
        raise DatasetError(f"{path}: no such file")
    try:
        with h5py.File(name, "r") as file:
            episodes = sorted((key for key in file if _number(key) >= 0), key=_number)
            if episodes:
                layout, parts = "minari", _minari(path, file, episodes, counts)
            elif "observations" in file:
                layout, parts = "d4rl", _d4rl(path, file, task.episode_steps, counts)
            else:
                held = ", ".join(list(file)[:6]) or "nothing"
                raise DatasetError(f"{path}: neither D4RL's layout nor Minari's; it holds {held}")
            appender = _Appender(path, task, writer, counts, scale_actions)
            for part in parts:
                appender.append(part)
            appender.finish()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from None
    return layout


def _number(key: str) -> int:
    head, _, number = key.partition("_")
    return int(number) if head == "episode" and number.isdecimal() else -1


def _array(path: Path, group: Any, name: str, where: slice, dims: int) -> FloatArray:
    """Rows of a column of numbers, as a vector or, with 2 `dims`, a matrix."""
    column = _member(path, group, name)
    try:
        values = np.asarray(column[where], np.float64)
    except (TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f"{path}: {group.name}/{name} is not an array of numbers: {error}") from None
    if dims == 1 and values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != dims:
        raise DatasetError(f"{path}: {group.name}/{name} has shape {column.shape}, expected {dims} dimensions")
    return values


def _member(path: Path, group: Any, name: str) -> Any:
    try:
        return group[name]
    except KeyError as error:
        reason = f"cannot be read: {error}" if name in list(group) else "is missing"
        raise DatasetError(f"{path}: '{name}' {reason} in {group.name}") from None


def _length(path: Path, group: Any, name: str) -> int:
    """The number of rows of a column."""
    try:
        return len(_member(path, group, name))
    except TypeError:
        raise DatasetError(f"{path}: {group.name}/{name} is a single value, expected one for each row") from None


# ---- layouts ----------------------------------------------------------------------------------


def _minari(path: Path, file: Any, episodes: Sequence[str], counts: Counter[str]) -> Iterator[Rows]:
    """An episode a part, as the file has it; costs are left to be filled in."""
    for key in episodes:
        group, everything = _member(path, file, key), slice(None)
        observation = _array(path, group, "observations", everything, 2)
        action = _array(path, group, "actions", everything, 2)
        reward, terminated, truncated = (
            _array(path, group, name, everything, 1) for name in ("rewards", "terminations", "truncations")
        )
        n = len(reward)
        counts["read"] += n
        lengths = len(observation) - 1, len(action), len(terminated), len(truncated)
        if lengths != (n,) * 4:
            raise DatasetError(
                f"{path}: {key}: rewards have {n} entries; observations (less one), actions, terminations and "
                f"truncations have {lengths}"
            )
        if not n:
            continue
        ended = terminated.astype(bool)
        first = np.arange(n) == 0
        begins = first | np.concatenate(([False], ended[:-1]))
        last = ended | truncated.astype(bool)
        yield Rows(observation[:-1], action, reward, observation[1:], np.zeros(n), ended, begins, first, last)


def _d4rl(path: Path, file: Any, episode_steps: int, counts: Counter[str]) -> Iterator[Rows]:
    """Rows as `qlearning_dataset` joins them, part by part; costs are left to be filled in."""
    total = _length(path, file, "observations")
    for name in ("actions", "rewards", "terminals", "timeouts", "next_observations"):
        if name in file and (found := _length(path, file, name)) != total:
            raise DatasetError(f"{path}: {name} has {found} rows, observations {total}")
    known = "next_observations" in file
    ended, age = True, 0  # whether the row before ended its episode, and rows of the episode so far
    for begin in range(0, total, CHUNK):
        end = min(begin + CHUNK, total)
        here, n = slice(begin, end), end - begin
        counts["read"] += n
        observation = _array(path, file, "observations", here, 2)
        terminated = _array(path, file, "terminals", here, 1).astype(bool)
        if "timeouts" in file:
            cut = _array(path, file, "timeouts", here, 1).astype(bool)
        else:
            cut, age = _cut(terminated, age, episode_steps)
        if known:
            following, kept = _array(path, file, "next_observations", here, 2), np.ones(n, bool)
        else:
            behind = _array(path, file, "observations", slice(begin + 1, end + 1), 2)
            following = behind if len(behind) == n else np.concatenate((behind, observation[-1:]))
            kept = ~cut & (np.arange(begin, end) < total - 1)
            counts.update(unseen_end=int((terminated & kept).sum()), no_next=int((~kept).sum()))
        last = terminated | cut
        first = np.append([ended], last[:-1])
        ended = bool(last[-1])
        action = _array(path, file, "actions", here, 2)
        reward = _array(path, file, "rewards", here, 1)
        rows = Rows(observation, action, reward, following, np.zeros(n), terminated, first, first, last)
        yield _some(rows, np.flatnonzero(kept))


def _cut(terminated: BoolArray, age: int, episode_steps: int) -> tuple[BoolArray, int]:
    """Where episodes are cut by their length alone, and the age of the one that goes on."""
    cut = np.zeros(len(terminated), bool)
    for i, ended in enumerate(terminated):
        age += 1
        cut[i] = age == episode_steps
        if ended or cut[i]:
            age = 0
    return cut, age


# ---- rows -------------------------------------------------------------------------------------


class _Appender:
    """Makes rows of the task out of those of a file, and writes them."""

    def __init__(
        self, path: Path, task: Task, writer: DatasetWriter, counts: Counter[str], scale_actions: bool
    ) -> None:
        self._path, self._task, self._writer, self._counts = path, task, writer, counts
        self._scale = scale_actions
        self._end: FloatArray | None = None  # what the last row that was kept ended with
        self._motion = _Motion(path, task)

    def append(self, rows: Rows) -> None:
        """Take the rows of one part."""
        finite = np.ones(len(rows.reward), bool)
        with np.errstate(over="ignore"):
            for column in (rows.observation, rows.action, rows.reward[:, None], rows.next_observation):
                finite &= np.isfinite(column.astype(np.float32)).all(axis=1)
        self._count("not_finite", ~finite)
        # A row behind one that is left out begins anew.
        begins = rows.begins | np.append([False], ~finite[:-1])[: len(finite)]
        kept = _some(rows._replace(begins=begins), np.flatnonzero(finite))
        if len(kept.reward):
            self._write(kept)
        if not finite[-1:].all():
            self._end = None

    def finish(self) -> None:
        """Check what can be told from all rows."""
        self._motion.check()

    def _write(self, rows: Rows) -> None:
        nu = int(self._task.model.nu)
        if rows.action.shape[1] != nu:
            raise DatasetError(f"{self._path}: actions have {rows.action.shape[1]} entries, expected {nu}")
        before = np.concatenate((rows.observation[:1] if self._end is None else self._end, rows.next_observation[:-1]))
        begins = rows.begins.copy()
        begins[:1] |= self._end is None
        if before.shape[1] != rows.observation.shape[1]:
            raise DatasetError(f"{self._path}: next_observations have {before.shape[1]} entries, unlike observations")
        jumps = ~begins & (before.astype(np.float32) != rows.observation.astype(np.float32)).any(axis=1)
        self._count("jump", jumps)
        begins |= jumps
        self._end = rows.next_observation[-1:]
        given = rows.action
        if self._scale:
            low, high = self._task.action_low, self._task.action_high
            if not (np.isfinite(low) & np.isfinite(high)).all():
                raise DatasetError(f"task '{self._task.name}' has no range to scale actions to")
            given = low + 0.5 * (given + 1.0) * (high - low)
        action = np.clip(given, self._task.action_low, self._task.action_high)
        self._count("clipped", np.any(abs(action - given) > 1e-6 * (1.0 + abs(given)), axis=1))
        observation, following = self._motion.complete(rows._replace(action=given, begins=begins))
        cost = np.asarray(self._task.cost(observation, action, following), np.float64)
        self._writer.append(
            rows._replace(observation=observation, next_observation=following, action=action, cost=cost, begins=begins)
        )

    def _count(self, kind: str, which: BoolArray) -> None:
        if which.any():
            self._counts[kind] += int(which.sum())


def _some(rows: Rows, which: npt.NDArray[np.int64]) -> Rows:
    return Rows(*(column[which] for column in rows))


class _Motion:
    """Whole observations of a task, of those that gymnasium shows.

    The reward of a ForwardTask is linear in the way x' - x, and all else in it is observed: the way follows from it.
    """

    TOLERANCE = 0.5  # of the root mean square of the observed velocity
    AT_REST = 0.2  # m/s

    def __init__(self, path: Path, task: Task) -> None:
        self._path, self._task = path, task
        spec = task.observation_spec
        added = set(task.added)
        self._shown = sum(size for name, size in spec.groups if name not in added)
        self._x = 0.0  # m, where the trajectory is
        self._implied = isinstance(task, ForwardTask) and added == {"x"}
        self._sums = np.zeros(3)  # rows, squared difference of velocities, squared velocity

    def complete(self, rows: Rows) -> tuple[FloatArray, FloatArray]:
        """Observations and next observations (n, nobs) of the task."""
        spec, size = self._task.observation_spec, rows.observation.shape[1]
        if size == spec.size:
            return rows.observation, rows.next_observation
        if size != self._shown or not self._implied:
            names = ", ".join(f"{name} ({entries})" for name, entries in spec.groups)
            lacking = f", of which only {', '.join(self._task.added)} may be missing" if self._implied else ""
            raise DatasetError(
                f"{self._path}: observations have {size} entries; those of task '{self._task.name}' have {spec.size}, "
                f"{names}{lacking}"
            )
        where, rest = spec.mask("x"), ~spec.mask("x")
        observation, following = (np.zeros((len(rows.reward), spec.size)) for _ in range(2))
        observation[:, rest], following[:, rest] = rows.observation, rows.next_observation
        at_rest = self._task.reward(observation, rows.action, following)
        following[:, where] = 1.0
        way = (rows.reward - at_rest) / (self._task.reward(observation, rows.action, following) - at_rest)
        self._compare(way, rows)
        starts = [0, *np.flatnonzero(rows.begins), len(way)]
        for piece, (begin, end) in enumerate(itertools.pairwise(starts)):
            if begin == end:
                continue
            reached = (0.0 if piece else self._x) + np.cumsum(way[begin:end])
            following[begin:end, where] = reached[:, None]
            observation[begin:end, where] = np.append([0.0 if piece else self._x], reached[:-1])[:, None]
            self._x = float(reached[-1])
        return observation, following

    def _compare(self, way: FloatArray, rows: Rows) -> None:
        """Take note of how fast the robot moves by its rewards, and by its velocities."""
        where = self._task.observation_spec.slices["velocity"].start
        inner = ~rows.terminated  # what a row ends with that ends an episode may be of the next one
        seen = 0.5 * (rows.observation[:, where] + rows.next_observation[:, where])[inner]
        apart = way[inner] / self._task.control_dt - seen
        self._sums += len(seen), (apart**2).sum(), (seen**2).sum()

    def check(self) -> None:
        """Raise DatasetError if the rewards are not for going forward as fast as was observed."""
        n, apart, seen = self._sums
        if n and np.sqrt(apart / n) > self.TOLERANCE * np.sqrt(seen / n) + self.AT_REST:
            raise DatasetError(
                f"{self._path}: its rewards are not those of task '{self._task.name}': they are for velocities that "
                f"differ by {np.sqrt(apart / n):.3g} m/s from those observed, {np.sqrt(seen / n):.3g} m/s"
            )
