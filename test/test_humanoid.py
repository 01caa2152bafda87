"""Humanoids: body, observations, control cost and rewards are the paper's, and so is the box."""

from __future__ import annotations

import math

import mujoco
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mujoco.rollout import rollout
from task_runs import play

from polo_ros.tasks.base import FULLPHYSICS, FloatArray
from polo_ros.tasks.humanoid import BODY_GROUPS, Humanoid
from polo_ros.tasks.humanoid_box import HumanoidBox
from polo_ros.tasks.humanoid_getup import HumanoidGetup, HumanoidGetupSparse
from polo_ros.tasks.humanoid_walk import HumanoidWalk

WALK, BOX = HumanoidWalk(), HumanoidBox()
REST = np.zeros(21)

heights = st.floats(0.0, 1.4)
metres = st.floats(-5.0, 5.0)


def observation(task: Humanoid, **groups: float | FloatArray) -> FloatArray:
    """Zeros but for `groups`, (nobs,)."""
    obs = np.zeros(task.observation_spec.size)
    for name, value in groups.items():
        obs[task.observation_spec.slices[name]] = value
    return obs


# ---- the body, and getting up ------------------------------------------------------------------


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


# ---- the head ----------------------------------------------------------------------------------


def test_a_head_of_size_one_is_the_nominal_model() -> None:
    assert HumanoidGetup(head_size=1.0).model_hash == HumanoidGetup().model_hash == WALK.model_hash


@pytest.mark.parametrize("size", [0.5, 1.5, 2.0])
def test_a_larger_head_changes_the_head_alone_and_weighs_what_its_volume_says(size: float) -> None:
    nominal, other = HumanoidGetup(), HumanoidGetup(head_size=size)
    head = nominal.model.geom("head").id
    assert other.model.geom_size[head, 0] == pytest.approx(size * 0.088)
    assert other.model.site("head_touch").size[0] == pytest.approx(size * 0.1)
    for mine, theirs in (
        (other.model.geom_size, nominal.model.geom_size),
        (other.model.geom_pos, nominal.model.geom_pos),
    ):
        np.testing.assert_array_equal(np.delete(mine, head, 0), np.delete(theirs, head, 0))
    gained = 1000.0 * 4.0 / 3.0 * math.pi * 0.088**3 * (size**3 - 1.0)
    masses = [task.model.body_mass for task in (nominal, other)]
    torso = nominal.model.body("torso").id
    assert masses[1][torso] - masses[0][torso] == pytest.approx(gained, rel=1e-6)
    np.testing.assert_array_equal(np.delete(masses[1], torso), np.delete(masses[0], torso))
    assert other.observation_spec == nominal.observation_spec
    assert other.model_hash != nominal.model_hash


def test_a_larger_head_lies_on_the_floor_at_rest_and_feels_it() -> None:
    task = HumanoidGetup(head_size=1.5)
    states, observations = play(task, np.zeros((1, 50, 21)))
    assert np.isfinite(states).all()
    view = task.observation_spec.view(observations[0])
    assert view["torso_direction"][0, 2] > 0.9 and np.abs(view["root_velocity"]).max() < 0.5
    assert view["touch"][-1, 0] > 0.02


@pytest.mark.parametrize("size", [0.0, -1.0, math.nan, math.inf])
def test_a_head_of_no_size_is_refused(size: float) -> None:
    with pytest.raises(ValueError, match="head_size .* is not a positive number"):
        HumanoidGetup(head_size=size)


# ---- walking -----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [WALK, BOX], ids=lambda task: task.name)
def test_walkers_start_upright_with_their_soles_on_the_floor(task: Humanoid) -> None:
    for seed in range(5):
        _, observations = play(task, np.zeros((1, 25, 21)), seed)
        view = task.observation_spec.view(observations[0])
        assert view["torso_normal"][0, 2] > 0.99
        assert 1.27 <= view["root_height"][0, 0] <= 1.2801
        # Neither dropped nor thrown: for a fifth of a second it stands by itself.
        assert 1.24 < view["root_height"].min() and view["root_height"].max() < 1.3
        assert np.abs(view["root_velocity"]).max() < 0.5


