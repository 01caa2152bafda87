"""Running statistics of observations: what is usual, and what was ever seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from polo_ros.tasks.base import FloatArray

Floats = npt.NDArray[np.floating[Any]]

# Statistics of an entry that is no input: it becomes as good as 0, and no value is outside its range.
_UNUSED_STD = 1e9
_UNUSED_RANGE = 1e30


class Normaliser:
    """Mean, standard deviation and range of the observations seen so far (Welford's recursion).

    Entries with a scale of their own have mean 0 and that deviation at all times. For the others IMAGINARY
    observations of mean 0 and variance 1 are counted in, so that an entry that has not moved yet is not
    blown up. Mean and deviation stand still after `freeze_after` observations: they are inputs of the
    randomised prior functions, which are to stay fixed functions. The range goes on.

    Args:
        nobs: Entries of an observation.
        freeze_after: Observations that mean and deviation are taken over.
        scale: (nobs,) fixed deviations; nan: from the data. None: all from the data.
        used: (nobs,) which entries are inputs; None: all.
    """

    IMAGINARY = 100.0

    def __init__(
        self,
        nobs: int,
        freeze_after: int,
        scale: FloatArray | None = None,
        used: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        self.freeze_after = freeze_after
        self.count = 0
        self._mean = np.zeros(nobs)
        self._squares = np.zeros(nobs)  # sum of squared deviations from the mean
        self._low = np.full(nobs, np.inf)
        self._high = np.full(nobs, -np.inf)
        self._scale = np.full(nobs, np.nan) if scale is None else scale
        self._fixed = np.isfinite(self._scale)
        self._offset = np.zeros(nobs)  # mean of the fixed entries
        self._unused = np.zeros(nobs, bool) if used is None else ~used

    def adopt(self, mean: Floats, std: Floats, low: Floats, high: Floats) -> None:
        """Keep to statistics that weights came with, each (nobs,): what they were learned on; the range goes on."""
        self._offset, self._scale = np.array(mean, float), np.array(std, float)
        self._fixed[:] = True
        np.minimum(self._low, low, out=self._low)
        np.maximum(self._high, high, out=self._high)

    def add(self, observation: FloatArray) -> None:
        """Take in one observation (nobs,)."""
        np.minimum(self._low, observation, out=self._low)
        np.maximum(self._high, observation, out=self._high)
        if self.count >= self.freeze_after:
            return
        self.count += 1
        delta = observation - self._mean
        self._mean += delta / self.count
        self._squares += delta * (observation - self._mean)

    @property
    def mean(self) -> FloatArray:
        """(nobs,)."""
        seen = self._mean * (self.count / (self.count + self.IMAGINARY))
        return np.where(self._unused, 0.0, np.where(self._fixed, self._offset, seen))

    @property
    def std(self) -> FloatArray:
        """(nobs,), above zero."""
        total = self.count + self.IMAGINARY
        between = self.IMAGINARY * np.square(self._mean) * (self.count / total)
        std = np.where(self._fixed, self._scale, np.sqrt((self._squares + self.IMAGINARY + between) / total))
        return np.where(self._unused, _UNUSED_STD, std)

    @property
    def low(self) -> FloatArray:
        """Lowest entries seen, (nobs,); zeros before the first observation."""
        return np.where(self._unused, -_UNUSED_RANGE, np.where(np.isfinite(self._low), self._low, 0.0))

    @property
    def high(self) -> FloatArray:
        """Highest entries seen, (nobs,); zeros before the first observation."""
        return np.where(self._unused, _UNUSED_RANGE, np.where(np.isfinite(self._high), self._high, 0.0))

    def arrays(self) -> dict[str, npt.NDArray[np.float64]]:
        """Everything that `load` needs."""
        count = np.array([float(self.count)])
        return {"count": count, "mean": self._mean, "squares": self._squares, "low": self.low, "high": self.high}

    def load(self, arrays: dict[str, npt.NDArray[np.float64]]) -> None:
        """Go on from what `arrays` returned."""
        self.count = int(arrays["count"][0])
        self._mean[:] = arrays["mean"]
        self._squares[:] = arrays["squares"]
        if self.count:
            self._low[:] = arrays["low"]
            self._high[:] = arrays["high"]
        elif not self._fixed.all():
            self._low.fill(np.inf)
            self._high.fill(-np.inf)
