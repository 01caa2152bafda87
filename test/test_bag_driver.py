"""BagDriver: what was recorded is what is played, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_sessions import play, record, swings, write, write_robots

from polo_ros.drivers.bag import BagDriver, BagSettings
from polo_ros.drivers.base import DriverError
from polo_ros.drivers.guard import GuardedDriver
from polo_ros.drivers.mujoco import MujocoDriver
from polo_ros.replay.transition import Transition
from polo_ros.session.loop import RobotLoop
from polo_ros.tasks.base import FloatArray
from polo_ros.tasks.cartpole_swingup import CartpoleSwingup
from polo_ros.tasks.humanoid_getup import HumanoidGetup
from polo_ros.tasks.point_mass import PointMassBox, PointMassMaze

TASK = CartpoleSwingup()
STEPS = 12
DOMAIN = 140


def still(step: int, state: FloatArray) -> FloatArray:
    return np.zeros(TASK.model.nu)


def states(found: list[Transition]) -> FloatArray:
    return np.array([t.state for t in found])


def driver(path: Path, **settings: Any) -> GuardedDriver:
    """As the bridge has it, connected and active."""
    made = GuardedDriver(BagDriver(TASK, 0, BagSettings(path=str(path), **settings)))
    made.connect()
    made.activate()
    return made


def refusal(path: Path, task: Any = TASK) -> str:
    with pytest.raises(DriverError) as caught:
        BagDriver(task, 0, BagSettings(path=str(path))).connect()
    return str(caught.value)


# ---- what is played ----------------------------------------------------------------------------


def test_a_session_on_a_recording_sees_the_recorded_states_and_times_to_the_last_digit(tmp_path: Path) -> None:
    found = record(tmp_path / "bag", TASK, episodes=3, steps=STEPS)
    again = play(TASK, BagDriver(TASK, 0, BagSettings(path=str(tmp_path / "bag"))), 3 * STEPS, still, STEPS)
    np.testing.assert_array_equal(states(again), states(found))
    assert [(t.episode, t.episode_step, t.truncated) for t in again] == [
        (t.episode, t.episode_step, t.truncated) for t in found
    ]
    # The end of an episode is in no record: it is the model's, which here was the robot.
    np.testing.assert_allclose(
        [t.next_observation for t in again], [t.next_observation for t in found], rtol=0, atol=1e-12
    )


def test_plans_that_depend_on_states_are_the_same_each_time(tmp_path: Path) -> None:
    record(tmp_path / "bag", TASK, episodes=2, steps=STEPS)

    def policy(step: int, state: FloatArray) -> FloatArray:
        return np.tanh(state[1:2] * 1e3 + state[3:4] + state[0])

    runs = [
        play(TASK, BagDriver(TASK, seed, BagSettings(path=str(tmp_path / "bag"))), 2 * STEPS, policy, STEPS)
        for seed in (0, 1)
    ]
    assert [t.action.tobytes() for t in runs[0]] == [t.action.tobytes() for t in runs[1]]


def test_a_run_folder_and_a_single_file_are_played_too(tmp_path: Path) -> None:
    found = record(tmp_path / "bag", TASK, steps=STEPS)
    for path in (tmp_path, tmp_path / "bag" / "bag_0.mcap"):
        np.testing.assert_array_equal(driver(path).read().qpos, TASK.unpack(found[0].state)[1])


def test_an_observed_recording_needs_no_planner(tmp_path: Path) -> None:
    """The safe stop is played where there is no plan, and the recording goes on."""
    found = record(tmp_path / "bag", TASK, steps=STEPS)
    loop = RobotLoop(TASK, driver(tmp_path), max_plan_age=0.5)
    loop.start()
    sample = loop.sense()
    for before in found:
        np.testing.assert_array_equal(sample.state, before.state)
        transition, sample = loop.act(sample)
        assert transition.safe_stop


def test_states_are_recorded_with_their_activations(tmp_path: Path) -> None:
    task = HumanoidGetup()
    found = play(task, MujocoDriver(task, 3), 5, swings(task))
    write(tmp_path / "bag", task, found)
    again = play(task, BagDriver(task, 0, BagSettings(path=str(tmp_path))), 5, swings(task))
    np.testing.assert_array_equal(states(again), states(found))


# ---- episodes, gaps, ends ----------------------------------------------------------------------


def test_a_reset_goes_to_the_recorded_start_of_an_episode_and_keeps_the_time(tmp_path: Path) -> None:
    found = record(tmp_path / "bag", TASK, episodes=3, steps=STEPS)
    robot = driver(tmp_path)
    assert robot.can_reset
    robot.write(np.zeros(1))
    before = robot.read().time
    for episode in (2, 0, 1, 1):
        robot.reset(episode)
        state = robot.read()
        np.testing.assert_array_equal(state.qpos, TASK.unpack(found[episode * STEPS].state)[1])
        assert state.time == pytest.approx(before, abs=1e-9)
        robot.write(np.zeros(1))
        assert robot.read().time == pytest.approx(before + TASK.control_dt, abs=1e-9)
        before = robot.read().time
    robot.reset(3)
    assert robot.read().time == pytest.approx(before, abs=1e-9)
    with pytest.raises(DriverError, match="the recording is over"):
        robot.write(np.zeros(1))


def test_past_the_end_of_an_episode_a_reset_is_due(tmp_path: Path) -> None:
    record(tmp_path / "bag", TASK, episodes=2, steps=STEPS)
    robot = driver(tmp_path)
    for _ in range(STEPS):
        robot.write(np.zeros(1))
    with pytest.raises(DriverError, match="episode 0 of the recording is over, and a reset is due"):
        robot.write(np.zeros(1))
    robot.reset(1)
    for _ in range(STEPS):
        robot.write(np.zeros(1))
    for _ in range(2):  # and stays over, in a new connection as well
        with pytest.raises(DriverError, match="the recording is over: .* bag.loop begins again"):
            robot.write(np.zeros(1))
        robot.close()
        robot.connect()
        robot.activate()


def test_loop_begins_again_and_time_goes_on(tmp_path: Path) -> None:
    found = record(tmp_path / "bag", TASK, steps=STEPS)
    robot = driver(tmp_path, loop=True)
    times = [robot.read().time]
    for _ in range(2 * STEPS + 3):
        robot.write(np.zeros(1))
        times.append(robot.read().time)
    np.testing.assert_allclose(np.diff(times), TASK.control_dt, atol=1e-9)
    # One state more than was recorded: what the last action led to.
    np.testing.assert_array_equal(robot.read().qpos, TASK.unpack(found[1].state)[1])


def test_episodes_of_a_loop_begin_again_too(tmp_path: Path) -> None:
    found = record(tmp_path / "bag", TASK, episodes=2, steps=STEPS)
    robot = driver(tmp_path, loop=True)
    robot.reset(5)
    np.testing.assert_array_equal(robot.read().qpos, TASK.unpack(found[STEPS].state)[1])


def test_a_gap_is_led_over_in_one_period_and_time_with_it(tmp_path: Path) -> None:
    found = record(tmp_path / "bag", TASK, steps=STEPS, lost={4, 5, 6})
    robot = driver(tmp_path)
    for t in found:
        state = robot.read()
        np.testing.assert_array_equal(state.qpos, TASK.unpack(t.state)[1])
        assert state.time == t.state[0]
        robot.write(np.zeros(1))


def test_a_robot_that_was_connected_again_is_one_episode_without_resets(tmp_path: Path) -> None:
    """Its episodes were not ended by a reset: nobody put the robot back."""
    found = play(TASK, MujocoDriver(TASK, 0), 2 * STEPS, swings(TASK))
    found[STEPS:] = [dataclasses.replace(t, episode=1, step=t.step + 1) for t in found[STEPS:]]
    write(tmp_path / "bag", TASK, found)
    robot = driver(tmp_path)
    assert not robot.can_reset
    with pytest.raises(DriverError, match="never reset"):
        robot.reset(1)
    again = play(TASK, BagDriver(TASK, 0, BagSettings(path=str(tmp_path))), 2 * STEPS, still)
    np.testing.assert_array_equal(states(again), states(found))
    assert {t.episode for t in again} == {0}


def test_time_never_goes_back_where_the_records_does(tmp_path: Path) -> None:
    """Two sessions in one bag."""
    first, second = (play(TASK, MujocoDriver(TASK, seed), STEPS, swings(TASK)) for seed in (0, 1))
    write(tmp_path / "bag", TASK, [*first, *(dataclasses.replace(t, episode=1) for t in second)])
    robot = driver(tmp_path)
    times = []
    for t in [*first, *second]:
        times.append(robot.read().time)
        np.testing.assert_array_equal(robot.read().qpos, TASK.unpack(t.state)[1])
        robot.write(np.zeros(1))
    np.testing.assert_allclose(np.diff(times), TASK.control_dt, atol=1e-9)


def test_states_that_are_no_numbers_are_left_out_and_counted(tmp_path: Path) -> None:
    found = play(TASK, MujocoDriver(TASK, 0), STEPS, swings(TASK))
    found[3] = dataclasses.replace(found[3], state=np.full(TASK.nstate, np.nan) * [0, 1, 1, 1, 1])
    found[3].state[0] = found[2].state[0] + TASK.control_dt
    write(tmp_path / "bag", TASK, found)
    robot = driver(tmp_path)
    for _ in range(3):
        robot.write(np.zeros(1))
    np.testing.assert_array_equal(robot.read().qpos, TASK.unpack(found[4].state)[1])
    status = robot.status()
    assert status["transitions_left_out"] == 1 and status["recorded_period"] == f"3 of {STEPS - 1}"


def test_an_end_that_the_model_cannot_continue_stays_where_it_is(tmp_path: Path) -> None:
    found = play(TASK, MujocoDriver(TASK, 0), 2, swings(TASK))
    found[1].state[3] = 1e300  # rad/s
    write(tmp_path / "bag", TASK, found)
    robot = driver(tmp_path)
    robot.write(np.zeros(1))
    before = robot.read()
    robot.write(np.zeros(1))
    after = robot.read()
    np.testing.assert_array_equal(after.qpos, before.qpos)
    assert after.time == pytest.approx(before.time + TASK.control_dt)


@pytest.mark.parametrize("action", [np.zeros(2), np.array([np.nan]), np.array([[0.0]])])
def test_wrong_controls_are_refused_and_play_nothing(tmp_path: Path, action: FloatArray) -> None:
    record(tmp_path / "bag", TASK, steps=STEPS)
    robot = BagDriver(TASK, 0, BagSettings(path=str(tmp_path)))
    robot.connect()
    before = robot.read()
    with pytest.raises(DriverError, match="are not 1 finite numbers"):
        robot.write(action)
    assert robot.read().time == before.time


def test_one_of_several_robots_is_chosen_by_its_topic(tmp_path: Path) -> None:
    robots = {f"/robot{k}/transition": play(TASK, MujocoDriver(TASK, k), STEPS, swings(TASK)) for k in (1, 2)}
    write_robots(tmp_path / "bag", TASK, robots)
    assert "/robot1/transition, /robot2/transition; name the topic" in refusal(tmp_path)
    for name, found in robots.items():
        np.testing.assert_array_equal(driver(tmp_path, topic=name).read().qpos, TASK.unpack(found[0].state)[1])


# ---- recordings that cannot be played ----------------------------------------------------------


def test_a_recording_of_another_task_is_refused_with_both_names(tmp_path: Path) -> None:
    record(tmp_path / "bag", TASK, steps=3)
    task = PointMassMaze()
    assert "recorded with task 'cartpole_swingup'" in refusal(tmp_path, task)
    assert f"not with 'point_mass_maze' (model {task.model_hash})" in refusal(tmp_path, task)
    assert TASK.model_hash in refusal(tmp_path, task)


def test_a_recording_of_another_model_is_refused_with_both_hashes(tmp_path: Path) -> None:
    box, maze = PointMassBox(), PointMassMaze()
    assert box.model_hash != maze.model_hash
    write(tmp_path / "bag", box, play(box, MujocoDriver(box, 0), 3, swings(box)), info={"task": maze.name})
    message = refusal(tmp_path, maze)
    assert f"model {box.model_hash}" in message and f"model {maze.model_hash}" in message


def test_a_recording_of_another_control_period_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "bag", TASK, play(TASK, MujocoDriver(TASK, 0), 3, still), info={"control_dt": "0.05"})
    assert "recorded with a control period of 0.05 s, task 'cartpole_swingup' has 0.02 s" in refusal(tmp_path)


def test_what_is_no_recording_is_named(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="bag.path is empty"):
        BagDriver(TASK, 0).connect()
    assert "no such bag" in refusal(tmp_path / "nothing")
    write(tmp_path / "bag", TASK, [])
    assert "no transition in it" in refusal(tmp_path / "bag")
    (tmp_path / "text.mcap").write_text("hello")
    assert "not an MCAP file" in refusal(tmp_path / "text.mcap")


# ---- a session ---------------------------------------------------------------------------------


@pytest.mark.alone
def test_a_lockstep_session_on_a_recording_plans_what_was_planned_then(tmp_path: Path) -> None:
    from session_runs import transitions, whole_session

    common = ("clock:=lockstep", "duration:=0.6", "threads:=1", "learner:=false")
    whole_session(tmp_path / "sim", DOMAIN, *common)
    config = tmp_path / "bag.yaml"
    config.write_text(f"/**: {{ros__parameters: {{bag.path: {tmp_path / 'sim'}}}}}\n")
    output = whole_session(tmp_path / "shadow", DOMAIN, f"config:={config}", "driver:=bag", *common, timeout=180)
    assert "(seed 0, lockstep, bag)" in output
    robot, shadow = transitions(tmp_path / "sim"), transitions(tmp_path / "shadow")
    assert len(robot) == 30 and all(t.plan_id for t in robot)
    np.testing.assert_array_equal(states(shadow), states(robot))
    assert [t.action.tobytes() for t in shadow] == [t.action.tobytes() for t in robot]
