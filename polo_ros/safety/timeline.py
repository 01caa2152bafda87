"""Plans as functions of time: which row of which plan belongs to a control period, and is it fresh enough."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polo_ros.tasks.base import FloatArray


@dataclass(frozen=True)
class TimedPlan:
    """Actions for the control periods first_step, first_step + 1, ..."""

    plan_id: int
    state_step: int  # control period of the state planned from; the plan's age counts from it
    first_step: int  # control period at which row 0 takes effect
    episode: int
    actions: FloatArray  # (H, nu)
    planner_id: int = 0  # who made it


@dataclass(frozen=True)
class PlayedAction:
    """What the plans say for one control period."""

    action: FloatArray | None  # (nu,); None: there is nothing to play
    reason: str = ""  # why there is nothing to play: "no plan", "plan too old: ..." or "plan used up: ..."
    plan_id: int = 0  # plan that the action, or the reason, is from; 0: none
    state_step: int = -1  # of that plan
    age: float = math.inf  # s, of the state that plan was made from


class PlanTimeline:
    """The plan in effect and those that take effect later.

    A plan takes effect at its first_step and stays in effect until a plan made from a newer state does.
    Asking changes nothing, so that a planner may look ahead at what the bridge will play. Thread-safe.

    Args:
        control_dt: s, one control period.
        max_plan_age: s, age of a plan's state beyond which the plan is not played any more.
        episode: Episode that plans have to be made for.
    """

    def __init__(self, control_dt: float, max_plan_age: float, episode: int = 0) -> None:
        if not 0.0 < control_dt < math.inf:
            raise ValueError(f"control_dt = {control_dt} is not a finite number of seconds > 0")
        self.control_dt = control_dt
        self.max_plan_age = max_plan_age
        self._episode = episode
        # Replaced as a whole, never changed: readers need no lock.
        self._plans: tuple[TimedPlan, ...] = ()
        self._lock = threading.Lock()

    @property
    def max_plan_age(self) -> float:
        """Age of a plan's state beyond which the plan is not played any more, s. May change at any time."""
        return self._max_plan_age

    @max_plan_age.setter
    def max_plan_age(self, value: float) -> None:
        if not 0.0 <= value < math.inf:
            raise ValueError(f"max_plan_age = {value} is not a finite number of seconds >= 0")
        self._max_plan_age = value
        # In whole periods: the age of a plan is one, and 3 * 0.1 > 0.3.
        self._max_steps = math.floor(value / self.control_dt + 1e-6)

    def reset(self, episode: int) -> None:
        """Forget all plans; from now on take those of `episode`."""
        with self._lock:
            self._episode = episode
            self._plans = ()

    def add(self, plan: TimedPlan, step: int | None = None) -> str:
        """Take a plan.

        Args:
            plan: Replaces every plan that was made from an older state and does not take effect earlier.
            step: The present control period, if known: plans from later ones are refused.

        Returns:
            Why the plan was refused, empty if it was taken.
        """
        with self._lock:
            reason = self._objection(plan, step)
            if not reason:
                plans = [other for other in self._plans if not _replaces(plan, other)] + [plan]
                # Nobody asks about periods before the newest state: what is superseded there goes.
                current = _in_effect(plans, max(other.state_step for other in plans))
                oldest = -1 if current is None else current.state_step
                self._plans = tuple(other for other in plans if other.state_step >= oldest)
            return reason

    def action(self, step: int) -> PlayedAction:
        """The action of control period `step`, or why there is none."""
        plan = _in_effect(self._plans, step)
        if plan is None:
            return PlayedAction(None, "no plan")
        steps = step - plan.state_step
        row = step - plan.first_step
        age = steps * self.control_dt
        action: FloatArray | None = None
        reason = ""
        if steps > self._max_steps:
            reason = f"plan too old: {age:.3f} s, allowed {self._max_plan_age:.3f} s"
        elif row >= len(plan.actions):
            reason = f"plan used up: it has {len(plan.actions)} rows, this is number {row + 1}"
        else:
            action = np.array(plan.actions[row])
        return PlayedAction(action, reason, plan.plan_id, plan.state_step, age)

    def _objection(self, plan: TimedPlan, step: int | None) -> str:
        if plan.episode != self._episode:
            return f"made for episode {plan.episode}, this is episode {self._episode}"
        if np.ndim(plan.actions) != 2 or len(plan.actions) == 0:
            return f"actions have shape {np.shape(plan.actions)}, expected (horizon, nu) with a horizon of 1 or more"
        if plan.first_step < plan.state_step:
            return f"takes effect at step {plan.first_step}, before its state's step {plan.state_step}"
        if step is not None and plan.state_step > step:
            return f"made from the state of step {plan.state_step}, this is step {step}"
        if plan.first_step - plan.state_step > self._max_steps:
            return (
                f"takes effect {(plan.first_step - plan.state_step) * self.control_dt:.3f} s after its state, "
                f"when it is older than max_plan_age {self._max_plan_age:.3f} s"
            )
        for other in self._plans:
            if other.state_step > plan.state_step and other.first_step <= plan.first_step:
                return f"plan {other.plan_id} was made from a newer state, step {other.state_step}"
        return ""


def _replaces(new: TimedPlan, old: TimedPlan) -> bool:
    """Whether `old` will never be played once `new` is there; of two from one state, the later arrival counts.

    A newer plan that takes effect later does not replace one that waits: a planner whose every plan takes
    effect two periods later would otherwise never be played.
    """
    return new.state_step >= old.state_step and new.first_step <= old.first_step


def _in_effect(plans: Sequence[TimedPlan], step: int) -> TimedPlan | None:
    """The plan to play in period `step`: the one made from the newest state, the later arrival of two."""
    found: TimedPlan | None = None
    for plan in plans:
        if plan.first_step <= step and (found is None or plan.state_step >= found.state_step):
            found = plan
    return found
