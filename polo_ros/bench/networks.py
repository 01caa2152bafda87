"""Bare forward passes of networks: what benches hold plans in learned models against."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional


@dataclass(frozen=True)
class Passes:
    """So many forward passes of networks side by side."""

    count: int
    members: int
    rows: int  # of each member
    sizes: Sequence[tuple[int, int]]
    swish: bool


class Bare:
    """Nothing but networks."""

    def __init__(self, passes: Passes) -> None:
        self._passes = passes
        members, rows = passes.members, passes.rows
        self._weights = [0.05 * torch.ones(members, *pair) for pair in passes.sizes]
        self._biases = [torch.zeros(members, 1, out) for _, out in passes.sizes]
        self._inputs = torch.zeros(members, rows, passes.sizes[0][0])
        self._outputs = [torch.empty(members, rows, out) for _, out in passes.sizes]

    @torch.inference_mode()
    def seconds(self) -> float:
        """Time of the passes, s."""
        began = time.thread_time()
        last = len(self._weights) - 1
        for _ in range(self._passes.count):
            h = self._inputs
            for index, (weight, bias, out) in enumerate(zip(self._weights, self._biases, self._outputs, strict=True)):
                h = torch.baddbmm(bias, h, weight, out=out)
                if index < last:
                    (functional.silu if self._passes.swish else functional.relu)(h, inplace=True)
        return time.thread_time() - began
