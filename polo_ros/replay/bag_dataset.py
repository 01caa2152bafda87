"""One dataset from any number of bags: `polo dataset BAG... --out DIR`.

Rows join to a trajectory where the next control period follows within the episode and begins with the observation that
the one before ended with. What cannot be a row of the dataset is counted by kind, reported with its bag, and left out.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from polo_ros import tasks
from polo_ros.replay.bag_reader import BagReader, file_sizes
from polo_ros.replay.bag_types import TRANSITION, BagProblem
from polo_ros.replay.dataset import Dataset, DatasetError, DatasetWriter, Rows
from polo_ros.replay.mcap_file import scan, session_facts
from polo_ros.replay.transition_blocks import BoolArray, Indexes, TransitionBlock, TransitionBlocks
from polo_ros.tasks.base import Task

Keys = npt.NDArray[np.uint64]

LEFT_OUT = {
    "task": "rows are of another task",
    "models": "rows are of another model",
    "sizes": "rows have other sizes than the task",
    "not_finite": "rows have numbers that are not finite, or beyond float32",
    "duplicate": "rows were there already",
    "order": "rows have steps that are not above those before, or are far beyond",
    "safe_stop": "rows are safe stops",
    "undecodable": "rows cannot be decoded",
}
NOTED = {
    "gap": "gaps in the steps: a new trajectory begins behind each",
    "jump": "rows begin elsewhere than the one before ended: a new trajectory begins with each",
}


def from_bags(
    paths: Sequence[Path],
    out: Path,
    task_name: str = "",
    safe_stops: bool = True,
    between: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Make a dataset of the transitions of all robots in these bags.

    Args:
        paths: Bag folders, .mcap files or run folders. Splits of one session join if they are given in their order.
        out: The dataset's folder, which must not exist.
        task_name: The task; empty: that of the first bag that names one.
        safe_stops: Whether to keep periods in which the robot did what the safe stop says.
        between: Called often; what it raises ends the work, of which nothing is left then.

    Returns:
        Facts: "path", "task", "model_hash", "rows", "trajectories", "digest", "statistics", "sources" (path, robot,
        rows read and kept), "left_out" (number of rows by kind), "problems" (texts).

    Raises:
        DatasetError: No task is named, nothing is left, or the dataset cannot be written.
        BagError: A path is no bag.
    """
    bags = [_Bag(path, between) for path in paths]
    task = _task(bags, task_name)
    for bag in bags:
        bag.leave_out_other_tasks(task.name)
    with (
        DatasetWriter(out, task, task.model_hash) as writer,
        _Memory(out.parent) as memory,
    ):
        sources: list[dict[str, Any]] = []
        for topic in dict.fromkeys(topic for bag in bags for topic in bag.robots.values()):
            joiner = _Joiner(task, writer, memory, safe_stops)
            memory.forget()  # two robots never send the same row
            for bag in bags:
                if topic in bag.robots.values():
                    sources.append(bag.read(topic, joiner))
        sources += [{"path": str(bag.path), "robot": "", "read": 0, "rows": 0} for bag in bags if not bag.robots]
        problems = _distinct(problem for bag in bags for problem in bag.problems)
        left_out = sum((bag.left_out for bag in bags), Counter[str]())
        if not writer.rows:
            raise DatasetError(f"{out}: no transition of task '{task.name}' in these bags: {'; '.join(problems)}")
        sizes = {str(bag.path): bag.sizes for bag in bags}
        writer.note(sources=sources, bags=sizes, left_out=dict(left_out), problems=problems, safe_stops=safe_stops)
    return Dataset.open(out).summary()


def _distinct(problems: Any) -> list[str]:
    return list(dict.fromkeys(str(problem) for problem in problems))


def _task(bags: Sequence[_Bag], name: str) -> Task:
    found = name or next((task for bag in bags for task in bag.tasks.values() if task), "")
    if not found:
        raise DatasetError(f"{bags[0].path}: the bag does not say what task it is of; name it with --task")
    return tasks.make(found)


# ---- bags -------------------------------------------------------------------------------------


