"""The bench of a bridge alone."""

from __future__ import annotations

import pytest
from session_runs import environment

from polo_ros.bench import bridge


def test_a_bridge_alone_starts_without_torch_and_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(161).items():
        monkeypatch.setenv(name, value)
    figures = bridge.bench_bridge(1.0)
    assert figures["torch"] is False
    assert figures["memory_mb"] > 10 and 0.0 < figures["cpu"] < 2.0 and figures["start_s"] > 0.0


def test_a_bridge_that_does_not_start_is_named_with_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(161).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match="unknown driver 'mok'"):
        bridge.bench_bridge(1.0, driver="mok")
