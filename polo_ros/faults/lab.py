"""A session under test, started as a user starts one, and the hands that faults take hold of it with."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from polo_ros import resources, tasks
from polo_ros.faults.journal import DRIVER, TRAFFIC, Record, Tail
from polo_ros.faults.kinds import NODES
from polo_ros.faults.oracle import Limits
from polo_ros.faults.probe import ORDER

TASK = "cartpole_swingup"
MAX_PLAN_AGE = 0.2  # s
MAX_STATE_AGE = 0.2  # s
EFFORT = 12.0  # N; the motor could 15
RATE = 25.0  # 1/s
DOMAIN = "87"  # of ROS, unless the environment names one

# Small, so that two cores carry it: what is tested is what happens to plans, not how good they are.
PARAMETERS = {
    "mppi": {"rollouts": 8, "horizon": 25},
    "targets": {"horizon": 4, "rollouts": 4},
    "learner": {"gradient_steps": 4, "target_states": 4},
    "checkpoint_period": 1.0,
    "summary": False,
    "threads": 1,
    "start_timeout": 10.0,
    "safety": {
        "model_limits": "never",
        # Joints never get there by themselves: a state that is beyond them was made by a fault.
        "position_low": [-10.0, -1e6],
        "position_high": [10.0, 1e6],
        "velocity_limit": [100.0, 1000.0],
        "effort_limit": [EFFORT],
        "rate_limit": [RATE],
        "max_state_age": MAX_STATE_AGE,
    },
}


class LabError(RuntimeError):
    """The session does not do what it should, in words."""


def limits(simulated: bool) -> Limits:
    """What must hold in a session of this laboratory."""
    task = tasks.make(TASK)
    gear = float(task.model.actuator_gear[0, 0])
    return Limits(
        low=[max(float(task.action_low[0]), -EFFORT / gear)],
        high=[min(float(task.action_high[0]), EFFORT / gear)],
        change=[RATE * task.control_dt],
        safe=[float(u) for u in task.resting_action],
        period=task.control_dt,
        max_plan_age=MAX_PLAN_AGE,
        max_state_age=0.0 if simulated else MAX_STATE_AGE,
        model_hash=task.model_hash,
    )


class Lab:
    """One session with driver `probe`, and an injector between its planner and its bridge.

    Args:
        folder: For everything that it writes; empty.
        simulated: Whether time waits for commands; else the robot moves by itself.
    """

    STARTING = 90.0  # s until the first planned command
    ENDING = 40.0  # s that a session may take to end when it is told to
    PLANNED = 5  # commands that follow a plan, of the last ten, for control to be there again

    RECORDED = 100  # messages in a second, of 250 or so, for everything to be recorded again

    def __init__(self, folder: Path, simulated: bool) -> None:
        self.folder = folder
        self.run_dir = folder / "run"
        self.simulated = simulated
        self.safe = limits(simulated).safe
        self.arms: list[float] = []
        self.stuck = ""  # who did not end when told to; empty: all did
        self.said: dict[str, Record] = {}  # the newest diagnostics of each node
        self._driver = Tail(folder / DRIVER)
        self._traffic = Tail(folder / TRAFFIC)
        self._commands: deque[Record] = deque(maxlen=10)
        self._orders = 0
        self._recorded = 0  # messages in the last second
        self._rival: subprocess.Popen[bytes] | None = None
        self._stopped: set[int] = set()  # processes that were sent SIGSTOP

    # ---- life ------------------------------------------------------------------------------

    def __enter__(self) -> Lab:
        """Start the session; it is under planned control afterwards."""
        resources.activate()
        self._environment = {
            "ROS_DOMAIN_ID": DOMAIN,
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(self._plugin()), os.environ.get("PYTHONPATH", "")])),
        }
        self._output = open(self.folder / "output.txt", "wb")  # noqa: SIM115  as long as the session
        self._injector = subprocess.Popen(
            [str(resources.executable("injector")), str(self.folder)],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._output,
            start_new_session=True,
        )
        polo = Path(sys.prefix) / "bin" / "polo"
        arguments = [f"task:={TASK}", "driver:=probe", "clock:=realtime", f"max_plan_age:={MAX_PLAN_AGE}"]
        arguments += [f"run_dir:={self.run_dir}", f"config:={self._parameters()}"]
        arguments += ["use_sim_time:=true"] if self.simulated else []
        self._launcher = subprocess.Popen(
            [str(polo), "launch", str(self._launch_file()), *arguments],
            env=self._environment,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self.until(self.in_control, self.STARTING, "planned control")
            self.until(lambda: set(self.nodes()) == set(NODES), 10.0, "all nodes")
            self.until(lambda: self.recording(0.0), 20.0, "recording")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the session."""
        self.close()

    def close(self) -> None:
        """End the session in order, as Ctrl-C does; leaves no process."""
        self.second_planner(False)
        for number in self._stopped:
            _kill(number, signal.SIGCONT)
        for process in (self._launcher, self._injector):
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in (self._launcher, self._injector):
            try:
                process.wait(timeout=self.ENDING)
            except subprocess.TimeoutExpired:
                self.stuck = " and ".join(sorted(self.nodes())) or "the launcher"
                process.kill()
                process.wait()
        for stream in (self._injector.stdin, self._injector.stdout, self._output):
            if stream is not None:
                stream.close()

    def _plugin(self) -> Path:
        """A folder that makes driver `probe` known to those who have it on their path, and to nobody else."""
        site = self.folder / "site"
        info = site / "polo_ros_faults-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: polo_ros_faults\nVersion: 1.0\n", encoding="utf-8")
        text = "[polo_ros.drivers]\nprobe = polo_ros.faults.probe:ProbeDriver\n"
        (info / "entry_points.txt").write_text(text, encoding="utf-8")
        return site

    def _parameters(self) -> Path:
        path = self.folder / "parameters.yaml"
        own = {"probe": {"folder": str(self.folder), "simulated": self.simulated}}
        path.write_text(yaml.safe_dump({"/**": {"ros__parameters": {**PARAMETERS, **own}}}), encoding="utf-8")
        return path

    def _launch_file(self) -> Path:
        """Session.launch.xml with the planner's state and plan led through the injector."""
        tree = ElementTree.parse(resources.path("launch", "session.launch.xml"))
        for node in tree.iter("node"):
            if node.get("exec") == "planner":
                for topic in ("plan", "state"):
                    ElementTree.SubElement(node, "remap", {"from": topic, "to": f"relay/{topic}"})
        path = self.folder / "session.launch.xml"
        tree.write(path, encoding="unicode")
        return path

    # ---- what is seen ----------------------------------------------------------------------

    def look(self) -> None:
        """Read on in the journals."""
        for record in self._driver.new():
            if record["do"] == "write":
                self._commands.append(record)
        for record in self._traffic.new():
            if record["do"] == "said":
                if record["node"] == "recorder":
                    before = int(self.said.get("recorder", {}).get("messages", 0))
                    self._recorded = int(record.get("messages", 0)) - before
                self.said[record["node"]] = record

    def in_control(self) -> bool:
        """Whether plans are played now."""
        self.look()
        if not self._commands or time.monotonic() - self._commands[-1]["t"] > 0.1:
            return False
        planned = [r for r in self._commands if r["action"] != self.safe and time.monotonic() - r["t"] < 0.5]
        return len(planned) >= self.PLANNED and self._commands[-1]["action"] != self.safe

    def recording(self, since: float) -> bool:
        """Whether the recorder has said since steady time `since` that it records."""
        self.look()
        said = self.said.get("recorder")
        return bool(said and said["t"] > since + 1.0 and said["ok"] and self._recorded > self.RECORDED)

    def running(self) -> bool:
        """Whether the session has not ended."""
        return self._launcher.poll() is None

    def nodes(self) -> dict[str, int]:
        """Process numbers of the session's nodes that are there."""
        found = {}
        children = Path(f"/proc/{self._launcher.pid}/task/{self._launcher.pid}/children")
        try:
            numbers = children.read_text(encoding="ascii").split()
        except OSError:
            return {}
        for number in numbers:
            try:
                words = Path(f"/proc/{number}/cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            for word in words:
                path = Path(word)
                if path.parent.name == "polo_ros" and path.name in NODES:
                    found[path.name] = int(number)
        return found

    def until(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        """Wait for a condition.

        Raises:
            LabError: It does not come true in time, or the session ends.
        """
        end = time.monotonic() + timeout
        while not condition():
            if not self.running():
                raise LabError(f"the session ended before {what}: {self.tail()}")
            if time.monotonic() > end:
                raise LabError(f"no {what} within {timeout:g} s")
            time.sleep(0.02)

    def tail(self) -> str:
        """The first thing of all that the session printed that ended a node; empty: there was none."""
        lines = (self.folder / "output.txt").read_text(errors="replace").splitlines()
        return next((line for line in lines if "[FATAL]" in line or "cannot start" in line), "")

    # ---- hands -----------------------------------------------------------------------------

    def inject(self, command: Mapping[str, Any]) -> None:
        """Tell the injector."""
        assert self._injector.stdin is not None
        try:
            self._injector.stdin.write(json.dumps(command).encode() + b"\n")
            self._injector.stdin.flush()
        except BrokenPipeError:
            raise LabError(f"the injector has ended: {self.tail()}") from None

    def arm(self) -> str:
        """Call ~/arm; why it was refused, empty if it was not."""
        stream = self._injector.stdout
        assert stream is not None
        self.inject({"do": "call", "service": "bridge/arm"})
        asked = time.monotonic()
        while time.monotonic() < asked + 5.0:
            if select.select([stream], [], [], 0.1)[0]:
                answer = json.loads(stream.readline() or b"{}")
                if answer.get("success"):
                    self.arms.append(asked)
                    return ""
                if "message" in answer:
                    return str(answer["message"])
        return "no answer"

    def order(self, call: str, what: str, times: int) -> None:
        """Tell the driver to fail."""
        self._orders += 1
        draft = self.folder / f"{ORDER}.new"
        draft.write_text(json.dumps({"id": self._orders, "call": call, "what": what, "times": times}), encoding="utf-8")
        draft.replace(self.folder / ORDER)

    def signal(self, node: str, number: signal.Signals) -> None:
        """Send a signal to a node, as soon as it is there."""
        self.until(lambda: node in self.nodes(), 20.0, f"process of {node}")
        process = self.nodes()[node]
        if number is signal.SIGSTOP:
            self._stopped.add(process)
        _kill(process, number)

    def limit_files(self, node: str, more: int | None) -> None:
        """Let a node's files grow by `more` bytes at most; None: without limit."""
        process = self.nodes().get(node)
        if process is None:
            return
        _, hard = resource.prlimit(process, resource.RLIMIT_FSIZE)
        size = resource.RLIM_INFINITY
        if more is not None:
            bags = [path.stat().st_size for path in (self.run_dir / "bag").glob("*.mcap")]
            size = bags[-1] + more if more and bags else 0
        resource.prlimit(process, resource.RLIMIT_FSIZE, (hard if more is None else size, hard))

    def second_planner(self, there: bool) -> None:
        """Start another planner process, or end it."""
        if self._rival is not None:
            self._rival.send_signal(signal.SIGINT)
            try:
                self._rival.wait(timeout=10.0)
            except subprocess.TimeoutExpired:
                self._rival.kill()
                self._rival.wait()
            self._rival = None
        if there:
            command = [str(resources.executable("planner")), "--ros-args", "-r", "__node:=second_planner"]
            for topic in ("plan", "state"):
                command += ["-r", f"{topic}:=relay/{topic}"]
            command += ["-p", f"task:={TASK}", "-p", "seed:=1", "--params-file", str(self.folder / "parameters.yaml")]
            self._rival = subprocess.Popen(
                command, env=self._environment, stdout=self._output, stderr=subprocess.STDOUT, start_new_session=True
            )


def _kill(process: int, number: signal.Signals) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return
