"""Drivers that are wrong in one way each, and what the conformance suite must say of them; run by another test."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import mujoco
import numpy as np

from polo_ros.config import Config, option
from polo_ros.drivers.base import Driver, DriverError, RobotState
from polo_ros.drivers.guard import GuardedDriver
from polo_ros.drivers.mock import MockDriver
from polo_ros.drivers.mujoco import MujocoDriver
from polo_ros.seeding import Stream, generator
from polo_ros.tasks.base import FloatArray, ObservationSpec, Task
from polo_ros.testing import DriverConformance


class Arm(Task):
    """Two joints whose motors take velocities."""

    name = "arm"
    description = "for tests"
    control_dt = 0.01
    discount = 0.9
    observation_spec = ObservationSpec((("angles", 2),))

    def __init__(self) -> None:
        self.model = mujoco.MjModel.from_xml_string("""
            <mujoco>
              <compiler angle="radian"/>
              <option timestep="0.01" gravity="0 0 0" integrator="implicitfast"/>
              <default>
                <joint axis="0 0 1" limited="true" range="-2 2" armature="0.01"/>
                <geom type="capsule" fromto="0 0 0 0.3 0 0" size="0.02" mass="0.1"/>
                <velocity kv="10" ctrllimited="true" ctrlrange="-1 1"/>
              </default>
              <worldbody>
                <body><joint name="shoulder"/><geom/>
                  <body pos="0.3 0 0"><joint name="elbow"/><geom/></body>
                </body>
              </worldbody>
              <actuator><velocity joint="shoulder"/><velocity joint="elbow"/></actuator>
              <sensor><jointpos joint="shoulder"/><jointpos joint="elbow"/></sensor>
            </mujoco>
        """)

    def reset(self, rng: np.random.Generator) -> FloatArray:
        return self.pack(0.0, rng.uniform(-0.5, 0.5, 2), np.zeros(2), np.zeros(0))

    def observe(self, sensordata: FloatArray) -> FloatArray:
        return np.array(sensordata)

    def reward(self, obs: Any, action: Any, next_obs: Any) -> Any:
        return 0.0 * obs[..., 0]


ARM = Arm()


class Plant:
    """An arm that moves by itself, as fast as it was told; it is there whoever is connected to it."""

    def __init__(self) -> None:
        self.qpos, self.velocity = np.array([0.3, -0.2]), np.zeros(2)
        self.linked = True
        self._at = time.monotonic()

    def measure(self) -> tuple[float, FloatArray, FloatArray]:
        if not self.linked:
            raise OSError("no route to the arm")
        now = time.monotonic()
        self.qpos = self.qpos + self.velocity * (now - self._at)
        self._at = now
        return now, self.qpos.copy(), self.velocity.copy()

    def command(self, velocity: FloatArray) -> None:
        self.measure()
        self.velocity = np.array(velocity)


@dataclasses.dataclass(frozen=True)
class ArmSettings(Config):
    gain: float = option(1.0, "of commands")


class Robot(Driver):
    """The arm's right driver."""

    settings_type = ArmSettings

    def __init__(self, task: Task, seed: int, settings: ArmSettings | None = None, plant: Plant | None = None) -> None:
        super().__init__(task, seed, settings)
        self.plant = plant or Plant()
        self.connected = False

    def connect(self) -> None:
        self._reach(self.plant.measure)
        self.connected = True

    def read(self) -> RobotState:
        self._require()
        now, qpos, qvel = self._reach(self.plant.measure)
        return RobotState(now, qpos, qvel, np.zeros(0))

    def write(self, action: FloatArray) -> None:
        self._require()
        self._reach(self.plant.command, action)

    def stop(self) -> None:
        if self.connected:
            self._reach(self.plant.command, np.zeros(2))

    def close(self) -> None:
        self.connected = False

    def reset(self, episode: int) -> None:
        self._require()
        self._reach(self.plant.command, np.zeros(2))
        self.plant.qpos = self.task.reset(generator(self.seed, Stream.EPISODE, episode))[1:3]

    def _require(self) -> None:
        if not self.connected:
            raise DriverError("not connected")

    @staticmethod
    def _reach(call: Any, *args: Any) -> Any:
        try:
            return call(*args)
        except OSError as error:
            raise DriverError(str(error)) from error


