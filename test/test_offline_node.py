"""The learner without a robot: weights live, a restart that goes on, data that cannot be, and what it may do."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bag_sessions
import pytest
import rclpy
from offline_samples import small
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from session_runs import POLO, environment
from test_offline_planner import learner as make_data

from polo_ros import tasks
from polo_ros.config import flatten
from polo_ros.learning.offline_training import train
from polo_ros.nodes.offline_learner import OfflineLearnerNode
from polo_ros.nodes.permissions import enclaves
from polo_ros.nodes.planner import Planner
from polo_ros.replay.dataset import Dataset, leftovers
from polo_ros.replay.mcap_file import FileReader

DOMAIN = 192
TASK = "inverted_pendulum"
SETTINGS = small(train__updates=100_000, ensemble__members=1, train__log_every=64)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "data"
    make_data(folder)
    return folder


@contextmanager
def nodes(monkeypatch: pytest.MonkeyPatch, *kinds: Any, **given: str) -> Iterator[list[Any]]:
    """Nodes in this process, with the same parameters, not configured yet."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    fixed = {name: str(list(v) if isinstance(v, tuple) else v) for name, v in flatten(SETTINGS).items() if v != ""}
    nice = str(max(0, os.getpriority(os.PRIO_PROCESS, 0)))
    given = {**fixed, "autostart": "false", "agent": "crr", "threads": "1", "nice": nice, **given}
    arguments = [word for name, value in given.items() for word in ("-p", f"{name}:={value}")]
    rclpy.init(args=["--ros-args", *arguments], domain_id=DOMAIN)
    made: list[Any] = []
    try:
        made += [kind() for kind in kinds]
        yield made
    finally:
        for node in made:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()


def start(node: Any) -> None:
    assert node.trigger_configure() == node.trigger_activate() == TransitionCallbackReturn.SUCCESS


def wait(condition: Callable[[], bool], step: Callable[[], object]) -> None:
    limit = time.monotonic() + 40.0
    while not condition():
        assert time.monotonic() < limit
        step()


def test_weights_reach_a_planner_while_they_are_learned_and_one_that_comes_later(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"task": TASK, "data": str(data), "run_dir": str(tmp_path)}
    with nodes(monkeypatch, OfflineLearnerNode, Planner, Planner, **given) as (learner, planner, later):
        executor = SingleThreadedExecutor()
        start(planner)
        executor.add_node(planner)
        start(learner)
        wait(lambda: planner.counts["weights_swapped"] > 1, lambda: executor.spin_once(timeout_sec=0.05))
        assert planner.planner.weights_version % 64 == 0 and planner.counts["weights_refused"] == 0
        assert learner.diagnose()["of"] == 100_000 and "critic_loss" in learner.diagnose()
        learner.trigger_deactivate()
        # What it may do is what the live learner may.
        allowed = next(enclave for enclave in enclaves() if enclave.path == "/learner").profiles[0]
        used = {
            "publish": learner.get_publisher_names_and_types_by_node("learner", "/"),
            "subscribe": learner.get_subscriber_names_and_types_by_node("learner", "/"),
            "reply": learner.get_service_names_and_types_by_node("learner", "/"),
        }
        assert "/weights" in {name for name, _ in used["publish"]}
        assert all(allowed.allows(word, name) for word, names in used.items() for name, _ in names)
        start(later)
        executor.add_node(later)
        learner.trigger_activate()
        wait(lambda: later.counts["weights_swapped"] > 0, lambda: executor.spin_once(timeout_sec=0.05))
        executor.shutdown()


