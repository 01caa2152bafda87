"""Acts by what was learned offline: the policy alone, or LOOP's lookahead over it (Sikchi et al. 2021, section 5.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polo_ros import drivers
from polo_ros.agents.learned import Learned
from polo_ros.agents.loop import LoopPlanner
from polo_ros.agents.loop_config import OfflineAgentConfig
from polo_ros.agents.online import OnlineRun, cost_of, play_episode
from polo_ros.config import replace
from polo_ros.dynamics import ensemble_config
from polo_ros.learning import offline_policy
from polo_ros.learning.actor_critic import CriticFunction
from polo_ros.learning.loop_weights import MODEL
from polo_ros.learning.offline_policy import OfflinePolicy
from polo_ros.learning.weights import Arrays, WeightsError, decode, under
from polo_ros.session.config import BridgeConfig
from polo_ros.session.loop import RobotLoop
from polo_ros.tasks.base import Task

SEARCHES = {"loop": "arc", "none": "none"}  # `polo evaluate --planner`, and lookahead.search for it
OUTSIDE = 0.05  # share of a policy's actions beyond the data's range from which on it is warned of


class OfflineReader:
    """A WeightsReader of what an offline algorithm learns.

    Args:
        task: What was learned.
        algorithm: By which algorithm: the kind of its weights.
        config: As the training's.

    Raises:
        ValueError: A plan needs a model, and the training has none.
    """

    def __init__(self, task: Task, algorithm: str, config: OfflineAgentConfig) -> None:
        look = config.lookahead
        if look.search != "none" and look.model == "learned" and not config.train.model:
            raise ValueError(
                f"lookahead.search = '{look.search}' plans in the learned model, and train.model = False says that "
                "there is none: set lookahead.search to none"
            )
        self.kind = algorithm
        self.discount = config.train.discount or task.discount
        self._task, self._config = task, config
        self._training = config.training()
        self._shapes = offline_policy.shapes(algorithm, self._training, task)

    def check(self, data: bytes) -> Arrays:
        """Arrays of a safetensors file if they fit; raises WeightsError."""
        arrays = decode(data, self._shapes)
        if model := _model(arrays):
            try:
                ensemble_config.check(model)
            except ValueError as error:
                raise WeightsError(str(error)) from None
        return arrays

    def read(self, arrays: Arrays) -> Learned:
        """What is in arrays that passed `check`."""
        config = self._config
        policy = offline_policy.make_policy(self.kind, self._task, self._training, arrays)
        critic = CriticFunction(self._task, config.networks, arrays, config.lookahead.critic)
        return Learned(policy, critic, _model(arrays))


def _model(arrays: Arrays) -> Arrays | None:
    return under(arrays, MODEL) or None


def make_planner(algorithm: str, task: Task, config: OfflineAgentConfig, seed: int, threads: int = 0) -> LoopPlanner:
    """A planner that rests until there are weights; arguments as of LoopPlanner, which never explores here."""
    reader = OfflineReader(task, algorithm, config)
    return LoopPlanner(task, config, seed, exploring=False, threads=threads, reader=reader)


@dataclass(frozen=True)
class Deployed:
    """A planner that begins with what `polo train` made.

    Attributes:
        planner: Plans.
        about: In words, what it begins with.
        warning: What speaks against it; empty: nothing that the training has measured.
        training: Which one it came of; empty: that is not known.
    """

    planner: LoopPlanner
    about: str
    warning: str
    training: str


def deploy(
    folder: str | Path, algorithm: str, task: Task, config: OfflineAgentConfig, seed: int, threads: int = 0
) -> Deployed:
    """A planner that begins with the policy in `folder`.

    Sizes and discount are those of the training, whatever `config` says of them.

    Args:
        folder: What `polo train --out` wrote.
        algorithm: By which it must have been learned.
        task: What it must have been learned for.
        config: How to plan.
        seed: Of all noise.
        threads: Rollout threads of a MuJoCo model; 0: one a core.

    Raises:
        WeightsError: There is none, or it is damaged, or of something else.
        ValueError: It cannot be planned with as `config` says.
    """
    found = OfflinePolicy.load(folder, task, config.lookahead.critic)
    if found.algorithm != algorithm:
        raise WeightsError(f"{folder} was learned by '{found.algorithm}', expected '{algorithm}': name that agent")
    planner = make_planner(algorithm, task, replace(config, found.about["settings"]), seed, threads)
    # As if a learner had just sent it: one of the same training that has made fewer updates has nothing better.
    updates = found.about.get("updates")
    version = updates if isinstance(updates, int) and updates > 0 else 1
    planner.use(Learned(found.policy, found.critic, found.model), version)
    return Deployed(planner, _in_words(folder, found.about), _objection(found.about), found.training)


def _in_words(folder: str | Path, about: dict[str, Any]) -> str:
    measured = [f"{name} {value:.3g}" for name in _MEASURED if (value := _measured(about, name)) is not None]
    told = f"; measured by the training: {', '.join(measured)}" if measured else ""
    return f"policy {folder}: {about['algorithm']}, {about.get('updates')} updates{told}"


def _objection(about: dict[str, Any]) -> str:
    share = _measured(about, "action_outside")
    if share is None:
        return "its training held out no data: nobody knows how many of its actions are beyond them"
    if share <= OUTSIDE:
        return ""
    return f"{share:.1%} of the policy's actions are beyond those of its data: values and model know nothing of them"


_MEASURED = ("action_distance", "action_outside", "model_error_after_1")


def _measured(about: dict[str, Any], name: str) -> float | None:
    """A figure of the training; None: it did not tell it, or nothing that is a number."""
    metrics = about.get("metrics")
    value = metrics.get(name) if isinstance(metrics, dict) else None
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None


@dataclass(frozen=True)
class EvaluateOptions:
    """What is tried, beside the policy and how it plans."""

    planners: tuple[str, ...] = ("loop",)  # of SEARCHES
    episodes: int = 5
    seed: int = 0  # of starts and noise
    steps: int = 1000  # after which an episode is cut, unless the task cuts it before
    threads: int = 0
    say: Callable[[str], None] = lambda line: None


def evaluate(folder: str | Path, task: Task, config: OfflineAgentConfig, options: EvaluateOptions) -> dict[str, Any]:
    """What a policy gets in simulation, from starts that the seed fixes: the same for every way of planning.

    Args:
        folder: What `polo train --out` wrote.
        task: What it must have been learned for.
        config: How to plan; `lookahead.search` is overridden.
        options: See above.

    Returns:
        "policy", "algorithm", "updates", "task", "seed", "episodes", "action_outside", and for each planner by its name
        "mean_return", "returns" and "costs", undiscounted sums of each episode.

    Raises:
        As `deploy`.
    """
    found = OfflinePolicy.load(folder, task)
    results: dict[str, Any] = {
        "policy": str(folder),
        "algorithm": found.algorithm,
        "updates": found.about.get("updates"),
        "task": task.name,
        "seed": options.seed,
        "episodes": options.episodes,
        "action_outside": _measured(found.about, "action_outside"),
    }
    for name in options.planners:
        chosen = replace(config, {"lookahead.search": SEARCHES[name], **found.about["settings"]})
        deployed = deploy(folder, found.algorithm, task, chosen, options.seed, options.threads)
        if deployed.warning:
            options.say(deployed.warning)
        driver = drivers.simulator(task, options.seed)
        try:
            driver.connect()
            loop = RobotLoop(task, driver, BridgeConfig().max_plan_age)
            returns, costs = [], []
            for number in range(options.episodes):
                began = number * options.steps  # noise of its own
                episode = play_episode(
                    loop, deployed.planner, OnlineRun.FIRST_EVALUATION + number, options.steps, began
                )
                returns.append(sum(t.reward for t in episode))
                costs.append(sum(cost_of(task, t) for t in episode))
                options.say(f"{name}: episode {number + 1} of {options.episodes}, return {returns[-1]:.4g}")
        finally:
            driver.close()
            deployed.planner.close()
        results[name] = {"mean_return": float(np.mean(returns)), "returns": returns, "costs": costs}
    return results
