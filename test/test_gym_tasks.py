"""Tasks of gymnasium: step by step what gymnasium's own environments do with the same states and actions."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
import torch

from polo_ros import tasks
from polo_ros.drivers.mujoco import MujocoDriver
from polo_ros.dynamics.mujoco import MujocoDynamics
from polo_ros.tasks.ant import Ant
from polo_ros.tasks.base import FloatArray, Task
from polo_ros.tasks.contact_wrenches import contact_wrenches
from polo_ros.tasks.gym_humanoid import GymHumanoid
from polo_ros.tasks.gym_task import ForwardTask, GymTask, HealthyTask
from polo_ros.tasks.half_cheetah import HalfCheetah
from polo_ros.tasks.hopper import Hopper
from polo_ros.tasks.inverted_pendulum import InvertedPendulum
from polo_ros.tasks.swimmer import Swimmer
from polo_ros.tasks.walker2d import Walker2d

TRUNCATED = {
    "Ant-v5": {"include_cfrc_ext_in_observation": False},
    "Humanoid-v5": {
        f"include_{part}_in_observation": False for part in ("cinert", "cvel", "qfrc_actuator", "cfrc_ext")
    },
}
ENVIRONMENTS: list[tuple[type[GymTask], str]] = [
    (InvertedPendulum, "InvertedPendulum"),
    (Hopper, "Hopper"),
    (HalfCheetah, "HalfCheetah"),
    (Walker2d, "Walker2d"),
    (Ant, "Ant"),
    (Swimmer, "Swimmer"),
    (GymHumanoid, "Humanoid"),
]
VERSIONS = [(kind, name, version) for kind, name in ENVIRONMENTS for version in (5, 4)]


def environment(name: str, version: int) -> Any:
    import gymnasium

    full = f"{name}-v{version}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # version 4 is called old, and a model's attribute deprecated
        return gymnasium.make(full, disable_env_checker=True, **TRUNCATED.get(full, {})).unwrapped


def brought_up_to_date(env: Any) -> None:
    """gymnasium reads bodies as they were before the last physics substep; here they belong to the state."""
    simulate = env._step_mujoco_simulation

    def step(control: FloatArray, frames: int) -> None:
        simulate(control, frames)
        warm = env.data.qacc_warmstart.copy()
        env.data.qacc_warmstart[:] = 0.0  # as for our sensors: humanoid's solver stops before it has converged
        mujoco.mj_forward(env.model, env.data)
        mujoco.mj_rnePostConstraint(env.model, env.data)
        env.data.qacc_warmstart[:] = warm

    env._step_mujoco_simulation = step


def state_of(task: GymTask, env: Any) -> FloatArray:
    return task.pack(0.0, env.data.qpos.copy(), env.data.qvel.copy(), np.empty(0))


def seen_by_gymnasium(task: GymTask, obs: Any) -> Any:
    view = task.observation_spec.view(obs)
    return np.concatenate([view[name] for name in task.gymnasium_groups], axis=-1)


@pytest.mark.parametrize(("kind", "name", "version"), VERSIONS, ids=[f"{n}-v{v}" for _, n, v in VERSIONS])
def test_observations_rewards_and_ends_are_gymnasiums_step_by_step(
    kind: type[GymTask], name: str, version: int
) -> None:
    task, env = kind(version), environment(name, version)
    if kind in (Ant, GymHumanoid):  # what they need of bodies, not of qpos and qvel, is late there
        brought_up_to_date(env)
    assert (env.frame_skip, env.dt) == (task.physics_steps, pytest.approx(task.control_dt))
    ends = 0
    for seed in range(3):
        env.reset(seed=seed)
        rng = np.random.default_rng(seed)
        start = task.reset(np.random.default_rng(seed))
        env.set_state(*task.unpack(start)[1:3])
        before = task.observe(task.sense(start))
        for _ in range(120):
            action = rng.uniform(env.action_space.low, env.action_space.high)
            expected, reward, terminated, _, _ = env.step(action)
            after = task.observe(task.sense(state_of(task, env), action))
            seen = seen_by_gymnasium(task, after)
            np.testing.assert_allclose(seen, expected[: len(seen)], atol=1e-6)  # Humanoid-v4 always shows more
            assert task.reward(before, action, after) == pytest.approx(reward, abs=1e-6)
            assert bool(task.terminated(after)) == terminated
            before = after
            ends += terminated
    assert (ends > 0) == isinstance(task, HealthyTask | InvertedPendulum), "both kinds of states are met"


@pytest.mark.parametrize(("kind", "name"), ENVIRONMENTS, ids=[name for _, name in ENVIRONMENTS])
def test_one_seed_starts_and_moves_the_simulated_robot_as_gymnasiums(kind: type[GymTask], name: str) -> None:
    task, env = kind(), environment(name, 5)
    env.reset(seed=7)
    _, qpos, qvel, _ = task.unpack(task.reset(np.random.default_rng(7)))
    drawn = env.data.qpos.copy()
    mujoco.mj_normalizeQuat(env.model, drawn)
    np.testing.assert_array_equal(qpos, drawn)
    np.testing.assert_array_equal(qvel, env.data.qvel)

    driver = MujocoDriver(task, seed=0)
    driver.connect()
    first = driver.read()
    env.set_state(first.qpos, first.qvel)
    env.data.qacc_warmstart[:] = 0.0
    rng = np.random.default_rng(0)
    for _ in range(100):
        action = rng.uniform(task.action_low, task.action_high)
        driver.write(action)
        env.step(action)
    last = driver.read()
    np.testing.assert_allclose(last.qpos, env.data.qpos, atol=1e-9)
    np.testing.assert_allclose(last.qvel, env.data.qvel, atol=1e-9)


@pytest.mark.parametrize("kind", [Ant, GymHumanoid])
def test_contact_sensors_give_mujocos_own_forces_on_bodies(kind: type[GymTask]) -> None:
    task = kind()
    model, data = task.model, mujoco.MjData(task.model)
    rng = np.random.default_rng(0)
    touching = 0
    for _ in range(200):
        data.ctrl[:] = rng.uniform(task.action_low, task.action_high)
        mujoco.mj_step(model, data, nstep=5)
        mujoco.mj_forward(model, data)
        mujoco.mj_rnePostConstraint(model, data)
        wrenches = contact_wrenches(data.sensordata[model.nq + model.nv :])
        np.testing.assert_allclose(wrenches, data.cfrc_ext[1:], rtol=1e-9, atol=1e-6)
        touching += data.ncon > 0
    assert touching > 50


@pytest.mark.parametrize("kind", [kind for kind, _ in ENVIRONMENTS])
def test_a_rollout_is_rewarded_as_the_run_that_it_foresees(kind: type[GymTask]) -> None:
    task = kind()
    dynamics = MujocoDynamics(task, threads=1)
    rng = np.random.default_rng(1)
    actions = rng.uniform(task.action_low, task.action_high, (3, 6, task.model.nu))
    start = task.reset(rng)
    foreseen = dynamics.rollout(start, actions).observations
    rewards = task.reward(foreseen[:, :-1], actions, foreseen[:, 1:])
    for plan, reward in zip(actions, rewards, strict=True):
        states = [task.advance(mujoco.MjData(task.model), start, plan[:steps]) for steps in range(7)]
        # Forces of contacts depend on the action: the last one is held in the last state.
        sensed = [task.sense(state, plan[min(step, 5)]) for step, state in enumerate(states)]
        seen = task.observe(np.array(sensed))
        np.testing.assert_allclose(task.reward(seen[:-1], plan, seen[1:]), reward, atol=1e-6)
    dynamics.close()


def healthy_and_not(task: GymTask) -> FloatArray:
    """Observations (3, 40, nobs) of starts, each with one entry moved."""
    rng = np.random.default_rng(0)
    starts = np.array([task.observe(task.sense(task.reset(rng))) for _ in range(40)])
    obs = np.stack((starts, starts, starts))
    at = rng.integers(0, 3, 40)
    obs[1, np.arange(40), at] += rng.uniform(-0.5, 0.5, 40)
    obs[2, np.arange(40), at] += rng.uniform(-2.0, 2.0, 40)
    return obs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [InvertedPendulum, Hopper, Walker2d, Ant, GymHumanoid])
def test_ends_of_tensors_are_those_of_arrays(kind: type[GymTask], dtype: torch.dtype) -> None:
    task = kind()
    obs = healthy_and_not(task)
    ended = task.terminated(obs)
    assert ended.shape == (3, 40) and ended.dtype == bool and 0 < ended.sum() < ended.size
    tensor = torch.tensor(obs, dtype=dtype)
    np.testing.assert_array_equal(task.terminated(tensor).numpy(), ended)
    assert task.terminated(tensor).dtype == torch.bool and task.terminated(tensor[0, 0]).shape == ()
    action = np.zeros((3, 40, task.model.nu))
    given = task.reward(tensor, torch.tensor(action, dtype=dtype), tensor)
    assert given.dtype == dtype
    np.testing.assert_allclose(given.numpy(), task.reward(obs, action, obs), atol=1e-5)


@pytest.mark.parametrize("kind", [InvertedPendulum, Hopper, Walker2d, Ant, GymHumanoid])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_state_that_is_not_finite_ends_the_episode(kind: type[GymTask], wrong: float) -> None:
    task = kind()
    start = task.observe(task.sense(task.reset(np.random.default_rng(0))))
    assert not task.terminated(start)
    start[task.observation_spec.slices["angle" if "angle" in task.observation_spec.slices else "height"]] = wrong
    assert task.terminated(start) and task.terminated(torch.tensor(start))


@pytest.mark.parametrize("kind", [HalfCheetah, Swimmer])
def test_tasks_without_health_never_end(kind: type[ForwardTask]) -> None:
    task = kind()
    assert kind.terminated is Task.terminated and task.episode_steps == 1000
    assert not task.terminated(np.full(task.observation_spec.size, 1e6))


def test_the_groups_that_gymnasium_does_not_show_are_named() -> None:
    assert InvertedPendulum().gymnasium_groups == ("cart_position", "angle", "cart_velocity", "rotation")
    assert Hopper().gymnasium_groups[-1] == "joint_velocities" and Hopper().added == ("x",)
    assert GymHumanoid().added == ("x", "contact") and GymHumanoid(4).added == ("x",)
    for kind, _ in ENVIRONMENTS:
        task = kind()
        assert [name for name, _ in task.observation_spec.groups] == [*task.gymnasium_groups, *task.added]


def test_distance_and_speed_are_measured_and_a_fallen_pole_is_no_success() -> None:
    task = Hopper()
    run = np.zeros((126, 12))
    run[:, task.observation_spec.slices["x"]] = np.linspace(1.0, 3.0, 126)[:, None]
    assert task.measures(run) == pytest.approx({"distance": 2.0, "speed": 2.0})
    assert np.isnan(task.measures(run[:1])["speed"])
    pole = np.zeros((50, 4))
    assert InvertedPendulum().success(pole) is True
    pole[-1, 1] = 0.21
    assert InvertedPendulum().success(pole) is False


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 3 of task 'ant' is unknown; versions: 4, 5"):
        Ant(version=3)


def test_models_are_found_without_importing_gymnasium(monkeypatch) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "gymnasium"]:
        monkeypatch.delitem(sys.modules, module)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind, _ in ENVIRONMENTS:
            kind()
    assert "gymnasium" not in sys.modules


def test_without_gymnasium_a_task_is_listed_and_says_what_to_install(monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "gymnasium" else find(name))
    assert "hopper" in tasks.names()
    with pytest.raises(ValueError, match=r"'hopper' cannot be made: .*comes with gymnasium, .*polo_ros\[gym\]"):
        tasks.make("hopper")


def test_the_documentation_has_every_group_and_period_of_every_task() -> None:
    document = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text("utf-8")
    rows = {row.split("`")[1]: row.split("|") for row in document.splitlines() if row.startswith("| `")}
    assert set(rows) == {kind.name for kind, _ in ENVIRONMENTS} | {
        *("pen", "claw"),
        *("point_goal", "car_goal", "rc_car", "rc_car_drift"),
    }
    for name, row in rows.items():
        task = tasks.make(name)
        added = getattr(task, "added", ())
        groups = [
            f"*{group} {size}*" if group in added else f"{group} {size}" for group, size in task.observation_spec.groups
        ]
        assert row[2].strip() == f"{task.control_dt:g} s, {task.episode_steps}"
        assert row[3].strip() == ", ".join(groups)
