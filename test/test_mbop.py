"""The behaviour's policy and value: against linear systems, moments and autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from by_autograd import Descent, assert_same, frozen, leaves, random_batch, run

from polo_ros.learning.actor_critic import ActorCriticConfig
from polo_ros.learning.mbop import Mbop, MbopConfig
from polo_ros.learning.sac import Batch

torch.set_num_threads(1)  # as the learner does: threads that spin on busy cores are a hundred times slower
SMALL = ActorCriticConfig(hidden=32)
NOTHING = torch.empty(0)


@pytest.mark.parametrize("followed", [True, False])
def test_a_step_is_that_of_autograd_and_torchs_adam(followed):
    rng = np.random.default_rng(0)
    config = MbopConfig(target_share=0.1, actor_rate=1e-3, critic_rate=2e-3)
    mbop = Mbop(SMALL, config, 3, 2, 0.9, rng)
    parts = {"actor": leaves(mbop.actor.net), "critic": leaves(mbop.critic.net)}
    target = frozen(mbop.target.net)
    descent = Descent(parts, {"actor": 1e-3, "critic": 2e-3})
    for _ in range(2):
        batch = random_batch(rng)
        if not followed:
            batch = Batch(batch.inputs, batch.reward, batch.next_observation, torch.zeros(20))
        found = mbop.step(batch, NOTHING)
        inputs, targets = batch.inputs.double(), batch.reward.double()
        if followed:
            ahead = torch.cat((batch.next_observation, batch.next_action), dim=1).double()
            targets = targets + 0.9 * batch.not_terminal.double() * run(target, ahead)[..., 0].mean(dim=0)
        errors = run(parts["critic"], inputs)[..., 0] - targets
        mean, log_std = run(parts["actor"], inputs[:, :3])[0].chunk(2, dim=1)
        u = torch.atanh(inputs[:, 3:])
        gaussian = torch.distributions.Normal(mean, log_std.exp())
        log_probs = (gaussian.log_prob(u) - torch.log1p(-(inputs[:, 3:] ** 2))).sum(dim=1)
        descent.gradients(errors.square().mean(dim=1).sum(), "critic")
        descent.gradients(-log_probs.mean(), "actor")
        descent.step("critic", "actor")
        for name in target:
            target[name] = target[name] + 0.1 * (parts["critic"][name].detach() - target[name])
        expected = {
            "critic_loss": errors.square().mean(),
            "actor_loss": -log_probs.mean(),
            "value": targets.mean(),
            "log_prob": log_probs.mean(),
        }
        assert found == pytest.approx({name: float(x.detach()) for name, x in expected.items()}, rel=1e-3, abs=1e-4)
    assert_same(mbop.actor.net, parts["actor"])
    assert_same(mbop.critic.net, parts["critic"])


STATES, DISCOUNT = 4, 0.8


def chain(rng, n):
    """Rows of a walk on four states, by a behaviour that goes right (a = 0.5) in 70 % of cases, else left (-0.5).

    Left of state 0 is state 0; right of state 3 the walk ends. A step pays the number of its state, and 1 more to the
    right.
    """
    state, right, next_right = rng.integers(STATES, size=n), rng.random(n) < 0.7, rng.random(n) < 0.7
    after = np.maximum(np.where(right, state + 1, state - 1), 0)
    over = after == STATES
    one_hot = np.eye(STATES, dtype=np.float32)
    action, following = (np.where(chosen, 0.5, -0.5).astype(np.float32)[:, None] for chosen in (right, next_right))
    inputs = torch.tensor(np.concatenate((one_hot[state], action), axis=1))
    ahead = torch.tensor(one_hot[np.minimum(after, STATES - 1)])
    reward = torch.tensor((state + right).astype(np.float32))
    return Batch(inputs, reward, ahead, torch.tensor(~over).float(), torch.tensor(following))


def values_of_the_behaviour():
    """Q of the behaviour (states, [left, right]), by the linear system V = sum_a pi(a) (r + gamma V')."""
    probability = np.array([0.3, 0.7])
    step, reward = np.zeros((STATES, 2, STATES)), np.zeros((STATES, 2))
    for state in range(STATES):
        step[state, 0, max(state - 1, 0)] = 1.0
        if state + 1 < STATES:
            step[state, 1, state + 1] = 1.0
        reward[state] = state, state + 1
    mean_step, mean_reward = np.einsum("a,sat->st", probability, step), reward @ probability
    value = np.linalg.solve(np.eye(STATES) - DISCOUNT * mean_step, mean_reward)
    return reward + DISCOUNT * step @ value


def test_values_are_those_of_the_behaviour_and_the_actor_does_as_it_does():
    rng = np.random.default_rng(1)
    config = MbopConfig(actor_rate=5e-3, critic_rate=5e-3, target_share=0.05)
    mbop = Mbop(SMALL, config, STATES, 1, DISCOUNT, rng)
    for update in range(1500):
        if update == 1000:
            for adam in mbop.adams.values():
                adam.learning_rate *= 0.1
        mbop.step(chain(rng, 256), NOTHING)
    one_hot = np.eye(STATES, dtype=np.float32)
    expected = values_of_the_behaviour()
    for number, action in enumerate((-0.5, 0.5)):
        inputs = torch.tensor(np.concatenate((one_hot, np.full((STATES, 1), action, np.float32)), axis=1))
        found = mbop.critic.members(inputs).numpy()
        np.testing.assert_allclose(found, np.tile(expected[:, number], (2, 1)), atol=0.25)
    assert np.ptp(expected) > 3.0
    mean, log_std = mbop.actor.gaussian(torch.tensor(one_hot))
    edge = np.arctanh(0.5)  # 70 % at edge and 30 % at -edge
    np.testing.assert_allclose(mean.numpy(), 0.4 * edge, atol=0.08)
    np.testing.assert_allclose(log_std.exp().numpy(), edge * np.sqrt(1.0 - 0.4**2), rtol=0.1)
