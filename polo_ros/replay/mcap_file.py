"""Reads one MCAP file of ROS 2 messages as it is: whole, cut off by a crash, or damaged; without ROS.

It is read record by record (https://mcap.dev/spec), never by its index, which a crash leaves unwritten. Every chunk is
checked by its CRC before anything in it is believed; what is lost is reported as a BagProblem, and what is not such a
file at all raises BagError.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import lz4.frame
import zstandard
from mcap import records
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode

from polo_ros.replay.bag_types import SESSION_RECORD, BagError, BagProblem, TopicInfo

MAGIC = b"\x89MCAP0\r\n"
MAX_CHUNK = 1 << 30  # bytes; a larger one is a damaged length field
MAX_RECORD = MAX_CHUNK + (1 << 20)  # bytes, as the above, with what stands before the chunk's data
MAX_SUMMARY = 1 << 28  # bytes of an index: enough for a terabyte. With a larger one the file is read instead
_HEADER = struct.Struct("<BQ")  # opcode, length
_MESSAGE = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
_RECORD_ERRORS = (struct.error, McapError, UnicodeDecodeError, ValueError)


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
