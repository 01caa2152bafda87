"""Policies against nodes that run: all that is there is allowed, and nothing that no node uses."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from visualization_msgs.msg import MarkerArray

from polo_ros.cli import main
from polo_ros.drivers.joint_states import JointStates
from polo_ros.launcher import launch, launch_file
from polo_ros.nodes.bridge import Bridge
from polo_ros.nodes.interfaces import NODES, SERVICES, TOPICS
from polo_ros.nodes.learner import Learner
from polo_ros.nodes.monitor import Monitor
from polo_ros.nodes.permissions import Enclave, Profile, enclaves, permissions, policy
from polo_ros.nodes.planner import Planner
from polo_ros.nodes.recorder import Recorder
from polo_ros.nodes.ros2_control_driver import Ros2ControlSettings
from polo_ros.nodes.ros2_control_link import Link
from polo_ros.nodes.shadow import Shadow

DOMAIN = "179"
CLASSES: Mapping[str, Any] = {
    "bridge": Bridge,
    "planner": Planner,
    "learner": Learner,
    "recorder": Recorder,
    "monitor": Monitor,
    "shadow": Shadow,
}
KINDS = {"publish": "topic", "subscribe": "topic", "reply": "service", "request": "service"}
Rights = dict[str, set[str]]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", DOMAIN)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")


@contextmanager
def running(*arguments: str) -> Iterator[None]:
    rclpy.init(args=list(arguments))
    try:
        yield
    finally:
        rclpy.try_shutdown()


def used(node: Node, name: str, namespace: str) -> Rights:
    """What the graph says that a node uses."""
    asked: dict[str, Callable[[str, str], list[tuple[str, list[str]]]]] = {
        "publish": node.get_publisher_names_and_types_by_node,
        "subscribe": node.get_subscriber_names_and_types_by_node,
        "reply": node.get_service_names_and_types_by_node,
        "request": node.get_client_names_and_types_by_node,
    }
    return {word: {topic for topic, _ in ask(name, namespace)} for word, ask in asked.items()}


def read(text: str) -> dict[str, dict[tuple[str, str], Rights]]:
    """What a policy allows, by enclave and by namespace and name of the node."""
    found: dict[str, dict[tuple[str, str], Rights]] = {}
    for enclave in ElementTree.fromstring(text).findall("enclaves/enclave"):
        profiles = found[enclave.attrib["path"]] = {}
        for profile in enclave.findall("profiles/profile"):
            rights = profiles[profile.attrib["ns"], profile.attrib["node"]] = {word: set() for word in KINDS}
            for group in profile:
                (word,) = group.attrib
                rights[word] |= {entry.text or "" for entry in group}
    return found


def wait(condition: Callable[[], bool], step: Callable[[], object]) -> None:
    limit = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < limit
        step()


def draws(monitor: Monitor) -> None:
    """Have the monitor draw, for which it subscribes to more."""
    somebody = rclpy.create_node("somebody", use_global_arguments=False)
    somebody.create_subscription(MarkerArray, monitor.resolve_topic_name("plan_markers"), lambda _: None, 1)
    executor = SingleThreadedExecutor()
    executor.add_node(monitor)
    try:
        wait(
            lambda: len(used(monitor, "monitor", monitor.get_namespace())["subscribe"]) > 3,
            lambda: executor.spin_once(timeout_sec=0.05),
        )
    finally:
        executor.shutdown()
        somebody.destroy_node()


def launched(folder: Path, file: str, **given: str) -> dict[str, tuple[tuple[str, str], Rights]]:
    """The nodes of a launch file, configured in this process one by one: by enclave, their places and what they use."""
    environment = launch.session_environment(os.environ)
    root = launch_file.load(launch.find_launch_file(file, environment))
    nodes, _ = launch_file.nodes(root, {"run_dir": str(folder / "run"), **given}, environment)
    found = {}
    for index, node in enumerate(nodes):
        # The learner makes its thread nice, which is pytest's here, and nobody can take that back.
        kept = ("--ros-args", "-p", "autostart:=false", "-p", f"nice:={max(0, os.getpriority(os.PRIO_PROCESS, 0))}")
        arguments = (*launch.process(node, folder, index).command[1:], *kept)
        with running(*arguments):
            made = CLASSES[node.executable]()
            try:
                made.trigger_configure()
                place = (made.get_namespace(), made.get_name())
                if node.executable == "monitor" and "robots" not in given:
                    draws(made)
                found[arguments[arguments.index("--enclave") + 1]] = (place, used(made, place[1], place[0]))
            finally:
                made.close()
                made.destroy_node()
    return found


@pytest.mark.parametrize(
    ("file", "given", "options"),
    [
        ("sim", {"shadow": "true"}, ()),
        (
            "sim",
            {"shadow": "true", "namespace": "arm", "enclaves": "/arm"},
            ("--namespace", "arm", "--driver", "simulation"),
        ),
        ("fleet", {"robots": "2"}, ("--robots", "robot_1", "robot_2")),
    ],
)
def test_a_policy_allows_what_launched_nodes_use_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, given: dict[str, str], options: tuple[str, ...]
) -> None:
    assert main(["permissions", *options]) == 0
    allowed = read(capsys.readouterr().out)
    found = launched(tmp_path, file, **given)
    for path, (place, rights) in found.items():
        assert allowed[path] == {place: rights}, path
    unused = {path.rpartition("/")[2] for path in allowed.keys() - found.keys()}
    assert unused == ({"operator"} if file == "sim" else {"operator", "shadow"})


def test_the_driver_ros2_control_is_allowed_what_it_uses_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its node has a context of its own, which takes the process's arguments.
    monkeypatch.setattr("sys.argv", ["bridge", "--ros-args", "-r", "__ns:=/r", "-r", "__node:=bridge"])
    settings = Ros2ControlSettings(joint_states="joints", odometry="/odom", imu="imu", commands="/arm/commands")
    (bridge, *_) = enclaves("r", driver="ros2_control", settings=settings)
    allowed = read(policy([bridge]))["/r/bridge"]["/r", "ros2_control_driver"]
    link = Link(settings, ["joint"], 0.01, JointStates("joints", ["joint"], 1.0, False), Base())
    asking = threading.Thread(target=lambda: link.check_controller("effort", timeout=0.5))
    rights = {}

    def asks() -> bool:
        rights.update(used(link.node, "ros2_control_driver", "/r"))
        return bool(rights["request"])

    try:
        asking.start()
        wait(asks, lambda: time.sleep(0.01))
    finally:
        asking.join()
        link.close()
    assert rights == allowed


class Base:
    """A floating base that is heard and never asked."""

    imu = "there"


def test_only_whose_task_it_is_may_publish_or_call_it() -> None:
    whole = {enclave.path: enclave.profiles[0] for enclave in enclaves()}

    def who(word: str, name: str) -> set[str]:
        return {path for path, profile in whole.items() if profile.allows(word, name)}

    assert who("publish", "/state") == who("publish", "/transition") == who("publish", "/clock") == {"/bridge"}
    assert who("publish", "/plan") == {"/planner"}
    assert who("publish", "/weights") == {"/learner"}
    for service in ("arm", "stop", "reset", "pause", "resume", "step", "set_parameters", "change_state"):
        assert who("request", f"/bridge/{service}") == {"/operator"}
        assert who("reply", f"/bridge/{service}") == {"/bridge"}
    assert who("publish", "/anything") == who("request", "/anything") == set()
    names = [name for profile in whole.values() for word in KINDS for name in getattr(profile, word) if "*" in name]
    assert names == ["/_ros2cli_*/get_type_description"]  # of the operator's own program, whose name ends in a number


def test_robots_of_a_fleet_do_not_hear_each_other_and_share_one_learner() -> None:
    whole = {enclave.path: enclave.profiles[0] for enclave in enclaves(robots=("a", "b"))}
    assert {path for path, profile in whole.items() if profile.allows("subscribe", "/a/state")} == {
        "/a/planner",
        "/a/shadow",
        "/recorder",
        "/operator",
    }
    assert whole["/b/planner"].allows("subscribe", "/weights") and not whole["/b/planner"].allows("publish", "/a/plan")
    assert whole["/learner"].allows("subscribe", "/a/transition")
    assert whole["/learner"].allows("subscribe", "/b/transition")
    assert whole["/operator"].allows("request", "/a/bridge/stop")
    assert whole["/operator"].allows("request", "/b/bridge/stop")


def test_the_operator_may_all_that_the_ros2_program_does() -> None:
    operator = enclaves()[-1].profiles[0]
    with running():
        node = rclpy.create_node("_ros2cli_4711", start_parameter_services=False)  # as `ros2 topic echo` makes it
        rights = used(node, "_ros2cli_4711", "/")
        node.destroy_node()
    assert rights["publish"] and rights["reply"]
    assert all(operator.allows(word, name) for word in KINDS for name in rights[word])
    assert all(operator.allows("subscribe", f"/{topic.name}") for topic in TOPICS if topic.name[0] not in "/~")
    served = [(node, service.name[2:]) for service in SERVICES for node in service.servers]
    assert all(operator.allows("request", f"/{node}/{name}") for node, name in served)


# A policy's elements, as SROS 2 describes version 0.2.0: attributes and children, in their order.
POLICY: Mapping[str, tuple[set[str], set[str]]] = {
    "policy": ({"version"}, {"enclaves"}),
    "enclaves": (set(), {"enclave"}),
    "enclave": ({"path"}, {"profiles"}),
    "profiles": (set(), {"profile"}),
    "profile": ({"ns", "node"}, {"topics", "services"}),
    "topics": ({"publish", "subscribe"}, {"topic"}),
    "services": ({"reply", "request"}, {"service"}),
    "topic": (set(), set()),
    "service": (set(), set()),
}


def test_a_policy_has_the_elements_of_sros2() -> None:
    root = ElementTree.fromstring(policy(enclaves("a/b", driver="ros2_control", settings=Ros2ControlSettings())))
    assert root.tag == "policy" and root.attrib == {"version": "0.2.0"}
    for element in root.iter():
        attributes, children = POLICY[element.tag]
        assert {child.tag for child in element} <= children
        if element.tag in ("topics", "services"):
            assert len(element.attrib) == 1 and set(element.attrib) < attributes and len(element)
            assert set(element.attrib.values()) == {"ALLOW"}
        else:
            assert set(element.attrib) == attributes
        if not children:
            assert (element.text or "").startswith("/")
    paths = [element.attrib["path"] for element in root.iter("enclave")]
    assert paths == [f"/a/b/{node}" for node in (*NODES, "operator")]


def test_permissions_name_topics_as_dds_does() -> None:
    """DDS Security 1.1, 9.4.1.3; names as in design.ros2.org's "Topic and Service name mapping to DDS"."""
    talker = Profile("/", "talker", ("/chatter",), ("/clock",), ("/talker/stop",), ("/other/go",))
    begin, end = datetime(2030, 1, 2, 3, 4, 5), datetime(2031, 1, 2, 3, 4, 5)
    text = permissions([Enclave("/talker", (talker,))], 7, begin, end)
    assert "".join(text.split()) == "".join(
        """
        <dds><permissions><grant name="/talker">
          <subject_name>CN=/talker</subject_name>
          <validity><not_before>2030-01-02T03:04:05</not_before><not_after>2031-01-02T03:04:05</not_after></validity>
          <allow_rule>
            <domains><id>7</id></domains>
            <publish><topics>
              <topic>ros_discovery_info</topic>
              <topic>rq/other/goRequest</topic>
              <topic>rr/talker/stopReply</topic>
              <topic>rt/chatter</topic>
            </topics></publish>
            <subscribe><topics>
              <topic>ros_discovery_info</topic>
              <topic>rq/talker/stopRequest</topic>
              <topic>rr/other/goReply</topic>
              <topic>rt/clock</topic>
            </topics></subscribe>
          </allow_rule>
          <default>DENY</default>
        </grant></permissions></dds>
        """.split()
    )


def test_permissions_are_written_for_a_domain_and_a_time(tmp_path: Path) -> None:
    path = tmp_path / "permissions.xml"
    assert main(["permissions", "--format", "permissions", "--domain", "42", "--days", "3", "--output", str(path)]) == 0
    grants = ElementTree.parse(path).getroot().findall("permissions/grant")
    assert [grant.attrib["name"] for grant in grants] == [f"/{node}" for node in (*NODES, "operator")]
    for grant in grants:
        assert grant.findtext("allow_rule/domains/id") == "42"
        begin, end = (datetime.fromisoformat(entry.text or "") for entry in grant.findall("validity/*"))
        assert (end - begin).days == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--namespace", "a b"), "namespace 'a b' is not valid"),
        (("--robots", "1"), "namespace '1' is not valid"),
        (("--format", "permissions", "--domain", "233"), "domain 233 is not within 0 .. 232"),
        (("--format", "permissions", "--days", "0"), "are never valid"),
        (("--driver", "none"), "unknown driver 'none'"),
        (("--output", "/nowhere/policy.xml"), "/nowhere/policy.xml: cannot be written"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    assert main(["permissions", *options]) == 2
    assert said in capsys.readouterr().err
