"""Supervisor: whatever goes in, what comes out is finite and in range."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from toy_robots import Toy, pendulum, slider, three

from polo_ros.safety.limits import SafetyConfig
from polo_ros.safety.stop_file import StopFile
from polo_ros.safety.supervisor import Fault, Supervisor
from polo_ros.tasks.base import FULLPHYSICS, FloatArray

LOW = np.array([-1.0, 0.5, -np.inf])
HIGH = np.array([1.0, 2.0, np.inf])
ROBOT = SafetyConfig()  # with simulated=False: the model's limits


numbers = st.floats(allow_nan=True, allow_infinity=True)
anything = st.one_of(
    st.none(),
    numbers,
    st.text(max_size=3),
    st.lists(numbers, max_size=5),
    st.lists(st.integers(), min_size=3, max_size=3),
    st.lists(
        st.one_of(st.none(), st.text(max_size=2), numbers, st.lists(numbers, max_size=2)),
        max_size=4,
    ),
    st.dictionaries(st.integers(), numbers, max_size=3),
    hnp.arrays(
        st.sampled_from(
            [
                np.float16,
                np.float32,
                np.float64,
                np.longdouble,
                np.int64,
                np.uint8,
                np.bool_,
                np.complex128,
            ]
        ),
        hnp.array_shapes(min_dims=0, max_dims=2, max_side=4),
    ),
    hnp.arrays(np.float64, 3, elements=numbers),
)


@given(
    st.lists(anything, min_size=1, max_size=6),
    st.sampled_from(["zero", "hold"]),
    st.sampled_from([(), (1.0,), (1e300,), (0.0, 1.0, 2.0)]),
)
def test_whatever_goes_in_what_comes_out_is_finite_and_in_range(
    actions: list[Any], safe_stop: str, rate_limit: tuple[float, ...]
) -> None:
    limit = tuple(min(value, 1e9) for value in rate_limit)
    supervisor = Supervisor(three(safe_stop), SafetyConfig(rate_limit=limit))
    for action in actions:
        verdict = supervisor.check(action)
        assert verdict.action.shape == (3,) and verdict.action.dtype == np.float64
        assert np.isfinite(verdict.action).all()
        assert (verdict.action >= LOW).all() and (verdict.action <= HIGH).all()
        assert verdict.safe_stop == bool(verdict.reason)


EFFORT = (3.0, 4.0, 5.0)
states = st.one_of(
    hnp.arrays(np.float64, 1 + 10 + 9, elements=numbers),
    hnp.arrays(np.float64, 1 + 10 + 9, elements=st.floats(-3, 3)),
    st.sampled_from([None, np.zeros(3), "state"]),
)
events = st.one_of(
    st.tuples(st.just("watch"), states),
    st.tuples(st.just("check"), st.one_of(anything, hnp.arrays(np.float64, 3, elements=st.floats(-9, 9)))),
    st.tuples(st.sampled_from(["stop", "arm", "reset"]), st.none()),
)


@given(st.lists(events, max_size=25), st.sampled_from(["zero", "hold", "damp"]), st.booleans())
def test_no_order_of_faults_stops_and_arming_lets_anything_out_that_is_not_within_the_limits(
    told: list[tuple[str, Any]], safe_stop: str, latch: bool
) -> None:
    config = SafetyConfig(
        velocity_limit=(2.0,),
        braking_deceleration=(5.0,),
        effort_limit=EFFORT,
        tracking_velocity_error=0.1,
        tracking_periods=2,
        latch=latch,
    )
    supervisor = Supervisor(
        three(safe_stop, damping=(0.5, 0.1, 0.2)), config, simulated=False, clock=iter(range(10**6)).__next__
    )
    stopped = False
    for step, (event, value) in enumerate(told):
        if event == "watch":
            supervisor.watch(step, value)
            stopped = stopped or supervisor.stopped
            assert latch or not supervisor.stopped or stopped
        elif event == "check":
            verdict = supervisor.check(value)
            assert np.isfinite(verdict.action).all()
            assert (verdict.action >= LOW).all() and (verdict.action <= HIGH).all()
            assert (np.abs(verdict.action) <= EFFORT).all()
            assert verdict.safe_stop or not stopped, "a stop was left without arming"
        elif event == "stop":
            supervisor.stop("by hand")
            stopped = True
        elif event == "arm":
            stopped = stopped and bool(supervisor.arm())
        else:
            supervisor.reset()
        assert supervisor.stopped == stopped


def test_a_good_action_passes_unchanged() -> None:
    verdict = Supervisor(three()).check(np.array([0.25, 0.75, -1e6]))
    np.testing.assert_array_equal(verdict.action, [0.25, 0.75, -1e6])
    assert not verdict.safe_stop and not verdict.limited and verdict.reason == ""


def test_an_action_out_of_range_is_limited_and_counted() -> None:
    supervisor = Supervisor(three())
    verdict = supervisor.check(np.array([-3.0, 9.0, 4.0]))
    np.testing.assert_array_equal(verdict.action, [-1.0, 2.0, 4.0])
    assert verdict.limited and not verdict.safe_stop
    assert supervisor.counts == {"out of range": 1}


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (np.array([0.0, np.nan, 0.0]), "not finite: control 1 of the action"),
        (np.array([-np.inf, 1.0, 0.0]), "not finite: control 0 of the action"),
        (np.zeros(2), "wrong size: action has shape (2,), expected (3,)"),
        (np.zeros((1, 3)), "wrong size: action has shape (1, 3), expected (3,)"),
        (["a", "b", "c"], "not numbers: action is of type"),
        ([[0.0], [0.0, 1.0], 2.0], "not numbers: "),
        (torch.zeros(3, requires_grad=True), "not numbers: "),
    ],
)
def test_a_bad_action_becomes_the_safe_stop_with_its_reason(action: Any, reason: str) -> None:
    supervisor = Supervisor(three())
    verdict = supervisor.check(action)
    np.testing.assert_array_equal(verdict.action, [0.0, 0.5, 0.0])  # zero, or the nearest in range
    assert verdict.safe_stop and verdict.reason.startswith(reason)
    assert supervisor.counts == {reason.split(":")[0]: 1}


def test_no_action_is_a_safe_stop_for_the_reason_given() -> None:
    supervisor = Supervisor(three())
    assert supervisor.check(None, "plan too old: 0.6 s").reason == "plan too old: 0.6 s"
    assert supervisor.check(None, "plan too old: 0.7 s").safe_stop
    assert supervisor.check(None).reason == "no action"
    assert supervisor.counts == {"plan too old": 2, "no action": 1}


def test_hold_repeats_the_last_action_that_was_let_out() -> None:
    supervisor = Supervisor(three("hold"))
    np.testing.assert_array_equal(supervisor.check(None).action, [0.0, 0.5, 0.0])
    supervisor.check(np.array([5.0, 1.0, 7.0]))
    for _ in range(2):
        np.testing.assert_array_equal(supervisor.check(None).action, [1.0, 1.0, 7.0])
    supervisor.reset()
    np.testing.assert_array_equal(supervisor.check(None).action, [0.0, 0.5, 0.0])


def test_a_stop_stays_until_armed_even_through_a_reset() -> None:
    supervisor = Supervisor(three())
    good = np.array([0.5, 1.0, 0.0])
    supervisor.stop("stopped by service")
    supervisor.stop("later reason")
    supervisor.reset()
    assert supervisor.stopped
    verdict = supervisor.check(good)
    assert verdict.safe_stop and verdict.reason == "stopped: stopped by service"
    np.testing.assert_array_equal(verdict.action, [0.0, 0.5, 0.0])
    supervisor.arm()
    assert not supervisor.stopped and not supervisor.check(good).safe_stop
    assert supervisor.counts == {"stopped": 1}


def test_a_rate_limit_bounds_the_change_a_period_but_not_the_safe_stop() -> None:
    supervisor = Supervisor(three(), SafetyConfig(rate_limit=(10.0,)))  # 0.2 a period
    first = supervisor.check(np.array([1.0, 2.0, 0.0]))
    np.testing.assert_allclose(first.action, [0.2, 0.7, 0.0])
    assert first.limited and supervisor.counts == {"rate limit": 1}
    np.testing.assert_allclose(supervisor.check(np.array([1.0, 2.0, 0.0])).action, [0.4, 0.9, 0.0])
    np.testing.assert_array_equal(supervisor.check(None).action, [0.0, 0.5, 0.0])
    assert not supervisor.check(np.array([0.1, 0.6, 0.0])).limited


def test_the_caller_cannot_reach_what_the_supervisor_remembers() -> None:
    supervisor = Supervisor(three("hold"))
    action = np.array([0.5, 1.0, 0.0])
    verdict = supervisor.check(action)
    action[:] = np.nan
    verdict.action[:] = np.nan
    np.testing.assert_array_equal(supervisor.check(None).action, [0.5, 1.0, 0.0])


def test_endlessly_varied_reasons_do_not_grow_the_counters_without_end() -> None:
    supervisor = Supervisor(three())
    for number in range(500):
        supervisor.check(None, f"reason {number}")
    assert len(supervisor.counts) <= Supervisor.MAX_KINDS + 1
    assert sum(supervisor.counts.values()) == 500


# ---- safe stops --------------------------------------------------------------------------------


def test_an_unknown_safe_stop_is_refused() -> None:
    with pytest.raises(ValueError, match="safe_stop 'brake' is unknown; choices: zero, hold, damp"):
        Supervisor(three("brake"))


SERVO = '<position name="servo" joint="x" kp="10" gear="{gear}"/>'


@pytest.mark.parametrize("gear", [1.0, -2.0])
def test_a_position_servo_holds_where_it_is_until_it_was_told_something(gear: float) -> None:
    task = slider(SERVO.format(gear=gear), safe_stop="hold")
    supervisor = Supervisor(task)
    supervisor.watch(0, task.at([0.7], [0.3]))
    np.testing.assert_allclose(supervisor.check(None).action, [0.7 * gear])
    supervisor.check(np.array([0.4]))
    supervisor.watch(1, task.at([0.1]))
    np.testing.assert_allclose(supervisor.check(None).action, [0.4])


def test_zero_is_no_safe_stop_of_a_position_servo_unless_the_task_says_where_it_rests() -> None:
    with pytest.raises(ValueError, match="actuator 'servo' is a position servo, which moves to position 0"):
        Supervisor(slider(SERVO.format(gear=1)))

    class Resting(Toy):
        resting_action = np.array([0.3])

    rests = slider(SERVO.format(gear=1))
    rests.__class__ = Resting
    np.testing.assert_array_equal(Supervisor(rests).check(None).action, [0.3])
    Supervisor(slider('<velocity name="v" joint="x" kv="10"/>'))  # zero is standing still


def energies(task: Toy, supervisor: Supervisor, steps: int) -> FloatArray:
    """Of a pendulum, (steps + 1,), while the safe stop is played; J above hanging at rest."""
    model, data = task.model, mujoco.MjData(task.model)

    def energy() -> float:
        mujoco.mj_energyPos(model, data)
        mujoco.mj_energyVel(model, data)
        return float(data.energy.sum())

    data.qpos[0] = np.pi
    mujoco.mj_forward(model, data)
    lowest = energy()
    data.qpos[:], data.qvel[:] = (2.0, 0.5), (6.0, -3.0)
    state = np.empty(task.nstate)
    found = []
    for step in range(steps):
        mujoco.mj_forward(model, data)
        found.append(energy() - lowest)
        mujoco.mj_getState(model, data, state, FULLPHYSICS)
        supervisor.watch(step, state.copy())
        data.ctrl[:] = supervisor.check(None).action
        mujoco.mj_step(model, data, nstep=task.physics_steps)
    return np.array(found)


def test_damp_takes_energy_out_of_a_pendulum_whatever_the_sign_of_its_gear() -> None:
    damped = pendulum(safe_stop="damp", damping=0.3)
    lost = energies(damped, Supervisor(damped), 500)
    kept = energies(pendulum(), Supervisor(pendulum()), 500)
    assert np.diff(lost).max() < 1e-3 * lost[0], "damping drove it"
    assert lost[-1] < 0.02 * lost[0]
    assert kept.min() > 0.9 * kept[0], "it would have stopped by itself"


def test_damping_is_what_the_task_says_at_the_joint_and_within_range() -> None:
    motor = '<motor name="m" joint="hinge" gear="-2" ctrllimited="true" ctrlrange="-1 0.4"/>'
    task = pendulum(motor, safe_stop="damp", damping=0.3)
    supervisor = Supervisor(task)
    supervisor.watch(0, task.at([0, 0], [2.0, 5.0]))
    np.testing.assert_allclose(supervisor.check(None).action, [0.3])  # -0.3 N m s/rad * 2 rad/s over a gear of -2
    supervisor.watch(1, task.at([0, 0], [20.0, 5.0]))
    np.testing.assert_allclose(supervisor.check(None).action, [0.4])


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (lambda: pendulum(safe_stop="damp"), "safe_stop_damping = 0.0 is not a number > 0"),
        (lambda: pendulum(safe_stop="damp", damping=(1.0, 2.0)), "one for each of 1 actuators"),
        (lambda: pendulum(safe_stop="damp", damping=50.0), "would reverse velocities within a control period of 0.02"),
        (
            lambda: slider(SERVO.format(gear=1), safe_stop="damp", damping=1.0),
            "actuator 'servo' is no motor",
        ),
    ],
)
def test_a_damping_that_does_not_damp_is_refused(task: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Supervisor(task())


# ---- faults ------------------------------------------------------------------------------------

GOOD = np.array([0.5, 1.0, 0.0])


def state(a: float = 0.0, b: float = 0.0, speed: float = 0.0, time: float = 0.0) -> FloatArray:
    """Of `three`: positions of the limited joints, and the velocity of the first."""
    task = three()
    qpos, qvel = task.model.qpos0.copy(), np.zeros(task.model.nv)
    qpos[:2], qvel[0] = (a, b), speed
    return task.at(qpos, qvel, time)


def test_a_robot_out_of_its_range_is_stopped_until_it_is_back_and_armed() -> None:
    supervisor = Supervisor(three(), ROBOT, simulated=False)
    supervisor.watch(0, state())
    assert not supervisor.check(GOOD).safe_stop
    supervisor.watch(1, state(b=0.6, time=0.02))
    why = "position: joint 'b' is at 0.6 rad, limits -0.5 .. 0.5 rad"
    assert supervisor.check(GOOD).reason == f"stopped: {why}"
    assert supervisor.fault == Fault(why, 1, 0.02)
    assert supervisor.arm() == f"its cause is still there: {why}"
    supervisor.watch(2, state(a=-1.5, time=0.04))
    assert supervisor.fault == Fault(why, 1, 0.02), "the first fault stays"
    assert "joint 'a'" in supervisor.arm(), "the cause that is there now is named"
    supervisor.watch(3, state(time=0.06))
    assert supervisor.check(GOOD).safe_stop, "the fault is over, but nobody has armed it"
    assert supervisor.arm() == ""
    assert not supervisor.check(GOOD).safe_stop and supervisor.fault is None
    assert supervisor.counts == {"position": 2, "stopped": 2}


def test_without_latch_a_fault_lasts_as_long_as_its_cause() -> None:
    supervisor = Supervisor(three(), SafetyConfig(latch=False), simulated=False)
    supervisor.watch(0, state(b=0.6))
    verdict = supervisor.check(GOOD)
    assert verdict.safe_stop and verdict.reason.startswith("position: ") and not supervisor.stopped
    supervisor.watch(1, state(time=0.02))
    assert not supervisor.check(GOOD).safe_stop


def test_a_missing_plan_does_not_latch() -> None:
    supervisor = Supervisor(three(), ROBOT, simulated=False)
    assert supervisor.check(None, "no plan").safe_stop
    assert not supervisor.stopped and not supervisor.check(GOOD).safe_stop


def test_a_simulation_may_go_where_its_model_lets_it_unless_limits_are_set() -> None:
    simulated = Supervisor(three())
    simulated.watch(0, state(b=0.6))
    assert not simulated.check(GOOD).safe_stop
    for config in (SafetyConfig(model_limits="always"), SafetyConfig(position_high=(1.0, 0.5, 9.0))):
        supervisor = Supervisor(three(), config)
        supervisor.watch(0, state(b=0.6))
        assert supervisor.check(GOOD).safe_stop
    never = Supervisor(three(), SafetyConfig(model_limits="never"), simulated=False)
    never.watch(0, state(b=0.6))
    assert not never.check(GOOD).safe_stop


def test_a_stop_by_hand_is_armed_only_when_no_fault_has_come_to_it() -> None:
    supervisor = Supervisor(three(), ROBOT, simulated=False)
    supervisor.stop("stopped by service")
    supervisor.watch(0, state(b=0.6))
    assert "joint 'b'" in supervisor.arm()
    assert supervisor.fault is not None and supervisor.fault.reason == "stopped by service"


def test_a_state_whose_time_stands_still_is_too_old_on_a_robot_and_never_in_simulation() -> None:
    now = [0.0]
    config = SafetyConfig(max_state_age=0.1)
    robot, simulation = (
        Supervisor(three(), config, simulated=simulated, clock=lambda: now[0]) for simulated in (False, True)
    )
    reasons = []
    for step in range(20):
        now[0] = 0.02 * step
        for supervisor in (robot, simulation):
            supervisor.watch(step, state(time=min(now[0], 0.1)))
        reasons.append(robot.check(GOOD).reason)
    assert not any(reasons[:11]) and all(reasons[11:])
    assert reasons[11] == "stopped: state too old: its time stands still at 0.100 s for 0.120 s, allowed 0.1 s"
    assert not simulation.check(GOOD).safe_stop
    assert "state too old" in robot.arm()
    robot.watch(20, state(time=0.5))
    assert robot.arm() == ""
    robot.reset()  # a driver that is connected anew may begin with an earlier time
    now[0] = 9.0
    robot.watch(21, state(time=0.2))
    assert not robot.check(GOOD).safe_stop


def played(stiffness: float, config: SafetyConfig, steps: int = 40) -> Supervisor:
    """A supervised slider that is on a spring which its model knows nothing of."""
    task = slider()
    model = slider(joint=f'range="-1 1" stiffness="{stiffness}"').model
    supervisor = Supervisor(task, config)
    data = mujoco.MjData(model)
    now = np.empty(task.nstate)
    for step in range(steps):
        mujoco.mj_getState(model, data, now, FULLPHYSICS)
        supervisor.watch(step, now.copy())
        data.ctrl[:] = supervisor.check(np.array([np.sin(0.3 * step)])).action
        mujoco.mj_step(model, data, nstep=task.physics_steps)
    return supervisor


@pytest.mark.parametrize(("kind", "limit"), [("position", 1e-5), ("velocity", 1e-3)])
def test_a_robot_that_does_not_do_what_its_model_says_is_a_fault(kind: str, limit: float) -> None:
    config = SafetyConfig(**{f"tracking_{kind}_error": limit})
    assert played(0.0, config).fault is None, "it does exactly what the model says"
    found = played(20.0, config).fault
    assert found is not None and found.reason.startswith(f"tracking: {kind} of joint 'x' is ")
    assert "for 5 periods in a row" in found.reason and found.step >= 5
    assert played(20.0, SafetyConfig()).fault is None, "nobody asked"


def test_a_period_that_took_longer_is_not_compared_with_the_model() -> None:
    supervisor = Supervisor(slider(), SafetyConfig(tracking_velocity_error=1e-3, tracking_periods=1))
    task = slider()
    supervisor.watch(0, task.at([0.0], [0.1], 0.0))
    supervisor.check(np.zeros(1))
    supervisor.watch(1, task.at([0.0], [0.5], 0.04))
    assert supervisor.fault is None
    supervisor.check(np.zeros(1))
    supervisor.watch(2, task.at([0.0], [0.1], 0.06))
    assert supervisor.fault is not None


def test_a_state_that_is_measured_late_and_commands_that_act_late_count_as_reaction_time() -> None:
    config = SafetyConfig(position_high=(1.0,), braking_deceleration=(5.0,))
    near = slider().at([0.5], [2.1])  # 0.02 s * 2.1 m/s + 0.441 m to stop: 17 mm are to spare, which are 8 ms
    for delay, age, stopped in ((0.0, 0.0, False), (0.007, 0.0, False), (0.009, 0.0, True), (0.0, 0.009, True)):
        supervisor = Supervisor(slider(), config, actuation_delay=delay)
        supervisor.watch(0, near, age)
        assert supervisor.stopped == stopped, (delay, age)
    robot = Supervisor(slider(), SafetyConfig(max_state_age=0.1), simulated=False)
    robot.watch(0, near, 0.11)
    assert robot.fault is not None
    assert robot.fault.reason == "state too old: it was measured 0.110 s ago, allowed 0.1 s"


def test_the_command_that_acts_is_the_one_that_the_model_is_told() -> None:
    task = slider()
    supervisor = Supervisor(task, SafetyConfig(tracking_velocity_error=1e-3, tracking_periods=1))
    supervisor.watch(0, task.at([0.0]))
    supervisor.check(np.zeros(1), pending=np.array([[1.0], [0.0]]))
    supervisor.watch(1, task.at([0.0], [0.02], 0.02))
    assert supervisor.fault is None
    supervisor.check(np.zeros(1))
    supervisor.watch(2, task.at([0.0], [0.04], 0.04))
    assert supervisor.fault is not None


@pytest.mark.parametrize("bad", [np.full(20, np.nan), np.zeros(3), None])
def test_a_state_that_is_none_is_a_fault(bad: Any) -> None:
    supervisor = Supervisor(three("damp", 0.1))
    supervisor.watch(0, bad)
    assert supervisor.check(GOOD).reason == "stopped: state: it has the wrong size or is not finite"


# ---- a stop that outlives its process ----------------------------------------------------------


def test_a_stop_is_kept_for_the_next_process_until_it_is_armed(tmp_path: Any) -> None:
    path = tmp_path / "run" / "stopped.json"
    first = Supervisor(three(), ROBOT, simulated=False)
    first.watch(7, state(b=0.6, time=1.5))
    StopFile(path).write(first.fault)
    kept = StopFile(path).read()
    assert kept == first.fault and kept is not None
    second = Supervisor(three(), ROBOT, simulated=False)
    second.latch(kept)
    second.watch(0, state())
    assert second.check(GOOD).safe_stop
    assert second.arm() == ""
    StopFile(path).write(second.fault)
    assert StopFile(path).read() is None and not list(path.parent.iterdir())
    StopFile(path).write(None)  # once more does no harm


@pytest.mark.parametrize("text", ["", "{", "[]", '{"reason": "x"}', '{"reason": "x", "step": "y", "time": 0}'])
def test_a_stop_that_cannot_be_read_is_a_stop(tmp_path: Any, text: str) -> None:
    path = tmp_path / "stopped.json"
    path.write_text(text)
    found = StopFile(path).read()
    assert found is not None and found.reason.startswith(f"stop file: {path} cannot be read")