def test_a_restart_goes_on_to_the_same_policy_as_a_training_without_ros(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"task": TASK, "data": str(data), "run_dir": str(tmp_path / "node"), "train.updates": "400"}
    with nodes(monkeypatch, OfflineLearnerNode, **given) as (node,):
        start(node)
        wait(lambda: node.learner is not None and node.learner.done > 0, lambda: time.sleep(0.001))
        node.trigger_deactivate()
        first = node.learner.done
        assert json.loads((tmp_path / "node" / "policy.json").read_text())["updates"] == first
    with nodes(monkeypatch, OfflineLearnerNode, **given) as (node,):
        start(node)
        assert node.join(40.0)
        assert node.learner.done == 400 and not node.failed
    config = small(train__updates=400, ensemble__members=1, train__log_every=64)
    train(make_data(data, config=config), tmp_path / "alone")
    ours, theirs = ((tmp_path / name / "policy.safetensors").read_bytes() for name in ("node", "alone"))
    assert first <= 400 and ours == theirs


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": "''"}, "data is empty: name a dataset, or bags separated by commas"),
        ({"data": "nowhere"}, "nowhere: no such bag"),
        ({"task": "hopper"}, "is of task 'inverted_pendulum', expected 'hopper'"),
    ],
)
def test_data_that_cannot_be_learned_from_are_named_and_end_the_node(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    given: dict[str, str],
    message: str,
) -> None:
    given = {"data": str(data), "run_dir": str(tmp_path), "task": TASK, **given}
    with nodes(monkeypatch, OfflineLearnerNode, **given) as (node,):
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        node.activate()
        assert node.join(40.0)
        assert node.failed and not node.context.ok()
    said = capfd.readouterr().err
    assert "cannot learn: " in said and message in said


def test_without_a_folder_it_is_not_configured(
    data: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with nodes(monkeypatch, OfflineLearnerNode, task=TASK, data=str(data), run_dir="''") as (node,):
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert "cannot configure: run_dir is empty" in capfd.readouterr().err


@pytest.mark.parametrize("indexed", [True, False])
def test_a_stop_is_heard_while_bags_become_a_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], indexed: bool
) -> None:
    bag, out = tmp_path / "bag", tmp_path / "out"
    bag_sessions.record(bag, tasks.make(TASK), steps=200)
    (file,) = bag.glob("*.mcap")
    if not indexed:  # as after a crash; then a bag is read to know what is in it, before anything is written
        file.write_bytes(file.read_bytes()[:-20])
    read, reached, slow = FileReader._records, threading.Event(), True

    def records(self: FileReader, stream: Any) -> Iterator[tuple[int, bytes]]:
        for record in read(self, stream):
            while slow and (leftovers(out / "dataset") or not indexed):  # a bag that takes for ever
                reached.set()
                self._between()
                time.sleep(0.001)
            yield record

    monkeypatch.setattr(FileReader, "_records", records)
    given = {"data": str(bag), "run_dir": str(out), "task": TASK}
    with nodes(monkeypatch, OfflineLearnerNode, **given) as (node,):
        start(node)
        assert reached.wait(40.0)
        node.trigger_deactivate()
        assert node.join(0.0) and not node.failed
        assert list(out.iterdir()) == []
        assert "stopped before the data were ready" in capfd.readouterr().err
        slow = False
        node.trigger_activate()  # as the same command does
        wait(lambda: node.learner is not None, lambda: time.sleep(0.001))
        assert len(Dataset.open(out / "dataset")) == 200


def test_an_agent_that_learns_while_it_acts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(ValueError, match="agent = 'polo' does not learn offline"),
        nodes(monkeypatch, OfflineLearnerNode, agent="polo"),
    ):
        pass


def test_launched_with_a_bag_that_cannot_be_read_it_ends_and_says_why(tmp_path: Path) -> None:
    bag = tmp_path / "torn.mcap"
    bag.write_bytes(b"nothing of a bag")
    arguments = [f"bag:={bag}", "algorithm:=plas", f"out:={tmp_path / 'out'}"]
    done = subprocess.run(
        [str(POLO), "launch", "offline", *arguments],
        env=environment(DOMAIN),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "cannot learn: " in done.stdout and str(bag) in done.stdout
