"""The driver ros2_control: its parts without ROS, then itself against a robot that is faked in ROS."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
import rclpy
from fake_robot import FakeRobot
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.context import Context
from sensor_msgs.msg import JointState

from polo_ros import drivers, tasks
from polo_ros.drivers.actuation import actuation
from polo_ros.drivers.base import DriverError
from polo_ros.drivers.joint_states import JointStates
from polo_ros.nodes.ros2_control_driver import Ros2ControlDriver, Ros2ControlSettings
from polo_ros.tasks.base import ObservationSpec, Task
from polo_ros.testing import DriverConformance

DOMAIN, SESSION_DOMAIN = 145, 146

# Driven joints whose actuators stand in another order, one that nothing drives; none carries another along.
XML = """
<mujoco>
  <compiler angle="radian"/>
  <option gravity="0 0 0" timestep="0.005"/>
  <default><joint armature="0.1" damping="1"/><geom size="0.01" mass="0.01"/></default>
  <worldbody>
    {base}
    <body pos="0 0 0"><joint name="a"/><geom/></body>
    <body pos="1 0 0"><joint name="loose" ref="0.3"/><geom/></body>
    <body pos="2 0 0"><joint name="b" type="slide" axis="1 0 0"/><geom/></body>
    <body pos="3 0 0"><joint name="c" range="-2 2" limited="true"/><geom/></body>
  </worldbody>
  <actuator>{actuators}</actuator>
</mujoco>
"""
BASE = '<body name="torso" pos="0 0 2"><freejoint/><geom size="0.1"/></body>'
MOTORS = """
<motor name="c" joint="c" gear="2" ctrlrange="-5 5" ctrllimited="true"/>
<motor name="a" joint="a" ctrlrange="-5 5" ctrllimited="true" forcerange="-3 4" forcelimited="true"/>
<motor name="b" joint="b" gear="-1" ctrlrange="-5 5" ctrllimited="true"/>
"""
TARGETS = """
<position name="c" joint="c" kp="20" gear="2" ctrlrange="-2 2" ctrllimited="true"/>
<position name="a" joint="a" kp="20" kv="1" ctrlrange="-2 2" ctrllimited="true"/>
<position name="b" joint="b" kp="20" gear="-1" ctrlrange="-2 2" ctrllimited="true"/>
"""
SPEEDS = MOTORS.replace("<motor", '<velocity kv="5"').replace('forcerange="-3 4" forcelimited="true"', "")
ACTUATORS = {"effort": MOTORS, "position": TARGETS, "velocity": SPEEDS}
NAMES = {"c": "wrist_joint"}  # what the robot calls it
JOINTS = ["c", "a", "b"]


class Arm(Task):
    name = "arm"
    description = "for these tests"
    control_dt = 0.05
    discount = 0.99
    observation_spec = ObservationSpec((("nothing", 0),))

    def __init__(self, actuators: str = MOTORS, base: str = "") -> None:
        self.model = mujoco.MjModel.from_xml_string(XML.format(actuators=actuators, base=base))

    def reset(self, rng: np.random.Generator) -> Any:
        return self.pack(0.0, self.model.qpos0, np.zeros(self.model.nv), np.zeros(0))

    def observe(self, sensordata: Any) -> Any:
        return sensordata[..., :0]

    def reward(self, obs: Any, action: Any, next_obs: Any) -> Any:
        return 0.0 * action[..., 0]


def wired(**changes: Any) -> Ros2ControlSettings:
    """Patient: the machine that tests run on is busy."""
    own: dict[str, Any] = {
        "joints": ("c=wrist_joint", "a", "loose", "b"),
        "max_state_age": 2.0,
        "max_odometry_age": 2.0,
        "max_imu_age": 2.0,
        "connect_timeout": 20.0,
        "stop_timeout": 5.0,
    }
    return Ros2ControlSettings(**own | changes)


@pytest.fixture(scope="module", autouse=True)
def network() -> Iterator[None]:
    """On this machine only, and not with anybody else's tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(DOMAIN))
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        yield


@pytest.fixture
def robot() -> Iterator[FakeRobot]:
    with FakeRobot(Arm().model, JOINTS, names=NAMES) as made:
        yield made


@pytest.fixture
def driver(robot: FakeRobot) -> Iterator[Ros2ControlDriver]:
    """Connected."""
    with connected(Arm()) as made:
        yield made


