"""The robot's control loop: sense, choose the plan's action of this period, supervise, write, report.

The bridge node paces it and carries its words; `polo run` calls it in a for loop. Both give the same
transitions for the same plans.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from polo_ros.drivers.base import Driver, RobotState
from polo_ros.replay.transition import Transition
from polo_ros.safety.authority import Authority
from polo_ros.safety.limits import SafetyConfig
from polo_ros.safety.supervisor import Supervisor, Verdict
from polo_ros.safety.timeline import PlanTimeline, PlayedAction, TimedPlan
from polo_ros.safety.verification import PlanVerifier, Verification
from polo_ros.seeding import Stream, generator
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
    # (n, nu) played already, the oldest first, and `state` does not know of them yet; what is played next takes effect
    # after them.
    pending: FloatArray


class RobotLoop:
    """One robot under control. Not thread-safe: the caller serialises access.

    Args:
        task: What is done; gives observations, rewards and ends of episodes.
        driver: A connected driver.
        max_plan_age: s, age of a plan's state at which the safe stop takes over.
        safety: Limits, and what is a fault; None: the defaults.
        actuation_delay: s from writing a command to its effect, beyond what the driver knows of it.
        seed: Draws the perturbed models that plans are verified on.
        realtime: Verify beside control instead of before each period.

    Raises:
        ValueError: As Supervisor.
    """

    # Commands that are kept to tell which of them are under way: of a longer delay nobody plans around.
    REMEMBERED = 1000

    def __init__(
        self,
        task: Task,
        driver: Driver,
        max_plan_age: float,
        safety: SafetyConfig | None = None,
        actuation_delay: float = 0.0,
        *,
        seed: int = 0,
        realtime: bool = False,
    ) -> None:
        self.task = task
        self.driver = driver
        self.timeline = PlanTimeline(task.control_dt, max_plan_age)
        self._authority = Authority()
        self._actuation_delay = driver.actuation_delay + actuation_delay
        safety = safety or SafetyConfig()
        self.supervisor = Supervisor(task, safety, simulated=driver.simulated, actuation_delay=self._actuation_delay)
        self.verification: Verification | None = None
        if safety.verification.models:
            rng = generator(seed, Stream.VERIFICATION)
            verifier = PlanVerifier(task, self.supervisor.joints, safety.verification, rng)
            self.verification = Verification(verifier, beside=realtime)
        self.step = 0
        self.episode = 0
        self.episode_step = 0
        self.episode_return = 0.0  # sum of the episode's rewards so far
        self.reset_requested = False
        self.plan_age = math.inf  # s, of the plan that the last period was played from; inf: from none
        self.reason = ""  # why the last period was a safe stop; empty: it was not
        self._time_offset = 0.0
        self._time = -math.inf  # s, session time of the newest state
        self._versions: dict[int, int] = {}
        self._period: tuple[Sample, PlayedAction, Verdict]
        self._written: deque[FloatArray] = deque(maxlen=self.REMEMBERED)  # in this episode, the newest last
        # s, session time at the start of the last periods, by their steps: late periods last longer than they should.
        self._times: dict[int, float] = {}

    def start(self, step: int = 0, episode: int = 0) -> None:
        """Begin at control period `step` and `episode`; a later start than 0 resumes a session."""
        self.step, self.episode, self.episode_step, self.episode_return = step, episode, 0, 0.0
        self.timeline.reset(episode)
        self._authority.reset()
        self.supervisor.reset()
        if self.verification is not None:
            self.verification.reset()
        self._versions.clear()
        self._times.clear()
        self._written.clear()
        if self.driver.can_reset:
            self.driver.reset(episode)
        # A simulation that was restarted begins at 0 s again; the session's time must not fall.
        # A robot's clock may begin anywhere: the session's time begins at 0 s.
        foreign = step or not self.driver.simulated
        # Where periods were late, the time of the last state is ahead of the count of periods.
        begin = max(step * self.task.control_dt, self._time + self.task.control_dt if step else 0.0)
        self._time_offset = begin - self.driver.read().time if foreign else 0.0

    def close(self) -> None:
        """Let go of threads."""
        if self.verification is not None:
            self.verification.close()

    def sense(self) -> Sample:
        """Read the robot. Raises DriverError."""
        robot = self.driver.read()
        # Whole nanoseconds, as a stamp carries them: with and without ROS the state is the same.
        sec, nanosec = divmod(round((robot.time + self._time_offset) * 1e9), 10**9)
        self._time = sec + 1e-9 * nanosec
        state = self.task.pack(self._time, robot.qpos, robot.qvel, robot.act)
        observation = self.task.observe(self.task.sense(state))
        return Sample(self.step, self.episode, self.episode_step, robot, state, observation, self._pending(robot.age))

    def _pending(self, age: float) -> FloatArray:
        """What was written and has not shown in a state of `age` s, (n, nu); before the first command, rest."""
        late = min(round((age + self._actuation_delay) / self.task.control_dt), self.REMEMBERED)
        pending = np.tile(self.task.resting_action, (late, 1))
        known = min(late, len(self._written))
        for back in range(1, known + 1):
            pending[late - back] = self._written[-back]
        return pending

    def offer(self, plan: TimedPlan, weights_version: int = 0) -> str:
        """Take a plan; returns why it was refused, empty if it was not."""
        reason = self._authority.objection(plan.planner_id, self.timeline.max_plan_age)
        reason = reason or self.timeline.add(plan, self.step)
        if not reason:
            self._authority.heard(plan.planner_id)
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
        played = self._fresh(self.timeline.action(self.step), before)
        self.supervisor.watch(self.step, before.state, before.robot.age, self._foreseen(before))
        verdict = self.supervisor.check(played.action, played.reason, before.pending)
        self.reason, self.plan_age = verdict.reason, played.age
        self.driver.write(verdict.action)
        self._written.append(verdict.action)
        self._period = before, played, verdict

    def _fresh(self, played: PlayedAction, before: Sample) -> PlayedAction:
        """`played`, or why not: by the robot's own time its state may be older than its steps say.

        Periods that came late, a driver that blocked, a process that stood still: steps do not count them.
        """
        now = float(before.state[0])
        self._times[before.step] = now
        while len(self._times) > self.REMEMBERED:
            self._times.pop(next(iter(self._times)))
        allowed = self.timeline.max_plan_age
        age = now - self._times.get(played.state_step, now)
        # Its steps were counted already; half a period is for the jitter of states.
        if played.action is None or age <= allowed + 0.5 * self.task.control_dt:
            return played
        reason = f"plan too old: {age:.3f} s, allowed {allowed:.3f} s"
        return replace(played, action=None, reason=reason, age=age)

    def _foreseen(self, before: Sample) -> str:
        """What the plan would do that it must not."""
        if self.verification is None:
            return ""
        actions = []
        for step in range(self.step, self.step + self.verification.periods):
            action = self.timeline.action(step).action
            if action is None:
                break
            actions.append(action)
        return self.verification.foresee(before.state, before.pending, actions)

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
        if self.verification is not None:
            self.verification.reset()
        self._written.clear()
        self.driver.reset(self.episode)
        return self.sense()
