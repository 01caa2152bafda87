"""A bridge in the test's own process, with nobody else in its session."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor

from polo_ros.msg import Transition
from polo_ros.nodes.base import EVERY
from polo_ros.nodes.bridge import Bridge


@contextmanager
def bridge(
    monkeypatch: pytest.MonkeyPatch, domain: int, *parameters: str, spin: bool = True
) -> Iterator[tuple[Bridge, list[Transition]]]:
    """A bridge that nobody plans for, not configured yet, and its transitions; `parameters` as name:=value."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    monkeypatch.setattr(Bridge, "MEETING", 0.0)
    settings = ("driver:=mock", "learner:=false", "recorder:=false", "autostart:=false", *parameters)
    rclpy.init(args=["--ros-args", *(word for setting in settings for word in ("-p", setting))], domain_id=domain)
    node, heard = Bridge(), []
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    node.create_subscription(Transition, "transition", heard.append, EVERY)
    thread = threading.Thread(target=executor.spin)
    if spin:
        thread.start()
    try:
        yield node, heard
    finally:
        executor.shutdown()
        if spin:
            thread.join()
        node.close()
        node.destroy_node()
        rclpy.try_shutdown()


def activate(node: Bridge) -> None:
    """From unconfigured; control begins."""
    assert node.trigger_configure().name == "SUCCESS"
    node.loop.supervisor.stop("nobody plans")  # so that it does not wait for plans
    assert node.trigger_activate().name == "SUCCESS"


def in_its_thread(node: Bridge, action: Callable[[], object]) -> None:
    """As services do it: what an executor waits for must not be destroyed beside it."""
    task = node.executor.create_task(action)
    limit = time.monotonic() + 20.0
    while not task.done():
        assert time.monotonic() < limit, "the executor does not spin"
        time.sleep(0.01)
    task.result()


def control(node: Bridge, heard: list[Transition], periods: int = 5) -> None:
    """Activate, and wait until so many control periods are over."""
    before, limit = len(heard), time.monotonic() + 20.0
    in_its_thread(node, lambda: activate(node))
    while len(heard) < before + periods:
        assert time.monotonic() < limit, "control did not begin"
        time.sleep(0.02)
