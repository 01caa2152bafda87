"""The last stage before the driver: whatever comes in, what goes out is finite and in range."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from polo_ros.safety.limits import ControlLimits, JointLimits, SafetyConfig, table
from polo_ros.safety.safe_stop import SafeStop
from polo_ros.safety.tracking import TrackingMonitor
from polo_ros.tasks.base import FloatArray, Task


@dataclass(frozen=True)
class Verdict:
    """What the driver is to get."""

    action: FloatArray  # (nu,), finite and in range
    safe_stop: bool  # the action is the task's safe stop
    limited: bool  # the action that came in was changed to be in range
    reason: str = ""  # why safe_stop; empty: it is not


@dataclass(frozen=True)
class Fault:
    """Why the safe stop is played until somebody arms the robot."""

    reason: str  # what stands before a colon is its kind
    step: int = -1  # control period; -1: before the first
    time: float = 0.0  # s, session time


class Supervisor:
    """Lets an action pass, limits it, or puts the task's safe stop in its place.

    The safe stop, Task.safe_stop, applies

    - in this period, where there is no action, or one that has the wrong size or is not finite;
    - until `arm`, from `stop` on, and from a fault on: what `watch` sees of the robot that must not be.

    The first fault stays until `arm`, which is refused as long as the robot is in a state that would be a fault again.
    Without `SafetyConfig.latch` a fault lasts for as long as its cause does. Safe stops are within range and effort
    limits too, but not rate-limited. Thread-safe, as services stop it while the control loop runs.

    Args:
        task: Gives the bounds and the safe stop.
        config: Limits, and what is a fault.
        simulated: Whether the robot is: its time then stands still by design, and its model has limits of its own.
        actuation_delay: s from a command to its effect.
        clock: s, for the age of states.

    Raises:
        ValueError: The safe stop is none for the task's actuators, or a limit does not fit the model.
    """

    # Kinds of events counted; more, which only a plugin's endlessly varied reasons could make, count as "other".
    MAX_KINDS = 64

    def __init__(
        self,
        task: Task,
        config: SafetyConfig | None = None,
        *,
        simulated: bool = True,
        actuation_delay: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        config = config or SafetyConfig()
        self._task = task
        from_model = config.model_limits == "always" or (config.model_limits == "robots" and not simulated)
        self._joints = JointLimits.of(task, config, from_model, actuation_delay)
        self._controls = ControlLimits.of(task, config, from_model)
        self._tracking = TrackingMonitor(task, config)
        self._safe_stop = SafeStop(task)
        self._latches = config.latch
        self._max_state_age = 0.0 if simulated else config.max_state_age
        self._watches = bool(self._joints.any or self._tracking.active or self._max_state_age)
        self._clock = clock
        self._none: FloatArray = np.zeros(task.model.nu)
        self._last: FloatArray | None = None
        self._state: FloatArray | None = None  # the newest that is finite
        self._step, self._time = -1, 0.0
        self._advanced = (-math.inf, math.inf)  # newest time of a state, and when it came by the clock
        self._present = ""  # fault that the robot is in now
        self._fault: Fault | None = None
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def watch(self, step: int, state: FloatArray, age: float = 0.0, foreseen: str = "") -> None:
        """See the robot at the start of a control period, before `check`.

        Args:
            step: Number of the period.
            state: Physics state (nstate,), as measured.
            age: Of the state, s, as far as the driver knows.
            foreseen: What the plan would do that it must not; empty: nothing.
        """
        with self._lock:
            self._step = step
            self._present = self._seen(state, age) or foreseen
            if self._present:
                self._count(self._present)
                if self._latches and self._fault is None:
                    self._fault = Fault(self._present, step, self._time)

    def check(self, action: Any, reason: str = "no action", pending: FloatArray | None = None) -> Verdict:
        """Decide on one control period.

        Args:
            action: Controls (nu,) that are asked for, or None if there are none; anything is survived.
            reason: Why there are none. What stands before a colon is the kind that it is counted under.
            pending: Controls let out before that act before these, (n, nu); None: none.
        """
        with self._lock:
            values, fault = self._parse(action, reason)
            if self._fault is not None:
                fault = f"stopped: {self._fault.reason}"
                self._count(fault)
            elif self._present:
                fault = self._present  # counted by `watch`
            elif fault:
                self._count(fault)
            low, high = self._bounds()
            if fault:
                allowed = self._safe(low, high)
                limited = False
            else:
                allowed = self._limit(values, low, high)
                limited = bool((allowed != values).any())
            self._last = allowed
            if self._state is not None:
                self._tracking.expect(self._state, allowed if pending is None or not len(pending) else pending[0])
            return Verdict(allowed.copy(), safe_stop=bool(fault), limited=limited, reason=fault)

    def stop(self, reason: str) -> None:
        """Safe stop in every period until `arm`; the first reason stays."""
        self.latch(Fault(reason or "no reason given", self._step, self._time))

    def latch(self, fault: Fault) -> None:
        """Safe stop in every period until `arm`, for a fault that is known from before; the first one stays."""
        with self._lock:
            self._fault = self._fault or fault

    def arm(self) -> str:
        """Let actions pass again; returns why it was refused, empty if it was not."""
        with self._lock:
            if self._present:
                return f"its cause is still there: {self._present}"
            self._fault = None
            return ""

    def reset(self) -> None:
        """Forget action and state, as at the start of an episode; a stop stays."""
        with self._lock:
            self._last = self._state = None
            self._advanced = (-math.inf, math.inf)
            self._tracking.reset()

    @property
    def stopped(self) -> bool:
        """Whether the safe stop is played until `arm`."""
        return self._fault is not None

    @property
    def fault(self) -> Fault | None:
        """Why it is; None: it is not."""
        return self._fault

    @property
    def joints(self) -> JointLimits:
        """Limits of the joints, those that are enforced."""
        return self._joints

    @property
    def counts(self) -> Mapping[str, int]:
        """Control periods so far in which each kind of event happened."""
        with self._lock:
            return dict(self._counts)

    @property
    def limits(self) -> str:
        """The limits in words, a line each joint and actuator."""
        return table(self._joints, self._controls)

    def _seen(self, state: FloatArray, age: float) -> str:
        """What is wrong with the robot in `state` of `age` s, empty if nothing."""
        if np.shape(state) != (self._task.nstate,) or not np.isfinite(state).all():
            self._state = None
            return "state: it has the wrong size or is not finite"
        self._state = state
        self._time = float(state[0])
        if not self._watches:
            return ""
        _, qpos, qvel, _ = self._task.unpack(state)
        # All of them are asked, as each remembers what it saw.
        found = (self._age(age), self._joints.violation(qpos, qvel, age), self._tracking.fault(state))
        return next((reason for reason in found if reason), "")

    def _age(self, age: float) -> str:
        if not self._max_state_age:
            return ""
        if age > self._max_state_age:
            return f"state too old: it was measured {age:.3f} s ago, allowed {self._max_state_age:g} s"
        now = self._clock()
        newest, at = self._advanced
        if self._time > newest:
            self._advanced = (self._time, now)
        elif now - at > self._max_state_age:
            still = f"its time stands still at {newest:.3f} s for {now - at:.3f} s"
            return f"state too old: {still}, allowed {self._max_state_age:g} s"
        return ""

    def _bounds(self) -> tuple[FloatArray, FloatArray]:
        """Lowest and highest control (nu,) in this period."""
        controls = self._controls
        if not controls.any_force:
            return controls.low, controls.high
        if self._state is None:
            return controls.bounds(self._none)
        _, qpos, qvel, _ = self._task.unpack(self._state)
        return controls.bounds(controls.actuators.bias_force(qpos, qvel))

    def _safe(self, low: FloatArray, high: FloatArray) -> FloatArray:
        """The safe stop, in range."""
        qpos = qvel = None
        if self._state is not None:
            _, qpos, qvel, _ = self._task.unpack(self._state)
        return np.clip(np.nan_to_num(self._safe_stop.action(self._last, qpos, qvel)), low, high)

    def _limit(self, values: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
        """`values`, as near as limits allow."""
        controls = self._controls
        allowed = np.clip(values, controls.low, controls.high)
        if (allowed != values).any():
            self._count("out of range")
        if controls.any_force:
            weak = np.clip(allowed, low, high)
            if (weak != allowed).any():
                self._count("effort limit")
            allowed = weak
        if controls.any_change:
            before = self._safe(low, high) if self._last is None else self._last
            slow = np.clip(np.clip(allowed, before - controls.change, before + controls.change), low, high)
            if (slow != allowed).any():
                self._count("rate limit")
            allowed = slow
        return allowed

    def _parse(self, action: Any, reason: str) -> tuple[FloatArray, str]:
        """The action as an array of its own, and what is wrong with it."""
        none = self._none
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

    def _count(self, reason: str) -> None:
        kind = reason.split(":", 1)[0]
        if kind not in self._counts and len(self._counts) >= self.MAX_KINDS:
            kind = "other"
        self._counts[kind] = self._counts.get(kind, 0) + 1
