"""`polo launch`: starts what a launch file says, with ROS 2's launch if it is there, else with our own."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from polo_ros import resources
from polo_ros.launcher import launch_file
from polo_ros.launcher.launch_file import LaunchError, Node
from polo_ros.launcher.processes import ProcessSpec, Supervisor, ended_well
from polo_ros.launcher.substitutions import package_prefix

SUFFIX = ".launch.xml"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 if a node failed, 2 if nothing could be started."""
    parser = argparse.ArgumentParser(
        prog="polo launch", description="Start the nodes of a launch file, and stop all of them together."
    )
    parser.add_argument(
        "file", metavar="FILE|NAME", help="a launch file, or the name of one of ours: sim, robot, fleet, offline"
    )
    parser.add_argument("arguments", nargs="*", metavar="NAME:=VALUE", help="launch arguments")
    parser.add_argument("--show-args", action="store_true", help="list the file's launch arguments and exit")
    parser.add_argument("--own", action="store_true", help="use our own launcher even if ROS 2's is installed")
    options = parser.parse_intermixed_args(argv)
    try:
        given = parse_arguments(options.arguments)
        environment = session_environment(os.environ)
        path = find_launch_file(options.file, environment)
        run = run_own if options.own or not ros_launch_installed() else run_ros
        return run(path, given, environment, options.show_args)
    except LaunchError as error:
        print(f"polo launch: {error}", file=sys.stderr)
        return 2


def parse_arguments(texts: Sequence[str]) -> dict[str, str]:
    """`name:=value` texts as a dictionary; the last of equal names counts.

    Raises:
        LaunchError: for any other text.
    """
    out = {}
    for text in texts:
        name, _, value = text.partition(":=")
        if not name or not value:
            raise LaunchError(f"malformed launch argument '{text}'; write NAME:=VALUE")
        out[name] = value
    return out


