"""An agent that learns while it acts, in one process, tried from time to time on episodes that it does not learn on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from polo_ros import drivers
from polo_ros.agents.base import AgentLearner, AgentPlanner, Update
from polo_ros.config import Config, option
from polo_ros.planners.base import PlanResult
from polo_ros.replay.transition import Transition
from polo_ros.session.config import BridgeConfig
from polo_ros.session.loop import RobotLoop, Sample
from polo_ros.tasks.base import FloatArray, Task


@dataclass(frozen=True)
class EvaluationConfig(Config):
    """When and how long the agent is tried without exploring."""

    every: int = option(2000, "control periods between two evaluations; 0: only at the end", low=0, high=100_000_000)
    episodes: int = option(5, "episodes of an evaluation, always from the same starts", low=1, high=10_000)
    steps: int = option(
        1000, "control periods after which an episode is cut, unless the task cuts it before", low=1, high=1_000_000
    )


@dataclass(frozen=True)
class Evaluation:
    """What the agent gets without exploring, after so many control periods of learning."""

    step: int
    returns: tuple[float, ...]  # undiscounted, of each episode
    costs: tuple[float, ...] = ()  # the same; of a task without cost zeros
    measures: tuple[Mapping[str, float], ...] = ()  # of each episode, see Task.measures

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))


@dataclass
class OnlineResult:
    """What a run came to."""

    steps: int = 0
    episode_returns: dict[int, float] = field(default_factory=dict)  # by episode; the last one perhaps unfinished
    episode_costs: dict[int, float] = field(default_factory=dict)  # the same
    infeasible_plans: int = 0  # that had too few ways to keep to the limit on costs, evaluations left out
    plans_beyond_limit: int = 0  # that were not within it when predicted once more, the same
    silent_costs: int = 0  # control periods with a cost whose plan was said to keep to the limit, the same
    updates: list[Update] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    plan_ms: list[float] = field(default_factory=list)  # of every control period, evaluations left out
    learning_s: float = 0.0
    wall_s: float = 0.0
    evaluating_s: float = 0.0  # share of wall_s

    def figure(self, name: str) -> float | None:
        """A figure of the newest update that tells it."""
        found = [value for update in self.updates if np.isfinite(value := update.figures().get(name, np.nan))]
        return found[-1] if found else None

    def summary(self, task: Task, seed: int) -> dict[str, object]:
        """Figures of the run; names that `polo run polo` has too mean the same."""
        figures = [name for update in self.updates[-1:] for name in update.figures()]
        return {
            "task": task.name,
            "seed": seed,
            "clock": "lockstep",
            "steps": self.steps,
            "real_time_factor": self.steps * task.control_dt / self.wall_s,
            "plan_ms_p50": float(np.percentile(self.plan_ms, 50)),
            "plan_ms_p99": float(np.percentile(self.plan_ms, 99)),
            "episode_returns": list(self.episode_returns.values()),
            "episode_costs": list(self.episode_costs.values()) if task.has_cost else None,
            "infeasible_plans": self.infeasible_plans,
            "plans_beyond_limit": self.plans_beyond_limit,
            "evaluations": [
                {
                    "step": found.step,
                    "mean_return": found.mean,
                    "returns": list(found.returns),
                    **({"costs": list(found.costs)} if task.has_cost else {}),
                }
                for found in self.evaluations
            ],
            "weights_version": self.updates[-1].version if self.updates else 0,
            **{name: self.figure(name) for name in figures},
            "message": self.updates[-1].message if self.updates else "",
            "step_ms": 1e3 * (self.wall_s - self.evaluating_s) / self.steps,
            "learning_s": self.learning_s,
            "wall_s": self.wall_s,
        }


class OnlineRun:
    """An agent with its robot and its learner, to be run for some steps at a time.

    Args:
        task: What to do.
        config: When the agent is tried.
        planners: One that explores, and one for trials, which does not.
        learner: Gives the weights to begin with, and learns from what is done.
        seed: Of the starts of episodes.
        learn: Whether anything is learned; without it the agent stays as it begins.
    """

    FIRST_EVALUATION = 1 << 30  # number of the first episode of evaluations: no start that is learned on

    def __init__(
        self,
        task: Task,
        config: EvaluationConfig,
        planners: tuple[AgentPlanner, AgentPlanner],
        learner: AgentLearner,
        seed: int,
        learn: bool = True,
    ) -> None:
        self.task = task
        self.config = config
        self.learner = learner
        self.planner, self.evaluation_planner = planners
        self._learn = learn
        self._drivers = drivers.simulator(task, seed), drivers.simulator(task, seed)
        # Every plan is of this very period: no age to speak of.
        self._loop, self._trial = (RobotLoop(task, driver, BridgeConfig().max_plan_age) for driver in self._drivers)
        self._sample: Sample | None = None
        for driver in self._drivers:
            driver.connect()
        self._publish()

    def go(
        self,
        steps: int,
        watch: Callable[[Transition], None] | None = None,
        watch_evaluation: Callable[[Evaluation], None] | None = None,
        between: Callable[[OnlineResult], None] | None = None,
    ) -> OnlineResult:
        """Act and learn for `steps` control periods more; the last of them is followed by an evaluation.

        Args:
            steps: Control periods.
            watch: Called after every control period.
            watch_evaluation: Called after every evaluation.
            between: Called with the result so far whenever an episode has ended: the run can then be saved.
        """
        result = OnlineResult()
        learner, every = self.learner, self.config.every
        began = time.perf_counter()
        if self._sample is None:
            self._loop.start()
            self._sample = self._loop.sense()
        for index in range(steps):
            transition, self._sample, plan = _play(self._loop, self.planner, self._sample, result.plan_ms)
            result.steps += 1
            result.infeasible_plans += plan.infeasible
            result.plans_beyond_limit += not plan.within_limit
            returns = result.episode_returns
            returns[transition.episode] = returns.get(transition.episode, 0.0) + transition.reward
            costs, cost = result.episode_costs, cost_of(self.task, transition)
            costs[transition.episode] = costs.get(transition.episode, 0.0) + cost
            result.silent_costs += plan.constraint_active and plan.within_limit and cost > 0.0
            if self._learn:
                learner.observe(transition)
                if learner.due(transition.step):
                    learning = time.perf_counter()
                    result.updates.append(learner.update())
                    result.learning_s += time.perf_counter() - learning
                    self._publish()
            if watch is not None:
                watch(transition)
            if index == steps - 1 or (every and (transition.step + 1) % every == 0):
                trying = time.perf_counter()
                result.evaluations.append(Evaluation(transition.step + 1, *self._evaluated()))
                result.evaluating_s += time.perf_counter() - trying
                if watch_evaluation is not None:
                    watch_evaluation(result.evaluations[-1])
            if between is not None and not self._sample.episode_step:
                between(result)
        result.wall_s = time.perf_counter() - began
        return result

    def evaluate(self) -> tuple[float, ...]:
        """Undiscounted returns of the agent as it is, of each of `evaluation.episodes` episodes."""
        return self._evaluated()[0]

    def _evaluated(self) -> tuple[tuple[float, ...], tuple[float, ...], tuple[Mapping[str, float], ...]]:
        """Returns, costs and measures of trials."""
        episodes = [
            play_episode(self._trial, self.evaluation_planner, self.FIRST_EVALUATION + number, self.config.steps)
            for number in range(self.config.episodes)
        ]
        return (
            tuple(sum(t.reward for t in episode) for episode in episodes),
            tuple(sum(cost_of(self.task, t) for t in episode) for episode in episodes),
            tuple(self.task.measures(observations(episode)) for episode in episodes),
        )

    def save(self, path: Path) -> None:
        """Write a checkpoint from which `restore` goes on as if nothing had been; only between two episodes.

        Raises:
            RuntimeError: Nothing is learned, or an episode is under way: its warm start is not kept.
        """
        if not self._learn or self._sample is None or self._sample.episode_step:
            raise RuntimeError("a run can be saved only between two episodes, and only if it learns")
        self.learner.save(path)

    def restore(self, path: Path, episodes: FloatArray) -> int:
        """Go on from a checkpoint.

        Args:
            path: What `save` wrote.
            episodes: Number of the episode of each control period up to the checkpoint, or further, (T,).

        Returns:
            Control periods that lie behind the checkpoint.

        Raises:
            What the learner's `restore` raises.
        """
        self.learner.restore(path)
        self._publish()
        steps = self.learner.last_step + 1
        self._loop.start(steps, int(episodes[steps - 1]) + 1)
        self._sample = self._loop.sense()
        return steps

    def close(self) -> None:
        """Let go of robot and threads."""
        for driver in self._drivers:
            driver.close()
        for planner in (self.planner, self.evaluation_planner):
            planner.close()
        self.learner.close()

    def __enter__(self) -> OnlineRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _publish(self) -> None:
        """Give planners what planners elsewhere would make of the learner's weights."""
        weights = self.learner.weights()
        data = weights.encode()
        for planner in (self.planner, self.evaluation_planner):
            planner.use_weights(planner.check_weights(data), weights.version)


