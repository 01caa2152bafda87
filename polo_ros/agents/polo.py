"""POLO: MPPI on the true model with a learned terminal value (Lowrey et al. 2019, Algorithm 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from polo_ros.config import Config
from polo_ros.dynamics.base import Dynamics
from polo_ros.dynamics.coarse import DynamicsConfig
from polo_ros.learning.learner_config import LearnerConfig
from polo_ros.learning.target_config import TargetConfig
from polo_ros.learning.value_function import KIND, ValueConfig, ValueFunction, shapes
from polo_ros.learning.weights import Arrays, decode, read_initial
from polo_ros.planners.base import PlanResult
from polo_ros.planners.mppi import Mppi, MppiConfig
from polo_ros.planners.objective import Objective, ObjectiveConfig
from polo_ros.safety.timeline import TimedPlan
from polo_ros.seeding import Stream, sequence
from polo_ros.tasks.base import FloatArray, Task


@dataclass(frozen=True)
class PoloConfig(Config):
    """Settings of the agent; the names of its parts prefix the parameters, `mppi.rollouts`."""

    mppi: MppiConfig = field(default_factory=MppiConfig)
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    value: ValueConfig = field(default_factory=ValueConfig)
    targets: TargetConfig = field(default_factory=TargetConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)


def required_version(step: int, update_every: int) -> int:
    """Version of the weights that a lockstep plan for control period `step` uses."""
    return step // update_every


class PoloPlanner:
    """Plans online: eq. 3 with eq. 6 as terminal reward.

    The noise of a plan depends on the seed and the step planned from only, so that a plan can be made
    again from its state, warm start and weights.
    """

    kind = KIND

    def __init__(self, task: Task, dynamics: Dynamics, config: PoloConfig, seed: int) -> None:
        self.task = task
        self.config = config
        self.seed = seed
        self.weights_version = 0
        self._objective = Objective(task, config=config.objective)
        self._dynamics = dynamics
        self._mppi = Mppi(task, dynamics, self._objective, config.mppi)
        self._arrays: Arrays | None = None
        self._value: ValueFunction | None = None
        self._shapes = shapes(config.value, task.observation_spec.size)
        if config.value.initial:
            arrays = read_initial(config.value.initial, KIND, task.name, task.model_hash, self._shapes)
            self.use_weights(arrays, version=0)
        self._episode = -1
        self._first_step = 0
        self._plan_id = 0
        # Streams of one generator, 2^64 draws apart: making a generator costs more than its numbers.
        self._bits = np.random.PCG64(sequence(seed, Stream.PLANNING))
        self._stream_0 = self._bits.state
        self._rng = np.random.Generator(self._bits)

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
        if self._arrays is not None:
            self.use_weights(self._arrays, self.weights_version)

    def plan(
        self, state: FloatArray, state_step: int, first_step: int, episode: int, deadline: float = math.inf
    ) -> tuple[TimedPlan, PlanResult]:
        """Plan for control periods from `first_step` on.

        Args:
            state: Physics state (nstate,) at the start of `first_step`, measured or predicted.
            state_step: Step of the measured state behind it.
            first_step: Control period in which the plan's first action takes effect.
            episode: A new one forgets the warm start.
            deadline: time.perf_counter() value, s, by which to answer.
        """
        if episode != self._episode:
            self._mppi.reset()
            self._episode = episode
        else:
            # A delay that shrank may put a plan before the last one's start: the warm start then stays.
            self._mppi.shift(first_step - self._first_step)
        self._first_step = first_step
        result = self._mppi.plan(state, self._noise(state_step), deadline)
        self._plan_id += 1
        return TimedPlan(self._plan_id, state_step, first_step, episode, result.actions), result

    def _noise(self, step: int) -> np.random.Generator:
        self._bits.state = self._stream_0
        self._bits.advance(step << 64)
        return self._rng

    def predict(self, state: FloatArray, actions: FloatArray) -> FloatArray:
        """The state after actions (T, nu), which the robot is going to play in the meantime."""
        return self._dynamics.advance(state, actions)