class Wrong(DriverConformance):
    """What is wrong stands in `Bad`; which test says so, and in what words, in `caught_by`."""

    task = ARM
    may_move = True
    nudge = 1.0
    nudge_periods = 10
    settling = 0.05
    patience = 0.5
    caught_by: ClassVar[dict[str, str]] = {}
    Bad: ClassVar[type[Robot]] = Robot
    _plant: Plant | None = None

    def make(self, task: Task) -> Driver:
        self._plant = self._plant or Plant()
        return self.Bad(task, 0, None, self._plant)

    def break_link(self, driver: Driver) -> None:
        assert self._plant is not None
        self._plant.linked = False

    def mend_link(self, driver: Driver) -> None:
        assert self._plant is not None
        self._plant.linked = True


class TestGood(Wrong):
    pass


# ---- how it is made ----------------------------------------------------------------------------


class TestNoSettingsTaken(Wrong):
    caught_by = {"test_it_can_be_made_by_name": "is how a session makes it"}

    class Bad(Robot):
        def __init__(self, task: Task) -> None:
            super().__init__(task, 0)

    def make(self, task: Task) -> Driver:
        return self.Bad(task)


class TestSuperForgotten(Wrong):
    caught_by = {"test_it_can_be_made_by_name": "no attribute settings"}

    class Bad(Robot):
        def __init__(self, task: Task, seed: int, settings: Any = None, plant: Any = None) -> None:
            self.task, self.seed = task, seed


class TestNoDriver(Wrong):
    caught_by = {"test_it_can_be_made_by_name": "derive the driver from polo_ros.drivers.base.Driver"}

    def make(self, task: Task) -> Driver:
        return object()  # type: ignore[return-value]


class TestGuardBroughtAlong(Wrong):
    caught_by = {"test_it_can_be_made_by_name": "return the driver itself"}

    def make(self, task: Task) -> Driver:
        return GuardedDriver(super().make(task))


class TestSettingsOfAnotherType(Wrong):
    caught_by = {"test_it_can_be_made_by_name": "set settings_type"}

    class Bad(Robot):
        def __init__(self, task: Task, seed: int, settings: Any = None, plant: Any = None) -> None:
            super().__init__(task, seed, {}, plant)  # type: ignore[arg-type]


SETTINGS = "test_every_setting_has_a_default_and_no_other_is_taken"


class OfSettings(Wrong):
    """The settings are wrong, and the driver is made without them."""

    type_: ClassVar[Any]

    def make(self, task: Task) -> Driver:
        driver = Robot(task, 0)
        driver.settings_type = self.type_  # type: ignore[misc]
        return driver


class TestSettingWithoutDefault(OfSettings):
    caught_by = {SETTINGS: "a default is missing"}

    @dataclasses.dataclass(frozen=True)
    class type_(Config):
        gain: float


class TestSettingWithoutOption(OfSettings):
    caught_by = {SETTINGS: "not declared with polo_ros.config.option"}

    @dataclasses.dataclass(frozen=True)
    class type_(Config):
        gain: float = 1.0

        def __post_init__(self) -> None:
            return


class TestSettingWithoutSentence(OfSettings):
    caught_by = {SETTINGS: "has no sentence"}

    @dataclasses.dataclass(frozen=True)
    class type_(Config):
        gain: float = option(1.0, "")


class TestSettingsThatChange(OfSettings):
    caught_by = {SETTINGS: "can be changed while a session runs"}

    @dataclasses.dataclass
    class type_(Config):
        gain: float = option(1.0, "of commands")


class TestAnySettingTaken(OfSettings):
    caught_by = {SETTINGS: "takes a setting that it does not have"}

    @dataclasses.dataclass(frozen=True, init=False)
    class type_(Config):
        gain: float = option(1.0, "of commands")

        def __init__(self, **others: Any) -> None:
            object.__setattr__(self, "gain", 1.0)


