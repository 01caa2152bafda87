"""The squashed Gaussian actor, and the policy that planners see."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from learning_fakes import CartTask

from polo_ros import tasks
from polo_ros.learning.actor import Actor, log_slope
from polo_ros.learning.actor_critic import (
    ActionRange,
    ActorCriticConfig,
    ActorPolicy,
    CriticFunction,
    input_gain,
    shapes,
)
from polo_ros.learning.critic import Critic
from polo_ros.learning.mlp import Adam, Mlp
from polo_ros.tasks.base import ObservationSpec

torch.set_num_threads(1)  # as the learner does: threads that spin on busy cores are a hundred times slower
SMALL = ActorCriticConfig(hidden=16)


def floats(rng, *shape):
    return torch.tensor(rng.standard_normal(shape), dtype=torch.float32)


def plain(net, x):
    """What a network is, written down for autograd: leaves, and outputs (K, B, nout)."""
    arrays = {name: torch.tensor(array, requires_grad=True) for name, array in net.arrays("net").items()}
    h = x if x.dim() == 3 else x.expand(net.members, -1, -1)
    layers = len(net.sizes) - 1
    for index in range(layers):
        h = h @ arrays[f"net.{index}.weight"] + arrays[f"net.{index}.bias"]
        if index < layers - 1:
            h = torch.relu(h)
    return arrays, h


def spread_out(actor, mean, log_std):
    """Make the actor's Gaussian the same at every observation."""
    biases = actor.net.arrays("net")
    for array in biases.values():
        array[:] = 0.0
    last = len(actor.net.sizes) - 2
    biases[f"net.{last}.bias"][0, 0] = [*mean, *log_std]
    actor.net.load(biases, "net")


@pytest.mark.parametrize("sizes", [(3, 8, 8, 1), (3, 8, 4), (2, 5, 5, 5, 1)])
def test_gradients_by_hand_are_those_of_autograd(sizes):
    rng = np.random.default_rng(0)
    net = Mlp(3, sizes, rng)
    x, weight = floats(rng, 7, sizes[0]), floats(rng, 3, 7, sizes[-1])
    leaf = x.clone().requires_grad_()
    arrays, expected = plain(net, leaf)
    torch.testing.assert_close(net.forward(x), expected.detach())
    torch.autograd.backward((expected * weight).sum())
    of_input = net.backward(weight, inputs=True)
    torch.testing.assert_close(of_input.sum(dim=0), leaf.grad)
    found = net.arrays("net", net.grad)
    for name, array in arrays.items():
        torch.testing.assert_close(torch.tensor(found[name]), array.grad, msg=name)


def test_adam_is_adam():
    rng = np.random.default_rng(1)
    theta, grad = floats(rng, 50), torch.zeros(50)
    expected = theta.clone().requires_grad_()
    adam, reference = Adam(theta, grad, 0.03), torch.optim.Adam([expected], lr=0.03)
    for _ in range(20):
        grad.copy_(floats(rng, 50))
        expected.grad = grad.clone()
        adam.step()
        reference.step()
    torch.testing.assert_close(theta, expected.detach(), rtol=1e-5, atol=1e-6)


def test_polyak_averaging_is_a_geometric_series():
    rng = np.random.default_rng(2)
    target, online = Mlp(2, (3, 4, 1), rng), Mlp(2, (3, 4, 1), rng)
    began = target.theta.clone()
    for _ in range(100):
        target.polyak_update(online, 0.02)
    left = 0.98**100
    torch.testing.assert_close(target.theta, left * began + (1.0 - left) * online.theta, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.8, -1.5), (-1.0, 0.4), (2.0, -0.5)])
def test_the_density_integrates_to_1_and_its_entropy_is_that_of_the_samples(mean, log_std):
    actor = Actor(SMALL, 1, 1, np.random.default_rng(0))
    spread_out(actor, [mean], [log_std])
    # Points a = tanh(u) for equidistant u, so that the tails count: da = (1 - a^2) du.
    u = torch.linspace(-9.0, 9.0, 20_001, dtype=torch.float64)
    actions = torch.tanh(u)
    inside = (actions.abs() < 1.0 - 1e-6).numpy()
    zeros = torch.zeros(len(u), 1)
    density = actor.log_prob(zeros, actions.float()[:, None]).double().exp().numpy()
    width = (torch.exp(log_slope(u)) * (u[1] - u[0])).numpy()
    assert (density * width)[inside].sum() == pytest.approx(1.0, abs=5e-4)
    entropy = -(density * np.log(np.maximum(density, 1e-300)) * width)[inside].sum()
    noise = torch.tensor(np.random.default_rng(1).standard_normal((len(u), 1)), dtype=torch.float32)
    _, log_probs = actor.sample(zeros, noise)
    error = float(log_probs.std()) / math.sqrt(len(u))
    assert float(-log_probs.mean()) == pytest.approx(entropy, abs=5.0 * error + 5e-3)


