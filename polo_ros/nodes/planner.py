"""Planner: state in, plan out. Weights are taken between two plans."""

from __future__ import annotations

import math
import secrets
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rclpy.publisher import Publisher

from polo_ros import tasks
from polo_ros.agents import registry
from polo_ros.agents.base import AgentPlanner, required_version
from polo_ros.agents.configs import CONFIGS
from polo_ros.learning.weights import WeightsError, origin
from polo_ros.msg import Plan, PlannerStatus, State, Weights
from polo_ros.nodes import convert
from polo_ros.nodes.base import FRESH, LATCHED, LATEST, PoloNode, spin
from polo_ros.nodes.known import OTHERS
from polo_ros.planners.base import PlanResult
from polo_ros.safety.timeline import PlanTimeline, TimedPlan
from polo_ros.session.config import OFFLINE_AGENTS, PlannerConfig
from polo_ros.session.health import Alert, Window, judge
from polo_ros.tasks.base import FloatArray


@dataclass(frozen=True)
class _Arrived:
    """A checked state and the moment it came, time.perf_counter()."""

    state: FloatArray
    pending: FloatArray  # (n, nu) commands that it does not show yet
    step: int
    episode: int
    at: float

    @property
    def key(self) -> tuple[int, int]:
        return self.episode, self.step


