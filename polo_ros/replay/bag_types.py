"""What a bag is made of: topics, message definitions, problems; and how its messages are decoded."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.typesys import Stores, get_types_from_msg, get_typestore

SEPARATOR = "=" * 80
SESSION_RECORD = "polo_ros.session"  # name of the MCAP metadata record at the start of every file

STATE = "polo_ros/msg/State"
PLAN = "polo_ros/msg/Plan"
TRANSITION = "polo_ros/msg/Transition"
PLANNER_STATUS = "polo_ros/msg/PlannerStatus"
LEARNER_STATUS = "polo_ros/msg/LearnerStatus"

_BASE_TYPES = frozenset(
    "bool byte char float32 float64 int8 uint8 int16 uint16 int32 uint32 int64 uint64 string wstring".split()
)
_FIELD = re.compile(r"^\s*([A-Za-z][A-Za-z0-9_/]*)\s*(<=\s*\d+)?(\[[^\]]*\])?\s+[A-Za-z]")
_INFINITE = "sec: 9223372036\n    nsec: 854775807"  # rmw's RMW_DURATION_INFINITE: not set


class BagError(RuntimeError):
    """A bag that cannot be read or written; the message names the file and the reason."""


@dataclass(frozen=True)
class BagProblem:
    """Something that is wrong with a bag whose rest is readable."""

    file: str  # name of the file, or of the topic
    kind: str  # truncated, damaged, empty, missing, gap, not_finite, ...
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.message}"


@dataclass(frozen=True)
class TopicInfo:
    """One recorded topic."""

    name: str  # fully resolved, "/transition"
    type: str  # "polo_ros/msg/Transition"
    message_definition: str  # concatenated .msg texts, see `message_definition`
    qos_yaml: str = ""  # offered QoS profiles, see `qos_yaml`
    type_hash: str = ""  # "RIHS01_..."; empty: not known
    schema_encoding: str = "ros2msg"


def qos_yaml(reliable: bool = True, transient_local: bool = False, depth: int = 10) -> str:
    """One offered QoS profile as rosbag2 stores it (metadata version 8: rmw's enum values)."""
    return (
        f"- history: 1\n  depth: {depth}\n  reliability: {1 if reliable else 2}\n"
        f"  durability: {1 if transient_local else 2}\n"
        f"  deadline:\n    {_INFINITE}\n  lifespan:\n    {_INFINITE}\n  liveliness: 1\n"
        f"  liveliness_lease_duration:\n    {_INFINITE}\n  avoid_ros_namespace_conventions: false"
    )


def share_dirs() -> list[Path]:
    """The share folders of all ament prefixes, nearest first: AMENT_PREFIX_PATH, then this environment."""
    prefixes = [prefix for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    out: list[Path] = []
    for prefix in [*prefixes, sys.prefix]:
        share = Path(prefix) / "share"
        if share not in out:
            out.append(share)
    return out


def _interface_file(type_name: str, suffix: str, shares: Sequence[Path]) -> Path | None:
    package, _, name = type_name.split("/")
    folders = [share / package for share in shares]
    if package == "polo_ros" and os.environ.get("POLO_ROS_SHARE"):
        folders.insert(0, Path(os.environ["POLO_ROS_SHARE"]))
    for folder in folders:
        path = folder / "msg" / f"{name}{suffix}"
        if path.is_file():
            return path
    return None


def _check_type_name(type_name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*/msg/[A-Za-z][A-Za-z0-9]*", type_name):
        raise BagError(f"'{type_name}' is not a message type; expected 'package/msg/Name'")


def message_definition(type_name: str, shares: Sequence[Path] | None = None) -> str:
    """The .msg text of a type, followed by those of all types that it uses, as MCAP's ros2msg asks for.

    Args:
        type_name: for example "polo_ros/msg/State".
        shares: share folders to search; None: those of `share_dirs`.

    Raises:
        BagError: a definition is not installed; the message says where it was looked for.
    """
    shares = share_dirs() if shares is None else shares
    _check_type_name(type_name)
    texts: dict[str, str] = {}
    waiting = [type_name]
    while waiting:
        name = waiting.pop(0)
        if name in texts:
            continue
        path = _interface_file(name, ".msg", shares)
        if path is None:
            searched = ", ".join(str(share) for share in shares)
            raise BagError(f"no definition of message type '{name}'; share folders searched: {searched}")
        texts[name] = path.read_text(encoding="utf-8").rstrip("\n") + "\n"
        waiting += _used_types(name, texts[name])
    parts = [texts.pop(type_name)]
    for name, text in texts.items():
        package, _, short = name.split("/")
        parts.append(f"{SEPARATOR}\nMSG: {package}/{short}\n{text}")
    return "".join(parts)


def _used_types(owner: str, text: str) -> list[str]:
    package = owner.split("/")[0]
    out = []
    for line in text.splitlines():
        match = _FIELD.match(line.partition("#")[0])
        if match is None or match[1] in _BASE_TYPES:
            continue
        parts = match[1].split("/")
        if parts == ["Header"]:
            out.append("std_msgs/msg/Header")
        else:
            out.append(f"{parts[0] if len(parts) > 1 else package}/msg/{parts[-1]}")
    return out


def type_hash(type_name: str, shares: Sequence[Path] | None = None) -> str:
    """The installed type description hash, "RIHS01_...", or "" where none is installed."""
    _check_type_name(type_name)
    path = _interface_file(type_name, ".json", share_dirs() if shares is None else shares)
    if path is None:
        return ""
    entries = json.loads(path.read_text(encoding="utf-8")).get("type_hashes", [])
    return next((str(entry["hash_string"]) for entry in entries if entry["type_name"] == type_name), "")


class Decoder:
    """Decodes CDR with the definitions that a bag carries, without ROS."""

    def __init__(self) -> None:
        self._stores: dict[tuple[str, str], Any] = {}  # a rosbags Typestore, or the reason why there is none

    def decode(self, topic: TopicInfo, cdr: bytes) -> Any:
        """One message as an object with the fields of its definition.

        Raises:
            BagError: the definition or the message is damaged.
        """
        key = (topic.type, topic.message_definition)
        if key not in self._stores:
            self._stores[key] = self._store(topic)
        store = self._stores[key]
        if isinstance(store, str):
            raise BagError(store)
        try:
            return store.deserialize_cdr(cdr, topic.type)
        except Exception as error:  # damaged bytes make rosbags fail in any of a dozen ways
            raise BagError(f"{topic.name}: not a {topic.type}: {type(error).__name__}: {error}") from None

    @staticmethod
    def _store(topic: TopicInfo) -> Any:
        try:
            if topic.schema_encoding != "ros2msg":
                raise ValueError(f"schema encoding '{topic.schema_encoding}' is not read, only 'ros2msg'")
            store = get_typestore(Stores.EMPTY)
            # Register under the name that the parser accepted: anything else is not a type name.
            store.register(get_types_from_msg(topic.message_definition, topic.type))
            store.get_msgdef(topic.type)
        except Exception as error:  # a damaged definition makes rosbags fail in any of a dozen ways
            return f"{topic.name}: the definition of {topic.type} is unusable: {type(error).__name__}: {error}"[:400]
        return store
