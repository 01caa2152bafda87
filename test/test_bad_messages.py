"""What a running session makes of messages, parameters and arguments that are wrong: names them, goes on."""

from __future__ import annotations

import array
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from session_runs import POLO, environment, session, transitions, wait_until
from strangers import Attack, Stranger, stranger

from polo_ros import tasks
from polo_ros.agents.polo import PoloConfig
from polo_ros.learning.value_ensemble import ValueEnsemble
from polo_ros.learning.weights import digest
from polo_ros.msg import Weights
from polo_ros.nodes.base import EVERY, LATCHED, LATEST
from polo_ros.replay.bag_reader import BagReader
from polo_ros.replay.bag_types import PLANNER_STATUS
from polo_ros.session.config import for_task

TASK = "cartpole_swingup"
DOMAIN = 120


# ---- what ends a session before it begins; before those that leave one running -----------------


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("taks:=cartpole_swingup", "taks"),
        ("clock:=sometimes", "realtime"),
        ("driver:=robt", "unknown driver 'robt'"),
        ("duration:=-1", "duration"),
        ("config:=/nonexistent.yaml", "/nonexistent.yaml"),
        ("seed:=one", "seed"),
    ],
)
def test_a_launch_argument_that_is_wrong_ends_the_session_with_what_would_be_right(tmp_path, argument, said) -> None:
    done = subprocess.run(
        [str(POLO), "launch", "sim", f"run_dir:={tmp_path}", "learner:=false", argument],
        env=environment(DOMAIN + 1),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert said in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("rolouts: 10", "unknown parameter 'mppi.rolouts'"),
        ("rollouts: 0", "mppi.rollouts out of range"),
        ("rollouts: many", "mppi.rollouts"),
    ],
)
def test_a_parameter_file_that_is_wrong_ends_the_session_with_what_is_wrong(tmp_path, setting, said) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(f"/**:\n  ros__parameters:\n    mppi:\n      {setting}\n")
    done = subprocess.run(
        [str(POLO), "launch", "sim", f"run_dir:={tmp_path / 'run'}", f"config:={config}"],
        env=environment(DOMAIN + 1),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


# ---- what a session bears ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stranger, Path]]:
    """A realtime session that is under control, and a stranger beside it."""
    run_dir = tmp_path_factory.mktemp("attacked")
    arguments = (f"task:={TASK}", "clock:=realtime")
    with session(run_dir, DOMAIN, *arguments) as process, stranger(DOMAIN) as other:
        other.until(lambda: "transition" in other.newest and "plan" in other.newest, "control", 60.0)
        other.until(lambda: "learner/status" in other.newest, "learning", 60.0)
        yield other, run_dir
        assert process.poll() is None, "the session ended"


def _nan(message: Any, field: str) -> None:
    values = array.array("d", getattr(message, field))
    values[-1] = float("nan")
    setattr(message, field, values)


def _short(message: Any, field: str) -> None:
    setattr(message, field, array.array("d", getattr(message, field)[:-1]))


def _set(field: str, value: Any) -> Callable[[Any], None]:
    return lambda message: setattr(message, field, value)


def _later(field: str, by: int) -> Callable[[Any], None]:
    return lambda message: setattr(message, field, getattr(message, field) + by)


PLANS = (
    (lambda m: _nan(m, "actions"), "actions contains values that are not finite"),
    (lambda m: _short(m, "actions"), "actions has 49 entries, expected 50"),
    (_set("model_hash", "0123456789abcdef"), "model_hash '0123456789abcdef' is not that of task"),
    (_set("dt", 0.01), "dt is 0.01 s, expected 0.02 s"),
    (_set("nu", 2), "nu is 2, expected 1"),
    (_set("horizon", 0), "horizon is 0, expected at least 1"),
    (_later("episode", 7), "made for episode"),
    (_later("state_step", 10**6), "takes effect at step"),
)
STATES = (
    (lambda m: _nan(m, "qpos"), "qpos contains values that are not finite"),
    (lambda m: _short(m, "qvel"), "qvel has 1 entries, expected 2"),
    (_set("act", array.array("d", [0.0])), "act has 1 entries, expected 0"),
    (_set("model_hash", ""), "model_hash '' is not that of task"),
)
TRANSITIONS = (
    (lambda m: _nan(m, "observation"), "observation contains values that are not finite"),
    (lambda m: _short(m, "action"), "action has 0 entries, expected 1"),
    (_set("reward", float("inf")), "reward is inf, expected a finite number"),
    (_set("model_hash", "0" * 16), "model_hash '0000000000000000' is not that of task"),
)


def _weights(change: Callable[[dict[str, Any]], None] = lambda _: None) -> Weights:
    task = tasks.make(TASK)
    config = for_task(PoloConfig(), TASK).value
    ensemble = ValueEnsemble(
        config, task.observation_spec.size, config.value_scale(task.discount), np.random.default_rng(0)
    )
    arrays = {name: np.array(values) for name, values in ensemble.arrays().items()}
    change(arrays)
    data = safetensors.numpy.save(arrays)
    return Weights(
        kind="value_ensemble",
        task=TASK,
        model_hash=task.model_hash,
        version=10**6,
        digest=digest(data),
        data=array.array("B", data),
    )


def _poison(arrays: dict[str, Any]) -> None:
    arrays["learned.0.weight"][0, 0, 0] = np.nan


def _reshape(arrays: dict[str, Any]) -> None:
    arrays["obs_mean"] = arrays["obs_mean"][:-1]


def _changed(**fields: Any) -> Weights:
    message = _weights()
    for name, value in fields.items():
        setattr(message, name, value)
    return message


WEIGHTS = (
    (lambda: _weights(_poison), "weights 'learned.0.weight' contain values that are not finite"),
    (lambda: _weights(_reshape), "weights 'obs_mean' have shape"),
    (lambda: _weights(lambda arrays: arrays.pop("obs_std")), "missing ['obs_std']"),
    (lambda: _changed(kind="policy"), "weights are of kind 'policy', expected 'value_ensemble'"),
    (lambda: _changed(task="humanoid_getup"), "learned for task 'humanoid_getup'"),
    (lambda: _changed(model_hash="0" * 16), "model '0000000000000000'"),
    (lambda: _changed(digest="0" * 64), "digest does not match"),
    (
        lambda: _changed(data=array.array("B", b"not safetensors"), digest=digest(b"not safetensors")),
        "not a safetensors file",
    ),
)


@pytest.fixture(scope="module")
def refused(attacked: tuple[Stranger, Path]) -> set[tuple[str, str]]:
    """Node and words of every refusal that was counted and named, of all the messages above."""

    def spoilt(topic: str, qos: Any, spoil: Callable[[Any], None]) -> Callable[[Stranger], Callable]:
        """Publishes the newest message of a topic again, spoilt."""

        def make(other: Stranger) -> Callable[[], None]:
            message = other.newest_of(topic)
            spoil(message)
            return lambda: other.say(topic, message, qos, 2)

        return make

    def false(make: Callable[[], Weights]) -> Callable[[Stranger], Callable]:
        return lambda other: lambda: other.say("weights", make(), LATCHED, 2)

    other, _ = attacked
    plans = [Attack("plans_refused", said, spoilt("plan", LATEST, spoil)) for spoil, said in PLANS]
    states = [Attack("states_refused", said, spoilt("state", LATEST, spoil)) for spoil, said in STATES]
    weights = [Attack("weights_refused", said, false(make)) for make, said in WEIGHTS]
    seen = [Attack("transitions_refused", said, spoilt("transition", EVERY, spoil)) for spoil, said in TRANSITIONS]
    return other.refusals({"bridge": plans, "planner": [*states, *weights], "learner": seen})


@pytest.mark.parametrize("said", [said for _, said in PLANS])
def test_a_plan_that_is_wrong_is_refused_by_name_and_counted(refused, said) -> None:
    assert ("bridge", said) in refused


@pytest.mark.parametrize("said", [said for _, said in STATES])
def test_a_state_that_is_wrong_is_refused_by_name_and_counted(refused, said) -> None:
    assert ("planner", said) in refused


@pytest.mark.parametrize("said", [said for _, said in WEIGHTS])
def test_weights_that_are_wrong_are_refused_and_counted(refused, said) -> None:
    assert ("planner", said) in refused


def test_weights_that_are_wrong_are_never_used(attacked, refused) -> None:
    other, run_dir = attacked
    newest = other.newest_of("planner/status").plan_id
    used: dict[int, int] = {}

    def is_recorded() -> bool:
        used.update(
            (m.plan_id, m.weights_version) for _, m in BagReader(run_dir / "bag").decoded(types=[PLANNER_STATUS])
        )
        return newest in used

    wait_until(is_recorded, 20.0, "recording")
    assert max(used.values()) < 10**6


@pytest.mark.parametrize("said", [said for _, said in TRANSITIONS])
def test_a_transition_that_is_wrong_is_refused_and_counted(refused, said) -> None:
    assert ("learner", said) in refused


@pytest.mark.parametrize(
    ("node", "name", "value", "said"),
    [
        ("planner", "mppi.rollouts", 0, "mppi.rollouts"),
        ("planner", "mppi.sigma", -1.0, "mppi.sigma"),
        ("planner", "mppi.kappa", float("nan"), "mppi.kappa"),
        ("planner", "mppi.horizon", 10, "read-only"),
        ("planner", "value.gate", "trust", "none, spread"),
        ("bridge", "max_plan_age", 1e9, "max_plan_age"),
        ("bridge", "task", "humanoid_getup", "read-only"),
        ("learner", "no.such", 1, "no.such"),
    ],
)
def test_a_live_parameter_that_is_wrong_is_refused_with_the_reason(attacked, node, name, value, said) -> None:
    other, _ = attacked
    result = other.set_parameter(node, name, value)
    assert not result.successful
    assert said in result.reason


def test_a_live_parameter_that_is_right_is_used(attacked) -> None:
    other, _ = attacked
    assert other.set_parameter("planner", "mppi.rollouts", 16).successful
    other.until(lambda: other.newest["planner/status"].rollouts_asked == 16, "planning with 16 rollouts")


def test_the_plan_is_drawn_while_somebody_looks(attacked) -> None:
    from visualization_msgs.msg import MarkerArray

    other, _ = attacked
    seen: list[MarkerArray] = []
    subscription = other.node.create_subscription(MarkerArray, "plan_markers", seen.append, LATEST)
    other.until(lambda: bool(seen), "markers")
    other.node.destroy_subscription(subscription)
    (marker,) = seen[-1].markers
    points = np.array([[p.x, p.y, p.z] for p in marker.points])
    task = tasks.make(TASK)
    reach = task.model.jnt_range[0, 1] + 1.0  # m; the cart's rail and the pole
    # The newest plan, and what is played until it takes effect.
    assert 10 < len(points) < 2 * for_task(PoloConfig(), TASK).mppi.horizon
    assert np.isfinite(points).all() and np.abs(points).max() < reach
    assert np.ptp(points, axis=0).max() > 0.0


def test_none_of_this_cost_control_or_data(attacked) -> None:
    """The last one here: what the session did under all of the above."""
    other, run_dir = attacked
    newest = other.newest_of("transition").step
    wait_until(lambda: max(t.step for t in transitions(run_dir)) >= newest, 20.0, "recording")
    found = {t.step: t for t in transitions(run_dir) if np.isfinite(t.reward)}
    steps = sorted(found)
    assert steps == list(range(steps[0], steps[0] + len(steps))), "data was lost"
    started = next(step for step in steps if not found[step].safe_stop)
    assert not [step for step in steps if step > started and found[step].safe_stop], "control was lost"
