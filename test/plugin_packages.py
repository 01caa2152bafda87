"""Packages of others, as pip would install them, for tests."""

from __future__ import annotations

import textwrap
from pathlib import Path


def install(folder: Path, name: str, entry_points: str) -> None:
    """What pip leaves behind of package `name`."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(textwrap.dedent(entry_points))
