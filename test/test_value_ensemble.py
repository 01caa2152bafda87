"""Eq. 5: the randomised-prior ensemble, and its numpy face."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from polo_ros.learning.optimism import log_sum_exp
from polo_ros.learning.value_ensemble import (
    ValueConfig,
    ValueEnsemble,
    ValueFunction,
    gate_weight,
    regression_loss,
    shapes,
)
from polo_ros.learning.weights import Weights, WeightsError, decode


def ensemble(config: ValueConfig, nobs: int = 3, scale: float = 1.0, seed: int = 0) -> ValueEnsemble:
    return ValueEnsemble(config, nobs, scale, np.random.default_rng(seed))


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(array, dtype=torch.float32)


def fit(model: ValueEnsemble, inputs: np.ndarray, noisy: np.ndarray, iterations: int = 10) -> None:
    """Minimise eq. 5 over all data (n, nobs) with noisy targets (K, n)."""
    torch.set_num_threads(1)
    z, goal = model.normalise(tensor(inputs)), tensor(noisy)
    prior = model.prior(z)
    optimiser = torch.optim.LBFGS(
        model.parameters(),
        max_iter=iterations,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss, _ = regression_loss(model.learned(z) + prior, goal, model.penalty(), model.config, len(inputs))
        torch.autograd.backward(loss)
        return loss

    optimiser.step(closure)


def test_linear_members_are_samples_of_the_closed_form_posterior() -> None:
    """Bayesian linear regression: y = w x + b + noise, w ~ N(0, lambda / nobs), b ~ N(0, lambda)."""
    rng = np.random.default_rng(1)
    nobs, n, members = 2, 7, 6000
    config = ValueConfig(members=members, layers=0, sigma=0.4, prior_variance=0.6)
    inputs, queries = rng.normal(size=(n, nobs)), rng.normal(size=(5, nobs)) * 2.0
    y = inputs @ [0.8, -0.3] + 0.5 + 0.4 * rng.normal(size=n)

    model = ensemble(config, nobs, seed=2)
    fit(model, inputs, y + config.sigma * rng.normal(size=(members, n)), 200)
    values = model(tensor(queries)).detach().numpy().astype(float)  # (K, 5)

    design, at = (np.column_stack([x, np.ones(len(x))]) for x in (inputs, queries))
    precision = design.T @ design / config.sigma**2 + np.diag(
        [nobs / config.prior_variance] * nobs + [1 / config.prior_variance]
    )
    covariance = at @ np.linalg.inv(precision) @ at.T
    mean = at @ np.linalg.solve(precision, design.T @ y / config.sigma**2)

    deviation = np.sqrt(np.diag(covariance))
    # Five standard errors of Monte-Carlo means and covariances of Gaussians.
    np.testing.assert_array_less(np.abs(values.mean(axis=0) - mean), 5.0 * deviation / np.sqrt(members))
    error = np.sqrt((np.outer(deviation, deviation) ** 2 + covariance**2) / members)
    np.testing.assert_array_less(np.abs(np.cov(values.T) - covariance), 5.0 * error)


def test_without_data_the_values_are_samples_of_the_prior() -> None:
    config = ValueConfig(members=6000, layers=0, prior_variance=0.6)
    query = np.array([[1.0, -2.0]])
    values = ensemble(config, 2)(tensor(query)).detach().numpy()[:, 0]
    variance = 0.6 * (5.0 / 2.0 + 1.0)
    assert abs(values.mean()) < 5.0 * np.sqrt(variance / 6000)
    assert abs(values.var() - variance) < 5.0 * variance * np.sqrt(2.0 / 6000)


def test_minibatch_losses_average_to_the_loss_over_all_data() -> None:
    config = ValueConfig(members=4, hidden=5, sigma=0.7, prior_variance=0.3)
    model = ensemble(config)
    rng = np.random.default_rng(0)
    predictions, goal = tensor(rng.normal(size=(4, 12))), tensor(rng.normal(size=(4, 12)))
    whole, error = regression_loss(predictions, goal, model.penalty(), config, 12)
    parts = [
        regression_loss(predictions[:, i : i + 3], goal[:, i : i + 3], model.penalty(), config, 12)
        for i in range(0, 12, 3)
    ]
    torch.testing.assert_close(torch.stack([loss for loss, _ in parts]).mean(), whole)
    torch.testing.assert_close(torch.stack([part for _, part in parts]).mean(), error)
    # Times the number of data it is eq. 5, summed over the members.
    squares = (predictions - goal).square().sum()
    torch.testing.assert_close(12 * whole, squares + 0.7**2 / 0.3 * model.penalty().sum())


def test_members_disagree_less_where_there_is_data() -> None:
    config = ValueConfig(members=12, hidden=16, sigma=0.05)
    rng = np.random.default_rng(3)
    model = ensemble(config, 1, seed=4)
    inputs = rng.uniform(-0.5, 0.5, size=(40, 1))
    fit(model, inputs, np.sin(inputs[:, 0]) + config.sigma * rng.normal(size=(12, 40)), 60)
    near, far = model(tensor([[0.2]])).std(), model(tensor([[4.0]])).std()
    assert near < 0.15
    assert far > 3.0 * near


def test_priors_are_frozen_and_an_untrained_value_is_its_prior() -> None:
    model = ensemble(ValueConfig(prior_scale=0.5), scale=10.0)
    obs = tensor(np.random.default_rng(0).normal(size=(9, 3)))
    prior = model.prior(model.normalise(obs))
    torch.testing.assert_close(model(obs), 10.0 * prior)
    fit(model, obs.numpy(), np.ones((6, 9)))
    assert torch.equal(model.prior(model.normalise(obs)), prior)
    assert not torch.allclose(model(obs), 10.0 * prior)


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_numpy_and_torch_agree_on_the_same_weights(layers: int) -> None:
    config = ValueConfig(layers=layers, prior_scale=0.7)
    rng = np.random.default_rng(layers)
    model = ensemble(config, 5, 100.0)
    model.set_statistics(rng.normal(size=5), rng.uniform(0.5, 2.0, 5), np.full(5, -3.0), np.full(5, 3.0))
    obs = rng.normal(size=(2500, 5))
    fit(model, obs[:50], rng.normal(size=(6, 50)))
    value = ValueFunction(config, model.arrays())
    np.testing.assert_allclose(value.values(obs), model(tensor(obs)).detach().numpy(), rtol=1e-3, atol=2e-3)


def test_weights_survive_the_wire_and_a_reload() -> None:
    config = ValueConfig()
    model = ensemble(config, 5)
    model.set_statistics(np.ones(5), np.full(5, 2.0), np.zeros(5), np.ones(5))
    data = Weights("value_ensemble", "cart", "h", 1, 16, model.arrays()).encode()
    arrays = decode(data, shapes(config, 5))
    other = ensemble(config, 5, seed=9)
    other.load(arrays)
    obs = tensor(np.random.default_rng(0).normal(size=(9, 5)))
    assert torch.equal(other(obs), model(obs))


def test_values_take_any_batch_shape_whole_or_in_chunks() -> None:
    value = ValueFunction(ValueConfig(), ensemble(ValueConfig(), 4).arrays())
    obs = np.random.default_rng(0).normal(size=(7, 400, 4))
    whole = value.values(obs)
    assert whole.shape == (6, 7, 400)
    assert whole.dtype == np.float32
    assert value(obs).shape == (7, 400)
    np.testing.assert_allclose(value.values(obs[3, 11]), whole[:, 3, 11], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(value.values(obs[:, -1]), whole[:, :, -1], rtol=1e-5, atol=1e-6)
    assert value.values(obs[:0]).shape == (6, 0, 400)


def test_values_of_an_earlier_call_are_not_overwritten_by_a_later_one() -> None:
    value = ValueFunction(ValueConfig(), ensemble(ValueConfig(), 4).arrays())
    first = value.values(np.zeros((3, 4)))
    kept = first.copy()
    value.values(np.ones((3, 4)))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("convention", ["normalised", "printed"])
def test_optimistic_value_is_eq_6_in_value_scales(convention: str) -> None:
    config = ValueConfig(kappa=3.0, convention=convention)
    value = ValueFunction(config, ensemble(config, 4, 50.0).arrays())
    obs = np.random.default_rng(0).normal(size=(8, 4))
    expected = 50.0 * log_sum_exp(value.values(obs).astype(float) / 50.0, 3.0, convention)
    np.testing.assert_allclose(value(obs), expected, rtol=1e-4)
    np.testing.assert_allclose(value.estimate(obs).value, expected, rtol=1e-4)


def test_observations_of_another_size_are_refused() -> None:
    value = ValueFunction(ValueConfig(), ensemble(ValueConfig(), 4).arrays())
    with pytest.raises(ValueError, match="observation has 5 entries, expected 4"):
        value(np.zeros((2, 5)))


@pytest.mark.parametrize(("name", "number"), [("obs_std", 0.0), ("obs_std", -1.0), ("value_scale", 0.0)])
def test_weights_without_a_scale_are_refused(name: str, number: float) -> None:
    arrays = ensemble(ValueConfig(), 4).arrays()
    arrays[name][0] = number
    with pytest.raises(WeightsError, match=f"'{name}' contain {number}, expected values above 0"):
        ValueFunction(ValueConfig(), arrays)


def test_weights_with_an_upside_down_range_are_refused() -> None:
    arrays = ensemble(ValueConfig(), 4).arrays()
    arrays["data_low"][2] = 1.0
    with pytest.raises(WeightsError, match="'data_low' are above 'data_high'"):
        ValueFunction(ValueConfig(), arrays)


def test_gate_is_half_at_its_spread_and_falls_with_it() -> None:
    assert gate_weight("spread", 0.0, 0.25) == 1.0
    assert gate_weight("spread", 0.25, 0.25) == 0.5
    assert gate_weight("spread", 0.75, 0.25) == pytest.approx(0.1)
    assert gate_weight("spread", 0.25, 0.25, outside=0.4) == pytest.approx(0.3)
    assert gate_weight("spread", float("nan"), 0.25) == 0.0
    assert gate_weight("none", 1e9, 0.25, outside=1.0) == 1.0
    with pytest.raises(ValueError, match="unknown gate 'open'; gates: none, spread"):
        gate_weight("open", 0.0, 1.0)


def test_estimate_names_the_spread_in_reward_units_and_gates_by_it_and_by_distance_from_data() -> None:
    config = ValueConfig(gate="spread", gate_spread=0.5, gate_margin=1.0)
    model = ensemble(config, 2, 20.0)
    model.set_statistics(np.zeros(2), np.ones(2), np.full(2, -1.0), np.full(2, 1.0))
    value = ValueFunction(config, model.arrays())
    obs = np.array([[0.0, 0.0], [1.9, -1.9], [2.1, 0.0], [0.0, -9.0]])
    spread = value.values(obs).std(axis=0).mean()
    estimate = value.estimate(obs)
    assert estimate.spread == pytest.approx(spread, rel=1e-4)
    assert estimate.gate == pytest.approx(0.5 / (1.0 + (spread / 20.0 / 0.5) ** 2), rel=1e-4)
    assert ValueFunction(ValueConfig(gate="none"), model.arrays()).estimate(obs).gate == 1.0


def test_a_diverged_candidate_has_no_say_in_the_gate() -> None:
    config = ValueConfig()
    model = ensemble(config, 2)
    model.set_statistics(np.zeros(2), np.ones(2), np.full(2, -9.0), np.full(2, 9.0))
    value = ValueFunction(config, model.arrays())
    good = np.random.default_rng(0).normal(size=(4, 2))
    alone, mixed = value.estimate(good), value.estimate(np.vstack([good, [[np.nan, 0.0]]]))
    assert mixed.gate == pytest.approx(alone.gate, rel=1e-5)
    assert mixed.spread == pytest.approx(alone.spread, rel=1e-5)
    np.testing.assert_allclose(mixed.value[:4], alone.value, rtol=1e-4)
    assert not np.isfinite(mixed.value[4])
    nothing = value.estimate(np.full((3, 2), np.nan))
    assert (nothing.gate, nothing.spread) == (0.0, 0.0)


def test_value_scale_is_what_a_reward_of_one_is_worth() -> None:
    assert ValueConfig().value_scale(0.99) == pytest.approx(100.0)
    assert ValueConfig(scale=7.0).value_scale(1.0) == 7.0
    with pytest.raises(ValueError, match=r"discount = 1.0 gives no value scale"):
        ValueConfig().value_scale(1.0)


def test_planners_use_values_without_torch() -> None:
    modules = "value_function", "learner_config", "target_config", "weights"
    imports = ", ".join(f"polo_ros.learning.{module}" for module in modules)
    code = f"import sys, {imports}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
