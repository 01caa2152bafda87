"""A training in a folder: checkpoints, log, and the policy that planners load."""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from polo_ros.files import write_whole
from polo_ros.learning.dynamics_fit import FitProgress
from polo_ros.learning.offline_learner import OfflineError, OfflineLearner, differences
from polo_ros.learning.offline_policy import ABOUT, BEFORE, FORMAT, WEIGHTS
from polo_ros.learning.weights import digest

CHECKPOINT = "checkpoint.safetensors"
LOG = "log.jsonl"
IDENTITY = "train.json"
EVENTS = "tensorboard"
LOCK = ".lock"  # held by who trains


class Stopped(Exception):
    """Somebody wants the training to end here."""


class Scalars(Protocol):
    """Where figures are drawn: TensorBoard's SummaryWriter."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Add a point."""
        ...

    def flush(self) -> None:
        """Write what was added."""
        ...

    def close(self) -> None:
        """Write it and end."""
        ...


@dataclass(frozen=True)
class Told:
    """What a training is told beside its learner."""

    stop: Callable[[], bool] = lambda: False  # asked between chunks of updates, and epochs of the model's fit
    say: Callable[[str], None] = lambda line: None
    # Called with the figures of each line of the log when it is written, and with none once a checkpoint was read.
    made: Callable[[Mapping[str, float]], None] = lambda figures: None


def train(learner: OfflineLearner, folder: Path, told: Told | None = None) -> dict[str, Any]:
    """Learn until `learner.total`, going on from the folder's checkpoint if there is one.

    In `folder`: policy.safetensors and policy.json (see OfflinePolicy), checkpoint.safetensors, log.jsonl, train.json
    and, if TensorBoard is installed, its events. All but the log are written whole or not at all, and there is a policy
    that can be loaded from the first one on.

    Args:
        learner: Fresh.
        folder: Made if it is not there.
        told: When to stop, and where to say how it goes.

    Returns:
        What policy.json says, without the settings.

    Raises:
        OfflineError: The folder is of another training, or another process trains in it; or this one diverged, and what
            it had learned before is saved.
        CheckpointError: The checkpoint is damaged.
        OSError: Something cannot be written.
    """
    told = told or Told()
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        return _train(learner, folder, told)


def _train(learner: OfflineLearner, folder: Path, told: Told) -> dict[str, Any]:
    _claim(learner, folder / IDENTITY)
    try:
        for warning in learner.restore(folder / CHECKPOINT):
            told.say(warning)
    except FileNotFoundError:
        known = -1
    else:
        known = learner.done
        told.say(f"goes on after update {learner.done} of {learner.total}")
        told.made({})
    log = _Log(folder, known, told)
    try:
        if learner.model_missing:
            _fit_model(learner, log, told)
            _save(learner, folder)
        _learn(learner, folder, log, told)
    except Stopped:
        told.say(f"stopped after update {learner.done} of {learner.total}; the same command goes on from there")
    finally:
        try:
            log.close()
        finally:
            result = _save(learner, folder)
    return {name: value for name, value in result.items() if name != "settings"}


def _fit_model(learner: OfflineLearner, log: _Log, told: Told) -> None:
    def progress(now: FitProgress) -> None:
        told.say(f"model: epoch {now.epoch}, {now.gradient_steps} steps, error {now.holdout_error:.4g}")
        if told.stop():
            raise Stopped

    began = time.perf_counter()
    figures = learner.fit_model(progress)
    told_of = {f"model_{name}": value for name, value in figures.items()}
    log.write(learner.done, {**told_of, "model_seconds": time.perf_counter() - began})


