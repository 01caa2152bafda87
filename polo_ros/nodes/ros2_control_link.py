"""ROS' side of the driver ros2_control: a small node of its own that hears a robot and talks to one controller."""

from __future__ import annotations

import array
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Duration as DurationMsg
from nav_msgs.msg import Odometry
from rcl_interfaces.srv import GetParameters
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.exceptions import InvalidTopicNameException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from polo_ros.drivers.base import DriverError
from polo_ros.drivers.floating_base import FloatingBase
from polo_ros.drivers.joint_states import JointStates
from polo_ros.nodes.base import RCLError
from polo_ros.nodes.convert import doubles, seconds
from polo_ros.tasks.base import FloatArray

if TYPE_CHECKING:
    from polo_ros.nodes.ros2_control_driver import Ros2ControlSettings

NAME = "ros2_control_driver"
# What calls raise once ROS was shut down: at which moment decides which.
GONE = (RCLError, rclpy_implementation.InvalidHandle, ExternalShutdownException)
# Never latched: a controller that starts later must not get what was meant for another moment.
COMMANDS = QoSProfile(
    depth=1,
    history=HistoryPolicy.KEEP_LAST,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
# Best effort takes from both kinds of publishers; deep enough for several of them.
MEASUREMENTS = QoSProfile(depth=20, reliability=ReliabilityPolicy.BEST_EFFORT)


class Commander:
    """Publishes commands, on a node of its own in a ROS context of its own.

    Not in the process's context: that one may be shut down by whoever shares it, and a stop must get through.

    Args:
        settings: Of the driver.
        joints: The robot's names of what is commanded, in the order of the commands.
        period: s, from one command to the next.

    Raises:
        DriverError: A topic's name is not valid, or ROS cannot be started.
    """

    def __init__(self, settings: Ros2ControlSettings, joints: Sequence[str], period: float) -> None:
        self.joints = list(joints)
        self._forward = settings.controller == "forward_command"
        self._period = DurationMsg(sec=int(period), nanosec=round(period % 1.0 * 1e9))
        self.context = Context()
        self._node: Node | None = None
        try:
            rclpy.init(context=self.context)
            # The process's namespace and remappings hold here too, but for the name that they give to its own node.
            self.node = self._node = Node(
                NAME,
                context=self.context,
                cli_args=["--ros-args", "-r", f"__node:={NAME}"],
                start_parameter_services=False,
                enable_rosout=False,
            )
            kind = Float64MultiArray if self._forward else JointTrajectory
            self._publisher = self.node.create_publisher(kind, settings.command_topic, COMMANDS)
        except (RCLError, InvalidTopicNameException, RuntimeError, ValueError) as error:
            self.close()
            raise DriverError(f"ROS: {error}") from error
        self.topic: str = self._publisher.topic_name

    @property
    def ok(self) -> bool:
        """Whether ROS is there: a signal to the process ends it in every context that there is."""
        return bool(self.context.ok())

    @property
    def listeners(self) -> int:
        """How many subscriptions the commands have."""
        return int(self._publisher.get_subscription_count())

    def await_listener(self, timeout: float) -> bool:
        """Wait, s, until somebody hears commands; whether somebody does."""
        limit = time.monotonic() + timeout
        while not self.listeners:
            if time.monotonic() > limit:
                return False
            time.sleep(0.01)
        return True

    def send(self, values: FloatArray) -> None:
        """Publish what the joints are to do, (n,), SI units.

        Raises:
            DriverError: ROS is shut down, or nobody listens.
        """
        message: Any
        if self._forward:
            message = Float64MultiArray(data=doubles(values))
        else:  # begins when it comes in, whatever the clocks say: its stamp is 0
            point = JointTrajectoryPoint(positions=doubles(values), time_from_start=self._period)
            message = JointTrajectory(joint_names=self.joints, points=[point])
        try:
            heard = self.listeners
            if heard:
                self._publisher.publish(message)
        except GONE as error:
            raise DriverError(f"ROS is shut down: {error}") from error
        if not heard:
            raise DriverError(f"nobody listens on {self.topic}; is the controller loaded?")

    def confirm(self, timeout: float) -> None:
        """Wait, s, until what was sent has arrived.

        Raises:
            DriverError: It has not, or nobody knows.
        """
        try:
            arrived = self._publisher.wait_for_all_acked(Duration(seconds=timeout))
        except GONE as error:
            raise DriverError(f"ROS is shut down: {error}") from error
        if not arrived:
            raise DriverError(f"not known to have arrived at all who listen on {self.topic}")

    def close(self) -> None:
        """Leave the network."""
        if self._node is not None:
            self._node.destroy_node()
            self._node = None
        self.context.try_shutdown()


class Link(Commander):
    """Hears the robot besides, in a thread of its own.

    Args:
        settings: Of the driver.
        joints: The robot's names of what is commanded, in the order of the commands.
        period: s, from one command to the next.
        states: Gets joint_states.
        base: Gets odometry and IMU; None: they are not subscribed to.

    Raises:
        DriverError: As Commander.
    """

    def __init__(
        self,
        settings: Ros2ControlSettings,
        joints: Sequence[str],
        period: float,
        states: JointStates,
        base: FloatingBase | None,
    ) -> None:
        super().__init__(settings, joints, period)
        self._states, self._base = states, base
        self._executor = SingleThreadedExecutor(context=self.context)
        try:
            heard = self.node.create_subscription(
                JointState, settings.joint_states, self._hear_joint_states, MEASUREMENTS
            )
            self.state_topic: str = heard.topic_name
            if base is not None:
                self.node.create_subscription(Odometry, settings.odometry, self._hear_odometry, MEASUREMENTS)
            if base is not None and base.imu is not None:
                self.node.create_subscription(Imu, settings.imu, self._hear_imu, MEASUREMENTS)
            self._executor.add_node(self.node)
        except (RCLError, InvalidTopicNameException, ValueError) as error:
            super().close()
            raise DriverError(f"ROS: {error}") from error
        self._ending = False
        self._thread = threading.Thread(target=self._spin, name=NAME, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Leave the network, end the thread."""
        thread = getattr(self, "_thread", None)  # none, if it was not made to the end
        if thread is not None:
            self._ending = True  # an executor that is shut down in mid-spin fails in any of several ways
            if self.ok:
                self._executor.wake()
            thread.join(timeout=1.0)
            self._executor.shutdown(timeout_sec=1.0)
        super().close()

    def refuse_echo(self) -> None:
        """See that the robot's joint_states are not those of this session.

        Raises:
            DriverError: The bridge of this session publishes on the same topic: it would hear itself.
        """
        own = self.node.get_namespace()
        for info in self.node.get_publishers_info_by_topic(self.state_topic):
            if (info.node_name, info.node_namespace) == ("bridge", own):
                raise DriverError(
                    f"{self.state_topic} is where this session publishes its own joint_states; start it in a namespace "
                    "of its own, namespace:=polo, and name the robot's topics with a leading /"
                )

    def publishers(self) -> list[str]:
        """Who publishes on the topic of joint_states, with the types that are not JointState."""
        found = []
        for info in self.node.get_publishers_info_by_topic(self.state_topic):
            other = "" if info.topic_type == "sensor_msgs/msg/JointState" else f" ({info.topic_type})"
            found.append(f"{info.node_namespace.rstrip('/')}/{info.node_name}{other}")
        return found

    def check_controller(self, interface: str, timeout: float) -> bool:
        """See that the controller's own parameters say what commands mean; whether it could be asked.

        Args:
            interface: What is commanded: position, velocity or effort.
            timeout: s, to wait for an answer.

        Raises:
            DriverError: It has other joints, or another order of them, or another interface.
        """
        controller = self.topic.rpartition("/")[0]
        if not controller:
            return False
        asked = ["joints", "interface_name" if self._forward else "command_interfaces"]
        joints, interfaces = (self._parameter(controller, name, timeout) for name in asked)
        if joints is None:
            return False
        if joints != self.joints if self._forward else sorted(joints) != sorted(self.joints):
            order = "these joints in this order" if self._forward else "these joints"
            raise DriverError(
                f"controller {controller} is for the joints {', '.join(joints)}; the model's actuators need {order}: "
                f"{', '.join(self.joints)}"
            )
        if interfaces and interface not in interfaces:
            raise DriverError(f"controller {controller} commands {', '.join(interfaces)}, not {interface}")
        return True

    def _parameter(self, node: str, name: str, timeout: float) -> list[str] | None:
        """A node's parameter, one text or several; None: it has none, or does not answer."""
        client = self.node.create_client(GetParameters, f"{node}/get_parameters")
        try:
            limit = time.monotonic() + timeout
            while not client.service_is_ready():
                if time.monotonic() > limit:
                    return None
                time.sleep(0.01)
            answered = threading.Event()
            future = client.call_async(GetParameters.Request(names=[name]))
            future.add_done_callback(lambda _: answered.set())
            if not answered.wait(timeout):
                return None
            values = future.result().values
            if not values:
                return None
            return list(values[0].string_array_value) or [values[0].string_value]
        except GONE as error:
            raise DriverError(f"ROS is shut down: {error}") from error
        finally:
            self.node.destroy_client(client)

    # ---- what comes in ---------------------------------------------------------------------

    def _spin(self) -> None:
        try:
            while not self._ending and self.ok:
                self._executor.spin_once(timeout_sec=0.2)
        except Exception:  # noqa: BLE001  whatever was being done when ROS was shut down
            if self.ok:
                raise

    def _hear_joint_states(self, message: JointState) -> None:
        self._states.offer(
            message.name, _array(message.position), _array(message.velocity), seconds(message.header.stamp), _now()
        )

    def _hear_odometry(self, message: Odometry) -> None:
        pose, twist = message.pose.pose, message.twist.twist
        if self._base is not None:
            self._base.offer_odometry(
                message.header.frame_id,
                message.child_frame_id,
                _vector(pose.position),
                _quaternion(pose.orientation),
                _vector(twist.linear),
                _vector(twist.angular),
                seconds(message.header.stamp),
                _now(),
            )

    def _hear_imu(self, message: Imu) -> None:
        if self._base is not None:
            self._base.offer_imu(
                message.header.frame_id,
                None if message.orientation_covariance[0] == -1.0 else _quaternion(message.orientation),
                None if message.angular_velocity_covariance[0] == -1.0 else _vector(message.angular_velocity),
                seconds(message.header.stamp),
                _now(),
            )


def _now() -> float:
    return time.monotonic()


def _array(field: array.array[float]) -> FloatArray:
    return np.array(np.frombuffer(field, dtype=np.float64))


def _vector(field: Any) -> FloatArray:
    return np.array([field.x, field.y, field.z])


def _quaternion(field: Any) -> FloatArray:
    return np.array([field.x, field.y, field.z, field.w])
