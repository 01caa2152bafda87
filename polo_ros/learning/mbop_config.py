"""Settings of behaviour cloning and the value of the behaviour, which other processes read without torch."""

from __future__ import annotations

from dataclasses import dataclass

from polo_ros.config import Config, option

VALUES = ("sarsa", "returns")


@dataclass(frozen=True)
class MbopConfig(Config):
    """Losses of the policy and the value of who made the record: what MBOP plans with."""

    value: str = option(
        "sarsa",
        "how values of the behaviour are learned: towards the value of the next recorded action, or towards what came "
        "until the trajectory's record ended, as MBOP",
        choices=VALUES,
    )
    return_steps: int = option(
        0, "control periods that returns add up; 0: all until the end of the record", low=0, high=1_000_000
    )
    actor_rate: float = option(3e-4, "learning rate of the actor's Adam", low=1e-9, high=1.0)
    critic_rate: float = option(3e-4, "learning rate of the critics' Adam", low=1e-9, high=1.0)
    target_share: float = option(
        0.005, "how far target critics move to the critics in an update, tau", low=1e-9, high=1.0
    )
    log_std_low: float = option(
        -4.0,
        "log standard deviation, before tanh, that the actor is not made narrower than",
        low=-15.0,
        high=1.0,
    )
