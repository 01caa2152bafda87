"""What a run came to: a table, summary.json, a picture over time and a short video."""

from __future__ import annotations

import json
import math
from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polo_ros import tasks
from polo_ros.files import write_whole
from polo_ros.replay.bag_reader import BagReader
from polo_ros.replay.bag_types import LEARNER_STATUS, PLANNER_STATUS, BagError, BagProblem
from polo_ros.replay.figure import Curves, save_figure
from polo_ros.replay.mcap_file import Record, scan
from polo_ros.replay.session_info import SessionInfo
from polo_ros.replay.transition import Transition
from polo_ros.replay.transition_check import TransitionCheck, check_robots
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


class _Episode:
    """Observations of an episode; of one that takes very long, the last of them."""

    BLOCK = 1024
    MAX_BYTES = 1 << 27  # of 18 numbers at 50 Hz: 5 h

    def __init__(self) -> None:
        self.forgotten = 0
        self._blocks: deque[FloatArray] = deque()
        self._bytes = 0  # in blocks
        self._last: list[FloatArray] = []  # not a block yet
        self._size: int | None = None
        self._even = True

    def add(self, observation: FloatArray) -> None:
        size = len(observation)
        self._even = self._even and self._size in (None, size)
        self._size = size
        if not self._even:  # there is nothing to be had of it
            self._blocks.clear()
            self._last.clear()
            return
        self._last.append(observation)
        if len(self._last) == self.BLOCK:
            self._blocks.append(np.stack(self._last))
            self._bytes += self._blocks[-1].nbytes
            self._last.clear()
            if self._bytes > self.MAX_BYTES:
                oldest = self._blocks.popleft()
                self._bytes -= oldest.nbytes
                self.forgotten += len(oldest)

    def array(self, end: FloatArray) -> FloatArray:
        """The observations (T, nobs), and what the episode ended with.

        Raises:
            ValueError: They have several sizes.
        """
        if not self._even or self._size not in (None, len(end)):
            raise ValueError("the size of observations changes within the episode")
        return np.concatenate([*self._blocks, *([np.stack(self._last)] if self._last else []), end[None]])


class _Robot:
    """What the transitions tell, those of a task's robot also what they cost."""

    def __init__(self, task: Task | None) -> None:
        self._task = task if task is not None and task.has_cost else None
        self.log_ns = array("q")
        self.time = array("d")
        self.reward = array("d")
        self.cost = array("d")  # of a task that has one; nan: the task does not know such transitions
        self.episode = array("q")
        self.safe_stop = array("d")
        self.states = _Thinned(1000)
        self.actions = _Thinned(4000)  # (time, action)
        self.stops_after_plan = 0
        self.weights_version = 0
        self.model_hash = ""
        self._ended: tuple[_Episode, FloatArray] | None = None  # the last episode that ended, and with what
        self._running: _Episode | None = None
        self._planned = False
        self._last: Transition | None = None

    def add(self, record: Record, transition: Transition) -> None:
        if self._last is not None and transition.episode != self._last.episode:
            self._end_episode()
        self._last = transition
        self.log_ns.append(min(record.log_time_ns, 2**63 - 1))
        self.time.append(transition.state[0])
        self.reward.append(transition.reward)
        if self._task is not None:
            self.cost.append(_cost(self._task, transition))
        self.episode.append(transition.episode)
        self.safe_stop.append(float(transition.safe_stop))
        self.states.add(transition.state)
        self.actions.add((float(transition.state[0]), transition.action))
        self._running = self._running or _Episode()
        self._running.add(transition.observation)
        self._planned = self._planned or (transition.plan_id > 0 and not transition.safe_stop)
        self.stops_after_plan += int(self._planned and transition.safe_stop)
        self.weights_version = max(self.weights_version, transition.weights_version)
        if transition.terminated or transition.truncated:
            self._end_episode()

    @property
    def span(self) -> float:
        """Robot time from the first to the last transition, s."""
        return self.time[-1] - self.time[0] if len(self.time) else 0.0

    def _end_episode(self) -> None:
        if self._running is not None and self._last is not None:
            self._ended = self._running, self._last.next_observation
            self._running = None

    def observations(self) -> tuple[FloatArray, int] | None:
        """Observations (T, nobs) of the last episode that ended, or of the one that runs if none has; None: of none.

        With them the number of those before, which are not kept.

        Raises:
            ValueError: They have several sizes.
        """
        found = self._ended
        if found is None and self._running is not None and self._last is not None:
            found = self._running, self._last.next_observation
        return None if found is None else (found[0].array(found[1]), found[0].forgotten)

    def returns(self) -> list[float]:
        """The return of each episode, in order."""
        return self._totals(self.reward)

    def costs(self) -> list[float]:
        """The cost of each episode, in order, of a task that has one."""
        return self._totals(self.cost)

    def _totals(self, values: array[float]) -> list[float]:
        totals: dict[int, float] = {}
        for episode, value in zip(self.episode, values, strict=True):
            totals[episode] = totals.get(episode, 0.0) + value
        return list(totals.values())


