"""The pen in the hand: step by step what gymnasium-robotics' environment does."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import mujoco
import numpy as np
import pytest
import torch

from polo_ros.dynamics.mujoco import MujocoDynamics
from polo_ros.tasks.base import FULLPHYSICS, FloatArray
from polo_ros.tasks.pen import Pen

PEN, TARGET = slice(24, 30), slice(30, 34)  # in qpos


@pytest.fixture(scope="module")
def task() -> Pen:
    return Pen()


@pytest.fixture(scope="module")
def env() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about other environments' rewards
        from gymnasium_robotics.envs.adroit_hand.adroit_pen import AdroitHandPenEnv

        made = AdroitHandPenEnv()
    simulate = made._step_mujoco_simulation

    def step(control: FloatArray, frames: int) -> None:
        simulate(control, frames)
        mujoco.mj_forward(made.model, made.data)  # bodies are where the state has them, not a substep before

    made._step_mujoco_simulation = step
    return made


def state_of(task: Pen, env: Any) -> FloatArray:
    target = env.model.body("target").quat
    qpos, qvel = np.concatenate((env.data.qpos, target)), np.concatenate((env.data.qvel, np.zeros(3)))
    return task.pack(0.0, qpos, qvel, np.empty(0))


def scaled(task: Pen, action: FloatArray) -> FloatArray:
    return 0.5 * (task.action_low + task.action_high) + task.action_scale * action


@pytest.mark.parametrize("seed", range(3))
def test_observations_rewards_and_physics_are_gymnasiums_step_by_step(task: Pen, env: Any, seed: int) -> None:
    expected, _ = env.reset(seed=seed)
    start = task.reset(np.random.default_rng(seed))
    np.testing.assert_allclose(start, state_of(task, env), atol=1e-12)
    before = task.observe(task.sense(start))
    np.testing.assert_allclose(before, expected, atol=1e-6)
    rng = np.random.default_rng(seed)
    data = mujoco.MjData(task.model)
    dropped = paid = 0
    for step in range(100):
        action = rng.uniform(-1.0, 1.0, 24) if seed else 0.1 * rng.uniform(-1.0, 1.0, 24)
        if step in (
            50,
            80,
        ):  # back where bonuses are paid, and in the end below the hand, where the pen counts as dropped
            placed = 0.02 * rng.standard_normal(6)
            placed[0] += 0.2 * (step == 80)  # the pen lies: its first slide goes down
            env.set_env_state(
                {
                    "qpos": np.concatenate((env.data.qpos[:24], placed)),
                    "qvel": np.zeros(30),
                    "desired_orien": np.array([np.cos(0.72), 0.0, np.sin(0.72), 0.0]),  # as the pen's: 1.57 rad about y
                }
            )
            before = task.observe(task.sense(state_of(task, env)))
        mujoco.mj_resetData(task.model, data)
        mujoco.mj_setState(task.model, data, state_of(task, env), FULLPHYSICS)
        env.data.qacc_warmstart[:] = 0.0
        data.ctrl[:] = scaled(task, action)
        mujoco.mj_step(task.model, data, nstep=task.physics_steps)
        expected, reward, _, _, _ = env.step(action)
        np.testing.assert_allclose(data.qpos, np.concatenate((env.data.qpos, data.qpos[TARGET])), atol=1e-6)
        after = task.observe(task.sense(state_of(task, env)))
        np.testing.assert_allclose(after, expected, atol=1e-6)
        assert task.reward(before, scaled(task, action), after) == pytest.approx(reward, abs=1e-6)
        before = after
        dropped += bool(task.terminated(after))
        paid += reward > 9.0
    assert 0 < dropped < 100 and 0 < paid < 100


def test_a_control_period_and_the_actions_are_gymnasiums(task: Pen, env: Any) -> None:
    assert (task.physics_steps, task.control_dt) == (env.frame_skip, pytest.approx(env.dt))
    np.testing.assert_array_equal(task.model.actuator_ctrlrange, env.model.actuator_ctrlrange)
    np.testing.assert_array_equal(task.model.actuator_gainprm, env.model.actuator_gainprm)
    np.testing.assert_array_equal(task.model.actuator_biasprm, env.model.actuator_biasprm)


def test_a_dropped_pen_ends_the_episode_unless_told_otherwise(task: Pen) -> None:
    obs = task.observe(task.sense(task.reset(np.random.default_rng(0))))
    runs = np.stack((obs, obs))
    runs[1, task.observation_spec.slices["position"]] = (0.1, 0.0, 0.07)
    for seen in (runs, torch.tensor(runs)):
        assert list(task.terminated(seen)) == [False, True]
        assert list(Pen(drop_ends=False).terminated(seen)) == [False, False]
    assert task.reward(obs, None, obs) - task.reward(obs, None, runs[1]) == pytest.approx(5.0)


def test_rewards_of_tensors_are_those_of_arrays_and_bonuses_need_both(task: Pen) -> None:
    obs = np.zeros((4, 45))
    view = task.observation_spec.view(obs)
    view["position"][:, 2] = 0.25
    view["target"][:, 2] = 1.0
    view["orientation"][:, 2] = [0.91, 0.96, 0.96, 0.5]
    view["position_error"][:, 0] = [0.01, 0.01, 0.08, 0.01]
    expected = [0.91 - 0.01 + 10.0, 0.96 - 0.01 + 60.0, 0.96 - 0.08, 0.5 - 0.01]
    np.testing.assert_allclose(task.reward(obs, None, obs), expected)
    for dtype in (torch.float32, torch.float64):
        given = task.reward(torch.tensor(obs, dtype=dtype), None, torch.tensor(obs, dtype=dtype))
        assert given.dtype == dtype
        np.testing.assert_allclose(given.numpy(), expected, rtol=1e-5)


def test_the_target_stays_as_it_is_in_every_rollout(task: Pen) -> None:
    dynamics = MujocoDynamics(task, threads=1)
    rng = np.random.default_rng(0)
    first = task.reset(rng)
    reached = dynamics.advance(first, rng.uniform(task.action_low, task.action_high, (100, 24)))
    np.testing.assert_array_equal(task.unpack(reached)[1][TARGET], task.unpack(first)[1][TARGET])
    dynamics.close()


def test_success_is_more_than_twenty_steps_aligned_at_the_goal(task: Pen) -> None:
    run = np.zeros((60, 45))
    view = task.observation_spec.view(run)
    view["target"][:, 2] = 1.0
    view["orientation"][5:25, 2] = 1.0
    assert task.success(run) is False and task.success(run[:20]) is None
    view["orientation"][30, 2] = 1.0
    assert task.success(run) is True
    assert task.measures(run) == pytest.approx({"aligned_steps": 21.0, "mean_cosine": 21 / 60})


def test_the_hands_package_is_not_imported(monkeypatch) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] in ("gymnasium", "gymnasium_robotics")]:
        monkeypatch.delitem(sys.modules, module)
    Pen()
    assert "gymnasium_robotics" not in sys.modules and "gymnasium" not in sys.modules
