"""Datasets: transitions of one task as memory-mapped columns, for learning offline.

A dataset is a folder: dataset.json and one .npy file for each of COLUMNS, rows of one trajectory behind each other, and
starts.npy, where each trajectory begins. It may be larger than memory. It is written under another name, renamed when
it is whole: what has the name is a dataset.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from polo_ros.files import sync, write_whole
from polo_ros.tasks.base import FloatArray, Task

Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Indexes = npt.NDArray[np.int64]
AnyArray = npt.NDArray[Any]

FORMAT = "polo_ros.dataset"
VERSION = 1
MAX_JSON = 1 << 26  # bytes of dataset.json
COLUMNS = ("observation", "action", "reward", "next_observation", "cost", "terminated", "trajectory")
STARTS = "starts"
_HEADER = 128  # bytes in front of an array: the number of rows is filled in when it is known


class DatasetError(ValueError):
    """A dataset that cannot be read, written or used; the message names the file and the reason."""


def file_types(rows: int, trajectories: int, nobs: int, nu: int) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Dtype and shape of the array in each file, by its stem."""
    single, flag = np.dtype("<f4"), np.dtype("?")
    return {
        "observation": (single, (rows, nobs)),
        "action": (single, (rows, nu)),
        "reward": (single, (rows,)),
        "next_observation": (single, (rows, nobs)),
        "cost": (single, (rows,)),
        "terminated": (flag, (rows,)),
        "trajectory": (np.dtype("<i4"), (rows,)),
        STARTS: (np.dtype("<i8"), (trajectories + 1,)),
    }


# ---- reading ----------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Rows of a dataset as copies; (...) is the shape of the indexes that they were taken with."""

    observation: Float32Array  # (..., nobs)
    action: Float32Array  # (..., nu)
    reward: Float32Array  # (...,)
    next_observation: Float32Array  # (..., nobs)
    cost: Float32Array  # (...,)
    terminated: BoolArray  # (...,)
    next_action: Float32Array  # (..., nu) of the row behind; zeros where there is none in the trajectory
    continues: BoolArray  # (...,) whether there is one


