"""What an action of LOOP costs over the networks that it asks for: `polo bench loop`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from polo_ros import resources, tasks
from polo_ros.agents.configs import CONFIGS
from polo_ros.agents.loop import LoopPlanner
from polo_ros.agents.loop_config import LoopConfig
from polo_ros.bench.networks import Bare, Passes
from polo_ros.config import read_parameters, replace
from polo_ros.dynamics.ensemble_config import layer_sizes
from polo_ros.learning import loop_weights
from polo_ros.learning.actor_critic import actor_sizes, critic_sizes

# Files of config/, the agent, its task.
PRESETS = (
    (("loop_paper",), "loop", "half_cheetah"),
    (("loop",), "loop", "half_cheetah"),
    (("loop", "safe"), "safe_loop", "point_goal"),
)
WARM_UP = 3  # rounds that are not counted
# At most: a plan at the paper's settings over its networks; a plan of the light preset, ms on one core.
WANTED = {"loop_paper": {"wanted_ratio": 1.2}, "loop": {"wanted_plan_ms": 25.0}}


def bench_loop(repeats: int) -> list[dict[str, Any]]:
    """Time LOOP's plans, and those of safe LOOP, against bare forward passes of the same networks and shapes.

    A plan lets the actor propose, draws the other candidates, predicts them in the elites with noise, values their ends
    by actor and critic, and moves the Gaussian, again and again. The bare passes are the elites' for each step of each
    candidate's particles, and the actor's and the critic's at the ends, as products of matrices and swish or ReLU with
    outputs allocated beforehand, and nothing else. Both take turns in a loop on one thread, whose core time counts.

    Args:
        repeats: Rounds counted.

    Returns:
        A row for each of PRESETS: "preset", its last file, its task and sizes, "plan_ms" and "networks_ms" (medians),
        "model_ms", the part of the latter that the elites take, "ratio" (median over the rounds of plan over networks),
        and what is wanted.

    Raises:
        ValueError: No round.
    """
    if repeats < 1:
        raise ValueError(f"repeats = {repeats} is below its minimum 1")
    return [_row(files, agent, task, repeats) for files, agent, task in PRESETS]


def _row(files: Sequence[str], agent: str, name: str, repeats: int) -> dict[str, Any]:
    task, preset = tasks.make(name), files[-1]
    config: LoopConfig = CONFIGS[agent]
    for file in files:
        config = replace(config, read_parameters(resources.path("config", f"{file}.yaml")))
    nobs, nu = task.observation_spec.size, int(task.model.nu)
    planner = LoopPlanner(task, config, seed=0)
    rng = np.random.default_rng(0)
    # What was learned changes no time. Small weights keep predictions near the start.
    arrays = {
        name: (0.01 * rng.standard_normal(shape)).astype(np.float32)
        for name, shape in loop_weights.shapes(config.networks, config.ensemble, nobs, nu).items()
    }
    arrays["model.input_std"] = np.ones(nobs + nu, np.float32)
    arrays["model.log_var_min"] -= 10.0
    arrays["model.log_var_max"] += 0.5
    arrays[loop_weights.FITS] = np.ones(1, np.float32)
    planner.use_weights(arrays, 1)
    model, behind = _networks(config, nobs, nu)
    start = planner.start(task.reset(rng))
    first = config.sac.warmup  # from here on it plans
    times = np.empty((repeats, 3))  # s; plan, elites, actor and critic
    for round_ in range(-WARM_UP, repeats):
        step = first + WARM_UP + round_
        began = time.thread_time()
        planner.plan(start, step, step, 0)
        took = time.thread_time() - began
        networks = [sum(part.seconds() for part in parts) for parts in (model, behind)]
        if round_ >= 0:
            times[round_] = took, *networks
    ratio = times[:, 0] / times[:, 1:].sum(axis=1)
    return {
        "preset": preset,
        "task": name,
        "rollouts": config.arc.rollouts,
        "horizon": config.arc.horizon,
        "iterations": config.arc.iterations,
        "elites": config.ensemble.used,
        "layers": config.ensemble.layers,
        "particles": config.prediction.particles,
        "plan_ms": 1e3 * float(np.median(times[:, 0])),
        "networks_ms": 1e3 * float(np.median(times[:, 1:].sum(axis=1))),
        "model_ms": 1e3 * float(np.median(times[:, 1])),
        "ratio": float(np.median(ratio)),
        **WANTED.get(preset, {}),
    }


def _networks(config: LoopConfig, nobs: int, nu: int) -> tuple[list[Bare], list[Bare]]:
    """What a plan asks for: of the model, and of actor and critic."""
    arc, elites = config.arc, config.ensemble.used
    ends = arc.rollouts * config.prediction.particles
    model = layer_sizes(config.ensemble, nobs, nu)
    # Plans leave out the reward's log-variance.
    model[-1] = (model[-1][0], model[-1][1] - 1)

    def pairs(sizes: Sequence[int]) -> list[tuple[int, int]]:
        return list(zip(sizes[:-1], sizes[1:], strict=True))

    actor, critic = (pairs(sizes(config.networks, nobs, nu)) for sizes in (actor_sizes, critic_sizes))
    return (
        [Bare(Passes(arc.iterations * arc.horizon, elites, -(-ends // elites), model, swish=True))],
        [Bare(Passes(arc.iterations, 1, ends, sizes, swish=False)) for sizes in (actor, critic)],
    )
