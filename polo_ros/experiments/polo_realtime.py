"""The paper's thesis put to use: a learned value lets a humanoid get up in real time on few cores."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.figure import Figure

from polo_ros.experiments import comparison
from polo_ros.experiments.agents import settings_of
from polo_ros.experiments.base import (
    Claim,
    Experiment,
    Outcomes,
    Trial,
    Workplace,
    mean_and_error,
    save_arrays,
)
from polo_ros.experiments.polo_horizon import EPISODE, STANDS, TASK
from polo_ros.replay.bag_reader import BagReader
from polo_ros.replay.bag_types import PLANNER_STATUS
from polo_ros.replay.summary import summarise
from polo_ros.session.config import task_parameters
from polo_ros.tasks.humanoid_getup import HumanoidGetup

KEPT = ("real_time_factor", "missed_steps", "transitions_lost", "safe_stops", "plan_ms_p50", "plan_ms_p99")
LOCKSTEP = "POLO in lockstep, 120 candidates"
# Plain MPC: without the weights that come with polo_ros.
WITHOUT: Mapping[str, Any] = {"value.initial": ""}
FRONTIER = (1.7, 2.7, 3.7, 5.7)  # control periods that a plan may take


def session(settings: Mapping[str, Any], workplace: Workplace) -> dict[str, Any]:
    """A launched session in real time; numbers of its bag and its processes."""
    run_dir = workplace.folder / "run"
    parameters = workplace.folder / "parameters.yaml"
    document = {"/**": {"ros__parameters": dict(settings["parameters"])}}
    parameters.write_text(yaml.safe_dump(document), encoding="utf-8")
    command = [str(Path(sys.prefix) / "bin" / "polo"), "launch", "sim", f"task:={TASK}", "clock:=realtime"]
    command += [f"duration:={settings['duration']}", f"seed:={settings['seed']}", f"run_dir:={run_dir}"]
    command += [f"learner:={str(settings['learner']).lower()}", f"config:={parameters}"]
    # What an interrupted trial has left: a session does not go on in another one's folder.
    shutil.rmtree(run_dir, ignore_errors=True)
    workplace.progress(0.0, "session")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120 + 5 * settings["duration"], check=False)
    if done.returncode:
        raise RuntimeError(f"session ended with {done.returncode}: {(done.stdout + done.stderr)[-4000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    facts = summarise(run_dir, make_video=False)
    reader = BagReader(run_dir / "bag")
    transitions = [transition for _, transition, _ in reader.transitions()]
    height = HumanoidGetup().root_height(np.array([transition.next_observation for transition in transitions]))
    statuses = [m for _, m in reader.decoded(types=[PLANNER_STATUS]) if m.plan_id]
    cpu_s = sum(getattr(after, kind) - getattr(before, kind) for kind in ("ru_utime", "ru_stime"))
    save_arrays(workplace, height=height, episode=np.array([t.episode for t in transitions]))
    return {
        **{name: facts.get(name) for name in KEPT},
        "last_second_height": facts["measures"]["last_second_height"],
        "mean_reward": float(np.mean([transition.reward for transition in transitions])),
        "core_seconds": cpu_s,
        "return_per_core_second": float(np.sum([transition.reward for transition in transitions])) / cpu_s,
        "deadlines_missed": int(sum(status.deadline_missed for status in statuses)),
        "plans": len(statuses),
        "rollouts_p50": float(np.median([status.rollouts for status in statuses])),
    }


class Realtime(Experiment):
    """A session at the robot's own pace: with the learned value, without it, and POLO that takes its time."""

    name = "polo.realtime"
    paper = "beyond POLO"
    question = "does the learned value let the humanoid get up in real time on the cores at hand?"
    default_seeds = 3

    DURATION = EPISODE * HumanoidGetup.control_dt  # s: one episode

    def trials(self, budget: str, seeds: int) -> list[Trial]:
        """Sessions as `polo launch sim task:=humanoid_getup` starts them; lockstep at the paper's budget."""
        full = budget == "full"
        usual = task_parameters(TASK, "realtime")["deadline"]
        out = []
        for seed in range(seeds):
            for deadline in FRONTIER if full else (usual,):
                for agent, changes, learner in (("POLO", {}, True), ("MPC", WITHOUT, False)):
                    out.append(
                        Trial(
                            name=f"realtime-{agent}-d{deadline:g}-s{seed}",
                            job="polo_realtime:session",
                            settings={
                                "duration": self.DURATION if full else 1.6,
                                "seed": 1000 + seed,
                                "learner": learner,
                                "parameters": {**task_parameters(TASK, "realtime"), **changes, "deadline": deadline},
                            },
                            facts={
                                "agent": agent if deadline == usual else f"{agent}, another deadline",
                                "planner": agent,
                                "deadline": deadline,
                                "seed": seed,
                            },
                            exclusive=True,
                        )
                    )
            cheap = {} if full else comparison.SMALL
            shipped = {"value.initial": TASK, **comparison.TESTING}
            out.append(
                Trial(
                    name=f"realtime-lockstep-s{seed}",
                    job="agents:act",
                    settings={
                        "task": TASK,
                        "steps": EPISODE,
                        "seed": 1000 + seed,
                        "config": settings_of(TASK, {**cheap, **shipped}),
                    },
                    facts={"agent": LOCKSTEP, "seed": seed},
                )
            )
        return out

    def claims(self, outcomes: Outcomes) -> list[Claim]:
        """Pace, and who stands."""
        pace = np.concatenate([outcomes.column("real_time_factor", agent=agent) for agent in ("POLO", "MPC")])
        polo, mpc = (outcomes.column("last_second_height", agent=agent) for agent in ("POLO", "MPC"))
        return [
            Claim("real-time factor of every session at least 0.95", bool((pace >= 0.95).all()), {"factors": pace}),
            comparison.two_of_three(
                f"stands at the end (root at {STANDS} m or more through the last second)",
                polo >= STANDS,
                {
                    "lowest root height of the last second, m": polo,
                    "return per core-second": outcomes.column("return_per_core_second", agent="POLO"),
                    "deadlines missed": outcomes.column("deadlines_missed", agent="POLO"),
                    "plans": outcomes.column("plans", agent="POLO"),
                    "candidates a plan, median": outcomes.column("rollouts_p50", agent="POLO"),
                    LOCKSTEP: outcomes.column("last_second_height", agent=LOCKSTEP),
                },
            ),
            Claim(
                "plain MPC at the same rate does not",
                3 * int((mpc >= STANDS).sum()) < 2 * len(mpc),
                {
                    "lowest root height of the last second, m": mpc,
                    "return per core-second": outcomes.column("return_per_core_second", agent="MPC"),
                    "candidates a plan, median": outcomes.column("rollouts_p50", agent="MPC"),
                },
            ),
        ]

    def draw(self, outcomes: Outcomes, figure: Figure) -> None:
        """Height over time; reward over the time that a plan may take."""
        left, right = figure.subplots(1, 2)
        colours = {**comparison.COLOURS, LOCKSTEP: "tab:blue"}
        comparison.draw_heights(outcomes, left, colours, STANDS)
        for planner, colour in comparison.COLOURS.items():
            deadlines = sorted({trial.facts["deadline"] for trial, _ in outcomes.of(planner=planner)})
            points = [
                mean_and_error(outcomes.column("mean_reward", planner=planner, deadline=deadline))
                for deadline in deadlines
            ]
            means, errors = zip(*points, strict=True)
            ms = 1e3 * HumanoidGetup.control_dt * np.array(deadlines)
            right.errorbar(ms, means, errors, color=colour, marker="o", capsize=3, label=planner)
        right.set(xlabel="time that a plan may take, ms", ylabel="mean reward a step")
        right.legend()
