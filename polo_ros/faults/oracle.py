"""Judges the evidence of a session: pure functions from journals to violations.

Nothing that the session says of itself is believed. What reached the driver is in the driver's own journal, and a
command that is not the safe stop has to follow from a plan that was sent and that this file, too, holds for valid.

Times are the robot's own: of a robot the steady clock, of a simulation its time, which waits for commands.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from polo_ros.faults.journal import Record

# s that a sleep may take longer than it should.
JITTER = 0.005
# s that a plan may lie about, far beyond any age at which it may be played.
LONGEST = 5.0
# Of sums of products of controls, whatever their last bit says.
NEAR = 1e-9
# States that a supervisor must answer in the same control period, as soon as it sees them.
SEEN_AT_ONCE = ("position out of range", "too fast", "age 10 s")


@dataclass(frozen=True)
class Limits:
    """What must hold in a session."""

    low: Sequence[float]  # (nu,), of controls
    high: Sequence[float]
    change: Sequence[float]  # (nu,), of a control from one period to the next; inf: any
    safe: Sequence[float]  # (nu,), the safe stop
    period: float  # s, of control
    max_plan_age: float  # s
    max_state_age: float  # s; 0: states may be of any age
    model_hash: str


@dataclass(frozen=True)
class Violation:
    """Something that must never happen."""

    t: float  # s, steady clock
    rule: str
    text: str


@dataclass
class Period:
    """One command that reached the driver."""

    t: float  # s, steady clock, of the command
    clock: float  # s, robot's clock, of the command
    pid: int
    action: Sequence[float]
    read: float  # s, robot's clock, of the state that it answers
    waited: float  # s that the process had waited for a core until then
    bad: str  # what was wrong with that state; empty: nothing
    before: Sequence[float] | None  # the command before; None: it is the first since control began
    over: float = math.inf  # s, steady clock, of the driver's next call that is answered: the end of the period
    step: int = -1  # -1: unknown
    episode: int = -1
    safe: bool = False
    plan_read: float = math.nan  # s, robot's clock, of the state of the plan that it follows from
    plan_waited: float = 0.0  # s, `waited` at that moment
    planner: int = 0  # who made that plan


@dataclass(frozen=True)
class Stop:
    """The safe stop that came after planned control."""

    t: float  # s, steady clock
    seconds: float  # since the state of the last plan that was obeyed
    late: float  # s of them for which the machine had no core for the bridge, and jitter


@dataclass
class Evidence:
    """A session, put together."""

    limits: Limits
    periods: list[Period]
    records: Sequence[Record]  # of the driver
    plans: Sequence[Record]  # that were sent
    arms: Sequence[float] = field(default_factory=tuple)  # steady times of calls of ~/arm that succeeded


def assemble(
    driver: Sequence[Record], traffic: Sequence[Record], limits: Limits, arms: Sequence[float] = ()
) -> Evidence:
    """Put the journals together; states tell which control period a command belongs to.

    Whoever hears them may hear a new bridge a little late: its periods are counted back from the first state heard.
    """
    begins = _begins(driver)
    named = _steps_of_reads(driver, [r for r in traffic if r["do"] == "state"], [driver[n]["t"] for n in begins])
    periods: list[Period] = []
    starts = set(begins)
    unnamed: list[Period] = []  # the last ones, in a row that ends with the next read
    read: Record | None = None
    before: Sequence[float] | None = None
    step, episode = -1, -1
    for number, record in enumerate(driver):
        if number in starts:
            before, step, unnamed = None, -1, []
        if periods and periods[-1].over == math.inf:
            periods[-1].over = record["t"]
        if record["do"] == "read":
            read = record
            if number in named:
                step, episode = named[number]
                for back, period in enumerate(reversed(unnamed[-step:] if step else []), 1):
                    period.step, period.episode = step - back, episode
                unnamed = []
        elif record["do"] == "write" and read is not None:
            action = record["action"]
            periods.append(
                Period(
                    t=record["t"],
                    clock=record["clock"],
                    pid=record["pid"],
                    action=action,
                    read=read["clock"],
                    waited=record["waited"],
                    bad=read["bad"],
                    before=before,
                    step=step,
                    episode=episode,
                    safe=_near(action, limits.safe, NEAR),
                )
            )
            if step < 0:
                unnamed.append(periods[-1])
            if len(action) == len(limits.low) and all(math.isfinite(u) for u in action):
                before = action
            step += step >= 0  # until a state says otherwise
        elif record["do"] == "reset":
            before, unnamed = None, []
    return Evidence(limits, periods, driver, [r for r in traffic if r["do"] == "plan"], arms)


def _begins(driver: Sequence[Record]) -> list[int]:
    """Places in the journal where somebody connects to the driver."""
    return [
        number
        for number, record in enumerate(driver)
        if record["do"] == "connect" or number == 0 or record["pid"] != driver[number - 1]["pid"]
    ]


def _steps_of_reads(
    driver: Sequence[Record], states: Sequence[Record], begins: Sequence[float]
) -> dict[int, tuple[int, int]]:
    """Step and episode of reads, by their place in the journal: those whose numbers were published as a state.

    A state is of the bridge that was there when it was heard: a robot may be in the same state under two of them.
    `begins` are the steady times at which each connected.
    """
    times = [state["t"] for state in states]
    found: dict[int, tuple[int, int]] = {}
    used = 0  # states before it belong to earlier reads
    for number, record in enumerate(driver):
        if record["do"] != "read" or record["bad"] in SEEN_AT_ONCE:
            continue
        first = max(bisect.bisect_left(times, record["t"]), used)
        next_life = bisect.bisect_right(begins, record["t"])
        end = bisect.bisect_left(times, begins[next_life]) if next_life < len(begins) else len(states)
        for place, state in enumerate(states[first : min(first + 50, end)], first):
            if state["qpos"] == record["qpos"] and state["qvel"] == record["qvel"]:
                found[number] = (state["step"], state["episode"])
                used = place + 1
                break
    return found


def controls_out_of_limits(evidence: Evidence) -> list[Violation]:
    """Commands that are not finite, of a wrong size, out of range, or that change too fast."""
    out = []
    limits = evidence.limits
    for period in evidence.periods:
        action = period.action
        if len(action) != len(limits.low) or not all(math.isfinite(u) for u in action):
            out.append(Violation(period.t, "limits", f"the driver got {action}"))
            continue
        for u, low, high in zip(action, limits.low, limits.high, strict=True):
            if not low - NEAR <= u <= high + NEAR:
                out.append(Violation(period.t, "limits", f"the driver got {u:g}, limits {low:g} .. {high:g}"))
        if period.safe:  # it is not slowed down
            continue
        before = period.before or limits.safe
        for u, last, change in zip(action, before, limits.change, strict=True):
            if abs(u - last) > change + NEAR:
                out.append(Violation(period.t, "limits", f"{last:g} became {u:g} in one period, limit {change:g}"))
    return out


def commands_without_plan(evidence: Evidence) -> list[Violation]:
    """Commands that are neither the safe stop nor follow from a plan that is valid and fresh.

    Notes in each period whose plan it follows from.
    """
    limits = evidence.limits
    reads = {(p.pid, p.step, p.episode): (p.read, p.waited) for p in evidence.periods if p.step >= 0}
    plans = [plan for plan in evidence.plans if _well_formed(plan, limits)]
    sent = [plan["t"] for plan in plans]
    out = []
    master = 0
    for period in evidence.periods:
        if period.before is None:
            master = 0
        if period.safe or len(period.action) != len(limits.low):
            continue
        last = bisect.bisect_right(sent, period.t)
        why = "no plan that was sent gives it"
        found: Record | None = None
        for plan in reversed(plans[:last]):
            if plan["t"] < period.t - LONGEST:
                break
            if period.step >= 0 and plan["episode"] != period.episode:
                continue
            row = period.step - plan["first_step"]
            rows = [row] if period.step >= 0 else range(plan["horizon"])
            if not any(0 <= r < plan["horizon"] and _follows(plan, r, period, limits) for r in rows):
                continue
            if period.step >= 0 and not plan["state_step"] <= min(period.step, plan["first_step"]):
                why = f"its plan is of step {plan['state_step']}, this is step {period.step}"
                continue
            start, waited = reads.get((period.pid, plan["state_step"], plan["episode"]), (math.nan, 0.0))
            age = period.read - start
            steps = (period.step - plan["state_step"]) * limits.period if period.step >= 0 else 0.0
            if age > limits.max_plan_age + limits.period or steps > limits.max_plan_age + NEAR:
                why = f"its plan's state is {max(age, steps):.3f} s old, allowed {limits.max_plan_age:g} s"
                continue
            # Two planners may ask for the same: the one that was obeyed before is meant.
            if found is None or plan["planner_id"] == master:
                found = plan
                period.plan_read, period.plan_waited, period.planner = start, waited, plan["planner_id"]
            if found["planner_id"] == master:
                break
        if found is not None:
            master, why = found["planner_id"], ""
        if why:
            out.append(Violation(period.t, "plan", f"the driver got {_short(period.action)}: {why}"))
    return out


def stops(evidence: Evidence) -> list[Stop]:
    """How long after the last obeyed plan's state each safe stop came; to be called after commands_without_plan."""
    halts = [r for r in evidence.records if r["do"] == "stop"]
    halted = [r["t"] for r in halts]
    out = []
    for period, after in zip(evidence.periods, [*evidence.periods[1:], None], strict=True):
        if period.safe or math.isnan(period.plan_read):
            continue
        number = bisect.bisect_right(halted, period.t)
        end: tuple[float, float, float] | None = None  # steady, robot's clock, waited
        if after is not None and after.safe:
            end = (after.t, after.clock, after.waited)
        if number < len(halts) and (after is None or halts[number]["t"] < after.t):
            halt = halts[number]
            end = (halt["t"], halt["clock"], halt["waited"])
        if end is None:
            continue
        late = max(0.0, end[2] - period.plan_waited) + JITTER
        out.append(Stop(end[0], end[1] - period.plan_read, late))
    return out


