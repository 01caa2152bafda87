"""Monitor: progress on the terminal, the plan as markers; ends when the session's duration is over."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.serialization import deserialize_message
from visualization_msgs.msg import MarkerArray

from polo_ros import drivers, tasks
from polo_ros.dynamics.trace import trace
from polo_ros.msg import Plan, State
from polo_ros.nodes import convert
from polo_ros.nodes.base import DIAGNOSTICS, LATEST, STEADY, PoloNode, spin
from polo_ros.nodes.known import OTHERS
from polo_ros.replay.session_info import check_run_dir
from polo_ros.safety.supervisor import Supervisor
from polo_ros.safety.timeline import PlanTimeline
from polo_ros.session.config import BridgeConfig
from polo_ros.tasks.base import FloatArray


class Monitor(PoloNode):
    """Watches a session; a launch file that says so ends the session with it.

    It lives on what nodes say on /diagnostics once a second: listening to every state and plan would
    take from control what control needs. States and plans are heard only while somebody looks at the
    markers.
    """

    # s between two lines of progress.
    PROGRESS = 2.0
    # s without news of the bridge before the monitor says that the session stands still.
    SILENCE = 5.0
    # s between two drawings of the plan.
    DRAWING = 0.2

    def __init__(self) -> None:
        super().__init__("monitor")
        # All settings are checked here, where a wrong one ends the session: other nodes would be restarted for ever.
        for config in OTHERS:
            self.declare(config)
        self.settings = self.config(BridgeConfig)
        self.declare(drivers.settings(self.settings.driver))
        self.refuse_unknown(OTHERS, self.settings.driver)
        self._begun = self._heard = time.monotonic()
        self._first: int | None = None
        self._news: dict[str, dict[str, str]] = {}  # of each node, by its name
        self._state_bytes = self._plan_bytes = b""
        self._drawn_episode = -1

    def configure(self) -> None:
        """Check what the session is about, and listen."""
        self.task = tasks.make(self.session.task)
        Supervisor(self.task, self.settings.safety)
        if self.session.run_dir:
            check_run_dir(Path(self.session.run_dir), self.session.started)
        self._diagnostics_subscription = self.create_subscription(
            DiagnosticArray, "/diagnostics", self._on_diagnostics, DIAGNOSTICS
        )
        self._markers = self.create_lifecycle_publisher(MarkerArray, "plan_markers", LATEST)
        self._timeline = PlanTimeline(self.task.control_dt, 3600.0)
        self._heard_for_markers: list[object] = []
        self._timers = [
            self.create_timer(self.PROGRESS, self._show, clock=STEADY),
            self.create_timer(self.DRAWING, self._draw, clock=STEADY),
        ]

    # ---- progress --------------------------------------------------------------------------

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        prefix = f"{self.DIAGNOSTICS_NAME}{self.get_namespace().rstrip('/')}/"
        for status in message.status:
            if status.name.startswith(prefix):
                self._news[status.name[len(prefix) :]] = {value.key: value.value for value in status.values}
                if status.name == f"{prefix}bridge":
                    self._on_bridge()

    def _on_bridge(self) -> None:
        news = self._news["bridge"]
        self._heard = time.monotonic()
        if "step" not in news:
            return
        if self._first is None and int(news["step"]):
            self._first, self._begun = int(news["step"]), self._heard
        if news.get("finished") == "True":
            self._show()
            raise KeyboardInterrupt  # the session is over: end as if told to

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._heard > self.SILENCE:
            self.get_logger().warning(f"no word of the bridge for {now - self._heard:.0f} s; is it running?")
            return
        bridge, planner, learner = (self._news.get(name, {}) for name in ("bridge", "planner", "learner"))
        if self._first is None:
            return
        step, period = int(bridge["step"]), self.task.control_dt
        parts = [f"{step * period:7.2f} s"]
        if self._heard > self._begun:
            parts.append(f"x{(step - self._first) * period / (self._heard - self._begun):.2f}")
        parts += [f"episode {bridge['episode']}", f"return {float(bridge['return']):.2f}"]
        if "plan_ms" in planner:
            parts.append(f"plan {float(planner['plan_ms']):.1f} ms")
            if planner["deadlines_missed"] != "0":
                parts.append(f"{planner['deadlines_missed']} late")
        if "version" in learner:
            parts.append(f"weights {learner['version']}")
        self.get_logger().info("  ".join(parts))

    # ---- markers ---------------------------------------------------------------------------

    def _on_state(self, message: bytes) -> None:
        self._state_bytes = message

    def _on_plan(self, message: bytes) -> None:
        self._plan_bytes = message

    def _draw(self) -> None:
        """Publish where the plans in effect lead from the newest state."""
        watched = self._markers.get_subscription_count() > 0
        if watched != bool(self._heard_for_markers):
            for subscription in self._heard_for_markers:
                self.destroy_subscription(subscription)
            self._state_bytes = self._plan_bytes = b""
            # Raw: of many only those that are drawn are decoded.
            self._heard_for_markers = (
                [
                    self.create_subscription(State, "state", self._on_state, LATEST, raw=True),
                    self.create_subscription(Plan, "plan", self._on_plan, LATEST, raw=True),
                ]
                if watched
                else []
            )
        if not self._state_bytes or not self._plan_bytes:
            return
        message = deserialize_message(self._state_bytes, State)
        try:
            state = convert.state_vector(message, self.task)
            plan = convert.timed_plan(deserialize_message(self._plan_bytes, Plan), self.task)
        except convert.MessageError:
            return  # bridge and planner say what is wrong with it
        if plan.episode != self._drawn_episode:
            self._drawn_episode = plan.episode
            self._timeline.reset(plan.episode)
        self._timeline.add(plan)
        actions: list[FloatArray] = []
        while (action := self._timeline.action(message.step + len(actions)).action) is not None:
            actions.append(action)
        if actions:
            paths = trace(self.task, state, np.array(actions))
            self.send(self._markers, convert.path_markers(paths, self.get_clock().now().to_msg()))


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return spin(Monitor, args, background=True)
