"""Trajectory sampling in a learned model, against rolling every particle by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_fakes import CartTask, FencedCartTask

from polo_ros.bench import ensemble as bench
from polo_ros.cli import main
from polo_ros.dynamics.base import Rollouts
from polo_ros.dynamics.ensemble import EnsembleDynamics
from polo_ros.dynamics.ensemble_config import EnsembleConfig, PredictionConfig
from polo_ros.learning.gaussian_ensemble import GaussianEnsemble
from polo_ros.planners.mppi import Mppi, MppiConfig
from polo_ros.planners.objective import Objective, ObjectiveConfig, ValueEstimate

NOBS, NU = 2, 1
CONFIG = EnsembleConfig(members=5, elites=3, hidden=7, layers=2)
# Float32 against double over some steps of order 1.
NEAR = {"rtol": 2e-4, "atol": 2e-5}


def model(seed: int = 0, config: EnsembleConfig = CONFIG) -> GaussianEnsemble:
    """Random networks whose members differ, with statistics that do something."""
    rng = np.random.default_rng(seed)
    out = GaussianEnsemble(config, NOBS, NU, rng)
    out.set_statistics(rng.normal([0.5, -0.3, 0.1], [2.0, 0.5, 0.7], (60, NOBS + NU)))
    out.elites = tuple(int(member) for member in rng.permutation(config.members)[: config.elites])
    return out


def dynamics(source: GaussianEnsemble, task=None, seed: int = 0, **changes) -> EnsembleDynamics:
    return EnsembleDynamics(task or CartTask(), source.config, PredictionConfig(**changes), source.arrays(), seed)


def problem(n: int = 4, horizon: int = 5, seed: int = 1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, NOBS)), rng.uniform(-1.0, 1.0, (n, horizon, NU))


def by_hand(source: GaussianEnsemble, member: int, start: np.ndarray, actions: np.ndarray):
    """Observations (H + 1, nobs) and rewards (H,) of one member's means."""
    seen, rewards = [start], []
    for action in actions:
        mean, _ = source.predict(seen[-1][None], action[None])
        rewards.append(mean[member, 0, 0])
        seen.append(seen[-1] + mean[member, 0, 1:])
    return np.array(seen), np.array(rewards)


@pytest.mark.parametrize("one_start", [True, False])
def test_ts_infinity_with_means_is_each_member_rolled_by_hand(one_start):
    source = model()
    starts, actions = problem()
    rollouts = dynamics(source, particles=6, sampled=False).rollout(starts[0] if one_start else starts, actions)
    assert rollouts.observations.shape == (4, 6, 6, NOBS)
    assert rollouts.rewards is not None and rollouts.rewards.shape == (4, 6, 5)
    assert rollouts.valid.all()
    for n in range(4):
        for p in range(6):  # two particles each, elites in order
            start = starts[0] if one_start else starts[n]
            seen, rewards = by_hand(source, source.elites[p // 2], start, actions[n])
            np.testing.assert_allclose(rollouts.observations[n, p], seen, **NEAR)
            np.testing.assert_allclose(rollouts.rewards[n, p], rewards, **NEAR)


def test_rollouts_say_of_which_members_the_particles_are_where_that_can_be_told():
    source = model()
    starts, actions = problem()
    for changes, members in (
        ({"particles": 6}, 3),
        ({"particles": 3}, 3),
        ({"particles": 4}, 0),
        ({"particles": 1}, 0),
        ({"particles": 6, "propagation": "ts1"}, 0),
    ):
        assert dynamics(source, **changes).rollout(starts, actions).members == members


@pytest.mark.parametrize(
    ("changes", "drawn"),
    [
        ({"particles": 3}, True),
        ({"particles": 3, "sampled": False}, False),
        ({"particles": 1, "sampled": False}, True),
        ({"particles": 3, "sampled": False, "propagation": "ts1"}, True),
    ],
)
def test_rollouts_say_whether_the_same_candidate_may_come_out_otherwise(changes: dict[str, Any], drawn: bool) -> None:
    ensemble = dynamics(model(), **changes)
    starts, actions = problem()
    found = ensemble.rollout(starts[0], np.repeat(actions[:1], 12, axis=0))
    assert found.drawn == drawn
    assert np.allclose(found.observations, found.observations[:1], **NEAR) != drawn


def test_pessimism_is_over_the_members_of_a_learned_model():
    source = model()
    starts, actions = problem()
    found = Objective(CartTask(), config=ObjectiveConfig(pessimism=2.0))(
        dynamics(source, particles=6, sampled=False).rollout(starts[0], actions), actions
    )
    discounts = CartTask.discount ** np.arange(5)
    for n in range(4):
        of_member = [by_hand(source, member, starts[0], actions[n])[1] @ discounts for member in source.elites]
        assert found.score[n] == pytest.approx(np.mean(of_member) - 2.0 * np.std(of_member), rel=1e-3)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 7), particles=st.integers(1, 7), horizon=st.integers(1, 4))
