"""What an update of learning offline costs."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from polo_ros.config import replace
from polo_ros.learning.offline_config import ALGORITHMS, OfflineConfig
from polo_ros.learning.offline_learner import OfflineLearner
from polo_ros.replay.dataset import Dataset, DatasetWriter, Rows
from polo_ros.session.config import for_task
from polo_ros.tasks.base import Task

ROWS = 100_000
EPISODE = 1000  # rows
WANTED = 100.0  # updates a second and core, at least
SETTINGS = {"train.model": False, "plas.cvae_updates": 10_000_000}


def bench_training(algorithm: str, task: Task, repeats: int) -> dict[str, Any]:
    """Time updates of an algorithm as config/offline.yaml has it, in core time: batches of 256, networks of 2 x 256.

    What is learned changes no time, so that rows are random numbers.

    Args:
        algorithm: "crr", "mbop", "plas", or "cvae", the updates that PLAS begins with.
        task: Whose sizes.
        repeats: Rounds counted, each of OfflineLearner.CHUNK updates with what they draw.
    """
    settings = dict(SETTINGS)
    if algorithm == "plas":
        settings["plas.cvae_updates"] = 1
    with tempfile.TemporaryDirectory() as folder:
        data = _random_data(task, Path(folder) / "data")
        name = "plas" if algorithm == "cvae" else algorithm
        learner = OfflineLearner(task, data, name, replace(for_task(OfflineConfig(), task.name, agent=name), settings))
        learner.advance(learner.CHUNK)  # buffers, pages
        times = np.empty(repeats)
        for index in range(repeats):
            began = time.process_time()
            learner.advance(learner.CHUNK)
            times[index] = (time.process_time() - began) / learner.CHUNK
    median = float(np.median(times))
    return {"rows": ROWS, "update_ms": 1e3 * median, "updates_per_core_second": 1.0 / median, "wanted": WANTED}


PARTS = {f"train_{name}": partial(bench_training, name) for name in (*ALGORITHMS, "cvae")}


def _random_data(task: Task, folder: Path) -> Dataset:
    rng = np.random.default_rng(0)
    nobs, nu = task.observation_spec.size, int(task.model.nu)
    with DatasetWriter(folder, task, task.model_hash) as writer:
        for _ in range(ROWS // EPISODE):
            observation = rng.standard_normal((EPISODE + 1, nobs), dtype=np.float32)
            first = np.arange(EPISODE) == 0
            writer.append(
                Rows(
                    observation[:-1],
                    rng.uniform(-1.0, 1.0, (EPISODE, nu)),
                    rng.standard_normal(EPISODE),
                    observation[1:],
                    np.zeros(EPISODE),
                    np.zeros(EPISODE, bool),
                    first,
                    first,
                    first[::-1],
                )
            )
    return Dataset.open(folder)
