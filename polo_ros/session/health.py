"""How well a node keeps time: figures over the last periods, and from where on they are a warning or an error."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass

from polo_ros.config import Config, option

PERIODS = 500  # that figures are over


@dataclass(frozen=True)
class Alert:
    """Something that diagnostics must say."""

    text: str
    severe: bool = False  # an error, not a warning


class Window:
    """The last PERIODS numbers, and their quantiles."""

    def __init__(self, size: int = PERIODS) -> None:
        self._arrived: deque[float] = deque()
        self._sorted: list[float] = []
        self._size = size

    def add(self, value: float) -> None:
        """Take a number in; the oldest goes."""
        self._arrived.append(value)
        insort(self._sorted, value)
        if len(self._arrived) > self._size:
            del self._sorted[bisect_left(self._sorted, self._arrived.popleft())]

    def quantile(self, q: float) -> float:
        """The number that a share `q` of all does not exceed; 0 without any."""
        return self._sorted[min(int(q * len(self._sorted)), len(self._sorted) - 1)] if self._sorted else 0.0

    @property
    def mean(self) -> float:
        """0 without any."""
        return sum(self._sorted) / len(self._sorted) if self._sorted else 0.0


@dataclass(frozen=True)
class BridgeHealth(Config):
    """From where on the timing of control is a warning or an error; 0: never."""

    plan_age_warn: float = option(
        0.5, "share of max_plan_age that the age of played plans (p99) may reach; 0: any", low=0.0, high=1.0, live=True
    )
    plan_age_error: float = option(0.9, "the same for an error", low=0.0, high=1.0, live=True)
    state_age_warn: float = option(
        0.5,
        "share of safety.max_state_age that the age of states (p99) may reach; 0: any",
        low=0.0,
        high=1.0,
        live=True,
    )
    state_age_error: float = option(0.9, "the same for an error", low=0.0, high=1.0, live=True)
    overruns_warn: float = option(
        0.01,
        "share of control periods that may begin more than a period late (in simulation, ten); 0: any",
        low=0.0,
        high=1.0,
        live=True,
    )
    overruns_error: float = option(0.1, "the same for an error", low=0.0, high=1.0, live=True)


@dataclass(frozen=True)
class PlannerHealth(Config):
    """From where on the timing of plans is a warning or an error; 0: never."""

    deadline_misses_warn: float = option(
        0.05, "share of plans that may take longer than the deadline; 0: any", low=0.0, high=1.0, live=True
    )
    deadline_misses_error: float = option(0.5, "the same for an error", low=0.0, high=1.0, live=True)


def judge(value: float, warn: float, error: float, text: str) -> list[Alert]:
    """What to say of `value`, where thresholds of 0 are none."""
    severe = 0.0 < error <= value
    return [Alert(text, severe)] if severe or 0.0 < warn <= value else []
