"""The RC car: its tyres and motion against formulas, its driver, its task."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from polo_ros import drivers, tasks
from polo_ros.agents.configs import CONFIGS
from polo_ros.agents.online import EvaluationConfig
from polo_ros.agents.polo import PoloConfig
from polo_ros.agents.run import PoloRun
from polo_ros.agents.sac import SacAgentConfig, make_run
from polo_ros.config import replace
from polo_ros.drivers.bicycle import Bicycle, Vector
from polo_ros.drivers.mujoco import MujocoDriver, MujocoSettings
from polo_ros.drivers.rc_car import RcCarDriver
from polo_ros.replay.transition import Transition
from polo_ros.seeding import Stream, generator
from polo_ros.session.config import BridgeConfig, for_task
from polo_ros.tasks.base import FloatArray
from polo_ros.tasks.cartpole_swingup import CartpoleSwingup
from polo_ros.tasks.rc_car import RcCar

CAR = Bicycle()
TASK = RcCar()
STILL = (0.0, 0.0, 0.0)
PERIOD, STEPS = 0.1, 200
VELOCITIES = st.tuples(st.floats(-4.0, 6.0), st.floats(-4.0, 4.0), st.floats(-6.0, 6.0))


# ---- tyres -------------------------------------------------------------------------------------


def front_by_formula(angle: float) -> float:
    """For |angle| <= pi/2."""
    c, mu, load = 56.4, 1.37, 12.1
    if abs(angle) > math.atan(3.0 * mu * load / c):
        return -mu * load * math.copysign(1.0, angle)
    t = math.tan(angle)
    return -c * t + c**2 / (3 * mu * load) * abs(t) * t - c**3 / (27 * mu**2 * load**2) * t**3


def rear_by_formula(angle: float, vx: float, wheels: float) -> tuple[float, float]:
    """For |angle| <= pi/2, a car that moves and wheels that do not roll with it."""
    cx, ca, mu, kinetic, load = 103.94, 56.4, 1.37, 1.96, 13.8178
    k = (wheels - vx) / abs(vx)
    sign, k = math.copysign(1.0, k), abs(k)
    g = math.sqrt((cx * k / (1 + k)) ** 2 + (ca * math.tan(angle) / (1 + k)) ** 2)
    if g <= 3 * mu * load:
        f = g - g**2 / (3 * mu * load) + g**3 / (27 * mu**2 * load**2)
    else:
        f = kinetic * load
    return cx / g * (k / (1 + k)) * f * sign, -ca / g * (math.tan(angle) / (1 + k)) * f


def test_forces_are_those_of_the_formulas() -> None:
    for angle in np.linspace(-1.57, 1.57, 81):
        assert CAR.front_force(angle) == pytest.approx(front_by_formula(angle), abs=1e-9)
        for vx, wheels in itertools.product((-2.0, 0.3, 1.5, 4.0), (0.0, 1.0, 3.0, 10.0)):
            assert CAR.rear_force(angle, vx, wheels) == pytest.approx(rear_by_formula(angle, vx, wheels), abs=1e-9)


def test_small_slip_is_linear_and_large_slip_is_friction() -> None:
    assert CAR.front_force(1e-6) == pytest.approx(-56.4e-6, rel=1e-4)
    along, across = CAR.rear_force(1e-6, 1.0, 1.011)
    assert along == pytest.approx(103.94 * 0.011 / 1.011, rel=0.03)
    assert across == pytest.approx(-56.4e-6 / 1.011, rel=0.03)
    for angle in (0.8, 1.2, -1.5):
        assert CAR.front_force(angle) == -math.copysign(1.37 * 12.1, angle)
    assert math.hypot(*CAR.rear_force(0.5, 1.0, 10.0)) == pytest.approx(1.96 * 13.8178)


def test_the_front_tyre_slides_without_a_jump_and_the_rear_one_with_the_sources() -> None:
    limit = math.atan(3 * 1.37 * 12.1 / 56.4)
    before, after = (CAR.front_force(limit + step) for step in (-1e-6, 1e-6))
    assert limit == pytest.approx(0.723, abs=1e-3) and before == pytest.approx(after, abs=1e-8)
    limit = math.atan(3 * 1.37 * 13.8178 / 56.4)
    before, after = (-CAR.rear_force(limit + step, 2.0, 2.0)[1] for step in (-1e-6, 1e-6))
    assert before == pytest.approx(1.37 * 13.8178, rel=1e-5)
    assert after == pytest.approx(1.96 * 13.8178, rel=1e-5)


def test_wheels_that_roll_with_the_car_do_not_drive_it() -> None:
    assert CAR.rear_force(0.0, 2.0, 2.009) == CAR.rear_force(0.0, 2.0, 1.991) == (0.0, 0.0)
    assert CAR.rear_force(0.0, 2.0, 2.011)[0] > 0.5 and CAR.rear_force(0.0, 2.0, 1.989)[0] < -0.5
    # A car that stands gets going by sliding wheels, and is held by nothing.
    assert CAR.rear_force(0.0, 0.005, 3.0) == (pytest.approx(1.37 * 13.8178), 0.0)
    assert CAR.rear_force(0.0, 0.005, 0.0) == (0.0, 0.0)
    assert CAR.slip_angles((0.009, 0.009, 2.0), 0.3) == (0.0, 0.0)


@given(VELOCITIES, st.floats(-0.52, 0.52), st.floats(0.0, 10.0))
def test_a_mirrored_car_moves_as_the_car_in_the_mirror(velocity: Vector, steering: float, wheels: float) -> None:
    vx, vy, rate = velocity
    along, across, turning = CAR.acceleration(velocity, wheels, steering)
    mirrored = CAR.acceleration((vx, -vy, -rate), wheels, -steering)
    assert mirrored == pytest.approx((along, -across, -turning), abs=1e-9)


@given(VELOCITIES, st.floats(-0.52, 0.52))
def test_without_drive_forces_only_take_energy(velocity: Vector, steering: float) -> None:
    vx, vy, rate = velocity
    along, across, turning = CAR.acceleration(velocity, 0.0, steering)
    power = CAR.mass * (vx * along + vy * across) + CAR.inertia * rate * turning
    # Less the 0.01 m/s below which the source's slip is none.
    assert power <= 1e-9


# ---- motion ------------------------------------------------------------------------------------


def drive(velocity: Vector, wheels: float, steering: float, seconds: float, steps: int = STEPS) -> list[Vector]:
    """Velocities at the ends of control periods."""
    found, pose = [velocity], STILL
    for _ in range(round(seconds / PERIOD)):
        pose, velocity = CAR.advance(pose, velocity, wheels, steering, PERIOD, steps)
        found.append(velocity)
    return found


def test_coasting_straight_is_drag_alone() -> None:
    pose, velocity = CAR.advance(STILL, (2.0, 0.0, 0.0), 2.0, 0.0, 0.15, 300)
    assert velocity == pytest.approx((2.0 * math.exp(-0.025 * 0.15), 0.0, 0.0), abs=1e-12)
    assert pose == pytest.approx((2.0 * (1.0 - math.exp(-0.025 * 0.15)) / 0.025, 0.0, 0.0), abs=1e-12)


def test_a_slow_car_turns_as_ackermann_says() -> None:
    for steering in (0.1, 0.3, -0.5):
        vx, vy, rate = drive((0.3, 0.0, 0.0), 0.3, steering, 4.0)[-1]
        of_rear_axle = 0.257 / math.tan(steering)
        radius = math.copysign(math.hypot(of_rear_axle, 0.120), steering)
        assert math.hypot(vx, vy) / rate == pytest.approx(radius, rel=0.03)
        assert vy / vx == pytest.approx(0.120 / of_rear_axle, abs=0.03), "it points inwards by the rear axle's distance"


@settings(max_examples=40)
@given(VELOCITIES, st.floats(-0.52, 0.52))
def test_energy_falls_in_every_step_without_drive(velocity: Vector, steering: float) -> None:
    pose, energies = STILL, [CAR.energy(velocity)]
    for _ in range(40):
        pose, velocity = CAR.advance(pose, velocity, 0.0, steering, 0.01, 20)
        energies.append(CAR.energy(velocity))
    assert (np.diff(energies) <= 1e-9).all()


def test_halving_the_step_gives_a_sixteenth_of_the_error_where_forces_are_smooth() -> None:
    ends = [np.array(CAR.advance(STILL, (2.0, 0.1, 0.5), 2.4, 0.2, 0.2, steps)) for steps in (16, 32, 64, 1024)]
    errors = [np.abs(end - ends[-1]).max() for end in ends[:-1]]
    assert 12.0 < errors[0] / errors[1] < 22.0 and 12.0 < errors[1] / errors[2] < 22.0


def test_the_drivers_step_is_exact_to_a_millimetre_whatever_is_done() -> None:
    rng = np.random.default_rng(1)
    for _ in range(6):
        start: Vector = (rng.uniform(0.0, 2.0), rng.uniform(-0.6, 0.6), rng.uniform(-2.0, 2.0))
        ends = []
        controls = [(rng.uniform(0.0, 10.0), rng.uniform(-0.52, 0.52)) for _ in range(5)]
        for steps in (STEPS, 4 * STEPS):
            pose, velocity = STILL, start
            for wheels, steering in controls:
                pose, velocity = CAR.advance(pose, velocity, wheels, steering, PERIOD, steps)
            ends.append(pose)
        np.testing.assert_allclose(ends[0], ends[1], atol=1e-3)


def on_the_circle(speed: float, guess: tuple[float, float, float]) -> tuple[Vector, float, float]:
    """Velocity, wheels and steering that keep the car on the circle of 1 m, if there are any."""

    def residual(x: FloatArray) -> Vector:
        return CAR.acceleration((speed * math.cos(x[0]), speed * math.sin(x[0]), speed), x[1], x[2])

    found = least_squares(residual, guess, bounds=((-1.57, 0.0, -math.pi / 6), (1.57, 10.0, math.pi / 6)), xtol=1e-12)
    assert found.cost < 1e-10
    slip, wheels, steering = (float(value) for value in found.x)
    return (speed * math.cos(slip), speed * math.sin(slip), speed), wheels, steering


@pytest.mark.parametrize(
    ("speed", "guess", "slip"),
    [(2.0, (0.0, 2.05, 0.24), 0.01), (3.0, (-0.2, 3.3, 0.2), -0.24), (3.8, (-0.82, 5.6, -0.38), -0.82)],
)
def test_there_is_gripping_on_the_circle_and_at_3_8_metres_a_second_drifting(
    speed: float, guess: tuple[float, float, float], slip: float
) -> None:
    velocity, wheels, steering = on_the_circle(speed, guess)
    assert math.atan2(velocity[1], velocity[0]) == pytest.approx(slip, abs=0.02)
    assert (steering < 0.0) == (speed == 3.8), "against the turn"
    sliding = math.hypot(*CAR.rear_force(CAR.slip_angles(velocity, steering)[1], velocity[0], wheels)) > 1.37 * 13.8178
    assert sliding == (speed == 3.8)
    # Seen by the task it stays on the circle for half a turn; how far it points from where it goes is the slip.
    pose = (1.0, 0.0, 0.5 * math.pi - math.atan2(velocity[1], velocity[0]))
    seconds = math.pi / speed
    steps = math.ceil(seconds / 0.0005)
    (x, y, yaw), end = CAR.advance(pose, velocity, wheels, steering, seconds, steps)
    assert math.hypot(x, y) == pytest.approx(1.0, abs=0.02) and (x, y) == pytest.approx((-1.0, 0.0), abs=0.05)
    obs = seen(x, y, yaw, end)
    assert float(TASK.slip(obs)) == pytest.approx(slip, abs=0.05)
    assert float(TASK.heading_error(obs)) == pytest.approx(slip, abs=0.05)


# ---- driver ------------------------------------------------------------------------------------


def test_velocities_of_the_body_are_read_as_those_of_the_world_and_come_back() -> None:
    driver = RcCarDriver(TASK, 3)
    driver.connect()
    _, qpos, qvel, _ = TASK.unpack(TASK.reset(generator(3, Stream.EPISODE, 0)))
    state = driver.read()
    np.testing.assert_allclose(state.qpos, qpos)
    np.testing.assert_allclose(state.qvel, qvel, atol=1e-12)
    rng = np.random.default_rng(0)
    fine = 1e-4
    for _ in range(5):
        driver.write(rng.uniform(-1.0, 1.0, 2))
        state = driver.read()
        observation = TASK.observe(TASK.sense(TASK.pack(state.time, state.qpos, state.qvel, state.act)))
        yaw, (vx, vy, rate) = state.qpos[2], driver._velocity
        # By hand: forwards is (cos, sin) of the world, leftwards (-sin, cos).
        expected = vx * np.array([math.cos(yaw), math.sin(yaw)]) + vy * np.array([-math.sin(yaw), math.cos(yaw)])
        np.testing.assert_allclose(state.qvel, [*expected, rate])
        np.testing.assert_allclose(TASK.observation_spec.view(observation)["velocity"], [vx, vy], atol=1e-9)
        # And it is the rate of the place.
        (x, y, _), _ = CAR.advance(tuple(state.qpos), (vx, vy, rate), 1.0, 0.1, fine, 1)
        np.testing.assert_allclose((np.array([x, y]) - state.qpos[:2]) / fine, state.qvel[:2], atol=0.01)


def test_controls_are_wheels_up_to_ten_metres_a_second_and_steering_up_to_thirty_degrees() -> None:
    for action, wheels, steering in (
        ((-1.0, 0.0), 0.0, 0.0),
        ((0.0, 1.0), 5.0, math.pi / 6),
        ((1.0, -0.5), 10.0, -math.pi / 12),
    ):
        driver = RcCarDriver(TASK, 0)
        driver.connect()
        pose, velocity = driver._pose, driver._velocity
        driver.write(np.array(action))
        assert (driver._pose, driver._velocity) == CAR.advance(pose, velocity, wheels, steering, PERIOD, STEPS)


def test_braking_stops_the_car() -> None:
    driver = RcCarDriver(TASK, 1)
    driver.connect()
    for _ in range(10):
        driver.write(TASK.resting_action)
    assert np.abs(driver.read().qvel).max() < 0.05


def test_one_seed_is_one_run_and_time_goes_on_through_resets() -> None:
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (30, 2))

    def run(seed: int) -> FloatArray:
        driver = RcCarDriver(TASK, seed)
        driver.connect()
        rows = []
        for number, action in enumerate(actions):
            if number == 20:
                driver.reset(7)
            driver.write(action)
            state = driver.read()
            rows.append([state.time, *state.qpos, *state.qvel])
        return np.array(rows)

    np.testing.assert_array_equal(run(4), run(4))
    assert (run(4) != run(5)).any()
    np.testing.assert_allclose(run(4)[:, 0], 0.1 * np.arange(1, 31))


def test_it_simulates_no_other_model() -> None:
    with pytest.raises(ValueError, match="'cartpole_swingup' has joints slider, hinge.*use task 'rc_car'"):
        RcCarDriver(CartpoleSwingup(), 0)


# ---- who simulates a task ----------------------------------------------------------------------


def test_a_task_names_the_driver_that_simulates_it_for_runs_and_sessions() -> None:
    assert type(drivers.simulator(TASK, 0)) is RcCarDriver
    assert type(drivers.simulator(CartpoleSwingup(), 0)) is MujocoDriver
    assert BridgeConfig().driver == "simulation"
    assert drivers.chosen("simulation", "rc_car") == "rc_car"
    assert drivers.chosen("simulation", "cartpole_swingup") == "mujoco"
    assert drivers.chosen("mock", "rc_car") == "mock"
    with pytest.raises(ValueError, match="unknown task 'rc_cra'"):
        drivers.chosen("simulation", "rc_cra")
    # A class says so without its model; what is no class is made.
    assert tasks.simulator("rc_car") == "rc_car"
    with make_run(TASK, SacAgentConfig(), seed=0) as run:
        assert {type(driver) for driver in run._drivers} == {RcCarDriver}
    with PoloRun(TASK, PoloConfig(), seed=0, threads=1, learn=False) as polo:
        assert type(polo.driver) is RcCarDriver
    with pytest.raises(ValueError, match="MujocoSettings are no settings of driver 'rc_car'"):
        drivers.simulator(TASK, 0, MujocoSettings(0.1, 0.0))


# ---- task --------------------------------------------------------------------------------------


def seen(x: float, y: float, yaw: float, velocity: Vector = STILL) -> FloatArray:
    vx, vy, rate = velocity
    c, s = math.cos(yaw), math.sin(yaw)
    qvel = np.array([c * vx - s * vy, s * vx + c * vy, rate])
    return TASK.observe(TASK.sense(TASK.pack(0.0, np.array([x, y, yaw]), qvel, np.empty(0))))


def test_observations_are_where_the_car_is_on_the_circle() -> None:
    # On the left, downwards: along the circle, counter-clockwise.
    np.testing.assert_allclose(seen(-1.1, 0.0, -math.pi / 2, (0.5, -0.2, 3.0)), [0.1, 1, 0, 0.5, -0.2, 3], atol=1e-9)
    # At the top the way is to the left; a car that points up has it at its left.
    np.testing.assert_allclose(seen(0.0, 0.9, math.pi / 2), [-0.1, 0, 1, 0, 0, 0], atol=1e-9)
    for x, y, yaw in ((0.4, 0.8, 2.0), (-0.7, -0.5, -9.0), (0.9, -0.3, 4.0)):
        found = float(TASK.heading_error(seen(x, y, yaw)))
        angle = math.atan2(-x, y) + math.pi - yaw  # as the source has it
        assert found == pytest.approx(math.atan2(math.sin(angle), math.cos(angle)))
        turn = 1.3  # the whole world, turned
        c, s = math.cos(turn), math.sin(turn)
        velocity = (1.0, 0.3, -1.0)
        np.testing.assert_allclose(
            seen(c * x - s * y, s * x + c * y, yaw + turn, velocity), seen(x, y, yaw, velocity), atol=1e-9
        )
    assert np.isfinite(seen(0.0, 0.0, 1.0)).all()


@pytest.mark.parametrize(
    ("x", "yaw", "velocity", "reward", "cost"),
    [
        (-1.0, -math.pi / 2, (1.0, 0.0, 1.0), 0.0, 0.0),
        (-1.15, -math.pi / 2, (0.0, 0.0, 0.0), -0.15 - 0.25, 0.0),
        (-1.25, 0.0, (3.0, 4.0, 0.0), -0.25 - 0.25 * 16.0, 1.0),  # across the circle is not backwards
        (-0.7, math.pi / 2, (0.6, 0.8, 0.0), -0.3 - 0.25 * (math.pi / 2) ** 2, 0.0),  # inside is allowed
    ],
)
def test_reward_and_cost_are_the_circles(x: float, yaw: float, velocity: Vector, reward: float, cost: float) -> None:
    before, after = seen(-1.0, 0.0, 0.0), seen(x, 0.0, yaw, velocity)
    assert TASK.reward(before, None, after) == pytest.approx(reward)
    assert TASK.cost(before, None, after) == cost
    for dtype in (torch.float32, torch.float64):
        tensor = torch.tensor(np.tile(after, (2, 3, 1)), dtype=dtype)
        paid, costs = TASK.reward(None, None, tensor), TASK.cost(None, None, tensor)
        assert paid.dtype == costs.dtype == dtype and paid.shape == costs.shape == (2, 3)
        np.testing.assert_allclose(paid.numpy(), reward, atol=1e-5)
        np.testing.assert_array_equal(costs.numpy(), cost)


def test_starts_are_near_the_circle_and_as_fast_as_the_target_asks() -> None:
    task = RcCar(target_speed=2.0)
    starts = np.array([task.reset(np.random.default_rng(seed)) for seed in range(300)])
    observations = np.array([task.observe(task.sense(start)) for start in starts])
    view = task.observation_spec.view(observations)
    for values, low, high in (
        (view["offset"][:, 0], -0.25, 0.25),
        (np.asarray(task.heading_error(observations)), -math.pi / 3, math.pi / 3),
        (view["velocity"][:, 0], 0.0, 4.0),
        (view["velocity"][:, 1], -0.6, 0.6),
        (view["rotation"][:, 0], -2.0, 2.0),
    ):
        width = high - low
        assert low <= values.min() < low + 0.05 * width and high - 0.05 * width < values.max() <= high
    with pytest.raises(ValueError, match=r"target speed 0.0 m/s is not above 0"):
        RcCar(target_speed=0.0)


def test_the_drift_is_asked_for_by_name_and_with_the_same_settings() -> None:
    task = tasks.make("rc_car_drift")
    assert isinstance(task, RcCar) and task.target_speed == 3.8 and task.simulator == "rc_car"
    for agent in ("loop", "safe_loop", "crr"):
        assert for_task(CONFIGS[agent], task.name, agent=agent) == for_task(CONFIGS[agent], "rc_car", agent=agent)


def along_the_circle(obs: FloatArray) -> FloatArray:
    """Steer as a car that grips must, back to the circle and along it; wheels at the target speed."""
    view = TASK.observation_spec.view(obs)
    steering = math.atan(0.257) + 1.0 * float(TASK.heading_error(obs)) + 0.8 * float(view["offset"][0])
    return np.clip([2.0 * TASK.target_speed / 10.0 - 1.0, steering / (math.pi / 6)], -1.0, 1.0)


def test_a_driver_who_looks_at_the_observation_stays_on_the_circle() -> None:
    driver = RcCarDriver(TASK, 2)
    driver.connect()
    found, rewards = [], []
    for _ in range(TASK.episode_steps + 1):
        state = driver.read()
        found.append(TASK.observe(TASK.sense(TASK.pack(state.time, state.qpos, state.qvel, state.act))))
        rewards.append(float(TASK.reward(None, None, found[-1])))
        driver.write(along_the_circle(found[-1]))
    observations = np.array(found)
    assert TASK.success(observations) is True and TASK.success(observations[:100]) is None
    measures = TASK.measures(observations)
    assert measures["mean_speed"] == pytest.approx(1.0, abs=0.1) and measures["mean_offset"] < 0.2
    assert TASK.measures(observations[50:])["mean_offset"] < 0.1
    assert measures["outside_periods"] == np.count_nonzero(observations[1:, 0] > 0.2)
    assert np.mean(rewards[50:]) > -0.1
    assert TASK.success(observations + np.array([0.5, 0, 0, 0, 0, 0])) is False, "outside"
    assert TASK.success(observations * np.array([1.0, 1.0, 1.0, 0.5, 0.5, 1.0])) is False, "too slow"
    assert math.isnan(TASK.measures(np.array([seen(-1.0, 0.0, 0.0)]))["mean_slip"])


# ---- a session ---------------------------------------------------------------------------------


@pytest.mark.alone
def test_a_session_drives_the_car_as_a_run_in_one_process_does(tmp_path: Path) -> None:
    from session_runs import transitions, whole_session

    file = tmp_path / "small.yaml"
    own = {"sac.update_every": 10, "sac.warmup": 10, "sac.gradient_steps": 2, "sac.batch_size": 8}
    own["networks.hidden"] = 8
    file.write_text("/**:\n  ros__parameters:\n" + "".join(f"    {name}: {value}\n" for name, value in own.items()))
    arguments = ("task:=rc_car", "agent:=sac", "clock:=lockstep", "duration:=4", f"config:={file}", "seed:=3")
    whole_session(tmp_path / "run", 191, *arguments)
    found = transitions(tmp_path / "run")
    expected: list[Transition] = []
    config = SacAgentConfig(evaluation=EvaluationConfig(every=0, episodes=1, steps=2))
    config = replace(for_task(config, "rc_car", agent="sac"), own)
    with make_run(TASK, config, seed=3) as run:
        run.go(40, expected.append)
    rows = [[(t.step, t.state.tobytes(), t.action.tobytes(), t.reward) for t in one] for one in (found, expected)]
    assert len(rows[0]) == 40 and rows[0] == rows[1]
    assert '"driver": "rc_car"' in (tmp_path / "run" / "summary.json").read_text()
