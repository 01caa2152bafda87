"""The agent in one process, in lockstep: the same transitions as a lockstep session of the same seed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from polo_ros import drivers
from polo_ros.agents.polo import PoloConfig, PoloPlanner
from polo_ros.drivers.mujoco import MujocoSettings
from polo_ros.dynamics.coarse import for_planning
from polo_ros.dynamics.mujoco import MujocoDynamics
from polo_ros.learning.polo_learner import LearnerMetrics, PoloLearner
from polo_ros.planners.base import PlanResult
from polo_ros.replay.transition import Transition
from polo_ros.session.config import BridgeConfig
from polo_ros.session.loop import RobotLoop, Sample
from polo_ros.tasks.base import FloatArray, Task


@dataclass
class RunResult:
    """What a run came to."""

    transitions: list[Transition] = field(default_factory=list)
    plan_ms: list[float] = field(default_factory=list)
    updates: list[LearnerMetrics] = field(default_factory=list)
    infeasible_plans: int = 0  # that had too few ways to keep to the limit on costs
    plans_beyond_limit: int = 0  # that were not within it when predicted once more
    wall_s: float = 0.0

    def episode_returns(self) -> list[float]:
        """Undiscounted return of each episode, the last one perhaps unfinished."""
        returns: dict[int, float] = {}
        for transition in self.transitions:
            returns[transition.episode] = returns.get(transition.episode, 0.0) + transition.reward
        return list(returns.values())

    def episode_costs(self, task: Task) -> list[float] | None:
        """What each episode cost, undiscounted, as `task` reckons; None: it has no cost."""
        costs: dict[int, float] = {}
        for t in self.transitions:
            costs[t.episode] = costs.get(t.episode, 0.0) + float(task.cost(t.observation, t.action, t.next_observation))
        return list(costs.values()) if task.has_cost else None

    def _observations(self) -> FloatArray:
        """Observations (T, nobs) of the last episode that ended, or of the one that runs if none has."""
        ended = [t.episode for t in self.transitions if t.terminated or t.truncated]
        episode = ended[-1] if ended else self.transitions[-1].episode
        part = [t for t in self.transitions if t.episode == episode]
        return np.array([part[0].observation, *(t.next_observation for t in part)])

    def _value_loss(self) -> float | None:
        """Of the last update that fitted anything."""
        losses = [update.value_loss for update in self.updates if not math.isnan(update.value_loss)]
        return losses[-1] if losses else None

    def summary(self, task: Task, seed: int) -> dict[str, object]:
        """Figures of the run, under the names that a session's summary.json has."""
        robot_s = len(self.transitions) * task.control_dt
        observations = self._observations()
        measures = task.measures(observations)
        return {
            "task": task.name,
            "seed": seed,
            "clock": "lockstep",
            "steps": len(self.transitions),
            "real_time_factor": robot_s / self.wall_s,
            "plan_ms_p50": float(np.percentile(self.plan_ms, 50)),
            "plan_ms_p99": float(np.percentile(self.plan_ms, 99)),
            "episode_returns": self.episode_returns(),
            "episode_costs": self.episode_costs(task),
            "infeasible_plans": self.infeasible_plans,
            "plans_beyond_limit": self.plans_beyond_limit,
            "success": task.success(observations),
            "measures": {name: value if math.isfinite(value) else None for name, value in measures.items()},
            "weights_version": self.updates[-1].version if self.updates else 0,
            "value_loss": self._value_loss(),
            "learning_s": sum(u.target_ms + u.fit_ms for u in self.updates) / 1e3,
            "wall_s": self.wall_s,
        }


