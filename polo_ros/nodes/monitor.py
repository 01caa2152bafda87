"""Monitor: progress on the terminal, the plan as markers; ends when the session's duration is over."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
from rclpy.serialization import deserialize_message
from visualization_msgs.msg import MarkerArray

from polo_ros import drivers, tasks
from polo_ros.dynamics.trace import trace
from polo_ros.msg import LearnerStatus, Plan, PlannerStatus, State
from polo_ros.msg import Transition as TransitionMsg
from polo_ros.nodes import convert
from polo_ros.nodes.base import EVERY, LATCHED, LATEST, STEADY, PoloNode, spin
from polo_ros.nodes.known import OTHERS
from polo_ros.safety.timeline import PlanTimeline
from polo_ros.session.config import BridgeConfig
from polo_ros.tasks.base import FloatArray


class Monitor(PoloNode):
    """Watches a session; a launch file that says so ends the session with it."""

    # s without a state before the monitor says that the session stands still.
    SILENCE = 5.0
    # s between two drawings of the plan, while somebody looks.
    DRAWING = 0.2

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
        self._state: State | None = None
        self._plan_bytes = b""
        self._drawn_episode = -1

    def configure(self) -> None:
        """Check what the session is about, and subscribe."""
        self.task = tasks.make(self.session.task)
        names = drivers.names()
        if self.settings.driver not in names:
            raise ValueError(f"unknown driver '{self.settings.driver}'; drivers: {', '.join(names)}")
        self._kept = [
            self.create_subscription(State, "state", self._on_state, LATEST),
            self.create_subscription(TransitionMsg, "transition", self._on_transition, EVERY),
            # Plans are many and large: only those that are drawn are decoded.
            self.create_subscription(Plan, "plan", self._on_plan_bytes, LATEST, raw=True),
            self.create_subscription(PlannerStatus, "planner/status", self._on_status, LATCHED),
            self.create_subscription(LearnerStatus, "learner/status", self._on_learned, LATCHED),
        ]
        self._timeline = PlanTimeline(self.task.control_dt, 3600.0)
        self._markers = self.create_lifecycle_publisher(MarkerArray, "plan_markers", LATEST)
        self._timers = [
            self.create_timer(2.0, self._show, clock=STEADY),
            self.create_timer(self.DRAWING, self._draw, clock=STEADY),
        ]

    def _on_state(self, message: State) -> None:
        if self._first is None:
            self._first, self._begun = message.step, time.monotonic()
        self._heard = time.monotonic()
        self._step = message.step
        self._state = message
        if 0.0 < self.settings.duration <= message.step * self.task.control_dt + 1e-9:
            self._show()
            raise KeyboardInterrupt  # the session is over: end as if told to

    def _on_transition(self, message: TransitionMsg) -> None:
        if message.episode != self._episode:
            self._episode, self._reward = message.episode, 0.0
        self._reward += message.reward

    def _on_plan_bytes(self, message: bytes) -> None:
        self._plan_bytes = message

    def _on_status(self, message: PlannerStatus) -> None:
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

    def _draw(self) -> None:
        """Publish where the plans in effect lead from the newest state."""
        if self._state is None or not self._plan_bytes or not self._markers.get_subscription_count():
            return
        try:
            state = convert.state_vector(self._state, self.task)
            plan = convert.timed_plan(deserialize_message(self._plan_bytes, Plan), self.task)
        except convert.MessageError:
            return  # bridge and planner say what is wrong with it
        if plan.episode != self._drawn_episode:
            self._drawn_episode = plan.episode
            self._timeline.reset(plan.episode)
        self._timeline.add(plan)
        actions: list[FloatArray] = []
        while (action := self._timeline.action(self._step + len(actions)).action) is not None:
            actions.append(action)
        if actions:
            paths = trace(self.task, state, np.array(actions))
            self.send(self._markers, convert.path_markers(paths, self.get_clock().now().to_msg()))

    def diagnose(self) -> tuple[str, Mapping[str, object]]:
        """Figures of the session."""
        return "", {"step": self._step, "episode": self._episode, "return": round(self._reward, 3)}


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return spin(Monitor, args)
