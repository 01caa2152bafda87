"""Algorithm 1's learning half."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from learning_fakes import CartTask, FencedCartTask, LinearDynamics, wander

from polo_ros.learning import polo_learner
from polo_ros.learning.checkpoint import CheckpointError, previous
from polo_ros.learning.polo_learner import LearnerConfig, LearnerMetrics, PoloLearner, TargetNoise
from polo_ros.learning.targets import TargetConfig
from polo_ros.learning.value_ensemble import ValueConfig, ValueFunction, shapes
from polo_ros.learning.weights import decode, digest
from polo_ros.replay.transition import Transition
from polo_ros.tasks.base import ObservationSpec

LEARNER = LearnerConfig(update_every=8, gradient_steps=6, batch_size=5, capacity=40, min_transitions=4)
TARGETS = TargetConfig(horizon=4, rollouts=5)


def make(learner: LearnerConfig = LEARNER, task: CartTask | None = None, **changes: object) -> PoloLearner:
    arguments: dict = {"value": ValueConfig(members=3, hidden=8), "targets": TARGETS, "seed": 7, **changes}
    dynamics = arguments.pop("dynamics", LinearDynamics())
    return PoloLearner(task or CartTask(), dynamics, learner=learner, **arguments)


def feed(learner: PoloLearner, transitions: list[Transition]) -> list[LearnerMetrics]:
    """Observe and update by the schedule."""
    metrics = []
    for transition in transitions:
        assert learner.observe(transition), learner.message
        if learner.due(transition.step):
            metrics.append(learner.update())
    return metrics


def learned(learner: PoloLearner) -> str:
    """Digest of what a learner has learned."""
    return digest(learner.weights().encode())


def learned_digest() -> str:
    """What comes out of 60 steps; run in other processes too."""
    learner = make()
    feed(learner, wander(CartTask(), 60))
    return digest(learner.weights().encode())


def test_updates_follow_the_schedule_and_name_their_version_and_step() -> None:
    learner = make()
    metrics = feed(learner, wander(CartTask(), 40))
    assert [m.step for m in metrics] == [7, 15, 23, 31, 39]
    assert [m.version for m in metrics] == [1, 2, 3, 4, 5]
    assert [m.updates for m in metrics] == [1, 2, 3, 4, 5]
    assert metrics[-1].lag_s == 0.0
    weights = learner.weights()
    assert (weights.kind, weights.task, weights.version, weights.effective_step) == ("value_ensemble", "cart", 5, 40)
    assert weights.model_hash == CartTask().model_hash
    decode(weights.encode(), shapes(learner.value_config, 2))


def test_same_transitions_and_seed_give_the_same_weights_bit_for_bit() -> None:
    assert learned_digest() == learned_digest()


def test_weights_do_not_depend_on_the_process() -> None:
    here = Path(__file__).parent
    paths = [str(here), *filter(None, [os.environ.get("PYTHONPATH")])]
    result = subprocess.run(
        [sys.executable, "-c", "import test_polo_learner; print(test_polo_learner.learned_digest())"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "123"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split()[-1] == learned_digest()


def test_another_seed_gives_other_weights() -> None:
    one, other = make(), make(seed=8)
    for learner in (one, other):
        feed(learner, wander(CartTask(), 16))
    assert one.weights().encode() != other.weights().encode()


@pytest.mark.parametrize("steps", [4, 24, 60, 61])
def test_resuming_from_a_checkpoint_continues_exactly(tmp_path: Path, steps: int) -> None:
    path = tmp_path / "learner.safetensors"
    transitions = wander(CartTask(), 120)
    whole = make()
    feed(whole, transitions)

    first, second = make(), make()
    feed(first, transitions[:steps])
    first.save(path)
    assert second.restore(path) == ()
    assert second.weights().encode() == first.weights().encode()
    metrics = feed(second, transitions[steps:])
    assert second.weights().encode() == whole.weights().encode()
    assert (metrics[-1].version, metrics[-1].updates) == (15, 15)
    assert metrics[-1].transitions_lost == 0


def test_restoring_says_what_has_changed_since(tmp_path: Path) -> None:
    path = tmp_path / "learner.safetensors"
    make().save(path)
    warnings = make(replace(LEARNER, learning_rate=0.01), seed=9).restore(path)
    assert len(warnings) == 2
    assert "learner.learning_rate was 0.001 in the checkpoint and is 0.01 now" in warnings
    assert "seed was 7 in the checkpoint and is 9 now" in warnings


def test_restoring_from_a_damaged_checkpoint_goes_on_from_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "learner.safetensors"
    learner = make()
    feed(learner, wander(CartTask(), 16))
    learner.save(path)
    expected = learner.weights().encode()
    feed(learner, wander(CartTask(), 16, first=16))
    learner.save(path)
    path.write_bytes(path.read_bytes()[:100])
    other = make()
    (warning,) = other.restore(path)
    assert previous(path).name in warning
    assert other.weights().encode() == expected


def test_a_checkpoint_of_other_networks_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "learner.safetensors"
    saved = make(value=ValueConfig(members=3, hidden=9))
    feed(saved, wander(CartTask(), 16))
    saved.save(path)
    learner = make()
    before = learner.weights().encode()
    with pytest.raises(CheckpointError, match=r"has shape .* expected"):
        learner.restore(path)
    assert learner.weights().encode() == before
    assert len(learner.buffer) == 0


@pytest.mark.parametrize("step", [10_000_024, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_step_that_nobody_can_have_reached_is_refused_and_learning_goes_on(step: int) -> None:
    learner = make()
    walk = wander(CartTask(), 32)
    feed(learner, walk[:24])
    assert not learner.observe(dataclasses.replace(walk[24], step=step))
    assert "too far from the last one, 23" in learner.message
    metrics = feed(learner, walk[24:])
    assert metrics[-1].version == 4 and metrics[-1].transitions_refused == 1


def test_a_constant_reward_is_worth_what_the_geometric_series_says() -> None:
    task = CartTask(bonus=2.0)
    learner = make(
        LearnerConfig(update_every=20, gradient_steps=60, batch_size=16, target_states=64, learning_rate=5e-3),
        task,
        value=ValueConfig(members=4, sigma=0.01, prior_scale=0.5),
    )
    transitions = wander(task, 400)
    seen = torch.tensor(np.array([t.observation for t in transitions]), dtype=torch.float32)
    with torch.no_grad():
        of_priors = float(learner.ensemble(seen).std(dim=0, correction=0).mean())
    metrics = feed(learner, transitions)
    # 2 / (1 - 0.9)
    assert metrics[-1].value_mean == pytest.approx(20.0, rel=0.03)
    assert metrics[-1].target_mean == pytest.approx(20.0, rel=0.03)
    assert metrics[-1].value_spread < 0.1 * of_priors
    value = ValueFunction(learner.value_config, learner.weights().arrays)
    visited = np.array([t.observation for t in transitions])
    np.testing.assert_allclose(value.values(visited).mean(axis=0), 20.0, rtol=0.15)


@pytest.mark.parametrize("bootstrap", ["step", "update"])
def test_without_reward_values_fall_where_the_agent_was_and_stay_uncertain_elsewhere(bootstrap: str) -> None:
    task = CartTask(bonus=0.0)
    learner = make(
        LearnerConfig(
            update_every=20, gradient_steps=60, batch_size=16, target_states=64, learning_rate=5e-3, bootstrap=bootstrap
        ),
        task,
        value=ValueConfig(members=6, sigma=0.01),
    )
    transitions = wander(task, 400)
    feed(learner, transitions)
    value = ValueFunction(learner.value_config, learner.weights().arrays)
    visited = np.array([t.observation for t in transitions])
    here = value.spread(value.values(visited)).mean()
    far = value.spread(value.values(np.array([[9.0, 9.0], [-9.0, 9.0], [9.0, -9.0], [-9.0, -9.0]]))).mean()
    assert here < 1.0
    assert far > 5.0 * here
    assert abs(float(value.values(visited).mean())) < 1.0


def test_terminal_states_bound_the_value() -> None:
    task = FencedCartTask(bonus=1.0)
    learner = make(task=task)
    start = np.array([0.0, 0.95, 3.0])
    for step in range(8):
        learner.observe(Transition(step, step, 0, start, start[1:], np.zeros(1), 1.0, start[1:], terminated=True))
    # Whatever is done, the next state is terminal: the value is one reward, without any network's share.
    assert learner.update().target_mean == pytest.approx(1.0)


def test_members_disagree_as_much_as_noisy_targets_leave_open() -> None:
    """One state seen n times, worth 1 for sure: the posterior's deviation is about sigma / sqrt(n)."""
    n, sigma = 8, 0.3
    learner = make(
        replace(LEARNER, gradient_steps=150, batch_size=16, target_states=64, learning_rate=5e-3),
        FencedCartTask(bonus=1.0),
        value=ValueConfig(members=24, sigma=sigma),
    )
    start = np.array([0.0, 0.95, 3.0])
    for step in range(n):
        learner.observe(Transition(step, step, 0, start, start[1:], np.zeros(1), 1.0, start[1:], terminated=True))
    for _ in range(4):
        metrics = learner.update()
    expected = learner.ensemble.value_scale * sigma / np.sqrt(n)
    assert 0.6 * expected < metrics.value_spread < 1.4 * expected