def session_environment(base: Mapping[str, str]) -> dict[str, str]:
    """`base` with what a session needs and the user has not set."""
    environment = {
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "PYTHONUNBUFFERED": "1",  # output is a pipe, and a line is worth more while it is fresh
        **base,
    }
    prefixes = [prefix for prefix in environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    with contextlib.suppress(FileNotFoundError):  # a source tree: launch files of other packages still work
        own = str(resources.prefix())
        if own not in prefixes:  # first, so that launch files and nodes are of the same installation as this code
            prefixes.insert(0, own)
    if sys.prefix not in prefixes:  # last, so that a workspace that the user has sourced stays above it
        prefixes.append(sys.prefix)
    environment["AMENT_PREFIX_PATH"] = os.pathsep.join(prefixes)
    return environment


def find_launch_file(text: str, environment: Mapping[str, str]) -> Path:
    """The launch file that the user means: a path, or the name of one that the package brings.

    Raises:
        LaunchError: if there is none.
    """
    if os.sep in text or text.endswith((".xml", ".py", ".yaml")):
        if not Path(text).is_file():
            raise LaunchError(f"launch file '{text}' does not exist")
        return Path(os.path.abspath(text))
    try:
        folder = package_prefix(resources.PACKAGE, environment) / "share" / resources.PACKAGE / "launch"
    except ValueError as error:
        raise LaunchError(error) from None
    path = folder / f"{text}{SUFFIX}"
    if not path.is_file():
        names = sorted(file.name.removesuffix(SUFFIX) for file in folder.glob(f"*{SUFFIX}"))
        raise LaunchError(f"unknown launch file '{text}'; launch files: {', '.join(names) or 'none'}; or give a path")
    return path


def show_arguments(arguments: Sequence[tuple[str, str | None, str, Sequence[str]]]) -> None:
    """Print launch arguments, given as (name, default, description, choices)."""
    print("Arguments (pass arguments as '<name>:=<value>'):")
    for name, default, description, choices in arguments:
        print(f"\n    {name}\n        {description or 'no description given'}")
        if choices:
            print(f"        choices: {', '.join(choices)}")
        print("        (required)" if default is None else f"        (default: '{default}')")


# Our own launcher


def run_own(path: Path, given: Mapping[str, str], environment: Mapping[str, str], show: bool) -> int:
    """Launch with our own launcher; see `main` for the exit code."""
    root = launch_file.load(path)
    declared = launch_file.arguments(root, environment)
    if show:
        show_arguments([(a.name, a.default, a.description, a.choices) for a in declared.values()])
        return 0
    launch_file.check_arguments(given, {name: argument.choices for name, argument in declared.items()}, path.name)
    nodes, messages = launch_file.nodes(root, given, environment)
    for message in messages:
        print(f"[polo launch] {message}", flush=True)
    with tempfile.TemporaryDirectory(prefix="polo_launch_") as folder:
        return Supervisor([process(node, Path(folder), index) for index, node in enumerate(nodes)]).run()


def process(node: Node, folder: Path, index: int) -> ProcessSpec:
    """The process that runs a node; its parameters are written to files in `folder`, numbered by `index`."""
    files = []
    for number, parameters in enumerate(node.parameters):
        if isinstance(parameters, Path):
            files.append(parameters)
            continue
        files.append(folder / f"{index}_{node.executable}_{number}.yaml")
        document = {node.parameter_key: {"ros__parameters": parameters}}
        files[-1].write_text(yaml.safe_dump(document), encoding="utf-8")
    return ProcessSpec(
        name=node.label,
        command=command(node, files),
        environment=node.environment,
        respawn=node.respawn,
        respawn_delay=node.respawn_delay,
        respawn_max_retries=node.respawn_max_retries,
        shutdown_on_exit=node.shutdown_on_exit,
        sigterm_timeout=node.sigterm_timeout,
        sigkill_timeout=node.sigkill_timeout,
    )


def command(node: Node, parameter_files: Sequence[Path]) -> tuple[str, ...]:
    """A node's command line, as launch_ros writes it.

    Raises:
        LaunchError: if the package is not installed or has no such executable.
    """
    ros = ["-r", f"__node:={node.name}"] if node.name else []
    ros += ["-r", f"__ns:={node.namespace}"]
    for path in parameter_files:
        ros += ["--params-file", str(path)]
    for source, target in node.remappings:
        ros += ["-r", f"{source}:={target}"]
    own = ["--ros-args", *node.ros_arguments] if node.ros_arguments else []
    return (str(executable(node)), *node.arguments, *own, "--ros-args", *ros)


def executable(node: Node) -> Path:
    """A node's program, lib/<package>/<executable> below the package's prefix; raises LaunchError if there is none."""
    where = f"{node.element.file.name}:{node.element.line}: " if node.element else ""
    try:
        folder = package_prefix(node.package, node.environment) / "lib" / node.package
    except ValueError as error:
        raise LaunchError(f"{where}{error}") from None
    path = folder / node.executable
    if not path.is_file() or not os.access(path, os.X_OK):
        names = sorted(file.name for file in folder.glob("*")) if folder.is_dir() else []
        raise LaunchError(
            f"{where}package '{node.package}' has no executable '{node.executable}' in {folder}; "
            f"executables: {', '.join(names) or 'none'}"
        )
    return path


# ROS 2's launch


def ros_launch_installed() -> bool:
    """Whether ROS 2's launch and its XML files can be used from this interpreter."""
    return all(importlib.util.find_spec(name) is not None for name in ("launch", "launch_ros", "launch_xml"))


def run_ros(path: Path, given: Mapping[str, str], environment: Mapping[str, str], show: bool) -> int:
    """Launch with ROS 2's launch, as `ros2 launch` does; see `main` for the exit code."""
    os.environ.update(environment)
    launch: Any = importlib.import_module("launch")
    actions: Any = importlib.import_module("launch.actions")
    sources: Any = importlib.import_module("launch.launch_description_sources")
    handlers: Any = importlib.import_module("launch.event_handlers")
    try:
        description = sources.get_launch_description_from_any_launch_file(str(path))
    except Exception as error:  # whatever a frontend or a Python launch file raises
        raise LaunchError(f"{path.name}: {error}") from error
    declared = description.get_launch_arguments()
    if show:
        described = [
            (a.name, None if a.default_value is None else _described(a.default_value), a.description, ())
            for a in declared
        ]
        show_arguments(described)
        return 0
    # ROS 2's launch takes any argument, and a misspelt one would have no effect.
    launch_file.check_arguments(given, {a.name: a.choices or () for a in declared}, path.name)

    failed: list[str] = []
    started: dict[int, float] = {}

    def on_start(event: Any, context: Any) -> None:
        started[event.pid] = time.monotonic()

    def on_exit(event: Any, context: Any) -> None:
        required = any(isinstance(entity, actions.Shutdown) for entity in event.action.get_sub_entities())
        if context.is_shutdown:
            good = ended_well(event.returncode, time.monotonic() - started.get(event.pid, time.monotonic()))
        else:
            good = event.returncode == 0 or not required
        if not good:
            failed.append(event.process_name)

    service = launch.LaunchService(noninteractive=not sys.stdin.isatty())
    service.include_launch_description(
        launch.LaunchDescription(
            [
                actions.RegisterEventHandler(handlers.OnProcessStart(on_start=on_start)),
                actions.RegisterEventHandler(handlers.OnProcessExit(on_exit=on_exit)),
                actions.IncludeLaunchDescription(
                    sources.AnyLaunchDescriptionSource(str(path)), launch_arguments=list(given.items())
                ),
            ]
        )
    )
    return 1 if service.run() != 0 or failed else 0


def _described(substitutions: Sequence[Any]) -> str:
    """A default value as it would be written."""
    return "".join(getattr(part, "text", None) or part.describe() for part in substitutions)
