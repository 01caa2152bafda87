"""Who acts by what was learned offline, in one process."""

from __future__ import annotations

import json
import re

import mujoco
import numpy as np
import pytest
from learning_fakes import CartTask, FencedCartTask
from offline_samples import SMALL, cart_dataset, pendulum, small

from polo_ros import tasks
from polo_ros.agents import registry
from polo_ros.agents.base import required_version
from polo_ros.agents.configs import CONFIGS
from polo_ros.agents.learned import Learned
from polo_ros.agents.loop import LoopPlanner
from polo_ros.agents.loop_config import LoopConfig, OfflineAgentConfig
from polo_ros.agents.offline import OUTSIDE, EvaluateOptions, OfflineReader, deploy, evaluate, make_planner
from polo_ros.agents.online import OnlineRun
from polo_ros.cli import main
from polo_ros.config import flatten, replace
from polo_ros.dynamics.ensemble import EnsembleDynamics
from polo_ros.learning.offline_learner import OfflineLearner
from polo_ros.learning.offline_policy import OfflinePolicy
from polo_ros.learning.offline_training import train
from polo_ros.learning.weights import WeightsError
from polo_ros.replay.dataset import DatasetWriter, Rows
from polo_ros.seeding import Stream, generator
from polo_ros.session.config import OFFLINE_AGENTS, for_task

