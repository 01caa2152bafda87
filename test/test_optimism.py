"""Eq. 6, the softmax over the members."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from polo_ros.learning.optimism import log_sum_exp

VALUES = arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(1, 5)), elements=st.floats(-1e3, 1e3))


@given(VALUES, st.floats(1e-3, 1e3))
def test_printed_is_scipys_logsumexp(values: np.ndarray, kappa: float) -> None:
    expected = scipy.special.logsumexp(kappa * values, axis=0)
    np.testing.assert_allclose(log_sum_exp(values, kappa, "printed"), expected, rtol=1e-9, atol=1e-9)


@given(VALUES, st.floats(1e-3, 1e3))
def test_normalised_is_the_printed_one_without_the_members_count_in_units_of_value(
    values: np.ndarray, kappa: float
) -> None:
    expected = (scipy.special.logsumexp(kappa * values, axis=0) - np.log(len(values))) / kappa
    np.testing.assert_allclose(log_sum_exp(values, kappa), expected, rtol=1e-9, atol=1e-9)


@given(VALUES, st.floats(1e-9, 1e-2))
def test_small_kappa_gives_mean_plus_half_kappa_variance(values: np.ndarray, kappa: float) -> None:
    values = values / 1e3
    expected = values.mean(axis=0) + 0.5 * kappa * values.var(axis=0)
    # The next term of the expansion is kappa^2 / 6 times the third cumulant, at most 8 for values in [-1, 1].
    np.testing.assert_allclose(log_sum_exp(values, kappa), expected, atol=1.4 * kappa**2 + 1e-12)


@given(VALUES)
def test_kappa_zero_is_the_mean_and_its_neighbourhood_is_smooth(values: np.ndarray) -> None:
    np.testing.assert_allclose(log_sum_exp(values, 0.0), values.mean(axis=0))
    np.testing.assert_allclose(log_sum_exp(values, 1e-14), values.mean(axis=0), rtol=1e-7, atol=1e-7)


@given(VALUES, st.floats(0.0, 10.0), st.floats(0.0, 10.0))
def test_more_kappa_is_never_less_optimistic_and_stays_between_mean_and_maximum(
    values: np.ndarray, one: float, other: float
) -> None:
    low, high = sorted((one, other))
    less, more = log_sum_exp(values, low), log_sum_exp(values, high)
    slack = 1e-9 * (1.0 + np.abs(values).max())
    assert (less <= more + slack).all()
    assert (more <= values.max(axis=0) + slack).all()
    assert (less >= values.mean(axis=0) - slack).all()


@given(VALUES, st.floats(1e-3, 1e3))
def test_negative_kappa_is_the_same_on_the_pessimistic_side(values: np.ndarray, kappa: float) -> None:
    np.testing.assert_allclose(log_sum_exp(values, -kappa), -log_sum_exp(-values, kappa), rtol=1e-12)


def test_huge_values_neither_overflow_nor_lose_the_maximum() -> None:
    values = np.array([[1e30, -1e30], [2e30, -3e30]], np.float32)
    result = log_sum_exp(values, 1e6)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, [2e30, -1e30], rtol=1e-6)


def test_unknown_convention_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown convention 'other'; conventions: normalised, printed"):
        log_sum_exp(np.zeros((2, 1)), 1.0, "other")
