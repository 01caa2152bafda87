"""Recorder: everything that travels, as raw bytes, into a bag; and the session's summary at its end."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import ParameterEvent
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState

from polo_ros import drivers, tasks
from polo_ros.agents.configs import CONFIGS
from polo_ros.config import flatten
from polo_ros.msg import Difference, LearnerStatus, Plan, PlannerStatus, State, Transition, Weights
from polo_ros.nodes.base import BACKGROUND, DIAGNOSTICS, EVERY, LATCHED, STEADY, PoloNode, spin
from polo_ros.nodes.known import OTHERS
from polo_ros.replay.bag_types import TRANSITION, BagError, TopicInfo, message_definition, qos_yaml, type_hash
from polo_ros.replay.bag_writer import BagWriter
from polo_ros.replay.session_info import SessionInfo, check_run_dir
from polo_ros.session.config import BridgeConfig, LearnerNodeConfig, PlannerConfig, RecorderConfig, ShadowNodeConfig

TOPICS: tuple[tuple[str, str, Any, QoSProfile], ...] = (
    ("state", "polo_ros/msg/State", State, EVERY),
    ("plan", "polo_ros/msg/Plan", Plan, EVERY),
    ("transition", "polo_ros/msg/Transition", Transition, EVERY),
    ("weights", "polo_ros/msg/Weights", Weights, LATCHED),
    ("planner/status", "polo_ros/msg/PlannerStatus", PlannerStatus, LATCHED),
    ("learner/status", "polo_ros/msg/LearnerStatus", LearnerStatus, LATCHED),
    ("joint_states", "sensor_msgs/msg/JointState", JointState, EVERY),
    ("shadow/state", "polo_ros/msg/State", State, EVERY),
    ("shadow/joint_states", "sensor_msgs/msg/JointState", JointState, EVERY),
    ("shadow/difference", "polo_ros/msg/Difference", Difference, EVERY),
    ("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", DiagnosticArray, DIAGNOSTICS),
    ("/parameter_events", "rcl_interfaces/msg/ParameterEvent", ParameterEvent, EVERY),
)


# Of these there is one for all robots.
SHARED = ("weights", "learner/status")


def topics_of(robots: Sequence[str]) -> list[tuple[str, str, Any, QoSProfile]]:
    """What is recorded: TOPICS as they are, or, with `robots`, each robot's below its name and the shared ones once."""
    if not robots:
        return list(TOPICS)
    shared = [topic for topic in TOPICS if topic[0] in SHARED or topic[0].startswith("/")]
    own = [topic for topic in TOPICS if topic not in shared]
    return [(f"{robot}/{name}", *rest) for robot in robots for name, *rest in own] + shared


