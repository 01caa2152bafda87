"""pytest plugin: `pytest --polo-driver NAME --polo-task NAME`, and what the conformance suite has to report.

Without the option and without a DriverConformance in the tests it does nothing, and imports nothing but pytest.
"""

from __future__ import annotations

from pathlib import Path

import pytest

SUITE = Path(__file__).with_name("named_driver.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the suite."""
    group = parser.getgroup("polo_ros", "drivers of polo_ros")
    group.addoption("--polo-driver", metavar="NAME", help="test an installed driver: `polo drivers` lists them")
    group.addoption("--polo-task", metavar="NAME", help="the task that it is tested with: `polo tasks` lists them")
    group.addoption(
        "--polo-setting", metavar="NAME=VALUE", action="append", default=[], help="a setting of the driver; repeatable"
    )
    group.addoption(
        "--polo-attribute",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="an attribute of polo_ros.testing.DriverConformance, as still=0.02; repeatable",
    )
    group.addoption(
        "--polo-may-move", action="store_true", help="the robot has room: write small commands to it, one at a time"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Run the suite beside the tests that are named, and instead of all where none are."""
    others = [name for name in ("task", "setting", "attribute", "may_move") if config.getoption(f"polo_{name}")]
    if config.getoption("polo_driver"):
        if not config.getoption("polo_task"):
            raise pytest.UsageError("--polo-driver needs --polo-task, the task to test it with: `polo tasks`")
        named = config.args if config.args_source is pytest.Config.ArgsSource.ARGS else []
        config.args[:] = [*named, str(SUITE)]
    elif others:
        raise pytest.UsageError(f"--polo-{others[0].replace('_', '-')} needs --polo-driver, the driver: `polo drivers`")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """By test class: times that were measured, and what was not tested, with the reason."""
    found: dict[str, list[str]] = {}
    for report in (r for kind in ("passed", "failed", "skipped") for r in terminalreporter.stats.get(kind, [])):
        properties = dict(getattr(report, "user_properties", ()))
        if "polo_driver" not in properties or report.when == "teardown":
            continue
        of, _, test = report.nodeid.rpartition("::")
        lines = found.setdefault(f"{of.rpartition('/')[2].lstrip(':')} ({properties['polo_driver']})", [])
        if "polo_time" in properties:
            lines.append(properties["polo_time"])
        if report.skipped and isinstance(report.longrepr, tuple):
            reason = report.longrepr[2].removeprefix("Skipped: ")
            lines.append(f"not tested: {test.removeprefix('test_').replace('_', ' ')} ({reason})")
    if found:
        terminalreporter.section("drivers of polo_ros", sep="-")
    for of, lines in found.items():
        terminalreporter.write_line(f"{of}:")
        for line in lines:
            terminalreporter.write_line(f"  {line}")
