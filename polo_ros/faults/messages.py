"""Every field of every message that a node receives, and what can be wrong with it."""

from __future__ import annotations

import array
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy

from polo_ros.learning.weights import digest
from polo_ros.replay.bag_types import message_definition

RECEIVED = ("Plan", "State", "Transition", "Weights", "PlannerStatus")

_FIELD = re.compile(r"^\s*([\w/]+(?:\[\])?)\s+(\w+)\s*$")

_NUMBERS = {
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "huge": 1e300,
    "negative": -1.0,
    "zero": 0.0,
}
# What each type of field is spoilt with.
KINDS: Mapping[str, tuple[str, ...]] = {
    "float64": tuple(_NUMBERS),
    "float64[]": ("nan", "inf", "-inf", "huge", "too short", "too long", "empty"),
    "uint64": ("zero", "largest", "later", "earlier"),
    "uint32": ("zero", "largest", "later", "earlier"),
    "string": ("empty", "wrong", "long"),
    "bool": ("flipped",),
    "uint8[]": ("empty", "too short", "too long", "one bit", "noise"),
    "std_msgs/Header": ("stamp past", "stamp future", "stamp negative", "stamp impossible", "frame long"),
}
# The same with a digest that fits, so that whoever checks only the digest believes them.
FORGED = ("empty", "too short", "too long", "noise", "nan", "other shapes", "one missing", "one more", "integers")

Edit = Sequence[Any]  # field, kind, and numbers of its own for the kinds "values" and "value"


def fields(message: str) -> dict[str, str]:
    """Type of each field of one of our messages, from its installed definition."""
    found = {}
    for line in message_definition(f"polo_ros/msg/{message}").split("=" * 80)[0].splitlines():
        match = _FIELD.match(line.partition("#")[0])
        if match:
            found[match[2]] = match[1]
    return found


def edits(message: str) -> list[tuple[str, str]]:
    """Each field of `message` with each kind of fault of its type."""
    out = [(name, kind) for name, type_ in fields(message).items() for kind in KINDS[type_]]
    if message == "Weights":
        out += [("data", f"forged {kind}") for kind in FORGED]
    return out


def spoil(message: Any, edit: Edit) -> None:
    """Change one field of a message.

    Raises:
        ValueError: The field's type has no such kind.
    """
    name, kind, *own = edit
    type_ = _types(message)[name]
    value = getattr(message, name)
    if type_ == "std_msgs/Header":
        _spoil_header(value, kind)
    elif type_ == "float64[]":
        setattr(message, name, _spoilt_array(value, kind, own))
    elif type_ == "float64":
        setattr(message, name, float(own[0]) if kind == "value" else _NUMBERS[kind])
    elif type_ in ("uint64", "uint32"):
        setattr(message, name, _spoilt_integer(value, kind, 2 ** int(type_[4:]) - 1, own))
    elif type_ == "string":
        setattr(message, name, {"empty": "", "wrong": "0123456789abcdef", "long": "x" * 100_000}[kind])
    elif type_ == "bool":
        setattr(message, name, not value)
    elif type_ == "uint8[]":
        data = forged(bytes(value), kind.removeprefix("forged "))
        message.data = array.array("B", data)
        if kind.startswith("forged "):
            message.digest = digest(data)
    else:
        raise ValueError(f"nothing is known of {name}, a {type_}")


def _types(message: Any) -> dict[str, str]:
    words = {"double": "float64", "sequence<double>": "float64[]", "sequence<uint8>": "uint8[]", "boolean": "bool"}
    return {name: words.get(type_, type_) for name, type_ in message.get_fields_and_field_types().items()}


def _spoil_header(header: Any, kind: str) -> None:
    if kind == "frame long":
        header.frame_id = "x" * 100_000
        return
    stamps = {"past": (0, 0), "future": (2**31 - 1, 0), "negative": (-(2**31), 0), "impossible": (1, 2**32 - 1)}
    header.stamp.sec, header.stamp.nanosec = stamps[kind.removeprefix("stamp ")]


def _spoilt_array(value: Any, kind: str, own: Sequence[Any]) -> array.array[float]:
    values = array.array("d", value)
    if kind == "values":
        return array.array("d", own[0])
    if kind == "empty":
        return array.array("d")
    if kind == "too short":
        return values[:-1]
    if kind == "too long" or not values:
        values.append(0.0)
    if kind != "too long":
        values[-1] = _NUMBERS[kind]
    return values


def _spoilt_integer(value: int, kind: str, largest: int, own: Sequence[Any]) -> int:
    wanted = {"zero": 0, "largest": largest, "later": value + 1000, "earlier": value - 1000}
    return min(max(int(own[0]) if kind == "value" else wanted[kind], 0), largest)


def forged(data: bytes, kind: str) -> bytes:
    """A safetensors file that must not be believed."""
    if kind == "empty":
        return b""
    if kind == "too short":
        return data[: len(data) // 2]
    if kind == "too long":
        return data + bytes(64)
    if kind == "one bit":
        return data[:-1] + bytes([data[-1] ^ 1])
    if kind == "noise":
        return np.random.default_rng(0).bytes(len(data))
    arrays = {name: np.array(values) for name, values in safetensors.numpy.load(data).items()}
    name = sorted(arrays)[0]
    if kind == "nan":
        arrays[name].flat[0] = np.nan
    elif kind == "other shapes":
        arrays[name] = np.zeros((3, 1, 2), np.float32)
    elif kind == "one missing":
        del arrays[name]
    elif kind == "one more":
        arrays["more"] = np.zeros(1, np.float32)
    elif kind == "integers":
        arrays[name] = arrays[name].astype(np.int64)
    else:
        raise ValueError(f"unknown kind '{kind}'")
    return safetensors.numpy.save(arrays)


def as_text(edit: Edit) -> str:
    """An edit in words."""
    name, kind, *own = edit
    return f"{name} {kind}" + (f" {json.dumps(own[0])[:30]}" if own else "")
