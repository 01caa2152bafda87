"""Between messages and the types that algorithms use.

Array fields are assigned as array.array and read with np.frombuffer: assigning an ndarray converts
element by element, two hundred times slower.
"""

from __future__ import annotations

import array
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point
from visualization_msgs.msg import Marker, MarkerArray

from polo_ros.learning.weights import Weights, WeightsError, digest
from polo_ros.msg import Plan as PlanMsg
from polo_ros.msg import State as StateMsg
from polo_ros.msg import Transition as TransitionMsg
from polo_ros.msg import Weights as WeightsMsg
from polo_ros.replay.transition import Transition
from polo_ros.safety.timeline import TimedPlan
from polo_ros.session.loop import RobotLoop, Sample
from polo_ros.tasks.base import FloatArray, Task

MAX_STEP = 2**53  # beyond it not even a float64 counts on
MAX_EPISODE = 2**31  # half of what an uint32 holds


class MessageError(ValueError):
    """A message that must not be used; the text names the field, its value and what would be right."""


def doubles(values: FloatArray) -> array.array[float]:
    """A float64[] field."""
    return array.array("d", np.ascontiguousarray(values, dtype=np.float64).tobytes())


def numbers(field: Any) -> FloatArray:
    """A float64[] field as an array of its own."""
    return np.array(np.frombuffer(field, dtype=np.float64))


def stamp(seconds: float) -> Time:
    """A time in s as a stamp."""
    nanoseconds = round(seconds * 1e9)
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def seconds(time: Time) -> float:
    """A stamp in s."""
    return float(time.sec) + 1e-9 * float(time.nanosec)


def _sized(name: str, field: Any, size: int) -> FloatArray:
    values = numbers(field)
    if len(values) != size:
        raise MessageError(f"{name} has {len(values)} entries, expected {size}")
    if not np.isfinite(values).all():
        raise MessageError(f"{name} contains values that are not finite")
    return values


def _same_model(found: str, task: Task) -> None:
    if found != task.model_hash:
        raise MessageError(f"model_hash '{found}' is not that of task '{task.name}', '{task.model_hash}'")


def _possible(step: int) -> None:
    """Raise MessageError for a step that no session reaches, and that what is counted on from it would overflow."""
    if step > MAX_STEP:
        raise MessageError(f"step is {step}, expected at most {MAX_STEP}")


def state_message(sample: Sample, task: Task) -> StateMsg:
    """A State for the robot as sensed."""
    message = StateMsg(
        step=sample.step,
        episode=sample.episode,
        episode_step=sample.episode_step,
        model_hash=task.model_hash,
        qpos=doubles(sample.robot.qpos),
        qvel=doubles(sample.robot.qvel),
        act=doubles(sample.robot.act),
        commands=doubles(sample.pending),
    )
    message.header.frame_id = "world"
    message.header.stamp = stamp(float(sample.state[0]))
    return message


def state_vector(message: StateMsg, task: Task) -> FloatArray:
    """The physics state (nstate,) in a State. Raises MessageError."""
    _same_model(message.model_hash, task)
    _possible(message.step)
    model = task.model
    return task.pack(
        seconds(message.header.stamp),
        _sized("qpos", message.qpos, model.nq),
        _sized("qvel", message.qvel, model.nv),
        _sized("act", message.act, model.na),
    )


def pending_commands(message: StateMsg, task: Task) -> FloatArray:
    """Commands (n, nu) in a State that its robot does not show yet, the oldest first. Raises MessageError."""
    rows, rest = divmod(len(message.commands), task.model.nu)
    if rest:
        raise MessageError(f"commands has {len(message.commands)} entries, not rows of {task.model.nu}")
    if rows > RobotLoop.REMEMBERED:
        raise MessageError(f"commands has {rows} rows, at most {RobotLoop.REMEMBERED} can be under way")
    return _sized("commands", message.commands, rows * task.model.nu).reshape(rows, task.model.nu)


def plan_message(plan: TimedPlan, task: Task, planner_id: int, weights_version: int, now: Time) -> PlanMsg:
    """A Plan for what was planned."""
    horizon, nu = plan.actions.shape
    message = PlanMsg(
        planner_id=planner_id,
        plan_id=plan.plan_id,
        state_step=plan.state_step,
        first_step=plan.first_step,
        episode=plan.episode,
        model_hash=task.model_hash,
        weights_version=weights_version,
        dt=task.control_dt,
        horizon=horizon,
        nu=nu,
        actions=doubles(plan.actions),
    )
    message.header.stamp = now
    return message


