"""Learner: transitions in, weights out."""

from __future__ import annotations

import math
import os
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch  # noqa: F401  before ROS: it takes seconds, and who is told to end meanwhile must do so without a word

from polo_ros import tasks
from polo_ros.agents import registry
from polo_ros.agents.base import Update
from polo_ros.agents.configs import CONFIGS
from polo_ros.learning.checkpoint import CheckpointError
from polo_ros.msg import LearnerStatus, Weights
from polo_ros.msg import Transition as TransitionMsg
from polo_ros.nodes import convert
from polo_ros.nodes.base import EVERY, LATCHED, PoloNode, spin
from polo_ros.nodes.known import OTHERS
from polo_ros.session.config import LearnerNodeConfig
from polo_ros.session.numbering import Numbering

# Figures that a learned value has whoever learns it, and that have fields of their own in the status.
OF_VALUES = ("value_loss", "target_mean", "target_std", "value_mean", "value_spread", "target_ms", "fit_ms")


class Learner(PoloNode):
    """Learns in a thread of its own, below the priority of control.

    In lockstep every update of the schedule is made, in order. In realtime a learner that lags behind
    takes in what has come and goes on with the newest update; the ones left out are counted.

    Several robots teach one value: each one's steps and episodes are followed by themselves.
    """

    # Times as long as a checkpoint took, before the next one: those of a full replay buffer are large.
    PAUSE = 20.0

    def __init__(self) -> None:
        super().__init__("learner")
        self.settings = self.declare(LearnerNodeConfig())
        self._agent = registry.get(self.session.agent)
        self.agent_config = self.declare(CONFIGS[self.session.agent])
        self.refuse_unknown(OTHERS)
        self._robots = self.session.robots or ("",)
        self._queue: queue.SimpleQueue[tuple[TransitionMsg, int] | None] = queue.SimpleQueue()
        self._stopping = False
        self.counts.update(transitions_refused=0)
        self._metrics: Update | None = None

    # ---- lifecycle -------------------------------------------------------------------------

    def configure(self) -> None:
        """Make task and learner, resume from the run's checkpoint if there is one."""
        # Threads made from here on inherit it.
        os.setpriority(os.PRIO_PROCESS, 0, self.settings.nice)
        self.task = tasks.make(self.session.task)
        self.learner = self._agent.learner(
            self.task, self.agent_config, self.session.seed, self.settings.learner_threads, len(self._robots)
        )
        self._checkpoint = Path(self.session.run_dir) / "checkpoints" / "learner.safetensors"
        if self.session.run_dir:
            self._resume()
        alone = len(self._robots) == 1
        self._numbering = [Numbering(self.learner.last_step if alone else -1) for _ in self._robots]
        self._weights_publisher = self.create_lifecycle_publisher(Weights, "weights", LATCHED)
        self._status_publisher = self.create_lifecycle_publisher(LearnerStatus, "learner/status", LATCHED)
        for number, robot in enumerate(self._robots):
            name = f"{robot}/transition" if robot else "transition"
            self.create_subscription(TransitionMsg, name, self._receiver(number), EVERY)

    def activate(self) -> None:
        """Start learning."""
        self._stopping = False
        self.work(self._run, "learning")

    def deactivate(self) -> None:
        """Stop learning and keep what was learned."""
        self._stopping = True
        self._queue.put(None)
        if self.join(20.0):
            self._save()
        else:  # in the middle of an update nothing is whole
            self.get_logger().error("what was learned since the last checkpoint is not saved")

    def cleanup(self) -> None:
        """Stop the rollout threads."""
        if hasattr(self, "learner"):
            self.learner.close()

    def _resume(self) -> None:
        try:
            # Within one run folder the numbering of steps goes on: no session begins anew here.
            warnings = self.learner.restore(self._checkpoint)
        except FileNotFoundError:
            return
        except CheckpointError as error:
            # What was learned is lost, the session is not: it goes on from nothing, and says so.
            self.problem = f"starting anew: {error}"
            self.get_logger().error(self.problem)
            return
        self.get_logger().info(f"resumed from {self._checkpoint}: weights {self.learner.version}")
        for warning in warnings:
            self.get_logger().warning(warning)

    def _save(self) -> None:
        if not self.session.run_dir or self.learner.last_step < 0:
            return
        try:
            self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
            self.learner.save(self._checkpoint)
        except OSError as error:
            self.failure = f"cannot write checkpoint {self._checkpoint}: {error}"
            self.get_logger().error(self.failure, throttle_duration_sec=10.0)
        else:
            self.failure = ""

    # ---- learning --------------------------------------------------------------------------

    def _receiver(self, robot: int) -> Callable[[TransitionMsg], None]:
        def receive(message: TransitionMsg) -> None:
            if self._running:
                self._queue.put((message, robot))

        return receive

    def _run(self) -> None:
        lockstep = self.session.clock == "lockstep"
        saved, pause = time.monotonic(), 0.0
        if self.learner.version:
            self._publish_weights()
        while not self._stopping:
            arrived = self._queue.get()
            due = False
            while arrived is not None:
                due = self._observe(*arrived) or due
                if due and lockstep:
                    break
                arrived = None if self._queue.empty() else self._queue.get()
            if due and not self._stopping:
                self._update()
            if (began := time.monotonic()) - saved > max(self.config(LearnerNodeConfig).checkpoint_period, pause):
                self._save()
                saved = time.monotonic()
                pause = self.PAUSE * (saved - began)

    def _observe(self, message: TransitionMsg, robot: int) -> bool:
        """Take in one transition; whether an update is due after it."""
        name = self._robots[robot]
        of = f" of {name}" if name else ""
        try:
            transition = convert.transition(message, self.task)
        except convert.MessageError as error:
            self.refuse("transitions_refused", f"transition{of} refused: {error}")
        else:
            reason = self._numbering[robot].objection(transition.step)
            if reason or not self.learner.observe(transition, robot):
                self.refuse("transitions_refused", f"transition{of} refused: {reason or self.learner.message}")
        # The schedule goes by the step, whatever the transition is worth: a lockstep planner waits.
        return self.learner.due(message.step)

    def _update(self) -> None:
        metrics = self.learner.update()
        self._metrics = metrics
        self._publish_weights()
        known = dict(metrics.figures())
        status = LearnerStatus(
            step=metrics.step,
            version=metrics.version,
            transitions=metrics.transitions,
            transitions_lost=metrics.transitions_lost,
            transitions_refused=self.counts["transitions_refused"],
            updates=metrics.updates,
            updates_skipped=metrics.updates_skipped,
            lag_s=metrics.lag_s + self._queue.qsize() / len(self._robots) * self.task.control_dt,
            **{name: known.pop(name, math.nan) for name in OF_VALUES},
            metric_names=list(known),
            metric_values=list(known.values()),
            message=metrics.message or self.problem,
        )
        self.problem = ""
        status.header.stamp = self.get_clock().now().to_msg()
        self.send(self._status_publisher, status)

    def _publish_weights(self) -> None:
        now = self.get_clock().now().to_msg()
        self.send(self._weights_publisher, convert.weights_message(self.learner.weights(), now))

    def diagnose(self) -> Mapping[str, object]:
        """How learning goes."""
        if self._metrics is None:
            return {}
        names = ("version", "transitions", "transitions_lost", "updates", "updates_skipped", "lag_s")
        figures = {name: getattr(self._metrics, name) for name in names}
        figures["value_loss"] = self._metrics.figures().get("value_loss", math.nan)
        if self.session.robots:
            figures.update(
                {f"{name}.transitions_lost": n for name, n in zip(self._robots, self.learner.lost, strict=True)}
            )
        return figures


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return spin(Learner, args)
