"""MPPI against closed forms and its own promises."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_fakes import CartTask, LinearDynamics
from scipy.signal import lfilter

from polo_ros import tasks
from polo_ros.config import replace
from polo_ros.dynamics.mujoco import MujocoDynamics
from polo_ros.planners.mppi import Mppi, MppiConfig
from polo_ros.planners.noise import knot_basis, noise_filter
from polo_ros.planners.objective import Objective, ValueEstimate
from polo_ros.planners.pace import Pace

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
    assert plan.rollouts == dynamics.rollouts == -(-rollouts // Pace.FIRST)
    assert plan.rollouts_asked == 3 * rollouts
    assert np.isfinite(plan.best_score)
    assert np.isfinite(plan.actions).all()


def test_a_far_deadline_changes_nothing():
    start = np.array([0.0, 0.5, 0.0])
    free = planner(iterations=2).plan(start, np.random.default_rng(0))
    timed = planner(iterations=2).plan(start, np.random.default_rng(0), deadline=time.perf_counter() + 1e6)
    # Up to rounding: BLAS sums the rewards of a chunk in an order of its own.
    np.testing.assert_allclose(timed.actions, free.actions, rtol=1e-12)
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
    for rollouts, knots in ((16, 0), (5, 0), (5, 3), (40, 3), (40, 0)):
        mppi.config = MppiConfig(horizon=H, rollouts=rollouts, knots=knots)
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


# ---- noise at knots ------------------------------------------------------------------------

SIZES = st.integers(1, 80).flatmap(lambda horizon: st.tuples(st.just(horizon), st.integers(1, horizon)))


@given(SIZES)
@settings(max_examples=150, deadline=None)
def test_noise_at_knots_reaches_from_the_first_step_to_the_last(size):
    horizon, knots = size
    basis = knot_basis(horizon, knots)
    assert basis.shape == (horizon, knots)
    assert np.isfinite(basis).all()
    np.testing.assert_allclose(basis.sum(axis=1), 1.0, atol=1e-5)  # equal knots give a constant
    first, last = np.eye(knots)[[0, -1]]
    np.testing.assert_allclose(basis[0], first, atol=1e-6)
    np.testing.assert_allclose(basis[-1], last, atol=1e-6)
    # Deviation of unit white noise at every step: 1 at the knots, hardly above 1 between them.
    assert np.linalg.norm(basis, axis=1).max() <= 1.02
    if knots == horizon:
        np.testing.assert_allclose(basis, np.eye(horizon), atol=1e-6)


@given(SIZES.filter(lambda size: size[1] > 1))
@settings(max_examples=50, deadline=None)
def test_straight_lines_through_the_knots_stay_straight(size):
    horizon, knots = size
    line = knot_basis(horizon, knots) @ np.linspace(-1.0, 3.0, knots)
    np.testing.assert_allclose(line, np.linspace(-1.0, 3.0, horizon), atol=1e-5)


def test_four_knots_are_joined_by_a_smooth_curve_and_three_by_lines():
    assert np.diff(knot_basis(31, 3)[:, 1], n=2)[:14] == pytest.approx(np.zeros(14), abs=1e-6)
    curve = knot_basis(31, 4)[:, 1].astype(float)
    third = np.diff(curve, n=3)  # of a cubic: constant between knots
    for start in (0, 10, 20):
        np.testing.assert_allclose(third[start : start + 8], third[start + 3], atol=1e-5)
    assert np.abs(third).max() < 0.01  # no corner; lines would have 0.2 there


@given(horizon=st.integers(1, 60), knots=st.integers(1, 1000))
def test_more_knots_than_steps_are_refused(horizon, knots):
    if knots <= horizon:
        assert MppiConfig(horizon=horizon, knots=knots).knots == knots
        return
    with pytest.raises(ValueError, match=f"knots = {knots} is above horizon = {horizon}"):
        MppiConfig(horizon=horizon, knots=knots)
    with pytest.raises(ValueError, match=f"knots = {knots} is not within 1 .. {horizon}"):
        knot_basis(horizon, knots)


def test_changes_of_knots_and_horizon_are_judged_together():
    with pytest.raises(ValueError, match="knots = 30 is above horizon = 20"):
        replace(MppiConfig(horizon=50, knots=30), {"horizon": 20})
    assert replace(MppiConfig(horizon=50, knots=30), {"horizon": 20, "knots": 5}).knots == 5


@pytest.mark.parametrize("knots", [1, 2, 5, H])
def test_candidates_are_interpolated_noise_whatever_the_filter_says(knots):
    dynamics = LinearDynamics()
    mppi = planner(FreeCart(), dynamics, rollouts=12, sigma=0.7, knots=knots, filter_b0=0.3, filter_b1=0.8)
    mppi.nominal = np.linspace(-1.0, 1.0, H)[:, None]
    nominal = mppi.nominal.copy()
    mppi.plan(np.zeros(3), np.random.default_rng(3))
    raw = np.random.default_rng(3).standard_normal((knots, 12, 1), dtype=np.float32)
    raw[:, 0] = 0.0
    expected = 0.7 * np.einsum("hm,mnu->nhu", knot_basis(H, knots), raw)
    np.testing.assert_allclose(dynamics.last_actions, nominal + expected, atol=1e-5)


def test_noise_has_its_standard_deviation_at_the_knots():
    dynamics = LinearDynamics()
    planner(FreeCart(), dynamics, rollouts=4001, sigma=0.6, knots=5).plan(np.zeros(3), np.random.default_rng(0))
    deviation = dynamics.last_actions[1:, :, 0].std(axis=0)
    assert deviation[[0, -1]] == pytest.approx(0.6, rel=0.05)


@given(horizon=st.integers(1, 40), b0=st.floats(0.0, 1.0), b1=st.floats(-1.0, 1.0), b2=st.floats(-0.5, 0.5))
@settings(max_examples=50, deadline=None)
def test_the_filter_as_a_matrix_is_the_filter(horizon, b0, b1, b2):
    white = np.random.default_rng(horizon).standard_normal((horizon, 3))
    expected = lfilter([b0], [1.0, -b1, -b2], white, axis=0)
    np.testing.assert_allclose(noise_filter(horizon, b0, b1, b2) @ white, expected, rtol=1e-4, atol=1e-4)


# ---- promises for any warm start -----------------------------------------------------------

WARM_STARTS = st.integers(0, 2**32).map(lambda seed: np.random.default_rng(seed).uniform(-3.0, 3.0, (H, 1)))


@pytest.mark.parametrize("task", [QuadraticCart(), LameCart()], ids=["symmetric", "pushes only"])
@given(warm=WARM_STARTS, sigma=st.floats(0.0, 10.0), knots=st.integers(0, H), seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_candidates_stay_in_range_for_any_warm_start(task, warm, sigma, knots, seed):
    dynamics = LinearDynamics()
    mppi = planner(task, dynamics, sigma=sigma, knots=knots)
    mppi.nominal = warm  # in range or not
    mppi.plan(np.zeros(3), np.random.default_rng(seed))
    assert (dynamics.last_actions >= task.action_low).all()
    assert (dynamics.last_actions <= task.action_high).all()


@pytest.mark.parametrize("name", ["cartpole_swingup", "point_mass_maze"])
def test_the_best_candidate_is_no_worse_than_the_warm_start_on_the_true_model(name):
    task = tasks.make(name)
    dynamics = MujocoDynamics(task, threads=1)
    objective = Objective(task)

    @given(seed=st.integers(0, 2**32), knots=st.sampled_from([0, 1, 4]), shift=st.integers(0, 15))
    @settings(max_examples=25, deadline=None)
    def holds(seed, knots, shift):
        rng = np.random.default_rng(seed)
        state = task.reset(rng)
        mppi = Mppi(task, dynamics, objective, MppiConfig(horizon=12, rollouts=6, sigma=0.7, knots=knots))
        mppi.plan(state, rng)
        mppi.shift(shift)
        warm = mppi.nominal[None].copy()
        warm_score = objective(dynamics.rollout(state, warm), warm).score[0]
        assert mppi.plan(state, rng).best_score >= warm_score - 1e-9 * abs(warm_score)

    holds()
    dynamics.close()


class Shuffled(Mppi):
    """Evaluates its candidates in another order."""

    order = slice(None)

    def _sample(self, rng):
        return super()._sample(rng)[self.order].copy()


@given(seed=st.integers(0, 2**32), kappa=st.floats(1e-3, 1e3), iterations=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_the_order_of_candidates_does_not_matter(seed, kappa, iterations):
    start, rollouts = np.array([0.0, 0.4, 0.0]), 9
    plans, scores = [], []
    order = np.random.default_rng(seed).permutation(rollouts)
    for chosen in (np.arange(rollouts), order):
        task, dynamics = QuadraticCart(), LinearDynamics(cliff=0.6)
        mppi = Shuffled(
            task,
            dynamics,
            Objective(task),
            MppiConfig(horizon=H, rollouts=rollouts, iterations=iterations, kappa=kappa),
        )
        mppi.order = chosen
        plans.append(mppi.plan(start, np.random.default_rng(seed)))
        last = dynamics.last_actions
        scores.append(Objective(task)(dynamics.rollout(start, last), last).score)
    np.testing.assert_allclose(scores[1], scores[0][order], rtol=1e-6)
    np.testing.assert_allclose(plans[1].actions, plans[0].actions, atol=1e-6)
    for name in ("best_score", "mean_score", "effective_samples"):
        assert getattr(plans[1], name) == pytest.approx(getattr(plans[0], name), rel=1e-6)
    assert plans[1].invalid_rollouts == plans[0].invalid_rollouts


@given(
    shifts=st.lists(st.integers(-3, 3 * H), min_size=1, max_size=8),
    fill=st.sampled_from(["repeat", "zero"]),
    knots=st.integers(0, H),
)
@settings(max_examples=40, deadline=None)
def test_every_row_of_a_plan_is_in_range_after_any_shifts(shifts, fill, knots):
    task = LameCart()
    mppi = planner(task, fill=fill, knots=knots, sigma=2.0)
    rng = np.random.default_rng(0)
    for steps in shifts:
        plan = mppi.plan(np.array([0.0, 0.3, 0.0]), rng)
        mppi.shift(steps)
        for rows in (plan.actions, mppi.nominal):
            assert rows.shape == (H, 1)
            assert np.isfinite(rows).all()
            assert (rows >= task.action_low - 1e-12).all()
            assert (rows <= task.action_high + 1e-12).all()


# ---- as many candidates as a deadline leaves time for --------------------------------------


class Watch:
    """A clock that stands still but for what is counted on it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class SlowDynamics(LinearDynamics):
    """Takes `each` s a candidate and `call` s a rollout, on a clock of its own."""

    def __init__(self, clock, each, call=0.0):
        super().__init__()
        self.clock, self.each, self.call = clock, each, call

    def rollout(self, starts, actions):
        self.clock.now += self.call + self.each * len(actions)
        return super().rollout(starts, actions)


