"""Goals among hazards: layout, what is seen, what is paid, what it costs, and that the robots can do it."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import mujoco
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polo_ros.agents.configs import CONFIGS
from polo_ros.agents.polo import PoloConfig
from polo_ros.agents.run import run_polo
from polo_ros.config import replace
from polo_ros.drivers.mujoco import MujocoDriver
from polo_ros.dynamics.mujoco import MujocoDynamics
from polo_ros.session.config import for_task
from polo_ros.tasks.base import FloatArray
from polo_ros.tasks.goal import CarGoal, Goal, PointGoal

POINT, CAR = PointGoal(), CarGoal()
BOTH = pytest.mark.parametrize("task", [POINT, CAR], ids=lambda task: task.name)
SEEDS = st.integers(0, 2**32 - 1)


@dataclass
class World:
    """Where everything is, read off the joints by name."""

    robot: FloatArray  # (2,)
    yaw: float
    goal: FloatArray
    vase: FloatArray
    hazards: FloatArray  # (8, 2)
    reached: float


def world(task: Goal, state: FloatArray) -> World:
    data = mujoco.MjData(task.model)
    _, data.qpos[:], data.qvel[:], _ = task.unpack(state)
    mujoco.mj_kinematics(task.model, data)
    forwards = data.body("robot").xmat.reshape(3, 3)[:, 0]
    return World(
        data.body("robot").xpos[:2].copy(),
        math.atan2(forwards[1], forwards[0]),
        data.body("goal").xpos[:2].copy(),
        data.body("vase").xpos[:2].copy(),
        np.array([data.body(f"hazard_{number}").xpos[:2] for number in range(1, 9)]),
        float(data.joint("reached").qpos[0]),
    )


def placed(task: Goal, seed: int = 0, **where: object) -> FloatArray:
    """A start of the task with things put elsewhere: robot, goal, hazard_3 and so on as (x, y), yaw, reached."""
    state = task.reset(np.random.default_rng(seed))
    qpos = state[1 : 1 + task.model.nq]
    for name, value in where.items():
        if name == "robot":
            qpos[:2] = value
        elif name == "yaw":
            task.put_robot(qpos, float(value))  # type: ignore[arg-type]
        elif name == "reached":
            qpos[task.model.joint("reached").qposadr[0]] = value
        else:
            qpos[task.model.joint(f"{name}_x").qposadr[0] :][:2] = value
    return state


def observed(task: Goal, state: FloatArray) -> FloatArray:
    return task.observe(task.sense(state))


# ---- layout ------------------------------------------------------------------------------------


@BOTH
@settings(max_examples=100)
@given(seed=SEEDS)
def test_everything_starts_within_the_square_and_apart_by_both_keepouts(task: Goal, seed: int) -> None:
    state = task.reset(np.random.default_rng(seed))
    found = world(task, state)
    assert (state[1 + task.model.nq :] == 0.0).all() and state[0] == 0.0 and found.reached == 0.0
    things = [(found.robot, 0.4), (found.goal, 0.305), (found.vase, 0.15), *((place, 0.18) for place in found.hazards)]
    for place, keepout in things:
        assert np.abs(place).max() <= 1.5 - keepout
    for (one, first), (other, second) in itertools.combinations(things, 2):
        assert math.dist(one, other) >= first + second - 1e-12


def test_starts_fill_the_square_and_point_everywhere() -> None:
    worlds = [world(POINT, POINT.reset(np.random.default_rng(seed))) for seed in range(200)]
    for places, room in (
        (np.array([found.robot for found in worlds]), 1.1),
        (np.concatenate([found.hazards for found in worlds]), 1.32),
    ):
        assert (places.max(axis=0) > 0.9 * room).all() and (places.min(axis=0) < -0.9 * room).all()
        assert np.abs(places.mean(axis=0)).max() < 0.15
    yaws = np.array([found.yaw for found in worlds])
    assert all(np.count_nonzero(np.abs(yaws - quarter) < math.pi / 4) > 20 for quarter in (-2.3, -0.8, 0.8, 2.3))


@BOTH
@settings(max_examples=60)
@given(seed=SEEDS)
def test_a_goal_that_is_reached_moves_away_from_everything_for_the_world_alone(task: Goal, seed: int) -> None:
    rng = np.random.default_rng(seed)
    start = task.reset(rng)
    assert task.disturb(start, 1, rng) is None
    there = placed(task, seed, robot=world(task, start).goal + 0.2, vase=(1.2, 1.2))
    moved = task.disturb(there, 1, rng)
    assert moved is not None
    before, after = world(task, there), world(task, moved)
    assert after.reached == 1.0 and np.abs(after.goal).max() <= 1.5 - 0.305
    for place, keepout in ((after.robot, 0.4), (after.vase, 0.15), *((place, 0.18) for place in after.hazards)):
        assert math.dist(place, after.goal) >= keepout + 0.305
    np.testing.assert_array_equal(after.hazards, before.hazards)
    np.testing.assert_array_equal(after.robot, before.robot)
    changed = np.flatnonzero(moved != there)
    assert len(changed) == 3, "the goal's two coordinates, and that it was reached"
    # One period later it is forgotten, and the goal stays.
    forgotten = task.disturb(moved, 2, rng)
    assert forgotten is not None and world(task, forgotten).reached == 0.0
    np.testing.assert_array_equal(world(task, forgotten).goal, after.goal)


def test_where_there_is_no_room_for_a_goal_the_old_one_stays() -> None:
    state = placed(POINT, robot=(0.0, 0.0), goal=(0.1, 0.0), vase=(0.0, 0.9))
    grid = itertools.product((-0.8, 0.0, 0.8), (-0.8, 0.0, 0.8))
    for number, place in enumerate([place for place in grid if place != (0.0, 0.0)], 1):
        state[1 + POINT.model.joint(f"hazard_{number}_x").qposadr[0] :][:2] = place
    crowded = PointGoal()
    crowded.KEEPOUTS = {**crowded.KEEPOUTS, "hazard": 0.5}
    assert crowded.disturb(state, 1, np.random.default_rng(0)) is None
    assert POINT.disturb(state, 1, np.random.default_rng(0)) is not None


@BOTH
def test_nothing_but_the_vase_and_the_robot_ever_moves_in_a_rollout(task: Goal) -> None:
    start = placed(task, 3, robot=(0.0, 0.0), goal=(0.1, 0.1), yaw=0.0, vase=(0.4, 0.0))
    actions = np.tile(task.action_high * (1.0, 1.0 if task is CAR else 0.0), (25, 1))
    before, after = world(task, start), world(task, task.advance(mujoco.MjData(task.model), start, actions))
    assert after.vase[0] - before.vase[0] > 0.1, "pushed"
    assert after.robot[0] > 0.3
    np.testing.assert_array_equal(after.goal, before.goal)
    np.testing.assert_array_equal(after.hazards, before.hazards)
    assert after.reached == 0.0


# ---- what is seen ------------------------------------------------------------------------------


@BOTH
@settings(max_examples=50)
@given(seed=SEEDS)
def test_places_are_seen_from_the_robot(task: Goal, seed: int) -> None:
    state = task.reset(np.random.default_rng(seed))
    found, seen = world(task, state), task.observation_spec.view(observed(task, state))
    c, s = math.cos(found.yaw), math.sin(found.yaw)
    into = np.array([[c, s], [-s, c]])  # the world's axes in the robot's
    np.testing.assert_allclose(seen["goal"], into @ (found.goal - found.robot), atol=1e-9)
    np.testing.assert_allclose(seen["vase"], into @ (found.vase - found.robot), atol=1e-9)
    hazards = seen["hazards"].reshape(8, 2)
    np.testing.assert_allclose(hazards, (found.hazards - found.robot) @ into.T, atol=1e-9)
    np.testing.assert_allclose(seen["magnetometer"], [*(into @ (0.0, -0.5)), 0.0], atol=1e-9)
    np.testing.assert_array_equal([*seen["velocity"], *seen["rotation"], *seen["reached"]], 0.0)


@BOTH
def test_velocities_are_seen_from_the_robot_and_what_was_reached_is_seen(task: Goal) -> None:
    state = placed(task, yaw=math.pi / 2, reached=1.0)
    qvel = state[1 + task.model.nq :]
    qvel[:2] = 0.3, 0.8  # of the world
    qvel[2 if task is POINT else 5] = -2.0
    seen = task.observation_spec.view(observed(task, state))
    np.testing.assert_allclose(seen["velocity"], [0.8, -0.3], atol=1e-9)
    np.testing.assert_allclose(seen["rotation"], [-2.0], atol=1e-9)
    assert seen["reached"] == 1.0


def test_what_a_policy_sees_are_the_papers_26_entries() -> None:
    sizes = dict(POINT.observation_spec.groups)
    assert sum(size for name, size in sizes.items() if name not in POINT.added) == 26


# ---- what is paid, and what it costs -----------------------------------------------------------


def direct_reward(before: World, after: World) -> float:
    """Of a period that began with the goal of `before`, by world coordinates."""
    old, new = math.dist(before.robot, before.goal), math.dist(after.robot, before.goal)
    bonus = 1.0 if new <= 0.3 < old else 0.0
    return max(old, 0.3) - max(new, 0.3) + bonus


def direct_cost(found: World) -> float:
    total = 0.0
    for hazard in found.hazards:
        total += max(0.0, 0.2 - math.dist(hazard, found.robot))
    return 10.0 * total


@BOTH
def test_rewards_and_costs_of_an_episode_are_those_of_a_loop_over_world_coordinates(task: Goal) -> None:
    driver = MujocoDriver(task, 4)
    driver.connect()
    dt = task.control_dt
    goals = hits = 0
    states, rewards, costs = [], [], []
    robot = driver.read()
    for step in range(task.episode_steps):
        state = task.pack(robot.time, robot.qpos, robot.qvel, robot.act)
        obs = observed(task, state)
        driver.write(towards(task, obs))
        robot = driver.read()
        after = task.pack(robot.time, robot.qpos, robot.qvel, robot.act)
        next_obs = observed(task, after)
        one, other = world(task, state), world(task, after)
        reward, cost = float(task.reward(obs, None, next_obs)), float(task.cost(obs, None, next_obs))
        assert reward == pytest.approx(direct_reward(one, other), abs=1e-3), step * dt  # a car that pitches sees askew
        assert cost == pytest.approx(direct_cost(other), abs=1e-2)
        assert bool(task.in_hazard(next_obs)) == (cost > 0.0)
        moved = math.dist(one.goal, other.goal) > 0.0
        assert moved == bool(task.reached(obs, next_obs)) == (other.reached == 1.0)
        goals, hits = goals + moved, hits + (cost > 0.0)
        states.append(next_obs)
        rewards.append(reward)
        costs.append(cost)
    driver.close()
    assert goals >= 3 and hits >= 1, "an episode in which there was something to compare"
    found = task.measures(np.array([observed(task, task.reset(np.random.default_rng(0))), *states]))
    assert found["hazard_periods"] == hits and found["cost_estimate"] == 5.0 * hits
    # Batches, and tensors.
    batch = np.array(states[:198]).reshape(2, 99, -1)
    for one_dtype in (torch.float32, torch.float64):
        tensor = torch.tensor(batch, dtype=one_dtype)
        given = task.cost(tensor, None, tensor)
        assert given.dtype == one_dtype
        np.testing.assert_allclose(given.numpy().ravel(), costs[:198], atol=1e-4)
        paid = task.reward(tensor[:, :-1], None, tensor[:, 1:])
        np.testing.assert_allclose(paid.numpy()[0], rewards[1:99], atol=1e-4)


def test_a_period_that_reaches_a_goal_pays_the_way_to_its_rim_and_one_though_the_goal_is_gone() -> None:
    hazards = {f"hazard_{number}": (1.3, 1.3) for number in range(1, 9)}
    before = observed(POINT, placed(POINT, robot=(0.0, 0.0), goal=(0.4, 0.0), **hazards))
    still = observed(POINT, placed(POINT, robot=(0.15, 0.0), goal=(0.4, 0.0), **hazards))
    gone = observed(POINT, placed(POINT, robot=(0.15, 0.0), goal=(-1.0, 0.5), reached=1.0, **hazards))
    assert POINT.reward(before, None, still) == pytest.approx(0.1 + 1.0), "as a rollout sees it"
    assert POINT.reward(before, None, gone) == pytest.approx(0.1 + 1.0), "as it is"
    # From the period after: a rollout keeps the flag, the world takes it back; both are paid alike.
    for reached in (0.0, 1.0):
        later = observed(POINT, placed(POINT, robot=(0.0, 0.0), goal=(-1.0, 0.5), reached=reached, **hazards))
        nearer = math.dist((0.15, 0.0), (-1.0, 0.5)) - math.dist((0.0, 0.0), (-1.0, 0.5))
        assert POINT.reward(gone, None, later) == pytest.approx(nearer)
        assert not POINT.reached(gone, later)
    assert POINT.reward(still, None, still) == 0.0, "staying is not reaching again"


def test_what_no_model_foresees_are_other_goals_and_their_flags() -> None:
    before = observed(POINT, placed(POINT, robot=(0.0, 0.0), goal=(0.4, 0.0)))
    still = observed(POINT, placed(POINT, robot=(0.15, 0.0), goal=(0.4, 0.0)))
    gone = observed(POINT, placed(POINT, robot=(0.15, 0.0), goal=(-1.0, 0.5), reached=1.0))
    later = observed(POINT, placed(POINT, robot=(0.1, 0.0), goal=(-1.0, 0.5)))
    pairs = np.array([before, before, gone, later]), np.array([still, gone, later, later])
    assert POINT.unforeseen(*pairs).tolist() == [False, True, True, False]


@BOTH
def test_landmarks_in_each_others_places_are_what_a_world_with_them_there_would_show(task: Goal) -> None:
    """Against the simulator: goal and hazards of the state itself are moved, and the same action is played."""
    rng = np.random.default_rng(3)
    data, dealt = mujoco.MjData(task.model), []
    for seed in range(30):
        state = task.reset(np.random.default_rng(seed))
        # Under way, and turning: a period in which all of it changes.
        first, action = rng.uniform(task.action_low, task.action_high, (2, 2))
        state = task.advance(data, state, np.tile(first, (5, 1)))
        obs, later = observed(task, state), observed(task, task.advance(data, state, action[None]))
        given = obs.copy(), later.copy()
        (before,), (after,) = task.shuffled(obs[None], later[None], rng)
        np.testing.assert_array_equal([obs, later], given)
        seen = np.concatenate([task.observation_spec.view(obs)[name] for name in ("goal", "hazards")]).reshape(9, 2)
        put = np.concatenate([task.observation_spec.view(before)[name] for name in ("goal", "hazards")]).reshape(9, 2)
        order = [int(np.abs(seen - place).sum(axis=1).argmin()) for place in put]
        assert sorted(order) == list(range(9))
        dealt.append(order)
        moved = state.copy()
        qpos = moved[1 : 1 + task.model.nq]
        addresses = [task.model.joint(name).qposadr[0] for name in ("goal_x", *(f"hazard_{n}_x" for n in range(1, 9)))]
        places = np.array([qpos[address : address + 2] for address in addresses])
        for address, index in zip(addresses, order, strict=True):
            qpos[address : address + 2] = places[index]
        np.testing.assert_allclose(before, observed(task, moved), atol=1e-9)
        np.testing.assert_allclose(after, observed(task, task.advance(data, moved, action[None])), atol=1e-6)
    counts = np.array([np.bincount(column, minlength=9) for column in np.array(dealt).T])
    assert counts.max() < 12, "every landmark comes to every place"


def test_landmarks_stay_where_a_goal_was_reached() -> None:
    before = observed(POINT, placed(POINT, robot=(0.0, 0.0), goal=(0.4, 0.0)))
    gone = observed(POINT, placed(POINT, robot=(0.15, 0.0), goal=(-1.0, 0.5), reached=1.0))
    obs, later = np.tile(before, (20, 1)), np.tile(gone, (20, 1))
    found = POINT.shuffled(obs, later, np.random.default_rng(0))
    np.testing.assert_array_equal(found[0], obs)
    np.testing.assert_array_equal(found[1], later)


@pytest.mark.parametrize(("distance", "cost"), [(0.0, 2.0), (0.15, 0.5), (0.2, 0.0), (0.5, 0.0)])
def test_cost_grows_with_the_depth_in_a_hazard(distance: float, cost: float) -> None:
    hazards = {f"hazard_{number}": (1.3, 1.3) for number in range(1, 9)}
    there = observed(POINT, placed(POINT, robot=(0.3, 0.2), **{**hazards, "hazard_5": (0.3, 0.2 + distance)}))
    away = observed(POINT, placed(POINT, robot=(-1.0, -1.0), **hazards))
    assert POINT.cost(away, None, there) == pytest.approx(cost)
    assert POINT.cost(there, None, away) == 0.0, "of the state that is reached"
    both = observed(
        POINT, placed(POINT, robot=(0.3, 0.2), **{**hazards, "hazard_1": (0.3, 0.2), "hazard_8": (0.3, 0.3)})
    )
    assert POINT.cost(away, None, both) == pytest.approx(2.0 + 1.0), "hazards add up"


def test_success_is_a_goal_within_the_limit_of_cost_in_a_whole_episode() -> None:
    hazards = {f"hazard_{number}": (1.3, 1.3) for number in range(1, 9)}
    calm = placed(POINT, robot=(0.0, 0.0), goal=(1.0, 0.0), **hazards)
    at_goal = placed(POINT, robot=(0.9, 0.0), goal=(1.0, 0.0), **hazards)
    in_hazard = placed(POINT, robot=(0.0, 0.0), goal=(1.0, 0.0), **{**hazards, "hazard_2": (0.1, 0.0)})
    one, goal, hit = (observed(POINT, state) for state in (calm, at_goal, in_hazard))
    assert POINT.success(np.array([one] * 200)) is None
    assert POINT.success(np.array([one] * 201)) is False, "no goal"
    assert POINT.success(np.array([one] * 195 + [hit] * 5 + [goal])) is True, "25 is allowed"
    assert POINT.success(np.array([one] * 194 + [hit] * 6 + [goal])) is False
    assert POINT.measures(np.array([one])) == {"goals": 0.0, "hazard_periods": 0.0, "cost_estimate": 0.0}
    assert POINT.measures(np.array([hit, one])) == {"goals": 0.0, "hazard_periods": 0.0, "cost_estimate": 0.0}


# ---- the robots --------------------------------------------------------------------------------


def towards(task: Goal, obs: FloatArray) -> FloatArray:
    """Turn to the goal, and go where it is ahead."""
    seen = task.observation_spec.view(obs)
    angle = math.atan2(seen["goal"][1], seen["goal"][0])
    if task is POINT:
        ahead = max(0.0, math.cos(angle)) * 0.05 - 0.03 * float(seen["velocity"][0])
        return np.clip([ahead, 0.6 * angle], -1.0, 1.0)
    push = 0.008 * max(0.0, math.cos(angle))
    turn = np.clip(0.01 * angle - 0.003 * float(seen["rotation"][0]), -0.01, 0.01)
    return np.array([push - turn, push + turn])


def test_the_point_is_pushed_where_it_points_and_turned_left() -> None:
    data = mujoco.MjData(POINT.model)
    start = placed(POINT, robot=(0.0, 0.0), yaw=0.5, vase=(1.2, -1.2))
    for push in (0.05, -0.05):
        found = world(POINT, POINT.advance(data, start, np.tile([push, 0.0], (4, 1))))
        assert np.sign(push) * (found.robot @ (math.cos(0.5), math.sin(0.5))) > 0.1
    for turn in (1.0, -1.0):
        found = world(POINT, POINT.advance(data, start, np.tile([0.0, turn], (4, 1))))
        assert turn * (found.yaw - 0.5) > 0.4


def test_the_points_speeds_are_those_that_its_forces_and_damping_allow() -> None:
    """0.3 x 0.05 N against 0.01 N s/m; 0.3 x 0.05 N m against 0.005 N m s at a wish of 1 / 0.3 rad/s."""
    data = mujoco.MjData(POINT.model)
    start = placed(POINT, robot=(-1.0, 0.0), yaw=0.0, vase=(-1.2, 1.2))
    # The pointer's weight lies ahead of where it is pushed: it goes straight all the same.
    state = POINT.advance(data, start, np.tile([0.05, 0.0], (60, 1)))
    assert observed(POINT, state)[0] == pytest.approx(1.5, rel=1e-3)
    # Bounded: 0.05 x 0.3 / 0.005 = 3; by the servo: 0.3 (1 - 0.3 w) = 0.005 w, 3.16. The bound is the lower one.
    state = POINT.advance(data, start, np.tile([0.0, 1.0], (60, 1)))
    assert observed(POINT, state)[2] == pytest.approx(3.0, rel=0.02)


@BOTH
def test_full_command_is_the_benchmarks_which_saturates_before(task: Goal) -> None:
    """Its motors take -1 .. 1 and have 2 or 5 % of that as force: what is beyond does what our range's end does."""
    motors = [0] if task is POINT else [0, 1]
    model = task.model
    np.testing.assert_array_equal(model.actuator_ctrlrange[motors], model.actuator_forcerange[motors])
    theirs = type(task)()
    theirs.model.actuator_ctrlrange[:] = -1.0, 1.0
    data, other = mujoco.MjData(task.model), mujoco.MjData(theirs.model)
    rng = np.random.default_rng(2)
    start, given = task.reset(rng), rng.uniform(-1.0, 1.0, (30, 2))
    ours = given.copy()
    ours[:, motors] = given[:, motors].clip(task.action_low[motors], task.action_high[motors])
    assert (ours != given).mean() > 0.3
    np.testing.assert_array_equal(task.advance(data, start, ours), theirs.advance(other, start, given))


