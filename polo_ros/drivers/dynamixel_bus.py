"""Dynamixel servos on one serial line: packets of protocol 2.0, registers of the X series, retries.

Sources: ROBOTIS e-Manual, "DYNAMIXEL Protocol 2.0" and the control tables of the X series and of MX(2.0).
"""

from __future__ import annotations

import importlib
import math
import os
import select
import struct
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from polo_ros.drivers.base import DriverError


class Register(NamedTuple):
    """One value, or several that lie side by side, in a servo's control table."""

    name: str
    address: int
    size: int  # bytes, little-endian
    signed: bool = False

    def __str__(self) -> str:
        return f"{self.name} ({self.address})"


OPERATING_MODE = Register("operating mode", 11, 1)
CURRENT_LIMIT = Register("current limit", 38, 2)
MAX_POSITION_LIMIT = Register("max position limit", 48, 4)
MIN_POSITION_LIMIT = Register("min position limit", 52, 4)
TORQUE_ENABLE = Register("torque enable", 64, 1)
STATUS_RETURN_LEVEL = Register("status return level", 68, 1)
HARDWARE_ERROR_STATUS = Register("hardware error status", 70, 1)
BUS_WATCHDOG = Register("bus watchdog", 98, 1)  # 20 ms
GOAL_CURRENT = Register("goal current", 102, 2, signed=True)
GOAL_POSITION = Register("goal position", 116, 4, signed=True)
# Realtime tick (1 ms), moving, moving status, present PWM, current, velocity, position.
MEASUREMENT = Register("realtime tick to present position", 120, 16)
MEASUREMENT_FORMAT = struct.Struct("<HBBhhii")
# Input voltage (0.1 V) and temperature (deg C).
SUPPLY = Register("present input voltage and temperature", 144, 3)
SUPPLY_FORMAT = struct.Struct("<HB")

WATCHDOG_UNIT = 0.02  # s
WATCHDOG_TRIPPED = 255
POSITION_UNIT = 2.0 * math.pi / 4096  # rad
POSITION_CENTRE = 2048
VELOCITY_UNIT = 0.0239691227  # rad/s; the manual rounds it to 0.229 rev/min
VOLTAGE_UNIT = 0.1  # V


class Model(NamedTuple):
    """What differs between servos that share the control table."""

    name: str
    current_unit: float | None  # mA; None: it neither measures nor controls current


# By model number. XL-320, PRO, P and Y have other control tables.
MODELS = {
    30: Model("MX-28", None),
    311: Model("MX-64", 3.36),
    321: Model("MX-106", 3.36),
    1000: Model("XH430-W350", 2.69),
    1001: Model("XD430-T350", 2.69),
    1010: Model("XH430-W210", 2.69),
    1011: Model("XD430-T210", 2.69),
    1020: Model("XM430-W350", 2.69),
    1030: Model("XM430-W210", 2.69),
    1040: Model("XH430-V350", 1.34),
    1050: Model("XH430-V210", 1.34),
    1060: Model("XL430-W250", None),
    1070: Model("XC430-W150", None),
    1080: Model("XC430-W240", None),
    1090: Model("2XL430-W250", None),
    1100: Model("XH540-W270", 2.69),
    1101: Model("XD540-T270", 2.69),
    1110: Model("XH540-W150", 2.69),
    1111: Model("XD540-T150", 2.69),
    1120: Model("XM540-W270", 2.69),
    1130: Model("XM540-W150", 2.69),
    1140: Model("XH540-V270", 2.69),
    1150: Model("XH540-V150", 2.69),
    1160: Model("2XC430-W250", None),
    1170: Model("XW540-T260", 2.69),
    1180: Model("XW540-T140", 2.69),
    1190: Model("XL330-M077", 1.0),
    1200: Model("XL330-M288", 1.0),
    1210: Model("XC330-T181", 1.0),
    1220: Model("XC330-T288", 1.0),
    1230: Model("XC330-M181", 1.0),
    1240: Model("XC330-M288", 1.0),
    1270: Model("XW430-T333", 2.69),
    1310: Model("XW540-H260", 2.69),
}

HARDWARE_ERRORS = {
    0x01: "input voltage",
    0x04: "overheating",
    0x08: "motor encoder",
    0x10: "electrical shock",
    0x20: "overload",
}