class TestSettingsInADictionary(OfSettings):
    caught_by = {SETTINGS: "is no dataclass derived from polo_ros.config.Config"}
    type_ = dict


# ---- states ------------------------------------------------------------------------------------

SIZES = "test_states_have_the_models_sizes_and_are_finite"


class Reading(Robot):
    """Its states pass through `changed`."""

    def changed(self, state: RobotState) -> Any:
        return state

    def read(self) -> RobotState:
        found: RobotState = self.changed(super().read())
        return found


class TestWrongSize(Wrong):
    caught_by = {SIZES: "qpos has shape (3,)", "test_it_works_behind_the_guard": "qpos has shape (3,)"}

    class Bad(Reading):
        def changed(self, state: RobotState) -> RobotState:
            return dataclasses.replace(state, qpos=np.append(state.qpos, 0.0))


class TestNotANumber(Wrong):
    caught_by = {SIZES: "qvel[1] is not finite"}

    class Bad(Reading):
        def changed(self, state: RobotState) -> RobotState:
            return dataclasses.replace(state, qvel=np.array([0.0, np.nan]))


class TestTimeIsNotANumber(Wrong):
    caught_by = {SIZES: "time = nan is not a finite number of seconds"}

    class Bad(Reading):
        def changed(self, state: RobotState) -> RobotState:
            return dataclasses.replace(state, time=np.nan)


class TestLists(Wrong):
    caught_by = {SIZES: "qpos is list"}

    class Bad(Reading):
        def changed(self, state: RobotState) -> RobotState:
            return dataclasses.replace(state, qpos=list(state.qpos))  # type: ignore[arg-type]


class TestNoState(Wrong):
    caught_by = {SIZES: "read returned tuple"}

    class Bad(Reading):
        def changed(self, state: RobotState) -> Any:
            return state.time, state.qpos, state.qvel


class TestOneArrayForAllStates(Wrong):
    caught_by = {"test_states_are_the_callers_own": "return a copy in every state"}

    class Bad(Reading):
        buffer = np.zeros(2)

        def changed(self, state: RobotState) -> RobotState:
            self.buffer[:] = state.qpos
            return dataclasses.replace(state, qpos=self.buffer)


class TestItsOwnArray(Wrong):
    """Two buffers that take turns, as a thread that receives has them."""

    caught_by = {"test_states_are_the_callers_own": "is the driver's own array"}

    class Bad(Robot):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.buffers = np.tile([0.3, -0.2], (2, 1))
            self.turn = 0

        def read(self) -> RobotState:
            self.turn = min(self.turn + 1, 2)
            return dataclasses.replace(super().read(), qpos=self.buffers[self.turn - 1])


class TestDegrees(Wrong):
    caught_by = {"test_positions_are_within_the_joints_ranges": "are units (rad, m), zero and order"}

    class Bad(Reading):
        def changed(self, state: RobotState) -> RobotState:
            return dataclasses.replace(state, qpos=np.rad2deg(state.qpos))


class TestNoQuaternion(Wrong):
    task = "humanoid_getup"
    caught_by = {"test_positions_are_within_the_joints_ranges": "has length 0, not 1"}

    def make(self, task: Task) -> Driver:
        class Bad(MockDriver):
            def read(self) -> RobotState:
                state = super().read()
                state.qpos[3:7] = 0.0
                return state

        return Bad(task, 0)


VELOCITY = "test_velocities_are_those_of_the_positions"


class TestDegreesPerSecond(Wrong):
    caught_by = {VELOCITY: "return qvel[0] in rad/s or m/s"}

    class Bad(Reading):
        def changed(self, state: RobotState) -> RobotState:
            return dataclasses.replace(state, qvel=np.rad2deg(state.qvel))


class TestVelocityOfTheOtherSign(Wrong):
    caught_by = {VELOCITY: "with the sign of the position"}

    class Bad(Reading):
        def changed(self, state: RobotState) -> RobotState:
            return dataclasses.replace(state, qvel=-state.qvel)


