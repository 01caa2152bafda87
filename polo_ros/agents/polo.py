"""POLO: MPPI on the true model with a learned terminal value (Lowrey et al. 2019, Algorithm 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from polo_ros.config import Config
from polo_ros.dynamics.base import Dynamics
from polo_ros.dynamics.coarse import DynamicsConfig
from polo_ros.learning.learner_config import LearnerConfig
from polo_ros.learning.target_config import TargetConfig
from polo_ros.learning.value_function import KIND, ValueConfig, ValueFunction, shapes
from polo_ros.learning.weights import Arrays, decode, read_initial
from polo_ros.planners.base import PlanResult
from polo_ros.planners.constraint import ConstraintConfig
from polo_ros.planners.mppi import Mppi, MppiConfig
from polo_ros.planners.objective import Objective, ObjectiveConfig
from polo_ros.safety.timeline import TimedPlan
from polo_ros.seeding import StepStreams, Stream
from polo_ros.tasks.base import FloatArray, Task


@dataclass(frozen=True)
class PoloConfig(Config):
    """Settings of the agent; the names of its parts prefix the parameters, `mppi.rollouts`."""

    mppi: MppiConfig = field(default_factory=MppiConfig)
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    constraint: ConstraintConfig = field(default_factory=ConstraintConfig)
    value: ValueConfig = field(default_factory=ValueConfig)
    targets: TargetConfig = field(default_factory=TargetConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)


class PoloPlanner:
    """Plans online: eq. 3 with eq. 6 as terminal reward. An AgentPlanner; `close` closes its dynamics."""

    kind = KIND

    def __init__(self, task: Task, dynamics: Dynamics, config: PoloConfig, seed: int) -> None:
        self.task = task
        self.config = config
        self.seed = seed
        self.weights_version = 0
        self._objective = Objective(task, config=config.objective)
        self._objective.constraint = config.constraint
        self._dynamics = dynamics
        self._mppi = Mppi(task, dynamics, self._objective, config.mppi)
        self.horizon = config.mppi.horizon
        self._arrays: Arrays | None = None
        self._value: ValueFunction | None = None
        self._shapes = shapes(config.value, task.observation_spec.size)
        if config.value.initial:
            arrays = read_initial(config.value.initial, KIND, task.name, task.model_hash, self._shapes)
            self.use_weights(arrays, version=0)
        self._episode = -1
        self._first_step = 0
        self._plan_id = 0
        self._streams = StepStreams(seed, Stream.PLANNING)

    def check_weights(self, data: bytes) -> Arrays:
        """Arrays of a safetensors file if they fit; raises WeightsError."""
        arrays = decode(data, self._shapes)
        ValueFunction(self.config.value, arrays)
        return arrays

    def use_weights(self, arrays: Arrays, version: int) -> None:
        """Plan with checked weights from the next plan on."""
        self._arrays = arrays
        self._value = self._objective.value = ValueFunction(self.config.value, arrays)
        self.weights_version = version

    @property
    def value(self) -> ValueFunction | None:
        """The learned value in use; None before the first weights."""
        return self._value

    def configure(self, config: PoloConfig) -> None:
        """Take changed settings from the next plan on; the warm start stays."""
        self.config = config
        self._mppi.config = config.mppi
        self._objective.config = config.objective
        self._objective.constraint = config.constraint
        if self._arrays is not None:
            self.use_weights(self._arrays, self.weights_version)

    def plan(
        self, start: FloatArray, state_step: int, first_step: int, episode: int, deadline: float = math.inf
    ) -> tuple[TimedPlan, PlanResult]:
        """Plan from physics state `start` (nstate,); see AgentPlanner."""
        if episode != self._episode:
            self._mppi.reset()
            self._episode = episode
        else:
            # A delay that shrank may put a plan before the last one's start: the warm start then stays.
            self._mppi.shift(first_step - self._first_step)
        self._first_step = first_step
        result = self._mppi.plan(start, self._streams.at(state_step), deadline)
        self._plan_id += 1
        return TimedPlan(self._plan_id, state_step, first_step, episode, result.actions), result

    def start(self, state: FloatArray) -> FloatArray:
        """The state itself: plans begin with it."""
        return state

    def predict(self, start: FloatArray, actions: FloatArray) -> FloatArray:
        """The state after actions (T, nu), which the robot is going to play in the meantime."""
        return self._dynamics.advance(start, actions)

    def close(self) -> None:
        """Stop the rollout threads."""
        self._dynamics.close()
