"""The actor: a Gaussian squashed by tanh (Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications").

As planners see it: `ActorPolicy` in `actor_critic.py`.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from polo_ros.learning.actor_critic import LOG_STD_HIGH, LOG_STD_LOW, ActorCriticConfig, actor_sizes
from polo_ros.learning.mlp import Mlp

_LOG_2 = math.log(2.0)
_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


class Actor:
    """pi(a | s): a = tanh(u), u ~ N(mean(s), std(s)), in -1 .. 1; `ActionRange` turns it into the robot's units.

    Densities are those of a in -1 .. 1. The gradient of what is made of a sample is taken by hand, by
    `backward`, of the newest `sample`.

    Args:
        config: Sizes.
        nobs: Entries of an observation.
        nu: Entries of an action.
        rng: Draws the start.
    """

    def __init__(self, config: ActorCriticConfig, nobs: int, nu: int, rng: np.random.Generator) -> None:
        self.net = Mlp(1, actor_sizes(config, nobs, nu), rng)
        self.nu = nu
        self._raw_log_std = self._std = self._noise = self._action = torch.empty(0)  # of the newest sample

    def gaussian(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log standard deviation of u, (B, nu) each, of network inputs (B, nobs)."""
        out = self.net.forward(observations)[0]
        self._raw_log_std = out[:, self.nu :]
        return out[:, : self.nu], self._raw_log_std.clamp(LOG_STD_LOW, LOG_STD_HIGH)

    def sample(self, observations: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Actions (B, nu) in -1 .. 1 and their log-probabilities (B,), by the reparameterisation u = mean + std noise.

        Args:
            observations: (B, nobs), as the network sees them.
            noise: (B, nu), standard normal.
        """
        mean, log_std = self.gaussian(observations)
        self._std, self._noise = log_std.exp(), noise
        u = torch.addcmul(mean, self._std, noise)
        self._action = torch.tanh(u)
        density = noise.square().mul_(-0.5).sub_(log_std).sub_(log_slope(u))
        return self._action, density.sum(dim=1) - self.nu * _HALF_LOG_2PI

    def backward(self, of_action: torch.Tensor, of_log_prob: float) -> None:
        """Gradient of the network's parameters, into `net.grad`, from that at the newest sample.

        With the noise held fixed, d log pi / d u = 2 a (what tanh adds: the Gaussian's own density does not change) and
        d log pi / d log std = 2 a std noise - 1.

        Args:
            of_action: Gradient of the loss at the actions, (B, nu).
            of_log_prob: At each log-probability.
        """
        of_u = torch.addcmul(of_action, of_action, self._action.square(), value=-1.0)
        of_u.add_(self._action, alpha=2.0 * of_log_prob)
        of_log_std = (of_u * self._std).mul_(self._noise).sub_(of_log_prob)
        of_log_std[(self._raw_log_std < LOG_STD_LOW) | (self._raw_log_std > LOG_STD_HIGH)] = 0.0
        self.net.backward(torch.cat((of_u, of_log_std), dim=1)[None])

    def imitate(
        self, gaussian: tuple[torch.Tensor, torch.Tensor], u: torch.Tensor, weights: torch.Tensor, floor: float
    ) -> torch.Tensor:
        """Gradient of minus the mean of `weights` log pi, into `net.grad`: weighted regression on actions.

        Deviations below exp(`floor`) count as that, so that actions that lie together do not draw the density to
        infinity, and are drawn back up, which keeps them there for whoever samples.

        Args:
            gaussian: Mean and log standard deviation, (B, nu) each, that the newest call of `gaussian` returned.
            u: Actions before tanh, (B, nu).
            weights: (B,).
            floor: Of the log standard deviation.

        Returns:
            Log-density of each action in -1 .. 1, (B,).
        """
        mean, log_std = gaussian
        below = log_std - floor
        narrow, log_std = below < 0.0, log_std.clamp(min=floor)
        precision = torch.exp(-log_std)
        noise = (u - mean).mul_(precision)
        density = noise.square().mul_(-0.5).sub_(log_std).sub_(log_slope(u)).sum(dim=1)
        share = (weights / len(u))[:, None]
        of_log_std = noise.square().neg_().add_(1.0).mul_(share)
        of_log_std[self._raw_log_std > LOG_STD_HIGH] = 0.0
        of_log_std[narrow] = below[narrow] / len(u)  # of the square of what is missing, halved
        of_mean = noise.mul_(precision).mul_(share).neg_()
        self.net.backward(torch.cat((of_mean, of_log_std), dim=1)[None])
        return density.sub_(self.nu * _HALF_LOG_2PI)

    def log_prob(self, observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Log-density (B,) of actions (B, nu), strictly between -1 and 1, at network inputs (B, nobs)."""
        mean, log_std = self.gaussian(observations)
        u = torch.atanh(actions)
        noise = (u - mean) * torch.exp(-log_std)
        return (-0.5 * noise.square() - log_std - log_slope(u)).sum(dim=1) - self.nu * _HALF_LOG_2PI


def log_slope(u: torch.Tensor) -> torch.Tensor:
    """Logarithm of d tanh(u) / d u = 1 - tanh(u)^2, in a form that is exact where tanh is 1 to the last digit."""
    return 2.0 * (_LOG_2 - u - torch.nn.functional.softplus(-2.0 * u))
