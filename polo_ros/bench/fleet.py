"""What a robot of a fleet costs: CPU of its nodes, of learner and recorder, and whether every transition arrives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from polo_ros import tasks
from polo_ros.replay.bag_reader import BagReader
from polo_ros.replay.bag_types import LEARNER_STATUS
from polo_ros.replay.summary import summarise

TASK = "cartpole_swingup"  # 50 Hz
TICK = 1.0 / os.sysconf("SC_CLK_TCK")  # s, unit of the kernel's CPU times


class Node(NamedTuple):
    """A node of the fleet; the robot is empty for those that serve all."""

    robot: str
    name: str


@dataclass(frozen=True)
class Sample:
    """CPU time used until a moment, s."""

    at: float  # time.time()
    nodes: dict[Node, float]
    machine: float  # of everybody on all cores


def bench_fleet(robots: int, duration: float) -> dict[str, object]:
    """Run a fleet of mock robots for `duration` s of robot time, at 50 Hz; where the CPU goes, and what was lost.

    CPU is in cores, over the time in which all robots are controlled, restarted nodes included from their restart on;
    `load` is the machine's load average before and after. "lost" are the robot's control periods that the bag does not
    have, wherever they are missing.

    Raises:
        ValueError: Not 1 to 8 robots, or less than a second.
        RuntimeError: The session failed, with the end of its output, or was too short to be measured.
    """
    if not 1 <= robots <= 8:
        raise ValueError(f"robots = {robots} is not from 1 to 8, which is what fleet.launch.xml has")
    if duration < 1.0:
        raise ValueError(f"duration = {duration} is below its minimum 1")
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="polo_bench_") as folder:
        run_dir = Path(folder) / "run"
        command = [str(Path(sys.prefix) / "bin" / "polo"), "launch", "fleet", f"task:={TASK}", "driver:=mock"]
        command += [f"robots:={robots}", f"duration:={duration}", f"run_dir:={run_dir}"]
        samples = _watch(command, limit=duration * 3 + 180)
        facts = summarise(run_dir, make_video=False)
        begin, end = controlled(run_dir)
        statuses = [message for _, message in BagReader(run_dir / "bag").decoded(types=[LEARNER_STATUS])]
    used, machine = cores(samples, begin, end)
    names = [f"robot_{number + 1}" for number in range(robots)]
    wanted = round(duration / tasks.make(TASK).control_dt)
    found = facts["robots"] if robots > 1 else {names[0]: facts}
    return {
        "robots": robots,
        "duration_s": duration,
        "cores": os.cpu_count(),
        "load": [round(before, 2), round(os.getloadavg()[0], 2)],
        "cpu_fleet": sum(used.values()),
        "cpu_others": max(0.0, machine - sum(used.values())),
        "cpu_learner": used.get(Node("", "learner"), 0.0),
        "cpu_recorder": used.get(Node("", "recorder"), 0.0),
        "cpu_monitor": used.get(Node("", "monitor"), 0.0),
        "lost": sum(wanted - found[name]["steps"] for name in names),
        "learner_lost": facts["learner_transitions_lost"],
        "learner_updates": int(statuses[-1].updates) if statuses else 0,
        "by_robot": {
            name: {
                "cpu_bridge": used.get(Node(name, "bridge"), 0.0),
                "cpu_planner": used.get(Node(name, "planner"), 0.0),
                "steps": found[name]["steps"],
                "lost": wanted - found[name]["steps"],
                "real_time_factor": found[name]["real_time_factor"],
                "plan_ms_p50": found[name]["plan_ms_p50"],
                "deadlines_missed": found[name]["deadlines_missed"],
                "safe_stops": found[name]["safe_stops"],
            }
            for name in names
        },
    }


def format_fleet(facts: Mapping[str, Any]) -> str:
    """What `bench_fleet` found, for people."""
    load = " and ".join(f"{value:.2f}" for value in facts["load"])
    lines = [
        f"{facts['robots']} robots, {facts['duration_s']:g} s at 50 Hz, {facts['cores']} cores, load {load}",
        f"  CPU, cores: fleet {facts['cpu_fleet']:.2f}, others on the machine {facts['cpu_others']:.2f}; "
        f"learner {facts['cpu_learner']:.2f}, recorder {facts['cpu_recorder']:.2f}, monitor {facts['cpu_monitor']:.2f}",
        f"  transitions lost: {facts['lost']} on their way to the bag, {facts['learner_lost']} to the learner, "
        f"which made {facts['learner_updates']} updates",
        "  robot     bridge  planner   steps  lost  real time  plan p50 ms  late  safe stops",
    ]
    for name, robot in facts["by_robot"].items():
        pace = "-" if robot["real_time_factor"] is None else f"{robot['real_time_factor']:.3f}"
        plan = "-" if robot["plan_ms_p50"] is None else f"{robot['plan_ms_p50']:.2f}"
        lines.append(
            f"  {name:<8}  {robot['cpu_bridge']:6.3f}  {robot['cpu_planner']:7.3f}  {robot['steps']:6d}  "
            f"{robot['lost']:4d}  {pace:>9}  {plan:>11}  {robot['deadlines_missed']:4d}  {robot['safe_stops']:10d}"
        )
    return "\n".join(lines)


def controlled(run_dir: Path) -> tuple[float, float]:
    """From when to when all robots in a run's bag were controlled, time.time()."""
    reader = BagReader(run_dir)
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for record in reader.records(topics=set(reader.robots().values())):
        first.setdefault(record.topic.name, record.publish_time_ns)
        last[record.topic.name] = record.publish_time_ns
    return max(first.values(), default=0) / 1e9, min(last.values(), default=0) / 1e9


