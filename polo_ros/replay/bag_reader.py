"""Reads bags as they are: whole, cut off by a crash, damaged, without metadata.yaml; without ROS.

A file is read record by record (https://mcap.dev/spec), never by its index, which a crash leaves
unwritten. Every chunk is checked by its CRC before anything in it is believed; what is lost is
reported as a BagProblem, and what is not a bag at all raises BagError.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePath
from typing import Any, BinaryIO, NamedTuple

import lz4.frame
import numpy as np
import yaml
import zstandard
from mcap import records
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode

from polo_ros.replay.bag_types import SESSION_RECORD, TRANSITION, BagError, BagProblem, Decoder, TopicInfo
from polo_ros.replay.transition import Transition
from polo_ros.tasks.base import FloatArray

MAGIC = b"\x89MCAP0\r\n"
MAX_CHUNK = 1 << 30  # bytes; a larger one is a damaged length field
MAX_RECORD = MAX_CHUNK + (1 << 20)  # bytes, as the above, with what stands before the chunk's data
MAX_SUMMARY = 1 << 28  # bytes of an index: enough for a terabyte. With a larger one the file is read instead
MAX_METADATA = 1 << 26  # bytes of metadata.yaml
_HEADER = struct.Struct("<BQ")  # opcode, length
_MESSAGE = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
_RECORD_ERRORS = (struct.error, McapError, UnicodeDecodeError, ValueError)


class BagMessage(NamedTuple):
    """One raw message."""

    topic: str
    type: str
    log_time_ns: int
    cdr: bytes


class Record(NamedTuple):
    """One raw message with all that its file says of it."""

    topic: TopicInfo
    log_time_ns: int
    publish_time_ns: int
    cdr: bytes


@dataclass
class FileInfo:
    """What one file of a bag holds."""

    path: Path
    size: int = 0  # bytes
    complete: bool = False  # ends with its index; otherwise writing was cut
    messages: int = 0
    start_ns: int = 0  # log time of the first message; 0 without messages
    end_ns: int = 0
    topics: dict[tuple[str, str], TopicInfo] = field(default_factory=dict)  # by (name, type)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    session: dict[str, str] = field(default_factory=dict)  # the SESSION_RECORD

    def count(self, topic: TopicInfo, log_time_ns: int) -> None:
        """Take note of one message."""
        key = (topic.name, topic.type)
        self.topics.setdefault(key, topic)
        self.counts[key] = self.counts.get(key, 0) + 1
        self.start_ns = min(self.start_ns, log_time_ns) if self.messages else log_time_ns
        self.end_ns = max(self.end_ns, log_time_ns)
        self.messages += 1


class _Cut(Exception):
    """The file ends, or stops making sense, in the middle of a record."""


class FileReader:
    """One MCAP file, read from front to back; `info` and `problems` are whole once it was read.

    Args:
        path: the file.
        wanted: says whether the messages of a topic are yielded; all are counted. None: all are.
        between: called between two records; what it raises ends reading.
    """

    def __init__(
        self,
        path: Path,
        wanted: Callable[[TopicInfo], bool] | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = path
        self._wanted = wanted
        self._between = between
        self._asked: dict[tuple[str, str], bool] = {}  # what `wanted` said
        self.info = FileInfo(path)
        self.problems: list[BagProblem] = []
        self._schemas: dict[int, records.Schema] = {}
        self._channels: dict[int, records.Channel] = {}
        self._trusted: set[tuple[str, int]] = set()  # schemas and channels that came in a checked chunk
        self._topics: dict[int, TopicInfo | None] = {}
        self._stated: records.Statistics | None = None
        self._chunks = 0

    def check_magic(self) -> None:
        """Raise BagError if the file does not start as an MCAP file does."""
        try:
            with open(self.path, "rb") as stream:
                start = stream.read(len(MAGIC))
        except OSError as error:
            raise BagError(f"{self.path}: cannot be read: {error.strerror}") from None
        if not start:
            raise BagError(f"{self.path}: the file is empty")
        if start != MAGIC:
            raise BagError(f"{self.path}: not an MCAP file: it starts with {start!r}")

    def read(self) -> Iterator[Record]:
        """Yield all readable messages in the order of recording."""
        self.check_magic()
        with open(self.path, "rb") as stream:
            self.info.size = os.fstat(stream.fileno()).st_size
            stream.seek(len(MAGIC))
            good = stream.tell()  # end of the last whole record
            try:
                for opcode, payload in self._records(stream):
                    if opcode == Opcode.CHUNK:
                        yield from self._chunk(payload)
                    elif opcode == Opcode.MESSAGE:
                        yield from self._bare_message(payload)
                    else:
                        self._other(opcode, payload)
                    good = stream.tell()
                    if opcode == Opcode.FOOTER:
                        break
                self._end(stream)
            except _Cut as cut:
                self._problem("truncated", f"{cut}; {self.info.size - good} bytes at the end are lost")
        self._describe()
        self._compare()

    def _records(self, stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
        while True:
            self._between()
            head = stream.read(_HEADER.size)
            if not head:
                raise _Cut("ends without an index, since recording was cut")
            if len(head) < _HEADER.size:
                raise _Cut("ends within a record, since recording was cut")
            opcode, length = _HEADER.unpack(head)
            if opcode == length == 0:
                raise _Cut("goes on with zeros, since recording was cut")
            if length > self.info.size - stream.tell():
                raise _Cut("ends within a record, since recording was cut, or the record's length is damaged")
            if opcode in (Opcode.MESSAGE_INDEX, Opcode.ATTACHMENT):
                stream.seek(length, os.SEEK_CUR)
                yield opcode, b""
            elif length > MAX_RECORD:
                self._problem("damaged", f"a record of {length} bytes is left out: at most {MAX_RECORD} are credible")
                stream.seek(length, os.SEEK_CUR)
            else:
                yield opcode, stream.read(length)

    def _end(self, stream: BinaryIO) -> None:
        if stream.read(len(MAGIC) + 1) == MAGIC:
            self.info.complete = True
        else:
            self._problem("truncated", "does not end as an MCAP file does")

    def _problem(self, kind: str, message: str) -> None:
        self.problems.append(BagProblem(self.path.name, kind, message))

    # ---- records outside chunks -------------------------------------------------------------

    def _other(self, opcode: int, payload: bytes) -> None:
        data = ReadDataStream(BytesIO(payload))
        try:
            if opcode == Opcode.HEADER:
                profile = records.Header.read(data).profile
                if profile not in ("ros2", ""):
                    raise BagError(f"{self.path}: an MCAP file of profile '{profile}', expected 'ros2'")
            elif opcode == Opcode.SCHEMA:
                self._learn(records.Schema.read(data), trusted=False)
            elif opcode == Opcode.CHANNEL:
                self._learn(records.Channel.read(data), trusted=False)
            elif opcode == Opcode.METADATA:
                record = records.Metadata.read(data)
                if record.name == SESSION_RECORD:
                    self.info.session = record.metadata
            elif opcode == Opcode.STATISTICS:
                self._stated = records.Statistics.read(data)
        except _RECORD_ERRORS as error:
            self._problem("damaged", f"a record is damaged: {type(error).__name__}: {error}")

    def _learn(self, record: records.Schema | records.Channel, trusted: bool) -> None:
        kind, known = ("schema", self._schemas) if isinstance(record, records.Schema) else ("channel", self._channels)
        if not trusted and (kind, record.id) in self._trusted:
            return  # a chunk is checked by its CRC, the repetition at the end is not
        if trusted:
            self._trusted.add((kind, record.id))
        known[record.id] = record  # type: ignore[assignment]
        self._topics.clear()

    def _topic(self, channel_id: int, final: bool = True) -> TopicInfo | None:
        """The topic of a channel; None if it cannot be known. `final`: a message asks for it."""
        if channel_id in self._topics:
            return self._topics[channel_id]
        channel = self._channels.get(channel_id)
        schema = None if channel is None else self._schemas.get(channel.schema_id)
        topic = None
        if channel is not None and schema is not None and channel.message_encoding == "cdr":
            topic = TopicInfo(
                channel.topic,
                schema.name,
                schema.data.decode("utf-8", "replace"),
                channel.metadata.get("offered_qos_profiles", ""),
                channel.metadata.get("topic_type_hash", ""),
                schema.encoding,
            )
        elif final:
            if channel is None:
                reason = f"channel {channel_id} is not described"
            elif schema is None:
                reason = f"topic {channel.topic}: its message type is not described"
            else:
                reason = f"topic {channel.topic}: messages are encoded as '{channel.message_encoding}', not 'cdr'"
            self._problem("undecodable", f"{reason}; its messages are left out")
        if final:
            self._topics[channel_id] = topic
        return topic

    # ---- messages ---------------------------------------------------------------------------

    def _bare_message(self, payload: bytes) -> Iterator[Record]:
        if self._chunks:
            # Legal but never written by anyone: far more likely a damaged opcode.
            self._problem("damaged", "a message outside the chunks is left out")
        else:
            record = self._message(payload)
            if record is not None:
                yield record

    def _chunk(self, payload: bytes) -> Iterator[Record]:
        self._chunks += 1
        number = self._chunks
        try:
            chunk = records.Chunk.read(ReadDataStream(BytesIO(payload)))
            data = _decompress(chunk)
        except (*_RECORD_ERRORS, zstandard.ZstdError, RuntimeError, MemoryError) as error:
            self._problem("damaged", f"chunk {number} is damaged and left out: {error}")
            return
        position = 0
        while position + _HEADER.size <= len(data):
            opcode, length = _HEADER.unpack_from(data, position)
            position += _HEADER.size
            if length > len(data) - position:
                self._problem("damaged", f"chunk {number} is damaged: a record is longer than the chunk")
                return
            body = data[position : position + length]
            position += length
            if opcode == Opcode.MESSAGE:
                record = self._message(body)
                if record is not None:
                    yield record
            elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                stream = ReadDataStream(BytesIO(body))
                try:
                    kind = records.Schema if opcode == Opcode.SCHEMA else records.Channel
                    self._learn(kind.read(stream), trusted=True)
                except _RECORD_ERRORS as error:
                    self._problem("damaged", f"chunk {number}: a record is damaged: {type(error).__name__}: {error}")

    def _message(self, body: bytes) -> Record | None:
        if len(body) < _MESSAGE.size:
            self._problem("damaged", "a message is shorter than its header")
            return None
        channel_id, _, log_time, publish_time = _MESSAGE.unpack_from(body)
        topic = self._topic(channel_id)
        if topic is None:
            return None
        self.info.count(topic, log_time)
        if self._wanted is not None:
            key = (topic.name, topic.type)
            if key not in self._asked:
                self._asked[key] = self._wanted(topic)
            if not self._asked[key]:
                return None
        return Record(topic, log_time, publish_time, body[_MESSAGE.size :])

    def _describe(self) -> None:
        """Name the topics, those without messages too, once it is known which descriptions to trust."""
        for channel_id in self._channels:
            topic = self._topic(channel_id, final=False)
            if topic is not None:
                self.info.topics.setdefault((topic.name, topic.type), topic)

    def _compare(self) -> None:
        if self._stated is not None and self.info.complete and self._stated.message_count != self.info.messages:
            self._problem(
                "damaged", f"{self.info.messages} of {self._stated.message_count} messages of its index are readable"
            )


def _decompress(chunk: records.Chunk) -> bytes:
    """The content of a chunk; raises ValueError if it is not what was written."""
    size = chunk.uncompressed_size
    if size > MAX_CHUNK:
        raise ValueError(f"its size of {size} bytes is not credible")
    if chunk.compression == "zstd":
        # The frame's own size is what zstandard allocates, so that it is checked first.
        stated = zstandard.get_frame_parameters(chunk.data).content_size
        if stated not in (size, zstandard.CONTENTSIZE_UNKNOWN):
            raise ValueError(f"its sizes disagree: {stated} and {size} bytes")
        data = zstandard.decompress(chunk.data, max_output_size=size)
    elif chunk.compression == "lz4":
        data = lz4.frame.LZ4FrameDecompressor().decompress(chunk.data, max_length=size)
    elif chunk.compression == "":
        data = chunk.data
    else:
        raise ValueError(f"unknown compression '{chunk.compression}'")
    if len(data) != size:
        raise ValueError(f"it holds {len(data)} bytes, expected {size}")
    if chunk.uncompressed_crc and zlib.crc32(data) != chunk.uncompressed_crc:
        raise ValueError("its CRC is wrong")
    return bytes(data)


def scan(path: Path, between: Callable[[], None] = lambda: None) -> tuple[FileInfo, list[BagProblem]]:
    """Count what a file holds, by its index where it has one, else by reading it; `between` as of FileReader.

    Raises:
        BagError: not an MCAP file of ROS 2 messages.
    """
    quick = _indexed(path)
    if quick is not None:
        return quick, []
    reader = FileReader(path, between=between)
    for _ in reader.read():
        pass
    return reader.info, reader.problems


def session_facts(path: Path, between: Callable[[], None] = lambda: None) -> dict[str, str]:
    """What the start of a file says of its session, empty if it says nothing; the rest of the file is not read.

    Args:
        path: the file.
        between: as of FileReader.

    Raises:
        BagError: not an MCAP file of ROS 2 messages.
    """
    reader = FileReader(path, between=between)
    reader.check_magic()
    with open(path, "rb") as stream:
        reader.info.size = os.fstat(stream.fileno()).st_size
        stream.seek(len(MAGIC))
        try:
            for opcode, payload in reader._records(stream):
                if opcode in (Opcode.CHUNK, Opcode.MESSAGE, Opcode.DATA_END) or reader.info.session:
                    break
                reader._other(opcode, payload)
        except _Cut:  # said by whoever reads the file
            pass
    return reader.info.session


def _indexed(path: Path) -> FileInfo | None:
    """What the index of a complete file says; None if there is none, or a damaged one."""
    reader = FileReader(path)
    reader.check_magic()
    size = path.stat().st_size
    footer_size = _HEADER.size + 20 + len(MAGIC)
    if size < footer_size + len(MAGIC):
        return None
    with open(path, "rb") as stream:
        stream.seek(size - footer_size)
        tail = stream.read()
        opcode, length, start, _, crc = struct.unpack("<BQQQI", tail[: _HEADER.size + 20])
        if tail[-len(MAGIC) :] != MAGIC or (opcode, length) != (Opcode.FOOTER, 20):
            return None
        if not len(MAGIC) <= start < size - footer_size or size - footer_size - start > MAX_SUMMARY:
            return None
        stream.seek(start)
        summary = stream.read(size - footer_size - start)
        if crc and zlib.crc32(tail[: _HEADER.size + 16], zlib.crc32(summary)) != crc:
            return None
        reader.info.size = size
        metadata: list[int] = []
        try:
            position = 0
            while position < len(summary):
                opcode, length = _HEADER.unpack_from(summary, position)
                body = summary[position + _HEADER.size : position + _HEADER.size + length]
                position += _HEADER.size + length
                if opcode == Opcode.METADATA_INDEX:
                    index = records.MetadataIndex.read(ReadDataStream(BytesIO(body)))
                    metadata += [index.offset] if index.name == SESSION_RECORD else []
                else:
                    reader._other(opcode, body)
            for offset in metadata:
                stream.seek(offset)
                opcode, length = _HEADER.unpack(stream.read(_HEADER.size))
                if length > min(size, MAX_RECORD):
                    return None
                reader._other(opcode, stream.read(length))
        except _RECORD_ERRORS:
            return None
    stated = reader._stated
    if reader.problems or stated is None:
        return None
    reader._describe()
    info = reader.info
    info.complete = True
    for channel_id, count in stated.channel_message_counts.items():
        topic = reader._topic(channel_id)
        if topic is not None:
            key = (topic.name, topic.type)
            info.counts[key] = info.counts.get(key, 0) + count
            info.messages += count
    if info.messages:
        info.start_ns, info.end_ns = stated.message_start_time, stated.message_end_time
    return info


# ---- bags -------------------------------------------------------------------------------------


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


@dataclass
class TransitionCheck:
    """What `check_transitions` counted."""

    transitions: int = 0
    first_step: int = 0
    last_step: int = 0
    lost: int = 0  # numbers missing between the first and the last step
    resets: int = 0  # episodes begun after the first
    model_hashes: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int, int]] = field(default_factory=list)  # (nstate, nobs, nu) in order of appearance
    problems: list[BagProblem] = field(default_factory=list)


class _Check:
    """What is wrong with the transitions of one topic."""

    def __init__(self) -> None:
        self.result = TransitionCheck()
        self._gaps: list[str] = []
        self._falls: list[str] = []
        self._wrong: list[int] = []
        self._episode: int | None = None

    def add(self, transition: Transition, model_hash: str) -> None:
        result, step = self.result, transition.step
        if result.transitions == 0:
            result.first_step = step
        elif step <= result.last_step:
            self._falls.append(f"{result.last_step} -> {step}")
        elif step > result.last_step + 1:
            result.lost += step - result.last_step - 1
            self._gaps.append(f"{result.last_step} -> {step}")
        if self._episode is not None and transition.episode != self._episode:
            result.resets += 1
        self._episode = transition.episode
        result.last_step = step
        result.transitions += 1
        if model_hash not in result.model_hashes:
            result.model_hashes.append(model_hash)
        sizes = (len(transition.state), len(transition.observation), len(transition.action))
        if sizes not in result.sizes:
            result.sizes.append(sizes)
        if len(transition.next_observation) != len(transition.observation) or not transition.finite:
            self._wrong.append(step)

    def finish(self, name: str) -> TransitionCheck:
        """The result, with the problems of the topic `name`."""
        result = self.result

        def problem(kind: str, message: str) -> None:
            result.problems.append(BagProblem(name, kind, message))

        if self._gaps:
            problem("gap", f"{result.lost} steps are missing: {_some(self._gaps)}")
        if self._falls:
            problem("order", f"steps do not rise: {_some(self._falls)}")
        if self._wrong:
            found = f"{len(self._wrong)} steps: {_some(self._wrong)}"
            problem("not_finite", f"numbers are not finite or sizes disagree at {found}")
        if len(result.sizes) > 1:
            problem("sizes", f"(state, observation, action) sizes change: {_some(result.sizes)}")
        if len(result.model_hashes) > 1:
            problem("models", f"transitions of several models: {_some(result.model_hashes)}")
        return result


def check_transitions(
    reader: BagReader, topic: str | None = None, also: Callable[[Record, Transition], None] | None = None
) -> TransitionCheck:
    """Read all transitions and look for gaps, steps that fall, numbers that are not finite, and changes of model.

    Args:
        reader: the bag.
        topic: the topic to read; None: the only one of type Transition.
        also: called with every transition on the way.
    """
    check, name = _Check(), topic or "transition"
    for record, transition, model_hash in reader.transitions(topic):
        name = record.topic.name
        check.add(transition, model_hash)
        if also is not None:
            also(record, transition)
    return check.finish(name)


def check_robots(
    reader: BagReader, topics: Collection[str], also: Callable[[Record, Transition], None] | None = None
) -> dict[str, TransitionCheck]:
    """`check_transitions` of several robots in one pass: each one's steps are counted by themselves.

    Args:
        reader: the bag.
        topics: their topics.
        also: called with every transition on the way.

    Returns:
        what was found, by topic.
    """
    checks = {name: _Check() for name in topics}
    for record, transition, model_hash in reader.every_transition(topics):
        checks[record.topic.name].add(transition, model_hash)
        if also is not None:
            also(record, transition)
    return {name: check.finish(name) for name, check in checks.items()}


def _some(items: Collection[Any], limit: int = 5) -> str:
    shown = ", ".join(str(item) for item in list(items)[:limit])
    return f"{shown}, ..." if len(items) > limit else shown
