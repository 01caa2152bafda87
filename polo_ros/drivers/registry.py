"""Drivers by name: entry points of the group `polo_ros.drivers`, each a class derived from Driver."""

from __future__ import annotations

import dataclasses

from polo_ros import plugins, tasks
from polo_ros.config import Config
from polo_ros.drivers.base import Driver, NoSettings
from polo_ros.plugins import PluginError
from polo_ros.tasks.base import Task

GROUP = "polo_ros.drivers"
SIMULATION = "simulation"  # in a driver's place: whichever simulates the task


def names() -> list[str]:
    """Names of all installed drivers, sorted."""
    return plugins.names(GROUP)


def chosen(name: str, task: str) -> str:
    """The driver that `name` stands for in a session of the task called `task`.

    Raises:
        ValueError: It is "simulation", and there is no such task; or as `tasks.make` does.
    """
    return tasks.simulator(task) if name == SIMULATION else name


def simulator(task: Task, seed: int, settings: Config | None = None) -> Driver:
    """Make the driver that simulates `task`; it is not connected yet.

    Args:
        task: What is simulated; `Task.simulator` names the driver.
        seed: Of the session.
        settings: Of that driver; None: its defaults.

    Raises:
        ValueError: There is no such driver, or it has other settings than these.
        PluginError: As `make`.
    """
    kind = getattr(plugins.load(GROUP, "driver", task.simulator), "settings_type", NoSettings)
    if settings is not None and not isinstance(settings, kind):
        raise ValueError(
            f"{type(settings).__name__} are no settings of driver '{task.simulator}', which simulates task "
            f"'{task.name}'; it has {kind.__name__}"
        )
    return make(task.simulator, task, seed, settings)


def describe(name: str) -> str:
    """The first line of what the driver called `name` says of itself. Raises ValueError as `make` does."""
    documentation: str = plugins.load(GROUP, "driver", name).__doc__ or ""
    return documentation.strip().partition("\n")[0]


def built_in(name: str) -> bool:
    """Whether the driver called `name` comes with this package; nothing is imported."""
    return plugins.packages(GROUP, name) == {"polo_ros"}


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