# Counters that bags of planners which knew no such thing lack.
LATER = ("infeasible_plans", "plans_beyond_limit")


class _Series:
    """Fields of a status message over time."""

    def __init__(self, names: Sequence[str]) -> None:
        self.log_ns = array("q")
        self.columns = {name: array("d") for name in names}

    def add(self, record: Record, message: Any) -> None:
        values = [float(getattr(message, name, *([math.nan] if name in LATER else []))) for name in self.columns]
        self.log_ns.append(min(record.log_time_ns, 2**63 - 1))
        for column, value in zip(self.columns.values(), values, strict=True):
            column.append(value)

    def __getitem__(self, name: str) -> FloatArray:
        return np.array(self.columns[name], dtype=np.float64)

    def last(self, name: str) -> float | None:
        column = self.columns[name]
        return column[-1] if column else None

    def known_total(self, name: str) -> int | None:
        """As `total`; None if no message has it."""
        return self.total(name) if np.isfinite(self[name]).any() else None

    def total(self, name: str) -> int:
        """The sum of a counter that starts again whenever its node does."""
        total, before = 0.0, 0.0
        for value in self.columns[name]:
            if math.isnan(value):
                continue
            if value < before:
                total += before
            before = value
        return int(total + before)


def _cost(task: Task, transition: Transition) -> float:
    try:
        return float(task.cost(transition.observation, transition.action, transition.next_observation))
    except (IndexError, ValueError):  # of another size
        return math.nan


def _percentile(values: FloatArray, share: float) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.percentile(finite, share)) if len(finite) else None


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


class _Contents:
    """What a bag tells of its robots, read in two passes.

    Args:
        reader: The bag.
        robots: Topics of the robots' transitions, by robot.
        task: Of the session; None: it is not known here.

    Raises:
        BagError: A status is of another kind than its name says.
    """

    def __init__(self, reader: BagReader, robots: Mapping[str, str], task: Task | None) -> None:
        self.robots = {name: _Robot(task) for name in robots}
        self.planners = {
            name: _Series(
                ("plan_ms", "latency_ms", "deadline_ms", "deadlines_missed")
                + ("value_gate", "weights_version", "weights_swapped", *LATER)
            )
            for name in robots
        }
        self.learner = _Series(("value_loss", "version", "transitions_lost"))
        by_topic = {topic: self.robots[name] for name, topic in robots.items()}
        checks = check_robots(
            reader, by_topic, also=lambda record, transition: by_topic[record.topic.name].add(record, transition)
        )
        self.checked: dict[str, TransitionCheck] = {name: checks[topic] for name, topic in robots.items()}
        self.problems: list[BagProblem] = [*reader.problems]
        for check in self.checked.values():
            self.problems += check.problems
        # The planner of a robot is below the same namespace.
        planners = {f"{topic.rpartition('/')[0]}/planner/status": name for name, topic in robots.items()}
        only = next(iter(robots)) if len(reader.robots()) == 1 else None
        for record, message in reader.decoded(types=[PLANNER_STATUS, LEARNER_STATUS]):
            try:
                if record.topic.type == LEARNER_STATUS:
                    self.learner.add(record, message)
                elif message.plan_id:  # else of a planner that has not planned yet
                    name = planners.get(record.topic.name, only)
                    if name is not None:
                        self.planners[name].add(record, message)
            except (AttributeError, TypeError, ValueError) as error:
                raise BagError(f"{reader.path}: {record.topic.name} is another kind of status: {error}") from None
        self.problems += [problem for problem in reader.problems if problem not in self.problems]


