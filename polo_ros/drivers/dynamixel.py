"""A robot of Dynamixel servos (ROBOTIS; X series and MX with protocol 2.0) on a serial port."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from polo_ros.config import Config, option
from polo_ros.drivers import dynamixel_bus as dxl
from polo_ros.drivers.base import Driver, DriverError, RobotState
from polo_ros.tasks.base import FloatArray, Task


@dataclass(frozen=True)
class DynamixelSettings(Config):
    """How the servos are wired, mounted and limited. Lists: an entry an actuator of the model, or one for all."""

    port: str = option("/dev/ttyUSB0", "serial port of the bus")
    baudrate: int = option(1_000_000, "of the bus; servos leave the factory with 57600", unit="bit/s", low=9600)
    ids: tuple[int, ...] = option((), "number of the servo of each actuator, in the model's order", low=0, high=252)
    mode: str = option(
        "current", "current: controls are torques; position: controls are targets", choices=("current", "position")
    )
    signs: tuple[int, ...] = option((1,), "-1 where servo and joint turn in opposite directions", low=-1, high=1)
    zeros: tuple[float, ...] = option((0.0,), "angle of the joint where its servo reads 2048", unit="rad")
    ratios: tuple[float, ...] = option((1.0,), "turns of the servo's horn for one of the joint", low=1e-3, high=1e3)
    torque_constants: tuple[float, ...] = option(
        (), "torque at the horn per current; needed for mode current", unit="Nm/A", low=1e-6
    )
    current_limit: float = option(0.0, "largest current; 0: what each servo allows by itself", unit="mA", low=0.0)
    watchdog: float = option(
        0.2, "time without any packet after which servos stop by themselves; 0: never", unit="s", low=0.0, high=2.54
    )
    timeout: float = option(
        0.02, "time to wait for an answer, beyond the latency of the USB adapter", unit="s", low=1e-3, high=1.0
    )
    retries: int = option(1, "how often a question is repeated within a period", low=0, high=10)
    temperature_warning: float = option(65.0, "temperature from which on a servo is called hot", unit="deg C")


# Operating modes of a servo.
CURRENT, POSITION, CURRENT_BASED_POSITION = 0, 3, 5

# What is read of one servo in every period, in turn.
HEALTH = (dxl.HARDWARE_ERROR_STATUS, dxl.TORQUE_ENABLE, dxl.BUS_WATCHDOG, dxl.SUPPLY)


class DynamixelDriver(Driver):
    """Dynamixel servos (X series, MX with protocol 2.0) on a serial port, one for each hinge with an actuator.

    Mode `current`: actuators are motors; a control u becomes the torque gear * gain * u at the joint, that divided by
    ratio * torque constant the servo's current. Mode `position`: actuators are position servos; a control u becomes
    the target u / gear of the joint's angle, reached by the servo's own controller.

    angle of the joint = zero + sign * (reading - 2048) * 2 pi / 4096 / ratio

    Measured are angles and velocities of these hinges. All other joints stay at qpos0 and at rest: where a floating
    base is, servos cannot tell.

    `stop` switches the power off: the robot goes limp. While it is active, servos stop by themselves when no packet
    reaches them for `watchdog` s.

    Args:
        task: Gives the model; its actuators must be of the mode's kind, each on a hinge of its own.
        seed: Not used.
        settings: Wiring, mounting and limits.

    Raises:
        ValueError: The model has actuators that are no such servos, or the settings do not fit it.
        DriverError: The package dynamixel-sdk is not installed.
    """

    settings_type = DynamixelSettings
    settings: DynamixelSettings

    def __init__(self, task: Task, seed: int, settings: DynamixelSettings | None = None) -> None:
        super().__init__(task, seed, settings)
        dxl.load_sdk()
        own, model = self.settings, task.model
        self._ids = own.ids
        if not model.nu:
            raise ValueError("the model has no actuators")
        joints = _joints(model, own.mode == "position")
        if len(self._ids) != model.nu:
            raise ValueError(f"dynamixel.ids has {len(self._ids)} entries, the model {model.nu} actuators")
        if len(set(self._ids)) != model.nu:
            raise ValueError(f"dynamixel.ids = {list(self._ids)} names a servo twice")
        if 0.0 < own.watchdog < 2 * task.control_dt:
            raise ValueError(
                f"dynamixel.watchdog = {own.watchdog:g} s is shorter than two control periods of {task.control_dt:g} s"
            )
        self._watchdog = math.ceil(own.watchdog / dxl.WATCHDOG_UNIT - 1e-9)
        signs = self._each("signs", own.signs)
        if (signs == 0.0).any():
            raise ValueError(f"dynamixel.signs = {list(own.signs)} has an entry that is neither 1 nor -1")
        ratios = self._each("ratios", own.ratios)
        self._qpos_index = model.jnt_qposadr[joints]
        self._qvel_index = model.jnt_dofadr[joints]
        self._zero = self._each("zeros", own.zeros)
        self._angle = signs * dxl.POSITION_UNIT / ratios  # rad of the joint per unit of position
        self._speed = signs * dxl.VELOCITY_UNIT / ratios  # rad/s of the joint per unit of velocity
        gear, gain = model.actuator_gear[:, 0], model.actuator_gainprm[:, 0]
        limited = model.actuator_forcelimited.astype(bool)
        self._force_low = np.where(limited, model.actuator_forcerange[:, 0], -np.inf)
        self._force_high = np.where(limited, model.actuator_forcerange[:, 1], np.inf)
        self._gear, self._gain = gear, gain
        if own.mode == "current":
            self._mode, self._goal = CURRENT, dxl.GOAL_CURRENT
            constants = self._each("torque_constants", own.torque_constants)
            self._current = 1e3 * signs * gear / (ratios * constants)  # mA of the servo per force of the actuator
        else:
            self._mode = CURRENT_BASED_POSITION if own.current_limit else POSITION
            self._goal = dxl.GOAL_POSITION
        self._bus: dxl.Bus | None = None
        self._powered = False  # perhaps: from the moment on that it is switched on until all confirm that it is off
        self._active = False
        self._turn = 0
        self._clipped = 0
        self._supply: dict[int, tuple[float, float]] = {}  # V, deg C
        self._errors: dict[int, int] = {}

    # ---- life ------------------------------------------------------------------------------

    def connect(self) -> None:
        """Open the port, find all servos, switch their power off, see that they are well.

        Raises:
            DriverError: The port cannot be opened; servos are missing, of an unknown model, or report hardware errors.
        """
        own = self.settings
        self._supply, self._errors = {}, {}
        self._bus = bus = dxl.Bus(own.port, own.baudrate, own.timeout, own.retries)
        try:
            models = self._find(bus)
            bus.write_all(dxl.STATUS_RETURN_LEVEL, dict.fromkeys(self._ids, 2))  # they confirm what is written
            bus.write_all(dxl.TORQUE_ENABLE, dict.fromkeys(self._ids, 0))
            for servo in self._ids:
                bus.write(servo, dxl.TORQUE_ENABLE, 0)
                self._look(bus, servo, dxl.HARDWARE_ERROR_STATUS)
                self._look(bus, servo, dxl.SUPPLY)
            self._refuse_errors()
            self._read_limits(bus, models)
            bus.measure(self._ids)
        except BaseException:
            self._bus = None
            bus.close()
            raise

    def activate(self) -> None:
        """Switch the power on, holding: at no current, or where the joints are.

        Raises:
            DriverError: A servo does not confirm it; the power is off again as far as they can be reached.
        """
        bus = self._connected()
        try:
            for servo in self._ids:
                bus.write(servo, dxl.BUS_WATCHDOG, 0)  # else, after it has tripped, goals cannot be written
                if bus.read(servo, dxl.OPERATING_MODE) != self._mode:  # kept in memory that wears
                    bus.write(servo, dxl.OPERATING_MODE, self._mode)
            _, measured = bus.measure(self._ids)
            self._powered = True
            for i, servo in enumerate(self._ids):
                if self._mode == CURRENT_BASED_POSITION:
                    bus.write(servo, dxl.GOAL_CURRENT, int(self._most[i]))
                bus.write(servo, self._goal, 0 if self._mode == CURRENT else measured[i].position)
                bus.write(servo, dxl.TORQUE_ENABLE, 1)
            for servo in self._ids:
                if bus.read(servo, dxl.TORQUE_ENABLE) != 1:
                    raise DriverError(f"servo {servo}: its torque cannot be switched on; restart it")
                bus.write(servo, dxl.BUS_WATCHDOG, self._watchdog)
        except DriverError as error:
            try:
                self.stop()
            except DriverError as worse:
                raise DriverError(f"{error}; and then: {worse}") from error
            raise
        self._active = True

    def stop(self) -> None:
        """Switch the power off.

        Raises:
            DriverError: Servos that have not confirmed it, each with the reason; the others are off.
        """
        self._active = False
        bus = self._bus
        if bus is None:
            return
        problems = []
        try:
            # To all at once and unconfirmed: whoever can hear is off at once, whatever becomes of the others.
            if self._mode == CURRENT:
                bus.write_all(dxl.GOAL_CURRENT, dict.fromkeys(self._ids, 0))
            bus.write_all(dxl.TORQUE_ENABLE, dict.fromkeys(self._ids, 0))
        except DriverError as error:
            problems.append(str(error))
        for servo in self._ids:
            try:
                bus.write(servo, dxl.TORQUE_ENABLE, 0)
            except DriverError as error:
                problems.append(str(error))
        if problems:
            raise DriverError(f"not known to be off: {'; '.join(dict.fromkeys(problems))}")
        self._powered = False

    def close(self) -> None:
        """Switch the power off if it is on, release the port.

        Raises:
            DriverError: As `stop`; the port is released.
        """
        bus = self._bus
        if bus is None:
            return
        try:
            if self._powered:
                self.stop()
        finally:
            self._active = self._powered = False
            self._bus = None
            bus.close()

    # ---- control ---------------------------------------------------------------------------

    def read(self) -> RobotState:
        """Angles and velocities of all servos, and the health of one of them.

        Raises:
            DriverError: Not connected; a servo does not answer, has restarted, reports hardware errors, or has stopped.
        """
        bus = self._awake()
        time, measured = bus.measure(self._ids)
        servo, register = self._ids[self._turn % len(self._ids)], HEALTH[self._turn // len(self._ids) % len(HEALTH)]
        self._turn += 1
        self._look(bus, servo, register)
        for alarmed in sorted(bus.alerts):
            self._look(bus, alarmed, dxl.HARDWARE_ERROR_STATUS)
        bus.alerts.clear()
        self._refuse_errors()
        model = self.task.model
        qpos, qvel = np.array(model.qpos0), np.zeros(model.nv)
        qpos[self._qpos_index] = self._zero + self._angle * (
            np.array([one.position for one in measured]) - dxl.POSITION_CENTRE
        )
        qvel[self._qvel_index] = self._speed * np.array([one.velocity for one in measured])
        return RobotState(time, qpos, qvel, np.zeros(model.na))

    def write(self, action: FloatArray) -> None:
        """Send controls (nu,) to all servos by one packet; what exceeds a servo's range is clipped and counted.

        Raises:
            DriverError: Not active, wrong controls, or the port fails.
        """
        bus = self._awake()
        if not self._active:
            raise DriverError("the servos are not active; call activate first")
        if np.shape(action) != (len(self._ids),) or not np.isfinite(action).all():
            raise DriverError(f"controls {np.array2string(np.asarray(action))} are not {len(self._ids)} finite numbers")
        goals = self._goals(np.asarray(action, np.float64))
        clipped = np.clip(goals, self._low, self._high)
        self._clipped += int((clipped != goals).any())
        bus.write_all(self._goal, dict(zip(self._ids, clipped.astype(int).tolist(), strict=True)))

    def status(self) -> Mapping[str, object]:
        """Temperatures, voltages, hardware errors and counts of packets, as of the last reads."""
        bus = self._bus
        if bus is None:
            return {}
        figures: dict[str, object] = dict(bus.counts)
        figures["clipped_commands"] = self._clipped
        figures["hardware_errors"] = self._described(dict(self._errors))
        supply = dict(self._supply)
        if supply:
            hottest = max(supply, key=lambda servo: supply[servo][1])
            weakest = min(supply, key=lambda servo: supply[servo][0])
            figures["temperature"], figures["hottest_servo"] = supply[hottest][1], hottest
            figures["voltage"], figures["lowest_voltage_servo"] = supply[weakest][0], weakest
            hot = [servo for servo in supply if supply[servo][1] >= self.settings.temperature_warning]
            figures["hot"] = ", ".join(f"servo {servo}: {supply[servo][1]:g} deg C" for servo in sorted(hot))
        return figures

    # ---- parts -----------------------------------------------------------------------------

    def _each(self, name: str, values: Sequence[float]) -> FloatArray:
        """An entry an actuator, (nu,)."""
        count = len(self._ids)
        if len(values) not in (1, count):
            raise ValueError(f"dynamixel.{name} has {len(values)} entries; expected {count}, one an actuator, or one")
        return np.full(count, values, np.float64)

    def _connected(self) -> dxl.Bus:
        if self._bus is None:
            raise DriverError("the servos are not connected; call connect first")
        return self._bus

    def _awake(self) -> dxl.Bus:
        """The bus; after a silence that may have tripped watchdogs, only if it has tripped none."""
        bus = self._connected()
        if self._active and self._watchdog and bus.silence > self._watchdog * dxl.WATCHDOG_UNIT:
            for servo in self._ids:
                self._look(bus, servo, dxl.BUS_WATCHDOG)
        return bus

    def _find(self, bus: dxl.Bus) -> list[dxl.Model]:
        """The models of all servos, in order."""
        numbers, problems = {}, []
        for servo in self._ids:
            try:
                numbers[servo] = bus.ping(servo)
            except DriverError as error:
                problems.append(str(error))
        own = self.settings
        if problems:
            raise DriverError(f"missing on {own.port} at {own.baudrate} bit/s: {'; '.join(problems)}")
        for servo, number in numbers.items():
            if number not in dxl.MODELS:
                raise DriverError(f"servo {servo}: model number {number} is none of the X series or MX(2.0)")
        models = [dxl.MODELS[numbers[servo]] for servo in self._ids]
        for servo, model in zip(self._ids, models, strict=True):
            if model.current_unit is None and self._mode != POSITION:
                raise DriverError(
                    f"servo {servo}: {model.name} cannot control its current; use dynamixel.mode: position "
                    "without dynamixel.current_limit"
                )
        return models

    def _read_limits(self, bus: dxl.Bus, models: Sequence[dxl.Model]) -> None:
        """How far goals may go, (nu,) in the servos' units."""
        count = len(self._ids)
        if self._mode != POSITION:
            self._unit = np.array([model.current_unit for model in models], np.float64)  # mA
            self._most = np.array([bus.read(servo, dxl.CURRENT_LIMIT) for servo in self._ids], np.float64)
            if self.settings.current_limit:
                self._most = np.minimum(self._most, np.floor(self.settings.current_limit / self._unit))
        if self._mode == CURRENT:
            self._low, self._high = -self._most, self._most
            return
        if self._mode == CURRENT_BASED_POSITION:  # 256 turns to either side
            self._low, self._high = np.full(count, -1_048_575.0), np.full(count, 1_048_575.0)
            return
        self._low = np.array([bus.read(servo, dxl.MIN_POSITION_LIMIT) for servo in self._ids], np.float64)
        self._high = np.array([bus.read(servo, dxl.MAX_POSITION_LIMIT) for servo in self._ids], np.float64)
        for bound in (self.task.action_low, self.task.action_high):
            goals = self._goals(bound)
            for i in np.flatnonzero((goals < self._low) | (goals > self._high)):
                raise DriverError(
                    f"servo {self._ids[i]}: control {bound[i]:g} of actuator '{_actuator(self.task.model, int(i))}' "
                    f"would be position {goals[i]:.0f}, its position limits are {self._low[i]:.0f} .. "
                    f"{self._high[i]:.0f}; check dynamixel.zeros, signs and ratios"
                )

    def _goals(self, action: FloatArray) -> FloatArray:
        """Controls (nu,) in the servos' units (nu,), whole numbers."""
        if self._mode == CURRENT:
            force = np.clip(self._gain * action, self._force_low, self._force_high)
            return np.asarray(np.rint(self._current * force / self._unit))
        return np.asarray(np.rint((action / self._gear - self._zero) / self._angle + dxl.POSITION_CENTRE))

    def _look(self, bus: dxl.Bus, servo: int, register: dxl.Register) -> None:
        """Read and judge one register of a servo's health."""
        data = bus.read_bytes(servo, register)
        if register is dxl.SUPPLY:
            voltage, temperature = dxl.SUPPLY_FORMAT.unpack(data)
            self._supply[servo] = voltage * dxl.VOLTAGE_UNIT, float(temperature)
        elif register is dxl.HARDWARE_ERROR_STATUS:
            if data[0]:
                self._errors[servo] = data[0]
            else:
                self._errors.pop(servo, None)
        elif self._active and register is dxl.TORQUE_ENABLE and data[0] != 1:
            raise DriverError(f"servo {servo}: its torque is off: it has restarted, or somebody else uses the bus")
        elif self._active and register is dxl.BUS_WATCHDOG and data[0] == dxl.WATCHDOG_TRIPPED:
            raise DriverError(f"servo {servo}: its watchdog stopped it: no packet for {self.settings.watchdog:g} s")

    def _refuse_errors(self) -> None:
        if self._errors:
            raise DriverError(f"hardware error: {self._described(self._errors)}; remove the cause, restart the servo")

    @staticmethod
    def _described(errors: Mapping[int, int]) -> str:
        return "; ".join(f"servo {servo}: {dxl.hardware_errors(bits)}" for servo, bits in sorted(errors.items()))


