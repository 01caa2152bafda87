"""Checkpoints: one safetensors file, written atomically, checked whole, with the one before as fallback."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from polo_ros.files import replacing, sync

AnyArray = npt.NDArray[Any]
# dtype and shape of each tensor; -1 stands for any length.
Spec = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]

FORMAT = "polo_ros checkpoint 1"


class CheckpointError(ValueError):
    """A checkpoint that must not be used; the message names the file and what is wrong."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything a learner needs to go on exactly where it was."""

    kind: str  # which learner: "polo"
    task: str
    model_hash: str
    config: dict[str, Any]  # settings by dotted name
    state: dict[str, Any]  # counters and seeds: what JSON can hold
    arrays: dict[str, AnyArray]
    warnings: tuple[str, ...] = field(default=())  # what the reader should be told


def previous(path: Path) -> Path:
    """Where the checkpoint before `path` is kept."""
    return path.with_name(path.name + ".prev")


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` to `path`, so that a kill or power cut at any moment leaves a whole one.

    The file is written and synced under another name and then renamed; what was at `path` stays as
    `path`.prev. Raises OSError where the file cannot be written.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in checkpoint.arrays.items()}
    header = {
        "format": FORMAT,
        "kind": checkpoint.kind,
        "task": checkpoint.task,
        "model_hash": checkpoint.model_hash,
        "config": json.dumps(checkpoint.config, sort_keys=True),
        "state": json.dumps(checkpoint.state, sort_keys=True),
    }
    header["digest"] = _digest(header, arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, durable=True) as partial:
        partial.write_bytes(safetensors.numpy.save(arrays, metadata=header))
        sync(partial)  # before the one that is there goes to another name
        if path.exists():
            path.replace(previous(path))


def load(path: Path, *, kind: str, task: str, model_hash: str, spec: Spec) -> Checkpoint:
    """Read the checkpoint at `path`, or the one before it if that one is damaged or gone.

    The fallback is named in the result's `warnings`. A whole checkpoint of another kind, task, model or
    layout is an error at once: the one before it would be no better.

    Args:
        path: The newest checkpoint.
        kind: Learner that is to go on.
        task: Name of its task.
        model_hash: Of its compiled model.
        spec: Tensors it needs.

    Raises:
        FileNotFoundError: There is neither `path` nor a previous one.
        CheckpointError: Neither can be used; the message says why.
    """
    before = previous(path)
    if not path.exists() and not before.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        header, arrays = _read(path)
        warnings: tuple[str, ...] = ()
    except CheckpointError as error:
        if not before.exists():
            raise
        try:
            header, arrays = _read(before)
        except CheckpointError as older:
            raise CheckpointError(f"{error}; the one before is no better: {older}") from None
        warnings = (f"{error}; went on from the one before, {before.name}",)
        path = before
    for name, expected in (("kind", kind), ("task", task), ("model_hash", model_hash)):
        if header[name] != expected:
            raise CheckpointError(f"checkpoint {path}: {name} is '{header[name]}', expected '{expected}'")
    _check(path, arrays, spec)
    return Checkpoint(
        kind, task, model_hash, json.loads(header["config"]), json.loads(header["state"]), arrays, warnings
    )


def _read(path: Path) -> tuple[dict[str, str], dict[str, AnyArray]]:
    """Header and tensors of one file, as they were written. Raises CheckpointError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error.strerror}") from None
    try:
        arrays = safetensors.numpy.load(data)
        # The library's loader from bytes drops the metadata; its length was checked by now.
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"checkpoint {path} is truncated or not a safetensors file: {error}") from None
    if header.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint {path}: format is {header.get('format')!r}, expected {FORMAT!r}")
    missing = {"kind", "task", "model_hash", "config", "state", "digest"} - header.keys()
    if missing:
        raise CheckpointError(f"checkpoint {path}: the header lacks {sorted(missing)}")
    if _digest(header, arrays) != header["digest"]:
        raise CheckpointError(f"checkpoint {path} is corrupt: its contents do not have the digest it names")
    return header, arrays


def _check(path: Path, arrays: Mapping[str, AnyArray], spec: Spec) -> None:
    if arrays.keys() != spec.keys():
        missing, extra = sorted(spec.keys() - arrays.keys()), sorted(arrays.keys() - spec.keys())
        raise CheckpointError(f"checkpoint {path} has other tensors than asked for: missing {missing}, unknown {extra}")
    for name, (dtype, shape) in spec.items():
        array = arrays[name]
        if array.dtype != dtype:
            raise CheckpointError(f"checkpoint {path}: '{name}' is {array.dtype}, expected {dtype}")
        fits = len(array.shape) == len(shape) and all(
            want in (-1, have) for have, want in zip(array.shape, shape, strict=True)
        )
        if not fits:
            expected = str(shape).replace("-1", "any")
            raise CheckpointError(f"checkpoint {path}: '{name}' has shape {array.shape}, expected {expected}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise CheckpointError(f"checkpoint {path}: '{name}' contains values that are not finite")


def _digest(header: Mapping[str, str], arrays: Mapping[str, AnyArray]) -> str:
    """sha256 over header and contents: safetensors itself would not notice a flipped bit."""
    total = hashlib.sha256()
    for key in sorted(header):
        if key != "digest":
            total.update(f"{key}={header[key]}\0".encode())
    for name in sorted(arrays):
        total.update(f"{name}\0".encode())
        total.update(np.ascontiguousarray(arrays[name]).data)
    return total.hexdigest()
