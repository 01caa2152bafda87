"""Shadow: a simulated twin beside the robot. States and transitions in, differences out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from sensor_msgs.msg import JointState

from polo_ros import tasks
from polo_ros.msg import Difference as DifferenceMsg
from polo_ros.msg import State
from polo_ros.msg import Transition as TransitionMsg
from polo_ros.nodes import convert
from polo_ros.nodes.base import EVERY, LATEST, PoloNode, spin
from polo_ros.nodes.known import OTHERS
from polo_ros.safety.shadow import Report, Statistics, rms
from polo_ros.safety.twin import Difference, Twin
from polo_ros.session.config import ShadowNodeConfig
from polo_ros.session.health import Alert
from polo_ros.tasks.actuators import HINGE_OR_SLIDE


class Shadow(PoloNode):
    """Runs a Twin on what the bridge says, and warns where it leaves the robot.

    Nobody waits for it: a shadow that lags behind or dies costs control nothing.
    """

    def __init__(self) -> None:
        super().__init__("shadow")
        self.settings = self.declare(ShadowNodeConfig())
        self.refuse_unknown(OTHERS)
        self.counts.update(states_refused=0, transitions_refused=0)
        self._report = Report({}, ())
        self.on_change(self._changed)

    # ---- lifecycle -------------------------------------------------------------------------

    def configure(self) -> None:
        """Make task and twin, open communication."""
        self.task = tasks.make(self.session.task)
        self.twin = Twin(self.task, self.settings.shadow.horizon)
        self.statistics = Statistics(self.task)
        model = self.task.model
        joints = [j for j in range(model.njnt) if model.jnt_type[j] in HINGE_OR_SLIDE]
        self._joint_names = [model.joint(j).name for j in joints]
        self._joint_qpos = np.array(model.jnt_qposadr[joints])
        self._joint_qvel = np.array(model.jnt_dofadr[joints])
        self._state_publisher = self.create_lifecycle_publisher(State, "shadow/state", LATEST)
        self._joint_publisher = self.create_lifecycle_publisher(JointState, "shadow/joint_states", LATEST)
        self._difference_publisher = self.create_lifecycle_publisher(DifferenceMsg, "shadow/difference", EVERY)
        # States first: what is ready at once is served in this order, and a transition needs the State of its period.
        self._state_subscription = self.create_subscription(State, "state", self._receive_state, EVERY)
        self._transition_subscription = self.create_subscription(
            TransitionMsg, "transition", self._receive_transition, EVERY
        )

    def activate(self) -> None:
        """Begin with the next transition."""
        self.twin.forget()

    def _changed(self) -> None:
        self.settings = self.config(ShadowNodeConfig)
        if hasattr(self, "twin"):
            self.twin.horizon = self.settings.shadow.horizon

    # ---- what comes in ---------------------------------------------------------------------

    def _receive_state(self, message: State) -> None:
        if not self._running:
            return
        try:
            convert.state_vector(message, self.task)
            pending = convert.pending_commands(message, self.task)
        except convert.MessageError as error:
            self.refuse("states_refused", f"state refused: {error}")
            return
        self.twin.sensed(message.step, message.episode, pending)

    def _receive_transition(self, message: TransitionMsg) -> None:
        if not self._running:
            return
        try:
            transition = convert.transition(message, self.task)
        except convert.MessageError as error:
            self.refuse("transitions_refused", f"transition refused: {error}")
            return
        found = self.twin.played(transition.step, transition.episode, transition.state, transition.action)
        self.statistics.add(found)
        if found is not None:
            self._publish(found, transition.episode_step)

    # ---- what goes out ---------------------------------------------------------------------

    def _publish(self, found: Difference, episode_step: int) -> None:
        time, qpos, qvel, act = self.task.unpack(found.twin)
        state = State(
            step=found.step,
            episode=found.episode,
            episode_step=episode_step,
            model_hash=self.task.model_hash,
            qpos=convert.doubles(qpos),
            qvel=convert.doubles(qvel),
            act=convert.doubles(act),
            commands=convert.doubles(found.pending),
        )
        state.header.frame_id = "world"
        state.header.stamp = convert.stamp(float(found.robot[0]))
        joints = JointState(
            header=state.header,
            name=self._joint_names,
            position=convert.doubles(qpos[self._joint_qpos]),
            velocity=convert.doubles(qvel[self._joint_qvel]),
        )
        difference = DifferenceMsg(
            header=state.header,
            step=found.step,
            episode=found.episode,
            model_hash=self.task.model_hash,
            periods=found.periods,
            time=float(found.robot[0]) - time,
            position=convert.doubles(found.position),
            velocity=convert.doubles(found.velocity),
            position_rms=rms(found.position),
            velocity_rms=rms(found.velocity),
            position_worst=self.statistics.worst(found.position),
            velocity_worst=self.statistics.worst(found.velocity),
        )
        self.send(self._state_publisher, state)
        self.send(self._joint_publisher, joints)
        self.send(self._difference_publisher, difference)

    def diagnose(self) -> Mapping[str, object]:
        """How far robot and twin were apart since this was asked last."""
        if not hasattr(self, "twin"):
            return {}
        self._report = self.statistics.report(self.settings.shadow, self.twin.reason)
        if self._report.warnings:
            self.get_logger().warning("; ".join(self._report.warnings), throttle_duration_sec=10.0)
        return {**self._report.figures, **{f"set: {reason}": count for reason, count in self.twin.sets.items()}}

    def alerts(self) -> Sequence[Alert]:
        """What was too far apart, and what could not be compared."""
        return [Alert(text) for text in self._report.warnings]

    def publish_diagnostics(self) -> None:
        """Say how the last second was."""
        super().publish_diagnostics()
        self.problem = ""  # of a message that was refused: said once


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return spin(Shadow, args, background=True)
