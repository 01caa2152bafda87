"""Settings of `polo train`, which planners read without torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from polo_ros.config import Config, option
from polo_ros.dynamics.ensemble_config import EnsembleConfig
from polo_ros.learning.actor_critic import ActorCriticConfig
from polo_ros.learning.crr_config import CrrConfig
from polo_ros.learning.fit_config import FitConfig
from polo_ros.learning.mbop_config import MbopConfig
from polo_ros.learning.plas_config import PlasConfig

ALGORITHMS = ("crr", "plas", "mbop")


@dataclass(frozen=True)
class TrainConfig(Config):
    """What is the same for all algorithms."""

    updates: int = option(500_000, "updates of actor and critics", low=1, high=1_000_000_000)
    batch_size: int = option(256, "transitions an update", low=1, high=100_000)
    discount: float = option(0.0, "discount a control period, gamma; 0: the task's", low=0.0, high=1.0)
    standardise: bool = option(
        True, "networks see observations with mean 0 and deviation 1 in the data; false: in the task's scales"
    )
    holdout: float = option(
        0.05,
        "share of the data, 4096 rows at most, that is held out for the figures that a training ends with",
        low=0.0,
        high=0.9,
    )
    model: bool = option(True, "fit a dynamics ensemble to the same data")
    model_transitions: int = option(
        200_000, "transitions that it is fitted to at most: runs of the data, drawn once", low=2, high=100_000_000
    )
    log_every: int = option(500, "updates between two lines of the log", low=1, high=1_000_000_000)
    save_every: int = option(5000, "updates between two checkpoints", low=1, high=1_000_000_000)


@dataclass(frozen=True)
class OfflineConfig(Config):
    """Settings of a training; the names of its parts prefix the parameters, `crr.temperature`."""

    networks: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    crr: CrrConfig = field(default_factory=CrrConfig)
    plas: PlasConfig = field(default_factory=PlasConfig)
    mbop: MbopConfig = field(default_factory=MbopConfig)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