TASK = FencedCartTask()
CONFIG = replace(
    CONFIGS["crr"],
    {**flatten(SMALL), "prediction.particles": 2, "arc.rollouts": 30, "arc.noise": 0.2, "arc.horizon": 3},
)
STARTS = np.array([[-0.4, 0.2], [0.0, 0.0], [0.5, -0.5]])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return cart_dataset(tmp_path_factory.mktemp("data") / "cart")


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A folder each algorithm."""
    folder = tmp_path_factory.mktemp("trained")
    for algorithm in OFFLINE_AGENTS:
        train(OfflineLearner(TASK, data, algorithm, SMALL), folder / algorithm)
    return folder


def with_(**changes):
    return replace(CONFIG, {name.replace("__", "."): value for name, value in changes.items()})


def plan(planner, observation, step=0):
    return planner.plan(observation, step, step, 0)[1].actions


# ---- acting --------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", OFFLINE_AGENTS)
def test_without_a_search_the_policy_alone_acts(trained, algorithm):
    planner = deploy(trained / algorithm, algorithm, TASK, with_(lookahead__search="none"), 0).planner
    policy = OfflinePolicy.load(trained / algorithm, TASK).policy
    for start in STARTS:
        np.testing.assert_array_equal(plan(planner, start), np.repeat(policy.mean(start)[None], 3, axis=0))


@pytest.mark.parametrize("algorithm", OFFLINE_AGENTS)
def test_candidates_are_the_policys_and_without_noise_so_is_the_plan(trained, algorithm):
    config = with_(arc__noise=0.0, prediction__sampled=False, prediction__particles=1)
    planner = deploy(trained / algorithm, algorithm, TASK, config, 0).planner
    found = OfflinePolicy.load(trained / algorithm, TASK)
    model = EnsembleDynamics(TASK, found.ensemble, replace(config.prediction, {"particles": 1}), found.model)
    for start in STARTS:
        seen, expected = start, []
        for _ in range(3):
            expected.append(found.policy.mean(seen))
            seen = model.advance(seen, expected[-1][None])
        np.testing.assert_allclose(plan(planner, start), expected, atol=2e-5)


def test_a_plan_is_the_weighted_mean_of_noisy_candidates_within_range(trained):
    planner = deploy(trained / "crr", "crr", TASK, with_(arc__noise=5.0), 0).planner
    alone = OfflinePolicy.load(trained / "crr", TASK).policy
    found = [plan(planner, start) for start in STARTS]
    assert all((np.abs(actions) <= 1.0).all() for actions in found)
    assert any(not np.allclose(a[0], alone.mean(s), atol=1e-3) for a, s in zip(found, STARTS, strict=True))
    again = deploy(trained / "crr", "crr", TASK, with_(arc__noise=5.0), 0).planner
    np.testing.assert_array_equal(found, [plan(again, start) for start in STARTS])


def test_live_weights_are_what_a_folder_begins_with(data, trained):
    learner = OfflineLearner(TASK, data, "plas", SMALL)
    learner.restore(trained / "plas" / "checkpoint.safetensors")
    planner = make_planner("plas", TASK, CONFIG, 0)
    assert planner.kind == "plas" and planner.weights_version == 0
    np.testing.assert_array_equal(plan(planner, STARTS[0]), np.repeat(TASK.resting_action[None], 3, axis=0))
    weights = learner.weights()
    planner.use_weights(planner.check_weights(weights.encode()), weights.version)
    begun = deploy(trained / "plas", "plas", TASK, CONFIG, 0).planner
    assert begun.weights_version == weights.version == planner.weights_version > 1
    for step, start in enumerate(STARTS):
        np.testing.assert_array_equal(plan(planner, start, step), plan(begun, start, step))


def test_sizes_and_discount_are_those_of_the_training(data, tmp_path):
    config = small(train__model=False, train__discount=0.5, train__updates=5)
    train(OfflineLearner(TASK, data, "crr", config), tmp_path)
    planner = deploy(tmp_path, "crr", TASK, with_(lookahead__search="none", networks__hidden=99), 0).planner
    assert OfflineReader(TASK, "crr", replace(CONFIG, flatten(config) | {"lookahead.search": "none"})).discount == 0.5
    assert planner.config.train.discount == 0.5 and planner.config.networks.hidden == 16
    with pytest.raises(ValueError, match="lookahead.search = 'arc' plans in .* and train.model = False"):
        deploy(tmp_path, "crr", TASK, CONFIG, 0)


def test_pessimism_asks_for_particles_of_every_elite_of_the_training(trained):
    with pytest.raises(ValueError, match="lookahead.pessimism = 1.0 .* a multiple of 2 elites"):
        replace(with_(lookahead__pessimism=1.0, prediction__particles=3), {"ensemble.elites": 2})
    calm = plan(deploy(trained / "crr", "crr", TASK, CONFIG, 0).planner, STARTS[0])
    wary = plan(deploy(trained / "crr", "crr", TASK, with_(lookahead__pessimism=50.0), 0).planner, STARTS[0])
    np.testing.assert_array_equal(calm, wary)  # one elite disagrees with nobody


def test_the_agent_sac_is_loop_without_a_search():
    """An actor alone is an agent of LOOP's, too: random while there is none, then drawn, and its mean in trials."""

    class Fixed:
        def mean(self, observations):
            return np.full((*observations.shape[:-1], 1), 0.25)

        def sample(self, observations, rng):
            return np.full((*observations.shape[:-1], 1), 0.75)

    config = replace(LoopConfig(), {"lookahead.search": "none", "sac.warmup": 5})
    tried, exploring = (LoopPlanner(TASK, config, 0, exploring=e) for e in (False, True))
    assert len(np.unique(plan(exploring, STARTS[0], 100))) == 3
    for planner in (tried, exploring):
        planner.use(Learned(Fixed(), None, None), 1)
    assert len(np.unique(plan(exploring, STARTS[0], 4))) == 3
    assert set(plan(exploring, STARTS[0], 5).ravel()) == {0.75} and set(plan(tried, STARTS[0]).ravel()) == {0.25}


# ---- what is refused -----------------------------------------------------------------------


class Renamed(CartTask):
    name = "train"


def test_a_policy_of_something_else_is_refused(trained):
    with pytest.raises(WeightsError, match="was learned by 'plas', expected 'crr': name that agent"):
        deploy(trained / "plas", "crr", TASK, CONFIG, 0)
    with pytest.raises(WeightsError, match="task is 'cart', expected 'train'"):
        deploy(trained / "crr", "crr", Renamed(), CONFIG, 0)
    with pytest.raises(WeightsError, match="policy.json cannot be read"):
        deploy(trained / "none", "crr", TASK, CONFIG, 0)


