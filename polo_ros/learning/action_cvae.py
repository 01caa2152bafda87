"""A conditional variational autoencoder of actions: what PLAS knows of the data.

Zhou et al. 2020, "PLAS: Latent Action Space for Offline Reinforcement Learning", section 4.1, after Sohn et al. 2015.
Gradients are taken by hand; test_plas.py holds them against autograd.
"""

from __future__ import annotations

import numpy as np
import torch

from polo_ros.learning.mlp import Mlp
from polo_ros.learning.plas_config import PlasConfig, decoder_sizes, encoder_sizes, latent_size

# Bounds of the encoder's log standard deviation, of the public code.
LOW, HIGH = -4.0, 15.0


class ActionCvae:
    """Encoder q(z | s, a) = N(mean, std), decoder a = tanh(net(s, z)), prior p(z) = N(0, 1).

    Actions are in -1 .. 1.

    Args:
        config: Sizes.
        nobs: Entries of an observation.
        nu: Entries of an action.
        rng: Draws the start.
    """

    def __init__(self, config: PlasConfig, nobs: int, nu: int, rng: np.random.Generator) -> None:
        self.nobs, self.nz = nobs, latent_size(config, nu)
        self.encoder = Mlp(1, encoder_sizes(config, nobs, nu), rng)
        self.decoder = Mlp(1, decoder_sizes(config, nobs, nu), rng)
        self._actions = torch.empty(0)  # newest of `decode`

    def decode(self, observations: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        """Actions (B, nu) of latent actions (B, nz) at observations (B, nobs)."""
        self._actions = torch.tanh(self.decoder.forward(torch.cat((observations, latent), dim=1))[0])
        return self._actions

    def backward(self, of_actions: torch.Tensor, *, parameters: bool) -> torch.Tensor:
        """Gradient at the latent actions (B, nz) from that at the newest decoded actions (B, nu).

        Args:
            of_actions: (B, nu).
            parameters: Write the gradient of the decoder's parameters as well.
        """
        of_net = torch.addcmul(of_actions, of_actions, self._actions.square(), value=-1.0)
        of_inputs = self.decoder.backward(of_net[None], parameters=parameters, inputs=True)
        assert of_inputs is not None
        return of_inputs[0, :, self.nobs :]

    def descend(self, inputs: torch.Tensor, noise: torch.Tensor, divergence: float) -> tuple[float, float]:
        """Gradients of the loss: mean squared error of actions, plus `divergence` x KL(q || p).

        Both are means over batch and entries, as in the public code: the bound on the likelihood up to factors.

        Args:
            inputs: Observations and actions, (B, nobs + nu).
            noise: Standard normal, (B, nz).
            divergence: Factor of the second term.

        Returns:
            The mean squared error, and the KL divergence, a mean over entries, nat.
        """
        observations, actions = inputs[:, : self.nobs], inputs[:, self.nobs :]
        encoded = self.encoder.forward(inputs)[0]
        mean, raw = encoded[:, : self.nz], encoded[:, self.nz :]
        log_std = raw.clamp(LOW, HIGH)
        std = log_std.exp()
        error = self.decode(observations, torch.addcmul(mean, std, noise)) - actions
        of_latent = self.backward(error.mul(2.0 / error.numel()), parameters=True)
        share = divergence / mean.numel()
        variance = std.square()
        of_mean = torch.add(of_latent, mean, alpha=share)
        of_log_std = (of_latent * noise).mul_(std).add_(variance - 1.0, alpha=share)
        of_log_std[(raw < LOW) | (raw > HIGH)] = 0.0
        self.encoder.backward(torch.cat((of_mean, of_log_std), dim=1)[None])
        kl = 0.5 * (mean.square() + variance - 2.0 * log_std - 1.0).mean()
        return float(error.square().mean()), float(kl)
