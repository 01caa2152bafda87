"""How long a robot takes from being measured to moving as commanded, found in what was recorded of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from polo_ros import tasks
from polo_ros.replay.bag_reader import read_transitions
from polo_ros.replay.bag_types import BagError
from polo_ros.replay.transition import Transition
from polo_ros.tasks.base import FloatArray, Task

LONGEST = 20  # control periods
ENOUGH = 50  # periods to judge by
CLEAR = 0.9  # an error below this share of every other delay's is told apart from them


def of_bag(path: Path | str, robot: str = "") -> dict[str, Any]:
    """`estimate` of what a bag holds, of its only robot or the one named, with its task's name and period.

    Raises:
        BagError: Not a bag, several robots in it and none named, a task that is not installed, another model, or too
            little to judge by.
    """
    from polo_ros.replay.bag_tools import info

    name = info(path)["task"]
    try:
        task = tasks.make(name)
    except ValueError as error:
        raise BagError(f"{path}: {error}") from None
    found = list(read_transitions(path, model_hash=task.model_hash, robot=robot))
    try:
        return {"path": str(path), "task": name, **estimate(task, found)}
    except ValueError as error:
        raise BagError(f"{path}: {error}") from None


def estimate(task: Task, transitions: Sequence[Transition], longest: int = LONGEST) -> dict[str, Any]:
    """The delay, of sensing and actuation together, with which the task's model explains the record best.

    A state that is measured d1 periods late, and moved by commands that take effect d2 periods late, is followed by
    what the model makes of it under the command of d1 + d2 periods ago. For each whole number of periods: the
    error of the velocities that the model predicts one period ahead, each in units of how much it changes in a period.

    Args:
        task: Whose model predicts.
        transitions: In the order of recording; gaps and resets are left out.
        longest: Delay up to which is looked, in control periods.

    Returns:
        "delay" (s) and "periods"; "errors", root mean squares for 0 .. longest periods; "clear", whether one of them
        stands out: where the robot was hardly moved, or the model is another robot's, none does; "steps", judged by.

    Raises:
        ValueError: Too few transitions in a row, or no motion.
    """
    if not task.model.nu:
        raise ValueError("the model has no actuators")
    pairs: list[tuple[Transition, Transition, list[FloatArray]]] = []
    run: list[Transition] = []
    for before, after in pairwise(transitions):
        run.append(before)
        if after.step != before.step + 1 or after.episode != before.episode:
            run = []
        elif len(run) > longest:
            pairs.append((before, after, [one.action for one in run[: -longest - 2 : -1]]))  # newest command first
    if len(pairs) < ENOUGH:
        raise ValueError(
            f"{len(pairs)} control periods come after {longest} others in a row, of {len(transitions)}; "
            f"{ENOUGH} are needed"
        )
    data = mujoco.MjData(task.model)
    starts = np.array([pair[0].state for pair in pairs])
    ends = np.array([pair[1].state for pair in pairs])
    velocities = slice(1 + task.model.nq, 1 + task.model.nq + task.model.nv)
    usual = (ends - starts)[:, velocities].std(axis=0)
    moved = usual > 1e-9
    if not moved.any():
        raise ValueError("nothing moves in the record")
    errors = []
    for late in range(longest + 1):
        predicted = np.array([task.advance(data, pair[0].state, pair[2][late][None]) for pair in pairs])
        wrong = (predicted - ends)[:, velocities][:, moved] / usual[moved]
        errors.append(float(np.sqrt(np.mean(wrong**2))))
    best = int(np.argmin(errors))
    others = min(error for late, error in enumerate(errors) if late != best)
    return {
        "delay": best * task.control_dt,
        "periods": best,
        "clear": bool(errors[best] < CLEAR * others),
        "errors": errors,
        "steps": len(pairs),
    }


def format_estimate(facts: dict[str, Any]) -> str:
    """What `of_bag` found, for people."""
    lines = [f"{facts['path']}: {facts['task']}, {facts['steps']} control periods", "  delay, periods   error"]
    for late, error in enumerate(facts["errors"]):
        mark = "  <- least" if late == facts["periods"] else ""
        lines.append(f"  {late:>14}   {error:5.3f}{mark}")
    if facts["clear"]:
        lines.append(f"  delay of sensing and actuation together: {facts['delay']:g} s")
    else:
        lines.append("  no delay stands out: move the robot more, or check that the model is the robot's")
    return "\n".join(lines)
