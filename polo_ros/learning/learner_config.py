"""When and how the value is learned: settings of the learner, which planners read without torch."""

from __future__ import annotations

from dataclasses import dataclass

from polo_ros.config import Config, option


@dataclass(frozen=True)
class LearnerConfig(Config):
    """Schedule and regression. Defaults are the paper's humanoid (appendix A) where it names them."""

    update_every: int = option(16, "control periods between two updates, Z", low=1, high=1_000_000)
    gradient_steps: int = option(64, "steps of Adam an update, G", low=1, high=100_000)
    batch_size: int = option(32, "states a gradient step, n", low=1, high=100_000)
    target_states: int = option(
        0,
        "states that targets are planned for in one update; 0: n G, every gradient step its own, as Algorithm 1. "
        "Fewer are used several times within the update",
        low=0,
        high=1_000_000,
    )
    bootstrap: str = option(
        "step",
        "values at the end of a target: those of each gradient step, as Algorithm 1, or those before the update",
        choices=("step", "update"),
    )
    learning_rate: float = option(1e-3, "of Adam", low=1e-9, high=1.0)
    capacity: int = option(20_000, "transitions kept", low=1, high=100_000_000)
    min_transitions: int = option(16, "transitions before the first regression", low=1, high=1_000_000)
    normaliser_transitions: int = option(
        3000, "transitions that the normalisation of observations is taken over", low=1, high=1_000_000_000
    )
