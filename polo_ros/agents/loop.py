"""LOOP: plans in a learned model, with an off-policy critic behind the horizon (Sikchi et al. 2021).

The baselines are the same parts, put together otherwise: see agents/configs.py.
"""

from __future__ import annotations

import math

import numpy as np

from polo_ros.agents.learned import Learned, WeightsReader
from polo_ros.agents.loop_config import LoopConfig, PlanningConfig
from polo_ros.agents.online import OnlineRun
from polo_ros.agents.sac import unplanned
from polo_ros.config import replace as changed
from polo_ros.dynamics import ensemble_config
from polo_ros.dynamics.base import Dynamics, StepwiseDynamics
from polo_ros.dynamics.coarse import for_planning
from polo_ros.dynamics.ensemble import EnsembleDynamics
from polo_ros.dynamics.ensemble_config import PredictionConfig
from polo_ros.dynamics.mujoco import MujocoDynamics
from polo_ros.learning import loop_weights
from polo_ros.learning.actor_critic import ActionRange, ActorPolicy, CriticFunction
from polo_ros.learning.loop_learner import LoopLearner
from polo_ros.learning.weights import Arrays, WeightsError, decode
from polo_ros.planners.actor_prior import ActorPrior
from polo_ros.planners.arc import Arc, ArcConfig
from polo_ros.planners.base import PlanResult
from polo_ros.planners.cem import Cem, CemConfig
from polo_ros.planners.lookahead import PolicyValue, PublishedLookahead
from polo_ros.planners.objective import Objective, ObjectiveConfig
from polo_ros.planners.policy import Policy
from polo_ros.safety.timeline import TimedPlan
from polo_ros.seeding import StepStreams, Stream
from polo_ros.tasks.base import FloatArray, Task


class LoopReader:
    """A WeightsReader of what LOOP learns while it acts.

    Args:
        task: What was learned.
        config: As the learner's.
    """

    kind = loop_weights.KIND

    def __init__(self, task: Task, config: LoopConfig) -> None:
        self.discount = config.sac.discount or task.discount
        self._task, self._config = task, config
        self._learned = config.lookahead.model == "learned"
        self._shapes = loop_weights.shapes(
            config.networks,
            config.ensemble if self._learned else None,
            task.observation_spec.size,
            task.model.nu,
        )

    def check(self, data: bytes) -> Arrays:
        """Arrays of a safetensors file if they fit; raises WeightsError."""
        arrays = decode(data, self._shapes)
        if self._learned:
            try:
                ensemble_config.check(loop_weights.split(arrays)[1])
            except ValueError as error:
                raise WeightsError(str(error)) from None
        return arrays

    def read(self, arrays: Arrays) -> Learned:
        """What planners need of arrays that passed `check`; a model that was not fitted yet is none."""
        model: Arrays | None = None
        if self._learned:
            arrays, drawn, fits = loop_weights.split(arrays)
            model = drawn if fits else None
        config = self._config
        critic = None
        if config.lookahead.value:
            critic = CriticFunction(self._task, config.networks, arrays, config.lookahead.critic)
        return Learned(ActorPolicy(self._task, config.networks, arrays), critic, model)


