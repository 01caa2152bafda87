"""A recorded session as the robot: planner, learner and monitor see what once happened, without a robot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np

from polo_ros.config import Config, option
from polo_ros.drivers.base import Driver, DriverError, RobotState
from polo_ros.replay.bag_reader import BagReader
from polo_ros.replay.bag_types import BagError
from polo_ros.replay.mcap_file import scan
from polo_ros.replay.session_info import SessionInfo
from polo_ros.replay.transition import Transition
from polo_ros.tasks.base import FloatArray, Task


@dataclass(frozen=True)
class BagSettings(Config):
    """What is played."""

    path: str = option("", "recording to play: a run folder, a bag or one of its files")
    topic: str = option("", "topic of the transitions in a bag of several robots; empty: the only one")
    loop: bool = option(False, "begin again where the recording ends, instead of an error")


class BagDriver(Driver):
    """Plays the recorded states of a session, one a control period; commands are checked and change nothing.

    For planning beside a recorded robot: what would the planner have done there, and in what time?

    It is `simulated`, as `mock` is: the recording goes on by one control period at every write and not by itself. So
    lockstep, pause and step work with it, and in lockstep the same bag gives the same plans bit for bit; with the
    realtime clock the bridge paces it as the robot was.

    States and times are the record's. Where periods are missing, one write leads over the gap, and time with it. Time
    never goes back: where the record's does, and where the recording begins again, it is counted on.

    A record whose episodes were ended by resets is played episode by episode: `reset(k)` goes to the beginning of its
    episode k, counted from 0, and at an episode's end a reset is due. Any other record is one episode, and cannot be
    reset: what its robot did while nobody controlled it is a gap.

    The end of a transition is the state that the next one begins with. Of the last one of an episode the bag has no
    more than an observation: there the driver asks the model what the last action led to.

    Args:
        task: The one that was recorded.
        seed: Of no use here.
        settings: What is played.
    """

    simulated = True
    settings_type = BagSettings
    settings: BagSettings

    def __init__(self, task: Task, seed: int, settings: BagSettings | None = None) -> None:
        super().__init__(task, seed, settings)
        self._episodes: list[FloatArray] = []  # each (T + 1, nstate)
        self._resets = self._connected = False
        self._episode = self._step = 0
        self._time = self._offset = 0.0  # s; of the session, and what it is ahead of the record's
        self._left_out = self._problems = 0

    @property
    def can_reset(self) -> bool:
        """Whether the recorded robot could be reset, and was; known once it is connected."""
        return self._resets

    def connect(self) -> None:
        """Read the recording, the first time; later it goes on where it was.

        Raises:
            DriverError: no recording, one without a state, or one of another task, model or control period.
        """
        if not self._episodes:
            try:
                self._load()
            except BagError as error:
                raise DriverError(str(error)) from error
        self._connected = True

    def read(self) -> RobotState:
        """The recorded state.

        Raises:
            DriverError: not connected.
        """
        self._require()
        _, qpos, qvel, act = self.task.unpack(self._episodes[self._episode][self._step])
        return RobotState(self._time, qpos.copy(), qvel.copy(), act.copy())

    def write(self, action: FloatArray) -> None:
        """Go on to the next recorded state, whatever the controls (nu,) are.

        Raises:
            DriverError: not connected, wrong controls, or the recording, or its episode, is over.
        """
        self._require()
        nu = self.task.model.nu
        if np.shape(action) != (nu,) or not np.isfinite(action).all():
            raise DriverError(f"controls {np.array2string(np.asarray(action))} are not {nu} finite numbers")
        if self._step + 1 < len(self._episodes[self._episode]):
            self._step += 1
        else:
            self._begin_again()
        recorded = float(self._episodes[self._episode][self._step, 0])
        if recorded + self._offset <= self._time:
            self._offset = self._time + self.task.control_dt - recorded
        self._time = recorded + self._offset

    def stop(self) -> None:
        """Nothing to do: the recording stands still until the next write."""

    def close(self) -> None:
        """Give the recording up, but neither the place in it nor its time."""
        self._connected = False

    def reset(self, episode: int) -> None:
        """Go to the beginning of the recorded episode number `episode`, counted from 0; time goes on.

        Past the last one the recording stands at its end: a session that is as long as the recorded one ends well.

        Raises:
            DriverError: not connected, or the recorded robot was never reset.
        """
        self._require()
        if not self._resets:
            raise DriverError("the recorded robot was never reset: its recording is one episode")
        count = len(self._episodes)
        if episode >= count and not self.settings.loop:
            self._episode, self._step = count - 1, len(self._episodes[-1]) - 1
        else:
            self._episode, self._step = episode % count, 0
        recorded = float(self._episodes[self._episode][self._step, 0])
        if abs(recorded + self._offset - self._time) > 1e-6:  # else it goes on as it was recorded, to the last digit
            self._offset = self._time - recorded
        self._time = max(recorded + self._offset, self._time)

    def status(self) -> dict[str, object]:
        """Where in the recording it is."""
        if not self._episodes:
            return {}
        return {
            "recording": self.settings.path,
            "recorded_episode": f"{self._episode + 1} of {len(self._episodes)}",
            "recorded_period": f"{self._step} of {len(self._episodes[self._episode]) - 1}",
            "transitions_left_out": self._left_out,
            "problems_of_the_bag": self._problems,
        }

    def _require(self) -> None:
        if not self._connected:
            raise DriverError("the recording is not connected; call connect first")

    def _begin_again(self) -> None:
        """Past the end of an episode."""
        played, count = self._episode + 1, len(self._episodes)
        if not self.settings.loop:
            if played < count:
                raise DriverError(f"episode {self._episode} of the recording is over, and a reset is due")
            raise DriverError(f"the recording is over: {self.settings.path} ends here; bag.loop begins again")
        self._episode, self._step = played % count, 0

    # ---- reading the bag -----------------------------------------------------------------------

    def _load(self) -> None:
        if not self.settings.path:
            raise DriverError("bag.path is empty: name the recording to play, a run folder or a bag")
        reader = BagReader(Path(self.settings.path).expanduser())
        session = self._session(reader)
        if session.task and session.task != self.task.name:
            raise self._other(session.task, session.model_hash)
        if session.control_dt and abs(session.control_dt - self.task.control_dt) > 1e-9:
            raise DriverError(
                f"{reader.path}: recorded with a control period of {session.control_dt:g} s, "
                f"task '{self.task.name}' has {self.task.control_dt:g} s"
            )
        episodes: list[list[Transition]] = []
        self._left_out = 0
        for _, transition, model_hash in reader.transitions(self.settings.topic or None):
            if model_hash != self.task.model_hash:
                raise self._other(session.task, model_hash)
            if transition.state.shape != (self.task.nstate,) or not np.isfinite(transition.state).all():
                self._left_out += 1
                continue
            if not episodes or transition.episode != episodes[-1][-1].episode:
                episodes.append([])
            episodes[-1].append(transition)
        if not episodes:
            raise DriverError(f"{reader.path}: no transition in it, nothing to play")
        self._problems = len(reader.problems)
        self._resets = any(before[-1].terminated or before[-1].truncated for before in episodes[:-1])
        if not self._resets:
            episodes = [[transition for part in episodes for transition in part]]
        self._episodes = [np.array([*(t.state for t in part), self._result(part[-1])]) for part in episodes]
        self._time = float(self._episodes[0][0, 0])

    @staticmethod
    def _session(reader: BagReader) -> SessionInfo:
        """What the files say of their session; nothing is known of what they do not say."""
        for file in reader.files:
            facts = scan(file)[0].session
            if facts:
                return SessionInfo.from_mapping(facts)
        return SessionInfo.from_mapping({})

    def _other(self, task: str, model_hash: str) -> DriverError:
        return DriverError(
            f"{self.settings.path}: recorded with task '{task or '?'}' (model {model_hash or '?'}), "
            f"not with '{self.task.name}' (model {self.task.model_hash}); models of two MuJoCo versions differ"
        )

    def _result(self, last: Transition) -> FloatArray:
        """State (nstate,) that the last action of an episode led to, by the model; where it has none, the last one."""
        model = self.task.model
        stays: FloatArray = last.state.copy()
        stays[0] += self.task.control_dt
        if last.action.shape != (model.nu,) or not np.isfinite(last.action).all():
            return stays
        data = mujoco.MjData(model)
        result = self.task.advance(data, last.state, last.action[None])
        diverged = any(warning.number for warning in data.warning) or not np.isfinite(result).all()
        result[0] = stays[0]
        return stays if diverged else result
