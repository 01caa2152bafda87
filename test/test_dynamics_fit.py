"""Fitting a dynamics ensemble: what is found, when it stops, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_fakes import CartTask

from polo_ros.dynamics.ensemble_config import EnsembleConfig
from polo_ros.learning import dynamics_fit
from polo_ros.learning.dynamics_fit import FitConfig, FitError, Transitions, fit, horizon_error
from polo_ros.learning.gaussian_ensemble import GaussianEnsemble, gaussian_loss

NOBS, NU = 2, 1
A = np.array([[0.9, 0.2], [-0.3, 0.8]])
B = np.array([[0.1], [0.5]])
REWARD = np.array([0.4, -0.2, 0.3])  # of x and u
NOISE = np.array([0.2, 0.3, 0.15])  # deviations of [reward, x']


def linear_record(n: int, seed: int = 0) -> Transitions:
    """x' = A x + B u + noise, one step after the other."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-2.0, 2.0, (n, NU))
    noise = NOISE * rng.normal(size=(n, 1 + NOBS))
    observations = np.zeros((n + 1, NOBS))
    for t in range(n):
        observations[t + 1] = A @ observations[t] + B @ actions[t] + noise[t, 1:]
    rewards = np.column_stack((observations[:-1], actions)) @ REWARD + noise[:, 0]
    return Transitions(observations[:-1], actions, rewards, observations[1:])


def ensemble(seed: int = 0, **changes) -> GaussianEnsemble:
    config = EnsembleConfig(**{"members": 4, "elites": 2, "hidden": 16, "layers": 1, **changes})
    return GaussianEnsemble(config, NOBS, NU, np.random.default_rng(seed))


def everything(model: GaussianEnsemble):
    return {**model.arrays(range(model.config.members)), "elites": np.array(model.elites)}


def assert_same(first, second):
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array, err_msg=name)


@pytest.fixture(scope="module")
def fitted():
    """Linear members fitted to a linear system until nothing is gained any more."""
    model = ensemble(layers=0)
    data = linear_record(4000)
    rough = FitConfig(learning_rate=1e-2, weight_decay=(0.0,), criterion="nll", improvement=0.0, max_epochs=60)
    fit(model, data, rough, np.random.default_rng(1))
    fine = FitConfig(learning_rate=1e-3, weight_decay=(0.0,), criterion="nll", improvement=0.0, patience=15)
    return model, data, fit(model, data, fine, np.random.default_rng(2))


def test_a_linear_system_is_recovered_to_what_its_noise_allows(fitted):
    """Within five standard errors of least squares, which the noise and the data name."""
    model, data, report = fitted
    points = np.concatenate((np.zeros((1, NOBS + NU)), np.eye(NOBS + NU)))
    mean, _ = model.predict(points[:, :NOBS], points[:, NOBS:])
    slopes = np.swapaxes(mean[:, 1:] - mean[:, :1], 1, 2).astype(float)  # (K, 1 + nobs, nobs + nu)
    truth = np.vstack((REWARD, np.hstack((A - np.eye(NOBS), B))))
    inputs = np.column_stack((data.observations, data.actions))
    covariance = np.linalg.inv(report.fitted * np.cov(inputs.T))
    error = np.sqrt(np.outer(np.square(NOISE), np.diag(covariance)))
    assert (np.abs(slopes - truth) < 5.0 * error).all()


def test_the_noise_is_recovered_to_what_its_sample_allows(fitted):
    """A variance from n normal numbers has a relative standard error of sqrt(2 / n)."""
    model, data, report = fitted
    _, variance = model.predict(data.observations, data.actions)
    found = variance.mean(axis=1, dtype=float)
    assert (np.abs(found / np.square(NOISE) - 1.0) < 5.0 * np.sqrt(2.0 / report.fitted)).all()


def test_figures_of_a_fit_are_those_of_its_noise(fitted):
    """Against the true model's: five standard errors of means over the hold-out."""
    _, _, report = fitted
    assert report.fitted + report.held_out == 4000
    assert report.held_out == pytest.approx(800, abs=8)
    entries = report.held_out * (1 + NOBS)
    for found, share in ((report.within_1_sigma, 0.6827), (report.within_2_sigma, 0.9545)):
        assert abs(found - share) < 5.0 * np.sqrt(share * (1.0 - share) / entries)
    assert abs(report.mse - np.square(NOISE).mean()) < 5.0 * np.sqrt(2.0 / report.held_out) * np.square(NOISE).mean()
    assert abs(report.nll - (0.5 + np.log(np.sqrt(2.0 * np.pi) * NOISE)).mean()) < 5.0 * np.sqrt(0.5 / entries)
    assert 0.0 < report.disagreement < 0.1
    assert len(report.horizon_error) == 8
    assert report.metrics()["error_after_8"] == report.horizon_error[-1]


