"""What an algorithm is that learns a policy from a record: networks, and updates of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from polo_ros.learning.mlp import Adam, Mlp
from polo_ros.learning.sac import Batch

# Actions of -1 and 1, which saturated controllers record, lie at infinity before tanh.
ACTION_LIMIT = 0.999


class OfflineAlgorithm(Protocol):
    """Learns by updates; crr.py, plas.py and mbop.py have one each."""

    @property
    def networks(self) -> Mapping[str, Mlp]:
        """All of them, by name: what a checkpoint keeps."""
        ...

    @property
    def adams(self) -> Mapping[str, Adam]:
        """Of those that learn by gradients, by the same names."""
        ...

    @property
    def exported(self) -> Sequence[str]:
        """Networks that planners need."""
        ...

    @property
    def preparation(self) -> int:
        """Updates by `prepare`, before those by `step`."""
        ...

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Standard normal numbers that an update asks for: so many rows, so wide, for each transition."""
        ...

    def prepare(self, batch: Batch, noise: torch.Tensor) -> dict[str, float]:
        """One update of what has to be learned first; arguments and result as of `step`."""
        ...

    def step(self, batch: Batch, noise: torch.Tensor) -> dict[str, float]:
        """One update of actor and critics.

        Args:
            batch: B transitions.
            noise: (count, B, width) of `noise_shape`.

        Returns:
            Figures by name.
        """
        ...


def before_tanh(actions: torch.Tensor) -> torch.Tensor:
    """What tanh makes the actions of, (B, nu) in -1 .. 1; those beyond +-0.999 are taken to be there."""
    return torch.atanh(actions.clamp(-ACTION_LIMIT, ACTION_LIMIT))