class Recorder(PoloNode):
    """Writes messages as they come, without decoding them."""

    # s between two attempts to go on after a write that failed.
    RETRY = 5.0

    def __init__(self) -> None:
        super().__init__("recorder")
        self.settings = self.declare(RecorderConfig())
        # Known here to be kept with the bag; what changes live is recorded from /parameter_events.
        self._parameters: dict[str, Any] = flatten(self.session)
        agent = CONFIGS[self.session.agent]
        for config in (BridgeConfig(), PlannerConfig(), LearnerNodeConfig(), ShadowNodeConfig(), agent):
            self._parameters.update(flatten(self.declare(config)))
        self._driver = drivers.chosen(str(self._parameters["driver"]), self.session.task)
        overrides = self._parameter_overrides.items()
        self._parameters.update({name: given.value for name, given in overrides if name.startswith(f"{self._driver}.")})
        self.refuse_unknown(OTHERS)
        self._bag: BagWriter | None = None
        self._open: Callable[[], BagWriter]
        self._again = 0.0
        self._transitions = 0
        self.counts.update(messages_lost=0)

    def configure(self) -> None:
        """Open the bag and subscribe to everything."""
        if not self.session.run_dir:
            raise ValueError("run_dir is empty: the recorder needs a folder to write to")
        self._run_dir = Path(self.session.run_dir)
        task = tasks.make(self.session.task)
        info = SessionInfo(
            task=task.name,
            model_hash=task.model_hash,
            seed=self.session.seed,
            clock=self.session.clock,
            driver=self._driver,
            control_dt=task.control_dt,
            parameters=self._parameters,
        )
        check_run_dir(self._run_dir, self.session.started)
        self._run_dir.mkdir(parents=True, exist_ok=True)
        info.save(self._run_dir / "session.yaml")
        wanted = topics_of(self.session.robots)
        resolved = [(self.resolve_topic_name(name), kind, message, qos) for name, kind, message, qos in wanted]
        topics = [
            TopicInfo(
                name,
                kind,
                message_definition(kind),
                qos_yaml(
                    reliable=True,
                    transient_local=qos.durability == DurabilityPolicy.TRANSIENT_LOCAL,
                    depth=qos.depth,
                ),
                type_hash(kind),
            )
            for name, kind, _, qos in resolved
        ]
        self._open = partial(
            BagWriter, self._run_dir / "bag", topics, self.settings.split, info.to_metadata(), flush_s=1.0
        )
        self._bag = self._open()
        self._subscriptions_kept = [
            self.create_subscription(message, name, self._writer(name, kind == TRANSITION), self._deep(qos), raw=True)
            for name, kind, message, qos in resolved
        ]
        self._timer = self.create_timer(1.0, self._flush, clock=STEADY)
        self.get_logger().info(f"recording to {self._run_dir / 'bag'}")

    def cleanup(self) -> None:
        """Close the bag."""
        bag, self._bag = self._bag, None
        if bag is not None:
            try:
                bag.close()
            except BagError as error:
                self._fail(error)

    @staticmethod
    def _deep(qos: QoSProfile) -> QoSProfile:
        # A slow disk must not lose messages of a publisher whose own queue is short.
        return QoSProfile(depth=EVERY.depth, reliability=qos.reliability, durability=qos.durability)

    def _writer(self, topic: str, of_transitions: bool = False) -> Callable[[bytes, Mapping[str, int]], None]:
        def write(data: bytes, info: Mapping[str, int]) -> None:
            if not self._running:
                return
            self._transitions += of_transitions
            if self._bag is None:
                self.counts["messages_lost"] += 1
                return
            # The middleware's times: a recorder that has to wait for a core must not look like a late robot.
            # One that does not tell them says 0.
            received = info["received_timestamp"] or time.time_ns()
            try:
                self._bag.write(topic, data, received, info["source_timestamp"] or received)
            except BagError as error:
                self.counts["messages_lost"] += 1
                self._fail(error)

        return write

    def _flush(self) -> None:
        try:
            if self._bag is not None:
                self._bag.flush()
            elif self._running and time.monotonic() > self._again:
                # A disk may have room again: the bag goes on with its next file.
                self._bag = self._open()
                self.failure = ""
        except BagError as error:
            self._fail(error)

    def _fail(self, error: BagError) -> None:
        self.failure = f"recording failed: {error}; tried again every {self.RETRY:.0f} s"
        self.get_logger().error(self.failure, throttle_duration_sec=5.0)
        self._bag, self._again = None, time.monotonic() + self.RETRY

    def diagnose(self) -> Mapping[str, object]:
        """How far recording is."""
        if self._bag is None:
            return {}
        return {"messages": self._bag.messages, "transitions": self._transitions, "file": self._bag.path.name}


def main(args: Sequence[str] | None = None) -> int:
    """Run the node; after it, write and show the summary of what it recorded."""
    made: list[Recorder] = []

    def make() -> Recorder:
        made.append(Recorder())
        if not made[0].session.robots:
            # Nobody waits for it. With a fleet it does not yield: beside so many nodes it would never catch up.
            for thread in Path("/proc/self/task").iterdir():
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.setpriority(os.PRIO_PROCESS, int(thread.name), BACKGROUND)
        return made[0]

    code = spin(make, args)
    if code or not made or not made[0].settings.summary or not made[0].session.run_dir:
        return code
    from polo_ros.replay.summary import format_table, summarise  # plots and video: slow to load, wanted only now

    # ROS is shut down: a second signal ends the process the ordinary way from here on; the bag is closed.
    logger = rclpy.logging.get_logger("recorder")
    try:
        print(format_table(summarise(made[0].session.run_dir)), flush=True)
    except (BagError, OSError, ValueError) as error:
        logger.error(f"no summary: {error}")
        return 1
    return 0