def test_errors_ahead_are_those_of_the_noise_that_adds_up(fitted):
    """The variance of a linear system after h steps, sum of A^k Q A^k', in units of the observations' deviations."""
    _, data, report = fitted
    scale = data.observations.std(axis=0)
    covariance = np.zeros((NOBS, NOBS))
    for found in report.horizon_error:
        covariance = A @ covariance @ A.T + np.diag(np.square(NOISE[1:]))
        expected = np.sqrt((np.diag(covariance) / np.square(scale)).mean())
        assert abs(found - expected) < 5.0 * expected * np.sqrt(0.5 / (report.held_out / 8))


@pytest.fixture
def epochs(monkeypatch):
    """Hold-out errors and weights after each epoch."""
    seen: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
    original = dynamics_fit._holdout_error

    def watched(model, *arguments):
        error = original(model, *arguments)
        seen.append((error, everything(model)))
        return error

    monkeypatch.setattr(dynamics_fit, "_holdout_error", watched)
    return seen


def overfitting(model: GaussianEnsemble, **changes):
    """Too many units, too little data, too large a rate: the hold-out error falls, and rises again."""
    config = FitConfig(**{"min_transitions": 40, "batch_size": 8, "learning_rate": 0.02, "patience": 4, **changes})
    return fit(model, linear_record(60), config, np.random.default_rng(3))


@pytest.mark.parametrize("criterion", ["mse", "nll"])
def test_every_member_gets_the_weights_of_its_best_epoch_back(epochs, criterion):
    model = ensemble(hidden=64)
    report = overfitting(model, weight_decay=(0.0,), criterion=criterion)
    errors = np.array([error for error, _ in epochs])
    best = errors.argmin(axis=0)
    assert best.min() < len(epochs) - 1, "nobody was better before the end: the test shows nothing"
    for member, epoch in enumerate(best):
        for name in ("0.weight", "1.bias", "log_var_max"):
            np.testing.assert_array_equal(everything(model)[name][member], epochs[epoch][1][name][member])
    assert list(report.elites) == np.argsort(errors.min(axis=0))[:2].tolist()
    if criterion == "mse":
        np.testing.assert_allclose(report.member_mse, errors.min(axis=0), rtol=1e-5)


def test_elites_are_the_members_with_the_lowest_error(epochs):
    model = ensemble(members=6, elites=3)
    report = overfitting(model, weight_decay=(0.0,))
    errors = np.array([error for error, _ in epochs]).min(axis=0)
    assert list(report.elites) == list(model.elites) == np.argsort(errors)[:3].tolist()
    assert report.mse == pytest.approx(np.sort(errors)[:3].mean())


@pytest.mark.parametrize(
    ("criterion", "improvement", "patience"), [("mse", 0.01, 4), ("mse", 0.2, 2), ("mse", 0.0, 0), ("nll", 0.05, 3)]
)
def test_a_fit_ends_when_nobody_improved_enough_for_long_enough(epochs, criterion, improvement, patience):
    settings = {"improvement": improvement, "patience": patience, "criterion": criterion}
    report = overfitting(ensemble(), weight_decay=(0.0,), **settings)
    reference = np.full(4, np.inf)
    waited = 0
    for epoch, (errors, _) in enumerate(epochs, 1):
        gained = errors < ((1.0 - improvement) * reference if criterion == "mse" else reference - improvement)
        reference[gained] = errors[gained]
        waited = 0 if gained.any() else waited + 1
        assert (waited > patience) == (epoch == len(epochs))
    assert (report.stopped, report.epochs) == ("patience", len(epochs))


@pytest.mark.parametrize(
    ("changes", "stopped", "epochs", "steps"),
    [({"max_epochs": 2}, "epochs", 2, 12), ({"max_steps": 7}, "steps", 2, 7), ({"max_steps": 6}, "steps", 1, 6)],
)
def test_a_fit_is_capped(changes, stopped, epochs, steps):
    report = overfitting(ensemble(), **{"weight_decay": (0.0,), **changes})
    assert (report.stopped, report.epochs, report.gradient_steps) == (stopped, epochs, steps)


