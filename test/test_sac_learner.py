"""The learner of soft actor-critic, and the agent in one process."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from learning_fakes import CartTask, FencedCartTask, wander

from polo_ros import tasks
from polo_ros.agents import registry
from polo_ros.agents.online import EvaluationConfig
from polo_ros.agents.sac import SacAgentConfig, make_run
from polo_ros.cli import main
from polo_ros.learning import sac_learner
from polo_ros.learning.actor_critic import ActorCriticConfig, shapes
from polo_ros.learning.checkpoint import CheckpointError
from polo_ros.learning.sac import Sac
from polo_ros.learning.sac_learner import SacConfig, SacLearner, SacMetrics
from polo_ros.learning.weights import decode, digest
from polo_ros.replay.transition import Transition

NETWORKS = ActorCriticConfig(hidden=12)
CONFIG = SacConfig(update_every=8, gradient_steps=3, warmup=8, batch_size=6, capacity=60)


def make(config: SacConfig = CONFIG, task: CartTask | None = None, **changes: object) -> SacLearner:
    arguments: dict = {"networks": NETWORKS, "seed": 7, **changes}
    return SacLearner(task or CartTask(), config=config, **arguments)


def feed(learner: SacLearner, transitions: list[Transition]) -> list[SacMetrics]:
    metrics = []
    for transition in transitions:
        assert learner.observe(transition), learner.message
        if learner.due(transition.step):
            metrics.append(learner.update())
    return metrics


def everything(learner: SacLearner) -> dict[str, bytes]:
    """All that is learned, moments and targets too."""
    found = {name: vector.numpy().tobytes() for name, vector in learner.sac.vectors().items()}
    found["steps"] = str([adam.steps for adam in learner.sac.adams.values()]).encode()
    return found


def test_updates_follow_the_schedule_and_weights_pass_their_check() -> None:
    learner = make()
    metrics = feed(learner, wander(CartTask(), 40))
    assert [(m.step, m.version, m.updates) for m in metrics] == [(8 * k - 1, k, k) for k in range(1, 6)]
    assert all(m.gradient_steps == 3 and m.message == "" for m in metrics)
    assert all(math.isfinite(value) for m in metrics for value in dataclasses.astuple(m)[:-1])
    weights = learner.weights()
    assert (weights.kind, weights.task, weights.version, weights.effective_step) == ("actor_critic", "cart", 5, 40)
    decode(weights.encode(), shapes(NETWORKS, 2, 1))


def test_same_transitions_and_seed_give_the_same_weights_bit_for_bit() -> None:
    one, same, other = make(), make(), make(seed=8)
    for learner in (one, same, other):
        feed(learner, wander(CartTask(), 40))
    assert one.weights().encode() == same.weights().encode() != other.weights().encode()


def learned_digest() -> str:
    """What comes out of 40 steps; run in other processes too."""
    learner = make()
    feed(learner, wander(CartTask(), 40))
    return digest(learner.weights().encode())


def test_weights_do_not_depend_on_the_process() -> None:
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    result = subprocess.run(
        [sys.executable, "-c", "import test_sac_learner; print(test_sac_learner.learned_digest())"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "123"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split()[-1] == learned_digest()


@pytest.mark.parametrize("steps", [4, 24, 61])
def test_resuming_from_a_checkpoint_continues_bit_for_bit(tmp_path: Path, steps: int) -> None:
    path = tmp_path / "learner.safetensors"
    transitions = wander(CartTask(), 100)
    first, second = make(), make()
    feed(first, transitions[:steps])
    first.save(path)
    assert second.restore(path) == ()
    assert everything(second) == everything(first)
    for learner in (first, second):
        metrics = feed(learner, transitions[steps:])
    assert everything(second) == everything(first)
    assert (metrics[-1].version, metrics[-1].updates, metrics[-1].transitions_lost) == (12, 12, 0)


def test_restoring_says_what_has_changed_and_refuses_other_networks(tmp_path: Path) -> None:
    path = tmp_path / "learner.safetensors"
    learner = make()
    feed(learner, wander(CartTask(), 16))
    learner.save(path)
    warnings = make(replace(CONFIG, actor_rate=0.01), seed=9).restore(path)
    assert warnings == (
        "sac.actor_rate was 0.001 in the checkpoint and is 0.01 now",
        "seed was 7 in the checkpoint and is 9 now",
    )
    other = make(networks=replace(NETWORKS, hidden=13))
    before = everything(other)
    with pytest.raises(CheckpointError, match=r"has shape .* expected"):
        other.restore(path)
    assert everything(other) == before and not len(other.buffer)


def test_what_does_not_fit_is_refused_counted_and_named() -> None:
    learner = make()
    walk = wander(CartTask(), 40)
    feed(learner, walk[:10])
    for refused, words in (
        (walk[9], "transition 9 is not newer than the last one, 9"),
        (replace(walk[10], action=np.zeros(2)), "transition 10: action has shape (2,), expected (1,)"),
        (replace(walk[10], reward=math.nan), "transition 10: reward contains values that are not finite"),
        (replace(walk[10], step=2**63), "is too far from the last one, 9"),
    ):
        assert not learner.observe(refused)
        assert words in learner.message
    metrics = feed(learner, walk[12:])
    assert (metrics[0].transitions_refused, metrics[0].transitions_lost) == (4, 2)
    assert "too far" in metrics[0].message and metrics[1].message == ""


def test_before_the_warm_up_is_over_and_without_transitions_nothing_is_learned_and_it_says_so() -> None:
    learner = make(replace(CONFIG, warmup=17))
    before = everything(learner)
    for metrics in feed(learner, wander(CartTask(), 16)):
        assert f"{metrics.step + 1} control periods, fewer than warmup = 17" == metrics.message
        assert metrics.gradient_steps == 0 and math.isnan(metrics.critic_loss)
    assert everything(learner) == before
    assert "buffer is empty" in make(replace(CONFIG, warmup=0)).update().message


def test_one_transition_is_learned_from() -> None:
    learner = make(replace(CONFIG, warmup=0))
    learner.observe(wander(CartTask(), 1)[0])
    metrics = learner.update()
    assert metrics.message == "" and math.isfinite(metrics.critic_loss)


@pytest.mark.parametrize("what", ["losses", "weights"])
def test_a_fit_that_fails_is_undone_whole_and_the_next_one_goes_on(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    spoiled, sound = make(), make()
    transitions = wander(CartTask(), 40)
    for learner in (spoiled, sound):
        feed(learner, transitions[:24])
    before = everything(spoiled)
    step = Sac.step

    def bad(self: Sac, *arguments: torch.Tensor) -> object:
        losses = step(self, *arguments)
        if what == "losses":
            return replace(losses, critic=math.nan)
        self.target.net.theta[3] = math.inf
        return losses

    with monkeypatch.context() as patch:
        patch.setattr(sac_learner.Sac, "step", bad)
        metrics = spoiled.update()
    assert "not finite: the weights before stay" in metrics.message and metrics.gradient_steps == 0
    assert everything(spoiled) == before
    sound.updates, sound.version = sound.updates + 1, sound.version + 1
    for learner in (spoiled, sound):
        feed(learner, transitions[24:])
    assert everything(spoiled) == everything(sound)


def seen_by_sac(learner: SacLearner, monkeypatch: pytest.MonkeyPatch) -> list:
    batches = []
    step = Sac.step

    def watch(self: Sac, batch: sac_learner.Batch, noise: torch.Tensor) -> object:
        batches.append(batch)
        return step(self, batch, noise)

    monkeypatch.setattr(sac_learner.Sac, "step", watch)
    learner.update()
    return batches


def test_time_limits_go_on_and_terminal_states_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = make(replace(CONFIG, warmup=0), FencedCartTask())
    walk = wander(CartTask(), 3)
    learner.observe(replace(walk[0], terminated=True, reward=1.0))
    learner.observe(replace(walk[1], truncated=True, reward=2.0))
    learner.observe(replace(walk[2], reward=3.0))
    for batch in seen_by_sac(learner, monkeypatch):
        np.testing.assert_array_equal(batch.not_terminal, batch.reward > 1.5)
        assert batch.next_action is None


def test_sarsa_learns_from_what_was_played_next_where_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    task = CartTask()
    task.model.actuator_ctrlrange[:] = (-2.0, 2.0)
    learner = make(replace(CONFIG, warmup=0, next_action="played", gradient_steps=20), task)
    walk = wander(CartTask(), 60, episode_steps=10)
    # Rewards name the steps. 20 is lost, 45 ends its episode, whose last step is 49.
    kept = [t for t in walk if t.step != 20]
    for transition in kept:
        learner.observe(replace(transition, reward=float(transition.step), terminated=transition.step == 45))
    played = {t.step: float(t.action[0]) / 2.0 for t in walk}
    without = {9, 19, 29, 39, 49, 59}
    seen = set()
    for batch in seen_by_sac(learner, monkeypatch):
        for step, action, after, not_terminal in zip(
            batch.reward.int().tolist(), batch.inputs[:, 2], batch.next_action[:, 0], batch.not_terminal, strict=True
        ):
            seen.add(step)
            assert float(action) == pytest.approx(played[step])
            if step == 45:
                assert float(not_terminal) == 0.0
            else:
                assert float(after) == pytest.approx(played[step + 1])
    assert seen and not seen & without

    alone = make(replace(CONFIG, warmup=0, next_action="played"))
    alone.observe(walk[0])
    assert "none of 1 transitions is followed by a next one" in alone.update().message


# ---- the agent -----------------------------------------------------------------------------

AGENT = SacAgentConfig(
    NETWORKS,
    replace(CONFIG, update_every=20, warmup=20, capacity=1000),
    EvaluationConfig(every=40, episodes=2, steps=30),
)


def test_a_run_explores_learns_and_evaluates_the_same_way_every_time() -> None:
    task = tasks.make("cartpole_swingup")

    def bits(learn: bool = True, every: int = 40) -> tuple[list[bytes], list[tuple[float, ...]]]:
        seen: list[bytes] = []
        config = replace(AGENT, evaluation=replace(AGENT.evaluation, every=every))
        with make_run(task, config, seed=3, learn=learn) as run:
            found = run.go(100, lambda t: seen.append(t.state.tobytes() + t.action.tobytes()))
        return seen, [(one.step, *one.returns) for one in found.evaluations]

    one, returns = bits()
    assert [found[0] for found in returns] == [40, 80, 100]
    assert returns[0][1:] != returns[2][1:]
    assert (one, returns) == bits()
    # Evaluations do not touch what is learned.
    assert bits(every=0)[0] == one
    unlearned, same = bits(learn=False)
    assert unlearned[:20] == one[:20] and unlearned != one
    assert same[0][1:] == same[1][1:] == same[2][1:]


def test_random_actions_fill_the_range_and_the_actors_stay_within() -> None:
    task = CartTask()
    task.model.actuator_ctrlrange[:] = (-0.1, 0.7)
    played = []
    with make_run(task, replace(AGENT, sac=replace(AGENT.sac, warmup=300)), seed=0) as run:
        run.go(400, lambda t: played.append((float(t.action[0]), t.limited, t.safe_stop, t.weights_version)))
    actions = np.array([action for action, *_ in played])
    assert actions.min() >= -0.1 and actions.max() <= 0.7
    assert actions[:300].min() < -0.08 and actions[:300].max() > 0.68
    assert not any(limited or stopped for _, limited, stopped, _ in played)
    assert [version for *_, version in played][::20] == list(range(20))


def test_polo_run_sac(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--set", "networks.hidden=8", "--set", "sac.warmup=100", "--set", "sac.batch_size=8"]
    few = ["--set", "evaluation.episodes=1", "--set", "evaluation.steps=50"]
    command = ["run", "sac", "--task", "cartpole_swingup", "--steps", "200", *small, *few]
    assert main([*command, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["steps"], figures["weights_version"], figures["gradient_steps"]) == (200, 4, 50)
    assert [found["step"] for found in figures["evaluations"]] == [200]
    assert figures["temperature"] < 1.0
    assert main(command) == 0
    said = capsys.readouterr()
    assert f"return {figures['evaluations'][0]['mean_return']:.3f} of 1 episodes" in said.err
    assert main([*command, "--set", "sac.batchsize=8"]) == 2
    assert "did you mean 'sac.batch_size'?" in capsys.readouterr().err


def test_an_unknown_agent_is_named() -> None:
    with pytest.raises(ValueError, match="unknown agent 'ppo'; agents: polo, loop, sac, pets_restricted"):
        registry.get("ppo")