def late_stops(evidence: Evidence, found: Sequence[Stop]) -> list[Violation]:
    """Safe stops that came later than `max_plan_age` and one control period after the last plan's state."""
    allowed = evidence.limits.max_plan_age + evidence.limits.period
    return [
        Violation(stop.t, "stop", f"the safe stop came after {stop.seconds:.3f} s, allowed {allowed:.3f} s")
        for stop in found
        if stop.seconds > allowed + stop.late
    ]


def unanswered_states(evidence: Evidence) -> list[Violation]:
    """Planned control after a state that must not be, or an error of the driver, before somebody armed it again."""
    limits = evidence.limits
    out = []
    fault: tuple[float, str] | None = None  # steady time from which on the safe stop has to be there, and why
    newest: Record | None = None  # read of the newest state; of one that stands still it is the first
    still = False
    for record in evidence.records:
        if record["do"] == "read":
            if record["bad"] != "frozen" or not still:
                newest = record
            elif newest is not None and limits.max_state_age:
                late = record["waited"] - newest["waited"] + JITTER if record["pid"] == newest["pid"] else JITTER
                if record["clock"] - newest["clock"] > limits.max_state_age + limits.period + late:
                    fault = fault or (record["t"], "a state that stands still")
            still = record["bad"] == "frozen"
            if record["bad"] and record["bad"] != "frozen":
                fault = fault or (record["t"], f"a state with {record['bad']}")
        elif record["do"] == "error" and record["at"] != "status":  # which is for display alone
            fault = fault or (record["t"], f"an error in {record['at']}")
        elif record["do"] == "write" and fault is not None:
            if any(fault[0] < armed <= record["t"] for armed in evidence.arms):
                fault = None
            elif not _near(record["action"], limits.safe, NEAR):
                out.append(Violation(record["t"], "fault", f"planned control after {fault[1]}, without ~/arm"))
                fault = None
    return out


