"""Drivers: simulated robots keep the driver's contract."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import pytest

from polo_ros.drivers.base import Driver, DriverError
from polo_ros.drivers.mock import MockDriver, MockSettings
from polo_ros.drivers.mujoco import MujocoDriver, MujocoSettings
from polo_ros.seeding import Stream, generator
from polo_ros.tasks.base import FloatArray
from polo_ros.tasks.cartpole_swingup import CartpoleSwingup
from polo_ros.tasks.humanoid_getup import HumanoidGetup
from polo_ros.tasks.point_mass import PointMassMaze

DRIVERS: list[type[Driver]] = [MujocoDriver, MockDriver]


def trace(driver: Driver, actions: FloatArray) -> FloatArray:
    """Times, positions and velocities after each of actions (T, nu)."""
    rows = []
    for action in actions:
        driver.write(action)
        state = driver.read()
        rows.append(np.concatenate(([state.time], state.qpos, state.qvel, state.act)))
    return np.array(rows)


@pytest.fixture(params=DRIVERS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> type[Driver]:
    found: type[Driver] = request.param
    return found


def test_sizes_are_the_models_and_a_write_is_one_control_period(
    kind: type[Driver],
) -> None:
    for task in (CartpoleSwingup(), HumanoidGetup()):
        driver = kind(task, 0)
        driver.connect()
        before = driver.read()
        assert (len(before.qpos), len(before.qvel), len(before.act)) == (
            task.model.nq,
            task.model.nv,
            task.model.na,
        )
        driver.write(np.zeros(task.model.nu))
        assert driver.read().time - before.time == pytest.approx(task.control_dt)
        assert driver.simulated and driver.can_reset


def test_reading_changes_nothing_and_gives_memory_of_its_own(
    kind: type[Driver],
) -> None:
    driver = kind(CartpoleSwingup(), 0)
    driver.connect()
    first = driver.read()
    kept = first.qpos.copy()
    first.qpos[:] = 99.0
    np.testing.assert_array_equal(driver.read().qpos, kept)


def test_the_same_seed_gives_the_same_run(kind: type[Driver]) -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (100, 21))
    runs = []
    for _ in range(2):
        driver = kind(HumanoidGetup(), 5)
        driver.connect()
        driver.reset(3)
        runs.append(trace(driver, actions))
    np.testing.assert_array_equal(runs[0], runs[1])


def test_time_goes_on_through_resets_and_reconnections(kind: type[Driver]) -> None:
    driver = kind(CartpoleSwingup(), 0)
    driver.connect()
    driver.write(np.zeros(1))
    driver.reset(1)
    assert driver.read().time == pytest.approx(0.02)
    driver.write(np.zeros(1))
    driver.close()
    driver.connect()
    assert driver.read().time == pytest.approx(0.04)


def test_nothing_works_before_connect_or_after_close(kind: type[Driver]) -> None:
    driver = kind(CartpoleSwingup(), 0)
    driver.stop()  # at any time
    for _ in range(2):
        with pytest.raises(DriverError, match="not connected"):
            driver.read()
        with pytest.raises(DriverError, match="not connected"):
            driver.write(np.zeros(1))
        driver.connect()
        driver.read()
        driver.close()


@pytest.mark.parametrize("action", [np.zeros(2), np.array([np.nan]), np.array([[0.0]])])
def test_wrong_controls_are_refused_and_move_nothing(kind: type[Driver], action: FloatArray) -> None:
    driver = kind(CartpoleSwingup(), 0)
    driver.connect()
    before = driver.read()
    with pytest.raises(DriverError, match="are not 1 finite numbers"):
        driver.write(action)
    after = driver.read()
    assert after.time == before.time and (after.qpos == before.qpos).all()


# ---- mujoco ------------------------------------------------------------------------------------


def test_mujoco_episodes_start_where_seed_and_number_say() -> None:
    task = CartpoleSwingup()
    driver = MujocoDriver(task, 7)
    driver.connect()
    for episode in (0, 1, 4):
        driver.reset(episode)
        expected = task.reset(generator(7, Stream.EPISODE, episode))
        np.testing.assert_array_equal(driver.read().qpos, task.unpack(expected)[1])
    assert (driver.read().qpos != task.unpack(task.reset(generator(8, Stream.EPISODE, 4)))[1]).any()


def test_mujoco_steps_physics_as_mujoco_does() -> None:
    task = PointMassMaze()
    driver = MujocoDriver(task, 0)
    driver.connect()
    data = mujoco.MjData(task.model)
    data.qpos[:] = driver.read().qpos
    for action in np.random.default_rng(0).uniform(-1, 1, (50, 2)):
        data.ctrl[:] = action
        mujoco.mj_step(task.model, data, nstep=task.physics_steps)
        driver.write(action)
    np.testing.assert_array_equal(driver.read().qpos, data.qpos)


def test_mujoco_stop_stands_still() -> None:
    driver = MujocoDriver(CartpoleSwingup(), 0)
    driver.connect()
    driver.write(np.ones(1))
    before = driver.read()
    driver.stop()
    driver.stop()
    after = driver.read()
    assert after.time == before.time and (after.qpos == before.qpos).all()


def test_mujoco_divergence_is_named_until_a_reset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings to a file in the working directory
    task = HumanoidGetup()
    driver = MujocoDriver(task, 0)
    driver.connect()
    driver.write(np.zeros(21))
    task.model.actuator_gear[:, 0] = 1e12
    with pytest.raises(
        DriverError,
        match=r"simulation of 'humanoid_getup' diverged after 0\.008 s: bad acceleration",
    ):
        trace(driver, np.ones((50, 21)))
    for attempt in (driver.read, lambda: driver.write(np.zeros(21))):
        with pytest.raises(DriverError, match="diverged"):
            attempt()
    driver.reset(1)
    assert driver.read().time == pytest.approx(0.008)
    driver.write(np.zeros(21))
    assert np.isfinite(driver.read().qpos).all()


class Windy(CartpoleSwingup):
    """A world that moves the cart by chance in every third period, and says when it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, float]] = []

    def disturb(self, state: FloatArray, episode_step: int, rng: np.random.Generator) -> FloatArray | None:
        self.asked.append((episode_step, rng.random()))
        if episode_step % 3:
            return None
        changed = state.copy()
        changed[0] = -1.0  # a time of its own, which is not taken
        changed[1] += 0.5
        return changed


