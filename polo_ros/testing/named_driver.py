"""The conformance suite for the driver that the command line names; see polo_ros.testing.plugin."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import yaml

from polo_ros import config, drivers
from polo_ros.drivers.base import Driver
from polo_ros.tasks.base import Task
from polo_ros.testing.driver_conformance import DriverConformance

ATTRIBUTES = ("still", "settling", "nudge", "nudge_periods", "range_tolerance", "patience", "slowest", "obeys")


class TestDriver(DriverConformance):
    """`--polo-driver` with `--polo-task`, each `--polo-setting` and each `--polo-attribute`."""

    name = ""
    settings: dict[str, Any] = {}

    @pytest.fixture(autouse=True)
    def _of_the_command_line(self, pytestconfig: pytest.Config) -> None:
        options = pytestconfig.option
        if not options.polo_driver:
            raise pytest.UsageError("name a driver and a task: pytest --polo-driver NAME --polo-task NAME")
        self.name, self.task = options.polo_driver, options.polo_task
        self.may_move = True if options.polo_may_move else None
        self.settings = _parsed("--polo-setting", options.polo_setting)
        for name, value in _parsed("--polo-attribute", options.polo_attribute).items():
            kind = type(getattr(DriverConformance, name)) if name in ATTRIBUTES else None
            if kind is None or not isinstance(value, kind | int):
                raise pytest.UsageError(f"--polo-attribute {name}={value}: attributes: {', '.join(ATTRIBUTES)}")
            setattr(self, name, kind(value))

    def make(self, task: Task) -> Driver:
        """As a session makes it."""
        changes = {f"{self.name}.{name.removeprefix(f'{self.name}.')}": value for name, value in self.settings.items()}
        settings = config.replace(drivers.settings(self.name), changes)
        return drivers.make(self.name, task, 0, getattr(settings, self.name))


def _parsed(option: str, texts: Iterable[str]) -> dict[str, Any]:
    found = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise pytest.UsageError(f"malformed {option} '{text}'; write NAME=VALUE")
        found[name] = yaml.safe_load(value)
    return found
