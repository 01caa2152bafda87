"""Looks after bags: what is inside, what is wrong, and a whole one made of a broken one."""

from __future__ import annotations

import datetime
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polo_ros.replay.bag_reader import BagReader, bag_files, read_metadata_yaml
from polo_ros.replay.bag_types import BagError, BagProblem, TopicInfo
from polo_ros.replay.bag_writer import BagWriter
from polo_ros.replay.mcap_file import scan
from polo_ros.replay.session_info import SessionInfo
from polo_ros.replay.transition_check import TransitionCheck, check_robots


def info(path: Path | str, robot: str = "") -> dict[str, Any]:
    """What a bag holds: topics, counts, times, session and files; of one `robot`: its topics alone.

    Raises:
        BagError: not a bag, or no such robot in it.
    """
    reader = BagReader(path)
    below = reader.topic_of(robot).rpartition("/")[0] + "/" if robot else "/"
    problems = list(reader.problems)
    files: list[dict[str, Any]] = []
    topics: dict[tuple[str, str], int] = {}
    session: dict[str, str] = {}
    starts: list[int] = []
    ends: list[int] = []
    for file in reader.files:
        try:
            found, wrong = scan(file)
        except BagError as error:
            if len(reader.files) == 1:
                raise
            problems.append(BagProblem(file.name, "unreadable", str(error)))
            continue
        problems += wrong
        session = session or found.session
        for key in found.topics:
            topics[key] = topics.get(key, 0) + found.counts.get(key, 0)
        if found.messages:
            starts.append(found.start_ns)
            ends.append(found.end_ns)
        size = file.stat().st_size
        files.append({"file": file.name, "bytes": size, "messages": found.messages, "complete": found.complete})
    facts = SessionInfo.from_mapping(session)
    start, end = min(starts, default=0), max(ends, default=0)
    return {
        "path": str(reader.path),
        "task": facts.task,
        "model_hash": facts.model_hash,
        "seed": facts.seed if session else None,
        "clock": facts.clock,
        "driver": facts.driver,
        "versions": dict(facts.versions),
        "parameters": dict(facts.parameters),
        "start": datetime.datetime.fromtimestamp(start // 10**9, datetime.timezone.utc).isoformat(),
        "duration_s": (end - start) / 1e9,
        "messages": sum(int(file["messages"]) for file in files),
        "bytes": sum(int(file["bytes"]) for file in files),
        "robots": list(reader.robots()),
        "topics": [
            {"name": name, "type": kind, "messages": count}
            for (name, kind), count in sorted(topics.items())
            if name.startswith(below)
        ],
        "files": files,
        "truncated": any(not file["complete"] for file in files),
        "problems": [str(problem) for problem in problems],
    }


def format_info(facts: dict[str, Any]) -> str:
    """What `info` found, for people."""
    lines = [f"{facts['path']}: {_size(facts['bytes'])}, {facts['messages']} messages, {facts['duration_s']:.1f} s"]
    lines.append(f"  start      {facts['start']}")
    for key in ("task", "model_hash", "seed", "clock", "driver"):
        if facts[key] not in ("", None):
            lines.append(f"  {key:<10} {facts[key]}")
    if facts["versions"]:
        lines.append(f"  versions   {', '.join(f'{name} {value}' for name, value in facts['versions'].items())}")
    width = max((len(topic["name"]) for topic in facts["topics"]), default=0)
    lines.append("  topics")
    for topic in facts["topics"]:
        lines.append(f"    {topic['name']:<{width}}  {topic['messages']:>9}  {topic['type']}")
    lines.append("  files")
    for file in facts["files"]:
        state = "" if file["complete"] else "  truncated"
        lines.append(f"    {file['file']}  {_size(file['bytes'])}  {file['messages']} messages{state}")
    for problem in facts["problems"]:
        lines.append(f"  problem: {problem}")
    return "\n".join(lines)


def _size(size: int) -> str:
    return f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def check(path: Path | str, robot: str = "") -> dict[str, Any]:
    """Read a whole bag and list everything that is wrong with it; of transitions, those of one `robot` or of all.

    Returns:
        counts over all robots and, under "robots", of each; under "problems" a list of texts, empty for a good bag.

    Raises:
        BagError: not a bag, or no such robot in it.
    """
    reader = BagReader(path)
    robots = {robot.strip("/"): reader.topic_of(robot)} if robot else reader.robots()
    messages = sum(1 for _ in reader.records())
    problems = list(reader.problems)
    checked = check_robots(reader, robots.values())
    # The files were read twice; what is new the second time is about decoding.
    problems += [problem for problem in reader.problems if problem not in problems]
    found = {name: checked[topic] for name, topic in robots.items()}
    for one in found.values():
        problems += one.problems
    if not problems and reader.path.is_dir():
        stated = (read_metadata_yaml(reader.path) or {}).get("message_count")
        if stated != messages:
            problems.append(
                BagProblem("metadata.yaml", "counts", f"says {stated} messages, while the files hold {messages}")
            )
    return {
        "path": str(reader.path),
        "messages": messages,
        **_counts(list(found.values())),
        "robots": {name: _counts([one]) for name, one in found.items()},
        "problems": [str(problem) for problem in problems],
    }


def _counts(checks: Sequence[TransitionCheck]) -> dict[str, Any]:
    """What was counted of one robot, or of several together."""
    filled = [check for check in checks if check.transitions]
    return {
        "transitions": sum(check.transitions for check in checks),
        "first_step": min((check.first_step for check in filled), default=0),
        "last_step": max((check.last_step for check in filled), default=0),
        "lost": sum(check.lost for check in checks),
        "resets": sum(check.resets for check in checks),
        "model_hashes": list(dict.fromkeys(name for check in checks for name in check.model_hashes)),
        "sizes": [list(sizes) for sizes in dict.fromkeys(sizes for check in checks for sizes in check.sizes)],
    }


def format_check(facts: dict[str, Any]) -> str:
    """What `check` found, for people."""
    lines = [f"{facts['path']}: {facts['messages']} messages, {_span(facts)}"]
    if len(facts["robots"]) > 1:
        lines += [f"  {name}: {_span(counts)}, {counts['lost']} lost" for name, counts in facts["robots"].items()]
    lines += [f"  problem: {problem}" for problem in facts["problems"]] or ["  no problems"]
    return "\n".join(lines)


def _span(counts: dict[str, Any]) -> str:
    text = f"{counts['transitions']} transitions"
    if counts["transitions"]:
        text += f" (steps {counts['first_step']} to {counts['last_step']}, {counts['resets']} resets)"
    return text


def recover(path: Path | str) -> dict[str, Any]:
    """Write everything that is readable in a bag into a new, whole bag beside it.

    The bag `name` becomes `name_recovered`; the original stays as it is.

    Returns:
        "path" of the new bag, "messages" in it, and "problems" of the old one.

    Raises:
        BagError: not a bag, nothing to recover in it, the new name is taken, or it cannot be written.
    """
    reader = BagReader(path)
    source = reader.path.resolve()
    target = source.with_name(f"{source.stem if source.is_file() else source.name}_recovered")
    if target.exists():
        raise BagError(f"{target}: exists already; move it away first")
    topics: dict[str, TopicInfo] = {}
    session: dict[str, str] = {}
    for file in reader.files:
        try:
            found, _ = scan(file)
        except BagError:
            if len(reader.files) == 1:
                raise
            continue  # reported by the pass below, under the same name
        session = session or found.session
        for topic in found.topics.values():
            topics.setdefault(topic.name, topic)
    if not topics:
        raise BagError(f"{reader.path}: nothing to recover: no topic is described in what is left of it")
    session["recovered_from"] = source.name
    # Written under another name first, so that a bag of the final name is always a whole one.
    partial = target.with_name(f"{target.name}.partial{os.getpid()}")
    refused: dict[str, int] = {}
    try:
        writer = BagWriter(partial / target.name, list(topics.values()), 0.0, session, flush_s=0.0)
        file_messages = 0
        with writer:
            for record in reader.records():
                if topics[record.topic.name].type != record.topic.type:
                    refused[record.topic.name] = refused.get(record.topic.name, 0) + 1
                    continue
                if file_messages >= 1_000_000:
                    writer.split()
                    file_messages = 0
                writer.write(record.topic.name, record.cdr, record.log_time_ns, record.publish_time_ns)
                file_messages += 1
        os.rename(partial / target.name, target)
    except OSError as error:
        raise BagError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    problems = [str(problem) for problem in reader.problems]
    problems += [f"{name}: {count} messages of another type are left out" for name, count in refused.items()]
    return {
        "path": str(target),
        "files": [file.name for file in bag_files(target)],
        "messages": writer.messages,
        "problems": problems,
    }


def format_recover(facts: dict[str, Any]) -> str:
    """What `recover` did, for people."""
    lines = [f"{facts['path']}: {facts['messages']} messages recovered"]
    lines += [f"  lost: {problem}" for problem in facts["problems"]]
    return "\n".join(lines)
