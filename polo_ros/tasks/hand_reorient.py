"""POLO's hand that turns a die to a target orientation (Lowrey et al. 2019, section 3.2, appendix B).

The hand is Adroit, the paper's own: its files come with the PyPI package gymnasium-robotics at run time and are
edited here. They are that package's pen-v0 (Rajeswaran et al. 2018, [24] of the paper): forearm fixed, two wrist and
22 finger joints, a position actuator each. The pen, its target and the table go; a die and its target come.

Physics differs from pen-v0's where it costs more than it changes. 80 candidates of 32 control periods take a core
0.14 s rather than 0.43 s:

- 5 ms and implicitfast rather than 2 ms and Euler. Under random controls through 10 s no contact is deeper than 8 mm,
  9 mm with pen-v0's settings; 10 ms would be half the price again, and 16 mm.
- No noslip iterations, which are a second solver, but stiffer friction (impratio 10), which is free: a die at rest in
  the hand slips by 0.1 mm a second (median; 0.7 mm without). Elliptic cones would cost 1.6 times the time.
- No dry friction in the joints: 24 constraints for 0.001 N m, which is 1 mrad at the actuators' 1 N m/rad.
- Of 44 tendons only the four that couple finger joints: the limits of the others lie beyond the joints' own.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import mujoco
import numpy as np

from polo_ros.tasks.adroit import delete_unused_materials, pen_world
from polo_ros.tasks.base import FloatArray, ObservationSpec, Task

# rad; joints that are not named are at 0. Bent as far as keeps a die from rolling off.
CUPPED = {
    **{f"{finger}FJ{joint}": 0.5 for finger in "FMRL" for joint in (0, 1, 2)},
    "LFJ4": 0.1,
    "THJ4": 0.6,
    "THJ3": 0.6,
    "THJ0": -0.3,
}
PIPS = {
    1: [(0, 0)],
    2: [(-1, -1), (1, 1)],
    3: [(-1, -1), (0, 0), (1, 1)],
    4: [(-1, -1), (-1, 1), (1, -1), (1, 1)],
    5: [(-1, -1), (-1, 1), (0, 0), (1, -1), (1, 1)],
    6: [(-1, -1), (-1, 0), (-1, 1), (1, -1), (1, 0), (1, 1)],
}
# Faces +x, -x, +y, -y, +z, -z: pips, and a colour (RGB) of its own, since pips alone look the same when turned.
FACES = (
    (1, (214, 64, 69)),
    (6, (240, 240, 235)),
    (2, (70, 160, 90)),
    (5, (70, 110, 200)),
    (3, (240, 200, 70)),
    (4, (235, 140, 60)),
)


class HandReorient(Task):
    """A die in the palm is to be turned to a target orientation, which is another every 75 control steps.

    Reward (eq. 8): R(s) = -0.5 l1(x_o, x_g) - 0.05 l_quat(q_o, q_g), with positions in m.

    x_g is "a fixed position in space [...] based on the initial location of the palm": here pen-v0's grasp site,
    5 cm above the middle of the palm, where it is at the model's initial pose.

    l_quat, "the quaternion difference", is read as the length of what MuJoCo calls by that name (mju_subQuat): the
    angle in rad of the rotation between the two, 0 .. pi, the same for q and -q. A difference of components would
    depend on the sign that a quaternion happens to have.

    The target is a body on a ball joint without contacts: its orientation is a part of the physics state, so that
    planner, bag and replay see it, and stays as it is in every rollout. That it changes is `disturb`'s doing. The
    orientations are drawn uniformly. The paper does not say what becomes of a die that is dropped, and goes on for
    2500 steps: here `disturb` lets it fall into the hand anew, and no episode ends. An end would even be rewarded,
    where every step that follows costs something.

    The paper's table of observations has no hand; ours are pen-v0's with the two orientations given by axes. Axes and
    velocities are in the world's frame, those of the error in the target's.
    """

    name = "hand_reorient"
    description = "turn a die in the Adroit hand (24 actuators; needs polo_ros[hand])"
    control_dt = 0.01
    discount = 0.99
    observation_spec = ObservationSpec(
        (
            ("hand", 24),  # rad, joint positions
            ("position", 3),  # m, of the die from the goal
            ("orientation", 6),  # x and z axis of the die
            ("velocity", 3),  # m/s, of the die
            ("rotation", 3),  # rad/s, of the die
            ("error", 6),  # x and z axis of the die, seen from the target
            ("angle", 1),  # rad, between die and target
        )
    )

    POSITION_WEIGHT = 0.5  # 1/m
    ANGLE_WEIGHT = 0.05  # 1/rad
    TARGET_STEPS = 75  # control steps that a target stays
    SUCCESS_ANGLE = 0.4  # rad
    SUCCESS_STEPS = 25  # control steps at the end of a target over which the angle's median counts
    DIE_SIZE = 0.05  # m, an edge
    DIE_MASS = 0.06  # kg
    FALL_HEIGHT = 0.02  # m above the goal, from where the die falls into the hand
    SETTLE_TIME = 1.0  # s
    HELD_DISTANCE = 0.05  # m from the goal, within which a settled die counts as held
    LOST_DISTANCE = 0.15  # m from the goal, beyond the tips of stretched fingers

    def __init__(self) -> None:
        self.model, self.goal = _model(self.DIE_SIZE, self.DIE_MASS)
        self._die = int(self.model.joint("die").qposadr[0])
        self._die_velocity = int(self.model.joint("die").dofadr[0])
        self._target = int(self.model.joint("target").qposadr[0])

    # ---- start, and what the world does --------------------------------------------------------

    def reset(self, rng: np.random.Generator) -> FloatArray:
        """Die and cupped hand at rest, the die as it comes to lie when it falls in some orientation."""
        model, data = self.model, self._scratch
        qpos = model.qpos0.copy()
        qpos[: model.nu] = self.resting_action  # hand joints come first, in the order of their actuators
        for _ in range(100):
            mujoco.mj_resetData(model, data)
            data.qpos[:] = self._dropped(qpos, rng)
            data.ctrl[:] = self.resting_action
            mujoco.mj_step(model, data, nstep=round(self.SETTLE_TIME / model.opt.timestep))
            settled = np.array(data.qpos)
            if self._distance(settled) < self.HELD_DISTANCE:
                settled[self._target :] = _random_quaternion(rng)
                return self.pack(0.0, settled, np.zeros(model.nv), np.empty(0))
        raise RuntimeError(f"task '{self.name}': the die fell off the hand 100 times")

    def disturb(self, state: FloatArray, episode_step: int, rng: np.random.Generator) -> FloatArray | None:
        """A new target every 75 steps; a die that was lost falls into the hand anew."""
        time, qpos, qvel, act = self.unpack(state)
        changes = episode_step % self.TARGET_STEPS == 0
        lost = self._distance(qpos) > self.LOST_DISTANCE
        if not (changes or lost):
            return None
        qpos, qvel = qpos.copy(), qvel.copy()
        if changes:
            qpos[self._target :] = _random_quaternion(rng)
        if lost:
            qpos = self._dropped(qpos, rng)
            qvel[self._die_velocity : self._die_velocity + 6] = 0.0
        return self.pack(time, qpos, qvel, act)

    def _dropped(self, qpos: FloatArray, rng: np.random.Generator) -> FloatArray:
        """`qpos` (nq,) with the die above the hand in a random orientation."""
        qpos = qpos.copy()
        qpos[self._die : self._die + 3] = self.goal + (0.0, 0.0, self.FALL_HEIGHT)
        qpos[self._die + 3 : self._die + 7] = _random_quaternion(rng)
        return qpos

    def _distance(self, qpos: FloatArray) -> float:
        """From the die to the goal, m."""
        return float(np.linalg.norm(qpos[self._die : self._die + 3] - self.goal))

    @cached_property
    def resting_action(self) -> FloatArray:
        """A cupped hand, (24,): a stretched one would let the die roll off."""
        model = self.model
        joints = [model.joint(int(joint)).name for joint in model.actuator_trnid[:, 0]]
        return np.array([CUPPED.get(joint, 0.0) for joint in joints])

    # ---- what is seen, and what is wanted ------------------------------------------------------

    def observe(self, sensordata: FloatArray) -> FloatArray:
        """Observations (..., 46) from sensor readings (..., 49): the last four are the error as a quaternion."""
        obs = np.empty((*sensordata.shape[:-1], 46))
        obs[..., :45] = sensordata[..., :45]
        w, x, y, z = (sensordata[..., 45 + part] for part in range(4))
        np.multiply(2.0, np.arctan2(np.sqrt(x * x + y * y + z * z), np.abs(w)), out=obs[..., 45])
        return obs

    def reward(self, obs: Any, action: Any, next_obs: Any) -> Any:
        """R(s) of eq. 8 at `obs`, (...,)."""
        distance = abs(self.observation_spec.view(obs)["position"]).sum(-1)
        return -self.POSITION_WEIGHT * distance - self.ANGLE_WEIGHT * self.angle(obs)

    def angle(self, obs: Any) -> Any:
        """Angle (...,) in rad between die and target, 0 .. pi, of observations (..., 46)."""
        return self.observation_spec.view(obs)["angle"][..., 0]

    def success(self, observations: FloatArray) -> bool | None:
        """Whether at least half of the targets were reached; None for a run shorter than one target.

        `observations` begin with an episode.
        """
        share = self._targets_reached(observations)
        return None if np.isnan(share) else share >= 0.5

    def measures(self, observations: FloatArray) -> Mapping[str, float]:
        """`mean_angle` between die and target, rad; `targets_reached`, a share of those that came, 0 .. 1.

        A target that is still the current one at the end is not counted.
        """
        return {
            "mean_angle": float(self.angle(observations).mean()),
            "targets_reached": self._targets_reached(observations),
        }

    def _targets_reached(self, observations: FloatArray) -> float:
        """Share of targets with a median angle below 0.4 rad over the last 25 of their 75 steps; nan without any."""
        targets = len(observations) // self.TARGET_STEPS
        if not targets:
            return float("nan")
        angles = self.angle(observations[: targets * self.TARGET_STEPS]).reshape(targets, self.TARGET_STEPS)
        reached = np.median(angles[:, -self.SUCCESS_STEPS :], axis=1) < self.SUCCESS_ANGLE
        return float(reached.mean())


def _model(size: float, mass: float) -> tuple[mujoco.MjModel, FloatArray]:
    """The model, and the goal's place (3,)."""
    spec = pen_world()
    spec.modelname = HandReorient.name
    for name in ("table", "vive_tracker", "Object", "target"):
        spec.delete(spec.body(name))
    spec.delete(spec.site("eps_ball"))
    for tendon in [tendon for tendon in spec.tendons if not tendon.name.endswith("J1c")]:
        spec.delete(tendon)
    delete_unused_materials(spec)
    spec.geom("ground").contype = 0  # a fallen die has nothing to learn from the floor
    for joint in spec.joints:
        joint.frictionloss = 0.0
    spec.option.timestep = 0.005
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.noslip_iterations = 0
    spec.option.impratio = 10.0

    initial = spec.compile()
    data = mujoco.MjData(initial)
    mujoco.mj_kinematics(initial, data)
    goal = np.array(data.site("S_grasp").xpos)
    joints = [initial.joint(int(joint)).name for joint in initial.actuator_trnid[:, 0]]
    if joints != [initial.joint(index).name for index in range(initial.njnt)]:
        raise ValueError(f"the hand's actuators {joints} are not one a joint, in the joints' order")

    _add_die(spec, goal, size, mass)
    _add_sensors(spec, joints)
    return spec.compile(), goal