def test_mujoco_lets_the_world_disturb_the_end_of_a_period() -> None:
    task, calm = Windy(), CartpoleSwingup()
    driver, other = MujocoDriver(task, 2), MujocoDriver(calm, 2)
    driver.connect()
    other.connect()
    still = np.zeros((3, 1))
    moved, unmoved = trace(driver, still), trace(other, still)
    np.testing.assert_array_equal(moved[:2], unmoved[:2])
    np.testing.assert_allclose(moved[2] - unmoved[2], [0.0, 0.5, 0.0, 0.0, 0.0], atol=1e-15)


def test_mujoco_draws_a_disturbance_from_seed_episode_and_step() -> None:
    def asked(seed: int, episode: int) -> list[tuple[int, float]]:
        task = Windy()
        driver = MujocoDriver(task, seed)
        driver.connect()
        trace(driver, np.ones((2, 1)))  # of another episode
        driver.reset(episode)
        task.asked.clear()
        trace(driver, np.zeros((4, 1)))
        return task.asked

    first = asked(2, 1)
    assert [step for step, _ in first] == [1, 2, 3, 4]
    assert first == asked(2, 1)
    numbers = [number for key in ((2, 1), (2, 2), (3, 1)) for _, number in asked(*key)]
    assert len(set(numbers)) == 12


def test_mujoco_draws_nothing_for_a_world_that_is_never_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = MujocoDriver(CartpoleSwingup(), 0)
    driver.connect()

    def never(*key: int) -> None:
        raise AssertionError(f"drew random numbers {key}")

    monkeypatch.setattr("polo_ros.drivers.mujoco.generator", never)
    trace(driver, np.zeros((3, 1)))


# ---- mock --------------------------------------------------------------------------------------


def test_mock_joints_go_where_they_are_told_within_their_range() -> None:
    task = HumanoidGetup()
    driver = MockDriver(task, 0)
    driver.connect()
    driver.write(np.full(21, 0.25))
    state = driver.read()
    knee, hip = task.model.joint("right_knee"), task.model.joint("right_hip_z")
    assert state.qpos[hip.qposadr[0]] == pytest.approx(0.25)
    assert state.qvel[hip.dofadr[0]] == pytest.approx(0.25 / task.control_dt)
    assert state.qpos[knee.qposadr[0]] == pytest.approx(knee.range[1])
    np.testing.assert_array_equal(state.qpos[:7], task.model.qpos0[:7])  # nothing drives the root


