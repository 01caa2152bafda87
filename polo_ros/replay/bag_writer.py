"""Writes a rosbag2 bag in MCAP files from raw CDR messages: what `ros2 bag`, Foxglove and PlotJuggler read.

A bag is a directory: metadata.yaml, <name>_0.mcap, <name>_1.mcap, ... After every flush all that was
written is on disk in whole chunks, so that a killed recorder loses what came after its last flush.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import yaml
from mcap.data_stream import RecordBuilder
from mcap.records import Channel, Schema
from mcap.writer import CompressionType, Writer

from polo_ros import __version__
from polo_ros.files import sync, write_whole
from polo_ros.replay.bag_reader import bag_files
from polo_ros.replay.bag_types import (
    SESSION_RECORD,
    BagError,
    TopicInfo,
    message_definition,
    qos_yaml,
    share_dirs,
    type_hash,
)
from polo_ros.replay.mcap_file import FileInfo, scan

__all__ = ["BagError", "BagWriter", "TopicInfo", "message_definition", "qos_yaml", "share_dirs", "type_hash"]

CHUNK_BYTES = 256 * 1024
METADATA_VERSION = 8


class _File:
    """An unbuffered new file: what `write` returned from is the kernel's, and survives the process."""

    def __init__(self, path: Path) -> None:
        # O_EXCL: an existing recording is never overwritten, not even by two recorders at once.
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._position = 0

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        while view:
            count = os.write(self._fd, view)
            self._position += count
            view = view[count:]
        return len(data)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        """Nothing is buffered here."""

    def sync(self) -> None:
        os.fsync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class BagWriter:
    """Writes one bag; used from one thread.

    A bag that exists already is continued: its files stay as they are and the next number is taken.

    Args:
        directory: the bag; made if it is not there. Its name is the name of the files.
        topics: all topics that will be written.
        split_s: s, time after which a new file is begun; 0: never.
        metadata: facts about the session; kept at the start of every file and in metadata.yaml.
        flush_s: s after which `write` flushes by itself; 0: only `flush` does. A timer should call
            `flush` all the same, since nothing is written where no message arrives.

    Raises:
        BagError: the directory cannot be written.
    """

    def __init__(
        self,
        directory: Path | str,
        topics: Sequence[TopicInfo],
        split_s: float = 0.0,
        metadata: Mapping[str, str] | None = None,
        flush_s: float = 1.0,
    ) -> None:
        self.directory = Path(directory)
        self.messages = 0  # written by this object
        self.bytes = 0  # in all finished files of this object
        self._topics = {topic.name: topic for topic in topics}
        if len(self._topics) != len(topics):
            raise BagError(f"{self.directory}: a topic is given twice: {', '.join(topic.name for topic in topics)}")
        self._split_ns = round(split_s * 1e9)
        self._metadata = {str(key): str(value) for key, value in (metadata or {}).items()}
        self._flush_s = flush_s
        self._failure: BagError | None = None
        self._closed = False
        self._file: _File | None = None
        self._finished: list[FileInfo] = []
        path = self.directory
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            before = bag_files(self.directory)
            # First, for it fails at once on a full disk; the scan of a file that was cut off takes its time.
            self._begin()
            for path in before:
                try:
                    self._finished.append(scan(path)[0])
                except BagError:  # empty or foreign: it keeps its number, and metadata.yaml leaves it out
                    continue
            self._write_metadata()
        except OSError as error:
            self._discard()
            self._give_up(path, error)

    @property
    def path(self) -> Path:
        """The file that is being written."""
        return self._info.path

    def write(self, topic: str, cdr: bytes, log_time_ns: int, publish_time_ns: int) -> None:
        """Add one message.

        Args:
            topic: one of the topics given at the start.
            cdr: the serialised message with its encapsulation header.
            log_time_ns: ns, when the recorder received it.
            publish_time_ns: ns, when it was published.

        Raises:
            BagError: unknown topic, or the file cannot be written (disk full); then only `close` is left.
        """
        self._check_open()
        try:
            info, channel = self._topics[topic], self._channels[topic]
        except KeyError:
            raise BagError(f"topic '{topic}' is not recorded; topics: {', '.join(self._topics)}") from None
        if not (0 <= log_time_ns < 1 << 63 and 0 <= publish_time_ns < 1 << 63):
            raise BagError(f"{topic}: time {log_time_ns}, {publish_time_ns} ns is not from 0 to 2^63 - 1")
        try:
            if self._split_ns and self._info.messages and log_time_ns - self._info.start_ns >= self._split_ns:
                self._split()
                channel = self._channels[topic]
            sequence = self._info.counts.get((info.name, info.type), 0)
            self._writer.add_message(channel, log_time_ns, cdr, publish_time_ns, sequence & 0xFFFFFFFF)
            self._info.count(info, log_time_ns)
            self.messages += 1
            self._unflushed = True
            if self._flush_s and time.monotonic() - self._flushed_at >= self._flush_s:
                self._flush()
        except OSError as error:
            self._give_up(self._info.path, error)

    def flush(self) -> None:
        """Bring everything to the disk, in whole chunks; to be called once a second.

        Raises:
            BagError: the file cannot be written.
        """
        self._check_open()
        try:
            self._flush()
        except OSError as error:
            self._give_up(self._info.path, error)

    def split(self) -> None:
        """End the current file and begin the next one.

        Raises:
            BagError: a file cannot be written.
        """
        self._check_open()
        try:
            self._split()
        except OSError as error:
            self._give_up(self._info.path, error)

    def close(self) -> None:
        """End the bag: index and metadata.yaml. A second call does nothing.

        After a write that failed the file is closed as it is: `polo bag recover` reads it.

        Raises:
            BagError: the index cannot be written; the messages flushed so far are on disk.
        """
        if self._closed:
            return
        self._closed = True
        if self._failure is not None:
            return  # raised when it happened; the descriptor is closed already
        try:
            self._finish()
            self._write_metadata()
        except OSError as error:
            self._give_up(self._info.path, error)

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- one file -----------------------------------------------------------------------------

    def _begin(self) -> None:
        name = self.directory.resolve().name
        number = 1 + max((_file_number(path) for path in bag_files(self.directory)), default=-1)
        path = self.directory / f"{name}_{number}.mcap"
        self._file = _File(path)
        self._info = FileInfo(path)
        self._info.topics = {(topic.name, topic.type): topic for topic in self._topics.values()}
        self._writer: Any = Writer(
            cast(IO[Any], self._file), chunk_size=CHUNK_BYTES, compression=CompressionType.ZSTD, use_chunking=True
        )
        self._writer.start(profile="ros2", library=f"polo_ros {__version__}")
        self._writer.add_metadata(SESSION_RECORD, self._metadata)
        self._channels: dict[str, int] = {}
        schemas: dict[tuple[str, str], int] = {}
        head: Any = RecordBuilder()
        for topic in self._topics.values():
            key = (topic.type, topic.message_definition)
            text = topic.message_definition.encode()
            if key not in schemas:
                schemas[key] = self._writer.register_schema(topic.type, topic.schema_encoding, text)
                Schema(id=schemas[key], name=topic.type, encoding=topic.schema_encoding, data=text).write(head)
            facts = {"offered_qos_profiles": topic.qos_yaml, "topic_type_hash": topic.type_hash}
            channel = self._writer.register_channel(topic.name, "cdr", schemas[key], facts)
            Channel(id=channel, topic=topic.name, message_encoding="cdr", schema_id=schemas[key], metadata=facts).write(
                head
            )
            self._channels[topic.name] = channel
        # The writer describes channels in the first chunk only, and repeats them at the end. A crash
        # loses the end, and damage to the first chunk would then lose the whole file: say it here too.
        self._file.write(head.end())
        self._file.sync()
        sync(self.directory)
        self._flushed_at = time.monotonic()
        self._unflushed = False

    def _flush(self) -> None:
        self._flushed_at = time.monotonic()
        if self._unflushed and self._file is not None:
            self._writer.flush()  # ends the chunk
            self._file.sync()
            self._unflushed = False

    def _finish(self) -> None:
        assert self._file is not None
        current = [*self._finished, self._info]
        self._writer.flush()
        # rosbag2 keeps a copy of metadata.yaml in each file, from which `ros2 bag reindex` restores it.
        self._writer.add_metadata("rosbag2", {"serialized_metadata": _dump(self._document(current))})
        self._writer.finish()
        self._file.sync()
        self._info.size = self._file.tell()
        self.bytes += self._info.size
        self._info.complete = True
        self._finished.append(self._info)
        self._file.close()
        self._file = None

    def _split(self) -> None:
        self._finish()
        self._begin()
        self._write_metadata()

    # ---- metadata.yaml ------------------------------------------------------------------------

    def _write_metadata(self) -> None:
        files = self._finished if self._file is None else [*self._finished, self._info]
        write_metadata_yaml(self.directory, self._document(files))

    def _document(self, files: Sequence[FileInfo]) -> dict[str, Any]:
        return metadata_document(files, self._metadata)

    # ---- failures -----------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._failure is not None:
            raise BagError(str(self._failure))
        if self._closed:
            raise BagError(f"{self.directory}: the bag is closed")

    def _discard(self) -> None:
        """Whoever tries again and again must not leave a file each time."""
        if self._file is not None:
            self._info.path.unlink(missing_ok=True)

    def _give_up(self, path: Path, error: OSError) -> None:
        self._failure = BagError(f"{path}: cannot be written: {error.strerror or error}")
        if self._file is not None:
            self._file.close()
            self._file = None
        raise self._failure from error