def _add_die(spec: Any, goal: FloatArray, size: float, mass: float) -> None:
    """The die, and beside the hand its target."""
    picture = spec.add_texture(name="die", type=mujoco.mjtTexture.mjTEXTURE_CUBE, nchannel=3)
    faces = _faces()
    picture.width, picture.height, picture.data = faces.shape[1], faces.shape[0], faces.tobytes()
    material = spec.add_material(name="die")
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "die"
    box: dict[str, Any] = {
        "type": mujoco.mjtGeom.mjGEOM_BOX,
        "size": [0.5 * size] * 3,
        "mass": mass,
        "material": "die",
    }
    world = spec.worldbody
    world.add_site(name="goal", pos=goal, group=4)
    die = world.add_body(name="die", pos=goal)
    die.add_freejoint(name="die")
    die.add_geom(name="die", **box)
    target = world.add_body(name="target", pos=goal + (0.15, 0.0, 0.05), gravcomp=1.0)
    # The defaults of the hand's joints are limited, damped and heavy.
    target.add_joint(
        name="target",
        type=mujoco.mjtJoint.mjJNT_BALL,
        limited=mujoco.mjtLimited.mjLIMITED_FALSE,
        damping=[0.0] * 3,
        armature=0.0,
        frictionloss=0.0,
    )
    target.add_geom(name="target", contype=0, conaffinity=0, **box)
    world.add_camera(name="hand", pos=goal + (0.06, -0.3, 0.32), xyaxes=(1.0, 0.0, 0.0, 0.0, 0.73, 0.68))


