from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from plugin_packages import install
from session_runs import node_process, safely, session, transitions, wait_until, whole_session

from polo_ros import tasks
from polo_ros.agents.polo import PoloConfig
from polo_ros.agents.run import PoloRun, run_polo
from polo_ros.drivers.mujoco import MujocoSettings
from polo_ros.replay.bag_dataset import from_bags
from polo_ros.replay.bag_reader import BagReader
from polo_ros.replay.dataset import Dataset
from polo_ros.replay.transition_blocks import TransitionBlocks
from polo_ros.session.config import for_task

TASK = "cartpole_swingup"
STEPS = 120


def _rows(found: list) -> list[bytes]:
    return [
        b"".join(
            np.asarray(part, np.float64).tobytes()
            for part in (t.step, t.episode, t.state, t.observation, t.action, t.reward, t.next_observation)
        )
        for t in found
    ]


def test_lockstep_sessions_of_one_seed_are_equal_bit_for_bit_and_equal_to_polo_run(tmp_path: Path) -> None:
    arguments = (f"task:={TASK}", "clock:=lockstep", "seed:=3", f"duration:={STEPS * 0.02}")
    outputs = [whole_session(tmp_path / name, 101, *arguments) for name in ("a", "b")]
    first, second = (_rows(transitions(tmp_path / name)) for name in ("a", "b"))
    assert len(first) == STEPS
    assert first == second
    task = tasks.make(TASK)
    config = for_task(PoloConfig(), TASK)
    every = config.learner.update_every
    result = run_polo(task, config, steps=STEPS, seed=3)
    assert first == _rows(result.transitions)
    # Weights were in use, or the comparison says nothing about learning.
    assert [t.weights_version for t in transitions(tmp_path / "a")] == [s // every for s in range(STEPS)]
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["steps"] == STEPS and summary["seed"] == 3 and summary["weights_swapped"] == (STEPS - 1) // every > 1
    assert "real-time factor" in outputs[0]
    assert (tmp_path / "a" / "summary.png").stat().st_size > 0
    # What the middleware sent is decoded many at a time, and joins to one trajectory.
    assert [len(block) for block in TransitionBlocks(BagReader(tmp_path / "a"), "/transition")] == [STEPS]
    made = from_bags([tmp_path / "a"], tmp_path / "data")
    assert (made["rows"], made["trajectories"], made["problems"]) == (STEPS, 1, [])
    actions = np.array([t.action for t in result.transitions], np.float32)
    np.testing.assert_array_equal(Dataset.open(tmp_path / "data").action, actions)


NODES = ("planner", "learner", "recorder", "bridge")


@pytest.fixture(scope="class")
def survivor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a session that goes on whichever node is killed, and leaves no node when it ends."""
    run_dir = tmp_path_factory.mktemp("survivor")
    with session(run_dir, 102, f"task:={TASK}", "clock:=realtime", "max_plan_age:=0.2") as process:
        wait_until(lambda: len(safely(run_dir)) > 50, 60, "control")
        yield run_dir
        assert process.poll() is None, "the session ended"
    assert not [name for name in (*NODES, "monitor") if node_process(run_dir, name)]


class TestSurvivor:
    """All in one session, which ends with the last of them."""

    @pytest.mark.parametrize("node", NODES)
    def test_killing_any_node_leaves_the_rest_running_and_its_restart_resumes(self, survivor: Path, node: str) -> None:
        def newest() -> int:
            return max(t.step for t in transitions(survivor))

        victim = node_process(survivor, node)
        assert victim
        others = {name: node_process(survivor, name) for name in NODES if name != node}
        assert all(others.values())
        before_kill = newest()
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: node_process(survivor, node) not in (0, victim), 20, f"restart of {node}")
        at_restart = newest()
        wait_until(lambda: newest() > at_restart + 100, 60, "going on")
        wait_until(
            lambda: any(not t.safe_stop and t.step > at_restart + 50 for t in transitions(survivor)),
            30,
            "planned control",
        )
        assert {name: node_process(survivor, name) for name in others} == others
        found = transitions(survivor)
        steps = [t.step for t in found]
        assert steps == sorted(set(steps)), "a step number fell or came twice"
        if node == "planner":
            stopped = [t.step for t in found if t.safe_stop and t.step > before_kill]
            assert stopped, "control went on without a planner"
            # The last plan before the kill was made at most a period before the last step that played it.
            before = [t for t in found if t.step < stopped[0] and t.plan_id]
            last = max(t.plan_id for t in before)
            played = [t.step for t in before if t.plan_id == last]
            assert len(played) * 0.02 <= 0.2 + 2 * 0.02
        if node == "recorder":
            gaps = np.diff(steps).max() * 0.02
            assert gaps < 15.0
            assert BagReader(survivor / "bag").problems is not None


def test_an_unknown_task_ends_the_session_with_its_name(tmp_path: Path) -> None:
    with session(tmp_path, 110, "task:=cartpol") as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "unknown task 'cartpol'" in output and "cartpole_swingup" in output


SPRING = '''
import mujoco
import numpy as np
from polo_ros.tasks.base import ObservationSpec, Task

class Spring(Task):
    name = "spring"
    description = "a spring too stiff for its timestep: it blows up after some steps, whatever is done"
    control_dt = 0.02
    discount = 0.9
    observation_spec = ObservationSpec((("position", 1), ("velocity", 1)))

    def __init__(self):
        self.model = mujoco.MjModel.from_xml_string("""
<mujoco>
  <option timestep="0.02" integrator="Euler"><flag eulerdamp="disable"/></option>
  <worldbody><body><joint name="x" type="slide" stiffness="3e4"/><geom size="0.1" mass="1"/></body></worldbody>
  <actuator><motor joint="x" ctrllimited="true" ctrlrange="-1 1"/></actuator>
  <sensor><jointpos joint="x"/><jointvel joint="x"/></sensor>
</mujoco>""")

    def reset(self, rng):
        return self.pack(0.0, np.array([1e-3]), np.zeros(1), np.zeros(0))

    def observe(self, sensordata):
        return np.array(sensordata)

    def reward(self, obs, action, next_obs):
        return -obs[..., 0] ** 2
'''


def test_a_session_with_delays_is_the_run_with_delays(tmp_path: Path) -> None:
    """What is under way travels with the state: the planner's prediction needs nothing else."""
    file = tmp_path / "late.yaml"
    file.write_text("/**:\n  ros__parameters:\n    mujoco: {sensing_delay: 0.04, actuation_delay: 0.06}\n")
    arguments = (f"task:={TASK}", "clock:=lockstep", "duration:=1.2", "learner:=false", f"config:={file}")
    whole_session(tmp_path / "run", 106, *arguments)
    task = tasks.make(TASK)
    config = for_task(PoloConfig(), TASK)
    with PoloRun(task, config, seed=0, learn=False, robot=MujocoSettings(0.04, 0.06)) as run:
        assert _rows(transitions(tmp_path / "run")) == _rows(run.go(60).transitions)


def test_settings_of_a_driver_are_parameters_and_are_kept_with_the_bag(tmp_path: Path) -> None:
    file = tmp_path / "lossy.yaml"
    # Another driver's settings may stand in the same file.
    text = "/**:\n  ros__parameters:\n    mock: {loss: 1.0, delay: 1}\n    mujoco: {anything: 3}\n"
    file.write_text(text)
    run_dir = tmp_path / "run"
    arguments = ("task:=point_mass_maze", "clock:=lockstep", "driver:=mock", "duration:=1", "learner:=false")
    whole_session(run_dir, 105, *arguments, f"config:={file}")
    played = transitions(run_dir)
    assert np.abs([transition.action for transition in played]).max() > 0.1
    np.testing.assert_array_equal([transition.state[1:3] for transition in played], 0.0)  # nothing ever arrived
    kept = yaml.safe_load((run_dir / "session.yaml").read_text())["parameters"]
    assert (kept["mock.loss"], kept["mock.delay"]) == (1.0, 1)
    file.write_text(text.replace("loss", "los"))
    with session(tmp_path / "wrong", 105, *arguments, f"config:={file}") as process:
        output, _ = process.communicate(timeout=60)
    assert "unknown parameter 'mock.los'" in output
    assert "did you mean 'mock.loss'?" in output


@pytest.mark.parametrize("clock", ["lockstep", "realtime"])
def test_a_model_that_diverges_costs_an_episode_and_not_the_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: str
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site, "springs", "[polo_ros.tasks]\nspring = springs:Spring\n")
    (site / "springs.py").write_text(SPRING)
    monkeypatch.setenv("PYTHONPATH", str(site))
    run_dir = tmp_path / "run"
    with session(run_dir, 111 + (clock == "realtime"), "task:=spring", f"clock:={clock}") as process:
        wait_until(lambda: len({t.episode for t in safely(run_dir)}) >= 3, 60, "a third episode")
        assert process.poll() is None
    found = transitions(run_dir)
    steps = [t.step for t in found]
    assert steps == sorted(set(steps))
    assert all(np.isfinite(t.state).all() and np.isfinite(t.next_observation).all() for t in found)
    said = [
        status.message
        for _, array in BagReader(run_dir / "bag").decoded(types=["diagnostic_msgs/msg/DiagnosticArray"])
        for status in array.status
    ]
    assert any("simulation of 'spring' diverged" in text for text in said)
