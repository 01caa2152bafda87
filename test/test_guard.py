"""GuardedDriver: what a driver of others does wrong, and what the bridge asks at the wrong time."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polo_ros.drivers.base import Driver, DriverError, RobotState
from polo_ros.drivers.guard import GuardedDriver, Life
from polo_ros.tasks.base import FloatArray
from polo_ros.tasks.cartpole_swingup import CartpoleSwingup

TASK = CartpoleSwingup()


class Probe(Driver):
    """Writes down what arrives, and does what it is told."""

    def __init__(self) -> None:
        super().__init__(TASK, 0)
        self.calls: list[str] = []
        self.broken = ""
        self.state: Any = RobotState(0.0, np.zeros(2), np.zeros(2), np.zeros(0))

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if self.broken == call:
            raise OSError("no such device")

    def connect(self) -> None:
        self._note("connect")

    def activate(self) -> None:
        self._note("activate")

    def read(self) -> RobotState:
        self._note("read")
        return self.state

    def write(self, action: FloatArray) -> None:
        self._note("write")

    def stop(self) -> None:
        self._note("stop")

    def close(self) -> None:
        self._note("close")


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture
def guard(probe: Probe) -> GuardedDriver:
    """Active."""
    guard = GuardedDriver(probe)
    guard.connect()
    guard.activate()
    return guard


STEPS = ("connect", "activate", "read", "write", "stop", "close")


@given(st.lists(st.sampled_from(STEPS), max_size=12))
def test_only_an_active_driver_gets_commands_whatever_the_order_of_calls(calls: list[str]) -> None:
    probe = Probe()
    guard = GuardedDriver(probe)
    life = Life.CLOSED
    for call in calls:
        allowed = {
            "connect": life is Life.CLOSED,
            "activate": life is not Life.CLOSED,
            "read": life is not Life.CLOSED,
            "write": life is Life.ACTIVE,
            "stop": True,
            "close": True,
        }[call]
        before = len(probe.calls)
        arguments = (np.zeros(1),) if call == "write" else ()
        if allowed:
            getattr(guard, call)(*arguments)
        else:
            with pytest.raises(DriverError, match="connected|active"):
                getattr(guard, call)(*arguments)
            assert len(probe.calls) == before
        if allowed:
            life = {
                "connect": Life.CONNECTED,
                "activate": Life.ACTIVE,
                "stop": Life.CONNECTED if life is Life.ACTIVE else life,
                "close": Life.CLOSED,
            }.get(call, life)
        assert guard.life is life


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (np.array([np.nan]), "finite"),
        (np.array([np.inf]), "finite"),
        (np.zeros(2), "finite numbers"),
        (np.array([1.5]), "control 0 = 1.5 is not within -1 .. 1"),
    ],
)
def test_controls_that_no_robot_may_get_stay_here(
    guard: GuardedDriver, probe: Probe, action: FloatArray, words: str
) -> None:
    with pytest.raises(DriverError, match=words):
        guard.write(action)
    assert "write" not in probe.calls


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (None, "read returned NoneType"),
        (RobotState(0.0, np.zeros(3), np.zeros(2), np.zeros(0)), r"qpos has shape \(3,\), expected \(2,\)"),
        (RobotState(0.0, np.zeros(2), np.array([0.0, np.nan]), np.zeros(0)), r"qvel\[1\] is not finite"),
        (RobotState(0.0, np.zeros(2), np.zeros(2), np.zeros(1)), "act has shape"),
        (RobotState(np.nan, np.zeros(2), np.zeros(2), np.zeros(0)), "time = nan is not finite"),
        (RobotState("now", np.zeros(2), np.zeros(2), np.zeros(0)), "time = 'now' is not a number"),  # type: ignore[arg-type]
        (RobotState(0.0, np.zeros(2), np.zeros(2), np.zeros(0), age=-0.1), "age = -0.1 is not"),
        (RobotState(0.0, np.zeros(2), np.zeros(2), np.zeros(0), age=np.nan), "age = nan is not"),
        (RobotState(0.0, "ab", np.zeros(2), np.zeros(0)), "qpos is not an array of numbers"),  # type: ignore[arg-type]
    ],
)
def test_a_state_that_cannot_be_is_refused(guard: GuardedDriver, probe: Probe, state: Any, words: str) -> None:
    probe.state = state
    with pytest.raises(DriverError, match=words):
        guard.read()


def test_time_does_not_run_backwards_within_a_connection(guard: GuardedDriver, probe: Probe) -> None:
    for time in (5.0, 5.02, 5.0195):  # half a millisecond is a stamp's own error
        probe.state = RobotState(time, np.zeros(2), np.zeros(2), np.zeros(0))
        guard.read()
    probe.state = RobotState(5.0, np.zeros(2), np.zeros(2), np.zeros(0))
    with pytest.raises(DriverError, match="time went back from 5.020000 s to 5.000000 s"):
        guard.read()
    guard.close()
    guard.connect()
    guard.read()


def test_the_state_is_a_copy(guard: GuardedDriver, probe: Probe) -> None:
    guard.read().qpos[:] = 7.0
    assert not probe.state.qpos.any()


@pytest.mark.parametrize("call", STEPS)
def test_any_error_of_a_driver_is_a_driver_error(probe: Probe, call: str) -> None:
    guard = GuardedDriver(probe)
    for step in itertools.takewhile(lambda step: step != call, ("connect", "activate")):
        getattr(guard, step)()
    probe.broken = call
    with pytest.raises(DriverError, match=f"{call} failed: OSError: no such device"):
        getattr(guard, call)(*((np.zeros(1),) if call == "write" else ()))
    # What did not succeed has not happened, but for stopping and closing, which must not be in doubt.
    assert guard.life is {
        "activate": Life.CONNECTED,
        "stop": Life.CONNECTED,
        "read": Life.ACTIVE,
        "write": Life.ACTIVE,
    }.get(call, Life.CLOSED)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_driver_that_would_end_the_thread_that_controls_is_a_driver_error(
    guard: GuardedDriver, probe: Probe, kind: type[BaseException]
) -> None:
    """Else the thread would be gone without a word, and the robot with its last command."""
    found: list[BaseException] = []

    def control() -> None:
        try:
            guard.write(np.zeros(1))
        except BaseException as error:  # noqa: BLE001  what comes out is what is tested
            found.append(error)

    def leave(action: FloatArray) -> None:
        raise kind("enough")

    probe.write = leave  # type: ignore[method-assign]
    thread = threading.Thread(target=control)
    thread.start()
    thread.join()
    assert isinstance(found[0], DriverError) and kind.__name__ in str(found[0])


def test_ctrl_c_in_the_main_thread_stays_what_it_is(guard: GuardedDriver, probe: Probe) -> None:
    def interrupted() -> RobotState:
        raise KeyboardInterrupt

    probe.read = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        guard.read()


def test_a_status_that_is_no_mapping_is_a_driver_error(guard: GuardedDriver, probe: Probe) -> None:
    probe.status = lambda: "well"  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(DriverError, match="status returned str, not a mapping"):
        guard.status()
