"""The newest of a stream of stamped measurements, and whether it is still good."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

from polo_ros.drivers.base import DriverError

T = TypeVar("T")


class Newest(Generic[T]):
    """Keeps the newest measurement; thread-safe.

    Two clocks, never compared: stamps are of the robot's clock and say what is newer than what; age is time since
    arrival, on our steady clock. So clocks that differ do no harm. A measurement whose stamp is not later than the one
    before is none: a source that repeats itself, or whose clock has gone back, grows old.

    Args:
        what: Names the stream in errors.
        max_age: s, from which on a measurement is not good any more.
    """

    def __init__(self, what: str, max_age: float) -> None:
        self.what = what
        self.max_age = max_age
        self.stale = self.refused = 0  # counts
        self._lock = threading.Lock()
        self._kept: tuple[T, float, float] | None = None  # value, stamp, arrival
        self._fault = self._excuse = ""

    def offer(self, value: T, stamp: float, arrival: float) -> None:
        """A measurement of the robot's time `stamp`, s, that came in at our steady clock's `arrival`, s."""
        with self._lock:
            if self._kept is not None and stamp <= self._kept[1]:
                self.stale += 1
                self._excuse = not_new(stamp, self._kept[1])
                return
            self._kept = value, stamp, arrival
            self._fault = self._excuse = ""

    def refuse(self, reason: str) -> None:
        """The newest measurement is not fit for use: so it is until a good one comes."""
        with self._lock:
            self.refused += 1
            self._fault = reason

    def get(self, now: float) -> T:
        """The newest measurement.

        Args:
            now: s, on our steady clock.

        Raises:
            DriverError: There is none, it is unfit for use, or older than `max_age`.
        """
        with self._lock:
            if self._fault:
                raise DriverError(f"{self.what}: {self._fault}")
            if self._kept is None:
                raise DriverError(f"{self.what}: no message yet")
            value, _, arrival = self._kept
            if now - arrival > self.max_age:
                raise DriverError(too_old(self.what, now - arrival, self.max_age, self._excuse))
            return value


def not_new(stamp: float, before: float) -> str:
    """Why a stamp that is not later than the one before makes a measurement none."""
    if stamp == before:
        unset = ": the publisher does not fill in header.stamp" if stamp == 0.0 else ""
        return f"messages come in, but their stamp stands still at {stamp:.6f} s{unset}"
    return f"messages come in, but their stamp went back from {before:.6f} s to {stamp:.6f} s"


def too_old(what: str, age: float, max_age: float, excuse: str) -> str:
    """What to say of a measurement that is too old."""
    return f"{what} is {age:.2f} s old, more than {max_age:g} s{f'; {excuse}' if excuse else ''}"
