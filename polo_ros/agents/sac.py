"""Soft actor-critic in one process: no model and no planning, the actor acts.

Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications"; the learning part of LOOP (Sikchi et al. 2021).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from polo_ros.config import Config, option
from polo_ros.drivers.mujoco import MujocoDriver
from polo_ros.learning.actor_critic import ActionRange, ActorCriticConfig, ActorPolicy, shapes
from polo_ros.learning.sac_config import SacConfig
from polo_ros.learning.sac_learner import SacLearner, SacMetrics
from polo_ros.learning.weights import decode
from polo_ros.planners.policy import Policy
from polo_ros.replay.transition import Transition
from polo_ros.safety.timeline import TimedPlan
from polo_ros.seeding import Stream, generator
from polo_ros.session.config import BridgeConfig
from polo_ros.session.loop import RobotLoop, Sample
from polo_ros.tasks.base import FloatArray, Task


@dataclass(frozen=True)
class EvaluationConfig(Config):
    """When and how long the actor is tried without noise."""

    every: int = option(2000, "control periods between two evaluations; 0: only at the end", low=0, high=100_000_000)
    episodes: int = option(5, "episodes of an evaluation, always from the same starts", low=1, high=10_000)
    steps: int = option(
        1000, "control periods after which an episode is cut that the task does not cut", low=1, high=1_000_000
    )


@dataclass(frozen=True)
class SacAgentConfig(Config):
    """Settings of the agent; the names of its parts prefix the parameters, `sac.batch_size`."""

    networks: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    sac: SacConfig = field(default_factory=SacConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


@dataclass(frozen=True)
class Evaluation:
    """The actor without noise, after so many control periods of learning."""

    step: int
    returns: tuple[float, ...]  # undiscounted, of each episode

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))


@dataclass
class SacResult:
    """What a run came to."""

    steps: int = 0
    episode_returns: dict[int, float] = field(default_factory=dict)  # by episode; the last one perhaps unfinished
    updates: list[SacMetrics] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    wall_s: float = 0.0

    def summary(self, task: Task, seed: int) -> dict[str, object]:
        """Figures of the run; names that `polo run polo` has too mean the same."""
        fitted = [update for update in self.updates if update.gradient_steps]
        learning_ms = sum(update.fit_ms for update in fitted)
        gradient_steps = sum(update.gradient_steps for update in fitted)
        last = fitted[-1] if fitted else None
        return {
            "task": task.name,
            "seed": seed,
            "clock": "lockstep",
            "steps": self.steps,
            "real_time_factor": self.steps * task.control_dt / self.wall_s,
            "episode_returns": list(self.episode_returns.values()),
            "evaluations": [
                {"step": found.step, "mean_return": found.mean, "returns": list(found.returns)}
                for found in self.evaluations
            ],
            "weights_version": self.updates[-1].version if self.updates else 0,
            "gradient_steps": gradient_steps,
            "gradient_step_ms": learning_ms / gradient_steps if gradient_steps else None,
            "critic_loss": last.critic_loss if last else None,
            "entropy": last.entropy if last else None,
            "temperature": last.temperature if last else None,
            "message": self.updates[-1].message if self.updates else "",
            "learning_s": learning_ms / 1e3,
            "wall_s": self.wall_s,
        }


class SacRun:
    """The actor with its robot and its learner, to be run for some steps at a time.

    For `sac.warmup` control periods actions are uniform within the actuators' range, then drawn from the actor. What is
    drawn depends on the seed, the episode and the periods since it began.

    Args:
        task: What to do.
        config: Settings of the agent.
        seed: Of everything random.
        learn: Whether anything is learned; without it the actor stays as it begins.
    """

    FIRST_TRIED = 1 << 30  # number of the first episode of evaluations: no start that is learned on

    def __init__(self, task: Task, config: SacAgentConfig, *, seed: int, learn: bool = True) -> None:
        self.task = task
        self.config = config
        self.seed = seed
        self.learner = SacLearner(task, networks=config.networks, config=config.sac, seed=seed)
        self.version = 0
        self.policy = self._newest_policy()
        self._learn = learn
        self._range = ActionRange(task)
        self._drivers = MujocoDriver(task, seed), MujocoDriver(task, seed)
        # Every action is of this very period: no age to speak of.
        self._loop, self._trial = (RobotLoop(task, driver, BridgeConfig().max_plan_age) for driver in self._drivers)
        self._sample: Sample | None = None
        self._rng = generator(seed, Stream.PLANNING)
        self._plan_id = 0
        for driver in self._drivers:
            driver.connect()

    def go(
        self,
        steps: int,
        watch: Callable[[Transition], None] | None = None,
        watch_evaluation: Callable[[Evaluation], None] | None = None,
    ) -> SacResult:
        """Act and learn for `steps` control periods more; the last of them is followed by an evaluation.

        Args:
            steps: Control periods.
            watch: Called after every control period.
            watch_evaluation: Called after every evaluation.
        """
        result = SacResult()
        learner, every = self.learner, self.config.evaluation.every
        began = time.perf_counter()
        if self._sample is None:
            self._loop.start()
            self._sample = self._loop.sense()
        for index in range(steps):
            transition, self._sample = self._play(self._loop, self._sample, self._explore(self._sample))
            result.steps += 1
            returns = result.episode_returns
            returns[transition.episode] = returns.get(transition.episode, 0.0) + transition.reward
            if self._learn:
                learner.observe(transition)
                if learner.due(transition.step):
                    result.updates.append(learner.update())
                    self.policy = self._newest_policy()
            if watch is not None:
                watch(transition)
            if index == steps - 1 or (every and (transition.step + 1) % every == 0):
                result.evaluations.append(Evaluation(transition.step + 1, self.evaluate()))
                if watch_evaluation is not None:
                    watch_evaluation(result.evaluations[-1])
        result.wall_s = time.perf_counter() - began
        return result

    def evaluate(self) -> tuple[float, ...]:
        """Undiscounted returns of the actor without noise, of each of `evaluation.episodes` episodes."""
        return tuple(self._try(self.policy, self.FIRST_TRIED + k) for k in range(self.config.evaluation.episodes))

    def close(self) -> None:
        """Let go of the robot."""
        for driver in self._drivers:
            driver.close()

    def __enter__(self) -> SacRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _explore(self, sample: Sample) -> FloatArray:
        if sample.episode_step == 0:
            self._rng = generator(self.seed, Stream.PLANNING, sample.episode)
        if sample.step < self.config.sac.warmup:
            return self._range.physical(self._rng.uniform(-1.0, 1.0, self.task.model.nu))
        return self.policy.sample(sample.observation, self._rng)

    def _try(self, policy: Policy, episode: int) -> float:
        """Return of one episode of the policy's mean."""
        loop = self._trial
        loop.start(0, episode)
        sample, total = loop.sense(), 0.0
        for _ in range(self.task.episode_steps or self.config.evaluation.steps):
            transition, sample = self._play(loop, sample, policy.mean(sample.observation))
            total += transition.reward
            if transition.terminated or transition.truncated:
                break
        return total

    def _play(self, loop: RobotLoop, sample: Sample, action: FloatArray) -> tuple[Transition, Sample]:
        """One control period: an action is a plan of one row."""
        self._plan_id += 1
        plan = TimedPlan(self._plan_id, sample.step, sample.step, sample.episode, action[None])
        refused = loop.offer(plan, self.version)
        if refused:
            raise RuntimeError(f"control period {sample.step}: the action was refused: {refused}")
        return loop.act(sample)

    def _newest_policy(self) -> ActorPolicy:
        """What an actor elsewhere would make of the learner's weights."""
        weights, networks = self.learner.weights(), self.config.networks
        self.version = weights.version
        arrays = decode(weights.encode(), shapes(networks, self.task.observation_spec.size, self.task.model.nu))
        return ActorPolicy(self.task, networks, arrays)


def run_sac(
    task: Task,
    config: SacAgentConfig,
    *,
    steps: int,
    seed: int,
    learn: bool = True,
    watch: Callable[[Transition], None] | None = None,
    watch_evaluation: Callable[[Evaluation], None] | None = None,
) -> SacResult:
    """A whole run; arguments as of SacRun and `SacRun.go`."""
    with SacRun(task, config, seed=seed, learn=learn) as run:
        return run.go(steps, watch, watch_evaluation)
