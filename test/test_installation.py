"""What `pip install` leaves behind: one prefix that Python and ROS both understand."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import polo_ros
from polo_ros import resources

SOURCE = Path(__file__).resolve().parents[1]
MESSAGES = ("Difference", "LearnerStatus", "Plan", "PlannerStatus", "State", "Transition", "Weights")
NODES = ("bridge", "injector", "learner", "monitor", "planner", "recorder", "shadow")
TASKS = {
    "ant",
    "car_goal",
    "cartpole_swingup",
    "claw",
    "half_cheetah",
    "hand_reorient",
    "hopper",
    "humanoid",
    "humanoid_box",
    "humanoid_getup",
    "humanoid_getup_sparse",
    "humanoid_stand",
    "humanoid_walk",
    "inverted_pendulum",
    "pen",
    "point_goal",
    "point_mass_box",
    "point_mass_maze",
    "rc_car",
    "rc_car_drift",
    "swimmer",
    "walker2d",
}
DRIVERS = {"bag", "mock", "mujoco", "rc_car", "ros2_control"}
LIBRARIES = (
    "rosidl_generator_c",
    "rosidl_generator_py",
    "rosidl_typesupport_c",
    "rosidl_typesupport_cpp",
    "rosidl_typesupport_fastrtps_c",
    "rosidl_typesupport_fastrtps_cpp",
    "rosidl_typesupport_introspection_c",
    "rosidl_typesupport_introspection_cpp",
)


def test_the_installed_package_is_tested_not_the_source_tree() -> None:
    module = Path(polo_ros.__file__).resolve()
    assert "site-packages" in module.parts or "dist-packages" in module.parts, f"tests run on {module}"
    assert module.parent != SOURCE / "polo_ros"


def test_every_module_of_the_source_is_installed() -> None:
    installed = Path(polo_ros.__file__).parent
    source = {path.relative_to(SOURCE / "polo_ros") for path in (SOURCE / "polo_ros").rglob("*.py")}
    generated = {path.relative_to(installed) for path in (installed / "msg").rglob("*.py")}
    assert {path.relative_to(installed) for path in installed.rglob("*.py")} - generated == source
    assert (installed / "py.typed").is_file()


def test_version_is_the_same_everywhere() -> None:
    manifest = ElementTree.parse(SOURCE / "package.xml")
    assert manifest.findtext("version") == polo_ros.__version__
    assert importlib.metadata.version("polo_ros") == polo_ros.__version__


@pytest.mark.parametrize("folder", ["launch", "config", "models", "msg"])
def test_share_has_every_file_of_the_source(folder: str) -> None:
    for path in (SOURCE / folder).rglob("*"):
        if path.is_file():
            name = path.relative_to(SOURCE)
            assert resources.path(*name.parts).read_bytes() == path.read_bytes(), f"{name} differs: run `make install`"


def test_ament_index_lists_the_package_and_its_interfaces() -> None:
    index = resources.prefix() / "share" / "ament_index" / "resource_index"
    assert (index / "packages" / "polo_ros").is_file()
    interfaces = (index / "rosidl_interfaces" / "polo_ros").read_text(encoding="utf-8").split()
    for message in MESSAGES:
        assert {f"msg/{message}.idl", f"msg/{message}.msg"} <= set(interfaces)


def test_ament_index_python_finds_the_package(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "AMENT_PREFIX_PATH"}
    code = (
        "from polo_ros import resources; resources.activate()\n"
        "from ament_index_python.packages import get_package_prefix, get_package_share_directory as share\n"
        "print(get_package_prefix('polo_ros')); print(share('polo_ros')); print(share('std_msgs'))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    ).stdout.split()
    assert [Path(line) for line in output[:2]] == [resources.prefix(), resources.path()]


@pytest.mark.parametrize("library", LIBRARIES)
def test_typesupport_libraries_are_in_the_prefix(library: str) -> None:
    assert (resources.prefix() / "lib" / f"libpolo_ros__{library}.so").is_file()


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_have_compiled_type_support(name: str) -> None:
    message = getattr(importlib.import_module("polo_ros.msg"), name)
    type(message).__import_type_support__()
    assert message._TYPE_SUPPORT is not None
    assert message().header.frame_id == ""


@pytest.mark.parametrize("name", MESSAGES)
def test_message_survives_serialization(name: str) -> None:
    serialization = importlib.import_module("rclpy.serialization")
    message = getattr(importlib.import_module("polo_ros.msg"), name)()
    message.header.frame_id = "world"
    assert serialization.deserialize_message(serialization.serialize_message(message), type(message)) == message


@pytest.mark.parametrize("path", sorted((SOURCE / "msg").glob("*.msg")), ids=lambda path: path.stem)
def test_every_message_field_has_a_comment(path: Path) -> None:
    fields = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert fields
    bare = [line for line in fields if not re.search(r"#\s*\S", line)]
    assert not bare, f"{path.name}: no comment on {bare}"


def test_every_message_of_the_source_is_generated() -> None:
    assert {path.stem for path in (SOURCE / "msg").glob("*.msg")} == set(MESSAGES)


@pytest.mark.parametrize("node", NODES)
def test_node_is_an_executable_that_ros2_run_finds(node: str) -> None:
    executable = resources.executable(node)
    assert executable == resources.prefix() / "lib" / "polo_ros" / node
    assert os.access(executable, os.X_OK)


@pytest.mark.parametrize("node", NODES)
def test_executable_runs_with_the_interpreter_of_its_own_prefix(node: str, tmp_path: Path) -> None:
    # A stand-in for the module in place of the node: what counts is who runs it, from a folder that is not ours and
    # with an environment that knows nothing of ROS.
    prefix = tmp_path / "pre fix"
    (prefix / "bin").mkdir(parents=True)
    folder = prefix / "lib" / "polo_ros"
    folder.mkdir(parents=True)
    script = folder / node
    script.write_bytes(resources.executable(node).read_bytes())
    script.chmod(0o755)
    interpreter = prefix / "bin" / "python3"
    interpreter.write_text('#!/bin/sh\nfor argument in "$@"; do printf "%s\\n" "$argument"; done\n', encoding="utf-8")
    interpreter.chmod(0o755)
    output = subprocess.run([str(script), "--a b", "c"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert output.stdout.splitlines()[1:] == ["--a b", "c"]
    assert Path(output.stdout.splitlines()[0]).samefile(script)


def test_a_node_that_is_interrupted_while_it_loads_says_nothing() -> None:
    with subprocess.Popen(
        [str(resources.executable("learner"))], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        limit = time.monotonic() + 30.0
        while "libtorch" not in maps.read_text():  # within the longest import
            assert time.monotonic() < limit
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    assert output == ""
    assert process.returncode == -signal.SIGINT


def test_every_node_module_has_a_main() -> None:
    for node in NODES:
        assert callable(importlib.import_module(f"polo_ros.nodes.{node}").main)


def test_polo_command_is_installed_and_knows_its_version(tmp_path: Path) -> None:
    polo = Path(sys.executable).parent / "polo"
    assert os.access(polo, os.X_OK)
    output = subprocess.run([str(polo), "--version"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert output.strip() == polo_ros.__version__


@pytest.mark.parametrize(("group", "names"), [("polo_ros.tasks", TASKS), ("polo_ros.drivers", DRIVERS)])
def test_entry_points_load(group: str, names: set[str]) -> None:
    found = {entry.name: entry for entry in importlib.metadata.entry_points(group=group)}
    assert names <= set(found)
    for name in names:
        assert callable(found[name].load())


def test_no_installed_text_file_names_the_folder_that_built_it() -> None:
    files = importlib.metadata.files("polo_ros") or []
    texts = (".py", ".pyi", ".xml", ".yaml", ".cmake", ".msg", ".idl", ".json", ".h", ".hpp", "")
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix in texts and path.parent.name != "bin" and "dist-info" not in str(file):
            assert str(SOURCE / "build") not in path.read_text(encoding="utf-8", errors="ignore"), path


def test_missing_resource_is_named_with_what_is_there() -> None:
    with pytest.raises(FileNotFoundError, match=r"no 'models/cartpol\.xml'.*in that folder: .*cartpole\.xml"):
        resources.path("models", "cartpol.xml")


def test_missing_executable_is_named_with_what_is_there() -> None:
    with pytest.raises(FileNotFoundError, match=r"no executable 'bridg'.*executables: bridge, injector, learner"):
        resources.executable("bridg")


def test_share_folder_can_be_overridden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.xml").write_text("<mujoco/>", encoding="utf-8")
    monkeypatch.setenv("POLO_ROS_SHARE", str(tmp_path))
    assert resources.path("models", "mine.xml") == tmp_path / "models" / "mine.xml"
    with pytest.raises(FileNotFoundError, match="POLO_ROS_SHARE"):
        resources.path("models", "cartpole.xml")


def test_activate_makes_the_prefix_known_to_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/elsewhere")
    resources.activate()
    entries = os.environ["AMENT_PREFIX_PATH"].split(os.pathsep)
    assert entries[0] == str(resources.prefix())
    assert "/elsewhere" in entries
    assert str(resources.prefix() / "lib") in os.environ["LD_LIBRARY_PATH"].split(os.pathsep)
    before = dict(os.environ)
    resources.activate()
    assert dict(os.environ) == before
