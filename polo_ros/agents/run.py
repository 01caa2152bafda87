"""The agent in one process, in lockstep: the same transitions as a lockstep session of the same seed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from polo_ros.agents.polo import PoloConfig, PoloPlanner
from polo_ros.drivers.mujoco import MujocoDriver
from polo_ros.dynamics.mujoco import MujocoDynamics
from polo_ros.learning.polo_learner import LearnerMetrics, PoloLearner
from polo_ros.planners.base import PlanResult
from polo_ros.replay.transition import Transition
from polo_ros.session.config import BridgeConfig
from polo_ros.session.loop import RobotLoop
from polo_ros.tasks.base import FloatArray, Task


@dataclass
class RunResult:
    """What a run came to."""

    transitions: list[Transition] = field(default_factory=list)
    plan_ms: list[float] = field(default_factory=list)
    updates: list[LearnerMetrics] = field(default_factory=list)
    wall_s: float = 0.0

    def episode_returns(self) -> list[float]:
        """Undiscounted return of each episode, the last one perhaps unfinished."""
        returns: dict[int, float] = {}
        for transition in self.transitions:
            returns[transition.episode] = returns.get(transition.episode, 0.0) + transition.reward
        return list(returns.values())

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
        return {
            "task": task.name,
            "seed": seed,
            "clock": "lockstep",
            "steps": len(self.transitions),
            "real_time_factor": robot_s / self.wall_s,
            "plan_ms_p50": float(np.percentile(self.plan_ms, 50)),
            "plan_ms_p99": float(np.percentile(self.plan_ms, 99)),
            "episode_returns": self.episode_returns(),
            "success": task.success(self._observations()),
            "weights_version": self.updates[-1].version if self.updates else 0,
            "value_loss": self._value_loss(),
            "learning_s": sum(u.target_ms + u.fit_ms for u in self.updates) / 1e3,
            "wall_s": self.wall_s,
        }


def run_polo(
    task: Task,
    config: PoloConfig,
    *,
    steps: int,
    seed: int,
    threads: int = 0,
    learn: bool = True,
    watch: Callable[[Transition, PlanResult], None] | None = None,
) -> RunResult:
    """Act and learn for `steps` control periods: POLO's Algorithm 1.

    Args:
        task: What to do.
        config: Settings of the agent.
        steps: Control periods.
        seed: Of everything random.
        threads: Rollout threads; 0: one a core.
        learn: Whether the value is learned; without it this is plain MPC.
        watch: Called after every control period.
    """
    result = RunResult()
    driver = MujocoDriver(task, seed)
    dynamics = MujocoDynamics(task, threads)
    planner = PoloPlanner(task, dynamics, config, seed)
    learner = (
        PoloLearner(task, dynamics, value=config.value, targets=config.targets, learner=config.learner, seed=seed)
        if learn
        else None
    )
    # In lockstep every plan is of this very period: no age to speak of.
    loop = RobotLoop(task, driver, BridgeConfig().max_plan_age)
    driver.connect()
    began = time.perf_counter()
    try:
        loop.start()
        sample = loop.sense()
        for _ in range(steps):
            started = time.perf_counter()
            plan, found = planner.plan(sample.state, sample.step, sample.step, sample.episode)
            result.plan_ms.append(1e3 * (time.perf_counter() - started))
            loop.offer(plan, planner.weights_version)
            transition, sample = loop.act(sample)
            result.transitions.append(transition)
            if learner is not None:
                learner.observe(transition)
                if learner.due(transition.step):
                    result.updates.append(learner.update())
                    weights = learner.weights()
                    planner.use_weights(planner.check_weights(weights.encode()), weights.version)
            if watch is not None:
                watch(transition, found)
    finally:
        driver.close()
        dynamics.close()
    result.wall_s = time.perf_counter() - began
    return result
