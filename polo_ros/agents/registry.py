"""Agents by name: the recipes that `polo run` and a session's nodes know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from polo_ros.agents.base import AgentLearner, AgentPlanner
from polo_ros.learning.offline_config import ALGORITHMS
from polo_ros.replay.transition import Transition
from polo_ros.tasks.base import Task

if TYPE_CHECKING:
    from polo_ros.agents.offline import Deployed

# No schedule: weights come when a learner elsewhere has them, and nobody waits for them.
NEVER = 1 << 62
Say = Callable[[str], None]


@dataclass(frozen=True)
class RunOptions:
    """What every agent is told beside its settings."""

    steps: int
    seed: int
    threads: int = 0  # rollout threads of agents that plan; 0: one a core
    learn: bool = True
    say: Say | None = None  # where words of progress go


@dataclass(frozen=True)
class Agent:
    """How an agent's parts are made from its settings.

    What loads torch does so when it is called: planners of some agents do without.
    """

    run: Callable[[Task, Any, RunOptions], dict[str, object]]  # in one process; returns the figures of the run
    planner: Callable[[Task, Any, int, int], AgentPlanner]  # task, settings, seed, rollout threads
    learner: Callable[[Task, Any, int, int, int], AgentLearner]  # and how many robots it learns from
    update_every: Callable[[Any], int]  # control periods between two versions of the weights
    # A planner that begins with a folder of `polo train`: the folder, and arguments as of `planner`. None: it cannot.
    deploy: Callable[[str, Task, Any, int, int], Deployed] | None = None


def names() -> list[str]:
    """Names of all agents."""
    return list(_AGENTS)


def get(name: str) -> Agent:
    """The agent called `name`; loads what it needs. Raises ValueError for an unknown name."""
    if name not in _AGENTS:
        raise ValueError(f"unknown agent '{name}'; agents: {', '.join(names())}")
    return _AGENTS[name]()


def _polo() -> Agent:
    from polo_ros.agents.polo import PoloConfig, PoloPlanner
    from polo_ros.dynamics.coarse import for_planning

    def run(task: Task, config: PoloConfig, options: RunOptions) -> dict[str, object]:
        from polo_ros.agents.run import run_polo

        watch = _every_50th(options.say)
        result = run_polo(
            task,
            config,
            steps=options.steps,
            seed=options.seed,
            threads=options.threads,
            learn=options.learn,
            watch=None if watch is None else lambda transition, _: watch(transition),
        )
        return result.summary(task, options.seed)

    def planner(task: Task, config: PoloConfig, seed: int, threads: int) -> AgentPlanner:
        return PoloPlanner(task, for_planning(task, config.dynamics, threads, seed), config, seed)

    def learner(task: Task, config: PoloConfig, seed: int, threads: int, robots: int) -> AgentLearner:
        from polo_ros.dynamics.mujoco import MujocoDynamics
        from polo_ros.learning.polo_learner import PoloLearner

        return PoloLearner(
            task,
            MujocoDynamics(task, threads),
            value=config.value,
            targets=config.targets,
            learner=config.learner,
            seed=seed,
            robots=robots,
        )

    return Agent(run, planner, learner, lambda config: int(config.learner.update_every))


def _sac() -> Agent:
    from polo_ros.agents.sac import SacAgentConfig, SacPlanner, make_learner, make_run

    def run(task: Task, config: SacAgentConfig, options: RunOptions) -> dict[str, object]:
        with make_run(task, config, seed=options.seed, learn=options.learn) as made:
            return _go(made, task, options)

    def learner(task: Task, config: SacAgentConfig, seed: int, _: int, robots: int) -> AgentLearner:
        _one(robots)
        return make_learner(task, config, seed)

    return Agent(
        run,
        lambda task, config, seed, _: SacPlanner(task, config, seed),
        learner,
        lambda config: int(config.sac.update_every),
    )


def _loop() -> Agent:
    from polo_ros.agents.loop import LoopPlanner, make_learner, make_run
    from polo_ros.agents.loop_config import LoopConfig

    def run(task: Task, config: LoopConfig, options: RunOptions) -> dict[str, object]:
        with make_run(task, config, seed=options.seed, threads=options.threads, learn=options.learn) as made:
            return _go(made, task, options)

    def learner(task: Task, config: LoopConfig, seed: int, _: int, robots: int) -> AgentLearner:
        _one(robots)
        return make_learner(task, config, seed)

    return Agent(
        run,
        lambda task, config, seed, threads: LoopPlanner(task, config, seed, threads=threads),
        learner,
        lambda config: int(config.sac.update_every),
    )


def _offline(algorithm: str) -> Agent:
    from polo_ros.agents import offline

    def run(task: Task, config: Any, options: RunOptions) -> dict[str, object]:
        raise ValueError(
            f"agent '{algorithm}' learns from data alone: `polo train --algorithm {algorithm}`, then `polo evaluate`"
        )

    def learner(task: Task, config: Any, seed: int, threads: int, robots: int) -> AgentLearner:
        raise ValueError(
            f"agent '{algorithm}' learns from data alone: start the session with learner:=false, and "
            f"`polo launch offline algorithm:={algorithm}` where it is to learn"
        )

    def deploy(folder: str, task: Task, config: Any, seed: int, threads: int) -> Deployed:
        return offline.deploy(folder, algorithm, task, config, seed, threads)

    return Agent(run, partial(offline.make_planner, algorithm), learner, lambda _: NEVER, deploy)


def _go(run: Any, task: Task, options: RunOptions) -> dict[str, object]:
    """Go on with an OnlineRun and say how it goes."""

    def tell(found: Any) -> None:
        if options.say is not None:
            many = f"{len(found.returns)} episodes"
            options.say(f"step {found.step:6d}  return {found.mean:.3f} of {many} without exploring")

    summary: dict[str, object] = run.go(options.steps, watch_evaluation=tell).summary(task, options.seed)
    return summary


def _one(robots: int) -> None:
    if robots != 1:
        raise ValueError(f"{robots} robots: this agent learns from one robot only")


def _every_50th(say: Say | None) -> Callable[[Transition], None] | None:
    """Words on every fiftieth transition."""
    if say is None:
        return None

    def watch(transition: Transition) -> None:
        if transition.step % 50 == 49:
            say(f"step {transition.step + 1:6d}  reward {transition.reward:.3f}")

    return watch


_AGENTS: dict[str, Callable[[], Agent]] = {
    "polo": _polo,
    "loop": _loop,
    "sac": _sac,
    "pets_restricted": _loop,
    "loop_sarsa": _loop,
    "loop_no_arc": _loop,
    "pets": _loop,
    "safe_pets": _loop,
    "safe_loop": _loop,
    **{algorithm: partial(_offline, algorithm) for algorithm in ALGORITHMS},
}