class PoloRun:
    """The agent with its robot and its learner, to be run for some steps at a time.

    Args:
        task: What to do.
        config: Settings of the agent.
        seed: Of everything random.
        threads: Rollout threads; 0: one a core.
        learn: Whether the value is learned; without it this is plain MPC, unless `weights` are given.
        weights: A learned value to plan with from the start, as `Weights.encode` made it; of any model whose
            observations are laid out as the task's, where `value.initial` insists on the very model.
        robot: Delays of the simulated robot; None: none.
        predict: Plan from the state rolled forward through the commands under way.

    Raises:
        WeightsError: `weights` do not fit.
    """

    def __init__(
        self,
        task: Task,
        config: PoloConfig,
        *,
        seed: int,
        threads: int = 0,
        learn: bool = True,
        weights: bytes | None = None,
        robot: MujocoSettings | None = None,
        predict: bool = True,
    ) -> None:
        self.task = task
        self.driver = drivers.simulator(task, seed, robot)
        self.dynamics = MujocoDynamics(task, threads)  # targets are exact, whatever plans are
        planning = config.dynamics
        self._planning = self.dynamics if planning.exact else for_planning(task, planning, threads, seed)
        self.planner = PoloPlanner(task, self._planning, config, seed)
        if weights is not None:
            self.planner.use_weights(self.planner.check_weights(weights), version=0)
        self.learner = (
            PoloLearner(
                task, self.dynamics, value=config.value, targets=config.targets, learner=config.learner, seed=seed
            )
            if learn
            else None
        )
        # In lockstep every plan is of this very period: no age to speak of.
        self._loop = RobotLoop(task, self.driver, BridgeConfig().max_plan_age)
        self._predict = predict
        self._sample: Sample | None = None
        self.driver.connect()

    def go(self, steps: int, watch: Callable[[Transition, PlanResult], None] | None = None) -> RunResult:
        """Act and learn for `steps` control periods more: POLO's Algorithm 1.

        Args:
            steps: Control periods.
            watch: Called after every control period.
        """
        result = RunResult()
        loop, planner, learner = self._loop, self.planner, self.learner
        began = time.perf_counter()
        if self._sample is None:
            loop.start()
            self._sample = loop.sense()
        for _ in range(steps):
            sample = self._sample
            started = time.perf_counter()
            state = (
                planner.predict(sample.state, sample.pending) if self._predict and len(sample.pending) else sample.state
            )
            plan, found = planner.plan(state, sample.step, sample.step, sample.episode)
            result.plan_ms.append(1e3 * (time.perf_counter() - started))
            result.infeasible_plans += found.infeasible
            result.plans_beyond_limit += not found.within_limit
            loop.offer(plan, planner.weights_version)
            transition, self._sample = loop.act(sample)
            result.transitions.append(transition)
            if learner is not None:
                learner.observe(transition)
                if learner.due(transition.step):
                    result.updates.append(learner.update())
                    self._publish(learner)
            if watch is not None:
                watch(transition, found)
        result.wall_s = time.perf_counter() - began
        return result

    def save(self, path: Path) -> None:
        """Write a checkpoint from which `restore` goes on as if nothing had been; only between two episodes.

        Raises:
            RuntimeError: Nothing is learned, or an episode is under way: its warm start is not kept.
        """
        if self.learner is None or self._sample is None or self._sample.episode_step:
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
            What PoloLearner.restore raises.
        """
        if self.learner is None:
            raise RuntimeError("a run that does not learn has no checkpoint")
        self.learner.restore(path)
        self._publish(self.learner)
        steps = self.learner.last_step + 1
        self._loop.start(steps, int(episodes[steps - 1]) + 1)
        self._sample = self._loop.sense()
        return steps

    def close(self) -> None:
        """Let go of robot and threads."""
        self.driver.close()
        self.dynamics.close()
        if self._planning is not self.dynamics:
            self._planning.close()

    def __enter__(self) -> PoloRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _publish(self, learner: PoloLearner) -> None:
        weights = learner.weights()
        self.planner.use_weights(self.planner.check_weights(weights.encode()), weights.version)


def run_polo(
    task: Task,
    config: PoloConfig,
    *,
    steps: int,
    seed: int,
    threads: int = 0,
    learn: bool = True,
    weights: bytes | None = None,
    watch: Callable[[Transition, PlanResult], None] | None = None,
) -> RunResult:
    """A whole run; arguments as of PoloRun and `PoloRun.go`."""
    with PoloRun(task, config, seed=seed, threads=threads, learn=learn, weights=weights) as run:
        return run.go(steps, watch)
