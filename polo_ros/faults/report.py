"""What a campaign comes to: totals, and a table of groups."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from polo_ros.faults.campaign import Outcome


def as_json(outcomes: Sequence[Outcome], seed: int, duration_s: float) -> dict[str, Any]:
    """Totals and every case."""
    return {
        "cases": len(outcomes),
        "violations": sum(len(outcome.violations) for outcome in outcomes),
        "worst_stop_s": worst_stop(outcomes),
        "stop_limit_s": max((o.stop_limit_s for o in outcomes if o.stop_limit_s), default=None),
        "lost": sum(outcome.lost for outcome in outcomes),
        "seed": seed,
        "duration_s": round(duration_s, 1),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "groups": groups(outcomes),
        "results": [outcome.figures() for outcome in outcomes],
    }


def as_text(figures: Mapping[str, Any]) -> str:
    """The figures as JSON, with a line a group and a line a case."""
    rows = []
    for name, value in figures.items():
        text = json.dumps(value)
        if isinstance(value, list):
            text = "[\n" + ",\n".join(f"    {json.dumps(row)}" for row in value) + "\n  ]"
        rows.append(f"  {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(rows) + "\n}"


def worst_stop(outcomes: Sequence[Outcome]) -> float | None:
    """Longest time to a safe stop among the cases that bound it, s; None: nothing had to stop."""
    found = [o.stop_s for o in outcomes if o.stop_s is not None and o.stop_limit_s is not None]
    return round(max(found), 4) if found else None


def groups(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Figures of each group of cases."""
    out = []
    for group in dict.fromkeys(outcome.group for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.group == group]
        out.append(
            {
                "group": group,
                "cases": len(mine),
                "violations": sum(len(outcome.violations) for outcome in mine),
                "worst_stop_s": worst_stop(mine),
                "worst_recovery_s": round(max((o.recovery_s or 0.0 for o in mine), default=0.0), 2),
                "lost": sum(outcome.lost for outcome in mine),
                "commands": sum(outcome.commands for outcome in mine),
            }
        )
    return out


def table(outcomes: Sequence[Outcome]) -> str:
    """Groups in columns, then the totals."""
    rows = groups(outcomes)
    names = list(rows[0]) if rows else []
    cells = [names, *[["-" if row[name] is None else str(row[name]) for name in names] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(names))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
