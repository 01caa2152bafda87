"""Jobs of the toy experiment, which start fast."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

from polo_ros.experiments.base import Workplace, save_arrays


def draw(settings: dict[str, Any], workplace: Workplace) -> dict[str, Any]:
    """A number that the settings give; every call leaves a line in the trial's folder."""
    with open(workplace.folder / "calls", "a", encoding="utf-8") as calls:
        calls.write("called\n")
    workplace.progress(0.5, "half of it")
    number = float(settings["number"])
    save_arrays(workplace, curve=[number] * 3)
    (workplace.folder / "note.txt").write_text(f"{number}\n", encoding="utf-8")
    return {"number": number, "missing": float("nan")}


def total(settings: dict[str, Any], workplace: Workplace) -> dict[str, Any]:
    """The sum of what the needed trials have noted."""
    draw({"number": 0}, workplace)
    notes = [float((folder / "note.txt").read_text(encoding="utf-8")) for folder in workplace.needed.values()]
    return {"number": settings["factor"] * sum(notes)}


def fail(settings: dict[str, Any], workplace: Workplace) -> dict[str, Any]:
    raise ArithmeticError(settings["words"])


def linger(settings: dict[str, Any], workplace: Workplace) -> dict[str, Any]:
    """Never ends by itself, nor does what it has started."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as other:
        (workplace.folder / "started").write_text(str(other.pid))
        while True:
            workplace.progress(0.0, "still here")
            time.sleep(0.05)


CALLS: list[str] = []


def remember(settings: dict[str, Any], workplace: Workplace) -> dict[str, Any]:
    """How often it was called in this process, and how many threads the one has that it was forked from."""
    CALLS.append(settings["name"])
    return {"calls": len(CALLS), "threads": len(os.listdir(f"/proc/{os.getppid()}/task"))}
