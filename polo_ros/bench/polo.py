"""What a run of POLO costs in core time, and where it goes: `polo bench polo`."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from polo_ros import tasks
from polo_ros.agents.polo import PoloConfig
from polo_ros.agents.run import PoloRun
from polo_ros.dynamics.mujoco import MujocoDynamics
from polo_ros.learning.polo_learner import PoloLearner
from polo_ros.learning.targets import TargetPlanner
from polo_ros.learning.value_ensemble import ValueEnsemble
from polo_ros.learning.value_function import ValueConfig, ValueFunction
from polo_ros.session.config import for_task

PARTS = ("rollouts", "value", "targets", "regression", "rest")
REST_LIMIT = 0.1  # share of the whole


@dataclass(frozen=True)
class Case:
    """A run of the paper, and what it may cost."""

    task: str
    paper_steps: int  # control periods
    paper_core_hours: float  # what the authors report
    wanted_core_hours: float


CASES = (Case("humanoid_getup", 12_000, 24.0, 4.0), Case("hand_reorient", 2500, 1.0, 0.5))

# The paper's humanoid: candidates of a plan, entries of an observation, and the limit in ms.
VALUE_STATES, VALUE_ENTRIES, VALUE_LIMIT = 120, 34, 0.3
VALUE_CONFIG = ValueConfig(members=6, hidden=16, layers=2)


def bench_polo(steps: int, evaluations: int = 1000) -> list[dict[str, Any]]:
    """Run POLO in process with the settings of each task, and time one evaluation of the value.

    Core time is what the operating system counts for all threads of the process, in user and kernel mode: a thread
    that waits costs nothing, one that spins costs as one that works. Rollouts have one thread, so that nothing waits
    for anything. Another load on the machine makes the numbers larger all the same, by caches and clock rates;
    `wall_s` much above `cpu_s` gives it away. Making the task, networks and threads is not counted.

    Args:
        steps: Control periods of each run.
        evaluations: Evaluations of the value, of which the median counts.

    Returns:
        A row for each of CASES: "task", "steps", "updates", "wall_s", "cpu_s", of it "rollouts_s" (of plans),
        "value_s" (terminal values of plans), "targets_s" (rollouts of targets), "regression_s" (all else of an update,
        values at the ends of targets included) and "rest_s" (noise, rewards, averages, the robot's own physics, buffer,
        weights); "rest_share" and "rest_share_wanted"; "core_hours", which
        is `cpu_s` carried on to the paper's "paper_steps", "core_hours_paper" and "core_hours_wanted". For a task that
        cannot be made only "task" and "missing", why. Last a row with "members", "states", "value_ms" and
        "value_ms_wanted".

    Raises:
        ValueError: No step.
    """
    if steps < 1:
        raise ValueError(f"steps = {steps} is below its minimum 1")
    return [*(_row(case, steps) for case in CASES), _value_row(evaluations)]


class CoreTime:
    """Charges core time to PARTS while a `with` block lasts; what a watched method calls is not charged twice.

    Methods are replaced on their classes, since a run makes some of the objects anew, and put back at the end: what
    runs outside a benchmark knows nothing of it.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._stack = ["rest"]
        self._since = 0.0
        self._originals: list[tuple[type, str, Callable[..., Any]]] = []

    def watch(self, owner: type, method: str, part: str, *, during: dict[str, str] | None = None) -> None:
        """Charge `owner.method` to `part`, or to `during[p]` while something that is charged to p is under way."""
        original = getattr(owner, method)

        @functools.wraps(original)
        def watched(*arguments: Any, **options: Any) -> Any:
            charged = next((other for outer, other in (during or {}).items() if outer in self._stack), part)
            self._charge()
            self._stack.append(charged)
            try:
                return original(*arguments, **options)
            finally:
                self._charge()
                self._stack.pop()

        self._originals.append((owner, method, original))
        setattr(owner, method, watched)

    def __enter__(self) -> CoreTime:
        self._since = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self._charge()
        for owner, method, original in self._originals:
            setattr(owner, method, original)

    def _charge(self) -> None:
        now = time.process_time()
        self.seconds[self._stack[-1]] += now - self._since
        self._since = now


def _row(case: Case, steps: int) -> dict[str, Any]:
    try:
        task = tasks.make(case.task)
    except ValueError as error:  # whatever goes wrong, a package without the hand included
        return {"task": case.task, "missing": str(error)}
    config = for_task(PoloConfig(), case.task)
    with PoloRun(task, config, seed=0, threads=1) as run:
        began = time.process_time()
        with CoreTime() as core:
            core.watch(PoloLearner, "update", "regression")
            # What targets take beside their rollouts: noise, rewards, sums.
            core.watch(TargetPlanner, "futures", "rest")
            core.watch(MujocoDynamics, "rollout", "rollouts", during={"regression": "targets"})
            core.watch(ValueFunction, "estimate", "value")
            result = run.go(steps)
        cpu_s = time.process_time() - began
    return {
        "task": case.task,
        "steps": steps,
        "updates": len(result.updates),
        "wall_s": result.wall_s,
        "cpu_s": cpu_s,
        **{f"{part}_s": seconds for part, seconds in core.seconds.items()},
        "rest_share": core.seconds["rest"] / cpu_s,
        "rest_share_wanted": REST_LIMIT,
        "paper_steps": case.paper_steps,
        "core_hours": cpu_s / steps * case.paper_steps / 3600.0,
        "core_hours_paper": case.paper_core_hours,
        "core_hours_wanted": case.wanted_core_hours,
    }


def _value_row(evaluations: int) -> dict[str, Any]:
    # What was learned changes no time: an untrained ensemble has the networks of a trained one.
    rng = np.random.default_rng(0)
    value = ValueFunction(VALUE_CONFIG, ValueEnsemble(VALUE_CONFIG, VALUE_ENTRIES, 100.0, rng).arrays())
    observations = rng.standard_normal((VALUE_STATES, VALUE_ENTRIES))
    times = np.empty(evaluations)
    for index in range(evaluations):
        began = time.process_time()
        value.estimate(observations)
        times[index] = time.process_time() - began
    return {
        "members": VALUE_CONFIG.members,
        "states": VALUE_STATES,
        "value_ms": 1e3 * float(np.median(times)),
        "value_ms_wanted": VALUE_LIMIT,
    }
