"""Critics: values that are known, and what planners and actors make of several."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from polo_ros.learning.actor_critic import ActorCriticConfig, reduce_members
from polo_ros.learning.critic import Critic
from polo_ros.learning.sac import Batch, Sac, SacConfig

torch.set_num_threads(1)  # as the learner does: threads that spin on busy cores are a hundred times slower
SMALL = ActorCriticConfig(hidden=24)


def floats(rng, *shape):
    return torch.tensor(rng.standard_normal(shape), dtype=torch.float32)


def fitted(critic, inputs):
    return critic.members(inputs).clone()


def test_all_members_at_once_are_each_one_alone():
    rng = np.random.default_rng(0)
    critic = Critic(replace(SMALL, critics=3), 4, 2, rng)
    inputs = floats(rng, 11, 6)
    together = fitted(critic, inputs)
    arrays = critic.net.arrays("q")
    for member in range(3):
        h = inputs.numpy()
        for index in range(3):
            h = h @ arrays[f"q.{index}.weight"][member] + arrays[f"q.{index}.bias"][member]
            h = np.maximum(h, 0.0) if index < 2 else h
        np.testing.assert_allclose(together[member], h[:, 0], rtol=1e-4, atol=1e-5)


def test_reductions_by_hand():
    members = torch.tensor([[1.0, 5.0], [3.0, 2.0], [8.0, 2.0]])
    assert reduce_members(members, "min").tolist() == [1.0, 2.0]
    assert reduce_members(members, "mean").tolist() == [4.0, 3.0]
    assert reduce_members(members, "first").tolist() == [1.0, 5.0]
    np.testing.assert_array_equal(reduce_members(members.numpy(), "min"), [1.0, 2.0])


@pytest.mark.parametrize("reduction", ["min", "mean", "first"])
def test_the_slope_at_the_actions_is_that_of_finite_differences(reduction):
    rng = np.random.default_rng(1)
    critic = Critic(replace(SMALL, critics=3), 3, 2, rng)
    inputs = floats(rng, 40, 5)
    before = critic.net.grad.clone()
    values, slopes = critic.value_and_action_gradient(inputs, reduction)
    assert torch.equal(critic.net.grad, before)  # the critics learn nothing from the actor's step
    torch.testing.assert_close(values, reduce_members(fitted(critic, inputs), reduction))
    weights = {name: array.astype(np.float64) for name, array in critic.net.arrays("q").items()}

    def value(x):
        h = x
        for index in range(3):
            h = h @ weights[f"q.{index}.weight"] + weights[f"q.{index}.bias"]
            h = np.maximum(h, 0.0) if index < 2 else h
        return reduce_members(h[..., 0], reduction)

    step = 1e-7  # in double precision; so small that no kink of a ReLU lies between
    for action in range(2):
        moved = np.zeros(5)
        moved[3 + action] = step
        x = inputs.numpy().astype(np.float64)
        expected = (value(x + moved) - value(x - moved)) / (2.0 * step)
        np.testing.assert_allclose(slopes[:, action], expected, rtol=1e-3, atol=1e-5)


def two_states(log_std, alpha):
    """Learns on states 1 and -1: from 1 action a leads to 1 if a > 0, from -1 always to 1; 1 pays 1, -1 nothing."""
    rng = np.random.default_rng(0)
    config = SacConfig(
        temperature=alpha, temperature_rate=0.0, critic_rate=3e-3, actor_rate=1e-9, target_share=0.05, discount=0.8
    )
    sac = Sac(SMALL, config, 1, 1, 0.8, rng)
    # The same Gaussian everywhere: mean 0, so that half of its actions are above 0.
    arrays = sac.actor.net.arrays("actor")
    for array in arrays.values():
        array[:] = 0.0
    arrays["actor.2.bias"][0, 0] = 0.0, log_std
    sac.actor.net.load(arrays, "actor")
    return sac, rng


def batch_of(rng, size=128):
    state = rng.choice([-1.0, 1.0], size)
    action = rng.uniform(-1.0, 1.0, size)
    after = np.where((state < 0.0) | (action > 0.0), 1.0, -1.0)
    rows = [
        torch.tensor(part, dtype=torch.float32) for part in (np.c_[state, action], 0.5 * (state + 1.0), after[:, None])
    ]
    return Batch(*rows, torch.ones(size))


def test_critics_find_the_values_of_a_two_state_problem():
    """Soft values of a fixed policy, against a linear system: alpha adds its entropy at every next state."""
    log_std, alpha = -0.5, 0.3
    sac, rng = two_states(log_std, alpha)
    for _ in range(900):
        sac.step(batch_of(rng), floats(rng, 2, 128, 1))
    sac.adams["critic"].learning_rate = 3e-4
    for _ in range(300):
        sac.step(batch_of(rng), floats(rng, 2, 128, 1))
    noise = floats(rng, 200_000, 1)
    _, log_probs = sac.actor.sample(torch.zeros(200_000, 1), noise)
    entropy = -float(log_probs.mean())
    # V = E[Q] + alpha H, + taken half the time; Q(1, +) = 1 + g V(1), Q(1, -) = 1 + g V(-1), Q(-1, .) = g V(1).
    g, extra = 0.8, alpha * entropy
    v_high, v_low = np.linalg.solve([[1.0 - 0.5 * g, -0.5 * g], [-g, 1.0]], [1.0 + extra, extra])
    inputs = torch.tensor([[1.0, 0.6], [1.0, -0.6], [-1.0, 0.6], [-1.0, -0.6]])
    found = fitted(sac.critic, inputs)
    expected = [1.0 + g * v_high, 1.0 + g * v_low, g * v_high, g * v_high]
    for member in found:
        np.testing.assert_allclose(member, expected, rtol=0.04)


def test_a_terminal_state_is_worth_nothing_and_a_cut_episode_goes_on():
    rng = np.random.default_rng(2)
    sac = Sac(SMALL, SacConfig(temperature=0.1), 1, 1, 0.9, rng)
    observations, noise = floats(rng, 2, 1), floats(rng, 2, 1)
    batch = Batch(torch.zeros(2, 2), torch.tensor([3.0, 3.0]), observations, torch.tensor([0.0, 1.0]))
    actions, log_probs = (part.clone() for part in sac.actor.sample(observations, noise))
    ahead = sac.target.members(torch.cat((observations, actions), dim=1)).amin(dim=0) - 0.1 * log_probs
    torch.testing.assert_close(sac.targets(batch, noise), torch.stack((torch.tensor(3.0), 3.0 + 0.9 * ahead[1])))


def test_sarsa_targets_by_hand():
    rng = np.random.default_rng(3)
    sac = Sac(SMALL, SacConfig(next_action="played"), 2, 1, 0.9, rng)
    observations, played = floats(rng, 3, 2), floats(rng, 3, 1)
    batch = Batch(torch.zeros(3, 3), torch.tensor([1.0, 2.0, 3.0]), observations, torch.tensor([1.0, 1.0, 0.0]), played)
    members = fitted(sac.target, torch.cat((observations, played), dim=1))
    expected = [1.0 + 0.9 * float(members[:, 0].min()), 2.0 + 0.9 * float(members[:, 1].min()), 3.0]
    np.testing.assert_allclose(sac.targets(batch, floats(rng, 3, 1)), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="the batch has no next actions"):
        sac.targets(replace(batch, next_action=None), floats(rng, 3, 1))