def test_live_weights_that_do_not_fit_are_refused(data):
    planner = make_planner("crr", TASK, CONFIG, 0)
    learner = OfflineLearner(TASK, data, "crr", SMALL)
    weights = learner.weights()
    with pytest.raises(WeightsError, match="other tensors"):
        planner.check_weights(OfflineLearner(TASK, data, "plas", SMALL).weights().encode())
    with pytest.raises(WeightsError, match="have shape"):
        planner.check_weights(OfflineLearner(TASK, data, "crr", small(networks__hidden=8)).weights().encode())
    for name in ("actor.0.weight", "critic.1.bias", "model.0.weight"):
        spoilt = dict(weights.arrays) | {name: np.full_like(weights.arrays[name], np.nan)}
        with pytest.raises(WeightsError, match=f"'{name}' contain values that are not finite"):
            planner.check_weights(type(weights)("crr", "cart", "", 1, 0, spoilt).encode())
    spoilt = dict(weights.arrays) | {"model.input_std": np.zeros_like(weights.arrays["model.input_std"])}
    with pytest.raises(WeightsError, match="expected values above 0"):
        planner.check_weights(type(weights)("crr", "cart", "", 1, 0, spoilt).encode())


@pytest.mark.parametrize("share", [0.0, OUTSIDE, 2 * OUTSIDE, None, "much"])
def test_a_policy_that_leaves_its_data_is_warned_of(trained, tmp_path, share):
    for name in ("policy.json", "policy.safetensors"):
        (tmp_path / name).write_bytes((trained / "crr" / name).read_bytes())
    about = json.loads((tmp_path / "policy.json").read_text())
    about["metrics"] = {} if share is None else about["metrics"] | {"action_outside": share}
    (tmp_path / "policy.json").write_text(json.dumps(about))
    found = deploy(tmp_path, "crr", TASK, CONFIG, 0)
    assert ("10.0% of the policy's actions are beyond those of its data" in found.warning) == (share == 2 * OUTSIDE)
    assert ("its training held out no data" in found.warning) == (share in (None, "much"))
    assert bool(found.warning) == (share not in (0.0, OUTSIDE))
    assert f"policy {tmp_path}: crr, 200 updates" in found.about
    assert ("action_outside" in found.about) == isinstance(share, float)


def test_agents_of_the_same_names_as_algorithms_have_no_schedule_and_learn_elsewhere():
    for name in OFFLINE_AGENTS:
        agent, config = registry.get(name), for_task(CONFIGS[name], "no_such_task", agent=name)
        assert isinstance(config, OfflineAgentConfig)
        assert required_version(10**9, agent.update_every(config)) == 0
        assert (config.arc.beta, config.arc.iterations, config.arc.executed) == (1.0, 1, "mean")
        assert config.lookahead.pessimism == 1.0 and config.prediction.members(config.ensemble) == 3
        with pytest.raises(ValueError, match="learner:=false"):
            agent.learner(TASK, config, 0, 0, 1)
        with pytest.raises(ValueError, match=f"polo train --algorithm {name}"):
            agent.run(TASK, config, registry.RunOptions(1, 0))
    assert all(registry.get(name).deploy is None for name in registry.names() if name not in OFFLINE_AGENTS)


# ---- trying it -----------------------------------------------------------------------------


def by_hand(task, policy, seed, number, steps):
    """The return of a policy from the start of one trial, in MuJoCo itself."""
    work = mujoco.MjData(task.model)
    state, total = task.reset(generator(seed, Stream.EPISODE, OnlineRun.FIRST_EVALUATION + number)), 0.0
    for _ in range(steps):
        seen = task.observe(task.sense(state))
        action = policy.mean(seen)
        state = task.advance(work, state, action[None])
        after = task.observe(task.sense(state))
        total += float(task.reward(seen, action, after))
        if task.terminated(after):
            break
    return total


def test_evaluations_are_what_the_policy_gets_by_hand_and_begin_where_others_do(trained):
    said = []
    options = EvaluateOptions(planners=("none", "loop"), episodes=3, seed=4, steps=20, say=said.append)
    found = evaluate(trained / "crr", TASK, CONFIG, options)
    policy = OfflinePolicy.load(trained / "crr", TASK).policy
    expected = [by_hand(TASK, policy, 4, number, 20) for number in range(3)]
    np.testing.assert_allclose(found["none"]["returns"], expected, rtol=1e-4, atol=1e-4)
    assert found["none"]["mean_return"] == pytest.approx(np.mean(expected), rel=1e-4)
    assert len(found["loop"]["returns"]) == 3 and found["loop"]["returns"] != found["none"]["returns"]
    assert found == evaluate(trained / "crr", TASK, CONFIG, EvaluateOptions(("none", "loop"), 3, 4, 20))
    assert [line.split(",")[0] for line in said[:2]] == ["none: episode 1 of 3", "none: episode 2 of 3"]