def test_walk_observes_the_papers_34_and_where_the_root_is_beside_the_x_axis() -> None:
    getup, walk = HumanoidGetup(), WALK
    rng = np.random.default_rng(0)
    states = play(walk, rng.uniform(-1, 1, (1, 60, 21)))[0][0]
    for state in states[::10]:
        obs = walk.observe(walk.sense(state))
        np.testing.assert_array_equal(obs[:34], getup.observe(getup.sense(state)))
        assert obs[34] == state[2]
    assert walk.observation_spec.groups == (*BODY_GROUPS, ("root_lateral", 1))


@given(height=heights, speed=metres, lateral=metres)
def test_walk_reward_is_the_papers_with_the_distance_from_the_x_axis(
    height: float, speed: float, lateral: float
) -> None:
    obs = observation(WALK, root_height=height, root_velocity=(speed, 7.0, 7.0), root_lateral=lateral)
    expected = -(1.1 - height) if height <= 1.1 else 1.0 - abs(1.0 - speed) - abs(lateral)
    assert WALK.reward(obs, REST, obs) == pytest.approx(expected, abs=1e-12)


def test_walk_reward_of_real_states_is_the_papers_less_the_control_cost() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 100, 21))
    states, observations = play(WALK, actions, seed=1)
    rewards = WALK.reward(observations, actions, observations)
    before = np.concatenate((np.tile(WALK.reset(np.random.default_rng(1)), (3, 1, 1)), states[:, :-1]), axis=1)
    y, z, speed = before[..., 2], before[..., 3], before[..., 1 + WALK.model.nq]
    expected = np.where(z <= 1.1, z - 1.1, 1.0 - np.abs(1.0 - speed) - np.abs(y)) - WALK.control_cost(actions)
    assert (z <= 1.1).any() and (z > 1.1).any()
    np.testing.assert_allclose(rewards, expected, atol=1e-9)


def test_walk_success_is_a_last_second_at_the_target_speed_without_a_fall() -> None:
    def run(speed: float, height: float = 1.2) -> FloatArray:
        return np.tile(observation(WALK, root_height=height, root_velocity=(speed, 0.0, 0.0)), (200, 1))

    assert WALK.success(run(1.0)) is True and WALK.success(run(0.71)) is True and WALK.success(run(1.29)) is True
    assert WALK.success(run(0.69)) is False and WALK.success(run(1.31)) is False
    assert WALK.success(run(1.0)[:124]) is None
    swaying, fallen = run(1.0), run(1.0)
    swaying[:, WALK.observation_spec.slices["root_velocity"].start] += np.sin(np.arange(200.0))
    fallen[10, WALK.observation_spec.slices["root_height"]] = 0.89
    assert WALK.success(swaying) is True and WALK.success(fallen) is False
    np.testing.assert_array_equal(WALK.speed(run(0.5)), np.full(200, 0.5))
    np.testing.assert_array_equal(WALK.root_height(run(0.5)), np.full(200, 1.2))


def test_walk_measures_speed_at_the_end_and_the_time_before_a_fall() -> None:
    run = np.tile(observation(WALK, root_height=1.2), (601, 1))  # an episode and its start
    speed = run[:, WALK.observation_spec.slices["root_velocity"].start]
    speed[-250:] = np.tile((0.5, 1.3), 125)  # the last 2 s
    measures = WALK.measures(run)
    assert measures == pytest.approx(
        {
            "speed": 0.9,
            "speed_error": 0.4,
            "lowest_height": 1.2,
            "mean_height": 1.2,
            "last_second_height": 1.2,
            "upright_s": 4.8,
        }
    )
    run[[50, 70], WALK.observation_spec.slices["root_height"]] = 0.89
    assert WALK.measures(run)["upright_s"] == pytest.approx(0.4)
    assert WALK.measures(run)["lowest_height"] == 0.89 and WALK.measures(run)["last_second_height"] == 1.2
    assert WALK.measures(run[:1])["upright_s"] == 0.0


