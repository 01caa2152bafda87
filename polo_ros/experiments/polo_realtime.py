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
from polo_ros.experiments.agents import WEIGHTS
from polo_ros.experiments.base import Claim, Experiment, Outcomes, Trial, Workplace, save_arrays
from polo_ros.experiments.polo_horizon import PLANNER, STANDS, TASK, act, horizons, learn
from polo_ros.replay.bag_reader import BagReader
from polo_ros.replay.bag_types import PLANNER_STATUS
from polo_ros.replay.summary import summarise
from polo_ros.session.config import task_parameters
from polo_ros.tasks.humanoid_getup import HumanoidGetup

KEPT = ("real_time_factor", "missed_steps", "transitions_lost", "safe_stops", "plan_ms_p50", "plan_ms_p99")


def session(settings: Mapping[str, Any], workplace: Workplace) -> dict[str, Any]:
    """A launched session in real time; numbers of its bag and its processes."""
    run_dir = workplace.folder / "run"
    parameters = workplace.folder / "parameters.yaml"
    values = dict(settings["parameters"])
    for learned in workplace.needed.values():
        values["value.initial"] = str(learned / WEIGHTS)
    parameters.write_text(yaml.safe_dump({"/**": {"ros__parameters": values}}), encoding="utf-8")
    command = [str(Path(sys.prefix) / "bin" / "polo"), "launch", "sim", f"task:={TASK}", "clock:=realtime"]
    command += [f"duration:={settings['duration']}", f"seed:={settings['seed']}", f"run_dir:={run_dir}"]
    command += ["learner:=false", f"config:={parameters}"]
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

    DURATION = 4.8  # s: one episode

    def trials(self, budget: str, seeds: int) -> list[Trial]:
        """Sessions in real time; the same agent and value in lockstep, at the paper's horizon."""
        duration = self.DURATION if budget == "full" else 1.6
        longest = horizons(budget)[-1]
        learned = learn(longest, budget)
        out = [learned]
        for seed in range(seeds):
            for agent, needs in (("POLO", (learned.name,)), ("MPC", ())):
                out.append(
                    Trial(
                        name=f"realtime-{agent}-s{seed}",
                        job="polo_realtime:session",
                        settings={
                            "duration": duration,
                            "seed": 1000 + seed,
                            "parameters": {**task_parameters(TASK, "realtime"), **PLANNER},
                        },
                        needs=needs,
                        facts={"agent": agent, "seed": seed},
                        exclusive=True,
                    )
                )
            out.append(act("polo", longest, budget, seed, learned, "POLO in lockstep"))
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
                    "candidates a plan, median": outcomes.column("rollouts_p50", agent="POLO"),
                },
            ),
            Claim(
                "plain MPC at the same rate does not",
                3 * int((mpc >= STANDS).sum()) < 2 * len(mpc),
                {
                    "lowest root height of the last second, m": mpc,
                    "return per core-second": outcomes.column("return_per_core_second", agent="MPC"),
                },
            ),
        ]

    def draw(self, outcomes: Outcomes, figure: Figure) -> None:
        """Height over time."""
        colours = {"MPC": "tab:gray", "POLO": "tab:red", "POLO in lockstep": "tab:blue"}
        comparison.draw_heights(outcomes, figure.subplots(), colours, STANDS)
