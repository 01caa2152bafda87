"""The thread that controls: there is one at most, it says why it cannot, and plans do not hurry it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from bridges import activate, bridge, control, in_its_thread

from polo_ros.drivers.base import DriverError
from polo_ros.drivers.mock import MockDriver
from polo_ros.nodes.bridge import Bridge

DOMAIN = 193


def until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_control_does_not_begin_anew_while_a_call_of_the_driver_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck, go_on = threading.Event(), threading.Event()
    read = MockDriver.read

    def slow(driver: MockDriver) -> object:
        if threading.current_thread().name == "control" and stuck.is_set():
            go_on.wait(20.0)
        return read(driver)

    monkeypatch.setattr(MockDriver, "read", slow)
    join = Bridge.join
    monkeypatch.setattr(Bridge, "join", lambda node, timeout: join(node, min(timeout, 0.2)))
    with bridge(monkeypatch, DOMAIN) as (node, heard):
        control(node, heard)
        stuck.set()
        time.sleep(0.1)  # it comes to its next read
        threads = [thread for thread in threading.enumerate() if thread.name == "control"]
        in_its_thread(node, node.trigger_deactivate)
        for refused in (node.trigger_activate, node.trigger_cleanup):
            in_its_thread(node, refused)
            assert [thread for thread in threading.enumerate() if thread.name == "control"] == threads
        assert node.driver.driver is not None and threads[0].is_alive()
        go_on.set()
        until(lambda: not threads[0].is_alive())
        stuck.clear()
        in_its_thread(node, node.trigger_activate)
        before = len(heard)
        until(lambda: len(heard) > before + 5)
        assert len([thread for thread in threading.enumerate() if thread.name == "control"]) == 1


def test_why_a_robot_cannot_be_connected_again_is_an_error_until_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bridge, "RECONNECT", 0.05)
    broken, away = threading.Event(), threading.Event()
    read, connect = MockDriver.read, MockDriver.connect

    def failing_read(driver: MockDriver) -> object:
        if broken.is_set():
            broken.clear()
            raise DriverError("a cable came off")
        return read(driver)

    def failing_connect(driver: MockDriver) -> None:
        if away.is_set():
            raise DriverError("no such port")
        connect(driver)

    monkeypatch.setattr(MockDriver, "read", failing_read)
    monkeypatch.setattr(MockDriver, "connect", failing_connect)
    with bridge(monkeypatch, DOMAIN) as (node, heard):
        control(node, heard)
        away.set()
        broken.set()
        until(lambda: node.counts["driver_errors"] > 3)
        assert "no such port" in node.failure
        assert node.loop.supervisor.fault is not None
        away.clear()
        before = len(heard)
        until(lambda: len(heard) > before + 3)
        assert node.failure == ""


def test_plans_wake_nobody_who_waits_for_time_to_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a planner and a bridge whose session is over answer each other as fast as they can."""
    with bridge(monkeypatch, DOMAIN, spin=False) as (node, _):
        activate(node)
        done = threading.Event()

        def wake() -> None:
            while not done.wait(0.01):
                with node._wake:
                    node._wake.notify_all()

        waker = threading.Thread(target=wake)
        waker.start()
        try:
            began = time.monotonic()
            node._wait(0.3)
            assert time.monotonic() - began >= 0.3
        finally:
            done.set()
            waker.join()
        node._stopping = True
        began = time.monotonic()
        node._wait(60.0)
        assert time.monotonic() - began < 30.0
