"""The claw: its numbers, its model, and that it can do what it is for."""

from __future__ import annotations

import math

import mujoco
import numpy as np
import pytest
import torch

from polo_ros.dynamics.mujoco import MujocoDynamics
from polo_ros.planners.mppi import Mppi, MppiConfig
from polo_ros.planners.objective import Objective
from polo_ros.tasks.base import FULLPHYSICS, FloatArray
from polo_ros.tasks.claw import Claw

VALVE, TARGET = 9, 10  # in qpos and qvel


@pytest.fixture(scope="module")
def task() -> Claw:
    return Claw()


def observation(task: Claw, valve: float, target: float) -> FloatArray:
    state = task.reset(np.random.default_rng(0))
    state[1 + VALVE], state[1 + TARGET] = valve, target
    return task.observe(task.sense(state))


def test_nine_servos_move_three_equal_fingers_a_third_of_a_turn_apart(task: Claw) -> None:
    model = task.model
    assert (model.nq, model.nv, model.nu) == (11, 11, 9)
    assert (model.actuator_trnid[:, 0] == np.arange(9)).all()
    np.testing.assert_array_equal(model.actuator_gainprm[:, 0], -model.actuator_biasprm[:, 1])
    data = mujoco.MjData(model)
    rng = np.random.default_rng(0)
    third = np.exp(2j * np.pi / 3)
    for _ in range(5):
        data.qpos[:9] = np.tile(rng.uniform(*model.jnt_range[:3].T), 3)
        mujoco.mj_kinematics(model, data)
        first, second, other = (data.site(f"tip_{i}").xpos for i in (1, 2, 3))
        assert first[2] == pytest.approx(second[2]) == pytest.approx(other[2])
        turned = complex(*first[:2]) * third
        assert complex(*second[:2]) == pytest.approx(turned)
        assert complex(*other[:2]) == pytest.approx(turned * third)


def test_starts_are_the_papers_and_touch_nothing(task: Claw) -> None:
    data = mujoco.MjData(task.model)
    valves, targets = [], []
    for seed in range(200):
        state = task.reset(np.random.default_rng(seed))
        _, qpos, qvel, _ = task.unpack(state)
        np.testing.assert_array_equal(qpos[:9], [0.0, -1.0, 1.35] * 3)
        np.testing.assert_array_equal(qvel, 0.0)
        valves.append(qpos[VALVE])
        targets.append(qpos[TARGET])
        mujoco.mj_setState(task.model, data, state, FULLPHYSICS)
        mujoco.mj_forward(task.model, data)
        assert data.ncon == 0
    assert np.abs(valves).max() <= math.pi / 4 and np.std(valves) > 0.3
    assert (np.abs(targets) >= math.pi / 2).all() and (np.abs(targets) <= math.pi).all()
    assert 60 < np.count_nonzero(np.array(targets) > 0.0) < 140


def test_error_is_the_shorter_way_round(task: Claw) -> None:
    for valve, target, error in ((0.1, 0.3, 0.2), (3.0, -3.0, 2 * math.pi - 6.0), (7.0, 0.5, 6.5 - 2 * math.pi)):
        obs = observation(task, valve, target)
        assert task.error(obs) == pytest.approx(error)
        assert task.error(torch.tensor(obs)).item() == pytest.approx(error)


@pytest.mark.parametrize(("error", "reward"), [(1.5, -15.0), (0.2, -2.0 + 1.0), (0.05, -0.5 + 11.0)])
def test_reward_is_the_papers_of_the_state_that_is_reached(task: Claw, error: float, reward: float) -> None:
    before, after = observation(task, 0.0, 3.0), observation(task, 1.0, 1.0 - error)
    assert task.reward(before, task.resting_action, after) == pytest.approx(reward)
    for dtype in (torch.float32, torch.float64):
        given = task.reward(None, None, torch.tensor(after, dtype=dtype))
        assert given.dtype == dtype and given.item() == pytest.approx(reward, rel=1e-5)
    assert not task.terminated(after)


def test_the_target_stays_and_the_valve_is_only_moved_by_fingers(task: Claw) -> None:
    data = mujoco.MjData(task.model)
    start = task.reset(np.random.default_rng(1))
    held = np.tile(task.START_POSE, 3)
    _, qpos, _, _ = task.unpack(task.advance(data, start, np.tile(held, (20, 1))))
    np.testing.assert_allclose(qpos[[VALVE, TARGET]], start[[1 + VALVE, 1 + TARGET]], atol=1e-12)
    np.testing.assert_allclose(qpos[:9], held, atol=0.05)
    down, sideways = np.tile([0.0, -0.8, 1.5], 3), np.tile([0.6, -0.8, 1.5], 3)
    _, pushed, _, _ = task.unpack(task.advance(data, start, np.repeat([down, sideways], (5, 15), axis=0)))
    assert pushed[VALVE] - start[1 + VALVE] > 0.3 and pushed[TARGET] == start[1 + TARGET]


def test_plain_mpc_turns_the_valve_to_its_target(task: Claw) -> None:
    dynamics = MujocoDynamics(task, threads=1)
    config = MppiConfig(rollouts=24, horizon=6, sigma=1.0, filter_b0=0.25, filter_b1=0.8, kappa=1.0)
    planner = Mppi(task, dynamics, Objective(task), config)
    rng = np.random.default_rng(0)
    state = task.reset(np.random.default_rng(0))
    seen = [task.observe(task.sense(state))]
    while task.error(seen[-1]) > 0.25 and len(seen) < 60:
        plan = planner.plan(state, rng)
        state = dynamics.advance(state, plan.actions[:1])
        planner.shift(1)
        seen.append(task.observe(task.sense(state)))
    dynamics.close()
    assert task.error(seen[0]) > 1.0 and task.success(np.array(seen)) is True
    assert task.measures(np.array(seen))["last_error"] < 0.25
