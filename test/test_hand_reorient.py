"""The die in the hand: what appendix B of the paper says of it, and what the world does behind the planner's back."""

from __future__ import annotations

import importlib.util
import sys

import mujoco
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from polo_ros import tasks
from polo_ros.agents.polo import PoloConfig
from polo_ros.agents.run import run_polo
from polo_ros.config import replace
from polo_ros.drivers.mujoco import MujocoDriver
from polo_ros.dynamics.mujoco import MujocoDynamics
from polo_ros.tasks.base import FULLPHYSICS, FloatArray
from polo_ros.tasks.hand_reorient import HandReorient

DIE, TARGET = slice(24, 31), slice(31, 35)  # in qpos
DIE_VELOCITY, TARGET_VELOCITY = slice(24, 30), slice(30, 33)  # in qvel


@pytest.fixture(scope="module")
def task() -> HandReorient:
    return HandReorient()


def start(task: HandReorient, seed: int = 0) -> FloatArray:
    return task.reset(np.random.default_rng(seed))


def placed(task: HandReorient, die: FloatArray, target: FloatArray) -> FloatArray:
    """A start state with the die's pose (7,) and the target's quaternion (4,) replaced."""
    time, qpos, qvel, act = task.unpack(start(task))
    qpos = qpos.copy()
    qpos[DIE], qpos[TARGET] = die, target
    return task.pack(time, qpos, qvel, act)


def targets_of(task: HandReorient, seed: int, steps: int, *, episode: int = 0, restless: bool = False) -> FloatArray:
    """Quaternions (steps + 1, 4) of the target at the start of every control period of a simulated episode."""
    driver = MujocoDriver(task, seed)
    driver.connect()
    driver.reset(episode)
    rng = np.random.default_rng(99)
    found = [driver.read().qpos[TARGET]]
    for _ in range(steps):
        driver.write(rng.uniform(task.action_low, task.action_high) if restless else task.resting_action)
        found.append(driver.read().qpos[TARGET])
    return np.array(found)


# ---- the model ---------------------------------------------------------------------------------


def test_fingers_and_wrist_are_actuated_and_the_base_is_not(task: HandReorient) -> None:
    model = task.model
    driven = [model.joint(int(joint)).name for joint in model.actuator_trnid[:, 0]]
    assert model.nu == 24 and [name for name in driven if name.startswith("WR")] == ["WRJ1", "WRJ0"]
    assert {name[:2] for name in driven} == {"WR", "FF", "MF", "RF", "LF", "TH"}
    # Forearm fixed to the world: beside the 24 there are only the die's six and the target's three.
    assert model.nv == 24 + 6 + 3
    assert model.joint("die").type == mujoco.mjtJoint.mjJNT_FREE
    assert model.joint("target").type == mujoco.mjtJoint.mjJNT_BALL


def test_an_action_is_a_position_for_every_joint_within_its_range(task: HandReorient) -> None:
    model = task.model
    np.testing.assert_array_equal(model.actuator_gainprm[:, 0], -model.actuator_biasprm[:, 1])
    np.testing.assert_allclose(task.action_scale, np.ptp(model.actuator_ctrlrange, axis=1) / 2)
    assert (task.resting_action >= task.action_low).all() and (task.resting_action <= task.action_high).all()
    assert (task.control_dt, model.opt.timestep, task.physics_steps) == (0.01, 0.005, 2)


def test_the_goal_is_above_the_middle_of_the_palm_where_it_is_at_first(task: HandReorient) -> None:
    data = mujoco.MjData(task.model)
    mujoco.mj_forward(task.model, data)
    palm = data.geom("C_palm0").xpos
    np.testing.assert_allclose(data.site("goal").xpos, task.goal)
    np.testing.assert_allclose(data.site("S_grasp").xpos, task.goal)
    assert task.goal[2] - palm[2] == pytest.approx(0.05, abs=0.001)


def test_the_hands_package_is_found_without_importing_it(monkeypatch) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] in ("gymnasium", "gymnasium_robotics")]:
        monkeypatch.delitem(sys.modules, module)  # another test of this process may compare tasks with theirs
    HandReorient()
    assert "gymnasium_robotics" not in sys.modules and "gymnasium" not in sys.modules


def test_without_the_hands_package_the_task_is_listed_and_says_what_to_install(monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "gymnasium_robotics" else find(name, *rest)
    )
    assert "hand_reorient" in tasks.names()
    with pytest.raises(ValueError, match=r"'hand_reorient' cannot be made: .*gymnasium-robotics.*polo_ros\[hand\]"):
        tasks.make("hand_reorient")


# ---- start -------------------------------------------------------------------------------------