def play_episode(loop: RobotLoop, planner: AgentPlanner, episode: int, steps: int, first: int = 0) -> list[Transition]:
    """Play episode number `episode`, of at most `steps` control periods, the first of them `first`; learns nothing.

    A planner's noise is of seed and control period: episodes that begin with the same one have the same noise.
    """
    loop.start(first, episode)
    sample = loop.sense()
    found: list[Transition] = []
    while len(found) < steps and not (found and (found[-1].terminated or found[-1].truncated)):
        transition, sample, _ = _play(loop, planner, sample, [])
        found.append(transition)
    return found


def observations(episode: Sequence[Transition]) -> FloatArray:
    """What was seen in an episode (T + 1, nobs), its start included, as `Task.measures` asks for it."""
    return np.array([episode[0].observation, *(transition.next_observation for transition in episode)])


def cost_of(task: Task, transition: Transition) -> float:
    """What a transition costs, by the task's function."""
    return float(task.cost(transition.observation, transition.action, transition.next_observation))


def _play(
    loop: RobotLoop, planner: AgentPlanner, sample: Sample, took_ms: list[float]
) -> tuple[Transition, Sample, PlanResult]:
    began = time.perf_counter()
    start = planner.start(sample.state)
    if len(sample.pending):
        start = planner.predict(start, sample.pending)
    plan, found = planner.plan(start, sample.step, sample.step, sample.episode)
    took_ms.append(1e3 * (time.perf_counter() - began))
    refused = loop.offer(plan, planner.weights_version)
    if refused:
        raise RuntimeError(f"control period {sample.step}: the plan was refused: {refused}")
    return *loop.act(sample), found