class _Bag:
    """One bag, and what became of its rows."""

    def __init__(self, path: Path, between: Callable[[], None]) -> None:
        self.path, self._between = path, between
        self.sizes = file_sizes(path)  # before it is read: what is recorded meanwhile is not in the dataset
        self.reader = BagReader(path, between)
        self.robots = self.reader.robots()
        self.tasks = {file: session_facts(file, between).get("task", "") for file in self.reader.files}
        self.left_out: Counter[str] = Counter()
        self.problems: list[BagProblem] = []
        if not self.robots:
            self._report("empty", "no transitions are recorded in it")

    def leave_out_other_tasks(self, name: str) -> None:
        """Do not read files of sessions of other tasks than `name`."""
        others = [file for file, task in self.tasks.items() if task not in ("", name)]
        for file in others:
            counts = scan(file, self._between)[0].counts
            rows = sum(count for (_, kind), count in counts.items() if kind == TRANSITION)
            self.left_out["task"] += rows
            self._report("task", f"{rows} {LEFT_OUT['task']}, '{self.tasks[file]}', and left out: {file.name}")
            self.reader.files.remove(file)

    def read(self, topic: str, joiner: _Joiner) -> dict[str, Any]:
        """Read the rows of one robot; returns what is to be said of this source."""
        tally = joiner.begin()
        blocks = TransitionBlocks(self.reader, topic)
        for block in blocks:
            joiner.add(block)
        joiner.end()
        tally.read += blocks.undecodable
        tally.add("undecodable", blocks.undecodable, [blocks.reason])
        robot = next(name for name, other in self.robots.items() if other == topic)
        for problem in self.reader.problems:
            self._report(problem.kind, f"{problem.file}: {problem.message}")
        where = f"{robot}: " if robot else ""
        for kind, count in tally.count.items():
            if kind in LEFT_OUT:
                self.left_out[kind] += count
            text = f"{count} {LEFT_OUT[kind]}, and left out" if kind in LEFT_OUT else f"{count} {NOTED[kind]}"
            self._report(kind, f"{where}{text}: {', '.join(tally.examples[kind])}")
        return {"path": str(self.path), "robot": robot, "read": tally.read, "rows": tally.kept}

    def _report(self, kind: str, text: str) -> None:
        self.problems.append(BagProblem(str(self.path), kind, text))


class _Tally:
    """What was counted of one robot in one bag."""

    EXAMPLES = 5

    def __init__(self) -> None:
        self.read = 0
        self.kept = 0
        self.count: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, kind: str, count: int, examples: Sequence[str]) -> None:
        if count:
            self.count[kind] += count
            shown = self.examples.setdefault(kind, [])
            shown += [example for example in examples if example not in shown][: self.EXAMPLES - len(shown)]


# ---- rows -------------------------------------------------------------------------------------


