"""The robot, real or simulated, behind one interface."""

from polo_ros.drivers.registry import SIMULATION, built_in, chosen, describe, make, names, settings, simulator

__all__ = ["SIMULATION", "built_in", "chosen", "describe", "make", "names", "settings", "simulator"]
