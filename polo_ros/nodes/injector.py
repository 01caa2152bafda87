"""Injector of a fault campaign: stands between planner and bridge, and does to messages what it is told.

Commands come as JSON, a line each, on standard input; answers go out on standard output. The planner's `plan` and
`state` are remapped to relay/plan and relay/state, so that every plan that the bridge ever hears went through here and
is in the journal.
"""

from __future__ import annotations

import copy
import heapq
import itertools
import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from std_srvs.srv import Trigger

from polo_ros.faults.journal import TRAFFIC, Journal
from polo_ros.faults.messages import spoil
from polo_ros.msg import Plan, PlannerStatus, State, Transition, Weights
from polo_ros.nodes.base import DIAGNOSTICS, EVERY, LATCHED, LATEST, RCLError

# Where a spoilt message of each type goes to, and how.
TARGETS: Mapping[str, tuple[str, Any, QoSProfile]] = {
    "Plan": ("plan", Plan, LATEST),
    "State": ("relay/state", State, LATEST),
    "Transition": ("transition", Transition, EVERY),
    "Weights": ("weights", Weights, LATCHED),
    "PlannerStatus": ("planner/status", PlannerStatus, LATCHED),
}
RELAYED = {"plan": "Plan", "state": "State"}
TICK = 0.02  # s between two spoilt messages
RIVAL = 0xBAD


