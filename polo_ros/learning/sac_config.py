"""When and how actor and critics are learned: settings, which other processes read without torch."""

from __future__ import annotations

from dataclasses import dataclass

from polo_ros.config import Config, option
from polo_ros.learning.actor_critic import REDUCTIONS


@dataclass(frozen=True)
class SacConfig(Config):
    """Schedule and losses of soft actor-critic. Defaults are those of LOOP's public code where nothing else is said."""

    update_every: int = option(50, "control periods between two updates", low=1, high=1_000_000)
    gradient_steps: int = option(50, "gradient steps an update", low=1, high=100_000)
    warmup: int = option(1000, "control periods of random actions, before the first update", low=0, high=100_000_000)
    batch_size: int = option(256, "transitions a gradient step", low=1, high=100_000)
    capacity: int = option(1_000_000, "transitions kept", low=1, high=100_000_000)
    discount: float = option(0.0, "discount a control period, gamma; 0: the task's", low=0.0, high=1.0)
    actor_rate: float = option(1e-3, "learning rate of the actor's Adam", low=1e-9, high=1.0)
    critic_rate: float = option(1e-3, "learning rate of the critics' Adam", low=1e-9, high=1.0)
    temperature_rate: float = option(
        1e-3, "learning rate of the temperature's Adam; 0: it stays as it begins", low=0.0, high=1.0
    )
    temperature: float = option(
        1.0, "what entropy is worth in the beginning, alpha", unit="reward", low=1e-12, high=1e12
    )
    target_entropy: float = option(
        0.0, "entropy that the temperature holds the actor at; 0: -1 for each actuator", unit="nat", low=-1e6, high=1e6
    )
    target_share: float = option(
        0.005, "how far target critics move to the critics in a gradient step, tau", low=1e-9, high=1.0
    )
    next_action: str = option(
        "actor",
        "action at the next state that targets are made with: the actor's (soft actor-critic), or the one that was "
        "played, without entropy (LOOP-SARSA)",
        choices=("actor", "played"),
    )
    target_value: str = option("min", "what targets make of the target critics", choices=REDUCTIONS)
    actor_value: str = option("min", "what the actor climbs", choices=REDUCTIONS)
