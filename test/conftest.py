from __future__ import annotations

import hypothesis
import pytest
import session_runs

from polo_ros.process import prepare

prepare()  # tests let physics diverge, and MuJoCo would log it into the current folder
hypothesis.settings.register_profile("polo_ros", deadline=None)  # how long an example takes is not what is tested
hypothesis.settings.load_profile("polo_ros")


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of a file that imports session_runs are `alone`; a test that imports it by itself has the mark."""
    for item in items:
        if isinstance(item, pytest.Function) and any(
            getattr(value, "__module__", None) == session_runs.__name__ for value in vars(item.module).values()
        ):
            item.add_marker(pytest.mark.alone)
