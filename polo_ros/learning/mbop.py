"""The behaviour's own policy and value: what MBOP plans with, LOOP's offline baseline.

Argenson and Dulac-Arnold 2020, "Model-Based Offline Planning", as LOOP (Sikchi et al. 2021, section 6.2) describes it:
a policy that does as the record does, and the value of doing so; nothing is improved before planning. Two things
differ: the paper's policy also sees the action before, and its value is of states, where planners here ask for one of
actions.
"""

from __future__ import annotations

import numpy as np
import torch

from polo_ros.learning.actor import Actor
from polo_ros.learning.actor_critic import ActorCriticConfig
from polo_ros.learning.critic import Critic
from polo_ros.learning.mbop_config import MbopConfig
from polo_ros.learning.mlp import Adam, Mlp
from polo_ros.learning.offline_algorithm import before_tanh
from polo_ros.learning.sac import Batch

__all__ = ["Mbop", "MbopConfig"]


class Mbop:
    """Actor and critics of the behaviour: an OfflineAlgorithm.

    Args:
        networks: Sizes.
        config: Losses and rates.
        nobs: Entries of an observation.
        nu: Entries of an action.
        discount: Gamma.
        rng: Draws the start.
    """

    preparation = 0
    noise_shape = (0, 0)

    def __init__(
        self,
        networks: ActorCriticConfig,
        config: MbopConfig,
        nobs: int,
        nu: int,
        discount: float,
        rng: np.random.Generator,
    ) -> None:
        self.config = config
        self.nobs = nobs
        self.discount = discount
        self.actor = Actor(networks, nobs, nu, rng)
        self.critic, self.target = Critic(networks, nobs, nu, rng), Critic(networks, nobs, nu, rng)
        self.target.net.theta.copy_(self.critic.net.theta)
        self.networks: dict[str, Mlp] = {
            "actor": self.actor.net,
            "critic": self.critic.net,
            "target_critic": self.target.net,
        }
        self.adams = {
            "actor": Adam(self.actor.net.theta, self.actor.net.grad, config.actor_rate),
            "critic": Adam(self.critic.net.theta, self.critic.net.grad, config.critic_rate),
        }
        self.exported = ("actor", "critic")

    def prepare(self, batch: Batch, noise: torch.Tensor) -> dict[str, float]:
        """Nothing has to be learned first."""
        return {}

    def step(self, batch: Batch, noise: torch.Tensor) -> dict[str, float]:
        """One update of everything.

        Args:
            batch: Transitions with the next recorded actions; or none of these, `reward` then being what values are to
                be.
            noise: None is needed.

        Returns:
            Figures by name.
        """
        targets = self.targets(batch)
        error = self.critic.regress(batch.inputs, targets)
        observations, actions = batch.inputs[:, : self.nobs], batch.inputs[:, self.nobs :]
        gaussian = self.actor.gaussian(observations)
        log_probs = self.actor.imitate(
            gaussian, before_tanh(actions), torch.ones(len(actions)), self.config.log_std_low
        )
        for adam in self.adams.values():
            adam.step()
        self.target.net.polyak_update(self.critic.net, self.config.target_share)
        log_prob = float(log_probs.mean())
        return {
            "critic_loss": float(error),
            "actor_loss": -log_prob,
            "value": float(targets.mean()),
            "log_prob": log_prob,
        }

    def targets(self, batch: Batch) -> torch.Tensor:
        """What values are to be, r + gamma Q'(s', a'), (B,): a' the next recorded action, Q' the targets' mean."""
        if batch.next_action is None:
            return batch.reward
        members = self.target.members(torch.cat((batch.next_observation, batch.next_action), dim=1))
        return torch.addcmul(batch.reward, batch.not_terminal, members.mean(dim=0), value=self.discount)