def test_the_car_drives_straight_and_turns_to_the_side_of_the_slower_wheel() -> None:
    data = mujoco.MjData(CAR.model)
    start = placed(CAR, robot=(0.0, 0.0), yaw=-0.5, vase=(1.2, -1.2))
    ahead = np.array([math.cos(-0.5), math.sin(-0.5)])
    for push in (0.01, -0.01):
        found = world(CAR, CAR.advance(data, start, np.tile([push, push], (8, 1))))
        assert push / abs(push) * (found.robot @ ahead) > 0.2
        assert abs(found.robot @ (-ahead[1], ahead[0])) < 0.03 and abs(found.yaw + 0.5) < 0.05
    for left, right in ((0.01, 0.0), (0.0, 0.01), (-0.01, 0.01)):
        found = world(CAR, CAR.advance(data, start, np.tile([left, right], (8, 1))))
        assert np.sign(found.yaw + 0.5) == np.sign(right - left) and abs(found.yaw + 0.5) > 0.2


def test_the_car_stands_on_its_wheels_and_its_ball_and_stays_there() -> None:
    data = mujoco.MjData(CAR.model)
    start = placed(CAR, robot=(0.0, 0.0), yaw=0.0, vase=(1.2, 1.2))
    state = CAR.advance(data, start, np.zeros((10, 2)))
    assert np.abs(state[1:8] - start[1:8]).max() < 1e-3
    mujoco.mj_forward(CAR.model, data)
    touching = {CAR.model.geom(int(geom)).name for pair in data.contact.geom for geom in pair}
    assert touching == {"floor", "left", "right", "front"}