class Planner(PoloNode):
    """Plans for the newest state, in the callback that receives it.

    One thread for everything: handing a state to a second Python thread costs more than all the rest
    that ROS adds to a plan. Parameters, weights and services are served between two plans.

    In realtime a plan takes effect some control periods after the state that it is made from: the start
    is that state rolled forward through the actions that the bridge plays meanwhile.
    """

    # The next plan's delay is judged by this quantile of the last latencies, and what transport may take on top, s.
    HISTORY = 50
    QUANTILE = 0.9
    TRANSPORT = 0.002

    def __init__(self) -> None:
        super().__init__("planner")
        self.settings = self.declare(PlannerConfig())
        self._agent = registry.get(self.session.agent)
        self.agent_config = self.declare(CONFIGS[self.session.agent])
        self.refuse_unknown(OTHERS)
        self._lockstep = self.session.clock == "lockstep"
        self.counts.update(deadlines_missed=0, weights_swapped=0, weights_refused=0, weights_late=0, states_refused=0)
        self.counts.update(infeasible_plans=0, plans_beyond_limit=0)
        # Not from the seed: two planners of one session must differ.
        self._identity = secrets.randbits(63) + 1
        self._last: PlanResult | None = None
        self._plan_ms = 0.0
        self._training = ""  # that the weights in use are of, if they say so
        self._objection = ""  # to the policy that plans begin with, as long as they go by it
        self._latency_ms, self._missed = Window(), Window()
        # Since diagnostics were published last, predicted costs of infeasible plans, and of others beyond the limit.
        self._infeasible: list[float] = []
        self._beyond: list[float] = []
        self.on_change(self._changed)

    # ---- lifecycle -------------------------------------------------------------------------

    def configure(self) -> None:
        """Make task, rollout threads and planner, open communication."""
        self.task = tasks.make(self.session.task)
        self.planner = self._make_planner()
        # What the bridge plays until the next plan takes effect; the bridge itself judges age.
        self._sent, self._sent_episode = PlanTimeline(self.task.control_dt, 3600.0), -1
        self._waiting: _Arrived | None = None  # lockstep: a state whose weights are not there yet
        self._given_up = False  # lockstep: on weights, until new ones arrive
        self._answer, self._answered = Plan(), (-1, -1)  # the newest plan, and its state's episode and step
        self._latencies: deque[float] = deque(maxlen=self.HISTORY)
        self._plan_publisher: Publisher = self.create_lifecycle_publisher(Plan, "plan", LATEST)
        self._status_publisher: Publisher = self.create_lifecycle_publisher(PlannerStatus, "planner/status", LATCHED)
        self._state_subscription = self.create_subscription(
            State, "state", self._receive_state, LATEST if self._lockstep else FRESH
        )
        self._weights_subscription = self.create_subscription(Weights, "weights", self._receive_weights, LATCHED)

    def _make_planner(self) -> AgentPlanner:
        given = (self.task, self.agent_config, self.session.seed, self.settings.threads)
        self._objection = ""
        if not self.settings.policy:
            return self._agent.planner(*given)
        if self._agent.deploy is None:
            raise ValueError(
                f"policy = '{self.settings.policy}': agent '{self.session.agent}' has no use for what `polo train` "
                f"made; agents that have: {', '.join(OFFLINE_AGENTS)}"
            )
        deployed = self._agent.deploy(self.settings.policy, *given)
        self.get_logger().info(deployed.about)
        self._objection, self._training = deployed.warning, deployed.training
        if deployed.warning:
            self.get_logger().warning(f"policy: {deployed.warning}")
        return deployed.planner

    def activate(self) -> None:
        """Say that there is a planner, for a bridge that asks whether control went on before it."""
        if not self._latencies:
            self.send(self._status_publisher, PlannerStatus(feasible_fraction=1.0, within_limit=True))

    def cleanup(self) -> None:
        """Stop the rollout threads."""
        if hasattr(self, "planner"):
            self.planner.close()

    def _changed(self) -> None:
        self.settings = self.config(PlannerConfig)
        self.agent_config = self.config(type(self.agent_config))
        if hasattr(self, "planner"):
            self.planner.configure(self.agent_config)

    # ---- what comes in ---------------------------------------------------------------------

    def _receive_state(self, message: State) -> None:
        at = time.perf_counter()
        if not self._running:
            return
        try:
            state = convert.state_vector(message, self.task)
            pending = convert.pending_commands(message, self.task)
        except convert.MessageError as error:
            self.refuse("states_refused", f"state refused: {error}")
            return
        arrived = _Arrived(state, pending, message.step, message.episode, at)
        if not self._lockstep:
            self._plan(arrived)
        elif arrived.key == self._answered:
            # A waiting bridge repeats its state: it gets the same plan again, not another one.
            self.send(self._plan_publisher, self._answer)
        else:
            if self._waiting is None or self._waiting.key != arrived.key:
                self._waiting = arrived
            self._plan_when_weights_are_there()

    def _receive_weights(self, message: Weights) -> None:
        try:
            data = convert.weights_data(message, self.task, self.planner.kind)
            arrays = self.planner.check_weights(data)
            training = origin(data).get("training", "")
        except WeightsError as error:
            self.refuse("weights_refused", f"weights {message.version} refused: {error}")
            return
        if training != self._training:
            self.get_logger().info(f"weights {message.version} are of another training than those before")
            self._training = training
            self._objection = ""  # it was to the other one's
        elif message.version < self.planner.weights_version:
            # A learner that was restarted begins with its last checkpoint.
            self.get_logger().info(f"weights {message.version} are older than those in use")
            return
        self.planner.use_weights(arrays, message.version)
        self._given_up = False
        self.counts["weights_swapped"] += 1
        self._plan_when_weights_are_there()

    # ---- planning --------------------------------------------------------------------------

    def _plan_when_weights_are_there(self) -> None:
        """Lockstep: plan for the waiting state once it has the weights that the schedule names for its step."""
        waiting = self._waiting
        if waiting is None or not self._running:
            return
        required = required_version(waiting.step, self._agent.update_every(self.agent_config))
        newest = self.planner.weights_version
        if self.session.learner and newest < required and not self._given_up:
            if time.perf_counter() - waiting.at < self.settings.weights_timeout:
                return  # the bridge repeats its state until there is a plan
            self._given_up = True  # until weights arrive: a learner that died must not cost more
            self.counts["weights_late"] += 1
            self.problem = f"step {waiting.step} planned with weights {newest}, the schedule names {required}"
            self.get_logger().warning(self.problem, throttle_duration_sec=1.0)
        self._waiting = None
        self._plan(waiting)

    def _plan(self, arrived: _Arrived) -> None:
        start, first_step = self.planner.start(arrived.state), arrived.step
        if self._sent_episode != arrived.episode:
            self._sent_episode = arrived.episode
            self._sent.reset(arrived.episode)
        if not self._lockstep:
            start, first_step = self._look_ahead(arrived, start)
        elif self.settings.predict and len(arrived.pending):
            start = self.planner.predict(start, arrived.pending)
        started = time.perf_counter()
        plan, result = self.planner.plan(start, arrived.step, first_step, arrived.episode, self._deadline(started))
        ended = time.perf_counter()
        now = self.get_clock().now().to_msg()
        self._answer = convert.plan_message(plan, self.task, self._identity, self.planner.weights_version, now)
        self._answered = arrived.key
        self.send(self._plan_publisher, self._answer)
        latency = time.perf_counter() - arrived.at
        self._sent.add(plan, arrived.step)
        self._latencies.append(latency)
        self._report(plan, result, 1e3 * (ended - started), 1e3 * latency)

    def _deadline(self, started: float) -> float:
        if self._lockstep or self.settings.deadline == 0.0:
            return math.inf
        return started + self.settings.deadline * self.task.control_dt

    def _look_ahead(self, arrived: _Arrived, start: FloatArray) -> tuple[FloatArray, int]:
        """`start` as predicted for when the next plan's first action takes effect, and the step of that action."""
        step = arrived.step
        known = arrived.pending if self.settings.predict else arrived.pending[:0]
        if self._sent.action(step).action is None:
            # The bridge has nothing to play yet: every period counts.
            return (self.planner.predict(start, known) if len(known) else start), step
        expected = 0.0
        if self._latencies:
            # By hand: np.quantile takes longer than all else in here.
            expected = sorted(self._latencies)[int(self.QUANTILE * len(self._latencies))] + self.TRANSPORT
        delay = max(1, math.ceil(expected / self.task.control_dt))
        delay = min(delay, self.planner.horizon - 1)
        actions = list(known)
        for ahead in range(step, step + delay):
            played = self._sent.action(ahead)
            actions.append(self.task.resting_action if played.action is None else played.action)
        return self.planner.predict(start, np.array(actions)), step + delay

    # ---- what goes out ---------------------------------------------------------------------

    def _report(self, plan: TimedPlan, result: PlanResult, plan_ms: float, latency_ms: float) -> None:
        deadline_ms = 0.0 if self._lockstep else 1e3 * self.settings.deadline * self.task.control_dt
        missed = bool(deadline_ms) and plan_ms > deadline_ms
        self.counts["deadlines_missed"] += missed
        self._missed.add(float(missed))
        self._latency_ms.add(latency_ms)
        self._last, self._plan_ms = result, plan_ms
        self.counts["infeasible_plans"] += result.infeasible
        self.counts["plans_beyond_limit"] += not result.within_limit
        if result.infeasible:
            self._infeasible.append(result.predicted_cost)
            self.get_logger().warning(
                f"step {plan.state_step}: too few ways to keep to constraint.limit, {_cost(result.predicted_cost)}",
                throttle_duration_sec=1.0,
            )
        elif not result.within_limit:
            self._beyond.append(result.predicted_cost)
            self.get_logger().warning(
                f"step {plan.state_step}: beyond constraint.limit when predicted once more, "
                f"{result.predicted_cost:.3g} in the worst future",
                throttle_duration_sec=1.0,
            )
        status = PlannerStatus(
            step=plan.state_step,
            episode=plan.episode,
            plan_id=plan.plan_id,
            first_step=plan.first_step,
            plan_ms=plan_ms,
            latency_ms=latency_ms,
            latency_p50_ms=self._latency_ms.quantile(0.5),
            latency_p99_ms=self._latency_ms.quantile(0.99),
            deadline_ms=deadline_ms,
            deadline_missed=missed,
            deadlines_missed=self.counts["deadlines_missed"],
            rollouts=result.rollouts,
            rollouts_asked=result.rollouts_asked,
            invalid_rollouts=result.invalid_rollouts,
            best_score=result.best_score,
            mean_score=result.mean_score,
            effective_samples=result.effective_samples,
            value_gate=result.value_gate,
            value_spread=result.value_spread,
            constraint_active=result.constraint_active,
            predicted_cost=result.predicted_cost,
            feasible_fraction=result.feasible_fraction,
            infeasible=result.infeasible,
            infeasible_plans=self.counts["infeasible_plans"],
            within_limit=result.within_limit,
            plans_beyond_limit=self.counts["plans_beyond_limit"],
            weights_version=self.planner.weights_version,
            weights_swapped=self.counts["weights_swapped"],
            weights_refused=self.counts["weights_refused"],
            states_refused=self.counts["states_refused"],
            message=self.problem,
        )
        status.header.stamp = self.get_clock().now().to_msg()
        self.send(self._status_publisher, status)
        diverged = result.invalid_rollouts
        self.problem = f"{diverged} of {result.rollouts} rollouts diverged" if diverged else ""

    def diagnose(self) -> Mapping[str, object]:
        """How planning goes."""
        if self._last is None:
            return {}
        limited = {
            "predicted_cost": round(self._last.predicted_cost, 4),
            "feasible": f"{self._last.feasible_fraction:.1%}",
        }
        return {
            "plan_ms": round(self._plan_ms, 3),
            "latency_p50_ms": round(self._latency_ms.quantile(0.5), 3),
            "latency_p99_ms": round(self._latency_ms.quantile(0.99), 3),
            "deadline_misses": f"{self._missed.mean:.1%}",
            "rollouts": self._last.rollouts,
            "value_gate": round(self._last.value_gate, 3),
            "effective_samples": round(self._last.effective_samples, 1),
            **(limited if self._last.constraint_active else {}),
        }

    def alerts(self) -> Sequence[Alert]:
        """Deadlines that are missed too often, and limits on costs that cannot be kept to."""
        share, health = self._missed.mean, self.settings.health
        text = f"{share:.1%} of plans took longer than the deadline: plan less, or give it more (mppi.*, deadline)"
        found = judge(share, health.deadline_misses_warn, health.deadline_misses_error, text)
        if self._objection:
            found.append(Alert(f"policy: {self._objection}"))
        if self._infeasible:
            number, worst = len(self._infeasible), max(self._infeasible)
            found.append(Alert(f"{number} plans had too few ways to keep to constraint.limit, {_cost(worst)}"))
        if self._beyond:
            number, worst = len(self._beyond), max(self._beyond)
            text = f"{number} plans were beyond constraint.limit when predicted once more, {worst:.3g} at worst"
            found.append(Alert(text))
        self._infeasible, self._beyond = [], []
        limits = getattr(self.agent_config, "constraint", None)
        if self._last is not None and limits is not None and limits.active:
            if not self.task.has_cost:
                found.append(Alert(f"constraint.active limits nothing: task '{self.task.name}' has no cost"))
            elif not self._last.constraint_active:
                found.append(Alert("constraint.active limits nothing: chance or the actor alone makes the plans now"))
        return found


def _cost(predicted: float) -> str:
    return f"and cost was minimised: {predicted:.3g} is predicted"


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return spin(Planner, args)