def summarise(run_dir: Path | str, make_video: bool = True, robot: str = "") -> dict[str, Any]:
    """Summarise the run in `run_dir`: writes summary.json, summary.png and video.gif there.

    Of several robots there is a summary.json alone, with the figures of each under "robots"; with `robot`, all three
    files are made for that one, in the folder of its name below `run_dir`.

    Numbers that a run does not have, since it had no learner for instance, are None.

    Args:
        run_dir: folder with bag/ and session.yaml; without the latter, the bag's own record is read.
        make_video: whether to render video.gif.
        robot: namespace of the robot; empty: all there are.

    Returns:
        the content of summary.json.

    Raises:
        BagError: there is no bag, no such robot in it, or the summary cannot be written.
    """
    run_dir = Path(run_dir)
    notes: list[str] = []
    reader = BagReader(run_dir)
    session = _session(run_dir, reader, notes)
    robots = {robot.strip("/"): reader.topic_of(robot)} if robot else reader.robots()
    several = len(robots) > 1
    task = _task(session, notes)
    contents = _Contents(reader, robots or {"": "/transition"}, task)
    model_hashes = list(dict.fromkeys(name for check in contents.checked.values() for name in check.model_hashes))
    task = _of_this_model(task, model_hashes, notes)
    of_robots = {name: _of_robot(contents, name, session, task, notes) for name in contents.robots}
    learner = contents.learner
    facts: dict[str, Any] = {
        "run_dir": str(run_dir),
        "task": session.task,
        "model_hash": model_hashes[0] if model_hashes else session.model_hash,
        "seed": session.seed,
        "clock": session.clock,
        "driver": session.driver,
        "started": session.started,
        **({"robots": of_robots} if several else next(iter(of_robots.values()))),
        "value_loss": _number(learner.last("value_loss")),
        "learner_version": None if (version := learner.last("version")) is None else int(version),
        "learner_transitions_lost": learner.total("transitions_lost"),
        **_sizes(reader),
        "bag_problems": [str(problem) for problem in contents.problems],
        "versions": dict(session.versions),
        "notes": notes,
    }
    folder = run_dir / robot.strip("/")
    try:
        folder.mkdir(exist_ok=True, parents=True)
        if not several:
            (one,) = contents.robots
            found = contents.robots[one]
            save_figure(_curves(facts, found, contents.planners[one], learner), folder / "summary.png")
            if make_video:
                notes.append(_video(task, found, found.span, folder / "video.gif"))
        write_whole(folder / "summary.json", json.dumps(facts, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise BagError(f"{folder}: the summary cannot be written: {error.strerror or error}") from error
    return facts


def _of_robot(
    contents: _Contents, name: str, session: SessionInfo, task: Task | None, notes: list[str]
) -> dict[str, Any]:
    """The figures of one robot."""
    robot, planner, checked = contents.robots[name], contents.planners[name], contents.checked[name]
    wall = (robot.log_ns[-1] - robot.log_ns[0]) / 1e9 if len(robot.log_ns) else 0.0
    span, steps = robot.span, checked.transitions
    dt = session.control_dt or (task.control_dt if task is not None else 0.0)
    return {
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
        "episode_returns": [_number(value) for value in robot.returns()],
        "episode_costs": None if task is None or not task.has_cost else [_number(value) for value in robot.costs()],
        **{name: planner.known_total(name) for name in LATER},
        **_judged(task, robot, notes),
        "weights_swapped": planner.total("weights_swapped"),
        "weights_version": int(max([robot.weights_version, *planner.columns["weights_version"]])),
    }


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


def _task(session: SessionInfo, notes: list[str]) -> Task | None:
    try:
        return tasks.make(session.task)
    except ValueError as error:
        notes.append(str(error))
        return None


def _of_this_model(task: Task | None, model_hashes: Sequence[str], notes: list[str]) -> Task | None:
    """The task, unless its model is another one here."""
    if task is not None and any(found != task.model_hash for found in model_hashes):
        notes.append(
            f"the model of task '{task.name}' is {task.model_hash} here, and was {', '.join(model_hashes)}: "
            "neither success nor cost is judged"
        )
        return None
    return task


def _judged(task: Task | None, robot: _Robot, notes: list[str]) -> dict[str, Any]:
    """What the task itself says of the run."""
    if task is None:
        return {"success": None, "measures": {}}
    try:
        observed = robot.observations()
        if observed is None:
            return {"success": None, "measures": {}}
        run, forgotten = observed
        found = task.success(run)
        measures = task.measures(run)
    except ValueError as error:
        notes.append(f"success is not judged: {error}")
        return {"success": None, "measures": {}}
    if forgotten:
        notes.append(f"success and measures are of the last {len(run)} observations: {forgotten} before are not kept")
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


def _shown(value: Any, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def _pair(facts: Mapping[str, Any], stem: str) -> str:
    low, high = facts[f"{stem}_p50"], facts[f"{stem}_p99"]
    return "-" if low is None else f"{low:.2f} / {high:.2f} ms"


_SUCCESS = {None: "-", True: "yes", False: "no"}


def format_table(facts: dict[str, Any]) -> str:
    """A summary as an aligned table for a terminal."""
    shared = [
        ("folder", facts["run_dir"]),
        ("bag", f"{facts['bag_messages']} messages, {facts['bag_bytes'] / 1e6:.2f} MB"),
        *(("bag problem", text) for text in facts["bag_problems"]),
        *(("note", text) for text in facts["notes"]),
    ]
    session = f"seed {facts['seed']}, {facts['clock'] or '-'}, {facts['driver'] or '-'}"
    rows = [("task", f"{facts['task'] or '-'} ({session})")]
    value_loss = ("value loss", _shown(facts["value_loss"], ".4g"))
    rows += [value_loss] if "robots" in facts else _rows(facts, value_loss)
    rows += shared
    width = max(len(name) for name, _ in rows)
    body = [f"  {name:<{width}}   {text}" for name, text in rows]
    body += _of_robots(facts["robots"]) if "robots" in facts else []
    rule = "-" * min(100, max(len(line) for line in body))
    return "\n".join([rule, *body, rule])


def _rows(facts: Mapping[str, Any], value_loss: tuple[str, str]) -> list[tuple[str, str]]:
    """What a table says of one robot."""
    limited = facts["episode_costs"] is not None
    return [
        ("success", _SUCCESS[facts["success"]]),
        *((name.replace("_", " "), _shown(value, ".4g")) for name, value in facts["measures"].items()),
        ("steps", f"{facts['steps']} ({facts['duration_s']:.2f} s robot time, {facts['wall_s']:.2f} s wall)"),
        ("real-time factor", _shown(facts["real_time_factor"], ".3f")),
        ("steps without plan", f"{facts['missed_steps']} (safe stop: {facts['safe_stops']} steps in all)"),
        ("transitions lost", str(facts["transitions_lost"])),
        ("plan time p50 / p99", _pair(facts, "plan_ms")),
        ("latency p50 / p99", _pair(facts, "latency_ms")),
        ("plans past deadline", f"{facts['deadlines_missed']} (deadline {_shown(facts['deadline_ms'], '.1f', ' ms')})"),
        ("return per episode", _last(facts["episode_returns"])),
        *([("cost per episode", _last(facts["episode_costs"]))] if limited else []),
        *([(name.replace("_", " "), _shown(facts[name], "d")) for name in LATER] if limited else []),
        value_loss,
        ("weights", f"version {facts['weights_version']}, swapped {facts['weights_swapped']} times"),
        ("learned value used", _shown(facts["value_gate_mean"], ".0%", ", mean gate")),
    ]


def _last(episodes: Sequence[float | None]) -> str:
    """The last few of what episodes came to."""
    shown = ", ".join(_shown(value, ".2f") for value in episodes[-6:]) or "-"
    return f"... {shown} ({len(episodes)} episodes)" if len(episodes) > 6 else shown


def _of_robots(robots: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each robot, below a heading."""
    table = [["robot", "steps", "lost", "no plan", "real time", "plan p50 / p99", "late", "weights", "success"]]
    for name, facts in robots.items():
        counts = [str(facts[key]) for key in ("steps", "transitions_lost", "missed_steps")]
        pace, plan = _shown(facts["real_time_factor"], ".3f"), _pair(facts, "plan_ms")
        late, weights = str(facts["deadlines_missed"]), str(facts["weights_version"])
        table.append([name or "/", *counts, pace, plan, late, weights, _SUCCESS[facts["success"]]])
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = ("   ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in table)
    return [f"  {line.rstrip()}" for line in lines]
