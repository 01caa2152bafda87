"""Tasks: what they say of themselves is true of their models."""

from __future__ import annotations

import math
from collections import deque

import mujoco
import numpy as np
import numpy.typing as npt
import pytest
import torch
from task_runs import play

from polo_ros.tasks.ant import Ant
from polo_ros.tasks.base import FloatArray, Task
from polo_ros.tasks.cartpole_swingup import CartpoleSwingup
from polo_ros.tasks.claw import Claw
from polo_ros.tasks.goal import CarGoal, PointGoal
from polo_ros.tasks.gym_humanoid import GymHumanoid
from polo_ros.tasks.half_cheetah import HalfCheetah
from polo_ros.tasks.hand_reorient import HandReorient
from polo_ros.tasks.hopper import Hopper
from polo_ros.tasks.humanoid_box import HumanoidBox
from polo_ros.tasks.humanoid_getup import HumanoidGetup, HumanoidGetupSparse
from polo_ros.tasks.humanoid_walk import HumanoidWalk
from polo_ros.tasks.inverted_pendulum import InvertedPendulum
from polo_ros.tasks.pen import Pen
from polo_ros.tasks.point_mass import PointMass, PointMassBox, PointMassMaze
from polo_ros.tasks.rc_car import RcCar
from polo_ros.tasks.swimmer import Swimmer
from polo_ros.tasks.walker2d import Walker2d

TASKS: list[type[Task]] = [
    CartpoleSwingup,
    PointMassBox,
    PointMassMaze,
    HumanoidGetup,
    HumanoidGetupSparse,
    HumanoidWalk,
    HumanoidBox,
    HandReorient,
    InvertedPendulum,
    Hopper,
    HalfCheetah,
    Walker2d,
    Ant,
    Swimmer,
    GymHumanoid,
    Pen,
    Claw,
    PointGoal,
    CarGoal,
    RcCar,
]
# Control of motors, where it is not -1 .. 1, and physics steps in a control period, where it is not one.
FULL_CONTROL: dict[str, float | tuple[float, ...]] = {
    "inverted_pendulum": 3.0,
    "humanoid": 0.4,
    "point_goal": (0.05, 1.0),
    "car_goal": 0.02,
}
PHYSICS_STEPS = {
    "hand_reorient": 2,
    "point_mass_box": 2,
    "point_mass_maze": 2,
    "inverted_pendulum": 2,
    "hopper": 4,
    "half_cheetah": 5,
    "walker2d": 4,
    "ant": 5,
    "swimmer": 4,
    "humanoid": 5,
    "pen": 5,
    "claw": 40,
    "point_goal": 50,
    "car_goal": 50,
    "rc_car": 10,
}


@pytest.fixture(params=TASKS, ids=lambda kind: kind.name)
def task(request: pytest.FixtureRequest) -> Task:
    made: Task = request.param()
    return made


def test_random_controls_for_ten_seconds_leave_every_model_finite(task: Task) -> None:
    steps = round(10.0 / task.model.opt.timestep)
    actions = np.random.default_rng(1).uniform(task.action_low, task.action_high, (2, steps, task.model.nu))
    states, observations = play(task, actions)
    assert np.isfinite(states).all() and np.isfinite(observations).all()
    # MuJoCo resets a simulation that blew up, and its time with it.
    assert states[:, -1, 0] == pytest.approx(steps * task.model.opt.timestep)