class TestNoVelocity(Wrong):
    caught_by = {VELOCITY: "its velocity is 0 times the rate of its position"}

    class Bad(Reading):
        def changed(self, state: RobotState) -> RobotState:
            return dataclasses.replace(state, qvel=np.zeros(2))


# ---- time --------------------------------------------------------------------------------------

TIME = "test_time_is_that_of_the_measurement_in_seconds"


class TestClockThatStandsStill(Wrong):
    caught_by = {TIME: "time went on by 0 s"}

    class Bad(Reading):
        def changed(self, state: RobotState) -> RobotState:
            return dataclasses.replace(state, time=1.0)


class TestMilliseconds(Wrong):
    caught_by = {TIME: "give the time of the measurement in s"}

    class Bad(Reading):
        def changed(self, state: RobotState) -> RobotState:
            return dataclasses.replace(state, time=1e3 * state.time)


class TestTimeOfTheLastCommand(Wrong):
    caught_by = {TIME: "from a robot that is not written to as well"}

    class Bad(Robot):
        at = 0.0

        def write(self, action: FloatArray) -> None:
            super().write(action)
            self.at = time.monotonic()

        def read(self) -> RobotState:
            return dataclasses.replace(super().read(), time=self.at)


class TestTimeThatTrembles(Wrong):
    caught_by = {TIME: "time went back by", "test_it_works_behind_the_guard": "time went back from"}

    class Bad(Reading):
        reads = 0

        def changed(self, state: RobotState) -> RobotState:
            self.reads += 1
            return dataclasses.replace(state, time=state.time - 0.05 * (self.reads % 2))


class TestSimulationThatRunsByItself(Wrong):
    caught_by = {TIME: "without a write"}

    class Bad(Robot):
        simulated = True


class OfSimulation(Wrong):
    task = "cartpole_swingup"


class TestPeriodTooLong(OfSimulation):
    caught_by = {TIME: "one control period is 0.02 s"}

    def make(self, task: Task) -> Driver:
        class Bad(MujocoDriver):
            def write(self, action: FloatArray) -> None:
                super().write(action)
                super().write(action)

        return Bad(task, 0)


class TestSlowToRead(Wrong):
    caught_by = {"test_reading_takes_a_fraction_of_a_control_period": "leave waiting to a thread of the driver's own"}

    class Bad(Reading):
        def changed(self, state: RobotState) -> RobotState:
            time.sleep(0.05)
            return state


class TestSlowToWrite(Wrong):
    caught_by = {"test_writing_takes_a_fraction_of_a_control_period": "write takes"}

    class Bad(Robot):
        def write(self, action: FloatArray) -> None:
            super().write(action)
            time.sleep(0.05)


# ---- life --------------------------------------------------------------------------------------


class TestHomesWhenConnected(Wrong):
    caught_by = {"test_connect_does_not_move_the_robot": "connect moves the robot"}

    class Bad(Robot):
        def connect(self) -> None:
            super().connect()
            self.plant.qpos = np.array([0.3, -0.2])


class TestCreepsWhenConnected(Wrong):
    caught_by = {"test_connect_does_not_move_the_robot": "connect moves the robot"}

    class Bad(Robot):
        def connect(self) -> None:
            super().connect()
            self.plant.command(np.array([0.0, 0.5]))


class TestSimulatesWhenConnected(OfSimulation):
    caught_by = {"test_connect_does_not_move_the_robot": "a simulation waits for a write"}

    def make(self, task: Task) -> Driver:
        class Bad(MujocoDriver):
            def connect(self) -> None:
                super().connect()
                self.write(np.zeros(1))

        return Bad(task, 0)


class TestMovesWhenActivated(Wrong):
    caught_by = {"test_activate_holds_still": "activate moves the robot"}

    class Bad(Robot):
        def activate(self) -> None:
            self.plant.command(np.array([0.5, 0.0]))


CLOSED = "test_stop_and_close_work_in_every_state_and_repeatedly"


class TestCannotBeStoppedWhenClosed(Wrong):
    caught_by = {CLOSED: "stop failed when closed"}

    class Bad(Robot):
        def stop(self) -> None:
            self._require()


