"""A floating base from a robot's own state estimation, in MuJoCo's conventions.

A free joint has qpos = [position, quaternion w x y z], both of the body in the world, and qvel = [linear velocity in
the world, angular velocity in the body]. Odometry of ROS has the quaternion as x y z w and both velocities in the
child frame, an IMU everything in its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import ArrayLike

from polo_ros.drivers.base import DriverError
from polo_ros.drivers.newest import Newest
from polo_ros.tasks.base import FloatArray

ORIENTATIONS = ("tilt", "full", "none")


@dataclass(frozen=True)
class BasePose:
    """Where the base is, as odometry has it."""

    position: FloatArray  # (3,), m, in the world
    orientation: FloatArray  # (4,), w x y z, of the base in the world
    linear: FloatArray  # (3,), m/s, in the base
    angular: FloatArray  # (3,), rad/s, in the base


@dataclass(frozen=True)
class Inertial:
    """What an IMU measures, turned to the base."""

    orientation: FloatArray | None  # (4,), w x y z, of the base in the IMU's world; None: not measured
    angular: FloatArray  # (3,), rad/s, in the base


def unit_quaternion(xyzw: ArrayLike) -> FloatArray:
    """ROS' quaternion x y z w as MuJoCo's w x y z, of length 1.

    Raises:
        ValueError: Its length is further than 1 % from 1: it is no rotation.
    """
    x, y, z, w = np.asarray(xyzw, np.float64)
    length = float(np.sqrt(w * w + x * x + y * y + z * z))
    if not abs(length - 1.0) < 0.01:
        raise ValueError(f"orientation x y z w = {x:g} {y:g} {z:g} {w:g} has length {length:.4g}, not 1")
    return np.array([w, x, y, z]) / length


def free_joint(pose: BasePose) -> tuple[FloatArray, FloatArray]:
    """Qpos (7,) and qvel (6,) of a free joint."""
    linear = rotated(pose.linear, pose.orientation)
    return np.concatenate([pose.position, pose.orientation]), np.concatenate([linear, pose.angular])


def with_tilt(heading: FloatArray, tilt: FloatArray) -> FloatArray:
    """The orientation nearest to `heading` among those that differ from `tilt` by a turn about the vertical only.

    That is the heading of one and the tilt of the other, without the singularity that yaw, pitch and roll have when
    the base points up.

    Args:
        heading: (4,), w x y z.
        tilt: (4,), w x y z.

    Raises:
        ValueError: They say the opposite of where is up, so that no turn is nearest.
    """
    difference = product(heading, inverse(tilt))
    turn = np.array([difference[0], 0.0, 0.0, difference[3]])
    length = float(np.linalg.norm(turn))
    if length < 1e-3:
        raise ValueError("the IMU takes for up what is down for the odometry")
    return product(turn / length, tilt)


def rotated(vector: FloatArray, quaternion: FloatArray) -> FloatArray:
    """`vector` (3,) of the frame whose orientation is `quaternion` (4,), in the frame that this is given in."""
    out = np.zeros(3)
    mujoco.mju_rotVecQuat(out, vector, quaternion)
    return out


def product(left: FloatArray, right: FloatArray) -> FloatArray:
    """The rotation `right` (4,), then `left` (4,)."""
    out = np.zeros(4)
    mujoco.mju_mulQuat(out, left, right)
    return out


def inverse(quaternion: FloatArray) -> FloatArray:
    """Of a rotation (4,)."""
    out = np.zeros(4)
    mujoco.mju_negQuat(out, quaternion)
    return out


class FloatingBase:
    """Merges odometry and, if there is one, an IMU; thread-safe.

    Each has its own limit of age, and nothing is extrapolated: what is read is what was measured last. Covariances are
    not looked at, but for the -1 that says that an IMU does not measure something.

    Args:
        odometry: Topic, for errors.
        imu: Topic, for errors; empty: there is none.
        odometry_frame: frame_id that odometry must have.
        base_frame: child_frame_id that odometry must have: the frame of the body with the free joint.
        imu_frame: frame_id that the IMU must have; empty: any.
        imu_rotation: (4,), x y z w, orientation of the IMU in the base.
        imu_orientation: What of the IMU's orientation replaces odometry's, one of ORIENTATIONS: `tilt`, all but the
            heading; `full`; `none`. Its angular velocity always does.
        max_odometry_age: s.
        max_imu_age: s.

    Raises:
        ValueError: `imu_rotation` is no rotation.
    """

    def __init__(
        self,
        odometry: str,
        imu: str = "",
        *,
        odometry_frame: str = "odom",
        base_frame: str = "base_link",
        imu_frame: str = "",
        imu_rotation: Sequence[float] = (0.0, 0.0, 0.0, 1.0),
        imu_orientation: str = "tilt",
        max_odometry_age: float = 0.1,
        max_imu_age: float = 0.1,
    ) -> None:
        if len(imu_rotation) != 4:
            raise ValueError(f"imu_rotation has {len(imu_rotation)} entries, expected x y z w")
        try:
            self._mounting = unit_quaternion(imu_rotation)
        except ValueError as error:
            raise ValueError(f"imu_rotation: {error}") from None
        self.odometry: Newest[BasePose] = Newest(odometry, max_odometry_age)
        self.imu: Newest[Inertial] | None = Newest(imu, max_imu_age) if imu else None
        self._frames = odometry_frame, base_frame
        self._imu_frame = imu_frame
        self._use = imu_orientation

    def offer_odometry(
        self,
        frame: str,
        child_frame: str,
        position: ArrayLike,
        orientation: ArrayLike,
        linear: ArrayLike,
        angular: ArrayLike,
        stamp: float,
        arrival: float,
    ) -> None:
        """Take an odometry: pose (3,), (4,) x y z w of the child in `frame`, velocities (3,), (3,) in the child.

        `stamp` is of the robot's clock, `arrival` of our steady one, s.
        """
        if (frame, child_frame) != self._frames:
            self.odometry.refuse(
                f"is of '{child_frame}' in '{frame}', expected '{self._frames[1]}' in '{self._frames[0]}'"
            )
            return
        values = [np.array(part, np.float64) for part in (position, orientation, linear, angular)]
        if not all(np.isfinite(part).all() for part in values):
            self.odometry.refuse("holds a number that is not finite")
            return
        try:
            quaternion = unit_quaternion(values[1])
        except ValueError as error:
            self.odometry.refuse(str(error))
            return
        self.odometry.offer(BasePose(values[0], quaternion, values[2], values[3]), stamp, arrival)

    def offer_imu(
        self,
        frame: str,
        orientation: ArrayLike | None,
        angular: ArrayLike | None,
        stamp: float,
        arrival: float,
    ) -> None:
        """Take what an IMU measures in its own frame: (4,) x y z w in its world, (3,) rad/s; None: it does not.

        `stamp` is of the robot's clock, `arrival` of our steady one, s.
        """
        newest = self.imu
        if newest is None:
            return
        if self._imu_frame and frame != self._imu_frame:
            newest.refuse(f"is of '{frame}', expected '{self._imu_frame}'")
            return
        if angular is None:
            newest.refuse("measures no angular velocity (angular_velocity_covariance[0] is -1)")
            return
        rate = np.array(angular, np.float64)
        turned = None
        if self._use != "none":
            if orientation is None:
                newest.refuse(
                    "measures no orientation (orientation_covariance[0] is -1); imu_orientation: none does without"
                )
                return
            try:
                turned = product(unit_quaternion(orientation), inverse(self._mounting))
            except ValueError as error:
                newest.refuse(str(error))
                return
        if not np.isfinite(rate).all():
            newest.refuse("holds a number that is not finite")
            return
        newest.offer(Inertial(turned, rotated(rate, self._mounting)), stamp, arrival)

    def read(self, now: float) -> tuple[FloatArray, FloatArray]:
        """Qpos (7,) and qvel (6,) of the free joint, the caller's own.

        Args:
            now: s, on our steady clock.

        Raises:
            DriverError: A measurement is missing, too old, of another frame or unfit for use.
        """
        pose = self.odometry.get(now)
        if self.imu is None:
            return free_joint(pose)
        inertial = self.imu.get(now)
        orientation = pose.orientation
        if inertial.orientation is not None:
            orientation = inertial.orientation
            if self._use == "tilt":
                try:
                    orientation = with_tilt(pose.orientation, inertial.orientation)
                except ValueError as error:
                    raise DriverError(f"{self.imu.what}: {error}; is imu_rotation right?") from error
        return free_joint(BasePose(pose.position, orientation, pose.linear, inertial.angular))
