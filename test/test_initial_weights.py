"""Weights to begin with: a session plans with what was learned before it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import mujoco
import numpy as np
import pytest
import safetensors.numpy
from learning_fakes import CartTask, LinearDynamics, wander

from polo_ros import resources, tasks
from polo_ros.agents.polo import PoloConfig, PoloPlanner
from polo_ros.dynamics.mujoco import MujocoDynamics
from polo_ros.learning.learner_config import LearnerConfig
from polo_ros.learning.polo_learner import PoloLearner
from polo_ros.learning.targets import TargetConfig
from polo_ros.learning.value_ensemble import KIND, ValueConfig
from polo_ros.learning.weights import Weights, WeightsError, read_initial
from polo_ros.session.config import for_task

VALUE = ValueConfig(members=3, hidden=8)
LEARNER = LearnerConfig(update_every=8, gradient_steps=6, batch_size=5, capacity=60, min_transitions=4)


def learner(value: ValueConfig = VALUE, task: CartTask | None = None) -> PoloLearner:
    return PoloLearner(
        task or CartTask(), LinearDynamics(), value=value, targets=TargetConfig(horizon=4, rollouts=5), learner=LEARNER
    )


def feed(to: PoloLearner, steps: int) -> None:
    for transition in wander(CartTask(), steps):
        to.observe(transition)
        if to.due(transition.step):
            to.update()


@pytest.fixture
def learned(tmp_path: Path) -> tuple[PoloLearner, ValueConfig]:
    """A learner that has learned, and settings that begin with its weights."""
    made = learner()
    feed(made, 40)
    path = tmp_path / "cart.safetensors"
    path.write_bytes(made.weights().encode())
    return made, ValueConfig(members=3, hidden=8, initial=str(path))


def test_a_learner_goes_on_from_the_weights_it_is_given(learned: tuple[PoloLearner, ValueConfig]) -> None:
    before, config = learned
    after = learner(config)
    for name, array in before.weights().arrays.items():
        np.testing.assert_array_equal(after.weights().arrays[name], array)
    # What the networks see of an observation stays what they were trained on.
    feed(after, 16)
    for name in ("obs_mean", "obs_std"):
        np.testing.assert_array_equal(after.weights().arrays[name], before.weights().arrays[name])
    assert (after.weights().arrays["learned.0.weight"] != before.weights().arrays["learned.0.weight"]).any()


def test_a_planner_plans_with_the_weights_it_is_given(learned: tuple[PoloLearner, ValueConfig]) -> None:
    before, config = learned
    task = CartTask()
    dynamics = MujocoDynamics(task, 1)
    planner = PoloPlanner(task, dynamics, PoloConfig(value=config), seed=0)
    observations = np.random.default_rng(0).normal(size=(9, 2))
    assert planner.value is not None and planner.weights_version == 0
    np.testing.assert_allclose(planner.value.values(observations), before._values(observations), rtol=1e-4, atol=1e-4)
    dynamics.close()


def test_weights_of_another_task_model_or_kind_are_refused_by_name(learned, tmp_path: Path) -> None:
    before, _ = learned
    found = before.weights()
    for field, word in (("task", "cart_on_ice"), ("model_hash", "0" * 16), ("kind", "critic")):
        path = tmp_path / f"{field}.safetensors"
        other = Weights(**{**vars(found), field: word})
        path.write_bytes(other.encode())
        with pytest.raises(WeightsError, match=f"{field} is '{word}', expected"):
            learner(ValueConfig(members=3, hidden=8, initial=str(path)))


def test_weights_that_are_not_there_or_do_not_fit_are_refused_by_name(learned) -> None:
    _, config = learned
    with pytest.raises(WeightsError, match=r"initial weights '/no/such.safetensors': .*No such file"):
        learner(ValueConfig(initial="/no/such.safetensors"))
    with pytest.raises(WeightsError, match="expected"):
        learner(ValueConfig(members=4, hidden=8, initial=config.initial))
    with pytest.raises(WeightsError, match=r"prior_scale is 1, the settings give 0.5"):
        learner(ValueConfig(members=3, hidden=8, prior_scale=0.5, initial=config.initial))


@pytest.mark.parametrize("task", [path.stem for path in resources.path("weights").iterdir()])
def test_weights_that_come_with_polo_ros_are_of_its_tasks_and_models(task: str) -> None:
    if not mujoco.__version__.startswith("4."):
        pytest.skip("hashes are of models that MuJoCo 4 compiled")
    made, config = tasks.make(task), for_task(PoloConfig(), task)
    value = dataclasses.replace(config.value, initial="")
    shapes = PoloPlanner(made, None, dataclasses.replace(config, value=value), seed=0)._shapes  # type: ignore[arg-type]
    path = str(resources.path("weights", f"{task}.safetensors"))
    # By its path the model is asked for, too.
    arrays = read_initial(path, KIND, task, made.model_hash, shapes)
    np.testing.assert_array_equal(
        read_initial(task, KIND, task, "of another version", shapes)["obs_mean"], arrays["obs_mean"]
    )


def test_a_name_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(WeightsError, match=r"initial weights 'humanoid_getop': .*: humanoid_getup.safetensors"):
        learner(ValueConfig(initial="humanoid_getop"))


def test_weights_that_do_not_say_what_they_are_of_are_refused(learned, tmp_path: Path) -> None:
    before, _ = learned
    path = tmp_path / "nameless.safetensors"
    path.write_bytes(safetensors.numpy.save(before.weights().arrays))
    with pytest.raises(WeightsError, match="do not say what they are of"):
        learner(ValueConfig(members=3, hidden=8, initial=str(path)))
