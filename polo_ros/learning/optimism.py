"""Optimism over an ensemble: POLO's eq. 6 (Lowrey et al. 2019, "Plan Online, Learn Offline")."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

CONVENTIONS = ("normalised", "printed")


def log_sum_exp(
    values: npt.NDArray[np.floating[Any]], kappa: float, convention: str = "normalised"
) -> npt.NDArray[np.floating[Any]]:
    """Softmax of the members' values, eq. 6.

    Two conventions:

    - `printed`, as in the paper: log sum_k exp(kappa V_k). Its unit is not that of a reward, and it
      carries the constant log K.
    - `normalised`: (1 / kappa) log mean_k exp(kappa V_k), which keeps the unit of reward. It is
      mean + kappa / 2 variance for small kappa, the mean at kappa = 0 and the maximum for large kappa;
      a negative kappa is pessimistic in the same way.

    Safe for every finite kappa: the extreme member is taken out before the exponential, and small
    exponents go through expm1 and log1p, so that kappa -> 0 loses no digits.

    Args:
        values: (K, ...) one row a member.
        kappa: In 1 / unit of `values`.
        convention: `normalised` or `printed`.

    Returns:
        (...) in the dtype of `values`.

    Raises:
        ValueError: Unknown convention.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"unknown convention '{convention}'; conventions: {', '.join(CONVENTIONS)}")
    if kappa == 0.0 and convention == "normalised":
        return np.asarray(values.mean(axis=0))
    extreme = values.max(axis=0) if kappa >= 0.0 else values.min(axis=0)
    exponents = kappa * (values - extreme)  # none above 0
    # log mean exp = log1p(mean(expm1)): the mean lies in (1 / K - 1, 0].
    log_mean = np.log1p(np.add.reduce(np.expm1(exponents), axis=0) / values.dtype.type(len(values)))
    if convention == "printed":
        return np.asarray(kappa * extreme + log_mean + np.log(len(values)), dtype=values.dtype)
    # So small an exponent loses its digits as a subnormal number; what it adds to the mean is far below them.
    if exponents.min(initial=0.0) > -1e-30:
        return np.asarray(values.mean(axis=0))
    return np.asarray(extreme + log_mean / kappa, dtype=values.dtype)
