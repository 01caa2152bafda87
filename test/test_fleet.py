"""Several robots, one learner, one recorder: streams stay apart, nothing is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import bag_samples as samples
import numpy as np
import pytest
import rclpy
import safetensors.numpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from learning_fakes import CartTask, LinearDynamics, wander
from session_runs import node_process, session

from polo_ros.bench.fleet import Node, Sample, bench_fleet, controlled, cores, machine_seconds
from polo_ros.learning.checkpoint import CheckpointError
from polo_ros.learning.polo_learner import LearnerConfig, PoloLearner
from polo_ros.learning.targets import TargetConfig
from polo_ros.learning.value_ensemble import ValueConfig
from polo_ros.learning.weights import digest
from polo_ros.nodes.monitor import Monitor
from polo_ros.nodes.recorder import TOPICS, topics_of
from polo_ros.replay import bag_tools
from polo_ros.replay.bag_reader import BagReader, read_transitions
from polo_ros.replay.bag_types import LEARNER_STATUS, PLANNER_STATUS, BagError
from polo_ros.replay.bag_writer import BagWriter
from polo_ros.replay.buffer import ReplayBuffer
from polo_ros.replay.summary import format_table, summarise
from polo_ros.replay.transition import Transition
from polo_ros.session.config import SessionConfig

DOMAIN = 172


def transition(step: int, action: float, episode: int = 0) -> Transition:
    """One whose action alone tells where it is from."""
    return Transition(step, episode, step, np.zeros(3), np.zeros(2), np.full(1, action), 0.0, np.zeros(2))


# ---- the replay buffer


def mixed(capacity: int, seed: int, count: int) -> tuple[ReplayBuffer, list[tuple[int, Transition]]]:
    """Transitions of three robots in a random order, some lost, some episodes; and a plain list of what is kept."""
    rng = np.random.default_rng(seed)
    buffer, steps, episodes = ReplayBuffer(capacity, 3, 2, 1, robots=3), [0, 0, 0], [0, 0, 0]
    everything = []
    for number in range(count):
        robot = int(rng.integers(3))
        steps[robot] += 1 + (rng.random() < 0.1)
        episodes[robot] += rng.random() < 0.05
        one = transition(steps[robot], number + 1.0, episodes[robot])
        buffer.add(one, robot)
        everything.append((robot, one))
    return buffer, everything[-capacity:]


def followed(kept: list[tuple[int, Transition]], index: int, horizon: int) -> list[float]:
    """The actions of a robot from `kept[index]` on, found one by one."""
    robot, now = kept[index]
    out = []
    for other, later in kept[index:]:
        if other == robot:
            if (later.step, later.episode) != (kept[index][1].step + len(out), now.episode):
                break
            out.append(float(later.action[0]))
    return (out + [0.0] * horizon)[:horizon]


@pytest.mark.parametrize("seed", range(5))
def test_following_actions_are_the_same_robots(seed: int) -> None:
    buffer, kept = mixed(60, seed, 100)
    indexes = np.arange(60)
    expected = [followed(kept, index, 7) for index in indexes]
    assert max(map(np.count_nonzero, expected)) == 7, "no robot was followed all the way"
    np.testing.assert_array_equal(buffer.following_actions(indexes, 7)[..., 0], expected)


def test_a_buffer_of_several_robots_is_saved_and_loaded_whole() -> None:
    buffer, _ = mixed(20, 0, 50)
    other = ReplayBuffer(20, 3, 2, 1, robots=3)
    other.load(buffer.arrays())
    indexes = np.arange(20)
    np.testing.assert_array_equal(other.following_actions(indexes, 5), buffer.following_actions(indexes, 5))
    with pytest.raises(ValueError, match="buffer 'robot' goes up to 2, expected 0 to 1"):
        ReplayBuffer(20, 3, 2, 1, robots=2).load(buffer.arrays())


def test_a_robot_that_is_not_there_is_refused() -> None:
    buffer = ReplayBuffer(4, 3, 2, 1, robots=2)
    with pytest.raises(ValueError, match="robot 2 is none of the 2"):
        buffer.add(transition(0, 1.0), 2)
    assert len(buffer) == 0


# ---- the learner


def learner(robots: int) -> PoloLearner:
    return PoloLearner(
        CartTask(),
        LinearDynamics(),
        value=ValueConfig(members=3, hidden=8),
        targets=TargetConfig(horizon=4, rollouts=5),
        learner=LearnerConfig(update_every=8, gradient_steps=6, batch_size=5, capacity=90, min_transitions=4),
        seed=7,
        robots=robots,
    )


def test_each_robot_has_a_numbering_of_its_own() -> None:
    fleet, walk = learner(3), wander(CartTask(), 40)
    for step in (0, 1, 2):
        assert fleet.observe(walk[step], 0)
    assert fleet.observe(walk[30], 1)  # joined late: nothing is lost yet
    assert fleet.observe(walk[33], 1)
    assert fleet.observe(walk[3], 0)
    assert not fleet.observe(walk[33], 1)
    assert fleet.message == "transition 33 is not newer than the last one, 33"
    assert (fleet.lost, fleet.transitions_lost, fleet.transitions_refused) == ([0, 2, 0], 2, 1)


def test_updates_come_once_in_a_period_of_the_schedule_whatever_the_number_of_robots() -> None:
    fleet, walk = learner(4), wander(CartTask(), 32)
    versions = []
    for one in walk:
        for robot in range(4):
            fleet.observe(one, robot)
            if fleet.due(one.step):
                versions.append((fleet.update().version, one.step, robot))
    assert versions == [(1, 7, 3), (2, 15, 3), (3, 23, 3), (4, 31, 3)]  # when the last robot has come there too


def test_a_robot_that_stands_still_slows_the_schedule_down_and_does_not_stop_it() -> None:
    fleet, walk = learner(2), wander(CartTask(), 64)
    for step in range(16):
        fleet.observe(walk[step], 0)  # the other never comes
    assert fleet.due(15)
    assert fleet.update().version == 1
    assert not fleet.due(15), "one update a period"


def test_a_fleet_of_one_learns_as_one_robot_does() -> None:
    digests = []
    for robots in ((), (0,)):  # without naming the robot, and naming it
        one = learner(1)
        for found in wander(CartTask(), 40):
            one.observe(found, *robots)
            if one.due(found.step):
                one.update()
        digests.append(digest(one.weights().encode()))
    assert digests[0] == digests[1]


def test_a_fleets_learner_goes_on_from_its_checkpoint_exactly(tmp_path: Path) -> None:
    walk = wander(CartTask(), 40)

    def go(to: PoloLearner, steps: range) -> None:
        for step in steps:
            for robot in (0, 1):
                if (step, robot) != (5, 1):
                    to.observe(walk[step], robot)
                if to.due(step):
                    to.update()

    one, other = learner(2), learner(2)
    go(one, range(20))
    one.save(tmp_path / "fleet")
    assert other.restore(tmp_path / "fleet") == ()
    assert (other.newest, other.lost) == ([19, 19], [0, 1])
    go(one, range(20, 40))
    go(other, range(20, 40))
    assert one.updates == other.updates > 3
    assert digest(one.weights().encode()) == digest(other.weights().encode())
    with pytest.raises(CheckpointError, match="'robots'"):
        learner(1).restore(tmp_path / "fleet")


# ---- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"robots": ("a", "b", "a")}, r"robots\[2\] = 'a' is there twice"),
        ({"robots": ("a", "/b")}, r"robots\[1\] = '/b' is not a namespace below another"),
        ({"robots": ("",)}, r"robots\[0\] = '' is not a namespace"),
        ({"robots": ("a",), "clock": "lockstep"}, "clock = 'lockstep' with robots"),
    ],
)
def test_robots_that_cannot_be_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SessionConfig(**settings)


def test_what_is_recorded_of_a_fleet_is_each_robots_own_and_the_shared_once() -> None:
    assert topics_of(()) == list(TOPICS)
    names = [name for name, *_ in topics_of(("a", "b/c"))]
    assert len(names) == len(set(names))
    assert {"a/state", "b/c/state", "a/plan", "b/c/transition", "a/planner/status"} <= set(names)
    assert [name for name in names if "weights" in name or "learner" in name] == ["weights", "learner/status"]
    assert names.count("/diagnostics") == 1 and "a//diagnostics" not in names


# ---- the bag


def fleet_bag(run_dir: Path, lost: tuple[int, ...] = ()) -> None:
    """20 steps of robot a, 10 of robot b, who loses some."""
    kinds = {"transition": samples.TRANSITION, "planner/status": PLANNER_STATUS}
    topics = [samples.topic(f"/{robot}/{name}", kind) for robot in "ab" for name, kind in kinds.items()]
    with BagWriter(run_dir / "bag", [*topics, samples.topic("/learner/status", LEARNER_STATUS)]) as bag:
        for step in range(20):
            for robot, steps, plan_ms in (("a", 20, 2.0), ("b", 10, 8.0)):
                if step >= steps or (robot == "b" and step in lost):
                    continue
                at = samples.log_time(step)
                bag.write(f"/{robot}/transition", samples.transition(step), at, at)
                status = samples.cdr(PLANNER_STATUS, plan_id=step + 1, plan_ms=plan_ms)
                bag.write(f"/{robot}/planner/status", status, at, at)
        bag.write("/learner/status", samples.cdr(LEARNER_STATUS, version=3), samples.START, samples.START)


def test_one_robot_of_a_bag_is_read_by_its_name(tmp_path: Path) -> None:
    fleet_bag(tmp_path)
    assert BagReader(tmp_path).robots() == {"a": "/a/transition", "b": "/b/transition"}
    assert [len(list(read_transitions(tmp_path, robot=name))) for name in ("a", "/b")] == [20, 10]
    with pytest.raises(BagError, match="no robot 'c' in it; robots: a, b"):
        list(read_transitions(tmp_path, robot="c"))


def test_what_is_lost_is_told_of_each_robot(tmp_path: Path) -> None:
    fleet_bag(tmp_path, lost=(4, 5))
    facts = bag_tools.check(tmp_path)
    assert facts["problems"][0] == "/b/transition: 2 steps are missing: 3 -> 6"
    assert (facts["transitions"], facts["lost"], facts["first_step"], facts["last_step"]) == (28, 2, 0, 19)
    assert {name: (found["transitions"], found["lost"]) for name, found in facts["robots"].items()} == {
        "a": (20, 0),
        "b": (8, 2),
    }
    assert "  b: 8 transitions (steps 0 to 9, 0 resets), 2 lost" in bag_tools.format_check(facts).splitlines()
    assert bag_tools.check(tmp_path, "a")["lost"] == 0
    assert {topic["name"] for topic in bag_tools.info(tmp_path, "b")["topics"]} == {
        "/b/transition",
        "/b/planner/status",
    }


def test_a_fleet_is_summarised_robot_by_robot(tmp_path: Path) -> None:
    fleet_bag(tmp_path, lost=(4,))
    facts = summarise(tmp_path)
    keys = ("steps", "transitions_lost", "plan_ms_p50")
    found = {name: [one[key] for key in keys] for name, one in facts["robots"].items()}
    assert found == {"a": [20, 0, 2.0], "b": [9, 1, 8.0]}
    assert facts["learner_version"] == 3
    lines = format_table(facts).splitlines()
    assert any(re.match(r"  b +9 +1 ", line) for line in lines)
    assert not (tmp_path / "summary.png").exists()
    one = summarise(tmp_path, make_video=False, robot="b")
    assert (one["steps"], one["plan_ms_p50"], one["learner_version"]) == (9, 8.0, 3)
    assert json.loads((tmp_path / "b" / "summary.json").read_text()) == one
    assert (tmp_path / "b" / "summary.png").exists()


# ---- the bench's arithmetic


def test_cores_are_counted_over_the_time_of_control_and_a_restart_begins_anew() -> None:
    bridge, planner = Node("a", "bridge"), Node("a", "planner")
    times = [
        (0.0, 9.0, 5.0, 0.0),
        (1.0, 10.0, 6.0, 2.0),
        (2.0, 10.5, 0.25, 3.0),
        (3.0, 11.0, 0.5, 5.0),
        (4.0, 99.0, 99.0, 99.0),
    ]
    taken = [Sample(at, {bridge: b, planner: p}, machine) for at, b, p, machine in times]
    used, machine = cores(taken, 0.5, 3.5)
    assert used == {bridge: pytest.approx(0.5), planner: pytest.approx(0.25)}
    assert machine == pytest.approx(1.5)
    with pytest.raises(RuntimeError, match="1 samples in the 1.0 s of control: the run is too short"):
        cores(taken, 0.5, 1.5)


def test_control_is_measured_from_the_last_robots_begin_to_the_first_ones_end(tmp_path: Path) -> None:
    with BagWriter(
        tmp_path / "bag", [samples.topic(f"/{robot}/transition", samples.TRANSITION) for robot in "ab"]
    ) as bag:
        for robot, steps in (("a", (0, 1, 2, 3)), ("b", (2, 3, 4))):
            for step in steps:
                bag.write(f"/{robot}/transition", samples.transition(step), samples.log_time(9), samples.log_time(step))
    begin, end = controlled(tmp_path)
    assert (begin, end) == pytest.approx((samples.log_time(2) / 1e9, samples.log_time(3) / 1e9))


@pytest.mark.parametrize(("robots", "duration"), [(0, 5.0), (9, 5.0), (2, 0.5)])
def test_a_fleet_that_cannot_be_is_not_measured(robots: int, duration: float) -> None:
    with pytest.raises(ValueError, match="robots = |duration = "):
        bench_fleet(robots, duration)


# ---- the monitor


@pytest.fixture
def monitor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Monitor]:
    """One of two robots, a learner and a recorder."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    rclpy.init(args=["--ros-args", "-p", "robots:=[a, b]", "-p", "autostart:=false"], domain_id=DOMAIN + 1)
    node = None
    try:
        node = Monitor()
        node.trigger_configure()
        yield node
    finally:
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()


