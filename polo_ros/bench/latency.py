"""What delays cost, and what prediction gives back: `polo bench latency`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from polo_ros import tasks
from polo_ros.agents.polo import PoloConfig
from polo_ros.agents.run import PoloRun
from polo_ros.drivers.base import periods
from polo_ros.drivers.mujoco import MujocoSettings
from polo_ros.session.config import for_task

DELAYS = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1)  # s
LOST = 0.1  # share of the return that may be lost ...
AT = 0.04  # ... at this delay, s, with prediction


@dataclass(frozen=True)
class Case:
    """A task, for so long."""

    task: str
    seconds: float
    lost: float | None = None  # share of the return that may be lost AT


CASES = (
    Case("cartpole_swingup", 10.0, lost=LOST),
    Case("humanoid_stand", 3.0),
)


def bench_latency(seeds: int, cases: tuple[Case, ...] = CASES) -> list[dict[str, Any]]:
    """Plain MPC in lockstep on simulated robots that are seen late and moved late, with and without prediction.

    Half of a delay is of sensing and half of actuation, in whole control periods, rounded up. Planning takes no time in
    lockstep: a session's own delay is predicted through in the same way.

    Args:
        seeds: Runs of each kind, whose mean return is reported.
        cases: What is run.

    Returns:
        A row for each case and delay: "task", "delay_ms" (as rounded), "return_predicting", "return_not_predicting",
        and each's share of the return without delay that is lost, "lost_predicting" and "lost_not_predicting"; in the
        row of AT "lost_wanted", where something is wanted of the task.

    Raises:
        ValueError: No seed.
    """
    if seeds < 1:
        raise ValueError(f"seeds = {seeds} is below its minimum 1")
    rows: list[dict[str, Any]] = []
    for case in cases:
        period = tasks.make(case.task).control_dt
        undelayed = 0.0
        for delay in DELAYS:
            late = periods(delay, period)
            predicting = _mean_return(case, late, True, seeds)
            # Without a delay both are the same run.
            naive = _mean_return(case, late, False, seeds) if late else predicting
            if not late:
                undelayed = predicting
            row = {
                "task": case.task,
                "delay_ms": 1e3 * late * period,
                "return_predicting": predicting,
                "return_not_predicting": naive,
                "lost_predicting": 1.0 - predicting / undelayed,
                "lost_not_predicting": 1.0 - naive / undelayed,
            }
            rows.append({**row, "lost_wanted": case.lost} if case.lost is not None and delay == AT else row)
    return rows


def _mean_return(case: Case, late: int, predict: bool, seeds: int) -> float:
    task = tasks.make(case.task)
    config = for_task(PoloConfig(), case.task)
    robot = MujocoSettings(
        sensing_delay=late // 2 * task.control_dt, actuation_delay=(late - late // 2) * task.control_dt
    )
    returns = []
    for seed in range(seeds):
        with PoloRun(task, config, seed=seed, learn=False, robot=robot, predict=predict) as run:
            found = run.go(round(case.seconds / task.control_dt)).transitions
        returns.append(sum(transition.reward for transition in found))
    return float(np.mean(returns))
