"""Settings of PLAS and the sizes of its networks, which planners read without torch."""

from __future__ import annotations

from dataclasses import dataclass

from polo_ros.config import Config, option
from polo_ros.learning.actor_critic import ActorCriticConfig

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class PlasConfig(Config):
    """Losses of PLAS. Defaults are those of its public code where nothing else is said."""

    cvae_updates: int = option(
        500_000, "updates of the autoencoder of actions, before those of actor and critics", low=1, high=1_000_000_000
    )
    cvae_hidden: int = option(750, "units of its hidden layers", low=1, high=4096)
    cvae_layers: int = option(2, "its hidden layers, with ReLU", low=1, high=8)
    cvae_rate: float = option(1e-4, "learning rate of its Adam", low=1e-9, high=1.0)
    cvae_divergence: float = option(
        0.5, "what a nat of divergence from the prior is worth in its loss, in squared actions", low=0.0, high=1e3
    )
    latent: int = option(0, "entries of a latent action; 0: two for each actuator", low=0, high=1000)
    latent_range: float = option(
        2.0, "how far latent actions of the actor go, in deviations of their prior", low=1e-3, high=100.0
    )
    perturbation: float = option(
        0.0,
        "how far the decoded action may be moved, in half control ranges; 0: not at all, which keeps to the data",
        low=0.0,
        high=1.0,
    )
    min_share: float = option(
        0.75, "lambda of targets, lambda min + (1 - lambda) max of the target critics", low=0.0, high=1.0
    )
    actor_rate: float = option(1e-4, "learning rate of the actor's Adam", low=1e-9, high=1.0)
    critic_rate: float = option(1e-3, "learning rate of the critics' Adam", low=1e-9, high=1.0)
    target_share: float = option(
        0.005, "how far target actor and critics move to actor and critics in an update, tau", low=1e-9, high=1.0
    )


def latent_size(config: PlasConfig, nu: int) -> int:
    """Entries of a latent action, nz."""
    return config.latent or 2 * nu


def latent_actor_sizes(networks: ActorCriticConfig, config: PlasConfig, nobs: int, nu: int) -> Sizes:
    """Entries of the latent actor's input, hidden layers and output."""
    return (nobs, *[networks.hidden] * networks.layers, latent_size(config, nu))


def encoder_sizes(config: PlasConfig, nobs: int, nu: int) -> Sizes:
    """From observation and action to mean and log standard deviation of the latent action."""
    return (nobs + nu, *[config.cvae_hidden] * config.cvae_layers, 2 * latent_size(config, nu))


def decoder_sizes(config: PlasConfig, nobs: int, nu: int) -> Sizes:
    """From observation and latent action to the action before tanh."""
    return (nobs + latent_size(config, nu), *[config.cvae_hidden] * config.cvae_layers, nu)


def perturbation_sizes(networks: ActorCriticConfig, nobs: int, nu: int) -> Sizes:
    """From observation and decoded action to the perturbation before tanh."""
    return (nobs + nu, *[networks.hidden] * networks.layers, nu)