def test_the_die_starts_at_rest_in_the_hand_in_many_orientations(task: HandReorient) -> None:
    data = mujoco.MjData(task.model)
    starts = [task.unpack(start(task, seed)) for seed in range(10)]
    for _, qpos, qvel, _ in starts:
        mujoco.mj_resetData(task.model, data)
        data.qpos[:], data.ctrl[:] = qpos, task.resting_action
        assert (qvel == 0.0).all()
        assert np.linalg.norm(qpos[DIE][:3] - task.goal) < task.HELD_DISTANCE
        mujoco.mj_step(task.model, data, nstep=100)  # half a second
        assert np.linalg.norm(data.qpos[DIE][:3] - qpos[DIE][:3]) < 0.001
    turned = Rotation.from_quat([qpos[DIE][3:] for _, qpos, _, _ in starts], scalar_first=True)
    assert min((turned[i].inv() * turned[j]).magnitude() for i in range(10) for j in range(i)) > 0.05


def test_the_settings_of_physics_hold_the_hand_together_under_any_controls(task: HandReorient) -> None:
    data = mujoco.MjData(task.model)
    rng = np.random.default_rng(0)
    state = start(task)
    deepest = 0.0
    for step in range(1000):
        if step % 50 == 0:  # back in the hand, or the die would spend its time below it
            mujoco.mj_setState(task.model, data, state, FULLPHYSICS)
        data.ctrl[:] = rng.uniform(task.action_low, task.action_high)
        mujoco.mj_step(task.model, data, nstep=task.physics_steps)
        deepest = max(deepest, -data.contact.dist.min(initial=0.0))
        assert np.abs(data.qvel[DIE_VELOCITY][:3]).max() < 10.0  # m/s
    assert deepest < 0.012  # m
    assert not data.warning.number.any()


# ---- observation and reward --------------------------------------------------------------------


def test_observations_are_what_their_names_say(task: HandReorient) -> None:
    time, qpos, qvel, act = task.unpack(start(task))
    rng = np.random.default_rng(5)
    qvel = qvel.copy()
    qvel[DIE_VELOCITY] = rng.uniform(-1, 1, 6)
    seen = task.observation_spec.view(task.observe(task.sense(task.pack(time, qpos, qvel, act))))
    die, target = (Rotation.from_quat(q, scalar_first=True) for q in (qpos[DIE][3:], qpos[TARGET]))
    between = (target.inv() * die).as_matrix()
    close = np.testing.assert_allclose
    close(seen["hand"], qpos[:24])
    close(seen["position"], qpos[DIE][:3] - task.goal, atol=1e-12)
    close(seen["orientation"], die.as_matrix()[:, [0, 2]].T.ravel(), atol=1e-9)
    close(seen["velocity"], qvel[DIE_VELOCITY][:3], atol=1e-9)
    close(seen["rotation"], die.apply(qvel[DIE_VELOCITY][3:]), atol=1e-9)  # a free joint's is in the body's frame
    close(seen["error"], between[:, [0, 2]].T.ravel(), atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_reward_is_equation_8_with_the_angle_between_the_orientations(task: HandReorient, seed: int) -> None:
    rng = np.random.default_rng(seed)
    die, target = Rotation.random(2, random_state=seed)
    position = task.goal + rng.uniform(-0.1, 0.1, 3)
    for sign in (1.0, -1.0):  # q and -q are one orientation
        pose = np.concatenate((position, sign * die.as_quat(scalar_first=True)))
        obs = task.observe(task.sense(placed(task, pose, target.as_quat(scalar_first=True))))
        angle = (target.inv() * die).magnitude()
        expected = -0.5 * np.abs(position - task.goal).sum() - 0.05 * angle
        assert task.angle(obs) == pytest.approx(angle, abs=1e-9)
        assert task.reward(obs, task.resting_action, obs) == pytest.approx(expected, abs=1e-9)


def test_reward_is_nought_at_the_goal_and_the_angle_at_most_half_a_turn(task: HandReorient) -> None:
    quaternion = Rotation.random(random_state=0)
    at_goal = np.concatenate((task.goal, quaternion.as_quat(scalar_first=True)))
    obs = task.observe(task.sense(placed(task, at_goal, at_goal[3:])))
    assert task.reward(obs, task.resting_action, obs) == pytest.approx(0.0, abs=1e-7)
    opposite = (quaternion * Rotation.from_rotvec([0.0, np.pi, 0.0])).as_quat(scalar_first=True)
    obs = task.observe(task.sense(placed(task, at_goal, opposite)))
    assert task.angle(obs) == pytest.approx(np.pi, abs=1e-7)


def test_angles_of_tensors_are_those_of_arrays(task: HandReorient) -> None:
    obs = np.stack([task.observe(task.sense(start(task, seed))) for seed in range(4)]).reshape(2, 2, -1)
    tensor = torch.tensor(obs)
    assert task.angle(tensor).shape == (2, 2)
    np.testing.assert_array_equal(task.angle(tensor).numpy(), task.angle(obs))
    np.testing.assert_allclose(task.reward(tensor, None, tensor).numpy(), task.reward(obs, None, obs), rtol=1e-12)


def test_no_state_is_terminal_however_far_the_die_has_fallen(task: HandReorient) -> None:
    fallen = placed(task, np.array([0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0]), np.array([1.0, 0.0, 0.0, 0.0]))
    assert not task.terminated(task.observe(task.sense(fallen))) and task.episode_steps == 0


def test_success_is_half_of_the_targets_reached_for_their_last_steps(task: HandReorient) -> None:
    run = np.zeros((160, task.observation_spec.size))
    angle = run[:, task.observation_spec.slices["angle"]]
    angle[:] = 2.0
    angle[60:75] = 0.39  # most of the first target's last 25 steps
    assert task.success(run[:74]) is None
    assert task.success(run[:75]) is True
    assert task.success(run) is True
    assert task.measures(run)["targets_reached"] == 0.5
    assert task.measures(run)["mean_angle"] == pytest.approx((145 * 2.0 + 15 * 0.39) / 160)
    assert np.isnan(task.measures(run[:74])["targets_reached"])
    angle[60:75] = 0.41
    assert task.success(run) is False
    assert task.measures(run)["targets_reached"] == 0.0


# ---- the world ---------------------------------------------------------------------------------


def test_the_target_changes_every_75_steps_and_at_no_other_time(task: HandReorient) -> None:
    found = targets_of(task, 0, 160)
    changed = np.flatnonzero((np.diff(found, axis=0) != 0.0).any(axis=1)) + 1
    np.testing.assert_array_equal(changed, [75, 150])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0)


