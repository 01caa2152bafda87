"""Figures of timing, and from where on they are a warning or an error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polo_ros.session.health import Alert, Window, judge


def test_an_empty_window_is_zero() -> None:
    assert (Window().mean, Window().quantile(0.99)) == (0.0, 0.0)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.integers(1, 20), st.floats(0.0, 1.0))
def test_a_window_tells_mean_and_quantile_of_its_last_numbers(values: list[float], size: int, q: float) -> None:
    window = Window(size)
    for value in values:
        window.add(value)
    last = np.array(values[-size:])
    assert window.mean == pytest.approx(last.mean(), rel=1e-9, abs=1e-6)
    found = window.quantile(q)
    assert found in last
    assert (last < found).sum() <= q * len(last) + 1e-9 and (last <= found).sum() >= q * len(last) - 1e-9


@pytest.mark.parametrize(
    ("value", "warn", "error", "said"),
    [
        (0.4, 0.5, 0.9, []),
        (0.5, 0.5, 0.9, [Alert("x")]),
        (0.9, 0.5, 0.9, [Alert("x", severe=True)]),
        (9.0, 0.0, 0.0, []),
        (9.0, 0.5, 0.0, [Alert("x")]),
        (0.0, 0.0, 0.0, []),
        (0.9, 0.0, 0.9, [Alert("x", severe=True)]),
    ],
)
def test_thresholds_of_zero_are_none(value: float, warn: float, error: float, said: list[Alert]) -> None:
    assert judge(value, warn, error, "x") == said