def test_every_update_draws_anew() -> None:
    dynamics = LinearDynamics()
    learner = make(dynamics=dynamics)
    feed(learner, wander(CartTask(), 8))
    first = dynamics.last_actions
    learner.update()
    assert (dynamics.last_actions != first).any()


def test_literal_algorithm_1_plans_a_state_for_every_sample() -> None:
    dynamics = LinearDynamics()
    feed(make(dynamics=dynamics), wander(CartTask(), 8))
    assert dynamics.rollouts == LEARNER.gradient_steps * LEARNER.batch_size * TARGETS.rollouts


def test_fewer_target_states_are_used_several_times() -> None:
    dynamics = LinearDynamics()
    (metrics,) = feed(make(replace(LEARNER, target_states=3), dynamics=dynamics), wander(CartTask(), 8))
    assert dynamics.rollouts == 3 * TARGETS.rollouts
    assert math.isfinite(metrics.value_loss)


def test_too_few_transitions_still_make_the_version_that_the_schedule_names() -> None:
    learner = make(replace(LEARNER, min_transitions=9))
    before = learner.weights().arrays["learned.0.weight"].copy()
    (metrics,) = feed(learner, wander(CartTask(), 8))
    assert (metrics.version, metrics.updates) == (1, 1)
    assert metrics.message == "8 transitions, fewer than min_transitions = 9"
    assert math.isnan(metrics.value_loss)
    np.testing.assert_array_equal(learner.weights().arrays["learned.0.weight"], before)


