"""PLAS: its steps against autograd, and that its actions stay with the data's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from by_autograd import Descent, assert_same, floats, frozen, leaves, random_batch, run

from polo_ros.learning.actor_critic import ActorCriticConfig
from polo_ros.learning.plas import Plas, PlasConfig
from polo_ros.learning.sac import Batch

torch.set_num_threads(1)  # as the learner does: threads that spin on busy cores are a hundred times slower
SMALL = ActorCriticConfig(hidden=32)
CVAE = PlasConfig(cvae_updates=2, cvae_hidden=24)


def test_the_autoencoders_step_is_that_of_autograd_and_torchs_adam():
    rng = np.random.default_rng(0)
    plas = Plas(SMALL, CVAE, 3, 2, 0.9, rng)
    parts = {"encoder": leaves(plas.cvae.encoder), "decoder": leaves(plas.cvae.decoder)}
    descent = Descent(parts, {"encoder": CVAE.cvae_rate, "decoder": CVAE.cvae_rate})
    for _ in range(2):
        batch, noise = random_batch(rng), floats(rng, 1, 20, 4)
        found = plas.prepare(batch, noise)
        inputs = batch.inputs.double()
        mean, log_std = run(parts["encoder"], inputs)[0].chunk(2, dim=1)
        posterior = torch.distributions.Normal(mean, log_std.clamp(-4.0, 15.0).exp())
        latent = posterior.mean + posterior.stddev * noise[0].double()
        decoded = torch.tanh(run(parts["decoder"], torch.cat((inputs[:, :3], latent), dim=1))[0])
        error = torch.nn.functional.mse_loss(decoded, inputs[:, 3:])
        prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
        divergence = torch.distributions.kl_divergence(posterior, prior).mean()
        descent.gradients(error + 0.5 * divergence, *parts)
        descent.step("encoder", "decoder")
        assert found["cvae_error"] == pytest.approx(float(error.detach()), rel=1e-4)
        assert found["cvae_divergence"] == pytest.approx(float(divergence.detach()), rel=1e-3, abs=1e-6)
    assert_same(plas.cvae.encoder, parts["encoder"])
    assert_same(plas.cvae.decoder, parts["decoder"])


@pytest.mark.parametrize("perturbation", [0.0, 0.7])
def test_a_step_is_that_of_autograd_and_torchs_adam(perturbation):
    """Two whole steps; a perturbation of 0.7 leaves the range now and then."""
    rng = np.random.default_rng(1)
    config = PlasConfig(
        cvae_updates=1, cvae_hidden=24, perturbation=perturbation, target_share=0.1, actor_rate=1e-3, min_share=0.6
    )
    plas = Plas(SMALL, config, 3, 2, 0.9, rng)
    for net in plas.networks.values():
        net.theta.mul_(1.7)  # else nothing would come near the edges
    names = [*plas.policy.networks, "critic"]
    parts = {name: leaves(plas.networks[name]) for name in names}
    targets_of = {name: frozen(plas.networks[f"target_{name}"]) for name in names}
    decoder = frozen(plas.cvae.decoder)
    descent = Descent(parts, {name: config.critic_rate if name == "critic" else 1e-3 for name in names})
    clipped = 0

    def act(nets, observations):
        latent = 2.0 * torch.tanh(run(nets["actor"], observations)[0])
        actions = torch.tanh(run(decoder, torch.cat((observations, latent), dim=1))[0])
        if not perturbation:
            return actions
        moves = torch.tanh(run(nets["perturbation"], torch.cat((observations, actions), dim=1))[0])
        nonlocal clipped
        clipped += int(((actions + perturbation * moves).abs() > 1.0).sum())
        return (actions + perturbation * moves).clamp(-1.0, 1.0)

    for _ in range(2):
        batch = random_batch(rng)
        found = plas.step(batch, torch.empty(0))
        inputs, after = batch.inputs.double(), batch.next_observation.double()
        ahead = run(targets_of["critic"], torch.cat((after, act(targets_of, after)), dim=1))[..., 0]
        following = 0.6 * ahead.amin(dim=0) + 0.4 * ahead.amax(dim=0)
        targets = batch.reward.double() + 0.9 * batch.not_terminal.double() * following
        errors = run(parts["critic"], inputs)[..., 0] - targets
        descent.gradients(errors.square().mean(dim=1).sum(), "critic")
        descent.step("critic")
        observations = inputs[:, :3]
        values = run(parts["critic"], torch.cat((observations, act(parts, observations)), dim=1))[0, :, 0]
        descent.gradients(-values.mean(), *plas.policy.networks)
        descent.step(*plas.policy.networks)
        for name in names:
            for entry in targets_of[name]:
                before = targets_of[name][entry]
                targets_of[name][entry] = before + 0.1 * (parts[name][entry].detach() - before)
        expected = {"critic_loss": errors.square().mean(), "actor_loss": -values.mean(), "value": targets.mean()}
        assert found == pytest.approx({name: float(x.detach()) for name, x in expected.items()}, rel=1e-3, abs=1e-4)
    assert bool(clipped) == bool(perturbation)
    for name in names:
        assert_same(plas.networks[name], parts[name])
        assert_same(plas.networks[f"target_{name}"], targets_of[name])
    assert_same(plas.cvae.decoder, decoder)


def test_actions_stay_with_those_of_the_data_and_the_better_ones_are_taken():
    """Data of two modes, -0.6 and 0.6: decoded actions of the prior lie near one or on the short way between.

    Rewards rise towards 1, beyond the data: a policy that believed its critic there would leave the data. Of the latent
    range's actions, that of 0.6 is best.
    """
    rng = np.random.default_rng(2)
    config = PlasConfig(
        cvae_updates=1500, cvae_hidden=32, cvae_rate=3e-3, cvae_divergence=0.1, actor_rate=2e-3, critic_rate=3e-3
    )
    plas = Plas(SMALL, config, 1, 1, 0.9, rng)

    def batch(size=128):
        mode = np.where(rng.random(size) < 0.5, 0.6, -0.6)
        action = (mode + 0.05 * rng.standard_normal(size)).astype(np.float32)
        inputs = torch.tensor(np.stack((np.ones_like(action), action), axis=1))
        return Batch(inputs, torch.tensor(action), torch.ones(size, 1), torch.zeros(size))

    for _ in range(config.cvae_updates):
        plas.prepare(batch(), floats(rng, 1, 128, 2))
    latent = floats(rng, 4000, 2).clamp(-2.0, 2.0)
    decoded = plas.cvae.decode(torch.ones(4000, 1), latent).numpy()
    near = np.abs(np.abs(decoded) - 0.6) < 0.15
    assert near.mean() > 0.8
    assert np.abs(decoded).max() < 0.75, "nothing beyond the modes"
    assert 0.3 < (decoded > 0.0).mean() < 0.7, "both modes"
    for _ in range(500):
        plas.step(batch(), torch.empty(0))
    action = float(plas.policy.act(torch.ones(1, 1)))
    assert 0.5 < action < 0.75


def test_latent_actions_stay_in_range():
    rng = np.random.default_rng(3)
    plas = Plas(SMALL, PlasConfig(cvae_updates=1, cvae_hidden=8, latent_range=0.5), 3, 2, 0.9, rng)
    plas.networks["actor"].theta.mul_(50.0)
    seen = []
    decode = plas.cvae.decode
    plas.cvae.decode = lambda observations, latent: seen.append(latent.clone()) or decode(observations, latent)
    plas.policy.act(floats(rng, 100, 3))
    assert 0.45 < float(seen[0].abs().max()) <= 0.5