class TestCannotBeClosedTwice(Wrong):
    caught_by = {CLOSED: "close failed after it was connected"}

    class Bad(Robot):
        opened = False

        def connect(self) -> None:
            super().connect()
            self.opened = True

        def close(self) -> None:
            if self.opened:
                self._require()
            super().close()


class TestStopRaisesAnything(Wrong):
    caught_by = {CLOSED: "stop raised AttributeError"}

    class Bad(Robot):
        def stop(self) -> None:
            self.line.send("stop")  # type: ignore[attr-defined]


class TestDoesNotStop(Wrong):
    caught_by = {"test_nothing_moves_on_by_command_after_stop": "the robot moves on 0.05 s after stop"}

    class Bad(Robot):
        def stop(self) -> None:
            return


class TestActivatedOnlyOnce(Wrong):
    caught_by = {"test_it_can_be_activated_again_after_stop": "activate failed: power cannot come back"}

    class Bad(Robot):
        activations = 0

        def activate(self) -> None:
            self.activations += 1
            if self.activations > 1:
                raise DriverError("power cannot come back")


class TestConnectedOnlyOnce(Wrong):
    caught_by = {"test_it_can_be_connected_again_after_close": "connect failed the second time: port in use"}

    class Bad(Robot):
        connections = 0

        def connect(self) -> None:
            self.connections += 1
            if self.connections > 1:
                raise DriverError("port in use")
            super().connect()


class TestReadsWhenClosed(Wrong):
    caught_by = {"test_a_closed_driver_reads_and_writes_nothing": "read works after close"}

    class Bad(Robot):
        kept: RobotState | None = None

        def connect(self) -> None:
            super().connect()
            self.kept = super().read()

        def read(self) -> RobotState:
            if self.kept is None:
                raise DriverError("not connected")
            return self.kept


class TestWritesWhenClosed(Wrong):
    caught_by = {"test_a_closed_driver_reads_and_writes_nothing": "write works before connect"}

    class Bad(Robot):
        def write(self, action: FloatArray) -> None:
            self.plant.command(action)


class TestFailsAfterAWhile(Wrong):
    caught_by = {"test_it_works_behind_the_guard": "read failed: ZeroDivisionError"}

    class Bad(Reading):
        reads = 0

        def changed(self, state: RobotState) -> RobotState:
            self.reads += 1
            assert 1 // (3 - self.reads) is not None
            return state


class TestStatusIsAList(Wrong):
    caught_by = {"test_its_status_can_be_asked_at_any_time": "return a dictionary"}

    class Bad(Robot):
        def status(self) -> Mapping[str, object]:
            return ["12 V"]  # type: ignore[return-value]


class TestStatusNeedsAConnection(Wrong):
    caught_by = {"test_its_status_can_be_asked_at_any_time": "status raised AttributeError"}

    class Bad(Robot):
        def status(self) -> Mapping[str, object]:
            return {"voltage": self.line.voltage}  # type: ignore[attr-defined]


# ---- what commands do --------------------------------------------------------------------------

ACTUATORS = "test_every_actuator_moves_its_own_joint_the_right_way"
ORDER = "put commands and positions into the order"


class TestSwappedCommands(Wrong):
    caught_by = {ACTUATORS: ORDER}

    class Bad(Robot):
        def write(self, action: FloatArray) -> None:
            super().write(action[::-1])


class TestSwappedPositions(Wrong):
    caught_by = {ACTUATORS: ORDER}

    class Bad(Reading):
        def changed(self, state: RobotState) -> RobotState:
            return dataclasses.replace(state, qpos=state.qpos[::-1], qvel=state.qvel[::-1])


class TestReversedMotor(Wrong):
    caught_by = {ACTUATORS: "turn the sign of one of them"}

    class Bad(Robot):
        def write(self, action: FloatArray) -> None:
            super().write(action * [1.0, -1.0])


class TestDeafMotors(Wrong):
    caught_by = {ACTUATORS: "or nothing arrives"}

    class Bad(Robot):
        def write(self, action: FloatArray) -> None:
            self._require()


