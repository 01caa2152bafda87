"""A run is summarised truthfully: numbers, picture and video, with or without parts of it."""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bag_samples as samples
import mujoco
import numpy as np
import pytest
from PIL import Image

from polo_ros.replay import summary as module
from polo_ros.replay import video
from polo_ros.replay.bag_types import BagError
from polo_ros.replay.bag_writer import BagWriter
from polo_ros.replay.cli import add_bag_commands
from polo_ros.replay.session_info import SessionInfo
from polo_ros.replay.summary import format_table, summarise
from polo_ros.tasks.base import FloatArray, ObservationSpec, Task

MODEL = """
<mujoco><option timestep="0.02"/><worldbody><light pos="0 0 3"/><camera pos="0 -2 0" xyaxes="1 0 0 0 0 1"/>
<body><joint name="j" type="slide" axis="1 0 0"/>
<geom size=".1"/></body></worldbody><actuator><motor joint="j"/></actuator></mujoco>
"""


class Joint(Task):
    """One sliding joint; done when the last observation is above 1."""

    name = "joint"
    description = "a test"
    control_dt = samples.DT
    discount = 0.99
    observation_spec = ObservationSpec((("place", 1), ("one", 1)))

    def __init__(self) -> None:
        self.model = mujoco.MjModel.from_xml_string(MODEL)

    def reset(self, rng: np.random.Generator) -> FloatArray:
        return np.zeros(self.nstate)

    def observe(self, sensordata: FloatArray) -> FloatArray:
        return sensordata

    def reward(self, obs: Any, action: Any, next_obs: Any) -> Any:
        return obs[..., 0]

    def success(self, observations: FloatArray) -> bool | None:
        return bool(observations[-1, 0] > 1.0)

    def measures(self, observations: FloatArray) -> Mapping[str, float]:
        return {"end": float(observations[-1, 0]), "too_short": float("nan")}


@pytest.fixture
def joint(monkeypatch: pytest.MonkeyPatch) -> Joint:
    task = Joint()

    def make(name: str) -> Task:
        if name != "joint":
            raise ValueError(f"unknown task '{name}'; tasks: joint")
        return task

    monkeypatch.setattr("polo_ros.tasks.make", make)
    return task


@pytest.fixture
def no_video(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "make_video", lambda *_: "no offscreen GL: test")


def _session(**changes: Any) -> SessionInfo:
    facts = {"task": "joint", "seed": 7, "clock": "lockstep", "driver": "mujoco", "control_dt": samples.DT, **changes}
    return SessionInfo(versions={"mujoco": "4"}, started="2026-01-02T03:04:05+00:00", **facts)


def _run(folder: Path, task: Task, transitions: list[dict[str, Any]], wall_dt: float = samples.DT) -> None:
    """A run folder with these transitions, a planner status with each and a learner status with every fourth."""
    session = _session(model_hash=task.model_hash)
    session.save(folder / "session.yaml")
    with BagWriter(folder / "bag", samples.topics(), 0.0, session.to_metadata()) as writer:
        for row, fields in enumerate(transitions):
            now = samples.START + round(row * wall_dt * 1e9)
            step = fields.get("step", row)
            writer.write(
                "/transition", samples.transition(**{"step": step, "model_hash": task.model_hash, **fields}), now, now
            )
            status = samples.cdr(
                "polo_ros/msg/PlannerStatus",
                step=step,
                plan_id=row + 1,
                plan_ms=float(row + 1),
                latency_ms=float(row + 2),
                deadline_ms=18.0,
                deadlines_missed=row // 5,
                weights_swapped=row // 4,
                infeasible_plans=3 * row,
                weights_version=row // 4,
                value_gate=0.5,
            )
            writer.write("/planner/status", status, now, now)
            if row % 4 == 3:
                learner = samples.cdr(
                    "polo_ros/msg/LearnerStatus", step=step, version=row // 4 + 1, value_loss=2.0 / row
                )
                writer.write("/learner/status", learner, now, now)


