"""Drivers by name: entry points of the group `polo_ros.drivers`, each a class derived from Driver."""

from __future__ import annotations

import dataclasses

from polo_ros import plugins
from polo_ros.config import Config
from polo_ros.drivers.base import Driver, NoSettings
from polo_ros.plugins import PluginError
from polo_ros.tasks.base import Task

GROUP = "polo_ros.drivers"


def names() -> list[str]:
    """Names of all installed drivers, sorted."""
    return plugins.names(GROUP)


def describe(name: str) -> str:
    """The first line of what the driver called `name` says of itself. Raises ValueError as `make` does."""
    documentation: str = plugins.load(GROUP, "driver", name).__doc__ or ""
    return documentation.strip().partition("\n")[0]


def settings(name: str) -> Config:
    """Settings of the driver called `name`, as the only field of a Config, of that name.

    Raises:
        ValueError: unknown name.
        PluginError: one that cannot be loaded, or whose name cannot stand before its settings; also a ValueError.
    """
    kind = getattr(plugins.load(GROUP, "driver", name), "settings_type", NoSettings)
    if not name.isidentifier():
        raise PluginError(f"driver '{name}': its name must consist of letters, digits and underscores")
    field = dataclasses.field(default_factory=kind)
    made: Config = dataclasses.make_dataclass("DriverSettings", [(name, kind, field)], bases=(Config,), frozen=True)()
    return made


def make(name: str, task: Task, seed: int, settings: Config | None = None) -> Driver:
    """Make the driver called `name` for one task; it is not connected yet.

    Args:
        name: Of the entry point.
        task: What the robot is for.
        seed: Of the session.
        settings: Of the driver's `settings_type`; None: its defaults.

    Raises:
        ValueError: unknown name.
        PluginError: one that cannot be loaded or made; also a ValueError.
    """
    factory = plugins.load(GROUP, "driver", name)
    try:
        driver = factory(task, seed, settings)
    except Exception as error:  # a plugin may fail in any way
        raise PluginError(
            f"driver '{name}' cannot be made for task '{task.name}': {type(error).__name__}: {error}"
        ) from error
    if not isinstance(driver, Driver):
        raise PluginError(f"driver '{name}' is a {type(driver).__name__}, not a polo_ros.drivers.base.Driver")
    return driver
