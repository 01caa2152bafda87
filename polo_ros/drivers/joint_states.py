"""Positions and velocities of joints, gathered by name from messages that hold any of them in any order."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from polo_ros.drivers.base import DriverError
from polo_ros.drivers.newest import not_new, too_old
from polo_ros.tasks.base import FloatArray

IntArray = npt.NDArray[np.int_]


class JointStates:
    """The newest state of each joint; thread-safe.

    Messages may come from several publishers: each joint has its own stamp and its own arrival. Stamps order the
    messages of a joint and are the time of the state; age is time since arrival on our steady clock; see Newest.

    Args:
        topic: Names the stream in errors.
        names: Joints to gather, (n,).
        max_age: s, from which on a joint's state is not good any more.
        differentiate: Whether a velocity that messages lack is taken from the last two positions.
    """

    MAX_LAYOUTS = 64  # orders of names that are remembered
    MAX_OTHERS = 12  # names of other joints that an error shows

    def __init__(self, topic: str, names: Sequence[str], max_age: float, differentiate: bool = False) -> None:
        self.topic = topic
        self.names = list(names)
        self.max_age = max_age
        self.differentiate = differentiate
        self.counts = Counter(messages=0, stale=0, refused=0)  # of messages
        count = len(self.names)
        self._index = {name: i for i, name in enumerate(self.names)}
        self._lock = threading.Lock()
        self._position, self._velocity = np.full(count, np.nan), np.full(count, np.nan)
        self._stamp, self._arrival = np.full(count, -np.inf), np.full(count, -np.inf)
        self._faults = [""] * count  # what is wrong with a joint's newest message
        self._excuses = [""] * count  # why messages that come in make a joint no younger
        self._layouts: dict[tuple[str, ...], tuple[IntArray, IntArray]] = {}
        self._others: dict[str, None] = {}

    def offer(
        self, names: Sequence[str], position: FloatArray, velocity: FloatArray, stamp: float, arrival: float
    ) -> None:
        """Take what a message says of joints that are ours.

        Args:
            names: Joints of the message, (m,), others among them.
            position: rad or m, (m,).
            velocity: rad/s or m/s, (m,); empty: the message has none. nan, too, says that a joint has none.
            stamp: s, of the measurement, on the robot's clock.
            arrival: s, on our steady clock.
        """
        with self._lock:
            self.counts["messages"] += 1
            ours, theirs = self._layout(tuple(names))
            fault = _malformed(names, position, velocity)
            if fault:
                self.counts["refused"] += 1
                for i in ours:
                    self._faults[i] = fault
                return
            late = stamp <= self._stamp[ours]
            if late.any():
                self.counts["stale"] += 1
                for i in ours[late]:
                    self._excuses[i] = not_new(stamp, self._stamp[i])
                ours, theirs = ours[~late], theirs[~late]
            self._take(ours, position[theirs], velocity[theirs] if len(velocity) else None, stamp, arrival)

    def read(self, now: float) -> tuple[float, FloatArray, FloatArray]:
        """Stamp (s, robot's clock) of the youngest joint, positions (n,) and velocities (n,), the caller's own.

        Args:
            now: s, on our steady clock.

        Raises:
            DriverError: A joint was never seen, has no velocity, is not a number, or is older than `max_age`.
        """
        with self._lock:
            for name, fault in zip(self.names, self._faults, strict=True):
                if fault:
                    raise DriverError(f"{self.topic}: joint '{name}': {fault}")
            self._refuse_unknown()
            oldest = int(np.argmin(self._arrival))
            age = now - float(self._arrival[oldest])
            if age > self.max_age:
                all_old = now - self._arrival.max() > self.max_age
                what = self.topic if all_old else f"{self.topic}: joint '{self.names[oldest]}'"
                raise DriverError(too_old(what, age, self.max_age, self._excuses[oldest]))
            return float(self._stamp.max()), self._position.copy(), self._velocity.copy()

    def age(self, now: float) -> float:
        """S since the message on the joint that was heard of least lately; inf: never."""
        with self._lock:
            return now - float(self._arrival.min())

    def _layout(self, names: tuple[str, ...]) -> tuple[IntArray, IntArray]:
        """Which of our joints a message has, and where it has them."""
        found = self._layouts.get(names)
        if found is None:
            pairs = [(self._index[name], at) for at, name in enumerate(names) if name in self._index]
            found = np.array([i for i, _ in pairs], int), np.array([at for _, at in pairs], int)
            if len(self._layouts) < self.MAX_LAYOUTS:
                self._layouts[names] = found
            for name in names:
                if name not in self._index and len(self._others) < self.MAX_OTHERS:
                    self._others[name] = None
        return found

    def _take(
        self, ours: IntArray, position: FloatArray, velocity: FloatArray | None, stamp: float, arrival: float
    ) -> None:
        """Believe new values of the joints `ours`, as far as they can be."""
        measured = np.full(len(ours), np.nan) if velocity is None else np.array(velocity, float)
        if self.differentiate:
            lacks = np.isnan(measured)
            spans = stamp - self._stamp[ours]  # inf at the first
            measured[lacks] = ((position - self._position[ours]) / spans)[lacks]
            first = lacks & np.isinf(spans)
        else:
            first = np.zeros(len(ours), bool)
        good = np.isfinite(position) & (np.isfinite(measured) | first)
        if not good.all():
            self.counts["refused"] += 1
            for at in np.flatnonzero(~good):
                self._faults[ours[at]] = _not_finite(float(position[at]), float(measured[at]), velocity is None)
        new = ours[good]
        self._position[new], self._velocity[new] = position[good], measured[good]
        self._stamp[new], self._arrival[new] = stamp, arrival
        for i in new:
            self._faults[i] = self._excuses[i] = ""
        for i in ours[first & good]:
            self._faults[i] = "no velocity before the second message"

    def _refuse_unknown(self) -> None:
        unseen = [name for name, stamp in zip(self.names, self._stamp, strict=True) if stamp == -np.inf]
        if not unseen:
            return
        if not self.counts["messages"]:
            raise DriverError(f"{self.topic}: no message yet")
        which = ", ".join(f"'{name}'" for name in unseen)
        others = f"; other names there: {', '.join(self._others)}" if self._others else ""
        raise DriverError(f"{self.topic} has no joint {which}{others}")


def _malformed(names: Sequence[str], position: FloatArray, velocity: FloatArray) -> str:
    count = len(names)
    if len(set(names)) != count:
        return "a message names a joint twice"
    if len(position) != count:
        return f"a message has {count} names and {len(position)} positions"
    if len(velocity) not in (0, count):
        return f"a message has {count} names and {len(velocity)} velocities"
    return ""


def _not_finite(position: float, velocity: float, missing: bool) -> str:
    if not np.isfinite(position):
        return f"its position is {position}"
    if missing:
        return "messages have no velocities; does the hardware offer them as state interfaces?"
    return f"its velocity is {velocity}; does the hardware offer it as a state interface?"
