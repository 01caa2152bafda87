"""Random numbers of a session: one seed, streams that never share numbers."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt


class Stream(IntEnum):
    """What the numbers are for."""

    EPISODE = 1  # start states, by episode
    PLANNING = 2  # noise on candidates
    WEIGHTS = 3  # initial weights and priors
    UPDATE = 4  # what an update samples, by update
    TARGETS = 5  # noise on targets, by block
    WORLD = 6  # what no planner foresees, by episode and step: episode << 32 | step
    VERIFICATION = 7  # perturbed models that plans are tried on
    MODEL = 8  # what a fit of learned dynamics holds out and in which order it goes, by fit
    PREDICTION = 9  # noise of learned dynamics, by step planned from
    MEMBERS = 10  # perturbed models that plans are made in
    DATA = 11  # what a training holds out of a dataset


def sequence(seed: int, stream: Stream, index: int = 0) -> np.random.SeedSequence:
    """The seed sequence of number `index` of a stream. Raises ValueError for a negative seed."""
    if seed < 0:
        raise ValueError(f"seed = {seed} is below its minimum 0")
    return np.random.SeedSequence([seed, stream, index])


def generator(seed: int, stream: Stream, index: int = 0) -> np.random.Generator:
    """A generator of number `index` of a stream."""
    return np.random.default_rng(sequence(seed, stream, index))


def truncated_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Normal numbers within two deviations; what lies outside is drawn again."""
    drawn = rng.standard_normal(shape)
    while (outside := np.abs(drawn) > 2.0).any():
        drawn[outside] = rng.standard_normal(int(np.count_nonzero(outside)))
    return drawn


class StepStreams:
    """Generators of one stream by control period, which share no numbers: those of a step can be drawn again.

    They are one generator's numbers 2^64 draws apart: making a generator costs more than its numbers.
    """

    def __init__(self, seed: int, stream: Stream) -> None:
        self._bits = np.random.PCG64(sequence(seed, stream))
        self._begin = self._bits.state
        self._rng = np.random.Generator(self._bits)

    def at(self, step: int) -> np.random.Generator:
        """The generator of `step`; it takes the place of the one that was given before."""
        self._bits.state = self._begin
        self._bits.advance(step << 64)
        return self._rng
