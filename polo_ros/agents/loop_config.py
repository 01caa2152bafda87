"""Settings of LOOP and its baselines, which every process reads without torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from polo_ros.agents.online import EvaluationConfig
from polo_ros.config import Config, option
from polo_ros.dynamics.coarse import DynamicsConfig
from polo_ros.dynamics.ensemble_config import EnsembleConfig, PredictionConfig
from polo_ros.learning.actor_critic import REDUCTIONS, ActorCriticConfig
from polo_ros.learning.fit_config import FitConfig
from polo_ros.learning.sac_config import SacConfig
from polo_ros.planners.arc import ArcConfig
from polo_ros.planners.cem import CemConfig
from polo_ros.planners.constraint import ConstraintConfig


@dataclass(frozen=True)
class LookaheadConfig(Config):
    """What is planned in, by what, and what for."""

    search: str = option("arc", "who plans: ARC, or CEM, which knows no actor", choices=("arc", "cem"))
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
class LoopConfig(Config):
    """Settings of the agent; the names of its parts prefix the parameters, `arc.rollouts`."""

    lookahead: LookaheadConfig = field(default_factory=LookaheadConfig)
    arc: ArcConfig = field(default_factory=ArcConfig)
    cem: CemConfig = field(default_factory=CemConfig)
    constraint: ConstraintConfig = field(default_factory=ConstraintConfig)
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    prediction: PredictionConfig = field(default_factory=PredictionConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    networks: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    sac: SacConfig = field(default_factory=SacConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        pessimism, prediction, elites = self.lookahead.pessimism, self.prediction, self.ensemble.used
        if pessimism and self.lookahead.model == "learned" and not prediction.members(self.ensemble):
            raise ValueError(
                f"lookahead.pessimism = {pessimism} is over elites, each of which needs particles of its own: "
                f"prediction.propagation = '{prediction.propagation}' must be 'tsinf', and "
                f"prediction.particles = {prediction.particles} a multiple of {elites} elites"
            )
