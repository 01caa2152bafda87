"""Files that are there whole or not at all, whenever a process is killed or a disk is full."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A path beside `path` to write to; it takes its place when the block ends, and if that raises nothing of it stays.

    Args:
        path: Of a file that may be there already: until then it stays as it is.
        durable: After a power cut too there is the old file or the new one, whole. Takes as long as the disk does.

    Raises:
        OSError: As opening, writing and renaming do.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
        if durable:
            sync(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def write_whole(path: Path, data: str | bytes, *, durable: bool = False) -> None:
    """Make `data`, or a text in UTF-8, what `path` holds; as of `replacing`."""
    with replacing(path, durable=durable) as partial:
        partial.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)


def sync(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
