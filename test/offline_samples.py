"""Datasets of the cart on its rail, and trainings of seconds, for the tests of learning offline."""

from __future__ import annotations

import json
from pathlib import Path

import mujoco
import numpy as np
from learning_fakes import CartTask, FencedCartTask, LinearDynamics

from polo_ros.config import replace
from polo_ros.learning.offline_config import OfflineConfig
from polo_ros.replay.dataset import STARTS, Dataset, DatasetWriter, Rows, _npy_header, file_types

SMALL = replace(
    OfflineConfig(),
    {
        "networks.hidden": 16,
        "plas.cvae_hidden": 16,
        "plas.cvae_updates": 70,
        "ensemble.members": 2,
        "ensemble.elites": 1,
        "ensemble.hidden": 8,
        "ensemble.layers": 1,
        "fit.weight_decay": (0.0,),
        "fit.max_steps": 5,
        "train.updates": 200,
        "train.batch_size": 32,
        "train.log_every": 50,
        "train.holdout": 0.2,
    },
)


def small(**changes):
    """SMALL with other settings, `__` for a dot."""
    return replace(SMALL, {name.replace("__", "."): value for name, value in changes.items()})


def cart_rows(task: CartTask, episodes: int, length: int = 30, seed: int = 0) -> Rows:
    """A noisy, lazy controller; an episode ends beyond a fence if the task has one."""
    rng, dynamics = np.random.default_rng(seed), LinearDynamics()
    rows = []
    for _ in range(episodes):
        state = task.reset(rng)
        for step in range(length):
            obs = state[1:]
            action = np.clip(-0.5 * obs[0] - 0.5 * obs[1] + 0.7 * rng.standard_normal(1), -1.0, 1.0)
            state = dynamics.advance(state, action[None])
            after, over = state[1:], bool(task.terminated(state[1:]))
            last = over or step == length - 1
            rows.append((obs, action, task.reward(obs, action, after), after, 0.0, over, step == 0, step == 0, last))
            if over:
                break
    return Rows(*(np.array(column) for column in zip(*rows, strict=True)))


def cart_dataset(folder, task: CartTask | None = None, episodes: int = 12, **changes) -> Dataset:
    """A dataset in a new folder."""
    task = task or FencedCartTask()
    with DatasetWriter(folder, task, task.model_hash) as writer:
        writer.append(cart_rows(task, episodes, **changes))
    return Dataset.open(folder)


def stretch(folder: Path, rows: int) -> None:
    """Make a dataset one trajectory of so many rows, all zero and not on disk: sparse files."""
    path = folder / "dataset.json"
    facts = json.loads(path.read_text())
    facts.update(rows=rows, trajectories=1)
    nobs, nu = facts["files"]["observation"]["shape"][1], facts["files"]["action"]["shape"][1]
    for name, (dtype, shape) in file_types(rows, 1, nobs, nu).items():
        facts["files"][name] = {"dtype": dtype.str, "shape": list(shape)}
        with open(folder / f"{name}.npy", "wb") as stream:
            stream.write(_npy_header(dtype, shape))
            if name == STARTS:
                stream.write(np.array([0, rows]).tobytes())
            else:
                stream.truncate(128 + dtype.itemsize * int(np.prod(shape)))
    path.write_text(json.dumps(facts))


def pendulum(task, rng, act, most):
    """Rows of one episode of the inverted pendulum, and its return."""
    work, state, rows = mujoco.MjData(task.model), task.reset(rng), []
    obs = task.observe(task.sense(state))
    for step in range(most):
        action = np.clip(act(obs), task.action_low, task.action_high)
        state = task.advance(work, state, action[None])
        after = task.observe(task.sense(state))
        over = bool(task.terminated(after))
        last = over or step == most - 1
        rows.append((obs, action, task.reward(obs, action, after), after, 0.0, over, step == 0, step == 0, last))
        obs = after
        if over:
            break
    return rows, float(sum(row[2] for row in rows))