def test_one_seed_gives_one_start_and_another_seed_another(task: Task) -> None:
    first, same, other = (task.reset(np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first.shape == (task.nstate,) and first[0] == 0.0
    assert (first == same).all() and (first != other).any()


def test_batches_are_observed_as_their_rows_are(task: Task) -> None:
    rng = np.random.default_rng(0)
    rows = [task.sense(task.reset(rng), rng.uniform(-1, 1, task.model.nu)) for _ in range(6)]
    batch = np.stack(rows).reshape(2, 3, -1)
    padded = np.zeros((2, 3, batch.shape[-1] + 3))
    padded[..., :-3] = batch
    for array in (batch, padded[..., :-3]):  # whole, and a view with gaps
        observed = task.observe(array)
        assert observed.shape == (2, 3, task.observation_spec.size)
        for row, expected in zip(observed.reshape(6, -1), rows, strict=True):
            np.testing.assert_array_equal(row, task.observe(expected))


def test_an_observation_is_no_view_of_the_sensors(task: Task) -> None:
    sensors = task.sense(task.reset(np.random.default_rng(0)))
    observation = task.observe(sensors)
    before = observation.copy()
    sensors[:] = 7.0
    np.testing.assert_array_equal(observation, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rewards_of_tensors_are_those_of_arrays(task: Task, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    obs = rng.uniform(0.0, 2.0, (5, 4, task.observation_spec.size))
    action = rng.uniform(-1, 1, (5, 4, task.model.nu))
    expected = task.reward(obs, action, obs)
    tensors = (torch.tensor(obs, dtype=dtype), torch.tensor(action, dtype=dtype))
    given = task.reward(*tensors, tensors[0])
    assert expected.shape == (5, 4) and given.shape == (5, 4) and given.dtype == dtype
    np.testing.assert_allclose(given.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(task.reward(obs[0, 0], action[0, 0], obs[0, 0]), expected[0, 0])


def test_every_motor_takes_controls_from_minus_to_plus_its_full_one_and_every_position_those_of_its_range(
    task: Task,
) -> None:
    if isinstance(task, HandReorient | Pen | Claw):
        low, high = task.model.actuator_ctrlrange.T
        joints = task.model.jnt_range[task.model.actuator_trnid[:, 0]]
        np.testing.assert_allclose(np.stack((low, high), axis=-1), joints, atol=0.05)
    else:
        high = np.full(task.model.nu, FULL_CONTROL.get(task.name, 1.0))
        low = -high
    np.testing.assert_array_equal(task.action_low, low)
    np.testing.assert_array_equal(task.action_high, high)
    assert (task.resting_action >= low).all() and (task.resting_action <= high).all()


def test_a_control_period_is_a_whole_number_of_physics_steps(task: Task) -> None:
    assert task.physics_steps == PHYSICS_STEPS.get(task.name, 1)


# ---- cartpole ----------------------------------------------------------------------------------


def test_cartpole_observes_its_joints() -> None:
    task = CartpoleSwingup()
    state = task.pack(0.0, np.array([0.3, 2.5]), np.array([-1.5, 4.0]), np.empty(0))
    expected = [0.3, -1.5, math.sin(2.5), math.cos(2.5), 4.0]
    observation = task.observe(task.sense(state))
    np.testing.assert_allclose(observation, expected, atol=1e-12)
    assert task.angle(observation) == pytest.approx(2.5)


def test_cartpole_starts_hanging_near_the_middle() -> None:
    task = CartpoleSwingup()
    for seed in range(20):
        _, qpos, qvel, _ = task.unpack(task.reset(np.random.default_rng(seed)))
        assert abs(qpos[0]) <= 0.05 and abs(qpos[1] - math.pi) <= 0.05 and np.abs(qvel).max() <= 0.01


def test_cartpole_without_friction_keeps_its_energy() -> None:
    task = CartpoleSwingup()
    model = task.model
    model.dof_damping[:] = 0.0
    model.opt.enableflags |= mujoco.mjtEnableBit.mjENBL_ENERGY
    data = mujoco.MjData(model)
    data.qpos[1] = 1.0
    mujoco.mj_forward(model, data)
    before = data.energy.sum()
    swing = model.body("pole").mass[0] * 9.81 * 1.0  # J, between hanging and upright
    worst = 0.0
    for _ in range(500):
        mujoco.mj_step(model, data)
        worst = max(worst, abs(data.energy.sum() - before))
    assert worst < 1e-3 * swing


def test_cartpole_reward_is_one_only_upright_centred_and_at_ease() -> None:
    task = CartpoleSwingup()
    upright, hanging, aside = (np.array(o, float) for o in ([0, 0, 0, 1, 0], [0, 0, 0, -1, 0], [1, 0, 0, 1, 0]))
    assert task.reward(upright, np.zeros(1), upright) == pytest.approx(1.0)
    assert task.reward(upright, np.ones(1), upright) == pytest.approx(0.9)
    assert task.reward(aside, np.zeros(1), aside) == pytest.approx(0.5)
    assert task.reward(hanging, np.zeros(1), hanging) == pytest.approx(0.0)


def test_cartpole_success_is_upright_at_all_times_from_five_seconds_on() -> None:
    task = CartpoleSwingup()

    def run(angles: FloatArray) -> FloatArray:
        zero = np.zeros_like(angles)
        return np.stack((zero, zero, np.sin(angles), np.cos(angles), zero), axis=-1)

    angles = np.where(np.arange(500) < 250, math.pi, -0.19)
    assert task.success(run(angles)) is True
    assert task.success(run(angles)[:250]) is None
    angles[-1] = 0.21
    assert task.success(run(angles)) is False


def test_cartpole_rail_ends_hold_the_cart() -> None:
    task = CartpoleSwingup()
    states, _ = play(task, np.ones((1, 250, 1)))
    assert 1.8 <= states[..., 1].max() < 2.2
    assert states[0, -1, 1] == pytest.approx(1.8, abs=0.1)


# ---- point mass --------------------------------------------------------------------------------


def reachable(free: npt.NDArray[np.bool_], start: tuple[int, int]) -> npt.NDArray[np.bool_]:
    seen = np.zeros_like(free)
    seen[start] = True
    queue = deque([start])
    while queue:
        x, y = queue.popleft()
        for cell in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
            if all(0 <= c < len(free) for c in cell) and free[cell] and not seen[cell]:
                seen[cell] = True
                queue.append(cell)
    return seen


def test_maze_every_free_cell_can_be_reached_but_not_straight() -> None:
    task = PointMassMaze()
    free = task.free_cells(50)
    start = tuple(int((c + 1.0) * 25) for c in task.START)
    assert free[start]
    assert (reachable(free, (start[0], start[1])) == free).all()
    assert 0.5 < free.mean() < 0.9


def test_maze_coverage_counts_each_free_cell_once() -> None:
    task = PointMassMaze()
    free = task.free_cells(20)
    middles = (np.argwhere(free) + 0.5) * 0.1 - 1.0
    assert task.coverage(middles) == 1.0
    assert task.coverage(np.repeat(middles[:7], 3, axis=0)) == pytest.approx(7 / free.sum())
    assert task.coverage(np.array([[-0.6, 0.0]])) == 0.0  # inside a wall
    assert task.coverage(np.empty((0, 2))) == 0.0
    assert task.measures(np.hstack((middles, middles))) == {"coverage": 1.0}


def test_maze_walls_stop_the_agent_at_top_speed() -> None:
    task = PointMassMaze()
    rng = np.random.default_rng(0)
    # Full speed in random directions, each kept for half a second.
    angles = np.repeat(rng.uniform(-np.pi, np.pi, (8, 60)), 25, axis=1)
    actions = np.stack((np.sign(np.cos(angles)), np.sign(np.sin(angles))), axis=-1)
    states, _ = play(task, actions)
    position, velocity = states[..., 1:3], states[..., 3:5]
    assert np.hypot(velocity[..., 0], velocity[..., 1]).max() <= np.sqrt(8.0) + 1e-6
    assert np.abs(position).max() < 1.0
    # The agent's centre never gets into a wall, so that none was crossed.
    for wall in (task.model.geom(index) for index in range(task.model.ngeom)):
        if wall.name.startswith("wall"):
            inside = np.abs(position - wall.pos[:2]) < wall.size[:2]
            assert not inside.all(axis=-1).any(), wall.name


@pytest.mark.parametrize("kind", [PointMassBox, PointMassMaze])
def test_exploration_rewards_nothing_and_succeeds_where_four_fifths_of_the_cells_were_visited(
    kind: type[PointMass],
) -> None:
    task = kind()
    obs = np.ones((3, 4))
    assert (task.reward(obs, np.ones((3, 2)), obs) == 0.0).all()
    assert task.episode_steps == 0
    free = task.free_cells()
    run = np.zeros((int(free.sum()), 4))
    run[:, :2] = (np.argwhere(free) + 0.5) * 0.1 - 1.0
    enough = math.ceil(0.8 * len(run))
    assert task.success(run[:enough]) is True
    assert task.success(run[: enough - 1]) is False
    assert task.success(run[:1]) is False


def test_box_is_the_mazes_arena_without_its_inner_walls() -> None:
    box, maze = PointMassBox(), PointMassMaze()
    names = [{task.model.geom(i).name for i in range(task.model.ngeom)} for task in (box, maze)]
    assert names[0] == {"floor", "agent", "wall_west", "wall_east", "wall_south", "wall_north"}
    assert names[1] - names[0] == {f"wall_{i}" for i in range(1, 8)}
    free = box.free_cells(50)
    assert box.free_cells(20).all() and free[2:-2, 2:-2].all() and not free[0].any()
    for cells in (8, 20, 25, 50):
        assert (box.free_cells(cells) == box.free_cells(cells)[::-1, ::-1]).all(), "no side is another's better"
    assert (maze.reset(np.random.default_rng(2)) == box.reset(np.random.default_rng(2))).all()
    # Straight to the far corner, which the maze forbids, and no further.
    (way,), _ = play(box, np.ones((1, 150, 2)))
    assert (way[-1, 1:3] > 0.93).all() and way[:, 1:3].max() < 1.0
