"""Transitions of a bag as arrays, many at a time: what `BagReader.every_transition` gives one by one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from polo_ros.replay.bag_reader import BagReader, to_transition
from polo_ros.replay.bag_types import TRANSITION, BagError, Decoder, TopicInfo
from polo_ros.replay.cdr_layout import Layout, Layouts
from polo_ros.replay.mcap_file import Record
from polo_ros.tasks.base import FloatArray

BoolArray = npt.NDArray[np.bool_]
Indexes = npt.NDArray[np.int64]
AnyArray = npt.NDArray[Any]

BLOCK = 4096  # messages read at once
_FLOATS = ("observation", "action", "next_observation")
_WHOLE = ("step", "episode", "episode_step")
_FLAGS = ("terminated", "truncated", "safe_stop")
_NEEDED = (*_WHOLE, *_FLOATS, "reward", "model_hash", *_FLAGS)
MAX_NUMBER = 1 << 62  # steps and times beyond it are cut: no robot counts that far


@dataclass(frozen=True)
class TransitionBlock:
    """Transitions of one robot, in the order of recording, with arrays of the same sizes."""

    step: Indexes  # (n,)
    episode: Indexes  # (n,)
    episode_step: Indexes  # (n,)
    model_hash: npt.NDArray[np.bytes_]  # (n,)
    observation: FloatArray  # (n, nobs)
    action: FloatArray  # (n, nu)
    reward: FloatArray  # (n,)
    next_observation: FloatArray  # (n, nobs), or of another length
    terminated: BoolArray  # (n,)
    truncated: BoolArray  # (n,)
    safe_stop: BoolArray  # (n,)
    time_ns: Indexes  # (n,) when it was published; where that is not known, recorded

    def __len__(self) -> int:
        return len(self.step)


class TransitionBlocks:
    """All transitions of a topic that can be decoded; those that cannot be are counted.

    Args:
        reader: The bag.
        topic: Fully resolved name.

    Attributes:
        undecodable: Messages so far that cannot be decoded.
        reason: Why the first of them cannot be.
    """

    def __init__(self, reader: BagReader, topic: str) -> None:
        self._records = reader.records([topic], [TRANSITION])
        self.undecodable = 0
        self.reason = ""
        self._decoder = Decoder()
        self._layouts: dict[str, Layouts] = {}  # by definition
        self._known: dict[tuple[str, int], Layout | None] = {}  # the last layout of each length

    def __iter__(self) -> Iterator[TransitionBlock]:
        while chunk := list(itertools.islice(self._records, BLOCK)):
            yield from self._read(chunk)

    def _read(self, records: Sequence[Record]) -> Iterator[TransitionBlock]:
        """Blocks of what follows each other with the same length; what has no known layout is read by itself."""
        for (_, size), group in itertools.groupby(records, lambda record: (id(record.topic), len(record.cdr))):
            run = list(group)
            while run:
                layout = self._layout(run[0].topic, size, run[0].cdr)
                done = 1
                if layout is None:
                    yield from self._one(run[0])
                else:
                    rows, good = layout.read([record.cdr for record in run])
                    done = len(run) if good.all() else int(np.argmin(good))
                    yield _block(rows[:done], run[:done])
                run = run[done:]

    def _layout(self, topic: TopicInfo, size: int, message: bytes) -> Layout | None:
        """The layout that `message` has."""
        key = topic.message_definition, size
        layout = self._known.get(key)
        if layout is not None and layout.read([message])[1][0]:
            return layout
        if topic.message_definition not in self._layouts:
            usable = topic.schema_encoding == "ros2msg"
            self._layouts[topic.message_definition] = Layouts(topic.message_definition if usable else "", topic.type)
        layout = self._layouts[topic.message_definition].of(message)
        if layout is not None and not _is_transition(layout):
            layout = None
        self._known[key] = layout
        return layout

    def _one(self, record: Record) -> Iterator[TransitionBlock]:
        try:
            message = self._decoder.decode(record.topic, record.cdr)
            t, model_hash = to_transition(message)
        except BagError as error:
            self._fail(str(error))
            return
        except AttributeError as error:  # "... object has no attribute 'next_observation'"
            self._fail(f"its Transition is of another version: {error}")
            return
        except (TypeError, ValueError) as error:
            self._fail(f"another message under this name: {error}")
            return
        yield TransitionBlock(
            step=_whole([t.step]),
            episode=_whole([t.episode]),
            episode_step=_whole([t.episode_step]),
            model_hash=np.array([model_hash.encode()]),
            observation=t.observation[None],
            action=t.action[None],
            reward=np.array([t.reward]),
            next_observation=t.next_observation[None],
            terminated=np.array([t.terminated]),
            truncated=np.array([t.truncated]),
            safe_stop=np.array([t.safe_stop]),
            time_ns=_times([record]),
        )

    def _fail(self, reason: str) -> None:
        self.undecodable += 1
        self.reason = self.reason or reason


def _is_transition(layout: Layout) -> bool:
    """Whether a message of this layout has the fields that are read, of the types that they are read as."""
    fields: Mapping[str, Any] = layout.record.fields or {}
    if not all(name in fields for name in _NEEDED):
        return False
    kinds = {name: fields[name][0].base for name in _NEEDED}
    return (
        all(kinds[name] == np.float64 and len(fields[name][0].shape) == 1 for name in _FLOATS)
        and all(kinds[name].kind == "u" and not fields[name][0].shape for name in (*_WHOLE, *_FLAGS))
        and kinds["reward"] == np.float64
        and not fields["reward"][0].shape
        and kinds["model_hash"].kind == "S"
    )


def _block(rows: AnyArray, records: Sequence[Record]) -> TransitionBlock:
    def floats(name: str) -> FloatArray:
        return np.asarray(rows[name].astype(np.float64))  # aligned, and in memory of its own

    return TransitionBlock(
        step=_whole(rows["step"]),
        episode=_whole(rows["episode"]),
        episode_step=_whole(rows["episode_step"]),
        model_hash=rows["model_hash"],
        observation=floats("observation"),
        action=floats("action"),
        reward=floats("reward"),
        next_observation=floats("next_observation"),
        terminated=rows["terminated"] != 0,
        truncated=rows["truncated"] != 0,
        safe_stop=rows["safe_stop"] != 0,
        time_ns=_times(records),
    )


def _whole(numbers: npt.ArrayLike) -> Indexes:
    return np.asarray(np.minimum(np.asarray(numbers, np.uint64), np.uint64(MAX_NUMBER)), np.int64)


def _times(records: Sequence[Record]) -> Indexes:
    return _whole([record.publish_time_ns or record.log_time_ns for record in records])
