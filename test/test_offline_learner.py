"""Learning from a dataset: what is drawn, what is kept, what comes out."""

from __future__ import annotations

import json
import re
import sys
import tracemalloc
import types

import numpy as np
import pytest
import safetensors.numpy
import torch
from learning_fakes import CartTask, FencedCartTask
from offline_samples import SMALL, cart_dataset, cart_rows, pendulum, small, stretch

from polo_ros import tasks
from polo_ros.config import replace
from polo_ros.learning import offline_training
from polo_ros.learning.checkpoint import CheckpointError
from polo_ros.learning.offline_batches import OfflineBatches
from polo_ros.learning.offline_config import ALGORITHMS
from polo_ros.learning.offline_learner import OfflineError, OfflineLearner
from polo_ros.learning.offline_policy import OfflinePolicy
from polo_ros.learning.offline_training import Told, train
from polo_ros.learning.weights import Weights, WeightsError, digest
from polo_ros.replay.dataset import Dataset, DatasetError, DatasetWriter, Rows
from polo_ros.tasks.base import ObservationSpec

TASK = FencedCartTask()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return cart_dataset(tmp_path_factory.mktemp("data") / "cart")


def files(folder):
    """What a training leaves, but for its log: bytes; of the checkpoint, whose header has no fixed order, arrays."""
    names = ("policy.safetensors", "policy.json", "train.json")
    found = {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}
    arrays = safetensors.numpy.load((folder / "checkpoint.safetensors").read_bytes())
    return {**found, **{f"checkpoint {name}": array.tobytes() for name, array in arrays.items()}}


# ---- what is drawn -------------------------------------------------------------------------


def test_batches_are_rows_of_the_data_as_networks_see_them(data):
    batches = OfflineBatches(TASK, data, "", True, 0.2, np.random.default_rng(0))
    seen = data.observation[batches.usable]
    everything = (data.observation - data.observation.mean(axis=0)) / data.observation.std(axis=0)
    row_of = {tuple(row): index for index, row in enumerate(data.observation.tolist())}
    assert len(row_of) == len(data) and len(seen) < len(data)
    drawn = set()
    for batch in batches.draw(np.random.default_rng(1), 10, 50):
        where = np.abs(everything[None] - batch.inputs[:, None, :2].numpy()).sum(axis=2).argmin(axis=1)
        drawn |= set(where.tolist())
        np.testing.assert_allclose(batch.inputs[:, :2], everything[where], atol=1e-5)
        np.testing.assert_allclose(batch.inputs[:, 2:], data.action[where], atol=1e-6)
        np.testing.assert_array_equal(batch.reward, data.reward[where])
        np.testing.assert_array_equal(batch.not_terminal, ~data.terminated[where])
        after = (data.next_observation[where] - data.observation.mean(axis=0)) / data.observation.std(axis=0)
        np.testing.assert_allclose(batch.next_observation, after, atol=1e-5)
    assert drawn <= set(batches.usable.tolist())
    assert not set(batches.usable.tolist()) & set(batches.held.tolist())
    assert len(batches.usable) + len(batches.held) == len(data)


