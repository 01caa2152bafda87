"""Monitor: progress on the terminal, the plan as markers; ends when the session's duration is over."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.serialization import deserialize_message
from visualization_msgs.msg import MarkerArray

from polo_ros import drivers, tasks
from polo_ros.agents.configs import CONFIGS
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


@dataclass
class _Robot:
    """What was heard of one robot's bridge; times are time.monotonic()."""

    begun: float  # of control, as far as it was seen
    heard: float
    controlled: float  # newest of these times that control was still going on
    first: int | None = None  # step at which control was seen first
    step: int = 0
    finished: bool = False


class Monitor(PoloNode):
    """Watches a session; a launch file that says so ends the session with it.

    It lives on what nodes say on /diagnostics once a second: listening to every state and plan would
    take from control what control needs. States and plans are heard only while somebody looks at the
    markers. Of several robots it shows the slowest, waits for the last, and draws none.
    """

    # s between two lines of progress.
    PROGRESS = 2.0
    # s without news of the bridge before the monitor says that the session stands still.
    SILENCE = 5.0
    # s that a fleet's recorder may take, once all robots are done, to write down what it has not taken in yet.
    CATCHING_UP = 60.0
    # s between two drawings of the plan.
    DRAWING = 0.2

    def __init__(self) -> None:
        super().__init__("monitor")
        # All settings are checked here, where a wrong one ends the session: other nodes would be restarted for ever.
        agent = CONFIGS[self.session.agent]
        for config in (agent, *(config for config in OTHERS if config not in CONFIGS.values())):
            self.declare(config)
        self.settings = self.config(BridgeConfig)
        driver = drivers.chosen(self.settings.driver, self.session.task)
        self.declare(drivers.settings(driver))
        self.refuse_unknown(OTHERS, driver)
        now = time.monotonic()
        self._robots = {name: _Robot(now, now, now) for name in self.session.robots or ("",)}
        self._done = 0.0  # when the last robot was, time.monotonic(); 0: it is not
        self._recorded = ""  # transitions that the recorder had when it was heard last, of a fleet that is done
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
        self._timers = [self.create_timer(self.PROGRESS, self._show, clock=STEADY)]
        if not self.session.robots:
            self._timers.append(self.create_timer(self.DRAWING, self._draw, clock=STEADY))

    # ---- progress --------------------------------------------------------------------------

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        prefix = f"{self.DIAGNOSTICS_NAME}{self.get_namespace().rstrip('/')}/"
        for status in message.status:
            if not status.name.startswith(prefix):
                continue
            name = status.name[len(prefix) :]
            self._news[name] = {value.key: value.value for value in status.values}
            robot, _, node = name.rpartition("/")
            if node == "bridge" and robot in self._robots:
                self._on_bridge(self._robots[robot], self._news[name])
            elif name == "recorder" and self._done:
                self._on_recorder(self._news[name].get("transitions", ""))

    def _on_bridge(self, robot: _Robot, news: dict[str, str]) -> None:
        robot.heard = time.monotonic()
        if "step" not in news:
            return
        before, robot.step = robot.step, int(news["step"])
        if robot.first is None and robot.step:
            robot.first, robot.begun = robot.step, robot.heard
        robot.finished = news.get("finished") == "True"
        if not robot.finished or robot.step != before:  # the bridge says where control ended, and settles then
            robot.controlled = robot.heard
        if not all(one.finished for one in self._robots.values()):
            return
        if not self._done:
            self._done = robot.heard
            self._show()
        # One robot waits by itself until its transitions are written; many give the recorder more to do than that.
        if not (self.session.robots and self.session.recorder) or robot.heard - self._done > self.CATCHING_UP:
            self._end()

    def _on_recorder(self, transitions: str) -> None:
        if transitions and transitions == self._recorded:
            self._end()  # no more came within a second
        self._recorded = transitions

    def _end(self) -> None:
        raise KeyboardInterrupt  # the session is over: end as if told to

    def _show(self) -> None:
        now = time.monotonic()
        if self._done and self._done < now - self.PROGRESS:
            self.get_logger().info("all robots are done; the recorder is catching up")
            return
        silent = {name: now - robot.heard for name, robot in self._robots.items() if now - robot.heard > self.SILENCE}
        if silent:
            of = f" of {', '.join(silent)}" if self.session.robots else ""
            self.get_logger().warning(f"no word of the bridge{of} for {max(silent.values()):.0f} s; is it running?")
        known = {name: robot for name, robot in self._robots.items() if name not in silent and robot.first is not None}
        if known:
            self.get_logger().info(self._progress(known))

    def _progress(self, robots: dict[str, _Robot]) -> str:
        """A line about robots that move; time and pace are those of the slowest."""
        slowest, period = min(robots.values(), key=lambda robot: robot.step), self.task.control_dt
        parts = [f"{slowest.step * period:7.2f} s"]
        if slowest.controlled > slowest.begun:
            steps = slowest.step - (slowest.first or 0)
            parts.append(f"x{steps * period / (slowest.controlled - slowest.begun):.2f}")
        bridges = [self._news[f"{name}/bridge".lstrip("/")] for name in robots]
        planners = [self._news.get(f"{name}/planner".lstrip("/"), {}) for name in robots]
        planners = [planner for planner in planners if "plan_ms" in planner]
        returned = sum(float(bridge["return"]) for bridge in bridges) / len(bridges)
        parts.append(f"{len(robots)} robots" if self.session.robots else f"episode {bridges[0]['episode']}")
        parts.append(f"return {returned:.2f}")
        if planners:
            parts.append(f"plan {max(float(planner['plan_ms']) for planner in planners):.1f} ms")
            late = sum(int(planner["deadlines_missed"]) for planner in planners)
            if late:
                parts.append(f"{late} late")
            for name, word in (("infeasible_plans", "infeasible"), ("plans_beyond_limit", "beyond limit")):
                if number := sum(int(planner.get(name, 0)) for planner in planners):
                    parts.append(f"{number} {word}")
        learner = self._news.get("learner", {})
        if "version" in learner:
            parts.append(f"weights {learner['version']}")
        return "  ".join(parts)

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
