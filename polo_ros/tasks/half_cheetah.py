"""HalfCheetah of gymnasium: a planar two-legged cheetah runs."""

from __future__ import annotations

from polo_ros.tasks.base import ObservationSpec
from polo_ros.tasks.gym_task import ForwardTask


class HalfCheetah(ForwardTask):
    """Run; reward of ForwardTask with a control weight of 0.1. Nothing ends an episode, lying on the back neither."""

    name = "half_cheetah"
    description = "run with two legs in a plane (gymnasium's HalfCheetah; needs polo_ros[gym])"
    control_dt = 0.05
    observation_spec = ObservationSpec(
        (
            ("height", 1),  # m, from where the model begins
            ("angle", 1),  # rad, pitch
            ("joints", 6),  # rad: back thigh, shin, foot, front thigh, shin, foot
            ("velocity", 2),  # m/s, x and z
            ("rotation", 1),  # rad/s
            ("joint_velocities", 6),  # rad/s
            ("x", 1),  # m
        )
    )

    file = "half_cheetah.xml"
    skipped = 1
    noise = 0.1
    normal_velocities = True
    control_weight = 0.1
