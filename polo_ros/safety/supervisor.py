"""The last stage before the driver: whatever comes in, what goes out is finite and in range."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from polo_ros.tasks.base import FloatArray, Task


@dataclass(frozen=True)
class Verdict:
    """What the driver is to get."""

    action: FloatArray  # (nu,), finite and in range
    safe_stop: bool  # the action is the task's safe stop
    limited: bool  # the action that came in was changed to be in range
    reason: str = ""  # why safe_stop; empty: it is not


class Supervisor:
    """Lets an action pass, limits it, or puts the task's safe stop in its place.

    The safe stop is Task.safe_stop: "zero" is zero control, or the control nearest to it that is in range;
    "hold" repeats the last action. It applies where there is no action, where one has the wrong size or is
    not finite, and from `stop` until `arm`. Thread-safe, as services stop it while the control loop runs.

    Args:
        task: Gives the bounds and the safe stop.
        rate_limit: Largest change of a control in units a second; None: no limit. The safe stop is
            never rate-limited.
    """

    # Kinds of events counted; more, which only a plugin's endlessly varied reasons could make, count as "other".
    MAX_KINDS = 64

    def __init__(self, task: Task, rate_limit: float | None = None) -> None:
        if task.safe_stop not in ("zero", "hold"):
            raise ValueError(f"task '{task.name}': safe_stop '{task.safe_stop}' is unknown; choices: zero, hold")
        if rate_limit is not None and not 0.0 < rate_limit < np.inf:
            raise ValueError(f"rate_limit = {rate_limit} is not a finite number > 0")
        self._low, self._high = task.action_low, task.action_high
        self._hold = task.safe_stop == "hold"
        self._zero = np.array(task.resting_action)
        self._largest_change = None if rate_limit is None else rate_limit * task.control_dt
        self._last: FloatArray | None = None
        self._stop_reason = ""
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def check(self, action: Any, reason: str = "no action") -> Verdict:
        """Decide on one control period.

        Args:
            action: Controls (nu,) that are asked for, or None if there are none; anything is survived.
            reason: Why there are none. What stands before a colon is the kind that it is counted under.
        """
        with self._lock:
            values, fault = self._parse(action, reason)
            if self._stop_reason:
                fault = f"stopped: {self._stop_reason}"
            if fault:
                self._count(fault)
                safe = self._last if self._hold and self._last is not None else self._zero
                self._last = safe
                return Verdict(safe.copy(), safe_stop=True, limited=False, reason=fault)
            allowed = np.clip(values, self._low, self._high)
            if (allowed != values).any():
                self._count("out of range")
            if self._largest_change is not None:
                allowed = self._slow(allowed, self._largest_change)
            self._last = allowed
            return Verdict(allowed.copy(), safe_stop=False, limited=bool((allowed != values).any()))

    def stop(self, reason: str) -> None:
        """Safe stop in every period until `arm`; the first reason stays."""
        with self._lock:
            self._stop_reason = self._stop_reason or reason or "no reason given"

    def arm(self) -> None:
        """Let actions pass again."""
        with self._lock:
            self._stop_reason = ""

    def reset(self) -> None:
        """Forget the last action, as at the start of an episode; a stop stays."""
        with self._lock:
            self._last = None

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called and `arm` was not since."""
        return bool(self._stop_reason)

    @property
    def counts(self) -> Mapping[str, int]:
        """Control periods so far in which each kind of event happened."""
        with self._lock:
            return dict(self._counts)

    def _parse(self, action: Any, reason: str) -> tuple[FloatArray, str]:
        """The action as an array of its own, and what is wrong with it."""
        none = self._zero
        if action is None:
            return none, reason or "no action"
        try:
            values = np.asarray(action)
            if values.dtype.kind not in "fiu":
                return none, f"not numbers: action is of type {values.dtype}"
            if values.shape != none.shape:
                return (
                    none,
                    f"wrong size: action has shape {values.shape}, expected {none.shape}",
                )
            # float128 beyond float64 becomes inf, which is then refused.
            with np.errstate(over="ignore"):
                values = values.astype(np.float64)
        except Exception as error:  # noqa: BLE001  whatever comes in may fail in any way when it is read as an array
            return none, f"not numbers: {error}"
        if not np.isfinite(values).all():
            return (
                none,
                f"not finite: control {int(np.flatnonzero(~np.isfinite(values))[0])} of the action",
            )
        return values, ""

    def _slow(self, allowed: FloatArray, change: float) -> FloatArray:
        """`allowed`, no further than `change` from the last action, and in range."""
        before = self._zero if self._last is None else self._last
        slow = np.clip(np.clip(allowed, before - change, before + change), self._low, self._high)
        if (slow != allowed).any():
            self._count("rate limit")
        return slow

    def _count(self, reason: str) -> None:
        kind = reason.split(":", 1)[0]
        if kind not in self._counts and len(self._counts) >= self.MAX_KINDS:
            kind = "other"
        self._counts[kind] = self._counts.get(kind, 0) + 1
