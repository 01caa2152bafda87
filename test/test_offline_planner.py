"""The planner's node with what was learned offline: what it refuses, what it warns of, what arrives live."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
import safetensors.numpy
from offline_samples import small
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node

from polo_ros import tasks
from polo_ros.drivers.mujoco import MujocoDriver
from polo_ros.learning.offline_learner import OfflineLearner
from polo_ros.learning.offline_policy import OfflinePolicy
from polo_ros.learning.offline_training import train
from polo_ros.learning.weights import Weights, digest
from polo_ros.nodes import convert
from polo_ros.nodes.planner import Planner
from polo_ros.replay.dataset import Dataset, DatasetWriter, Rows
from polo_ros.session.loop import RobotLoop

DOMAIN = 190
TASK = "inverted_pendulum"
SETTINGS = small(train__updates=20, ensemble__members=1, train__holdout=0.5)


def learner(folder: Path, algorithm: str = "crr", config: Any = SETTINGS, seed: int = 0) -> OfflineLearner:
    """A learner of random rows."""
    task, rng = tasks.make(TASK), np.random.default_rng(0)
    if not folder.exists():
        walk = rng.standard_normal((301, 4))
        flags = np.zeros(300, bool)
        first, last = flags.copy(), flags.copy()
        first[0] = last[-1] = True
        act, ones = rng.uniform(-3.0, 3.0, (300, 1)), np.ones(300)
        with DatasetWriter(folder, task, task.model_hash) as writer:
            writer.append(Rows(walk[:-1], act, ones, walk[1:], 0.0 * ones, flags, first, first, last))
    return OfflineLearner(task, Dataset.open(folder), algorithm, config, seed)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("trained")
    train(learner(base / "data"), base / "crr")
    return base


@contextmanager
def planner(monkeypatch: pytest.MonkeyPatch, **given: str) -> Iterator[Any]:
    """A planner in this process, not configured yet."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    given = {"autostart": "false", "task": TASK, "agent": "crr", "threads": "1", **given}
    rclpy.init(
        args=["--ros-args", *(word for name, value in given.items() for word in ("-p", f"{name}:={value}"))],
        domain_id=DOMAIN,
    )
    node: Node | None = None
    try:
        node = Planner()
        yield node
    finally:
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()


def spoilt(folder: Path, to: Path) -> Path:
    """The policy with a number that is not finite, in a file whose digest is right."""
    to.mkdir()
    about = json.loads((folder / "policy.json").read_text())
    arrays = safetensors.numpy.load((folder / "policy.safetensors").read_bytes())
    arrays["critic.0.bias"][0, 0, 0] = np.inf
    data = Weights("crr", about["task"], about["model_hash"], 1, 0, arrays).encode()
    (to / "policy.safetensors").write_bytes(data)
    (to / "policy.json").write_text(json.dumps({**about, "weights": digest(data)}))
    return to


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"agent": "polo"}, "agent 'polo' has no use for what `polo train` made; agents that have: crr, plas, mbop"),
        ({"agent": "plas"}, "was learned by 'crr', expected 'plas'"),
        ({"task": "cartpole_swingup"}, "task is 'inverted_pendulum', expected 'cartpole_swingup'"),
        ({"policy": "nowhere"}, "nowhere/policy.json cannot be read: No such file"),
        ({"policy": "spoilt"}, "weights 'critic.0.bias' contain values that are not finite"),
    ],
)
def test_a_policy_that_does_not_fit_keeps_the_planner_from_starting(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    given: dict[str, str],
    message: str,
) -> None:
    given = {"policy": str(trained / "crr"), **given}
    if given["policy"] == "spoilt":
        given["policy"] = str(spoilt(trained / "crr", tmp_path / "spoilt"))
    with planner(monkeypatch, **given) as node:
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    said = capfd.readouterr().err
    assert "cannot configure: " in said and message in said


def test_a_policy_is_played_from_the_start_and_live_weights_take_its_place(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("policy.json", "policy.safetensors"):
        (tmp_path / name).write_bytes((trained / "crr" / name).read_bytes())
    about = json.loads((tmp_path / "policy.json").read_text())
    about["metrics"]["action_outside"] = 0.25
    (tmp_path / "policy.json").write_text(json.dumps(about))
    plans: list[Any] = []
    with planner(monkeypatch, policy=str(tmp_path), **{"lookahead.search": "none", "clock": "lockstep"}) as node:
        assert node.trigger_configure() == node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        send = node.send
        monkeypatch.setattr(node, "send", lambda to, message: (plans.append(message), send(to, message)))
        driver = MujocoDriver(node.task, 0)
        driver.connect()
        loop = RobotLoop(node.task, driver, 1.0)
        loop.start()
        sample = loop.sense()
        node._receive_state(convert.state_message(sample, node.task))
        alone = OfflinePolicy.load(tmp_path, node.task).policy
        seen = node.task.observe(node.task.sense(sample.state))
        expected = float(alone.mean(seen)[0])
        found = next(message for message in plans if hasattr(message, "planner_id"))
        assert (found.weights_version, found.actions[0]) == (20, pytest.approx(expected))
        outside = "policy: 25.0% of the policy's actions are beyond those of its data"
        assert [alert.text.split(":")[0] for alert in node.alerts()] == ["policy"]
        assert outside in node.alerts()[0].text

        node._receive_weights(message_of(learner(trained / "data"), node, 0))
        assert (node.counts["weights_swapped"], node.planner.weights_version) == (0, 20)  # of before any update
        newer = learner(trained / "data", config=small(train__updates=20, ensemble__members=1, train__model=False))
        newer.advance(5)
        node._receive_weights(message_of(newer, node, 5))
        assert (node.counts["weights_refused"], node.planner.weights_version) == (1, 20)
        assert "weights 5 refused: weights have other tensors" in node.problem
        live = learner(trained / "data")
        live.fit_model()
        live.advance(19)
        node._receive_weights(message_of(live, node, 19))
        assert (node.counts["weights_swapped"], node.planner.weights_version) == (0, 20)  # the file has more updates
        live.advance(11)
        node._receive_weights(message_of(live, node, 30))
        assert (node.counts["weights_swapped"], node.planner.weights_version) == (1, 30)
        assert [outside in alert.text for alert in node.alerts()] == [True], "of the same training"
        # A count of updates says nothing to those of another training.
        other = learner(trained / "data", seed=7)
        other.fit_model()
        other.advance(3)
        for of, version in ((other, 3), (live, 30)):
            node._receive_weights(message_of(of, node, version))
            assert node.planner.weights_version == version and not node.alerts()
        older = dataclasses.replace(live.weights(), version=29)
        node._receive_weights(convert.weights_message(older, node.get_clock().now().to_msg()))
        assert node.planner.weights_version == 30
    said = capfd.readouterr().err
    assert f"policy {tmp_path}: crr, 20 updates; measured by the training: action_distance " in said
    assert outside in said


def message_of(source: OfflineLearner, node: Any, version: int) -> Any:
    weights = source.weights()
    assert weights.version == version
    return convert.weights_message(weights, node.get_clock().now().to_msg())
