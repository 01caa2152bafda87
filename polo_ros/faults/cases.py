"""The cases of a campaign: a fixed part, and one that hypothesis draws from a seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from polo_ros.faults import messages
from polo_ros.faults.kinds import (
    Blocked,
    Clock,
    Damaged,
    DiskFull,
    DriverFails,
    Fault,
    Relay,
    Rival,
    Signal,
    Spoil,
)
from polo_ros.faults.probe import ROBOTS_ONLY, STATES

CHECKPOINT = "checkpoints/learner.safetensors"
ROBOT, SIM = "robot", "sim"
EXCEPTIONS = (
    "DriverError", "OSError", "TimeoutError", "ValueError", "KeyError", "AssertionError", "MemoryError",
    "RecursionError", "StopIteration", "NotImplementedError", "SystemExit", "KeyboardInterrupt", "GeneratorExit",
)  # fmt: skip
# Of states that a driver returns: these are believed, and are a fault of the robot.
BELIEVED = ("position out of range", "too fast", "age 10 s")


@dataclass(frozen=True)
class Case:
    """One or more faults at once, for a while."""

    name: str
    group: str
    faults: Sequence[Fault]
    allows: Sequence[str]  # names in ALLOWED
    hold: float = 0.35  # s
    session: str = ROBOT
    arm: bool = False  # afterwards the robot has to be armed
    recording: bool = False  # afterwards it takes a while until everything is recorded again
    last: bool = field(default=False)  # it ends the session


def _case(group: str, allows: str | Sequence[str], *faults: Fault, name: str = "", **more: object) -> Case:
    names = (allows,) if isinstance(allows, str) else allows
    made = Case(name or " + ".join(str(fault) for fault in faults), group, faults, names)
    return replace(made, **more)  # type: ignore[arg-type]


def fixed() -> list[Case]:
    """The fixed part, one case for every field and kind among them."""
    found = [*_fields(), *_transport(), *_rivals(), *_driver(), *_nodes(), *_files(), *_simulation(), *_ends()]
    assert len({case.name for case in found}) == len(found)
    return found


def _fields() -> Iterator[Case]:
    for message in messages.RECEIVED:
        for edit in messages.edits(message):
            # Plans and states as if their sender were wrong: the right ones do not come any more.
            instead = message in ("Plan", "State")
            yield _case(message, "message", Spoil(message, (edit,), instead), hold=0.35 if instead else 0.15)
    for edit in (("actions", "nan"), ("actions", "huge"), ("state_step", "later"), ("first_step", "earlier")):
        yield _case("Plan", "message", Spoil("Plan", (edit,)))
    for edit in (("step", "later"), ("episode", "later"), ("qpos", "huge")):
        yield _case("State", "message", Spoil("State", (edit,)))
    # The bridge listens to a planner's status only until it controls.
    for edits in (
        (("step", "largest"), ("plan_id", "value", 1)),
        (("step", "value", 2**40), ("plan_id", "value", 1)),
        (("episode", "largest"), ("plan_id", "value", 1)),
    ):
        faults = (Spoil("PlannerStatus", edits), Signal("bridge", "SIGKILL"))
        yield _case("PlannerStatus", "bridge ends", *faults, hold=6.0)


def _transport() -> Iterator[Case]:
    for topic in ("plan", "state"):
        for loss in (0.1, 0.5, 0.9, 1.0):
            yield _case("transport", "transport", Relay(topic, loss=loss), hold=0.6)
        for delay in (0.01, 0.05, 0.15, 0.5):
            yield _case("transport", "transport", Relay(topic, delay=delay), hold=0.8)
        yield _case("transport", "transport", Relay(topic, copies=1), hold=0.6)
        yield _case("transport", "transport", Relay(topic, copies=20), hold=0.6)
        yield _case("transport", "transport", Relay(topic, shuffle=0.05), hold=0.6)
        yield _case("transport", "transport", Relay(topic, shuffle=0.3), hold=0.8)


def _rivals() -> Iterator[Case]:
    yield _case("rival", "message", Rival(ours=False), hold=0.8)
    yield _case("rival", "message", Rival(ours=True), hold=5.0)
    yield _case("rival", "planner ends", Rival(ours=True), Signal("planner", "SIGKILL"), hold=5.0)


def _driver() -> Iterator[Case]:
    for what in EXCEPTIONS:
        for call in ("read", "write"):
            yield _case("driver", "driver", DriverFails(call, f"raise {what}"), arm=True)
    for what in STATES:
        allows = "state" if what in BELIEVED else "driver"
        yield _case("driver", allows, DriverFails("read", what), arm=True)
    yield _case("driver", "state", DriverFails("read", "frozen", -1), hold=0.6, arm=True)
    yield _case("driver", "driver", DriverFails("read", "raise OSError", 200), hold=3.0, arm=True)
    yield _case("driver", "driver", DriverFails("write", "raise OSError", 3), hold=5.0, arm=True)
    for call in ("read", "write"):
        yield _case("driver", "blocked driver", DriverFails(call, "slow 50 ms", 5), arm=True)
        yield _case("driver", "blocked driver", DriverFails(call, "slow 500 ms"), hold=0.8, arm=True)
    yield _case("driver", "message", DriverFails("status", "raise ValueError", -1), hold=1.2)
    yield _case("driver", "message", DriverFails("status", "text", -1), hold=1.2)


def _nodes() -> Iterator[Case]:
    ends = {"bridge": "bridge ends", "planner": "planner ends", "learner": "learner ends", "recorder": "recorder ends"}
    told = {**ends, "bridge": "bridge told", "recorder": "recorder told"}
    for node, allows in ends.items():
        recording = node == "recorder"
        yield _case("node", allows, Signal(node, "SIGKILL"), hold=0.5, recording=recording)
        yield _case("node", told[node], Signal(node, "SIGTERM"), hold=0.5, recording=recording)
    for node in (*ends, "monitor"):
        allows = "bridge stands" if node == "bridge" else "node stands"
        for hold in (0.1, 0.5, 2.0):
            yield _case("node", allows, Signal(node, "SIGSTOP"), hold=hold, name=f"SIGSTOP {node} for {hold:g} s")
    pair = (Signal("bridge", "SIGKILL"), Signal("planner", "SIGKILL"))
    yield _case("node", ("bridge ends", "planner ends"), *pair, hold=0.5)
    others = tuple(Signal(node, "SIGKILL") for node in ends)
    yield _case("node", tuple(ends.values()), *others, hold=0.5, recording=True)


def _files() -> Iterator[Case]:
    yield _case("files", "disk", DiskFull("recorder", 5000), hold=1.5, recording=True)
    yield _case("files", "disk", DiskFull("recorder", 0), hold=1.5, recording=True)
    yield _case("files", "message", DiskFull("learner", 0), hold=2.5)
    blocked = (Blocked("bag"), Signal("recorder", "SIGKILL"))
    yield _case("files", "recorder ends", *blocked, hold=4.0, recording=True)
    for how in ("noise", "cut", "empty"):
        yield _case("files", "learner ends", Damaged(CHECKPOINT, how), Signal("learner", "SIGKILL"), hold=0.5)
    damaged = (Damaged("stopped.json", "noise"), Signal("bridge", "SIGKILL"))
    yield _case("files", "bridge ends", *damaged, hold=0.5, arm=True)


def _simulation() -> Iterator[Case]:
    """In a simulation that publishes /clock."""
    for seconds in (0.0, 1e9, 2.0**31 - 1.0, -1.0):
        yield _case("clock", "message", Clock(seconds), hold=1.2, session=SIM)
    for case in (
        _case("simulation", "message", Spoil("Plan", (("actions", "nan"),), instead=True)),
        _case("simulation", "message", Spoil("Plan", (("actions", "huge"),), instead=True)),
        _case("simulation", "transport", Relay("plan", loss=1.0), hold=0.6),
        _case("simulation", "driver", DriverFails("read", "raise OSError")),
        _case("simulation", "driver", DriverFails("write", "raise OSError")),
        *(
            _case("simulation", "state" if what in BELIEVED else "driver", DriverFails("read", what),
                  arm=what in BELIEVED)
            for what in ("qpos nan", "time back", "position out of range")
            if what not in ROBOTS_ONLY
        ),
        _case("simulation", "planner ends", Signal("planner", "SIGKILL"), hold=0.5),
        _case("simulation", "bridge ends", Signal("bridge", "SIGKILL"), hold=0.5),
        _case("simulation", "bridge stands", Signal("bridge", "SIGSTOP"), hold=1.0),
    ):  # fmt: skip
        yield replace(case, name=f"simulated: {case.name}", session=SIM)


def _ends() -> Iterator[Case]:
    """What ends a session; each has the last word of one."""
    yield _case("node", "monitor ends", Signal("monitor", "SIGKILL"), last=True)
    ended = _case("node", "monitor ends", Signal("monitor", "SIGTERM"), last=True)
    yield replace(ended, session=SIM)


# A few that cover what there is, for a look that takes half a minute.
FIRST = (
    "Plan actions nan (instead)",
    "plan loss 100%",
    "a second planner at full force",
    "State qpos inf (instead)",
    "Transition reward nan (beside)",
    "Weights data forged nan (beside)",
    "PlannerStatus step largest (beside)",
    "read: qpos nan",
    "read: position out of range",
    "write: raise OSError",
    "SIGSTOP planner for 0.5 s",
    "SIGKILL planner",
)


def chosen(number: int, seed: int, only: str = "") -> list[Case]:
    """`number` cases: the fixed ones, FIRST first, then random ones; or those whose name or group contains `only`."""
    everything = fixed()
    order = {name: place for place, name in enumerate(FIRST)}
    everything.sort(key=lambda case: order.get(case.name, len(order)))
    if only:
        return [case for case in everything if only.lower() in f"{case.group}: {case.name}".lower()]
    if number <= len(everything):
        return everything[:number]
    from polo_ros.faults.randomly import drawn  # hypothesis is wanted only here

    return [*everything, *drawn(number - len(everything), seed)]