def _learn(learner: OfflineLearner, folder: Path, log: _Log, told: Told) -> None:
    train = learner.config.train
    marks = sorted({learner.preparation, learner.total})
    while learner.done < learner.total:
        began, first = time.perf_counter(), learner.done
        sums: dict[str, float] = {}
        # Lines of the log do not mix two kinds of updates.
        end = min([first - first % train.log_every + train.log_every, *(mark for mark in marks if mark > first)])
        try:
            while learner.done < end:
                step = min(end - learner.done, learner.CHUNK - learner.done % learner.CHUNK)
                for name, value in learner.advance(step).items():
                    sums[name] = sums.get(name, 0.0) + step * value
                if told.stop():
                    raise Stopped
                before = learner.done - step
                if before // train.save_every != learner.done // train.save_every and learner.done < learner.total:
                    _save(learner, folder)
        finally:
            made, seconds = learner.done - first, time.perf_counter() - began
            if made:
                figures = {name: value / made for name, value in sums.items()}
                figures["updates_per_second"] = made / seconds
                log.write(learner.done, figures)
                told.made(figures)
                words = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
                told.say(f"update {learner.done} of {learner.total}: {words}")


def _save(learner: OfflineLearner, folder: Path) -> dict[str, Any]:
    """Write the checkpoint and the policy; returns what policy.json says."""
    learner.save(folder / CHECKPOINT)
    weights = learner.weights()
    data = weights.encode()
    dataset = learner.batches.data
    about = {
        "format": FORMAT,
        "algorithm": learner.algorithm,
        "task": weights.task,
        "model_hash": weights.model_hash,
        "weights": digest(data),
        "updates": learner.done,
        "of": learner.total,
        "seed": learner.seed,
        "data": {"digest": dataset.digest, "rows": len(dataset), "trajectories": dataset.trajectories},
        "metrics": learner.metrics() if learner.whole else {},
        "settings": learner.settings(),
    }
    if learner.whole:  # what was not learned yet is nothing to act by
        if (folder / WEIGHTS).exists():
            write_whole(folder / BEFORE, (folder / WEIGHTS).read_bytes(), durable=True)
        write_whole(folder / WEIGHTS, data, durable=True)
        write_whole(folder / ABOUT, json.dumps(about, indent=2) + "\n", durable=True)
    return about


def _claim(learner: OfflineLearner, path: Path) -> None:
    """Make the folder one of this training, or refuse it if it is of another."""
    now = {"algorithm": learner.algorithm, **learner.identity()}
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        write_whole(path, json.dumps(now, indent=2) + "\n", durable=True)
        return
    except ValueError:
        raise OfflineError(f"{path} is damaged; name another folder, or delete this one") from None
    changed = differences(before, now) if isinstance(before, dict) else "train.json is not one of ours"
    if changed:
        raise OfflineError(f"{path.parent} is of another training; name another folder: {changed}")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with open(folder / LOCK, "w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OfflineError(f"another process trains in {folder}") from None
        yield


class _Log:
    """log.jsonl, a line for some updates, and the same figures for TensorBoard; lines beyond `done` updates go."""

    def __init__(self, folder: Path, done: int, told: Told) -> None:
        path = folder / LOG
        kept: list[str] = []
        if path.exists():  # what was learned after the checkpoint will be learned, and told, again
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if 0 <= _update(line) <= done]
        write_whole(path, "".join(f"{line}\n" for line in kept), durable=True)
        self._stream = open(path, "a", encoding="utf-8")  # noqa: SIM115  until `close`
        self._scalars = _tensorboard(folder / EVENTS, done)
        if self._scalars is None:
            told.say("TensorBoard is not installed (pip install polo_ros[tensorboard]): figures are in log.jsonl alone")

    def write(self, update: int, figures: Mapping[str, float]) -> None:
        """Add figures by name."""
        self._stream.write(json.dumps({"update": update, **figures}) + "\n")
        self._stream.flush()
        if self._scalars is not None:
            for name, value in figures.items():
                self._scalars.add_scalar(f"train/{name}", value, update)
            self._scalars.flush()

    def close(self) -> None:
        """End both."""
        self._stream.close()
        if self._scalars is not None:
            self._scalars.close()


def _update(line: str) -> int:
    """Of a line of the log; -1: it is none."""
    try:
        return int(json.loads(line)["update"])
    except (ValueError, KeyError, TypeError):
        return -1


def _tensorboard(folder: Path, done: int) -> Scalars | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    writer: Scalars = SummaryWriter(str(folder), purge_step=max(0, done) + 1)
    return writer
