"""Monitor: progress on the terminal; ends when the session's duration is over."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from polo_ros import drivers, tasks
from polo_ros.msg import LearnerStatus, PlannerStatus, State
from polo_ros.msg import Transition as TransitionMsg
from polo_ros.nodes.base import EVERY, LATCHED, LATEST, STEADY, PoloNode, spin
from polo_ros.nodes.known import OTHERS
from polo_ros.session.config import BridgeConfig


class Monitor(PoloNode):
    """Watches a session; a launch file that says so ends the session with it."""

    # s without a state before the monitor says that the session stands still.
    SILENCE = 5.0

    def __init__(self) -> None:
        super().__init__("monitor")
        self.settings = self.declare(BridgeConfig())
        self.refuse_unknown(OTHERS)
        self._begun = self._shown = self._heard = time.monotonic()
        self._first: int | None = None
        self._step = self._episode = 0
        self._reward = 0.0
        self._plan: PlannerStatus | None = None
        self._learned: LearnerStatus | None = None

    def configure(self) -> None:
        """Check what the session is about, and subscribe."""
        self.task = tasks.make(self.session.task)
        names = drivers.names()
        if self.settings.driver not in names:
            raise ValueError(f"unknown driver '{self.settings.driver}'; drivers: {', '.join(names)}")
        self._kept = [
            self.create_subscription(State, "state", self._on_state, LATEST),
            self.create_subscription(TransitionMsg, "transition", self._on_transition, EVERY),
            self.create_subscription(PlannerStatus, "planner/status", self._on_plan, LATCHED),
            self.create_subscription(LearnerStatus, "learner/status", self._on_learned, LATCHED),
        ]
        self._timer = self.create_timer(2.0, self._show, clock=STEADY)

    def _on_state(self, message: State) -> None:
        if self._first is None:
            self._first, self._begun = message.step, time.monotonic()
        self._heard = time.monotonic()
        self._step = message.step
        if 0.0 < self.settings.duration <= message.step * self.task.control_dt + 1e-9:
            self._show()
            raise KeyboardInterrupt  # the session is over: end as if told to

    def _on_transition(self, message: TransitionMsg) -> None:
        if message.episode != self._episode:
            self._episode, self._reward = message.episode, 0.0
        self._reward += message.reward

    def _on_plan(self, message: PlannerStatus) -> None:
        self._plan = message

    def _on_learned(self, message: LearnerStatus) -> None:
        self._learned = message

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._heard > self.SILENCE:
            self.get_logger().warning(f"no state for {now - self._heard:.0f} s; is the bridge running?")
            return
        if self._first is None:
            return
        robot = self._step * self.task.control_dt
        speed = (self._step - self._first) * self.task.control_dt / max(now - self._begun, 1e-9)
        parts = [f"{robot:7.2f} s", f"x{speed:.2f}", f"episode {self._episode}", f"return {self._reward:.2f}"]
        if self._plan is not None:
            parts.append(f"plan {self._plan.plan_ms:.1f} ms")
            if self._plan.deadlines_missed:
                parts.append(f"missed {self._plan.deadlines_missed}")
        if self._learned is not None:
            parts.append(f"weights {self._learned.version}")
        self.get_logger().info("  ".join(parts))

    def diagnose(self) -> tuple[str, Mapping[str, object]]:
        """Figures of the session."""
        return "", {"step": self._step, "episode": self._episode, "return": round(self._reward, 3)}


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return spin(Monitor, args)
