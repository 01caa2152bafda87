"""Eq. 7: value targets by trajectory optimisation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from learning_fakes import CartTask, FencedCartTask, LinearDynamics

from polo_ros.dynamics.base import Rollouts
from polo_ros.learning.targets import Futures, TargetConfig, TargetPlanner
from polo_ros.tasks.base import FloatArray

STATES = np.array([[0.0, 0.3, -0.2], [0.0, -0.8, 0.5], [0.0, 0.0, 0.0]])


def zero_values(obs: FloatArray) -> FloatArray:
    return np.zeros((1, len(obs)))


def two_values(obs: FloatArray) -> FloatArray:
    """One member likes to be right, one to be slow."""
    return np.stack([3.0 * obs[:, 0], -2.0 * obs[:, 1] ** 2])


class ThreeWayDynamics:
    """x' = x + a rounded to -1, 0 or 1 times 0.25: so few futures that all of them can be tried."""

    def rollout(self, starts: FloatArray, actions: FloatArray) -> Rollouts:
        n = len(actions)
        x = np.broadcast_to(starts, (n, 3))[:, 1:2] + np.concatenate(
            [np.zeros((n, 1)), np.cumsum(0.25 * np.rint(actions[:, :, 0]), axis=1)], axis=1
        )
        return Rollouts(np.stack([x, np.sin(3.0 * x)], axis=-1), np.ones(n, bool))

    def advance(self, start: FloatArray, actions: FloatArray) -> FloatArray:
        return start

    def close(self) -> None:
        pass


def brute_force(task: CartTask, states: FloatArray, horizon: int) -> FloatArray:
    """y^k (2, B) over every one of the 3^N action sequences."""
    sequences = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=horizon)))[..., None]
    out = np.empty((2, len(states)))
    for b, state in enumerate(states):
        obs = ThreeWayDynamics().rollout(state, sequences).observations
        scores = np.zeros((2, len(sequences)))
        for i in range(len(sequences)):
            alive = True
            for t in range(horizon):
                alive = alive and not bool(task.terminated(obs[i, t]))
                if alive:
                    scores[:, i] += task.discount**t * task.reward(obs[i, t], sequences[i, t], obs[i, t + 1])
            if alive and not bool(task.terminated(obs[i, -1])):
                scores[:, i] += task.discount**horizon * two_values(obs[i, -1:])[:, 0]
        out[:, b] = scores.max(axis=1)
    return out


@pytest.mark.parametrize("task", [CartTask(), FencedCartTask()])
@pytest.mark.parametrize("horizon", [1, 3])
def test_targets_are_the_brute_force_maximum_of_each_member(task: CartTask, horizon: int) -> None:
    planner = TargetPlanner(task, ThreeWayDynamics(), TargetConfig(horizon=horizon, rollouts=600, sigma=1.0))
    states = np.array([[0.0, x, 0.0] for x in (-0.5, 0.1, 0.9, 1.2)])
    targets, valid = planner(two_values, states, np.zeros((4, horizon, 1)), np.random.default_rng(0))
    assert valid.all()
    np.testing.assert_allclose(targets, brute_force(task, states, horizon), rtol=1e-12)


def test_members_share_the_rollouts_of_a_state() -> None:
    dynamics = LinearDynamics()
    planner = TargetPlanner(CartTask(), dynamics, TargetConfig(horizon=5, rollouts=8))
    targets, _ = planner(two_values, STATES, np.zeros((3, 5, 1)), np.random.default_rng(0))
    assert targets.shape == (2, 3)
    assert dynamics.rollouts == 3 * 8


def test_the_recorded_actions_are_always_among_those_tried() -> None:
    task, nominal = CartTask(), np.random.default_rng(5).uniform(-1.0, 1.0, (3, 6, 1))
    rng = np.random.default_rng(0)
    still = TargetPlanner(task, LinearDynamics(), TargetConfig(horizon=6, rollouts=1, sigma=5.0))
    wild = TargetPlanner(task, LinearDynamics(), TargetConfig(horizon=6, rollouts=9, sigma=5.0))
    recorded, _ = still(two_values, STATES, nominal, rng)
    best, _ = wild(two_values, STATES, nominal, rng)
    obs = LinearDynamics().rollout(STATES, nominal).observations
    returns = (task.reward(obs[:, :-1], nominal, obs[:, 1:]) * 0.9 ** np.arange(6)).sum(axis=1)
    np.testing.assert_allclose(recorded, returns + 0.9**6 * two_values(obs[:, -1]))
    assert (best >= recorded).all()


def test_tried_actions_stay_in_the_control_range() -> None:
    dynamics = LinearDynamics()
    planner = TargetPlanner(CartTask(), dynamics, TargetConfig(horizon=4, rollouts=50, sigma=10.0))
    planner(two_values, STATES, np.full((3, 4, 1), 7.0), np.random.default_rng(0))
    assert np.abs(dynamics.last_actions).max() == 1.0


