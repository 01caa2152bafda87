"""The package's own launch files, read as `polo launch` reads them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from polo_ros.config import flatten
from polo_ros.launcher import launch_file
from polo_ros.session.config import (
    AGENTS,
    OFFLINE_AGENTS,
    BridgeConfig,
    LearnerNodeConfig,
    OfflineNodeConfig,
    PlannerConfig,
    SessionConfig,
)

FILES = Path(__file__).resolve().parents[1] / "launch"
NODES = ["bridge", "planner", "learner", "recorder", "monitor"]


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """An install prefix that holds the launch files."""
    index = tmp_path / "share/ament_index/resource_index/packages"
    index.mkdir(parents=True)
    (index / "polo_ros").touch()
    shutil.copytree(FILES, tmp_path / "share/polo_ros/launch")
    return tmp_path


def nodes(prefix: Path, name: str, **given: str) -> dict[str, launch_file.Node]:
    root = launch_file.load(prefix / f"share/polo_ros/launch/{name}.launch.xml")
    environment = {"AMENT_PREFIX_PATH": str(prefix)}
    choices = {key: argument.choices for key, argument in launch_file.arguments(root, environment).items()}
    launch_file.check_arguments(given, choices, name)
    return {node.name: node for node in launch_file.nodes(root, given, environment)[0]}


def parameters(node: launch_file.Node) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for entry in node.parameters:
        if isinstance(entry, dict):
            out.update(entry)
    return out


@pytest.mark.parametrize("name", ["sim", "robot"])
def test_a_session_has_its_five_nodes(prefix: Path, name: str) -> None:
    found = nodes(prefix, name)
    assert list(found) == NODES
    assert all(
        (node.package, node.executable, node.namespace) == ("polo_ros", node.name, "/") for node in found.values()
    )


def test_the_shadow_is_there_when_it_is_asked_for_and_follows_the_clock(prefix: Path) -> None:
    found = nodes(prefix, "robot", shadow="true", use_sim_time="true")
    assert sorted(found) == sorted([*NODES, "shadow"])
    assert parameters(found["shadow"])["use_sim_time"] is True and found["shadow"].respawn


def test_robot_differs_from_simulation_by_the_driver_and_the_source_of_time(prefix: Path) -> None:
    stamp = {"run_dir": "runs/x", "started": "now"}
    sim, robot = nodes(prefix, "sim", **stamp), nodes(prefix, "robot", **stamp)
    differing = {
        key for name in NODES for key, value in parameters(sim[name]).items() if parameters(robot[name])[key] != value
    }
    assert differing == {"driver", "use_sim_time"}
    assert nodes(prefix, "robot", driver="simulation", use_sim_time="true", **stamp) == sim
    assert parameters(sim["bridge"])["driver"] == "simulation"
    assert parameters(robot["bridge"])["driver"] == "mock"


def test_the_bridge_publishes_the_clock_and_the_others_follow_it(prefix: Path) -> None:
    found = nodes(prefix, "sim")
    assert "use_sim_time" not in parameters(found["bridge"])
    assert all(parameters(found[name])["use_sim_time"] is True for name in NODES[1:])


def test_all_nodes_of_a_session_share_one_run_folder(prefix: Path) -> None:
    folders = {parameters(node)["run_dir"] for node in nodes(prefix, "sim", task="point_mass_maze").values()}
    (folder,) = folders
    assert re.fullmatch(r"runs/point_mass_maze-\d{8}-\d{6}", folder)
    given = nodes(prefix, "sim", run_dir="/data/one").values()
    assert {parameters(node)["run_dir"] for node in given} == {"/data/one"}


def test_every_parameter_is_one_that_nodes_know_and_has_its_type(prefix: Path) -> None:
    known = {**flatten(SessionConfig()), **flatten(BridgeConfig()), **flatten(PlannerConfig()), "use_sim_time": True}
    for node in nodes(prefix, "sim", seed="1", duration="30", max_plan_age="1", task="7", threads="2").values():
        for name, value in parameters(node).items():
            assert type(value) is type(known[name]), f"{node.name}: {name} = {value!r}"


def test_defaults_are_those_of_the_nodes(prefix: Path) -> None:
    defaults = {**flatten(SessionConfig()), **flatten(BridgeConfig()), **flatten(PlannerConfig())}
    for node in nodes(prefix, "sim").values():
        given = {name: value for name, value in parameters(node).items() if name not in ("run_dir", "use_sim_time")}
        assert given == {name: defaults[name] for name in given} | {"started": given["started"]}


def test_working_nodes_are_restarted_and_the_monitor_ends_the_session(prefix: Path) -> None:
    found = nodes(prefix, "sim")
    assert all(found[name].respawn and found[name].respawn_delay == 0.5 for name in NODES[:-1])
    assert [node.name for node in found.values() if node.shutdown_on_exit] == ["monitor"]
    assert not found["monitor"].respawn


def test_the_recorder_has_time_to_write_its_summary(prefix: Path) -> None:
    recorder = nodes(prefix, "sim")["recorder"]
    assert recorder.sigterm_timeout >= 60.0 and recorder.sigkill_timeout >= 60.0


def test_learner_and_recorder_can_be_left_out_and_the_others_know(prefix: Path) -> None:
    found = nodes(prefix, "sim", learner="false", recorder="false")
    assert list(found) == ["bridge", "planner", "monitor"]
    assert all(parameters(node)["learner"] is parameters(node)["recorder"] is False for node in found.values())


@pytest.mark.parametrize("agent", AGENTS)
def test_agents_that_learn_from_data_alone_have_no_learner_unless_one_is_asked_for(prefix: Path, agent: str) -> None:
    offline = agent in OFFLINE_AGENTS
    for name in ("sim", "fleet"):
        found = nodes(prefix, name, agent=agent)
        assert ("learner" in found) is not offline
        assert all(parameters(node)["learner"] is not offline for node in found.values())
        assert "learner" in nodes(prefix, name, agent=agent, learner="true")


def test_learning_offline_is_one_node_that_has_time_to_save_and_ends_the_launch(prefix: Path) -> None:
    (learner,) = nodes(prefix, "offline", namespace="robot1", enclaves="/robot1", log_level="warn").values()
    assert (learner.package, learner.executable, learner.name) == ("polo_ros", "offline_learner", "learner")
    assert learner.namespace == "/robot1"
    assert learner.ros_arguments == ("--log-level", "warn", "--enclave", "/robot1/learner")
    assert learner.shutdown_on_exit and not learner.respawn
    assert learner.sigterm_timeout >= 60.0 and learner.sigkill_timeout >= 60.0


def test_parameters_of_learning_offline_are_known_to_its_node_and_have_its_types(prefix: Path) -> None:
    known = {**flatten(SessionConfig()), **flatten(LearnerNodeConfig()), **flatten(OfflineNodeConfig())}
    for given in ({}, {"bag": "1,2", "task": "7", "seed": "1", "out": "3"}):
        found = parameters(nodes(prefix, "offline", **given)["learner"])
        for name, value in found.items():
            assert type(value) is type(known[name]), f"{name} = {value!r}"
        assert (found["data"], found["task"], found["seed"]) == (("1,2", "7", 1) if given else ("", "", 0))
        assert re.fullmatch("3" if given else r"runs/offline-crr-\d{8}-\d{6}", found["run_dir"])


@pytest.mark.parametrize("algorithm", OFFLINE_AGENTS)
def test_every_agent_that_learns_offline_can_be_launched(prefix: Path, algorithm: str) -> None:
    found = nodes(prefix, "offline", algorithm=algorithm, data="d", bag="b")["learner"]
    assert (parameters(found)["agent"], parameters(found)["data"]) == (algorithm, "d")
    root = launch_file.load(prefix / "share/polo_ros/launch/offline.launch.xml")
    arguments = launch_file.arguments(root, {"AMENT_PREFIX_PATH": str(prefix)})
    assert sorted(arguments["algorithm"].choices) == sorted(OFFLINE_AGENTS)


def test_a_namespace_holds_all_nodes(prefix: Path) -> None:
    assert {node.namespace for node in nodes(prefix, "sim", namespace="robot1").values()} == {"/robot1"}


def test_an_extra_parameter_file_goes_to_every_node_before_its_own(prefix: Path, tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("/**:\n  ros__parameters:\n    mppi.rollouts: 7\n")
    assert all(node.parameters[0] == path for node in nodes(prefix, "sim", config=str(path)).values())
    assert not any(isinstance(entry, Path) for node in nodes(prefix, "sim").values() for entry in node.parameters)


def test_the_log_level_reaches_every_node(prefix: Path) -> None:
    found = nodes(prefix, "sim", log_level="debug")
    assert all(node.ros_arguments[:2] == ("--log-level", "debug") for node in found.values())


def test_each_node_has_an_enclave_of_its_own(prefix: Path) -> None:
    for prefixed in ("", "/arm"):
        found = nodes(prefix, "sim", enclaves=prefixed)
        assert all(node.ros_arguments[2:] == ("--enclave", f"{prefixed}/{name}") for name, node in found.items())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"clock": "fast"}, "sim: clock = 'fast' is unknown; choices: realtime, lockstep"),
        ({"log_level": "loud"}, "log_level = 'loud' is unknown"),
        ({"taks": "x"}, "unknown launch argument 'taks'; arguments: agent, clock"),
        ({"seed": "one"}, "parameter 'seed': 'one' is not of type int"),
        ({"duration": "long"}, "parameter 'duration': 'long' is not of type float"),
        ({"learner": "perhaps"}, "'perhaps' is not"),
        ({"config": "nix.yaml"}, "nix.yaml' does not exist"),
    ],
)
def test_a_wrong_argument_is_refused(prefix: Path, given: dict[str, str], message: str) -> None:
    with pytest.raises(launch_file.LaunchError, match=re.escape(message)):
        nodes(prefix, "sim", **given)


def test_each_argument_says_what_it_is(prefix: Path) -> None:
    for file in ("sim", "offline"):
        check_descriptions(prefix, file)


def check_descriptions(prefix: Path, file: str) -> None:
    root = launch_file.load(prefix / f"share/polo_ros/launch/{file}.launch.xml")
    for name, argument in launch_file.arguments(root, {"AMENT_PREFIX_PATH": str(prefix)}).items():
        assert argument.description, name
        assert argument.default is not None, name
