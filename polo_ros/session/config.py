"""Settings that make a session what it is, beside those of its agent."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from polo_ros import resources
from polo_ros.config import Config, fields, option, read_parameters, replace
from polo_ros.learning.offline_config import ALGORITHMS
from polo_ros.safety.limits import SafetyConfig
from polo_ros.safety.shadow import ShadowConfig
from polo_ros.session.health import BridgeHealth, PlannerHealth

T = TypeVar("T")

SAFE_AGENTS = ("safe_pets", "safe_loop")
OFFLINE_AGENTS = ALGORITHMS
AGENTS = ("polo", "loop", "sac", "pets_restricted", "loop_sarsa", "loop_no_arc", "pets", *SAFE_AGENTS, *OFFLINE_AGENTS)


@dataclass(frozen=True)
class SessionConfig(Config):
    """What every node of a session agrees on."""

    task: str = option("cartpole_swingup", "task of the session; `polo tasks` lists them")
    seed: int = option(0, "seed of everything random in the session", low=0, high=2**31 - 1)
    clock: str = option(
        "realtime", "who waits: nobody, or simulation for the planner", choices=("realtime", "lockstep")
    )
    agent: str = option("polo", "what plans and learns", choices=AGENTS)
    run_dir: str = option("", "folder for bag, checkpoints and summary; empty: none is written")
    started: str = option("", "names this start of a session: the run_dir of another one is refused; empty: any")
    learner: bool = option(True, "whether a learner takes part: a lockstep planner waits for its weights")
    recorder: bool = option(True, "whether a recorder takes part: the bridge waits for it before it starts")
    robots: tuple[str, ...] = option(
        (), "namespaces of the robots that learner, recorder and monitor serve, below their own; empty: their own"
    )
    autostart: bool = option(True, "configure and activate without being told to")

    def __post_init__(self) -> None:
        super().__post_init__()
        for number, name in enumerate(self.robots):
            if not all(part.isidentifier() and part.isascii() for part in name.split("/")):
                raise ValueError(f"robots[{number}] = '{name}' is not a namespace below another; write robot_1, say")
            if name in self.robots[:number]:
                raise ValueError(f"robots[{number}] = '{name}' is there twice")
        if self.robots and self.clock == "lockstep":
            raise ValueError("clock = 'lockstep' with robots: several robots have no common step, use realtime")


@dataclass(frozen=True)
class BridgeConfig(Config):
    """Settings of the bridge."""

    driver: str = option(
        "simulation", "driver of the robot; `polo drivers` lists them; simulation: whichever simulates the task"
    )
    duration: float = option(0.0, "robot time after which the session is over; 0: never", unit="s", low=0.0)
    max_plan_age: float = option(
        0.5, "age of a plan's state at which the safe stop takes over", unit="s", low=0.0, high=60.0, live=True
    )
    actuation_delay: float = option(
        0.0,
        "time from writing a command to its effect on the robot, beyond what its driver says; see `polo bag delay`",
        unit="s",
        low=0.0,
        high=10.0,
    )
    start_timeout: float = option(
        20.0, "wait for the session's other nodes before the robot starts without them", unit="s", low=0.0
    )
    safety: SafetyConfig = field(default_factory=SafetyConfig)
    health: BridgeHealth = field(default_factory=BridgeHealth)


@dataclass(frozen=True)
class PlannerConfig(Config):
    """Settings of the planner node beside those of its agent."""

    threads: int = option(0, "rollout threads; 0: one a core", low=0, high=1024)
    deadline: float = option(
        0.9, "realtime: share of a control period that a plan may take; 0: no limit", low=0.0, high=1000.0, live=True
    )
    predict: bool = option(
        True,
        "account for commands that were sent and do not show in the state yet; in realtime the planner's own latency "
        "is accounted for in any case",
        live=True,
    )
    weights_timeout: float = option(
        30.0, "lockstep: wait for the weights of this step before planning with older ones", unit="s", low=0.0
    )
    policy: str = option(
        "",
        "folder of `polo train` to begin with, for agents that learn offline; empty: rest until there are weights",
    )
    health: PlannerHealth = field(default_factory=PlannerHealth)


@dataclass(frozen=True)
class LearnerNodeConfig(Config):
    """Settings of the learner node beside those of its agent."""

    learner_threads: int = option(1, "rollout threads for value targets; 0: one a core", low=0, high=1024)
    checkpoint_period: float = option(
        10.0,
        "time between checkpoints, longer where writing one takes above a twentieth of it",
        unit="s",
        low=0.1,
        live=True,
    )
    nice: int = option(10, "how far the learner's process yields to control, as nice(2)", low=0, high=19)


@dataclass(frozen=True)
class OfflineNodeConfig(Config):
    """Settings of the learner of `polo launch offline` beside those of the learner and its agent."""

    data: str = option("", "what is learned from: a dataset's folder, or bags, separated by commas")


@dataclass(frozen=True)
class RecorderConfig(Config):
    """Settings of the recorder node."""

    split: float = option(600.0, "duration of one bag file", unit="s", low=1.0)
    summary: bool = option(True, "write the session's summary when recording ends")


@dataclass(frozen=True)
class ShadowNodeConfig(Config):
    """Settings of the shadow node."""

    shadow: ShadowConfig = field(default_factory=ShadowConfig)


def task_parameters(task: str, clock: str = "lockstep", agent: str = "polo") -> dict[str, Any]:
    """Parameters of a task's own files in config/; empty where there are none.

    <task>.yaml, over it <task>.<clock>.yaml, and over both, for LOOP and its baselines, loop.yaml and <task>.loop.yaml:
    they share their settings, so that what differs is what they are. Those that plan within limits have safe.yaml and
    <task>.safe.yaml over these. Those that learn offline have offline.yaml instead, and <task>.offline.yaml over it.
    """
    of_agent: tuple[str, ...] = () if agent == "polo" else ("loop.yaml", f"{task}.loop.yaml")
    if agent in OFFLINE_AGENTS:
        of_agent = ("offline.yaml", f"{task}.offline.yaml")
    if agent in SAFE_AGENTS:
        of_agent += ("safe.yaml", f"{task}.safe.yaml")
    found: dict[str, Any] = {}
    for name in (f"{task}.yaml", f"{task}.{clock}.yaml", *of_agent):
        try:
            path = resources.path("config", name)
        except FileNotFoundError:
            continue
        found.update(read_parameters(Path(path)))
    return found


def for_task(config: T, task: str, clock: str = "lockstep", agent: str = "polo") -> T:
    """`config` with the values that the task's files give for its fields."""
    known = {name for name, *_ in fields(config)}
    return replace(config, {k: v for k, v in task_parameters(task, clock, agent).items() if k in known})
