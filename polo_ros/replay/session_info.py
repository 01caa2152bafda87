"""What a session was: task, model, seed, parameters and versions; kept beside its bag and inside it."""

from __future__ import annotations

import datetime
import json
import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from polo_ros import __version__
from polo_ros.files import write_whole

_DISTRIBUTIONS = ("mujoco", "numpy", "torch", "safetensors", "mcap", "rosbags", "rclpy")
MAX_BYTES = 1 << 24


def versions() -> dict[str, str]:
    """Versions of this package and of what its numbers depend on; absent packages are left out."""
    out = {"polo_ros": __version__, "python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return out


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class SessionInfo:
    """Facts about one session, known before it starts."""

    task: str = ""
    model_hash: str = ""
    seed: int = 0
    clock: str = ""  # "lockstep" or "realtime"
    driver: str = ""
    control_dt: float = 0.0  # s; 0: not known
    parameters: Mapping[str, Any] = field(default_factory=dict)  # dotted names, or one such mapping a node
    versions: Mapping[str, str] = field(default_factory=versions)
    started: str = field(default_factory=_now)  # ISO 8601, UTC

    def to_metadata(self) -> dict[str, str]:
        """The facts as text, for a bag; mappings as JSON."""
        out = {}
        for name, value in asdict(self).items():
            out[name] = json.dumps(value, sort_keys=True, default=str) if isinstance(value, dict) else str(value)
        return out

    def save(self, path: Path) -> None:
        """Write session.yaml in one step."""
        write_whole(path, yaml.safe_dump(_plain(asdict(self)), sort_keys=False, allow_unicode=True))

    @classmethod
    def from_mapping(cls, facts: Mapping[str, Any]) -> SessionInfo:
        """Read what `to_metadata` or `save` wrote; what is missing or unreadable keeps its empty value.

        Nothing is filled in from the machine that reads.
        """

        def text(name: str) -> str:
            return str(facts.get(name, "") or "")

        def number(name: str, kind: type[int] | type[float]) -> Any:
            try:
                value = kind(facts.get(name, 0))
            except (TypeError, ValueError, OverflowError):
                return kind(0)
            return value if math.isfinite(value) else kind(0)

        def mapping(name: str) -> dict[str, Any]:
            value = facts.get(name, {})
            if isinstance(value, str):
                try:
                    value = json.loads(value)
                except ValueError:
                    value = {}
            return dict(value) if isinstance(value, Mapping) else {}

        return cls(
            task=text("task"),
            model_hash=text("model_hash"),
            seed=number("seed", int),
            clock=text("clock"),
            driver=text("driver"),
            control_dt=number("control_dt", float),
            parameters=mapping("parameters"),
            versions={str(key): str(value) for key, value in mapping("versions").items()},
            started=text("started"),
        )

    @classmethod
    def load(cls, path: Path) -> SessionInfo:
        """Read session.yaml.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a session file.
        """
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path}: {path.stat().st_size} bytes, expected at most {MAX_BYTES}")
        try:
            facts = yaml.safe_load(path.read_text("utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
            raise ValueError(f"{path}: not a session file: {' '.join(str(error).split())[:200]}") from None
        if not isinstance(facts, dict):
            raise ValueError(f"{path}: not a session file: it holds a {type(facts).__name__}, expected a mapping")
        return cls.from_mapping(facts)


def check_run_dir(run_dir: Path, started: str) -> None:
    """Refuse a folder that holds another session than the one that started as `started` names it.

    Raises:
        ValueError: It does. A node that is restarted within its session passes.
    """
    try:
        before = str(SessionInfo.load(run_dir / "session.yaml").parameters.get("started", ""))
    except FileNotFoundError:
        return
    if started and before != started:
        raise ValueError(f"run_dir {run_dir} holds another session, started {before or 'before'}; name a new folder")


def _plain(value: Any) -> Any:
    """The same value in types that YAML knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)
