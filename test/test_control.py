"""A session under hand: services, lifecycle, a folder that is used already."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition as Change
from session_runs import POLO, environment, node_process, session, transitions, wait_until, whole_session
from strangers import stranger

from polo_ros.replay.bag_reader import BagReader
from polo_ros.replay.bag_types import PLAN

DOMAIN = 140
CARTPOLE = ("task:=cartpole_swingup", "learner:=false")


@pytest.mark.parametrize("clock", ["lockstep", "realtime"])
def test_services_pause_step_resume_stop_arm_and_reset(tmp_path: Path, clock: str) -> None:
    domain = DOMAIN + (clock == "realtime")
    with session(tmp_path, domain, *CARTPOLE, f"clock:={clock}") as process, stranger(domain) as other:
        other.until(lambda: "transition" in other.newest, "control", 60.0)
        assert not other.trigger("step").success, "a step needs a pause"

        assert other.trigger("pause").success
        paused, before = int(other.fresh_figures("bridge")["step"]), -1
        while paused != before:  # the period that it came in is played to its end
            paused, before = int(other.fresh_figures("bridge")["step"]), paused
        assert other.figures("bridge")["paused"] == "True"
        for number in range(1, 4):
            assert other.trigger("step").success
            other.until(lambda n=number: int(other.figures("bridge")["step"]) == paused + n, f"step {number}")
        assert int(other.fresh_figures("bridge")["step"]) == paused + 3

        assert other.trigger("resume").success
        other.until(lambda: int(other.figures("bridge")["step"]) > paused + 10, "going on")

        assert other.trigger("stop").success
        other.until(lambda: other.newest_of("transition").safe_stop, "the safe stop")
        assert other.trigger("reset").success
        other.until(lambda: other.newest_of("transition").episode == 1, "a reset")
        assert other.newest_of("transition").safe_stop, "a stop outlives a reset"
        assert other.trigger("arm").success
        other.until(lambda: not other.newest_of("transition").safe_stop, "control again")
        assert process.poll() is None
    found = transitions(tmp_path)
    steps = [t.step for t in found]
    assert steps == list(range(len(steps))), "pausing and stepping lost a step or made one twice"
    (cut,) = [t for t in found if t.truncated]
    assert cut.episode == 0


def test_nodes_can_be_deactivated_cleaned_up_and_made_anew(tmp_path: Path) -> None:
    domain = DOMAIN + 2
    with session(tmp_path, domain, *CARTPOLE, "clock:=realtime") as process, stranger(domain) as other:
        other.until(lambda: "transition" in other.newest and not other.newest_of("transition").safe_stop, "control", 60)
        for node in ("planner", "recorder", "bridge"):
            for change in (
                Change.TRANSITION_DEACTIVATE,
                Change.TRANSITION_CLEANUP,
                Change.TRANSITION_CONFIGURE,
                Change.TRANSITION_ACTIVATE,
            ):
                assert other.transition(node, change), (node, change)
            other.until(lambda: not other.newest_of("transition").safe_stop, f"control after {node} was made anew")
        for change in (Change.TRANSITION_DEACTIVATE, Change.TRANSITION_ACTIVATE):
            assert other.transition("bridge", change), change
        other.until(lambda: not other.newest_of("transition").safe_stop, "control after a pause")
        last = other.newest_of("transition").step
        other.until(lambda: other.newest_of("transition").step > last + 50, "going on")
        assert process.poll() is None
    steps = [t.step for t in transitions(tmp_path)]
    assert steps == sorted(set(steps)), "a step was recorded twice or came again"
    plans = Counter(m.state_step for _, m in BagReader(tmp_path / "bag").decoded(types=[PLAN]))
    assert np.median(list(plans.values())) == 1, "states are planned for twice"


def test_a_folder_that_holds_another_session_is_refused(tmp_path: Path) -> None:
    whole_session(tmp_path, DOMAIN + 3, *CARTPOLE, "clock:=lockstep", "duration:=0.4")
    before = len(transitions(tmp_path))
    done = subprocess.run(
        [str(POLO), "launch", "sim", *CARTPOLE, "clock:=lockstep", "duration:=0.4", f"run_dir:={tmp_path}"],
        env=environment(DOMAIN + 3),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert f"run_dir {tmp_path} holds another session" in done.stdout + done.stderr
    assert len(transitions(tmp_path)) == before == 20


def test_a_robot_is_not_run_in_lockstep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from plugin_packages import install

    install(tmp_path, "real", "[polo_ros.drivers]\nreal = real:Real\n")
    (tmp_path / "real.py").write_text(
        "from polo_ros.drivers.mock import MockDriver\nclass Real(MockDriver):\n    simulated = False\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with session(tmp_path / "run", DOMAIN + 4, *CARTPOLE, "clock:=lockstep", "driver:=real") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "a robot does not wait for plans" in line:
                break
        else:
            raise AssertionError("lockstep with a robot was not refused")


def test_a_stopped_robot_stays_stopped_when_its_bridge_is_killed_until_it_is_armed(tmp_path: Path) -> None:
    domain = 150
    with session(tmp_path, domain, *CARTPOLE, "clock:=realtime") as process, stranger(domain) as other:
        other.until(lambda: "transition" in other.newest and not other.newest_of("transition").safe_stop, "control", 60)
        assert other.trigger("stop").success
        other.until(lambda: other.newest_of("transition").safe_stop, "the safe stop")
        stopped = other.newest_of("transition").step
        killed = node_process(tmp_path, "bridge")
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: node_process(tmp_path, "bridge") not in (0, killed), 20, "restart of the bridge")
        other.newest.clear()
        other.until(lambda: other.newest_of("transition").step > stopped + 50, "going on")
        assert other.fresh_figures("bridge")["fault"].startswith("stopped by service (step ")
        armed = other.newest_of("transition").step
        assert other.trigger("arm").success
        other.until(lambda: not other.newest_of("transition").safe_stop, "control again")
        assert process.poll() is None
    assert not list(tmp_path.glob("stopped*"))
    assert all(t.safe_stop for t in transitions(tmp_path) if stopped <= t.step <= armed)


def test_a_joint_that_is_too_fast_stops_the_robot_and_it_is_not_armed_before_it_is_slow(tmp_path: Path) -> None:
    domain = 151
    file = tmp_path / "limits.yaml"
    file.write_text("/**:\n  ros__parameters:\n    safety: {velocity_limit: [0.0, 1.0]}\n")  # of the pole
    run_dir = tmp_path / "run"
    arguments = (*CARTPOLE, "clock:=realtime", f"config:={file}")
    with session(run_dir, domain, *arguments) as process, stranger(domain) as other:
        other.until(lambda: "fault" in other.fresh_figures("bridge"), "a fault", 60.0)
        figures = other.fresh_figures("bridge")
        assert figures["fault"].startswith("velocity: joint 'hinge' moves at ") and figures["stopped"] == "True"
        assert int(figures["supervisor: velocity"]) >= 1
        refused = other.trigger("arm")
        while not refused.success:  # it swings, and is slow at times
            assert refused.message.startswith("not armed: its cause is still there: velocity: joint 'hinge'")
            refused = other.trigger("arm")
        assert process.poll() is None


def test_limits_that_do_not_fit_the_robot_end_the_session(tmp_path: Path) -> None:
    file = tmp_path / "limits.yaml"
    file.write_text("/**:\n  ros__parameters:\n    safety: {velocity_limit: [1.0, 1.0, 1.0]}\n")
    with session(tmp_path / "run", 152, *CARTPOLE, f"config:={file}") as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "safety.velocity_limit has 3 entries; give one, or one for each hinge or slide" in output