def test_mock_follows_with_its_time_constant() -> None:
    task = PointMassMaze()
    driver = MockDriver(task, 0, MockSettings(following_time=0.1))
    driver.connect()
    positions = trace(driver, np.tile([1.0, -0.5], (5, 1)))[:, 1:3]
    expected = 1.0 - np.exp(-task.control_dt / 0.1 * np.arange(1, 6))
    np.testing.assert_allclose(positions, expected[:, None] * [1.0, -0.5], atol=1e-12)


def test_mock_noise_is_in_the_measurement_and_not_in_the_motion() -> None:
    driver = MockDriver(PointMassMaze(), 0, MockSettings(noise=0.01))
    driver.connect()
    driver.write(np.array([0.5, 0.5]))
    measured = np.array([driver.read().qpos for _ in range(2000)])
    np.testing.assert_allclose(measured.mean(axis=0), 0.5, atol=1e-3)
    np.testing.assert_allclose(measured.std(axis=0), 0.01, rtol=0.1)


def test_mock_reset_brings_all_joints_home() -> None:
    task = PointMassMaze()
    driver = MockDriver(task, 0)
    driver.connect()
    driver.write(np.ones(2))
    driver.reset(1)
    state = driver.read()
    np.testing.assert_array_equal(state.qpos, task.model.qpos0)
    np.testing.assert_array_equal(state.qvel, 0.0)


@pytest.mark.parametrize("options", [{"following_time": -1.0}, {"noise": float("nan")}])
def test_mock_options_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        MockSettings(**options)


def test_mock_commands_take_effect_late() -> None:
    task = PointMassMaze()
    driver = MockDriver(task, 0, MockSettings(delay=1.5 * task.control_dt))
    driver.connect()
    positions = trace(driver, np.arange(1.0, 6.0)[:, None] * [0.1, 0.1])[:, 1]
    np.testing.assert_allclose(positions, [0.0, 0.0, 0.1, 0.2, 0.3], atol=1e-12)


def test_mock_loses_commands_and_keeps_the_one_before() -> None:
    driver = MockDriver(PointMassMaze(), 3, MockSettings(loss=0.5))
    driver.connect()
    asked = np.arange(1, 401) / 1000.0
    reached = trace(driver, np.repeat(asked[:, None], 2, axis=1))[:, 1]
    kept = np.isclose(reached, asked)
    assert 0.4 < kept.mean() < 0.6
    np.testing.assert_allclose(reached[1:][~kept[1:]], reached[:-1][~kept[1:]])


def test_mock_forgets_commands_under_way_when_it_is_stopped() -> None:
    task = PointMassMaze()
    driver = MockDriver(task, 0, MockSettings(delay=2 * task.control_dt))
    driver.connect()
    trace(driver, np.full((3, 2), 0.2))
    driver.stop()
    positions = trace(driver, np.full((2, 2), 0.4))[:, 1]
    np.testing.assert_allclose(positions, 0.2)


@pytest.mark.parametrize("old", [0, 1, 3])
@pytest.mark.parametrize("late", [0, 2])
def test_a_simulated_robot_with_delays_is_the_one_without_seen_late_and_moved_late(old: int, late: int) -> None:
    task = CartpoleSwingup()
    dt = task.control_dt
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (12, 1))
    prompt, slow = (
        MujocoDriver(task, 4),
        MujocoDriver(task, 4, MujocoSettings(old * dt, (late - 0.5) * dt if late else 0.0)),
    )
    for driver in (prompt, slow):
        driver.connect()
    begin, before = prompt.read(), slow.read()
    assert (before.time, before.age) == (pytest.approx(begin.time), pytest.approx(old * dt))
    np.testing.assert_array_equal(before.qpos, begin.qpos)
    rest = np.tile(task.resting_action, (old + late, 1))
    expected = trace(prompt, np.concatenate((rest, actions)))[:12]
    seen = trace(slow, actions)
    np.testing.assert_allclose(seen, expected, rtol=0.0, atol=1e-12)
    np.testing.assert_allclose(np.diff(seen[:, 0]), dt)
    # A stop forgets what is under way; a reset begins at rest, and time goes on.
    slow.stop()
    if late:
        moved = trace(slow, np.ones((1, 1)))
        slow.reset(1)
        assert slow.read().time > moved[-1, 0] - 1e-9
