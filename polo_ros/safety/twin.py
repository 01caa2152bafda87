"""The digital twin: the task's model under the commands that the robot was given, and how far the two are apart.

It stands beside `tracking`, which asks the same of a single period in order to stop the robot. The twin stops nothing:
it shows what a wrong model adds up to over as long as one plans ahead.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

import mujoco
import numpy as np

from polo_ros.tasks.base import FULLPHYSICS, FloatArray, Task

_DIVERGED = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)


@dataclass(frozen=True)
class Difference:
    """The robot minus its twin at the start of one control period.

    Positions differ by a tangent vector in MuJoCo's degree-of-freedom order: the velocity that leads from the twin to
    the robot in 1 s. That is plain subtraction but for orientations, whose difference is a rotation vector in the
    twin's own frame, at most pi long, and the same for both signs of a quaternion.
    """

    step: int
    episode: int
    periods: int  # control periods since the twin was set to the robot, from 1
    robot: FloatArray  # (nstate,) measured
    twin: FloatArray  # (nstate,) simulated
    pending: FloatArray  # (n, nu) commands that neither shows yet, the oldest first
    position: FloatArray  # (nv,) m, rad
    velocity: FloatArray  # (nv,) m/s, rad/s


class Twin:
    """Simulates the task's model beside the robot.

    It is set to the robot's state where it has to be (the first period, another episode, missing transitions, a clock
    that is not the twin's), and every `horizon`. In between it knows of the robot nothing but the commands, each of
    which takes effect as late as on the robot: after those that were under way when it was set.

    It does not use `Task.advance`, which begins MuJoCo's constraint solver anew each time: at an impact, and with few
    iterations, what the solver begins from shows. The twin's goes on from period to period as a simulated robot's does,
    so that nothing is apart from a simulation whose episode it has seen from the start.

    Args:
        task: Gives the model.
        horizon: s after which the twin is set to the robot again, in whole control periods; 0: never.
    """

    JITTER = 0.25  # of a control period: robot and twin further apart in time are not compared
    REMEMBERED = 1000  # control periods whose transitions may still come

    def __init__(self, task: Task, horizon: float = 0.0) -> None:
        self._task = task
        self._data = mujoco.MjData(task.model)
        self.horizon = horizon
        self.sets: Counter[str] = Counter()  # how often the twin was set to the robot, by reason
        self.forget()

    def forget(self) -> None:
        """Begin anew with the next transition."""
        self._sensed: dict[tuple[int, int], FloatArray] = {}  # commands under way, by episode and step
        self._twin: FloatArray | None = None
        self._pending: deque[FloatArray] = deque()
        self._expected = (-1, -1)  # episode and step that follow from what was simulated
        self._periods = 0
        self.reason = "start"  # why the twin was set last, or has to be; "no State": that is what it waits for

    def sensed(self, step: int, episode: int, pending: FloatArray) -> None:
        """At the start of `step` commands `pending` (n, nu) were under way to the robot, the oldest first."""
        self._sensed[episode, step] = pending
        while len(self._sensed) > self.REMEMBERED:
            self._sensed.pop(next(iter(self._sensed)))

    def played(self, step: int, episode: int, state: FloatArray, action: FloatArray) -> Difference | None:
        """In `step` the robot was in `state` (nstate,) at first, and was given `action` (nu,).

        Returns:
            How far the twin was from that state; None: it had to be set to it, or cannot be before it is known what is
            under way.
        """
        pending = self._sensed.pop((episode, step), None)
        for key in [key for key in self._sensed if key[0] < episode or key[1] < step]:
            del self._sensed[key]
        found = None
        reason = self._interruption(step, episode, state)
        if not reason:
            found = self._compare(step, episode, state)
            if self.horizon > 0.0 and self._periods >= max(1, round(self.horizon / self._task.control_dt)):
                reason = "horizon"
        if reason:
            if reason == "horizon" and pending is None:
                pending = np.array(self._pending).reshape(-1, self._task.model.nu)  # what it has itself is as good
            self._set(reason, state, pending)
        self._expected = episode, step + 1
        self._advance(action)
        return found

    def _interruption(self, step: int, episode: int, state: FloatArray) -> str:
        """Why the twin does not lead to the robot's state; empty if it does."""
        if self._twin is None:
            return self.reason
        if episode != self._expected[0]:
            return "episode"
        if step != self._expected[1]:
            return "transitions lost"
        if abs(state[0] - self._twin[0]) > self.JITTER * self._task.control_dt:
            return "clock"
        return ""

    def _compare(self, step: int, episode: int, state: FloatArray) -> Difference:
        assert self._twin is not None
        model = self._task.model
        _, qpos, qvel, _ = self._task.unpack(state)
        _, twin_qpos, twin_qvel, _ = self._task.unpack(self._twin)
        position = np.empty(model.nv)
        mujoco.mj_differentiatePos(model, position, 1.0, twin_qpos, qpos)
        return Difference(
            step=step,
            episode=episode,
            periods=self._periods,
            robot=state,
            twin=self._twin,
            pending=np.array(self._pending).reshape(-1, model.nu),
            position=position,
            velocity=qvel - twin_qvel,
        )

    def _set(self, reason: str, state: FloatArray, pending: FloatArray | None) -> None:
        if pending is None:
            self._twin, self.reason = None, "no State"
            return
        self.sets[reason] += 1
        if reason != "horizon":  # another past: what the solver has found is no beginning
            mujoco.mj_resetData(self._task.model, self._data)
        mujoco.mj_setState(self._task.model, self._data, state, FULLPHYSICS)
        self._twin, self._pending, self._periods, self.reason = state, deque(pending), 0, reason

    def _advance(self, action: FloatArray) -> None:
        """One control period: `action` is sent, and the oldest that is under way takes effect."""
        if self._twin is None:
            return
        model, data = self._task.model, self._data
        self._pending.append(action)
        data.ctrl[:] = self._pending.popleft()
        mujoco.mj_step(model, data, nstep=self._task.physics_steps)
        reached = np.empty(self._task.nstate)
        mujoco.mj_getState(model, data, reached, FULLPHYSICS)
        self._periods += 1
        if any(data.warning[warning].number for warning in _DIVERGED) or not np.isfinite(reached).all():
            self._twin, self.reason = None, "diverged"
        else:
            self._twin = reached
