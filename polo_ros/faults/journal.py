"""Evidence: one JSON object a line, appended at once, so that it outlives whoever wrote it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Record = dict[str, Any]

DRIVER = "driver.jsonl"  # what the robot was told and what it answered, from ProbeDriver
TRAFFIC = "traffic.jsonl"  # states heard and plans sent, from the injector


class Journal:
    """Appends records to a file.

    Args:
        path: Of the file; several processes may append to it.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, record: Record) -> None:
        """Append one record in a single call, which a SIGKILL does not cut."""
        os.write(self._file, json.dumps(record, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class Tail:
    """Reads a journal that grows.

    Args:
        path: Of the journal; it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._rest = b""

    def new(self) -> Iterator[Record]:
        """The records since the last call."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._at)
                data = file.read()
        except FileNotFoundError:
            return
        self._at += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield json.loads(line)


def read(path: Path) -> list[Record]:
    """All records of a journal; none if it is not there."""
    return list(Tail(path).new())