def test_any_number_of_particles_is_dealt_out_in_equal_parts(n, particles, horizon):
    """Every particle is some elite's; the elites' parts are equal, or the last ones shorter."""
    source = model()
    starts, actions = problem(n, horizon)
    rollouts = dynamics(source, particles=particles, sampled=False).rollout(starts, actions)
    part = -(-n * particles // 3)
    for row in range(n * particles):
        p, candidate = divmod(row, n)
        seen, _ = by_hand(source, source.elites[row // part], starts[candidate], actions[candidate])
        np.testing.assert_allclose(rollouts.observations[candidate, p], seen, **NEAR)


def test_ts1_deals_every_step_to_elites_alike():
    """Members that move by 1, 2 and 3 whatever they see: each step tells who made it."""
    source = constant_members((1.0, 2.0, 3.0))
    n, particles, horizon = 50, 5, 40
    found = dynamics(source, particles=particles, sampled=False, propagation="ts1").rollout(
        np.zeros(NOBS), np.zeros((n, horizon, NU))
    )
    steps = np.diff(found.observations[..., 0], axis=2)
    assert found.rewards is not None
    np.testing.assert_allclose(found.rewards, 10.0 * steps, rtol=1e-4)  # the reward is the same member's
    who = np.rint(steps).astype(int)
    assert set(who.ravel()) == {1, 2, 3}
    # Dealt evenly: 250 rows and 2 idle ones are 84 for each member.
    counts = np.array([[(who[:, :, t] == member).sum() for member in (1, 2, 3)] for t in range(horizon)])
    assert ((counts >= 82) & (counts <= 84)).all()
    # A particle's members are uniform and independent from step to step: chi-square statistics that are exceeded
    # with a probability of 1e-4.
    drawn = n * particles * horizon
    expected = drawn / 3.0
    assert ((np.bincount(who.ravel(), minlength=4)[1:] - expected) ** 2 / expected).sum() < 18.4
    pairs = np.bincount((3 * (who[..., :-1] - 1) + who[..., 1:] - 1).ravel(), minlength=9)
    expected = pairs.sum() / 9.0
    assert ((pairs - expected) ** 2 / expected).sum() < 31.8


def constant_members(moves: tuple[float, ...]) -> GaussianEnsemble:
    """Linear members whose first entry moves by so much a step; their reward is ten times that."""
    source = GaussianEnsemble(
        EnsembleConfig(members=len(moves), elites=len(moves), layers=0), NOBS, NU, np.random.default_rng(0)
    )
    arrays = source.arrays(range(len(moves)))
    arrays["0.weight"][:] = 0.0
    arrays["0.bias"][:, 0, 0] = 10.0 * np.array(moves)
    arrays["0.bias"][:, 0, 1] = moves
    arrays["0.bias"][:, 0, 2] = 0.0
    source.load(arrays, range(len(moves)))
    return source


@pytest.mark.parametrize("propagation", ["tsinf", "ts1"])
def test_drawn_steps_have_the_predicted_mean_and_variance(propagation):
    source = model(3)
    start, action = np.array([0.4, -0.2]), np.array([0.3])
    n, particles = 4000, 3
    found = dynamics(source, particles=particles, propagation=propagation).rollout(start, np.tile(action, (n, 1, 1)))
    moved = found.observations[:, :, 1].astype(float) - start
    mean, variance = (x[list(source.elites), 0, 1:].astype(float) for x in source.predict(start[None], action[None]))
    if propagation == "tsinf":
        groups = [(moved[:, k], mean[k], variance[k]) for k in range(3)]
    else:  # a mixture of all elites
        both = moved.reshape(-1, NOBS)
        groups = [(both, mean.mean(axis=0), variance.mean(axis=0) + mean.var(axis=0))]
    for drawn, wanted_mean, wanted_variance in groups:
        count = len(drawn)
        # Five standard errors; those of a variance are for a normal distribution.
        assert (np.abs(drawn.mean(axis=0) - wanted_mean) < 5.0 * np.sqrt(wanted_variance / count)).all()
        assert (np.abs(drawn.var(axis=0) - wanted_variance) < 5.0 * wanted_variance * np.sqrt(2.0 / count)).all()


def test_a_seed_makes_the_same_numbers_again():
    source = model()
    starts, actions = problem()
    for propagation in ("tsinf", "ts1"):
        made = dynamics(source, particles=6, propagation=propagation, seed=5)
        first = made.rollout(starts, actions).observations.copy()
        assert (made.rollout(starts, actions).observations != first).any()
        made.seed(5)
        np.testing.assert_array_equal(made.rollout(starts, actions).observations, first)


def test_only_elites_predict():
    """Others may be anything."""
    source = model()
    starts, actions = problem()
    expected = dynamics(source, particles=3, sampled=False).rollout(starts, actions).observations
    arrays = source.arrays(range(5))
    outsider = next(member for member in range(5) if member not in source.elites)
    arrays["0.weight"][outsider] = 1e6
    source.load(arrays, source.elites)
    found = dynamics(source, particles=3, sampled=False).rollout(starts, actions).observations
    np.testing.assert_array_equal(found, expected)


def test_advance_is_the_mean_of_the_elites():
    source = model()
    starts, actions = problem()
    ends = [by_hand(source, member, starts[0], actions[0])[0][-1] for member in source.elites]
    for changes in ({}, {"propagation": "ts1"}, {"sampled": False}):
        made = dynamics(source, **changes)
        np.testing.assert_allclose(made.advance(starts[0], actions[0]), np.mean(ends, axis=0), **NEAR)
    np.testing.assert_array_equal(made.advance(starts[0], actions[0, :0]), starts[0])


@pytest.mark.parametrize("propagation", ["tsinf", "ts1"])
def test_step_by_step_is_the_rollout(propagation):
    """The same networks, noise and deals: the same numbers."""
    source = model()
    starts, actions = problem()
    for rewards in ("predicted", "task"):
        made = dynamics(source, particles=6, propagation=propagation, rewards=rewards, seed=2)
        whole = made.rollout(starts, actions)
        seen = whole.observations.copy()
        if whole.rewards is None:
            paid = made._task.reward(seen[:, :, :-1], actions[:, None], seen[:, :, 1:])
        else:
            paid = whole.rewards.copy()
        made.seed(2)
        np.testing.assert_allclose(made.begin(starts, 4), seen[:, :, 0], rtol=1e-6)
        for t in range(actions.shape[1]):
            # One row a candidate, or one a particle.
            one = actions[:, t] if t % 2 else np.repeat(actions[:, None, t], 6, axis=1)
            step = made.step(one)
            np.testing.assert_allclose(step.observations, seen[:, :, t + 1], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(step.rewards, paid[:, :, t], rtol=1e-5, atol=1e-6)
            assert step.valid.all() and not step.ended.any()


@settings(max_examples=25, deadline=None)
@given(indices=st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_selected_candidates_go_on_with_their_particles_and_members(indices):
    source = model()
    starts, actions = problem()
    made = dynamics(source, particles=3, sampled=False)
    made.begin(starts, 4)
    made.step(actions[:, 0])
    before = made.step(actions[:, 1]).observations.copy()
    chosen = np.array(indices)
    np.testing.assert_array_equal(made.select(chosen), before[chosen])
    after = made.step(actions[chosen, 2]).observations
    for row, n in enumerate(indices):
        for p in range(3):
            seen, _ = by_hand(source, source.elites[p], starts[n], actions[n, :3])
            np.testing.assert_allclose(after[row, p], seen[-1], **NEAR)


def test_what_has_ended_earns_nothing_more():
    """x moves by 0.6 a step; beyond 1 the task is over: the second step pays, the third does not."""
    source = constant_members((0.6,))
    made = dynamics(source, FencedCartTask(), particles=1, sampled=False)
    made.begin(np.array([[0.0, 0.0], [2.0, 0.0]]), 2)
    steps = [made.step(np.zeros((2, NU))) for _ in range(3)]
    assert [step.ended[:, 0].tolist() for step in steps] == [[False, True], [True, True], [True, True]]
    np.testing.assert_allclose([step.rewards[:, 0] for step in steps], [[6.0, 0.0], [6.0, 0.0], [0.0, 0.0]], rtol=1e-5)
    # A candidate that is put back, and its end with it.
    made.begin(np.array([[0.0, 0.0], [2.0, 0.0]]), 2)
    made.select(np.array([1, 0]))
    assert made.step(np.zeros((2, NU))).ended[:, 0].tolist() == [True, False]


@pytest.mark.parametrize("propagation", ["tsinf", "ts1"])
def test_what_diverges_is_invalid_and_hurts_no_other(propagation):
    source = constant_members((1.0, 1.0))
    arrays = source.arrays()
    arrays["0.weight"][:, NOBS, 1] = 3e38  # moves by 3e38 times the action
    source.load(arrays, range(2))
    made = dynamics(source, particles=2, sampled=False, propagation=propagation)
    actions = np.zeros((3, 4, NU))
    actions[1] = 1.0
    found = made.rollout(np.zeros(NOBS), actions)
    assert found.valid.tolist() == [True, False, True]
    assert np.isfinite(found.observations).all()
    np.testing.assert_allclose(found.observations[[0, 2], :, -1, 0], 4.0, rtol=1e-5)
    scores = Objective(CartTask())(found, actions)
    assert scores.invalid == 1 and scores.score[1] == -np.inf
    # The buffers are as good as new afterwards.
    actions[1] = 0.0
    assert made.rollout(np.zeros(NOBS), actions).valid.all()
    made.begin(np.zeros(NOBS), 3)
    actions[1] = 1.0
    steps = [made.step(actions[:, t]) for t in range(4)]
    assert steps[-1].valid.tolist() == [True, False, True]
    assert steps[-1].rewards[1].tolist() == [0.0, 0.0]


class SquareValue:
    """V = x^2."""

    def estimate(self, observations):
        assert observations.ndim == 2
        return ValueEstimate(observations[:, 0] ** 2, 0.0, 1.0)


@pytest.mark.parametrize("task", [CartTask(), FencedCartTask()], ids=["endless", "terminating"])
@pytest.mark.parametrize("predicted", [True, False])
def test_a_score_is_the_mean_over_particles(task, predicted):
    rng = np.random.default_rng(9)
    seen, actions = rng.normal(0.0, 0.7, (5, 4, 7, NOBS)), rng.uniform(-1.0, 1.0, (5, 6, NU))
    rewards = rng.normal(size=(5, 4, 6)) if predicted else None
    objective = Objective(task, SquareValue())
    found = objective(Rollouts(seen, np.ones(5, bool), rewards), actions)
    alone = [
        Objective(task, SquareValue())(
            Rollouts(seen[:, p], np.ones(5, bool), None if rewards is None else rewards[:, p]), actions
        ).score
        for p in range(4)
    ]
    np.testing.assert_allclose(found.score, np.mean(alone, axis=0), rtol=1e-12)
    # In two parts as well.
    parts = [
        objective.returns(Rollouts(seen[part], np.ones(5, bool)[part], None if rewards is None else rewards[part]), a)
        for part, a in ((slice(0, 2), actions[:2]), (slice(2, 5), actions[2:]))
    ]
    np.testing.assert_allclose(objective.score(parts).score, found.score, rtol=1e-12)


def test_mppi_plans_in_a_learned_model():
    """A model that moves by the action, and a reward of -x^2: the plan goes to 0."""
    source = constant_members((0.0, 0.0))
    arrays = source.arrays()
    arrays["0.weight"][:, NOBS, 1] = 1.0
    source.load(arrays, range(2))
    made = dynamics(source, particles=2, rewards="task", sampled=False)
    task = CartTask()
    planner = Mppi(task, made, Objective(task), MppiConfig(rollouts=64, horizon=8, kappa=100.0, iterations=30))
    result = planner.plan(np.array([1.0, 0.0]), np.random.default_rng(0))
    path = 1.0 + np.cumsum(result.actions[:, 0])
    assert abs(path[-1]) < 0.2
    assert result.invalid_rollouts == 0


def test_starts_and_weights_that_do_not_fit_are_refused():
    source = model()
    made = dynamics(source)
    with pytest.raises(ValueError, match="begins with observations of 2 entries, the start has 3"):
        made.rollout(np.zeros(3), np.zeros((2, 4, NU)))
    with pytest.raises(ValueError, match="begins with observations"):
        made.begin(np.zeros(3), 2)
    with pytest.raises(RuntimeError, match="call begin first"):
        made.step(np.zeros((2, NU)))
    for name, value, words in (
        ("input_std", 0.0, "'input_std' contain 0.0, expected values above 0"),
        ("log_var_min", 9.0, "'log_var_min' are not below"),
    ):
        arrays = source.arrays()
        arrays[name][:] = value
        with pytest.raises(ValueError, match=words):
            made.use(arrays)
    arrays = source.arrays(range(5))
    with pytest.raises(ValueError, match=r"have shape \(5, 3, 7\), expected \(3, 3, 7\)"):
        made.use(arrays)


def test_new_weights_act_from_the_next_rollout_on():
    first, second = model(0), model(1)
    starts, actions = problem()
    made = dynamics(first, particles=3, sampled=False)
    made.rollout(starts, actions)
    made.begin(starts, 4)
    made.use(second.arrays())
    expected = dynamics(second, particles=3, sampled=False).rollout(starts, actions).observations
    np.testing.assert_array_equal(made.rollout(starts, actions).observations, expected)
    with pytest.raises(RuntimeError, match="again after other weights"):
        made.step(actions[:, 0])


def test_variance_within_is_the_bounded_log_variance():
    """The closed form that plans use is the one that is fitted: at one point, of one member."""
    source = model(4)
    _, variance = source.predict(np.zeros((1, NOBS)), np.zeros((1, NU)))
    made = dynamics(source, particles=3)
    made.rollout(np.zeros(NOBS), np.zeros((1, 1, NU)))
    # Left in the buffers: the deviation in units of z.
    deviation = made._buffers(1, 1).deviation.numpy()[:, 0] * source.input_std[:NOBS]
    np.testing.assert_allclose(deviation**2, variance[list(source.elites), 0, 1:], rtol=1e-4)


def test_the_bench_has_a_row_for_each_case(capsys, monkeypatch):
    cases = (bench.Case("cartpole_swingup", 6, 3), bench.Case("cartpole_swingup", 4, 2, particles=5, sampled=True))
    monkeypatch.setattr(bench, "CASES", (*cases, bench.Case("nowhere", 2, 2)))
    assert main(["bench", "ensemble", "--repeats", "2", "--json"]) == 0
    first, second, missing = json.loads(capsys.readouterr().out)
    names = ["task", "rollouts", "horizon", "particles", "sampled", "rewards", "plan_ms", "networks_ms", "ratio"]
    assert list(first) == [*names, "wanted"] and list(second) == names
    assert (first["rollouts"], first["horizon"], second["particles"]) == (6, 3, 5)
    assert min(row[name] for row in (first, second) for name in ("plan_ms", "networks_ms", "ratio")) > 0.0
    assert missing["task"] == "nowhere" and "unknown task 'nowhere'" in missing["missing"]
    with pytest.raises(ValueError, match="repeats = 0 is below its minimum 1"):
        bench.bench_ensemble(0)
