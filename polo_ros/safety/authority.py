"""Who commands the robot: one planner at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class Authority:
    """Obeys the first planner whose plan is taken, until nothing is heard of it.

    Two planners in turn are worse than either: each plans from a state that the other's plan has changed. A planner
    that was started again is another one.

    Args:
        clock: s.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._planner = 0
        self._heard = -math.inf

    def objection(self, planner: int, patience: float) -> str:
        """Why `planner` is not to be obeyed, empty if it is.

        Args:
            planner: Identity of a planner.
            patience: s without a plan after which the one obeyed is given up.
        """
        silent = self._clock() - self._heard
        if planner == self._planner or silent > patience:
            return ""
        return f"of planner {planner:016x}, while planner {self._planner:016x} is obeyed, last heard {silent:.3f} s ago"

    def heard(self, planner: int) -> None:
        """A plan of `planner` was taken: from now on this one is obeyed."""
        self._planner, self._heard = planner, self._clock()

    def reset(self) -> None:
        """Obey nobody."""
        self._planner, self._heard = 0, -math.inf