def cores(samples: list[Sample], begin: float, end: float) -> tuple[dict[Node, float], float]:
    """Cores that each node, and everybody together, used from `begin` to `end`, as far as samples lie in between.

    Raises:
        RuntimeError: Fewer than two samples do.
    """
    within = [sample for sample in samples if begin <= sample.at <= end]
    if len(within) < 2:
        raise RuntimeError(f"{len(within)} samples in the {end - begin:.1f} s of control: the run is too short")
    span = within[-1].at - within[0].at
    used: dict[Node, float] = {}
    for earlier, later in zip(within, within[1:], strict=False):
        for node, seconds in later.nodes.items():
            # A node that was restarted begins at 0 again.
            before = earlier.nodes.get(node, 0.0)
            used[node] = used.get(node, 0.0) + (seconds - before if seconds >= before else seconds) / span
    return used, (within[-1].machine - within[0].machine) / span


def _watch(command: list[str], limit: float) -> list[Sample]:
    """Run a session; samples of its nodes' CPU time, some in a second."""
    samples: list[Sample] = []
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + limit
            while process.poll() is None:
                if time.monotonic() > end:
                    raise RuntimeError(f"session did not end within {limit:.0f} s")
                samples.append(Sample(time.time(), dict(node_seconds(process.pid)), machine_seconds()))
                time.sleep(0.5)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait()
        output.seek(0)
        printed = output.read()
    if process.returncode:
        raise RuntimeError(f"session ended with {process.returncode}: {printed[-4000:]}")
    return samples


def node_seconds(launcher: int) -> Iterator[tuple[Node, float]]:
    """Each node that `launcher`, a process number, has started, and the CPU time that it has used, s."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()  # the name before it may hold anything
            words = (folder / "cmdline").read_text().split("\0")
        except OSError:  # it has just ended
            continue
        if int(fields[1]) != launcher:
            continue
        namespace = next((word.partition(":=")[2] for word in words if word.startswith("__ns:=")), "")
        for word in words:
            if Path(word).parent.name == "polo_ros":  # lib/polo_ros/<node>
                yield Node(namespace.strip("/"), Path(word).name), (int(fields[11]) + int(fields[12])) * TICK
                break


def machine_seconds() -> float:
    """CPU time that everybody has used on all cores since the machine started, s."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _, _, irq, softirq = (int(field) for field in fields[:7])
    return (user + nice + system + irq + softirq) * TICK
