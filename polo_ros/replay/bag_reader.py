"""Reads bags as they are: whole, cut off by a crash, damaged, without metadata.yaml; without ROS."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import yaml

from polo_ros.replay.bag_types import TRANSITION, BagError, BagProblem, Decoder, TopicInfo
from polo_ros.replay.mcap_file import FileReader, Record, scan
from polo_ros.replay.transition import Transition
from polo_ros.tasks.base import FloatArray

MAX_METADATA = 1 << 26  # bytes of metadata.yaml


class BagMessage(NamedTuple):
    """One raw message."""

    topic: str
    type: str
    log_time_ns: int
    cdr: bytes


def _number(path: Path) -> tuple[str, int]:
    match = re.fullmatch(r"(.*?)_?(\d+)", path.stem)
    return (match[1], int(match[2])) if match else (path.stem, -1)


def bag_files(directory: Path) -> list[Path]:
    """The MCAP files of a bag directory in the order of their numbers."""
    return sorted((path for path in directory.glob("*.mcap") if path.is_file()), key=_number)


def file_sizes(path: Path) -> dict[str, int]:
    """Bytes of each MCAP file of a bag, by its name; empty if there is no bag.

    Args:
        path: bag directory, MCAP file or run folder.
    """
    path = _bag_in(path)
    files = bag_files(path) if path.is_dir() else [path] if path.is_file() else []
    return {file.name: file.stat().st_size for file in files}


def _bag_in(path: Path) -> Path:
    """The bag in a run folder; any other path is itself."""
    return path / "bag" if path.is_dir() and not bag_files(path) and (path / "bag").is_dir() else path


def read_metadata_yaml(directory: Path) -> dict[str, Any] | None:
    """The content of metadata.yaml; None without the file.

    Raises:
        BagError: the file is not what rosbag2 writes.
    """
    path = directory / "metadata.yaml"
    try:
        if path.stat().st_size > MAX_METADATA:
            raise BagError(f"{path}: {path.stat().st_size} bytes, expected at most {MAX_METADATA}")
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        content = document["rosbag2_bagfile_information"]
        [str(name) for name in content["relative_file_paths"]]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BagError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BagError(f"{path}: not a rosbag2 metadata file: {type(error).__name__}: {reason}") from None
    return content  # type: ignore[no-any-return]


class BagReader:
    """A bag: a rosbag2 directory, one of its MCAP files, or a run folder with a bag in it.

    `problems` holds what is wrong with the bag as far as it was read.

    Args:
        path: the bag.
        between: called between two records of a file; what it raises ends reading.

    Raises:
        BagError: nothing there can be read as a bag; the message says why.
    """

    def __init__(self, path: Path | str, between: Callable[[], None] = lambda: None) -> None:
        self.path = Path(path)
        self._between = between
        self.problems: list[BagProblem] = []
        if not self.path.exists():
            raise BagError(f"{self.path}: no such bag")
        self.path = _bag_in(self.path)
        listed: list[str] = []
        if self.path.is_dir():
            files = bag_files(self.path)
            if not files:
                others = ", ".join(sorted(other.name for other in self.path.iterdir())[:5]) or "nothing"
                raise BagError(f"{self.path}: no .mcap file in this folder, which holds {others}")
            try:
                metadata = read_metadata_yaml(self.path)
            except BagError as error:
                self.problems.append(BagProblem("metadata.yaml", "damaged", str(error)))
            else:
                if metadata is None:
                    self.problems.append(BagProblem("metadata.yaml", "missing", "missing, since recording was cut"))
                else:
                    listed = [PurePath(str(name)).name for name in metadata["relative_file_paths"]]
        else:
            files = [self.path]
        for name in listed:
            if name not in [path.name for path in files]:
                self.problems.append(BagProblem(name, "missing", "listed in metadata.yaml, but not there"))
        self.files: list[Path] = []
        failures: list[BagError] = []
        for path in files:
            try:
                FileReader(path).check_magic()
                self.files.append(path)
            except BagError as error:
                failures.append(error)
                self.problems.append(BagProblem(path.name, "unreadable", str(error)))
        if not self.files:
            raise failures[0]
        self._known = list(self.problems)
        self._decoder = Decoder()

    def records(self, topics: Collection[str] | None = None, types: Collection[str] | None = None) -> Iterator[Record]:
        """All messages in the order of recording, of the given topics and types if any are given."""
        self.problems[:] = self._known

        def wanted(topic: TopicInfo) -> bool:
            return (topics is None or topic.name in topics) and (types is None or topic.type in types)

        for path in self.files:
            reader = FileReader(path, wanted, self._between)
            try:
                yield from reader.read()
            except BagError as error:
                if len(self.files) == 1:
                    raise
                self.problems.append(BagProblem(path.name, "unreadable", str(error)))
            self.problems += reader.problems

    def messages(self, topics: Collection[str] | None = None) -> Iterator[BagMessage]:
        """All raw messages in the order of recording, of the given topics if any are given."""
        for record in self.records(topics):
            yield BagMessage(record.topic.name, record.topic.type, record.log_time_ns, record.cdr)

    def decoded(
        self, topics: Collection[str] | None = None, types: Collection[str] | None = None
    ) -> Iterator[tuple[Record, Any]]:
        """All messages, decoded; those that cannot be are left out and reported once a topic."""
        failed: dict[str, int] = {}
        reasons: dict[str, str] = {}
        for record in self.records(topics, types):
            try:
                message = self._decoder.decode(record.topic, record.cdr)
            except BagError as error:
                failed[record.topic.name] = failed.get(record.topic.name, 0) + 1
                reasons.setdefault(record.topic.name, str(error))
                continue
            yield record, message
        for name, count in failed.items():
            self.problems.append(
                BagProblem(name, "undecodable", f"{count} messages cannot be decoded; the first: {reasons[name]}")
            )

    def robots(self) -> dict[str, str]:
        """The robots in the bag: the namespace of each one's transitions, "" where they have none, and their topic."""
        names: set[str] = set()
        for path in self.files:
            try:
                topics = scan(path, self._between)[0].topics
            except BagError:  # reported by whoever reads the messages
                continue
            names |= {name for name, kind in topics if kind == TRANSITION}
        return {name.strip("/").rpartition("/")[0]: name for name in sorted(names)}

    def topic_of(self, robot: str) -> str:
        """The topic of a robot's transitions.

        Raises:
            BagError: there is no such robot in the bag.
        """
        known = self.robots()
        try:
            return known[robot.strip("/")]
        except KeyError:
            names = ", ".join(known) or "none with a name"
            raise BagError(f"{self.path}: no robot '{robot}' in it; robots: {names}") from None

    def every_transition(self, topics: Collection[str] | None = None) -> Iterator[tuple[Record, Transition, str]]:
        """All transitions of all robots, or of the given topics, with their record and the hash of their model."""
        foreign: set[str] = set()
        for record, message in self.decoded(topics, [TRANSITION]):
            name = record.topic.name
            if name in foreign:
                continue
            try:
                transition, model_hash = to_transition(message)
            except (AttributeError, TypeError, ValueError) as error:
                self.problems.append(BagProblem(name, "undecodable", f"another message under this name: {error}"))
                foreign.add(name)
                continue
            yield record, transition, model_hash

    def transitions(self, topic: str | None = None) -> Iterator[tuple[Record, Transition, str]]:
        """All transitions, with the record that each came in and the hash of its model.

        Raises:
            BagError: transitions of several robots, of which `topic` must choose one.
        """
        found = topic
        for record, transition, model_hash in self.every_transition(None if topic is None else [topic]):
            found = found or record.topic.name
            if record.topic.name != found:
                raise BagError(
                    f"{self.path}: transitions of several robots: {found}, {record.topic.name}; name the topic to read"
                )
            yield record, transition, model_hash


