"""Forces that act on bodies from outside, as sensors: MuJoCo's cfrc_ext without its call after every step."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from polo_ros.tasks.base import FloatArray

_FIELDS = (mujoco.mjtConDataField.mjCONDATA_FORCE, mujoco.mjtConDataField.mjCONDATA_TORQUE)
_WHERE = mujoco.mjtConDataField.mjCONDATA_POS
_SUM = 3  # of the contact sensor's reductions: one contact that stands for all


def add_contact_sensors(spec: Any, root: str) -> int:
    """Add to `spec` sensors of the contacts of all its bodies, which hang on the body `root`.

    Returns:
        Length of their readings: 3, and 9 a body.
    """
    kind, thing = mujoco.mjtSensor, mujoco.mjtObj
    spec.add_sensor(type=kind.mjSENS_SUBTREECOM, objtype=thing.mjOBJ_BODY, objname=root)
    bodies = [body for body in spec.bodies if body.name != "world"]
    for number, body in enumerate(bodies):
        body.name = body.name or f"body_{number}"  # a sensor names what it is at
        sensor = spec.add_sensor(type=kind.mjSENS_CONTACT, objtype=thing.mjOBJ_BODY, objname=body.name)
        sensor.intprm[:3] = [sum(1 << int(field) for field in (*_FIELDS, _WHERE)), _SUM, 1]
    return 3 + 9 * len(bodies)


def contact_wrenches(readings: FloatArray) -> FloatArray:
    """Torque and force of contacts on each body, (..., bodies, 6) in N m and N, from readings (..., 3 + 9 bodies).

    In the world's axes, torques about the centre of mass of all bodies: cfrc_ext of a model without other forces
    from outside.
    """
    centre = readings[..., None, :3]
    parts = readings[..., 3:].reshape(*readings.shape[:-1], -1, 9)
    force, torque, place = parts[..., :3], parts[..., 3:6], parts[..., 6:]
    # A contact sensor reads what the body does to others.
    return -np.concatenate((torque + np.cross(place - centre, force), force), axis=-1)
