"""Jobs of `loop.tradeoff`: planning with what was learned at several times, and errors of that.

Models and values are snapshots of one learner, named by the control periods that they were learned from.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from polo_ros import drivers, tasks
from polo_ros.agents.base import AgentPlanner
from polo_ros.agents.configs import CONFIGS
from polo_ros.agents.loop import LoopPlanner
from polo_ros.agents.loop_config import LoopConfig
from polo_ros.agents.online import OnlineRun, play_episode
from polo_ros.agents.sac import SacAgentConfig, SacPlanner
from polo_ros.config import replace
from polo_ros.dynamics.ensemble import EnsembleDynamics
from polo_ros.dynamics.ensemble_config import PredictionConfig
from polo_ros.experiments.base import Workplace
from polo_ros.experiments.loop_learning import snapshot
from polo_ros.learning import loop_weights
from polo_ros.learning.actor_critic import ActorPolicy, CriticFunction, used_inputs
from polo_ros.learning.weights import Arrays
from polo_ros.replay.transition import Transition
from polo_ros.session.config import BridgeConfig
from polo_ros.session.loop import RobotLoop
from polo_ros.tasks.base import FloatArray, Task

APART = 20  # control periods between two states that errors are measured at

Episode = list[Transition]


def act(settings: Mapping[str, Any], workplace: Workplace) -> dict[str, Any]:
    """Plan with the model of one snapshot and actor and critics of another, at each horizon; nothing is learned.

    Settings: `agent`, `task`, `seed`, `config`, `model` and `value` (the snapshots), `horizons`, `episodes` and their
    `steps`.
    """
    task, config = tasks.make(settings["task"]), replace(CONFIGS[settings["agent"]], settings["config"])
    returns = []
    for number, horizon in enumerate(settings["horizons"], 1):
        changed = replace(config, {"arc.horizon": horizon, "cem.horizon": horizon})
        planner = LoopPlanner(task, changed, settings["seed"], exploring=False, threads=1)
        values, _, _ = _taught(planner, workplace, settings["value"])
        _, model, fits = _taught(planner, workplace, settings["model"])
        planner.use_weights(loop_weights.join(values, model, fits), 0)
        episodes = _play(task, planner, settings)
        returns.append([sum(transition.reward for transition in episode) for episode in episodes])
        workplace.progress(number / len(settings["horizons"]), f"horizon {horizon}")
    return {"returns": returns}


def measure(settings: Mapping[str, Any], workplace: Workplace) -> dict[str, Any]:
    """Errors of each snapshot's model and values.

    Settings: `agent`, `task`, `seed`, `config`, `snapshots`, `horizons`, `episodes`, their `steps`, and `behind`: how
    many rewards must lie behind a state for its return to be known.

    States come from episodes of the last snapshot's planner, every APART control periods. Models are rolled from there
    along the actions that were played, each elite by its mean. Values are Q(s, pi(s)) as plans use them, compared with
    discounted Monte-Carlo returns: at those states with what that planner got from there on, which is the nearest to
    V* that is at hand, and in episodes of the snapshot's own actor, without noise, with what the actor got. The
    entropy that soft values count is part of both differences.
    """
    task, config = tasks.make(settings["task"]), replace(CONFIGS[settings["agent"]], settings["config"])
    planner = LoopPlanner(task, config, settings["seed"], exploring=False, threads=1)
    snapshots, horizons = settings["snapshots"], settings["horizons"]
    planner.use_weights(loop_weights.join(*_taught(planner, workplace, snapshots[-1])), 0)
    best = _play(task, planner, settings)
    discount, behind = config.sac.discount or task.discount, settings["behind"]
    errors: dict[str, list[Any]] = {name: [] for name in ("model", "rewards", "value", "value_of_actor")}
    for number, steps in enumerate(snapshots, 1):
        values, model, _ = _taught(planner, workplace, steps)
        ahead, rewards = model_errors(task, config, model, best, max(horizons))
        errors["model"].append([ahead[horizon - 1] for horizon in horizons])
        errors["rewards"].append([rewards[horizon - 1] for horizon in horizons])
        actor = SacPlanner(task, SacAgentConfig(networks=config.networks), settings["seed"], exploring=False)
        actor.use_weights(values, 0)
        own = _play(task, actor, settings)
        errors["value"].append(value_error(task, config, values, best, discount, behind))
        errors["value_of_actor"].append(value_error(task, config, values, own, discount, behind))
        workplace.progress(number / len(snapshots), f"snapshot {steps}")
    return {f"{name}_errors": found for name, found in errors.items()}


def model_errors(
    task: Task, config: LoopConfig, model: Arrays, episodes: list[Episode], horizon: int
) -> tuple[FloatArray, FloatArray]:
    """Errors of predictions after 1 .. H steps, root mean squares over sequences and elites; nan: one diverged.

    Returns:
        (H,) of observations in units of their deviation over the episodes, entries that the model looks at; and (H,)
        of the discounted sum of predicted rewards, in units of reward.
    """
    starts = [(episode, first) for episode in episodes for first in range(0, len(episode) - horizon + 1, APART)]
    parts = [episode[first : first + horizon] for episode, first in starts]
    begun = np.array([part[0].observation for part in parts])
    actions = np.array([[t.action for t in part] for part in parts])
    led = np.array([[t.next_observation for t in part] for part in parts])
    earned = np.array([[t.reward for t in part] for part in parts])
    prediction = PredictionConfig("tsinf", config.ensemble.used, sampled=False, rewards="predicted")
    found = EnsembleDynamics(task, config.ensemble, prediction, model).rollout(begun, actions)
    if not found.valid.all() or found.rewards is None:
        return np.full(horizon, np.nan), np.full(horizon, np.nan)
    scale = np.array([t.observation for episode in episodes for t in episode]).std(axis=0)
    entries = used_inputs(task, config.ensemble.inputs) & (scale > 0.0)
    apart = (found.observations[:, :, 1:] - led[:, None])[..., entries] / scale[entries]
    discounts = (config.sac.discount or task.discount) ** np.arange(horizon)
    missed = np.cumsum(discounts * (found.rewards - earned[:, None]), axis=-1)
    return np.sqrt(np.square(apart).mean(axis=(0, 1, 3))), np.sqrt(np.square(missed).mean(axis=(0, 1)))


def value_error(
    task: Task, config: LoopConfig, values: Arrays, episodes: list[Episode], discount: float, behind: int
) -> float:
    """Root mean square of Q(s, pi(s)) less the discounted return from s on, in units of reward; nan: no such state.

    Left out are states with fewer than `behind` rewards after them, unless a terminal state ended the episode.
    """
    seen, returns = [], []
    for episode in episodes:
        known = len(episode) - (0 if episode[-1].terminated else behind)
        ahead = returns_to_go(np.array([transition.reward for transition in episode]), discount)
        for index in range(0, max(0, known), APART):
            seen.append(episode[index].observation)
            returns.append(ahead[index])
    if not seen:
        return float("nan")
    observations = np.array(seen)
    critic = CriticFunction(task, config.networks, values, config.lookahead.critic)
    found = critic.values(observations, ActorPolicy(task, config.networks, values).mean(observations))
    return float(np.sqrt(np.square(found - np.array(returns)).mean()))


def returns_to_go(rewards: FloatArray, discount: float) -> FloatArray:
    """Discounted sum of rewards (T,) from each one on, (T,)."""
    found = np.array(list(itertools.accumulate(rewards[::-1], lambda later, now: now + discount * later)))
    return found[::-1]


def _taught(planner: LoopPlanner, workplace: Workplace, steps: int) -> tuple[Arrays, Arrays, int]:
    """Actor and critics, model, and number of fits of a snapshot of the trial that is needed."""
    (folder,) = workplace.needed.values()
    return loop_weights.split(planner.check_weights(snapshot(Path(folder), steps).read_bytes()))


def _play(task: Task, planner: AgentPlanner, settings: Mapping[str, Any]) -> list[Episode]:
    """Episodes from starts that are not learned on."""
    driver = drivers.simulator(task, settings["seed"])
    driver.connect()
    loop = RobotLoop(task, driver, BridgeConfig().max_plan_age)
    numbers = range(OnlineRun.FIRST_EVALUATION, OnlineRun.FIRST_EVALUATION + settings["episodes"])
    found = [play_episode(loop, planner, number, settings["steps"]) for number in numbers]
    driver.close()
    return found