@BOTH
def test_a_state_brings_back_all_that_there_is(task: Goal) -> None:
    """Goal and hazards too: from a state alone the same future comes, and the same observation."""
    data, other = mujoco.MjData(task.model), mujoco.MjData(task.model)
    rng = np.random.default_rng(1)
    before, actions = (rng.uniform(task.action_low, task.action_high, (5, 2)) for _ in range(2))
    state = task.advance(data, task.reset(rng), before)
    dynamics = MujocoDynamics(task, threads=1)
    rollouts = dynamics.rollout(state, actions[None])
    dynamics.close()
    ends = task.advance(other, state, actions)
    np.testing.assert_allclose(rollouts.observations[0, -1], observed(task, ends), atol=1e-6)
    np.testing.assert_allclose(rollouts.observations[0, 0], observed(task, state), atol=1e-9)


def test_plain_mpc_reaches_goals() -> None:
    config = replace(for_task(PoloConfig(), "point_goal"), {"mppi.rollouts": 16, "mppi.horizon": 8})
    found = run_polo(POINT, config, steps=70, seed=1, threads=1, learn=False)
    observations = np.array([found.transitions[0].observation, *(t.next_observation for t in found.transitions)])
    measures = POINT.measures(observations)
    assert measures["goals"] >= 2.0
    # What is paid for reaching, and what for coming nearer.
    (returned,) = found.episode_returns()
    assert returned > measures["goals"] > 0.0


@pytest.mark.parametrize("name", ["point_goal", "car_goal"])
@pytest.mark.parametrize("agent", ["loop", "safe_loop", "crr", "plas", "mbop"])
def test_models_are_asked_for_no_reward_that_they_never_saw(name: str, agent: str) -> None:
    """Periods in which a goal is reached, and jumps, are left out of what a model is fitted to."""
    config = for_task(CONFIGS[agent], name, agent=agent)
    assert config.prediction.rewards == "task" and config.fit.shuffle and config.fit.holdout_run == 200
    assert config.constraint.limit == (0.2 if agent == "loop" else 0.0)
