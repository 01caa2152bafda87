"""Learned weights on their way from learner to planner: safetensors bytes, checked whole before use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from polo_ros import resources

Arrays = dict[str, npt.NDArray[np.float32]]
Shapes = Mapping[str, tuple[int, ...]]

SUFFIX = ".safetensors"
_ORIGIN = "polo_ros"  # key of a file's metadata


def under(arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> dict[str, npt.NDArray[Any]]:
    """Those arrays whose names begin with `prefix`, by the rest of their names."""
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}


class WeightsError(ValueError):
    """Weights that must not be used; the message names what is wrong."""


@dataclass(frozen=True)
class Weights:
    """One version of learned weights."""

    kind: str  # "value_ensemble"
    task: str
    model_hash: str
    version: int
    effective_step: int  # first control period that may use them, in lockstep
    arrays: Arrays
    training: str = ""  # of which training, where versions of one say nothing about those of another

    def encode(self) -> bytes:
        """The arrays as a safetensors file that says what it is of."""
        # As one entry: the library writes several in any order, and equal weights must have equal bytes.
        origin = {"kind": self.kind, "task": self.task, "model_hash": self.model_hash}
        if self.training:
            origin["training"] = self.training
        return safetensors.numpy.save(self.arrays, metadata={_ORIGIN: json.dumps(origin)})


def digest(data: bytes) -> str:
    """sha256 of encoded weights, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def read_initial(name: str, kind: str, task: str, model_hash: str, shapes: Shapes) -> Arrays:
    """Weights to begin with.

    Args:
        name: Path of a `.safetensors` file; a name without that ending: of weights that come with polo_ros.
        kind: What must be in it.
        task: That it must be of.
        model_hash: Of the model that it must be of. Weights that come with polo_ros are of the model that comes with
            it, whose hash varies with MuJoCo's version: they are not asked.
        shapes: Of the arrays.

    Raises:
        WeightsError: There is no such file, or it is not of this kind, task and model.
    """
    shipped = not name.endswith(SUFFIX)
    try:
        data = (resources.path("weights", f"{name}{SUFFIX}") if shipped else Path(name)).read_bytes()
    except OSError as error:
        raise WeightsError(f"initial weights '{name}': {error}") from None
    arrays = decode(data, shapes)
    try:
        told = origin(data)
    except WeightsError as error:
        raise WeightsError(f"initial weights '{name}': {error}") from None
    asked = {"kind": kind, "task": task, **({} if shipped else {"model_hash": model_hash})}
    for word, expected in asked.items():
        if told.get(word) != expected:
            raise WeightsError(f"initial weights '{name}': {word} is {told.get(word)!r}, expected {expected!r}")
    return arrays


def origin(data: bytes) -> dict[str, str]:
    """What encoded weights say they are of: kind, task, model_hash, perhaps training. Raises WeightsError if not."""
    try:
        # Eight bytes of length, and so many of JSON.
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return dict(json.loads(header["__metadata__"][_ORIGIN]))
    except (KeyError, TypeError, ValueError):
        raise WeightsError("weights do not say what they are of") from None


def decode(data: bytes, shapes: Shapes) -> Arrays:
    """Read and check a safetensors file: names, shapes, float32, finite. Raises WeightsError."""
    try:
        arrays = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(f"weights are not a safetensors file: {error}") from None
    if arrays.keys() != shapes.keys():
        missing, extra = sorted(shapes.keys() - arrays.keys()), sorted(arrays.keys() - shapes.keys())
        raise WeightsError(f"weights have other tensors than asked for: missing {missing}, unknown {extra}")
    for name, shape in shapes.items():
        array = arrays[name]
        if array.dtype != np.float32:
            raise WeightsError(f"weights '{name}' are {array.dtype}, expected float32")
        if array.shape != tuple(shape):
            raise WeightsError(f"weights '{name}' have shape {array.shape}, expected {tuple(shape)}")
        if not np.isfinite(array).all():
            raise WeightsError(f"weights '{name}' contain values that are not finite")
    return arrays
