"""What each kind of fault may cost; docs/faults.md prints this table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

HEADER = "| fault | may be lost of the record | may end | safe stop in time |\n|---|---|---|---|\n"


@dataclass(frozen=True)
class Allowance:
    """The price of one kind of fault."""

    kind: str  # in the words of the table
    record: str  # likewise
    periods: int = 0  # transitions that may be missing in the bag
    each: bool = False  # so many for each error of the driver, and each state that is refused
    before: float = 0.0  # s before the fault in which any may be missing
    after: float = 0.0  # s after its end in which any may be missing; above 0: also while it lasts
    ends: tuple[str, ...] = ()  # nodes that may end; they are started again
    stops: str = "yes"  # anything else: why the time of the safe stop is not ours to bound
    session: bool = False  # whether the session ends


ALLOWED = {
    "message": Allowance("a message with a wrong field, /clock, a second planner", "nothing"),
    "transport": Allowance("plans or states lost, late, twice, reordered", "nothing"),
    "driver": Allowance(
        "the driver raises, or returns what is no state", "the period of each error", periods=1, each=True
    ),
    "state": Allowance("the driver returns a state that stands still or is out of limits", "nothing"),
    "blocked driver": Allowance(
        "the driver blocks, or cannot stop", "the period of each error", periods=1, each=True,
        stops="when the driver comes back: until then nobody reaches the robot",
    ),
    "bridge ends": Allowance(
        "SIGKILL of the bridge", "the period it was in", periods=1, ends=("bridge",),
        stops="when it is back: until then the robot's own watchdog has to act",
    ),
    "bridge told": Allowance(
        "SIGTERM of the bridge", "the period it was in", periods=1, ends=("bridge",),
    ),
    "bridge stands": Allowance(
        "SIGSTOP of the bridge", "nothing", stops="when it goes on: until then the robot's own watchdog has to act"
    ),
    "planner ends": Allowance("the planner killed or ended", "nothing", ends=("planner",)),
    "learner ends": Allowance(
        "the learner killed or ended, its checkpoint damaged", "nothing; what was learned since the checkpoint",
        ends=("learner",),
    ),
    "node stands": Allowance("SIGSTOP of planner, learner, recorder or monitor", "nothing"),
    "recorder ends": Allowance(
        "SIGKILL of the recorder", "the second before, and until it is back", before=1.0, after=15.0,
        ends=("recorder",),
    ),
    "recorder told": Allowance(
        "SIGTERM of the recorder", "what it has not taken in yet, half a second at most, and until it is back",
        before=0.5, after=15.0, ends=("recorder",)
    ),
    "disk": Allowance(
        "no room for the recorder", "the second before, and until it has tried again (every 5 s)",
        before=1.0, after=7.0,
    ),
    "monitor ends": Allowance(
        "the monitor killed or ended",
        "what the recorder has not taken in when all are told to end, half a second at most",
        before=0.5, after=15.0, ends=("bridge", "planner", "learner", "recorder", "monitor"), session=True,
    ),
}  # fmt: skip


def table() -> str:
    """All of it as a Markdown table."""
    rows = [
        f"| {a.kind} | {a.record} | {'the session, in order' if a.session else ', '.join(a.ends) or 'nothing'} "
        f"| {a.stops} |\n"
        for a in ALLOWED.values()
    ]
    return HEADER + "".join(rows)


def together(names: Sequence[str]) -> Allowance:
    """What several faults at once may cost."""
    all_ = [ALLOWED[name] for name in names]
    return Allowance(
        kind="; ".join(a.kind for a in all_),
        record="; ".join(a.record for a in all_),
        periods=sum(a.periods for a in all_),
        each=any(a.each for a in all_),
        before=max(a.before for a in all_),
        after=max(a.after for a in all_),
        ends=tuple(dict.fromkeys(node for a in all_ for node in a.ends)),
        stops=next((a.stops for a in all_ if a.stops != "yes"), "yes"),
        session=any(a.session for a in all_),
    )
