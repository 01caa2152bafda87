"""Configuration: frozen dataclasses whose fields carry a unit, a range and a sentence.

The same declaration serves code (`PoloConfig()`), YAML files, the command line and ROS parameters:
a nested field is the dotted parameter name, `mppi.rollouts`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

T = TypeVar("T")


@dataclass(frozen=True)
class FieldInfo:
    """What is known of one configuration field beside its type and default."""

    doc: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False  # may change while a session runs

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError if `value`, or an entry of it, is not allowed for the field called `name`."""
        if isinstance(value, tuple):
            for index, entry in enumerate(value):
                self.check(f"{name}[{index}]", entry)
            return
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} = {value} is not finite")
        if self.low is not None and value < self.low:
            raise ValueError(f"{name} = {value} is below its minimum {self.low}")
        if self.high is not None and value > self.high:
            raise ValueError(f"{name} = {value} is above its maximum {self.high}")
        if self.choices and value not in self.choices:
            raise ValueError(f"{name} = '{value}' is unknown; choices: {', '.join(self.choices)}")


def option(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
) -> Any:
    """Declare a configuration field; see FieldInfo."""
    info = FieldInfo(doc, unit, low, high, choices, live)
    return dataclasses.field(default=default, metadata={"info": info})


class Config:
    """Base of configuration dataclasses: checks every field when an instance is made."""

    def __post_init__(self) -> None:
        for name, value, kind, info in fields(self):
            entry = entry_type(kind)
            if entry is None:
                right = _is_a(value, kind)
            else:
                right = isinstance(value, tuple) and all(_is_a(one, entry) for one in value)
            if not right:
                raise ValueError(f"{name} = {value!r} is not of type {type_name(kind)}")
            info.check(name, value)


def _is_a(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def entry_type(kind: Any) -> type | None:
    """Of a list option, `tuple[T, ...]`, its T; None: the option is no list."""
    found: type | None = get_args(kind)[0] if get_origin(kind) is tuple else None
    return found


def type_name(kind: Any) -> str:
    """An option's type in words: `float`, `list of str`."""
    entry = entry_type(kind)
    name: str = kind.__name__ if entry is None else f"list of {entry.__name__}"
    return name


def fields(config: Any) -> Iterator[tuple[str, Any, type, FieldInfo]]:
    """All options of a configuration, as (dotted name, value, type, info), nested ones included.

    A type is bool, int, float, str, or a list of them, `tuple[T, ...]`.
    """
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            for name, inner, kind, info in fields(value):
                yield f"{field.name}.{name}", inner, kind, info
        else:
            yield field.name, value, hints[field.name], field.metadata["info"]


def flatten(config: Any) -> dict[str, Any]:
    """A configuration as dotted names and values."""
    return {name: value for name, value, _, _ in fields(config)}


def replace(config: T, changes: Mapping[str, Any]) -> T:
    """A copy of `config` with dotted names changed; raises ValueError for an unknown name or value.

    An int is taken where a float is asked for, and any sequence where a list is; nothing else is converted.
    """
    known = {name: kind for name, _, kind, _ in fields(config)}
    for name in changes:
        if name not in known:
            raise ValueError(unknown_parameter(name, known))
    nested: dict[str, dict[str, Any]] = {}
    direct: dict[str, Any] = {}
    for name, value in changes.items():
        value = _converted(value, known[name])
        head, _, rest = name.partition(".")
        if rest:
            nested.setdefault(head, {})[rest] = value
        else:
            direct[head] = value
    for head, inner in nested.items():
        try:
            direct[head] = replace(getattr(config, head), inner)
        except ValueError as error:
            raise ValueError(f"{head}.{error}") from None
    return dataclasses.replace(config, **direct)  # type: ignore[type-var]


def _converted(value: Any, kind: type) -> Any:
    entry = entry_type(kind)
    if entry is not None and isinstance(value, Sequence | array) and not isinstance(value, str | bytes):
        return tuple(_converted(one, entry) for one in value)
    return float(value) if kind is float and isinstance(value, int) and not isinstance(value, bool) else value


def unknown_parameter(name: str, known: Iterable[str]) -> str:
    """What to say of a parameter that nobody knows: the nearest, and those of its group, or what groups there are."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    group, dot, _ = name.partition(".")
    listed = [other for other in known if dot and other.startswith(group + dot)]
    if not listed:
        listed = sorted({f"{other.partition('.')[0]}.*" if "." in other else other for other in known})
    return f"unknown parameter '{name}'; {hint}parameters: {', '.join(listed)}"


def read_parameters(path: Path) -> dict[str, Any]:
    """Dotted parameters from a ROS parameter file's `/**: ros__parameters:` section."""
    with open(path, encoding="utf-8") as stream:
        document = yaml.safe_load(stream)
    try:
        tree = document["/**"]["ros__parameters"]
    except (TypeError, KeyError):
        raise ValueError(f"{path}: no '/**: ros__parameters:' section") from None
    out: dict[str, Any] = {}

    def walk(prefix: str, node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(f"{prefix}.{key}" if prefix else str(key), value)
        else:
            out[prefix] = node

    walk("", tree)
    return out
