"""A learning that can be killed, and a task with short episodes for it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from polo_ros.agents.run import PoloRun
from polo_ros.experiments import agents
from polo_ros.experiments.base import Workplace
from polo_ros.tasks.humanoid_getup import HumanoidGetup


class ShortGetup(HumanoidGetup):
    name = "short_getup"
    description = "a test"
    episode_steps = 40


def learn(settings: dict[str, Any], workplace: Workplace) -> dict[str, Any]:
    """The real thing, which TOY_KILL kills: `step N` at a report of progress, `save N` in the Nth checkpoint."""
    kind, _, number = os.environ.get("TOY_KILL", "").partition(" ")
    saves = 0

    def progress(done: float, words: str) -> None:
        workplace.progress(done, words)
        if kind == "step" and words.startswith(f"step {number} "):
            os.kill(os.getpid(), signal.SIGKILL)

    save = PoloRun.save

    def watched_save(run: PoloRun, path: Path) -> None:
        nonlocal saves
        saves += 1
        if kind == "save" and saves == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        save(run, path)

    PoloRun.save = watched_save  # type: ignore[method-assign]
    numbers = agents.learn(settings, Workplace(workplace.folder, workplace.needed, progress))
    return {**numbers, "saves": saves}
