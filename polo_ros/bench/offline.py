"""What learning offline costs: `polo bench offline`. Each part is a function of the number of rounds, in PARTS."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from polo_ros import tasks
from polo_ros.bench import training
from polo_ros.replay.bag_dataset import from_bags
from polo_ros.replay.bag_reader import BagReader
from polo_ros.replay.bag_types import PLAN, STATE, TRANSITION, TopicInfo, message_definition
from polo_ros.replay.bag_writer import BagWriter
from polo_ros.replay.dataset import Dataset
from polo_ros.replay.transition_blocks import TransitionBlocks
from polo_ros.tasks.base import Task

TASK = "half_cheetah"
TRANSITIONS = 20_000
EPISODE = 1000  # transitions
ONE_BY_ONE = 2000  # transitions that the general decoder is timed with
HORIZON = 40  # rows of each plan
FLUSH = 20  # transitions a chunk: a second's
BATCH = 256
WANTED = 50_000.0  # transitions a second and core, at least


def bench_offline(repeats: int) -> list[dict[str, Any]]:
    """Time each part of learning offline on half_cheetah, in core time.

    Args:
        repeats: Rounds counted.

    Returns:
        A row for each of PARTS, with "part"; for a task that cannot be made "missing", why.

    Raises:
        ValueError: No round.
    """
    if repeats < 1:
        raise ValueError(f"repeats = {repeats} is below its minimum 1")
    rows = []
    for name, part in PARTS.items():
        try:
            figures = part(tasks.make(TASK), repeats)
        except ValueError as error:  # the package without its extra
            figures = {"missing": str(error)}
        rows.append({"part": name, "task": TASK, **figures})
    return rows


def bench_reading(task: Task, repeats: int) -> dict[str, Any]:
    """Read a bag as a session leaves it: a State and a Plan beside each Transition, zstd, checked by CRC.

    Returns:
        Transitions a second and core: "read_per_s", decoded into arrays; "dataset_per_s", checked, joined and written;
        "one_by_one_per_s", read by the general decoder, for comparison; and "sample_us", to draw a batch of 256.
    """
    with tempfile.TemporaryDirectory() as folder:
        bag, out = Path(folder) / "bag", Path(folder) / "data"
        _record(bag, task)

        def read() -> int:
            return sum(len(block) for block in TransitionBlocks(BagReader(bag), "/transition"))

        def make() -> int:
            shutil.rmtree(out, ignore_errors=True)
            return int(from_bags([bag], out)["rows"])

        def one_by_one() -> int:
            return sum(1 for _ in itertools.islice(BagReader(bag).every_transition(), ONE_BY_ONE))

        works: dict[str, Callable[[], int]] = {"read": read, "dataset": make, "one_by_one": one_by_one}
        speeds: dict[str, list[float]] = {key: [] for key in works}
        for _ in range(repeats):
            for key, work in works.items():
                began = time.process_time()
                count = work()
                speeds[key].append(count / (time.process_time() - began))
        data, rng = Dataset.open(out), np.random.default_rng(0)
        began = time.process_time()
        for _ in range(100):
            data.sample(rng, BATCH)
        return {
            "transitions": TRANSITIONS,
            "bag_mb": sum(path.stat().st_size for path in bag.glob("*.mcap")) / 1e6,
            **{f"{key}_per_s": float(np.median(found)) for key, found in speeds.items()},
            "sample_us": 1e4 * (time.process_time() - began),
            "wanted_per_s": WANTED,
        }


PARTS: Mapping[str, Callable[[Task, int], dict[str, Any]]] = {"reading": bench_reading, **training.PARTS}


def _record(path: Path, task: Task) -> None:
    """A bag of random numbers in the sizes of the task."""
    store = get_typestore(Stores.EMPTY)
    definitions = {kind: message_definition(kind) for kind in (TRANSITION, STATE, PLAN)}
    for kind, text in definitions.items():
        store.register(get_types_from_msg(text, kind))
    rng, model, nobs = np.random.default_rng(0), task.model, task.observation_spec.size
    names = {TRANSITION: "/transition", STATE: "/state", PLAN: "/plan"}
    topics = [TopicInfo(names[kind], kind, text) for kind, text in definitions.items()]
    after = rng.standard_normal(nobs)
    with BagWriter(path, topics, 0.0, {"task": task.name}, flush_s=0.0) as writer:
        for step in range(TRANSITIONS):
            before, after = after, rng.standard_normal(nobs)
            episode, episode_step = divmod(step, EPISODE)
            fields = {
                "step": step,
                "episode": episode,
                "episode_step": episode_step,
                "model_hash": task.model_hash,
                "qpos": rng.standard_normal(model.nq),
                "qvel": rng.standard_normal(model.nv),
                "observation": before,
                "action": rng.uniform(-1.0, 1.0, model.nu),
                "reward": float(rng.standard_normal()),
                "next_observation": after,
                "truncated": episode_step == EPISODE - 1,
                "actions": rng.uniform(-1.0, 1.0, HORIZON * model.nu),
            }
            for kind, name in names.items():
                writer.write(name, bytes(store.serialize_cdr(_message(store, kind, fields), kind)), step, step)
            if step % FLUSH == FLUSH - 1:
                writer.flush()


def _message(store: Any, kind: str, given: Mapping[str, Any]) -> Any:
    """A message of what is given; what is not is zero or empty."""
    values = {}
    for name, (_, detail) in store.fielddefs[kind][1]:
        if name in given:
            values[name] = given[name]
        elif isinstance(detail, str):  # another message
            values[name] = _message(store, detail, {})
        elif isinstance(detail[0], str):
            values[name] = {"string": "", "bool": False}.get(detail[0], 0)
        else:
            entry = detail[0][1][0]
            values[name] = [] if entry == "string" else np.zeros(0, entry)
    return store.types[kind](**values)