def test_a_model_that_diverges_everywhere_changes_nothing_and_is_reported() -> None:
    learner = make(dynamics=LinearDynamics(cliff=-1e9))
    before = learner.weights().arrays["learned.1.weight"].copy()
    (metrics,) = feed(learner, wander(CartTask(), 8))
    assert metrics.message == "the model diverged from all 30 states drawn"
    np.testing.assert_array_equal(learner.weights().arrays["learned.1.weight"], before)


def test_states_from_which_the_model_diverges_are_left_out() -> None:
    learner = make(dynamics=LinearDynamics(cliff=0.3))
    metrics = feed(learner, wander(CartTask(), 40))
    assert all(math.isfinite(m.value_loss) for m in metrics)
    assert all(np.isfinite(array).all() for array in learner.weights().arrays.values())


def test_lost_and_refused_transitions_and_skipped_updates_are_counted() -> None:
    learner = make()
    transitions = wander(CartTask(), 40)
    assert learner.observe(transitions[3])  # joined late: nothing is lost yet
    for step in (4, 5, 6, 7):
        learner.observe(transitions[step])
    learner.update()
    assert not learner.observe(transitions[7])
    assert learner.message == "transition 7 is not newer than the last one, 7"
    assert not learner.observe(replace(transitions[8], observation=np.array([np.nan, 0.0])))
    assert not learner.observe(replace(transitions[8], action=np.zeros(2)))
    assert "transition 8: action has shape (2,), expected (1,)" in learner.message
    for step in (10, 11, 32):
        assert learner.observe(transitions[step])
    metrics = learner.update()
    assert metrics.transitions_refused == 3
    assert metrics.transitions_lost == 2 + 20
    assert (metrics.version, metrics.updates_skipped) == (4, 2)
    assert metrics.lag_s == pytest.approx(0.1)
    assert "action has shape" in metrics.message
    assert learner.update().message == ""


def test_noise_on_a_transitions_target_stays_for_life() -> None:
    noise = TargetNoise(3, 4)
    one = noise(np.array([5, 700, 5]))
    assert one.shape == (4, 3)
    np.testing.assert_array_equal(one[:, 0], one[:, 2])
    np.testing.assert_array_equal(TargetNoise(3, 4)(np.array([700])), one[:, 1:2])
    many = noise(np.arange(20_000))
    np.testing.assert_allclose(many.mean(axis=1), 0.0, atol=0.04)
    np.testing.assert_allclose(np.cov(many), np.eye(4), atol=0.05)
    assert (TargetNoise(4, 4)(np.arange(9)) != many[:, :9]).all()


def test_normalisation_stands_still_after_its_transitions_while_the_range_goes_on() -> None:
    learner = make(replace(LEARNER, normaliser_transitions=16))
    transitions = wander(CartTask(), 48)
    feed(learner, transitions[:16])
    early = learner.weights().arrays
    feed(learner, transitions[16:])
    late = learner.weights().arrays
    np.testing.assert_array_equal(early["obs_mean"], late["obs_mean"])
    np.testing.assert_array_equal(early["obs_std"], late["obs_std"])
    seen = np.array([t.observation for t in transitions], np.float32)
    np.testing.assert_array_equal(late["data_low"], seen.min(axis=0))
    np.testing.assert_array_equal(late["data_high"], seen.max(axis=0))
    # A hundred imaginary observations of mean 0 and variance 1 are counted in.
    first = np.array([t.observation for t in transitions[:16]])
    both = np.vstack([first, np.zeros((100, 2))])
    np.testing.assert_allclose(late["obs_mean"], both.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(late["obs_std"], np.sqrt(both.var(axis=0) + 100.0 / 116.0), rtol=1e-5)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="seed = -1 is below its minimum 0"):
        make(seed=-1)


