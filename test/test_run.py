"""The agent in one process, and the robot's control loop."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from learning_fakes import CartTask

from polo_ros import tasks
from polo_ros.agents.base import required_version
from polo_ros.agents.polo import PoloConfig
from polo_ros.agents.run import run_polo
from polo_ros.config import replace
from polo_ros.drivers.base import RobotState
from polo_ros.drivers.mujoco import MujocoDriver
from polo_ros.safety.timeline import TimedPlan
from polo_ros.session.loop import RobotLoop

SMALL = replace(
    PoloConfig(),
    {
        "mppi.rollouts": 8,
        "mppi.horizon": 10,
        "targets.horizon": 5,
        "targets.rollouts": 4,
        "learner.update_every": 20,
        "learner.gradient_steps": 4,
        "learner.target_states": 8,
    },
)


def cartpole(seed, **options):
    return run_polo(tasks.make("cartpole_swingup"), SMALL, steps=60, seed=seed, **options)


def bits(result):
    return [
        (
            t.step,
            t.episode,
            t.state.tobytes(),
            t.observation.tobytes(),
            t.action.tobytes(),
            t.reward,
            t.next_observation.tobytes(),
            t.plan_id,
            t.weights_version,
        )
        for t in result.transitions
    ]


def test_same_seed_same_transitions_bit_for_bit():
    assert bits(cartpole(3)) == bits(cartpole(3))


def test_threads_change_no_bit():
    assert bits(cartpole(3, threads=1)) == bits(cartpole(3, threads=2))


def test_different_seeds_differ():
    first, second = cartpole(0), cartpole(1)
    assert first.transitions[0].state.tobytes() != second.transitions[0].state.tobytes()
    assert bits(first) != bits(second)


def test_a_run_counts_learns_and_sums_up():
    task = tasks.make("cartpole_swingup")
    seen = []
    result = run_polo(task, SMALL, steps=60, seed=0, watch=lambda transition, plan: seen.append((transition, plan)))
    assert [t.step for t in result.transitions] == list(range(60))
    assert [t.weights_version for t in result.transitions] == [required_version(s, 20) for s in range(60)]
    assert [update.version for update in result.updates] == [1, 2, 3]
    assert all(t.finite and not t.safe_stop for t in result.transitions)
    assert [t for t, _ in seen] == result.transitions
    assert all(plan.rollouts == 8 for _, plan in seen)
    for before, after in zip(result.transitions, result.transitions[1:], strict=False):
        np.testing.assert_array_equal(before.next_observation, after.observation)
    summary = result.summary(task, 0)
    assert (summary["task"], summary["seed"], summary["steps"]) == ("cartpole_swingup", 0, 60)
    assert summary["weights_version"] == 3
    assert (summary["episode_costs"], summary["infeasible_plans"]) == (None, 0)
    assert summary["episode_returns"] == [pytest.approx(sum(t.reward for t in result.transitions))]


def test_without_learning_no_value_is_used():
    result = cartpole(0, learn=False)
    assert not result.updates
    assert {t.weights_version for t in result.transitions} == {0}


class ShortCart(CartTask):
    """An episode is three periods; the motor rests at 0.2."""

    episode_steps = 3

    def __init__(self):
        super().__init__()
        self.model.actuator_ctrlrange[:] = (0.2, 1.0)


def loop_of(task, kind=MujocoDriver, max_plan_age=0.3):
    driver = kind(task, 0)
    driver.connect()
    loop = RobotLoop(task, driver, max_plan_age)
    loop.start()
    return loop


def plan_for(step, value=0.7, rows=50, plan_id=1, episode=0):
    return TimedPlan(plan_id, step, step, episode, np.full((rows, 1), value))


def test_without_a_plan_the_robot_stops_safely():
    loop = loop_of(ShortCart())
    transition, _ = loop.act(loop.sense())
    assert transition.safe_stop
    assert loop.reason == "no plan"
    np.testing.assert_array_equal(transition.action, [0.2])
    assert (transition.plan_id, transition.weights_version) == (0, 0)


def test_stale_plan_stops_the_robot():
    task = CartTask()
    loop = loop_of(task, max_plan_age=0.3)
    sample = loop.sense()
    assert loop.offer(plan_for(0), weights_version=5) == ""
    played = []
    for _ in range(8):
        transition, sample = loop.act(sample)
        played.append((transition.safe_stop, float(transition.action[0]), transition.plan_id))
    # Ages 0, 0.1, 0.2 and 0.3 s are allowed, 0.4 s and more are not.
    assert played == [(False, 0.7, 1)] * 4 + [(True, 0.0, 0)] * 4
    assert loop.reason.startswith("plan too old")
    # A fresh plan takes over again.
    assert loop.offer(plan_for(8, plan_id=2), weights_version=6) == ""
    transition, _ = loop.act(sample)
    assert (transition.safe_stop, transition.plan_id, transition.weights_version) == (False, 2, 6)


def test_a_plan_that_is_used_up_stops_the_robot():
    loop = loop_of(CartTask(), max_plan_age=10.0)
    sample = loop.sense()
    loop.offer(plan_for(0, rows=2))
    stops = []
    for _ in range(3):
        transition, sample = loop.act(sample)
        stops.append(transition.safe_stop)
    assert stops == [False, False, True]
    assert loop.reason.startswith("plan used up")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_plan_that_is_not_finite_stops_the_robot(value):
    loop = loop_of(CartTask())
    sample = loop.sense()
    loop.offer(plan_for(0, value))
    transition, _ = loop.act(sample)
    assert transition.safe_stop
    assert transition.finite


def test_a_plan_out_of_range_is_limited():
    loop = loop_of(CartTask())
    sample = loop.sense()
    loop.offer(plan_for(0, 3.0))
    transition, _ = loop.act(sample)
    assert transition.limited
    assert not transition.safe_stop
    np.testing.assert_array_equal(transition.action, [1.0])


def test_a_reset_counts_the_episode_and_the_step_never_falls():
    loop = loop_of(CartTask())
    sample = loop.sense()
    loop.offer(plan_for(0))
    _, sample = loop.act(sample)
    _, sample = loop.act(sample)
    before = sample.robot.time
    fresh = loop.reset()
    assert (fresh.step, fresh.episode, fresh.episode_step) == (2, 1, 0)
    assert fresh.robot.time >= before
    # What was planned for the last episode is not played in this one.
    transition, after = loop.act(fresh)
    assert transition.safe_stop
    assert (after.step, after.episode, after.episode_step) == (3, 1, 1)
    assert "episode 0" in loop.offer(plan_for(3, episode=0))


def test_episodes_end_by_their_length():
    loop = loop_of(ShortCart())
    sample = loop.sense()
    rows = []
    for _ in range(7):
        transition, sample = loop.act(sample)
        rows.append((transition.step, transition.episode, transition.episode_step, transition.truncated))
    assert rows == [(s, s // 3, s % 3, s % 3 == 2) for s in range(7)]
    assert not transition.terminated


def test_a_requested_reset_ends_the_episode_after_the_period():
    loop = loop_of(CartTask())
    sample = loop.sense()
    loop.reset_requested = True
    transition, sample = loop.act(sample)
    assert transition.truncated
    assert (sample.step, sample.episode, sample.episode_step) == (1, 1, 0)
    assert not loop.reset_requested


def test_a_session_resumes_where_it_is_told_to():
    loop = loop_of(CartTask())
    loop.start(step=40, episode=3)
    sample = loop.sense()
    assert (sample.step, sample.episode, sample.episode_step) == (40, 3, 0)


class LateRobot(MujocoDriver):
    """Its clock goes on by half a second a reading, which control cannot keep up with."""

    simulated = False
    clock = 1000.0  # s

    def read(self) -> RobotState:
        self.clock += 0.5
        return dataclasses.replace(super().read(), time=self.clock)


def test_a_plan_is_too_old_by_the_robots_time_before_it_is_by_the_count_of_periods():
    loop = loop_of(CartTask(), LateRobot, max_plan_age=0.3)
    sample = loop.sense()
    assert loop.offer(plan_for(0)) == ""
    first, sample = loop.act(sample)
    second, _ = loop.act(sample)
    assert (first.safe_stop, second.safe_stop) == (False, True)
    assert loop.reason == "plan too old: 0.500 s, allowed 0.300 s"


def test_time_goes_on_when_control_that_was_late_begins_again():
    loop = loop_of(CartTask(), LateRobot)
    times = []
    for step in (0, 3):
        loop.start(step, episode=step)
        sample = loop.sense()
        for _ in range(3):
            times.append(sample.state[0])
            _, sample = loop.act(sample)
    assert times[0] < 1.0 and times == sorted(set(times))
