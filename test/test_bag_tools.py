"""`polo bag info|check|recover`: what is inside, what is wrong, and a whole bag from a broken one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import bag_samples as samples
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rosbags.highlevel import AnyReader

from polo_ros.replay import bag_tools
from polo_ros.replay.bag_reader import read_metadata_yaml, read_transitions
from polo_ros.replay.bag_types import BagError
from polo_ros.replay.cli import add_bag_commands
from polo_ros.replay.session_info import SessionInfo, versions


def _polo(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_bag_commands(parser.add_subparsers(required=True))
    arguments = parser.parse_args(words)
    return int(arguments.run(arguments))


SESSION = SessionInfo(
    task="joint",
    model_hash="0123456789abcdef",
    seed=7,
    clock="lockstep",
    driver="mujoco",
    control_dt=0.02,
    parameters={"planner": {"mppi.rollouts": 32, "mppi.temperature": 0.1}},
    versions={"mujoco": "4.0.0"},
    started="2026-01-02T03:04:05+00:00",
)


def test_session_facts_survive_bag_and_file(tmp_path: Path) -> None:
    assert SessionInfo.from_mapping(SESSION.to_metadata()) == SESSION
    SESSION.save(tmp_path / "session.yaml")
    assert SessionInfo.load(tmp_path / "session.yaml") == SESSION
    assert {"polo_ros", "python", "numpy", "mujoco", "mcap"} <= set(versions())


@pytest.mark.parametrize("text", ["", "- 1", "a: [", "\x00", "!!python/object/apply:os.getcwd []"])
def test_a_file_that_is_no_session_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "session.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"session\.yaml: not a session file"):
        SessionInfo.load(tmp_path / "session.yaml")


def test_odd_session_facts_are_empty_rather_than_fatal() -> None:
    facts = {"seed": "many", "control_dt": float("nan"), "versions": "{", "parameters": [1], "task": None}
    found = SessionInfo.from_mapping(facts)
    assert (found.seed, found.control_dt, found.task, found.versions, found.parameters) == (0, 0.0, "", {}, {})


def test_info_shows_topics_counts_and_session(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples.write_bag(tmp_path / "bag", steps=30, split_s=0.2, metadata=SESSION.to_metadata())
    assert _polo("bag", "info", str(tmp_path / "bag"), "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["task"], facts["model_hash"], facts["seed"]) == ("joint", "0123456789abcdef", 7)
    assert facts["versions"] == {"mujoco": "4.0.0"}
    assert facts["parameters"] == SESSION.parameters
    assert (facts["messages"], facts["truncated"], facts["problems"]) == (30, False, [])
    assert facts["duration_s"] == pytest.approx(29 * samples.DT)
    assert {"name": "/transition", "type": samples.TRANSITION, "messages": 30} in facts["topics"]
    assert [file["messages"] for file in facts["files"]] == [10, 10, 10]
    assert facts["bytes"] == sum(path.stat().st_size for path in (tmp_path / "bag").glob("*.mcap"))
    assert _polo("bag", "info", str(tmp_path / "bag")) == 0
    text = capsys.readouterr().out
    assert "30 messages" in text and "joint" in text and "/transition" in text


def test_info_says_that_a_bag_is_truncated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples.write_bag(tmp_path / "bag", close=False)
    facts = bag_tools.info(tmp_path / "bag")
    assert facts["truncated"] and facts["messages"] == 20
    assert _polo("bag", "info", str(tmp_path / "bag")) == 0
    assert "truncated" in capsys.readouterr().out


def test_a_good_bag_passes_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples.write_bag(tmp_path / "bag")
    assert _polo("bag", "check", str(tmp_path / "bag")) == 0
    out = capsys.readouterr().out
    assert "20 transitions (steps 0 to 19, 0 resets)" in out and "no problems" in out


def _check(tmp_path: Path, *contents: bytes) -> dict[str, Any]:
    with samples.write_bag(tmp_path / "bag", steps=2, close=False) as writer:
        for content in contents:
            writer.write("/transition", content, samples.START, 0)
    return bag_tools.check(tmp_path / "bag")


def test_check_finds_gaps(tmp_path: Path) -> None:
    facts = _check(tmp_path, samples.transition(4), samples.transition(5), samples.transition(7))
    assert facts["lost"] == 3
    assert facts["problems"] == ["/transition: 3 steps are missing: 1 -> 4, 5 -> 7"]


def test_check_finds_steps_that_fall(tmp_path: Path) -> None:
    assert "steps do not rise: 1 -> 0" in _check(tmp_path, samples.transition(0))["problems"][0]


@pytest.mark.parametrize("name", ["observation", "next_observation", "action", "qpos", "qvel"])
def test_check_finds_numbers_that_are_not_finite(tmp_path: Path, name: str) -> None:
    size = 2 if "observation" in name else 1
    facts = _check(tmp_path, samples.transition(2, **{name: np.full(size, np.nan)}))
    assert facts["problems"] == ["/transition: numbers are not finite or sizes disagree at 1 steps: 2"]


def test_check_finds_a_reward_that_is_not_finite(tmp_path: Path) -> None:
    assert "not finite" in _check(tmp_path, samples.transition(2, reward=float("inf")))["problems"][0]


def test_check_finds_sizes_that_change(tmp_path: Path) -> None:
    facts = _check(tmp_path, samples.transition(2, qpos=np.zeros(3)))
    assert facts["problems"] == ["/transition: (state, observation, action) sizes change: (3, 2, 1), (5, 2, 1)"]


def test_check_finds_several_models(tmp_path: Path) -> None:
    facts = _check(tmp_path, samples.transition(2, model_hash="feed"))
    assert facts["model_hashes"] == ["0123456789abcdef", "feed"]
    assert "several models" in facts["problems"][0]


def test_check_counts_resets_which_are_no_problem(tmp_path: Path) -> None:
    facts = _check(tmp_path, samples.transition(2, episode=1), samples.transition(3, episode=2))
    assert (facts["resets"], facts["problems"]) == (2, [])


def test_check_compares_the_metadata_with_the_files(tmp_path: Path) -> None:
    samples.write_bag(tmp_path / "bag")
    path = tmp_path / "bag" / "metadata.yaml"
    path.write_text(path.read_text().replace("message_count: 20", "message_count: 21"))
    assert bag_tools.check(tmp_path / "bag")["problems"] == ["metadata.yaml: says 21 messages, while the files hold 20"]


@pytest.mark.parametrize("command", ["info", "check", "recover"])
def test_what_is_no_bag_gives_one_line_and_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (tmp_path / "x.mcap").write_text("text")
    assert _polo("bag", command, str(tmp_path / "x.mcap")) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1 and "not an MCAP file" in captured.err


def test_check_of_a_truncated_bag_has_status_1_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples.write_bag(tmp_path / "bag", close=False)
    assert _polo("bag", "check", str(tmp_path / "bag"), "--json") == 1
    facts = json.loads(capsys.readouterr().out)
    assert len(facts["problems"]) == 1 and "recording was cut" in facts["problems"][0]


def test_recover_makes_a_whole_bag_beside_the_broken_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples.write_bag(tmp_path / "bag", steps=33, split_s=0.2, close=False, metadata=SESSION.to_metadata())
    last = tmp_path / "bag" / "bag_3.mcap"
    last.write_bytes(last.read_bytes() + b"\x06\x00")
    before = {path.name: path.read_bytes() for path in (tmp_path / "bag").iterdir()}
    assert _polo("bag", "recover", str(tmp_path / "bag"), "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["messages"] == 30
    assert "2 bytes at the end are lost" in facts["problems"][0]
    assert {path.name: path.read_bytes() for path in (tmp_path / "bag").iterdir()} == before
    target = tmp_path / "bag_recovered"
    with AnyReader([target], default_typestore=samples.store()) as reader:
        assert sum(1 for _ in reader.messages()) == 30
    checked = bag_tools.check(target)
    assert checked["problems"] == []
    assert bag_tools.info(target)["task"] == "joint"
    assert read_metadata_yaml(target)["custom_data"]["recovered_from"] == "bag"  # type: ignore[index]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bag", "bag_recovered"]


def test_recover_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples.write_bag(tmp_path / "bag", close=False)
    (tmp_path / "bag_recovered").mkdir()
    assert _polo("bag", "recover", str(tmp_path / "bag")) == 1
    assert "exists already" in capsys.readouterr().err
    assert list((tmp_path / "bag_recovered").iterdir()) == []


def test_recover_takes_a_single_file(tmp_path: Path) -> None:
    samples.write_bag(tmp_path / "bag", close=False)
    assert bag_tools.recover(tmp_path / "bag" / "bag_0.mcap")["messages"] == 20
    assert [t.step for t in read_transitions(tmp_path / "bag" / "bag_0_recovered")] == list(range(20))


def test_recover_of_a_file_without_anything_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.mcap").write_bytes(b"\x89MCAP0\r\n")
    with pytest.raises(BagError, match="nothing to recover"):
        bag_tools.recover(tmp_path / "x.mcap")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.mcap"]


@given(cut=st.floats(min_value=0, max_value=1), bit=st.integers(min_value=0))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_damage_makes_the_tools_fail_otherwise_than_by_name(
    tmp_path_factory: pytest.TempPathFactory, cut: float, bit: int
) -> None:
    folder = tmp_path_factory.mktemp("damage")
    samples.write_bag(folder / "bag", steps=6, flush_every=2)
    path = folder / "bag" / "bag_0.mcap"
    content = bytearray(path.read_bytes())
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    path.write_bytes(bytes(content[: round(cut * len(content))]))
    for tool in (bag_tools.info, bag_tools.check, bag_tools.recover):
        try:
            facts = tool(folder / "bag")
        except BagError as error:
            assert str(folder) in str(error)
        else:
            json.dumps(facts)