def test_episodes_of_an_evaluation_have_noise_of_their_own(trained, monkeypatch):
    steps = []
    plan = LoopPlanner.plan

    def watched(planner, start, step, *more):
        steps.append(step)
        return plan(planner, start, step, *more)

    monkeypatch.setattr(LoopPlanner, "plan", watched)
    evaluate(trained / "crr", TASK, CONFIG, EvaluateOptions(("loop",), episodes=3, seed=4, steps=6))
    assert len(set(steps)) == len(steps) > 6, "noise is of the control period"


def test_lookahead_goes_where_values_are_though_the_policy_rests():
    class Resting:
        def mean(self, observations):
            return np.zeros((*observations.shape[:-1], 1))

        def sample(self, observations, rng):
            return self.mean(observations)

    class Middle:
        def values(self, observations, actions):
            return -100.0 * (observations[..., 0] + observations[..., 1]) ** 2

    config = with_(arc__noise=0.5, arc__kappa=10.0, lookahead__model="mujoco")
    planner = make_planner("crr", TASK, config, 0, threads=1)
    planner.use(Learned(Resting(), Middle(), None), 1)
    right, left = (plan(planner, np.array([0.0, x, x]), step)[0, 0] for step, x in enumerate((-0.5, 0.5)))
    planner.close()
    assert left < -0.1 and right > 0.1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A policy of the inverted pendulum, hardly trained."""
    base, rng = tmp_path_factory.mktemp("pendulum"), np.random.default_rng(0)
    task, rows = tasks.make("inverted_pendulum"), []
    while len(rows) < 300:
        rows += pendulum(task, rng, lambda obs: rng.uniform(-3.0, 3.0, 1), 100)[0]
    with DatasetWriter(base / "data", task, task.model_hash) as writer:
        writer.append(Rows(*(np.array(column) for column in zip(*rows, strict=True))))
    settings = (
        "networks.hidden=16",
        "train.batch_size=32",
        "ensemble.hidden=8",
        "ensemble.elites=2",
        "fit.max_steps=3",
    )
    arguments = [word for setting in settings for word in ("--set", setting)]
    more = ["--data", str(base / "data"), "--out", str(base / "out"), "--updates", "20", "--json"]
    assert main(["train", "--algorithm", "crr", *more, *arguments]) == 0
    return base / "out"


def test_evaluate_prints_both_planners_from_the_same_starts(folder, capsys):
    capsys.readouterr()
    arguments = [
        "evaluate",
        "--policy",
        str(folder),
        "--episodes",
        "2",
        "--steps",
        "5",
        "--set",
        "prediction.particles=2",
    ]
    assert main([*arguments, "--planner", "both", "--json"]) == 0
    captured = capsys.readouterr()
    both = json.loads(captured.out)
    assert captured.err == "" and (both["task"], both["algorithm"]) == ("inverted_pendulum", "crr")
    assert len(both["loop"]["returns"]) == len(both["none"]["returns"]) == 2
    for planner in ("loop", "none"):
        assert main([*arguments, "--planner", planner, "--task", "inverted_pendulum", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)[planner] == both[planner]
    assert main([*arguments, "--planner", "none"]) == 0
    captured = capsys.readouterr()
    assert "mean_return" in captured.out and "none: episode 2 of 2, return " in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "hopper", "--set", "prediction.particles=2"], "task is 'inverted_pendulum', expected 'hopper'"),
        (["--task", "hoper"], "unknown task 'hoper'"),
        (["--episodes", "0"], "--episodes 0 is below its minimum 1"),
        (["--set", "arc.nois=1"], "unknown parameter 'arc.nois'"),
        ([], "lookahead.pessimism = 1.0 .* a multiple of 2 elites"),
    ],
)
def test_evaluate_refuses_what_does_not_fit(folder, capsys, arguments, message):
    capsys.readouterr()
    assert main(["evaluate", "--policy", str(folder), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(message, captured.err), captured.err


def test_evaluate_without_a_policy_says_where_it_looked(tmp_path, capsys):
    assert main(["evaluate", "--policy", str(tmp_path)]) == 2
    assert f"polo: {tmp_path}/policy.json cannot be read: No such file" in capsys.readouterr().err
