"""PlanTimeline: every control period gets the row that was planned for it, or a reason."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polo_ros.safety.timeline import PlanTimeline, TimedPlan

DT = 0.02


def plan(
    plan_id: int,
    state_step: int,
    first_step: int | None = None,
    horizon: int = 5,
    episode: int = 0,
) -> TimedPlan:
    """A plan whose actions say which plan and which period they are for."""
    first = state_step if first_step is None else first_step
    actions = np.stack((np.full(horizon, plan_id), first + np.arange(horizon)), axis=-1).astype(float)
    return TimedPlan(plan_id, state_step, first, episode, actions)


def test_without_a_plan_there_is_a_reason() -> None:
    played = PlanTimeline(DT, 1.0).action(3)
    assert played.action is None and played.reason == "no plan" and played.plan_id == 0


def test_each_period_gets_its_own_row() -> None:
    timeline = PlanTimeline(DT, 1.0)
    assert timeline.add(plan(1, 10, 12), step=11) == ""
    assert timeline.action(11).reason == "no plan"
    for step in range(12, 17):
        played = timeline.action(step)
        assert played.action is not None
        np.testing.assert_array_equal(played.action, [1, step])
        assert (played.plan_id, played.state_step, played.reason) == (1, 10, "")
        assert played.age == pytest.approx((step - 10) * DT)


def test_a_used_up_plan_is_not_played() -> None:
    timeline = PlanTimeline(DT, 1.0)
    timeline.add(plan(1, 0))
    played = timeline.action(5)
    assert played.action is None and played.reason.startswith("plan used up:") and played.plan_id == 1


def test_a_plan_is_played_up_to_max_plan_age_and_no_longer() -> None:
    timeline = PlanTimeline(0.1, 0.3)
    timeline.add(plan(1, 0, horizon=20))
    assert timeline.action(3).action is not None  # 3 * 0.1 > 0.3 in floating point
    played = timeline.action(4)
    assert played.action is None and played.reason.startswith("plan too old: 0.400 s, allowed 0.300 s")


def test_max_plan_age_may_change_while_a_plan_is_played() -> None:
    timeline = PlanTimeline(DT, 1.0)
    timeline.add(plan(1, 0, horizon=100))
    assert timeline.action(10).action is not None
    timeline.max_plan_age = 0.1
    assert timeline.action(10).action is None
    assert timeline.action(5).action is not None


def test_a_newer_state_wins_from_the_step_its_plan_takes_effect() -> None:
    timeline = PlanTimeline(DT, 1.0)
    timeline.add(plan(1, 0, horizon=10))
    timeline.add(plan(2, 3, 5, horizon=10), step=3)
    assert [timeline.action(step).plan_id for step in (3, 4, 5, 6)] == [1, 1, 2, 2]


def test_a_late_plan_from_an_older_state_is_refused() -> None:
    timeline = PlanTimeline(DT, 1.0)
    timeline.add(plan(2, 3, 4))
    assert timeline.add(plan(1, 2, 6)) == "plan 2 was made from a newer state, step 3"
    assert timeline.action(6).plan_id == 2


def test_the_plan_of_a_restarted_planner_replaces_one_of_the_same_state() -> None:
    timeline = PlanTimeline(DT, 1.0)
    timeline.add(plan(57, 3))
    assert timeline.add(plan(1, 3)) == ""
    assert timeline.action(3).plan_id == 1


def test_plans_that_all_take_effect_later_are_played_in_turn() -> None:
    timeline = PlanTimeline(DT, 1.0)
    for step in range(50):
        assert timeline.add(plan(step + 1, step, step + 2), step=step) == ""
        if step >= 2:
            assert timeline.action(step).plan_id == step - 1


def test_looking_ahead_changes_nothing() -> None:
    timeline = PlanTimeline(DT, 1.0)
    timeline.add(plan(1, 0, horizon=10))
    timeline.add(plan(2, 1, 3, horizon=10))
    assert timeline.action(8).plan_id == 2
    assert timeline.action(2).plan_id == 1


def test_a_reset_forgets_plans_and_refuses_those_of_other_episodes() -> None:
    timeline = PlanTimeline(DT, 1.0)
    timeline.add(plan(1, 0))
    timeline.reset(1)
    assert timeline.action(0).reason == "no plan"
    assert timeline.add(plan(2, 1)) == "made for episode 0, this is episode 1"
    assert timeline.add(plan(3, 1, episode=1)) == ""
    assert timeline.action(1).plan_id == 3


def test_a_plan_from_the_future_cannot_block_those_of_the_present() -> None:
    timeline = PlanTimeline(DT, 1.0)
    assert timeline.add(plan(900, 5000), step=3) == "made from the state of step 5000, this is step 3"
    assert timeline.add(plan(1, 3), step=3) == ""
    assert timeline.action(3).plan_id == 1


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (TimedPlan(1, 0, 0, 0, np.empty((0, 2))), "actions have shape (0, 2)"),
        (TimedPlan(1, 0, 0, 0, np.zeros(4)), "actions have shape (4,)"),
        (plan(1, 5, 4), "takes effect at step 4, before its state's step 5"),
        (plan(1, 0, 60), "takes effect 1.200 s after its state"),
    ],
)
def test_a_contradictory_plan_is_refused_with_the_reason(bad: TimedPlan, reason: str) -> None:
    timeline = PlanTimeline(DT, 1.0)
    assert timeline.add(bad).startswith(reason)
    assert timeline.action(60).reason == "no plan"


@pytest.mark.parametrize(("dt", "age"), [(0.0, 1.0), (float("nan"), 1.0), (0.02, -0.1), (0.02, float("inf"))])
def test_settings_that_make_no_sense_are_refused(dt: float, age: float) -> None:
    with pytest.raises(ValueError, match="finite number of seconds"):
        PlanTimeline(dt, age)


def test_what_is_played_cannot_be_changed_from_outside() -> None:
    timeline = PlanTimeline(DT, 1.0)
    timeline.add(plan(1, 0))
    first = timeline.action(0).action
    assert first is not None
    first[:] = 99.0
    again = timeline.action(0).action
    assert again is not None and again[0] == 1.0


@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 4), st.integers(1, 6), st.booleans()),
        min_size=1,
        max_size=25,
    )
)
def test_any_sequence_of_plans_is_played_as_a_brute_force_search_says(
    events: list[tuple[int, int, int, bool]],
) -> None:
    """Oracle: of all plans taken that are due, the one from the newest state, the later arrival of two."""
    timeline = PlanTimeline(DT, 8 * DT)
    taken: list[TimedPlan] = []
    now = 0
    for number, (back, delay, horizon, tick) in enumerate(events, 1):
        now += tick
        offered = plan(number, max(0, now - back), max(0, now - back) + delay, horizon)
        if timeline.add(offered, step=now) == "":
            taken.append(offered)
        for step in range(now, now + 8):
            due = [p for p in taken if p.first_step <= step]
            best = max(due, key=lambda p: (p.state_step, p.plan_id), default=None)
            played = timeline.action(step)
            assert played.plan_id == (best.plan_id if best else 0)
            fresh = best is not None and step - best.state_step <= 8 and step - best.first_step < len(best.actions)
            assert (played.action is not None) == fresh
            assert bool(played.reason) != fresh
    assert len(timeline._plans) <= 10  # no more than there are periods that a plan may wait