class LoopPlanner:
    """An AgentPlanner: eq. 3 by ARC, or by CEM, or the actor alone.

    Exploring it plays random actions within the actuators' range for `sac.warmup` control periods. It does so until
    there are weights, and a model that was fitted; otherwise it does meanwhile what the actor does, or rests.

    Args:
        task: What is planned for.
        config: Settings of the agent.
        seed: Of all noise.
        exploring: See above; without it a plan is the mean of the search, whatever `arc.executed` says.
        threads: Rollout threads of a MuJoCo model; 0: one a core.
        reader: Makes policy, values and model of weights; None: of LOOP's own, for which config is a LoopConfig.
    """

    def __init__(
        self,
        task: Task,
        config: PlanningConfig,
        seed: int,
        exploring: bool = True,
        threads: int = 0,
        reader: WeightsReader | None = None,
    ) -> None:
        self.task = task
        self.weights_version = 0
        self._exploring = exploring
        self._warmup = config.sac.warmup if isinstance(config, LoopConfig) else 0
        self._learned = config.lookahead.model == "learned"
        if reader is None:
            if not isinstance(config, LoopConfig):
                raise TypeError(f"without a reader config must be a LoopConfig, and it is a {type(config).__name__}")
            reader = LoopReader(task, config)
        self._reader, self.kind = reader, reader.kind
        self._ensemble = config.ensemble  # of the weights: what else changes later, this does not
        self._range = ActionRange(task)
        self._streams = StepStreams(seed, Stream.PLANNING)
        self._model_seeds = StepStreams(seed, Stream.PREDICTION)
        self._objective: Objective
        if config.lookahead.form == "published":
            self._objective = PublishedLookahead(task)
        else:
            self._objective = Objective(task, discount=reader.discount)
        # In the task's own model the actor acts, and states are predicted; plans may be tried in several.
        self._true = None if self._learned else MujocoDynamics(task, threads)
        self._tried: Dynamics | None = self._true
        if not self._learned and not config.dynamics.exact:
            self._tried = for_planning(task, config.dynamics, threads, seed)
        self._models: tuple[EnsembleDynamics, EnsembleDynamics] | None = None
        self._search: Arc | Cem | None = None
        self._policy: Policy | None = None
        self.configure(config)
        self.horizon = self._searched().horizon
        self._episode, self._first_step, self._plan_id = -1, 0, 0

    def configure(self, config: PlanningConfig) -> None:
        """Take changed settings from the next plan on; the warm start stays."""
        if not self._exploring:
            config = changed(config, {"arc.executed": "mean"})
        self.config = config
        self._objective.constraint = config.constraint
        self._objective.config = ObjectiveConfig(pessimism=config.lookahead.pessimism)
        if isinstance(self._search, Arc):
            self._search.config = config.arc
        elif self._search is not None:
            self._search.config = config.cem

    # ---- weights ---------------------------------------------------------------------------

    def check_weights(self, data: bytes) -> Arrays:
        """Arrays of a safetensors file if they fit; raises WeightsError."""
        return self._reader.check(data)

    def use_weights(self, arrays: Arrays, version: int) -> None:
        """Plan with checked weights from the next plan on."""
        self.use(self._reader.read(arrays), version)

    def use(self, found: Learned, version: int) -> None:
        """Plan with what was learned from the next plan on; without a model the actor acts."""
        self.weights_version = version
        self._policy = found.policy
        if self._learned:
            if found.model is None:
                return
            self._use_model(found.model)
        if self.config.lookahead.value and found.critic is not None:
            self._objective.value = PolicyValue(found.critic, found.policy)
        if self._search is None and self.config.lookahead.search != "none":
            self._search = self._make_search()
        if isinstance(self._search, Arc):
            stepwise: StepwiseDynamics = self._true or self._model()[1]
            self._search.prior = ActorPrior(stepwise, found.policy)

    def _use_model(self, model: Arrays) -> None:
        if self._models is not None:
            for one in self._models:
                one.use(model)
            return
        config = self.config
        # The actor acts in one future that any elite may go on with, from step to step (LOOP's public code).
        acting = PredictionConfig("ts1", 1, config.prediction.sampled, config.prediction.rewards)
        self._models = (
            EnsembleDynamics(self.task, self._ensemble, config.prediction, model),
            EnsembleDynamics(self.task, self._ensemble, acting, model),
        )

    def _model(self) -> tuple[EnsembleDynamics, EnsembleDynamics]:
        if self._models is None:
            raise RuntimeError("no model was fitted yet")
        return self._models

    def _searched(self) -> ArcConfig | CemConfig:
        return self.config.cem if self.config.lookahead.search == "cem" else self.config.arc

    def _make_search(self) -> Arc | Cem:
        dynamics: Dynamics = self._tried or self._model()[0]
        if self.config.lookahead.search == "arc":
            return Arc(self.task, dynamics, self._objective, self.config.arc)
        return Cem(self.task, dynamics, self._objective, self.config.cem)

    # ---- planning --------------------------------------------------------------------------

    def start(self, state: FloatArray) -> FloatArray:
        """The observation (nobs,) at a physics state (nstate,), or that state for the task's own model."""
        return self.task.observe(self.task.sense(state)) if self._learned else state

    def predict(self, start: FloatArray, actions: FloatArray) -> FloatArray:
        """What plans begin with after actions (T, nu); as it is as long as there is no model."""
        if self._true is not None:
            return self._true.advance(start, actions)
        return start if self._models is None else self._models[0].advance(start, actions)

    def plan(
        self, start: FloatArray, state_step: int, first_step: int, episode: int, deadline: float = math.inf
    ) -> tuple[TimedPlan, PlanResult]:
        """Plan from an observation or a physics state, as `start` gives it; see AgentPlanner."""
        search = self._search
        if search is not None:
            # Whatever was planned before period 0 was of another run.
            if episode != self._episode or not first_step:
                search.reset()
            else:
                # A delay that shrank may put a plan before the last one's start: the warm start then stays.
                search.shift(first_step - self._first_step)
        self._episode, self._first_step = episode, first_step
        rng = self._streams.at(state_step)
        ready = search is not None or (self.config.lookahead.search == "none" and self._policy is not None)
        if self._exploring and (not ready or state_step < self._warmup):
            actions = self._range.physical(rng.uniform(-1.0, 1.0, (self.horizon, self.task.model.nu)))
            result = unplanned(actions)
        elif search is None:
            result = unplanned(self._held(start, rng if self._exploring else None))
        else:
            if self._models is not None:
                noise = self._model_seeds.at(state_step)
                for model in self._models:
                    model.seed(int(noise.integers(2**63)))
            result = search.plan(start, rng, deadline)
        self._plan_id += 1
        return TimedPlan(self._plan_id, state_step, first_step, episode, result.actions), result

    def actor(self, start: FloatArray, rng: np.random.Generator | None = None) -> FloatArray:
        """What the actor would do, (nu,) at what `start` gave, drawn with `rng`; rest as long as there is none."""
        if self._policy is None:
            return self.task.resting_action
        seen = start if self._learned else self.task.observe(self.task.sense(start))
        return self._policy.mean(seen) if rng is None else self._policy.sample(seen, rng)

    def _held(self, start: FloatArray, rng: np.random.Generator | None) -> FloatArray:
        return self.actor(start, rng)[None].repeat(self.horizon, axis=0)

    def close(self) -> None:
        """Stop the rollout threads."""
        for dynamics in (self._true, self._tried):
            if dynamics is not None:
                dynamics.close()


def make_learner(task: Task, config: LoopConfig, seed: int) -> LoopLearner:
    """Who learns for the agent."""
    return LoopLearner(
        task,
        networks=config.networks,
        config=config.sac,
        ensemble=config.ensemble if config.lookahead.model == "learned" else None,
        fit=config.fit,
        values=config.lookahead.value or config.lookahead.search != "cem",  # all else asks the actor
        seed=seed,
    )


def make_run(task: Task, config: LoopConfig, *, seed: int, threads: int = 0, learn: bool = True) -> OnlineRun:
    """The agent in one process; arguments as of OnlineRun and LoopPlanner."""
    planners = (
        LoopPlanner(task, config, seed, threads=threads),
        LoopPlanner(task, config, seed, exploring=False, threads=threads),
    )
    return OnlineRun(task, config.evaluation, planners, make_learner(task, config, seed), seed, learn)
