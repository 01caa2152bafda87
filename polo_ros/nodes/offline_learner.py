"""Learner without a robot: bags or a dataset in, weights out, as of the live learner whose place it takes."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch  # noqa: F401  before ROS, as in learner.py

from polo_ros import tasks
from polo_ros.agents.configs import CONFIGS
from polo_ros.agents.loop_config import OfflineAgentConfig
from polo_ros.learning.offline_learner import OfflineLearner
from polo_ros.learning.offline_training import Told, train
from polo_ros.msg import LearnerStatus, Weights
from polo_ros.nodes import convert
from polo_ros.nodes.base import LATCHED, PoloNode, spin
from polo_ros.nodes.known import OTHERS
from polo_ros.replay.offline_data import open_data
from polo_ros.session.config import OFFLINE_AGENTS, LearnerNodeConfig, OfflineNodeConfig


class OfflineLearnerNode(PoloNode):
    """Learns in a thread of its own; its weights stay latched when it is done, until it is told to end.

    The folder `run_dir` is that of `polo train --out`: who starts the node again goes on there.
    """

    def __init__(self) -> None:
        super().__init__("learner")
        self.settings = self.declare(LearnerNodeConfig())
        self.source = self.declare(OfflineNodeConfig())
        if self.session.agent not in OFFLINE_AGENTS:
            learn = ", ".join(OFFLINE_AGENTS)
            raise ValueError(f"agent = '{self.session.agent}' does not learn offline; agents that do: {learn}")
        self.agent_config: OfflineAgentConfig = self.declare(CONFIGS[self.session.agent])
        self.refuse_unknown(OTHERS)
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._figures: dict[str, float] = {}

    # ---- lifecycle -------------------------------------------------------------------------

    def configure(self) -> None:
        """Open the data, or make a dataset of bags, and make the learner."""
        os.setpriority(os.PRIO_PROCESS, 0, self.settings.nice)
        if not self.session.run_dir:
            raise ValueError("run_dir is empty: what is learned needs a folder")
        self._folder = Path(self.session.run_dir)
        data = open_data(self.source.data, self._folder / "dataset", self.session.task)
        self.get_logger().info(f"{len(data)} transitions of {data.task} in {data.trajectories} trajectories")
        self.learner = OfflineLearner(
            tasks.make(data.task), data, self.session.agent, self.agent_config.training(), self.session.seed
        )
        self._weights_publisher = self.create_lifecycle_publisher(Weights, "weights", LATCHED)
        self._status_publisher = self.create_lifecycle_publisher(LearnerStatus, "learner/status", LATCHED)

    def activate(self) -> None:
        """Start learning, from the folder's checkpoint if there is one."""
        self._stopping = False
        self._thread = self.work(self._run, "learning")

    def deactivate(self) -> None:
        """Stop learning; what was learned is saved."""
        self._stopping = True
        if self._thread is not None:
            self._thread.join(timeout=60.0)
            self._thread = None

    # ---- learning --------------------------------------------------------------------------

    def _run(self) -> None:
        train(self.learner, self._folder, Told(lambda: self._stopping, self.get_logger().info, self._tell))

    def _tell(self, figures: Mapping[str, float]) -> None:
        """Publish what was learned by now."""
        self._figures.update(figures)
        learner, now = self.learner, self.get_clock().now().to_msg()
        if learner.whole:  # before that there is nothing to act by
            self.send(self._weights_publisher, convert.weights_message(learner.weights(), now))
        known = dict(figures)
        status = LearnerStatus(
            version=learner.done,
            transitions=len(learner.batches.data),
            updates=learner.done,
            value_loss=known.pop("critic_loss", math.nan),
            target_mean=known.pop("value", math.nan),
            **dict.fromkeys(("target_std", "value_mean", "value_spread", "target_ms", "fit_ms"), math.nan),
            metric_names=list(known),
            metric_values=list(known.values()),
        )
        status.header.stamp = now
        self.send(self._status_publisher, status)

    def diagnose(self) -> Mapping[str, object]:
        """How learning goes."""
        if not hasattr(self, "learner"):
            return {}
        return {"updates": self.learner.done, "of": self.learner.total, **self._figures}


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return spin(OfflineLearnerNode, args)
