"""The robot, real or simulated, behind one interface."""

from polo_ros.drivers.registry import make, names

__all__ = ["make", "names"]
