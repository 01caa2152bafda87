"""Whether a number of a control period that came in a message can be believed."""

from __future__ import annotations


class Numbering:
    """Decides whether a large jump in step numbers is real, the sender having moved on, or one wrong value.

    Steps rise by one, but some get lost, and a robot that is started again leaves some out. A step that is further
    ahead is believed when FOLLOWERS more have come that go on from it, and none in between that goes on from the last
    one believed: else a single wrong number would make all right ones seem old until the robot gets there.

    Args:
        last: Step that is known already; -1: none, and the first one may be any.
    """

    GAP = 500
    FOLLOWERS = 5

    def __init__(self, last: int = -1) -> None:
        self._last = last
        self._next = -1  # step that goes on from the one that was not believed
        self._followed = 0

    def objection(self, step: int) -> str:
        """Why `step` is not believed, empty if it is; whether it is a new one is not asked here."""
        if self._last < 0 or step <= self._last + self.GAP:
            if step > self._last:
                self._last, self._next = step, -1
            return ""
        self._followed = self._followed + 1 if step == self._next else 0
        self._next = step + 1
        if self._followed < self.FOLLOWERS:
            return f"step {step} is far ahead of the last one, {self._last}, and {self._followed} have followed it"
        self._last, self._next = step, -1
        return ""
