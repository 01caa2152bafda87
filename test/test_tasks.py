"""Tasks: what they say of themselves is true of their models."""

from __future__ import annotations

import math
from collections import deque

import mujoco
import numpy as np
import numpy.typing as npt
import pytest
import torch
from mujoco.rollout import rollout

from polo_ros.tasks.base import FULLPHYSICS, FloatArray, Task
from polo_ros.tasks.cartpole_swingup import CartpoleSwingup
from polo_ros.tasks.humanoid_getup import HumanoidGetup, HumanoidGetupSparse
from polo_ros.tasks.point_mass_maze import PointMassMaze

TASKS: list[type[Task]] = [
    CartpoleSwingup,
    PointMassMaze,
    HumanoidGetup,
    HumanoidGetupSparse,
]


def play(task: Task, actions: FloatArray, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """States (N, T, nstate) after each action of (N, T, nu), and observations (N, T, nobs) before it."""
    start = task.reset(np.random.default_rng(seed))
    states, sensordata = rollout(
        task.model,
        mujoco.MjData(task.model),
        np.tile(start, (len(actions), 1)),
        actions,
    )
    return states, task.observe(sensordata)


@pytest.fixture(params=TASKS, ids=lambda kind: kind.name)
def task(request: pytest.FixtureRequest) -> Task:
    made: Task = request.param()
    return made


def test_random_controls_for_ten_seconds_leave_every_model_finite(task: Task) -> None:
    steps = round(10.0 / task.model.opt.timestep)
    actions = np.random.default_rng(1).uniform(-1, 1, (2, steps, task.model.nu))
    states, observations = play(task, actions)
    assert np.isfinite(states).all() and np.isfinite(observations).all()
    # MuJoCo resets a simulation that blew up, and its time with it.
    assert states[:, -1, 0] == pytest.approx(10.0)


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


def test_every_motor_takes_controls_from_minus_one_to_one(task: Task) -> None:
    np.testing.assert_array_equal(task.action_low, -np.ones(task.model.nu))
    np.testing.assert_array_equal(task.action_high, np.ones(task.model.nu))
    assert task.physics_steps == 1


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


def test_maze_rewards_nothing_and_defines_no_success() -> None:
    task = PointMassMaze()
    obs = np.ones((3, 4))
    assert (task.reward(obs, np.ones((3, 2)), obs) == 0.0).all()
    assert task.success(obs) is None and task.episode_steps == 0


# ---- humanoid ----------------------------------------------------------------------------------


def test_humanoid_is_the_papers_size() -> None:
    task = HumanoidGetup()
    model = task.model
    assert (model.nv, model.nu, task.observation_spec.size) == (27, 21, 34)
    assert task.control_dt == model.opt.timestep == 0.008
    assert mujoco.mj_getTotalmass(model) == pytest.approx(41.6, abs=0.1)
    assert task.episode_steps * 20 * task.control_dt == pytest.approx(96.0)
    gear = {model.actuator(i).name.removeprefix("right_"): int(model.actuator_gear[i, 0]) for i in range(model.nu)}
    for name, expected in (
        ("abdomen_x", 40),
        ("hip_y", 120),
        ("hip_x", 40),
        ("knee", 80),
        ("ankle_y", 20),
        ("elbow", 40),
    ):
        assert gear[name] == expected


def test_humanoid_mirrored_controls_give_mirrored_motion() -> None:
    task = HumanoidGetup()
    model = task.model
    names = [model.actuator(i).name for i in range(model.nu)]
    other_side = {"right": "left", "left": "right"}
    swap = [names.index("_".join(other_side.get(part, part) for part in name.split("_"))) for name in names]
    sign = np.array([-1.0 if n in ("abdomen_z", "abdomen_x") else 1.0 for n in names])
    actions = np.random.default_rng(0).uniform(-1, 1, (1, 20, model.nu))
    start = task.pack(0.0, np.array(model.qpos0), np.zeros(model.nv), np.empty(0))
    data = mujoco.MjData(model)
    seen = [
        task.observe(rollout(model, data, start[None], controls)[1])[0]
        for controls in (actions, (actions * sign)[..., swap])
    ]
    one, other = (task.observation_spec.view(obs) for obs in seen)
    mirror = np.array([1.0, -1.0, 1.0])
    np.testing.assert_allclose(one["neck_to_right_hand"], other["neck_to_left_hand"] * mirror, atol=1e-6)
    np.testing.assert_allclose(one["hip_to_left_foot"], other["hip_to_right_foot"] * mirror, atol=1e-6)
    np.testing.assert_allclose(one["foot_heights"], other["foot_heights"][..., ::-1], atol=1e-6)


def test_humanoid_observes_what_the_papers_table_lists() -> None:
    task = HumanoidGetup()
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (1, 60, 21))
    state = play(task, actions)[0][0, -1]
    model, data = task.model, mujoco.MjData(task.model)
    mujoco.mj_setState(model, data, state, FULLPHYSICS)
    mujoco.mj_forward(model, data)
    obs = task.observation_spec.view(task.observe(np.array(data.sensordata)))
    torso = data.body("torso")
    turned = torso.xmat.reshape(3, 3)
    close = np.testing.assert_allclose
    close(obs["torso_direction"], turned[:, 0], atol=1e-9)
    close(obs["torso_normal"], turned[:, 2], atol=1e-9)
    for group, start, end in (
        ("neck_to_right_hand", "neck", "right_hand"),
        ("neck_to_left_hand", "neck", "left_hand"),
        ("hip_to_right_foot", "right_hip", "right_foot"),
        ("hip_to_left_foot", "left_hip", "left_foot"),
    ):
        vector = data.site(end).xpos - data.site(start).xpos
        close(obs[group], vector / np.linalg.norm(vector), atol=1e-9)
    close(obs["root_velocity"], data.qvel[:3], atol=1e-9)
    close(obs["root_rotation"], turned @ data.qvel[3:6], atol=1e-9)
    close(obs["root_height"], torso.xpos[2:], atol=1e-9)
    close(
        obs["hand_heights"],
        [data.site("right_hand").xpos[2], data.site("left_hand").xpos[2]],
    )
    close(
        obs["foot_heights"],
        [data.site("right_foot").xpos[2], data.site("left_foot").xpos[2]],
    )