def test_progress_is_told_after_each_epoch():
    told = []
    config = FitConfig(max_epochs=3, weight_decay=(0.0,))
    fit(ensemble(), linear_record(300), config, np.random.default_rng(0), told.append)
    assert [(one.epoch, one.gradient_steps) for one in told] == [(1, 1), (2, 2), (3, 3)]
    assert all(one.holdout_error > 0.0 and one.waited >= 0 for one in told)


def test_a_refit_begins_where_the_last_one_ended():
    model = ensemble()
    told = []
    config = FitConfig(weight_decay=(0.0,), max_epochs=40, batch_size=32)
    fit(model, linear_record(300), config, np.random.default_rng(0), told.append)
    first = [one.holdout_error for one in told]
    told.clear()
    fit(model, linear_record(400, seed=1), config, np.random.default_rng(1), told.append)
    # New data of the same system: its first epoch is nearer to the last fit's end than to that one's beginning.
    assert abs(told[0].holdout_error - min(first)) < abs(told[0].holdout_error - first[0])


def test_members_see_the_data_in_orders_of_their_own():
    """Members that begin alike stay alike only if each step is of all data."""
    for batch_size, alike in ((1000, True), (32, False)):
        model = ensemble()
        model.load(model.arrays([0, 0, 0, 0]), (0, 1))
        config = FitConfig(batch_size=batch_size, max_epochs=1, weight_decay=(0.0,))
        fit(model, linear_record(300), config, np.random.default_rng(0))
        weights = model.arrays(range(4))["0.weight"]
        for other in weights[1:]:
            assert np.allclose(other, weights[0], atol=1e-5) == alike


def test_bounds_are_trained_if_asked_and_the_penalty_draws_them_together():
    data, widths = linear_record(300), []
    for changes in ({}, {"train_bounds": True, "bound_penalty": 1.0}):
        model = ensemble()
        fit(model, data, FitConfig(max_epochs=3, weight_decay=(0.0,), **changes), np.random.default_rng(0))
        widths.append(model.bound_width().item())
    assert widths[0] == pytest.approx(10.5 * 4 * (1 + NOBS))
    assert widths[1] < widths[0]


def test_the_same_seed_gives_the_same_fit():
    models = [ensemble(), ensemble()]
    for model in models:
        overfitting(model, weight_decay=(1e-4,), max_epochs=3)
    assert_same(everything(models[0]), everything(models[1]))


@settings(max_examples=50)
@given(n=st.integers(2, 300), run=st.integers(1, 40), share=st.floats(0.01, 0.9), seed=st.integers(0, 99))
def test_what_is_held_out_are_runs_of_the_share_asked_for(n, run, share, seed):
    config = FitConfig(holdout=share, holdout_run=run)
    split = dynamics_fit._split(n, config, np.random.default_rng(seed))
    everyone = np.concatenate((split.fitted, split.held))
    np.testing.assert_array_equal(np.sort(everyone), np.arange(n))
    assert 1 <= len(split.held) < n
    assert all((np.diff(one) == 1).all() and len(one) <= run for one in split.runs)
    assert abs(len(split.held) - share * n) <= run + 1


def constant(moves: list[float]) -> GaussianEnsemble:
    """Linear members that move the first entry by so much, whatever they see."""
    model = ensemble(members=len(moves), elites=len(moves), layers=0)
    arrays = everything(model)
    arrays["0.weight"][:] = arrays["0.bias"][:] = 0.0
    arrays["0.bias"][:, 0, 1] = moves
    model.load(arrays, range(len(moves)))
    return model


def test_errors_ahead_of_a_model_that_drifts():
    """The truth stands still: after h steps members are off by h times their move, in one of two entries."""
    found = horizon_error(constant([1.0, 3.0]), np.zeros((4, 6, NOBS)), np.zeros((4, 5, NU)), np.array([2.0, 5.0]))
    np.testing.assert_allclose(found, np.arange(1, 6) * np.sqrt((1.0 + 9.0) / 2.0 / 2.0) / 2.0, rtol=1e-5)
    # An entry that never moves has no scale, and no say.
    found = horizon_error(constant([1.0, 3.0]), np.zeros((4, 6, NOBS)), np.zeros((4, 5, NU)), np.array([2.0, 0.0]))
    np.testing.assert_allclose(found, np.arange(1, 6) * np.sqrt((1.0 + 9.0) / 2.0) / 2.0, rtol=1e-5)


