"""The robot's control loop: sense, choose the plan's action of this period, supervise, write, report.

The bridge node paces it and carries its words; `polo run` calls it in a for loop. Both give the same
transitions for the same plans.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polo_ros.drivers.base import Driver, RobotState
from polo_ros.replay.transition import Transition
from polo_ros.safety.supervisor import Supervisor, Verdict
from polo_ros.safety.timeline import PlanTimeline, PlayedAction, TimedPlan
from polo_ros.tasks.base import FloatArray, Task


@dataclass(frozen=True)
class Sample:
    """The robot at the start of one control period."""

    step: int
    episode: int
    episode_step: int
    robot: RobotState
    state: FloatArray  # (nstate,)
    observation: FloatArray  # (nobs,)


class RobotLoop:
    """One robot under control. Not thread-safe: the caller serialises access.

    Args:
        task: What is done; gives observations, rewards and ends of episodes.
        driver: A connected driver.
        max_plan_age: s, age of a plan's state at which the safe stop takes over.
        rate_limit: Largest change of a control, 1/s of its unit; 0: no limit.
    """

    def __init__(self, task: Task, driver: Driver, max_plan_age: float, rate_limit: float = 0.0) -> None:
        self.task = task
        self.driver = driver
        self.timeline = PlanTimeline(task.control_dt, max_plan_age)
        self.supervisor = Supervisor(task, rate_limit or None)
        self.step = 0
        self.episode = 0
        self.episode_step = 0
        self.episode_return = 0.0  # sum of the episode's rewards so far
        self.reset_requested = False
        self.reason = ""  # why the last period was a safe stop; empty: it was not
        self._time_offset = 0.0
        self._versions: dict[int, int] = {}
        self._period: tuple[Sample, PlayedAction, Verdict]

    def start(self, step: int = 0, episode: int = 0) -> None:
        """Begin at control period `step` and `episode`; a later start than 0 resumes a session."""
        self.step, self.episode, self.episode_step, self.episode_return = step, episode, 0, 0.0
        self.timeline.reset(episode)
        self.supervisor.reset()
        self._versions.clear()
        if self.driver.can_reset:
            self.driver.reset(episode)
        # A simulation that was restarted begins at 0 s again; the session's time must not fall.
        # A robot's clock may begin anywhere: the session's time begins at 0 s.
        foreign = step or not self.driver.simulated
        self._time_offset = step * self.task.control_dt - self.driver.read().time if foreign else 0.0

    def sense(self) -> Sample:
        """Read the robot. Raises DriverError."""
        robot = self.driver.read()
        # Whole nanoseconds, as a stamp carries them: with and without ROS the state is the same.
        sec, nanosec = divmod(round((robot.time + self._time_offset) * 1e9), 10**9)
        state = self.task.pack(sec + 1e-9 * nanosec, robot.qpos, robot.qvel, robot.act)
        return Sample(
            self.step, self.episode, self.episode_step, robot, state, self.task.observe(self.task.sense(state))
        )

    def offer(self, plan: TimedPlan, weights_version: int = 0) -> str:
        """Take a plan; returns why it was refused, empty if it was not."""
        reason = self.timeline.add(plan, self.step)
        if not reason:
            self._versions[plan.plan_id] = weights_version
            while len(self._versions) > 8:
                self._versions.pop(next(iter(self._versions)))
        return reason

    def act(self, before: Sample) -> tuple[Transition, Sample]:
        """A whole period of a simulation: `play`, then `observe`. Raises DriverError."""
        self.play(before)
        return self.observe()

    def play(self, before: Sample) -> None:
        """Write this period's action, or the safe stop. Raises DriverError."""
        played = self.timeline.action(self.step)
        verdict = self.supervisor.check(played.action, played.reason)
        self.reason = verdict.reason
        self.driver.write(verdict.action)
        self._period = before, played, verdict

    def observe(self) -> tuple[Transition, Sample]:
        """See what came of the period's action, once the period is over. Raises DriverError.

        Returns the transition and the robot at the start of the next period.
        """
        before, played, verdict = self._period
        self.step += 1
        self.episode_step += 1
        after = self.sense()
        reward = float(self.task.reward(before.observation, verdict.action, after.observation))
        self.episode_return += reward
        terminated = bool(self.task.terminated(after.observation))
        # Where nobody can put the robot back to a start there is nothing to cut an episode for.
        limit = self.task.episode_steps if self.driver.can_reset else 0
        truncated = not terminated and (self.reset_requested or 0 < limit <= self.episode_step)
        transition = Transition(
            step=before.step,
            episode=before.episode,
            episode_step=before.episode_step,
            state=before.state,
            observation=before.observation,
            action=verdict.action,
            reward=reward,
            next_observation=after.observation,
            terminated=terminated,
            truncated=truncated,
            safe_stop=verdict.safe_stop,
            limited=verdict.limited,
            plan_id=0 if verdict.safe_stop else played.plan_id,
            weights_version=0 if verdict.safe_stop else self._versions.get(played.plan_id, 0),
        )
        if (terminated or truncated) and self.driver.can_reset:
            after = self.reset()
        return transition, after

    def reset(self) -> Sample:
        """Start the next episode; only for drivers that can. Raises DriverError."""
        self.reset_requested = False
        self.episode += 1
        self.episode_step, self.episode_return = 0, 0.0
        self.timeline.reset(self.episode)
        self.supervisor.reset()
        self.driver.reset(self.episode)
        return self.sense()


def finite(transition: Transition) -> bool:
    """Whether every number of a transition is finite."""
    arrays = (transition.state, transition.observation, transition.action, transition.next_observation)
    return bool(np.isfinite(transition.reward)) and all(np.isfinite(a).all() for a in arrays)