class Injector:
    """One node, one thread, and a second one that reads commands.

    Args:
        folder: Of the journal.
    """

    def __init__(self, folder: Path) -> None:
        self._journal = Journal(folder / TRAFFIC)
        self._node = rclpy.create_node("injector")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._commands: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._newest: dict[str, Any] = {}
        self._publishers: dict[str, Any] = {}
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._rng = np.random.default_rng(0)
        self._calls: list[tuple[Any, Any]] = []
        self._clock: Any = None
        self._normal()
        for name in ("Plan", "State"):
            self._publisher(name)
        listen = self._node.create_subscription
        for topic, kind, heard, qos in (
            ("relay/plan", Plan, self._hear_plan, EVERY),
            ("state", State, self._hear_state, EVERY),
            ("transition", Transition, self._hear("Transition"), LATEST),
            ("weights", Weights, self._hear("Weights"), LATCHED),
            ("planner/status", PlannerStatus, self._hear("PlannerStatus"), LATCHED),
            ("/diagnostics", DiagnosticArray, self._hear_diagnostics, DIAGNOSTICS),
        ):
            listen(kind, topic, heard, qos)

    def run(self) -> None:
        """Serve until standard input ends."""
        threading.Thread(target=self._read, daemon=True).start()
        self._say({"ready": True})
        while True:
            patience = max(0.0, min(0.01, self._due[0][0] - time.monotonic())) if self._due else 0.01
            self._executor.spin_once(timeout_sec=patience)
            while self._due and self._due[0][0] <= time.monotonic():
                heapq.heappop(self._due)[2]()
            while not self._commands.empty():
                command = self._commands.get()
                if command is None:
                    return
                self._obey(command)
            self._act()
            self._answer()

    # ---- commands --------------------------------------------------------------------------

    def _read(self) -> None:
        for line in sys.stdin:
            self._commands.put(json.loads(line))
        self._commands.put(None)

    def _say(self, answer: Mapping[str, Any]) -> None:
        print(json.dumps(answer), flush=True)

    def _normal(self) -> None:
        self._spoilt: dict[str, Any] | None = None
        self._relay: dict[str, dict[str, Any]] = {}
        self._rival = False
        self._clock_says: float | None = None
        self._acted = 0.0

    def _obey(self, command: dict[str, Any]) -> None:
        do = command["do"]
        if do == "call":
            client = self._node.create_client(Trigger, command["service"])
            if not client.wait_for_service(timeout_sec=0.5):
                self._node.destroy_client(client)
                self._say({"success": False, "message": "no such service"})
                return
            self._calls.append((client, client.call_async(Trigger.Request())))
            return
        self._normal()
        wanted = command["message"] if do == "spoil" else ""
        # What is latched stays for those who come later: until something else is done.
        for name in [n for n in self._publishers if n in ("Weights", "PlannerStatus", "Transition") and n != wanted]:
            self._node.destroy_publisher(self._publishers.pop(name))
        if do == "spoil":
            self._spoilt = command
            self._publisher(wanted)
        elif do == "relay":
            self._relay[command["topic"]] = command
        elif do == "rival":
            self._rival = True
        elif do == "clock":
            self._clock_says = command["seconds"]
            self._clock = self._clock or self._node.create_publisher(Clock, "/clock", 1)

    def _answer(self) -> None:
        for call in [call for call in self._calls if call[1].done()]:
            self._calls.remove(call)
            answer = call[1].result()
            self._node.destroy_client(call[0])
            self._say({"success": answer.success, "message": answer.message})

    # ---- what comes in ---------------------------------------------------------------------

    def _hear(self, name: str) -> Callable[[Any], None]:
        def hear(message: Any) -> None:
            # Its own come back: they must not be spoilt twice.
            if self._spoilt is None or self._spoilt["message"] != name or name not in self._newest:
                self._newest[name] = message
            if name == "Weights":
                self._journal.write({"t": time.monotonic(), "do": "weights", "version": message.version})

        return hear

    def _hear_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            node = status.name.rpartition("/")[2]
            figures = {value.key: value.value[:200] for value in status.values}
            self._journal.write(
                {"t": time.monotonic(), "do": "said", "node": node, "ok": status.message == "ok", **figures}
            )

    def _hear_plan(self, message: Plan) -> None:
        self._newest["Plan"] = message
        self._pass_on("plan", message)

    def _hear_state(self, message: State) -> None:
        self._newest["State"] = message
        self._journal.write(
            {
                "t": time.monotonic(),
                "do": "state",
                "step": message.step,
                "episode": message.episode,
                "qpos": list(message.qpos),
                "qvel": list(message.qvel),
            }
        )
        self._pass_on("state", message)

    # ---- what goes out ---------------------------------------------------------------------

    def _publisher(self, name: str) -> Any:
        if name not in self._publishers:
            topic, kind, qos = TARGETS[name]
            self._publishers[name] = self._node.create_publisher(kind, topic, qos)
        return self._publishers[name]

    def _send(self, name: str, message: Any) -> None:
        if name == "Plan":
            self._journal.write(
                {
                    "t": time.monotonic(),
                    "do": "plan",
                    "planner_id": message.planner_id,
                    "state_step": message.state_step,
                    "first_step": message.first_step,
                    "episode": message.episode,
                    "model_hash": message.model_hash[:40],
                    "dt": message.dt,
                    "horizon": message.horizon,
                    "nu": message.nu,
                    "actions": list(message.actions),
                }
            )
        self._publisher(name).publish(message)

    def _pass_on(self, topic: str, message: Any) -> None:
        name = RELAYED[topic]
        if self._spoilt is not None and self._spoilt["message"] == name and self._spoilt["instead"]:
            self._send(name, self._spoil(message))
            return
        how = self._relay.get(topic)
        if how is None:
            self._send(name, message)
            return
        for _ in range(1 + how["copies"]):
            if self._rng.random() < how["loss"]:
                continue
            due = time.monotonic() + how["delay"] + self._rng.random() * how["shuffle"]
            send = (due, next(self._numbers), lambda: self._send(name, message))
            heapq.heappush(self._due, send)

    def _spoil(self, message: Any) -> Any:
        assert self._spoilt is not None
        changed = copy.deepcopy(message)
        for edit in self._spoilt["edits"]:
            spoil(changed, edit)
        return changed

    def _act(self) -> None:
        """What is to be done again and again."""
        now = time.monotonic()
        if now - self._acted < TICK:
            return
        self._acted = now
        if self._spoilt is not None and not self._spoilt["instead"]:
            name = self._spoilt["message"]
            if name in self._newest:
                self._send(name, self._spoil(self._newest[name]))
        if self._rival and "State" in self._newest and "Plan" in self._newest:
            plan = copy.deepcopy(self._newest["Plan"])
            state = self._newest["State"]
            plan.planner_id = RIVAL
            plan.state_step = plan.first_step = state.step
            plan.episode = state.episode
            plan.actions = type(plan.actions)("d", [1.0] * len(plan.actions))
            self._send("Plan", plan)
        if self._clock_says is not None:
            message = Clock()
            message.clock.sec = int(self._clock_says)
            self._clock.publish(message)


def main() -> int:
    """Run the injector on the folder that is given."""
    rclpy.init(args=sys.argv)
    try:
        Injector(Path(sys.argv[1])).run()
    except (KeyboardInterrupt, ExternalShutdownException, RCLError):
        if rclpy.ok():
            raise
    finally:
        rclpy.try_shutdown()
    return 0
