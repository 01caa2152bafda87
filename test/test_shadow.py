"""The digital twin: nothing is apart from a robot that is its model; else exactly what both models say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
import rclpy
from bag_sessions import swings
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.parameter import Parameter
from session_runs import session as launched
from session_runs import wait_until
from toy_robots import slider, three

from polo_ros.drivers.base import Driver
from polo_ros.drivers.mujoco import MujocoDriver, MujocoSettings
from polo_ros.nodes import convert
from polo_ros.nodes.shadow import Shadow
from polo_ros.replay.bag_reader import BagReader
from polo_ros.replay.bag_types import BagError
from polo_ros.replay.transition import Transition
from polo_ros.safety.shadow import ShadowConfig, Statistics, freedoms
from polo_ros.safety.timeline import TimedPlan
from polo_ros.safety.twin import Difference, Twin
from polo_ros.session.loop import RobotLoop, Sample
from polo_ros.tasks.base import FloatArray, Task
from polo_ros.tasks.cartpole_swingup import CartpoleSwingup
from polo_ros.tasks.humanoid_stand import HumanoidStand

DOMAIN = 175
TASK = CartpoleSwingup()
HORIZON = 10  # control periods of cartpole

Period = tuple[Sample, Transition]


def periods(task: Task, driver: Driver, steps: int, episode_steps: int = 0) -> list[Period]:
    """A session as the bridge publishes it: what was sensed at the start of each period, and its transition."""
    driver.connect()
    driver.activate()
    loop = RobotLoop(task, driver, max_plan_age=10.0)
    loop.start()
    sample = loop.sense()
    act = swings(task)
    found = []
    for step in range(steps):
        action = act(step, sample.state)
        assert not loop.offer(TimedPlan(step + 1, step, step, sample.episode, action[None]))
        loop.reset_requested = bool(episode_steps) and sample.episode_step + 1 == episode_steps
        transition, after = loop.act(sample)
        found.append((sample, transition))
        sample = after
    return found


def follow(twin: Twin, session: list[Period]) -> list[Difference | None]:
    found = []
    for sample, t in session:
        twin.sensed(sample.step, sample.episode, sample.pending)
        found.append(twin.played(t.step, t.episode, t.state, t.action))
    return found


def heavier(share: float) -> Task:
    """A cart whose pole has more mass and inertia than the model's, by `share`."""
    task = CartpoleSwingup()
    pole = task.model.body("pole").id
    task.model.body_mass[pole] *= 1.0 + share
    task.model.body_inertia[pole] *= 1.0 + share
    mujoco.mj_setConst(task.model, mujoco.MjData(task.model))
    return task


# ---- the twin ------------------------------------------------------------------------------------


@pytest.mark.parametrize("delays", [(0.0, 0.0), (0.0, 0.06), (0.04, 0.0), (0.04, 0.06)])
@pytest.mark.parametrize("horizon", [0.0, 0.02, HORIZON * 0.02])
def test_of_a_robot_that_is_its_model_nothing_is_apart_whatever_the_delays(
    delays: tuple[float, float], horizon: float
) -> None:
    twin = Twin(TASK, horizon)
    session = periods(TASK, MujocoDriver(TASK, 3, MujocoSettings(*delays)), 70, episode_steps=30)
    found = follow(twin, session)
    # Compared is every period but the first of an episode, to which the twin is set.
    assert [one is None for one in found] == [sample.episode_step == 0 for sample, _ in session]
    known = [one for one in found if one is not None]
    for one in known:
        np.testing.assert_array_equal(one.robot[1:], one.twin[1:])
        assert not one.position.any() and not one.velocity.any()
        assert len(one.pending) == len(session[one.step][0].pending)
        np.testing.assert_array_equal(one.pending, session[one.step][0].pending)
    assert twin.sets["start"] == 1 and twin.sets["episode"] == 2
    length = round(horizon / 0.02) or 100
    assert [one.periods for one in known] == [
        (sample.episode_step - 1) % length + 1 for sample, _ in session if sample.episode_step
    ]
    # The states moved, and commands were under way: else all this says nothing.
    assert np.ptp([one.robot[1] for one in known]) > 0.1
    assert delays == (0.0, 0.0) or any(one.pending.any() for one in known)