def test_no_rollout_sees_the_target_change(task: HandReorient) -> None:
    dynamics = MujocoDynamics(task, threads=1)
    rng = np.random.default_rng(0)
    actions = rng.uniform(task.action_low, task.action_high, (160, 24))
    first = start(task)
    reached = dynamics.advance(first, actions)
    np.testing.assert_array_equal(task.unpack(reached)[1][TARGET], task.unpack(first)[1][TARGET])
    np.testing.assert_array_equal(task.unpack(reached)[2][TARGET_VELOCITY], 0.0)
    dynamics.close()


def test_seed_and_episode_alone_say_what_the_targets_are(task: HandReorient) -> None:
    calm, restless = targets_of(task, 3, 151), targets_of(task, 3, 151, restless=True)
    np.testing.assert_array_equal(calm, restless)
    for other in (targets_of(task, 4, 76), targets_of(task, 3, 76, episode=1)):
        assert (other[75] != calm[75]).any()


def test_targets_are_spread_over_all_orientations(task: HandReorient) -> None:
    rng = np.random.default_rng(0)
    state = start(task)
    found = [task.disturb(state, 75, rng) for _ in range(2000)]
    quaternions = np.array([task.unpack(changed)[1][TARGET] for changed in found if changed is not None])
    # The angle of a uniform rotation has the density (1 - cos a) / pi: its mean is pi / 2 + 2 / pi.
    angles = 2.0 * np.arccos(np.abs(quaternions[:, 0]))
    assert angles.mean() == pytest.approx(np.pi / 2 + 2 / np.pi, abs=0.05)


def test_a_die_that_is_lost_falls_into_the_hand_anew(task: HandReorient) -> None:
    below = np.concatenate((task.goal - (0.0, 0.0, 0.2), [1.0, 0.0, 0.0, 0.0]))
    state = placed(task, below, np.array([0.0, 1.0, 0.0, 0.0]))
    state[-9:-3] = -1.0  # the die's velocity
    kept = state.copy()
    changed = task.disturb(state, 3, np.random.default_rng(0))
    assert changed is not None
    np.testing.assert_array_equal(state, kept)
    _, qpos, qvel, _ = task.unpack(changed)
    np.testing.assert_allclose(qpos[DIE][:3], task.goal + (0.0, 0.0, task.FALL_HEIGHT))
    np.testing.assert_array_equal(qvel[DIE_VELOCITY], 0.0)
    np.testing.assert_array_equal(qpos[:24], task.unpack(state)[1][:24])
    np.testing.assert_array_equal(qpos[TARGET], [0.0, 1.0, 0.0, 0.0])
    assert task.disturb(start(task), 3, np.random.default_rng(0)) is None


def test_a_run_is_the_same_again_and_its_transitions_show_the_new_target(task: HandReorient) -> None:
    config = replace(
        PoloConfig(),
        {
            "mppi.rollouts": 4,
            "mppi.horizon": 4,
            "targets.horizon": 2,
            "targets.rollouts": 2,
            "learner.gradient_steps": 2,
            "learner.target_states": 4,
            "learner.update_every": 25,
        },
    )
    first, again = (run_polo(task, config, steps=80, seed=1, threads=1).transitions for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert one.state.tobytes() == other.state.tobytes()
        assert one.next_observation.tobytes() == other.next_observation.tobytes()
    for before, after in zip(first, first[1:], strict=False):
        np.testing.assert_array_equal(before.next_observation, after.observation)
    targets = np.array([task.unpack(t.state)[1][TARGET] for t in first])
    np.testing.assert_array_equal(np.flatnonzero((np.diff(targets, axis=0) != 0.0).any(axis=1)), [74])