# ---- the box -----------------------------------------------------------------------------------


def box_world() -> mujoco.MjData:
    """The box where it starts, the humanoid out of its way."""
    data = mujoco.MjData(BOX.model)
    data.qpos[0] = -5.0
    return data


def test_box_adds_six_degrees_of_freedom_and_nothing_to_the_humanoid() -> None:
    model, alone = BOX.model, WALK.model
    assert (model.nv, model.nu, BOX.observation_spec.size) == (alone.nv + 6, 21, 34 + 3 + 2)
    np.testing.assert_array_equal(model.body_mass[:-1], alone.body_mass)
    np.testing.assert_allclose(2.0 * model.geom("box").size, 0.9)
    action = np.random.default_rng(0).uniform(-1, 1, 21)
    assert BOX.control_cost(action) == pytest.approx(WALK.control_cost(action), rel=1e-12)
    state = WALK.reset(np.random.default_rng(0))
    data = box_world()
    data.qpos[:28], data.qvel[:27] = state[1:29], state[29:]
    with_box = BOX.pack(0.0, np.array(data.qpos), np.array(data.qvel), np.empty(0))
    # Far from the box it feels, costs and moves as without one.
    one, other = BOX.observe(BOX.sense(with_box)), WALK.observe(WALK.sense(state))
    np.testing.assert_allclose(one[:34], other[:34], atol=1e-3)


def test_box_starts_at_rest_a_metre_and_a_half_ahead() -> None:
    for seed in range(5):
        _, qpos, qvel, _ = BOX.unpack(BOX.reset(np.random.default_rng(seed)))
        np.testing.assert_allclose(qpos[28:31], [1.5, 0.0, 0.45])
        np.testing.assert_array_equal(qpos[31:], [1.0, 0.0, 0.0, 0.0])
        assert (qvel[27:] == 0.0).all() and (np.abs(qpos[:2]) <= 0.01).all()
    # Left alone, it stays.
    states, _ = play(BOX, np.zeros((1, 25, 21)))
    np.testing.assert_allclose(states[0, -1, 29:32], [1.5, 0.0, 0.45], atol=1e-3)


def test_box_is_observed_with_the_root_in_the_worlds_frame() -> None:
    states = play(BOX, np.random.default_rng(0).uniform(-1, 1, (1, 60, 21)))[0][0]
    for state in states[::10]:
        view = BOX.observation_spec.view(BOX.observe(BOX.sense(state)))
        np.testing.assert_allclose(view["box_position"], state[29:32], atol=1e-12)
        np.testing.assert_allclose(view["root_position"], state[1:3], atol=1e-12)


def test_box_slides_with_little_friction_and_comes_to_rest_a_metre_on() -> None:
    data, speeds = box_world(), []
    data.qvel[27] = 1.0
    while data.time < 3.0:
        mujoco.mj_step(BOX.model, data)
        speeds.append(float(data.qvel[27]))
    braking = -np.diff(speeds[10:220]) / BOX.model.opt.timestep
    assert braking.mean() == pytest.approx(BOX.BOX_FRICTION * 9.81, rel=0.02)
    assert data.qpos[28] == pytest.approx(BOX.TARGET[0], abs=0.05)
    assert abs(speeds[-1]) < 1e-3 and data.qpos[30] == pytest.approx(0.45, abs=1e-3)


def test_box_is_touched_by_every_part_of_the_body_with_the_bodys_friction() -> None:
    model = BOX.model
    box, floor = model.geom("box").id, model.geom("floor").id
    data, pairs = box_world(), {}
    for part in range(model.ngeom):
        if part == box or model.geom_bodyid[part] == 0:
            continue
        mujoco.mj_resetData(model, data)
        data.qpos[2] = 5.0
        mujoco.mj_forward(model, data)
        data.qpos[28:31] = data.geom_xpos[part] + (0.5, 0.0, 0.0)
        mujoco.mj_forward(model, data)
        pairs.update({(c.geom1, c.geom2): float(c.friction[0]) for c in data.contact})
    touched = {a if b == box else b: friction for (a, b), friction in pairs.items() if box in (a, b)}
    parts = {g for g in range(model.ngeom) if g != box and model.geom_bodyid[g] != 0}
    assert touched == dict.fromkeys(parts, 0.9)
    mujoco.mj_resetData(model, data)
    data.qpos[2] = 5.0
    mujoco.mj_forward(model, data)
    assert {(c.geom1, c.geom2, float(c.friction[0])) for c in data.contact} == {(floor, box, BOX.BOX_FRICTION)}