def said(name: str, **values: object) -> DiagnosticArray:
    """What a node says of itself."""
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticArray(status=[DiagnosticStatus(name=f"polo_ros: /{name}", values=pairs)])


def test_a_fleet_is_over_when_all_robots_are_and_the_recorder_has_caught_up(monitor: Monitor) -> None:
    tell = monitor._on_diagnostics
    for finished in (False, True):
        tell(said("a/bridge", step=100, episode=0, finished=finished, **{"return": 1.0}))
    tell(said("recorder", transitions=150))
    tell(said("recorder", transitions=150))  # one that stands still means nothing yet
    tell(said("b/bridge", step=100, episode=0, finished=True, **{"return": 3.0}))
    tell(said("recorder", transitions=170))
    tell(said("recorder", transitions=200))
    with pytest.raises(KeyboardInterrupt):
        tell(said("recorder", transitions=200))


def test_a_fleet_whose_recorder_died_ends_all_the_same(monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Monitor, "CATCHING_UP", -1.0)
    monitor._on_diagnostics(said("a/bridge", step=100, episode=0, finished=True, **{"return": 1.0}))
    with pytest.raises(KeyboardInterrupt):
        monitor._on_diagnostics(said("b/bridge", step=100, episode=0, finished=True, **{"return": 1.0}))


