"""A robot that goes from goal to goal and keeps off hazards: the numbers of Safety Gym's PointGoal1 and CarGoal1.

Ray, Achiam, Amodei 2019, "Benchmarking Safe Exploration in Deep Reinforcement Learning"; observation and planning cost
are those of LOOP's safe reinforcement learning (Sikchi et al. 2021, section 6.3 and its public code).
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np

from polo_ros import resources
from polo_ros.tasks.base import FloatArray, ObservationSpec, Task
from polo_ros.tasks.gym_task import as_number

HAZARDS = 8


class Goal(Task):
    """Reach one goal after another on a square of 3 m among eight flat hazards and a vase that may be pushed.

    Reward of a control period: what the robot has come nearer to the rim of the goal, in m, and 1 when it is there. A
    robot that is within the goal at the end of a control period has reached it, and `disturb` draws another at once.
    So next_obs holds another goal than obs: the group "reached" is then 1, for one period, and the reward knows from
    it that the old one was reached. In a rollout goals stay where they are: it pays for the goal that it enters, and
    nothing for coming nearer to its middle. The benchmark looks every 0.02 s (car: 0.04 s), where LOOP's control period
    ends early; it pays for the last centimetres within the rim too.

    `cost` is what LOOP plans with, 10 sum_i (0.2 m - d_i)+ over distances d_i of hazards, of next_obs. The benchmark
    counts simulation steps within a hazard, five a control period, 1000 an episode: `measures` knows the ends of
    control periods only and counts each five times.

    Where goal, hazards and vase stand is a part of the physics state and of nothing else.
    """

    discount = 0.99
    episode_steps = 200
    added = ("reached",)
    observation_spec = ObservationSpec(
        (
            ("velocity", 2),  # m/s, forwards and to the left
            ("rotation", 1),  # rad/s, about the robot's vertical
            ("magnetometer", 3),  # in the robot's frame, of a field of 0.5 along the world's -y: the heading
            ("goal", 2),  # m, in the robot's frame; so are the next two
            ("vase", 2),
            ("hazards", 2 * HAZARDS),  # x and y of one after the other
            ("reached", 1),  # 1 where a goal was reached in the control period that ends here, else 0
        ),
        scales=(
            ("velocity", 1.0),
            ("rotation", 3.0),
            ("magnetometer", 0.5),
            ("goal", 1.0),
            ("vase", 1.0),
            ("hazards", 1.0),
            ("reached", 1.0),
        ),
    )

    EXTENT = 1.5  # m, half the side of the square that everything is placed in
    GOAL_RADIUS = 0.3  # m
    HAZARD_RADIUS = 0.2  # m
    COST_SCALE = 10.0  # 1/m, of the cost that is planned with
    SIMULATION_STEPS = 5  # of the benchmark in one control period
    COST_LIMIT = 25.0  # the benchmark's: simulation steps of an episode within a hazard
    # m around each thing; two things are at least the sum of theirs apart, and this far within the square.
    KEEPOUTS: Mapping[str, float] = {"robot": 0.4, "goal": 0.305, "vase": 0.15, "hazard": 0.18}
    TRIES = 10_000  # places for a new goal
    TRIES_OF_START = 100  # places for a thing; then all are drawn anew

    file: str  # name of the model among ours

    def __init__(self) -> None:
        self.model = mujoco.MjModel.from_xml_path(str(resources.path("models", self.file)))
        address = {self.model.joint(index).name: int(self.model.jnt_qposadr[index]) for index in range(self.model.njnt)}
        self._goal, self._reached, self._vase = (address[name] for name in ("goal_x", "reached", "vase_x"))
        self._hazards = address["hazard_1_x"]  # 16 of them in qpos, x and y in turn
        # Of sensors with three entries each but for the flag behind the third: x and y, of gyro z, of magnetometer all.
        places = [10 + 3 * index + axis for index in range(2 + HAZARDS) for axis in range(2)]
        self._columns = np.array([0, 1, 5, 6, 7, 8, *places, 9])
        # Entries of the observation, x and y, of what stands still: the goal and each hazard.
        slices = self.observation_spec.slices
        entries = np.arange(self.observation_spec.size)
        self._landmarks = np.concatenate((entries[slices["goal"]], entries[slices["hazards"]])).reshape(-1, 2)

    # ---- start, and what the world does --------------------------------------------------------

    @abc.abstractmethod
    def put_robot(self, qpos: FloatArray, yaw: float) -> None:
        """Turn the robot, which stands at qpos[:2] already, to `yaw` rad."""

    def reset(self, rng: np.random.Generator) -> FloatArray:
        """Everything at rest at places drawn uniformly and apart from each other; the robot's yaw is drawn too."""
        names = ["robot", "goal", *["hazard"] * HAZARDS, "vase"]
        keepouts = np.array([self.KEEPOUTS[name] for name in names])
        for _ in range(self.TRIES):
            places = np.empty((0, 2))
            for number, keepout in enumerate(keepouts):
                found = self._place(rng, keepout, places, keepouts[:number], self.TRIES_OF_START)
                if found is None:
                    break
                places = np.concatenate((places, found[None]))
            else:
                qpos = self.model.qpos0.copy()
                qpos[:2] = places[0]
                self.put_robot(qpos, rng.uniform(-math.pi, math.pi))
                qpos[self._goal : self._goal + 2] = places[1]
                qpos[self._hazards : self._hazards + 2 * HAZARDS] = places[2 : 2 + HAZARDS].ravel()
                # The vase hangs on slides whose zero is the world's.
                qpos[self._vase : self._vase + 2] = places[-1]
                return self.pack(0.0, qpos, np.zeros(self.model.nv), np.empty(0))
        raise RuntimeError(f"task '{self.name}': no place for everything in {self.TRIES} attempts")

    def disturb(self, state: FloatArray, episode_step: int, rng: np.random.Generator) -> FloatArray | None:
        """Another goal where one was reached; that one was is said for one control period.

        It lies away from robot, vase and hazards where they are now. Where none is found, the old one stays and the
        next period tries again; the benchmark ends the episode then.
        """
        _, qpos, _, _ = self.unpack(state)
        robot, goal = qpos[:2], qpos[self._goal : self._goal + 2]
        place = None
        if math.dist(robot, goal) <= self.GOAL_RADIUS:
            hazards = qpos[self._hazards : self._hazards + 2 * HAZARDS].reshape(HAZARDS, 2)
            others = np.concatenate((robot[None], qpos[None, self._vase : self._vase + 2], hazards))
            names = ("robot", "vase", *["hazard"] * HAZARDS)
            keepouts = np.array([self.KEEPOUTS[name] for name in names])
            place = self._place(rng, self.KEEPOUTS["goal"], others, keepouts, self.TRIES)
        if place is None and not qpos[self._reached]:
            return None
        changed: FloatArray = state.copy()
        qpos = changed[1 : 1 + self.model.nq]
        qpos[self._reached] = 0.0 if place is None else 1.0
        if place is not None:
            qpos[self._goal : self._goal + 2] = place
        return changed

    def _place(
        self, rng: np.random.Generator, keepout: float, places: FloatArray, keepouts: FloatArray, tries: int
    ) -> FloatArray | None:
        """The first of `tries` places (2,) that keeps its distance from `places` (n, 2), or None."""
        room = self.EXTENT - keepout
        drawn = rng.uniform(-room, room, (tries, 2))
        offsets = drawn[:, None] - places
        free = np.flatnonzero((np.hypot(offsets[..., 0], offsets[..., 1]) >= keepouts + keepout).all(axis=-1))
        if not len(free):
            return None
        place: FloatArray = drawn[free[0]]
        return place

    # ---- what is seen, and what is wanted ------------------------------------------------------

    def observe(self, sensordata: FloatArray) -> FloatArray:
        """Observations (..., 27) from sensor readings (..., 40)."""
        return np.asarray(sensordata)[..., self._columns]

    def reward(self, obs: Any, action: Any, next_obs: Any) -> Any:
        """Reward (...,): nearer to the goal's rim, m, and 1 for reaching it."""
        before, after = self._to_goal(obs, next_obs)
        progress = before.clip(min=self.GOAL_RADIUS) - after.clip(min=self.GOAL_RADIUS)
        return progress + as_number(self._enters(before, after), next_obs)

    def unforeseen(self, obs: Any, next_obs: Any) -> Any:
        """Whether another goal has come, or its flag gone, between obs and next_obs (..., 27), (...,) bool."""
        seen, later = self.observation_spec.view(obs), self.observation_spec.view(next_obs)
        return (seen["reached"][..., 0] > 0.5) | (later["reached"][..., 0] > 0.5)

    def shuffled(
        self, obs: FloatArray, next_obs: FloatArray, rng: np.random.Generator
    ) -> tuple[FloatArray, FloatArray]:
        """Goal and hazards of obs and next_obs (B, 27) in each other's places: all stand still, and touch nothing.

        The vase is pushed. Where another goal has come, nothing changes.
        """
        order = rng.permuted(np.tile(np.arange(len(self._landmarks)), (len(obs), 1)), axis=1)
        order[np.asarray(self.unforeseen(obs, next_obs))] = np.arange(len(self._landmarks))
        taken, put = self._landmarks[order].reshape(len(obs), -1), self._landmarks.ravel()
        before, after = obs.copy(), next_obs.copy()
        before[:, put] = np.take_along_axis(obs, taken, axis=1)
        after[:, put] = np.take_along_axis(next_obs, taken, axis=1)
        return before, after

    def reached(self, obs: Any, next_obs: Any) -> Any:
        """Whether a goal was reached between obs and next_obs (..., 27), (...,) bool."""
        return self._enters(*self._to_goal(obs, next_obs))

    def _enters(self, before: Any, after: Any) -> Any:
        return (after <= self.GOAL_RADIUS) & (before > self.GOAL_RADIUS)

    def _to_goal(self, obs: Any, next_obs: Any) -> tuple[Any, Any]:
        """Distances (...,) from the goal of `obs` before and after; 0 after where it is known to have been reached."""
        seen, later = self.observation_spec.view(obs), self.observation_spec.view(next_obs)
        # Two goals in two periods there are not, as a new one is further away: in rollouts from a state that says so,
        # the first of these is true all along and means nothing.
        replaced = (later["reached"][..., 0] > 0.5) & (seen["reached"][..., 0] < 0.5)
        return _length(seen["goal"]), _length(later["goal"]) * (1.0 - as_number(replaced, next_obs))

    def to_hazards(self, obs: Any) -> Any:
        """Distances (..., 8) from the middles of the hazards in obs (..., 27), m."""
        hazards = self.observation_spec.view(obs)["hazards"]
        return _length(hazards.reshape(*hazards.shape[:-1], HAZARDS, 2))

    def cost(self, obs: Any, action: Any, next_obs: Any) -> Any:
        """Cost (...,) that is planned with: 10 times how deep the robot is in hazards at next_obs, in m, over all."""
        return self.COST_SCALE * (self.HAZARD_RADIUS - self.to_hazards(next_obs)).clip(min=0.0).sum(-1)

    def in_hazard(self, obs: Any) -> Any:
        """Whether the robot's middle is within a hazard in obs (..., 27), (...,) bool: the benchmark's cost of 1."""
        return (self.to_hazards(obs) < self.HAZARD_RADIUS).any(-1)

    def success(self, observations: FloatArray) -> bool | None:
        """Whether a goal was reached within the benchmark's limit of cost; None for less than an episode."""
        if len(observations) <= self.episode_steps:
            return None
        found = self.measures(observations)
        return found["goals"] >= 1.0 and found["cost_estimate"] <= self.COST_LIMIT

    def measures(self, observations: FloatArray) -> Mapping[str, float]:
        """`goals` reached; `hazard_periods`, control periods that ended within a hazard; `cost_estimate`, 5 times that.

        The last is an estimate of the benchmark's cost, which counts simulation steps.
        """
        periods = float(np.count_nonzero(self.in_hazard(observations[1:])))
        return {
            "goals": float(np.count_nonzero(self.reached(observations[:-1], observations[1:]))),
            "hazard_periods": periods,
            "cost_estimate": self.SIMULATION_STEPS * periods,
        }


