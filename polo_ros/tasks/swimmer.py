"""Swimmer of gymnasium: three links swim in a viscous fluid."""

from __future__ import annotations

from polo_ros.tasks.base import ObservationSpec
from polo_ros.tasks.gym_task import ForwardTask


class Swimmer(ForwardTask):
    """Swim; reward of ForwardTask with a control weight of 1e-4. Nothing ends an episode.

    x is the front end of the first link, as gymnasium has it. Work on learned models often uses a variant that measures
    at the swimmer's head.
    """

    name = "swimmer"
    description = "swim with three links (gymnasium's Swimmer; needs polo_ros[gym])"
    control_dt = 0.04
    observation_spec = ObservationSpec(
        (
            ("angle", 1),  # rad
            ("joints", 2),  # rad
            ("velocity", 2),  # m/s, x and y
            ("rotation", 1),  # rad/s
            ("joint_velocities", 2),  # rad/s
            ("x", 1),  # m
        )
    )

    file = "swimmer.xml"
    skipped = 2
    noise = 0.1
    control_weight = 1e-4