def test_disagreement_is_the_deviation_of_the_members():
    """Nothing is learned at a rate of 1e-9: members move by 1 and 3, and their deviation is 1 in one entry of three."""
    data = linear_record(300)
    config = FitConfig(learning_rate=1e-9, max_steps=1, weight_decay=(0.0,), holdout_run=300, holdout=0.5)
    report = fit(constant([1.0, 3.0]), data, config, np.random.default_rng(0))
    change = data.next_observations - data.observations
    halves = [change[:150, 0].std(), change[150:, 0].std()]
    assert min(abs(report.disagreement * 3.0 * half - 1.0) for half in halves) < 1e-4


def test_errors_ahead_of_long_runs_are_told_as_far_as_of_short_ones():
    data = linear_record(300)
    config = FitConfig(learning_rate=1e-9, max_steps=1, weight_decay=(0.0,), holdout_run=100, holdout=0.5)
    drifting = constant([1.0, 3.0])
    report = fit(drifting, data, config, np.random.default_rng(0))
    assert report.held_out == 200 and len(report.horizon_error) == 8
    # Two of three runs of 100 are held out, each cut in twelve pieces of 8.
    found = []
    for runs in ((0, 100), (0, 200), (100, 200)):
        rows = np.concatenate([np.arange(first, first + 96).reshape(12, 8) for first in runs])
        observations = np.concatenate((data.observations[rows], data.next_observations[rows[:, -1:]]), axis=1)
        (kept,) = {0, 100, 200} - set(runs)
        scale = data.observations[kept : kept + 100].std(axis=0)
        found.append(horizon_error(drifting, observations, data.actions[rows], scale))
    assert any(np.allclose(one, report.horizon_error, rtol=1e-4) for one in found)