def test_box_is_pushed_on_by_a_humanoid_that_leans_against_it_and_never_thrown() -> None:
    rng = np.random.default_rng(0)
    starts = np.stack([BOX.reset(rng) for _ in range(40)])
    starts[:, 1] = rng.uniform(0.6, 0.95, 40)
    starts[:, 1 + BOX.model.nq] = 1.0
    actions = np.repeat(rng.uniform(-1, 1, (40, 8, 21)), 8, axis=1)
    states, _ = rollout(BOX.model, mujoco.MjData(BOX.model), starts, actions)
    first = 1 + BOX.model.nq + 27
    assert states[:, -1, 0] == pytest.approx(64 * BOX.control_dt)  # none diverged
    assert (states[:, -1, 29] > 1.55).mean() > 0.5
    # The humanoid arrives at 1 m/s with four times the mass; an elastic blow of all of it would give 1.6 m/s.
    assert np.abs(states[..., first : first + 3]).max() < 5.0


@given(height=heights, box=st.tuples(metres, metres), root=st.tuples(metres, metres), near=st.floats(0.0, 1.6))
def test_box_reward_is_the_papers(
    height: float, box: tuple[float, float], root: tuple[float, float], near: float
) -> None:
    for other in (root, (box[0] - near, box[1])):
        obs = observation(BOX, root_height=height, box_position=(*box, 9.0), root_position=other)
        reach = math.hypot(box[0] - other[0], box[1] - other[1])
        if height <= 1.1:
            expected = -(1.1 - height)
        elif reach > 0.8:
            expected = 2.0 - reach
        else:
            expected = 4.0 - 2.0 * math.hypot(box[0] - 2.5, box[1])
        if abs(reach - 0.8) > 1e-9:
            assert BOX.reward(obs, REST, obs) == pytest.approx(expected, abs=1e-9)


def test_box_reward_pays_for_the_target_from_the_very_reach_of_80_centimetres_on() -> None:
    def reward(gap: float) -> float:
        obs = observation(BOX, root_height=1.2, box_position=(0.0, 0.0, 0.45), root_position=(gap, 0.0))
        return float(BOX.reward(obs, REST, obs))

    assert reward(0.8) == pytest.approx(4.0 - 2.0 * 2.5)
    assert reward(math.nextafter(0.8, 1.0)) == pytest.approx(1.2)


def test_box_success_is_resting_at_the_target_and_not_sliding_past_it() -> None:
    def run(x: FloatArray) -> FloatArray:
        obs = np.tile(observation(BOX, box_position=(0.0, 0.0, 0.45)), (len(x), 1))
        obs[:, BOX.observation_spec.slices["box_position"].start] = x
        return obs

    arriving = np.minimum(1.5 + 0.01 * np.arange(300), 2.3)
    assert BOX.success(run(arriving)) is True
    assert BOX.success(run(arriving)[:124]) is None
    assert BOX.success(run(np.minimum(arriving, 2.1))) is False
    passing = run(1.5 + 0.008 * np.arange(150))  # at 1 m/s, and on the target in the end
    assert BOX.distance(passing)[-1] < 0.3 and BOX.success(passing) is False
    np.testing.assert_allclose(BOX.distance(passing), np.abs(passing[:, 34] - 2.5))
    passed = BOX.measures(run(np.linspace(1.5, 3.0, 31)))
    assert (passed["final_distance"], passed["least_distance"]) == pytest.approx((0.5, 0.0))
