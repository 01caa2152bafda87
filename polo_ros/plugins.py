"""Things found by name in entry points, so that a user's own lie in the user's own package."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any


class PluginError(ValueError):
    """A plugin that cannot be loaded, cannot be made or contradicts itself."""


def names(group: str) -> list[str]:
    """Names offered in the entry-point group `group`, sorted; nothing is imported."""
    return sorted({entry.name for entry in entry_points(group=group)})


def packages(group: str, name: str) -> set[str]:
    """Distributions that offer entry point `name` of `group`; nothing is imported."""
    return {_package(entry) for entry in entry_points(group=group) if entry.name == name}


def load(group: str, kind: str, name: str) -> Any:
    """The object that entry point `name` of `group` points to.

    Only this one plugin is imported, so that a broken one does not touch the others.

    Args:
        group: entry-point group.
        kind: what to call the thing in errors, "task" or "driver".
        name: entry point.

    Raises:
        ValueError: unknown name.
        PluginError: a name that two packages claim, or a plugin that cannot be imported.
    """
    found = {entry.value: entry for entry in entry_points(group=group) if entry.name == name}
    if not found:
        raise ValueError(f"unknown {kind} '{name}'; {kind}s: {', '.join(names(group)) or 'none installed'}")
    if len(found) > 1:
        claims = " and ".join(sorted(f"{_package(entry)} ({entry.value})" for entry in found.values()))
        raise PluginError(f"{kind} '{name}' is offered by {claims}; uninstall or rename one")
    (entry,) = found.values()
    try:
        return entry.load()
    except Exception as error:  # a plugin may fail in any way while it is imported
        raise PluginError(
            f"{kind} '{name}' of package {_package(entry)} cannot be loaded from {entry.value}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "?"