def metadata_document(files: Sequence[FileInfo], custom: Mapping[str, str]) -> dict[str, Any]:
    """The content of rosbag2's metadata.yaml, version 8."""
    topics: dict[tuple[str, str], TopicInfo] = {}
    counts: dict[tuple[str, str], int] = {}
    for info in files:
        topics.update(info.topics)
        for key, count in info.counts.items():
            counts[key] = counts.get(key, 0) + count
    filled = [info for info in files if info.messages]
    start = min((info.start_ns for info in filled), default=0)
    end = max((info.end_ns for info in filled), default=start)
    return {
        "version": METADATA_VERSION,
        "storage_identifier": "mcap",
        "duration": {"nanoseconds": end - start},
        "starting_time": {"nanoseconds_since_epoch": start},
        "message_count": sum(info.messages for info in files),
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": topic.name,
                    "type": topic.type,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": topic.qos_yaml,
                    "type_description_hash": topic.type_hash,
                },
                "message_count": counts.get(key, 0),
            }
            for key, topic in topics.items()
        ],
        "compression_format": "",
        "compression_mode": "",
        "relative_file_paths": [info.path.name for info in files],
        "files": [
            {
                "path": info.path.name,
                "starting_time": {"nanoseconds_since_epoch": info.start_ns},
                "duration": {"nanoseconds": info.end_ns - info.start_ns},
                "message_count": info.messages,
            }
            for info in files
        ],
        "custom_data": dict(custom) or None,
        "ros_distro": os.environ.get("ROS_DISTRO", "unknown"),
    }


def write_metadata_yaml(directory: Path, document: Mapping[str, Any]) -> None:
    """Replace metadata.yaml in one step, so that a crash leaves the old one or the new one."""
    write_whole(directory / "metadata.yaml", _dump({"rosbag2_bagfile_information": dict(document)}), durable=True)


def _dump(document: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, width=1000))


def _file_number(path: Path) -> int:
    digits = path.stem.rpartition("_")[2]
    return int(digits) if digits.isdecimal() else -1