def _faces(pixels: int = 48) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The die's faces one below the other, (6 pixels, pixels, 3)."""
    grid = np.linspace(-1.7, 1.7, pixels)
    rows, columns = np.meshgrid(grid, grid, indexing="ij")
    faces = np.empty((6, pixels, pixels, 3), np.uint8)
    for face, (pips, colour) in zip(faces, FACES, strict=True):
        face[:] = colour
        for row, column in PIPS[pips]:
            face[np.hypot(rows - row, columns - column) < 0.3] = 20
    return faces.reshape(-1, pixels, 3)


def _add_sensors(spec: Any, joints: list[str]) -> None:
    """Sensors in the order of the observation; instead of the angle the error as a quaternion."""
    kind, thing = mujoco.mjtSensor, mujoco.mjtObj
    for joint in joints:
        spec.add_sensor(type=kind.mjSENS_JOINTPOS, objtype=thing.mjOBJ_JOINT, objname=joint)
    die = {"objtype": thing.mjOBJ_XBODY, "objname": "die"}
    goal = {"reftype": thing.mjOBJ_SITE, "refname": "goal"}
    target = {"reftype": thing.mjOBJ_XBODY, "refname": "target"}
    spec.add_sensor(type=kind.mjSENS_FRAMEPOS, **die, **goal)
    spec.add_sensor(type=kind.mjSENS_FRAMEXAXIS, **die)
    spec.add_sensor(type=kind.mjSENS_FRAMEZAXIS, **die)
    spec.add_sensor(type=kind.mjSENS_FRAMELINVEL, **die)
    spec.add_sensor(type=kind.mjSENS_FRAMEANGVEL, **die)
    spec.add_sensor(type=kind.mjSENS_FRAMEXAXIS, **die, **target)
    spec.add_sensor(type=kind.mjSENS_FRAMEZAXIS, **die, **target)
    spec.add_sensor(type=kind.mjSENS_FRAMEQUAT, **die, **target)


def _random_quaternion(rng: np.random.Generator) -> FloatArray:
    """Of a rotation drawn uniformly, (4,)."""
    parts: FloatArray = rng.standard_normal(4)
    parts /= np.linalg.norm(parts)
    return parts
