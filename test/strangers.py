"""Somebody else on the network, for tests: hears a session and talks into it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from polo_ros.msg import LearnerStatus, Plan, PlannerStatus, State, Transition
from polo_ros.nodes.base import DIAGNOSTICS, EVERY, LATCHED, LATEST


class Stranger:
    """Somebody else on the network: hears a session and talks into it."""

    def __init__(self, domain: int) -> None:
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("stranger", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.newest: dict[str, Any] = {}
        self.diagnostics: dict[str, Any] = {}
        self._publishers: dict[str, Any] = {}
        for topic, kind, qos in (
            ("state", State, LATEST),
            ("plan", Plan, LATEST),
            ("transition", Transition, EVERY),
            ("planner/status", PlannerStatus, LATCHED),
            ("learner/status", LearnerStatus, LATCHED),
        ):
            self.node.create_subscription(kind, topic, lambda m, t=topic: self.newest.update({t: m}), qos)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._hear, DIAGNOSTICS)

    def _hear(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.diagnostics[status.name.rpartition("/")[2]] = status

    def figures(self, node: str) -> dict[str, str]:
        """What a node's newest diagnostics say."""
        self.until(lambda: node in self.diagnostics, f"diagnostics of {node}")
        return {value.key: value.value for value in self.diagnostics[node].values}

    def fresh_figures(self, node: str) -> dict[str, str]:
        """What a node's next diagnostics say."""
        self.diagnostics.pop(node, None)
        return self.figures(node)

    def refusal(self, node: str, counter: str, said: str, act: Callable[[], None]) -> None:
        """Do `act` until it is counted and named in the node's diagnostics: a topic of depth 1 may drop one."""
        before = int(self.figures(node)[counter])
        acted = -math.inf

        def refused() -> bool:
            nonlocal acted
            if time.monotonic() - acted > 0.5:
                act()
                acted = time.monotonic()
            figures = self.figures(node)
            return int(figures[counter]) > before and said in figures["last_refused"]

        self.until(refused, f"{node}: {counter} ({said})")

    def until(self, condition: Callable[[], bool], what: str, timeout: float = 40.0) -> None:
        limit = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < limit, f"{what} did not happen within {timeout} s"
            self.executor.spin_once(timeout_sec=0.05)

    def publisher(self, topic: str, kind: type, qos: Any, listeners: int) -> Any:
        if topic not in self._publishers:
            self._publishers[topic] = self.node.create_publisher(kind, topic, qos)
            found = self._publishers[topic].get_subscription_count
            self.until(lambda: found() >= listeners, f"discovery of those who hear {topic}")
        return self._publishers[topic]

    def newest_of(self, topic: str) -> Any:
        self.newest.pop(topic, None)
        self.until(lambda: topic in self.newest, f"a message on {topic}")
        return self.newest[topic]

    def call(self, kind: type, name: str, request: Any) -> Any:
        """The answer of a service."""
        client = self.node.create_client(kind, name)
        self.until(client.service_is_ready, f"service {name}")
        future = client.call_async(request)
        self.until(future.done, f"an answer of {name}")
        self.node.destroy_client(client)
        return future.result()

    def set_parameter(self, node: str, name: str, value: Any) -> Any:
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self.call(SetParameters, f"/{node}/set_parameters", request).results[0]

    def trigger(self, service: str) -> Any:
        return self.call(Trigger, f"/bridge/{service}", Trigger.Request())

    def transition(self, node: str, transition: int) -> bool:
        """Ask for a lifecycle transition; whether it was made."""
        request = ChangeState.Request()
        request.transition.id = transition
        return bool(self.call(ChangeState, f"/{node}/change_state", request).success)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()


@contextmanager
def stranger(domain: int) -> Iterator[Stranger]:
    """A stranger in ROS domain `domain`, on this machine only."""
    before = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE")
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    found = Stranger(domain)
    try:
        yield found
    finally:
        found.close()
        del os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"]
        if before is not None:
            os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = before
