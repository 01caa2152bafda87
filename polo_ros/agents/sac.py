"""Soft actor-critic: no model and no planning, the actor acts.

Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications"; the learning part of LOOP (Sikchi et al. 2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from polo_ros.agents.online import EvaluationConfig, OnlineRun
from polo_ros.config import Config
from polo_ros.learning.actor_critic import KIND, ActionRange, ActorCriticConfig, ActorPolicy, shapes
from polo_ros.learning.sac_config import SacConfig
from polo_ros.learning.weights import Arrays, decode
from polo_ros.planners.base import PlanResult
from polo_ros.safety.timeline import TimedPlan
from polo_ros.seeding import StepStreams, Stream
from polo_ros.tasks.base import FloatArray, Task

if TYPE_CHECKING:
    from polo_ros.learning.sac_learner import SacLearner


@dataclass(frozen=True)
class SacAgentConfig(Config):
    """Settings of the agent; the names of its parts prefix the parameters, `sac.batch_size`."""

    networks: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    sac: SacConfig = field(default_factory=SacConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


class SacPlanner:
    """An AgentPlanner that asks the actor, and holds its action for the length of a plan.

    Exploring it plays random actions within the actuators' range for `sac.warmup` control periods, and until there are
    weights, and draws from the actor then. Otherwise it takes the actor's mean, and rests until there are weights.

    Args:
        task: Observations and actions.
        config: Settings of the agent.
        seed: Of the noise.
        exploring: See above.
    """

    kind = KIND
    horizon = 10

    def __init__(self, task: Task, config: SacAgentConfig, seed: int, exploring: bool = True) -> None:
        self.task = task
        self.config = config
        self.weights_version = 0
        self._exploring = exploring
        self._range = ActionRange(task)
        self._streams = StepStreams(seed, Stream.PLANNING)
        self._policy: ActorPolicy | None = None
        self._plan_id = 0

    def check_weights(self, data: bytes) -> Arrays:
        """Arrays of a safetensors file if they fit; raises WeightsError."""
        return decode(data, shapes(self.config.networks, self.task.observation_spec.size, self.task.model.nu))

    def use_weights(self, arrays: Arrays, version: int) -> None:
        """Act with checked weights from the next plan on."""
        self._policy = ActorPolicy(self.task, self.config.networks, arrays)
        self.weights_version = version

    def configure(self, config: SacAgentConfig) -> None:
        """Take changed settings from the next plan on."""
        self.config = config

    def start(self, state: FloatArray) -> FloatArray:
        """The observation (nobs,) at a physics state (nstate,)."""
        return self.task.observe(self.task.sense(state))

    def predict(self, start: FloatArray, actions: FloatArray) -> FloatArray:
        """The observation as it is: without a model nothing is known of what comes."""
        return start

    def plan(
        self, start: FloatArray, state_step: int, first_step: int, episode: int, deadline: float = math.inf
    ) -> tuple[TimedPlan, PlanResult]:
        """The actor's action at observation `start` (nobs,), `horizon` times; see AgentPlanner."""
        self._plan_id += 1
        actions = np.tile(self._action(start, state_step), (self.horizon, 1))
        return TimedPlan(self._plan_id, state_step, first_step, episode, actions), unplanned(actions)

    def close(self) -> None:
        """There are no threads."""

    def _action(self, observation: FloatArray, step: int) -> FloatArray:
        if not self._exploring:
            return self.task.resting_action if self._policy is None else self._policy.mean(observation)
        rng = self._streams.at(step)
        if self._policy is None or step < self.config.sac.warmup:
            return self._range.physical(rng.uniform(-1.0, 1.0, self.task.model.nu))
        return self._policy.sample(observation, rng)


def unplanned(actions: FloatArray) -> PlanResult:
    """Actions (H, nu) that no search has found."""
    return PlanResult(
        actions=actions,
        rollouts=0,
        rollouts_asked=0,
        invalid_rollouts=0,
        best_score=0.0,
        mean_score=0.0,
        effective_samples=0.0,
        value_gate=0.0,
        value_spread=0.0,
    )


def make_learner(task: Task, config: SacAgentConfig, seed: int) -> SacLearner:
    """Who learns for the agent."""
    from polo_ros.learning.sac_learner import SacLearner  # torch: actors do without

    return SacLearner(task, networks=config.networks, config=config.sac, seed=seed)


def make_run(task: Task, config: SacAgentConfig, *, seed: int, learn: bool = True) -> OnlineRun:
    """The agent in one process; arguments as of OnlineRun."""
    planners = SacPlanner(task, config, seed), SacPlanner(task, config, seed, exploring=False)
    return OnlineRun(task, config.evaluation, planners, make_learner(task, config, seed), seed, learn)