def to_transition(message: Any) -> tuple[Transition, str]:
    """A decoded Transition message, and the hash of its model.

    The time of the state is the message's stamp, in whole nanoseconds.
    """
    stamp = message.header.stamp
    time = stamp.sec + 1e-9 * stamp.nanosec

    def array(values: Any) -> FloatArray:
        return np.array(values, dtype=np.float64)

    transition = Transition(
        step=int(message.step),
        episode=int(message.episode),
        episode_step=int(message.episode_step),
        state=np.concatenate(([time], array(message.qpos), array(message.qvel), array(message.act))),
        observation=array(message.observation),
        action=array(message.action),
        reward=float(message.reward),
        next_observation=array(message.next_observation),
        terminated=bool(message.terminated),
        truncated=bool(message.truncated),
        safe_stop=bool(message.safe_stop),
        limited=bool(message.limited),
        plan_id=int(message.plan_id),
        weights_version=int(message.weights_version),
    )
    return transition, str(message.model_hash)


def read_messages(
    path: Path | str, topics: Collection[str] | None = None, problems: list[BagProblem] | None = None
) -> Iterator[BagMessage]:
    """Raw messages of a bag as (topic, type, log_time_ns, cdr), in the order of recording.

    Args:
        path: bag directory, MCAP file or run folder.
        topics: names of topics to read; None: all.
        problems: gets what is wrong with the bag, once all was read.

    Raises:
        BagError: not a bag.
    """
    reader = BagReader(path)
    yield from reader.messages(topics)
    if problems is not None:
        problems += reader.problems


def read_transitions(
    path: Path | str,
    topic: str | None = None,
    model_hash: str | None = None,
    problems: list[BagProblem] | None = None,
    robot: str = "",
) -> Iterator[Transition]:
    """Transitions of a bag in the order of recording.

    Args:
        path: bag directory, MCAP file or run folder.
        topic: the topic to read; None: the only one of type Transition.
        model_hash: model that they must be of; None: any.
        problems: gets what is wrong with the bag, once all was read.
        robot: namespace of the robot to read, in the place of its topic.

    Raises:
        BagError: not a bag, several robots in it and none chosen, no such robot, or another model.
    """
    reader = BagReader(path)
    topic = reader.topic_of(robot) if robot else topic
    for _, transition, found in reader.transitions(topic):
        if model_hash is not None and found != model_hash:
            raise BagError(f"{reader.path}: transition {transition.step} is of model {found}, expected {model_hash}")
        yield transition
    if problems is not None:
        problems += reader.problems
