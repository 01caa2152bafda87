"""What a plan in a learned model costs over the networks that it asks for: `polo bench ensemble`."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from polo_ros import tasks
from polo_ros.bench.networks import Bare, Passes
from polo_ros.config import replace
from polo_ros.dynamics.ensemble import EnsembleDynamics
from polo_ros.dynamics.ensemble_config import EnsembleConfig, PredictionConfig, shapes
from polo_ros.planners.mppi import Mppi, MppiConfig
from polo_ros.planners.objective import Objective


@dataclass(frozen=True)
class Case:
    """Planning of one size."""

    task: str
    rollouts: int
    horizon: int
    particles: int = 1
    sampled: bool = False
    rewards: str = "predicted"


NETWORKS = EnsembleConfig(members=5, elites=5, hidden=200, layers=2)
CASES = (
    Case("cartpole_swingup", 250, 25),
    Case("ant", 60, 50),
    Case("ant", 500, 15),
    Case("ant", 60, 50, rewards="task"),
    Case("ant", 60, 50, sampled=True),
    Case("ant", 60, 50, particles=5, sampled=True),
)
WANTED = 1.15  # at most, of cases with one particle and no noise

WARM_UP = 3  # rounds that are not counted


def bench_ensemble(repeats: int) -> list[dict[str, Any]]:
    """Time plans in a learned model against bare forward passes of the same shapes.

    A plan of MPPI draws the candidates, predicts them with TS-infinity in 5 members of 2 x 200 units, asks the task for
    ends, and weights the candidates; rewards are predicted, or the task's. The bare passes are horizon times the
    networks' batched products and swish, for as many rows, with outputs allocated beforehand, and nothing else: neither
    inputs nor outputs are touched. They leave out the log-variance where plans do. Both take turns in one loop on one
    thread, whose core time is counted.

    Args:
        repeats: Rounds counted, each one plan and one set of bare passes.

    Returns:
        A row for each of CASES: its own fields, "plan_ms" and "networks_ms" (medians), "ratio" (median over the rounds
        of plan over networks), and "wanted" where there is one. For a task that cannot be made only "task" and
        "missing", why.

    Raises:
        ValueError: No round.
    """
    if repeats < 1:
        raise ValueError(f"repeats = {repeats} is below its minimum 1")
    return [_row(case, repeats) for case in CASES]


def _bare(case: Case, nobs: int, nu: int) -> Bare:
    """As many rows as the plan has, filled up to equal parts."""
    rows = -(-case.rollouts * case.particles // NETWORKS.elites)
    outputs = 1 + 2 * nobs if case.sampled else 1 + nobs
    sizes = [nobs + nu] + [NETWORKS.hidden] * NETWORKS.layers + [outputs]
    return Bare(Passes(case.horizon, NETWORKS.elites, rows, list(itertools.pairwise(sizes)), swish=True))


def _row(case: Case, repeats: int) -> dict[str, Any]:
    try:
        task = tasks.make(case.task)
    except ValueError as error:  # the package without its extra
        return {"task": case.task, "missing": str(error)}
    nobs, nu = task.observation_spec.size, int(task.model.nu)
    rng = np.random.default_rng(0)
    # What was learned changes no time. Small weights keep predictions near the start.
    arrays = {
        name: (0.01 * rng.standard_normal(shape)).astype(np.float32)
        for name, shape in shapes(NETWORKS, nobs, nu).items()
    }
    arrays["input_std"] = np.ones(nobs + nu, np.float32)
    arrays["log_var_min"], arrays["log_var_max"] = arrays["log_var_min"] - 10.0, arrays["log_var_max"] + 0.5
    prediction = PredictionConfig(particles=case.particles, sampled=case.sampled, rewards=case.rewards)
    dynamics = EnsembleDynamics(task, NETWORKS, prediction, arrays)
    config = replace(MppiConfig(), {"rollouts": case.rollouts, "horizon": case.horizon})
    planner = Mppi(task, dynamics, Objective(task), config)
    bare = _bare(case, nobs, nu)
    start = task.observe(task.sense(task.reset(rng)))
    times = np.empty((repeats, 2))  # s; plan, networks
    for round_ in range(-WARM_UP, repeats):
        began = time.thread_time()
        planner.plan(start, rng)
        planner.shift(1)
        took = time.thread_time() - began
        networks = bare.seconds()
        if round_ >= 0:
            times[round_] = took, networks
    plan_s, networks_s = np.median(times, axis=0)
    row = {
        "task": case.task,
        "rollouts": case.rollouts,
        "horizon": case.horizon,
        "particles": case.particles,
        "sampled": case.sampled,
        "rewards": case.rewards,
        "plan_ms": 1e3 * float(plan_s),
        "networks_ms": 1e3 * float(networks_s),
        "ratio": float(np.median(times[:, 0] / times[:, 1])),
    }
    return row if case.sampled else {**row, "wanted": WANTED}
