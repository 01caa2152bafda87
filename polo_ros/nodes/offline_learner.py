"""Learner without a robot: bags or a dataset in, weights out, as of the live learner whose place it takes."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch  # noqa: F401  before ROS, as in learner.py

from polo_ros import tasks
from polo_ros.agents.configs import CONFIGS
from polo_ros.agents.loop_config import OfflineAgentConfig
from polo_ros.learning.offline_learner import OfflineLearner
from polo_ros.learning.offline_training import Stopped, Told, train
from polo_ros.msg import LearnerStatus, Weights
from polo_ros.nodes import convert
from polo_ros.nodes.base import LATCHED, PoloNode, spin
from polo_ros.nodes.known import OTHERS
from polo_ros.replay.dataset import leftovers
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
        self.learner: OfflineLearner | None = None  # once the data are there
        self._stopping = False
        self._figures: dict[str, float] = {}

    # ---- lifecycle -------------------------------------------------------------------------

    def configure(self) -> None:
        """Check what can be checked at once: data are made and read in the thread, where a stop is heard."""
        os.setpriority(os.PRIO_PROCESS, 0, self.settings.nice)
        if not self.session.run_dir:
            raise ValueError("run_dir is empty: what is learned needs a folder")
        self._folder = Path(self.session.run_dir)
        self._weights_publisher = self.create_lifecycle_publisher(Weights, "weights", LATCHED)
        self._status_publisher = self.create_lifecycle_publisher(LearnerStatus, "learner/status", LATCHED)

    def activate(self) -> None:
        """Open the data, or make a dataset of bags, and learn, from the folder's checkpoint if there is one."""
        self._stopping = False
        self.work(self._run, "learning")

    def deactivate(self) -> None:
        """Stop learning; what was learned is saved."""
        self._stopping = True
        self.join(60.0)

    def cleanup(self) -> None:
        """Forget the data."""
        self.learner = None

    # ---- learning --------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self.learner = learner = self.learner or self._prepare()
        except Stopped:
            self.get_logger().info("stopped before the data were ready; the same command begins with them again")
            return
        except Exception as error:  # as in configure: whatever is wrong with the data must be named
            self.get_logger().fatal(f"cannot learn: {error}")
            self.say_where(error)
            self.failed = True
            self.context.try_shutdown()
            return

        def tell(figures: Mapping[str, float]) -> None:
            self._tell(learner, figures)

        train(learner, self._folder, Told(lambda: self._stopping, self.get_logger().info, tell))

    def _prepare(self) -> OfflineLearner:
        """A fresh learner of the data."""
        folder = self._folder / "dataset"
        for left in leftovers(folder):
            self.get_logger().warning(f"{left} is half-written, of a start that was killed; remove it")
        data = open_data(self.source.data, folder, self.session.task, self._go_on)
        self.get_logger().info(f"{len(data)} transitions of {data.task} in {data.trajectories} trajectories")
        return OfflineLearner(
            tasks.make(data.task), data, self.session.agent, self.agent_config.training(), self.session.seed
        )

    def _go_on(self) -> None:
        if self._stopping:
            raise Stopped

    def _tell(self, learner: OfflineLearner, figures: Mapping[str, float]) -> None:
        """Publish what was learned by now."""
        self._figures.update(figures)
        now = self.get_clock().now().to_msg()
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
        if self.learner is None:
            return {}
        return {"updates": self.learner.done, "of": self.learner.total, **self._figures}


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return spin(OfflineLearnerNode, args)