@dataclass(frozen=True)
class Dataset:
    """A dataset on disk; opening it reads its description, the columns are mapped into memory.

    Attributes:
        path: Its folder.
        task: Name of the task.
        model_hash: Of the model that the robot was; empty: not known, as of imported files.
        digest: sha256 of what it holds, as hex digits.
        facts: All of dataset.json.
        observation: (T, nobs) float32, at the start of a period.
        action: (T, nu) float32, in physical units, as applied.
        reward: (T,) float32, of the period.
        next_observation: (T, nobs) float32, at its end: the next row's observation where the trajectory goes on.
        cost: (T,) float32, the task's constraint cost of the period.
        terminated: (T,) bool, whether the task ended in next_observation: no value after it.
        trajectory: (T,) int32, number of the trajectory, from 0 on.
        starts: (trajectories + 1,) int64, the first row of each trajectory, and T.
    """

    path: Path
    task: str
    model_hash: str
    digest: str
    facts: Mapping[str, Any]
    observation: Float32Array
    action: Float32Array
    reward: Float32Array
    next_observation: Float32Array
    cost: Float32Array
    terminated: BoolArray
    trajectory: npt.NDArray[np.int32]
    starts: Indexes

    @classmethod
    def open(cls, path: Path | str) -> Dataset:
        """Open the dataset in the folder `path`.

        Raises:
            DatasetError: It is none, of another version, or its files are not what dataset.json says.
        """
        folder = Path(path)
        facts = _read_facts(folder)
        try:
            names = {name: str(facts[name]) for name in ("task", "model_hash", "digest")}
            rows, trajectories = int(facts["rows"]), int(facts["trajectories"])
            stated = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in facts["files"].items()}
            nobs, nu = int(stated["observation"][1][1]), int(stated["action"][1][1])
            groups = [(str(name), int(size)) for name, size in facts["observation_groups"]]
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise DatasetError(f"{folder}/dataset.json: incomplete: {type(error).__name__}: {error}") from None
        if rows < 1 or trajectories < 1 or sum(size for _, size in groups) != nobs:
            raise DatasetError(
                f"{folder}/dataset.json: {rows} rows in {trajectories} trajectories with {nobs} observations cannot be"
            )
        arrays: dict[str, AnyArray] = {}
        for name, (dtype, shape) in file_types(rows, trajectories, nobs, nu).items():
            if stated.get(name) != (dtype.str, shape):
                raise DatasetError(
                    f"{folder}/dataset.json: {name} is {stated.get(name)}, expected {dtype.str} of {shape}"
                )
            arrays[name] = _map(folder / f"{name}.npy", dtype, shape)
        starts = arrays[STARTS]
        if starts[0] != 0 or starts[-1] != rows or (np.diff(starts) < 1).any():
            raise DatasetError(f"{folder}/{STARTS}.npy: trajectories do not rise from row 0 to {rows}")
        return cls(folder, names["task"], names["model_hash"], names["digest"], facts, **arrays)

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def nobs(self) -> int:
        """Length of an observation."""
        return int(self.observation.shape[1])

    @property
    def nu(self) -> int:
        """Length of an action."""
        return int(self.action.shape[1])

    @property
    def trajectories(self) -> int:
        """Number of trajectories."""
        return len(self.starts) - 1

    def for_task(self, task: Task) -> Dataset:
        """Check that this is data of `task`; returns the dataset itself.

        Raises:
            DatasetError: Another task, model, observation or number of actuators.
        """
        groups = tuple((str(name), int(size)) for name, size in self.facts["observation_groups"])
        compared: list[tuple[str, Any, Any]] = [
            ("task", self.task, task.name),
            ("model", self.model_hash or task.model_hash, task.model_hash),
            ("observation groups", groups, task.observation_spec.groups),
            ("number of actuators", self.nu, int(task.model.nu)),
        ]
        for what, found, expected in compared:
            if found != expected:
                raise DatasetError(f"{self.path}: {what}: {found}, expected {expected} of task '{task.name}'")
        return self

    def summary(self) -> dict[str, Any]:
        """What `polo dataset` says of it, for JSON."""
        names = ("task", "model_hash", "rows", "trajectories", "digest", "statistics")
        about = ("sources", "left_out", "problems")
        found = {name: self.facts[name] for name in names} | {name: self.facts.get(name, []) for name in about}
        return {"path": str(self.path), **found}

    def verify(self, between: Callable[[], None] = lambda: None) -> None:
        """Read everything and compare it with the digest.

        Args:
            between: Called often; what it raises ends the work.

        Raises:
            DatasetError: The content is not what was written.
        """
        digests = {name: hashlib.sha256() for name in (*COLUMNS, STARTS)}
        for name, digest in digests.items():
            array = getattr(self, name)
            step = max(1, (1 << 24) // max(1, array[:1].nbytes))
            for begin in range(0, len(array), step):
                between()
                digest.update(np.ascontiguousarray(array[begin : begin + step]).data)
        found = _digest(self.facts, {name: digest.hexdigest() for name, digest in digests.items()})
        if found != self.digest:
            raise DatasetError(f"{self.path}: damaged: its digest is {found}, dataset.json says {self.digest}")

    def take(self, indexes: npt.ArrayLike) -> Batch:
        """The rows at `indexes` (...), and the action behind each."""
        rows = np.asarray(indexes, np.int64)
        behind = np.minimum(rows + 1, len(self) - 1)
        continues = (self.trajectory[behind] == self.trajectory[rows]) & (behind != rows)
        return Batch(
            self.observation[rows],
            self.action[rows],
            self.reward[rows],
            self.next_observation[rows],
            self.cost[rows],
            self.terminated[rows],
            np.where(continues[..., None], self.action[behind], np.float32(0.0)),
            continues,
        )

    def sample(self, rng: np.random.Generator, n: int) -> Batch:
        """`n` rows drawn uniformly, with replacement; arrays (n, ...)."""
        return self.take(rng.integers(len(self), size=n))

    def windows(self, rng: np.random.Generator, n: int, length: int) -> Indexes:
        """Row numbers (n, length) of `n` windows, each within one trajectory, drawn uniformly from all there are.

        `take` gives their arrays (n, length, ...).

        Raises:
            DatasetError: No trajectory is that long.
        """
        if length < 1:
            raise DatasetError(f"windows of {length} rows: expected 1 at least")
        each = np.maximum(self._lengths - length + 1, 0)
        ends = np.cumsum(each)
        if not ends[-1]:
            raise DatasetError(
                f"{self.path}: no trajectory has {length} rows; the longest has {int(self._lengths.max())}"
            )
        drawn = rng.integers(ends[-1], size=n)
        which = np.searchsorted(ends, drawn, side="right")
        first = self.starts[which] + drawn - (ends - each)[which]
        return np.asarray(first[:, None] + np.arange(length), np.int64)

    @cached_property
    def _lengths(self) -> Indexes:
        return np.diff(self.starts)


def _read_facts(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    try:
        if path.stat().st_size > MAX_JSON:
            raise DatasetError(f"{path}: {path.stat().st_size} bytes, expected at most {MAX_JSON}")
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = "there is no dataset.json in it" if folder.is_dir() else "no such folder"
        raise DatasetError(f"{folder}: not a dataset: {known}; `polo dataset` makes one") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not a dataset: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise DatasetError(f"{path}: not a dataset: its format is not '{FORMAT}'")
    if facts.get("version") != VERSION:
        raise DatasetError(f"{path}: version {facts.get('version')} of the format, expected {VERSION}")
    return facts


def _map(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> AnyArray:
    """The array in a file, mapped; the file must be exactly what is expected."""
    try:
        size = path.stat().st_size
        expected = _HEADER + dtype.itemsize * math.prod(shape)
        if size != expected:
            raise DatasetError(f"{path}: {size} bytes, expected {expected} for {dtype.str} of {shape}")
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DatasetError(f"{path}: missing") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror or error}") from None
    except DatasetError:
        raise
    except ValueError as error:
        raise DatasetError(f"{path}: not a .npy file: {error}") from None
    if array.dtype != dtype or array.shape != shape:
        raise DatasetError(f"{path}: {array.dtype.str} of {array.shape}, expected {dtype.str} of {shape}")
    mapped: AnyArray = array.view(np.ndarray)  # a memmap's own indexing is slow
    return mapped


def _digest(facts: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    names = ("version", "task", "model_hash", "observation_groups", "files")
    return hashlib.sha256(
        json.dumps([{name: facts[name] for name in names}, columns], sort_keys=True).encode()
    ).hexdigest()


# ---- writing ----------------------------------------------------------------------------------


class Rows(NamedTuple):
    """Rows to write, of any number of trajectories; they are written as float32."""

    observation: AnyArray  # (n, nobs)
    action: AnyArray  # (n, nu)
    reward: AnyArray  # (n,)
    next_observation: AnyArray  # (n, nobs)
    cost: AnyArray  # (n,)
    terminated: BoolArray  # (n,)
    begins: BoolArray  # (n,) whether the row begins a trajectory
    first: BoolArray  # (n,) whether it is the first one of its episode
    last: BoolArray  # (n,) whether it is the last one of its episode


def leftovers(path: Path | str) -> list[Path]:
    """Folders of datasets `path` that are not whole: of writers that were killed, or are still at work."""
    path = Path(path)
    name = re.compile(rf"\.{re.escape(path.name)}\.partial[0-9a-f]+")
    try:
        return sorted(other for other in path.parent.iterdir() if name.fullmatch(other.name) and other.is_dir())
    except OSError:
        return []


class DatasetWriter:
    """Writes a dataset row by row; nothing of it is there before `close`, or if writing fails.

    Args:
        path: The folder to make; it must not exist.
        task: What the rows are of.
        model_hash: Of the model; empty: not known.
        facts: More facts for dataset.json, which JSON knows.

    Raises:
        DatasetError: The folder exists or cannot be made.
    """

    def __init__(self, path: Path | str, task: Task, model_hash: str, facts: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path)
        self.rows = 0
        self._spec, self._nu = task.observation_spec, int(task.model.nu)
        self._facts = {"task": task.name, "model_hash": model_hash, **(facts or {})}
        self._statistics = {
            "observation": _Moments(self._spec.size),
            "action": _Moments(self._nu),
            "reward": _Moments(1),
            "cost": _Moments(1),
        }
        self._starts: list[Indexes] = []
        self._returns = _Moments(1)  # of whole trajectories
        self._trajectories = 0
        self._terminated = 0
        # What the rows so far ended with: the last next_observation, terminated, and of the trajectory that is open its
        # return so far, and whether it holds its episode's first row, and ends with the last.
        self._end: tuple[Float32Array, bool] | None = None
        self._open_return, self._open_first, self._open_last = 0.0, False, False
        self._partial: Path | None = None  # once it is ours
        self._streams: dict[str, BinaryIO] = {}
        self._digests = {name: hashlib.sha256() for name in (*COLUMNS, STARTS)}
        if self.path.exists():
            raise DatasetError(f"{self.path}: exists already; name a new folder")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.parent / f".{self.path.name}.partial{secrets.token_hex(8)}"
            partial.mkdir()  # fails on another's
            self._partial = partial
            for name in self._digests:
                self._streams[name] = open(partial / f"{name}.npy", "wb")  # noqa: SIM115  until the end
                self._streams[name].write(bytes(_HEADER))
        except OSError as error:
            self._give_up(error)

    def append(self, rows: Rows) -> None:
        """Add rows behind those that are there.

        Raises:
            DatasetError: Wrong sizes, numbers that are not finite, or rows that do not join within a trajectory, and
                nothing of `rows` is written; or the disk cannot be written to, and everything is gone.
        """
        n = len(rows.reward)
        if n == 0:
            return
        columns = self._checked(rows, n)
        try:
            for name, column in columns.items():
                self._put(name, column)
        except OSError as error:
            self._give_up(error)
        self._count(rows, columns, n)
        self.rows += n

    def close(self) -> None:
        """End the dataset: from here on it is there. Does nothing after it was ended or thrown away.

        Raises:
            DatasetError: It has no rows, or the disk cannot be written to; there is no dataset then.
        """
        if self._partial is None:
            return
        if not self.rows:
            self.abort()
            raise DatasetError(f"{self.path}: no rows, so no dataset is made")
        try:
            self._finish_trajectory()
            self._put(STARTS, np.concatenate([*self._starts, [self.rows]]).astype("<i8"))
            self._finish(self._partial)
            os.rename(self._partial, self.path)
            self._partial = None
            sync(self.path.parent)
        except OSError as error:
            self._give_up(error)

    def abort(self) -> None:
        """Throw away what was written, if it is not a dataset yet."""
        for stream in self._streams.values():
            try:
                stream.close()
            except OSError:  # what is in its buffer is not wanted any more
                continue
        self._streams.clear()
        if self._partial is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial = None

    def note(self, **facts: Any) -> None:
        """More facts for dataset.json, which JSON knows."""
        self._facts.update(facts)

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    # ---- rows -----------------------------------------------------------------------------

    def _checked(self, rows: Rows, n: int) -> dict[str, AnyArray]:
        """The columns as they are written."""
        types = file_types(n, 0, self._spec.size, self._nu)
        columns: dict[str, AnyArray] = {}
        for name in COLUMNS[:-1]:
            dtype, shape = types[name]
            given = np.asarray(getattr(rows, name))
            if given.shape != shape:
                raise DatasetError(f"{self.path}: {name} has shape {given.shape}, expected {shape}")
            with np.errstate(over="ignore"):  # infinite then, and refused
                column = np.ascontiguousarray(given, dtype)
            if not np.isfinite(column).all():
                raise DatasetError(f"{self.path}: {name} is not finite, or beyond the range of float32")
            columns[name] = column
        for name in ("begins", "first", "last"):
            if np.shape(getattr(rows, name)) != (n,):
                raise DatasetError(f"{self.path}: {name} has shape {np.shape(getattr(rows, name))}, expected ({n},)")
        before, ended = columns["next_observation"][:-1], columns["terminated"][:-1]
        self._check_joints(rows.begins[1:], before, ended, columns["observation"][1:])
        if self._end is not None:
            observation, terminated = self._end
            self._check_joints(rows.begins[:1], observation[None], np.array([terminated]), columns["observation"][:1])
        elif not rows.begins[0]:
            raise DatasetError(f"{self.path}: the first row does not begin a trajectory")
        columns["trajectory"] = (self._trajectories - 1 + np.cumsum(rows.begins)).astype(types["trajectory"][0])
        return columns

    def _check_joints(
        self, begins: BoolArray, before: Float32Array, terminated: BoolArray, observation: Float32Array
    ) -> None:
        joined = ~np.asarray(begins)
        if (joined & terminated).any():
            raise DatasetError(f"{self.path}: a trajectory goes on after it terminated")
        if (joined & (before != observation).any(axis=1)).any():
            raise DatasetError(f"{self.path}: within a trajectory an observation is not the next_observation before it")

    def _put(self, name: str, array: AnyArray) -> None:
        self._digests[name].update(array.data)
        self._streams[name].write(array.data)

    def _count(self, rows: Rows, columns: Mapping[str, AnyArray], n: int) -> None:
        for name, moments in self._statistics.items():
            moments.add(columns[name].reshape(n, -1))
        self._terminated += int(columns["terminated"].sum())
        begins = np.flatnonzero(rows.begins)
        self._starts.append(begins.astype(np.int64) + self.rows)
        reward = columns["reward"].astype(np.float64)
        # Pieces of trajectories: what goes on from before, if anything, and one from each beginning.
        head = int(begins[0]) if len(begins) else n
        if head:
            self._open_return += float(reward[:head].sum())
            self._open_last = bool(rows.last[head - 1])
        if len(begins):
            self._finish_trajectory()
            returns = np.add.reduceat(reward, begins)
            ends = np.append(begins[1:], n) - 1
            whole = rows.first[begins] & rows.last[ends]
            self._returns.add(returns[:-1][whole[:-1], None])
            self._open_return = float(returns[-1])
            self._open_first, self._open_last = bool(rows.first[begins[-1]]), bool(rows.last[-1])
            self._trajectories += len(begins)
        self._end = columns["next_observation"][-1].copy(), bool(columns["terminated"][-1])

    def _finish_trajectory(self) -> None:
        if self._trajectories and self._open_first and self._open_last:
            self._returns.add(np.array([[self._open_return]]))

    # ---- the end --------------------------------------------------------------------------

    def _finish(self, partial: Path) -> None:
        types = file_types(self.rows, self._trajectories, self._spec.size, self._nu)
        for name, (dtype, shape) in types.items():
            stream = self._streams[name]
            stream.seek(0)
            stream.write(_npy_header(dtype, shape))
            stream.flush()
            os.fsync(stream.fileno())
            stream.close()
        facts: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            **self._facts,
            "rows": self.rows,
            "trajectories": self._trajectories,
            "observation_groups": [[name, size] for name, size in self._spec.groups],
            "files": {name: {"dtype": dtype.str, "shape": list(shape)} for name, (dtype, shape) in types.items()},
            "statistics": self._summary(),
        }
        facts["digest"] = _digest(facts, {name: digest.hexdigest() for name, digest in self._digests.items()})
        write_whole(partial / "dataset.json", json.dumps(facts, indent=2), durable=True)

    def _summary(self) -> dict[str, Any]:
        observation = self._statistics["observation"]
        return {
            "whole_trajectories": self._returns.count,
            "return": self._returns.scalars(),  # of whole trajectories
            "terminated": self._terminated / self.rows,  # share of the rows
            "observation": {name: observation.lists(where) for name, where in self._spec.slices.items()},
            "action": self._statistics["action"].lists(slice(None)),
            "reward": self._statistics["reward"].scalars(),
            "cost": self._statistics["cost"].scalars(),
        }

    def _give_up(self, error: OSError) -> None:
        self.abort()
        raise DatasetError(f"{self.path}: cannot be written: {error.strerror or error}") from error


class _Moments:
    """Least, greatest, mean and standard deviation of rows that come in parts, by Chan's pairwise update."""

    def __init__(self, size: int) -> None:
        self.count = 0
        self.low = np.full(size, np.inf)
        self.high = np.full(size, -np.inf)
        self.mean = np.zeros(size)
        self._squares = np.zeros(size)  # sum of squared differences from the mean

    def add(self, rows: AnyArray) -> None:
        n = len(rows)
        if not n:
            return
        rows = rows.astype(np.float64)
        mean = rows.mean(axis=0)
        squares = ((rows - mean) ** 2).sum(axis=0)
        total = self.count + n
        away = mean - self.mean
        self._squares += squares + away**2 * (self.count * n / total)
        self.mean += away * (n / total)
        self.low, self.high = np.minimum(self.low, rows.min(axis=0)), np.maximum(self.high, rows.max(axis=0))
        self.count = total

    @property
    def std(self) -> FloatArray:
        return np.sqrt(self._squares / max(self.count, 1))

    def lists(self, where: slice) -> dict[str, list[float]]:
        parts = {"min": self.low, "max": self.high, "mean": self.mean, "std": self.std}
        return {name: part[where].tolist() for name, part in parts.items()}

    def scalars(self) -> dict[str, float] | None:
        return {name: values[0] for name, values in self.lists(slice(None)).items()} if self.count else None


def _npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The head of a .npy file of version 1.0, _HEADER bytes whatever the shape."""
    text = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': {shape!r}, }}".encode("latin1")
    magic = b"\x93NUMPY\x01\x00"
    space = _HEADER - len(magic) - 2
    return magic + (space).to_bytes(2, "little") + text.ljust(space - 1) + b"\n"
