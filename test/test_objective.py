"""Eq. 3 against a loop written by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from learning_fakes import CartTask, FencedCartTask

from polo_ros.dynamics.base import Rollouts
from polo_ros.planners.objective import Objective, ObjectiveConfig, ValueEstimate

N, H = 7, 9


class ShapedCart(CartTask):
    """A reward that reads state, action and next state."""

    def reward(self, obs, action, next_obs):
        return obs[..., 0] - 0.3 * action[..., 0] ** 2 + 0.1 * next_obs[..., 1]


class FencedShapedCart(ShapedCart, FencedCartTask):
    """The same with an end beyond x = 1."""


class LinearValue:
    """V = 2 x + v - 1 with a fixed gate."""

    def __init__(self, gate: float = 1.0) -> None:
        self.gate = gate

    def estimate(self, observations):
        return ValueEstimate(2.0 * observations[:, 0] + observations[:, 1] - 1.0, 0.25, self.gate)


def sample(seed=0):
    rng = np.random.default_rng(seed)
    observations = rng.normal(0.0, 0.7, (N, H + 1, 2))
    return Rollouts(observations, np.ones(N, bool)), rng.uniform(-1.0, 1.0, (N, H, 1))


def by_hand(task, value, rollouts, actions):
    """Eq. 3, one candidate and step at a time."""
    scores = []
    for obs, acts in zip(rollouts.observations, actions, strict=True):
        score, discount, over = 0.0, 1.0, False
        for t in range(H):
            over = over or bool(task.terminated(obs[t]))
            if not over:
                score += discount * float(task.reward(obs[t], acts[t], obs[t + 1]))
            discount *= task.discount
        over = over or bool(task.terminated(obs[H]))
        if value is not None and not over:
            score += discount * value.gate * float(value.estimate(obs[H:]).value[0])
        scores.append(score)
    return np.array(scores)


@pytest.mark.parametrize("task", [ShapedCart(), FencedShapedCart()], ids=["endless", "terminating"])
@pytest.mark.parametrize("value", [None, LinearValue(), LinearValue(0.4), LinearValue(0.0)])
@pytest.mark.parametrize("discount", [1.0, 0.99, 0.5])
def test_score_is_eq_3(task, value, discount):
    task.discount = discount
    for seed in range(5):
        rollouts, actions = sample(seed)
        result = Objective(task, value)(rollouts, actions)
        np.testing.assert_allclose(result.score, by_hand(task, value, rollouts, actions), rtol=1e-12, atol=1e-12)
        assert result.invalid == 0


def test_the_sample_has_candidates_that_end_and_others():
    ended = (sample()[0].observations[:, :, 0] > 1.0).any(axis=1)
    assert 0 < ended.sum() < N


def test_gate_and_spread_are_reported():
    result = Objective(ShapedCart(), LinearValue(0.4))(*sample())
    assert (result.gate, result.spread) == (0.4, 0.25)
    result = Objective(ShapedCart())(*sample())
    assert (result.gate, result.spread) == (0.0, 0.0)


def test_the_step_into_a_terminal_state_still_pays_and_nothing_after_it():
    task = FencedCartTask(bonus=1.0)
    task.discount = 0.5
    observations = np.zeros((4, 4, 2))
    observations[1, 3:, 0] = 2.0  # ends with the last state
    observations[2, 1:, 0] = 2.0  # ends after one step
    observations[3, 1, 0] = 2.0  # ends after one step, and coming back does not help
    result = Objective(task, LinearValue())(Rollouts(observations, np.ones(4, bool)), np.zeros((4, 3, 1)))
    np.testing.assert_allclose(result.score, [1.75 - 0.125, 1.75, 1.0, 1.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_scores_that_are_not_finite_count_as_invalid(bad, where):
    rollouts, actions = sample()
    expected = Objective(ShapedCart(), LinearValue())(rollouts, actions).score
    rollouts.observations[2, {"first": 0, "middle": 4, "last": H}[where]] = bad
    result = Objective(ShapedCart(), LinearValue())(rollouts, actions)
    assert result.score[2] == -np.inf
    assert result.invalid == 1
    others = np.arange(N) != 2
    np.testing.assert_allclose(result.score[others], expected[others])


def test_candidates_that_the_model_marks_are_invalid():
    rollouts, actions = sample()
    rollouts.valid[[0, 3]] = False
    result = Objective(ShapedCart())(rollouts, actions)
    np.testing.assert_array_equal(np.isneginf(result.score), ~rollouts.valid)
    assert result.invalid == 2


def test_a_horizon_may_change_between_calls():
    rollouts, actions = sample()
    objective = Objective(ShapedCart(), LinearValue())
    full = objective(rollouts, actions).score
    objective(Rollouts(rollouts.observations[:, :4], rollouts.valid), actions[:, :3])
    np.testing.assert_array_equal(objective(rollouts, actions).score, full)


@pytest.mark.parametrize("members", [1, 2, 3, 6])
@pytest.mark.parametrize("pessimism", [0.0, 0.5, 5.0])
def test_pessimism_is_eq_9_over_members_whose_scores_are_the_means_of_their_particles(members, pessimism):
    rng = np.random.default_rng(1)
    rollouts, actions = sample()
    futures = rollouts.observations[:, None] + rng.normal(0.0, 0.3, (N, 6, 1, 1))
    objective = Objective(ShapedCart(), LinearValue(), ObjectiveConfig(pessimism=pessimism))
    found = objective(Rollouts(futures, rollouts.valid, members=members), actions).score
    plain = Objective(ShapedCart(), LinearValue())
    each = np.array([plain(Rollouts(futures[:, p], rollouts.valid), actions).score for p in range(6)])
    for n in range(N):
        of_member = [np.mean(each[m * 6 // members : (m + 1) * 6 // members, n]) for m in range(members)]
        expected = np.mean(of_member) - pessimism * math.sqrt(np.mean((of_member - np.mean(of_member)) ** 2))
        assert found[n] == pytest.approx(expected, rel=1e-9)


def test_pessimism_needs_to_know_which_model_predicts_and_is_nothing_where_there_is_one():
    rollouts, actions = sample()
    objective = Objective(ShapedCart(), config=ObjectiveConfig(pessimism=1.0))
    np.testing.assert_array_equal(objective(rollouts, actions).score, Objective(ShapedCart())(rollouts, actions).score)
    with pytest.raises(ValueError, match=r"pessimism = 1\.0 asks which models predict"):
        objective(Rollouts(rollouts.observations[:, None], rollouts.valid), actions)
