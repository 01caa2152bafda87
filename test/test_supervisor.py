"""Supervisor: whatever goes in, what comes out is finite and in range."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from polo_ros.safety.supervisor import Supervisor
from polo_ros.tasks.base import Task

LOW = np.array([-1.0, 0.5, -np.inf])
HIGH = np.array([1.0, 2.0, np.inf])


def task(safe_stop: str = "zero") -> Task:
    """Three controls: around zero, above zero, without a range."""
    made = SimpleNamespace(
        name="three",
        control_dt=0.02,
        safe_stop=safe_stop,
        action_low=LOW,
        action_high=HIGH,
        resting_action=np.clip(np.zeros(3), LOW, HIGH),
        model=SimpleNamespace(nu=3),
    )
    return cast(Task, made)


numbers = st.floats(allow_nan=True, allow_infinity=True)
anything = st.one_of(
    st.none(),
    numbers,
    st.text(max_size=3),
    st.lists(numbers, max_size=5),
    st.lists(st.integers(), min_size=3, max_size=3),
    st.lists(
        st.one_of(st.none(), st.text(max_size=2), numbers, st.lists(numbers, max_size=2)),
        max_size=4,
    ),
    st.dictionaries(st.integers(), numbers, max_size=3),
    hnp.arrays(
        st.sampled_from(
            [
                np.float16,
                np.float32,
                np.float64,
                np.longdouble,
                np.int64,
                np.uint8,
                np.bool_,
                np.complex128,
            ]
        ),
        hnp.array_shapes(min_dims=0, max_dims=2, max_side=4),
    ),
    hnp.arrays(np.float64, 3, elements=numbers),
)


@given(
    st.lists(anything, min_size=1, max_size=6),
    st.sampled_from(["zero", "hold"]),
    st.sampled_from([None, 1.0, 1e300]),
)
def test_whatever_goes_in_what_comes_out_is_finite_and_in_range(
    actions: list[Any], safe_stop: str, rate_limit: float | None
) -> None:
    supervisor = Supervisor(task(safe_stop), rate_limit)
    for action in actions:
        verdict = supervisor.check(action)
        assert verdict.action.shape == (3,) and verdict.action.dtype == np.float64
        assert np.isfinite(verdict.action).all()
        assert (verdict.action >= LOW).all() and (verdict.action <= HIGH).all()
        assert verdict.safe_stop == bool(verdict.reason)


def test_a_good_action_passes_unchanged() -> None:
    verdict = Supervisor(task()).check(np.array([0.25, 0.75, -1e6]))
    np.testing.assert_array_equal(verdict.action, [0.25, 0.75, -1e6])
    assert not verdict.safe_stop and not verdict.limited and verdict.reason == ""


def test_an_action_out_of_range_is_limited_and_counted() -> None:
    supervisor = Supervisor(task())
    verdict = supervisor.check(np.array([-3.0, 9.0, 4.0]))
    np.testing.assert_array_equal(verdict.action, [-1.0, 2.0, 4.0])
    assert verdict.limited and not verdict.safe_stop
    assert supervisor.counts == {"out of range": 1}


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (np.array([0.0, np.nan, 0.0]), "not finite: control 1 of the action"),
        (np.array([-np.inf, 1.0, 0.0]), "not finite: control 0 of the action"),
        (np.zeros(2), "wrong size: action has shape (2,), expected (3,)"),
        (np.zeros((1, 3)), "wrong size: action has shape (1, 3), expected (3,)"),
        (["a", "b", "c"], "not numbers: action is of type"),
        ([[0.0], [0.0, 1.0], 2.0], "not numbers: "),
        (torch.zeros(3, requires_grad=True), "not numbers: "),
    ],
)
def test_a_bad_action_becomes_the_safe_stop_with_its_reason(action: Any, reason: str) -> None:
    supervisor = Supervisor(task())
    verdict = supervisor.check(action)
    np.testing.assert_array_equal(verdict.action, [0.0, 0.5, 0.0])  # zero, or the nearest in range
    assert verdict.safe_stop and verdict.reason.startswith(reason)
    assert supervisor.counts == {reason.split(":")[0]: 1}


def test_no_action_is_a_safe_stop_for_the_reason_given() -> None:
    supervisor = Supervisor(task())
    assert supervisor.check(None, "plan too old: 0.6 s").reason == "plan too old: 0.6 s"
    assert supervisor.check(None, "plan too old: 0.7 s").safe_stop
    assert supervisor.check(None).reason == "no action"
    assert supervisor.counts == {"plan too old": 2, "no action": 1}


def test_hold_repeats_the_last_action_that_was_let_out() -> None:
    supervisor = Supervisor(task("hold"))
    np.testing.assert_array_equal(supervisor.check(None).action, [0.0, 0.5, 0.0])
    supervisor.check(np.array([5.0, 1.0, 7.0]))
    for _ in range(2):
        np.testing.assert_array_equal(supervisor.check(None).action, [1.0, 1.0, 7.0])
    supervisor.reset()
    np.testing.assert_array_equal(supervisor.check(None).action, [0.0, 0.5, 0.0])


def test_a_stop_stays_until_armed_even_through_a_reset() -> None:
    supervisor = Supervisor(task())
    good = np.array([0.5, 1.0, 0.0])
    supervisor.stop("stopped by service")
    supervisor.stop("later reason")
    supervisor.reset()
    assert supervisor.stopped
    verdict = supervisor.check(good)
    assert verdict.safe_stop and verdict.reason == "stopped: stopped by service"
    np.testing.assert_array_equal(verdict.action, [0.0, 0.5, 0.0])
    supervisor.arm()
    assert not supervisor.stopped and not supervisor.check(good).safe_stop
    assert supervisor.counts == {"stopped": 1}


def test_a_rate_limit_bounds_the_change_a_period_but_not_the_safe_stop() -> None:
    supervisor = Supervisor(task(), rate_limit=10.0)  # 0.2 a period
    first = supervisor.check(np.array([1.0, 2.0, 0.0]))
    np.testing.assert_allclose(first.action, [0.2, 0.7, 0.0])
    assert first.limited and supervisor.counts == {"rate limit": 1}
    np.testing.assert_allclose(supervisor.check(np.array([1.0, 2.0, 0.0])).action, [0.4, 0.9, 0.0])
    np.testing.assert_array_equal(supervisor.check(None).action, [0.0, 0.5, 0.0])
    assert not supervisor.check(np.array([0.1, 0.6, 0.0])).limited


def test_the_caller_cannot_reach_what_the_supervisor_remembers() -> None:
    supervisor = Supervisor(task("hold"))
    action = np.array([0.5, 1.0, 0.0])
    verdict = supervisor.check(action)
    action[:] = np.nan
    verdict.action[:] = np.nan
    np.testing.assert_array_equal(supervisor.check(None).action, [0.5, 1.0, 0.0])


def test_endlessly_varied_reasons_do_not_grow_the_counters_without_end() -> None:
    supervisor = Supervisor(task())
    for number in range(500):
        supervisor.check(None, f"reason {number}")
    assert len(supervisor.counts) <= Supervisor.MAX_KINDS + 1
    assert sum(supervisor.counts.values()) == 500


@pytest.mark.parametrize("rate_limit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_limit_that_makes_no_sense_is_refused(rate_limit: float) -> None:
    with pytest.raises(ValueError, match="rate_limit"):
        Supervisor(task(), rate_limit)


def test_an_unknown_safe_stop_is_refused() -> None:
    with pytest.raises(ValueError, match="safe_stop 'brake' is unknown; choices: zero, hold"):
        Supervisor(task("brake"))