class _Joiner:
    """Chooses the rows of one robot and joins them to trajectories, over all bags."""

    FAR = 1_000_000  # steps: a step that far ahead is believed only if the next one follows it

    def __init__(self, task: Task, writer: DatasetWriter, memory: _Memory, safe_stops: bool) -> None:
        self._task, self._writer, self._memory, self._safe_stops = task, writer, memory, safe_stops
        self._sizes = (task.observation_spec.size, int(task.model.nu), task.observation_spec.size)
        self._tally = _Tally()
        self._highest = -1  # step so far in this bag
        self._time = 0  # ns, when the last row that was not left out was published
        self._last: TransitionBlock | None = None  # the last row that was kept
        # The block that came last: whether its last row is a stray one, the row behind it tells.
        self._held: TransitionBlock | None = None

    def begin(self) -> _Tally:
        """Begin the next bag."""
        self._tally = _Tally()
        self._highest = -1
        self._memory.next_bag()
        return self._tally

    def add(self, block: TransitionBlock) -> None:
        """Take rows, in the order of recording."""
        if not len(block):
            return
        held, self._held = self._held, block
        if held is not None:
            self._take(held, int(block.step[0]))

    def end(self) -> None:
        """End the bag: what is held back is taken."""
        held, self._held = self._held, None
        if held is not None:
            self._take(held, int(held.step[-1]) + 1)

    def _take(self, block: TransitionBlock, behind: int) -> None:
        """Choose and write rows; `behind` is the step of the row behind them."""
        self._tally.read += len(block)
        good = np.ones(len(block), bool)
        sizes = block.observation.shape[1], block.action.shape[1], block.next_observation.shape[1]
        if sizes != self._sizes:
            found = f"(observation, action, next_observation) {sizes}, expected {self._sizes}"
            self._tally.add("sizes", len(block), [found])
            good[:] = False
        self._sort_out(block, good, "models", self._other_model(block), block.model_hash)
        self._sort_out(block, good, "not_finite", ~_finite(block))
        keys = _keys(block)
        known, late, runs = self._old(block, keys, good, behind)
        self._sort_out(block, good, "duplicate", known)
        self._sort_out(block, good, "order", late)
        self._memory.keep(keys[good], block.time_ns[good])
        if not self._safe_stops:
            self._sort_out(block, good, "safe_stop", block.safe_stop)
        self._write(_rows(block, good), runs[good])

    def _sort_out(self, block: TransitionBlock, good: BoolArray, kind: str, bad: BoolArray, shown: Any = None) -> None:
        """Take `bad` rows out of `good` and count them, those that are out already left aside."""
        which = np.flatnonzero(good & bad)
        if len(which):
            if shown is None:
                examples = [f"step {step}" for step in block.step[which[: _Tally.EXAMPLES]]]
            else:
                examples = list(dict.fromkeys(value.decode("utf-8", "replace") for value in shown[which]))
            self._tally.add(kind, len(which), examples)
            good[which] = False

    def _other_model(self, block: TransitionBlock) -> BoolArray:
        return np.asarray(block.model_hash != self._task.model_hash.encode(), np.bool_)

    def _old(
        self, block: TransitionBlock, keys: Keys, good: BoolArray, behind: int
    ) -> tuple[BoolArray, BoolArray, BoolArray]:
        """Which rows are known, which come too late, and which begin another run of the robot; gaps are counted."""
        n, step = len(block), block.step
        late, runs, known = np.zeros(n, bool), np.zeros(n, bool), self._memory.knows(keys, block.time_ns)
        before = np.concatenate(([self._highest], step[:-1]))
        missing = step - before - 1
        if self._highest < 0:
            missing[0] = 0
        alone = self._highest < 0 and n == 1 and behind < step[0]  # a bag's first row, and nothing to compare it with
        if good.all() and not alone and ((missing >= 0) & (missing < self.FAR)).all():
            gaps = np.flatnonzero(missing)
            self._tally.add("gap", len(gaps), [f"{before[i]} -> {step[i]}" for i in gaps[: _Tally.EXAMPLES]])
            self._highest, self._time = int(step[-1]), int(block.time_ns[-1])
            return known, late, runs
        # Rare: row by row.
        known |= self._memory.knows(keys, block.time_ns, this_bag=True)
        seen: set[int] = set()
        for i in range(n):
            key, now = int(keys[i]), int(step[i])
            if not good[i]:  # left out already; what is next to the others was not lost
                self._highest += int(now == self._highest + 1)
                continue
            follower = int(step[i + 1]) if i + 1 < n else behind
            ahead = follower < now if self._highest < 0 else now - self._highest > self.FAR
            if ahead and follower != now + 1:
                late[i] = True  # a stray message: what came after it would all be late
                continue
            if now > self._highest:
                if 0 <= self._highest < now - 1:
                    self._tally.add("gap", 1, [f"{self._highest} -> {now}"])
            elif known[i] or key in seen:
                known[i] = True
                continue
            elif block.episode_step[i] == 0 or (follower == now + 1 and block.time_ns[i] > self._time):
                # A bridge that was started again and counts anew. Its first rows may be lost; a row that comes too late
                # was published before the others, and is alone.
                runs[i] = True
            else:
                late[i] = True
                continue
            seen.add(key)
            self._highest, self._time = now, int(block.time_ns[i])
        return known, late, runs

    def _write(self, block: TransitionBlock, runs: BoolArray) -> None:
        n = len(block)
        if not n:
            return
        ended = block.terminated | block.truncated
        begins = np.ones(n, bool)
        begins[1:] = ~self._joined(_rows(block, slice(None, -1)), _rows(block, slice(1, None)), runs[1:])
        if self._last is not None:
            begins[:1] = ~self._joined(self._last, _rows(block, slice(1)), runs[:1])
        with np.errstate(over="ignore", invalid="ignore"):
            cost = self._task.cost(block.observation, block.action, block.next_observation)
        cost = np.asarray(cost, np.float64)
        if cost.shape != (n,) or not np.isfinite(cost).all():
            raise DatasetError(f"task '{self._task.name}': its cost is not one finite number for each row")
        self._writer.append(
            Rows(
                observation=block.observation,
                action=block.action,
                reward=block.reward,
                next_observation=block.next_observation,
                cost=cost,
                terminated=block.terminated,
                begins=begins,
                first=block.episode_step == 0,
                last=ended,
            )
        )
        self._tally.kept += n
        self._last = _rows(block, slice(-1, None))

    def _joined(self, before: TransitionBlock, after: TransitionBlock, runs: BoolArray) -> BoolArray:
        """Whether each row of `after` goes on where that of `before` ended."""
        joined = (after.step == before.step + 1) & (after.episode == before.episode) & ~runs
        joined &= after.episode_step == before.episode_step + 1
        joined &= ~(before.terminated | before.truncated)
        met: BoolArray = (after.observation == before.next_observation).all(axis=1)
        jumps = np.flatnonzero(joined & ~met)
        self._tally.add("jump", len(jumps), [f"step {step}" for step in after.step[jumps[: _Tally.EXAMPLES]]])
        return np.asarray(joined & met, np.bool_)


