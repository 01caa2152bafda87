"""POLO's exploration worlds: a point agent in a box or a maze and no reward (Lowrey et al. 2019, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

from polo_ros import resources
from polo_ros.tasks.base import FloatArray, ObservationSpec, Task


class PointMass(Task):
    """A point agent pushed along x and y in an arena of 2 m x 2 m.

    Nothing is rewarded: an agent that moves with purpose does so for its own uncertainty. What counts
    is `coverage`, the share of an occupancy grid visited (the paper's figure 2a).
    """

    control_dt = 0.04
    discount = 0.99
    observation_spec = ObservationSpec(
        (("position", 2), ("velocity", 2)), scales=(("position", 0.5), ("velocity", 1.0))
    )

    ARENA = 1.0  # m, half the side of the arena
    START = (-0.8, -0.8)  # m: a corner, in the maze the closed end of the first corridor
    SUCCESS_COVERAGE = 0.8

    def __init__(self) -> None:
        spec = mujoco.MjSpec.from_file(str(resources.path("models", "point_mass.xml")))
        self.change_model(spec)
        self.model = spec.compile()
        geoms = [self.model.geom(index) for index in range(self.model.ngeom)]
        walls = [geom for geom in geoms if geom.name.startswith("wall")]
        self._radius = float(self.model.geom("agent").size[0])
        self._centres = np.array([wall.pos[:2] for wall in walls])
        self._halves = np.array([wall.size[:2] for wall in walls])

    def change_model(self, spec: mujoco.MjSpec) -> None:
        """Change `spec`, which is the maze's; by default nothing."""

    def reset(self, rng: np.random.Generator) -> FloatArray:
        """At rest near the start."""
        return self.pack(0.0, np.array(self.START) + rng.uniform(-0.02, 0.02, 2), np.zeros(2), np.empty(0))

    def observe(self, sensordata: FloatArray) -> FloatArray:
        """Observations (..., 4): the sensors as they are, in memory of their own."""
        return np.array(sensordata)

    def reward(self, obs: Any, action: Any, next_obs: Any) -> Any:
        """Zero, (...,)."""
        return 0.0 * obs[..., 0]

    def success(self, observations: FloatArray) -> bool:
        """Whether the run visited 80 % of the free cells."""
        return self.measures(observations)["coverage"] >= self.SUCCESS_COVERAGE

    def measures(self, observations: FloatArray) -> Mapping[str, float]:
        """`coverage`: share of the free cells that were visited, 0 .. 1."""
        return {"coverage": self.coverage(self.observation_spec.view(observations)["position"])}

    def free_cells(self, cells: int = 20) -> npt.NDArray[np.bool_]:
        """Which cells of a cells x cells grid the agent's centre can stand in the middle of, (cells, cells) [x, y]."""
        middles = (np.arange(cells) + 0.5) * (2.0 * self.ARENA / cells) - self.ARENA
        points = np.stack(np.meshgrid(middles, middles, indexing="ij"), axis=-1)
        # Distance from a point to a box, walls along axis 2.
        outside = np.maximum(np.abs(points[:, :, None] - self._centres) - self._halves, 0.0)
        distance = np.hypot(outside[..., 0], outside[..., 1]).min(axis=-1)
        # The cells along the arena's walls are a radius away: rounding must not free those of two sides alone.
        free: npt.NDArray[np.bool_] = distance >= self._radius - 1e-9
        return free

    def coverage(self, positions: npt.ArrayLike, cells: int = 20) -> float:
        """Share of the free cells of a cells x cells occupancy grid that `positions` (T, 2) visit, 0 .. 1."""
        free = self.free_cells(cells)
        index = np.floor((np.asarray(positions) + self.ARENA) * (cells / (2.0 * self.ARENA))).astype(int)
        index = np.clip(index, 0, cells - 1)
        visited = np.zeros_like(free)
        visited[index[:, 0], index[:, 1]] = True
        return float((visited & free).sum() / free.sum())


class PointMassBox(PointMass):
    """The finite box without obstacles: the maze's arena and start, so that only its inner walls are missing."""

    name = "point_mass_box"
    description = "explore an empty box without any reward"

    def change_model(self, spec: mujoco.MjSpec) -> None:
        """Take the inner walls out: those with a number for a name."""
        spec.modelname = self.name
        for geom in list(spec.worldbody.geoms):
            if geom.name.startswith("wall_") and geom.name.removeprefix("wall_").isdigit():
                spec.delete(geom)


class PointMassMaze(PointMass):
    """The maze: two long corridors, then branches with dead ends."""

    name = "point_mass_maze"
    description = "explore a maze without any reward"
