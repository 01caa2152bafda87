"""The contract of polo_ros.drivers.base as tests for any driver, run in its own package.

As short as this, in a file that pytest finds:

    from polo_ros.testing import DriverConformance

    class TestBoard(DriverConformance):
        task = "pendulum"

        def make(self, task):
            return Board(task, 0, BoardSettings(address="10.0.0.7:7000"))

What only a robot can show needs a robot that may move (`may_move`), or a link that may break (`break_link`); what
is not tested for want of them is skipped and says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, NoReturn

import mujoco
import numpy as np
import pytest

from polo_ros import config, tasks
from polo_ros.drivers.base import Driver, DriverError, RobotState
from polo_ros.drivers.guard import GuardedDriver
from polo_ros.tasks.actuators import HINGE_OR_SLIDE, Actuators
from polo_ros.tasks.base import FloatArray, Task


def fail(message: str) -> NoReturn:
    """Fail the test with a message that needs no traceback."""
    pytest.fail(message, pytrace=False)


def holding_control(task: Task, qpos: FloatArray) -> FloatArray:
    """Controls (nu,) at which the model's actuators exert no force at rest at `qpos` (nq,), within their ranges.

    A position servo's target is then where it is; for motors and velocity servos it is zero. Gravity is not borne.
    """
    model = task.model
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_tendon(model, data)
    mujoco.mj_transmission(model, data)
    control = np.zeros(model.nu)
    for i in range(model.nu):
        gain, bias = model.actuator_gainprm[i], model.actuator_biasprm[i]
        affine = (
            model.actuator_gaintype[i] == int(mujoco.mjtGain.mjGAIN_FIXED)
            and model.actuator_biastype[i] == int(mujoco.mjtBias.mjBIAS_AFFINE)
            and model.actuator_dyntype[i] != int(mujoco.mjtDyn.mjDYN_INTEGRATOR)
        )
        if affine and gain[0]:
            control[i] = -(bias[0] + bias[1] * data.actuator_length[i]) / gain[0]
    held: FloatArray = np.clip(control, task.action_low, task.action_high)
    return held


class Rig:
    """One driver under test: keeps its robot's pace, and names whatever it does wrong.

    Args:
        suite: Makes the driver, and knows what it may do.
        task: What the driver is made for.
    """

    def __init__(self, suite: DriverConformance, task: Task) -> None:
        self.suite = suite
        self.task = task
        self.period = task.control_dt
        driver: object = suite.make(task)
        if not isinstance(driver, Driver):
            fail(f"make returned {type(driver).__name__}; derive the driver from polo_ros.drivers.base.Driver")
        if isinstance(driver, GuardedDriver):
            fail("make returned a GuardedDriver; return the driver itself: the guard hides what it does wrong")
        self.driver: Driver = driver
        self.simulated = self.driver.simulated

    def call(self, name: str, *args: Any) -> Any:
        """Call a method; its DriverError passes, any other error fails the test."""
        try:
            return getattr(self.driver, name)(*args)
        except DriverError:
            raise
        except Exception as error:  # noqa: BLE001  a driver may fail in any way
            fail(
                f"{name} raised {type(error).__name__}: {error}. Catch it in the driver and "
                "`raise DriverError(...) from error`: it is what tells a robot's failure from a mistake in the code"
            )

    def must(self, name: str, *args: Any, when: str = "") -> Any:
        """Call a method that must not fail here."""
        try:
            return self.call(name, *args)
        except DriverError as error:
            fail(f"{name} failed{f' {when}' if when else ''}: {error}")

    def connect(self) -> None:
        """Go from closed to connected."""
        self.must("connect")

    def activate(self) -> None:
        """Go from connected to active."""
        self.must("activate")

    def read(self) -> RobotState:
        """A state of the model's sizes, finite."""
        return self.checked(self.must("read"))

    def checked(self, found: object) -> RobotState:
        """What read returned, if it is a state that can be judged."""
        if not isinstance(found, RobotState):
            fail(f"read returned {type(found).__name__}; return a polo_ros.drivers.base.RobotState")
        state = found
        if not isinstance(state.time, float | int) or not math.isfinite(state.time):
            fail(f"time = {state.time!r} is not a finite number of seconds")
        model = self.task.model
        for name, size in (("qpos", model.nq), ("qvel", model.nv), ("act", model.na)):
            value = getattr(state, name)
            if not isinstance(value, np.ndarray) or value.dtype != np.float64:
                fail(f"{name} is {getattr(value, 'dtype', type(value).__name__)}; return np.array(..., np.float64)")
            if value.shape != (size,):
                fail(
                    f"{name} has shape {value.shape}, the model of task '{self.task.name}' has ({size},): "
                    "all joints in the model's order, and act empty where the model has no activations"
                )
            if not np.isfinite(value).all():
                fail(
                    f"{name}[{int(np.flatnonzero(~np.isfinite(value))[0])}] is not finite; "
                    "raise DriverError where there is no measurement"
                )
        return state

    def wait(self, seconds: float) -> None:
        """Let a robot's time pass; a simulation's does not pass by itself."""
        if not self.simulated and seconds > 0.0:
            time.sleep(seconds)

    def watch(self, periods: int) -> list[RobotState]:
        """States of `periods` control periods without a command, the first one now."""
        found = [self.read()]
        for _ in range(periods):
            self.wait(self.period)
            found.append(self.read())
        return found

    def drive(self, control: FloatArray, periods: int) -> list[RobotState]:
        """States at the ends of `periods` control periods, each with `control` (nu,) written at its beginning."""
        found = []
        for _ in range(periods):
            began = time.monotonic()
            self.must("write", control.copy())
            self.wait(began + self.period - time.monotonic())
            found.append(self.read())
        return found

    def hold(self) -> FloatArray:
        """Controls (nu,) that keep the robot where it is."""
        return self.suite.holding_control(self.task, self.read())

    def nudged(self, hold: FloatArray, sign: float = 1.0) -> FloatArray:
        """Controls (nu,): `hold`, and the suite's nudge on every actuator."""
        control: FloatArray = np.clip(
            hold + sign * self.suite.nudge * self.task.action_scale, self.task.action_low, self.task.action_high
        )
        return control

    def moved(self, one: RobotState, other: RobotState) -> str:
        """Which position changed by more than `still`, in words; empty: none did."""
        change = np.abs(np.asarray(other.qpos, float) - np.asarray(one.qpos, float))
        index = int(np.argmax(change))
        if change[index] <= self.suite.still:
            return ""
        return f"qpos[{index}] changed by {change[index]:.3g} rad or m, more than still = {self.suite.still:g}"

    def put_away(self) -> None:
        """Safe and closed, whatever happened."""
        for name in ("stop", "close"):
            with contextlib.suppress(Exception):  # the tests say what is wrong with them
                getattr(self.driver, name)()


