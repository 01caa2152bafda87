"""What a run came to: a table, summary.json, a picture over time and a short video."""

from __future__ import annotations

import json
import math
import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polo_ros import tasks
from polo_ros.replay.bag_reader import BagReader, Record, check_transitions, scan
from polo_ros.replay.bag_types import LEARNER_STATUS, PLANNER_STATUS, BagError
from polo_ros.replay.figure import Curves, save_figure
from polo_ros.replay.session_info import SessionInfo
from polo_ros.replay.transition import Transition
from polo_ros.replay.video import make_video
from polo_ros.tasks.base import FloatArray, Task


class _Thinned:
    """Evenly spaced items of a stream of unknown length, at most `limit` of them."""

    def __init__(self, limit: int) -> None:
        self.items: list[Any] = []
        self._limit = limit
        self._stride = 1
        self._seen = 0

    def add(self, item: Any) -> None:
        if self._seen % self._stride == 0:
            self.items.append(item)
            if len(self.items) > self._limit:
                del self.items[1::2]
                self._stride *= 2
        self._seen += 1


class _Robot:
    """What the transitions tell."""

    def __init__(self) -> None:
        self.log_ns = array("q")
        self.time = array("d")
        self.reward = array("d")
        self.episode = array("q")
        self.safe_stop = array("d")
        self.states = _Thinned(1000)
        self.actions = _Thinned(4000)  # (time, action)
        self.stops_after_plan = 0
        self.weights_version = 0
        self.model_hash = ""
        self.ended: list[FloatArray] = []  # observations of the last episode that ended
        self._running: list[FloatArray] = []
        self._planned = False
        self._last: Transition | None = None

    def add(self, record: Record, transition: Transition) -> None:
        if self._last is not None and transition.episode != self._last.episode:
            self._end_episode()
        self._last = transition
        self.log_ns.append(min(record.log_time_ns, 2**63 - 1))
        self.time.append(transition.state[0])
        self.reward.append(transition.reward)
        self.episode.append(transition.episode)
        self.safe_stop.append(float(transition.safe_stop))
        self.states.add(transition.state)
        self.actions.add((float(transition.state[0]), transition.action))
        self._running.append(transition.observation)
        self._planned = self._planned or (transition.plan_id > 0 and not transition.safe_stop)
        self.stops_after_plan += int(self._planned and transition.safe_stop)
        self.weights_version = max(self.weights_version, transition.weights_version)
        if transition.terminated or transition.truncated:
            self._end_episode()

    def _end_episode(self) -> None:
        if self._running and self._last is not None:
            self.ended = [*self._running, self._last.next_observation]
            self._running = []

    def observations(self) -> list[FloatArray]:
        """Observations (T, nobs) of the last episode that ended, or of the one that runs if none has."""
        if self.ended or self._last is None:
            return self.ended
        return [*self._running, self._last.next_observation]

    def returns(self) -> list[float]:
        """The return of each episode, in order."""
        totals: dict[int, float] = {}
        for episode, reward in zip(self.episode, self.reward, strict=True):
            totals[episode] = totals.get(episode, 0.0) + reward
        return list(totals.values())


class _Series:
    """Fields of a status message over time."""

    def __init__(self, names: Sequence[str]) -> None:
        self.log_ns = array("q")
        self.columns = {name: array("d") for name in names}

    def add(self, record: Record, message: Any) -> None:
        values = [float(getattr(message, name)) for name in self.columns]
        self.log_ns.append(min(record.log_time_ns, 2**63 - 1))
        for column, value in zip(self.columns.values(), values, strict=True):
            column.append(value)

    def __getitem__(self, name: str) -> FloatArray:
        return np.array(self.columns[name], dtype=np.float64)

    def last(self, name: str) -> float | None:
        column = self.columns[name]
        return column[-1] if column else None

    def total(self, name: str) -> int:
        """The sum of a counter that starts again whenever its node does."""
        total, before = 0.0, 0.0
        for value in self.columns[name]:
            if value < before:
                total += before
            before = value
        return int(total + before)


