"""Limits: from the model, replaced by settings, and what they promise of robots that keep to them."""

from __future__ import annotations

import math
from typing import Any

import mujoco
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from toy_robots import Toy, slider, three

from polo_ros.safety.limits import ControlLimits, JointLimits, SafetyConfig, table
from polo_ros.safety.supervisor import Supervisor
from polo_ros.tasks.base import FULLPHYSICS

DT = 0.02  # s, a control period of the slider


def test_ranges_come_from_the_model_and_settings_replace_them() -> None:
    model = JointLimits.of(three(), SafetyConfig(), from_model=True)
    assert model.names == ("a", "b", "c") and model.units == ("m", "rad", "rad"), "the free joint has no range"
    np.testing.assert_array_equal(model.low, [-1.0, -0.5, -np.inf])
    np.testing.assert_array_equal(model.high, [2.0, 0.5, np.inf])
    assert np.isinf(model.velocity).all() and np.isinf(model.braking).all() and model.any
    config = SafetyConfig(
        position_low=(-0.5, -0.4, -1.0),
        position_margin=0.1,
        velocity_limit=(3.0,),
        braking_deceleration=(0.0, 2.0, 3.0),
    )
    own = JointLimits.of(three(), config, from_model=True)
    np.testing.assert_allclose(own.low, [-0.4, -0.3, -0.9])
    np.testing.assert_allclose(own.high, [1.9, 0.4, np.inf])
    np.testing.assert_array_equal(own.velocity, [3.0, 3.0, 3.0])
    np.testing.assert_array_equal(own.braking, [np.inf, 2.0, 3.0])
    assert not JointLimits.of(three(), SafetyConfig(), from_model=False).any


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"velocity_limit": (1.0, 2.0)}, "safety.velocity_limit has 2 entries; give one, or one for each .*: a, b, c"),
        ({"position_margin": 0.6, "model_limits": "always"}, "joint 'b' has no room: its limits leave 0.1 .. -0.1"),
        ({"rate_limit": (1.0, 2.0)}, "safety.rate_limit has 2 entries"),
        ({"effort_limit": (1.0, 2.0)}, "safety.effort_limit has 2 entries"),
    ],
)
def test_limits_that_do_not_fit_the_robot_are_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Supervisor(three(), SafetyConfig(**config))


