"""MPPI against closed forms and its own promises."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_fakes import CartTask, LinearDynamics
from scipy.signal import lfilter

from polo_ros.planners.mppi import Mppi, MppiConfig
from polo_ros.planners.objective import Objective, ValueEstimate

H = 20


class QuadraticCart(CartTask):
    """Reward -(x'^2 + 0.1 v'^2 + 0.05 u^2), undiscounted: finite-horizon LQR."""

    discount = 1.0

    def reward(self, obs, action, next_obs):
        return -(next_obs[..., 0] ** 2 + 0.1 * next_obs[..., 1] ** 2 + 0.05 * action[..., 0] ** 2)


class LameCart(CartTask):
    """A motor that only pushes: zero is out of range."""

    def __init__(self) -> None:
        super().__init__()
        self.model.actuator_ctrlrange[:] = (0.2, 0.7)


class FreeCart(CartTask):
    """A motor without a range."""

    def __init__(self) -> None:
        super().__init__()
        self.model.actuator_ctrllimited[:] = 0


def planner(task=None, dynamics=None, **settings):
    task = task or QuadraticCart()
    dynamics = dynamics or LinearDynamics()
    return Mppi(task, dynamics, Objective(task), MppiConfig(**{"horizon": H, "rollouts": 16, **settings}))


def lqr_cost(x: np.ndarray, dt: float = 0.1) -> float:
    """Least cost of H steps from x = (position, velocity), by the Riccati recursion."""
    a, b = np.array([[1.0, dt], [0.0, 1.0]]), np.array([[0.0], [dt]])
    q, r = np.diag([1.0, 0.1]), np.array([[0.05]])
    p = np.zeros((2, 2))  # cost to go, without the present state's own
    for _ in range(H):
        s = q + p
        gain = np.linalg.solve(r + b.T @ s @ b, b.T @ s @ a)
        p = a.T @ s @ a - a.T @ s @ b @ gain
    return float(x @ p @ x)


@pytest.mark.parametrize("x", [(0.1, 0.0), (-0.05, 0.15)])
def test_plan_costs_what_the_lqr_optimum_costs(x):
    task, dynamics = QuadraticCart(), LinearDynamics()
    start = np.array([0.0, *x])
    # Greedier and finer from round to round; the warm start carries over.
    mppi = planner(task, dynamics)
    for index, sigma in enumerate((0.3, 0.1, 0.05, 0.02)):
        mppi.config = MppiConfig(
            horizon=H, rollouts=256, iterations=60, sigma=sigma, filter_b0=0.5, filter_b1=0.8, kappa=3e3 * 4**index
        )
        plan = mppi.plan(start, np.random.default_rng(index))
    result = dynamics.rollout(start, plan.actions[None])
    cost = -float(Objective(task)(result, plan.actions[None]).score[0])
    optimum = lqr_cost(np.array(x))
    assert np.abs(plan.actions).max() < 1.0  # the range, which LQR knows nothing of, must not bind
    assert optimum * (1.0 - 1e-9) <= cost <= 1.03 * optimum


def test_same_seed_same_plan_bit_for_bit():
    def plans():
        mppi = planner(iterations=3, filter_b0=0.3, filter_b1=0.7)
        rng = np.random.default_rng(4)
        return [mppi.plan(np.array([0.0, 0.5, 0.0]), rng).actions.tobytes() for _ in range(3)]

    assert plans() == plans()


def test_plan_depends_on_nothing_random_but_its_generator():
    mppi = planner()
    start = np.array([0.0, 0.5, 0.0])
    first = mppi.plan(start, np.random.default_rng(1)).actions
    np.random.seed(99)
    mppi.plan(start, np.random.default_rng(77))  # what was drawn before leaves no trace but the warm start
    mppi.reset()
    np.testing.assert_array_equal(mppi.plan(start, np.random.default_rng(1)).actions, first)
    mppi.reset()
    assert (mppi.plan(start, np.random.default_rng(2)).actions != first).any()


@pytest.mark.parametrize("task", [QuadraticCart(), LameCart(), FreeCart()], ids=["symmetric", "pushes only", "free"])
@given(
    sigma=st.floats(0.0, 10.0),
    b0=st.floats(0.0, 1.0),
    b1=st.floats(-1.0, 1.0),
    b2=st.floats(-0.5, 0.5),
    kappa=st.floats(1e-6, 1e6),
    rollouts=st.integers(1, 9),
    seed=st.integers(0, 2**32),
    x=st.floats(-1e3, 1e3),
)
@settings(max_examples=40, deadline=None)
def test_candidates_and_plan_stay_in_range(task, sigma, b0, b1, b2, kappa, rollouts, seed, x):
    dynamics = LinearDynamics()
    mppi = planner(
        task, dynamics, sigma=sigma, filter_b0=b0, filter_b1=b1, filter_b2=b2, kappa=kappa, rollouts=rollouts
    )
    plan = mppi.plan(np.array([0.0, x, 0.0]), np.random.default_rng(seed))
    assert plan.actions.shape == (H, 1)
    assert np.isfinite(dynamics.last_actions).all()
    assert np.isfinite(plan.actions).all()
    assert (dynamics.last_actions >= task.action_low).all()
    assert (dynamics.last_actions <= task.action_high).all()
    slack = 1e-12  # a weighted mean of a bound may round past it; the supervisor clips
    assert (plan.actions >= task.action_low - slack).all()
    assert (plan.actions <= task.action_high + slack).all()
    assert 1.0 - 1e-9 <= plan.effective_samples <= rollouts + 1e-9
    assert plan.mean_score <= plan.best_score + 1e-9 * abs(plan.best_score)


def test_a_new_warm_start_rests_within_range():
    np.testing.assert_array_equal(planner(LameCart()).nominal, np.full((H, 1), 0.2))


def test_candidate_0_is_the_nominal_sequence():
    dynamics = LinearDynamics()
    mppi = planner(dynamics=dynamics)
    mppi.nominal = np.linspace(-0.5, 0.5, H)[:, None]
    before = mppi.nominal.copy()
    mppi.plan(np.zeros(3), np.random.default_rng(0))
    np.testing.assert_array_equal(dynamics.last_actions[0], before)


def test_plan_keeps_the_nominal_sequence_when_every_candidate_diverges():
    mppi = planner(dynamics=LinearDynamics(cliff=-10.0), iterations=2)
    mppi.nominal = np.linspace(-0.5, 0.5, H)[:, None]
    before = mppi.nominal.copy()
    plan = mppi.plan(np.zeros(3), np.random.default_rng(0))
    np.testing.assert_array_equal(plan.actions, before)
    assert plan.invalid_rollouts == plan.rollouts == 32
    assert plan.best_score == -np.inf


def test_diverged_candidates_have_no_weight():
    dynamics = LinearDynamics(cliff=0.5)
    task = CartTask(bonus=1.0)  # all that live are equal
    mppi = planner(task, dynamics, rollouts=64, sigma=2.0)
    plan = mppi.plan(np.array([0.0, 0.45, 0.0]), np.random.default_rng(0))
    assert 0 < plan.invalid_rollouts < 64
    alive = dynamics.rollout(np.array([0.0, 0.45, 0.0]), dynamics.last_actions).valid
    np.testing.assert_allclose(plan.actions, dynamics.last_actions[alive].mean(axis=0), atol=1e-12)
    assert plan.effective_samples == pytest.approx(alive.sum())


@pytest.mark.parametrize("rollouts", [1, 3, 16, 17])
def test_a_deadline_in_the_past_still_gets_an_answer(rollouts):
    dynamics = LinearDynamics()
    mppi = planner(dynamics=dynamics, rollouts=rollouts, iterations=3)
    plan = mppi.plan(np.array([0.0, 0.5, 0.0]), np.random.default_rng(0), deadline=time.perf_counter() - 1.0)
    assert plan.rollouts == dynamics.rollouts == -(-rollouts // Mppi.CHUNKS)
    assert plan.rollouts_asked == 3 * rollouts
    assert np.isfinite(plan.best_score)
    assert np.isfinite(plan.actions).all()


def test_a_far_deadline_changes_nothing():
    start = np.array([0.0, 0.5, 0.0])
    free = planner(iterations=2).plan(start, np.random.default_rng(0))
    timed = planner(iterations=2).plan(start, np.random.default_rng(0), deadline=time.perf_counter() + 1e6)
    np.testing.assert_array_equal(timed.actions, free.actions)
    assert timed.rollouts == timed.rollouts_asked == 32


@pytest.mark.parametrize("fill", ["repeat", "zero"])
def test_shift_moves_the_warm_start_and_fills_its_end(fill):
    for steps in (0, -3, 1, 7, H - 1, H, H + 1, 10 * H):
        mppi = planner(fill=fill)
        mppi.nominal = np.arange(1.0, H + 1.0)[:, None] / H
        rows = [*mppi.nominal[:, 0], *[1.0 if fill == "repeat" else 0.0] * (20 * H)]
        mppi.shift(steps)
        moved = max(0, steps)
        np.testing.assert_array_equal(mppi.nominal, np.array(rows[moved : moved + H])[:, None])


def test_a_shift_after_a_shift_is_one_shift():
    once, twice = planner(), planner()
    once.nominal = np.arange(H, dtype=float)[:, None] / H
    twice.nominal = once.nominal.copy()
    once.shift(5)
    twice.shift(2)
    twice.shift(3)
    np.testing.assert_array_equal(once.nominal, twice.nominal)


def test_a_large_kappa_takes_the_best_candidate():
    dynamics = LinearDynamics()
    task = QuadraticCart()
    start = np.array([0.0, 0.5, 0.0])
    plan = planner(task, dynamics, kappa=1e6).plan(start, np.random.default_rng(0))
    candidates = dynamics.last_actions
    scores = Objective(task)(dynamics.rollout(start, candidates), candidates).score
    np.testing.assert_allclose(plan.actions, candidates[scores.argmax()], atol=1e-9)
    assert plan.effective_samples == pytest.approx(1.0, abs=1e-6)
    assert plan.best_score == scores.max()


def test_a_small_kappa_takes_the_mean():
    dynamics = LinearDynamics()
    plan = planner(dynamics=dynamics, kappa=1e-6).plan(np.array([0.0, 0.5, 0.0]), np.random.default_rng(0))
    np.testing.assert_allclose(plan.actions, dynamics.last_actions.mean(axis=0), atol=1e-4)
    assert plan.effective_samples == pytest.approx(16.0, rel=1e-3)


@pytest.mark.parametrize(
    ("b0", "b1", "b2"), [(1.0, 0.0, 0.0), (0.4, 0.0, 0.0), (0.25, 0.8, 0.0), (0.3, 0.5, -0.2), (0.5, 0.0, 0.4)]
)
def test_noise_follows_the_filter_recursion(b0, b1, b2):
    dynamics = LinearDynamics()
    mppi = planner(FreeCart(), dynamics, rollouts=12, sigma=0.7, filter_b0=b0, filter_b1=b1, filter_b2=b2, kappa=1e-6)
    mppi.nominal = np.linspace(-1.0, 1.0, H)[:, None]
    nominal = mppi.nominal.copy()
    mppi.plan(np.zeros(3), np.random.default_rng(3))
    raw = np.random.default_rng(3).standard_normal((H, 12, 1), dtype=np.float32)
    expected = 0.7 * lfilter([b0], [1.0, -b1, -b2], raw.astype(float), axis=0)
    expected[:, 0] = 0.0
    np.testing.assert_allclose(dynamics.last_actions, nominal + expected.transpose(1, 0, 2), atol=1e-5)


def test_noise_is_in_units_of_half_the_control_range():
    class WideCart(CartTask):
        def __init__(self):
            super().__init__()
            self.model.actuator_ctrlrange[:] = (-1e3, 3e3)

    dynamics = LinearDynamics()
    mppi = planner(WideCart(), dynamics, rollouts=500, sigma=0.01)
    mppi.plan(np.zeros(3), np.random.default_rng(0))
    assert dynamics.last_actions[1:].std() == pytest.approx(0.01 * 2e3, rel=0.05)


def test_settings_may_change_between_plans():
    dynamics = LinearDynamics()
    mppi = planner(dynamics=dynamics)
    for rollouts in (16, 5, 40):
        mppi.config = MppiConfig(horizon=H, rollouts=rollouts)
        assert mppi.plan(np.zeros(3), np.random.default_rng(0)).rollouts == rollouts
        assert dynamics.last_actions.shape == (rollouts, H, 1)


class SpreadValue:
    """A value whose gate hangs on all states that it is asked for at once."""

    def estimate(self, observations):
        spread = float(np.std(observations[:, 0]))
        return ValueEstimate(10.0 * observations[:, 1], spread, 1.0 / (1.0 + 1e3 * spread))


def test_a_deadline_that_is_far_away_changes_nothing():
    plans = []
    for deadline in (np.inf, time.perf_counter() + 3600.0):
        mppi = planner(rollouts=30, kappa=50.0, sigma=0.8)
        mppi._objective.value = SpreadValue()
        plans.append(mppi.plan(np.array([0.0, 0.3, 0.0]), np.random.default_rng(5), deadline))
    np.testing.assert_allclose(plans[0].actions, plans[1].actions, rtol=1e-12)
    assert plans[0].value_gate == pytest.approx(plans[1].value_gate)
    assert plans[0].rollouts == plans[1].rollouts == 30
