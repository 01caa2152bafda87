"""What a robot's joints and actuators may do: limits from its model, replaced and completed by settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import mujoco
import numpy as np

from polo_ros.config import Config, option
from polo_ros.tasks.actuators import Actuators, BoolArray, IntArray
from polo_ros.tasks.base import FloatArray, Task

_UNITS = {int(mujoco.mjtJoint.mjJNT_HINGE): "rad", int(mujoco.mjtJoint.mjJNT_SLIDE): "m"}


@dataclass(frozen=True)
class VerificationConfig(Config):
    """Plans tried on models that are a little wrong."""

    models: int = option(0, "perturbed models that plans are tried on; 0: none", low=0, high=1000)
    periods: int = option(10, "control periods that are tried", low=1, high=1000)
    mass: float = option(0.1, "largest share by which the mass of a body differs", low=0.0, high=0.9)
    friction: float = option(0.3, "the same for friction", low=0.0, high=0.9)
    gain: float = option(0.1, "the same for the force of an actuator", low=0.0, high=0.9)
    damping: float = option(0.0, "the same for the damping of a joint", low=0.0, high=0.9)


@dataclass(frozen=True)
class SafetyConfig(Config):
    """Settings of the supervisor. A list has one entry for all, or one for each in the model's order."""

    model_limits: str = option(
        "robots",
        "with which drivers the model's joint ranges and force ranges are enforced; what is set here always is",
        choices=("robots", "always", "never"),
    )
    position_low: tuple[float, ...] = option(
        (), "lowest position of each hinge and slide; empty: the model's", unit="rad or m", low=-1e9, high=1e9
    )
    position_high: tuple[float, ...] = option(
        (), "highest position of each hinge and slide; empty: the model's", unit="rad or m", low=-1e9, high=1e9
    )
    position_margin: float = option(
        0.0,
        "distance that joints keep from both; below 0: how far beyond them they may be",
        unit="rad or m",
        low=-1e3,
        high=1e3,
    )
    braking_deceleration: tuple[float, ...] = option(
        (),
        "deceleration that joints can brake with: one that can no longer stop before its bound is a fault; 0 or empty: "
        "only one that is beyond it is",
        unit="rad/s^2 or m/s^2",
        low=0.0,
        high=1e9,
    )
    velocity_limit: tuple[float, ...] = option(
        (), "of hinges and slides; 0 or empty: none", unit="rad/s or m/s", low=0.0, high=1e9
    )
    effort_limit: tuple[float, ...] = option(
        (),
        "what an actuator may apply to its joint: controls are clipped; 0: none, empty: the model's",
        unit="N m or N",
        low=0.0,
        high=1e9,
    )
    rate_limit: tuple[float, ...] = option(
        (), "largest change of a control, in its unit; 0 or empty: none", unit="1/s", low=0.0, high=1e9
    )
    max_state_age: float = option(
        0.2, "robots: how long the time of their state may stand still; 0: for ever", unit="s", low=0.0, high=60.0
    )
    tracking_position_error: float = option(
        0.0,
        "largest difference of an actuated joint's position from what the model predicts a period ahead; 0: any",
        unit="rad or m",
        low=0.0,
        high=1e9,
    )
    tracking_velocity_error: float = option(
        0.0, "the same for its velocity; 0: any", unit="rad/s or m/s", low=0.0, high=1e9
    )
    tracking_periods: int = option(
        5, "control periods in a row for which it has to be larger to be a fault", low=1, high=10000
    )
    latch: bool = option(True, "whether the safe stop that a fault begins lasts until ~/arm, or as long as the fault")
    verification: VerificationConfig = field(default_factory=VerificationConfig)