@pytest.mark.parametrize("name", ["velocity_limit", "braking_deceleration", "effort_limit", "rate_limit"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_limit_that_makes_no_sense_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        SafetyConfig(**{name: (value,)})


@pytest.mark.parametrize(
    ("q", "v", "said"),
    [
        (0.5, 0.0, ""),
        (1.0, 0.0, ""),
        (1.0, -9.0, ""),  # away from one bound, and far from the other
        (1.01, -0.1, "position: joint 'x' is at 1.01 m, limits -8 .. 1 m"),
        (0.5, 2.1, ""),  # it needs 0.02 * 2.1 + 2.1^2 / 10 = 0.483
        (0.5, 2.2, "position: joint 'x' is at 0.5 m and moves at 2.2 m/s: it needs 0.528 m to stop and has 0.5 m"),
        (-7.5, -2.2, "has 0.5 m to its limit -8 m"),
        (0.0, 10.1, "velocity: joint 'x' moves at 10.1 m/s, limit 10 m/s"),
        (0.0, -10.1, "velocity: joint 'x' moves at -10.1 m/s, limit 10 m/s"),
    ],
)
def test_a_joint_that_cannot_stop_in_time_or_is_too_fast_is_named_with_its_limit(q: float, v: float, said: str) -> None:
    config = SafetyConfig(
        position_low=(-8.0,), position_high=(1.0,), velocity_limit=(10.0,), braking_deceleration=(5.0,)
    )
    found = JointLimits.of(slider(), config, from_model=False).violation(np.array([q]), np.array([v]))
    assert said in found and bool(said) == bool(found)


@given(
    start=st.floats(-0.9, 0.9),
    speed=st.floats(-3.0, 3.0),
    braking=st.floats(0.5, 20.0),
    pushes=st.lists(st.floats(-1.0, 1.0), max_size=30),
    strength=st.sampled_from([0.0, 2.0]),
)
def test_a_joint_that_brakes_when_told_ends_within_its_range(
    start: float, speed: float, braking: float, pushes: list[float], strength: float
) -> None:
    # The margin that JointLimits asks for where a motor goes on pushing until it is told; speeds stay below 5 m/s.
    margin = strength * DT * (5.0 / braking + (1.0 + strength / braking) * DT / 2.0)
    bound = 5.0
    task = slider()
    config = SafetyConfig(
        position_low=(-bound,), position_high=(bound,), position_margin=margin, braking_deceleration=(braking,)
    )
    assume(2.0 * margin < bound)
    supervisor = Supervisor(task, config)
    q, v = start, speed
    supervisor.watch(0, task.at([q], [v]))
    assume(not supervisor.stopped)  # else it was let go too fast, too near
    for step in range(1, 3000):
        push = strength * pushes[step % len(pushes)] if pushes else strength
        push = 0.0 if abs(v + push * DT) > 5.0 else push
        q, v = q + v * DT + push * DT * DT / 2.0, v + push * DT  # exact for a constant force
        supervisor.watch(step, task.at([q], [v]))
        if supervisor.stopped:
            break
    rest = q + math.copysign(v * v / (2.0 * braking), v)  # closed form of braking to standstill
    assert abs(q) <= bound + 1e-9 and abs(rest) <= bound + 1e-9


def test_the_braking_distance_is_that_of_a_simulated_double_integrator() -> None:
    braking = 4.0
    task = slider(f'<motor name="m" joint="x" ctrllimited="true" ctrlrange="-{braking} {braking}"/>')
    config = SafetyConfig(model_limits="always", braking_deceleration=(braking,))
    supervisor = Supervisor(task, config)
    data = mujoco.MjData(task.model)
    state = np.empty(task.nstate)
    data.qpos[0], data.qvel[0] = -0.9, 1.7
    furthest, stopped = -1.0, 0
    for step in range(200):
        mujoco.mj_getState(task.model, data, state, FULLPHYSICS)
        supervisor.watch(step, state.copy())
        if supervisor.stopped:
            stopped = stopped or step
            # Brakes, in its last period only as hard as makes it stand.
            data.ctrl[:] = np.clip(-data.qvel[0] / DT, -braking, braking)
        mujoco.mj_step(task.model, data, nstep=task.physics_steps)
        furthest = max(furthest, float(data.qpos[0]))
    assert stopped and abs(data.qvel[0]) < 1e-9
    # It uses its room but for what it moves in a period.
    assert 1.0 - 1.7 * DT - 0.01 < furthest <= 1.0


# ---- efforts -----------------------------------------------------------------------------------


def effort(task: Toy, q: float, v: float, u: float) -> float:
    """Generalised force of the first actuator at its joint, as MuJoCo computes it."""
    data = mujoco.MjData(task.model)
    data.qpos[0], data.qvel[0], data.ctrl[0] = q, v, u
    mujoco.mj_forward(task.model, data)
    return float(data.qfrc_actuator[0])


ACTUATORS = {
    "motor": '<motor name="m" joint="x" gear="{gear}"/>',
    "servo": '<position name="m" joint="x" kp="30" kv="2" gear="{gear}"/>',
    "velocity": '<velocity name="m" joint="x" kv="7" gear="{gear}"/>',
    "strong": '<general name="m" joint="x" gainprm="-5" gear="{gear}"/>',
}


@pytest.mark.parametrize("kind", ACTUATORS)
@pytest.mark.parametrize("gear", [1.0, -3.0])
@given(q=st.floats(-1, 1), v=st.floats(-2, 2), u=st.floats(-1e3, 1e3))
def test_efforts_are_limited_at_the_joint_whatever_the_actuator(
    kind: str, gear: float, q: float, v: float, u: float
) -> None:
    task = slider(ACTUATORS[kind].format(gear=gear), safe_stop="hold")
    supervisor = Supervisor(task, SafetyConfig(effort_limit=(4.0,)))
    supervisor.watch(0, task.at([q], [v]))
    asked = effort(task, q, v, u)
    verdict = supervisor.check(np.array([u]))
    given_ = effort(task, q, v, float(verdict.action[0]))
    assert given_ == pytest.approx(np.clip(asked, -4.0, 4.0), rel=1e-9, abs=1e-9)
    assert supervisor.counts.get("effort limit", 0) == int(verdict.limited)


@pytest.mark.parametrize(
    ("actuator", "joint", "expected"),
    [
        ('<motor name="m" joint="x" gear="2" forcelimited="true" forcerange="-3 5"/>', "", (-3.0, 5.0)),
        ('<motor name="m" joint="x" gear="-2"/>', 'actuatorfrclimited="true" actuatorfrcrange="-4 10"', (-5.0, 2.0)),
    ],
)
def test_force_ranges_of_the_model_are_enforced_on_robots(
    actuator: str, joint: str, expected: tuple[float, float]
) -> None:
    task = slider(actuator, joint=joint)
    robot, simulation = (Supervisor(task, simulated=simulated) for simulated in (False, True))
    found = tuple(float(robot.check(np.array([u])).action[0]) for u in (-99.0, 99.0))
    assert found == pytest.approx(expected)
    assert simulation.check(np.array([99.0])).action == pytest.approx(99.0), "the model does that itself"


def test_an_effort_that_is_not_known_from_the_control_is_not_said_to_be_limited() -> None:
    task = slider('<general name="m" joint="x" dyntype="integrator" gainprm="2"/>')
    with pytest.raises(ValueError, match="safety.effort_limit of actuator 'm': its force is not known"):
        ControlLimits.of(task, SafetyConfig(effort_limit=(1.0,)), from_model=False)
    ControlLimits.of(task, SafetyConfig(effort_limit=(0.0,)), from_model=False)


def test_the_table_of_limits_names_every_joint_and_actuator() -> None:
    config = SafetyConfig(
        velocity_limit=(0.0, 2.0, 0.0),
        braking_deceleration=(4.0, 0.0, 0.0),
        rate_limit=(5.0,),
        effort_limit=(0.0, 3.0, 0.0),
    )
    joints, controls = (kind.of(three(), config, from_model=True) for kind in (JointLimits, ControlLimits))
    assert table(joints, controls).splitlines() == [
        "joint a: -1 .. 2 m, braking at 4 m/s^2",
        "joint b: -0.5 .. 0.5 rad, at most 2 rad/s",
        "joint c: no limits",
        "actuator number 0: controls -1 .. 1, change 0.1 a period",
        "actuator number 1: controls 0.5 .. 2, force -3 .. 3, change 0.1 a period",
        "actuator number 2: change 0.1 a period",
    ]
