"""Would the plan keep to the limits if the robot were not quite as its model says?"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from mujoco.rollout import rollout

from polo_ros.safety.limits import JointLimits, VerificationConfig
from polo_ros.tasks.base import FloatArray, Task
from polo_ros.tasks.perturbation import perturbed


@dataclass(frozen=True)
class Finding:
    """What came of trying a plan."""

    reason: str = ""  # what it would do that it must not; empty: nothing
    ms: float = 0.0  # that it took


class PlanVerifier:
    """Rolls the next control periods of a plan out on perturbed models, which are drawn once.

    Args:
        task: Gives the model.
        limits: That must be kept.
        config: How many models, how different, how far.
        rng: Draws them.
    """

    def __init__(self, task: Task, limits: JointLimits, config: VerificationConfig, rng: np.random.Generator) -> None:
        self.periods = config.periods
        self._task = task
        self._limits = limits
        self._models = [perturbed(task.model, config, rng) for _ in range(config.models)]
        self._data = mujoco.MjData(task.model)

    def verify(self, state: FloatArray, actions: FloatArray) -> Finding:
        """Try `actions` (T, nu), T >= 1, one a control period, from `state` (nstate,)."""
        began = time.perf_counter()
        repeat, n = self._task.physics_steps, len(self._models)
        controls = np.repeat(actions, repeat, axis=0)
        states, _ = rollout(self._models, self._data, np.tile(state, (n, 1)), np.tile(controls, (n, 1, 1)))
        reached = states[:, repeat - 1 :: repeat]  # at the ends of the periods, (n, T, nstate)
        reason = self._objection(reached, float(state[0]))
        return Finding(reason, 1e3 * (time.perf_counter() - began))

    def _objection(self, reached: FloatArray, start: float) -> str:
        nq = self._task.model.nq
        qpos, qvel = reached[..., 1 : 1 + nq], reached[..., 1 + nq : 1 + nq + self._task.model.nv]
        # MuJoCo resets a simulation that blew up, and its time with it.
        late = (reached[..., 0] <= start) | ~np.isfinite(reached).all(-1)
        wrong = late | self._limits.violated(qpos, qvel).any(-1)  # (n, T)
        if not wrong.any():
            return ""
        period = int(np.flatnonzero(wrong.any(0))[0])
        number = int(np.flatnonzero(wrong[:, period])[0])
        if late[number, period]:
            said = "diverges"
        else:
            said = self._limits.violation(qpos[number, period], qvel[number, period])
        share = f"{int(wrong.any(1).sum())} of {len(wrong)} perturbed models"
        return f"verification: {period + 1} periods ahead on {share}: {said}"


class Verification:
    """Verifies plans at once, or beside control.

    Beside control it has a thread of its own that yields to everything else, and looks at one plan at a time: what is
    offered meanwhile is left out, so that it costs no more than what is left of a core, and what it finds is known one
    or more periods later.

    Args:
        verifier: Does the work.
        beside: Whether control does not wait.
    """

    NICE = 10

    def __init__(self, verifier: PlanVerifier, beside: bool) -> None:
        self.periods = verifier.periods
        self.latest = Finding()
        self._verifier = verifier
        self._wake = threading.Condition()
        self._job: tuple[FloatArray, FloatArray, int] | None = None  # state, actions, generation
        self._busy = self._closed = False
        self._generation = 0
        self._thread: threading.Thread | None = None
        if beside:
            self._thread = threading.Thread(target=self._work, name="verification", daemon=True)
            self._thread.start()

    def foresee(self, state: FloatArray, pending: FloatArray, planned: Sequence[FloatArray]) -> str:
        """What the newest plan that was looked at would do that it must not, empty if nothing.

        Args:
            state: Physics state (nstate,) at the start of this control period.
            pending: What was played already and acts before what is planned, (n, nu).
            planned: What will be played from now on, T times (nu,); T = 0: there is no plan.
        """
        if not planned:
            self.reset()
            return ""
        actions = np.concatenate((pending, planned))
        if self._thread is None:
            self.latest = self._verifier.verify(state, actions)
        else:
            with self._wake:
                if not self._busy:
                    self._job, self._busy = (state, actions, self._generation), True
                    self._wake.notify()
        return self.latest.reason

    def reset(self) -> None:
        """What was found is of no plan that is still played."""
        with self._wake:
            self._generation += 1
            self.latest = Finding()
            if self._job is not None:
                self._job, self._busy = None, False

    def close(self) -> None:
        """End the thread."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self.NICE)
        while True:
            with self._wake:
                while self._job is None and not self._closed:
                    self._wake.wait()
                if self._closed or self._job is None:
                    return
                (state, actions, generation), self._job = self._job, None
            try:
                found = self._verifier.verify(state, actions)
            except Exception as error:  # noqa: BLE001  what cannot be verified must not pass for verified
                found = Finding(f"verification: {type(error).__name__}: {error}")
            with self._wake:
                self._busy = False
                if generation == self._generation:
                    self.latest = found
