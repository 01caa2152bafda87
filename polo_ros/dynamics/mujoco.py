"""True-model dynamics: a persistent pool of MuJoCo rollout threads."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
import numpy.typing as npt
from mujoco.rollout import Rollout

from polo_ros.dynamics.base import Flags, Floats, Rollouts, Step
from polo_ros.tasks.base import FloatArray, Task


@dataclass(frozen=True)
class _Buffers:
    """Arrays of a batch, kept between rollouts so that a plan allocates nothing."""

    starts: FloatArray  # (N, nstate)
    controls: FloatArray  # (N, steps, nu)
    states: FloatArray  # (N, steps, nstate)
    sensordata: FloatArray  # (N, steps, nsensordata)
    models: list[mujoco.MjModel]  # of each row

    @classmethod
    def of(cls, task: Task, models: Sequence[mujoco.MjModel], n: int, steps: int) -> _Buffers:
        model = task.model
        return cls(
            np.empty((n, task.nstate)),
            np.empty((n, steps, model.nu)),
            np.empty((n, steps, task.nstate)),
            np.empty((n, steps, model.nsensordata)),
            list(itertools.islice(itertools.cycle(models), n)),
        )

    def first(self, n: int) -> _Buffers:
        """Views of the first n rows, which are contiguous as well."""
        if n == len(self.models):
            return self
        return _Buffers(self.starts[:n], self.controls[:n], self.states[:n], self.sensordata[:n], self.models[:n])


def chunk_size(n: int, threads: int) -> int:
    """How many of n candidates a thread takes at once.

    MuJoCo's own tenth of a thread's share leaves threads idle at the end of a rollout whose candidates
    differ in cost, as contacts make them.
    """
    return max(1, n // (60 * threads))


class MujocoDynamics:
    """Rolls out the task's own model on all planning cores.

    A physics step computes its sensors before it integrates, so that step t's readings belong to the
    state before it. One more physics step at the end gives the readings of the last state, and
    observation t then belongs to state t for t = 0 .. H.

    Args:
        task: Gives the model and the observations.
        threads: Worker threads; 0: one a core.
        models: What candidates are rolled out in, by turns, of the same sizes as the task's; empty: all in the task's.
    """

    def __init__(self, task: Task, threads: int = 0, models: Sequence[mujoco.MjModel] = ()) -> None:
        if threads < 0:
            raise ValueError(f"threads = {threads} is below its minimum 0 (0: one a core)")
        self.threads = threads or len(os.sched_getaffinity(0))
        self._task = task
        self._models = models or (task.model,)
        self._data = [mujoco.MjData(task.model) for _ in range(self.threads)]
        # A pool of one thread only adds a hand-over; 0 means the calling thread.
        self._pool = Rollout(nthread=self.threads if self.threads > 1 else 0)
        self._buffers: dict[int, _Buffers] = {}  # by physics steps
        self._terminates = type(task).terminated is not Task.terminated
        # Of candidates that go step by step: where they are, what is seen there, and whether they have ended.
        self._states, self._seen = np.empty((0, 0)), np.empty((0, 0))
        self._ended: Flags = np.empty(0, bool)

    def rollout(self, starts: FloatArray, actions: FloatArray) -> Rollouts:
        """Roll actions (N, H, nu) from starts (N, nstate) or one start (nstate,)."""
        n, horizon, _ = actions.shape
        repeat = self._task.physics_steps
        steps = horizon * repeat + 1
        buffers = self._reuse(n, steps)
        buffers.starts[:] = starts
        if repeat == 1:
            buffers.controls[:, :horizon] = actions
        else:
            held = buffers.controls[:, :-1].reshape(n, horizon, repeat, -1)
            held[:] = actions[:, :, None]
        buffers.controls[:, -1] = actions[:, -1]
        self._run(buffers, steps)
        observations = self._task.observe(buffers.sensordata[:, ::repeat])
        # MuJoCo resets a simulation that blew up, and its time with it.
        valid = buffers.states[:, -1, 0] > buffers.starts[:, 0] + (steps - 0.5) * self._task.model.opt.timestep
        return Rollouts(observations, valid)

    def advance(self, start: FloatArray, actions: FloatArray) -> FloatArray:
        """The state (nstate,) after actions (T, nu) from `start` (nstate,)."""
        # In the calling thread: waking the pool for one simulation costs more than a few steps of it.
        return self._task.advance(self._data[0], start, actions)

    def begin(self, starts: FloatArray, n: int) -> Floats:
        """Put n candidates at states (n, nstate) or at one (nstate,); returns their observations (n, 1, nobs)."""
        self._states = np.array(np.broadcast_to(starts, (n, self._task.nstate)))
        if starts.ndim == 1:
            self._seen = np.tile(self._task.observe(self._task.sense(starts)), (n, 1))
        else:
            self._seen = np.stack([self._task.observe(self._task.sense(start)) for start in starts])
        self._ended = self._over(self._seen)
        return self._seen[:, None]

    def step(self, actions: Floats) -> Step:
        """Go on by actions (N, nu) or (N, 1, nu)."""
        if len(actions) != len(self._states):
            raise ValueError(f"{len(actions)} actions for {len(self._states)} candidates")
        played = np.asarray(actions, np.float64).reshape(len(actions), -1)
        repeat = self._task.physics_steps
        # One physics step more: it gives the readings of the state that the period ends in.
        buffers = self._reuse(len(actions), repeat + 1)
        buffers.starts[:] = self._states
        buffers.controls[:] = played[:, None]
        self._run(buffers, repeat + 1)
        after = self._task.observe(buffers.sensordata[:, -1])
        valid = buffers.states[:, -1, 0] > buffers.starts[:, 0] + (repeat + 0.5) * self._task.model.opt.timestep
        rewards = np.asarray(self._task.reward(self._seen, played, after), np.float64)
        # The step into a terminal state still pays; nothing after it does.
        rewards = np.where(self._ended | ~valid, 0.0, rewards)
        self._ended = self._ended | self._over(after)
        self._states, self._seen = buffers.states[:, repeat - 1].copy(), np.array(after)
        return Step(self._seen[:, None], rewards[:, None], self._ended[:, None], valid)

    def select(self, indices: npt.NDArray[np.int64]) -> Floats:
        """Go on with the candidates `indices` (N',), some perhaps several times; returns observations (N', 1, nobs)."""
        self._states, self._seen = self._states[indices], self._seen[indices]
        self._ended = self._ended[indices]
        return self._seen[:, None]

    def close(self) -> None:
        """Stop the worker threads."""
        self._pool.close()

    def _over(self, observations: FloatArray) -> Flags:
        if not self._terminates:
            return np.zeros(len(observations), bool)
        return np.asarray(self._task.terminated(observations))

    def _run(self, buffers: _Buffers, steps: int) -> None:
        self._pool.rollout(
            buffers.models,
            self._data,
            buffers.starts,
            buffers.controls,
            nstep=steps,
            state=buffers.states,
            sensordata=buffers.sensordata,
            skip_checks=True,
            chunk_size=chunk_size(len(buffers.models), self.threads),
        )

    def _reuse(self, n: int, steps: int) -> _Buffers:
        # By length only: with a deadline a plan's batches differ in size from one to the next.
        kept = self._buffers.pop(steps, None)
        if kept is None or len(kept.models) < n:
            kept = _Buffers.of(self._task, self._models, n, steps)
        if len(self._buffers) >= 8:  # lengths change rarely; old ones must not pile up
            self._buffers.pop(next(iter(self._buffers)))
        self._buffers[steps] = kept
        return kept.first(n)
