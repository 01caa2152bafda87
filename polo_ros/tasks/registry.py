"""Tasks by name: entry points of the group `polo_ros.tasks`, each a callable without arguments."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from polo_ros import plugins
from polo_ros.plugins import PluginError
from polo_ros.tasks.base import Task
from polo_ros.tasks.safe_stop import check_safe_stop

GROUP = "polo_ros.tasks"


def names() -> list[str]:
    """Names of all installed tasks, sorted."""
    return plugins.names(GROUP)


def make(name: str) -> Task:
    """Make the task called `name` and check that it is whole.

    Raises:
        ValueError: unknown name.
        PluginError: one that cannot be loaded or made, or whose task contradicts itself; also a ValueError.
    """
    factory = plugins.load(GROUP, "task", name)
    try:
        task = factory()
    except Exception as error:  # a plugin's factory may fail in any way
        raise PluginError(f"task '{name}' cannot be made: {type(error).__name__}: {error}") from error
    _check(name, task)
    return task  # type: ignore[no-any-return]


def simulator(name: str) -> str:
    """Name of the driver that simulates the task called `name`. Raises ValueError as `make` does."""
    # A class says so without being made: some have no model unless an extra is installed.
    found = getattr(plugins.load(GROUP, "task", name), "simulator", None)
    return found if isinstance(found, str) else make(name).simulator


def _check(name: str, task: object) -> None:
    if not isinstance(task, Task):
        raise PluginError(f"task '{name}' is a {type(task).__name__}, not a polo_ros.tasks.base.Task")
    for attribute in (
        "name",
        "description",
        "model",
        "control_dt",
        "discount",
        "observation_spec",
    ):
        if not hasattr(task, attribute):
            raise PluginError(f"task '{name}' does not set '{attribute}'")
    if task.name != name:
        raise PluginError(f"task '{name}' calls itself '{task.name}'; the entry point and Task.name must agree")
    if not 0.0 < task.discount <= 1.0:
        raise PluginError(f"task '{name}': discount {task.discount} is not in (0, 1]")
    try:
        check_safe_stop(task)
    except ValueError as error:
        raise PluginError(str(error)) from None
    if task.physics_steps < 1:  # raises where control_dt is not a multiple of the timestep
        raise PluginError(f"task '{name}': control_dt {task.control_dt} s is shorter than a physics step")
    state = task.reset(np.random.default_rng(0))
    if state.shape != (task.nstate,):
        raise PluginError(f"task '{name}': reset gives shape {state.shape}, expected ({task.nstate},)")
    observation = task.observe(task.sense(state))
    if observation.shape != (task.observation_spec.size,):
        raise PluginError(
            f"task '{name}': observe gives shape {observation.shape}, "
            f"observation_spec says ({task.observation_spec.size},)"
        )
    disturbed = task.disturb(state.copy(), 1, np.random.default_rng(0))
    if disturbed is not None and disturbed.shape != (task.nstate,):
        raise PluginError(f"task '{name}': disturb gives shape {disturbed.shape}, expected ({task.nstate},)")
    for batch in ((), (2,), (2, 3)):  # the bridge's, a replay buffer's, a planner's
        obs = np.broadcast_to(observation, (*batch, *observation.shape)).copy()
        action = np.broadcast_to(task.resting_action, (*batch, task.model.nu)).copy()
        calls: dict[str, Callable[[], Any]] = {
            "reward": partial(task.reward, obs, action, obs),
            "cost": partial(task.cost, obs, action, obs),
            "terminated": partial(task.terminated, obs),
        }
        for word, call in calls.items():
            asked = f"task '{name}': {word} of observations {obs.shape} and actions {action.shape}"
            try:
                found = np.asarray(call())
            except Exception as error:  # whatever a plugin's function raises is named with its place
                line = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{line.filename}:{line.lineno}"
                raise PluginError(f"{asked} fails at {place}: {type(error).__name__}: {error}") from error
            if found.shape != batch:
                raise PluginError(f"{asked} has shape {found.shape}, expected {batch}")
            if not np.isfinite(found).all():
                raise PluginError(f"{asked} is not finite")
