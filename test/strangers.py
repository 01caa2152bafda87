"""Somebody else on the network, for tests: hears a session and talks into it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from std_srvs.srv import Trigger

from polo_ros.msg import LearnerStatus, Plan, PlannerStatus, State, Transition
from polo_ros.nodes.base import DIAGNOSTICS, EVERY, LATCHED, LATEST

PATIENCE = 40.0  # s


@dataclass(frozen=True)
class Attack:
    """Something that a node must refuse.

    Attributes:
        counter: Name of the figure that counts it.
        said: What its diagnostics say of it.
        make: Prepares what is to be done, again and again.
    """

    counter: str
    said: str
    make: Callable[[Stranger], Callable[[], None]]


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
        self._own: set[bytes] = set()
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

    def refusals(self, attacks: Mapping[str, Sequence[Attack]]) -> set[tuple[str, str]]:
        """Attack nodes side by side, by name; node and words of each refusal that was counted and named.

        Diagnostics come once a second and name the last refusal only: a node is attacked in one way at a time.
        """
        found: set[tuple[str, str]] = set()
        going = [self._attack(node, sequence, found) for node, sequence in attacks.items()]
        while going:
            going = [one for one in going if next(one, "over") is None]
            self.executor.spin_once(timeout_sec=0.05)
        return found

    def _attack(self, node: str, attacks: Sequence[Attack], refused: set[tuple[str, str]]) -> Iterator[None]:
        """Attack a node in one way after the other; goes on each time that it is asked to."""
        for attack in attacks:
            act, acted, begun = attack.make(self), -math.inf, time.monotonic()
            before = int(self.figures(node)[attack.counter])
            while (node, attack.said) not in refused and time.monotonic() < begun + PATIENCE:
                if time.monotonic() - acted > 0.5:  # again and again: a topic of depth 1 may drop one
                    act()
                    acted = time.monotonic()
                yield
                figures = self.figures(node)
                if int(figures[attack.counter]) > before and attack.said in figures["last_refused"]:
                    refused.add((node, attack.said))

    def until(self, condition: Callable[[], bool], what: str, timeout: float = PATIENCE) -> None:
        limit = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < limit, f"{what} did not happen within {timeout} s"
            self.executor.spin_once(timeout_sec=0.05)

    def say(self, topic: str, message: Any, qos: Any, listeners: int) -> None:
        """Publish a message once `listeners` hear the topic."""
        self._own.add(serialize_message(message))
        self._publisher(topic, type(message), qos, listeners).publish(message)

    def _publisher(self, topic: str, kind: type, qos: Any, listeners: int) -> Any:
        if topic not in self._publishers:
            self._publishers[topic] = self.node.create_publisher(kind, topic, qos)
            found = self._publishers[topic].get_subscription_count
            self.until(lambda: found() >= listeners, f"discovery of those who hear {topic}")
        return self._publishers[topic]

    def newest_of(self, topic: str) -> Any:
        """The next message of a topic that is not one's own."""

        def is_there() -> bool:
            if topic in self.newest and serialize_message(self.newest[topic]) in self._own:
                del self.newest[topic]
            return topic in self.newest

        self.newest.pop(topic, None)
        self.until(is_there, f"a message on {topic}")
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
