"""Jobs of `loop.offline`: learning from a recorded dataset alone, and what comes of it with and without lookahead."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from polo_ros import tasks
from polo_ros.agents import offline
from polo_ros.agents.configs import CONFIGS
from polo_ros.config import replace
from polo_ros.experiments.base import Workplace
from polo_ros.learning import offline_training
from polo_ros.learning.offline_learner import Diverged, OfflineLearner
from polo_ros.learning.offline_policy import ABOUT
from polo_ros.replay.dataset import Dataset

POLICY = "policy"  # folder of a trial, as `polo train --out` makes it


def train(settings: Mapping[str, Any], workplace: Workplace) -> dict[str, Any]:
    """Learn from a dataset of the trial that is needed; goes on from its last checkpoint, to the same bits.

    Settings: `agent` (the algorithm), `task`, `seed`, `config` (all settings of the agent) and `data` (name of the
    dataset).

    A training that diverges is an outcome too: its policy is what it had learned before, and `problem` says it.
    """
    (recorded,) = workplace.needed.values()
    config = replace(CONFIGS[settings["agent"]], settings["config"]).training()
    task, data = tasks.make(settings["task"]), Dataset.open(recorded / settings["data"])
    learner = OfflineLearner(task, data, settings["agent"], config, settings["seed"])
    folder, problem = workplace.folder / POLICY, ""

    def say(line: str) -> None:
        workplace.progress(learner.done / learner.total, line)

    try:
        offline_training.train(learner, folder, offline_training.Told(say=say))
    except Diverged as error:
        if not (folder / ABOUT).is_file():
            raise  # nothing to act by
        problem = str(error)
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    return {"updates": about["updates"], "metrics": about["metrics"], "problem": problem}


def evaluate(settings: Mapping[str, Any], workplace: Workplace) -> dict[str, Any]:
    """Play episodes with the policy of the trial that is needed: by itself, and with LOOP's lookahead.

    Settings: `agent` (the algorithm), `task`, `seed` (of starts and noise), `config` (all settings of the agent),
    `episodes` and their `steps`. Starts are none that the data have.
    """
    (trained,) = workplace.needed.values()
    planners, episodes = ("none", "loop"), settings["episodes"]
    done = 0

    def say(line: str) -> None:
        nonlocal done
        done += 1  # an episode; now and then a warning
        workplace.progress(min(1.0, done / (len(planners) * episodes)), line)

    found = offline.evaluate(
        trained / POLICY,
        tasks.make(settings["task"]),
        replace(CONFIGS[settings["agent"]], settings["config"]),
        offline.EvaluateOptions(planners, episodes, settings["seed"], settings["steps"], threads=1, say=say),
    )
    return {name: found[name]["returns"] for name in planners}
