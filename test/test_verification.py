"""Verification: plans tried on models that are a little wrong, before it is too late and without delay."""

from __future__ import annotations

import threading
import time
from typing import Any

import mujoco
import numpy as np
import pytest
from toy_robots import slider, three

from polo_ros.drivers.mujoco import MujocoDriver
from polo_ros.safety.limits import JointLimits, SafetyConfig, VerificationConfig
from polo_ros.safety.timeline import TimedPlan
from polo_ros.safety.verification import Finding, PlanVerifier, Verification
from polo_ros.session.loop import RobotLoop
from polo_ros.tasks.base import FloatArray
from polo_ros.tasks.perturbation import perturbed

FIVE = VerificationConfig(models=5, periods=20, mass=0.2, gain=0.2)
NONE: FloatArray = np.zeros((0, 1))


def limits(task: Any) -> JointLimits:
    return JointLimits.of(task, SafetyConfig(), from_model=True)


def test_perturbed_models_differ_within_the_spread_and_the_original_does_not() -> None:
    model = three().model
    before = model.body_mass.copy(), model.geom_friction.copy(), model.actuator_gainprm.copy()
    config = VerificationConfig(models=1, mass=0.1, friction=0.3, gain=0.2)
    made = perturbed(model, config, np.random.default_rng(0))
    for now, then in zip((model.body_mass, model.geom_friction, model.actuator_gainprm), before, strict=True):
        np.testing.assert_array_equal(now, then)
    mass = made.body_mass[1:] / model.body_mass[1:]
    assert len(set(mass)) == len(mass) and (np.abs(mass - 1.0) <= 0.1).all()
    np.testing.assert_allclose(made.body_inertia[1:] / model.body_inertia[1:], mass[:, None] * np.ones(3))
    friction = made.geom_friction / model.geom_friction
    assert np.ptp(friction) < 1e-12 and 0.7 <= friction[0, 0] <= 1.3
    gain = made.actuator_gainprm[:, 0] / model.actuator_gainprm[:, 0]
    assert len(set(gain)) == 3 and (np.abs(gain - 1.0) <= 0.2).all()
    assert not np.allclose(made.dof_M0[:1], model.dof_M0[:1]), "what follows from masses was not computed anew"


def test_a_servo_that_is_stronger_still_moves_to_the_same_place() -> None:
    model = slider('<position name="s" joint="x" kp="10" kv="2"/>').model
    made = perturbed(model, FIVE, np.random.default_rng(1))
    np.testing.assert_allclose(made.actuator_biasprm[0, 1], -made.actuator_gainprm[0, 0])
    np.testing.assert_allclose(
        made.actuator_biasprm[0, 2] / model.actuator_biasprm[0, 2], made.actuator_gainprm[0][0] / 10
    )


def test_an_actuator_that_saturates_has_another_force_as_well() -> None:
    """A wish of 10 N of a motor that has 2 N and 3 N at most: what it pushes with is what the perturbed one has."""
    motor = '<motor name="m" joint="x" ctrlrange="-10 10" forcelimited="true" forcerange="-2 3"/>'
    task = slider(motor)
    spread = VerificationConfig(models=1, mass=0.0, friction=0.0, gain=0.2, damping=0.0)
    forces = []
    for seed in range(5):
        made = perturbed(task.model, spread, np.random.default_rng(seed))
        gain = made.actuator_gainprm[0, 0]
        data = mujoco.MjData(made)
        for control, most in ((10.0, 3.0), (-10.0, -2.0), (0.5, 0.5)):
            data.ctrl[:] = control
            mujoco.mj_forward(made, data)
            assert data.actuator_force[0] == pytest.approx(gain * most)
        forces.append(gain)
    assert np.ptp(forces) > 0.1 and np.abs(np.array(forces) - 1.0).max() <= 0.2


