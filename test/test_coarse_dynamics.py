"""Simulation in steps longer than the robot's."""

from __future__ import annotations

import numpy as np
import pytest
from test_mujoco_dynamics import batch, by_hand, make

from polo_ros import tasks
from polo_ros.agents.polo import PoloConfig
from polo_ros.agents.run import run_polo
from polo_ros.config import replace
from polo_ros.dynamics.coarse import CoarseDynamics, DynamicsConfig, for_planning
from polo_ros.dynamics.mujoco import MujocoDynamics
from polo_ros.session.config import for_task


@pytest.mark.parametrize("horizon", [12, 11, 1])
@pytest.mark.parametrize(("kind", "physics_steps"), [("active", 1), ("active", 4), ("humanoid_getup", 1)])
def test_it_is_the_model_with_a_longer_step_and_the_mean_of_its_actions(kind, physics_steps, horizon):
    task = make(kind, physics_steps)
    starts, actions = batch(task, 3, horizon)
    dynamics = CoarseDynamics(task, threads=1, stride=2)
    found = dynamics.rollout(starts, actions)
    assert found.observations.shape == (3, horizon + 1, task.observation_spec.size) and found.valid.all()
    longer = make(kind, physics_steps)
    longer.model.opt.timestep *= 2
    longer.control_dt *= 2
    for i in range(3):
        whole = np.concatenate((actions[i], actions[i, -1:]))[: horizon + horizon % 2]
        expected, _ = by_hand(longer, starts[i], (whole[::2] + whole[1::2]) / 2)
        np.testing.assert_allclose(found.observations[i, ::2], expected[: horizon // 2 + 1], rtol=1e-9, atol=1e-9)
        # Periods within a step are shown as at its end.
        np.testing.assert_allclose(
            found.observations[i, 1::2], expected[1:][: (horizon + 1) // 2], rtol=1e-9, atol=1e-9
        )
    dynamics.close()


def test_the_task_itself_stays_as_it_was_and_is_advanced_in_its_own_steps():
    task = make("cartpole_swingup", 1)
    before = task.model.opt.timestep, task.control_dt
    starts, actions = batch(task, 1, 6)
    coarse, fine = CoarseDynamics(task, 1, 4), MujocoDynamics(task, 1)
    np.testing.assert_array_equal(coarse.advance(starts[0], actions[0]), fine.advance(starts[0], actions[0]))
    assert (task.model.opt.timestep, task.control_dt) == before
    coarse.close()
    fine.close()


def test_a_stride_of_one_is_the_exact_dynamics():
    task = make("cartpole_swingup", 1)
    dynamics = for_planning(task, DynamicsConfig(), 1)
    assert isinstance(dynamics, MujocoDynamics)
    dynamics.close()


def test_the_pole_is_swung_up_with_coarse_plans():
    settings = {"dynamics.stride": 2, "learner.update_every": 10**6}
    config = replace(for_task(PoloConfig(), "cartpole_swingup"), settings)
    task = tasks.make("cartpole_swingup")
    run = run_polo(task, config, steps=300, seed=0, threads=1, learn=False)
    assert run.summary(task, 0)["success"] is True
