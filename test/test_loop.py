"""LOOP in one process: its objective, its planner, its learner, and the agents that are made of the same parts."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from learning_fakes import CartTask, FencedCartTask, LinearDynamics, wander

from polo_ros import tasks
from polo_ros.agents import registry
from polo_ros.agents.configs import CONFIGS
from polo_ros.agents.loop import LoopPlanner, make_learner, make_run
from polo_ros.agents.loop_config import LookaheadConfig, LoopConfig
from polo_ros.agents.online import EvaluationConfig
from polo_ros.cli import main
from polo_ros.config import replace as changed
from polo_ros.dynamics.base import Rollouts
from polo_ros.dynamics.ensemble_config import EnsembleConfig, PredictionConfig
from polo_ros.learning import dynamics_fit, loop_weights
from polo_ros.learning.actor_critic import ActorCriticConfig
from polo_ros.learning.checkpoint import CheckpointError
from polo_ros.learning.fit_config import FitConfig
from polo_ros.learning.loop_learner import LoopLearner, LoopMetrics
from polo_ros.learning.sac_config import SacConfig
from polo_ros.learning.weights import WeightsError
from polo_ros.planners.arc import ArcConfig
from polo_ros.planners.base import PlanResult
from polo_ros.planners.cem import CemConfig
from polo_ros.planners.lookahead import PolicyValue, PublishedLookahead
from polo_ros.planners.objective import Objective
from polo_ros.replay.transition import Transition
from polo_ros.session.config import AGENTS, OFFLINE_AGENTS, for_task
from polo_ros.tasks.base import FloatArray

CONFIG = LoopConfig(
    arc=ArcConfig(rollouts=12, horizon=3, iterations=2, beta=0.2),
    cem=CemConfig(rollouts=12, horizon=3, iterations=2, elites=3),
    ensemble=EnsembleConfig(members=3, elites=2, hidden=12, layers=1),
    prediction=PredictionConfig(particles=2),
    fit=FitConfig(every=20, min_transitions=16, max_epochs=3, weight_decay=(0.0,), holdout_run=2),
    networks=ActorCriticConfig(hidden=12),
    sac=SacConfig(update_every=10, gradient_steps=3, warmup=30, batch_size=6, capacity=500),
    evaluation=EvaluationConfig(every=0, episodes=1, steps=20),
)


# ---- the objective -----------------------------------------------------------------------------


class Twice:
    """A critic whose value is twice the position plus three times the action, and an actor that plays half of it."""

    def mean(self, observations: FloatArray) -> FloatArray:
        return 0.5 * observations[..., :1]

    def sample(self, observations: FloatArray, rng: np.random.Generator) -> FloatArray:
        return self.mean(observations)

    def values(self, observations: FloatArray, actions: FloatArray) -> FloatArray:
        return 2.0 * observations[..., 0] + 3.0 * actions[..., 0]


def rolled(task: CartTask) -> tuple[Rollouts, FloatArray]:
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (5, 4, 1))
    starts = np.array([[0.0, x, 0.5] for x in (-0.5, 0.0, 0.8, 0.99, 2.0)])
    return LinearDynamics().rollout(starts, actions), actions


@pytest.mark.parametrize("particles", [0, 3])
@pytest.mark.parametrize("task", [CartTask(), FencedCartTask()])
def test_the_papers_objective_is_equation_3_with_the_actors_value(task: CartTask, particles: int) -> None:
    rollouts, actions = rolled(task)
    obs = rollouts.observations
    expected = []
    for one in obs:
        total, ended = 0.0, bool(task.terminated(one[0]))
        for t in range(4):
            total += 0.0 if ended else 0.8**t * -(one[t, 0] ** 2)
            ended = ended or bool(task.terminated(one[t + 1]))
        expected.append(total + (0.0 if ended else 0.8**4 * 3.5 * one[4, 0]))
    objective = Objective(task, PolicyValue(Twice(), Twice()), discount=0.8)
    if particles:  # all alike: their mean is any of them
        obs = np.tile(obs[:, None], (1, particles, 1, 1))
    np.testing.assert_allclose(objective(Rollouts(obs, rollouts.valid), actions).score, expected)


@pytest.mark.parametrize("particles", [0, 3])
def test_the_published_objective_counts_one_reward_less_and_values_the_last_action(particles: int) -> None:
    task = FencedCartTask()
    rollouts, actions = rolled(task)
    obs = rollouts.observations
    expected = []
    for one, played in zip(obs, actions, strict=True):
        total, ended = 0.0, bool(task.terminated(one[0]))
        for t in range(3):
            total += 0.0 if ended else -(one[t, 0] ** 2)
            ended = ended or bool(task.terminated(one[t + 1]))
        ended = ended or bool(task.terminated(one[4]))
        expected.append(total + (0.0 if ended else 2.0 * one[3, 0] + 3.0 * played[3, 0]))
    assert len({bool(task.terminated(one).any()) for one in obs}) == 2
    objective = PublishedLookahead(task, PolicyValue(Twice(), Twice()))
    if particles:
        obs = np.tile(obs[:, None], (1, particles, 1, 1))
    np.testing.assert_allclose(objective(Rollouts(obs, rollouts.valid), actions).score, expected)


def test_the_published_objective_takes_no_value_of_states() -> None:
    class OfStates:
        def estimate(self, observations: FloatArray) -> None:
            return None

    rollouts, actions = rolled(CartTask())
    with pytest.raises(TypeError, match="cannot value actions"):
        PublishedLookahead(CartTask(), OfStates())(rollouts, actions)  # type: ignore[arg-type]


# ---- the learner -------------------------------------------------------------------------------


def taught(config: LoopConfig = CONFIG, steps: int = 60, seed: int = 2) -> tuple[LoopLearner, list[LoopMetrics]]:
    learner, metrics = make_learner(CartTask(), config, seed), []
    for transition in wander(CartTask(), steps):
        assert learner.observe(transition), learner.message
        if learner.due(transition.step):
            metrics.append(learner.update())
    return learner, metrics


def bits(learner: LoopLearner) -> bytes:
    return learner.weights().encode()


def test_the_model_is_fitted_by_its_own_schedule_also_while_actor_and_critics_wait() -> None:
    learner, metrics = taught()
    assert [m.version for m in metrics] == [1, 2, 3, 4, 5, 6]
    assert [bool(m.model) for m in metrics] == [False, True, False, True, False, True]
    assert [m.gradient_steps for m in metrics] == [0, 0, 3, 3, 3, 3]
    assert learner.fits == 3
    told = metrics[1].figures()
    assert {"model_mse", "model_nll", "model_within_1_sigma", "model_disagreement", "model_error_after_1"} <= set(told)
    assert told["model_fitted"] + told["model_held_out"] == 20
    assert math.isnan(told["value_loss"]) and metrics[0].message.startswith("10 control periods, fewer than warmup")


def test_a_fit_that_is_refused_is_named_and_leaves_the_model_as_it_was() -> None:
    config = changed(CONFIG, {"fit.every": 10})
    learner, metrics = taught(config, steps=10)
    assert "10 transitions are below min_transitions = 16" in metrics[0].message
    assert learner.fits == 0 and loop_weights.split(learner.weights().arrays)[2] == 0
    _, later = taught(config, steps=20)
    assert later[1].model


def test_the_fitted_model_knows_the_cart() -> None:
    """x' = x + 0.1 v, v' = v + 0.1 u: a linear model, fitted well, predicts them and the reward of a parabola not."""
    linear = changed(
        CONFIG, {"ensemble.layers": 0, "fit.max_epochs": 1500, "fit.learning_rate": 0.01, "fit.every": 200}
    )
    learner, metrics = taught(linear, steps=200)
    assert metrics[-1].model["error_after_1"] < 0.02


class TeleportedCart(CartTask):
    """Somebody puts the cart elsewhere now and then."""

    def unforeseen(self, obs: Any, next_obs: Any) -> Any:
        return abs(next_obs[..., 0] - obs[..., 0]) > 10.0


def test_the_model_is_not_fitted_to_what_nothing_foretells() -> None:
    learner = make_learner(TeleportedCart(), changed(CONFIG, {"fit.every": 200, "fit.max_epochs": 20}), 2)
    for transition in wander(CartTask(), 200):
        if transition.step % 20 == 7:
            transition = replace(transition, next_observation=transition.next_observation + 100.0)
        assert learner.observe(transition)
    found = learner.update().model
    assert found["fitted"] + found["held_out"] == 190
    assert found["mse"] < 10.0, "one of the ten would add 30 at least"
    assert len(learner.buffer) == 200


def test_what_was_left_out_does_not_move_the_runs_that_are_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of the record, in which an episode begins every 25 periods, are held out whole."""
    splits: list[tuple[Any, Any]] = []
    split = dynamics_fit._split

    def watched(n: int, config: Any, rng: Any, places: Any) -> Any:
        found = split(n, config, rng, places)
        splits.append((places[found.held] // 25, places[found.fitted] // 25))
        return found

    monkeypatch.setattr(dynamics_fit, "_split", watched)
    config = changed(CONFIG, {"fit.every": 200, "fit.max_epochs": 2, "fit.holdout_run": 25, "fit.shuffle": True})
    learner = make_learner(TeleportedCart(), config, 2)
    for transition in wander(CartTask(), 200):
        if transition.step % 20 == 7:
            transition = replace(transition, next_observation=transition.next_observation + 100.0)
        learner.observe(transition)
    learner.update()
    ((held, fitted),) = splits
    assert len(held) + len(fitted) == 190 and not set(held) & set(fitted)


def test_the_same_transitions_give_the_same_weights_and_another_seed_others() -> None:
    assert bits(taught()[0]) == bits(taught()[0]) != bits(taught(seed=3)[0])


def test_a_restored_learner_goes_on_exactly(tmp_path: Path) -> None:
    whole, _ = taught(steps=60)
    first, _ = taught(steps=35)
    first.save(tmp_path / "kept")
    second = make_learner(CartTask(), CONFIG, 2)
    assert second.restore(tmp_path / "kept") == ()
    for transition in wander(CartTask(), 60)[35:]:
        second.observe(transition)
        if second.due(transition.step):
            second.update()
    assert bits(second) == bits(whole)
    assert second.fits == whole.fits and second.ensemble is not None and whole.ensemble is not None
    assert second.ensemble.elites == whole.ensemble.elites


def test_checkpoints_of_other_agents_or_sizes_are_refused(tmp_path: Path) -> None:
    taught(steps=20)[0].save(tmp_path / "kept")
    with pytest.raises(CheckpointError, match="model.0.weight"):
        make_learner(CartTask(), changed(CONFIG, {"ensemble.hidden": 13}), 2).restore(tmp_path / "kept")
    warned = make_learner(CartTask(), changed(CONFIG, {"fit.patience": 9}), 2).restore(tmp_path / "kept")
    assert warned == ("fit.patience was 5 in the checkpoint and is 9 now",)
    spoilt = taught(steps=60)[0]
    assert spoilt.ensemble is not None
    spoilt.ensemble.elites = (9,) * len(spoilt.ensemble.elites)
    spoilt.save(tmp_path / "spoilt")
    fresh = make_learner(CartTask(), CONFIG, 2)
    with pytest.raises(CheckpointError, match=r"elites \[9.*\] are not \d of \d members"):
        fresh.restore(tmp_path / "spoilt")
    assert len(fresh.buffer) == 0 and fresh.last_step == -1
    registry.get("sac").learner(CartTask(), CONFIGS["sac"], 0, 0, 1).save(tmp_path / "other")
    with pytest.raises(CheckpointError, match="kind is 'sac', expected 'loop'"):
        make_learner(CartTask(), CONFIG, 2).restore(tmp_path / "other")


@pytest.mark.parametrize(("search", "value", "learns"), [("none", False, True), ("cem", False, False)])
def test_an_actor_that_is_asked_learns(search: str, value: bool, learns: bool) -> None:
    config = changed(CONFIG, {"lookahead.search": search, "lookahead.value": value})
    learner = taught(config, 60)[0]
    before = make_learner(CartTask(), config, 2).weights().arrays["actor.0.weight"]
    assert np.array_equal(learner.weights().arrays["actor.0.weight"], before) is not learns


# ---- the planner -------------------------------------------------------------------------------


def planner(config: LoopConfig = CONFIG, *, steps: int = 60, exploring: bool = True) -> LoopPlanner:
    made = LoopPlanner(CartTask(), config, seed=4, exploring=exploring, threads=1)
    weights = taught(config, steps)[0].weights()
    made.use_weights(made.check_weights(weights.encode()), weights.version)
    return made


STATE = np.array([0.0, 0.4, -0.3])


def test_a_plan_can_be_made_again_from_seed_step_warm_start_and_weights() -> None:
    one, other = planner(), planner()
    for step in (100, 101, 102):
        first, second = (p.plan(p.start(STATE), step, step, 0)[0] for p in (one, other))
        np.testing.assert_array_equal(first.actions, second.actions)
    again = planner().plan(STATE[1:], 103, 103, 0)[0]
    assert not np.array_equal(one.plan(STATE[1:], 103, 103, 0)[0].actions, again.actions), "the warm start counts"


def test_random_actions_until_the_warm_up_is_over_and_a_model_was_fitted() -> None:
    early = planner(steps=10)  # not fitted
    for made, step in ((early, 1000), (planner(), 29), (LoopPlanner(CartTask(), CONFIG, seed=4), 50)):
        assert made.plan(made.start(STATE), step, step, 0)[1].rollouts == 0
    for made in (early, LoopPlanner(CartTask(), CONFIG, seed=4)):
        actions = np.concatenate([made.plan(made.start(STATE), s, s, 0)[0].actions[0] for s in range(1000, 1200)])
        assert np.abs(actions).max() <= 1.0
        assert np.std(actions) == pytest.approx(1.0 / np.sqrt(3.0), rel=0.15), "uniform over the range"
    assert planner().plan(STATE[1:], 30, 30, 0)[1].rollouts == 24


def test_who_does_not_explore_plans_the_mean_and_without_a_model_does_what_the_actor_does() -> None:
    made = planner(exploring=False)
    assert made.config.arc.executed == "mean"
    made.configure(changed(CONFIG, {"arc.executed": "draw", "arc.kappa": 7.0}))
    assert made.config.arc.executed == "mean" and made.config.arc.kappa == 7.0
    assert made.plan(STATE[1:], 0, 0, 0)[1].rollouts == 24, "no warm-up"
    early = planner(steps=10, exploring=False)
    np.testing.assert_array_equal(early.plan(STATE[1:], 0, 0, 0)[0].actions, np.tile(early.actor(STATE[1:]), (3, 1)))
    nothing = LoopPlanner(CartTask(), CONFIG, seed=4, exploring=False)
    assert (nothing.plan(STATE[1:], 0, 0, 0)[0].actions == 0.0).all()


def test_weights_that_are_wrong_are_refused() -> None:
    made = planner()
    arrays = dict(taught()[0].weights().arrays)
    arrays["model.input_std"] = np.zeros_like(arrays["model.input_std"])
    with pytest.raises(WeightsError, match="'input_std' contain 0.0"):
        made.check_weights(safetensors.numpy.save(arrays))
    del arrays["model.fits"]
    with pytest.raises(WeightsError, match=r"missing \['model.fits'\]"):
        made.check_weights(safetensors.numpy.save(arrays))


def test_what_comes_is_predicted_by_the_learned_model_and_not_by_the_true_one() -> None:
    made = planner()
    start = made.start(STATE)
    np.testing.assert_array_equal(start, STATE[1:])
    predicted = made.predict(start, np.ones((2, 1)))
    assert predicted.shape == (2,) and not np.allclose(predicted, start)
    np.testing.assert_array_equal(LoopPlanner(CartTask(), CONFIG, 4).predict(start, np.ones((2, 1))), start)


@pytest.mark.parametrize("search", ["arc", "cem"])
@pytest.mark.parametrize("form", ["paper", "published"])
def test_plans_in_the_true_model_too(search: str, form: str) -> None:
    config = replace(CONFIG, lookahead=LookaheadConfig(search=search, model="mujoco", form=form))
    made = planner(config)
    np.testing.assert_array_equal(made.start(STATE), STATE)
    plan, result = made.plan(made.start(STATE), 100, 100, 0)
    assert result.rollouts == 24 and plan.actions.shape == (3, 1)
    moved = made.predict(STATE, np.ones((1, 1)))
    np.testing.assert_allclose(moved, CartTask().advance(CartTask()._scratch, STATE, np.ones((1, 1))))
    assert not any(name.startswith("model.") for name in taught(config)[0].weights().arrays)
    made.close()


@pytest.mark.parametrize(
    "changes", [{"prediction.propagation": "ts1"}, {"prediction.particles": 3}, {"prediction.particles": 1}]
)
def test_pessimism_is_refused_where_elites_have_no_particles_of_their_own(changes: dict[str, object]) -> None:
    pessimist = changed(CONFIG, {"lookahead.pessimism": 1.0})
    with pytest.raises(ValueError, match=r"lookahead\.pessimism = 1\.0 is over elites.* a multiple of 2 elites"):
        changed(pessimist, changes)
    changed(pessimist, changes | {"lookahead.model": "mujoco"})


class Dear(CartTask):
    """A cart that costs something in any case, and more the faster it is."""

    def cost(self, obs: Any, action: Any, next_obs: Any) -> Any:
        return 1.0 + abs(next_obs[..., 1])


@pytest.mark.parametrize("model", ["learned", "mujoco"])
@pytest.mark.parametrize("search", ["arc", "cem"])
def test_pessimism_and_a_limit_are_taken_from_the_next_plan_on(model: str, search: str) -> None:
    settings: dict[str, object] = {"lookahead.model": model, "lookahead.search": search, "dynamics.members": 3}
    settings["arc.rollouts"] = 40
    # Without noise: the cost of a plan is the same every time.
    settings |= {"cem.rollouts": 40, "sac.warmup": 0, "constraint.minimal": 1, "prediction.sampled": False}
    config = changed(CONFIG, settings)
    made = LoopPlanner(Dear(), config, seed=4, exploring=False, threads=1)
    weights = taught(config)[0].weights()
    made.use_weights(made.check_weights(weights.encode()), weights.version)
    start = made.start(STATE)

    def plan(**changes: object) -> PlanResult:
        made.configure(changed(config, {name.replace("__", "."): value for name, value in changes.items()}))
        return made.plan(start, 100, 100, 0)[1]

    free = plan()
    assert not free.constraint_active and free.predicted_cost == 0.0
    hopeless = plan(constraint__active=True, constraint__limit=0.0)
    assert hopeless.infeasible and hopeless.predicted_cost > 3.0 and hopeless.feasible_fraction == 0.0
    limit = hopeless.predicted_cost + 0.02
    limited = plan(constraint__active=True, constraint__limit=limit)
    assert limited.constraint_active and 3.0 < limited.predicted_cost <= limit and limited.feasible_fraction > 0.0
    made.plan(start, 0, 0, 1)  # another episode: the same warm start twice
    calm = plan()
    made.plan(start, 0, 0, 2)
    wary = plan(lookahead__pessimism=1000.0)
    assert not np.array_equal(calm.actions, wary.actions) and wary.best_score < calm.best_score
    made.close()


# ---- the agents --------------------------------------------------------------------------------


def test_the_baselines_are_the_same_parts() -> None:
    assert tuple(registry.names()) == tuple(CONFIGS) == AGENTS
    assert not CONFIGS["pets_restricted"].lookahead.value
    assert {CONFIGS[name].lookahead.search for name in ("pets_restricted", "loop_no_arc")} == {"cem"}
    assert CONFIGS["loop_sarsa"].sac.next_action == "played"
    assert {name for name in AGENTS if name != "sac" and CONFIGS[name].constraint.active} == {"safe_pets", "safe_loop"}
    assert CONFIGS["pets"].cem.horizon == 10 * CONFIGS["pets_restricted"].cem.horizon
    for name in ("safe_pets", "safe_loop"):
        safe = for_task(CONFIGS[name], "no_such_task", agent=name)
        assert (safe.arc.horizon, safe.arc.iterations, safe.cem.horizon, safe.cem.iterations) == (8, 8, 8, 8)
        assert (safe.constraint.limit, safe.constraint.minimal) == (0.2, 10)
    assert CONFIGS["safe_loop"].arc.executed == "mean"
    for name in AGENTS:
        if name != "polo" and name not in OFFLINE_AGENTS:
            shared = for_task(CONFIGS[name], "half_cheetah", agent=name)
            assert shared.sac.warmup == for_task(CONFIGS["loop"], "half_cheetah", agent="loop").sac.warmup


def test_rewards_alone_need_no_actor_and_learn_none() -> None:
    learner, metrics = taught(changed(CONFIG, {"lookahead.search": "cem", "lookahead.value": False}))
    assert all(m.gradient_steps == 0 and m.message == "" for m in metrics)
    before = make_learner(CartTask(), CONFIG, 2).weights().arrays
    np.testing.assert_array_equal(learner.weights().arrays["actor.0.weight"], before["actor.0.weight"])


@pytest.mark.parametrize("name", [name for name in AGENTS if name not in ("polo", "sac", *OFFLINE_AGENTS)])
def test_a_run_is_the_same_every_time(name: str) -> None:
    task = tasks.make("inverted_pendulum")
    kept = ("arc", "cem", "ensemble", "prediction", "fit", "networks", "evaluation")
    config = replace(CONFIGS[name], **{part: getattr(CONFIG, part) for part in kept})
    config = replace(config, sac=replace(CONFIG.sac, next_action=config.sac.next_action))

    def go() -> tuple[list[bytes], tuple[float, ...]]:
        seen: list[bytes] = []
        with make_run(task, config, seed=1, threads=1) as run:
            found = run.go(60, lambda t: seen.append(t.state.tobytes() + t.action.tobytes()))
        return seen, found.evaluations[-1].returns

    one = go()
    assert one == go() and len(one[0]) == 60


def test_a_run_tells_what_its_episodes_cost_and_how_often_the_limit_could_not_be_kept() -> None:
    task = Dear()
    config = changed(CONFIG, {"constraint.active": True, "constraint.limit": 0.5, "evaluation.steps": 5})
    seen: list[Transition] = []
    with make_run(task, config, seed=1, threads=1) as run:
        found = run.go(50, seen.append)
    figures = found.summary(task, 1)
    assert figures["episode_costs"] == [pytest.approx(sum(1.0 + abs(t.next_observation[1]) for t in seen))]
    assert figures["infeasible_plans"] == sum(t.step >= CONFIG.sac.warmup for t in seen) == 20
    assert found.silent_costs == 0, "all of it was foreseen"
    with make_run(task, changed(config, {"constraint.limit": 1e6}), seed=1, threads=1) as run:
        assert run.go(50).silent_costs == 20, "random actions are no plans"
    (evaluation,) = figures["evaluations"]  # type: ignore[misc]
    assert len(evaluation["costs"]) == 1 and evaluation["costs"][0] > 5.0
    figures = found.summary(CartTask(), 1)
    assert figures["episode_costs"] is None and "costs" not in figures["evaluations"][0]  # type: ignore[index]


def test_polo_run_loop(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    sac: {warmup: 50, gradient_steps: 2, batch_size: 8}\n"
        "    networks: {hidden: 8}\n    ensemble: {members: 2, elites: 2, hidden: 8, layers: 1}\n"
        "    fit: {every: 50, min_transitions: 40, max_epochs: 2, weight_decay: [0.0]}\n"
        "    prediction: {particles: 2}\n    arc: {rollouts: 10, iterations: 2}\n"
        "    evaluation: {episodes: 1, steps: 10}\n"
    )
    command = ["run", "loop", "--task", "inverted_pendulum", "--steps", "120", "--config", str(file), "--json"]
    assert main(command) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["steps"], figures["weights_version"]) == (120, 2)
    assert figures["model_mse"] > 0.0 and len(figures["evaluations"]) == 1


def test_polo_bench_loop(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "loop", "--repeats", "1", "--json"]) == 0
    paper, light, safe = json.loads(capsys.readouterr().out)
    assert (paper["preset"], paper["rollouts"], paper["particles"], paper["elites"]) == ("loop_paper", 105, 20, 5)
    assert (light["preset"], light["wanted_plan_ms"]) == ("loop", 25.0)
    assert (safe["preset"], safe["task"], safe["horizon"], safe["iterations"]) == ("safe", "point_goal", 8, 8)
    for row in (paper, light, safe):
        assert 0.0 < row["model_ms"] < row["networks_ms"] and row["ratio"] > 0.0
    assert main(["bench", "loop", "--repeats", "0"]) == 2
