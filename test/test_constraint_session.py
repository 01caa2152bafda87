"""Planning within a limit on costs as a ROS session: what is said of it, and limits that move while it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from plugin_packages import install
from rclpy.parameter import Parameter
from session_runs import session
from strangers import Stranger, stranger

from polo_ros.drivers.mujoco import MujocoDriver
from polo_ros.nodes import convert
from polo_ros.nodes.planner import Planner
from polo_ros.safety.timeline import TimedPlan
from polo_ros.session.loop import RobotLoop

DOMAIN = 184
TOLL = '''
import mujoco
import numpy as np
from polo_ros.tasks.base import ObservationSpec, Task

class Toll(Task):
    name = "toll"
    description = "a mass on a rail where every period costs 1, and more at speed"
    control_dt = 0.05
    discount = 0.9
    observation_spec = ObservationSpec((("position", 1), ("velocity", 1)))

    def __init__(self):
        self.model = mujoco.MjModel.from_xml_string("""
<mujoco>
  <option timestep="0.05"/>
  <worldbody><body><joint name="x" type="slide" axis="1 0 0"/><geom size="0.1" mass="1"/></body></worldbody>
  <actuator><motor joint="x" ctrllimited="true" ctrlrange="-1 1"/></actuator>
  <sensor><jointpos joint="x"/><jointvel joint="x"/></sensor>
</mujoco>""")

    def reset(self, rng):
        return self.pack(0.0, np.zeros(1), np.zeros(1), np.zeros(0))

    def observe(self, sensordata):
        return np.array(sensordata)

    def reward(self, obs, action, next_obs):
        return -(next_obs[..., 0] - 1.0) ** 2

    def cost(self, obs, action, next_obs):
        return 1.0 + abs(next_obs[..., 1])
'''
SMALL = """
/**:
  ros__parameters:
    sac: {update_every: 20, warmup: 40, gradient_steps: 2, batch_size: 8}
    networks: {hidden: 8}
    ensemble: {members: 2, elites: 2, hidden: 8, layers: 1}
    fit: {every: 20, min_transitions: 20, max_epochs: 2, weight_decay: [0.0]}
    prediction: {particles: 2}
    arc: {rollouts: 20, iterations: 2}
    constraint: {limit: 1000.0, minimal: 5}
"""


def test_limits_move_while_a_session_runs_and_a_plan_beyond_them_is_never_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site, "tolls", "[polo_ros.tasks]\ntoll = tolls:Toll\n")
    (site / "tolls.py").write_text(TOLL)
    monkeypatch.setenv("PYTHONPATH", str(site))
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    arguments = ("task:=toll", "agent:=safe_loop", "clock:=lockstep", "recorder:=false", f"config:={file}")
    with session(tmp_path / "run", DOMAIN, *arguments) as process, stranger(DOMAIN) as other:
        other.until(lambda: _status(other).constraint_active, "a plan within a limit")
        assert (_status(other).infeasible, _status(other).feasible_fraction) == (False, 1.0)
        assert _status(other).within_limit
        # The horizon of config/safe.yaml, 8 periods, of which each costs 1 at least.
        assert 8.0 <= _status(other).predicted_cost <= 1000.0
        assert other.figures("planner")["infeasible_plans"] == "0"

        refused = other.set_parameter("planner", "constraint.limit", -1.0)
        assert not refused.successful and "constraint.limit" in refused.reason
        assert other.set_parameter("planner", "constraint.limit", 0.5).successful
        other.until(lambda: _status(other).infeasible, "a plan beyond the limit")
        other.until(lambda: _status(other).infeasible_plans > 20, "counting")
        status = _status(other)
        assert status.predicted_cost >= 8.0 and status.feasible_fraction == 0.0 and status.rollouts == 40
        assert not status.within_limit and status.plans_beyond_limit > 20
        other.until(
            lambda: "too few ways to keep to constraint.limit" in other.diagnostics["planner"].message, "a warning"
        )
        assert other.diagnostics["planner"].level == DiagnosticStatus.WARN
        figures = other.fresh_figures("planner")
        assert float(figures["predicted_cost"]) >= 8.0 and figures["feasible"] == "0.0%"
        assert int(figures["infeasible_plans"]) > 20

        assert other.set_parameter("planner", "constraint.limit", 1000.0).successful
        other.until(lambda: not _status(other).infeasible, "a plan within the limit again")
        other.until(lambda: other.diagnostics["planner"].level == DiagnosticStatus.OK, "no warning")
        assert other.set_parameter("planner", "constraint.active", False).successful
        other.until(lambda: not _status(other).constraint_active, "plans without a limit")
        assert _status(other).predicted_cost == 0.0
        assert process.poll() is None


def _status(other: Stranger) -> Any:
    other.until(lambda: "planner/status" in other.newest, "a planner's status")
    return other.newest["planner/status"]


@contextmanager
def planner(monkeypatch: pytest.MonkeyPatch, *parameters: str) -> Iterator[Planner]:
    """A planner in this process that limits costs, and has been given a state to plan from."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    settings = ("autostart:=false", "constraint.active:=true", "mppi.rollouts:=20", "mppi.horizon:=2", "threads:=1")
    arguments = [word for setting in (*settings, *parameters) for word in ("-p", setting)]
    rclpy.init(args=["--ros-args", *arguments], domain_id=DOMAIN + 1)
    node = None
    try:
        node = Planner()
        node.trigger_configure()
        node.trigger_activate()
        assert not node.alerts()
        driver = MujocoDriver(node.task, 0)
        driver.connect()
        loop = RobotLoop(node.task, driver, 1.0)
        loop.start()
        node._receive_state(convert.state_message(loop.sense(), node.task))
        yield node
    finally:
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()


def test_a_limit_on_costs_that_a_task_does_not_have_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with planner(monkeypatch) as node:
        assert [alert.text for alert in node.alerts()] == [
            "constraint.active limits nothing: task 'cartpole_swingup' has no cost"
        ]


def test_a_limit_on_costs_is_not_said_to_hold_while_no_search_makes_the_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    with planner(monkeypatch, "task:=point_goal", "agent:=loop") as node:
        (alert,) = node.alerts()
        assert alert.text == "constraint.active limits nothing: chance or the actor alone makes the plans now"
        node.set_parameters([Parameter("constraint.active", value=False)])
        assert not node.alerts()


def test_a_plan_that_is_beyond_the_limit_only_when_predicted_once_more_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with planner(monkeypatch, "task:=point_goal", "agent:=polo") as node:
        assert node._last is not None and node._last.within_limit and not node.alerts()
        result, plan = (
            dataclasses.replace(node._last, predicted_cost=0.7, within_limit=False),
            TimedPlan(2, 1, 1, 0, node._last.actions),
        )
        for _ in range(2):
            node._report(plan, result, 1.0, 1.0)
        (alert,) = node.alerts()
        assert alert.text == "2 plans were beyond constraint.limit when predicted once more, 0.7 at worst"
        assert (node.counts["plans_beyond_limit"], node.counts["infeasible_plans"]) == (2, 0)
        assert not node.alerts(), "once"
