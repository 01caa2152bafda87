"""What an actuator's control asks of its joint: an effort, a position or a velocity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

from polo_ros.tasks.actuators import HINGE_OR_SLIDE
from polo_ros.tasks.base import FloatArray

INTERFACES = ("position", "velocity", "effort")
_NEEDED = {"position": "<position>", "velocity": "<velocity>", "effort": "<motor>"}


@dataclass(frozen=True)
class Actuation:
    """One joint an actuator, and what a control is there.

    position, velocity: control / gear, in rad or m, rad/s or m/s.
    effort: gear * force, in Nm or N, where the force is gain * control within the actuator's forcerange, and the
        product within the joint's actuatorfrcrange.
    """

    interface: str  # one of INTERFACES
    joints: npt.NDArray[np.int_]  # (nu,), numbers of the model's joints
    gear: FloatArray  # (nu,), not 0
    gain: FloatArray  # (nu,)
    force: FloatArray  # (2, nu), least and most of the actuator
    effort: FloatArray  # (2, nu), least and most at the joint

    def command(self, action: FloatArray) -> FloatArray:
        """Controls (nu,) as what the joints are to do, (nu,)."""
        if self.interface != "effort":
            return np.asarray(action / self.gear)
        return np.clip(self.gear * np.clip(self.gain * action, *self.force), *self.effort)


def actuation(model: mujoco.MjModel, interface: str) -> Actuation:
    """How a model's actuators drive its joints through `interface`.

    Raises:
        ValueError: The model has no actuators, or one that is not of this kind, or shares its joint with another.
    """
    if not model.nu:
        raise ValueError("the model has no actuators")
    joints: list[int] = []
    for i in range(model.nu):
        joint = _joint(model, i)
        name = f"actuator '{model.actuator(i).name or i}'"
        if joint in joints:
            raise ValueError(f"{name} acts on joint '{model.joint(joint).name}', as another actuator does")
        kind = _kind(model, i)
        if kind != interface:
            found = f"a {_NEEDED[kind]} actuator, for {kind}" if kind else "no motor, position or velocity actuator"
            raise ValueError(f"{name} is {found}; command_interface {interface} needs {_NEEDED[interface]} actuators")
        joints.append(joint)
    every = np.array(joints, dtype=int)
    return Actuation(
        interface,
        every,
        np.array(model.actuator_gear[:, 0]),
        np.array(model.actuator_gainprm[:, 0]),
        _bounds(model.actuator_forcelimited, model.actuator_forcerange),
        _bounds(model.jnt_actfrclimited[every], model.jnt_actfrcrange[every]),
    )


def _bounds(limited: Any, ranges: Any) -> FloatArray:
    return np.array(np.where(limited.astype(bool)[:, None], ranges, [-np.inf, np.inf]).T)


def _joint(model: mujoco.MjModel, i: int) -> int:
    """The hinge or slide that actuator `i` acts on."""
    name = f"actuator '{model.actuator(i).name or i}'"
    if model.actuator_trntype[i] != int(mujoco.mjtTrn.mjTRN_JOINT):
        raise ValueError(f"{name} does not act on a joint")
    joint = int(model.actuator_trnid[i, 0])
    if model.jnt_type[joint] not in HINGE_OR_SLIDE:
        raise ValueError(f"{name} acts on joint '{model.joint(joint).name}', which is neither hinge nor slide")
    if not model.actuator_gear[i, 0]:
        raise ValueError(f"{name} has gear 0")
    return joint


def _kind(model: mujoco.MjModel, i: int) -> str:
    """What actuator `i` asks for, one of INTERFACES; empty: none of them alone."""
    fixed = model.actuator_gaintype[i] == int(mujoco.mjtGain.mjGAIN_FIXED)
    if not fixed or model.actuator_dyntype[i] != int(mujoco.mjtDyn.mjDYN_NONE):
        return ""
    gain, bias = float(model.actuator_gainprm[i, 0]), model.actuator_biasprm[i]
    if model.actuator_biastype[i] == int(mujoco.mjtBias.mjBIAS_NONE):
        return "effort"
    if model.actuator_biastype[i] != int(mujoco.mjtBias.mjBIAS_AFFINE) or bias[0] or gain <= 0.0:
        return ""
    if bias[1] == -gain:
        return "position"
    return "velocity" if bias[1] == 0.0 and bias[2] == -gain else ""
