"""The dynamics ensemble's networks, bounds and likelihood, against closed forms."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from polo_ros.dynamics.ensemble_config import EnsembleConfig, PredictionConfig, layer_sizes, shapes
from polo_ros.learning.gaussian_ensemble import KIND, GaussianEnsemble, bounded, gaussian_loss, truncated_normal
from polo_ros.learning.weights import Weights, WeightsError, decode

NOBS, NU = 3, 2
SMALL = EnsembleConfig(members=4, elites=2, hidden=8, layers=2)


def ensemble(config: EnsembleConfig = SMALL, seed: int = 0, used=None) -> GaussianEnsemble:
    return GaussianEnsemble(config, NOBS, NU, np.random.default_rng(seed), used)


def test_defaults_are_those_of_loop():
    config, prediction = EnsembleConfig(), PredictionConfig()
    assert (config.members, config.elites, config.hidden, config.layers) == (7, 5, 200, 4)
    assert (config.log_var_max, config.log_var_min) == (0.5, -10.0)
    assert (prediction.propagation, prediction.particles) == ("tsinf", 4 * 5)


@pytest.mark.parametrize("changes", [{"log_var_min": -1.0, "log_var_max": -1.0}, {"elites": 0}, {"hidden": 0}])
def test_settings_that_cannot_be_are_refused(changes):
    with pytest.raises(ValueError, match=r"log_var_min = -1.0 is not below|elites = 0|hidden = 0"):
        EnsembleConfig(**changes)


def test_there_are_no_more_elites_than_members():
    assert (EnsembleConfig(members=2).used, EnsembleConfig().used) == (2, 5)


@given(
    raw=st.floats(-60.0, 60.0),
    low=st.floats(-12.0, -1.0),
    width=st.floats(1.0, 12.0),
)
def test_the_bounded_log_variance_is_its_closed_form(raw, low, width):
    """Two softplus, one after the other; and the variance that they make."""
    high = low + width
    value, bottom, top = (torch.tensor([x], dtype=torch.float64) for x in (raw, low, high))
    found = bounded(value, bottom, top).item()
    once = high - np.logaddexp(0.0, high - raw)
    assert found == pytest.approx(
        low + np.logaddexp(0.0, once - low), abs=1e-7
    )  # torch's softplus is linear from 20 on
    assert np.exp(found) == pytest.approx(np.exp(low) + np.exp(high) * special.expit(raw - high), rel=1e-7)
    assert low <= found <= np.logaddexp(low, high) + 1e-7


def test_the_loss_is_twice_the_negative_log_likelihood_less_a_constant():
    rng = np.random.default_rng(1)
    mean, log_var, targets = rng.normal(size=(3, 4, 10, 5))
    expected = -2.0 * stats.norm.logpdf(targets, mean, np.exp(0.5 * log_var)).mean(axis=(1, 2)) - np.log(2.0 * np.pi)
    found = gaussian_loss(*(torch.tensor(x) for x in (mean, log_var, targets)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_starting_weights_are_truncated_normals():
    drawn = truncated_normal(np.random.default_rng(2), (200, 200))
    assert np.abs(drawn).max() <= 2.0
    # 40 000 independent numbers: a Kolmogorov-Smirnov test that holds with a probability of 0.999.
    assert stats.kstest(drawn.ravel(), stats.truncnorm(-2.0, 2.0).cdf).pvalue > 1e-3
    arrays = ensemble().arrays(range(4))
    for index, (inputs, _) in enumerate(layer_sizes(SMALL, NOBS, NU)):
        assert np.abs(arrays[f"{index}.weight"]).max() <= 2.0 / (2.0 * np.sqrt(inputs))
        assert not arrays[f"{index}.bias"].any()


def by_hand(model: GaussianEnsemble, member: int, observation: np.ndarray, action: np.ndarray):
    """One member at one input, in double: mean and variance of [reward, change]."""
    arrays = {name: array.astype(float) for name, array in model.arrays(range(model.config.members)).items()}
    h = (np.concatenate((observation, action)) - arrays["input_mean"]) / arrays["input_std"]
    for index in range(model.config.layers + 1):
        h = h @ arrays[f"{index}.weight"][member] + arrays[f"{index}.bias"][member, 0]
        if index < model.config.layers:
            h = h * special.expit(h)
    mean, raw = np.split(h, 2)
    high, low = (arrays[f"log_var_{end}"][member, 0] for end in ("max", "min"))
    return mean, np.exp(low) + np.exp(high) * special.expit(raw - high)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_all_members_at_once_are_one_member_at_a_time(layers):
    rng = np.random.default_rng(3)
    model = ensemble(EnsembleConfig(members=4, elites=2, hidden=6, layers=layers))
    model.set_statistics(rng.normal(5.0, 3.0, (50, NOBS + NU)))
    observations, actions = rng.normal(size=(9, NOBS)), rng.normal(size=(9, NU))
    mean, variance = model.predict(observations, actions)
    assert mean.shape == variance.shape == (4, 9, 1 + NOBS)
    for member in range(4):
        for row in range(9):
            expected = by_hand(model, member, observations[row], actions[row])
            np.testing.assert_allclose(mean[member, row], expected[0], rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(variance[member, row], expected[1], rtol=1e-4)


def test_each_member_may_have_inputs_of_its_own():
    rng = np.random.default_rng(4)
    model = ensemble()
    observations, actions = rng.normal(size=(4, 6, NOBS)), rng.normal(size=(4, 6, NU))
    mean, _ = model.predict(observations, actions)
    for member in range(4):
        alone, _ = model.predict(observations[member], actions[member])
        np.testing.assert_allclose(mean[member], alone[member], rtol=1e-5, atol=1e-7)


def test_statistics_are_taken_in_double_and_entries_that_stand_still_keep_their_unit():
    rng = np.random.default_rng(5)
    inputs = np.empty((1000, NOBS + NU))
    inputs[:, 0] = 1e6 + 10.0 * rng.normal(size=1000)  # squares would not fit into float32
    inputs[:, 1] = 3.0 + 1e-9 * rng.normal(size=1000)  # float32 cannot tell these apart
    inputs[:, 2] = 1e-7 * rng.normal(size=1000)  # small, but it moves
    inputs[:, 3:] = rng.normal(size=(1000, NU))
    model = ensemble()
    model.set_statistics(inputs)
    np.testing.assert_allclose(model.input_std[[0, 2]], inputs.std(axis=0)[[0, 2]], rtol=1e-6)
    assert model.input_std[1] == 1.0
    np.testing.assert_allclose(model.input_mean[0], inputs[:, 0].mean(), rtol=1e-6)


def test_what_is_no_input_changes_no_prediction():
    rng = np.random.default_rng(6)
    model = ensemble(used=np.array([True, False, True]))
    model.set_statistics(rng.normal(size=(100, NOBS + NU)))
    observations, actions = rng.normal(size=(5, NOBS)), rng.normal(size=(5, NU))
    before, _ = model.predict(observations, actions)
    observations[:, 1] += 100.0
    after, _ = model.predict(observations, actions)
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_weight_decay_is_the_gradient_of_half_the_squares():
    """Of each layer its own; biases and bounds have none."""
    decay = (0.1, 0.2, 0.3)
    model, other = ensemble(), ensemble()
    optimiser = torch.optim.SGD(model.parameter_groups(decay, train_bounds=True), lr=1.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    weights = [parameter for name, parameter in other.named_parameters() if "weight" in name]
    loss = sum(0.5 * factor * weight.square().sum() for factor, weight in zip(decay, weights, strict=True))
    torch.autograd.backward(loss)
    for name, after in model.named_parameters():
        start = dict(other.named_parameters())[name]
        step = torch.zeros_like(start) if start.grad is None else start.grad
        torch.testing.assert_close(after, start - step)
    with pytest.raises(ValueError, match="weight_decay has 2 entries, expected 1 or 3"):
        model.parameter_groups((0.1, 0.2), train_bounds=False)


def test_bounds_are_trained_only_if_asked():
    model = ensemble()
    for train in (True, False):
        groups = model.parameter_groups((0.0,), train_bounds=train)
        trained = {id(parameter) for group in groups for parameter in group["params"]}
        assert (id(model.log_var_max) in trained) == (id(model.log_var_min) in trained) == train
        assert model.log_var_max.requires_grad == train
    assert model.bound_width().item() == pytest.approx(10.5 * 4 * (1 + NOBS))


@settings(max_examples=10)
@given(elites=st.permutations(range(4)))
def test_weights_are_the_elites_best_first_and_pass_through_safetensors(elites):
    model = ensemble(seed=7)
    model.elites = tuple(elites[:2])
    data = Weights(KIND, "cart", "0" * 16, 1, 0, model.arrays()).encode()
    arrays = decode(data, shapes(SMALL, NOBS, NU))
    everyone = model.arrays(range(4))
    for name in ("0.weight", "2.bias", "log_var_max"):
        np.testing.assert_array_equal(arrays[name], everyone[name][list(model.elites)])
    with pytest.raises(WeightsError, match=r"'0.weight' have shape \(2, 5, 8\), expected \(4, 5, 8\)"):
        decode(data, shapes(SMALL, NOBS, NU, members=4))
    # All of them restore an ensemble.
    other = ensemble(seed=8)
    other.load(decode(Weights(KIND, "cart", "", 1, 0, everyone).encode(), shapes(SMALL, NOBS, NU, 4)), model.elites)
    assert other.elites == model.elites
    point = np.ones((1, NOBS)), np.ones((1, NU))
    np.testing.assert_array_equal(other.predict(*point), model.predict(*point))


def test_settings_and_shapes_need_no_torch():
    modules = "polo_ros.dynamics.base, polo_ros.dynamics.ensemble_config, polo_ros.learning.fit_config"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