def test_data_larger_than_memory_stay_on_disk(tmp_path):
    """A quarter of a GB of rows of half_cheetah's size, learned from with a quarter of that in memory."""
    task = tasks.make("half_cheetah")
    nobs, nu = task.observation_spec.size, task.model.nu
    zeros = [np.zeros((4, size)) for size in (nobs, nu, nobs)]
    flags = np.zeros(4, bool)
    with DatasetWriter(tmp_path / "data", task, task.model_hash) as writer:
        first = np.array([True, False, False, False])
        writer.append(Rows(zeros[0], zeros[1], np.zeros(4), zeros[2], np.zeros(4), flags, first, first, flags))
    stretch(tmp_path / "data", 1_500_000)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # the first one loads modules, which is no matter of data
    tracemalloc.start()
    try:
        learner = OfflineLearner(task, Dataset.open(tmp_path / "data"), "crr", small(train__model_transitions=10_000))
        learner.fit_model()
        learner.advance(2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = sum(file.stat().st_size for file in (tmp_path / "data").glob("*.npy"))
    assert peak < size / 4 and size > 2.5e8


def test_next_actions_are_those_of_the_same_trajectory(data):
    batches = OfflineBatches(TASK, data, "", False, 0.0, np.random.default_rng(0))
    batches.only_followed()
    ends = data.starts[1:] - 1
    assert data.terminated.any() and not data.terminated[ends].all(), "or nothing is tried"
    expected = np.setdiff1d(np.arange(len(data)), ends[~data.terminated[ends]])
    np.testing.assert_array_equal(batches.usable, expected)
    action_of = {tuple(row): index for index, row in enumerate(data.observation.tolist())}
    for batch in batches.draw(np.random.default_rng(1), 5, 100, followed=True):
        rows = np.array([action_of[tuple(row)] for row in batch.inputs[:, :2].tolist()])
        alive = batch.not_terminal.numpy() == 1.0
        np.testing.assert_array_equal(data.trajectory[rows[alive] + 1], data.trajectory[rows[alive]])
        np.testing.assert_allclose(batch.next_action[alive], data.action[rows[alive] + 1], atol=1e-6)


@pytest.mark.parametrize("steps", [0, 1, 3, 1000])
def test_returns_are_sums_of_discounted_rewards_within_a_trajectory(data, steps):
    batches = OfflineBatches(TASK, data, "", False, 0.0, np.random.default_rng(0))
    found = batches.returns(0.9, steps)
    for row in range(len(data)):
        stop = data.starts[data.trajectory[row] + 1]
        rewards = data.reward[row : min(stop, row + steps) if steps else stop]
        assert found[row] == pytest.approx(sum(0.9**k * float(r) for k, r in enumerate(rewards)), abs=1e-4)


def test_what_a_model_is_fitted_to_is_bounded_and_runs_of_the_data(tmp_path):
    data = cart_dataset(tmp_path / "more", CartTask(), episodes=40)
    batches = OfflineBatches(CartTask(), data, "", True, 0.0, np.random.default_rng(0))
    assert len(batches.for_model(10**6)) == len(data) == 1200
    taken = batches.for_model(256)
    assert 0 < len(taken) <= 256
    joined = (taken.next_observations[:-1] == taken.observations[1:]).all(axis=1)
    assert joined.mean() > 0.9
    first = np.flatnonzero((data.observation == taken.observations[0]).all(axis=1))
    np.testing.assert_array_equal(data.action[first[0] : first[0] + 64], taken.actions[:64])
    np.testing.assert_array_equal(data.observation[taken.places], taken.observations)


def test_a_model_never_sees_the_way_from_an_end_to_a_new_start(tmp_path):
    """As D4RL's files have it: the last row of an episode leads to the first observation of the next one."""
    rows = cart_rows(TASK, 12)
    last = np.flatnonzero(rows.last)[:-1]
    rows.next_observation[last] = rows.observation[last + 1]
    rows.terminated[last] = True
    with DatasetWriter(tmp_path / "d", TASK, TASK.model_hash) as writer:
        writer.append(rows)
    batches = OfflineBatches(TASK, Dataset.open(tmp_path / "d"), "", True, 0.0, np.random.default_rng(0))
    taken = batches.for_model(10**6)
    assert len(taken) == len(rows.reward) - len(last)
    np.testing.assert_array_equal(taken.observations, np.delete(rows.observation, last, 0).astype(np.float32))


class PushedCartTask(CartTask):
    """Whatever ends beyond 0.5 was pushed there by somebody; the last entry is the way gone in an episode."""

    observation_spec = ObservationSpec((("position", 1), ("velocity", 1), ("gone", 1)))
    added = ("gone",)

    def unforeseen(self, obs, next_obs):
        return next_obs[..., 0] > 0.5


def test_a_model_sees_neither_what_was_unforeseen_nor_starts_that_differ_in_what_is_added_alone(tmp_path):
    rows, task = cart_rows(CartTask(), 12), PushedCartTask()
    last = np.flatnonzero(rows.last)[:-1]
    rows.next_observation[last] = rows.observation[last + 1]
    gone = np.arange(len(rows.reward)) % 30
    observation = np.column_stack((rows.observation, gone))
    ahead = np.column_stack((rows.next_observation, gone + 1))
    with DatasetWriter(tmp_path / "d", task, task.model_hash) as writer:
        writer.append(rows._replace(observation=observation, next_observation=ahead))
    batches = OfflineBatches(task, Dataset.open(tmp_path / "d"), "", True, 0.0, np.random.default_rng(0))
    pushed = np.flatnonzero(ahead[:, 0] > 0.5)
    assert 0 < len(pushed) < len(gone) and len(last) == 11
    expected = np.delete(observation, np.union1d(last, pushed), 0)
    taken = batches.for_model(10**6)
    np.testing.assert_array_equal(taken.observations, expected.astype(np.float32))
    np.testing.assert_array_equal(taken.places, np.setdiff1d(np.arange(len(observation)), np.union1d(last, pushed)))


class FreeCartTask(CartTask):
    """Nobody says how hard its motor may pull."""

    def __init__(self) -> None:
        super().__init__()
        self.model.actuator_ctrllimited[0] = 0


def test_actions_that_no_policy_can_take_are_refused(tmp_path):
    task, rows = FreeCartTask(), cart_rows(CartTask(), 3)
    assert np.isinf(task.action_high).all()
    for factor in (1.0, 12.0):
        with DatasetWriter(tmp_path / str(factor), task, task.model_hash) as writer:
            writer.append(rows._replace(action=factor * rows.action / abs(rows.action).max()))
    OfflineBatches(task, Dataset.open(tmp_path / "1.0"), "", True, 0.0, np.random.default_rng(0))
    with pytest.raises(OfflineError, match=r"actuator '' has no ctrlrange: .* -1 \.\. 1, and in the data it has -?\d"):
        OfflineBatches(task, Dataset.open(tmp_path / "12.0"), "", True, 0.0, np.random.default_rng(0))


@pytest.mark.parametrize(("rows", "share", "held"), [(100, 0.05, 64), (64, 0.05, 0), (100, 0.0, 0), (2000, 0.05, 128)])
def test_few_data_have_something_held_out_too(tmp_path, rows, share, held):
    cart_dataset(tmp_path / "d", CartTask(), episodes=1, length=rows)
    batches = OfflineBatches(CartTask(), Dataset.open(tmp_path / "d"), "", True, share, np.random.default_rng(1))
    assert len(batches.held) in ((held,) if held != 64 else (64, 36))  # the last run is what is left
    assert len(batches.held) + len(batches.usable) == rows


# ---- what comes out ------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_planners_load_what_networks_learned(data, tmp_path, algorithm):
    """The policy and values of OfflinePolicy are those of the networks that learned, in the robot's units."""
    learner = OfflineLearner(TASK, data, algorithm, small(plas__perturbation=0.3), seed=1)
    told = train(learner, tmp_path / "out")
    found = OfflinePolicy.load(tmp_path / "out", TASK)
    assert found.algorithm == algorithm == found.about["algorithm"] == told["algorithm"]
    observations = data.observation[:50]
    seen = torch.tensor(learner.batches.inputs(observations), dtype=torch.float32)
    if algorithm == "plas":
        expected = learner._learned.policy.act(seen)
    else:
        expected = torch.tanh(learner._learned.actor.gaussian(seen)[0])
    actions = found.policy.mean(observations)
    np.testing.assert_allclose(actions, expected.numpy(), atol=1e-4)
    assert actions.min() >= -1.0 and actions.max() <= 1.0
    members = learner._learned.critic.members(torch.cat((seen, torch.tensor(data.action[:50])), dim=1)).numpy()
    values = found.critic.values(observations, data.action[:50])
    np.testing.assert_allclose(values, members.min(axis=0), rtol=1e-3, atol=1e-3)
    assert found.policy.sample(observations, np.random.default_rng(0)).shape == (50, 1)
    for name, array in learner.ensemble.arrays().items():
        np.testing.assert_array_equal(found.model[name], array)
    assert {"action_distance", "action_outside", "model_mse"} <= told["metrics"].keys()
    assert set(told["metrics"]) == set(json.loads((tmp_path / "out" / "policy.json").read_text())["metrics"])


def test_actions_that_leave_the_data_are_told(tmp_path):
    """An actor that always says 0.9 where the data lie in -0.5 .. 0.5."""
    data = cart_dataset(tmp_path / "d", CartTask())
    narrow = Rows(
        data.observation,
        0.5 * data.action,
        data.reward,
        data.next_observation,
        data.cost,
        data.terminated,
        np.isin(np.arange(len(data)), data.starts),
        np.isin(np.arange(len(data)), data.starts),
        np.isin(np.arange(len(data)) + 1, data.starts),
    )
    with DatasetWriter(tmp_path / "narrow", CartTask(), CartTask().model_hash) as writer:
        writer.append(narrow)
    data = Dataset.open(tmp_path / "narrow")
    learner = OfflineLearner(CartTask(), data, "mbop", small(train__model=False))
    net = learner._learned.networks["actor"]
    arrays = {name: 0.0 * array for name, array in net.arrays("actor").items()}
    arrays["actor.2.bias"][..., 0] = np.arctanh(0.9)
    net.load(arrays, "actor")
    found = learner.metrics()
    assert found["action_outside"] == 1.0
    held = data.action[learner.batches.held]
    assert found["action_distance"] == pytest.approx(np.sqrt(np.square(0.9 - held).mean()), rel=1e-4)


@pytest.mark.parametrize("algorithm", ["crr", "plas"])
def test_a_policy_is_not_worse_than_the_behaviour_it_learned_from(tmp_path, algorithm):
    """A controller that shakes drops the pole after about a dozen periods; what is learned from it stands longer.

    Twice as long is asked for, where all that is promised is not to be worse. One seed, chosen beforehand.
    """
    task, rng = tasks.make("inverted_pendulum"), np.random.default_rng(0)
    gains = np.array([0.6, 4.8, 0.5, 0.6])
    rows, returns = [], []
    while len(rows) < 3000:
        episode, total = pendulum(task, rng, lambda obs: gains @ obs + 1.5 * rng.standard_normal(1), 200)
        rows += episode
        returns.append(total)
    with DatasetWriter(tmp_path / "d", task, task.model_hash) as writer:
        writer.append(Rows(*(np.array(column) for column in zip(*rows, strict=True))))
    config = small(
        networks__hidden=32,
        plas__cvae_updates=1000,
        plas__cvae_rate=1e-3,
        train__batch_size=128,
        train__updates=1000,
        train__model=False,
        crr__actor_rate=1e-3,
        crr__critic_rate=1e-3,
        plas__actor_rate=1e-3,
    )
    learner = OfflineLearner(task, Dataset.open(tmp_path / "d"), algorithm, config)
    train(learner, tmp_path / "out")
    policy = OfflinePolicy.load(tmp_path / "out", task).policy
    reached = [pendulum(task, np.random.default_rng(100 + i), policy.mean, 200)[1] for i in range(5)]
    assert np.mean(returns) < 30.0
    assert np.mean(reached) > 2.0 * np.mean(returns)


# ---- pauses --------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_pause_leaves_no_trace(data, tmp_path, algorithm):
    """Stopped twice, once within a chunk, and gone on from the checkpoint: the same files, bit for bit."""
    config = small(mbop__value="returns")
    train(OfflineLearner(TASK, data, algorithm, config, seed=3), tmp_path / "whole")
    first = OfflineLearner(TASK, data, algorithm, small(mbop__value="returns", train__updates=37), seed=3)
    train(first, tmp_path / "paused")
    before = (tmp_path / "paused" / "policy.safetensors").read_bytes()
    second = OfflineLearner(TASK, data, algorithm, config, seed=3)
    asked = iter([False, True])
    train(second, tmp_path / "paused", Told(lambda: next(asked)))
    assert first.done < second.done < second.total
    last = OfflineLearner(TASK, data, algorithm, config, seed=3)
    train(last, tmp_path / "paused")
    whole, paused = files(tmp_path / "whole"), files(tmp_path / "paused")
    assert paused["policy.safetensors"] != before
    assert whole.keys() == paused.keys()
    assert [name for name in whole if whole[name] != paused[name]] == []
    lines = [json.loads(line)["update"] for line in (tmp_path / "paused" / "log.jsonl").read_text().splitlines()]
    assert lines == sorted(lines)
    assert lines[-1] == last.total


def test_an_update_that_fails_in_the_midst_of_others_leaves_no_trace_of_them(data, tmp_path, monkeypatch):
    config = small(train__model=False)
    train(OfflineLearner(TASK, data, "crr", config, seed=3), tmp_path / "whole")
    learner = OfflineLearner(TASK, data, "crr", config, seed=3)
    step, made = learner._learned.step, []

    def failing(*arguments):
        made.append(learner.done)
        if len(made) == 100:
            raise MemoryError
        return step(*arguments)

    monkeypatch.setattr(learner._learned, "step", failing)
    with pytest.raises(MemoryError):
        train(learner, tmp_path / "failed")
    assert learner.done == 64
    train(OfflineLearner(TASK, data, "crr", config, seed=3), tmp_path / "failed")
    assert files(tmp_path / "failed") == files(tmp_path / "whole")


def test_checkpoints_do_not_wait_for_the_log(data, tmp_path, monkeypatch):
    """Killed after update 130 of those up to the next line of the log."""
    config = small(train__model=False, train__log_every=200, train__save_every=60)
    learner = OfflineLearner(TASK, data, "crr", config, seed=3)
    advance = learner.advance

    def killed(updates):
        if learner.done + updates > 130:
            raise KeyboardInterrupt
        return advance(updates)

    monkeypatch.setattr(learner, "advance", killed)
    saved = []
    keep = offline_training._save
    monkeypatch.setattr(offline_training, "_save", lambda *of: (saved.append(learner.done), keep(*of))[1])
    with pytest.raises(KeyboardInterrupt):
        train(learner, tmp_path)
    assert saved == [64, 128, 128], "and once more at the end"


def test_two_do_not_train_in_one_folder(data, tmp_path):
    config = small(train__model=False)
    other = OfflineLearner(TASK, data, "crr", config)

    def meanwhile():
        with pytest.raises(OfflineError, match=f"another process trains in {tmp_path}"):
            train(other, tmp_path)
        return True

    train(OfflineLearner(TASK, data, "crr", config), tmp_path, Told(stop=meanwhile))
    train(other, tmp_path)
    assert other.done == other.total


def test_a_policy_can_be_read_between_the_writing_of_its_two_files(data, tmp_path, monkeypatch):
    config = small(train__model=False)
    train(OfflineLearner(TASK, data, "crr", replace(config, {"train.updates": 64}), seed=3), tmp_path)
    before = OfflinePolicy.load(tmp_path, TASK)
    write = offline_training.write_whole

    def killed(path, data, **options):
        if path.name == "policy.json":
            raise Killed
        write(path, data, **options)

    monkeypatch.setattr(offline_training, "write_whole", killed)
    with pytest.raises(Killed):
        train(OfflineLearner(TASK, data, "crr", config, seed=3), tmp_path)
    found = OfflinePolicy.load(tmp_path, TASK)
    assert found.about == before.about
    np.testing.assert_array_equal(found.policy.mean(data.observation[:9]), before.policy.mean(data.observation[:9]))
    monkeypatch.setattr(offline_training, "write_whole", write)
    train(OfflineLearner(TASK, data, "crr", config, seed=3), tmp_path)
    assert OfflinePolicy.load(tmp_path, TASK).about["updates"] == 200


class Killed(RuntimeError):
    """Stands for the end of the process."""


def test_members_that_are_none_are_no_elites(data, tmp_path):
    learner = OfflineLearner(TASK, data, "crr", small(train__updates=5))
    train(learner, tmp_path)
    learner.ensemble.elites = (7,)
    learner.save(tmp_path / "spoilt")
    other = OfflineLearner(TASK, data, "crr", small(train__updates=5))
    with pytest.raises(CheckpointError, match=r"spoilt: elites \[7\] are not 1 of 2 members"):
        other.restore(tmp_path / "spoilt")
    assert other.done == 0


def test_a_training_that_is_done_stays_as_it_is(data, tmp_path):
    train(OfflineLearner(TASK, data, "mbop", SMALL), tmp_path)
    before = files(tmp_path)
    said = []
    train(OfflineLearner(TASK, data, "mbop", SMALL), tmp_path, Told(say=said.append))
    assert files(tmp_path) == before
    assert "goes on after update 200 of 200" in said


def test_a_stop_while_the_model_is_fitted_makes_no_policy_and_goes_on(data, tmp_path):
    learner = OfflineLearner(TASK, data, "crr", SMALL)
    said = []
    train(learner, tmp_path, Told(lambda: True, said.append))
    assert learner.model_missing and learner.done == 0
    assert "stopped after update 0 of 200; the same command goes on from there" in said
    assert not (tmp_path / "policy.json").exists()
    train(OfflineLearner(TASK, data, "crr", SMALL), tmp_path)
    train(OfflineLearner(TASK, data, "crr", SMALL), tmp_path / "whole")
    assert files(tmp_path)["policy.safetensors"] == files(tmp_path / "whole")["policy.safetensors"]


@pytest.mark.parametrize(
    ("changes", "seed", "message"),
    [
        ({"networks__hidden": 17}, 0, "networks.hidden was 16 and is 17 now"),
        ({"crr__temperature": 2.0}, 0, "crr.temperature was 1.0 and is 2.0 now"),
        ({}, 1, "seed was 0 and is 1 now"),
        ({"train__model": False}, 0, "train.model was True and is False now"),
    ],
)
def test_another_training_of_the_same_folder_is_refused(data, tmp_path, changes, seed, message):
    config = small(train__updates=5)
    train(OfflineLearner(TASK, data, "crr", config), tmp_path)
    before = files(tmp_path)
    other = OfflineLearner(TASK, data, "crr", small(train__updates=5, **changes), seed)
    with pytest.raises(OfflineError, match=re.escape(message)):
        train(other, tmp_path)
    assert files(tmp_path) == before
    # Settings of other algorithms, and how often is logged, are no difference.
    train(OfflineLearner(TASK, data, "crr", small(train__updates=5, plas__latent=3, train__log_every=7)), tmp_path)


def test_other_data_and_algorithms_in_the_same_folder_are_refused(data, tmp_path):
    config = small(train__updates=5, train__model=False)
    train(OfflineLearner(TASK, data, "crr", config), tmp_path / "out")
    other = cart_dataset(tmp_path / "other", seed=1)
    with pytest.raises(OfflineError, match=f"data was {data.digest} and is {other.digest} now"):
        train(OfflineLearner(TASK, other, "crr", config), tmp_path / "out")
    with pytest.raises(OfflineError, match="algorithm was crr and is mbop now"):
        train(OfflineLearner(TASK, data, "mbop", config), tmp_path / "out")
    changed = OfflineLearner(TASK, data, "crr", small(train__model=False, crr__samples=2))
    with pytest.raises(CheckpointError, match="crr.samples was 4 and is 2 now"):
        changed.restore(tmp_path / "out" / "checkpoint.safetensors")
    assert changed.done == 0


# ---- what goes wrong -----------------------------------------------------------------------


def test_a_training_that_diverges_says_so_and_keeps_what_was_learned(data, tmp_path):
    config = small(train__model=False)
    learner = OfflineLearner(TASK, data, "crr", config)
    step, calls = learner._learned.step, []

    def broken(batch, noise):
        calls.append(None)
        found = step(batch, noise)
        if len(calls) == 100:
            learner._learned.critic.net.theta[0] = float("nan")
        return found

    learner._learned.step = broken
    message = "training diverged after update 64, which is kept: the weights of 'critic' are not finite"
    with pytest.raises(OfflineError, match=message):
        train(learner, tmp_path / "out")
    good = OfflineLearner(TASK, data, "crr", small(train__model=False, train__updates=64))
    train(good, tmp_path / "good")
    assert files(tmp_path / "out")["policy.safetensors"] == files(tmp_path / "good")["policy.safetensors"]
    OfflinePolicy.load(tmp_path / "out", TASK)


def test_values_that_rewards_cannot_add_up_to_are_a_divergence(data):
    learner = OfflineLearner(TASK, data, "crr", small(train__model=False))
    learner.advance(64)
    kept = learner._learned.critic.net.theta.clone()
    arrays = learner._learned.target.net.arrays("critic")
    arrays["critic.2.bias"][:] = 1e6
    learner._learned.target.net.load(arrays, "critic")
    with pytest.raises(OfflineError, match=r"after update 64, .*: values are .*e\+05 in the mean, and rewards add"):
        learner.advance(64)
    assert learner.done == 64
    torch.testing.assert_close(learner._learned.critic.net.theta, kept, rtol=0.0, atol=0.0)


def test_a_model_that_cannot_be_fitted_stops_the_training(data, tmp_path):
    with pytest.raises(OfflineError, match="the model: cannot fit: .* below min_transitions = 5000"):
        train(OfflineLearner(TASK, data, "crr", small(fit__min_transitions=5000)), tmp_path)
    assert not (tmp_path / "policy.safetensors").exists()


def test_what_cannot_be_learned_from_is_refused(data, tmp_path):
    with pytest.raises(DatasetError, match="task: cart, expected half_cheetah"):
        OfflineLearner(tasks.make("half_cheetah"), data, "crr", SMALL)
    with pytest.raises(ValueError, match="unknown algorithm 'sac'; algorithms: crr, plas, mbop"):
        OfflineLearner(TASK, data, "sac", SMALL)
    lonely = cart_dataset(tmp_path / "lonely", CartTask(), episodes=3, length=1)
    with pytest.raises(OfflineError, match="none of 3 rows of the data can be learned from"):
        OfflineLearner(CartTask(), lonely, "mbop", small(train__holdout=0.0))


class Wider(FencedCartTask):
    """The cart, with an observation more."""

    observation_spec = ObservationSpec((("position", 1), ("velocity", 1), ("load", 1)))


class Renamed(FencedCartTask):
    name = "train"


def rewritten(folder, change):
    """Write the weights anew after a change to them, with a description that fits."""
    about = json.loads((folder / "policy.json").read_text())
    found = OfflinePolicy.load(folder, TASK)
    arrays = OfflineLearner.weights(LEARNERS[folder]).arrays
    change(arrays)
    encoded = Weights("crr", found.about["task"], found.about["model_hash"], 0, 0, arrays).encode()
    (folder / "policy.safetensors").write_bytes(encoded)
    (folder / "policy.json").write_text(json.dumps({**about, "weights": digest(encoded)}))


LEARNERS = {}


@pytest.fixture
def trained(data, tmp_path):
    learner = OfflineLearner(TASK, data, "crr", small(train__updates=3))
    train(learner, tmp_path)
    LEARNERS[tmp_path] = learner
    return tmp_path


def edit(folder, **changes):
    path = folder / "policy.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def poison(arrays):
    arrays["critic.0.weight"][0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("spoil", "task", "message"),
    [
        (lambda f: None, Renamed(), "policy.json: task is 'cart', expected 'train'"),
        (lambda f: None, Wider(), "weights 'actor.0.weight' have shape"),
        (lambda f: edit(f, model_hash="0" * 16), TASK, "policy.json: model_hash is '0000000000000000', expected"),
        (lambda f: edit(f, settings={"networks.hidden": 17}), TASK, "have shape|other tensors"),
        (lambda f: edit(f, settings={"networks.depth": 2}), TASK, "unknown parameter 'networks.depth'"),
        (lambda f: edit(f, algorithm="ppo"), TASK, "algorithm is 'ppo'; algorithms: crr, plas, mbop"),
        (lambda f: edit(f, algorithm="plas"), TASK, "policy.safetensors: kind is 'crr', expected 'plas'"),
        (lambda f: edit(f, format="something"), TASK, "format is 'something', expected 'polo_ros policy 1'"),
        (lambda f: edit(f, settings=[]), TASK, "settings is \\[\\], expected dict"),
        (lambda f: (f / "policy.json").write_text("{"), TASK, "policy.json is not JSON"),
        (lambda f: (f / "policy.json").unlink(), TASK, "policy.json cannot be read: No such file"),
        (lambda f: (f / "policy.safetensors").unlink(), TASK, "policy.safetensors cannot be read: No such file"),
        (lambda f: (f / "policy.safetensors").write_bytes(b"x"), TASK, "is not what policy.json is about"),
        (lambda f: rewritten(f, poison), TASK, "weights 'critic.0.weight' contain values that are not finite"),
        (lambda f: rewritten(f, lambda a: a.pop("actor.0.bias")), TASK, "missing \\['actor.0.bias'\\]"),
        (lambda f: rewritten(f, lambda a: a["model.input_std"].fill(0.0)), TASK, "expected values above 0"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused(trained, spoil, task, message):
    spoil(trained)
    with pytest.raises(WeightsError, match=message):
        OfflinePolicy.load(trained, task)


# ---- how it goes ---------------------------------------------------------------------------


def test_figures_go_to_tensorboard_where_it_is_installed(data, tmp_path, monkeypatch):
    points = []

    class Writer:
        def __init__(self, folder, purge_step):
            points.append((folder, purge_step))

        def add_scalar(self, tag, value, step):
            points.append((tag, float(value), step))

        def flush(self):
            pass

        def close(self):
            points.append("closed")

    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    train(OfflineLearner(TASK, data, "mbop", small(train__model=False)), tmp_path)
    assert points[0] == (str(tmp_path / "tensorboard"), 1) and points[-1] == "closed"
    drawn = {(tag, step): value for tag, value, step in points[1:-1]}
    for line in (tmp_path / "log.jsonl").read_text().splitlines():
        told = json.loads(line)
        step = told.pop("update")
        assert {(f"train/{name}", step): value for name, value in told.items()}.items() <= drawn.items()
    assert {step for _, step in drawn} == {50, 100, 150, 200}


def test_without_tensorboard_the_log_says_it_all(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    said = []
    train(OfflineLearner(TASK, data, "plas", SMALL), tmp_path, Told(say=said.append))
    assert any("TensorBoard is not installed" in line for line in said)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines] == [0, 50, 70, 100, 150, 200, 250, 270]
    assert {"model_mse", "model_seconds"} <= lines[0].keys()
    assert ["cvae_error" in line for line in lines[1:]] == [True, True] + [False] * 5
    assert all(("critic_loss" in line) != ("cvae_error" in line) for line in lines[1:])
    assert not (tmp_path / "tensorboard").exists()


def test_a_damaged_log_and_identity_are_no_trap(data, tmp_path):
    config = small(train__model=False, train__updates=5)
    train(OfflineLearner(TASK, data, "crr", config), tmp_path)
    with open(tmp_path / "log.jsonl", "a", encoding="utf-8") as stream:
        stream.write('{"update": 400}\n{"upda')
    train(OfflineLearner(TASK, data, "crr", config), tmp_path)
    assert [json.loads(line)["update"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [5]
    (tmp_path / "train.json").write_text("{")
    with pytest.raises(OfflineError, match="train.json is damaged"):
        train(OfflineLearner(TASK, data, "crr", config), tmp_path)


def test_the_model_tells_how_its_fit_goes(data):
    seen = []
    learner = OfflineLearner(TASK, data, "crr", SMALL)
    figures = learner.fit_model(seen.append)
    assert seen and figures["gradient_steps"] == seen[-1].gradient_steps == 5
