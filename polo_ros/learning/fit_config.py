"""How a dynamics ensemble is fitted: settings, which planners read without torch."""

from __future__ import annotations

from dataclasses import dataclass

from polo_ros.config import Config, option


@dataclass(frozen=True)
class FitConfig(Config):
    """One fit. Defaults are those of LOOP's public code, but for `holdout_run` and what is said of it below."""

    every: int = option(250, "control periods between two fits", low=1, high=100_000_000)
    min_transitions: int = option(
        250, "transitions below which a fit is refused; LOOP fits every 250 steps, first of all", low=2, high=1_000_000
    )
    learning_rate: float = option(1e-3, "of Adam", low=1e-9, high=1.0)
    batch_size: int = option(256, "transitions a gradient step, of each member", low=1, high=1_000_000)
    weight_decay: tuple[float, ...] = option(
        (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4),
        "d of d sum(W^2) / 2, of each layer; one number: of all",
        low=0.0,
        high=1e3,
    )
    holdout: float = option(0.2, "share of the transitions held out", low=0.001, high=0.9)
    holdout_run: int = option(
        8,
        "length of the contiguous runs that are held out; errors of several steps are told up to this length, at most "
        "8. Use an episode's where neighbouring transitions give those held out away. 1: single transitions, as LOOP",
        low=1,
        high=1000,
    )
    shuffle: bool = option(
        False,
        "let what the task says is interchangeable in an observation, such as landmarks, change places anew for every "
        "epoch; a task that names nothing is left as it is",
    )
    criterion: str = option(
        "mse",
        "hold-out error that epochs and elites are chosen by: mean squared error, as LOOP, or the loss itself, which "
        "waits for the variances as well",
        choices=("mse", "nll"),
    )
    improvement: float = option(
        0.01,
        "drop of a member's hold-out error that keeps a fit going: of mse relative, of nll absolute",
        low=0.0,
        high=1.0,
    )
    patience: int = option(5, "epochs without such a drop in any member that a fit goes on for", low=0, high=100_000)
    max_epochs: int = option(0, "epochs after which a fit ends; 0: none, as LOOP", low=0, high=1_000_000)
    max_steps: int = option(0, "gradient steps after which a fit ends; 0: none, as LOOP", low=0, high=1_000_000_000)
    train_bounds: bool = option(False, "train the bounds of the log-variance, as PETS; LOOP does not")
    bound_penalty: float = option(
        0.01, "factor of the sum of upper minus lower bounds in the loss, where they are trained", low=0.0, high=1e3
    )
