"""What `polo bench polo` says of a run's cost."""

from __future__ import annotations

import json
import time

import pytest

from polo_ros import tasks
from polo_ros.bench import polo
from polo_ros.bench.polo import Case, CoreTime, bench_polo
from polo_ros.cli import main
from polo_ros.dynamics.mujoco import MujocoDynamics
from polo_ros.learning.polo_learner import PoloLearner
from polo_ros.learning.targets import TargetPlanner
from polo_ros.learning.value_function import ValueFunction

WATCHED = (MujocoDynamics.rollout, PoloLearner.update, TargetPlanner.futures, ValueFunction.estimate)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(polo, "CASES", (Case("cartpole_swingup", 1000, 24.0, 4.0), Case("nowhere", 10, 1.0, 0.5)))


def test_parts_add_up_to_the_whole_and_every_number_has_its_name(small, capsys):
    assert main(["bench", "polo", "--steps", "64", "--json"]) == 0
    run, missing, value = json.loads(capsys.readouterr().out)
    parts = ("rollouts_s", "value_s", "targets_s", "regression_s", "rest_s")
    assert list(run) == [
        *("task", "steps", "updates", "wall_s", "cpu_s", *parts, "rest_share", "rest_share_wanted"),
        *("paper_steps", "core_hours", "core_hours_paper", "core_hours_wanted"),
    ]
    assert (run["task"], run["steps"], run["paper_steps"]) == ("cartpole_swingup", 64, 1000)
    assert run["updates"] >= 1
    assert all(run[part] > 0.0 for part in parts)
    assert sum(run[part] for part in parts) == pytest.approx(run["cpu_s"], rel=0.05, abs=0.01)
    assert run["rest_share"] == pytest.approx(run["rest_s"] / run["cpu_s"])
    assert run["core_hours"] == pytest.approx(run["cpu_s"] / 64 * 1000 / 3600)
    assert (run["core_hours_paper"], run["core_hours_wanted"]) == (24.0, 4.0)
    # A task that is not there is said to be missing, and why.
    assert missing.keys() == {"task", "missing"}
    assert missing["task"] == "nowhere" and "unknown task 'nowhere'" in missing["missing"]
    assert value.keys() == {"members", "states", "value_ms", "value_ms_wanted"}
    assert (value["members"], value["states"]) == (6, 120)
    assert value["value_ms"] > 0.0
    # Nothing stays replaced.
    assert (MujocoDynamics.rollout, PoloLearner.update, TargetPlanner.futures, ValueFunction.estimate) == WATCHED


def test_the_runs_are_those_of_the_paper():
    assert [(case.task, case.paper_steps) for case in polo.CASES] == [
        ("humanoid_getup", 12_000),
        ("hand_reorient", 2500),
    ]
    assert tasks.make("humanoid_getup").observation_spec.size == polo.VALUE_ENTRIES


def test_a_run_needs_a_step():
    with pytest.raises(ValueError, match="steps = 0 is below its minimum 1"):
        bench_polo(0)


def spin(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


class Work:
    def outer(self):
        spin(0.02)
        self.inner()
        spin(0.01)

    def inner(self):
        spin(0.05)

    def fail(self):
        spin(0.01)
        raise RuntimeError("no")


def test_time_inside_a_watched_method_is_charged_once():
    inner = Work.inner
    work = Work()
    with CoreTime() as core:
        core.watch(Work, "outer", "regression")
        core.watch(Work, "inner", "rollouts", during={"regression": "targets"})
        core.watch(Work, "fail", "value")
        work.outer()
        work.inner()
        with pytest.raises(RuntimeError):
            work.fail()
        time.sleep(0.03)  # waiting is no work
        spin(0.02)
    expected = {"regression": 0.03, "targets": 0.05, "rollouts": 0.05, "value": 0.01}
    for part, seconds in expected.items():
        assert core.seconds[part] >= seconds
    assert core.seconds["rest"] >= 0.02
    assert Work.inner is inner
