"""The Adroit hand with which pen-v0 turns a pen (Rajeswaran et al. 2018): forearm fixed, 24 joints, a servo each.

Its files come with the PyPI package gymnasium-robotics at run time and are edited by the tasks.
"""

from __future__ import annotations

from typing import Any

import mujoco

from polo_ros.tasks.assets import package_file


def pen_world() -> Any:
    """The MjSpec of pen-v0's world without sensors, cameras and pictures."""
    path = package_file(
        "gymnasium_robotics",
        *("envs", "assets", "adroit_hand", "adroit_pen.xml"),
        distribution="gymnasium-robotics",
        extra="hand",
        what="the Adroit hand's model",
    )
    spec = mujoco.MjSpec.from_file(str(path))
    pictures = [texture for texture in spec.textures if texture.file]
    for unused in (*spec.sensors, *spec.cameras, *pictures):
        spec.delete(unused)
    return spec


def delete_unused_materials(spec: Any) -> None:
    """Take out of `spec` the materials that no geom has: those of what was deleted, and of deleted pictures."""
    used = {geom.material for geom in spec.geoms}
    for material in [material for material in spec.materials if material.name not in used]:
        spec.delete(material)