def test_the_log_probability_is_the_change_of_variables():
    rng = np.random.default_rng(3)
    actor = Actor(SMALL, 4, 3, rng)
    observations, noise = floats(rng, 50, 4), floats(rng, 50, 3)
    actions, log_probs = actor.sample(observations, noise)
    mean, log_std = (part.double() for part in actor.gaussian(observations))
    u = mean + log_std.exp() * noise.double()
    normal = torch.distributions.Normal(mean, log_std.exp()).log_prob(u)
    expected = (normal - torch.log1p(-(torch.tanh(u) ** 2))).sum(dim=1)
    torch.testing.assert_close(actions.double(), torch.tanh(u), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(log_probs.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(actor.log_prob(observations, actions), log_probs, rtol=1e-3, atol=1e-3)


def test_the_correction_for_tanh_is_finite_where_tanh_is_1():
    u = torch.tensor([-60.0, -20.0, 0.0, 20.0, 60.0])
    far = [math.log(4.0) - 2.0 * size for size in (60.0, 20.0)]
    expected = torch.tensor([far[0], far[1], 0.0, far[1], far[0]])
    torch.testing.assert_close(log_slope(u), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("log_std", [-1.0, -30.0, 5.0])
def test_the_actors_gradient_is_that_of_autograd(log_std):
    """Of a loss in actions and log-probabilities; beyond the bounds of log std its gradient is 0."""
    rng = np.random.default_rng(4)
    actor = Actor(SMALL, 4, 2, rng)
    shifted = actor.net.arrays("net")
    shifted["net.2.bias"][0, 0, 2:] += log_std
    actor.net.load(shifted, "net")
    observations, noise, of_action = floats(rng, 9, 4), floats(rng, 9, 2), floats(rng, 9, 2)
    arrays, out = plain(actor.net, observations)
    mean, raw = out[0].split(2, dim=1)
    std = raw.clamp(-20.0, 2.0).exp()
    u = mean + std * noise
    # The Gaussian's density at mean + std noise is that of the noise over std.
    log_probs = (-0.5 * noise**2 - raw.clamp(-20.0, 2.0) - 0.5 * math.log(2 * math.pi)).sum(1)
    log_probs = log_probs - log_slope(u).sum(1)
    torch.autograd.backward((torch.tanh(u) * of_action).sum() + 0.3 * log_probs.sum())
    found_actions, found_log_probs = actor.sample(observations, noise)
    torch.testing.assert_close(found_actions, torch.tanh(u).detach())
    torch.testing.assert_close(found_log_probs, log_probs.detach())
    actor.backward(of_action, 0.3)
    found = actor.net.arrays("net", actor.net.grad)
    for name, array in arrays.items():
        torch.testing.assert_close(torch.tensor(found[name]), array.grad, rtol=1e-4, atol=1e-5, msg=name)


# ---- as planners see it --------------------------------------------------------------------


class WideTask(CartTask):
    """Controls -0.1 .. 0.7: neither symmetric nor numbers of single precision."""

    def __init__(self):
        super().__init__()
        self.model.actuator_ctrlrange[:] = (-0.1, 0.7)


def learned(task, config=SMALL, seed=0):
    rng = np.random.default_rng(seed)
    nobs, nu = task.observation_spec.size, task.model.nu
    actor, critic = Actor(config, nobs, nu, rng), Critic(config, nobs, nu, rng)
    arrays = {**actor.net.arrays("actor"), **critic.net.arrays("critic")}
    assert {name: array.shape for name, array in arrays.items()} == dict(shapes(config, nobs, nu))
    return actor, critic, arrays


def test_the_policy_is_the_actor_in_the_robots_units():
    task = WideTask()
    actor, _, arrays = learned(task)
    policy = ActorPolicy(task, SMALL, arrays)
    observations = np.random.default_rng(1).standard_normal((1300, 2))
    mean, log_std = actor.gaussian(torch.tensor(observations, dtype=torch.float32))
    np.testing.assert_allclose(policy.mean(observations), 0.3 + 0.4 * np.tanh(mean.numpy()), atol=1e-6)
    noise = np.random.default_rng(2).standard_normal((1300, 1), dtype=np.float32)
    expected = 0.3 + 0.4 * np.tanh(mean.numpy() + np.exp(log_std.numpy()) * noise)
    np.testing.assert_allclose(policy.sample(observations, np.random.default_rng(2)), expected, atol=1e-6)


def test_policy_and_critics_take_any_batch_and_one_by_one_is_the_same():
    task = tasks.make("point_mass_box")
    _, _, arrays = learned(task)
    policy, critics = ActorPolicy(task, SMALL, arrays), CriticFunction(task, SMALL, arrays)
    observations = np.random.default_rng(1).standard_normal((3, 5, task.observation_spec.size))
    actions = policy.mean(observations)
    assert actions.shape == (3, 5, task.model.nu) and actions.dtype == np.float64
    values = critics.values(observations, actions)
    assert values.shape == (3, 5)
    one = np.array([[policy.mean(obs) for obs in row] for row in observations])
    np.testing.assert_allclose(one, actions, atol=1e-6)
    np.testing.assert_allclose(critics.values(observations[1, 2], actions[1, 2]), values[1, 2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reduction", ["min", "mean", "first"])
def test_critics_in_the_robots_units_are_those_that_learn(reduction):
    task = WideTask()
    config = replace(SMALL, critics=3)
    _, critic, arrays = learned(task, config)
    rng = np.random.default_rng(1)
    observations, actions = rng.standard_normal((700, 2)), rng.uniform(-0.1, 0.7, (700, 1))
    inputs = np.concatenate([observations, (actions - 0.3) / 0.4], axis=1)
    members = critic.members(torch.tensor(inputs, dtype=torch.float32)).numpy()
    expected = {"min": members.min(axis=0), "mean": members.mean(axis=0), "first": members[0]}[reduction]
    found = CriticFunction(task, config, arrays, reduction).values(observations, actions)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_an_unknown_reduction_and_wrong_sizes_are_named():
    task = WideTask()
    _, _, arrays = learned(task)
    with pytest.raises(ValueError, match="unknown reduction 'max'; reductions: min, mean, first"):
        CriticFunction(task, SMALL, arrays, "max")
    with pytest.raises(ValueError, match="observation has 3 entries, expected 2"):
        ActorPolicy(task, SMALL, arrays).mean(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="action has 2 entries, expected 1"):
        CriticFunction(task, SMALL, arrays).values(np.zeros((4, 2)), np.zeros((4, 2)))


def test_actions_never_leave_the_range_however_far_the_actor_goes():
    task = WideTask()
    actor, _, arrays = learned(task)
    rng = np.random.default_rng(5)
    for mean, log_std in ((40.0, 2.0), (-40.0, 2.0), (0.0, 5.0), (1e30, -20.0)):
        arrays["actor.2.bias"][0, 0] = mean, log_std
        policy = ActorPolicy(task, SMALL, arrays)
        for actions in (policy.mean(np.zeros((50, 2))), policy.sample(rng.standard_normal((5000, 2)), rng)):
            assert (actions >= -0.1).all() and (actions <= 0.7).all()


def test_an_actuator_without_a_range_has_one_of_1():
    task = CartTask()
    task.model.actuator_ctrllimited[:] = 0
    both = ActionRange(task)
    np.testing.assert_array_equal(both.physical(np.array([[-1.0], [0.5], [2.0]])), [[-1.0], [0.5], [1.0]])
    np.testing.assert_array_equal(both.normalise(np.array([[0.5]])), [[0.5]])


def test_what_is_no_input_changes_nothing_and_scales_divide():
    task = WideTask()
    task.observation_spec = ObservationSpec((("position", 1), ("velocity", 1)), scales=(("velocity", 4.0),))
    np.testing.assert_allclose(input_gain(task), [1.0, 0.25])
    np.testing.assert_allclose(input_gain(task, "velocity"), [0.0, 0.25])
    task.added = ("position",)
    np.testing.assert_allclose(input_gain(task), [0.0, 0.25])
    np.testing.assert_allclose(input_gain(task, "position,velocity"), [1.0, 0.25])
    actor, _, arrays = learned(task)
    policy = ActorPolicy(task, SMALL, arrays)
    np.testing.assert_array_equal(policy.mean(np.array([[0.0, 1.0]])), policy.mean(np.array([[9.0, 1.0]])))
    expected = actor.gaussian(torch.tensor([[0.0, 0.25]]))[0].numpy()
    np.testing.assert_allclose(policy.mean(np.array([[9.0, 1.0]])), 0.3 + 0.4 * np.tanh(expected), atol=1e-6)
    with pytest.raises(ValueError, match="unknown observation group 'speed'"):
        input_gain(task, "speed")
