"""A task and a dynamics small enough to reckon with by hand, for the tests of learning."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from polo_ros.dynamics.base import Rollouts
from polo_ros.replay.transition import Transition
from polo_ros.tasks.base import FloatArray, ObservationSpec, Task

CART = """
<mujoco>
  <option timestep="0.1"/>
  <worldbody>
    <body><joint name="x" type="slide" axis="1 0 0"/><geom size="0.1" mass="1"/></body>
  </worldbody>
  <actuator><motor joint="x" ctrllimited="true" ctrlrange="-1 1"/></actuator>
  <sensor><jointpos joint="x"/><jointvel joint="x"/></sensor>
</mujoco>
"""


class CartTask(Task):
    """A mass on a rail, 0.1 s a period; reward is -x^2, or `bonus` alone."""

    name = "cart"
    description = "a mass on a rail"
    control_dt = 0.1
    discount = 0.9
    observation_spec = ObservationSpec((("position", 1), ("velocity", 1)))

    def __init__(self, bonus: float | None = None) -> None:
        self.model = mujoco.MjModel.from_xml_string(CART)
        self.bonus = bonus

    def reset(self, rng: np.random.Generator) -> FloatArray:
        return np.array([0.0, *rng.uniform(-1.0, 1.0, 2)])

    def observe(self, sensordata: FloatArray) -> FloatArray:
        return sensordata

    def reward(self, obs: Any, action: Any, next_obs: Any) -> Any:
        if self.bonus is not None:
            return 0.0 * obs[..., 0] + self.bonus
        return -(obs[..., 0] ** 2)


class FencedCartTask(CartTask):
    """Beyond x = 1 the task is over."""

    def terminated(self, obs: Any) -> Any:
        return obs[..., 0] > 1.0


class LinearDynamics:
    """x' = x + dt v, v' = v + dt u, without MuJoCo. Counts rollouts; diverges from where x is above `cliff`."""

    def __init__(self, dt: float = 0.1, cliff: float = np.inf) -> None:
        self.dt = dt
        self.cliff = cliff
        self.rollouts = 0
        self.batches: list[int] = []
        self.last_actions = np.empty((0, 0, 0))

    def rollout(self, starts: FloatArray, actions: FloatArray) -> Rollouts:
        n, horizon, _ = actions.shape
        self.rollouts += n
        self.batches.append(n)
        self.last_actions = actions.copy()
        states = np.empty((n, horizon + 1, 2))
        states[:, 0] = np.broadcast_to(starts, (n, 3))[:, 1:]
        for t in range(horizon):
            states[:, t + 1, 0] = states[:, t, 0] + self.dt * states[:, t, 1]
            states[:, t + 1, 1] = states[:, t, 1] + self.dt * actions[:, t, 0]
        return Rollouts(states, states[:, :, 0].max(axis=1) <= self.cliff)

    def advance(self, start: FloatArray, actions: FloatArray) -> FloatArray:
        if not len(actions):
            return np.array(start)
        end = self.rollout(start, actions[None]).observations[0, -1]
        return np.array([start[0] + self.dt * len(actions), *end])

    def close(self) -> None:
        pass


def wander(task: CartTask, steps: int, *, first: int = 0, seed: int = 0, episode_steps: int = 25) -> list[Transition]:
    """Transitions of random actions on the rail, a new start every `episode_steps`; a pure function of the seed."""
    dynamics = LinearDynamics()
    out = []
    state = np.zeros(3)
    for step in range(first + steps):
        rng = np.random.default_rng([seed, step])
        if step % episode_steps == 0:
            state = task.reset(rng)
        action = rng.uniform(-1.0, 1.0, 1)
        after = dynamics.advance(state, action[None])
        obs, next_obs = state[1:], after[1:]
        reward = float(task.reward(obs, action, next_obs))
        episode, episode_step = divmod(step, episode_steps)
        out.append(Transition(step, episode, episode_step, state, obs, action, reward, next_obs))
        state = after
    return out[first:]
