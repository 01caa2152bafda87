"""Soft actor-critic: one gradient step of critics, actor and temperature.

Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications", as LOOP (Sikchi et al. 2021, "Learning Off-Policy
with Online Planning") uses it. Gradients are taken by hand: see `Mlp`, `Actor.backward` and
`Critic.value_and_action_gradient`, which test_sac.py holds against autograd.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from polo_ros.learning.actor import Actor
from polo_ros.learning.actor_critic import ActorCriticConfig, reduce_members
from polo_ros.learning.critic import Critic
from polo_ros.learning.mlp import Adam
from polo_ros.learning.sac_config import SacConfig

__all__ = ["Batch", "Sac", "SacConfig", "SacLosses"]


@dataclass(frozen=True)
class Batch:
    """Transitions of one gradient step, as networks see them: float32, actions in -1 .. 1."""

    inputs: torch.Tensor  # (B, nobs + nu) observation and action
    reward: torch.Tensor  # (B,)
    next_observation: torch.Tensor  # (B, nobs)
    not_terminal: torch.Tensor  # (B,) 0 where the next state is terminal, else 1; an episode that was only cut goes on
    next_action: torch.Tensor | None = None  # (B, nu) what was played at the next state, for `next_action = played`


@dataclass(frozen=True)
class SacLosses:
    """How one gradient step, or the mean of several, went."""

    critic: float  # mean squared error, in squared units of reward
    actor: float  # mean of alpha log pi - Q
    value: float  # mean target
    entropy: float  # nat, of the actor's actions in -1 .. 1
    temperature: float


class Sac:
    """Actor, critics, their targets and the temperature.

    Args:
        networks: Sizes.
        config: Losses and rates.
        nobs: Entries of an observation.
        nu: Entries of an action.
        discount: Gamma.
        rng: Draws the start.
    """

    def __init__(
        self,
        networks: ActorCriticConfig,
        config: SacConfig,
        nobs: int,
        nu: int,
        discount: float,
        rng: np.random.Generator,
    ) -> None:
        self.config = config
        self.nobs = nobs
        self.discount = discount
        self.target_entropy = config.target_entropy or -float(nu)
        self.actor = Actor(networks, nobs, nu, rng)
        self.critic = Critic(networks, nobs, nu, rng)
        self.target = Critic(networks, nobs, nu, rng)
        self.target.net.theta.copy_(self.critic.net.theta)
        self.log_temperature = torch.full((1,), math.log(config.temperature))
        self._of_log_temperature = torch.zeros(1)
        self.adams = {
            "actor": Adam(self.actor.net.theta, self.actor.net.grad, config.actor_rate),
            "critic": Adam(self.critic.net.theta, self.critic.net.grad, config.critic_rate),
            "temperature": Adam(self.log_temperature, self._of_log_temperature, config.temperature_rate),
        }

    @property
    def temperature(self) -> float:
        """alpha, what a nat of entropy is worth, in units of reward."""
        return float(self.log_temperature.exp())

    def step(self, batch: Batch, noise: torch.Tensor) -> SacLosses:
        """One gradient step of everything.

        Args:
            batch: Transitions.
            noise: Standard normal, (2, B, nu): of actions at next observations and at observations.
        """
        targets = self.targets(batch, noise[0])
        critic = self.critic.regress(batch.inputs, targets)
        self.adams["critic"].step()

        observations = batch.inputs[:, : self.nobs]
        actions, log_probs = self.actor.sample(observations, noise[1])
        values, slopes = self.critic.value_and_action_gradient(
            torch.cat((observations, actions), dim=1), self.config.actor_value
        )
        temperature, log_prob = self.temperature, float(log_probs.mean())
        share = 1.0 / len(slopes)
        self.actor.backward(slopes.mul(-share), temperature * share)
        self.adams["actor"].step()

        # J = -log alpha (log pi + target entropy): the sign of the paper's eq. 18, and no slower where alpha is small.
        self._of_log_temperature.fill_(-log_prob - self.target_entropy)
        if self.config.temperature_rate:
            self.adams["temperature"].step()
        self.target.net.polyak_update(self.critic.net, self.config.target_share)
        actor = temperature * log_prob - float(values.mean())
        return SacLosses(float(critic), actor, float(targets.mean()), -log_prob, temperature)

    def targets(self, batch: Batch, noise: torch.Tensor) -> torch.Tensor:
        """What the critics are to be at the batch, (B,).

        `actor`: r + gamma (Q'(s', a') - alpha log pi(a' | s')), a' drawn from the actor at s'. `played`: r +
        gamma Q'(s', a'), a' the action played at s'. Q' is that of the target critics, 0 at terminal s'.
        """
        if self.config.next_action == "played":
            if batch.next_action is None:
                raise ValueError("next_action is 'played', and the batch has no next actions")
            following = self._ahead(batch.next_observation, batch.next_action)
        else:
            actions, log_probs = self.actor.sample(batch.next_observation, noise)
            following = self._ahead(batch.next_observation, actions)
            following = following.sub(log_probs, alpha=self.temperature)
        return torch.addcmul(batch.reward, batch.not_terminal, following, value=self.discount)

    def _ahead(self, observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        members = self.target.members(torch.cat((observations, actions), dim=1))
        return torch.as_tensor(reduce_members(members, self.config.target_value))

    # ---- all of it, to be kept -------------------------------------------------------------

    def vectors(self) -> dict[str, torch.Tensor]:
        """Everything that a gradient step changes, but for the counts of `adams`: the tensors themselves."""
        out = {
            "actor": self.actor.net.theta,
            "critic": self.critic.net.theta,
            "target": self.target.net.theta,
            "log_temperature": self.log_temperature,
        }
        for name, adam in self.adams.items():
            out[f"adam.{name}.mean"], out[f"adam.{name}.square"] = adam.mean, adam.square
        return out
