"""Tests for what others write for polo_ros, in their own packages; needs pytest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polo_ros.testing.driver_conformance import DriverConformance

__all__ = ["DriverConformance"]


def __getattr__(name: str) -> Any:
    """Import a suite when it is asked for: pytest imports this package in every run, for its plugin."""
    if name == "DriverConformance":
        from polo_ros.testing.driver_conformance import DriverConformance

        return DriverConformance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
