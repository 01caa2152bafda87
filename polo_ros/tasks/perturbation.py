"""Models that are a little wrong: what a robot might be that is not quite as its model says."""

from __future__ import annotations

import copy
from typing import Protocol

import mujoco
import numpy as np

from polo_ros.tasks.base import FloatArray


class Spread(Protocol):
    """Largest shares, 0 .. 1, by which a model is changed."""

    @property
    def mass(self) -> float:
        """Of the mass and inertia of a body."""
        ...

    @property
    def friction(self) -> float:
        """Of the friction of all geoms."""
        ...

    @property
    def gain(self) -> float:
        """Of the force of an actuator."""
        ...

    @property
    def damping(self) -> float:
        """Of the damping of a degree of freedom."""
        ...


def perturbed(model: mujoco.MjModel, spread: Spread, rng: np.random.Generator) -> mujoco.MjModel:
    """A copy of `model` whose masses, friction, actuators and damping differ by factors that are drawn uniformly.

    Each body, each actuator and each degree of freedom has a factor of its own, friction of all geoms one: what is
    wrong about it is usually the floor. Inertias go with masses; of an actuator force per control, per position and per
    velocity go together, and with them the most force that it has: one that saturates is no better known.
    """
    made = copy.deepcopy(model)

    def factors(share: float, count: int) -> FloatArray:
        return rng.uniform(1.0 - share, 1.0 + share, count)

    mass = factors(spread.mass, made.nbody)
    made.body_mass *= mass
    made.body_inertia *= mass[:, None]
    made.geom_friction *= factors(spread.friction, 1)
    gain = factors(spread.gain, made.nu)
    made.actuator_gainprm[:, :3] *= gain[:, None]
    made.actuator_biasprm[:, :3] *= gain[:, None]
    made.actuator_forcerange *= gain[:, None]
    made.dof_damping *= factors(spread.damping, made.nv)
    mujoco.mj_setConst(made, mujoco.MjData(made))
    return made
