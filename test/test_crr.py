"""Critic regularised regression: its step, and problems whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from by_autograd import Descent, assert_same, floats, frozen, leaves, random_batch, run

from polo_ros.learning.actor import Actor
from polo_ros.learning.actor_critic import ActorCriticConfig
from polo_ros.learning.crr import Crr, CrrConfig, advantage_weights
from polo_ros.learning.mlp import Adam
from polo_ros.learning.offline_algorithm import ACTION_LIMIT, before_tanh
from polo_ros.learning.sac import Batch

torch.set_num_threads(1)  # as the learner does: threads that spin on busy cores are a hundred times slower
SMALL = ActorCriticConfig(hidden=32)


def test_weights_are_those_of_the_paper():
    advantages = torch.tensor([-3.0, -1e-6, 0.0, 0.5, 2.0, 100.0])
    exp = advantage_weights(advantages, CrrConfig(temperature=0.5, max_weight=20.0))
    expected = [math.exp(-6.0), math.exp(-2e-6), 1.0, math.e, 20.0, 20.0]
    np.testing.assert_allclose(exp, expected, rtol=1e-6)
    binary = advantage_weights(advantages, CrrConfig(weights="binary"))
    assert binary.tolist() == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("weights", "baseline", "value"), [("exp", "mean", "first"), ("exp", "max", "min"), ("binary", "mean", "mean")]
)
def test_a_step_is_that_of_autograd_and_torchs_adam(weights, baseline, value):
    """Two whole steps, terminal transitions among them, written down in double precision."""
    rng = np.random.default_rng(0)
    config = CrrConfig(
        weights=weights,
        baseline=baseline,
        advantage_value=value,
        samples=3,
        temperature=0.3,
        max_weight=1.5,
        target_share=0.1,
        actor_rate=1e-3,
        log_std_low=-0.05,  # about half of the deviations begin below it
    )
    crr = Crr(SMALL, config, 3, 2, 0.9, rng)
    parts = {"actor": leaves(crr.actor.net), "critic": leaves(crr.critic.net)}
    target_actor, target = frozen(crr.target_actor.net), frozen(crr.target.net)
    descent = Descent(parts, {"actor": config.actor_rate, "critic": config.critic_rate})
    reduce = {"first": lambda q: q[0], "min": lambda q: q.amin(dim=0), "mean": lambda q: q.mean(dim=0)}[value]
    narrow = 0
    for _ in range(2):
        batch, noise = random_batch(rng), floats(rng, 4, 20, 2)
        found = crr.step(batch, noise)
        inputs, draws = batch.inputs.double(), noise.double()
        observations, actions = inputs[:, :3], inputs[:, 3:]

        mean, log_std = run(target_actor, batch.next_observation.double())[0].chunk(2, dim=1)
        ahead = torch.cat((batch.next_observation.double(), torch.tanh(mean + log_std.exp() * draws[0])), dim=1)
        following = run(target, ahead)[..., 0].amin(dim=0)
        targets = batch.reward.double() + 0.9 * batch.not_terminal.double() * following
        members = run(parts["critic"], inputs)[..., 0]
        errors = members - targets

        mean, log_std = run(parts["actor"], observations)[0].chunk(2, dim=1)
        drawn = torch.tanh(mean + log_std.exp() * draws[1:])
        judged = torch.stack([reduce(run(parts["critic"], torch.cat((observations, a), 1))[..., 0]) for a in drawn])
        advantages = reduce(members) - (judged.mean(dim=0) if baseline == "mean" else judged.amax(dim=0))
        wanted = (advantages > 0.0).double() if weights == "binary" else (advantages / 0.3).exp().clamp(max=1.5)
        wide = log_std.clamp(min=-0.05)
        narrow += int((log_std < -0.05).sum())
        u = torch.atanh(actions)
        gaussian = torch.distributions.Normal(mean, wide.exp())
        log_probs = (gaussian.log_prob(u) - torch.log1p(-(actions**2))).sum(dim=1)
        loss = -(wanted.detach() * log_probs).mean()
        # Where it is too narrow the likelihood has no say, and half the square of what is missing has.
        missing = torch.relu(-0.05 - log_std)

        descent.gradients(errors.square().mean(dim=1).sum(), "critic")
        descent.gradients(loss + 0.5 * missing.square().sum(dim=1).mean(), "actor")
        descent.step("critic", "actor")
        for before, after in ((target_actor, parts["actor"]), (target, parts["critic"])):
            for name in before:
                before[name] = before[name] + 0.1 * (after[name].detach() - before[name])
        expected = {
            "critic_loss": errors.square().mean(),
            "actor_loss": loss,
            "value": targets.mean(),
            "advantage": advantages.mean(),
            "weight": wanted.mean(),
            "log_prob": log_probs.mean(),
        }
        assert found == pytest.approx({name: float(x.detach()) for name, x in expected.items()}, rel=1e-3, abs=1e-4)
    assert 10 < narrow < 70
    assert_same(crr.actor.net, parts["actor"])
    assert_same(crr.critic.net, parts["critic"])
    assert_same(crr.target_actor.net, target_actor)
    assert_same(crr.target.net, target)


def test_targets_by_hand():
    """Target critics of 5 and 2 everywhere: the smaller counts, and nothing behind an end."""
    rng = np.random.default_rng(1)
    crr = Crr(SMALL, CrrConfig(), 1, 1, 0.5, rng)
    arrays = crr.target.net.arrays("critic")
    for array in arrays.values():
        array[:] = 0.0
    arrays["critic.2.bias"][:, 0, 0] = 5.0, 2.0
    crr.target.net.load(arrays, "critic")
    batch = Batch(torch.zeros(2, 2), torch.tensor([1.0, 1.0]), torch.zeros(2, 1), torch.tensor([1.0, 0.0]))
    assert crr.targets(batch, torch.zeros(2, 1)).tolist() == [2.0, 1.0]


# ---- one step: an observation that says nothing, actions of a known behaviour --------------


def learned(config, reward, behaviour, steps=900, size=256):
    """What has learned from actions that `behaviour` draws, first fast, then slowly."""
    rng = np.random.default_rng(2)
    crr = Crr(SMALL, config, 1, 1, 0.9, rng)
    for step in range(steps):
        if step == steps * 2 // 3:
            for adam in crr.adams.values():
                adam.learning_rate *= 0.1
        action = behaviour(rng, size).astype(np.float32)
        inputs = torch.tensor(np.stack((np.ones_like(action), action), axis=1))
        batch = Batch(inputs, torch.tensor(reward(action)), torch.ones(size, 1), torch.zeros(size))
        crr.step(batch, floats(rng, 1 + config.samples, size, 1))
    return crr, np.random.default_rng(3)


def test_the_actor_becomes_the_behaviour_weighted_by_exp_of_advantage():
    """pi is the Gaussian, before tanh, with mean and deviation of the behaviour times exp(r / beta), by integration.

    What is left is the error of a critic that is piecewise linear, and 900 steps.
    """
    config = CrrConfig(temperature=0.5, actor_rate=5e-3, critic_rate=5e-3, max_weight=1e6)

    def reward(action):
        return -2.0 * (action - 0.5) ** 2

    crr, _ = learned(config, reward, lambda rng, n: rng.uniform(-0.9, 0.9, n))
    grid = np.linspace(-0.9, 0.9, 20_001)
    weight = np.exp(reward(grid) / config.temperature)
    u = np.arctanh(grid)
    mean = np.average(u, weights=weight)
    std = math.sqrt(np.average((u - mean) ** 2, weights=weight))
    found_mean, found_log_std = crr.actor.gaussian(torch.ones(1, 1))
    assert float(found_mean) == pytest.approx(mean, abs=0.05)
    assert float(found_log_std.exp()) == pytest.approx(std, rel=0.1)
    assert abs(u.mean() - mean) > 0.3, "else the weights would not matter"


def test_binary_weights_pick_what_is_better_than_the_actor():
    """Of actions that pay in a third of the behaviour's range the actor takes nearly all from there."""
    config = CrrConfig(weights="binary", actor_rate=5e-3, critic_rate=5e-3)

    def reward(action):
        return (np.abs(action - 0.5) < 0.3).astype(np.float32)

    crr, rng = learned(config, reward, lambda rng, n: rng.uniform(-0.9, 0.9, n))
    actions, _ = crr.actor.sample(torch.ones(2000, 1), floats(rng, 2000, 1))
    assert reward(actions.numpy()).mean() > 0.8
    assert reward(rng.uniform(-0.9, 0.9, 2000)).mean() < 0.4


# ---- weighted regression -------------------------------------------------------------------


def test_an_actor_of_identical_actions_stops_at_the_least_deviation():
    rng = np.random.default_rng(4)
    actor = Actor(SMALL, 1, 1, rng)
    adam = Adam(actor.net.theta, actor.net.grad, 1e-2)
    seen, u = torch.ones(16, 1), torch.full((16, 1), 0.3)
    for _ in range(800):
        actor.imitate(actor.gaussian(seen), u, torch.ones(16), -2.0)
        adam.step()
    mean, log_std = actor.gaussian(seen)
    assert float(mean[0]) == pytest.approx(0.3, abs=0.02)
    assert float(log_std[0]) == pytest.approx(-2.0, abs=0.2)


def test_saturated_actions_are_finite_before_tanh():
    u = before_tanh(torch.tensor([[-1.0, 0.0, 0.5, 1.0]]))
    limit = math.atanh(ACTION_LIMIT)
    np.testing.assert_allclose(u, [[-limit, 0.0, math.atanh(0.5), limit]], rtol=1e-4)
