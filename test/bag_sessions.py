"""Recorded sessions of simulated robots, made without ROS."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import bag_samples
import numpy as np

from polo_ros.drivers.base import Driver
from polo_ros.drivers.mujoco import MujocoDriver
from polo_ros.replay.bag_writer import BagWriter
from polo_ros.replay.session_info import SessionInfo
from polo_ros.replay.transition import Transition
from polo_ros.safety.timeline import TimedPlan
from polo_ros.session.loop import RobotLoop
from polo_ros.tasks.base import FloatArray, Task

Policy = Callable[[int, FloatArray], FloatArray]  # control period, state (nstate,) -> controls (nu,)


def swings(task: Task) -> Policy:
    """Controls that depend on the period only."""

    def act(step: int, state: FloatArray) -> FloatArray:
        return np.clip(np.sin(0.2 * step + np.arange(task.model.nu)), task.action_low, task.action_high)

    return act


def play(task: Task, driver: Driver, steps: int, policy: Policy, episode_steps: int = 0) -> list[Transition]:
    """A session of `steps` control periods; it resets every `episode_steps` (0: never)."""
    driver.connect()
    driver.activate()
    loop = RobotLoop(task, driver, max_plan_age=10.0)
    loop.start()
    sample = loop.sense()
    found = []
    for step in range(steps):
        action = policy(step, sample.state)
        refused = loop.offer(TimedPlan(step + 1, step, step, sample.episode, action[None]))
        assert not refused, refused
        loop.reset_requested = bool(episode_steps) and sample.episode_step + 1 == episode_steps
        transition, sample = loop.act(sample)
        found.append(transition)
    return found


def write(path: Path, task: Task, transitions: list[Transition], *, info: dict[str, str] | None = None) -> None:
    """A bag of `transitions` as the recorder writes it."""
    write_robots(path, task, {"/transition": transitions}, info=info)


def write_robots(
    path: Path, task: Task, transitions: dict[str, list[Transition]], *, info: dict[str, str] | None = None
) -> None:
    """A bag of several robots, by topic."""
    facts = SessionInfo(task=task.name, model_hash=task.model_hash, control_dt=task.control_dt).to_metadata()
    topics = [bag_samples.topic(name, bag_samples.TRANSITION) for name in transitions]
    writer = BagWriter(path, topics, 0.0, {**facts, **(info or {})}, flush_s=0.0)
    for name, found in transitions.items():
        for t in found:
            writer.write(name, message(task, t), bag_samples.log_time(t.step), bag_samples.log_time(t.step))
    writer.close()


def message(task: Task, t: Transition) -> bytes:
    """A transition as the bridge sends it."""
    time, qpos, qvel, act = task.unpack(t.state)
    return bag_samples.transition(
        t.step,
        header=bag_samples.header(time),
        episode=t.episode,
        episode_step=t.episode_step,
        model_hash=task.model_hash,
        qpos=qpos,
        qvel=qvel,
        act=act,
        observation=t.observation,
        action=t.action,
        reward=t.reward,
        next_observation=t.next_observation,
        terminated=t.terminated,
        truncated=t.truncated,
    )


def record(
    path: Path, task: Task, *, episodes: int = 1, steps: int = 40, lost: Collection[int] = ()
) -> list[Transition]:
    """A simulated session of `episodes` times `steps` control periods as a bag at `path`, without the `lost` ones."""
    found = play(task, MujocoDriver(task, 0), episodes * steps, swings(task), steps if episodes > 1 else 0)
    kept = [t for t in found if t.step not in lost]
    write(path, task, kept)
    return kept