def two_masters(evidence: Evidence) -> list[Violation]:
    """Periods in which another planner is obeyed than just before, although that one was not silent.

    The other one takes over with a plan that comes when the first was silent for long enough; that plan need not be
    the one that is played first.
    """
    limits = evidence.limits
    spoken: dict[int, list[float]] = {}
    for plan in evidence.plans:
        if _well_formed(plan, limits):
            spoken.setdefault(plan["planner_id"], []).append(plan["t"])
    taken = [period.t for period in evidence.periods]  # plans are taken just before the command of a period
    out = []
    last: Period | None = None
    for period in evidence.periods:
        if not period.planner:
            continue
        if last is not None and period.planner != last.planner and period.episode == last.episode:
            before, other = spoken.get(last.planner, []), spoken.get(period.planner, [])
            began = bisect.bisect_left(other, last.t - limits.max_plan_age)
            quiet = 0.0
            for t in other[began : bisect.bisect_left(other, period.t)]:
                heard = bisect.bisect_left(before, t)
                at = taken[bisect.bisect_left(taken, t)]
                quiet = max(quiet, at - before[heard - 1] if heard else math.inf)
            if quiet < limits.max_plan_age - limits.period:
                text = f"planner {period.planner:016x} is obeyed, {last.planner:016x} was silent for {quiet:.3f} s"
                out.append(Violation(period.t, "planner", text))
        last = period
    return out


