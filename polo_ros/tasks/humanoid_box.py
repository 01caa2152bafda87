"""POLO's humanoid that pushes a slippery box to a target (Lowrey et al. 2019, appendix A and A.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np

from polo_ros.tasks.base import FloatArray, ObservationSpec, ObservationView
from polo_ros.tasks.humanoid import BODY_GROUPS, BODY_SCALES, Humanoid


class HumanoidBox(Humanoid):
    """A humanoid, upright at first, is to push a box 1.5 m ahead to 2.5 m ahead, from where it must not slide on.

    Reward (appendix A.3): R(s) = -(1.1 - Root_z) up to 1.1 m; above, 2 - |Box_xy - Root_xy| while that is more
    than 0.8 m, else 4 - 2 |Box_xy - Target_xy|.

    The box is a cube of 0.9 m, free to move: 33 degrees of freedom. The paper gives neither its mass nor "very
    low" in numbers. Here it has a quarter of the humanoid's mass, so that one arm moves it, and a friction of
    0.05 on the floor: pushed to 1 m/s, it slides a metre, from its start to its target (along diagonals a third
    further, as friction cones are pyramids).

    Observations: behind the paper's 34 the box's position, as in the paper, and Root_xy, which the paper does not
    list though the reward needs it; in m.
    """

    name = "humanoid_box"
    description = "push a slippery box to a target (33 degrees of freedom)"
    observation_spec = ObservationSpec(
        (*BODY_GROUPS, ("box_position", 3), ("root_position", 2)),
        (*BODY_SCALES, ("box_position", 1.0), ("root_position", 1.0)),
    )

    BOX_WIDTH = 0.9  # m
    BOX_MASS = 10.0  # kg
    BOX_FRICTION = 0.05  # between box and floor
    BOX_START = (1.5, 0.0)  # m, world frame; the humanoid starts at the origin
    TARGET = (2.5, 0.0)
    REACH = 0.8  # m from the root to the box's middle, from which the target counts
    SUCCESS_DISTANCE = 0.3  # m from the target, to be kept through the last second: the box may not slide past

    def extend_model(self, spec: mujoco.MjSpec) -> None:
        """Add the box, its position as a sensor and a mark on its target.

        Of two geoms' frictions MuJoCo takes the larger, here the floor's; with priority the box would slip from
        the hands too. So box and floor are a pair with a friction of its own, and the box's bit 1 without
        affinity meets every part of the body but not the floor.
        """
        # The humanoid's four Newton iterations do not converge where limbs press a light box, and threw it away at
        # 5 m/s and more (up to 130) in three of ten random rollouts beside it; with ten, in none of 3000.
        spec.option.iterations, spec.option.ls_iterations = 10, 20
        half = 0.5 * self.BOX_WIDTH
        box = spec.worldbody.add_body(name="box", pos=(*self.BOX_START, half))
        box.add_freejoint(name="box")
        box.add_geom(
            name="box",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=(half, half, half),
            mass=self.BOX_MASS,
            contype=1,
            conaffinity=0,
            friction=(0.9, 0.005, 0.0001),
            rgba=(0.35, 0.5, 0.65, 1.0),
        )
        slide = self.BOX_FRICTION
        spec.add_pair(geomname1="floor", geomname2="box", condim=3, friction=(slide, slide, 0.005, 0.0001, 0.0001))
        spec.add_sensor(
            name="box", type=mujoco.mjtSensor.mjSENS_FRAMEPOS, objtype=mujoco.mjtObj.mjOBJ_XBODY, objname="box"
        )
        spec.worldbody.add_site(
            name="target",
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            pos=(*self.TARGET, 0.002),
            size=(self.SUCCESS_DISTANCE, 0.002, 0.0),
            rgba=(0.3, 0.7, 0.4, 0.8),
        )

    def observe_more(self, sensors: FloatArray, obs: FloatArray) -> None:
        """Write the positions of box and root into obs (N, 5)."""
        obs[:, :3] = sensors[:, 44:47]
        obs[:, 3:] = sensors[:, 29:31]

    def state_reward(self, seen: ObservationView) -> Any:
        """R(s) of appendix A.3, (...,)."""
        height = seen["root_height"][..., 0]
        reach = _length(seen["box_position"][..., :2] - seen["root_position"])
        near = 4.0 - 2.0 * self._to_target(seen["box_position"])
        pushing = (reach > self.REACH) * (2.0 - reach) + (reach <= self.REACH) * near
        return (height > self.TARGET_HEIGHT) * pushing - (self.TARGET_HEIGHT - height).clip(min=0.0)

    def _to_target(self, box: Any) -> Any:
        target = np.array(self.TARGET)
        return _length(box[..., :2] - (target if isinstance(box, np.ndarray) else box.new_tensor(target)))

    def distance(self, obs: Any) -> Any:
        """Distance of the box from its target in m, (...,), in obs (..., nobs)."""
        return self._to_target(self.observation_spec.view(obs)["box_position"])

    def success(self, observations: FloatArray) -> bool | None:
        """Whether the box stays within 0.3 m of the target through the last second; None for a shorter run."""
        last = self.last_second(observations)
        return None if last is None else bool((self.distance(last) <= self.SUCCESS_DISTANCE).all())

    def measures(self, observations: FloatArray) -> Mapping[str, float]:
        """Heights as of every humanoid; `final_distance` and `least_distance` of the box from its target, m."""
        distance = self.distance(observations)
        return {
            **super().measures(observations),
            "final_distance": float(distance[-1]),
            "least_distance": float(distance.min()),
        }


def _length(vector: Any) -> Any:
    return (vector * vector).sum(-1) ** 0.5
