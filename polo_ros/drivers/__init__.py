"""The robot, real or simulated, behind one interface."""

from polo_ros.drivers.registry import chosen, describe, make, names, settings, simulator

__all__ = ["chosen", "describe", "make", "names", "settings", "simulator"]
