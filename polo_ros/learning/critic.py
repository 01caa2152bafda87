"""Critics: action values Q(s, a) that learn side by side, and targets that follow them slowly.

As planners see them: `CriticFunction` in `actor_critic.py`.
"""

from __future__ import annotations

import copy

import numpy as np
import torch

from polo_ros.learning.actor_critic import ActorCriticConfig, critic_sizes, reduce_members
from polo_ros.learning.mlp import Mlp


class Critic:
    """K action values, in units of reward, evaluated as one batched program.

    Inputs (B, nobs + nu) are observation, as the network sees it, and action in -1 .. 1, side by side.

    Args:
        config: Sizes.
        nobs: Entries of an observation.
        nu: Entries of an action.
        rng: Draws the start.
    """

    def __init__(self, config: ActorCriticConfig, nobs: int, nu: int, rng: np.random.Generator) -> None:
        self.net = Mlp(config.critics, critic_sizes(config, nobs, nu), rng)
        self.nobs = nobs

    def members(self, inputs: torch.Tensor) -> torch.Tensor:
        """Each member's value, (K, B); a view of a buffer that the next call writes to."""
        return self.net.forward(inputs)[..., 0]

    def with_own_buffers(self, reduction: str) -> Critic:
        """The same critics, as far as `reduction` asks for them; as Mlp.with_own_buffers."""
        other = copy.copy(self)
        other.net = self.net.with_own_buffers(1 if reduction == "first" else 0)
        return other

    def regress(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Gradient of the squared error, a mean over the batch and a sum over the members, into `net.grad`.

        Args:
            inputs: (B, nobs + nu).
            targets: (B,), the same for all members.

        Returns:
            The squared error, a mean over batch and members.
        """
        return self.correct(self.members(inputs), targets)

    def correct(self, members: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """As `regress`, where the newest call of `members` was of these inputs and returned `members` (K, B)."""
        error = members - targets
        self.net.backward(error.mul(2.0 / len(targets))[..., None])
        return error.square().mean()

    def value_and_action_gradient(self, inputs: torch.Tensor, reduction: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Values (B,), reduced over the members, and their gradients at the actions (B, nu); parameters get none."""
        members = self.members(inputs)
        if reduction == "min":
            # One member a row, also where two are equal.
            share = torch.zeros_like(members).scatter_(0, members.argmin(dim=0, keepdim=True), 1.0)
        elif reduction == "mean":
            share = torch.full_like(members, 1.0 / len(members))
        else:
            share = torch.zeros_like(members)
            share[0] = 1.0
        values = reduce_members(members, reduction)
        of_inputs = self.net.backward(share[..., None], parameters=False, inputs=True)
        assert of_inputs is not None
        return values, of_inputs[..., self.nobs :].sum(dim=0)
