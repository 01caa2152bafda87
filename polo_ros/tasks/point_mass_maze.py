"""POLO's exploration world: a point agent in a maze and no reward (Lowrey et al. 2019, section 3.1)."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

from polo_ros import resources
from polo_ros.tasks.base import FloatArray, ObservationSpec, Task


class PointMassMaze(Task):
    """A point agent pushed along x and y in a maze of 2 m x 2 m.

    Nothing is rewarded: an agent that moves with purpose does so for its own uncertainty. What counts
    is `coverage`, the share of an occupancy grid visited (the paper's figure 2a).
    """

    name = "point_mass_maze"
    description = "explore a maze without any reward"
    control_dt = 0.02
    discount = 0.99
    observation_spec = ObservationSpec((("position", 2), ("velocity", 2)))

    ARENA = 1.0  # m, half the side of the arena
    START = (-0.8, -0.8)  # m, the closed end of the first corridor

    def __init__(self) -> None:
        self.model = mujoco.MjModel.from_xml_path(str(resources.path("models", "point_mass.xml")))
        geoms = [self.model.geom(index) for index in range(self.model.ngeom)]
        walls = [geom for geom in geoms if geom.name.startswith("wall")]
        self._radius = float(self.model.geom("agent").size[0])
        self._centres = np.array([wall.pos[:2] for wall in walls])
        self._halves = np.array([wall.size[:2] for wall in walls])

    def reset(self, rng: np.random.Generator) -> FloatArray:
        """At rest near the closed end of the first corridor."""
        return self.pack(0.0, np.array(self.START) + rng.uniform(-0.02, 0.02, 2), np.zeros(2), np.empty(0))

    def observe(self, sensordata: FloatArray) -> FloatArray:
        """Observations (..., 4): the sensors as they are, in memory of their own."""
        return np.array(sensordata)

    def reward(self, obs: Any, action: Any, next_obs: Any) -> Any:
        """Zero, (...,)."""
        return 0.0 * obs[..., 0]

    def free_cells(self, cells: int = 20) -> npt.NDArray[np.bool_]:
        """Which cells of a cells x cells grid the agent's centre can stand in the middle of, (cells, cells) [x, y]."""
        middles = (np.arange(cells) + 0.5) * (2.0 * self.ARENA / cells) - self.ARENA
        points = np.stack(np.meshgrid(middles, middles, indexing="ij"), axis=-1)
        # Distance from a point to a box, walls along axis 2.
        outside = np.maximum(np.abs(points[:, :, None] - self._centres) - self._halves, 0.0)
        free: npt.NDArray[np.bool_] = np.hypot(outside[..., 0], outside[..., 1]).min(axis=-1) >= self._radius
        return free

    def coverage(self, positions: npt.ArrayLike, cells: int = 20) -> float:
        """Share of the free cells of a cells x cells occupancy grid that `positions` (T, 2) visit, 0 .. 1."""
        free = self.free_cells(cells)
        index = np.floor((np.asarray(positions) + self.ARENA) * (cells / (2.0 * self.ARENA))).astype(int)
        index = np.clip(index, 0, cells - 1)
        visited = np.zeros_like(free)
        visited[index[:, 0], index[:, 1]] = True
        return float((visited & free).sum() / free.sum())
