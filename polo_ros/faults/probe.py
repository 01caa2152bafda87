"""Driver `probe` of fault campaigns: a simulated robot that writes down every call and fails when it is told to."""

from __future__ import annotations

import builtins
import dataclasses
import json
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polo_ros.config import Config, option
from polo_ros.drivers.base import Driver, DriverError, RobotState
from polo_ros.drivers.mujoco import MujocoDriver
from polo_ros.faults.journal import DRIVER, Journal
from polo_ros.faults.plant import Plant
from polo_ros.tasks.base import FloatArray, Task

ORDER = "fault.json"  # in the probe's folder: {"id", "call", "what", "times"}; times < 0: until the next order


@dataclass(frozen=True)
class ProbeSettings(Config):
    """Where it writes, and what it is."""

    folder: str = option("", "of journal and orders")
    simulated: bool = option(False, "whether time waits for commands, as with driver mujoco; false: a robot")


def _late(seconds: float) -> Callable[[], None]:
    return lambda: time.sleep(seconds)


DELAYS: Mapping[str, Callable[[], None]] = {"slow 50 ms": _late(0.05), "slow 500 ms": _late(0.5)}


def _with(**changes: Any) -> Callable[[RobotState], Any]:
    return lambda state: dataclasses.replace(state, **changes)


def _resized(name: str, change: Callable[[FloatArray], FloatArray]) -> Callable[[RobotState], Any]:
    return lambda state: _with(**{name: change(getattr(state, name))})(state)


def _first(name: str, value: float) -> Callable[[RobotState], Any]:
    def change(state: RobotState) -> RobotState:
        values = np.array(getattr(state, name))
        values[0] = value
        changed: RobotState = _with(**{name: values})(state)
        return changed

    return change


# What `read` returns instead of the state. A guard or a supervisor has to find every one of them.
STATES: Mapping[str, Callable[[RobotState], Any]] = {
    "nothing": lambda state: None,
    "text": lambda state: "state",
    "qpos nan": _first("qpos", math.nan),
    "qpos inf": _first("qpos", math.inf),
    "qpos huge": _first("qpos", 1e300),
    "qpos too short": _resized("qpos", lambda values: values[:-1]),
    "qpos too long": _resized("qpos", lambda values: np.append(values, 0.0)),
    "qpos of objects": _with(qpos=[object()]),
    "qpos nothing": _with(qpos=None),
    "qvel nan": _first("qvel", math.nan),
    "qvel inf": _first("qvel", -math.inf),
    "qvel as a column": _resized("qvel", lambda values: values[:, None]),
    "act too long": _with(act=np.zeros(7)),
    "time nan": _with(time=math.nan),
    "time back": lambda state: _with(time=state.time - 10.0)(state),
    "time text": _with(time="now"),
    "age nan": _with(age=math.nan),
    "age negative": _with(age=-1.0),
    "age 10 s": _with(age=10.0),
    "position out of range": _first("qpos", 100.0),
    "too fast": _first("qvel", 1e4),
}
# Of simulations the age of states is not watched.
ROBOTS_ONLY = ("age 10 s",)


def waited() -> float:
    """S for which this thread and the main one were ready and had no core; 0 where the system does not tell."""
    total = 0
    for thread in {threading.get_native_id(), os.getpid()}:
        try:
            total += int(Path(f"/proc/self/task/{thread}/schedstat").read_text(encoding="ascii").split()[1])
        except (OSError, IndexError, ValueError):
            continue
    return 1e-9 * total


def exception(name: str) -> BaseException:
    """The exception called `name`: DriverError, or one of Python's own."""
    kind = DriverError if name == "DriverError" else getattr(builtins, name)
    made: BaseException = kind("made by the fault campaign")
    return made


class ProbeDriver(Driver):
    """Writes down every call with its moment, and obeys orders to fail; for fault campaigns only.

    Args:
        task: What is simulated.
        seed: Of its start.
        settings: Where it writes, and what it is.
    """

    settings_type = ProbeSettings
    settings: ProbeSettings

    def __init__(self, task: Task, seed: int, settings: ProbeSettings | None = None) -> None:
        super().__init__(task, seed, settings)
        self.simulated = self.settings.simulated
        self._inner = MujocoDriver(task, seed) if self.simulated else Plant(task, seed)
        folder = Path(self.settings.folder)
        self._journal = Journal(folder / DRIVER) if self.settings.folder else None
        self._orders = folder / ORDER
        self._seen: tuple[int, int] | None = None  # of the file of orders
        self._order: dict[str, Any] = {}
        self._frozen: RobotState | None = None
        self._time = 0.0  # s, of the newest state

    def connect(self) -> None:
        """As the simulated robot's."""
        self._note("connect")
        self._obey("connect")
        self._inner.connect()

    def activate(self) -> None:
        """As the simulated robot's."""
        self._note("activate")
        self._obey("activate")
        self._inner.activate()

    def read(self) -> RobotState:
        """As the simulated robot's, unless it is told to return something else."""
        state = self._inner.read()
        self._time = state.time
        what = self._obey("read")
        if what == "frozen":
            self._frozen = self._frozen or state
            state = self._frozen
        else:
            self._frozen = None
        change = STATES.get(what)
        bad = what if change or what == "frozen" else ""
        self._note("read", qpos=state.qpos.tolist(), qvel=state.qvel.tolist(), bad=bad)
        if change is None:
            return state
        changed: RobotState = change(state)
        return changed

    def write(self, action: FloatArray) -> None:
        """As the simulated robot's."""
        self._note("write", action=np.asarray(action, np.float64).tolist())
        self._obey("write")
        self._inner.write(action)

    def stop(self) -> None:
        """As the simulated robot's."""
        self._note("stop")
        self._obey("stop")
        self._inner.stop()

    def close(self) -> None:
        """As the simulated robot's."""
        self._note("close")
        self._obey("close")
        self._inner.close()

    def reset(self, episode: int) -> None:
        """As the simulated robot's."""
        self._note("reset")
        self._inner.reset(episode)

    @property
    def can_reset(self) -> bool:
        """As the simulated robot's."""
        return self._inner.can_reset

    def status(self) -> Mapping[str, object]:
        """Nothing, unless it is told to fail."""
        if self._obey("status") == "text":
            return "well"  # type: ignore[return-value]
        return {}

    def _note(self, do: str, **more: Any) -> None:
        if self._journal is None:
            return
        now = time.monotonic()
        # The robot's own clock: a simulation's stands still while nobody writes.
        clock = now
        if isinstance(self._inner, MujocoDriver):
            clock = self._time
        elif do == "read":
            clock = self._inner.acquired
        self._journal.write({"t": now, "clock": clock, "pid": os.getpid(), "waited": waited(), "do": do, **more})

    def _obey(self, call: str) -> str:
        """What is ordered for this call; raises or sleeps if that is what is."""
        order = self._newest_order()
        if order.get("call") != call or order["times"] == 0:
            return ""
        order["times"] -= 1
        what = str(order["what"])
        if what.startswith("raise "):
            self._note("error", at=call, what=what)
            raise exception(what.removeprefix("raise "))
        if what in DELAYS:
            DELAYS[what]()
        return what

    def _newest_order(self) -> dict[str, Any]:
        try:
            found = os.stat(self._orders)
        except OSError:
            return self._order
        if (key := (found.st_ino, found.st_mtime_ns)) != self._seen:
            self._seen = key
            self._order = json.loads(self._orders.read_text(encoding="utf-8"))
        return self._order