def test_progress_is_that_of_the_slowest_robot(monitor: Monitor) -> None:
    for robot, step, value in (("a", 500, 1.0), ("b", 400, 3.0)):
        monitor._on_diagnostics(said(f"{robot}/bridge", step=step, episode=0, **{"return": value}))
        monitor._on_diagnostics(said(f"{robot}/planner", plan_ms=step / 100, deadlines_missed=2))
    monitor._on_diagnostics(said("learner", version=7))
    line = monitor._progress(monitor._robots)
    assert line == "   8.00 s  2 robots  return 2.00  plan 5.0 ms  4 late  weights 7"


# ---- all of it


def test_a_fleet_loses_nothing_and_ends_with_its_duration(tmp_path: Path) -> None:
    run_dir, names = tmp_path / "run", ["robot_1", "robot_2"]
    settings = tmp_path / "settings.yaml"
    settings.write_text("/robot_2/**:\n  ros__parameters:\n    mock: {loss: 1.0}\n")
    used = machine_seconds()
    with session(run_dir, DOMAIN, "robots:=2", "duration:=2", f"config:={settings}", file="fleet") as process:
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert machine_seconds() > used
    assert not [node for node in ("bridge", "planner", "learner", "recorder", "monitor") if node_process(run_dir, node)]
    facts = bag_tools.check(run_dir)
    assert facts["problems"] == []
    assert list(facts["robots"]) == names
    for found in facts["robots"].values():
        assert (found["transitions"], found["first_step"], found["last_step"], found["lost"]) == (100, 0, 99, 0)
    counts = {topic["name"]: topic["messages"] for topic in bag_tools.info(run_dir)["topics"]}
    for robot in names:
        assert all(counts[f"/{robot}/{name}"] for name in ("state", "plan", "planner/status", "joint_states")), counts
    # What the file says of one robot is for that robot alone: no command ever arrives there.
    first, second = (np.array([t.state[1] for t in read_transitions(run_dir, robot=name)]) for name in names)
    assert np.ptp(first) > 0.0 and np.ptp(second) == 0.0
    # The learner had both streams, each whole, and both planners got its weights.
    newest, lost = safetensors.numpy.load_file(run_dir / "checkpoints" / "learner.safetensors")["robots"]
    assert (newest > 0).all() and (lost == 0).all()
    (last,) = [message for _, message in BagReader(run_dir).decoded(types=[LEARNER_STATUS])][-1:]
    assert last.transitions_lost == last.transitions_refused == 0
    summary = json.loads((run_dir / "summary.json").read_text())
    assert all(summary["robots"][name]["weights_swapped"] for name in names)
    told = [
        {value.key: value.value for value in status.values}
        for _, array in BagReader(run_dir).decoded(topics=["/diagnostics"])
        for status in array.status
        if status.name == "polo_ros: /learner"
    ]
    assert told[-1]["robot_1.transitions_lost"] == told[-1]["robot_2.transitions_lost"] == "0"
    assert "2 robots" in output and "[robot_2/bridge]" in output