def test_a_scaled_observation_is_divided_by_its_scale_at_all_times() -> None:
    task = CartTask()
    task.observation_spec = ObservationSpec(task.observation_spec.groups, scales=(("velocity", 4.0),))
    learner = make(task=task)
    feed(learner, wander(CartTask(), 24))
    arrays = learner.weights().arrays
    assert arrays["obs_mean"][1] == 0.0 and arrays["obs_std"][1] == 4.0
    assert arrays["obs_mean"][0] != 0.0


def test_a_value_of_chosen_inputs_does_not_see_the_others() -> None:
    config = ValueConfig(members=3, hidden=8, inputs="position")
    learner = make(value=config)
    feed(learner, wander(CartTask(), 24))
    arrays = learner.weights().arrays
    value = ValueFunction(config, decode(learner.weights().encode(), shapes(config, 2)))
    still, moving, elsewhere = (value.values(np.array([obs])) for obs in ([0.3, 0.0], [0.3, 9.0], [0.5, 0.0]))
    np.testing.assert_allclose(still, moving, rtol=1e-4)
    assert np.abs(still - elsewhere).max() > 1e-3
    # What is no input cannot leave the range of the data either.
    assert arrays["data_low"][1] < -1e9 and arrays["data_high"][1] > 1e9
    with pytest.raises(ValueError, match="unknown observation group 'speed'; groups: position, velocity"):
        make(value=ValueConfig(inputs="position, speed"))


def test_an_empty_buffer_is_said_and_learned_from_later() -> None:
    learner = make()
    assert "0 transitions, fewer than min_transitions" in learner.update().message
    assert math.isfinite(feed(learner, wander(CartTask(), 16))[-1].value_loss)


def test_a_buffer_of_one_state_is_learned_from() -> None:
    learner = make(replace(LEARNER, min_transitions=1))
    learner.observe(wander(CartTask(), 1)[0])
    metrics = learner.update()
    assert metrics.message == "" and math.isfinite(metrics.value_loss)
    decode(learner.weights().encode(), shapes(learner.value_config, 2))


def test_targets_that_are_not_numbers_are_said_and_not_fitted() -> None:
    learner = make()
    feed(learner, wander(CartTask(), 16))
    before = learner.weights().arrays
    learner.ensemble._prior[0][0][0, 0, 0] = math.nan  # of one member: the others do not go on alone
    metrics = learner.update()
    assert "targets are not finite" in metrics.message and math.isnan(metrics.value_loss)
    after = learner.weights().arrays
    for name in before:
        if name.startswith("learned"):
            np.testing.assert_array_equal(before[name], after[name])


def test_a_fit_that_fails_leaves_the_weights_and_the_next_one_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled, sound = make(), make()
    transitions = wander(CartTask(), 40)
    for learner in (spoiled, sound):
        feed(learner, transitions[:24])
    before = spoiled.weights().arrays
    with monkeypatch.context() as patch:
        patch.setattr(
            polo_learner, "regression_loss", lambda p, t, w, c, n: ((p * math.nan).sum(), (p - t).square().mean())
        )
        metrics = spoiled.update()
    assert "the fit gave weights that are not finite" in metrics.message and math.isnan(metrics.value_loss)
    after = spoiled.weights().arrays
    for name in before:
        if name.startswith("learned"):
            np.testing.assert_array_equal(before[name], after[name])
    # Adam's moments are what they were too: the next fit is the one that a sound learner makes.
    sound.updates += 1
    sound.version += 1
    for learner in (spoiled, sound):
        feed(learner, transitions[24:])
    assert learned(spoiled) == learned(sound)


def test_the_learner_fits_the_targets_that_it_is_told_to_choose() -> None:
    by_member, by_mean = (make(targets=TargetConfig(horizon=4, rollouts=5, choice=c)) for c in ("member", "mean"))
    for learner in (by_member, by_mean):
        feed(learner, wander(CartTask(), 15))
        learner.observe(wander(CartTask(), 16)[15])
    # From the same weights: a member's own choice is never below what the mean chooses for it.
    by_mean.ensemble.load(by_member.ensemble.arrays())
    assert by_member.update().target_mean > by_mean.update().target_mean
