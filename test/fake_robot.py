"""A robot behind ros2_control, for tests: a broadcaster of joint_states and one controller, around a simulation.

It goes on by itself in real time, by its own clock, and has the faults that robots have.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

import mujoco
import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from nav_msgs.msg import Odometry
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

STIFFNESS, SPEED_GAIN = 5.0, 5.0  # of its own servos


class FakeRobot:
    """A model's joints behind one controller; its model's actuators are not used.

    Args:
        model: What moves.
        joints: The controller's joints, in its order.
        interface: What they are commanded.
        trajectory: A joint_trajectory controller, not a forward_command one.
        names: What joint_states calls joints of the model that have another name there.
        period: s, of its messages.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        joints: list[str],
        interface: str = "effort",
        trajectory: bool = False,
        names: dict[str, str] | None = None,
        period: float = 0.01,
    ) -> None:
        self.model = copy.deepcopy(model)
        self.model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_ACTUATION)
        self.data = mujoco.MjData(self.model)
        mujoco.mj_forward(self.model, self.data)
        self.interface, self.names = interface, dict(names or {})
        self.joints = joints
        self.commands: list[list[float]] = []  # all that came in, in the order of `joints`
        self.trajectories: list[Any] = []
        # Faults.
        self.silent = False
        self.nan = ""  # a joint whose position is none
        self.no_velocities: bool | str = False  # of all joints, or nan of the one
        self.clock_ahead = 1000.0  # s
        self.standing: float | None = None  # a stamp that stands still, s
        self.parts: list[Collection[str]] = []  # joints that each of several publishers has; empty: one has all
        self.frames = "odom", "base_link"
        self.base_silent = self.imu_silent = False
        self._lock = threading.Lock()
        self._rng = np.random.default_rng(0)
        self._target: dict[str, float] = {}
        self._begun, self._steps = time.monotonic(), 0
        self.context = Context()
        rclpy.init(context=self.context, args=[])
        own = {"context": self.context, "use_global_arguments": False}
        kind = "joint_trajectory_controller" if trajectory else "forward_command_controller"
        self.controller = rclpy.create_node(kind, **own)
        self.controller.declare_parameter("joints", [self._called(name) for name in joints])
        if trajectory:
            self.controller.declare_parameter("command_interfaces", [interface])
            self._commands = self.controller.create_subscription(
                JointTrajectory, "~/joint_trajectory", self._follow, 10
            )
        else:
            self.controller.declare_parameter("interface_name", interface)
            self._commands = self.controller.create_subscription(Float64MultiArray, "~/commands", self._forward, 10)
        self.broadcaster = rclpy.create_node("joint_state_broadcaster", **own)
        self._publishers = [self.broadcaster.create_publisher(JointState, "joint_states", 10) for _ in range(2)]
        self._odometry = self.broadcaster.create_publisher(Odometry, "odometry", 10)
        self._imu = self.broadcaster.create_publisher(Imu, "imu", 10)
        self.broadcaster.create_timer(period, self._go_on, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.controller)
        self._executor.add_node(self.broadcaster)
        self._ending = False
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def __enter__(self) -> FakeRobot:
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        self._thread.join(timeout=5.0)
        self._executor.shutdown(timeout_sec=2.0)
        self.controller.destroy_node()
        self.broadcaster.destroy_node()
        self.context.try_shutdown()

    def until(self, condition: Callable[[], bool], what: str, timeout: float = 30.0) -> None:
        limit = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < limit, f"{what} did not happen within {timeout} s"
            time.sleep(0.01)

    def place(self, **positions: float) -> None:
        """Put joints somewhere, at rest."""
        with self._lock:
            for name, position in positions.items():
                self.data.qpos[self.model.joint(name).qposadr[0]] = position
                self._target.pop(name, None)
            self.data.qvel[:] = 0.0

    def joint(self, name: str) -> float:
        """Where a joint is."""
        return float(self.data.qpos[self.model.joint(name).qposadr[0]])

    def unload_controller(self) -> None:
        self.controller.destroy_subscription(self._commands)

    # ---- inside ----------------------------------------------------------------------------

    def _called(self, name: str) -> str:
        return self.names.get(name, name)

    def _spin(self) -> None:
        while not self._ending:
            self._executor.spin_once(timeout_sec=0.1)

    def _forward(self, message: Float64MultiArray) -> None:
        with self._lock:
            self.commands.append(list(message.data))
            self._target = dict(zip(self.joints, message.data, strict=True))

    def _follow(self, message: JointTrajectory) -> None:
        (point,) = message.points
        given = dict(zip(message.joint_names, point.positions, strict=True))
        with self._lock:
            self.trajectories.append(message)
            self.commands.append([given[self._called(name)] for name in self.joints])
            self._target = {name: given[self._called(name)] for name in self.joints}

    def _go_on(self) -> None:
        with self._lock:
            due = int((time.monotonic() - self._begun) / self.model.opt.timestep)
            while self._steps < due:
                self._steps += 1
                for name, target in self._target.items():
                    joint = self.model.joint(name)
                    q, v = self.data.qpos[joint.qposadr[0]], self.data.qvel[joint.dofadr[0]]
                    force = {
                        "effort": target,
                        "position": STIFFNESS * (target - q),
                        "velocity": SPEED_GAIN * (target - v),
                    }[self.interface]
                    self.data.qfrc_applied[joint.dofadr[0]] = force
                mujoco.mj_step(self.model, self.data)
            stamp = self._stamp(self._steps * self.model.opt.timestep)
            if not self.silent:
                for publisher, part in zip(self._publishers, self.parts or [None], strict=False):
                    publisher.publish(self._joint_states(part, stamp))
            if self.model.jnt_type[0] == int(mujoco.mjtJoint.mjJNT_FREE):
                self._publish_base(stamp)

    def _stamp(self, seconds: float) -> Time:
        if self.standing is not None:
            seconds = self.standing
        else:
            seconds += self.clock_ahead
        return Time(sec=int(seconds), nanosec=int(seconds % 1.0 * 1e9))

    def _joint_states(self, part: Collection[str] | None, stamp: Time) -> JointState:
        rows = [("gripper", 7.0, 8.0), ("lid", 9.0, 10.0)]
        for j in range(self.model.njnt):
            if self.model.jnt_type[j] == int(mujoco.mjtJoint.mjJNT_FREE):
                continue
            name = self.model.joint(j).name
            q, v = float(self.data.qpos[self.model.jnt_qposadr[j]]), float(self.data.qvel[self.model.jnt_dofadr[j]])
            if part is None or name in part:
                v = np.nan if name == self.no_velocities else v
                rows.append((self._called(name), np.nan if name == self.nan else q, v))
        self._rng.shuffle(rows)
        names, position, velocity = zip(*((str(n), float(q), float(v)) for n, q, v in rows), strict=True)
        message = JointState(name=list(names), position=list(position))
        if self.no_velocities is not True:
            message.velocity = list(velocity)
        message.header.stamp = stamp
        return message

    def _publish_base(self, stamp: Time) -> None:
        """Of the free body, in ROS' conventions; the IMU is turned by half a turn about x."""
        rotation = Rotation.from_quat(self.data.qpos[[4, 5, 6, 3]])
        odometry = Odometry(child_frame_id=self.frames[1])
        odometry.header.frame_id, odometry.header.stamp = self.frames[0], stamp
        pose, twist = odometry.pose.pose, odometry.twist.twist
        pose.position.x, pose.position.y, pose.position.z = self.data.qpos[:3].tolist()
        o = pose.orientation
        o.x, o.y, o.z, o.w = rotation.as_quat().tolist()
        linear = rotation.inv().apply(self.data.qvel[:3])
        twist.linear.x, twist.linear.y, twist.linear.z = linear.tolist()
        twist.angular.x, twist.angular.y, twist.angular.z = self.data.qvel[3:6].tolist()
        if not self.base_silent:
            self._odometry.publish(odometry)
        imu = Imu()
        imu.header.stamp = stamp
        mounting = Rotation.from_euler("x", np.pi)
        o = imu.orientation
        o.x, o.y, o.z, o.w = (rotation * mounting).as_quat().tolist()
        rate = imu.angular_velocity
        rate.x, rate.y, rate.z = mounting.inv().apply(self.data.qvel[3:6]).tolist()
        if not self.imu_silent:
            self._imu.publish(imu)
