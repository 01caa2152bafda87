"""Planner: state in, plan out. Weights are taken between two plans."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.publisher import Publisher

from polo_ros import tasks
from polo_ros.agents.polo import PoloConfig, PoloPlanner, required_version
from polo_ros.dynamics.mujoco import MujocoDynamics
from polo_ros.learning.weights import Arrays, WeightsError
from polo_ros.msg import Plan, PlannerStatus, State, Weights
from polo_ros.nodes import convert
from polo_ros.nodes.base import FRESH, LATCHED, LATEST, PoloNode, Slot, spin
from polo_ros.nodes.known import OTHERS
from polo_ros.planners.base import PlanResult
from polo_ros.safety.timeline import PlanTimeline, TimedPlan
from polo_ros.session.config import PlannerConfig
from polo_ros.tasks.base import FloatArray


@dataclass(frozen=True)
class _Arrived:
    """A checked state and the moment it came, time.perf_counter()."""

    state: FloatArray
    step: int
    episode: int
    at: float


class Planner(PoloNode):
    """Plans for the newest state in a thread of its own.

    In realtime a plan takes effect some control periods after the state that it is made from: the start
    is that state rolled forward through the actions that the bridge plays meanwhile.
    """

    # Latencies that the next plan's delay is judged by, and what transport may take on top, s.
    HISTORY = 50
    TRANSPORT = 0.002

    def __init__(self) -> None:
        super().__init__("planner")
        self.settings = self.declare(PlannerConfig())
        self.agent_config = self.declare(PoloConfig())
        self.refuse_unknown(OTHERS)
        self._thread: threading.Thread | None = None
        self._slot = Slot()
        self._lock = threading.Condition()
        self._pending: tuple[Arrays, int] | None = None
        self._changed_config = False
        self._stopping = False
        self._given_up = 0
        self._counts: Counter[str] = Counter()
        self._message = ""
        self._latencies: deque[float] = deque(maxlen=self.HISTORY)
        self._last: PlanResult | None = None
        self.on_change(self._changed)

    # ---- lifecycle -------------------------------------------------------------------------

    def configure(self) -> None:
        """Make task, rollout threads and planner, open communication."""
        self.task = tasks.make(self.session.task)
        self.dynamics = MujocoDynamics(self.task, self.settings.threads)
        self.planner = PoloPlanner(self.task, self.dynamics, self.agent_config, self.session.seed)
        self._plan_publisher: Publisher = self.create_lifecycle_publisher(Plan, "plan", LATEST)
        self._status_publisher: Publisher = self.create_lifecycle_publisher(PlannerStatus, "planner/status", LATCHED)
        lockstep = self.session.clock == "lockstep"
        self._state_subscription = self.create_subscription(
            State, "state", self._receive_state, LATEST if lockstep else FRESH
        )
        self._weights_subscription = self.create_subscription(Weights, "weights", self._receive_weights, LATCHED)

    def activate(self) -> None:
        """Start planning."""
        self._stopping = False
        self._slot = Slot()
        self._thread = threading.Thread(target=self._run, name="planning", daemon=True)
        self._thread.start()

    def deactivate(self) -> None:
        """Stop planning."""
        self._stopping = True
        self._slot.close()
        with self._lock:
            self._lock.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=10.0)
            self._thread = None

    def cleanup(self) -> None:
        """Stop the rollout threads."""
        if hasattr(self, "dynamics"):
            self.dynamics.close()

    def _changed(self) -> None:
        self.settings = self.config(PlannerConfig)
        with self._lock:
            self.agent_config = self.config(PoloConfig)
            self._changed_config = True

    # ---- what comes in ---------------------------------------------------------------------

    def _receive_state(self, message: State) -> None:
        at = time.perf_counter()
        if not self._running:
            return
        try:
            state = convert.state_vector(message, self.task)
        except convert.MessageError as error:
            self._refuse("states_refused", f"state refused: {error}")
            return
        self._slot.put(_Arrived(state, message.step, message.episode, at))

    def _receive_weights(self, message: Weights) -> None:
        try:
            arrays = self.planner.check_weights(convert.weights_data(message, self.task, self.planner.kind))
        except WeightsError as error:
            self._refuse("weights_refused", f"weights {message.version} refused: {error}")
            return
        with self._lock:
            self._pending = (arrays, message.version)
            self._lock.notify_all()

    def _refuse(self, counter: str, reason: str) -> None:
        self._counts[counter] += 1
        self._message = reason
        self.get_logger().warning(reason, throttle_duration_sec=1.0)

    # ---- planning --------------------------------------------------------------------------

    def _run(self) -> None:
        # What the bridge plays until the next plan takes effect; the bridge itself judges age.
        sent, sent_episode = PlanTimeline(self.task.control_dt, 3600.0), 0
        lockstep = self.session.clock == "lockstep"
        planned: tuple[int, int] = (-1, -1)
        answer: Plan | None = None
        while not self._stopping:
            arrived = self._slot.take(0.2)
            if arrived is None:
                continue
            if lockstep and (arrived.episode, arrived.step) == planned:
                # A waiting bridge repeats its state: it gets the same plan again, not another one.
                self.send(self._plan_publisher, answer)
                continue
            began = time.perf_counter()
            if lockstep:
                self._await_weights(arrived.step)
            elif (arrived.episode, arrived.step) == planned and began - arrived.at > 1.0:
                continue
            self._take_over()
            state, first_step = arrived.state, arrived.step
            if sent_episode != arrived.episode:
                sent_episode = arrived.episode
                sent.reset(sent_episode)
            if not lockstep:
                state, first_step = self._look_ahead(arrived, sent)
            started = time.perf_counter()
            plan, result = self.planner.plan(
                state, arrived.step, first_step, arrived.episode, self._deadline(lockstep, started)
            )
            ended = time.perf_counter()
            sent.add(plan, arrived.step)
            planned = (arrived.episode, arrived.step)
            answer = convert.plan_message(
                plan, self.task, self.planner.weights_version, self.get_clock().now().to_msg()
            )
            self.send(self._plan_publisher, answer)
            latency = time.perf_counter() - arrived.at
            self._latencies.append(latency)
            self._report(plan, result, 1e3 * (ended - started), 1e3 * latency)

    def _deadline(self, lockstep: bool, started: float) -> float:
        if lockstep or self.settings.deadline == 0.0:
            return math.inf
        return started + self.settings.deadline * self.task.control_dt

    def _look_ahead(self, arrived: _Arrived, sent: PlanTimeline) -> tuple[FloatArray, int]:
        """The state predicted for the step in which the next plan takes effect, and that step."""
        step = arrived.step
        if sent.action(step).action is None:
            return arrived.state, step  # the bridge has nothing to play yet: every period counts
        expected = float(np.quantile(self._latencies, 0.9)) + self.TRANSPORT if self._latencies else 0.0
        delay = max(1, math.ceil(expected / self.task.control_dt))
        delay = min(delay, self.planner.config.mppi.horizon - 1)
        actions = []
        for ahead in range(step, step + delay):
            played = sent.action(ahead)
            actions.append(self.task.resting_action if played.action is None else played.action)
        return self.planner.predict(arrived.state, np.array(actions)), step + delay

    def _await_weights(self, step: int) -> None:
        """Lockstep: wait for the weights that the schedule names for this step."""
        required = required_version(step, self.agent_config.learner.update_every)
        if not self.session.learner or required <= self._given_up:
            return
        limit = time.monotonic() + self.settings.weights_timeout
        with self._lock:
            while not self._stopping:
                newest = self._pending[1] if self._pending else self.planner.weights_version
                left = limit - time.monotonic()
                if newest >= required:
                    return
                if left <= 0:
                    self._given_up = required  # waited for once: a learner that died must not cost more
                    self._counts["weights_late"] += 1
                    self._message = f"step {step} planned with weights {newest}, the schedule names {required}"
                    self.get_logger().warning(self._message, throttle_duration_sec=1.0)
                    return
                self._lock.wait(min(left, 0.2))

    def _take_over(self) -> None:
        """Swap in new weights and settings, between two plans."""
        with self._lock:
            pending, self._pending = self._pending, None
            config, changed = self.agent_config, self._changed_config
            self._changed_config = False
        if changed:
            self.planner.configure(config)
        if pending is not None:
            self.planner.use_weights(*pending)
            self._counts["weights_swapped"] += 1

    # ---- what goes out ---------------------------------------------------------------------

    def _report(self, plan: TimedPlan, result: PlanResult, plan_ms: float, latency_ms: float) -> None:
        lockstep = self.session.clock == "lockstep"
        deadline_ms = 0.0 if lockstep else 1e3 * self.settings.deadline * self.task.control_dt
        missed = bool(deadline_ms) and plan_ms > deadline_ms
        self._counts["deadlines_missed"] += missed
        self._last = result
        status = PlannerStatus(
            step=plan.state_step,
            episode=plan.episode,
            plan_id=plan.plan_id,
            first_step=plan.first_step,
            plan_ms=plan_ms,
            latency_ms=latency_ms,
            deadline_ms=deadline_ms,
            deadline_missed=missed,
            deadlines_missed=self._counts["deadlines_missed"],
            rollouts=result.rollouts,
            rollouts_asked=result.rollouts_asked,
            invalid_rollouts=result.invalid_rollouts,
            best_score=result.best_score,
            mean_score=result.mean_score,
            effective_samples=result.effective_samples,
            value_gate=result.value_gate,
            value_spread=result.value_spread,
            weights_version=self.planner.weights_version,
            weights_swapped=self._counts["weights_swapped"],
            weights_refused=self._counts["weights_refused"],
            states_refused=self._counts["states_refused"],
            message=self._message,
        )
        status.header.stamp = self.get_clock().now().to_msg()
        self.send(self._status_publisher, status)
        self._message = ""

    def diagnose(self) -> tuple[str, Mapping[str, object]]:
        """A problem in words, and figures."""
        names = ("deadlines_missed", "weights_swapped", "weights_refused", "weights_late", "states_refused")
        figures: dict[str, Any] = {name: self._counts[name] for name in names}
        problem = self._message
        if self._last is not None:
            figures["value_gate"] = round(self._last.value_gate, 3)
            figures["effective_samples"] = round(self._last.effective_samples, 1)
            if self._last.invalid_rollouts:
                problem = problem or f"{self._last.invalid_rollouts} of {self._last.rollouts} rollouts diverged"
        return problem, figures


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return spin(Planner, args)
