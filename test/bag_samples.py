"""Messages and bags for tests, made without ROS from the package's own message definitions."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from polo_ros.replay.bag_writer import BagWriter, TopicInfo, qos_yaml

MSG = Path(__file__).resolve().parents[1] / "msg"
START = 1_700_000_000_000_000_000  # ns
DT = 0.02  # s


@cache
def store() -> Any:
    """A typestore that knows this package's messages."""
    found = get_typestore(Stores.ROS2_KILTED)
    for path in MSG.glob("*.msg"):
        found.register(get_types_from_msg(path.read_text(), f"polo_ros/msg/{path.stem}"))
    return found


@cache
def definition(type_name: str) -> str:
    """The concatenated definition of a type."""
    return str(store().generate_msgdef(type_name, ros_version=2)[0])


def topic(name: str, type_name: str) -> TopicInfo:
    """A topic with its definition, QoS and hash."""
    return TopicInfo(name, type_name, definition(type_name), qos_yaml(), store().hash_rihs01(type_name))


TRANSITION = "polo_ros/msg/Transition"
TOPICS = (
    ("/transition", TRANSITION),
    ("/planner/status", "polo_ros/msg/PlannerStatus"),
    ("/learner/status", "polo_ros/msg/LearnerStatus"),
)


def topics() -> list[TopicInfo]:
    """The topics that these bags have."""
    return [topic(name, kind) for name, kind in TOPICS]


def header(time: float) -> Any:
    """A std_msgs/Header at `time`, s."""
    types = store().types
    nanoseconds = round(time * 1e9)
    stamp = types["builtin_interfaces/msg/Time"](sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id="world")


def cdr(type_name: str, **fields: Any) -> bytes:
    """A serialised message; fields that are not given are zero or empty."""
    values: dict[str, Any] = {}
    for name, (kind, detail) in store().fielddefs[type_name][1]:
        if name in fields:
            values[name] = fields[name]
        elif name == "header":
            values[name] = header(0.0)
        elif kind == 4:
            entry = detail[0][1][0]
            values[name] = [] if entry == "string" else np.zeros(0, dtype=entry)
        else:
            values[name] = {"string": "", "bool": False}.get(detail[0], 0)
    message = store().types[type_name](**values)
    return bytes(store().serialize_cdr(message, type_name))


def transition(step: int, **fields: Any) -> bytes:
    """A Transition of a robot with one joint: 2 observations, 1 action."""
    values: dict[str, Any] = {
        "header": header(step * DT),
        "step": step,
        "episode_step": step,
        "model_hash": "0123456789abcdef",
        "qpos": np.array([0.1 * step]),
        "qvel": np.array([-0.5]),
        "act": np.zeros(0),
        "observation": np.array([0.1 * step, 1.0]),
        "action": np.array([0.25]),
        "reward": 1.0,
        "next_observation": np.array([0.1 * step + 0.1, 1.0]),
        "plan_id": step + 1,
        **fields,
    }
    return cdr(TRANSITION, **values)


def log_time(step: int) -> int:
    """When the recorder got the transition of a step, ns."""
    return START + round(step * DT * 1e9)


def write_bag(
    directory: Path,
    steps: int = 20,
    flush_every: int = 5,
    split_s: float = 0.0,
    close: bool = True,
    metadata: dict[str, str] | None = None,
) -> BagWriter:
    """A bag of `steps` transitions; `close=False` leaves it as a killed recorder does."""
    writer = BagWriter(directory, topics(), split_s, metadata or {"task": "joint", "seed": "7"}, flush_s=0.0)
    for step in range(steps):
        writer.write("/transition", transition(step), log_time(step), log_time(step) - 1000)
        if (step + 1) % flush_every == 0:
            writer.flush()
    if close:
        writer.close()
    return writer
