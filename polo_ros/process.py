"""What a program of ours sets for its whole process; a library must not, so no import does it."""

from __future__ import annotations

import sys

import mujoco
from threadpoolctl import threadpool_limits

SWITCH_INTERVAL = 2e-4  # s; Python's 5 ms would be a quarter of a control period


def prepare() -> None:
    """Make the process fit to share a machine with the other nodes of a session.

    One thread for linear algebra: matrices here are small, and BLAS threads that spin beside rollout
    threads on the same cores are many times slower. A thread that plans gets the interpreter from one that
    only does ROS's bookkeeping within SWITCH_INTERVAL. MuJoCo's warnings about single simulations do not
    go to the terminal and ./MUJOCO_LOG.TXT: of a plan's candidates some may diverge; planners and
    drivers count them and say so.
    """
    threadpool_limits(1)
    sys.setswitchinterval(SWITCH_INTERVAL)
    mujoco.set_mju_user_warning(lambda _: None)
