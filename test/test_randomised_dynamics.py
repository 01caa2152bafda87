"""Each candidate in several models that differ a little."""

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
from polo_ros.dynamics.randomised import RandomisedDynamics, SpreadConfig
from polo_ros.session.config import for_task
from polo_ros.tasks.base import Task
from polo_ros.tasks.perturbation import perturbed


def changed(task: Task, model: object) -> Task:
    """A task of the same kind with another model."""
    other = make(task.name, 1) if task.name == "active" else tasks.make(task.name)
    other.model = model  # type: ignore[assignment]
    return other


@pytest.mark.parametrize("name", ["cartpole_swingup", "humanoid_walk", "half_cheetah"])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_first_member_is_the_task_to_the_bit_and_the_others_are_models_of_their_own(
    name: str, threads: int
) -> None:
    task = tasks.make(name)
    starts, actions = batch(task, 4, 6)
    dynamics = RandomisedDynamics(task, SpreadConfig(), 3, seed=5, threads=threads)
    alone = MujocoDynamics(task, threads)
    for start in (starts, starts[0]):
        found = dynamics.rollout(start, actions)
        assert found.observations.shape == (4, 3, 7, task.observation_spec.size) and found.members == 3
        expected = alone.rollout(start, actions)
        np.testing.assert_array_equal(found.observations[:, 0], expected.observations)
        np.testing.assert_array_equal(found.valid, expected.valid)
        for member in (1, 2):
            own = MujocoDynamics(changed(task, dynamics.models[member]), 1)
            np.testing.assert_array_equal(found.observations[:, member], own.rollout(start, actions).observations)
            own.close()
        assert (found.observations[:, 1, -1] != found.observations[:, 0, -1]).any()
        assert (found.observations[:, 1, -1] != found.observations[:, 2, -1]).any()
    np.testing.assert_array_equal(dynamics.advance(starts[0], actions[0]), alone.advance(starts[0], actions[0]))
    dynamics.close()
    alone.close()


def test_members_are_of_the_seed_and_leave_the_task_alone() -> None:
    task = make("cartpole_swingup", 1)
    before = task.model_hash, task.model.body_mass.copy()
    made = [RandomisedDynamics(task, SpreadConfig(), 3, seed, 1) for seed in (1, 1, 2)]
    first, same, other = ([model.body_mass[1] for model in one.models] for one in made)
    assert first == same and first[0] == other[0] and first[1:] != other[1:]
    assert len(set(first)) == 3
    np.testing.assert_array_equal(task.model.body_mass, before[1])
    assert tasks.make("cartpole_swingup").model_hash == before[0]
    for one in made:
        one.close()


def test_damping_differs_within_its_spread() -> None:
    model = make("humanoid_walk", 1).model
    spread = SpreadConfig(mass=0.0, friction=0.0, gain=0.0, damping=0.4)
    made = perturbed(model, spread, np.random.default_rng(0))
    damped = model.dof_damping > 0.0
    factors = made.dof_damping[damped] / model.dof_damping[damped]
    assert damped.any() and 0.2 < np.abs(factors - 1.0).max() <= 0.4 and len(set(factors)) == damped.sum()
    np.testing.assert_array_equal(made.body_mass, model.body_mass)


def test_step_by_step_is_the_rollout() -> None:
    task = tasks.make("half_cheetah")
    starts, actions = batch(task, 3, 5)
    dynamics = RandomisedDynamics(task, SpreadConfig(), 3, seed=0, threads=1)
    expected = dynamics.rollout(starts[0], actions).observations.copy()
    seen = dynamics.begin(starts[0], 3)
    assert seen.shape == (3, 3, task.observation_spec.size)
    for t in range(5):
        # Each particle's own action, which here is the same.
        given = actions[:, t] if t % 2 else np.repeat(actions[:, None, t], 3, axis=1)
        found = dynamics.step(given)
        np.testing.assert_allclose(found.observations, expected[:, :, t + 1], rtol=1e-9, atol=1e-9)
        paid = task.reward(expected[:, :, t], actions[:, None, t], expected[:, :, t + 1])
        np.testing.assert_allclose(found.rewards, paid, rtol=1e-8, atol=1e-8)
        assert found.valid.all() and not found.ended.any() and found.ended.shape == (3, 3)
    chosen = dynamics.select(np.array([2, 2, 0, 1]))
    np.testing.assert_allclose(chosen, expected[[2, 2, 0, 1], :, 5], rtol=1e-9, atol=1e-9)
    assert dynamics.step(np.zeros((4, task.model.nu))).observations.shape[:2] == (4, 3)
    dynamics.close()


def test_a_candidate_that_diverges_in_one_model_is_invalid() -> None:
    task = tasks.make("cartpole_swingup")
    dynamics = RandomisedDynamics(task, SpreadConfig(), 2, seed=0, threads=1)
    wild = dynamics.models[1]
    wild.opt.timestep = 0.4
    wild.jnt_stiffness[:] = 1e7
    starts, actions = batch(task, 2, 30)
    assert MujocoDynamics(task, 1).rollout(starts, actions).valid.all()
    assert not dynamics.rollout(starts, actions).valid.any()
    dynamics.close()


def test_longer_steps_and_several_models_go_together() -> None:
    task = tasks.make("humanoid_getup")
    starts, actions = batch(task, 2, 6)
    dynamics = for_planning(task, DynamicsConfig(stride=2, members=2), 1, seed=4)
    coarse = CoarseDynamics(task, 1, 2)
    found, expected = dynamics.rollout(starts, actions), coarse.rollout(starts, actions)
    np.testing.assert_array_equal(found.observations[:, 0], expected.observations)
    assert found.observations.shape[1] == found.members == 2
    assert (found.observations[:, 1] != expected.observations).any()
    dynamics.close()
    coarse.close()


def test_a_run_plans_in_several_models_the_same_way_every_time() -> None:
    settings = {"dynamics.members": 3, "objective.pessimism": 1.0, "mppi.rollouts": 6, "mppi.horizon": 8}
    task = tasks.make("cartpole_swingup")
    config = replace(for_task(PoloConfig(), "cartpole_swingup"), settings)
    runs = [run_polo(task, config, steps=12, seed=seed, threads=1, learn=False) for seed in (0, 0, 1)]
    first, same, other = ([t.action[0] for t in run.transitions] for run in runs)
    assert first == same != other


def test_by_hand_is_the_perturbed_model() -> None:
    """Against mj_step, not against another rollout."""
    task = make("active", 2)
    starts, actions = batch(task, 2, 4)
    dynamics = RandomisedDynamics(task, SpreadConfig(mass=0.5), 2, seed=3, threads=1)
    found = dynamics.rollout(starts, actions)
    original = task.model
    for member, model in enumerate(dynamics.models):
        task.model = model
        for i in range(2):
            expected, _ = by_hand(task, starts[i], actions[i])
            np.testing.assert_allclose(found.observations[i, member], expected, rtol=1e-9, atol=1e-9)
    task.model = original
    dynamics.close()
