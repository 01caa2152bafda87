"""Settings of LOOP, its baselines and who plans with what was learned offline, read without torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from polo_ros.agents.online import EvaluationConfig
from polo_ros.config import Config, option
from polo_ros.dynamics.coarse import DynamicsConfig
from polo_ros.dynamics.ensemble_config import EnsembleConfig, PredictionConfig
from polo_ros.learning.actor_critic import REDUCTIONS, ActorCriticConfig
from polo_ros.learning.crr_config import CrrConfig
from polo_ros.learning.fit_config import FitConfig
from polo_ros.learning.mbop_config import MbopConfig
from polo_ros.learning.offline_config import OfflineConfig, TrainConfig
from polo_ros.learning.plas_config import PlasConfig
from polo_ros.learning.sac_config import SacConfig
from polo_ros.planners.arc import ArcConfig
from polo_ros.planners.cem import CemConfig
from polo_ros.planners.constraint import ConstraintConfig


@dataclass(frozen=True)
class LookaheadConfig(Config):
    """What is planned in, by what, and what for."""

    search: str = option(
        "arc", "who plans: ARC; CEM, which knows no actor; none: the actor alone acts", choices=("arc", "cem", "none")
    )
    model: str = option(
        "learned",
        "what is planned in: the learned ensemble, or the task's own MuJoCo model",
        choices=("learned", "mujoco"),
    )
    value: bool = option(True, "value the end of a plan by the critic; false: rewards alone count")
    critic: str = option(
        "first", "what plans make of the critics; LOOP's public code takes the first", choices=REDUCTIONS
    )
    form: str = option(
        "paper",
        "objective: discounted rewards and Q(s_H, pi(s_H)), eq. 3; or undiscounted rewards and Q of the last action, "
        "as LOOP's public code has it",
        choices=("paper", "published"),
    )
    pessimism: float = option(
        0.0,
        "a score is the mean over the elites, or the models of dynamics.members, less so many of their deviations: "
        "eq. 9; 0.5 to 5 for what was learned offline",
        low=0.0,
        high=1000.0,
        live=True,
    )


@dataclass(frozen=True)
class PlanningConfig(Config):
    """What is common to all that plan with an actor, its values and a model; see LoopPlanner."""

    lookahead: LookaheadConfig = field(default_factory=LookaheadConfig)
    arc: ArcConfig = field(default_factory=ArcConfig)
    cem: CemConfig = field(default_factory=CemConfig)
    constraint: ConstraintConfig = field(default_factory=ConstraintConfig)
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    prediction: PredictionConfig = field(default_factory=PredictionConfig)
    networks: ActorCriticConfig = field(default_factory=ActorCriticConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        pessimism, prediction, elites = self.lookahead.pessimism, self.prediction, self.ensemble.used
        if pessimism and self.lookahead.model == "learned" and not prediction.members(self.ensemble):
            raise ValueError(
                f"lookahead.pessimism = {pessimism} is over elites, each of which needs particles of its own: "
                f"prediction.propagation = '{prediction.propagation}' must be 'tsinf', and "
                f"prediction.particles = {prediction.particles} a multiple of {elites} elites"
            )


@dataclass(frozen=True)
class LoopConfig(PlanningConfig):
    """Settings of the agent; the names of its parts prefix the parameters, `arc.rollouts`."""

    fit: FitConfig = field(default_factory=FitConfig)
    sac: SacConfig = field(default_factory=SacConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


@dataclass(frozen=True)
class OfflineAgentConfig(PlanningConfig):
    """Settings of who plans with what was learned offline, and of the training: names mean the same in both."""

    crr: CrrConfig = field(default_factory=CrrConfig)
    plas: PlasConfig = field(default_factory=PlasConfig)
    mbop: MbopConfig = field(default_factory=MbopConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def training(self) -> OfflineConfig:
        """The settings of `polo train` among them."""
        return OfflineConfig(**{part.name: getattr(self, part.name) for part in dataclasses.fields(OfflineConfig)})
