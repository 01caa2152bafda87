"""Delays: the state is rolled forward through what is under way, and `polo bench latency` says what that gains."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polo_ros.agents.polo import PoloConfig
from polo_ros.agents.run import PoloRun
from polo_ros.bench.latency import CASES, Case, bench_latency
from polo_ros.config import replace
from polo_ros.drivers.mujoco import MujocoDriver, MujocoSettings
from polo_ros.dynamics.mujoco import MujocoDynamics
from polo_ros.safety.timeline import TimedPlan
from polo_ros.session.loop import RobotLoop, Sample
from polo_ros.tasks.cartpole_swingup import CartpoleSwingup

TASK = CartpoleSwingup()
DT = TASK.control_dt


def samples(driver: MujocoDriver, steps: int, extra: float = 0.0) -> list[Sample]:
    """What a loop with `driver` senses under random plans."""
    driver.connect()
    loop = RobotLoop(TASK, driver, 10.0, actuation_delay=extra)
    loop.start()
    rng = np.random.default_rng(3)
    found = [loop.sense()]
    loop.offer(TimedPlan(1, 0, 0, 0, rng.uniform(-1.0, 1.0, (steps, 1))))
    for _ in range(steps):
        found.append(loop.act(found[-1])[1])
    return found


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 4), st.integers(0, 4))
def test_the_predicted_state_is_the_one_in_which_the_next_command_takes_effect(old: int, late: int) -> None:
    found = samples(MujocoDriver(TASK, 5, MujocoSettings(old * DT, late * DT)), 25)
    dynamics = MujocoDynamics(TASK, 1)
    for step, sample in enumerate(found[: -old - late or None]):
        assert sample.pending.shape == (old + late, 1)
        predicted = dynamics.advance(sample.state, sample.pending) if old + late else sample.state
        np.testing.assert_allclose(predicted[1:], found[step + old + late].state[1:], rtol=0.0, atol=1e-9)
    dynamics.close()


def test_a_delay_that_the_driver_does_not_know_is_added_to_what_it_knows() -> None:
    found = samples(MujocoDriver(TASK, 5, MujocoSettings(DT, DT)), 5, extra=2.4 * DT)
    assert all(sample.pending.shape == (4, 1) for sample in found)  # the nearest number of periods


def test_a_new_episode_has_nothing_under_way_but_rest() -> None:
    driver = MujocoDriver(TASK, 5, MujocoSettings(DT, DT))
    driver.connect()
    loop = RobotLoop(TASK, driver, 10.0)
    loop.start()
    loop.offer(TimedPlan(1, 0, 0, 0, np.ones((9, 1))))
    sample = loop.sense()
    for _ in range(3):
        _, sample = loop.act(sample)
    np.testing.assert_array_equal(sample.pending, 1.0)
    np.testing.assert_array_equal(loop.reset().pending, np.tile(TASK.resting_action, (2, 1)))


def test_without_prediction_plans_are_made_from_the_state_as_it_was_measured() -> None:
    config = replace(PoloConfig(), {"mppi.rollouts": 4, "mppi.horizon": 3})
    seen: dict[bool, list[float]] = {}
    for predict in (True, False):
        with PoloRun(
            TASK, config, seed=0, threads=1, learn=False, robot=MujocoSettings(DT, DT), predict=predict
        ) as run:
            planned, plan = [], run.planner.plan

            def watched(state, *rest, planned=planned, plan=plan):
                planned.append(float(state[0]))
                return plan(state, *rest)

            run.planner.plan = watched  # type: ignore[method-assign]
            run.go(4)
        seen[predict] = planned
    np.testing.assert_allclose(np.subtract(seen[True], seen[False]), 2 * DT)


def test_the_bench_reports_every_delay_and_what_is_wanted() -> None:
    rows = bench_latency(1, (Case("cartpole_swingup", 0.1, lost=0.1), Case("humanoid_stand", 0.016)))
    assert [row["delay_ms"] for row in rows[:6]] == pytest.approx([0, 20, 40, 60, 80, 100])
    assert [row["delay_ms"] for row in rows[6:]] == pytest.approx([0, 24, 40, 64, 80, 104])
    assert [row.get("lost_wanted") for row in rows] == [None, None, 0.1] + [None] * 9
    for row in rows:
        for kind in ("predicting", "not_predicting"):
            first = rows[0 if row["task"] == "cartpole_swingup" else 6]
            lost = 1.0 - row[f"return_{kind}"] / first["return_predicting"]
            assert row[f"lost_{kind}"] == pytest.approx(lost)
    assert {case.task for case in CASES} == {"cartpole_swingup", "humanoid_stand"}
    with pytest.raises(ValueError, match="seeds = 0"):
        bench_latency(0)
