"""How much of a plan fits before its deadline."""

from __future__ import annotations

import math
from collections.abc import Callable


class Pace:
    """Deals out candidates in chunks that are sized by how long the ones before took.

    The first chunk is small: it is there to be measured, and is evaluated however late it is. The next one is all
    that there seems to be time for; more follow as long as there is time for one as large as the first. A candidate
    is taken to cost what it did in the dearest chunk: what a chunk costs beside its candidates weighs most in small
    ones, and the last may be small.

    Args:
        deadline: By when to have evaluated, in s of `clock`; infinite: everything is one chunk.
        rollouts: Candidates that a whole round has.
        clock: s.
        reserved: Rollouts that are made after the last chunk, and must fit too.
    """

    FIRST = 8  # the first chunk is this part of a round
    SHARE = 0.9  # of the time left: scores are still to be computed, and some candidates cost more than others

    def __init__(self, deadline: float, rollouts: int, clock: Callable[[], float], reserved: int = 0) -> None:
        self.evaluated = 0
        self._deadline = deadline
        self._first = -(-rollouts // self.FIRST)
        self._clock = clock
        self._reserved = reserved
        self._each = 1e-9  # s a candidate; above 0 even on a clock that stands still

    def count(self, candidates: int, took: float) -> None:
        """Learn that evaluating a chunk of `candidates` took so many s."""
        self.evaluated += candidates
        self._each = max(self._each, took / candidates)

    def chunk(self, left: int) -> int:
        """How many of the `left` candidates to evaluate next; 0: none are left, or no time."""
        if math.isinf(self._deadline):
            return left
        if not self.evaluated:
            return min(left, self._first)
        room = int(self.SHARE * (self._deadline - self._clock()) / self._each) - self._reserved
        return min(left, room) if room >= self._first else 0
