"""A robot behind ros2_control: joint_states in, commands to one controller out.

rclpy is imported when a driver connects: the driver's settings are known, and listed, where ROS is not installed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mujoco
import numpy as np

from polo_ros.config import Config, option
from polo_ros.drivers.actuation import INTERFACES, actuation
from polo_ros.drivers.base import Driver, DriverError, RobotState
from polo_ros.drivers.floating_base import ORIENTATIONS, FloatingBase
from polo_ros.drivers.joint_states import JointStates
from polo_ros.tasks.actuators import HINGE_OR_SLIDE
from polo_ros.tasks.base import FloatArray, Task

if TYPE_CHECKING:
    from polo_ros.nodes.ros2_control_link import Link

CONTROLLERS = ("forward_command", "joint_trajectory")


@dataclass(frozen=True)
class Ros2ControlSettings(Config):
    """Where the robot is heard and told, and how old its word may be."""

    joint_states: str = option("/joint_states", "topic of the robot's sensor_msgs/JointState")
    joints: tuple[str, ...] = option(
        (), "joints that joint_states has, as `name` or `name=robot's name`; empty: all hinges and slides of the model"
    )
    controller: str = option("forward_command", "kind of the controller that takes commands", choices=CONTROLLERS)
    command_interface: str = option("effort", "what is commanded", choices=INTERFACES)
    commands: str = option("", "topic of the commands; empty: that of a controller named like its kind")
    max_state_age: float = option(0.1, "age of a joint's state that is an error", unit="s", low=1e-3, high=60.0)
    differentiate: bool = option(False, "take velocities that joint_states lacks from positions: noisy, and late")
    connect_timeout: float = option(10.0, "time to wait for robot and controller", unit="s", low=0.0, high=600.0)
    stop_timeout: float = option(0.5, "time to wait until a stop has arrived", unit="s", low=0.0, high=60.0)
    odometry: str = option("", "topic of the base's nav_msgs/Odometry; needed for a model with a free joint")
    odometry_frame: str = option("odom", "frame_id that odometry must have: the model's world")
    base_frame: str = option("base_link", "child_frame_id that odometry must have: the body with the free joint")
    max_odometry_age: float = option(0.1, "age of odometry that is an error", unit="s", low=1e-3, high=60.0)
    imu: str = option("", "topic of a sensor_msgs/Imu on the base, better than odometry's rotation; empty: none")
    imu_frame: str = option("", "frame_id that the IMU must have; empty: any")
    imu_rotation: tuple[float, ...] = option(
        (0.0, 0.0, 0.0, 1.0), "orientation of the IMU in the base, quaternion x y z w"
    )
    imu_orientation: str = option(
        "tilt", "what replaces odometry's orientation: all but the heading, all, nothing", choices=ORIENTATIONS
    )
    max_imu_age: float = option(0.1, "age of the IMU's word that is an error", unit="s", low=1e-3, high=60.0)

    @property
    def command_topic(self) -> str:
        """Where commands go."""
        if self.commands:
            return self.commands
        if self.controller == "forward_command":
            return "/forward_command_controller/commands"
        return "/joint_trajectory_controller/joint_trajectory"


class Ros2ControlDriver(Driver):
    """A robot behind ros2_control: joint_states in, commands to one controller out.

    Each actuator of the model commands the joint that it acts on. What a control u is there depends on the interface:
    `effort`, of `<motor>`s, gear * u with the model's limits of force; `position`, of `<position>`s, and `velocity`, of
    `<velocity>`s, the target u / gear. Joints are matched by name. Those that `joints` leaves out stay at qpos0.

    The time of a state is the stamp of the youngest joint, on the robot's clock. Whether it is fresh is told by the
    time since its arrival, on our steady clock; see polo_ros.drivers.newest.

    A free joint is set from odometry and, if there is one, an IMU: see polo_ros.drivers.floating_base.

    `stop` commands zero effort or velocity, or the positions that were measured last.

    Args:
        task: Gives the model; its actuators must be of the interface's kind, each on a hinge or slide of its own.
        seed: Not used.
        settings: Topics, names, limits.

    Raises:
        ValueError: The model has what this way of control does not, or the settings do not fit it.
    """

    settings_type = Ros2ControlSettings
    settings: Ros2ControlSettings

    def __init__(self, task: Task, seed: int, settings: Ros2ControlSettings | None = None) -> None:
        super().__init__(task, seed, settings)
        own, model = self.settings, task.model
        if own.controller == "joint_trajectory" and own.command_interface != "position":
            raise ValueError(
                f"a joint_trajectory controller is given positions; ros2_control.command_interface is "
                f"{own.command_interface}: use controller forward_command, or position"
            )
        self._actuation = actuation(model, own.command_interface)
        names = _measured(model, own.joints)
        for joint in self._actuation.joints:
            if joint not in names:
                raise ValueError(f"joint '{model.joint(joint).name}' has an actuator and is not in ros2_control.joints")
        self._names = list(names.values())
        self._qpos_index = model.jnt_qposadr[list(names)]
        self._qvel_index = model.jnt_dofadr[list(names)]
        self._commanded = np.array([list(names).index(joint) for joint in self._actuation.joints])
        self._free = _free_joint(model, own)
        self._make_receivers()
        self._link: Link | None = None
        self._of_process = False  # whether the process had ROS running when this driver connected
        self._active = self._checked = False

    # ---- life ------------------------------------------------------------------------------

    def connect(self) -> None:
        """Join the network, wait until the robot and its controller are there. Nothing is commanded.

        Raises:
            DriverError: Something is missing after `connect_timeout`, the controller has other joints, or joint_states
                are this session's own; or ROS is not installed, or shutting down.
        """
        try:
            import rclpy

            from polo_ros.nodes.ros2_control_link import Link
        except ImportError as error:
            raise DriverError(f"ROS is not installed ({error}): pip install polo_ros[ros], or source it") from error
        if self._of_process and not rclpy.ok():
            raise DriverError("ROS is being shut down in this process")
        self._of_process = bool(rclpy.ok())
        self.close()
        self._make_receivers()
        own = self.settings
        names = [self._names[i] for i in self._commanded]
        self._link = link = Link(own, names, self.task.control_dt, self._states, self._base)
        try:
            self._await(link)
            link.refuse_echo()
            self._checked = link.check_controller(own.command_interface, timeout=1.0)
        except BaseException:
            self._link = None
            link.close()
            raise

    def activate(self) -> None:
        """Command rest, and let commands through from now on.

        Raises:
            DriverError: Not connected, or the robot cannot be read or told.
        """
        link = self._opened()
        link.refuse_echo()
        self.read()
        link.send(self._rest())
        self._active = True

    def stop(self) -> None:
        """Command zero effort or velocity, or to stay at the positions measured last, and see that it arrives.

        Raises:
            DriverError: It is not known to have arrived; or positions to stay at are not known, in which case nothing
                is sent: a controller of positions stays at its last target by itself.
        """
        self._active = False
        link = self._link
        if link is None:
            return
        try:
            rest = self._rest()
        except DriverError as error:
            raise DriverError(f"where to stay is not known, the controller keeps its last target: {error}") from error
        if link.ok:
            link.send(rest)
            link.confirm(self.settings.stop_timeout)
            return
        # A signal has ended ROS in this process, and the controller would go on with the last command for ever.
        from polo_ros.nodes.ros2_control_link import Commander

        last = Commander(self.settings, link.joints, self.task.control_dt)
        try:
            last.await_listener(self.settings.stop_timeout + 1.0)
            last.send(rest)
            last.confirm(self.settings.stop_timeout)
        finally:
            last.close()

    def close(self) -> None:
        """Stop if it is active, leave the network.

        Raises:
            DriverError: As `stop`; the network is left.
        """
        link = self._link
        if link is None:
            return
        try:
            if self._active:
                self.stop()
        finally:
            self._active = False
            self._link = None
            link.close()

    # ---- control ---------------------------------------------------------------------------

    def read(self) -> RobotState:
        """The newest state of all joints, and of the base.

        Raises:
            DriverError: Not connected; a joint or the base is missing, too old, or no number.
        """
        self._opened()
        now = time.monotonic()
        stamp, position, velocity = self._states.read(now)
        model = self.task.model
        qpos, qvel = np.array(model.qpos0), np.zeros(model.nv)
        qpos[self._qpos_index], qvel[self._qvel_index] = position, velocity
        if self._base is not None and self._free is not None:
            place, speed = self._free
            qpos[place : place + 7], qvel[speed : speed + 6] = self._base.read(now)
        return RobotState(stamp, qpos, qvel, np.zeros(model.na))

    def write(self, action: FloatArray) -> None:
        """Publish controls (nu,) as commands.

        Raises:
            DriverError: Not active, wrong controls, or nobody listens any more.
        """
        link = self._opened()
        if not self._active:
            raise DriverError("the robot is not active; call activate first")
        nu = self.task.model.nu
        if np.shape(action) != (nu,) or not np.isfinite(action).all():
            raise DriverError(f"controls {np.array2string(np.asarray(action))} are not {nu} finite numbers")
        link.send(self._actuation.command(np.asarray(action, np.float64)))

    def status(self) -> Mapping[str, object]:
        """Ages and counts of messages, and who else commands the controller."""
        link = self._link
        if link is None or not link.ok:
            return {}
        figures: dict[str, object] = {
            "joint_states_age": round(self._states.age(time.monotonic()), 4),
            "controller_checked": self._checked,
            **{f"joint_states_{name}": count for name, count in self._states.counts.items()},
        }
        if self._base is not None:
            figures["odometry_stale"] = self._base.odometry.stale
            figures["odometry_refused"] = self._base.odometry.refused
            if self._base.imu is not None:
                figures["imu_stale"], figures["imu_refused"] = self._base.imu.stale, self._base.imu.refused
        return figures

    # ---- parts -----------------------------------------------------------------------------

    def _make_receivers(self) -> None:
        """Forget what was heard: a robot that has been restarted counts its time anew."""
        own = self.settings
        self._states = JointStates(own.joint_states, self._names, own.max_state_age, own.differentiate)
        self._base: FloatingBase | None = None
        if self._free is not None:
            self._base = FloatingBase(
                own.odometry,
                own.imu,
                odometry_frame=own.odometry_frame,
                base_frame=own.base_frame,
                imu_frame=own.imu_frame,
                imu_rotation=own.imu_rotation,
                imu_orientation=own.imu_orientation,
                max_odometry_age=own.max_odometry_age,
                max_imu_age=own.max_imu_age,
            )

    def _opened(self) -> Link:
        if self._link is None:
            raise DriverError("the robot is not connected; call connect first")
        return self._link

    def _await(self, link: Link) -> None:
        """Wait until a state can be read and somebody takes commands."""
        limit = time.monotonic() + self.settings.connect_timeout
        while True:
            problems = []
            try:
                self.read()
            except DriverError as error:
                problems.append(str(error))
            if link.ok and not link.listeners:
                problems.append(f"nobody listens on {link.topic}")
            if not problems:
                return
            if time.monotonic() > limit or not link.ok:
                waited = f"after {self.settings.connect_timeout:g} s: "
                there = f"; publishers on {link.state_topic}: {', '.join(link.publishers()) or 'none'}"
                raise DriverError(f"{waited}{'; '.join(problems)}{there if link.ok else ''}")
            time.sleep(0.01)

    def _rest(self) -> FloatArray:
        """Commands (nu,) at which the joints come to rest."""
        if self.settings.command_interface != "position":
            return np.zeros(len(self._commanded))
        _, position, _ = self._states.read(time.monotonic())
        return np.array(position[self._commanded])


def _measured(model: mujoco.MjModel, entries: Sequence[str]) -> dict[int, str]:
    """The robot's name of each joint of the model that joint_states has, in the model's order."""
    single = [joint for joint in range(model.njnt) if model.jnt_type[joint] in HINGE_OR_SLIDE]
    known = {model.joint(joint).name: joint for joint in single}
    if not entries:
        unnamed = [joint for joint in single if not model.joint(joint).name]
        if unnamed:
            raise ValueError(f"joint {unnamed[0]} of the model has no name to be found by in joint_states")
        return {joint: model.joint(joint).name for joint in single}
    found: dict[int, str] = {}
    for entry in entries:
        name, separator, theirs = entry.partition("=")
        if name not in known or not name:
            raise ValueError(f"ros2_control.joints: no hinge or slide '{name}'; there are: {', '.join(known)}")
        if separator and not theirs:
            raise ValueError(f"ros2_control.joints: '{entry}' has no robot's name after the =")
        if known[name] in found:
            raise ValueError(f"ros2_control.joints has '{name}' twice")
        if (theirs or name) in found.values():
            raise ValueError(f"ros2_control.joints: two joints are called '{theirs or name}' on the robot")
        found[known[name]] = theirs or name
    return dict(sorted(found.items()))


def _free_joint(model: mujoco.MjModel, settings: Ros2ControlSettings) -> tuple[int, int] | None:
    """Where the floating base begins in qpos and qvel; None: there is none."""
    free = np.flatnonzero(model.jnt_type == int(mujoco.mjtJoint.mjJNT_FREE))
    balls = np.flatnonzero(model.jnt_type == int(mujoco.mjtJoint.mjJNT_BALL))
    if len(balls):
        raise ValueError(f"joint '{model.joint(int(balls[0])).name}' is a ball joint, which joint_states cannot hold")
    if len(free) > 1:
        names = ", ".join(f"'{model.body(int(model.jnt_bodyid[joint])).name}'" for joint in free)
        raise ValueError(f"the bodies {names} float; odometry is of one only")
    if len(free) and not settings.odometry:
        raise ValueError("the model has a free joint; ros2_control.odometry must name who measures where its base is")
    if not len(free) and (settings.odometry or settings.imu):
        raise ValueError("ros2_control.odometry and imu are for a model with a free joint, and this one has none")
    return (int(model.jnt_qposadr[free[0]]), int(model.jnt_dofadr[free[0]])) if len(free) else None
