"""Runs cases: session by session, case by case, and judges each from what was written down."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from polo_ros.faults import journal, oracle
from polo_ros.faults.allowed import Allowance, together
from polo_ros.faults.cases import Case
from polo_ros.faults.kinds import NODES
from polo_ros.faults.lab import Lab, LabError, limits
from polo_ros.replay.bag_reader import read_transitions
from polo_ros.replay.bag_types import BagError

# s until control has to be there again after a fault has ended.
PATIENCE = 40.0
# Cases that one session gets at most: a trace that they leave must not hide what comes after.
TOGETHER = 80

Say = Callable[[str], None]


@dataclass
class Outcome:
    """One case and what came of it."""

    name: str
    group: str
    session: str
    began: float = 0.0  # s, steady clock
    ended: float = 0.0  # of the fault
    left: float = 0.0  # when the next case could begin
    stop_s: float | None = None  # longest time from the last obeyed plan's state to the safe stop; None: there was none
    stop_limit_s: float | None = None  # None: not ours to bound
    late_s: float = 0.0  # of stop_s, for which there was no core, and jitter
    recovery_s: float | None = None  # from the end of the fault to planned control
    commands: int = 0  # that reached the driver from the beginning of the case to the next
    safe_stops: int = 0  # of them
    largest: float = 0.0  # magnitude among them
    lost: int = 0  # periods that are missing in the bag
    lost_allowed: int = 0
    violations: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """For JSON."""
        found = asdict(self)
        for name in ("began", "ended", "left"):
            del found[name]
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()}


def run(cases: Sequence[Case], keep: Path | None, say: Say, progress: Say) -> list[Outcome]:
    """Run all cases; what came of each, in the order in which they ran.

    Args:
        cases: To run.
        keep: Folder for all evidence; None: it is thrown away.
        say: Takes a line a case.
        progress: Takes what is under way.
    """
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="polo_faults_") as scratch:
        waiting = _sessions(cases)
        for number in range(len(cases)):  # at least one case is done in each
            if not waiting:
                break
            batch = waiting.pop(0)
            folder = (keep or Path(scratch)) / f"session-{number}"
            folder.mkdir(parents=True)
            done = _session(batch, folder, len(outcomes), len(cases), progress)
            for outcome in done:
                say(line(outcome))
            outcomes += done
            if len(done) < len(batch):
                waiting.insert(0, batch[len(done) :])
            if keep is None:
                shutil.rmtree(folder)
    return outcomes


def _sessions(cases: Sequence[Case]) -> list[list[Case]]:
    """Cases that share a session."""
    out = []
    for _, group in groupby(sorted(cases, key=lambda case: case.session), key=lambda case: case.session):
        found = sorted(group, key=lambda case: case.last)  # stable
        number = -(-len(found) // TOGETHER)
        size = -(-len(found) // number)
        out += [found[i : i + size] for i in range(0, len(found), size)]
    return out


def _session(batch: Sequence[Case], folder: Path, before: int, total: int, progress: Say) -> list[Outcome]:
    """Run cases until one ends the session, and judge them."""
    outcomes: list[Outcome] = []
    simulated = batch[0].session == "sim"
    progress(f"a session of {len(batch)} cases starts")
    lab = Lab(folder, simulated)
    try:
        with lab:
            for case in batch:
                progress(f"{before + len(outcomes) + 1}/{total} {case.group}: {case.name}")
                outcomes.append(_case(case, lab))
                if not lab.running():
                    break
            arms, closing = lab.arms, time.monotonic()
            time.sleep(1.5)  # until what came before is written
    except LabError as error:
        arms, closing = [], time.monotonic()
        if len(outcomes) == 0:
            outcomes.append(Outcome(batch[0].name, batch[0].group, batch[0].session, violations=[f"session: {error}"]))
            return outcomes
        outcomes[-1].violations.append(f"session: {error}")
    if lab.stuck:
        outcomes[-1].violations.append(f"session: {lab.stuck} did not end within {lab.ENDING:g} s of being told to")
    _judge(batch, outcomes, folder, simulated, arms, closing)
    return outcomes


def _case(case: Case, lab: Lab) -> Outcome:
    """Do to the session what the case says, and wait until it is as before."""
    outcome = Outcome(case.name, case.group, case.session)
    allowed = together(case.allows)
    there = lab.nodes()
    outcome.began = outcome.ended = time.monotonic()
    try:
        for fault in case.faults:
            fault.begin(lab)
        time.sleep(case.hold)
        for fault in reversed(case.faults):
            fault.end(lab)
        outcome.ended = time.monotonic()
        if case.last:
            _await_end(lab)
        else:
            _recover(case, lab, outcome)
            _deaths(there, lab.nodes(), allowed, outcome)
    except LabError as error:
        outcome.violations.append(f"recovery: {error}")
        if lab.running():
            lab.close()  # the next session is a fresh one
    outcome.left = time.monotonic()
    return outcome


def _await_end(lab: Lab) -> None:
    end = time.monotonic() + PATIENCE
    while lab.running():
        if time.monotonic() > end:
            raise LabError("the session did not end")
        time.sleep(0.05)


def _recover(case: Case, lab: Lab, outcome: Outcome) -> None:
    armed = 0.0

    def again() -> bool:
        nonlocal armed
        if case.arm and time.monotonic() - armed > 0.3 and not lab.in_control():
            lab.arm()
            armed = time.monotonic()
        return lab.in_control() and set(lab.nodes()) == set(NODES)

    # What was played before the fault ended says nothing.
    time.sleep(0.1)
    lab.until(again, PATIENCE, "planned control")
    outcome.recovery_s = time.monotonic() - outcome.ended
    if case.recording:
        lab.until(lambda: lab.recording(outcome.ended), PATIENCE, "recording")


def _deaths(before: dict[str, int], after: dict[str, int], allowed: Allowance, outcome: Outcome) -> None:
    for node, process in before.items():
        if after.get(node) != process and node not in allowed.ends:
            outcome.violations.append(f"process: {node} ended")


def _judge(
    batch: Sequence[Case],
    outcomes: Sequence[Outcome],
    folder: Path,
    simulated: bool,
    arms: Sequence[float],
    closing: float,
) -> None:
    """Put to each case what the oracle finds in its time, up to steady time `closing`."""
    bounds = limits(simulated)
    traffic = journal.read(folder / journal.TRAFFIC)
    evidence = oracle.assemble(journal.read(folder / journal.DRIVER), traffic, bounds, arms)
    found = [
        *oracle.controls_out_of_limits(evidence),
        *oracle.commands_without_plan(evidence),
        *oracle.two_masters(evidence),
        *oracle.steps_that_fell(traffic),
    ]
    if not simulated:  # what a simulation does after an error is to begin a new episode
        found += oracle.unanswered_states(evidence)
    halts = oracle.stops(evidence)
    connected = _first_calls(evidence.records)
    recorded: dict[int, list[Sequence[float]]] = {}
    try:
        for transition in read_transitions(folder / "run" / "bag"):
            recorded.setdefault(transition.step, []).append(transition.action.tolist())
    except BagError as error:
        outcomes[-1].violations.append(f"bag: {error}")
    excused, missing = _excuse(batch, outcomes, [p for p in oracle.lost(evidence, recorded) if p.over < closing])
    errors = [r["t"] for r in evidence.records if _costs_a_period(r)]
    for number, (case, outcome) in enumerate(zip(batch, outcomes, strict=False)):
        allowed = together(case.allows)
        end = outcomes[number + 1].began if number + 1 < len(outcomes) else closing
        begin = outcome.began if number else 0.0

        def within(t: float, begin: float = begin, end: float = end) -> bool:
            return begin <= t < end

        outcome.violations += _texts([v for v in found if within(v.t)])
        mine = [halt for halt in halts if within(halt.t)]
        if mine:
            worst = max(mine, key=lambda halt: halt.seconds - halt.late)
            outcome.stop_s, outcome.late_s = worst.seconds, worst.late
        if allowed.stops == "yes":
            outcome.stop_limit_s = bounds.max_plan_age + bounds.period
            outcome.violations += _texts(oracle.late_stops(evidence, mine))
        periods = [p for p in evidence.periods if within(p.t)]
        outcome.commands, outcome.safe_stops = len(periods), sum(p.safe for p in periods)
        outcome.largest = max((abs(u) for p in periods for u in p.action), default=0.0)
        bridges = sum(within(t) for t in connected) - (number == 0)
        if bridges > 1 and "bridge" in allowed.ends:
            outcome.violations.append(f"process: the bridge was started {bridges} times")
        times = allowed.periods * (sum(map(within, errors)) if allowed.each else 1)
        outcome.lost_allowed = times
        gone = [p for p in missing if within(p.over)]
        outcome.lost = len(gone) + excused.get(number, 0)
        if len(gone) > times:
            outcome.violations.append(f"lost: {len(gone)} periods are not in the bag, allowed {times}")


def _first_calls(records: Sequence[journal.Record]) -> list[float]:
    """Steady times at which each process of a bridge first called the driver."""
    found: dict[int, float] = {}
    for record in records:
        found.setdefault(record["pid"], record["t"])
    return list(found.values())


def _costs_a_period(record: journal.Record) -> bool:
    """Whether the driver fails here, or returns what is no state."""
    if record["do"] == "error":
        return bool(record["at"] != "status")
    return record["do"] == "read" and bool(record["bad"])


def _excuse(
    batch: Sequence[Case], outcomes: Sequence[Outcome], missing: Sequence[oracle.Period]
) -> tuple[dict[int, int], list[oracle.Period]]:
    """How many of the missing periods lie where a case may lose any, by the case's number; and the others."""
    excused: dict[int, int] = {}
    for number, (case, outcome) in enumerate(zip(batch, outcomes, strict=False)):
        allowed = together(case.allows)
        if not allowed.after:
            continue
        first, last = outcome.began - allowed.before, min(outcome.ended + allowed.after, outcome.left)
        rest = [p for p in missing if not (first <= p.over and p.t <= last)]
        excused[number], missing = len(missing) - len(rest), rest
    return excused, list(missing)


def _texts(violations: Sequence[oracle.Violation]) -> list[str]:
    """One line a rule: how often, and the first."""
    out = []
    for rule in dict.fromkeys(v.rule for v in violations):
        mine = [v for v in violations if v.rule == rule]
        more = f" ({len(mine)} times)" if len(mine) > 1 else ""
        out.append(f"{rule}: {mine[0].text}{more}")
    return out


def line(outcome: Outcome) -> str:
    """One case in one line."""
    verdict = "ok" if not outcome.violations else "VIOLATION"
    stop = f"stop {outcome.stop_s:.3f} s" if outcome.stop_s is not None else ""
    back = f"back {outcome.recovery_s:.1f} s" if outcome.recovery_s is not None else ""
    text = f"{verdict:10s}{outcome.group:14s}{outcome.name[:70]:72s}{stop:14s} {back:12s} lost {outcome.lost}"
    return text + "".join(f"\n{'':10s}{violation}" for violation in outcome.violations)
