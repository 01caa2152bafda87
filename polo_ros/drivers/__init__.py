"""The robot, real or simulated, behind one interface."""

from polo_ros.drivers.registry import SIMULATION, chosen, describe, make, names, settings, simulator

__all__ = ["SIMULATION", "chosen", "describe", "make", "names", "settings", "simulator"]
