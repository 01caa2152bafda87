"""The robot, real or simulated, behind one interface."""

from polo_ros.drivers.registry import describe, make, names, settings

__all__ = ["describe", "make", "names", "settings"]
