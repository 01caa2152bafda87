"""Numbers of control periods: none is used twice, whoever is killed, and a wrong one is not believed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from bridges import activate, bridge, control, in_its_thread
from hypothesis import given
from hypothesis import strategies as st

from polo_ros.msg import Plan
from polo_ros.nodes.base import LATEST
from polo_ros.session.numbering import Numbering
from polo_ros.session.step_file import StepFile

DOMAIN = 188


# ---- the file ------------------------------------------------------------------------------------


def test_what_is_used_up_is_kept_and_never_falls(tmp_path: Path) -> None:
    path = tmp_path / "run" / "steps.json"
    file = StepFile(path, "now")
    assert file.read() is None
    for step, episode in ((9, 0), (99, 2), (5, 1), (100, 2)):
        file.write(step, episode)
    assert StepFile(path, "now").read() == (100, 2)
    again = StepFile(path, "now")
    assert again.read() == (100, 2)
    again.write(20, 0)
    assert StepFile(path).read() == (100, 2)
    assert [entry.name for entry in path.parent.iterdir()] == ["steps.json"]
    file.close()
    again.close()


def test_steps_of_another_session_count_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "steps.json"
    StepFile(path, "yesterday").write(1000, 3)
    file = StepFile(path, "today")
    assert file.read() is None
    file.write(7, 0)
    assert StepFile(path, "today").read() == (7, 0)


@pytest.mark.parametrize(
    "text", ["", "noise", "[]", "{}", '{"step": -1, "episode": 0, "started": ""}', '{"step": "x"}']
)
def test_a_file_that_holds_no_steps_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "steps.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="steps.json"):
        StepFile(path).read()


@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 10**6)), min_size=1, max_size=20))
def test_every_text_replaces_the_one_before_completely(tmp_path_factory: Any, written: list[tuple[int, int]]) -> None:
    path = tmp_path_factory.mktemp("steps") / "steps.json"
    file = StepFile(path)
    for step, episode in written:
        file.write(step, episode)
        json.loads(path.read_text())
    assert file.read() == (max(step for step, _ in written), max(episode for _, episode in written))
    file.close()


# ---- the bridge ----------------------------------------------------------------------------------


def test_a_bridge_whose_planner_forgot_too_uses_no_step_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = f"run_dir:={tmp_path}"
    steps, episodes, free = [], [], 0
    for _ in range(3):
        with bridge(monkeypatch, DOMAIN, run_dir, "started:='1'") as (node, heard):
            control(node, heard)
            kept = StepFile(tmp_path / "steps.json").read()
            # What is written down is ahead of control: whenever it is killed, that holds.
            assert kept is not None and kept[0] >= heard[-1].step
        assert heard[0].step == free
        steps += [transition.step for transition in heard]
        episodes.append({transition.episode for transition in heard})
        free = (StepFile(tmp_path / "steps.json").read() or (0, 0))[0] + 1
    assert steps == sorted(set(steps)) and episodes == [{0}, {1}, {2}]
    with bridge(monkeypatch, DOMAIN, run_dir, "started:='2'") as (node, heard):
        control(node, heard)
        assert heard[0].step == 0  # another session


def test_a_bridge_goes_on_behind_the_last_step_when_it_is_activated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with bridge(monkeypatch, DOMAIN) as (node, heard):
        control(node, heard)
        for _ in range(2):
            in_its_thread(node, node.trigger_deactivate)
            in_its_thread(node, node.trigger_cleanup)
            control(node, heard)
        steps = [transition.step for transition in heard]
        assert steps == sorted(set(steps)) and steps[-1] < len(steps) + 10
        assert heard[-1].episode == 2


def test_steps_that_cannot_be_read_are_said_and_control_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "steps.json").write_text("noise")
    with bridge(monkeypatch, DOMAIN, f"run_dir:={tmp_path}") as (node, heard):
        control(node, heard)
        assert "steps.json holds no steps" in node._unsaid + node.problem
        assert heard[0].step == 0
    assert StepFile(tmp_path / "steps.json").read() is not None


def test_plans_that_arrive_at_once_do_not_push_each_other_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a rival's could hide that the planner which is obeyed has spoken."""
    with bridge(monkeypatch, DOMAIN, spin=False) as (node, _):
        activate(node)
        publishers = [node.create_publisher(Plan, "plan", LATEST) for _ in range(2)]
        for publisher in publishers:
            while publisher.get_subscription_count() == 0:
                time.sleep(0.01)
            publisher.publish(Plan())
            assert publisher.wait_for_all_acked()
        limit = time.monotonic() + 10.0
        while node.counts["plans_refused"] < len(publishers):
            assert time.monotonic() < limit, "a plan was lost"
            node.executor.spin_once(timeout_sec=0.1)


# ---- steps in messages ---------------------------------------------------------------------------


def test_a_wrong_step_among_right_ones_is_not_believed() -> None:
    numbering = Numbering()
    for step in range(200):
        assert numbering.objection(step) == ""
        assert "is far ahead of the last one" in numbering.objection(step + 10_000)
        assert "is far ahead of the last one" in numbering.objection(step + 10_001)
    assert numbering.objection(3) == ""  # that it is old is for others to say


def test_a_robot_that_went_on_far_ahead_is_believed_after_a_few() -> None:
    numbering = Numbering(100)
    refused = [step for step in range(10_000, 10_020) if numbering.objection(step)]
    assert refused == list(range(10_000, 10_000 + Numbering.FOLLOWERS))
    assert numbering.objection(10_020) == ""


def test_what_a_restart_leaves_out_is_no_gap() -> None:
    numbering = Numbering()
    assert numbering.objection(2**40) == ""  # who joins late knows nothing
    assert numbering.objection(2**40 + Numbering.GAP) == ""
    assert numbering.objection(2**40 + 2 * Numbering.GAP + 1) != ""
