"""Kinds of faults: each begins, lasts for a while, and ends."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from polo_ros.faults.messages import Edit, as_text

NODES = ("bridge", "planner", "learner", "recorder", "monitor")


class Hands(Protocol):
    """What faults take hold of."""

    run_dir: Path

    def inject(self, command: Mapping[str, Any]) -> None:
        """Tell the injector."""

    def order(self, call: str, what: str, times: int) -> None:
        """Tell the driver to fail; `times` below 0: until the next order."""

    def signal(self, node: str, number: signal.Signals) -> None:
        """Send a signal to a node that is there."""

    def limit_files(self, node: str, more: int | None) -> None:
        """Let a node's files grow by `more` bytes at most, 0: nothing at all can be written; None: without limit."""

    def second_planner(self, there: bool) -> None:
        """Start another planner process beside the session's, or end it."""


class Fault(Protocol):
    """Something that breaks."""

    def begin(self, hands: Hands) -> None:
        """Break it."""

    def end(self, hands: Hands) -> None:
        """Let it be good again."""


@dataclass(frozen=True)
class Spoil:
    """Messages with wrong fields: beside the right ones, or `instead` of them."""

    message: str
    edits: Sequence[Edit]
    instead: bool = False

    def begin(self, hands: Hands) -> None:
        """From now on."""
        hands.inject(
            {"do": "spoil", "message": self.message, "edits": [list(e) for e in self.edits], "instead": self.instead}
        )

    def end(self, hands: Hands) -> None:
        """No more of them."""
        hands.inject({"do": "normal"})

    def __str__(self) -> str:
        how = "instead" if self.instead else "beside"
        return f"{self.message} {', '.join(as_text(edit) for edit in self.edits)} ({how})"


@dataclass(frozen=True)
class Relay:
    """A topic on which messages get lost, come late, twice, or in another order."""

    topic: str  # plan or state
    loss: float = 0.0
    delay: float = 0.0  # s
    copies: int = 0  # more, of each message
    shuffle: float = 0.0  # s, up to which a message comes later than its turn

    def begin(self, hands: Hands) -> None:
        """From now on."""
        own = {"loss": self.loss, "delay": self.delay, "copies": self.copies, "shuffle": self.shuffle}
        hands.inject({"do": "relay", "topic": self.topic, **own})

    def end(self, hands: Hands) -> None:
        """Messages pass again."""
        hands.inject({"do": "normal"})

    def __str__(self) -> str:
        words = [f"loss {self.loss:.0%}"] if self.loss else []
        words += [f"delay {1e3 * self.delay:.0f} ms"] if self.delay else []
        words += [f"{self.copies} copies"] if self.copies else []
        words += [f"reordered within {1e3 * self.shuffle:.0f} ms"] if self.shuffle else []
        return f"{self.topic} {', '.join(words) or 'as it is'}"


@dataclass(frozen=True)
class Signal:
    """A signal to a node's process; a stopped one goes on at the end."""

    node: str
    name: str  # SIGKILL, SIGTERM or SIGSTOP

    def begin(self, hands: Hands) -> None:
        """Send it."""
        hands.signal(self.node, signal.Signals[self.name])

    def end(self, hands: Hands) -> None:
        """Let a stopped process go on."""
        if self.name == "SIGSTOP":
            hands.signal(self.node, signal.SIGCONT)

    def __str__(self) -> str:
        return f"{self.name} {self.node}"


@dataclass(frozen=True)
class DriverFails:
    """A call of the driver that raises, returns nonsense or blocks."""

    call: str
    what: str
    times: int = 1

    def begin(self, hands: Hands) -> None:
        """From its next call on."""
        hands.order(self.call, self.what, self.times)

    def end(self, hands: Hands) -> None:
        """It works again."""
        hands.order("", "", 0)

    def __str__(self) -> str:
        often = "" if self.times == 1 else " for good" if self.times < 0 else f" {self.times} times"
        return f"{self.call}: {self.what}{often}"


@dataclass(frozen=True)
class DiskFull:
    """Room for `more` bytes in each file of a node; 0: nothing can be written, as where it is read-only."""

    node: str
    more: int

    def begin(self, hands: Hands) -> None:
        """From now on."""
        hands.limit_files(self.node, self.more)

    def end(self, hands: Hands) -> None:
        """There is room again."""
        hands.limit_files(self.node, None)

    def __str__(self) -> str:
        return f"no room for {self.node}" if not self.more else f"{self.more} bytes of room for {self.node}"


@dataclass(frozen=True)
class Blocked:
    """A file of the run folder is in the way of a folder: who has to open it anew cannot, not even as root."""

    name: str

    def begin(self, hands: Hands) -> None:
        """Put it there."""
        path = hands.run_dir / self.name
        if path.exists():
            path.rename(path.with_name(f"{path.name}.away"))
        path.write_text("in the way", encoding="utf-8")

    def end(self, hands: Hands) -> None:
        """Put the folder back."""
        path = hands.run_dir / self.name
        path.unlink()
        away = path.with_name(f"{path.name}.away")
        if away.exists():
            away.rename(path)

    def __str__(self) -> str:
        return f"{self.name} is blocked"


@dataclass(frozen=True)
class Damaged:
    """A file of the run folder is damaged; whoever reads it next must not trip over it."""

    name: str
    how: str  # noise, cut or empty

    def begin(self, hands: Hands) -> None:
        """Damage it, and the copy that is kept of it."""
        path = hands.run_dir / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes() if path.exists() else b""
        changed = {"noise": bytes(range(256)) * 4, "cut": data[: len(data) // 2], "empty": b""}[self.how]
        draft = path.with_name(f"{path.name}.damaged")
        draft.write_bytes(changed)
        shutil.move(draft, path)

    def end(self, hands: Hands) -> None:
        """It stays damaged: that is for its owner to mend."""

    def __str__(self) -> str:
        return f"{self.name} {self.how}"


@dataclass(frozen=True)
class Clock:
    """/clock says something else beside the bridge."""

    seconds: float

    def begin(self, hands: Hands) -> None:
        """From now on."""
        hands.inject({"do": "clock", "seconds": self.seconds})

    def end(self, hands: Hands) -> None:
        """No more."""
        hands.inject({"do": "normal"})

    def __str__(self) -> str:
        return f"/clock also says {self.seconds:g} s"


@dataclass(frozen=True)
class Rival:
    """Another planner: a stranger that pushes as hard as it can, or a second process of ours."""

    ours: bool

    def begin(self, hands: Hands) -> None:
        """Let it plan."""
        if self.ours:
            hands.second_planner(True)
        else:
            hands.inject({"do": "rival"})

    def end(self, hands: Hands) -> None:
        """End it."""
        if self.ours:
            hands.second_planner(False)
        else:
            hands.inject({"do": "normal"})

    def __str__(self) -> str:
        return "a second planner of ours" if self.ours else "a second planner at full force"