class connected:  # noqa: N801
    """A driver, closed at the end whatever happens."""

    def __init__(self, task: Task, **changes: Any) -> None:
        self.driver = Ros2ControlDriver(task, 0, wired(**changes))

    def __enter__(self) -> Ros2ControlDriver:
        self.driver.connect()
        return self.driver

    def __exit__(self, *_: object) -> None:
        try:
            self.driver.close()
        except DriverError:
            pass


def refusal(driver: Ros2ControlDriver, timeout: float = 20.0) -> str:
    """What read says once it says something."""
    limit = time.monotonic() + timeout
    while time.monotonic() < limit:
        try:
            driver.read()
        except DriverError as error:
            return str(error)
        time.sleep(0.01)
    raise AssertionError(f"read works for {timeout} s")


def recovers(driver: Ros2ControlDriver, timeout: float = 20.0) -> None:
    limit = time.monotonic() + timeout
    while True:
        try:
            driver.read()
            return
        except DriverError:
            assert time.monotonic() < limit
            time.sleep(0.01)


def commands_something(robot: FakeRobot) -> bool:
    """Whether the last command is not zero."""
    return any(any(command) for command in robot.commands[-1:])


# ---- what a control is at the joint --------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(control=st.tuples(*[st.floats(-5.0, 5.0)] * 3).map(np.array))
def test_efforts_are_those_of_the_model(control: np.ndarray) -> None:
    model = Arm().model
    data = mujoco.MjData(model)
    data.ctrl[:] = control
    mujoco.mj_forward(model, data)
    dofs = [int(model.joint(name).dofadr[0]) for name in JOINTS]
    np.testing.assert_allclose(actuation(model, "effort").command(control), data.qfrc_actuator[dofs], atol=1e-12)


def test_efforts_keep_to_the_limits_of_a_joint() -> None:
    limited = XML.replace('name="c"', 'name="c" actuatorfrcrange="-1.5 2.5" actuatorfrclimited="true"')
    model = mujoco.MjModel.from_xml_string(limited.format(actuators=MOTORS, base=""))
    found = actuation(model, "effort")
    np.testing.assert_array_equal(found.command(np.array([5.0, 5.0, 1.0])), [2.5, 4.0, -1.0])
    np.testing.assert_array_equal(found.command(np.array([-5.0, -5.0, 0.0])), [-1.5, -3.0, 0.0])


@pytest.mark.parametrize(("interface", "where"), [("position", "qpos"), ("velocity", "qvel")])
def test_at_its_target_a_servo_of_the_model_exerts_no_force(interface: str, where: str) -> None:
    """So the target is what the control means."""
    model = Arm(ACTUATORS[interface]).model
    data = mujoco.MjData(model)
    control = np.array([0.7, -0.3, 0.5])
    target = actuation(model, interface).command(control)
    for name, value in zip(JOINTS, target, strict=True):
        joint = model.joint(name)
        getattr(data, where)[joint.qposadr[0] if where == "qpos" else joint.dofadr[0]] = value
    data.ctrl[:] = control
    mujoco.mj_forward(model, data)
    np.testing.assert_allclose(data.actuator_force, 0.0, atol=1e-12)


@pytest.mark.parametrize(
    ("actuators", "interface", "reason"),
    [
        ("", "effort", "the model has no actuators"),
        ('<motor name="m" site="tip"/>', "effort", "'m' does not act on a joint"),
        ('<motor name="m" joint="ball"/>', "effort", "joint 'ball', which is neither hinge nor slide"),
        ('<motor name="m" joint="a"/><motor joint="a"/>', "effort", "'1' acts on joint 'a', as another"),
        ('<motor name="m" joint="a" gear="0"/>', "effort", "'m' has gear 0"),
        ('<position name="m" joint="a"/>', "effort", "a <position> actuator, for position; .* effort needs <motor>"),
        ('<velocity name="m" joint="a"/>', "position", "a <velocity> actuator, for velocity; .* needs <position>"),
        ('<motor name="m" joint="a"/>', "velocity", "a <motor> actuator, for effort; .* velocity needs <velocity>"),
        ('<intvelocity name="m" joint="a" actrange="-1 1"/>', "velocity", "no motor, position or velocity actuator"),
        ('<damper name="m" joint="a" ctrlrange="0 1"/>', "effort", "no motor, position or velocity actuator"),
    ],
)
def test_actuators_that_a_controller_cannot_stand_for_are_refused(actuators: str, interface: str, reason: str) -> None:
    other = '<body><joint name="ball" type="ball"/><geom/><site name="tip"/></body>'
    model = mujoco.MjModel.from_xml_string(XML.format(actuators=actuators, base=other))
    with pytest.raises(ValueError, match=reason):
        actuation(model, interface)


