"""Authority: one planner commands the robot at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from polo_ros import drivers, tasks
from polo_ros.safety.authority import Authority
from polo_ros.safety.timeline import TimedPlan
from polo_ros.session.loop import RobotLoop


class HandClock:
    """Time that goes on when told to, s."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_first_planner_is_obeyed_until_it_is_silent_for_too_long() -> None:
    clock = HandClock()
    authority = Authority(clock)
    assert authority.objection(7, 0.5) == ""
    authority.heard(7)
    clock.now = 0.5
    assert authority.objection(8, 0.5) == (
        "of planner 0000000000000008, while planner 0000000000000007 is obeyed, last heard 0.500 s ago"
    )
    assert authority.objection(7, 0.5) == ""
    clock.now = 0.51
    assert authority.objection(8, 0.5) == ""
    authority.heard(8)
    assert authority.objection(7, 0.5)
    authority.reset()
    assert authority.objection(7, 0.5) == ""


@given(st.lists(st.tuples(st.integers(1, 3), st.floats(0.0, 1.0)), max_size=40))
def test_two_plans_taken_within_the_patience_are_of_one_planner(arrivals: list[tuple[int, float]]) -> None:
    clock = HandClock()
    authority = Authority(clock)
    taken: list[tuple[int, float]] = []
    for planner, later in arrivals:
        clock.now += later
        if not authority.objection(planner, 0.5):
            authority.heard(planner)
            taken.append((planner, clock.now))
    for (one, before), (other, after) in zip(taken, taken[1:], strict=False):
        assert one == other or after - before > 0.5


def test_a_loop_refuses_the_plans_of_a_second_planner() -> None:
    task = tasks.make("cartpole_swingup")
    driver = drivers.make("mujoco", task, 0)
    driver.connect()
    driver.activate()
    loop = RobotLoop(task, driver, max_plan_age=60.0)
    loop.start()
    actions = np.full((5, 1), 0.25)
    assert loop.offer(TimedPlan(1, 0, 0, 0, actions, planner_id=1)) == ""
    assert "planner 0000000000000002" in loop.offer(TimedPlan(1, 0, 0, 0, -actions, planner_id=2))
    assert loop.act(loop.sense())[0].action[0] == 0.25
    driver.close()


def test_a_plan_that_is_refused_gives_its_planner_no_authority() -> None:
    task = tasks.make("cartpole_swingup")
    driver = drivers.make("mujoco", task, 0)
    driver.connect()
    loop = RobotLoop(task, driver, max_plan_age=60.0)
    loop.start()
    actions = np.zeros((5, 1))
    assert "made for episode 9" in loop.offer(TimedPlan(1, 0, 0, 9, actions, planner_id=1))
    assert loop.offer(TimedPlan(1, 0, 0, 0, actions, planner_id=2)) == ""
    driver.close()
