"""Where the fields of a CDR message lie, so that many messages of one layout are read at once.

Messages of one topic and session differ in their numbers and not in the lengths of their strings and sequences, so that
each field lies at the same place in all of them: joined, they are an array of records. Every length field of every
message is compared with the layout's, and what differs is left to the general decoder, `bag_types.Decoder`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rosbags.interfaces import Nodetype
from rosbags.typesys import get_types_from_msg

AnyArray = npt.NDArray[Any]

_HEAD = 4  # bytes in front: how the rest is encoded
_LITTLE_ENDIAN = (0, 1)  # CDR version 1
_SIZES = {
    **{"bool": "u1", "byte": "u1", "char": "u1", "octet": "u1", "uint8": "u1", "int8": "<i1"},
    **{"uint16": "<u2", "int16": "<i2", "uint32": "<u4", "int32": "<i4", "uint64": "<u8", "int64": "<i8"},
    **{"float32": "<f4", "float64": "<f8"},
}
_MAX_PADDING = 3  # bytes behind the last field, which round a message up to a multiple of four


class _Unusual(Exception):
    """A message whose fields have no fixed places."""


@dataclass(frozen=True)
class Layout:
    """Where everything lies in messages of one layout.

    Attributes:
        record: Fields by their names, `header.stamp.sec`; strings as bytes with their end, sequences as arrays.
        lengths: Names of the length fields in `record`, and what they say.
        size: Bytes of a message.
    """

    record: np.dtype[Any]
    lengths: tuple[tuple[str, int], ...]
    size: int

    def read(self, messages: Sequence[bytes]) -> tuple[AnyArray, npt.NDArray[np.bool_]]:
        """Read messages of `size` bytes.

        Returns:
            Their fields, an array (n,) of `record` in memory that is not to be written to; and which of them, (n,), do
            have this layout.
        """
        found = np.frombuffer(b"".join(messages), self.record)
        good = (found["#endian"] == np.array(_LITTLE_ENDIAN, "u1")).all(axis=1)
        for name, length in self.lengths:
            good &= found[name] == length
        return found, good


class Layouts:
    """Layouts of one message type, from its definition.

    Args:
        definition: Concatenated .msg texts, as a bag has them.
        type_name: "polo_ros/msg/Transition".
    """

    def __init__(self, definition: str, type_name: str) -> None:
        self._type = type_name
        try:
            self._types: Any = get_types_from_msg(definition, type_name)
        except Exception:  # a damaged definition makes rosbags fail in any of a dozen ways; the general decoder says so
            self._types = {}

    def of(self, message: bytes) -> Layout | None:
        """The layout of one message; None if it has none, or is damaged."""
        walk = _Walk(self._types, message)
        try:
            walk.message(self._type, "")
        except (_Unusual, KeyError, struct.error, TypeError, ValueError, RecursionError):
            return None
        left = len(message) - _HEAD - walk.position
        if message[:2] != bytes(_LITTLE_ENDIAN) or not 0 <= left <= _MAX_PADDING:
            return None
        names, formats, offsets = zip(*walk.fields, strict=True)
        record = np.dtype(
            {"names": list(names), "formats": list(formats), "offsets": list(offsets), "itemsize": len(message)}
        )
        return Layout(record, tuple(walk.lengths), len(message))


class _Walk:
    """Goes through one message, field by field."""

    def __init__(self, types: Any, message: bytes) -> None:
        self._types, self._message = types, message
        self.position = 0  # behind the head
        self.fields: list[tuple[str, Any, int]] = [("#endian", ("u1", (2,)), 0)]
        self.lengths: list[tuple[str, int]] = []

    def message(self, type_name: str, prefix: str) -> None:
        for name, (kind, detail) in self._types[type_name][1]:
            self._field(f"{prefix}{name}", kind, detail)

    def _field(self, name: str, kind: Any, detail: Any) -> None:
        if kind == Nodetype.NAME:
            self.message(detail, f"{name}.")
        elif kind == Nodetype.BASE and detail[0] == "string":
            length = self._length(name)
            if length < 1:
                raise _Unusual
            self._take(name, f"S{length}", length)
        elif kind == Nodetype.BASE:
            self._number(name, detail[0], None)
        else:
            (entry, entry_detail), count = detail
            if entry != Nodetype.BASE or entry_detail[0] == "string":
                raise _Unusual
            if kind == Nodetype.SEQUENCE:
                count = self._length(name)
            self._number(name, entry_detail[0], count)

    def _length(self, name: str) -> int:
        """A length field, and what it says."""
        self._align(4)
        (length,) = struct.unpack_from("<I", self._message, _HEAD + self.position)
        self._take(f"#{name}", "<u4", 4)
        self.lengths.append((f"#{name}", length))
        return int(length)

    def _number(self, name: str, kind: str, count: int | None) -> None:
        dtype = np.dtype(_SIZES[kind])
        if count != 0:  # what is not there is not aligned either
            self._align(dtype.itemsize)
        self._take(
            name, dtype if count is None else (dtype, (count,)), dtype.itemsize * (1 if count is None else count)
        )

    def _take(self, name: str, form: Any, size: int) -> None:
        if size > len(self._message) - _HEAD - self.position:
            raise _Unusual
        self.fields.append((name, form, _HEAD + self.position))
        self.position += size

    def _align(self, size: int) -> None:
        self.position = -(-self.position // size) * size