@pytest.mark.parametrize(
    ("changes", "base", "reason"),
    [
        ({"joints": ("a", "b", "loose")}, "", "joint 'c' has an actuator and is not in ros2_control.joints"),
        ({"joints": ("a", "d")}, "", "no hinge or slide 'd'; there are: a, loose, b, c"),
        ({"joints": ("a", "a=x")}, "", "has 'a' twice"),
        ({"joints": ("a=x", "b=x", "c")}, "", "two joints are called 'x'"),
        ({"joints": ("a=", "b", "c")}, "", "no robot's name"),
        ({"controller": "joint_trajectory"}, "", "a joint_trajectory controller is given positions"),
        ({"command_interface": "position"}, "", "needs <position> actuators"),
        ({}, BASE, "the model has a free joint; ros2_control.odometry must name"),
        ({"odometry": "/odom"}, "", "this one has none"),
        ({"odometry": "/odom"}, BASE + BASE.replace("torso", "box"), "the bodies 'torso', 'box' float"),
        ({"odometry": "/odom"}, BASE.replace("<freejoint/>", '<joint name="x" type="ball"/>'), "'x' is a ball joint"),
        ({"odometry": "/odom", "imu_rotation": (1.0, 1.0, 0.0, 0.0)}, BASE, "imu_rotation"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(changes: dict[str, Any], base: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Ros2ControlDriver(Arm(base=base), 0, wired(**changes))


def test_joints_without_a_name_are_refused() -> None:
    task = Arm(base='<body pos="5 0 0"><joint/><geom/></body>')
    with pytest.raises(ValueError, match="joint 0 of the model has no name"):
        Ros2ControlDriver(task, 0, wired(joints=()))


def test_its_settings_are_known_by_its_name() -> None:
    assert drivers.settings("ros2_control").ros2_control == Ros2ControlSettings()  # type: ignore[attr-defined]
    made = drivers.make("ros2_control", tasks.make("cartpole_swingup"), 0)
    assert isinstance(made, Ros2ControlDriver)


def test_it_is_listed_where_ros_is_not_installed() -> None:
    code = (
        "import sys; sys.modules['rclpy'] = None\n"
        "from polo_ros import drivers, tasks\n"
        "print(drivers.describe('ros2_control'))\n"
        "driver = drivers.make('ros2_control', tasks.make('cartpole_swingup'), 0)\n"
        "try: driver.connect()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    description, error = done.stdout.splitlines()
    assert description.startswith("A robot behind ros2_control")
    assert error.startswith("DriverError ROS is not installed") and "pip install polo_ros[ros]" in error


# ---- joint_states, without ROS -------------------------------------------------------------------

EMPTY = np.zeros(0)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_every_joint_has_what_was_last_said_of_it(data: st.DataObject) -> None:
    """Whatever the messages' order of names, whichever joints each of them has."""
    ours = ["a", "b", "c", "d"]
    states = JointStates("/joint_states", ours, max_age=1.0)
    expected: dict[str, tuple[float, float]] = {}
    for i in range(data.draw(st.integers(1, 6))):
        names = data.draw(st.permutations([*ours, "x", "y"]))[: data.draw(st.integers(0, 6))]
        position, velocity = (np.array(data.draw(st.lists(st.floats(-9, 9), min_size=6, max_size=6))) for _ in "pv")
        states.offer(names, position[: len(names)], velocity[: len(names)], float(i + 1), float(i))
        expected.update({n: (p, v) for n, p, v in zip(names, position, velocity, strict=False) if n in ours})
    unseen = [name for name in ours if name not in expected]
    if unseen:
        with pytest.raises(DriverError, match="has no joint " + ", ".join(f"'{name}'" for name in unseen)):
            states.read(0.0)
    else:
        _, position, velocity = states.read(0.0)
        np.testing.assert_array_equal(np.stack([position, velocity], 1), [expected[name] for name in ours])


def heard(states: JointStates, stamp: float, arrival: float, names: str = "ab", value: float = 0.0) -> None:
    states.offer(list(names), np.full(len(names), value), np.zeros(len(names)), stamp, arrival)


def test_the_time_is_the_stamp_and_the_age_is_since_arrival() -> None:
    """The robot's clock is an hour ahead, and that is nobody's business."""
    states = JointStates("/js", "ab", max_age=0.25)
    heard(states, 3600.0, 10.0)
    assert states.read(10.25)[0] == 3600.0
    with pytest.raises(DriverError, match=r"^/js is 0\.31 s old, more than 0\.25 s$"):
        states.read(10.31)


def test_each_joint_ages_by_itself() -> None:
    states = JointStates("/js", "ab", max_age=0.3)
    heard(states, 1.0, 10.0)
    heard(states, 1.25, 10.25, "b")
    assert states.read(10.29)[0] == 1.25
    with pytest.raises(DriverError, match=r"/js: joint 'a' is 0\.40 s old"):
        states.read(10.4)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (5.0, 5.0, "stamp stands still at 5.000000 s"),
        (5.0, 3.0, "stamp went back from 5.000000 s to 3.000000 s"),
        (0.0, 0.0, "the publisher does not fill in header.stamp"),
    ],
)
def test_a_message_that_is_not_later_is_none(first: float, second: float, reason: str) -> None:
    states = JointStates("/js", "ab", max_age=0.3)
    heard(states, first, 10.0, value=1.0)
    heard(states, second, 10.25, value=2.0)
    time_, position, _ = states.read(10.29)
    assert time_ == first and position.tolist() == [1.0, 1.0]
    assert states.counts["stale"] == 1
    with pytest.raises(DriverError, match=reason):
        states.read(10.4)
    heard(states, first + 1.0, 10.5, value=3.0)
    assert states.read(10.6)[1].tolist() == [3.0, 3.0]


@pytest.mark.parametrize(
    ("names", "position", "velocity", "reason"),
    [
        ("ab", [1.0, np.nan], [0.0, 0.0], "joint 'b': its position is nan"),
        ("ab", [np.inf, 1.0], [0.0, 0.0], "joint 'a': its position is inf"),
        ("ab", [1.0, 1.0], [np.nan, 0.0], "joint 'a': its velocity is nan; does the hardware offer it"),
        ("ab", [1.0, 1.0], [], "joint 'a': messages have no velocities"),
        ("ab", [1.0], [0.0, 0.0], "2 names and 1 positions"),
        ("ab", [], [0.0, 0.0], "2 names and 0 positions"),
        ("ab", [1.0, 1.0], [0.0], "2 names and 1 velocities"),
        ("aa", [1.0, 1.0], [0.0, 0.0], "names a joint twice"),
    ],
)
def test_what_cannot_be_used_is_named_until_it_can(names: str, position: Any, velocity: Any, reason: str) -> None:
    states = JointStates("/js", "ab", max_age=9.0)
    for begun in (False, True):
        states.offer(list(names), np.array(position), np.array(velocity), 2.0 + begun, 0.0)
        with pytest.raises(DriverError, match=reason):
            states.read(0.0)
        heard(states, 2.5 + begun, 0.0)
        states.read(0.0)
    assert states.counts["refused"] == 2


def test_velocities_can_be_taken_from_positions_where_there_are_none() -> None:
    states = JointStates("/js", "ab", max_age=9.0, differentiate=True)
    states.offer(["a", "b"], np.array([1.0, 2.0]), np.array([np.nan, 7.0]), 1.0, 0.0)
    with pytest.raises(DriverError, match="joint 'a': no velocity before the second message"):
        states.read(0.0)
    states.offer(["a", "b"], np.array([1.5, 2.0]), np.array([np.nan, 8.0]), 1.25, 0.0)
    assert states.read(0.0)[2].tolist() == [2.0, 8.0]
    states.offer(["b", "a"], np.array([3.0, 1.0]), EMPTY, 1.5, 0.0)
    assert states.read(0.0)[2].tolist() == [-2.0, 4.0]


def test_states_that_were_read_do_not_change() -> None:
    states = JointStates("/js", "ab", max_age=9.0)
    heard(states, 1.0, 0.0, value=1.0)
    _, position, velocity = states.read(0.0)
    heard(states, 2.0, 0.0, value=2.0)
    position[0] = velocity[0] = 9.0
    assert states.read(0.0)[1].tolist() == [2.0, 2.0]


# ---- against the robot ---------------------------------------------------------------------------


def test_joints_are_found_by_name_in_any_order(robot: FakeRobot, driver: Ros2ControlDriver) -> None:
    robot.place(a=0.1, b=0.2, c=-0.5, loose=0.4)
    model = driver.task.model
    expected = {"a": 0.1, "b": 0.2, "c": -0.5, "loose": 0.4}

    def arrived() -> bool:
        state = driver.read()
        return all(abs(state.qpos[model.joint(n).qposadr[0]] - q) < 1e-9 for n, q in expected.items())

    robot.until(arrived, "the placed state")
    for _ in range(20):
        assert arrived()
        time.sleep(0.01)
    assert driver.status()["controller_checked"] is True


def test_time_is_of_the_robots_clock(robot: FakeRobot, driver: Ros2ControlDriver) -> None:
    first, began = driver.read().time, time.monotonic()
    assert 1000.0 < first < 1100.0
    time.sleep(0.5)
    assert driver.read().time - first == pytest.approx(time.monotonic() - began, abs=0.2)


def test_joints_left_out_stay_at_their_reference(robot: FakeRobot) -> None:
    with connected(Arm(), joints=("c=wrist_joint", "a", "b")) as driver:
        assert driver.read().qpos[driver.task.model.joint("loose").qposadr[0]] == pytest.approx(0.3)


def test_several_publishers_make_one_state(robot: FakeRobot) -> None:
    robot.parts = [{"a", "loose"}, {"b", "c"}]
    with connected(Arm()) as driver:
        for _ in range(20):
            driver.read()
            time.sleep(0.01)
        robot.parts = [{"a", "loose"}, set()]
        assert "joint 'b' is" in refusal(driver) or "joint 'wrist_joint' is" in refusal(driver)


def test_nothing_is_commanded_before_activate(robot: FakeRobot, driver: Ros2ControlDriver) -> None:
    for _ in range(5):
        driver.read()
        with pytest.raises(DriverError, match="not active"):
            driver.write(np.ones(3))
        time.sleep(0.02)
    assert robot.commands == []
    driver.activate()
    robot.until(lambda: robot.commands == [[0.0, 0.0, 0.0]], "zero effort")


def test_efforts_arrive_in_the_controllers_order(robot: FakeRobot, driver: Ros2ControlDriver) -> None:
    driver.activate()
    driver.write(np.array([0.5, 5.0, 0.3]))
    robot.until(lambda: robot.commands[-1:] == [[1.0, 4.0, -0.3]], "gear times control, limited")


@pytest.mark.parametrize("interface", ["effort", "velocity"])
def test_stop_commands_zero_in_every_state_and_again(interface: str) -> None:
    task = Arm(ACTUATORS[interface])
    with FakeRobot(task.model, JOINTS, interface, names=NAMES) as robot:
        with connected(task, command_interface=interface) as driver:
            driver.stop()  # also what somebody else has left
            robot.until(lambda: robot.commands == [[0.0] * 3], "zero")
            for _ in range(2):
                driver.activate()
                driver.write(np.full(3, 0.5))
                robot.until(lambda: commands_something(robot), "a command")
                driver.stop()
                robot.until(lambda: robot.commands[-1] == [0.0] * 3, "zero")
                driver.stop()
                with pytest.raises(DriverError, match="not active"):
                    driver.write(np.zeros(3))
            driver.activate()
            driver.write(np.full(3, 0.5))
            driver.close()
            robot.until(lambda: robot.commands[-1] == [0.0] * 3, "zero after close")
            driver.stop()


@pytest.mark.parametrize("trajectory", [False, True])
def test_positions_reach_their_joints_and_stop_holds_them(trajectory: bool) -> None:
    task = Arm(TARGETS)
    kind = "joint_trajectory" if trajectory else "forward_command"
    with FakeRobot(task.model, JOINTS, "position", trajectory, NAMES) as robot:
        robot.place(a=0.4, c=-0.2)
        with connected(task, command_interface="position", controller=kind) as driver:
            where = [driver.read().qpos[task.model.joint(name).qposadr[0]] for name in JOINTS]
            driver.activate()
            robot.until(lambda: len(robot.commands) == 1, "a command to hold")
            np.testing.assert_allclose(robot.commands[0], where, atol=1e-3)
            driver.write(np.array([1.0, 0.6, -0.3]))
            robot.until(lambda: robot.commands[-1] == [0.5, 0.6, 0.3], "targets, u / gear")
            robot.until(lambda: abs(robot.joint("a") - 0.6) < 0.01, "motion to the target")
            driver.write(np.array([1.0, -1.5, -0.3]))
            robot.until(lambda: robot.joint("a") < 0.5, "motion back")
            count = len(robot.commands)
            driver.stop()
            robot.until(lambda: len(robot.commands) > count, "a command to hold")
            held = robot.commands[-1][1]
            assert -1.4 < held  # where it was, not where it went
            robot.until(lambda: abs(robot.joint("a") - held) < 0.01, "rest")
        if trajectory:
            for message in robot.trajectories:
                assert message.joint_names == ["wrist_joint", "a", "b"]
                assert (message.header.stamp.sec, message.header.stamp.nanosec) == (0, 0)
                (point,) = message.points
                assert (point.time_from_start.sec, point.time_from_start.nanosec) == (0, 50_000_000)
                assert len(point.velocities) == len(point.effort) == 0


def test_positions_to_hold_must_be_known() -> None:
    task = Arm(TARGETS)
    with FakeRobot(task.model, JOINTS, "position", names=NAMES) as robot:
        with connected(task, command_interface="position", max_state_age=0.5) as driver:
            driver.activate()
            robot.silent = True
            refusal(driver)
            count = len(robot.commands)
            with pytest.raises(DriverError, match="the controller keeps its last target: /joint_states is"):
                driver.stop()
            time.sleep(0.2)
            assert len(robot.commands) == count


@pytest.mark.parametrize("controls", [np.zeros(2), np.array([0.0, np.nan, 0.0]), np.zeros((1, 3))])
def test_wrong_controls_are_refused(robot: FakeRobot, driver: Ros2ControlDriver, controls: Any) -> None:
    driver.activate()
    with pytest.raises(DriverError, match="are not 3 finite numbers"):
        driver.write(controls)


def test_a_floating_base_is_where_odometry_and_imu_say() -> None:
    task = Arm(base=BASE)
    with FakeRobot(task.model, JOINTS, names=NAMES) as robot:
        robot.data.qvel[:6] = [0.1, -0.2, 0.05, 0.5, -0.3, 0.2]
        topics = {"odometry": "/odometry", "imu": "/imu"}
        half = {"imu_rotation": (1.0, 0.0, 0.0, 0.0), "imu_orientation": "full"}
        with connected(task, **topics, **half) as driver:
            time.sleep(0.5)
            state = driver.read()
            qpos, qvel = np.array(robot.data.qpos[:7]), np.array(robot.data.qvel[:6])
            np.testing.assert_allclose(state.qvel[:6], qvel, atol=0.05)
            np.testing.assert_allclose(state.qpos[:3], qpos[:3], atol=0.1)
            assert abs(state.qpos[3:7] @ qpos[3:]) > 0.99
            robot.frames = "map", "base_link"
            assert "/odometry: is of 'base_link' in 'map', expected 'base_link' in 'odom'" in refusal(driver)
            robot.frames = "odom", "base_link"
            recovers(driver)
        with connected(task, **topics, **half, max_imu_age=0.5) as driver:
            robot.imu_silent = True
            assert "/imu is 0." in refusal(driver)
            robot.imu_silent = False
            recovers(driver)
        with connected(task, **topics, max_odometry_age=0.5) as driver:
            robot.base_silent = True
            assert "/odometry is 0." in refusal(driver)


# ---- faults --------------------------------------------------------------------------------------


def faulty(**faults: Any) -> Callable[[FakeRobot], None]:
    return lambda robot: [setattr(robot, name, value) for name, value in faults.items()] and None


@pytest.mark.parametrize(
    ("fault", "cure", "reason"),
    [
        (faulty(silent=True), faulty(silent=False), "/joint_states is 0."),
        (faulty(nan="a"), faulty(nan=""), "/joint_states: joint 'a': its position is nan"),
        (faulty(no_velocities="c"), faulty(no_velocities=False), "joint 'wrist_joint': its velocity is nan"),
        (faulty(no_velocities=True), faulty(no_velocities=False), "messages have no velocities"),
        (faulty(names={"c": "elbow"}), faulty(names=NAMES), "joint 'wrist_joint' is 0."),
        (faulty(clock_ahead=0.0), faulty(clock_ahead=1000.0), "stamp went back from 10"),
        (faulty(standing=1e6), faulty(standing=None, clock_ahead=2e6), "stamp stands still at 1000000"),
    ],
    ids=["silence", "nan", "velocity nan", "no velocities", "another name", "time going back", "time standing still"],
)
def test_faults_are_named_and_pass(robot: FakeRobot, fault: Any, cure: Any, reason: str) -> None:
    with connected(Arm(), max_state_age=0.5) as driver:
        driver.read()
        fault(robot)
        assert reason in refusal(driver)
        cure(robot)
        recovers(driver)


def test_velocities_that_are_missing_are_taken_from_positions_if_asked_for(robot: FakeRobot) -> None:
    robot.no_velocities = True
    with connected(Arm(), differentiate=True) as driver:
        driver.activate()
        joint = driver.task.model.joint("a")
        for _ in range(20):
            driver.write(np.array([0.0, 1.0, 0.0]))
            time.sleep(0.02)
        assert driver.read().qvel[joint.dofadr[0]] == pytest.approx(robot.data.qvel[joint.dofadr[0]], abs=0.2)
        assert driver.read().qvel[joint.dofadr[0]] > 0.1


def test_a_robot_that_counts_its_time_anew_can_be_connected_again(robot: FakeRobot) -> None:
    with connected(Arm(), max_state_age=0.5) as driver:
        robot.clock_ahead = 0.0
        refusal(driver)
        driver.close()
        driver.connect()
        assert driver.read().time < 1000.0


def test_a_robot_that_starts_late_is_waited_for() -> None:
    made: list[FakeRobot] = []
    timer = threading.Timer(1.0, lambda: made.append(FakeRobot(Arm().model, JOINTS, names=NAMES)))
    timer.start()
    try:
        with connected(Arm()) as driver:
            driver.read()
    finally:
        timer.join()
        for robot in made:
            robot.__exit__()


def test_a_robot_that_is_not_there_is_named_topic_by_topic() -> None:
    driver = Ros2ControlDriver(Arm(), 0, wired(connect_timeout=0.3))
    for _ in range(2):
        with pytest.raises(DriverError) as error:
            driver.connect()
        assert str(error.value) == (
            "after 0.3 s: /joint_states: no message yet; nobody listens on /forward_command_controller/commands; "
            "publishers on /joint_states: none"
        )
        for call in (driver.read, driver.activate, lambda: driver.write(np.zeros(3))):
            with pytest.raises(DriverError, match="not connected"):
                call()
        driver.stop()
        driver.close()


def test_a_joint_that_the_robot_does_not_have_is_named_with_those_that_it_has(robot: FakeRobot) -> None:
    with pytest.raises(DriverError, match=r"has no joint 'c'; other names there: .*wrist_joint"):
        Ros2ControlDriver(Arm(), 0, wired(joints=(), connect_timeout=1.0)).connect()


def test_topics_that_are_none_are_refused() -> None:
    with pytest.raises(DriverError, match="ROS: Invalid topic name"):
        Ros2ControlDriver(Arm(), 0, wired(joint_states="/joint states")).connect()
    with pytest.raises(DriverError, match="ROS: Invalid topic name"):
        Ros2ControlDriver(Arm(), 0, wired(commands="not a topic")).connect()


@pytest.mark.parametrize(
    ("joints", "interface", "reason"),
    [
        (["a", "b", "c"], "effort", "is for the joints a, b, wrist_joint; .* in this order: wrist_joint, a, b"),
        (["c", "a"], "effort", "is for the joints wrist_joint, a;"),
        (JOINTS, "velocity", "commands velocity, not effort"),
    ],
)
def test_a_controller_that_means_something_else_is_refused(joints: list[str], interface: str, reason: str) -> None:
    with FakeRobot(Arm().model, joints, interface, names=NAMES) as robot:
        with pytest.raises(DriverError, match=reason):
            Ros2ControlDriver(Arm(), 0, wired()).connect()
        assert robot.commands == []


def test_a_controller_that_goes_away_is_an_error(robot: FakeRobot, driver: Ros2ControlDriver) -> None:
    driver.activate()
    driver.write(np.zeros(3))
    robot.unload_controller()
    robot.until(lambda: driver._link is not None and not driver._link.listeners, "word of it")
    with pytest.raises(DriverError, match="nobody listens on /forward_command_controller/commands"):
        driver.write(np.zeros(3))
    with pytest.raises(DriverError, match="nobody listens"):
        driver.stop()


def test_a_session_does_not_take_its_own_joint_states_for_the_robots(robot: FakeRobot) -> None:
    context = Context()
    rclpy.init(context=context, args=[])
    node = rclpy.create_node("bridge", context=context, use_global_arguments=False)
    node.create_publisher(JointState, "joint_states", 1)
    try:
        driver = Ros2ControlDriver(Arm(), 0, wired())
        with pytest.raises(DriverError, match="where this session publishes its own joint_states; .* namespace:=polo"):
            driver.connect()
            limit = time.monotonic() + 20.0
            while time.monotonic() < limit:  # it may be found later than the robot
                driver.activate()
                time.sleep(0.05)
    finally:
        driver.close()
        node.destroy_node()
        context.try_shutdown()


def test_a_stop_gets_through_when_ros_was_shut_down_in_the_process(robot: FakeRobot) -> None:
    """As by a signal, which ends ROS before anybody can say a last word."""
    with connected(Arm()) as driver:
        driver.activate()
        driver.write(np.ones(3))
        robot.until(lambda: commands_something(robot), "a command")
        assert driver._link is not None
        driver._link.context.try_shutdown()
        with pytest.raises(DriverError, match="ROS is shut down"):
            driver.write(np.ones(3))
        assert any(robot.commands[-1])
        driver.stop()
        robot.until(lambda: robot.commands[-1] == [0.0] * 3, "zero")
        driver.close()


def test_it_runs_in_a_process_that_has_ros_running_and_ends_with_it(robot: FakeRobot) -> None:
    rclpy.init(args=[])
    try:
        with connected(Arm()) as driver:
            driver.read()
            rclpy.shutdown()
            driver.read()  # what it has is its own
            driver.close()
            with pytest.raises(DriverError, match="being shut down"):
                driver.connect()
    finally:
        rclpy.try_shutdown()


# ---- contract ------------------------------------------------------------------------------------


class TestContract(DriverConformance):
    """What every driver must do."""

    task = Arm()
    may_move = True
    nudge_periods = 6
    robot: FakeRobot

    @pytest.fixture(autouse=True)
    def on_the_network(self) -> Iterator[None]:
        with FakeRobot(self.task.model, JOINTS, names=NAMES) as self.robot:
            yield

    def make(self, task: Task) -> Ros2ControlDriver:
        return Ros2ControlDriver(task, 0, wired(max_state_age=1.0, connect_timeout=5.0))

    def break_link(self, driver: Any) -> None:
        self.robot.silent = True

    def mend_link(self, driver: Any) -> None:
        self.robot.silent = False


# ---- a session -----------------------------------------------------------------------------------


@pytest.mark.alone
def test_a_session_on_a_robot_ends_with_a_stop(tmp_path: Path) -> None:
    """By a signal, after which nothing can be said in the ROS of the bridge."""
    from session_runs import session, transitions

    config = tmp_path / "robot.yaml"
    config.write_text(
        "/**: {ros__parameters: {ros2_control: {max_state_age: 2.0, connect_timeout: 60.0, stop_timeout: 3.0}}}\n"
    )
    model = tasks.make("cartpole_swingup").model
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(SESSION_DOMAIN))
        with FakeRobot(model, ["slider"]) as robot:
            arguments = ("driver:=ros2_control", "namespace:=polo", f"config:={config}", "learner:=false", "threads:=1")
            with session(tmp_path / "run", SESSION_DOMAIN, *arguments, file="robot") as process:
                limit = time.monotonic() + 90.0
                while sum(any(command) for command in list(robot.commands)) < 100 and process.poll() is None:
                    if time.monotonic() > limit:
                        break
                    time.sleep(0.05)
                talkers = robot.controller.get_publishers_info_by_topic("/forward_command_controller/commands")
                process.send_signal(signal.SIGINT)
                output, _ = process.communicate(timeout=60)
            assert len(robot.commands) > 100, output
            assert [(info.node_namespace, info.node_name) for info in talkers] == [("/polo", "ros2_control_driver")]
            assert robot.commands[-1] == [0.0], output
    found = transitions(tmp_path / "run")
    planned = [t for t in found if not t.safe_stop]
    assert len(planned) > 90
    assert np.ptp([t.state[1] for t in found]) > 1e-3  # the cart has moved
