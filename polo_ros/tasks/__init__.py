"""What to do: models, observations, rewards, starts and ends."""

from polo_ros.tasks.registry import make, names, simulator

__all__ = ["make", "names", "simulator"]