@dataclass(frozen=True)
class JointLimits:
    """Of all hinges and slides, J, in the model's order; +-inf where there is none.

    A joint at q that moves at v towards a bound has left its range as soon as

        |v| t + v^2 / (2 a)  >  distance left

    with the braking deceleration a and the reaction time t: a joint that is found to be within its range goes on for a
    control period until it is looked at again, and for as long as measurements and commands are under way. It ends
    within its bound if its speed does not grow in that time; a motor that accelerates it at b overshoots by at most
    v b t / a + b (1 + b / a) t^2 / 2, which is for `position_margin` to cover.
    """

    names: tuple[str, ...]  # "number 3" where there is none
    units: tuple[str, ...]  # rad or m
    qpos: IntArray  # (J,), indices into qpos
    qvel: IntArray  # (J,), indices into qvel
    low: FloatArray  # (J,), rad or m, the margin taken off
    high: FloatArray  # (J,)
    velocity: FloatArray  # (J,), rad/s or m/s
    braking: FloatArray  # (J,), rad/s^2 or m/s^2; inf: not considered
    reaction: float  # s, one control period and the delay of commands

    @classmethod
    def of(cls, task: Task, config: SafetyConfig, from_model: bool, actuation_delay: float = 0.0) -> JointLimits:
        """Limits of a task's robot.

        Args:
            task: Gives the model and the control period.
            config: Replaces what the model says.
            from_model: Whether the model's ranges count.
            actuation_delay: s from a command to its effect.

        Raises:
            ValueError: A list has the wrong length, or leaves a joint no room.
        """
        model = task.model
        joints = np.array([j for j in range(model.njnt) if int(model.jnt_type[j]) in _UNITS], dtype=int)
        names = tuple(model.joint(int(j)).name or f"number {j}" for j in joints)
        limited = model.jnt_limited[joints].astype(bool) & from_model
        low = np.where(limited, model.jnt_range[joints, 0], -np.inf)
        high = np.where(limited, model.jnt_range[joints, 1], np.inf)

        def listed(name: str, without: Any) -> FloatArray:
            return _listed(name, getattr(config, name), without, names, "hinge or slide")

        low = listed("position_low", low) + config.position_margin
        high = listed("position_high", high) - config.position_margin
        for i in np.flatnonzero(low >= high):
            raise ValueError(f"joint '{names[i]}' has no room: its limits leave {low[i]:g} .. {high[i]:g}")
        return cls(
            names=names,
            units=tuple(_UNITS[int(model.jnt_type[j])] for j in joints),
            qpos=np.array(model.jnt_qposadr[joints]),
            qvel=np.array(model.jnt_dofadr[joints]),
            low=low,
            high=high,
            velocity=_unless_zero(listed("velocity_limit", np.inf)),
            braking=_unless_zero(listed("braking_deceleration", np.inf)),
            reaction=task.control_dt + actuation_delay,
        )

    @property
    def any(self) -> bool:
        """Whether there are limits of position or velocity at all."""
        return bool(np.isfinite([self.low, self.high, self.velocity]).any())

    def violated(self, qpos: FloatArray, qvel: FloatArray, age: float = 0.0) -> BoolArray:
        """Which joints do what they must not, (..., J), at qpos (..., nq), qvel (..., nv), measured `age` s ago."""
        q, v = qpos[..., self.qpos], qvel[..., self.qvel]
        left = np.where(v > 0.0, self.high - q, q - self.low)
        speed = np.abs(v)
        late = (v != 0.0) & (self.stopping_distance(speed, age) > left)
        wrong: BoolArray = (speed > self.velocity) | (q < self.low) | (q > self.high) | late
        return wrong

    def violation(self, qpos: FloatArray, qvel: FloatArray, age: float = 0.0) -> str:
        """What joints at qpos (nq,), qvel (nv,) do that they must not, empty if nothing; the first joint is named.

        They were measured `age` s ago.
        """
        wrong = self.violated(qpos, qvel, age)
        if not wrong.any():
            return ""
        i = int(np.flatnonzero(wrong)[0])
        q, v = float(qpos[self.qpos[i]]), float(qvel[self.qvel[i]])
        low, high, fastest = self.low[i], self.high[i], self.velocity[i]
        name, unit = self.names[i], self.units[i]
        if abs(v) > fastest:
            return f"velocity: joint '{name}' moves at {v:.4g} {unit}/s, limit {fastest:g} {unit}/s"
        if not low <= q <= high:
            return f"position: joint '{name}' is at {q:.4g} {unit}, limits {low:g} .. {high:g} {unit}"
        needed = self.stopping_distance(np.abs(qvel[self.qvel]), age)[i]
        left, bound = (high - q, high) if v > 0.0 else (q - low, low)
        return (
            f"position: joint '{name}' is at {q:.4g} {unit} and moves at {v:.4g} {unit}/s: it needs "
            f"{needed:.3g} {unit} to stop and has {left:.3g} {unit} to its limit {bound:g} {unit}"
        )

    def stopping_distance(self, speed: FloatArray, age: float = 0.0) -> FloatArray:
        """From speeds (..., J), measured `age` s ago, to standstill, rad or m, (..., J); 0 where there is no limit."""
        with np.errstate(over="ignore"):
            needed = speed * (self.reaction + age) + speed * speed / (2.0 * self.braking)
        return np.where(np.isfinite(self.braking), needed, 0.0)