class PointGoal(Goal):
    """Of a point robot: pushed along where it points, and turned by a velocity servo.

    The push's range is that of its force: the benchmark's takes -1 .. 1 and saturates at 5 % of it, a step that a
    learned model would have to find where hardly any action lies. Full command is the same force. The servo takes
    -1 .. 1, a wish of up to 3.3 rad/s, and its force is bounded as the benchmark's.
    """

    name = "point_goal"
    description = "a point robot goes from goal to goal around hazards (Safety Gym's PointGoal1)"
    control_dt = 0.1  # 5 times 0.02 s
    file = "point_goal.xml"

    def put_robot(self, qpos: FloatArray, yaw: float) -> None:
        """Turn it."""
        qpos[2] = yaw


class CarGoal(Goal):
    """Of a car with two driven wheels behind and a ball in front.

    The motors' range is that of their torque: the benchmark's take -1 .. 1 and saturate at 2 % of it.
    """

    name = "car_goal"
    description = "a car with two driven wheels goes from goal to goal around hazards (Safety Gym's CarGoal1)"
    control_dt = 0.2  # 5 times 0.04 s
    file = "car_goal.xml"

    def put_robot(self, qpos: FloatArray, yaw: float) -> None:
        """Turn it."""
        qpos[3:7] = math.cos(0.5 * yaw), 0.0, 0.0, math.sin(0.5 * yaw)


def _length(vector: Any) -> Any:
    return (vector * vector).sum(-1) ** 0.5
