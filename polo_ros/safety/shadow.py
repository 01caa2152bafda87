"""What the digital twin's differences say: figures over a while, thresholds, and where to look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mujoco
import numpy as np

from polo_ros.config import Config, option
from polo_ros.safety.twin import Difference
from polo_ros.tasks.base import FloatArray, Task

_ADVICE = (
    "where it is always the same joint, look at its gear, friction, motor and sensor; "
    "else at masses, control gains and delays (`polo bag delay`)"
)
# What to say where nothing is compared, by the reason for which the twin is set again and again.
_HINDRANCES = {
    "no State": "no State has come for any of them",
    "episode": "every one begins an episode",
    "transitions lost": "transitions are lost in between",
    "clock": "the times of the robot's states are not control_dt apart",
    "diverged": "the model diverges within a period",
}


@dataclass(frozen=True)
class ShadowConfig(Config):
    """Settings of the digital twin."""

    horizon: float = option(
        0.5,
        "time after which the twin is set to the robot again; 0: only at resets and where it has to be",
        unit="s",
        low=0.0,
        high=1e6,
        live=True,
    )
    position_difference: float = option(
        0.0,
        "difference of a position from the twin's that is a warning; 0: none",
        unit="rad or m",
        low=0.0,
        high=1e9,
        live=True,
    )
    velocity_difference: float = option(
        0.0, "the same for a velocity", unit="rad/s or m/s", low=0.0, high=1e9, live=True
    )


@dataclass(frozen=True)
class Freedom:
    """One degree of freedom."""

    name: str  # of its joint; "root (x)", "root (about x)" where a joint has several; "number 3" where it has no name
    unit: str  # of its position: m or rad


def freedoms(model: mujoco.MjModel) -> tuple[Freedom, ...]:
    """The degrees of freedom of a model, (nv,)."""
    shifts = [(f" ({axis})", "m") for axis in "xyz"]
    turns = [(f" (about {axis})", "rad") for axis in "xyz"]
    parts = {
        int(mujoco.mjtJoint.mjJNT_FREE): shifts + turns,
        int(mujoco.mjtJoint.mjJNT_BALL): turns,
        int(mujoco.mjtJoint.mjJNT_SLIDE): [("", "m")],
        int(mujoco.mjtJoint.mjJNT_HINGE): [("", "rad")],
    }
    return tuple(
        Freedom(f"{model.joint(joint).name or f'number {joint}'}{part}", unit)
        for joint in range(model.njnt)
        for part, unit in parts[int(model.jnt_type[joint])]
    )


def rms(values: FloatArray) -> float:
    """Root mean square; 0 without any."""
    return float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0


@dataclass(frozen=True)
class Report:
    """What there is to say of a while."""

    figures: Mapping[str, object]
    warnings: tuple[str, ...]  # what is wrong, in words


class Statistics:
    """Gathers differences until they are reported.

    Args:
        task: Gives the model and the control period.
    """

    ENOUGH = 10  # transitions, none of which could be compared, that are worth a word

    def __init__(self, task: Task) -> None:
        self._dt = task.control_dt
        self._freedoms = freedoms(task.model)
        self._begin()

    def _begin(self) -> None:
        self._heard = 0
        self._gathered: list[Difference] = []

    def worst(self, values: FloatArray) -> str:
        """Name of the degree of freedom with the largest of differences (nv,); empty: all are zero."""
        return self._freedoms[int(np.argmax(np.abs(values)))].name if values.any() else ""

    def add(self, difference: Difference | None) -> None:
        """Take in what came of one transition; None: nothing."""
        self._heard += 1
        if difference is not None:
            self._gathered.append(difference)

    def report(self, config: ShadowConfig, reason: str) -> Report:
        """What came in since the last report.

        Args:
            config: Thresholds.
            reason: Why the twin was set last.
        """
        heard, gathered = self._heard, self._gathered
        self._begin()
        figures: dict[str, object] = {"compared": len(gathered)}
        if not gathered:
            text = f"of {heard} periods none could be compared: {_HINDRANCES.get(reason, reason)}"
            return Report(figures, (text,) if heard >= self.ENOUGH else ())
        warnings: list[str] = []
        for word, per, limit in (
            ("position", "", config.position_difference),
            ("velocity", "/s", config.velocity_difference),
        ):
            values = np.array([getattr(one, word) for one in gathered])  # (T, nv)
            when, where = np.unravel_index(int(np.argmax(np.abs(values))), values.shape)
            found, worst, freedom = gathered[when], float(values[when, where]), self._freedoms[where]
            after = f"{found.periods * self._dt:g} s after the twin was set"
            figures[f"{word}_rms"] = f"{rms(values):.4g}"
            figures[f"{word}_worst"] = f"{freedom.name}: {worst:.4g} {freedom.unit}{per}, {after}" if worst else "none"
            if 0.0 < limit < abs(worst):
                share = float(np.sum(values[:, where] ** 2) / np.sum(values**2))
                warnings.append(
                    f"{word} of '{freedom.name}' is {worst:.4g} {freedom.unit}{per} off what the model says, {after} "
                    f"(step {found.step}; allowed {limit:g}; {share:.0%} of all squared difference)"
                )
        return Report(figures, (*warnings, _ADVICE) if warnings else ())