def timed(rollouts, budget, *, call=0.0, **settings):
    """A plan with `budget` times the time that all candidates take, 1 s each; its dynamics and the time it took."""
    clock, task = Watch(), QuadraticCart()
    dynamics = SlowDynamics(clock, 1.0, call)
    config = MppiConfig(horizon=H, rollouts=rollouts, **settings)
    mppi = Mppi(task, dynamics, Objective(task), config, clock)
    began = clock.now
    plan = mppi.plan(np.array([0.0, 0.5, 0.0]), np.random.default_rng(0), began + budget * rollouts)
    return plan, dynamics, clock.now - began


@given(rollouts=st.integers(1, 300), budget=st.floats(0.0, 2.0), call=st.floats(0.0, 20.0))
@settings(max_examples=100, deadline=None)
def test_candidates_fill_the_time_until_the_deadline(rollouts, budget, call):
    plan, dynamics, took = timed(rollouts, budget, call=call)
    first = -(-rollouts // Pace.FIRST)
    assert plan.rollouts == dynamics.rollouts
    assert first <= plan.rollouts <= rollouts
    # What was measured to be late was not begun, but for the first chunk.
    assert plan.rollouts == first or took <= budget * rollouts
    if call == 0.0 and plan.rollouts < rollouts:
        # What is left unused has no room for a first chunk.
        assert Pace.SHARE * (budget * rollouts - took) < first + 1e-6


def test_a_deadline_with_time_to_spare_costs_one_rollout_more():
    plan, dynamics, _ = timed(120, 1.2)
    assert plan.rollouts == 120
    assert dynamics.batches == [15, 105]


@pytest.mark.parametrize(("budget", "least"), [(0.3, 0.2), (0.5, 0.37), (0.74, 0.6), (0.9, 0.77)])
def test_a_deadline_that_is_too_early_is_used_to_within_a_first_chunk(budget, least):
    plan, dynamics, took = timed(400, budget)
    assert least * 400 <= plan.rollouts <= budget * 400
    assert took <= budget * 400
    assert len(dynamics.batches) <= 3


def test_later_rounds_end_with_the_time_as_well():
    plan, dynamics, took = timed(40, 1.5, iterations=4)
    assert plan.rollouts_asked == 160
    assert 40 < plan.rollouts < 60
    assert took <= 60.0
    assert math.isfinite(plan.best_score)


def test_without_a_deadline_everything_is_one_rollout():
    _, dynamics, _ = timed(37, math.inf)
    assert dynamics.batches == [37]