BROADCAST = 0xFE
PING, READ, WRITE, SYNC_READ, SYNC_WRITE = 0x01, 0x02, 0x03, 0x82, 0x83
ALERT = 0x80  # in the error byte of a status packet: see the hardware error status
CRC_ERROR = 3
REFUSALS = {
    1: "it failed to",
    2: "unknown instruction",
    4: "data range error",
    5: "data length error",
    6: "data limit error",
    7: "access error",
}


class Measurement(NamedTuple):
    """What one servo measured, in its own units."""

    current: int
    velocity: int  # VELOCITY_UNIT
    position: int  # POSITION_UNIT


class Answer(NamedTuple):
    """One status packet."""

    error: int
    data: bytes
    sent: float  # s, when the request went out
    received: float  # s


# Of a servo and its answer: whether that is an answer to this request.
Check = Callable[[int, Answer], bool]


class _Clock(NamedTuple):
    """A servo's clock as it was last read, and between which moments here, s."""

    tick: int
    sent: float
    received: float


def hardware_errors(bits: int) -> str:
    """Names of the bits of a hardware error status, separated by commas."""
    known = [name for bit, name in HARDWARE_ERRORS.items() if bits & bit]
    unknown = bits & ~sum(HARDWARE_ERRORS)
    return ", ".join([*known, f"unknown 0x{unknown:02x}"] if unknown else known)


def load_sdk() -> Any:
    """The package `dynamixel_sdk`.

    Raises:
        DriverError: It is not installed.
    """
    try:
        return importlib.import_module("dynamixel_sdk")
    except ImportError as error:
        raise DriverError(f"Dynamixel servos need `pip install polo_ros[dynamixel]` ({error})") from None


def unstuffed(packet: list[int]) -> list[int]:
    """A received packet without the bytes that keep headers out of its content, its length corrected."""
    end = 5 + (packet[5] | packet[6] << 8)  # of the content; a checksum follows
    content = bytes(packet[7:end]).replace(b"\xff\xff\xfd\xfd", b"\xff\xff\xfd")
    length = len(content) + 2
    return [*packet[:5], length & 0xFF, length >> 8, *content, *packet[end : end + 2]]


class Port:
    """A serial port as the SDK's packet handler wants one; unlike the SDK's it neither spins nor waits for ever.

    Args:
        path: Device file.
        baudrate: bit/s.
    """

    POLL = 0.001  # s
    WRITE_TIMEOUT = 0.1  # s

    def __init__(self, path: str, baudrate: int) -> None:
        self.is_using = False  # the SDK's
        serial = importlib.import_module("serial")  # comes with the SDK
        self._path = path
        self._serial = serial.Serial(path, baudrate, timeout=self.POLL, exclusive=True)
        self._deadline = 0.0
        self._left: int | None = None  # bytes that were there at the deadline and are not read yet

    def send(self, packet: Sequence[int], timeout: float) -> None:
        """Write a packet; what has come in before is forgotten, and what comes later than `timeout` s is not heard."""
        self._serial.reset_input_buffer()
        self._write(bytes(packet))
        self._deadline, self._left = time.monotonic() + timeout, None

    def _write(self, data: bytes) -> None:
        # Not pyserial's: it raises also where all is written, and this process was not run for the timeout just then.
        line, limit = self._serial.fileno(), time.monotonic() + self.WRITE_TIMEOUT
        while True:
            with suppress(BlockingIOError):
                data = data[os.write(line, data) :]
            if not data:
                return
            left = limit - time.monotonic()
            if left <= 0.0:
                raise TimeoutError(f"{self._path} takes no more bytes")
            select.select([], [line], [], left)

    def readPort(self, length: int) -> bytes:  # noqa: N802  the SDK's name
        """At most `length` bytes, waiting for them for a moment; after the deadline, of what was there by then."""
        if self.isPacketTimeout():
            return b""
        if self._left is not None:
            length = min(length, self._left)
            self._left -= length
        return bytes(self._serial.read(length))

    def isPacketTimeout(self) -> bool:  # noqa: N802  the SDK's name
        """Whether the time for answers is over, and what came in time, before this process ran again, is read."""
        if time.monotonic() < self._deadline:
            return False
        if self._left is None:
            self._left = int(self._serial.in_waiting)
        return self._left <= 0

    def close(self) -> None:
        """Release the port."""
        self._serial.close()


