"""Soft actor-critic: its gradients, and a problem whose soft optimum is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from polo_ros.learning.actor_critic import ActorCriticConfig
from polo_ros.learning.sac import Batch, Sac, SacConfig

torch.set_num_threads(1)  # as the learner does: threads that spin on busy cores are a hundred times slower
SMALL = ActorCriticConfig(hidden=32)


def floats(rng, *shape):
    return torch.tensor(rng.standard_normal(shape), dtype=torch.float32)


def random_batch(rng, nobs=3, nu=2, size=20):
    inputs = torch.cat((floats(rng, size, nobs), floats(rng, size, nu).tanh()), dim=1)
    return Batch(inputs, floats(rng, size), floats(rng, size, nobs), torch.tensor(rng.integers(2, size=size)).float())


def network(arrays, part, x):
    h = x
    layers = sum(name.startswith(part) and name.endswith("weight") for name in arrays)
    for index in range(layers):
        h = h @ arrays[f"{part}.{index}.weight"] + arrays[f"{part}.{index}.bias"]
        h = torch.relu(h) if index < layers - 1 else h
    return h


def drawn(arrays, observations, noise):
    """Actions and log-probabilities, as torch.distributions has them."""
    mean, log_std = network(arrays, "actor", observations)[0].chunk(2, dim=1)
    gaussian = torch.distributions.Normal(mean, log_std.clamp(-20.0, 2.0).exp())
    u = mean + gaussian.scale * noise
    return torch.tanh(u), (gaussian.log_prob(u) - torch.log1p(-(torch.tanh(u) ** 2))).sum(dim=1)


@pytest.mark.parametrize("actor_value", ["min", "mean"])
def test_a_step_is_that_of_autograd_and_torchs_adam(actor_value):
    """Two whole steps of critics, actor, temperature and targets, written down with autograd in double precision."""
    rng = np.random.default_rng(0)
    config = SacConfig(temperature=0.4, target_share=0.1, actor_value=actor_value)
    sac = Sac(SMALL, config, 3, 2, 0.9, rng)

    def leaves(prefix, net):
        return {n: torch.tensor(a, dtype=torch.float64, requires_grad=True) for n, a in net.arrays(prefix).items()}

    actor, critic = leaves("actor", sac.actor.net), leaves("critic", sac.critic.net)
    target = {name: array.detach().clone() for name, array in critic.items()}
    log_alpha = torch.tensor(math.log(0.4), dtype=torch.float64, requires_grad=True)
    adams = [torch.optim.Adam(part, lr=1e-3) for part in (list(actor.values()), list(critic.values()), [log_alpha])]

    def descend(index, loss, parameters):
        adams[index].zero_grad()
        for parameter, grad in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = grad
        adams[index].step()

    for _ in range(2):
        batch, noise = random_batch(rng), floats(rng, 2, 20, 2)
        found = sac.step(batch, noise)
        inputs, reward, after, not_terminal = (
            part.double() for part in (batch.inputs, batch.reward, batch.next_observation, batch.not_terminal)
        )
        alpha = float(log_alpha.detach().exp())
        with torch.no_grad():
            action, log_prob = drawn(actor, after, noise[0].double())
            ahead = network(target, "critic", torch.cat((after, action), dim=1))[..., 0].amin(dim=0)
            targets = reward + 0.9 * not_terminal * (ahead - alpha * log_prob)
        errors = network(critic, "critic", inputs)[..., 0] - targets
        descend(1, errors.square().mean(dim=1).sum(), list(critic.values()))
        action, log_prob = drawn(actor, inputs[:, :3], noise[1].double())
        values = network(critic, "critic", torch.cat((inputs[:, :3], action), dim=1))[..., 0]
        value = values.amin(dim=0) if actor_value == "min" else values.mean(dim=0)
        loss = (alpha * log_prob - value).mean()
        descend(0, loss, list(actor.values()))
        descend(2, -log_alpha * (log_prob.detach() - 2.0).mean(), [log_alpha])
        for name in target:
            target[name] += 0.1 * (critic[name].detach() - target[name])
        expected = (errors.square().mean(), loss, targets.mean(), -log_prob.mean(), alpha)
        got = (found.critic, found.actor, found.value, found.entropy, found.temperature)
        np.testing.assert_allclose(got, [float(torch.as_tensor(x).detach()) for x in expected], rtol=1e-3, atol=1e-4)

    assert float(sac.log_temperature) == pytest.approx(float(log_alpha.detach()), abs=1e-5)
    parts = (("actor", sac.actor.net, actor), ("critic", sac.critic.net, critic), ("critic", sac.target.net, target))
    for prefix, net, expected in parts:
        for name, array in net.arrays(prefix).items():
            np.testing.assert_allclose(array, expected[name].detach(), rtol=1e-3, atol=2e-5, err_msg=name)


def test_the_actors_step_leaves_the_critics_alone_and_the_critics_step_the_actor():
    rng = np.random.default_rng(1)
    still = {"actor": "actor_rate", "critic": "critic_rate", "temperature": "temperature_rate"}
    for moving in still:
        rates = {rate: 1e-2 if name == moving else 0.0 for name, rate in still.items()}
        sac = Sac(SMALL, SacConfig(target_share=1e-9), 3, 2, 0.9, rng)
        for name, adam in sac.adams.items():
            adam.learning_rate = rates[still[name]]
        before = {name: vector.clone() for name, vector in sac.vectors().items()}
        sac.step(random_batch(rng), floats(rng, 2, 20, 2))
        changed = {
            name
            for name in ("actor", "critic", "log_temperature")
            if not torch.equal(before[name], sac.vectors()[name])
        }
        assert changed == {moving if moving != "temperature" else "log_temperature"}
        torch.testing.assert_close(sac.target.net.theta, before["target"])


def test_a_rate_of_0_keeps_the_temperature():
    rng = np.random.default_rng(2)
    sac = Sac(SMALL, SacConfig(temperature=0.25, temperature_rate=0.0), 3, 2, 0.9, rng)
    for _ in range(3):
        sac.step(random_batch(rng), floats(rng, 2, 20, 2))
    assert sac.temperature == pytest.approx(0.25)


# ---- one step, one action: reward -c (a - best)^2 ------------------------------------------

C, BEST = 5.0, 0.2


def bandit(config, steps, size=128):
    """An agent that learned the bandit, first fast, then slowly, and 20000 of its actions."""
    rng = np.random.default_rng(3)
    sac = Sac(SMALL, config, 1, 1, 0.9, rng)
    for step in range(steps):
        if step == steps * 2 // 3:
            for adam in sac.adams.values():
                adam.learning_rate *= 0.1
        action = rng.uniform(-1.0, 1.0, size).astype(np.float32)
        inputs = torch.tensor(np.stack((np.ones_like(action), action), axis=1))
        reward = torch.tensor(-C * (action - BEST) ** 2)
        sac.step(Batch(inputs, reward, torch.ones(size, 1), torch.zeros(size)), floats(rng, 2, size, 1))
    actions, log_probs = sac.actor.sample(torch.ones(20_000, 1), floats(rng, 20_000, 1))
    return sac, actions.numpy(), -float(log_probs.mean())


FAST = SacConfig(actor_rate=5e-3, critic_rate=5e-3, temperature_rate=5e-3)


def test_the_actor_finds_the_soft_optimum_of_a_bandit():
    """pi is proportional to exp(r / alpha): N(best, alpha / (2 c)), whose deviation of 0.1 the range hardly cuts.

    The critic is a piecewise linear fit, and its slopes near the best action decide: 0.02 and 20 % are left to it.
    Drawing 20000 actions leaves 0.0007 and 1 %.
    """
    alpha = 0.1
    _, actions, entropy = bandit(replace(FAST, temperature=alpha, temperature_rate=0.0), 1500)
    variance = alpha / (2.0 * C)
    assert actions.mean() == pytest.approx(BEST, abs=0.02)
    assert actions.var() == pytest.approx(variance, rel=0.2)
    assert entropy == pytest.approx(0.5 * math.log(2.0 * math.pi * math.e * variance), abs=0.1)


def test_the_temperature_brings_the_entropy_to_its_target():
    """Where a Gaussian of variance alpha / (2 c) has entropy -1: alpha = 2 c exp(-2) / (2 pi e)."""
    sac, _, entropy = bandit(FAST, 1800)
    assert entropy == pytest.approx(-1.0, abs=0.05)
    assert sac.temperature == pytest.approx(2.0 * C * math.exp(-2.0) / (2.0 * math.pi * math.e), rel=0.2)