def test_a_plan_is_tried_on_every_model_to_the_closed_form() -> None:
    task, periods = slider(), 20
    config = VerificationConfig(models=40, periods=periods, mass=0.2, gain=0.2)
    verifier = PlanVerifier(task, limits(task), config, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    models = [perturbed(task.model, config, rng) for _ in range(40)]
    acceleration = np.array([m.actuator_gainprm[0, 0] / m.body_mass[1] for m in models]) * 5.0
    h, n = 0.005, 4 * periods
    reached = 0.6 + acceleration * h * h * n * (n + 1) / 2.0  # semi-implicit Euler
    plan = np.full((periods, 1), 5.0)
    found = verifier.verify(task.at([0.6]), plan).reason
    assert 0 < (reached > 1.0).sum() < 40
    assert f"on {(reached > 1.0).sum()} of 40 perturbed models" in found and "joint 'x' is at" in found
    assert verifier.verify(task.at([0.0]), plan).reason == ""


def test_the_first_period_that_goes_wrong_is_named() -> None:
    task = slider()
    verifier = PlanVerifier(task, limits(task), VerificationConfig(models=1, mass=0, gain=0), np.random.default_rng(0))
    found = verifier.verify(task.at([0.9], [1.1]), np.zeros((10, 1)))  # 22 mm a period
    assert found.reason.startswith("verification: 5 periods ahead on 1 of 1 perturbed models: position: joint 'x'")
    assert 0.0 < found.ms < 1e3


class Slow(PlanVerifier):
    """Answers when it is let, with the position that it was asked about."""

    def __init__(self) -> None:
        self.periods = 10
        self.asked: list[float] = []
        self.let = threading.Semaphore(0)

    def verify(self, state: FloatArray, actions: FloatArray) -> Finding:
        self.asked.append(float(state[1]))
        self.let.acquire()
        if state[1] == 13.0:
            raise RuntimeError("no luck")
        return Finding(f"found at {state[1]:g}")


def until(condition: Any) -> None:
    limit = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.002)


def test_beside_control_nobody_waits_and_one_plan_at_a_time_is_looked_at() -> None:
    slow, task = Slow(), slider()
    beside = Verification(slow, beside=True)
    plan = [np.zeros(1)]
    assert [beside.foresee(task.at([q]), NONE, plan) for q in (1.0, 2.0, 3.0)] == ["", "", ""]
    slow.let.release()
    until(lambda: beside.latest.reason)
    assert slow.asked == [1.0]
    assert beside.foresee(task.at([4.0]), NONE, plan) == "found at 1"
    until(lambda: len(slow.asked) == 2)
    beside.reset()  # another episode: what comes of the old one does not matter
    slow.let.release()
    until(lambda: beside.foresee(task.at([13.0]), NONE, plan) == "" and len(slow.asked) == 3)
    slow.let.release()
    until(lambda: beside.latest.reason == "verification: RuntimeError: no luck")
    assert beside.foresee(task.at([5.0]), NONE, []) == "", "without a plan there is nothing to verify"
    beside.close()


def test_a_plan_given_up_before_it_was_looked_at_says_nothing_of_the_next_one() -> None:
    slow, task = Slow(), slider()
    beside = Verification(slow, beside=True)
    with beside._wake:  # as long as the thread finds no core
        beside.foresee(task.at([1.0]), NONE, [np.zeros(1)])
        beside.reset()
    beside.foresee(task.at([2.0]), NONE, [np.zeros(1)])
    until(lambda: slow.asked)
    slow.let.release()
    until(lambda: beside.latest.reason)
    assert beside.latest.reason == "found at 2" and slow.asked == [2.0]
    beside.close()


@pytest.mark.parametrize("verified", [False, True])
def test_a_robot_is_stopped_before_a_plan_takes_it_out_of_its_range(verified: bool) -> None:
    task = slider(safe_stop="damp", damping=20.0)
    config = SafetyConfig(model_limits="always", verification=FIVE if verified else VerificationConfig())
    driver = MujocoDriver(task, 0)
    driver.connect()
    loop = RobotLoop(task, driver, 10.0, config, seed=3)
    loop.start()
    sample = loop.sense()
    loop.offer(TimedPlan(1, 0, 0, 0, np.full((200, 1), 1.0)))
    furthest = 0.0
    for _ in range(150):
        _, sample = loop.act(sample)
        furthest = max(furthest, float(sample.robot.qpos[0]))
    fault = loop.supervisor.fault
    assert fault is not None and fault.reason.startswith("verification: " if verified else "position: ")
    assert (furthest < 1.0) == verified
    loop.close()
    driver.close()


def test_lockstep_runs_of_one_seed_are_verified_alike() -> None:
    task = slider()

    def found(seed: int) -> str:
        config = SafetyConfig(verification=VerificationConfig(models=3, gain=0.5), model_limits="always")
        driver = MujocoDriver(task, 0)
        loop = RobotLoop(task, driver, 10.0, config, seed=seed)
        assert loop.verification is not None
        return loop.verification.foresee(task.at([0.9]), NONE, [np.full(1, 8.0)] * 10)

    assert found(1) == found(1) != found(2)