def test_a_run_is_summarised(tmp_path: Path, joint: Joint, no_video: None) -> None:
    _run(tmp_path, joint, [{"weights_version": row // 4} for row in range(20)], wall_dt=samples.DT / 2)
    facts = summarise(tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text()) == facts
    assert (facts["task"], facts["seed"], facts["clock"], facts["driver"]) == ("joint", 7, "lockstep", "mujoco")
    assert facts["versions"] == {"mujoco": "4"}
    assert facts["steps"] == 20
    assert facts["duration_s"] == pytest.approx(20 * samples.DT)
    assert facts["real_time_factor"] == pytest.approx(2.0)
    assert (facts["missed_steps"], facts["safe_stops"], facts["transitions_lost"]) == (0, 0, 0)
    assert facts["plan_ms_p50"] == pytest.approx(10.5)
    assert facts["plan_ms_p99"] == pytest.approx(np.percentile(np.arange(1, 21), 99))
    assert facts["latency_ms_p50"] == pytest.approx(11.5)
    assert facts["deadlines_missed"] == 3
    assert facts["episode_returns"] == [20.0]
    assert facts["success"] is True
    assert facts["measures"] == {"end": 2.0, "too_short": None}
    assert {line.strip() for line in format_table(facts).splitlines()} >= {
        "end                   2",
        "too short             -",
    }
    assert (facts["weights_swapped"], facts["weights_version"]) == (4, 4)
    assert facts["value_loss"] == pytest.approx(2.0 / 19)
    assert facts["learner_version"] == 5
    assert facts["bag_messages"] == 45
    assert facts["bag_bytes"] == (tmp_path / "bag" / "bag_0.mcap").stat().st_size
    assert facts["bag_problems"] == []
    assert facts["notes"] == ["video: no offscreen GL: test"]
    with Image.open(tmp_path / "summary.png") as image:
        assert image.format == "PNG" and min(image.size) > 500


def test_missed_steps_are_gaps_and_safe_stops_after_the_first_plan(
    tmp_path: Path, joint: Joint, no_video: None
) -> None:
    stopped = {"safe_stop": True, "plan_id": 0}
    steps = [{"step": 0, **stopped}, {"step": 1, **stopped}, {"step": 2}, {"step": 3, **stopped}, {"step": 6}]
    _run(tmp_path, joint, steps)
    facts = summarise(tmp_path)
    assert facts["safe_stops"] == 3
    assert facts["transitions_lost"] == 2
    assert facts["missed_steps"] == 3
    assert facts["bag_problems"] == ["/transition: 2 steps are missing: 3 -> 6"]


def test_returns_are_per_episode_and_success_is_of_the_last_that_ended(
    tmp_path: Path, joint: Joint, no_video: None
) -> None:
    low, high = np.array([0.0, 1.0]), np.array([5.0, 1.0])
    steps = [
        {"episode": 0, "reward": 1.0, "next_observation": low},
        {"episode": 0, "reward": 2.0, "next_observation": high, "truncated": True},
        {"episode": 1, "reward": 4.0, "next_observation": low},
    ]
    _run(tmp_path, joint, steps)
    facts = summarise(tmp_path)
    assert facts["episode_returns"] == [3.0, 4.0]
    assert facts["success"] is True


class Counting(Joint):
    """Says how many observations it was given, and what they add up to."""

    def measures(self, observations: FloatArray) -> Mapping[str, float]:
        return {"seen": float(len(observations)), "sum": float(observations[:, 0].sum())}


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize(("limit", "kept"), [(1 << 20, 51), (16 * 20, 23)])
def test_of_an_episode_that_takes_very_long_the_last_observations_are_judged(
    tmp_path: Path, joint: Joint, no_video: None, monkeypatch: pytest.MonkeyPatch, limit: int, kept: int, ends: bool
) -> None:
    monkeypatch.setattr("polo_ros.tasks.make", lambda name: Counting())
    monkeypatch.setattr(module._Episode, "BLOCK", 4)
    monkeypatch.setattr(module._Episode, "MAX_BYTES", limit)  # 20 observations of two numbers, or all
    places = np.linspace(0.1, 3.1, 51)
    steps: list[dict[str, Any]] = [
        {"observation": np.array([place, 1.0]), "next_observation": np.array([after, 1.0])}
        for place, after in itertools.pairwise(places)
    ]
    steps[-1]["truncated"] = ends
    _run(tmp_path, joint, steps)
    facts = summarise(tmp_path)
    # 50 observations are 12 blocks and 2; of the blocks the last 5 stay, and what the episode ended with.
    assert facts["measures"] == {"seen": float(kept), "sum": pytest.approx(places[-kept:].sum())}
    assert facts["success"] is True
    told = [note for note in facts["notes"] if "are not kept" in note]
    lost = "success and measures are of the last 23 observations: 28 before are not kept"
    assert told == ([] if kept == 51 else [lost])


def test_observations_of_several_sizes_are_not_judged(tmp_path: Path, joint: Joint, no_video: None) -> None:
    steps = [{"observation": np.zeros(size), "next_observation": np.zeros(2)} for size in (2, 3, 2)]
    _run(tmp_path, joint, steps)
    facts = summarise(tmp_path)
    assert facts["success"] is None and facts["steps"] == 3
    assert "success is not judged: the size of observations changes within the episode" in facts["notes"]


class Sliding(Joint):
    """Costs what it is away from 0."""

    def cost(self, obs: Any, action: Any, next_obs: Any) -> Any:
        return abs(next_obs[..., 0])


def test_costs_are_per_episode_where_the_task_has_them_and_infeasible_plans_are_counted(
    tmp_path: Path, joint: Joint, no_video: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    low, high = np.array([-0.5, 1.0]), np.array([2.0, 1.0])
    steps = [
        {"episode": 0, "next_observation": low},
        {"episode": 0, "next_observation": high, "truncated": True},
        {"episode": 1, "next_observation": low},
    ]
    _run(tmp_path, joint, steps)
    facts = summarise(tmp_path)
    assert facts["episode_costs"] is None and "cost per episode" not in format_table(facts)
    monkeypatch.setattr("polo_ros.tasks.make", lambda name: Sliding())
    facts = summarise(tmp_path)
    assert facts["episode_costs"] == [2.5, 0.5] and facts["infeasible_plans"] == 6
    assert {line.strip() for line in format_table(facts).splitlines()} >= {
        "cost per episode      2.50, 0.50",
        "infeasible plans      6",
    }
    other = tmp_path / "other"
    other.mkdir()
    _run(other, joint, [{"observation": np.zeros(1), "next_observation": np.zeros(0)}])
    assert summarise(other)["episode_costs"] == [None]


def test_the_status_of_a_planner_that_knew_no_limit_is_read(tmp_path: Path, joint: Joint, no_video: None) -> None:
    series = module._Series(("plan_ms", "infeasible_plans"))
    series.add(SimpleNamespace(log_time_ns=1), SimpleNamespace(plan_ms=3.0))  # type: ignore[arg-type]
    assert series.last("plan_ms") == 3.0 and series.known_total("infeasible_plans") is None
    with pytest.raises(AttributeError):
        series.add(SimpleNamespace(log_time_ns=1), SimpleNamespace())  # type: ignore[arg-type]


def test_infeasible_plans_that_no_planner_counted_are_unknown(tmp_path: Path, joint: Joint, no_video: None) -> None:
    samples.write_bag(tmp_path / "bag", metadata=_session().to_metadata())
    facts = summarise(tmp_path)
    assert facts["infeasible_plans"] is None
    table = format_table({**facts, "episode_costs": [0.0]})
    assert "infeasible plans      -" in [line.strip() for line in table.splitlines()]


def test_counters_of_a_restarted_planner_add_up() -> None:
    series = module._Series(("deadlines_missed",))
    series.columns["deadlines_missed"].extend([0, 2, math.nan, 3, 0, 1, 1, 0, 4])
    assert series.total("deadlines_missed") == 3 + 1 + 4


def test_without_task_planner_and_learner_the_rest_is_summarised(tmp_path: Path, joint: Joint, no_video: None) -> None:
    samples.write_bag(tmp_path / "bag", metadata=_session(task="unheard_of").to_metadata())
    facts = summarise(tmp_path)
    assert facts["steps"] == 20
    assert facts["success"] is None and facts["plan_ms_p50"] is None and facts["value_loss"] is None
    assert any("unknown task 'unheard_of'" in note for note in facts["notes"])
    assert any("session.yaml is missing" in note for note in facts["notes"])
    assert any(note.startswith("video: none") for note in facts["notes"])
    assert "unheard_of" in format_table(facts)


def test_a_run_of_another_model_is_not_judged(tmp_path: Path, joint: Joint, no_video: None) -> None:
    _run(tmp_path, joint, [{"model_hash": "feed"}] * 1)
    facts = summarise(tmp_path)
    assert facts["success"] is None
    assert any("was feed" in note for note in facts["notes"])


def test_a_bag_without_transitions_is_summarised(tmp_path: Path, joint: Joint, no_video: None) -> None:
    _run(tmp_path, joint, [])
    facts = summarise(tmp_path)
    assert (facts["steps"], facts["episode_returns"], facts["real_time_factor"]) == (0, [], None)
    assert format_table(facts)
    assert (tmp_path / "summary.png").exists()


def test_a_truncated_bag_and_a_broken_session_file_are_summarised(tmp_path: Path, joint: Joint, no_video: None) -> None:
    _run(tmp_path, joint, [{}] * 1)
    path = tmp_path / "bag" / "bag_0.mcap"
    path.write_bytes(path.read_bytes()[:-30])
    (tmp_path / "session.yaml").write_text("a: [")
    facts = summarise(tmp_path)
    assert (facts["task"], facts["steps"]) == ("joint", 1)
    assert any("recording was cut" in problem for problem in facts["bag_problems"])
    assert any("not a session file" in note for note in facts["notes"])


def test_numbers_that_are_not_finite_become_null(tmp_path: Path, joint: Joint, no_video: None) -> None:
    _run(tmp_path, joint, [{"reward": float("nan")}, {"step": 1, "next_observation": np.array([np.inf, 0.0])}])
    facts = summarise(tmp_path)
    assert facts["episode_returns"] == [None]
    assert json.loads((tmp_path / "summary.json").read_text()) == facts


def test_the_table_is_aligned(tmp_path: Path, joint: Joint, no_video: None) -> None:
    _run(tmp_path, joint, [{}] * 3)
    lines = format_table(summarise(tmp_path)).splitlines()[1:-1]
    assert len({len(line) - len(line[2:].lstrip()) for line in lines}) == 1
    starts = {len(line[:22].rstrip()) for line in lines}
    assert max(starts) <= 21, "names end before the values' column"
    assert all(line[23:25].strip() for line in lines), "values start in one column"


def test_without_a_bag_the_command_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_bag_commands(parser.add_subparsers(required=True))
    arguments = parser.parse_args(["summary", str(tmp_path), "--json"])
    assert arguments.run(arguments) == 1
    assert "no .mcap file" in capsys.readouterr().err
    with pytest.raises(BagError):
        summarise(tmp_path)


def test_the_command_prints_the_table(
    tmp_path: Path, joint: Joint, no_video: None, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(tmp_path, joint, [{}])
    parser = argparse.ArgumentParser()
    add_bag_commands(parser.add_subparsers(required=True))
    for extra in ([], ["--json"]):
        arguments = parser.parse_args(["summary", str(tmp_path), "--no-video", *extra])
        assert arguments.run(arguments) == 0
    out = capsys.readouterr().out
    assert "real-time factor" in out and '"real_time_factor"' in out


def test_a_video_is_made_or_the_reason_is_said(tmp_path: Path, joint: Joint) -> None:
    qpos = np.linspace(-0.5, 0.5, 300)[:, None]
    reason = video.make_video(joint.model, qpos, 6.0, tmp_path / "video.gif", seconds=3.0)
    if reason:
        assert reason.startswith("no offscreen GL: egl: ")
        assert not (tmp_path / "video.gif").exists()
        return
    with Image.open(tmp_path / "video.gif") as image:
        assert image.format == "GIF" and image.size == (320, 240)
        assert 2 <= image.n_frames <= 100  # type: ignore[attr-defined]
        first = np.asarray(image.convert("RGB"))
        image.seek(image.n_frames - 1)  # type: ignore[attr-defined]
        assert (first != np.asarray(image.convert("RGB"))).any(), "the robot does not move"


def test_broken_gl_gives_a_reason_and_costs_nothing(
    tmp_path: Path, joint: Joint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "no_such_gl")
    reason = video.make_video(joint.model, np.zeros((3, 1)), 1.0, tmp_path / "video.gif")
    assert reason.startswith("no offscreen GL: no_such_gl: ") and "RuntimeError" in reason
    assert list(tmp_path.iterdir()) == []


def test_poses_of_another_model_make_no_video(tmp_path: Path, joint: Joint) -> None:
    assert "the model has 1" in video.make_video(joint.model, np.zeros((3, 2)), 1.0, tmp_path / "video.gif")
    assert "no transitions" in video.make_video(joint.model, np.zeros((0, 1)), 1.0, tmp_path / "video.gif")
