"""What the nodes share: lifecycle with autostart, parameters declared from dataclasses, diagnostics."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.lifecycle.node import LifecycleState
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.service import Service
from rclpy.subscription import Subscription
from rclpy.timer import Timer

from polo_ros import drivers, tracebacks
from polo_ros.config import entry_type, fields, flatten, replace, unknown_parameter
from polo_ros.process import prepare
from polo_ros.session.config import SessionConfig, task_parameters
from polo_ros.session.health import Alert

C = TypeVar("C")
RCLError = rclpy_implementation.RCLError

STEADY = Clock(clock_type=ClockType.STEADY_TIME)
LATEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
FRESH = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
EVERY = QoSProfile(depth=2000, reliability=ReliabilityPolicy.RELIABLE)
DIAGNOSTICS = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


LIST_TYPES = {
    bool: Parameter.Type.BOOL_ARRAY,
    int: Parameter.Type.INTEGER_ARRAY,
    float: Parameter.Type.DOUBLE_ARRAY,
    str: Parameter.Type.STRING_ARRAY,
}

BACKGROUND = 10  # niceness of nodes that nobody waits for


class PoloNode(LifecycleNode):
    """A lifecycle node whose settings are dataclasses.

    Subclasses declare their settings in `__init__` with `declare`, and override `configure`,
    `activate`, `deactivate` and `cleanup`, which may raise: the error is logged and the transition
    fails.
    """

    DIAGNOSTICS_NAME = "polo_ros: "  # what stands before a node's own name in its diagnostics

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._configs: dict[type, Any] = {}
        self._on_change: Callable[[], None] | None = None
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 1)
        self._running = False
        self._problem = self._unsaid = ""
        self.failure = ""  # as `problem`, but an error, and only while it lasts
        self.counts: Counter[str] = Counter()  # of what went wrong, for diagnostics
        self._last_refused = ""
        self.failed = False  # a thread of the node has ended with an error
        self._keep: set[Any] = set()
        self._workers: list[threading.Thread] = []
        task = self._override("task", SessionConfig().task)
        clock, agent = (self._override(name, getattr(SessionConfig(), name)) for name in ("clock", "agent"))
        self._task_defaults = task_parameters(task, clock, agent)
        self.session = self.declare(SessionConfig())
        self.add_on_set_parameters_callback(self._check_change)
        self.add_post_set_parameters_callback(self._apply_change)
        self.create_timer(1.0, self.publish_diagnostics, clock=STEADY)
        if self.session.autostart:
            self._autostart = self.create_timer(0.0, self._start, clock=STEADY)

    # ---- parameters ------------------------------------------------------------------------

    def declare(self, config: C) -> C:
        """Declare every field of `config` as a parameter; returns it with the values given.

        Defaults come from config/<task>.yaml and config/<task>.<clock>.yaml where they name the field; launch files
        and the command line win over both. Raises ValueError for a value out of range.
        """
        known = {name for name, *_ in fields(config)}
        config = replace(config, {k: v for k, v in self._task_defaults.items() if k in known})
        values: dict[str, Any] = {}
        for name, default, kind, info in fields(config):
            descriptor = ParameterDescriptor(
                description=f"{info.doc}{f' [{info.unit}]' if info.unit else ''}",
                additional_constraints=f"one of: {', '.join(info.choices)}" if info.choices else "",
                read_only=not info.live,
            )
            bounded = info.low is not None and info.high is not None
            if bounded and kind is float:
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=float(info.low or 0), to_value=float(info.high or 0))
                ]
            elif bounded and kind is int:
                descriptor.integer_range = [
                    IntegerRange(from_value=int(info.low or 0), to_value=int(info.high or 0), step=1)
                ]
            given = self._parameter_overrides.get(name)
            entry = entry_type(kind)
            # As from the command line's --set: a whole number is a number.
            if kind is float and given is not None and given.type_ is Parameter.Type.INTEGER:
                self._parameter_overrides[name] = Parameter(name, value=float(given.value))
            if entry is float and given is not None and given.type_ is Parameter.Type.INTEGER_ARRAY:
                self._parameter_overrides[name] = Parameter(name, value=[float(one) for one in given.value])
            if entry is None:
                values[name] = self.declare_parameter(name, default, descriptor).value
            else:
                # ROS cannot tell what an empty list is a list of: without entries the parameter is not set.
                start = list(default) or LIST_TYPES[entry]
                values[name] = self.declare_parameter(name, start, descriptor).value or ()
        config = replace(config, values)
        self._configs[type(config)] = config
        return config

    def config(self, kind: type[C]) -> C:
        """The settings of class `kind` as they are now."""
        found: C = self._configs[kind]
        return found

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call `callback` after live parameters changed."""
        self._on_change = callback

    def refuse_unknown(self, others: Sequence[Any], driver: str = "") -> None:
        """Raise ValueError for a parameter that neither this node nor `others` (configs) know.

        Settings of drivers are left to the node that has declared its `driver`'s.
        """
        known = set(self._parameters) | {name for other in others for name in flatten(other)}
        of_drivers = (f"{name}." for name in drivers.names() if name != driver)
        builtin = ("use_sim_time", "start_type_description_service", "qos_overrides.", *of_drivers)
        for name in self._parameter_overrides:
            if name not in known and not name.startswith(builtin):
                raise ValueError(unknown_parameter(name, known))

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """As rclpy's, but an unknown parameter is refused by its name."""
        for parameter in parameter_list:
            if not self.has_parameter(parameter.name):
                reason = unknown_parameter(parameter.name, set(self._parameters))
                return SetParametersResult(successful=False, reason=reason)
        return super().set_parameters_atomically(parameter_list)

    def _override(self, name: str, default: str) -> str:
        parameter = self._parameter_overrides.get(name)
        return default if parameter is None else str(parameter.value)

    def _with_changes(self, parameters: Sequence[Parameter]) -> dict[type, Any]:
        changed = {}
        for kind, config in self._configs.items():
            names = flatten(config)
            changes = {p.name: p.value for p in parameters if p.name in names}
            if changes:
                changed[kind] = replace(config, changes)
        return changed

    def _check_change(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        try:
            self._with_changes(parameters)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _apply_change(self, parameters: Sequence[Parameter]) -> None:
        changed = self._with_changes(parameters)
        self._configs.update(changed)
        if changed and self._on_change is not None:
            self._on_change()

    # ---- lifecycle -------------------------------------------------------------------------

    def configure(self) -> None:
        """Make what the node needs. No motion."""

    def activate(self) -> None:
        """Start working."""

    def deactivate(self) -> None:
        """Stop working; must not fail."""

    def cleanup(self) -> None:
        """Release what configure made; must not fail."""

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lifecycle callback."""
        self._keep = self._entities()
        return self._guard("configure", self.configure, partial(super().on_configure, state))

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lifecycle callback."""
        # Publishers first: what a thread of the node publishes before they are active is dropped without a word.
        result = self._guard("activate", self._check_ended, partial(super().on_activate, state), self.activate)
        self._running = result == TransitionCallbackReturn.SUCCESS
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lifecycle callback."""
        self._running = False
        return self._guard("deactivate", self.deactivate, partial(super().on_deactivate, state))

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lifecycle callback."""
        return self._guard("clean up", self._check_ended, self._clean_up, partial(super().on_cleanup, state))

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lifecycle callback."""
        self.close()
        return super().on_shutdown(state)

    def close(self) -> None:
        """Stop and release everything, from whatever state the node is in."""
        if self._running:
            self._running = False
            self.deactivate()
        self.cleanup()

    def _entities(self) -> set[Any]:
        return {*self.publishers, *self.subscriptions, *self.services, *self.timers}

    def _clean_up(self) -> None:
        """Undo `configure`: what it made must not be there twice after the next one."""
        self.cleanup()
        for entity in self._entities() - self._keep:
            for kind, destroy in (
                (Publisher, self.destroy_publisher),
                (Subscription, self.destroy_subscription),
                (Service, self.destroy_service),
                (Timer, self.destroy_timer),
            ):
                if isinstance(entity, kind):
                    destroy(entity)
            self._managed_entities.discard(entity)

    def _guard(self, word: str, *actions: Callable[[], object]) -> TransitionCallbackReturn:
        # rclpy turns an exception in a transition into ERROR without a word about it.
        try:
            for action in actions:
                action()
        except Exception as error:  # whatever goes wrong in here must be named
            if not self.context.ok():
                return TransitionCallbackReturn.FAILURE  # told to end meanwhile: nothing went wrong
            self.get_logger().error(f"cannot {word}: {error}")
            self.say_where(error)
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def work(self, target: Callable[[], None], name: str) -> None:
        """Run `target` in a thread; what it cannot handle ends the process, which the launcher restarts."""

        def run() -> None:
            try:
                target()
            except Exception as error:
                self.get_logger().fatal(f"{name} ended: {error!r}")
                self.get_logger().error(traceback.format_exc())
                self.failed = True
                self.context.try_shutdown()

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._workers.append(thread)
        thread.start()

    def join(self, timeout: float) -> bool:
        """Wait at most `timeout` s for the threads of `work`, which were told to end; whether they have."""
        limit = time.monotonic() + timeout
        for thread in self._workers:
            thread.join(max(0.0, limit - time.monotonic()))
        self._workers = [thread for thread in self._workers if thread.is_alive()]
        for thread in self._workers:
            self.get_logger().error(f"{thread.name} has not ended in {timeout:g} s")
        return not self._workers

    def _check_ended(self) -> None:
        """Two threads must never do the work of one, or work on what is cleaned up."""
        for thread in self._workers:
            if thread.is_alive():
                raise RuntimeError(f"{thread.name} of before has not ended yet; try again later")

    def _start(self) -> None:
        self.destroy_timer(self._autostart)
        for transition in (self.trigger_configure, self.trigger_activate):
            if transition() != TransitionCallbackReturn.SUCCESS:
                if not self.context.ok():
                    raise ExternalShutdownException
                raise SystemExit(f"{self.get_name()} did not start; its log above says why")

    def say_where(self, error: Exception) -> None:
        """Log the traceback of an error that came from code of others."""
        if text := tracebacks.needed(error):
            self.get_logger().error(text, throttle_duration_sec=10.0)

    def send(self, publisher: Publisher, message: Any) -> None:
        """Publish from a worker thread; does nothing once ROS is shut down, which may be at any moment."""
        try:
            publisher.publish(message)
        except RCLError:
            if self.context.ok():
                raise

    # ---- diagnostics -----------------------------------------------------------------------

    @property
    def problem(self) -> str:
        """What is wrong now, in words; empty: nothing. Said in diagnostics once, even if it is over by then."""
        return self._problem

    @problem.setter
    def problem(self, text: str) -> None:
        self._problem = text
        self._unsaid = text or self._unsaid

    def refuse(self, counter: str, reason: str) -> None:
        """Say and count that something which came in is not used."""
        self.counts[counter] += 1
        self.problem = self._last_refused = reason
        self.get_logger().warning(reason, throttle_duration_sec=1.0)

    def diagnose(self) -> Mapping[str, object]:
        """Figures to show beside the counts and the problem."""
        return {}

    def alerts(self) -> Sequence[Alert]:
        """What is wrong beside the problem, which is a warning."""
        return ()

    def publish_diagnostics(self) -> None:
        """Say how the node is; once a second, and whenever there is news that must not wait."""
        if not self.context.ok():
            return  # a thread that is still at work while ROS goes down
        figures = {**self.diagnose(), **self.counts}
        if self._last_refused:
            figures["last_refused"] = self._last_refused
        problem, self._unsaid = self._unsaid or self._problem, ""
        alerts = [Alert(self.failure, severe=True)] if self.failure else []
        alerts += [Alert(problem)] if problem else []
        alerts += self.alerts() if self._running else ()
        if not self._running:
            level, message = DiagnosticStatus.STALE, f"not active: {problem}" if problem else "not active"
        elif alerts:
            severe = any(alert.severe for alert in alerts)
            level = DiagnosticStatus.ERROR if severe else DiagnosticStatus.WARN
            message = "; ".join(alert.text for alert in alerts)
        else:
            level, message = DiagnosticStatus.OK, "ok"
        status = DiagnosticStatus(
            level=level,
            name=f"{self.DIAGNOSTICS_NAME}{self.get_fully_qualified_name()}",
            message=message,
            hardware_id=self.session.task,
            values=[KeyValue(key=key, value=str(value)) for key, value in figures.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self.send(self._diagnostics, array)


@contextmanager
def _signals_to_ros_only() -> Iterator[None]:
    """Signals end the spinning between two callbacks, through rclpy's handler, which calls Python's too.

    Python's own would raise KeyboardInterrupt anywhere: between a message's count and its bytes, say.
    """
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def spin(make: Callable[[], PoloNode], args: Sequence[str] | None = None, background: bool = False) -> int:
    """Run one node until it is told to stop; the exit code of its process.

    `background`: the node yields the cores to those that control.
    """
    prepare()
    if background:
        os.nice(BACKGROUND)  # before ROS starts its threads, which inherit it
    with _signals_to_ros_only():
        return _spin(make, args)


def _serve(executor: SingleThreadedExecutor, node: PoloNode) -> None:
    """Spin; a /clock below 0, which rclpy raises about, is refused as any other message that cannot be."""
    while True:
        try:
            executor.spin()
        except ValueError as error:
            if not any(
                Path(frame.filename).name == "time_source.py" for frame in traceback.extract_tb(error.__traceback__)
            ):
                raise
            node.refuse("clock_refused", f"/clock refused: {error}")
        else:
            return


def _spin(make: Callable[[], PoloNode], args: Sequence[str] | None) -> int:
    rclpy.init(args=args)
    node = None
    code = 0
    try:
        node = make()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        _serve(executor, node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RuntimeError:
        # A signal that arrives while rclpy takes a message surfaces as an error of the take.
        time.sleep(0.1)
        if rclpy.ok():
            raise
    except SystemExit as error:
        if node is not None:
            node.get_logger().fatal(str(error))
        code = 1
    except ParameterException as error:
        rclpy.logging.get_logger("polo_ros").fatal(str(error))
        code = 1
    except ValueError as error:
        rclpy.logging.get_logger("polo_ros").fatal(f"{tracebacks.needed(error)}{error}")
        code = 1
    finally:
        if node is not None:
            node.close()
            code = code or int(node.failed)
            node.destroy_node()
        rclpy.try_shutdown()
    return code
