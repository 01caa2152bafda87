"""Noise on sequences of controls that is smooth over time: white noise times a matrix.

One matrix product serves all candidates; it costs less than a loop over control periods.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def noise_filter(horizon: int, b0: float, b1: float, b2: float = 0.0) -> npt.NDArray[np.float32]:
    """The filter n_t = b0 e_t + b1 n_(t-1) + b2 n_(t-2) over a horizon as a matrix, n = L e, (H, H)."""
    response = np.zeros(horizon + 2)  # to a single e_0, shifted by the two steps before it
    response[2] = b0
    for t in range(3, horizon + 2):
        response[t] = b1 * response[t - 1] + b2 * response[t - 2]
    lag = np.subtract.outer(np.arange(horizon), np.arange(horizon))
    return np.where(lag >= 0, response[2:][np.maximum(lag, 0)], 0.0).astype(np.float32)


def knot_basis(horizon: int, knots: int) -> npt.NDArray[np.float32]:
    """Interpolation of values at M knots to every step of a horizon as a matrix, n = B e, (H, M).

    Knots are evenly spaced; the first and the last step are knots, so that no step lies beyond them. From four
    knots on it is the natural cubic spline, under which white noise at the knots keeps its standard deviation
    nearly everywhere between them (0.79 .. 1.01 times; other end conditions and Hermite splines stray further).
    Fewer knots are joined by straight lines, and a single one is a constant.

    Raises:
        ValueError: No knot, or more knots than steps.
    """
    if not 1 <= knots <= horizon:
        raise ValueError(f"knots = {knots} is not within 1 .. {horizon}, the horizon: a step has at most one knot")
    steps = np.arange(horizon)
    at = np.linspace(0.0, horizon - 1.0, knots)
    values = np.eye(knots)
    if knots >= 4:
        from scipy.interpolate import CubicSpline  # slow to load, and few settings need it

        basis = CubicSpline(at, values, bc_type="natural")(steps)
    else:
        basis = np.stack([np.interp(steps, at, column) for column in values], axis=1)
    return np.asarray(basis, np.float32)