@cache
def _task_called(name: str) -> Task:
    return tasks.make(name)


class DriverConformance:
    """What every driver must do. Derive a class whose name begins with Test, set `task`, write `make`, run pytest.

    A robot stands free before the tests begin, and somebody stands beside it: it is connected, powered by `activate`
    and stopped; nothing is written to it unless `may_move` says so.

    Attributes:
        task: What the driver is tested with: a Task, or the name of an installed one.
        may_move: Whether small commands may be written; None: to a simulation, not to a robot.
        obeys: Whether commands have an effect; a recording that is played has none.
        still: rad or m, up to which a position counts as not moved: noise and drift of a robot that holds still.
        settling: s from the end of a motion until a robot is at rest.
        nudge: Size of a small command, as a share of half the actuator's range; in its unit where it has none.
        nudge_periods: Control periods that a small command lasts.
        range_tolerance: Share of a joint's range by which it may be outside it.
        patience: s within which a broken link must show, and a mended one must work.
        slowest: Control periods that reading or writing may take at most, in the median. A good driver takes a
            tenth of one: what it took is in the report.
    """

    task: str | Task = ""
    may_move: bool | None = None
    obeys: bool = True
    still: float = 0.01
    settling: float = 0.5
    nudge: float = 0.1
    nudge_periods: int = 5
    range_tolerance: float = 0.1
    patience: float = 3.0
    slowest: float = 3.0

    # ---- what you say of your driver -----------------------------------------------------------

    def make(self, task: Task) -> Driver:
        """The driver, new and closed; called once a test, always with the same seed and settings."""
        raise NotImplementedError(f"{type(self).__name__}: write `def make(self, task): return MyDriver(task, 0)`")

    def holding_control(self, task: Task, state: RobotState) -> FloatArray:
        """Controls (nu,) that keep the robot where it is; override it if the model's actuators do not say."""
        return holding_control(task, np.asarray(state.qpos, float))

    def break_link(self, driver: Driver) -> None:
        """Cut a connected driver off its robot, as by ending a fake robot's server; override it to test that."""
        raise NotImplementedError

    def mend_link(self, driver: Driver) -> None:
        """Undo `break_link`."""
        raise NotImplementedError

    # ---- how it is tested ----------------------------------------------------------------------

    @pytest.fixture
    def rig(self, request: pytest.FixtureRequest) -> Iterator[Rig]:
        """The driver under test, closed; stopped and closed after the test."""
        if not self.task:
            fail(f'{type(self).__name__}.task is not set; write `task = "NAME"`: `polo tasks` lists them')
        rig = Rig(self, self.task if isinstance(self.task, Task) else _task_called(self.task))
        request.node.user_properties.append(("polo_driver", type(rig.driver).__name__))
        yield rig
        rig.put_away()

    def _may_write(self, rig: Rig) -> bool:
        return rig.simulated if self.may_move is None else self.may_move

    def _needs_commands(self, rig: Rig) -> None:
        if not self._may_write(rig):
            pytest.skip(f"writes to a robot: set {type(self).__name__}.may_move = True when it has room to move")

    def _needs_motion(self, rig: Rig) -> None:
        if not self.obeys:
            pytest.skip(f"{type(self).__name__}.obeys is False: commands have no effect")
        self._needs_commands(rig)

    def _needs_reset(self, rig: Rig) -> None:
        """Leaves it connected."""
        rig.connect()
        if not rig.driver.can_reset:
            pytest.skip(f"{type(rig.driver).__name__} cannot reset the robot")
        if not rig.simulated:
            self._needs_commands(rig)

    # ---- how it is made ------------------------------------------------------------------------

    def test_it_can_be_made_by_name(self, rig: Rig) -> None:
        """Sessions call it with task, seed and settings, and read those off it."""
        driver: Any = rig.driver
        try:
            inspect.signature(type(driver)).bind(rig.task, 0, None)
        except TypeError as error:
            fail(f"{type(driver).__name__}(task, seed, settings) is how a session makes it: {error}")
        for name in ("task", "seed", "settings"):
            if not hasattr(driver, name):
                fail(f"it has no attribute {name}; call super().__init__(task, seed, settings)")
        if driver.task is not rig.task:
            fail("its task is not the one it was made for; call super().__init__(task, seed, settings)")
        if not isinstance(driver.settings, driver.settings_type):
            fail(
                f"its settings are {type(driver.settings).__name__}, not settings_type = "
                f"{driver.settings_type.__name__}; set settings_type, and hand settings to super().__init__"
            )

    def test_every_setting_has_a_default_and_no_other_is_taken(self, rig: Rig) -> None:
        """Settings become parameters of the session, which need a default, a type and a sentence."""
        kind: Any = rig.driver.settings_type
        how = "write a `@dataclass(frozen=True) class Settings(Config)` of `x: float = option(0.0, 'what it is')`"
        of_config: bool = isinstance(kind, type) and issubclass(kind, config.Config)
        if not of_config or not hasattr(kind, "__dataclass_fields__"):
            fail(f"settings_type {kind!r} is no dataclass derived from polo_ros.config.Config; {how}")
        try:
            default = kind()
        except (TypeError, ValueError) as error:
            fail(f"{kind.__name__}() does not work, a default is missing or out of range: {error}; {how}")
        try:
            declared = list(config.fields(default))
        except KeyError:
            fail(f"a field of {kind.__name__} is not declared with polo_ros.config.option; {how}")
        for name, _, _, info in declared:
            if not info.doc:
                fail(f"setting {name} has no sentence that says what it is; {how}")
        if declared:
            with contextlib.suppress(dataclasses.FrozenInstanceError):
                setattr(default, dataclasses.fields(default)[0].name, None)
                fail(f"{kind.__name__} can be changed while a session runs; {how}")
        changes: tuple[Callable[[], object], ...] = (
            lambda: kind(no_such_setting=1),
            lambda: config.replace(default, {"no_such_setting": 1}),
        )
        for change in changes:
            with contextlib.suppress(TypeError, ValueError):
                change()
                fail(f"{kind.__name__} takes a setting that it does not have; {how}")

    # ---- states --------------------------------------------------------------------------------

    def test_states_have_the_models_sizes_and_are_finite(self, rig: Rig) -> None:
        """Positions and velocities stand in the model's order, all of them, as numbers."""
        rig.connect()
        rig.watch(3)

    def test_states_are_the_callers_own(self, rig: Rig) -> None:
        """Who has read a state may keep it and may write to it."""
        rig.connect()
        first = rig.read()
        kept = [np.array(part) for part in (first.qpos, first.qvel, first.act)]
        second = rig.drive(rig.hold(), 1)[0] if rig.simulated and self._may_write(rig) else rig.watch(1)[1]
        for name, before in zip(("qpos", "qvel", "act"), kept, strict=True):
            one, other = getattr(first, name), getattr(second, name)
            if np.shares_memory(one, other) or not np.array_equal(one, before):
                fail(f"{name} of two states is one array; return a copy in every state: self._{name}.copy()")
        for part in (second.qpos, second.qvel, second.act):
            part[...] = 1e6
        third = rig.read()
        for name in ("qpos", "qvel", "act"):
            if (getattr(third, name) == 1e6).any():
                fail(f"{name} that was read is the driver's own array; return a copy: self._{name}.copy()")

    def test_positions_are_within_the_joints_ranges(self, rig: Rig) -> None:
        """A position outside its joint's range is in another unit, of another joint, or from another zero."""
        rig.connect()
        model = rig.task.model
        states = rig.watch(3)
        if rig.simulated and self._may_write(rig):
            rig.activate()
            states += rig.drive(rig.hold(), 3)
        for state in states:
            for j in range(model.njnt):
                address = int(model.jnt_qposadr[j])
                name = model.joint(j).name or f"number {j}"
                if model.jnt_type[j] in HINGE_OR_SLIDE:
                    if not model.jnt_limited[j]:
                        continue
                    low, high = model.jnt_range[j]
                    margin = self.range_tolerance * (high - low) + self.still
                    if not low - margin <= state.qpos[address] <= high + margin:
                        fail(
                            f"joint {name}: qpos[{address}] = {state.qpos[address]:.4g} is not within "
                            f"{low:.4g} .. {high:.4g} of the model; "
                            "are units (rad, m), zero and order of the joints the model's?"
                        )
                else:
                    start = address + (3 if model.jnt_type[j] == int(mujoco.mjtJoint.mjJNT_FREE) else 0)
                    length = float(np.linalg.norm(state.qpos[start : start + 4]))
                    if abs(length - 1.0) > 0.01:
                        fail(f"joint {name}: the quaternion qpos[{start}:{start + 4}] has length {length:.4g}, not 1")

    def test_velocities_are_those_of_the_positions(self, rig: Rig) -> None:
        """In rad/s and m/s, of the same joints and with the same sign."""
        self._needs_commands(rig)
        rig.connect()
        rig.activate()
        control = rig.nudged(rig.hold()) if self.obeys else rig.hold()
        states = [rig.read(), *rig.drive(control, 20 if rig.simulated else self.nudge_periods)]
        model = rig.task.model
        measured = [j for j in range(model.njnt) if model.jnt_type[j] in HINGE_OR_SLIDE]
        if not measured:
            pytest.skip("the model has neither a hinge nor a slide")
        q = np.array([state.qpos[model.jnt_qposadr[measured]] for state in states])
        v = np.array([state.qvel[model.jnt_dofadr[measured]] for state in states])
        t = np.array([state.time for state in states])
        travelled = np.abs(np.diff(q, axis=0)).sum(axis=0)
        best = int(np.argmax(travelled))
        joint = measured[best]
        if travelled[best] <= self.still:
            pytest.skip(f"no joint moved by more than still = {self.still:g}: raise nudge or nudge_periods")
        # Both rates are of the same short spans: what they have in common is sign and unit.
        steps = np.diff(q[:, best])
        expected = 0.5 * (v[1:, best] + v[:-1, best]) * np.diff(t)
        slope = float(steps @ expected / (steps @ steps))
        if not 1 / 3 < slope < 3:
            fail(
                f"joint {model.joint(joint).name or joint}: its velocity is {slope:.3g} times the rate of its "
                f"position; return qvel[{int(model.jnt_dofadr[joint])}] in rad/s or m/s, with the sign of the position"
            )

    # ---- time ----------------------------------------------------------------------------------

    def test_time_is_that_of_the_measurement_in_seconds(self, rig: Rig) -> None:
        """A robot's time goes on by itself; a simulation's by one control period a write, and only then."""
        rig.connect()
        if rig.simulated:
            self._needs_commands(rig)
            rig.activate()
            before, again = rig.read().time, rig.read().time
            if before != again:
                fail(f"time went from {before} s to {again} s without a write; a robot has `simulated = False`")
            times = [again, *(state.time for state in rig.drive(rig.hold(), 10))]
            steps = np.diff(times)
            if (steps <= 0.0).any() or not 0.9 < steps.sum() / (10 * rig.period) < 1.1:
                fail(
                    f"10 writes took time on by {steps.sum():.6g} s, the least by {steps.min():.6g} s; "
                    f"one control period is {rig.period:g} s"
                )
            return
        began = time.monotonic()
        times = [state.time for state in rig.watch(20)]
        passed = time.monotonic() - began
        went = times[-1] - times[0]
        if (np.diff(times) < -GuardedDriver.BACKWARDS).any():
            fail(f"time went back by {-np.diff(times).min():.6f} s; it is that of the measurement, on one steady clock")
        if not 0.5 * passed - 2 * rig.period <= went <= 1.5 * passed + 2 * rig.period:
            fail(
                f"time went on by {went:.6g} s while {passed:.6g} s passed; give the time of the measurement in s, "
                "and the newest measurement, from a robot that is not written to as well"
            )

    def test_reading_takes_a_fraction_of_a_control_period(self, rig: Rig, request: pytest.FixtureRequest) -> None:
        """The loop reads once a period; how long it takes is in the report."""
        rig.connect()
        took = []
        for _ in range(20):
            began = time.monotonic()
            rig.read()
            took.append(time.monotonic() - began)
            rig.wait(0.5 * rig.period)
        self._judge(rig, "read", took, request)

    def test_writing_takes_a_fraction_of_a_control_period(self, rig: Rig, request: pytest.FixtureRequest) -> None:
        """The loop writes once a period; how long it takes is in the report."""
        self._needs_commands(rig)
        rig.connect()
        rig.activate()
        hold = rig.hold()
        took = []
        for _ in range(20):
            began = time.monotonic()
            rig.must("write", hold.copy())
            took.append(time.monotonic() - began)
            rig.wait(rig.period - took[-1])
        self._judge(rig, "write", took, request)

    @staticmethod
    def _judge(rig: Rig, name: str, took: list[float], request: pytest.FixtureRequest) -> None:
        median, longest = (float(x) / rig.period for x in (np.median(took), np.max(took)))
        text = f"{name} takes {median:.1%} of a control period, the longest of {len(took)} calls {longest:.1%}"
        request.node.user_properties.append(("polo_time", text))
        if median > rig.suite.slowest:
            fail(f"{text}; return the newest measurement at once, and leave waiting to a thread of the driver's own")

    # ---- life ----------------------------------------------------------------------------------

    def test_connect_does_not_move_the_robot(self, rig: Rig) -> None:
        """It is where it was: homing, and whatever else moves, is done before a session."""
        rig.connect()
        if self.obeys and not rig.simulated and self._may_write(rig):
            rig.activate()
            rig.drive(rig.nudged(rig.hold()), self.nudge_periods)  # away from where it would be put
            rig.must("stop")
            rig.wait(self.settling)
        before = rig.read()
        rig.must("close")
        rig.connect()
        after = rig.watch(10)
        for state in after:
            if moved := rig.moved(before, state):
                fail(f"connect moves the robot: {moved}; open the connection and read, nothing else")
        if rig.simulated and any(state.time > before.time for state in after):
            fail(f"connect took time on from {before.time} s to {after[-1].time} s: a simulation waits for a write")

    def test_activate_holds_still(self, rig: Rig) -> None:
        """Power is on, nothing was commanded: the robot stays where it is."""
        rig.connect()
        before = rig.read()
        rig.activate()
        for state in rig.watch(10):
            if moved := rig.moved(before, state):
                fail(f"activate moves the robot: {moved}; command the present position before the power comes on")

    def test_stop_and_close_work_in_every_state_and_repeatedly(self, rig: Rig) -> None:
        """Whoever makes a robot safe does not know what state it is in."""
        for _ in range(2):
            rig.must("stop", when="when closed (there is nothing to do: return)")
            rig.must("close", when="when closed (there is nothing to do: return)")
        for state in ("connected", "active"):
            rig.connect()
            if state == "active":
                rig.activate()
            for _ in range(2):
                rig.must("stop", when=f"when {state}")
            rig.read()
            for _ in range(2):
                rig.must("close", when=f"after it was {state}")
            rig.must("stop", when="after close (there is nothing to do: return)")

    def test_nothing_moves_on_by_command_after_stop(self, rig: Rig) -> None:
        """A stopped robot needs no further word to stay at rest."""
        self._needs_motion(rig)
        rig.connect()
        rig.activate()
        hold = rig.hold()
        rig.drive(rig.nudged(hold), self.nudge_periods)
        rig.must("stop")
        rig.wait(self.settling)
        before, *later = rig.watch(10)
        for state in later:
            if moved := rig.moved(before, state):
                fail(
                    f"the robot moves on {self.settling:g} s after stop: {moved}; let stop command rest or switch "
                    "the power off (a robot that swings out by itself needs a larger `settling` or `still`)"
                )
        if not rig.simulated:
            rig.activate()
            rig.drive(rig.nudged(hold, -1.0), self.nudge_periods)  # back to where it came from

    def test_it_can_be_activated_again_after_stop(self, rig: Rig) -> None:
        """As after every interruption of a session."""
        rig.connect()
        for _ in range(3):
            rig.activate()
            if self._may_write(rig):
                rig.drive(rig.hold(), 2)
            rig.must("stop")
            rig.read()

    def test_it_can_be_connected_again_after_close(self, rig: Rig) -> None:
        """A session does so after every error, until it works."""
        for round_ in range(3):
            rig.must("connect", when=f"the {('first', 'second', 'third')[round_]} time")
            rig.read()
            rig.activate()
            if self._may_write(rig):
                rig.drive(rig.hold(), 2)
            rig.must("stop")
            rig.must("close")

    def test_a_closed_driver_reads_and_writes_nothing(self, rig: Rig) -> None:
        """Neither before connect nor after close; the session's guard sees to DriverError in any case."""
        calls: list[tuple[str, tuple[Any, ...]]] = [("read", ())]
        if self._may_write(rig):
            calls.append(("write", (rig.task.resting_action.copy(),)))
        for when in ("before connect", "after close"):
            for name, args in calls:
                try:
                    getattr(rig.driver, name)(*args)
                except Exception:  # noqa: BLE001  the order of calls is the guard's to check
                    continue
                fail(f"{name} works {when}: close must give the robot up, and read must not return what is kept")
            rig.connect()
            rig.must("close")

    def test_it_works_behind_the_guard(self, rig: Rig) -> None:
        """As the session has it: out of order nothing passes, in order everything does."""
        guard = GuardedDriver(rig.driver)
        for call in (guard.read, guard.activate, lambda: guard.write(rig.task.resting_action)):
            with contextlib.suppress(DriverError):
                call()
                fail("a closed driver behind the guard takes calls")
        try:
            guard.connect()
            guard.stop()
            for _ in range(2):
                guard.activate()
                for _ in range(5):
                    state = guard.read()
                    if self._may_write(rig):
                        guard.write(self.holding_control(rig.task, state))
                    rig.wait(rig.period)
                guard.stop()
            guard.read()
            guard.close()
        except DriverError as error:
            fail(f"the guard that stands before every driver in a session refuses what it does: {error}")

    def test_its_status_can_be_asked_at_any_time(self, rig: Rig) -> None:
        """Diagnostics ask from another thread's timer, before connect and after close as well."""
        for step in ("", "connect", "activate", "stop", "close"):
            if step:
                rig.must(step)
            try:
                found: object = rig.call("status")
            except DriverError:
                continue
            if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
                fail(f"status returned {found!r}; return a dictionary of names and values, {{}} if there is nothing")

    # ---- what commands do ----------------------------------------------------------------------

    def test_every_actuator_moves_its_own_joint_the_right_way(self, rig: Rig) -> None:
        """A small command on one actuator at a time: the joint that reacts is the model's, and so is the direction.

        What a joint does is compared with what the other joints do on the scale of what the model says of each, so
        that a light joint that a heavy one's motion carries along is not taken for the one that was meant.
        """
        self._needs_motion(rig)
        model = rig.task.model
        joints = Actuators.of(model).joint
        if (joints < 0).all():
            pytest.skip("no actuator of the model moves a hinge or slide directly")
        rig.connect()
        rig.activate()
        driven = np.unique(joints[joints >= 0])
        name = {int(j): model.joint(int(j)).name or f"number {j}" for j in driven}
        plans = self._model_says(rig, joints, driven)
        scales = np.zeros(len(driven))
        for i, (_, said) in plans.items():
            own = int(np.searchsorted(driven, joints[i]))
            scales[own] = max(scales[own], abs(said[own]))
        for i, (control, said) in plans.items():
            own = int(np.searchsorted(driven, joints[i]))
            if abs(said[own]) < 1e-9:
                continue  # the model holds it, as at a joint's limit
            seen = self._reaction(rig, control)[model.jnt_qposadr[driven]]
            least = 1e-6 if rig.simulated else self.still
            what = (
                f"a command on actuator {i} ({model.actuator(i).name or 'unnamed'}) for joint {name[int(driven[own])]}"
            )
            if np.abs(seen).max() < least:
                fail(f"{what} moves no joint by more than {least:g}: raise nudge or nudge_periods, or nothing arrives")
            reacts = np.abs(seen) / np.maximum(scales, 1e-12)
            foremost = int(np.argmax(reacts))
            expected = {own, int(np.argmax(np.abs(said) / np.maximum(scales, 1e-12)))}
            if foremost not in expected and reacts[own] < 0.99 * reacts[foremost]:
                fail(
                    f"{what} moves joint {name[int(driven[foremost])]} by {seen[foremost]:.3g} and its own by "
                    f"{seen[own]:.3g}; put commands and positions into the order of the model's actuators and joints"
                )
            if np.sign(seen[own]) != np.sign(said[own]):
                fail(f"{what} moves it by {seen[own]:.3g}, the model by {said[own]:.3g}: turn the sign of one of them")

    def _model_says(
        self, rig: Rig, joints: np.ndarray[Any, np.dtype[np.int_]], driven: np.ndarray[Any, np.dtype[np.int_]]
    ) -> dict[int, tuple[FloatArray, FloatArray]]:
        """A small command for each actuator at a joint, (nu,), and what it does to the driven joints in the model."""
        model = rig.task.model
        if rig.simulated and rig.driver.can_reset:
            rig.must("reset", 0)
        state = rig.read()
        packed = rig.task.pack(0.0, *(np.asarray(part, float) for part in (state.qpos, state.qvel, state.act)))
        data = mujoco.MjData(model)
        hold = rig.hold()

        def result(control: FloatArray) -> FloatArray:
            reached = rig.task.advance(data, packed, np.tile(control, (self.nudge_periods, 1)))
            positions: FloatArray = reached[1 + model.jnt_qposadr[driven]]
            return positions

        held = result(hold)
        found = {}
        for i in np.flatnonzero(joints >= 0):
            own = int(np.searchsorted(driven, joints[i]))
            options = []
            for sign in (1.0, -1.0):
                control = hold.copy()
                control[i] = rig.nudged(hold, sign)[i]
                options.append((control, result(control) - held))
            found[int(i)] = max(options, key=lambda option: abs(option[1][own]))
        return found

    def _reaction(self, rig: Rig, control: FloatArray) -> FloatArray:
        """What `control` (nu,) does to the positions (nq,) beside what holding still does."""
        resets = rig.simulated and rig.driver.can_reset
        if resets:
            rig.must("reset", 0)
        hold = rig.hold()
        start = rig.read().qpos.copy()
        held = rig.drive(hold, self.nudge_periods)[-1].qpos.copy()
        if resets:
            rig.must("reset", 0)
            reacted: FloatArray = rig.drive(control, self.nudge_periods)[-1].qpos - held
            return reacted
        reacted = rig.drive(control, self.nudge_periods)[-1].qpos - held - (held - start)
        back = np.clip(2.0 * hold - control, rig.task.action_low, rig.task.action_high)
        rig.drive(back, self.nudge_periods)
        rig.drive(hold, 1 if rig.simulated else math.ceil(self.settling / rig.period))
        return reacted

    # ---- episodes ------------------------------------------------------------------------------

    def test_an_episode_always_starts_the_same(self, rig: Rig) -> None:
        """Seed and number say where: this is what makes a run repeatable."""
        self._needs_reset(rig)
        tolerance = 1e-9 if rig.simulated else self.still
        rig.must("reset", 1)
        first = rig.read()
        rig.activate()
        rig.drive(rig.nudged(rig.hold()), self.nudge_periods)
        rig.must("reset", 1)
        self._same_start(first, rig.read(), tolerance, "again")
        rig.must("close")
        other = Rig(self, rig.task)
        try:
            other.connect()
            other.must("reset", 1)
            self._same_start(first, other.read(), tolerance, "of a new driver with the same seed")
        finally:
            other.put_away()

    def _same_start(self, one: RobotState, other: RobotState, tolerance: float, which: str) -> None:
        for name in ("qpos", "qvel", "act"):
            apart = float(np.max(np.abs(getattr(one, name) - getattr(other, name)), initial=0.0))
            if apart > tolerance:
                fail(
                    f"the start of episode 1 {which} differs by {apart:.3g} in {name}; draw it from "
                    "polo_ros.seeding.generator(self.seed, Stream.EPISODE, episode)"
                )

    def test_time_goes_on_at_a_reset(self, rig: Rig) -> None:
        """It is the session's clock, and the session goes on."""
        self._needs_reset(rig)
        rig.activate()
        before = rig.drive(rig.hold(), 3)[-1].time
        for episode in (1, 0):
            rig.must("reset", episode)
            after = rig.read().time
            if after < before - 1e-9:
                fail(f"reset took time back from {before} s to {after} s; keep the time, change the state")
            before = after

    # ---- faults --------------------------------------------------------------------------------

    def test_a_broken_link_is_a_driver_error_and_can_be_mended(self, rig: Rig) -> None:
        """The session makes such a robot safe and connects it again; silence and old states would hide it."""
        if type(self).break_link is DriverConformance.break_link:
            pytest.skip(f"{type(self).__name__} does not override break_link and mend_link")
        rig.connect()
        rig.activate()
        hold = rig.hold()
        before = rig.watch(1)[-1].time
        self.break_link(rig.driver)
        limit = time.monotonic() + self.patience
        with contextlib.suppress(DriverError):
            while time.monotonic() < limit:
                rig.call("read")
                if self._may_write(rig):
                    rig.call("write", hold.copy())
                time.sleep(rig.period)
            fail(
                f"the link is broken, and read and write work for {self.patience:g} s: raise DriverError where the "
                "robot does not answer, and never return an old measurement as if it were new"
            )
        for name in ("stop", "close"):
            with contextlib.suppress(DriverError):
                rig.call(name)
        with contextlib.suppress(DriverError):  # a link without handshake may connect to nothing
            rig.call("connect")
        with contextlib.suppress(DriverError):
            rig.call("close")
        self.mend_link(rig.driver)
        limit, reason = time.monotonic() + self.patience, ""
        while time.monotonic() < limit:
            try:
                rig.call("connect")
                state = rig.checked(rig.call("read"))
                break
            except DriverError as error:
                reason = str(error)
                with contextlib.suppress(DriverError):
                    rig.call("close")
                time.sleep(0.1)
        else:
            fail(f"the link is mended, and close and connect do not work within {self.patience:g} s: {reason}")
        if not math.isfinite(state.time) or state.time < before - GuardedDriver.BACKWARDS and not rig.simulated:
            fail(f"time is {state.time} s after connecting again, and was {before} s")
        rig.activate()
        if self._may_write(rig):
            rig.drive(hold, 2)