def _percentile(values: FloatArray, share: float) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.percentile(finite, share)) if len(finite) else None


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def summarise(run_dir: Path | str, make_video: bool = True) -> dict[str, Any]:
    """Summarise the run in `run_dir`: writes summary.json, summary.png and video.gif there.

    Numbers that a run does not have, since it had no learner for instance, are None.

    Args:
        run_dir: folder with bag/ and session.yaml; without the latter, the bag's own record is read.
        make_video: whether to render video.gif.

    Returns:
        the content of summary.json.

    Raises:
        BagError: there is no bag, or the summary cannot be written.
    """
    run_dir = Path(run_dir)
    notes: list[str] = []
    reader = BagReader(run_dir)
    session = _session(run_dir, reader, notes)
    planner = _Series(
        ("plan_ms", "latency_ms", "deadline_ms", "deadlines_missed", "value_gate", "weights_version", "weights_swapped")
    )
    learner = _Series(("value_loss", "version", "transitions_lost"))
    robot = _Robot()
    checked = check_transitions(reader, also=robot.add)
    problems = [*reader.problems, *checked.problems]
    series = {PLANNER_STATUS: planner, LEARNER_STATUS: learner}
    for record, message in reader.decoded(types=list(series)):
        try:
            if record.topic.type == PLANNER_STATUS and not message.plan_id:
                continue  # of a planner that has not planned yet
            series[record.topic.type].add(record, message)
        except (AttributeError, TypeError, ValueError) as error:
            raise BagError(f"{reader.path}: {record.topic.name} is another kind of status: {error}") from None
    problems += [problem for problem in reader.problems if problem not in problems]

    task = _task(session, checked.model_hashes, notes)
    wall = (robot.log_ns[-1] - robot.log_ns[0]) / 1e9 if len(robot.log_ns) else 0.0
    span = robot.time[-1] - robot.time[0] if len(robot.time) else 0.0
    steps = checked.transitions
    dt = session.control_dt or (task.control_dt if task is not None else 0.0)
    facts: dict[str, Any] = {
        "run_dir": str(run_dir),
        "task": session.task,
        "model_hash": checked.model_hashes[0] if checked.model_hashes else session.model_hash,
        "seed": session.seed,
        "clock": session.clock,
        "driver": session.driver,
        "started": session.started,
        "steps": steps,
        "duration_s": span + (dt or (span / (steps - 1) if steps > 1 else 0.0)) if steps else 0.0,
        "wall_s": wall,
        "real_time_factor": span / wall if wall > 0 else None,
        "missed_steps": checked.lost + robot.stops_after_plan,
        "safe_stops": int(sum(robot.safe_stop)),
        "transitions_lost": checked.lost,
        "plan_ms_p50": _percentile(planner["plan_ms"], 50),
        "plan_ms_p99": _percentile(planner["plan_ms"], 99),
        "latency_ms_p50": _percentile(planner["latency_ms"], 50),
        "latency_ms_p99": _percentile(planner["latency_ms"], 99),
        "deadline_ms": planner.last("deadline_ms") or None,
        "deadlines_missed": planner.total("deadlines_missed"),
        "value_gate_mean": _number(float(planner["value_gate"].mean())) if len(planner["value_gate"]) else None,
        "episode_returns": robot.returns(),
        **_judged(task, robot, notes),
        "weights_swapped": planner.total("weights_swapped"),
        "weights_version": int(max([robot.weights_version, *planner.columns["weights_version"]])),
        "value_loss": _number(learner.last("value_loss")),
        "learner_version": None if (version := learner.last("version")) is None else int(version),
        "learner_transitions_lost": learner.total("transitions_lost"),
        **_sizes(reader),
        "bag_problems": [str(problem) for problem in problems],
        "versions": dict(session.versions),
        "notes": notes,
    }
    facts["episode_returns"] = [_number(value) for value in facts["episode_returns"]]
    try:
        save_figure(_curves(facts, robot, planner, learner), run_dir / "summary.png")
        if make_video:
            notes.append(_video(task, robot, span, run_dir / "video.gif"))
        partial = run_dir / f".summary.json.{os.getpid()}"
        partial.write_text(json.dumps(facts, indent=2, allow_nan=False) + "\n", "utf-8")
        os.replace(partial, run_dir / "summary.json")
    except OSError as error:
        raise BagError(f"{run_dir}: the summary cannot be written: {error.strerror or error}") from error
    return facts


def _session(run_dir: Path, reader: BagReader, notes: list[str]) -> SessionInfo:
    try:
        return SessionInfo.load(run_dir / "session.yaml")
    except FileNotFoundError:
        notes.append("session.yaml is missing: facts are from the bag")
    except (ValueError, OSError) as error:
        notes.append(f"{error}: facts are from the bag")
    for file in reader.files:
        try:
            facts = scan(file)[0].session
        except BagError:  # reported by the pass over the messages
            continue
        if facts:
            return SessionInfo.from_mapping(facts)
    return SessionInfo.from_mapping({})


def _task(session: SessionInfo, model_hashes: Sequence[str], notes: list[str]) -> Task | None:
    try:
        task = tasks.make(session.task)
    except ValueError as error:
        notes.append(str(error))
        return None
    if any(found != task.model_hash for found in model_hashes):
        notes.append(
            f"the model of task '{task.name}' is {task.model_hash} here, and was {', '.join(model_hashes)}: "
            "success is not judged"
        )
        return None
    return task


def _judged(task: Task | None, robot: _Robot, notes: list[str]) -> dict[str, Any]:
    """What the task itself says of the run."""
    observations = robot.observations()
    if task is None or not observations:
        return {"success": None, "measures": {}}
    try:
        run = np.stack(observations)
        found = task.success(run)
        measures = task.measures(run)
    except ValueError as error:
        notes.append(f"success is not judged: {error}")
        return {"success": None, "measures": {}}
    return {
        "success": None if found is None else bool(found),
        "measures": {name: _number(float(value)) for name, value in measures.items()},
    }