class Bus:
    """The servos on one serial line. Every method may raise DriverError, naming servo, register and reason.

    Args:
        path: Device file of the port.
        baudrate: bit/s.
        timeout: s to wait for an answer beyond the time that its bytes take.
        retries: How often to ask again.
    """

    RETURN_DELAY = 0.00051  # s, the longest that a servo can be set to
    LAPSE = 25.0  # s after which a servo's clock, which begins anew every 32.768 s, says nothing any more
    DRIFT = 0.05  # how wrong the servos' clocks may run
    OLDEST = 1000.0  # ms: no answer is under way for longer

    def __init__(self, path: str, baudrate: int, timeout: float, retries: int) -> None:
        sdk = load_sdk()
        self._success, self._corrupt = sdk.COMM_SUCCESS, sdk.COMM_RX_CORRUPT
        self._handler = sdk.Protocol2PacketHandler()
        # The SDK's own reads bytes that it has overwritten: after a first stuffed byte, FF FD FD loses one.
        self._handler.removeStuffing = unstuffed
        self._path, self._baudrate, self._timeout, self._retries = path, baudrate, timeout, retries
        self._clocks: dict[int, _Clock] = {}
        self.alerts: set[int] = set()  # servos that have reported a hardware error
        self.counts = {"retries": 0, "corrupt_packets": 0, "stale_packets": 0, "stray_packets": 0}
        self._sent = time.monotonic()  # the last packet
        with self._named():
            self._port = Port(path, baudrate)

    def close(self) -> None:
        """Release the port."""
        with self._named():
            self._port.close()

    @property
    def silence(self) -> float:
        """How long no packet has gone out, s."""
        return time.monotonic() - self._sent

    def ping(self, servo: int) -> int:
        """The model number of `servo`."""
        data = self._ask(servo, PING, b"", 3, "ping").data
        return data[0] | data[1] << 8

    def read(self, servo: int, register: Register) -> int:
        """The value of a register."""
        return int.from_bytes(self.read_bytes(servo, register), "little", signed=register.signed)

    def read_bytes(self, servo: int, register: Register) -> bytes:
        """The bytes of a register."""
        request = struct.pack("<HH", register.address, register.size)
        return self._ask(servo, READ, request, register.size, str(register)).data

    def write(self, servo: int, register: Register, value: int) -> None:
        """Set a register; the servo has confirmed it."""
        data = value.to_bytes(register.size, "little", signed=register.signed)
        self._ask(servo, WRITE, struct.pack("<H", register.address) + data, 0, f"{register} = {value}")

    def write_all(self, register: Register, values: Mapping[int, int]) -> None:
        """Set a register of several servos by one packet, which nobody confirms."""
        data = struct.pack("<HH", register.address, register.size)
        for servo, value in values.items():
            data += bytes([servo]) + value.to_bytes(register.size, "little", signed=register.signed)
        with self._named():
            self._send(BROADCAST, SYNC_WRITE, data, 0)

    def measure(self, servos: Sequence[int]) -> tuple[float, list[Measurement]]:
        """What all of `servos` measure, by one packet; who does not answer it is asked again alone.

        Returns the middle of the time that it took, s of time.monotonic(), and the measurements.
        """
        request = struct.pack("<HH", MEASUREMENT.address, MEASUREMENT.size)
        begun = time.monotonic()
        sizes = dict.fromkeys(servos, MEASUREMENT.size)
        answers, heard = self._exchange(BROADCAST, SYNC_READ, request + bytes(servos), sizes, self._fresh)
        out = []
        for servo in servos:
            answer = answers.get(servo)
            if answer is None or answer.error & ~ALERT:
                answer = self._ask(
                    servo, READ, request, MEASUREMENT.size, str(MEASUREMENT), self._fresh, tried=1, heard=heard
                )
            tick, _, _, _, current, velocity, position = MEASUREMENT_FORMAT.unpack(answer.data)
            self._clocks[servo] = _Clock(tick, answer.sent, answer.received)
            out.append(Measurement(current, velocity, position))
        return 0.5 * (begun + time.monotonic()), out

    # ---- packets ---------------------------------------------------------------------------

    def _ask(
        self,
        servo: int,
        instruction: int,
        parameters: bytes,
        size: int,
        what: str,
        check: Check | None = None,
        tried: int = 0,
        heard: str = "",
    ) -> Answer:
        """The `size` bytes that `servo` answers. `tried`: attempts before this call, which `heard` something else."""
        for _ in range(tried, 1 + self._retries):
            self.counts["retries"] += tried > 0
            tried += 1
            answers, heard = self._exchange(servo, instruction, parameters, {servo: size}, check)
            if servo not in answers:
                continue
            error = answers[servo].error & ~ALERT
            if not error:
                return answers[servo]
            if error != CRC_ERROR:
                raise DriverError(f"servo {servo}: {what}: refused: {REFUSALS.get(error, f'error {error}')}")
            heard = "it received a corrupt packet"
        attempts = "1 attempt" if tried == 1 else f"{tried} attempts"
        raise DriverError(f"servo {servo}: {what}: {heard or 'no answer'} ({attempts})")

    def _exchange(
        self, to: int, instruction: int, parameters: bytes, sizes: Mapping[int, int], check: Check | None
    ) -> tuple[dict[int, Answer], str]:
        """Send one packet and gather what the servos of `sizes` answer, that many bytes each.

        Returns what came in time, by servo, and what else was heard.
        """
        answers: dict[int, Answer] = {}
        doubtful: set[int] = set()
        heard: list[str] = []
        corrupt = 0  # each was an answer: it will not come again
        with self._named():
            sent = time.monotonic()
            self._send(to, instruction, parameters, sum(sizes.values()) + 11 * len(sizes), len(sizes))
            while len(answers) + corrupt < len(sizes):
                packet, result = self._handler.rxPacket(self._port, False)
                received = time.monotonic()
                if result != self._success:
                    if result == self._corrupt:
                        corrupt += 1
                        self.counts["corrupt_packets"] += 1
                        heard.append("corrupt packet")
                    if self._port.isPacketTimeout():
                        break
                    continue
                servo = packet[4]
                data = bytes(packet[9 : 5 + (packet[5] | packet[6] << 8)])
                answer = Answer(packet[8], data, sent, received)
                refused = answer.error & ~ALERT
                if servo not in sizes:
                    self.counts["stray_packets"] += 1
                    heard.append(f"answer of servo {servo}")
                elif not refused and len(data) != sizes[servo]:
                    self.counts["stray_packets"] += 1
                    heard.append(f"{len(data)} bytes instead of {sizes[servo]}")
                elif not refused and check is not None and not check(servo, answer):
                    self.counts["stale_packets"] += 1
                    heard.append("answer to an earlier question")
                elif servo in doubtful or (servo in answers and answers[servo].data != data):
                    self.counts["stray_packets"] += 1
                    answers.pop(servo, None)
                    doubtful.add(servo)
                    heard.append(f"two answers of servo {servo}")
                else:
                    if answer.error & ALERT:
                        self.alerts.add(servo)
                    answers[servo] = answer
        return answers, ", ".join(dict.fromkeys(heard))

    def _send(self, to: int, instruction: int, parameters: bytes, expected: int, answers: int = 0) -> None:
        """Send a packet and set the time for that many bytes of answers."""
        length = len(parameters) + 3
        packet = [0xFF, 0xFF, 0xFD, 0x00, to, length & 0xFF, length >> 8, instruction, *parameters, 0, 0]
        # The SDK's txPacket drops what its addStuffing returns.
        packet = self._handler.addStuffing(packet)
        packet[-2:] = struct.pack("<H", self._handler.updateCRC(0, packet, len(packet) - 2))
        bits = 10 * (len(packet) + expected)
        self._port.is_using = False  # as an exception in the middle of a packet may have left it
        self._sent = time.monotonic()
        self._port.send(packet, bits / self._baudrate + answers * self.RETURN_DELAY + self._timeout)

    def _fresh(self, servo: int, answer: Answer) -> bool:
        """Whether a measurement was made after the request for it went out, by the servo's own clock."""
        before = self._clocks.get(servo)
        if before is None or answer.received - before.sent > self.LAPSE:
            return True
        (tick,) = struct.unpack_from("<H", answer.data)
        slack = 2.0 + 1e3 * self.DRIFT * (answer.received - before.sent)
        least = 1e3 * (answer.sent - before.received) - slack  # ms that must have passed for the servo
        most = 1e3 * (answer.received - before.sent) + slack
        middle = 0.5 * (least + most)
        passed = (tick - before.tick - middle + 16384) % 32768 - 16384 + middle
        if not least - self.OLDEST <= passed <= most:
            raise DriverError(
                f"servo {servo}: its clock jumped by {passed - middle:.0f} ms: it has restarted; check its power"
            )
        return bool(passed >= least)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors of the port as DriverError."""
        try:
            yield
        except (OSError, ValueError, termios.error) as error:
            raise DriverError(f"{self._path}: {error}") from error