def _actuator(model: mujoco.MjModel, index: int) -> str:
    return model.actuator(index).name or str(index)


def _joints(model: mujoco.MjModel, position: bool) -> list[int]:
    """The joint of each actuator; ValueError for one that no servo can be."""
    joints: list[int] = []
    for i in range(model.nu):
        name = f"actuator '{_actuator(model, i)}'"
        if model.actuator_trntype[i] != int(mujoco.mjtTrn.mjTRN_JOINT):
            raise ValueError(f"{name} does not act on a joint; a servo drives a hinge")
        joint = int(model.actuator_trnid[i, 0])
        if model.jnt_type[joint] != int(mujoco.mjtJoint.mjJNT_HINGE):
            raise ValueError(f"{name} acts on joint '{model.joint(joint).name}', which is no hinge")
        if joint in joints:
            raise ValueError(f"{name} acts on joint '{model.joint(joint).name}', as another actuator does")
        if model.actuator_dyntype[i] != int(mujoco.mjtDyn.mjDYN_NONE):
            raise ValueError(f"{name} has an activation, which servos do not measure")
        gain, bias = model.actuator_gainprm[i], model.actuator_biasprm[i]
        fixed = model.actuator_gaintype[i] == int(mujoco.mjtGain.mjGAIN_FIXED)
        torque = model.actuator_biastype[i] == int(mujoco.mjtBias.mjBIAS_NONE)
        affine = model.actuator_biastype[i] == int(mujoco.mjtBias.mjBIAS_AFFINE)
        if not model.actuator_gear[i, 0]:
            raise ValueError(f"{name} has gear 0")
        if not position and not (fixed and torque):
            raise ValueError(f"{name} is no motor, whose controls are torques; dynamixel.mode: current needs motors")
        if position and not (fixed and affine and gain[0] > 0.0 and bias[0] == 0.0 and bias[1] == -gain[0]):
            raise ValueError(f"{name} is no position servo; dynamixel.mode: position needs <position> actuators")
        if position and not model.actuator_ctrllimited[i]:
            raise ValueError(f"{name} has no ctrlrange; dynamixel.mode: position needs one")
        joints.append(joint)
    return joints
