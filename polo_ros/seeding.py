"""Random numbers of a session: one seed, streams that never share numbers."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What the numbers are for."""

    EPISODE = 1  # start states, by episode
    PLANNING = 2  # noise on candidates
    WEIGHTS = 3  # initial weights and priors
    UPDATE = 4  # what an update samples, by update
    TARGETS = 5  # noise on targets, by block
    WORLD = 6  # what no planner foresees, by episode and step: episode << 32 | step
    VERIFICATION = 7  # perturbed models that plans are tried on


def sequence(seed: int, stream: Stream, index: int = 0) -> np.random.SeedSequence:
    """The seed sequence of number `index` of a stream. Raises ValueError for a negative seed."""
    if seed < 0:
        raise ValueError(f"seed = {seed} is below its minimum 0")
    return np.random.SeedSequence([seed, stream, index])


def generator(seed: int, stream: Stream, index: int = 0) -> np.random.Generator:
    """A generator of number `index` of a stream."""
    return np.random.default_rng(sequence(seed, stream, index))
