"""From numpy to torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch


def float32(array: npt.NDArray[Any]) -> torch.Tensor:
    """A float32 copy in torch's own aligned memory: results must not depend on where numpy put an array."""
    return torch.tensor(np.asarray(array), dtype=torch.float32)
