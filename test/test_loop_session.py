"""LOOP and its relatives as ROS sessions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from session_runs import transitions, whole_session

from polo_ros import tasks
from polo_ros.agents.configs import CONFIGS
from polo_ros.agents.loop import make_run
from polo_ros.agents.sac import make_run as make_sac_run
from polo_ros.config import read_parameters, replace
from polo_ros.replay.bag_reader import BagReader
from polo_ros.replay.bag_types import LEARNER_STATUS
from polo_ros.replay.transition import Transition
from polo_ros.session.config import for_task

TASK = "inverted_pendulum"
STEPS = 120
SMALL = """
/**:
  ros__parameters:
    sac: {update_every: 20, warmup: 40, gradient_steps: 2, batch_size: 8}
    networks: {hidden: 8}
    ensemble: {members: 2, elites: 2, hidden: 8, layers: 1}
    fit: {every: 40, min_transitions: 30, max_epochs: 2, weight_decay: [0.0]}
    prediction: {particles: 2}
    arc: {rollouts: 10, iterations: 2}
    cem: {rollouts: 10, iterations: 2}
    evaluation: {every: 0, episodes: 1, steps: 2}
"""


def rows(found: list[Transition]) -> list[tuple]:
    return [(t.step, t.episode, t.state.tobytes(), t.action.tobytes(), t.reward, t.weights_version) for t in found]


@pytest.mark.parametrize(("agent", "domain"), [("loop", 182), ("sac", 183)])
def test_a_lockstep_session_is_the_run_in_one_process_bit_for_bit(tmp_path: Path, agent: str, domain: int) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    task = tasks.make(TASK)
    duration = STEPS * task.control_dt
    run_dir = tmp_path / "run"
    arguments = (f"task:={TASK}", f"agent:={agent}", "clock:=lockstep", f"duration:={duration}", f"config:={file}")
    whole_session(run_dir, domain, *arguments, "seed:=5")
    found = transitions(run_dir)
    config = for_task(CONFIGS[agent], TASK, agent=agent)
    own = {name.split(".")[0] for name in vars(config)}
    config = replace(config, {n: v for n, v in read_parameters(file).items() if n.split(".")[0] in own})
    seen: list[Transition] = []
    with (make_run if agent == "loop" else make_sac_run)(task, config, seed=5) as run:
        run.go(STEPS, seen.append)
    assert len(found) == STEPS
    assert rows(found) == rows(seen)
    assert [t.weights_version for t in found] == [step // 20 for step in range(STEPS)]
    statuses = [message for _, message in BagReader(run_dir / "bag").decoded(types=[LEARNER_STATUS])]
    told = dict(zip(statuses[-1].metric_names, statuses[-1].metric_values, strict=True))
    assert told["entropy"] < 1.0
    assert ("model_error_after_1" in {name for status in statuses for name in status.metric_names}) == (agent == "loop")
    assert json.loads((run_dir / "summary.json").read_text())["steps"] == STEPS