def test_humanoid_touch_is_half_where_the_feet_carry_it_and_none_in_the_air() -> None:
    task = HumanoidGetup()
    sensors = np.zeros(task.model.nsensordata)
    sensors[6:18] = 1.0  # directions of some length
    weight = mujoco.mj_getTotalmass(task.model) * 9.81
    sensors[24:29] = [0.0, 0.0, 0.0, weight, 1e9]
    touch = task.observation_spec.view(task.observe(sensors))["touch"]
    np.testing.assert_allclose(touch, [0.0, 0.0, 0.0, 0.5, 1.0], atol=1e-6)


def test_humanoid_starts_supine_and_nearly_still() -> None:
    task = HumanoidGetup()
    for seed in range(5):
        _, observations = play(task, np.zeros((1, 25, 21)), seed)
        view = task.observation_spec.view(observations[0])
        assert view["torso_direction"][0, 2] > 0.95  # chest up
        assert abs(view["torso_normal"][0, 2]) < 0.1  # lying
        assert 0.06 < view["root_height"].min() and view["root_height"].max() < 0.15
        assert np.abs(view["root_velocity"]).max() < 0.5


def test_humanoid_stands_well_above_the_target() -> None:
    task = HumanoidGetup()
    data = mujoco.MjData(task.model)
    mujoco.mj_forward(task.model, data)
    standing = task.pack(0.0, np.array(task.model.qpos0), np.zeros(27), np.empty(0))
    view = task.observation_spec.view(task.observe(task.sense(standing)))
    assert view["root_height"][0] == pytest.approx(1.27)
    soles = min(
        float(data.geom(f"{side}_foot_{edge}").xpos[2] - task.model.geom(f"{side}_foot_{edge}").size[0])
        for side in ("right", "left")
        for edge in ("inner", "outer")
    )
    assert soles == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("height", "dense", "sparse"),
    [
        (0.1, 0.0, 0.0),
        (0.5, 0.4, 0.0),
        (1.1, 1.0, 0.0),
        (1.1001, 1.0, 1.0),
        (1.3, 1.0, 1.0),
    ],
)
def test_humanoid_height_rewards_are_the_papers(height: float, dense: float, sparse: float) -> None:
    obs = np.zeros(34)
    obs[HumanoidGetup.observation_spec.slices["root_height"]] = height
    rest = np.zeros(21)
    assert HumanoidGetup().reward(obs, rest, obs) == pytest.approx(dense)
    assert HumanoidGetupSparse().reward(obs, rest, obs) == pytest.approx(sparse)


def test_humanoid_control_cost_is_force_squared_over_inertia() -> None:
    task = HumanoidGetup()
    model, data = task.model, mujoco.MjData(task.model)
    mujoco.mj_forward(model, data)
    inverse_mass = np.empty((27, 27))
    mujoco.mj_solveM(model, data, inverse_mass, np.eye(27))
    for motor in range(model.nu):
        action = np.zeros(21)
        action[motor] = -0.5
        dof = model.jnt_dofadr[model.actuator_trnid[motor, 0]]
        force = 0.5 * model.actuator_gear[motor, 0]
        expected = task.CONTROL_WEIGHT * force**2 * inverse_mass[dof, dof]
        assert task.control_cost(action) == pytest.approx(expected, rel=1e-6)


def test_humanoid_full_random_control_costs_a_few_percent_of_the_reward() -> None:
    cost = HumanoidGetup().control_cost(np.random.default_rng(0).uniform(-1, 1, (1000, 21))).mean()
    assert 0.01 < cost < 0.05


def test_humanoid_success_is_standing_through_the_last_second() -> None:
    task = HumanoidGetup()
    run = np.zeros((200, 34))
    height = run[:, task.observation_spec.slices["root_height"]]
    height[75:] = 1.0
    assert task.success(run) is True
    assert task.success(run[-124:]) is None
    height[150] = 0.99
    assert task.success(run) is False
