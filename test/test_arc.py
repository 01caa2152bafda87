"""ARC and CEM against their equations."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_fakes import CartTask, LinearDynamics

from polo_ros.dynamics.base import Step
from polo_ros.planners.actor_prior import ActorPrior
from polo_ros.planners.arc import Arc, ArcConfig
from polo_ros.planners.cem import Cem, CemConfig
from polo_ros.planners.gaussian import ActionGaussian
from polo_ros.planners.objective import Objective
from polo_ros.tasks.base import FloatArray

START = np.array([0.0, 0.8, -0.2])
CONFIG = ArcConfig(rollouts=40, horizon=4, iterations=1, beta=0.0, executed="mean")


class Lean:
    """A policy that leans against where it is."""

    def mean(self, observations: FloatArray) -> FloatArray:
        return np.clip(-0.7 * observations[..., :1] - 0.3, -1.0, 1.0)

    def sample(self, observations: FloatArray, rng: np.random.Generator) -> FloatArray:
        return np.clip(self.mean(observations) + rng.normal(0.0, 0.2, (*observations.shape[:-1], 1)), -1.0, 1.0)


class Stepwise:
    """LinearDynamics, one control period at a time."""

    def __init__(self) -> None:
        self.states = np.empty((0, 2))

    def begin(self, starts: FloatArray, n: int) -> FloatArray:
        self.states = np.array(np.broadcast_to(starts[..., 1:], (n, 2)))
        return self.states[:, None]

    def step(self, actions: FloatArray) -> Step:
        x, v = self.states.T
        self.states = np.stack((x + 0.1 * v, v + 0.1 * actions[:, 0]), axis=1)
        nothing = np.zeros((len(x), 1))
        return Step(self.states[:, None], nothing, nothing > 0.0, nothing[:, 0] == 0.0)

    def select(self, indices: np.ndarray) -> FloatArray:
        self.states = self.states[indices]
        return self.states[:, None]


class Recorded(LinearDynamics):
    """Keeps what was rolled out, batch by batch."""

    def __init__(self, cliff: float = np.inf) -> None:
        super().__init__(cliff=cliff)
        self.seen: list[FloatArray] = []

    def rollout(self, starts: FloatArray, actions: FloatArray):
        self.seen.append(actions.copy())
        return super().rollout(starts, actions)


def value(task: CartTask, actions: FloatArray) -> float:
    """L of one sequence (H, nu), step by step: eq. 3 without a terminal value."""
    x, v = START[1:]
    total = 0.0
    for t, u in enumerate(actions[:, 0]):
        total += task.discount**t * -(x**2)
        x, v = x + 0.1 * v, v + 0.1 * u
    return total


def arc(config: ArcConfig = CONFIG, dynamics: LinearDynamics | None = None, prior: ActorPrior | None = None, **more):
    task = CartTask()
    return Arc(task, dynamics or Recorded(), Objective(task), config, prior, **more)


def test_an_iteration_is_equation_8_written_out() -> None:
    dynamics = Recorded()
    config = replace(CONFIG, iterations=3, keep=0.25, kappa=3.0)
    planner = arc(config, dynamics)
    planner._gaussian.mean = np.array([[0.3], [-0.2], [0.1], [0.0]])
    found = planner.plan(START, np.random.default_rng(0))
    variance = np.full((4, 1), config.sigma**2)  # the cart's half control range is 1
    mean = np.empty((4, 1))
    for candidates in dynamics.seen:
        scores = np.array([value(planner._objective.task, one) for one in candidates])
        weights = np.exp(config.kappa * scores) / np.exp(config.kappa * scores).sum()
        mean = sum(w * one for w, one in zip(weights, candidates, strict=True))
        spread = sum(w * (one - mean) ** 2 for w, one in zip(weights, candidates, strict=True))
        variance = config.keep * variance + (1.0 - config.keep) * spread
    assert len(dynamics.seen) == 3
    np.testing.assert_allclose(found.actions, mean, atol=1e-12)
    np.testing.assert_allclose(planner._gaussian.variance, variance, atol=1e-12)
    assert found.best_score == pytest.approx(scores.max())
    assert found.mean_score == pytest.approx(scores.mean())
    assert found.effective_samples == pytest.approx(1.0 / np.square(weights).sum())


def test_the_prior_is_a_mixture_of_the_actor_and_the_solution_before() -> None:
    dynamics = Recorded()
    config = replace(CONFIG, beta=0.3, iterations=2)
    planner = arc(config, dynamics, ActorPrior(Stepwise(), Lean()))
    planner._gaussian.mean = np.full((4, 1), 0.4)
    planner.plan(START, np.random.default_rng(1))
    proposed = []
    state = START
    for _ in range(4):
        proposed.append(Lean().mean(state[1:]))
        state = LinearDynamics().advance(state, proposed[-1][None])
    for candidates in dynamics.seen:  # in every iteration
        np.testing.assert_allclose(candidates[:12], np.tile(proposed, (12, 1, 1)))
    drawn = dynamics.seen[0][12:]
    assert len(drawn) == 28
    assert np.abs(drawn - 0.4).max() <= 2.0 * min(config.sigma, 0.5 * 0.6) + 1e-12
    assert np.ptp(drawn, axis=0).min() > 0.3


def test_a_share_of_one_leaves_nothing_but_the_actor() -> None:
    dynamics = Recorded()
    prior = ActorPrior(Stepwise(), Lean())
    arc(replace(CONFIG, beta=1.0, actor="sample"), dynamics, prior).plan(START, np.random.default_rng(1))
    (candidates,) = dynamics.seen
    # At the start all see the same: what differs is the policy's own noise.
    np.testing.assert_allclose(candidates[:, 0].mean(), Lean().mean(START[1:])[0], atol=0.15)
    assert 0.1 < candidates[:, 0].std() < 0.3
    arc(replace(CONFIG, beta=1.0), dynamics).plan(START, np.random.default_rng(1))
    assert len(dynamics.seen[1]) == CONFIG.rollouts, "without an actor all are drawn"


def test_noise_on_the_actors_actions_makes_its_candidates_differ_and_the_actor_sees_where_it_leads() -> None:
    dynamics, start = Recorded(), np.array([0.0, 0.0, -0.2])
    config = replace(CONFIG, beta=1.0, noise=0.15, rollouts=4000)
    planner = arc(config, dynamics, ActorPrior(Stepwise(), Lean()))
    found = planner.plan(start, np.random.default_rng(3))
    (candidates,) = dynamics.seen
    # What the actor means at each state that the candidate's own, disturbed actions lead to.
    states = LinearDynamics().rollout(start, candidates).observations[:, :-1]
    noise = (candidates - Lean().mean(states))[..., 0]
    np.testing.assert_allclose(noise.mean(axis=0), 0.0, atol=0.01)
    np.testing.assert_allclose(noise.std(axis=0), 0.15, atol=0.01)
    assert np.abs(np.corrcoef(noise.T) - np.eye(4)).max() < 0.05
    # One iteration, the mean: eq. 8 over the actor's candidates, and nothing of the plan before.
    task = planner._objective.task
    scores = (-(states[..., 0] ** 2) * task.discount ** np.arange(4)).sum(axis=1)
    weights = np.exp(config.kappa * (scores - scores.max()))
    np.testing.assert_allclose(found.actions, np.tensordot(weights / weights.sum(), candidates, 1), atol=1e-12)
    planner.reset()
    planner._gaussian.mean[:] = 0.9
    np.testing.assert_array_equal(planner.plan(start, np.random.default_rng(3)).actions, found.actions)
    loud = arc(replace(config, noise=5.0), Recorded(), ActorPrior(Stepwise(), Lean()))
    assert np.abs(loud.plan(start, np.random.default_rng(3)).actions).max() <= 1.0


def test_what_is_drawn_is_a_candidate_by_its_weight_and_the_next_warm_start() -> None:
    dynamics = Recorded()
    planner = arc(replace(CONFIG, executed="draw", kappa=0.7, rollouts=4, horizon=1), dynamics)
    counts = np.zeros(4)
    for seed in range(2000):
        dynamics.seen.clear()
        planner.reset()
        found = planner.plan(START, _Spliced(drawn_from=7, choose_with=seed))  # type: ignore[arg-type]
        (index,) = np.flatnonzero((dynamics.seen[0] == found.actions).all(axis=(1, 2)))
        counts[index] += 1
        np.testing.assert_array_equal(planner.mean, found.actions)
    # With a horizon of 1 nothing that an action does is rewarded: all weigh the same.
    np.testing.assert_allclose(counts / 2000, 0.25, atol=0.05)


class _Spliced:
    """A generator whose choices have a seed of their own."""

    def __init__(self, drawn_from: int, choose_with: int) -> None:
        self._rng, self._choice = np.random.default_rng(drawn_from), np.random.default_rng(choose_with)

    def standard_normal(self, *args, **kwargs):
        return self._rng.standard_normal(*args, **kwargs)

    def choice(self, *args, **kwargs):
        return self._choice.choice(*args, **kwargs)


@given(
    seed=st.integers(0, 2**32 - 1),
    sigma=st.floats(0.0, 3.0),
    centre=st.floats(-1.0, 1.0),
    beta=st.floats(0.0, 1.0),
    rollouts=st.integers(1, 30),
    iterations=st.integers(1, 4),
)
@settings(deadline=None, max_examples=50)
def test_every_candidate_and_plan_is_within_range(seed, sigma, centre, beta, rollouts, iterations) -> None:
    dynamics = Recorded()
    config = replace(
        CONFIG,
        sigma=sigma,
        beta=beta,
        rollouts=rollouts,
        iterations=iterations,
        executed="draw" if seed % 2 else "mean",
    )
    planner = arc(config, dynamics, ActorPrior(Stepwise(), Lean()))
    planner._gaussian.mean[:] = centre
    found = planner.plan(START, np.random.default_rng(seed))
    assert found.rollouts == found.rollouts_asked == rollouts * iterations
    assert all(len(batch) == rollouts and np.abs(batch).max() <= 1.0 for batch in dynamics.seen)
    assert np.abs(found.actions).max() <= 1.0 + 1e-12
    again = arc(config, Recorded(), ActorPrior(Stepwise(), Lean()))
    again._gaussian.mean[:] = centre
    np.testing.assert_array_equal(again.plan(START, np.random.default_rng(seed)).actions, found.actions)


@pytest.mark.parametrize("kind", ["arc", "cem"])
def test_a_search_finds_the_optimum_of_a_quadratic(kind: str) -> None:
    """-x^2 over two steps behind the first: push against the velocity with all there is."""
    task = CartTask()
    start = np.array([0.0, 0.0, 3.0])
    objective = Objective(task)
    if kind == "arc":
        config = ArcConfig(rollouts=200, horizon=6, iterations=10, beta=0.0, kappa=300.0, executed="mean")
        found = Arc(task, LinearDynamics(), objective, config).plan(start, np.random.default_rng(0))
    else:
        config = CemConfig(rollouts=200, horizon=6, iterations=10)
        found = Cem(task, LinearDynamics(), objective, config).plan(start, np.random.default_rng(0))
    # The last action that moves x within the horizon is the fourth; those behind it change nothing.
    assert (found.actions[:3] < -0.8).all()


def test_cem_moves_to_mean_and_variance_of_the_best() -> None:
    task, dynamics = CartTask(), Recorded()
    config = CemConfig(rollouts=20, horizon=4, iterations=1, elites=5, keep=0.25)
    planner = Cem(task, dynamics, Objective(task), config)
    planner._gaussian.mean[:] = 0.2
    found = planner.plan(START, np.random.default_rng(3))
    (candidates,) = dynamics.seen
    order = np.argsort([-value(task, one) for one in candidates], kind="stable")
    best = candidates[order[:5]]
    np.testing.assert_allclose(found.actions, 0.25 * 0.2 + 0.75 * best.mean(axis=0), atol=1e-12)
    expected = 0.25 * config.sigma**2 + 0.75 * best.var(axis=0)
    np.testing.assert_allclose(planner._gaussian.variance, expected, atol=1e-12)
    assert found.effective_samples == 5.0


@pytest.mark.parametrize("kind", ["arc", "cem"])
def test_candidates_that_all_diverge_leave_the_plan_as_it_was(kind: str) -> None:
    task, dynamics = CartTask(), Recorded(cliff=-1.0)
    planner = (
        arc(replace(CONFIG, iterations=2, executed="draw"), dynamics)
        if kind == "arc"
        else Cem(task, dynamics, Objective(task), CemConfig(rollouts=40, horizon=4, iterations=2))
    )
    planner._gaussian.mean[:] = 0.3
    found = planner.plan(START, np.random.default_rng(0))
    assert (found.actions == 0.3).all()
    assert found.invalid_rollouts == 80 and found.best_score == -math.inf


@pytest.mark.parametrize("kind", ["arc", "cem"])
def test_a_deadline_leaves_out_candidates_and_iterations_but_never_all(kind: str) -> None:
    now = [0.0]

    class Slow(Recorded):
        def rollout(self, starts: FloatArray, actions: FloatArray):
            now[0] += 0.001 * len(actions)
            return super().rollout(starts, actions)

    task, dynamics = CartTask(), Slow()
    make = {
        "arc": lambda: arc(replace(CONFIG, iterations=4), dynamics, clock=lambda: now[0]),
        "cem": lambda: Cem(
            task, dynamics, Objective(task), CemConfig(rollouts=40, horizon=4, iterations=4), lambda: now[0]
        ),
    }[kind]
    late = make().plan(START, np.random.default_rng(0), deadline=-1.0)
    assert late.rollouts == 5 and late.rollouts_asked == 160  # an eighth of a round, whatever the time
    now[0] = 0.0
    half = make().plan(START, np.random.default_rng(0), deadline=0.1)
    assert 60 <= half.rollouts <= 100 and now[0] <= 0.1


def test_the_warm_start_moves_on_and_repeats_its_end() -> None:
    planner = arc()
    planner._gaussian.mean = np.array([[0.1], [0.2], [0.3], [0.4]])
    planner.shift(0)
    planner.shift(2)
    np.testing.assert_array_equal(planner.mean[:, 0], [0.3, 0.4, 0.4, 0.4])
    planner.shift(9)
    np.testing.assert_array_equal(planner.mean[:, 0], [0.4] * 4)
    planner.reset()
    assert (planner.mean == 0.0).all()


def test_draws_keep_away_from_the_ends_of_the_range_instead_of_piling_up_there() -> None:
    gaussian = ActionGaussian(CartTask(), 2)
    gaussian.mean = np.array([[0.9], [1.0]])
    gaussian.widen(0.5)
    drawn = gaussian.draw(np.random.default_rng(0), 4000)
    assert np.abs(drawn[:, 0] - 0.9).max() <= 0.1 + 1e-12
    assert np.abs(drawn[:, 0]).max() < 1.0 and abs(drawn[:, 0].mean() - 0.9) < 0.005
    assert (drawn[:, 1] == 1.0).all()


def test_clipped_draws_leave_an_end_of_the_range_that_narrow_ones_stay_at() -> None:
    gaussian = ActionGaussian(CartTask(), 1)
    gaussian.mean = np.array([[1.0]])
    gaussian.widen(0.5)
    rng = np.random.default_rng(0)
    assert (gaussian.draw(rng, 4000) == 1.0).all()
    gaussian.edges = "clip"
    drawn = gaussian.draw(rng, 4000)[:, 0, 0]
    assert drawn.min() < 0.2 and drawn.max() == 1.0
    assert np.mean(drawn == 1.0) == pytest.approx(0.5, abs=0.03)
    inside = 1.0 - drawn[drawn < 1.0]  # a half normal within two deviations: its mean is phi(0) - phi(2) over its mass
    expected = 0.5 * (1.0 - math.exp(-2.0)) / math.sqrt(2.0 * math.pi) / (0.5 * math.erf(math.sqrt(2.0)))
    assert inside.mean() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("kind", ["arc", "cem"])
@pytest.mark.parametrize(("edges", "left"), [("narrow", False), ("clip", True)])
def test_a_search_that_stands_at_an_end_of_the_range_leaves_it_if_draws_are_clipped(
    kind: str, edges: str, left: bool
) -> None:
    task, start = CartTask(), np.array([0.0, 0.0, 3.0])  # push against the velocity
    planner: Arc | Cem
    if kind == "arc":
        config = ArcConfig(rollouts=200, horizon=6, iterations=10, beta=0.0, kappa=300.0, executed="mean", edges=edges)
        planner = Arc(task, LinearDynamics(), Objective(task), config)
    else:
        planner = Cem(task, LinearDynamics(), Objective(task), CemConfig(200, 6, 10, edges=edges))
    planner._gaussian.mean = np.ones((6, 1))
    rng = np.random.default_rng(0)
    for _ in range(3):
        found = planner.plan(start, rng).actions
    if left:
        assert (found[:3] < -0.8).all()
    else:
        np.testing.assert_allclose(found, 1.0)