@dataclass(frozen=True)
class ControlLimits:
    """Of all actuators: range, force and rate of change of controls."""

    actuators: Actuators
    low: FloatArray  # (nu,), of controls; -inf: none
    high: FloatArray  # (nu,)
    force_low: FloatArray  # (nu,), N m or N at the actuator; -inf: none
    force_high: FloatArray  # (nu,)
    change: FloatArray  # (nu,), of a control in a control period; inf: any

    @classmethod
    def of(cls, task: Task, config: SafetyConfig, from_model: bool) -> ControlLimits:
        """Limits of a task's robot.

        Args:
            task: Gives the model, the ranges of controls and the control period.
            config: Replaces what the model says of efforts.
            from_model: Whether the model's force ranges count, of actuators and of actuators at joints.

        Raises:
            ValueError: A list has the wrong length, or an effort is to be limited whose dependence on the control is
                not known.
        """
        actuators = Actuators.of(task.model)
        low, high = _model_forces(task.model, actuators) if from_model else _no_forces(task.model.nu)
        # Force is known from the control alone, or with what it depends on measured at a joint.
        plain = (actuators.bias == 0.0).all(-1)
        at_joint = (actuators.joint >= 0) & actuators.direct & np.isfinite(actuators.bias).all(-1)
        known = np.isfinite(actuators.gain) & (actuators.gain != 0.0) & ((plain & actuators.following) | at_joint)
        if config.effort_limit:
            effort = _unless_zero(_listed("effort_limit", config.effort_limit, np.inf, actuators.names, "actuator"))
            for i in np.flatnonzero(np.isfinite(effort) & ~(known & (actuators.gear != 0.0))):
                raise ValueError(
                    f"safety.effort_limit of actuator '{actuators.names[i]}': its force is not known from its control "
                    "alone; 0 sets no limit"
                )
            with np.errstate(divide="ignore"):
                high = effort / np.abs(actuators.gear)
            low = -high
        rate = _unless_zero(_listed("rate_limit", config.rate_limit, np.inf, actuators.names, "actuator"))
        return cls(
            actuators=actuators,
            low=task.action_low,
            high=task.action_high,
            force_low=np.where(known, low, -np.inf),
            force_high=np.where(known, high, np.inf),
            change=rate * task.control_dt,
        )

    @property
    def any_force(self) -> bool:
        """Whether forces are limited."""
        return bool(np.isfinite([self.force_low, self.force_high]).any())

    @property
    def any_change(self) -> bool:
        """Whether the rate of change is limited."""
        return bool(np.isfinite(self.change).any())

    def bounds(self, bias: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Controls that keep to range and force, (nu,) lowest and highest; the range where it allows no such one.

        Args:
            bias: Force (nu,) at zero control.
        """
        gain = np.where(np.isfinite(self.actuators.gain) & (self.actuators.gain != 0.0), self.actuators.gain, 1.0)
        bias = np.nan_to_num(bias)  # where it is not known there is no limit
        one, other = (self.force_low - bias) / gain, (self.force_high - bias) / gain
        low = np.clip(np.minimum(one, other), self.low, self.high)
        high = np.clip(np.maximum(one, other), self.low, self.high)
        return low, high


def table(joints: JointLimits, controls: ControlLimits) -> str:
    """All limits in words, a line each."""
    lines = []
    for i, (name, unit) in enumerate(zip(joints.names, joints.units, strict=True)):
        told = []
        if np.isfinite(joints.low[i]) or np.isfinite(joints.high[i]):
            told.append(f"{joints.low[i]:g} .. {joints.high[i]:g} {unit}")
            if np.isfinite(joints.braking[i]):
                told.append(f"braking at {joints.braking[i]:g} {unit}/s^2")
        if np.isfinite(joints.velocity[i]):
            told.append(f"at most {joints.velocity[i]:g} {unit}/s")
        lines.append(f"joint {name}: {', '.join(told) or 'no limits'}")
    for i, name in enumerate(controls.actuators.names):
        told = []
        if np.isfinite(controls.low[i]) or np.isfinite(controls.high[i]):
            told.append(f"controls {controls.low[i]:g} .. {controls.high[i]:g}")
        if np.isfinite(controls.force_low[i]) or np.isfinite(controls.force_high[i]):
            told.append(f"force {controls.force_low[i]:g} .. {controls.force_high[i]:g}")
            if controls.actuators.joint[i] >= 0 and controls.actuators.gear[i] != 1.0:
                told[-1] += f" (times gear {controls.actuators.gear[i]:g} at the joint)"
        if np.isfinite(controls.change[i]):
            told.append(f"change {controls.change[i]:g} a period")
        lines.append(f"actuator {name}: {', '.join(told) or 'no limits'}")
    return "\n".join(lines)


def _listed(name: str, given: tuple[float, ...], without: Any, names: tuple[str, ...], what: str) -> FloatArray:
    """Setting `name` for each of `names`; `without` where it is empty."""
    if len(given) not in (0, 1, len(names)):
        raise ValueError(
            f"safety.{name} has {len(given)} entries; give one, or one for each {what}: {', '.join(names)}"
        )
    values = np.asarray(given if given else without, np.float64)
    return np.array(np.broadcast_to(values, len(names)))


def _unless_zero(limits: FloatArray) -> FloatArray:
    return np.where(limits == 0.0, np.inf, limits)


def _no_forces(nu: int) -> tuple[FloatArray, FloatArray]:
    return np.full(nu, -np.inf), np.full(nu, np.inf)


def _model_forces(model: mujoco.MjModel, actuators: Actuators) -> tuple[FloatArray, FloatArray]:
    """Lowest and highest force (nu,) that the model allows an actuator, for itself and at its joint."""
    low, high = _no_forces(model.nu)
    own = model.actuator_forcelimited.astype(bool)
    low = np.where(own, model.actuator_forcerange[:, 0], low)
    high = np.where(own, model.actuator_forcerange[:, 1], high)
    for i in np.flatnonzero((actuators.joint >= 0) & (actuators.gear != 0.0)):
        joint = int(actuators.joint[i])
        if model.jnt_actfrclimited[joint]:
            ends = np.sort(model.jnt_actfrcrange[joint] / actuators.gear[i])
            low[i], high[i] = max(low[i], ends[0]), min(high[i], ends[1])
    return low, high
