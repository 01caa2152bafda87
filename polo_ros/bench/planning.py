"""What a plan costs over the physics it asks for: `polo bench planning`."""

from __future__ import annotations

import os
import time
from typing import Any

import mujoco
import numpy as np
from mujoco.rollout import Rollout

from polo_ros import tasks
from polo_ros.agents.polo import PoloConfig, PoloPlanner
from polo_ros.config import replace
from polo_ros.dynamics.base import Dynamics, Rollouts
from polo_ros.dynamics.coarse import DynamicsConfig, for_planning
from polo_ros.dynamics.mujoco import chunk_size
from polo_ros.learning.value_ensemble import ValueEnsemble
from polo_ros.session.config import for_task
from polo_ros.tasks.base import FloatArray, Task

# Task, candidates, control periods ahead, models that each candidate is simulated in.
SIZES = (
    ("humanoid_getup", 120, 64, 1),
    ("point_mass_maze", 32, 50, 1),
    ("cartpole_swingup", 32, 25, 1),
    ("cartpole_swingup", 32, 25, 4),
)

WARM_UP = 3  # rounds that are not counted


def bench_planning(repeats: int) -> list[dict[str, Any]]:
    """Time plans against bare rollouts of the same candidates.

    A plan draws the candidates, rolls them out, reads observations, rewards and the terminal value, and
    weights them. The bare rollout is `mujoco.rollout` with outputs allocated beforehand, for the same
    candidates on as many threads in as large portions: the ratio holds what planning adds, not how work
    is dealt out. A candidate in several models (`dynamics.members`) is as many bare rollouts. Both take turns
    in one loop, so that whatever else the machine does falls on both; the state moves along with the plans.

    Args:
        repeats: Rounds counted, each one plan and one bare rollout.

    Returns:
        A row for each of SIZES: "task", "rollouts", "horizon", "members", "plan_ms" and "rollout_ms" (medians),
        "ratio" (median over the rounds of plan over rollout).

    Raises:
        ValueError: No round.
    """
    if repeats < 1:
        raise ValueError(f"repeats = {repeats} is below its minimum 1")
    return [_row(*size, repeats) for size in SIZES]


class _Watched:
    """Dynamics that remember the candidates rolled out last."""

    def __init__(self, dynamics: Dynamics) -> None:
        self._dynamics = dynamics
        self.candidates: FloatArray = np.empty((0, 0, 0))

    def rollout(self, starts: FloatArray, actions: FloatArray) -> Rollouts:
        self.candidates = actions
        return self._dynamics.rollout(starts, actions)

    def advance(self, start: FloatArray, actions: FloatArray) -> FloatArray:
        return self._dynamics.advance(start, actions)

    def close(self) -> None:
        self._dynamics.close()


class _Bare:
    """Nothing but physics: N candidates over H control periods."""

    def __init__(self, task: Task, rollouts: int, horizon: int) -> None:
        threads = len(os.sched_getaffinity(0))
        steps = horizon * task.physics_steps
        self._repeat = task.physics_steps
        self._chunk_size = chunk_size(rollouts, threads)
        self._models = [task.model] * rollouts
        self._data = [mujoco.MjData(task.model) for _ in range(threads)]
        self._pool = Rollout(nthread=threads if threads > 1 else 0)
        self._states = np.empty((rollouts, steps, task.nstate))
        self._sensordata = np.empty((rollouts, steps, task.model.nsensordata))

    def seconds(self, start: FloatArray, candidates: FloatArray) -> float:
        """Time of one rollout of candidates (N, H, nu) from start (nstate,), s."""
        starts = np.tile(start, (len(candidates), 1))
        controls = np.repeat(candidates, self._repeat, axis=1)
        began = time.perf_counter()
        self._pool.rollout(
            self._models,
            self._data,
            starts,
            controls,
            nstep=controls.shape[1],
            state=self._states,
            sensordata=self._sensordata,
            skip_checks=True,
            chunk_size=self._chunk_size,
        )
        return time.perf_counter() - began

    def close(self) -> None:
        self._pool.close()


def _row(name: str, rollouts: int, horizon: int, members: int, repeats: int) -> dict[str, Any]:
    task = tasks.make(name)
    config = replace(for_task(PoloConfig(), name), {"mppi.rollouts": rollouts, "mppi.horizon": horizon})
    dynamics = _Watched(for_planning(task, DynamicsConfig(members=members)))
    bare = _Bare(task, members * rollouts, horizon)
    planner = PoloPlanner(task, dynamics, config, seed=0)
    # What was learned changes no time: an untrained ensemble has the networks of a trained one.
    rng = np.random.default_rng(0)
    ensemble = ValueEnsemble(config.value, task.observation_spec.size, config.value.value_scale(task.discount), rng)
    planner.use_weights(ensemble.arrays(), version=1)
    state = task.reset(rng)
    times = np.empty((repeats, 2))  # s; plan, bare rollout
    try:
        for step in range(-WARM_UP, repeats):
            period = step + WARM_UP
            began = time.perf_counter()
            plan, _ = planner.plan(state, period, period, episode=0)
            took = time.perf_counter() - began
            physics = bare.seconds(state, np.repeat(dynamics.candidates, members, axis=0))
            if step >= 0:
                times[step] = took, physics
            state = dynamics.advance(state, plan.actions[:1])
    finally:
        dynamics.close()
        bare.close()
    plan_s, rollout_s = np.median(times, axis=0)
    return {
        "task": name,
        "rollouts": rollouts,
        "horizon": horizon,
        "members": members,
        "plan_ms": 1e3 * float(plan_s),
        "rollout_ms": 1e3 * float(rollout_s),
        "ratio": float(np.median(times[:, 0] / times[:, 1])),
    }