def timed_plan(message: PlanMsg, task: Task) -> TimedPlan:
    """What a Plan says. Raises MessageError."""
    _same_model(message.model_hash, task)
    if not message.planner_id:
        raise MessageError("planner_id is 0, expected the planner's identity")
    nu = task.model.nu
    if message.nu != nu:
        raise MessageError(f"nu is {message.nu}, expected {nu}")
    if message.horizon < 1:
        raise MessageError("horizon is 0, expected at least 1")
    if not abs(message.dt - task.control_dt) < 1e-9:
        raise MessageError(f"dt is {message.dt} s, expected {task.control_dt} s")
    actions = _sized("actions", message.actions, message.horizon * nu).reshape(message.horizon, nu)
    return TimedPlan(
        plan_id=message.plan_id,
        state_step=message.state_step,
        first_step=message.first_step,
        episode=message.episode,
        actions=actions,
        planner_id=message.planner_id,
    )


def transition_message(transition: Transition, task: Task) -> TransitionMsg:
    """A Transition message."""
    time, qpos, qvel, act = task.unpack(transition.state)
    message = TransitionMsg(
        step=transition.step,
        episode=transition.episode,
        episode_step=transition.episode_step,
        model_hash=task.model_hash,
        qpos=doubles(qpos),
        qvel=doubles(qvel),
        act=doubles(act),
        observation=doubles(transition.observation),
        action=doubles(transition.action),
        reward=transition.reward,
        next_observation=doubles(transition.next_observation),
        terminated=transition.terminated,
        truncated=transition.truncated,
        safe_stop=transition.safe_stop,
        limited=transition.limited,
        plan_id=transition.plan_id,
        weights_version=transition.weights_version,
    )
    message.header.frame_id = "world"
    message.header.stamp = stamp(time)
    return message


def transition(message: TransitionMsg, task: Task) -> Transition:
    """What a Transition message says. Raises MessageError."""
    _same_model(message.model_hash, task)
    _possible(message.step)
    model, nobs = task.model, task.observation_spec.size
    result = Transition(
        step=message.step,
        episode=message.episode,
        episode_step=message.episode_step,
        state=task.pack(
            seconds(message.header.stamp),
            _sized("qpos", message.qpos, model.nq),
            _sized("qvel", message.qvel, model.nv),
            _sized("act", message.act, model.na),
        ),
        observation=_sized("observation", message.observation, nobs),
        action=_sized("action", message.action, model.nu),
        reward=message.reward,
        next_observation=_sized("next_observation", message.next_observation, nobs),
        terminated=message.terminated,
        truncated=message.truncated,
        safe_stop=message.safe_stop,
        limited=message.limited,
        plan_id=message.plan_id,
        weights_version=message.weights_version,
    )
    if not result.finite:
        raise MessageError(f"reward is {message.reward}, expected a finite number")
    return result


def weights_message(weights: Weights, now: Time) -> WeightsMsg:
    """A Weights message."""
    data = weights.encode()
    message = WeightsMsg(
        kind=weights.kind,
        task=weights.task,
        model_hash=weights.model_hash,
        version=weights.version,
        effective_step=weights.effective_step,
        digest=digest(data),
        data=array.array("B", data),
    )
    message.header.stamp = now
    return message


def weights_data(message: WeightsMsg, task: Task, kind: str) -> bytes:
    """The safetensors bytes of a Weights message meant for this task. Raises WeightsError."""
    if message.kind != kind:
        raise WeightsError(f"weights are of kind '{message.kind}', expected '{kind}'")
    if message.task != task.name or message.model_hash != task.model_hash:
        raise WeightsError(
            f"weights were learned for task '{message.task}' and model '{message.model_hash}', "
            f"expected '{task.name}' and '{task.model_hash}'"
        )
    data = bytes(message.data)
    if digest(data) != message.digest:
        raise WeightsError("weights' digest does not match their data")
    return data


def path_markers(paths: FloatArray, now: Time) -> MarkerArray:
    """One line a body for RViz and Foxglove, from world positions (bodies, points, 3) in m."""
    markers = []
    for number, path in enumerate(paths):
        marker = Marker(ns="plan", id=number, type=Marker.LINE_STRIP, action=Marker.ADD)
        marker.header.frame_id = "world"
        marker.header.stamp = now
        marker.pose.orientation.w = 1.0
        marker.scale.x = 0.01  # m, width of the line
        marker.color.g = marker.color.a = 1.0
        marker.points = [Point(x=x, y=y, z=z) for x, y, z in path.tolist()]
        markers.append(marker)
    return MarkerArray(markers=markers)
