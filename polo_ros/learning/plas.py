"""PLAS: policies in the latent action space of an autoencoder, which keeps them among the data's actions.

Zhou et al. 2020, "PLAS: Latent Action Space for Offline Reinforcement Learning", as LOOP (Sikchi et al. 2021, section
6.2) plans with it. Gradients are taken by hand; test_plas.py holds them against autograd.
"""

from __future__ import annotations

import numpy as np
import torch

from polo_ros.learning.action_cvae import ActionCvae
from polo_ros.learning.actor_critic import ActorCriticConfig
from polo_ros.learning.critic import Critic
from polo_ros.learning.mlp import Adam, Mlp
from polo_ros.learning.plas_config import PlasConfig, latent_actor_sizes, perturbation_sizes
from polo_ros.learning.sac import Batch

__all__ = ["Plas", "PlasConfig"]


class Plas:
    """Autoencoder, latent actor, critics and the targets that follow them: an OfflineAlgorithm.

    The autoencoder learns first and alone; from then on it stands still.

    Args:
        networks: Sizes of actor and critics.
        config: Losses and rates.
        nobs: Entries of an observation.
        nu: Entries of an action.
        discount: Gamma.
        rng: Draws the start.
    """

    def __init__(
        self,
        networks: ActorCriticConfig,
        config: PlasConfig,
        nobs: int,
        nu: int,
        discount: float,
        rng: np.random.Generator,
    ) -> None:
        self.config = config
        self.nobs = nobs
        self.discount = discount
        self.preparation = config.cvae_updates
        self.cvae = ActionCvae(config, nobs, nu, rng)
        self.noise_shape = (1, self.cvae.nz)
        self.policy = self._policy(networks, nu, rng)
        self.target_policy = self._policy(networks, nu, rng)
        self.critic, self.target = Critic(networks, nobs, nu, rng), Critic(networks, nobs, nu, rng)
        self._critic_view = self.critic.with_own_buffers("first")
        self.networks: dict[str, Mlp] = {"encoder": self.cvae.encoder, "decoder": self.cvae.decoder}
        self.networks.update(self.policy.networks)
        self.networks["critic"] = self.critic.net
        rates = {"actor": config.actor_rate, "perturbation": config.actor_rate, "critic": config.critic_rate}
        self.adams = {
            name: Adam(net.theta, net.grad, rates.get(name, config.cvae_rate)) for name, net in self.networks.items()
        }
        self._followers = {**self.target_policy.networks, "critic": self.target.net}
        for name, follower in self._followers.items():
            follower.theta.copy_(self.networks[name].theta)
            self.networks[f"target_{name}"] = follower
        self.exported = (*self.policy.networks, "decoder", "critic")

    def _policy(self, networks: ActorCriticConfig, nu: int, rng: np.random.Generator) -> LatentActor:
        return LatentActor(self.cvae, networks, self.config, self.nobs, nu, rng)

    def prepare(self, batch: Batch, noise: torch.Tensor) -> dict[str, float]:
        """One update of the autoencoder (section 4.1); noise (1, B, nz)."""
        error, divergence = self.cvae.descend(batch.inputs, noise[0], self.config.cvae_divergence)
        for name in ("encoder", "decoder"):
            self.adams[name].step()
        return {"cvae_error": error, "cvae_divergence": divergence}

    def step(self, batch: Batch, noise: torch.Tensor) -> dict[str, float]:
        """One update of critics and latent actor (section 4.2); there is no noise in it."""
        targets = self.targets(batch)
        error = self.critic.regress(batch.inputs, targets)
        self.adams["critic"].step()
        observations = batch.inputs[:, : self.nobs]
        actions = self.policy.act(observations)
        values, slopes = self._critic_view.value_and_action_gradient(torch.cat((observations, actions), dim=1), "first")
        self.policy.backward(slopes.mul(-1.0 / len(slopes)))
        for name in self.policy.networks:
            self.adams[name].step()
        for name, follower in self._followers.items():
            follower.polyak_update(self.networks[name], self.config.target_share)
        return {"critic_loss": float(error), "actor_loss": -float(values.mean()), "value": float(targets.mean())}

    def targets(self, batch: Batch) -> torch.Tensor:
        """What values are to be, r + gamma (lambda min + (1 - lambda) max) Q'(s', a'), (B,): a' the target policy's."""
        actions = self.target_policy.act(batch.next_observation)
        members = self.target.members(torch.cat((batch.next_observation, actions), dim=1))
        following = torch.lerp(members.amax(dim=0), members.amin(dim=0), self.config.min_share)
        return torch.addcmul(batch.reward, batch.not_terminal, following, value=self.discount)


class LatentActor:
    """a = decoder(s, z), z = range x tanh(actor(s)); perturbed: clip(a + phi tanh(net(s, a))).

    Args:
        cvae: Whose decoder it is.
        networks: Sizes.
        config: Sizes and ranges.
        nobs: Entries of an observation.
        nu: Entries of an action.
        rng: Draws the start.
    """

    def __init__(
        self,
        cvae: ActionCvae,
        networks: ActorCriticConfig,
        config: PlasConfig,
        nobs: int,
        nu: int,
        rng: np.random.Generator,
    ) -> None:
        self._cvae = cvae
        self._nobs = nobs
        self._range, self._reach = config.latent_range, config.perturbation
        self.networks = {"actor": Mlp(1, latent_actor_sizes(networks, config, nobs, nu), rng)}
        if config.perturbation:
            self.networks["perturbation"] = Mlp(1, perturbation_sizes(networks, nobs, nu), rng)
        self._squashed = self._moved = self._inside = torch.empty(0)  # of the newest `act`

    def act(self, observations: torch.Tensor) -> torch.Tensor:
        """Actions (B, nu) in -1 .. 1 at observations (B, nobs)."""
        self._squashed = torch.tanh(self.networks["actor"].forward(observations)[0])
        actions = self._cvae.decode(observations, self._range * self._squashed)
        if not self._reach:
            return actions
        self._moved = torch.tanh(self.networks["perturbation"].forward(torch.cat((observations, actions), dim=1))[0])
        moved = torch.add(actions, self._moved, alpha=self._reach)
        self._inside = moved.abs() <= 1.0
        return moved.clamp_(-1.0, 1.0)

    def backward(self, of_actions: torch.Tensor) -> None:
        """Gradients of the networks from that at the newest actions (B, nu); the decoder gets none."""
        if self._reach:
            of_actions = of_actions * self._inside
            of_net = torch.addcmul(of_actions, of_actions, self._moved.square(), value=-1.0).mul_(self._reach)
            of_inputs = self.networks["perturbation"].backward(of_net[None], inputs=True)
            assert of_inputs is not None
            of_actions = of_actions + of_inputs[0, :, self._nobs :]
        of_latent = self._cvae.backward(of_actions, parameters=False)
        of_net = torch.addcmul(of_latent, of_latent, self._squashed.square(), value=-1.0).mul_(self._range)
        self.networks["actor"].backward(of_net[None])