@pytest.mark.parametrize("run", [25, 50])
def test_what_is_held_out_are_whole_episodes_although_part_of_the_record_was_left_out(run):
    """Every third transition of the even episodes is missing, as those in which a goal was reached."""
    places = np.array([place for place in range(500) if place // 50 % 2 or place % 3])
    config = FitConfig(holdout=0.2, holdout_run=run)
    for seed in range(20):
        split = dynamics_fit._split(len(places), config, np.random.default_rng(seed), places)
        held, fitted = set(places[split.held] // run), set(places[split.fitted] // run)
        assert held and fitted and not held & fitted
        assert round(0.2 * len(places)) <= len(split.held) < round(0.2 * len(places)) + run
        assert sorted([*split.held, *split.fitted]) == list(range(len(places)))


class Twins(CartTask):
    """Two landmarks on a rail, seen from a cart that moves by its action; the reward is of the first."""

    def reward(self, obs, action, next_obs):
        return obs[..., 0] + 10.0 * next_obs[..., 0]

    def shuffled(self, obs, next_obs, rng):
        turned = rng.random(len(obs)) < 0.5
        before, after = (np.where(turned[:, None], values[:, ::-1], values) for values in (obs, next_obs))
        return before, after


def test_gradients_see_what_is_interchangeable_in_other_places_with_the_rewards_of_these(monkeypatch):
    task, rng = Twins(), np.random.default_rng(0)
    observations = rng.normal(0.0, 1.0, (300, 2))
    actions = rng.uniform(-1.0, 1.0, (300, 1))
    later = observations - actions
    data = Transitions(observations, actions, task.reward(observations, actions, later), later)
    config = FitConfig(max_epochs=6, weight_decay=(0.0,), shuffle=True)
    model, batches = ensemble(), []
    losses = []
    forward = type(model).forward

    def watched(self, inputs):
        if torch.is_grad_enabled():
            batches.append((inputs.numpy() * self.input_std + self.input_mean)[0])
        return forward(self, inputs)

    def watched_loss(mean, log_var, targets):
        losses.append(targets)
        return gaussian_loss(mean, log_var, targets)

    monkeypatch.setattr(type(model), "forward", watched)
    monkeypatch.setattr(dynamics_fit, "gaussian_loss", watched_loss)
    fit(model, data, config, np.random.default_rng(0), task=task)
    steps = [(seen, targets[0].numpy()) for seen, targets in zip(batches, losses, strict=True)]
    turned = 0
    for seen, targets in steps:
        row = np.abs(seen[:, None, 2:] - actions).sum(axis=2).argmin(axis=1)
        same = np.abs(seen[:, :2] - observations[row]).max(axis=1) < 1e-4
        other = np.abs(seen[:, :2] - observations[row][:, ::-1]).max(axis=1) < 1e-4
        assert (same | other).all()
        turned += other.sum()
        np.testing.assert_allclose(targets[:, 1:], -actions[row] * np.ones(2), atol=1e-4)
        np.testing.assert_allclose(targets[:, 0], seen[:, 0] + 10.0 * (seen[:, 0] - actions[row][:, 0]), atol=1e-3)
    assert 0.4 < turned / sum(len(seen) for seen, _ in steps) < 0.6
    with pytest.raises(ValueError, match="shuffle = True asks a task"):
        fit(model, data, config, np.random.default_rng(0))
    plain = ensemble(), ensemble()
    for one, told in zip(plain, (task, None), strict=True):
        fit(one, data, FitConfig(max_epochs=2, weight_decay=(0.0,)), np.random.default_rng(0), task=told)
    assert_same(everything(plain[0]), everything(plain[1]))


def test_no_errors_ahead_across_the_end_of_an_episode():
    """Only runs whose next observations are the following ones count; here no two are."""
    data = linear_record(300)
    broken = Transitions(data.observations, data.actions, data.rewards, data.next_observations + 1.0)
    config = FitConfig(max_epochs=1, weight_decay=(0.0,))
    assert fit(ensemble(), broken, config, np.random.default_rng(0)).horizon_error == ()
    assert len(fit(ensemble(), data, config, np.random.default_rng(0)).horizon_error) == 8


def changed(data: Transitions, name: str, row: int, value: float) -> Transitions:
    arrays = {word: getattr(data, word).copy() for word in ("observations", "actions", "rewards", "next_observations")}
    arrays[name][row] = value
    return Transitions(**arrays)


@pytest.mark.parametrize(
    ("name", "value"),
    [("observations", np.nan), ("actions", np.inf), ("rewards", -np.inf), ("next_observations", 1e39)],
)
def test_data_that_are_not_finite_are_refused_by_name(name, value):
    model = ensemble()
    before = everything(model)
    with pytest.raises(FitError, match=f"{name} contain .* at transition 7, expected finite float32"):
        fit(model, changed(linear_record(300), name, 7, value), FitConfig(), np.random.default_rng(0))
    assert_same(before, everything(model))


def test_too_little_data_and_other_sizes_are_refused():
    with pytest.raises(FitError, match="249 transitions are below min_transitions = 250"):
        fit(ensemble(), linear_record(249), FitConfig(), np.random.default_rng(0))
    data = linear_record(300)
    short = Transitions(data.observations, data.actions[:, :0], data.rewards, data.next_observations)
    with pytest.raises(FitError, match=r"actions have shape \(300, 0\), expected \(300, 1\)"):
        fit(ensemble(), short, FitConfig(), np.random.default_rng(0))
    with pytest.raises(ValueError, match="weight_decay has 5 entries, expected 1 or 2"):
        fit(ensemble(), data, FitConfig(), np.random.default_rng(0))


def test_a_fit_that_ends_in_no_number_is_undone_and_said():
    """Rewards whose squares are beyond float32."""
    model = ensemble()
    config = FitConfig(weight_decay=(0.0,), max_epochs=2)
    fit(model, linear_record(300), config, np.random.default_rng(0))
    before = everything(model)
    data = linear_record(300)
    huge = Transitions(data.observations, data.actions, data.rewards * 1e25, data.next_observations)
    with pytest.raises(FitError, match=r"undone: the hold-out error of members \[0, 1, 2, 3\] is not finite"):
        fit(model, huge, config, np.random.default_rng(0))
    assert_same(before, everything(model))


def test_a_fit_that_is_interrupted_is_undone():
    model = ensemble()
    before = everything(model)

    def interrupt(progress):
        if progress.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, linear_record(300), FitConfig(weight_decay=(0.0,)), np.random.default_rng(0), interrupt)
    assert_same(before, everything(model))
