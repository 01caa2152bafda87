"""Settings of critic regularised regression, which other processes read without torch."""

from __future__ import annotations

from dataclasses import dataclass

from polo_ros.config import Config, option
from polo_ros.learning.actor_critic import REDUCTIONS

WEIGHTS = ("exp", "binary")
BASELINES = ("mean", "max")


@dataclass(frozen=True)
class CrrConfig(Config):
    """Losses of critic regularised regression. Defaults are those of its public code (acme)."""

    weights: str = option(
        "exp",
        "what an action of the data counts by its advantage A: exp(A / temperature), or 1 where A > 0 and else 0",
        choices=WEIGHTS,
    )
    temperature: float = option(
        1.0, "advantage that makes a weight e times as large, beta", unit="reward", low=1e-9, high=1e9
    )
    max_weight: float = option(20.0, "where weights are cut off", low=1e-9, high=1e9)
    baseline: str = option(
        "mean",
        "value of a state that advantages are against: mean or largest of actions of the actor",
        choices=BASELINES,
    )
    samples: int = option(4, "actions of the actor that it is taken over", low=1, high=1000)
    advantage_value: str = option(
        "first", "what advantages make of the critics; the public code has but one", choices=REDUCTIONS
    )
    target_value: str = option("min", "what targets make of the target critics", choices=REDUCTIONS)
    actor_rate: float = option(3e-4, "learning rate of the actor's Adam", low=1e-9, high=1.0)
    critic_rate: float = option(3e-4, "learning rate of the critics' Adam", low=1e-9, high=1.0)
    target_share: float = option(
        0.005, "how far target actor and critics move to actor and critics in an update, tau", low=1e-9, high=1.0
    )
    log_std_low: float = option(
        -4.0,
        "log standard deviation, before tanh, that the actor is not made narrower than",
        low=-15.0,
        high=1.0,
    )