def _sizes(reader: BagReader) -> dict[str, int]:
    messages = size = 0
    for file in reader.files:
        size += file.stat().st_size
        try:
            messages += scan(file)[0].messages
        except BagError:  # reported by the pass over the messages
            continue
    return {"bag_messages": messages, "bag_bytes": size}


def _curves(facts: dict[str, Any], robot: _Robot, planner: _Series, learner: _Series) -> Curves:
    start = robot.time[0] if len(robot.time) else 0.0
    log = np.array(robot.log_ns, dtype=np.float64)
    time = np.array(robot.time, dtype=np.float64) - start

    def when(series: _Series) -> FloatArray:
        """Robot time at which the messages were recorded."""
        other = np.array(series.log_ns, dtype=np.float64)
        if len(log):
            return np.asarray(np.interp(other, log, time))
        return (other - other[0]) / 1e9 if len(other) else other

    actions = robot.actions.items
    same = [item for item in actions if len(item[1]) == len(actions[0][1])]
    return Curves(
        title=f"{facts['task']}  seed {facts['seed']}  {facts['clock']}  {facts['started']}",
        time=time,
        reward=np.array(robot.reward, dtype=np.float64),
        episode=np.array(robot.episode, dtype=np.float64),
        safe_stop=np.array(robot.safe_stop, dtype=np.float64),
        action_time=np.array([item[0] for item in same], dtype=np.float64) - start,
        actions=np.array([item[1] for item in same], dtype=np.float64).reshape(len(same), -1 if same else 0),
        plan_time=when(planner),
        plan_ms=planner["plan_ms"],
        deadline_ms=planner["deadline_ms"],
        value_gate=planner["value_gate"],
        weights_version=planner["weights_version"],
        learn_time=when(learner),
        value_loss=learner["value_loss"],
    )


def _video(task: Task | None, robot: _Robot, span: float, path: Path) -> str:
    if task is None:
        return "video: none, since the task's model is not available"
    if len({len(state) for state in robot.states.items}) > 1:
        return "video: none, since the size of the state changes"
    if robot.states.items and len(robot.states.items[0]) != task.nstate:
        return f"video: none, since states have {len(robot.states.items[0])} entries, the task's have {task.nstate}"
    qpos = np.array([state[1 : 1 + task.model.nq] for state in robot.states.items])
    reason = make_video(task.model, qpos, span, path)
    return f"video: {reason}" if reason else f"video: {path.name}"


def format_table(facts: dict[str, Any]) -> str:
    """A summary as an aligned table for a terminal."""

    def number(value: Any, form: str, unit: str = "") -> str:
        return "-" if value is None else f"{value:{form}}{unit}"

    def pair(stem: str) -> str:
        low, high = facts[f"{stem}_p50"], facts[f"{stem}_p99"]
        return "-" if low is None else f"{low:.2f} / {high:.2f} ms"

    returns = [number(value, ".2f") for value in facts["episode_returns"]]
    shown = ", ".join(returns[-6:]) or "-"
    if len(returns) > 6:
        shown = f"... {shown} ({len(returns)} episodes)"
    success = {None: "-", True: "yes", False: "no"}[facts["success"]]
    rows = [
        ("task", f"{facts['task'] or '-'} (seed {facts['seed']}, {facts['clock'] or '-'}, {facts['driver'] or '-'})"),
        ("success", success),
        *((name.replace("_", " "), number(value, ".4g")) for name, value in facts["measures"].items()),
        ("steps", f"{facts['steps']} ({facts['duration_s']:.2f} s robot time, {facts['wall_s']:.2f} s wall)"),
        ("real-time factor", number(facts["real_time_factor"], ".3f")),
        ("steps without plan", f"{facts['missed_steps']} (safe stop: {facts['safe_stops']} steps in all)"),
        ("transitions lost", str(facts["transitions_lost"])),
        ("plan time p50 / p99", pair("plan_ms")),
        ("latency p50 / p99", pair("latency_ms")),
        ("plans past deadline", f"{facts['deadlines_missed']} (deadline {number(facts['deadline_ms'], '.1f', ' ms')})"),
        ("return per episode", shown),
        ("value loss", number(facts["value_loss"], ".4g")),
        ("weights", f"version {facts['weights_version']}, swapped {facts['weights_swapped']} times"),
        ("learned value used", number(facts["value_gate_mean"], ".0%", ", mean gate")),
        ("folder", facts["run_dir"]),
        ("bag", f"{facts['bag_messages']} messages, {facts['bag_bytes'] / 1e6:.2f} MB"),
    ]
    rows += [("bag problem", text) for text in facts["bag_problems"]]
    rows += [("note", text) for text in facts["notes"]]
    width = max(len(name) for name, _ in rows)
    body = [f"  {name:<{width}}   {text}" for name, text in rows]
    rule = "-" * min(100, max(len(line) for line in body))
    return "\n".join([rule, *body, rule])