def test_noise_is_filtered_as_the_documentation_says() -> None:
    raw, filtered = LinearDynamics(), LinearDynamics()
    config = TargetConfig(horizon=6, rollouts=4, sigma=0.01)
    for dynamics, b0, b1 in ((raw, 1.0, 0.0), (filtered, 0.25, 0.8)):
        settings = TargetConfig(horizon=6, rollouts=4, sigma=config.sigma, filter_b0=b0, filter_b1=b1)
        TargetPlanner(CartTask(), dynamics, settings)(
            zero_values, STATES[:1], np.zeros((1, 6, 1)), np.random.default_rng(3)
        )
    expected = 0.25 * raw.last_actions[:, 0]
    for t in range(6):
        np.testing.assert_allclose(filtered.last_actions[:, t], expected, rtol=1e-5, atol=1e-9)
        if t < 5:
            expected = 0.25 * raw.last_actions[:, t + 1] + 0.8 * expected


def test_further_iterations_never_lower_a_single_members_target() -> None:
    def value(obs: FloatArray) -> FloatArray:
        return 3.0 * obs[None, :, 0]

    nominal = np.zeros((3, 10, 1))
    results = []
    for iterations in (1, 2, 5):
        config = TargetConfig(horizon=10, rollouts=6, sigma=0.3, iterations=iterations)
        planner = TargetPlanner(CartTask(), LinearDynamics(), config)
        results.append(planner(value, STATES, nominal, np.random.default_rng(0))[0])
    assert (results[1] >= results[0]).all()
    assert (results[2] >= results[1]).all()
    assert (results[2] > results[0]).any()


def test_memory_is_bounded_and_batching_does_not_change_the_targets() -> None:
    results, largest = [], []
    for batch in (1000, 16, 3):
        dynamics = LinearDynamics()
        planner = TargetPlanner(CartTask(), dynamics, TargetConfig(horizon=4, rollouts=8, batch=batch))
        results.append(planner(two_values, STATES, np.zeros((3, 4, 1)), np.random.default_rng(0))[0])
        largest.append(max(dynamics.batches))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    # One state is the smallest batch.
    assert largest == [24, 16, 8]


def test_diverged_sequences_are_never_chosen_and_hopeless_states_are_marked() -> None:
    task = CartTask()
    planner = TargetPlanner(task, LinearDynamics(cliff=0.5), TargetConfig(horizon=5, rollouts=40, sigma=1.0))
    states = np.array([[0.0, 0.45, 0.15], [0.0, 0.9, 0.0]])

    def rightmost(obs: FloatArray) -> FloatArray:
        return 1e3 * obs[None, :, 0]

    futures = planner.futures(rightmost, states, np.zeros((2, 5, 1)), np.random.default_rng(0))
    assert futures.valid.tolist() == [True, False]
    assert np.isinf(futures.returns[0]).any()
    targets, valid = planner(rightmost, states, np.zeros((2, 5, 1)), np.random.default_rng(0))
    assert valid.tolist() == [True, False]
    assert targets[0, 0] <= 1e3 * 0.9**5 * 0.5
    assert targets[0, 1] == -np.inf
    assert np.isfinite(futures.last).all()


def test_nothing_is_earned_after_a_terminal_state() -> None:
    task = FencedCartTask(bonus=1.0)
    planner = TargetPlanner(task, LinearDynamics(), TargetConfig(horizon=4, rollouts=1))
    # 0.9 + 0.1 * 2 = 1.1 after one period: its reward counts, the next three and the value do not.
    states = np.array([[0.0, 0.9, 2.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    targets, _ = planner(
        lambda obs: np.full((1, len(obs)), 50.0), states, np.zeros((3, 4, 1)), np.random.default_rng(0)
    )
    np.testing.assert_allclose(targets[0], [1.0, 0.0, 1 + 0.9 + 0.81 + 0.729 + 0.9**4 * 50.0])


def test_a_nominal_of_another_shape_is_refused() -> None:
    planner = TargetPlanner(CartTask(), LinearDynamics(), TargetConfig(horizon=4))
    with pytest.raises(ValueError, match=r"nominal has shape \(3, 5, 1\), expected \(3, 4, 1\)"):
        planner(two_values, STATES, np.zeros((3, 5, 1)), np.random.default_rng(0))


@pytest.mark.parametrize("choice", ["member", "mean"])
def test_a_targets_sequence_is_chosen_by_each_member_or_by_the_mean_of_all(choice: str) -> None:
    rng = np.random.default_rng(0)
    members, states, sequences = 3, 5, 7
    returns = rng.normal(size=(states, sequences))
    returns[2, 4] = -np.inf  # diverged: not to be chosen
    discounts = rng.uniform(0.5, 1.0, (states, sequences))
    values = rng.normal(size=(members, states, sequences))
    futures = Futures(returns, np.zeros((states, sequences, 2)), discounts, np.ones(states, bool))
    for b in range(states):
        totals = np.array([[returns[b, m] + discounts[b, m] * v[b, m] for m in range(sequences)] for v in values])
        for k in range(members):
            chosen = totals[k] if choice == "member" else totals.mean(axis=0)
            assert futures.targets(values, choice)[k, b] == pytest.approx(totals[k, chosen.argmax()])


def test_a_choice_by_the_mean_inflates_less_what_is_only_noise() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(6, 2000, 8))  # members that know nothing: every sequence is worth 0
    futures = Futures(np.zeros((2000, 8)), np.zeros((2000, 8, 1)), np.ones((2000, 8)), np.ones(2000, bool))
    by_member, by_mean = (futures.targets(noise, choice).mean() for choice in ("member", "mean"))
    # The largest of eight normal numbers, and of eight means of six.
    assert by_member == pytest.approx(1.42, abs=0.03)
    assert by_mean == pytest.approx(1.42 / np.sqrt(6.0), abs=0.03)
