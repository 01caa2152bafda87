"""Critic regularised regression: one update of critics and actor from recorded transitions.

Wang et al. 2020, "Critic Regularized Regression", as LOOP (Sikchi et al. 2021, section 6.2) plans with it. Gradients
are taken by hand: see `Mlp`, `Actor.imitate` and `Critic.correct`, which test_crr.py holds against autograd.
"""

from __future__ import annotations

import numpy as np
import torch

from polo_ros.learning.actor import Actor
from polo_ros.learning.actor_critic import ActorCriticConfig, reduce_members
from polo_ros.learning.critic import Critic
from polo_ros.learning.crr_config import CrrConfig
from polo_ros.learning.mlp import Adam, Mlp
from polo_ros.learning.offline_algorithm import before_tanh
from polo_ros.learning.sac import Batch

__all__ = ["Crr", "CrrConfig", "advantage_weights"]


class Crr:
    """Actor and critics, and the targets that follow them: an OfflineAlgorithm.

    Args:
        networks: Sizes.
        config: Losses and rates.
        nobs: Entries of an observation.
        nu: Entries of an action.
        discount: Gamma.
        rng: Draws the start.
    """

    preparation = 0

    def __init__(
        self,
        networks: ActorCriticConfig,
        config: CrrConfig,
        nobs: int,
        nu: int,
        discount: float,
        rng: np.random.Generator,
    ) -> None:
        self.config = config
        self.nobs = nobs
        self.discount = discount
        self.actor, self.target_actor = Actor(networks, nobs, nu, rng), Actor(networks, nobs, nu, rng)
        self.critic, self.target = Critic(networks, nobs, nu, rng), Critic(networks, nobs, nu, rng)
        self.target_actor.net.theta.copy_(self.actor.net.theta)
        self.target.net.theta.copy_(self.critic.net.theta)
        self.networks: dict[str, Mlp] = {
            "actor": self.actor.net,
            "critic": self.critic.net,
            "target_actor": self.target_actor.net,
            "target_critic": self.target.net,
        }
        self.adams = {
            "actor": Adam(self.actor.net.theta, self.actor.net.grad, config.actor_rate),
            "critic": Adam(self.critic.net.theta, self.critic.net.grad, config.critic_rate),
        }
        self.exported = ("actor", "critic")
        self.noise_shape = (1 + config.samples, nu)
        self._critic_view = self.critic.with_own_buffers(config.advantage_value)  # of the actor's actions

    def prepare(self, batch: Batch, noise: torch.Tensor) -> dict[str, float]:
        """Nothing has to be learned first."""
        return {}

    def step(self, batch: Batch, noise: torch.Tensor) -> dict[str, float]:
        """One update of everything; both losses are those of the networks as they were before it.

        Args:
            batch: Transitions.
            noise: Standard normal, (1 + samples, B, nu): of actions at next observations, and of those that advantages
                are against.

        Returns:
            Figures by name.
        """
        targets = self.targets(batch, noise[0])
        observations, actions = batch.inputs[:, : self.nobs], batch.inputs[:, self.nobs :]
        mean, log_std = self.actor.gaussian(observations)
        baseline = self._baseline(observations, torch.tanh(mean + log_std.exp() * noise[1:]))
        members = self.critic.members(batch.inputs)
        advantages = reduce_members(members, self.config.advantage_value) - baseline
        error = self.critic.correct(members, targets)
        weights = advantage_weights(advantages, self.config)
        log_probs = self.actor.imitate((mean, log_std), before_tanh(actions), weights, self.config.log_std_low)

        for adam in self.adams.values():
            adam.step()
        self.target.net.polyak_update(self.critic.net, self.config.target_share)
        self.target_actor.net.polyak_update(self.actor.net, self.config.target_share)
        return {
            "critic_loss": float(error),
            "actor_loss": -float(torch.dot(weights, log_probs)) / len(weights),
            "value": float(targets.mean()),
            "advantage": float(advantages.mean()),
            "weight": float(weights.mean()),
            "log_prob": float(log_probs.mean()),
        }

    def targets(self, batch: Batch, noise: torch.Tensor) -> torch.Tensor:
        """What values are to be, r + gamma Q'(s', a'), (B,): a' drawn from the target actor with `noise` (B, nu).

        Q' is that of the target critics, 0 at terminal s'.
        """
        actions, _ = self.target_actor.sample(batch.next_observation, noise)
        members = self.target.members(torch.cat((batch.next_observation, actions), dim=1))
        following = torch.as_tensor(reduce_members(members, self.config.target_value))
        return torch.addcmul(batch.reward, batch.not_terminal, following, value=self.discount)

    def _baseline(self, observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Value (B,) of observations (B, nobs) by the actor's actions (m, B, nu) at each."""
        count, size, _ = actions.shape
        inputs = torch.cat((observations.expand(count, -1, -1), actions), dim=2).view(count * size, -1)
        members = self._critic_view.members(inputs)
        values = torch.as_tensor(reduce_members(members, self.config.advantage_value)).view(count, size)
        return values.mean(dim=0) if self.config.baseline == "mean" else values.amax(dim=0)


def advantage_weights(advantages: torch.Tensor, config: CrrConfig) -> torch.Tensor:
    """What actions count by their advantages (B,): f = 1[A > 0], or f = exp(A / beta), cut off (eqs. 3 and 4)."""
    if config.weights == "binary":
        return (advantages > 0.0).float()
    return torch.exp(advantages / config.temperature).clamp_(max=config.max_weight)
