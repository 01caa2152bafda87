"""What a model's actuators are: which joints they move, and what force a control makes."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int_]

HINGE_OR_SLIDE = (int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE))
_AT_JOINT = (int(mujoco.mjtTrn.mjTRN_JOINT), int(mujoco.mjtTrn.mjTRN_JOINTINPARENT))
# With these an activation lies between the lowest and the highest control so far, so that limits of one are limits
# of the other.
_FOLLOWING = tuple(int(kind) for kind in (mujoco.mjtDyn.mjDYN_FILTER, mujoco.mjtDyn.mjDYN_FILTEREXACT))


@dataclass(frozen=True)
class Actuators:
    """Actuators as MuJoCo computes them: the force is gain * u + b_0 + b_1 * length + b_2 * velocity.

    At a hinge or slide length and velocity are gear * q and gear * v, and the joint feels gear * force.
    """

    names: tuple[str, ...]  # "number 3" where there is none
    joint: IntArray  # (nu,), the hinge or slide that is moved; -1: another kind of transmission
    qpos: IntArray  # (nu,), index of its position in qpos; 0 without a joint
    qvel: IntArray  # (nu,), index of its velocity in qvel; 0 without a joint
    gear: FloatArray  # (nu,)
    gain: FloatArray  # (nu,), force per control; nan: not a constant
    bias: FloatArray  # (nu, 3), b; nan: not affine
    direct: BoolArray  # (nu,), the control acts at once and not through an activation
    following: BoolArray  # (nu,), the control acts at once or through a low-pass filter
    position_servo: BoolArray  # (nu,), its control is a position that it moves to

    @classmethod
    def of(cls, model: mujoco.MjModel) -> Actuators:
        """Those of `model`."""
        nu = model.nu
        joint = np.full(nu, -1)
        for i in range(nu):
            target = int(model.actuator_trnid[i, 0])
            if model.actuator_trntype[i] in _AT_JOINT and model.jnt_type[target] in HINGE_OR_SLIDE:
                joint[i] = target
        at = np.maximum(joint, 0)
        fixed = model.actuator_gaintype == int(mujoco.mjtGain.mjGAIN_FIXED)
        none = model.actuator_biastype == int(mujoco.mjtBias.mjBIAS_NONE)
        affine = model.actuator_biastype == int(mujoco.mjtBias.mjBIAS_AFFINE)
        direct = model.actuator_dyntype == int(mujoco.mjtDyn.mjDYN_NONE)
        integrated = model.actuator_dyntype == int(mujoco.mjtDyn.mjDYN_INTEGRATOR)
        bias = np.where(affine[:, None], model.actuator_biasprm[:, :3], np.where(none[:, None], 0.0, np.nan))
        return cls(
            names=tuple(model.actuator(i).name or f"number {i}" for i in range(nu)),
            joint=joint,
            qpos=np.array(model.jnt_qposadr[at]) * (joint >= 0) if nu else np.zeros(0, int),
            qvel=np.array(model.jnt_dofadr[at]) * (joint >= 0) if nu else np.zeros(0, int),
            gear=np.array(model.actuator_gear[:, 0]),
            gain=np.where(fixed, model.actuator_gainprm[:, 0], np.nan),
            bias=bias,
            direct=direct,
            following=direct | np.isin(model.actuator_dyntype, _FOLLOWING),
            # An integrated control is a velocity, and zero of it stays where it is.
            position_servo=affine & (model.actuator_biasprm[:, 1] != 0.0) & ~integrated,
        )

    def bias_force(self, qpos: FloatArray, qvel: FloatArray) -> FloatArray:
        """Force (nu,) at zero control, of actuators at joints, from qpos (nq,) and qvel (nv,)."""
        if not len(self.joint):
            return np.zeros(0)
        moved = self.joint >= 0
        length = np.where(moved, self.gear * qpos[self.qpos], 0.0)
        velocity = np.where(moved, self.gear * qvel[self.qvel], 0.0)
        return self.bias[:, 0] + self.bias[:, 1] * length + self.bias[:, 2] * velocity
