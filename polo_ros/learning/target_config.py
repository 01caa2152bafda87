"""Settings of the value targets, apart from what needs torch."""

from __future__ import annotations

from dataclasses import dataclass

from polo_ros.config import Config, option


@dataclass(frozen=True)
class TargetConfig(Config):
    """Settings of the trajectory optimisation behind value targets. The paper names none of them."""

    horizon: int = option(16, "control periods that a target looks ahead, N of eq. 7", low=1, high=1000)
    rollouts: int = option(16, "action sequences tried from each state", low=1, high=10_000)
    iterations: int = option(1, "times that the sequences are drawn anew around the best", low=1, high=100)
    sigma: float = option(
        0.2, "standard deviation of the noise before the filter", unit="half control range", low=0.0, high=10.0
    )
    filter_b0: float = option(1.0, "noise filter: n_t = b0 e_t + b1 n_(t-1)", low=0.0, high=1.0)
    filter_b1: float = option(0.0, "noise filter, see filter_b0", low=-1.0, high=1.0)
    choice: str = option(
        "member",
        "whose value chooses a state's best sequence: each member's own, as eq. 7, or the mean of all; "
        "what a member is then taught is its own value of it either way",
        choices=("member", "mean"),
    )
    batch: int = option(1024, "rollouts simulated at once; bounds the memory", low=1, high=1_000_000)
