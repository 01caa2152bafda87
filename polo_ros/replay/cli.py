"""`polo bag ...`, `polo summary` and `polo dataset`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from polo_ros.replay.bag_types import BagError

LEFTOVER = "half-written, by a command that was killed or is still at work; remove it if none is"


def add_bag_commands(subparsers: Any) -> None:
    """Add `bag` and `summary` to a parser's subparsers; each sets `run`, (arguments) -> exit status."""
    bag = subparsers.add_parser("bag", help="look into a recorded bag")
    commands = bag.add_subparsers(dest="bag_command", required=True)
    texts = {
        "info": "topics, counts, session and files of a bag",
        "check": "read a whole bag; exit status 1 if anything is wrong with it",
        "recover": "write what is readable of a broken bag to BAG_recovered",
        "delay": "how late the recorded robot was seen and moved, by its task's model",
    }
    for name, text in texts.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("bag", type=Path, metavar="BAG", help="bag folder, .mcap file or run folder")
        command.add_argument("--json", action="store_true", help="print JSON")
        if name != "recover":
            command.add_argument("--robot", default="", metavar="NAME", help="of a fleet: the namespace of one robot")
        command.set_defaults(run=run_bag)
    text = "summarise a run: table, summary.json, summary.png, video.gif"
    summary = subparsers.add_parser("summary", help=text, description=text)
    summary.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="run folder")
    summary.add_argument("--json", action="store_true", help="print JSON")
    summary.add_argument("--no-video", action="store_true", help="make no video")
    summary.add_argument("--robot", default="", metavar="NAME", help="of a fleet: one robot, with picture and video")
    summary.set_defaults(run=run_summary)


def add_dataset_command(subparsers: Any) -> None:
    """Add `dataset` to a parser's subparsers; it sets `run`, (arguments) -> exit status."""
    text = "make a dataset of recorded bags, or of D4RL's or Minari's files, to learn from offline; see docs/offline.md"
    command = subparsers.add_parser("dataset", help=text, description=text)
    what = "bag folders, .mcap files or run folders; or D4RL's .hdf5 files, Minari's files or folders"
    command.add_argument("paths", type=Path, nargs="+", metavar="BAG", help=what)
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make; it must not exist")
    command.add_argument("--task", default="", metavar="NAME", help="the task (default: what the bags say)")
    command.add_argument("--no-safe-stops", action="store_true", help="bags: leave out periods of safe stop")
    text = "files: their actions are -1 .. 1, to be scaled to the task's range"
    command.add_argument("--scale-actions", action="store_true", help=text)
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run_dataset)


def run_dataset(arguments: argparse.Namespace) -> int:
    """Run `polo dataset`; 1 if no dataset can be made."""
    from polo_ros.replay import bag_dataset, offline_files
    from polo_ros.replay.dataset import DatasetError, leftovers

    foreign = [path for path in arguments.paths if offline_files.is_foreign(path)]
    try:
        if foreign and arguments.no_safe_stops:
            raise DatasetError(f"--no-safe-stops is for bags; {foreign[0]} does not say where the robot was stopped")
        if not foreign and arguments.scale_actions:
            raise DatasetError(
                f"--scale-actions is for files of others; actions in {arguments.paths[0]} are as they were"
            )
        if not foreign:
            facts = bag_dataset.from_bags(arguments.paths, arguments.out, arguments.task, not arguments.no_safe_stops)
        elif len(foreign) == len(arguments.paths):
            facts = offline_files.from_files(foreign, arguments.out, arguments.task, arguments.scale_actions)
        else:
            raise DatasetError(f"{foreign[0]}: bags and files of others do not go into one dataset")
    except (BagError, DatasetError) as error:
        for left in leftovers(arguments.out):  # may be what fills the disk
            print(f"{left}: {LEFTOVER}", file=sys.stderr)
        return _fail(error, arguments.json)
    facts["leftovers"] = [str(left) for left in leftovers(arguments.out)]
    print(json.dumps(facts, indent=2) if arguments.json else _format_dataset(facts))
    return 0


def _format_dataset(facts: Mapping[str, Any]) -> str:
    """What was made, for people."""
    statistics = facts["statistics"]
    lines = [f"{facts['path']}: {facts['rows']} rows in {facts['trajectories']} trajectories of {facts['task']}"]
    if statistics["return"] is not None:
        returns = statistics["return"]
        lines.append(
            f"  return     {returns['mean']:.4g} on average, {returns['min']:.4g} to {returns['max']:.4g}, "
            f"of {statistics['whole_trajectories']} whole trajectories"
        )
    lines.append(f"  ended      {statistics['terminated']:.3%} of the rows in a terminal state")
    lines.append(f"  digest     {facts['digest'][:16]}")
    for source in facts["sources"]:
        robot = f", robot {source['robot']}" if source.get("robot") else ""
        lines.append(f"  from       {source['path']}{robot}: {source['rows']} of {source['read']} rows")
    lines += [f"  left out   {count} rows: {kind}" for kind, count in facts["left_out"].items()]
    lines += [f"  problem    {problem}" for problem in facts["problems"]]
    lines += [f"  leftover   {left}: {LEFTOVER}" for left in facts["leftovers"]]
    return "\n".join(lines)


def run_bag(arguments: argparse.Namespace) -> int:
    """Run `polo bag info|check|recover|delay`; 1 on problems found by check, or if the bag cannot be read."""
    from polo_ros.replay import bag_tools, delay

    commands: dict[str, tuple[Callable[..., dict[str, Any]], Callable[[dict[str, Any]], str]]] = {
        "info": (bag_tools.info, bag_tools.format_info),
        "check": (bag_tools.check, bag_tools.format_check),
        "recover": (bag_tools.recover, bag_tools.format_recover),
        "delay": (delay.of_bag, delay.format_estimate),
    }
    work, layout = commands[arguments.bag_command]
    chosen = {} if arguments.bag_command == "recover" else {"robot": arguments.robot}
    try:
        facts = work(arguments.bag, **chosen)
    except BagError as error:
        return _fail(error, arguments.json)
    print(json.dumps(facts, indent=2) if arguments.json else layout(facts))
    return int(arguments.bag_command == "check" and bool(facts["problems"]))


def run_summary(arguments: argparse.Namespace) -> int:
    """Run `polo summary`; 1 if there is no bag to summarise."""
    from polo_ros.replay.summary import format_table, summarise

    try:
        facts = summarise(arguments.run_dir, make_video=not arguments.no_video, robot=arguments.robot)
    except BagError as error:
        return _fail(error, arguments.json)
    print(json.dumps(facts, indent=2) if arguments.json else format_table(facts))
    return 0


def _fail(error: Exception, as_json: bool) -> int:
    print(f"error: {error}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": str(error), "problems": [str(error)]}, indent=2))
    return 1
