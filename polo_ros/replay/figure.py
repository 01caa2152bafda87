"""A run over time, as one picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from polo_ros.files import replacing
from polo_ros.tasks.base import FloatArray

MAX_POINTS = 5000  # a panel is a thousand pixels wide


def _empty() -> FloatArray:
    return np.zeros(0)


@dataclass
class Curves:
    """What the figure shows; times are robot time since the start, s."""

    title: str = ""
    time: FloatArray = field(default_factory=_empty)  # (T,) of transitions
    reward: FloatArray = field(default_factory=_empty)  # (T,)
    episode: FloatArray = field(default_factory=_empty)  # (T,)
    safe_stop: FloatArray = field(default_factory=_empty)  # (T,) 1: the safe stop acted
    action_time: FloatArray = field(default_factory=_empty)  # (A,)
    actions: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))  # (A, nu)
    plan_time: FloatArray = field(default_factory=_empty)  # (P,)
    plan_ms: FloatArray = field(default_factory=_empty)
    deadline_ms: FloatArray = field(default_factory=_empty)
    value_gate: FloatArray = field(default_factory=_empty)
    weights_version: FloatArray = field(default_factory=_empty)
    learn_time: FloatArray = field(default_factory=_empty)  # (L,)
    value_loss: FloatArray = field(default_factory=_empty)


def save_figure(curves: Curves, path: Path) -> None:
    """Draw reward and return, plan time, value loss, gate and version, and actions into a PNG."""
    with matplotlib.rc_context({"font.size": 8, "axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True}):
        figure = Figure(figsize=(9, 10), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(5, 1, sharex=True)
        figure.suptitle(curves.title)
        _rewards(axes[0], curves)
        _plans(axes[1], curves)
        _losses(axes[2], curves)
        _gates(axes[3], curves)
        _actions(axes[4], curves)
        axes[-1].set_xlabel("robot time, s")
        with replacing(path) as partial:
            figure.savefig(partial, dpi=110, format="png")


def _thin(*arrays: FloatArray) -> list[FloatArray]:
    stride = 1 + (len(arrays[0]) - 1) // MAX_POINTS if len(arrays[0]) else 1
    return [array[::stride] for array in arrays]


def _nothing(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="grey")


def _rewards(axes: Axes, curves: Curves) -> None:
    axes.set_ylabel("reward")
    if not len(curves.time):
        _nothing(axes, "no transitions")
        return
    axes.plot(*_thin(curves.time, curves.reward), color="C0", linewidth=0.9)
    stopped = curves.time[curves.safe_stop > 0]
    if len(stopped):
        axes.plot(*_thin(stopped, np.full(len(stopped), curves.reward.min())), "|", color="C3", label="safe stop")
        axes.legend(loc="lower right")
    total = curves.reward.copy()
    for number in np.unique(curves.episode):
        rows = curves.episode == number
        total[rows] = np.cumsum(curves.reward[rows])
    twin = axes.twinx()
    twin.grid(False)
    twin.plot(*_thin(curves.time, total), color="C1", linewidth=0.9)
    twin.set_ylabel("return so far", color="C1")


def _plans(axes: Axes, curves: Curves) -> None:
    axes.set_ylabel("plan time, ms")
    if not len(curves.plan_time):
        _nothing(axes, "no planner status")
        return
    axes.plot(*_thin(curves.plan_time, curves.plan_ms), ".", markersize=2, color="C0")
    limited = curves.deadline_ms > 0
    if limited.any():
        axes.plot(*_thin(curves.plan_time[limited], curves.deadline_ms[limited]), color="C3", label="deadline")
        axes.legend(loc="upper right")
    axes.set_ylim(bottom=0)


def _losses(axes: Axes, curves: Curves) -> None:
    axes.set_ylabel("value loss")
    shown = np.isfinite(curves.value_loss)
    if not shown.any():
        _nothing(axes, "no learner status")
        return
    axes.plot(*_thin(curves.learn_time[shown], curves.value_loss[shown]), ".-", color="C0", linewidth=0.9, markersize=3)
    if (curves.value_loss[shown] > 0).all():
        axes.set_yscale("log")


def _gates(axes: Axes, curves: Curves) -> None:
    axes.set_ylabel("value gate")
    if not len(curves.plan_time):
        _nothing(axes, "no planner status")
        return
    axes.plot(*_thin(curves.plan_time, curves.value_gate), color="C0", linewidth=0.9)
    axes.set_ylim(-0.05, 1.05)
    twin = axes.twinx()
    twin.grid(False)
    twin.step(*_thin(curves.plan_time, curves.weights_version), where="post", color="C1", linewidth=0.9)
    twin.set_ylabel("weights version", color="C1")


def _actions(axes: Axes, curves: Curves) -> None:
    axes.set_ylabel("action")
    if not len(curves.action_time):
        _nothing(axes, "no transitions")
        return
    axes.plot(curves.action_time, curves.actions, linewidth=0.7)
