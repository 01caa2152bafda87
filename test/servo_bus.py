"""A bus of Dynamixel servos behind a pseudo-terminal, with faults: protocol 2.0 and the X series' control table.

Written from the manual alone, without the SDK, so that it can judge what the driver sends. Servos are simple: in
mode current, velocity is proportional to current; in mode position, servos run at constant speed to their goal.
"""

from __future__ import annotations

import os
import select
import struct
import threading
import time
import tty
from collections.abc import Callable
from types import TracebackType

HEADER = b"\xff\xff\xfd\x00"
PING, READ, WRITE, REBOOT, STATUS, SYNC_READ, SYNC_WRITE = 0x01, 0x02, 0x03, 0x08, 0x55, 0x82, 0x83
BROADCAST = 0xFE
DATA_RANGE, DATA_LIMIT, ACCESS, INSTRUCTION = 4, 6, 7, 2
ALERT = 0x80

# ---- packets -----------------------------------------------------------------------------------


def crc16(data: bytes) -> int:
    """CRC-16 of x^16 + x^15 + x^2 + 1, from 0, highest bit first."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ 0x8005 if crc & 0x8000 else crc << 1
            crc &= 0xFFFF
    return crc


def stuff(content: bytes) -> bytes:
    out = bytearray()
    for byte in content:
        out.append(byte)
        if out[-3:] == b"\xff\xff\xfd":
            out.append(0xFD)
    return bytes(out)


def unstuff(content: bytes) -> bytes:
    out = bytearray()
    follows = False  # a stuffed byte
    run = bytearray()
    for byte in content:
        if follows:
            assert byte == 0xFD, f"{content.hex(' ')}: FF FF FD without the FD that must follow"
            follows, run = False, bytearray()
            continue
        out.append(byte)
        run = (run + bytes([byte]))[-3:]
        follows = run == b"\xff\xff\xfd"
    return bytes(out)


def frame(servo: int, instruction: int, parameters: bytes) -> bytes:
    """A whole packet."""
    content = stuff(bytes([instruction]) + parameters)
    packet = HEADER + struct.pack("<BH", servo, len(content) + 2) + content
    return packet + struct.pack("<H", crc16(packet))


def unframe(buffer: bytearray) -> tuple[int, int, bytes] | None:
    """Take the next packet out of `buffer`: servo, instruction, parameters; None: there is none yet."""
    while (start := buffer.find(HEADER)) >= 0:
        del buffer[:start]
        if len(buffer) < 7:
            return None
        servo, length = struct.unpack_from("<BH", buffer, 4)
        if len(buffer) < 7 + length:
            return None
        packet = bytes(buffer[: 7 + length])
        del buffer[: 7 + length]
        if crc16(packet[:-2]) == struct.unpack("<H", packet[-2:])[0]:
            content = unstuff(packet[7:-2])
            return servo, content[0], content[1:]
    return None


# ---- servos ------------------------------------------------------------------------------------

# Address and size of what may be written.
EEPROM = {9: 1, 11: 1, 20: 4, 31: 1, 38: 2, 48: 4, 52: 4, 63: 1}
RAM = {64: 1, 65: 1, 68: 1, 98: 1, 100: 2, 102: 2, 104: 4, 108: 4, 112: 4, 116: 4}
GOALS = (100, 102, 104, 116)
# Address and size of what is read only; other addresses do not exist.
FIXED = {0: 2, 2: 4, 6: 1, 7: 1, 10: 1, 69: 1, 70: 1, 120: 2, 122: 1, 123: 1, 124: 2, 126: 2, 128: 4, 132: 4}
FIXED |= {136: 4, 140: 4, 144: 2, 146: 1}
EXISTS = {address + i for table in (EEPROM, RAM, FIXED) for address, size in table.items() for i in range(size)}
MODES = {1020: (0, 1, 3, 4, 5, 16), 1060: (1, 3, 4, 16)}


class Servo:
    """One servo: control table, protections, and a horn that turns.

    Args:
        number: Its id.
        model: Number; 1020: XM430-W350, 1060: XL430-W250, which controls no current.
        position: Where its horn is.
        gain: Velocity per current, in units of the table.
        speed: In mode position, units of position per s.
    """

    def __init__(self, number: int, model: int = 1020, position: int = 2048, gain: float = 0.5, speed: float = 2e4):
        self.number, self.model, self.gain, self.speed = number, model, gain, speed
        self.table = bytearray(256)
        self.put(0, 2, model)
        self.put(6, 1, 45)
        self.put(7, 1, number)
        for address, size, value in ((11, 1, 3), (38, 2, 1193), (48, 4, 4095), (52, 4, 0), (68, 1, 2)):
            self.put(address, size, value)
        self.put(144, 2, 120)
        self.put(146, 1, 35)
        self.position, self.velocity = float(position), 0.0
        self.put(116, 4, position)
        self.power_ons = 0  # how often torque was switched on
        self.accepted: list[tuple[int, int]] = []  # address and value of all that was written and taken
        self.alive = True
        self._born = self._moved = time.monotonic()
        self._skipped = 0.0
        self.heard = time.monotonic()

    def get(self, address: int, size: int, signed: bool = True) -> int:
        return int.from_bytes(self.table[address : address + size], "little", signed=signed)

    def put(self, address: int, size: int, value: int) -> None:
        self.table[address : address + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")

    @property
    def torque(self) -> bool:
        return bool(self.table[64])

    def move(self) -> None:
        """Let the time pass that has passed."""
        now = time.monotonic()
        dt, self._moved = now - self._moved, now
        mode, limit = self.table[11], self.table[98]
        if self.torque and 1 <= limit <= 127 and now - self.heard > 0.02 * limit:
            self.table[98] = 0xFF
            self.put(102, 2, 0)
            self.put(116, 4, round(self.position))
        before = self.position
        if self.torque and mode == 0:
            self.position += 1e2 * self.gain * self.get(102, 2) * dt
        elif self.torque and mode in (3, 4, 5):
            left = self.get(116, 4) - self.position
            self.position += max(-self.speed * dt, min(self.speed * dt, left))
        if self.position != before:
            self.velocity = (self.position - before) / max(dt, 1e-6) / 15.63  # 0.229 rev/min: 15.63 positions a second
        elif self.torque:
            self.velocity = 0.0
        self.put(126, 2, self.get(102, 2) if self.torque and mode == 0 else 0)
        self.put(128, 4, round(self.velocity))
        self.put(132, 4, round(self.position))
        self.put(120, 2, int((now - self._born + self._skipped) * 1e3) % 32768)

    def fail(self, bits: int) -> None:
        """A hardware error, which switches the torque off."""
        self.table[70] |= bits
        self.table[64] = 0

    def reboot(self, clock: float = 12.345) -> None:
        """Restart: RAM is lost, the torque is off, the clock begins anew, here as if `clock` s ago."""
        for address, size in RAM.items():
            self.put(address, size, 0)
        self.table[68], self.table[70] = 2, 0
        self._born, self._skipped = time.monotonic(), clock

    def read(self, address: int, size: int) -> tuple[int, bytes]:
        """Error number and data."""
        if not EXISTS.issuperset(range(address, address + size)):
            return ACCESS, b""
        self.move()
        return 0, bytes(self.table[address : address + size])

    def write(self, address: int, data: bytes) -> int:
        """Error number."""
        self.move()
        known = EEPROM | RAM
        if known.get(address) != len(data) or (address in EEPROM and self.torque):
            return ACCESS
        value = int.from_bytes(data, "little", signed=True)
        if address == 11 and value not in MODES[self.model]:
            return DATA_RANGE
        if address in GOALS and self.table[98] == 0xFF:
            return DATA_RANGE
        if address == 102 and abs(value) > self.get(38, 2):
            return DATA_LIMIT
        if address == 116 and self.table[11] == 3 and not self.get(52, 4) <= value <= self.get(48, 4):
            return DATA_LIMIT
        if address == 64 and value and self.table[70]:
            return ACCESS
        if address == 11 and value != self.table[11]:
            self.put(102, 2, self.get(38, 2))
        if address == 64 and value and not self.torque:
            self.power_ons += 1
        self.table[address : address + len(data)] = data
        self.accepted.append((address, value))
        return 0


# ---- the bus -----------------------------------------------------------------------------------

# What becomes of a status packet: (number of packets so far, servo, packet) -> what goes onto the line.
Fault = Callable[[int, int, bytes], bytes]


class ServoBus:
    """Servos on one line, in a thread; `path` is the serial port. A context manager.

    Args:
        servos: With different numbers.
        chained: In a sync read a servo waits for the one before, and is silent if that one is.
    """

    def __init__(self, *servos: Servo, chained: bool = False) -> None:
        self.servos = {servo.number: servo for servo in servos}
        self.chained = chained
        self.fault: Fault | None = None
        self.silent: set[int] = set()  # hear nothing and say nothing
        self.mute: set[int] = set()  # hear, and say nothing
        self.late = 0  # how many packets answers come late
        self.requests: list[tuple[int, int, bytes]] = []  # every packet that came in
        self._queue: list[bytes] = []
        self._answers = 0
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self.path = os.ttyname(self._slave)
        self._over = threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="servo bus", daemon=True)

    def __enter__(self) -> ServoBus:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None):
        self._over.set()
        self._thread.join(timeout=10.0)
        self.unplug()
        if self.error is not None and kind is None:
            raise self.error

    def __getitem__(self, number: int) -> Servo:
        return self.servos[number]

    def unplug(self) -> None:
        """The port is gone."""
        self._over.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=10.0)
        for end in ("_master", "_slave"):
            if getattr(self, end) >= 0:
                os.close(getattr(self, end))
                setattr(self, end, -1)

    def _run(self) -> None:
        buffer = bytearray()
        try:
            while not self._over.is_set():
                if select.select([self._master], [], [], 0.005)[0]:
                    buffer += os.read(self._master, 4096)
                    while (request := unframe(buffer)) is not None:
                        self.requests.append(request)
                        self._handle(*request)
                for servo in self.servos.values():
                    servo.move()
        except BaseException as error:  # noqa: BLE001  shown when the bus is left
            self.error = error

    def _handle(self, to: int, instruction: int, parameters: bytes) -> None:
        now = time.monotonic()
        for number, servo in self.servos.items():
            servo.move()
            if number not in self.silent:
                servo.heard = now
        if instruction == SYNC_READ:
            address, size = struct.unpack_from("<HH", parameters)
            for number in parameters[4:]:
                said = number in self.servos and self._answer(number, *self.servos[number].read(address, size))
                if not said and self.chained:
                    return
        elif instruction == SYNC_WRITE:
            address, size = struct.unpack_from("<HH", parameters)
            for start in range(4, len(parameters), 1 + size):
                number, data = parameters[start], parameters[start + 1 : start + 1 + size]
                assert len(data) == size, parameters.hex(" ")
                if number in self.servos and number not in self.silent:
                    self.servos[number].write(address, data)
        elif to in self.servos and to not in self.silent:
            self._alone(self.servos[to], instruction, parameters)

    def _alone(self, servo: Servo, instruction: int, parameters: bytes) -> None:
        """What is asked of one servo only."""
        if instruction == PING:
            self._answer(servo.number, 0, struct.pack("<HB", servo.model, servo.table[6]), level=0)
        elif instruction == READ:
            address, size = struct.unpack("<HH", parameters)
            self._answer(servo.number, *servo.read(address, size))
        elif instruction == WRITE:
            error = servo.write(struct.unpack_from("<H", parameters)[0], parameters[2:])
            self._answer(servo.number, error, b"", level=2)
        elif instruction == REBOOT:
            self._answer(servo.number, 0, b"")
            servo.reboot()
        else:
            self._answer(servo.number, INSTRUCTION, b"")

    def _answer(self, number: int, error: int, data: bytes, level: int = 1) -> bool:
        """Put a status packet onto the line, or what the fault makes of it; False: nothing.

        `level`: status return level from which on a servo answers such a packet.
        """
        servo = self.servos[number]
        if number in self.silent | self.mute or servo.table[68] < level:
            return False
        packet = frame(number, STATUS, bytes([error | (ALERT if servo.table[70] else 0)]) + data)
        self._answers += 1
        if self.fault is not None:
            packet = self.fault(self._answers, number, packet)
        self._queue.append(packet)
        while len(self._queue) > self.late:
            os.write(self._master, self._queue.pop(0))
        return bool(packet)