def lost(evidence: Evidence, recorded: Mapping[int, Collection[Sequence[float]]]) -> list[Period]:
    """Periods whose transition is not in the bag.

    Args:
        evidence: Of the session.
        recorded: Actions (nu,) of the transitions in its bag, by their step.
    """
    return [
        period
        for period in evidence.periods
        if period.step < 0 or not any(_near(period.action, action, NEAR) for action in recorded.get(period.step, ()))
    ]


def steps_that_fell(traffic: Sequence[Record]) -> list[Violation]:
    """States whose step is below one before."""
    out, last = [], -1
    for record in traffic:
        if record["do"] != "state":
            continue
        if record["step"] < last:
            out.append(Violation(record["t"], "step", f"step {record['step']} came after step {last}"))
        last = record["step"]
    return out


def _well_formed(plan: Record, limits: Limits) -> bool:
    actions, nu = plan["actions"], len(limits.low)
    return bool(
        plan["model_hash"] == limits.model_hash
        and plan["nu"] == nu
        and plan["horizon"] >= 1
        and len(actions) == plan["horizon"] * nu
        and all(math.isfinite(u) for u in actions)
        and abs(plan["dt"] - limits.period) < 1e-9
    )


def _follows(plan: Record, row: int, period: Period, limits: Limits) -> bool:
    """Whether the command is a plan's row, after the limits."""
    nu = len(limits.low)
    asked = plan["actions"][row * nu : (row + 1) * nu]
    before = period.before or limits.safe
    for u, wanted, last, low, high, change in zip(
        period.action, asked, before, limits.low, limits.high, limits.change, strict=True
    ):
        allowed = min(max(wanted, low), high)
        allowed = min(max(allowed, last - change), last + change)
        if abs(min(max(allowed, low), high) - u) > NEAR:
            return False
    return True


def _near(a: Sequence[float], b: Sequence[float], by: float) -> bool:
    return len(a) == len(b) and all(abs(x - y) <= by for x, y in zip(a, b, strict=True))


def _short(action: Sequence[float]) -> str:
    return ", ".join(f"{u:.4g}" for u in action[:8])