class TestOneDeafMotor(Wrong):
    caught_by = {ACTUATORS: "or nothing arrives"}

    class Bad(Robot):
        def write(self, action: FloatArray) -> None:
            super().write(action * [1.0, 0.0])


def humanoid(order: list[int]) -> Any:
    """Simulated, with commands in another order."""

    class Bad(MujocoDriver):
        def write(self, action: FloatArray) -> None:
            super().write(action[order])

    return Bad


class TestSwappedNeighbours(Wrong):
    """Two joints of one leg, with all the dynamics between them."""

    task = "humanoid_getup"
    nudge, nudge_periods = 0.1, 5
    caught_by = {ACTUATORS: ORDER}

    def make(self, task: Task) -> Driver:
        order = list(range(task.model.nu))
        order[5], order[6] = 6, 5
        driver: Driver = humanoid(order)(task, 0)
        return driver


class TestSwappedLegs(TestSwappedNeighbours):
    def make(self, task: Task) -> Driver:
        order = list(range(task.model.nu))
        order[3:9], order[9:15] = order[9:15], order[3:9]
        driver: Driver = humanoid(order)(task, 0)
        return driver


# ---- episodes ----------------------------------------------------------------------------------

START = "test_an_episode_always_starts_the_same"


class TestStartsAnywhere(Wrong):
    caught_by = {START: "the start of episode 1 again differs"}

    class Bad(Robot):
        def reset(self, episode: int) -> None:
            super().reset(episode)
            self.plant.qpos = np.random.default_rng().uniform(-0.5, 0.5, 2)


class TestEachDriverStartsElsewhere(OfSimulation):
    caught_by = {START: "of a new driver with the same seed differs"}
    made = 0

    def make(self, task: Task) -> Driver:
        self.made += 1
        return MujocoDriver(task, self.made)


class TestTimeGoesBackAtReset(OfSimulation):
    caught_by = {"test_time_goes_on_at_a_reset": "reset took time back"}

    def make(self, task: Task) -> Driver:
        class Bad(MujocoDriver):
            def reset(self, episode: int) -> None:
                self._time = 0.0
                super().reset(episode)

        return Bad(task, 0)


# ---- faults ------------------------------------------------------------------------------------

LINK = "test_a_broken_link_is_a_driver_error_and_can_be_mended"


class TestRaisesOSError(Wrong):
    caught_by = {LINK: "read raised OSError: no route to the arm"}

    class Bad(Robot):
        @staticmethod
        def _reach(call: Any, *args: Any) -> Any:
            return call(*args)


class TestOldStatesForNew(Wrong):
    caught_by = {LINK: "never return an old measurement as if it were new"}

    class Bad(Robot):
        kept: RobotState | None = None

        def read(self) -> RobotState:
            if self.plant.linked:
                self.kept = super().read()
            assert self.kept is not None
            return dataclasses.replace(self.kept, time=time.monotonic())

        def write(self, action: FloatArray) -> None:
            if self.plant.linked:
                super().write(action)


class TestCannotRecover(Wrong):
    caught_by = {LINK: "the link is mended, and close and connect do not work"}

    class Bad(Robot):
        failed = False

        def connect(self) -> None:
            if self.failed:
                raise DriverError("failed before")
            super().connect()

        def read(self) -> RobotState:
            try:
                return super().read()
            except DriverError:
                self.failed = True
                raise


class TestCloseRaisesWhenTheLinkIsBroken(Wrong):
    caught_by = {LINK: "close raised OSError"}

    class Bad(Robot):
        def close(self) -> None:
            super().close()
            self.plant.measure()


class TestUnattended(Wrong):
    """Nobody said that it may move: any command to it is an error."""

    may_move = None

    class Bad(Robot):
        def write(self, action: FloatArray) -> None:
            raise AssertionError("written to")

        def reset(self, episode: int) -> None:
            raise AssertionError("reset")


ALL: list[type[Wrong]] = [
    kind
    for name, kind in list(globals().items())
    if name.startswith("Test") and isinstance(kind, type) and issubclass(kind, Wrong) and kind.caught_by
]
