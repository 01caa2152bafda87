"""Learned weights on their way from learner to planner: safetensors bytes, checked whole before use."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

Arrays = dict[str, npt.NDArray[np.float32]]
Shapes = Mapping[str, tuple[int, ...]]


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

    def encode(self) -> bytes:
        """The arrays as a safetensors file."""
        return safetensors.numpy.save(self.arrays)


def digest(data: bytes) -> str:
    """sha256 of encoded weights, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


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