def test_a_robot_with_a_heavier_pole_is_off_by_what_stepping_both_models_by_hand_gives() -> None:
    real = heavier(0.1)
    found = follow(Twin(TASK, HORIZON * 0.02), periods(real, MujocoDriver(real, 3), 60))
    act = swings(TASK)
    robot, twin = mujoco.MjData(real.model), mujoco.MjData(TASK.model)
    start = periods(real, MujocoDriver(real, 3), 1)[0][0]
    robot.qpos[:], robot.qvel[:] = start.robot.qpos, start.robot.qvel
    for step, one in enumerate(found):
        if step:
            assert one is not None and one.periods == (step - 1) % HORIZON + 1
            np.testing.assert_allclose(one.position, robot.qpos - twin.qpos, rtol=0, atol=1e-14)
            np.testing.assert_allclose(one.velocity, robot.qvel - twin.qvel, rtol=0, atol=1e-14)
        if step % HORIZON == 0:
            twin.qpos[:], twin.qvel[:] = robot.qpos, robot.qvel
        for model, data in ((real.model, robot), (TASK.model, twin)):
            data.ctrl[:] = act(step, start.state)
            mujoco.mj_step(model, data)
    assert max(np.abs(one.velocity).max() for one in found if one) > 1e-2


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_orientations_differ_by_the_rotation_in_the_twins_frame_for_both_signs_of_a_quaternion(sign: float) -> None:
    task = three()
    half = np.sqrt(0.5)
    upright = np.array([half, 0.0, 0.0, half])  # a quarter turn about z: its own x is the world's y
    start = task.at([0.0, 0.0, 0.0, 0.0, 0.0, 9.0, *upright])
    action = task.resting_action
    twin = Twin(task)
    twin.sensed(0, 0, np.zeros((0, 3)))
    assert twin.played(0, 0, start, action) is None
    reached = task.advance(mujoco.MjData(task.model), start, action[None])
    angle, other = 0.3, np.empty(4)
    turn = np.array([np.cos(angle / 2), 0.0, np.sin(angle / 2), 0.0])  # about its own y
    mujoco.mju_mulQuat(other, upright, turn)
    measured = reached.copy()
    measured[1 + 6 : 1 + 10] = sign * other
    measured[1 + 3] += 0.5
    one = twin.played(1, 0, measured, action)
    assert one is not None
    np.testing.assert_allclose(one.position, [0, 0, 0, 0.5, 0, 0, 0, angle, 0], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(one.velocity, np.zeros(9))


def test_lost_transitions_set_the_twin_again_with_the_commands_that_were_under_way() -> None:
    session = periods(TASK, MujocoDriver(TASK, 3, MujocoSettings(0.02, 0.04)), 40)
    twin = Twin(TASK)
    found = follow(twin, [period for period in session if period[0].step not in (9, 20, 21)])
    assert [one.step for one in found if one] == [step for step in range(1, 40) if step not in (9, 10, 20, 21, 22)]
    assert all(not one.position.any() and not one.velocity.any() for one in found if one)
    assert twin.sets == {"start": 1, "transitions lost": 2}


def test_without_word_of_what_is_under_way_the_twin_waits_for_the_next_state_unless_it_knows_itself() -> None:
    session = periods(TASK, MujocoDriver(TASK, 3, MujocoSettings(0.0, 0.04)), 30)
    twin = Twin(TASK, HORIZON * 0.02)
    found = []
    for sample, t in session:
        if sample.step not in (0, 1, 12):  # of the first two periods, and of one in which the horizon is over
            twin.sensed(sample.step, sample.episode, sample.pending)
        found.append(twin.played(t.step, t.episode, t.state, t.action))
    assert [one.step for one in found if one] == list(range(3, 30))
    assert [one.periods for one in found if one][8:12] == [9, 10, 1, 2]
    assert all(not one.position.any() and not one.velocity.any() for one in found if one)
    assert twin.sets == {"no State": 1, "horizon": 2}


def test_states_whose_transitions_never_come_do_not_pile_up() -> None:
    twin = Twin(TASK)
    for step in range(3 * Twin.REMEMBERED):
        twin.sensed(step, 0, np.zeros((1, 1)))
    assert len(twin._sensed) == Twin.REMEMBERED


def test_a_robot_whose_clock_is_not_the_twins_is_not_compared() -> None:
    session = periods(TASK, MujocoDriver(TASK, 3), 20)
    twin = Twin(TASK)
    found = []
    for sample, t in session:
        late = 0.0 if sample.step < 10 else 0.3 * TASK.control_dt
        state = t.state.copy()
        state[0] += late
        twin.sensed(sample.step, 0, sample.pending)
        found.append(twin.played(t.step, 0, state, t.action))
    assert [one.step for one in found if one] == [step for step in range(1, 20) if step != 10]
    assert twin.sets == {"start": 1, "clock": 1}


def test_a_model_that_blows_up_is_set_again_and_counted() -> None:
    task = slider('<motor joint="x"/>', joint='stiffness="1e7"')  # far too stiff for its timestep
    twin = Twin(task)
    still = np.zeros(1)
    for step in range(40):
        twin.sensed(step, 0, np.zeros((0, 1)))
        one = twin.played(step, 0, task.at([1e-3], time=step * task.control_dt), still)
        assert one is None or np.isfinite(one.position).all()
    assert twin.sets["diverged"] >= 2


def test_with_contacts_nothing_is_apart_once_the_twin_has_seen_an_episode_begin() -> None:
    """MuJoCo's solver begins from what it found before; where it has few iterations, an impact shows from what."""
    task = HumanoidStand()
    session = periods(task, MujocoDriver(task, 0), 120, episode_steps=60)
    found = [one for one in follow(Twin(task, 0.08), session) if one]
    assert len(found) == 118
    assert not any(one.position.any() or one.velocity.any() for one in found)
    found = [one for one in follow(Twin(task, 0.08), session[4:]) if one]
    assert any(one.position.any() for one in found), "it touches nothing: the test says nothing"
    assert not any(one.position.any() for one in found if one.episode == 1)


# ---- what is said of differences -----------------------------------------------------------------


def differences(task: Task, positions: FloatArray, velocities: FloatArray) -> Statistics:
    statistics = Statistics(task)
    state = np.zeros(task.nstate)
    for n, (position, velocity) in enumerate(zip(positions, velocities, strict=True)):
        statistics.add(Difference(100 + n, 0, n + 1, state, state, np.zeros((0, task.model.nu)), position, velocity))
    return statistics


def test_degrees_of_freedom_have_names_and_units() -> None:
    assert [(one.name, one.unit) for one in freedoms(three().model)] == [
        ("a", "m"),
        ("b", "rad"),
        ("c", "rad"),
        ("free (x)", "m"),
        ("free (y)", "m"),
        ("free (z)", "m"),
        ("free (about x)", "rad"),
        ("free (about y)", "rad"),
        ("free (about z)", "rad"),
    ]
    ball = mujoco.MjModel.from_xml_string(
        '<mujoco><worldbody><body><joint type="ball"/><geom size="1"/></body></worldbody></mujoco>'
    )
    assert [one.name for one in freedoms(ball)] == [f"number 0 (about {axis})" for axis in "xyz"]


def test_a_report_has_root_mean_squares_and_the_worst_of_its_time_and_forgets_it() -> None:
    statistics = differences(TASK, np.array([[0.0, 0.3], [-0.4, 0.0]]), np.array([[0.0, 0.0], [0.1, 2.0]]))
    report = statistics.report(ShadowConfig(), "start")
    assert report.figures == {
        "compared": 2,
        "position_rms": "0.25",
        "position_worst": "slider: -0.4 m, 0.04 s after the twin was set",
        "velocity_rms": "1.001",
        "velocity_worst": "hinge: 2 rad/s, 0.04 s after the twin was set",
    }
    assert report.warnings == (), "thresholds of 0 are none"
    assert statistics.report(ShadowConfig(), "start").figures == {"compared": 0}
    none = differences(TASK, np.zeros((1, 2)), np.zeros((1, 2))).report(ShadowConfig(), "start").figures
    assert none["position_worst"] == none["velocity_worst"] == "none"
    assert statistics.worst(np.array([0.1, -0.2])) == "hinge" and statistics.worst(np.zeros(2)) == ""


@pytest.mark.parametrize(("task", "name", "unit"), [(TASK, "hinge", "rad"), (slider(), "x", "m")])
def test_what_exceeds_its_threshold_is_named_with_where_to_look(task: Task, name: str, unit: str) -> None:
    config = ShadowConfig(position_difference=0.25, velocity_difference=0.1)
    values = np.array([[0.2, 0.3][-task.model.nv :]])
    share = "100%" if task.model.nv == 1 else "69%"
    statistics = differences(task, values, np.zeros_like(values))
    assert statistics.report(config, "start").warnings == (
        f"position of '{name}' is 0.3 {unit} off what the model says, 0.02 s after the twin was set "
        f"(step 100; allowed 0.25; {share} of all squared difference)",
        "where it is always the same joint, look at its gear, friction, motor and sensor; "
        "else at masses, control gains and delays (`polo bag delay`)",
    )
    statistics = differences(task, np.zeros_like(values), -values)
    velocity, _ = statistics.report(config, "start").warnings
    assert f"velocity of '{name}' is -0.3 {unit}/s off" in velocity
    statistics = differences(task, values, values)
    assert len(statistics.report(config, "start").warnings) == 3


def test_thresholds_that_are_kept_say_nothing() -> None:
    statistics = differences(TASK, np.array([[0.0, 0.3]]), np.array([[0.0, 0.3]]))
    assert not statistics.report(ShadowConfig(position_difference=0.3, velocity_difference=0.3), "start").warnings


def test_periods_none_of_which_can_be_compared_are_a_warning_with_the_reason() -> None:
    statistics = Statistics(TASK)
    for _ in range(Statistics.ENOUGH):
        statistics.add(None)
    (warning,) = statistics.report(ShadowConfig(), "clock").warnings
    assert "of 10 periods none could be compared: the times of the robot's states are not control_dt apart" in warning
    statistics.add(None)
    assert not statistics.report(ShadowConfig(), "start").warnings, "one period says nothing"


# ---- the node ------------------------------------------------------------------------------------


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shadow]:
    """A shadow that is active; messages are handed to it by hand."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    arguments = ("autostart:=false", "task:=cartpole_swingup", "shadow.position_difference:=0.001")
    rclpy.init(args=["--ros-args", *(word for one in arguments for word in ("-p", one))], domain_id=DOMAIN + 1)
    made = None
    try:
        made = Shadow()
        made.trigger_configure()
        made.trigger_activate()
        yield made
    finally:
        if made is not None:
            made.close()
            made.destroy_node()
        rclpy.try_shutdown()


class Heard:
    """What the node sends, by topic."""

    def __init__(self, node: Shadow, monkeypatch: pytest.MonkeyPatch) -> None:
        self.messages: dict[str, list[Any]] = {}
        monkeypatch.setattr(node, "send", lambda p, m: self.messages.setdefault(p.topic_name, []).append(m))
        self._node = node

    def status(self) -> DiagnosticStatus:
        self._node.publish_diagnostics()
        return self.messages["/diagnostics"][-1].status[0]


def tell(node: Shadow, session: list[Period]) -> None:
    """As the bridge would, by whatever model the robot moves."""
    for sample, transition in session:
        node._receive_state(convert.state_message(sample, TASK))
        node._receive_transition(convert.transition_message(transition, TASK))


def test_the_node_publishes_the_twin_and_warns_of_a_robot_that_is_not_its_model(
    node: Shadow, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard(node, monkeypatch)
    real = heavier(0.5)
    session = periods(real, MujocoDriver(real, 3, MujocoSettings(0.0, 0.04)), 60)
    tell(node, session)
    expected = [one for one in follow(Twin(TASK, 0.5), session) if one]
    states, joints, found = (heard.messages[f"/shadow/{name}"] for name in ("state", "joint_states", "difference"))
    assert len(states) == len(joints) == len(found) == len(expected) == 59
    for one, state, joint, difference in zip(expected, states, joints, found, strict=True):
        np.testing.assert_array_equal(convert.state_vector(state, TASK)[1:], one.twin[1:])
        np.testing.assert_array_equal(convert.pending_commands(state, TASK), one.pending)
        assert joint.name == ["slider", "hinge"]
        np.testing.assert_array_equal([*joint.position, *joint.velocity], one.twin[1:])
        assert state.header == joint.header == difference.header
        assert convert.seconds(state.header.stamp) == pytest.approx(one.robot[0], abs=1e-9)
        assert (difference.step, difference.episode, difference.periods) == (one.step, one.episode, one.periods)
        assert difference.model_hash == TASK.model_hash and abs(difference.time) < 1e-6
        np.testing.assert_array_equal([*difference.position, *difference.velocity], [*one.position, *one.velocity])
        assert difference.position_rms == pytest.approx(np.sqrt(np.mean(one.position**2)))
        assert difference.velocity_rms == pytest.approx(np.sqrt(np.mean(one.velocity**2)))
    assert found[-1].velocity_worst == ("slider", "hinge")[int(np.argmax(np.abs(found[-1].velocity)))]
    status = heard.status()
    assert status.level == DiagnosticStatus.WARN
    assert "off what the model says" in status.message and "allowed 0.001" in status.message
    figures = {value.key: value.value for value in status.values}
    assert figures["compared"] == "59" and figures["set: horizon"] == "2" and figures["set: start"] == "1"
    assert heard.status().level == DiagnosticStatus.OK, "every second is judged by itself"


def test_the_horizon_and_thresholds_change_live(node: Shadow, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard(node, monkeypatch)
    real = heavier(0.5)
    session = periods(real, MujocoDriver(real, 3), 80)
    tell(node, session[:20])
    changes = [Parameter("shadow.horizon", value=0.1), Parameter("shadow.position_difference", value=0.0)]
    assert node.set_parameters_atomically(changes).successful
    tell(node, session[20:])
    assert max(one.periods for one in heard.messages["/shadow/difference"][25:]) == 5
    assert heard.status().level == DiagnosticStatus.OK
    assert not node.set_parameters_atomically([Parameter("shadow.horizon", value=-1.0)]).successful


def _with(field: str, value: Any) -> Callable[[Any], None]:
    return lambda message: setattr(message, field, value)


@pytest.mark.parametrize(
    ("kind", "spoil", "said"),
    [
        ("states", _with("model_hash", "0123456789abcdef"), "model_hash '0123456789abcdef' is not that of task"),
        ("states", _with("qpos", [0.0]), "qpos has 1 entries, expected 2"),
        ("states", _with("commands", [float("nan")]), "commands contains values that are not finite"),
        ("transitions", _with("model_hash", ""), "model_hash '' is not that of task"),
        ("transitions", _with("qvel", [0.0, float("inf")]), "qvel contains values that are not finite"),
        ("transitions", _with("action", []), "action has 0 entries, expected 1"),
    ],
)
def test_a_message_that_is_wrong_is_refused_by_name_and_counted(
    node: Shadow, monkeypatch: pytest.MonkeyPatch, kind: str, spoil: Callable[[Any], None], said: str
) -> None:
    heard = Heard(node, monkeypatch)
    session = periods(TASK, MujocoDriver(TASK, 3), 12)
    tell(node, session[:5])
    sample, transition = session[5]
    state, played = convert.state_message(sample, TASK), convert.transition_message(transition, TASK)
    spoil(state if kind == "states" else played)
    node._receive_state(state)
    node._receive_transition(played)
    tell(node, session[6:])
    status = heard.status()
    figures = {value.key: value.value for value in status.values}
    assert figures[f"{kind}_refused"] == "1" and said in figures["last_refused"]
    assert status.level == DiagnosticStatus.WARN and said in status.message
    # A transition that is refused is one that is missing: the twin goes on from the next.
    steps = [one.step for one in heard.messages["/shadow/difference"]]
    assert steps == [step for step in range(1, 12) if kind == "states" or step not in (5, 6)]
    assert not any(any(one.position) for one in heard.messages["/shadow/difference"])


# ---- a session -----------------------------------------------------------------------------------


def _differences(run_dir: Path) -> list[Any]:
    """What the session has recorded so far."""
    try:
        return [m for _, m in BagReader(run_dir / "bag").decoded(types=["polo_ros/msg/Difference"])]
    except BagError:
        return []


def test_in_a_session_the_simulated_robots_twin_is_the_robot_and_is_recorded(tmp_path: Path) -> None:
    file = tmp_path / "late.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    mujoco: {sensing_delay: 0.02, actuation_delay: 0.04}\n"
        "    shadow: {horizon: 0.1, position_difference: 1e-9}\n    summary: false\n"
    )
    run_dir = tmp_path / "run"
    arguments = ("task:=cartpole_swingup", "clock:=realtime", "learner:=false", "shadow:=true", f"config:={file}")
    with launched(run_dir, DOMAIN, *arguments):
        wait_until(lambda: len(_differences(run_dir)) >= 60, 60, "differences")
    found = _differences(run_dir)
    assert [one.step for one in found] == list(range(found[0].step, found[0].step + len(found)))
    assert not any(np.any(one.position) or np.any(one.velocity) for one in found)
    assert max(one.periods for one in found) == 5
    reader = BagReader(run_dir / "bag")
    robot, twin = ({m.step: m for _, m in reader.decoded(topics=[topic])} for topic in ("/state", "/shadow/state"))
    both = robot.keys() & twin.keys()
    assert len(both) >= 30
    for step in both:
        np.testing.assert_array_equal(twin[step].qpos, robot[step].qpos)
        np.testing.assert_array_equal(twin[step].commands, robot[step].commands)
    assert any(any(twin[step].commands) for step in both)
    assert sum(1 for _ in reader.decoded(topics=["/shadow/joint_states"])) >= 30
    said = [
        status
        for _, array in reader.decoded(types=["diagnostic_msgs/msg/DiagnosticArray"])
        for status in array.status
        if status.name.endswith("/shadow")
    ]
    assert said and not any("off what the model says" in status.message for status in said)