def _rows(block: TransitionBlock, which: Any) -> TransitionBlock:
    return TransitionBlock(**{name: column[which] for name, column in vars(block).items()})


def _finite(block: TransitionBlock) -> BoolArray:
    """Which rows are finite as float32."""
    finite = np.ones(len(block), bool)
    with np.errstate(over="ignore"):
        for column in (block.observation, block.action, block.reward[:, None], block.next_observation):
            finite &= np.isfinite(column.astype(np.float32)).all(axis=1)
    return finite


# ---- duplicates -------------------------------------------------------------------------------


def _keys(block: TransitionBlock) -> Keys:
    """A number for each row, of all its bits; rows that differ have the same one by a chance of 2^-64."""
    n = len(block)
    parts = [block.observation, block.action, block.reward[:, None], block.next_observation]
    numbers = [np.ascontiguousarray(part).view(np.uint64).reshape(n, -1) for part in parts]
    numbers += [part.view(np.uint64)[:, None] for part in (block.step, block.episode, block.time_ns)]
    bits = np.concatenate(numbers, axis=1)
    # Numbers of a robot are alike in their low bits, which a product alone would leave so.
    bits ^= bits >> np.uint64(32)
    odd = np.random.default_rng(0).integers(1 << 63, size=bits.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    return np.asarray(bits @ odd, np.uint64)


@dataclass(frozen=True)
class _Piece:
    """Rows that were kept one behind the other."""

    bag: int
    offset: int  # in the file of keys
    count: int
    begin: int  # ns, first and last time
    end: int


class _Memory:
    """Keys of one robot's rows so far, in a file: they are asked for only where recordings overlap in time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bag = 0
        self._pieces: list[_Piece] = []
        self._times = np.empty((0, 2), np.int64)  # begin and end of the pieces of bags before this one

    def __enter__(self) -> _Memory:
        try:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        except OSError as error:
            raise DatasetError(f"{self._folder}: cannot be written: {error.strerror or error}") from None
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # what cannot be written any more is not wanted any more
            self._file.close()

    def forget(self) -> None:
        """Another robot begins."""
        self._pieces.clear()
        self._times = self._times[:0]

    def next_bag(self) -> None:
        """The bag ends."""
        self._bag += 1
        self._times = np.array([(piece.begin, piece.end) for piece in self._pieces], np.int64).reshape(-1, 2)

    def keep(self, keys: Keys, times: Indexes) -> None:
        """Remember rows."""
        if not len(keys):
            return
        try:
            offset = self._file.seek(0, 2)
            self._file.write(keys.tobytes())
            self._file.flush()
        except OSError as error:
            raise DatasetError(f"{self._folder}: cannot be written: {error.strerror or error}") from error
        self._pieces.append(_Piece(self._bag, offset, len(keys), int(times.min()), int(times.max())))

    def knows(self, keys: Keys, times: Indexes, this_bag: bool = False) -> BoolArray:
        """Which rows were kept before, of bags before this one, or of this one too."""
        begin, end = times.min(), times.max()
        near = np.flatnonzero((self._times[:, 0] <= end) & (self._times[:, 1] >= begin))
        pieces = [self._pieces[i] for i in near]
        if this_bag:
            pieces += [p for p in self._pieces[len(self._times) :] if p.begin <= end and p.end >= begin]
        known = np.zeros(len(keys), bool)
        for piece in pieces:
            self._file.seek(piece.offset)
            known |= np.isin(keys, np.frombuffer(self._file.read(8 * piece.count), np.uint64))
        return known
