"""Agents by name, as `polo run` knows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from polo_ros.replay.transition import Transition
from polo_ros.tasks.base import Task

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
    """An agent that runs in one process."""

    config: Any  # its settings, all at their defaults
    run: Callable[[Task, Any, RunOptions], dict[str, object]]  # returns the figures of the run


def names() -> list[str]:
    """Names of all agents."""
    return list(_AGENTS)


def get(name: str) -> Agent:
    """The agent called `name`; loads what it needs. Raises ValueError for an unknown name."""
    if name not in _AGENTS:
        raise ValueError(f"unknown agent '{name}'; agents: {', '.join(names())}")
    return _AGENTS[name]()


def _polo() -> Agent:
    from polo_ros.agents.polo import PoloConfig
    from polo_ros.agents.run import run_polo

    def run(task: Task, config: PoloConfig, options: RunOptions) -> dict[str, object]:
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

    return Agent(PoloConfig(), run)


def _sac() -> Agent:
    from polo_ros.agents.sac import Evaluation, SacAgentConfig, run_sac

    def run(task: Task, config: SacAgentConfig, options: RunOptions) -> dict[str, object]:
        say = options.say

        def tell(found: Evaluation) -> None:
            if say is not None:
                say(f"step {found.step:6d}  return {found.mean:.3f} of {len(found.returns)} episodes without noise")

        result = run_sac(
            task, config, steps=options.steps, seed=options.seed, learn=options.learn, watch_evaluation=tell
        )
        return result.summary(task, options.seed)

    return Agent(SacAgentConfig(), run)


def _every_50th(say: Say | None) -> Callable[[Transition], None] | None:
    """Words on every fiftieth transition."""
    if say is None:
        return None

    def watch(transition: Transition) -> None:
        if transition.step % 50 == 49:
            say(f"step {transition.step + 1:6d}  reward {transition.reward:.3f}")

    return watch


_AGENTS: dict[str, Callable[[], Agent]] = {"polo": _polo, "sac": _sac}
