"""The driver dynamixel, against a simulated bus that speaks the protocol by itself and fails on demand."""

from __future__ import annotations

import importlib.util
import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from servo_bus import STATUS, SYNC_READ, SYNC_WRITE, Servo, ServoBus, frame, unframe

from polo_ros import drivers
from polo_ros.drivers import dynamixel_bus as dxl
from polo_ros.drivers.base import DriverError
from polo_ros.drivers.dynamixel import DynamixelDriver, DynamixelSettings
from polo_ros.drivers.guard import GuardedDriver
from polo_ros.tasks.base import ObservationSpec, Task
from polo_ros.testing import DriverConformance

# A floating base, three driven hinges whose actuators stand in another order, one hinge that nothing drives.
XML = """
<mujoco>
  <compiler angle="radian"/>
  <worldbody>
    <body pos="0 0 0.7">
      <freejoint/><geom size="0.1"/>
      <body>
        <joint name="a"/><geom size="0.1"/>
        <body>
          <joint name="loose" ref="0.3"/><geom size="0.1"/>
          <body>
            <joint name="b"/><geom size="0.1"/>
            <body><joint name="c"/><geom size="0.1"/></body>
          </body>
        </body>
      </body>
    </body>
  </worldbody>
  <actuator>{}</actuator>
</mujoco>
"""
MOTORS = """
<motor name="c" joint="c" gear="2" ctrlrange="-1 1" ctrllimited="true"/>
<motor name="a" joint="a" ctrlrange="-1 1" ctrllimited="true"/>
<motor name="b" joint="b" gear="-1" ctrlrange="-1 1" ctrllimited="true"/>
"""
TARGETS = MOTORS.replace("<motor", '<position kp="5"').replace('gear="2"', 'gear="1"')
IDS = (7, 3, 12)  # of c, a, b
ANSWER = 0.4  # s to wait for an answer: none is expected to be later, and a missing one costs that
LONG = 20.0  # s after which something that must happen has not


class Arm(Task):
    name = "arm"
    description = "for these tests"
    control_dt = 0.02
    discount = 0.99
    observation_spec = ObservationSpec((("nothing", 0),))

    def __init__(self, actuators: str = MOTORS) -> None:
        self.model = mujoco.MjModel.from_xml_string(XML.format(actuators))

    def reset(self, rng: np.random.Generator) -> Any:
        return self.pack(0.0, self.model.qpos0, np.zeros(self.model.nv), np.zeros(0))

    def observe(self, sensordata: Any) -> Any:
        return sensordata[..., :0]

    def reward(self, obs: Any, action: Any, next_obs: Any) -> Any:
        return 0.0 * action[..., 0]


def wired(**changes: Any) -> DynamixelSettings:
    own: dict[str, Any] = {
        "ids": IDS,
        "signs": (1, -1, 1),
        "zeros": (0.1, 0.0, -0.5),
        "ratios": (1.0, 2.0, 1.0),
        "torque_constants": (1.8,),
        "watchdog": 2.54,
        "timeout": ANSWER,
    }
    return DynamixelSettings(**own | changes)


def driven(bus: ServoBus, mode: str = "current", **changes: Any) -> DynamixelDriver:
    task = Arm(MOTORS if mode == "current" else TARGETS)
    return DynamixelDriver(task, 0, wired(port=bus.path, mode=mode, **changes))


@pytest.fixture
def bus() -> Iterator[ServoBus]:
    with ServoBus(*(Servo(number) for number in IDS)) as made:
        yield made


@pytest.fixture
def driver(bus: ServoBus) -> Iterator[DynamixelDriver]:
    """Connected."""
    made = driven(bus)
    made.connect()
    yield made
    with suppress(DriverError):
        made.close()


@pytest.fixture
def active(driver: DynamixelDriver) -> DynamixelDriver:
    driver.activate()
    return driver


def eventually(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


def said(requests: list[tuple[int, int, bytes]]) -> list[int]:
    return [instruction for _, instruction, _ in requests]


# ---- packets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "published"),
    [
        (frame(1, 1, b""), "FF FF FD 00 01 03 00 01 19 4E"),
        (frame(1, 0x55, b"\x00\x06\x04\x26"), "FF FF FD 00 01 07 00 55 00 06 04 26 65 5D"),
        (frame(1, 2, b"\x84\x00\x04\x00"), "FF FF FD 00 01 07 00 02 84 00 04 00 1D 15"),
        (frame(1, 3, b"\x74\x00\x00\x02\x00\x00"), "FF FF FD 00 01 09 00 03 74 00 00 02 00 00 CA 89"),
        (frame(0xFE, 0x82, b"\x84\x00\x04\x00\x01\x02"), "FF FF FD 00 FE 09 00 82 84 00 04 00 01 02 CE FA"),
        (
            frame(0xFE, 0x83, b"\x74\x00\x04\x00\x01\x96\x00\x00\x00\x02\xaa\x00\x00\x00"),
            "FF FF FD 00 FE 11 00 83 74 00 04 00 01 96 00 00 00 02 AA 00 00 00 82 87",
        ),
    ],
)
def test_the_simulated_bus_speaks_as_the_manuals_examples(packet: bytes, published: str) -> None:
    assert packet == bytes.fromhex(published)


class Wire:
    """In the place of a port: keeps what is sent, gives what is `coming`."""

    def __init__(self, *_: Any) -> None:
        self.coming = b""

    def send(self, packet: list[int], timeout: float) -> None:
        self.sent = bytes(packet)

    def readPort(self, length: int) -> bytes:  # noqa: N802
        out, self.coming = self.coming[:length], self.coming[length:]
        return out

    def isPacketTimeout(self) -> bool:  # noqa: N802
        return not self.coming

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def wire() -> Iterator[tuple[dxl.Bus, Wire]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dxl, "Port", Wire)
        made = dxl.Bus("nowhere", 1_000_000, 0.01, 0)
    wire: Any = made._port
    yield made, wire


# Rich in what looks like a header.
BYTES = st.lists(
    st.one_of(
        st.sampled_from([b"\xff", b"\xfd", b"\xff\xff\xfd", b"\xff\xff\xfd\x00", b"\xff\xff\xfd\xfd", b"\x55"]),
        st.binary(max_size=3),
    ),
    max_size=20,
).map(b"".join)


@settings(deadline=None)
@given(content=BYTES, servo=st.integers(0, 252))
def test_whatever_is_sent_arrives(wire: tuple[dxl.Bus, Wire], content: bytes, servo: int) -> None:
    bus, line = wire
    bus._send(servo, 3, content, 0)
    assert unframe(bytearray(line.sent)) == (servo, 3, content)


@settings(deadline=None)
@given(content=BYTES, servo=st.integers(0, 252))
@example(content=b"\xff\xff\xfd\x01\xff\xfd\xfd\x03", servo=1)  # which the SDK's own reader gets wrong
def test_whatever_is_answered_is_read(wire: tuple[dxl.Bus, Wire], content: bytes, servo: int) -> None:
    bus, line = wire
    line.coming = frame(servo, STATUS, b"\0" + content)
    answers, _ = bus._exchange(servo, 2, b"", {servo: len(content)}, None)
    assert answers[servo].data == content


@settings(deadline=None)
@given(before=BYTES, content=BYTES, data=st.data())
def test_no_noise_makes_a_wrong_answer(
    wire: tuple[dxl.Bus, Wire], before: bytes, content: bytes, data: st.DataObject
) -> None:
    bus, line = wire
    packet = bytearray(frame(4, STATUS, b"\0" + content))
    at = data.draw(st.integers(0, len(packet) - 1))
    packet[at] ^= data.draw(st.integers(0, 255))
    line.coming = before + bytes(packet)
    answers, _ = bus._exchange(4, 2, b"", {4: len(content)}, None)
    assert 4 not in answers or answers[4].data == content


def test_registers_lie_where_the_makers_tables_have_them() -> None:
    spec = importlib.util.find_spec("dynamixel_easy_sdk")
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent / "control_table"
    files = dict(line.split() for line in (folder / "dynamixel.model").read_text().splitlines()[1:] if line.strip())
    names = {
        "max position limit": "Max Position Limit",
        "min position limit": "Min Position Limit",
        "status return level": "Status Return Level",
    }
    single = [one for one in vars(dxl).values() if isinstance(one, dxl.Register)]
    for number, model in dxl.MODELS.items():
        text = (folder / files[str(number)]).read_text()
        assert files[str(number)].partition(".")[0].upper().replace("_", "-").startswith(model.name[:5].upper())
        table = {}
        for line in text.partition("[control table]")[2].splitlines()[2:]:
            if line.strip():
                address, size, name = line.split("\t")
                table[name.strip().lower()] = (int(address), int(size))
        for register in single:
            if register in (dxl.MEASUREMENT, dxl.SUPPLY):
                continue
            if model.current_unit is None and register in (dxl.GOAL_CURRENT, dxl.CURRENT_LIMIT):
                assert register.name not in table
                continue
            assert table[names.get(register.name, register.name).lower()] == (register.address, register.size)
        present = "present load" if model.current_unit is None else "present current"
        assert (table["realtime tick"], table[present]) == ((120, 2), (126, 2))
        assert (table["present velocity"], table["present position"]) == ((128, 4), (132, 4))
        assert (table["present input voltage"], table["present temperature"]) == ((144, 2), (146, 1))
        assert f"Present Velocity\t{dxl.VELOCITY_UNIT}\trad/s" in text


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actuators", "mode", "reason"),
    [
        ("", "current", "the model has no actuators"),
        ('<motor name="m" site="tip"/>', "current", "'m' does not act on a joint"),
        ('<motor name="m" joint="slide"/>', "current", "joint 'slide', which is no hinge"),
        ('<motor name="m" joint="a"/><motor joint="a"/>', "current", "'1' acts on joint 'a', as another"),
        ('<position name="m" joint="a"/>', "current", "'m' is no motor"),
        ('<velocity name="m" joint="a"/>', "position", "'m' is no position servo"),
        ('<motor name="m" joint="a"/>', "position", "'m' is no position servo"),
        ('<position name="m" joint="a"/>', "position", "'m' has no ctrlrange"),
        ('<general name="m" joint="a" dyntype="integrator"/>', "current", "'m' has an activation"),
        ('<motor name="m" joint="a" gear="0"/>', "current", "'m' has gear 0"),
    ],
)
def test_models_that_servos_cannot_drive_are_refused(actuators: str, mode: str, reason: str) -> None:
    task = Arm("")
    slide = '<site name="tip"/><body><joint name="slide" type="slide"/><geom size="0.1"/></body>'
    task.model = mujoco.MjModel.from_xml_string(
        XML.format(actuators).replace("</worldbody>", f"<body>{slide}</body></worldbody>")
    )
    with pytest.raises(ValueError, match=reason):
        DynamixelDriver(task, 0, wired(ids=tuple(range(1, task.model.nu + 1)), mode=mode, signs=(1,)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ids": ()}, "ids has 0 entries, the model 3 actuators"),
        ({"ids": (1, 2, 1)}, "names a servo twice"),
        ({"signs": (1, 1)}, "signs has 2 entries; expected 3"),
        ({"signs": (1, 0, 1)}, "neither 1 nor -1"),
        ({"torque_constants": ()}, "torque_constants has 0 entries"),
        ({"watchdog": 0.03}, "shorter than two control periods of 0.02 s"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        DynamixelDriver(Arm(), 0, wired(**changes))


def test_without_the_sdk_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dynamixel_sdk", None)
    with pytest.raises(DriverError, match=r"pip install polo_ros\[dynamixel\]"):
        DynamixelDriver(Arm(), 0, wired())
    assert "Dynamixel servos" in drivers.describe("dynamixel")


def test_it_is_found_by_name_with_its_settings() -> None:
    assert isinstance(drivers.make("dynamixel", Arm(), 0, wired()), DynamixelDriver)
    assert not DynamixelDriver(Arm(), 0, wired()).can_reset


def test_a_port_that_is_not_there_is_named() -> None:
    made = DynamixelDriver(Arm(), 0, wired(port="/dev/no_such_port"))
    with pytest.raises(DriverError, match="/dev/no_such_port"):
        made.connect()
    made.stop()
    made.close()


def test_a_port_is_for_one_driver_alone(bus: ServoBus, driver: DynamixelDriver) -> None:
    with pytest.raises(DriverError, match=bus.path):
        driven(bus).connect()


# ---- units -------------------------------------------------------------------------------------


def test_angles_and_velocities_are_those_of_the_table(bus: ServoBus, driver: DynamixelDriver) -> None:
    for number, position, velocity in ((7, 3072, 100), (3, 1024, 100), (12, 2560, -50)):
        bus[number].position, bus[number].velocity = position, velocity
    state = driver.read()
    model = driver.task.model
    # c: 0.1 + pi/2; a: -1 * -pi/2 / 2; b: -0.5 + pi/4; velocities in units of 0.0239691227 rad/s
    expected = {"c": (1.670796, 2.396912), "a": (0.785398, -1.198456), "b": (0.285398, -1.198456)}
    for name, (angle, speed) in expected.items():
        joint = model.joint(name)
        assert state.qpos[joint.qposadr[0]] == pytest.approx(angle, abs=1e-6)
        assert state.qvel[joint.dofadr[0]] == pytest.approx(speed, abs=1e-6)


def test_other_joints_are_at_home_and_at_rest(bus: ServoBus, driver: DynamixelDriver) -> None:
    for servo in bus.servos.values():
        servo.position, servo.velocity = 3000, 70
    state, model = driver.read(), driver.task.model
    np.testing.assert_array_equal(state.qpos[:7], [0, 0, 0.7, 1, 0, 0, 0])
    np.testing.assert_array_equal(state.qvel[:6], 0.0)
    loose = model.joint("loose")
    assert state.qpos[loose.qposadr[0]] == pytest.approx(0.3)
    assert state.qvel[loose.dofadr[0]] == 0.0
    assert len(state.act) == 0


def test_the_time_is_of_the_measurement(driver: DynamixelDriver) -> None:
    before = time.monotonic()
    state = driver.read()
    assert before < state.time < time.monotonic()


def test_torques_become_the_currents_of_the_table(bus: ServoBus, active: DynamixelDriver) -> None:
    active.write(np.array([0.5, 0.9, 0.3]))
    active.read()
    # c: 2 * 0.5 Nm / 1.8 Nm/A = 555.6 mA; a: -0.9 / 2 / 1.8 = -250.0 mA; b: -0.3 / 1.8 = -166.7 mA; 2.69 mA a unit
    assert [bus[number].get(102, 2) for number in IDS] == [207, -93, -62]


def test_forces_of_the_model_are_limited_as_in_the_model(bus: ServoBus) -> None:
    task = Arm(MOTORS.replace('name="a"', 'name="a" forcelimited="true" forcerange="-0.1 0.2"'))
    made = DynamixelDriver(task, 0, wired(port=bus.path))
    made.connect()
    made.activate()
    made.write(np.ones(3))
    made.read()
    assert bus[3].get(102, 2) == -21  # -0.2 Nm / 2 / 1.8 = -55.6 mA
    made.close()


def test_targets_become_the_positions_of_the_table(bus: ServoBus) -> None:
    made = driven(bus, "position")
    made.connect()
    made.activate()
    made.write(np.array([1.0, 0.5, -0.4]))
    made.read()
    # c: 2048 + (1.0 - 0.1) * 651.9; a: 2048 - 2 * 0.5 * 651.9; b, gear -1: 2048 + (0.4 + 0.5) * 651.9
    assert [bus[number].get(116, 4) for number in IDS] == [2635, 1396, 2635]
    eventually(lambda: [round(bus[number].position) for number in IDS] == [2635, 1396, 2635])
    state = made.read()
    angles = [state.qpos[made.task.model.joint(name).qposadr[0]] for name in "cab"]
    np.testing.assert_allclose(angles, [1.0, 0.5, 0.4], atol=1e-3)
    made.close()


def test_a_joint_turns_where_its_torque_pushes(bus: ServoBus, active: DynamixelDriver) -> None:
    model = active.task.model
    before = active.read()
    active.write(np.array([0.2, 0.2, 0.2]))
    eventually(lambda: all(abs(bus[number].position - 2048) > 5 for number in IDS))
    moved = active.read().qpos - before.qpos
    assert [np.sign(moved[model.joint(name).qposadr[0]]) for name in "cab"] == [1, 1, -1]  # b has gear -1


def test_currents_stay_within_the_smaller_limit(bus: ServoBus) -> None:
    bus[7].put(38, 2, 100)
    made = driven(bus, current_limit=400.0)
    made.connect()
    made.activate()
    made.write(np.array([1.0, 1.0, 0.01]))
    made.read()
    assert [bus[number].get(102, 2) for number in IDS] == [100, -103, -2]  # 400 mA are 148 units
    made.write(np.array([1.0, 0.0, -1.0]))
    made.read()
    assert bus[12].get(102, 2) == 148
    assert made.status()["clipped_commands"] == 2
    made.close()


def test_with_a_current_limit_positions_are_held_with_no_more(bus: ServoBus) -> None:
    made = driven(bus, "position", current_limit=200.0)
    made.connect()
    made.activate()
    assert all(bus[number].table[11] == 5 and bus[number].get(102, 2) == 74 for number in IDS)
    made.close()


def test_targets_beyond_a_servos_position_limits_are_refused_before_anything_moves(bus: ServoBus) -> None:
    bus[3].put(48, 4, 3000)
    made = driven(bus, "position")
    with pytest.raises(
        DriverError,
        match=r"servo 3: control -1 of actuator 'a' would be position 3352, its position limits are 0 \.\. 3000",
    ):
        made.connect()


# ---- life --------------------------------------------------------------------------------------


def test_nothing_moves_and_nothing_is_powered_before_activate(bus: ServoBus, driver: DynamixelDriver) -> None:
    for _ in range(10):
        driver.read()
        with pytest.raises(DriverError, match="not active"):
            driver.write(np.ones(3))
    driver.stop()
    for servo in bus.servos.values():
        assert (servo.power_ons, servo.position) == (0, 2048)
        assert not any(address in (100, 102, 104, 116) and value for address, value in servo.accepted)


@pytest.mark.parametrize("mode", ["current", "position"])
def test_it_holds_still_from_activate_to_the_first_command(bus: ServoBus, mode: str) -> None:
    for servo, position in zip(bus.servos.values(), (1800, 2048, 2500), strict=True):
        servo.position = position
    made = driven(bus, mode)
    made.connect()
    made.activate()
    for _ in range(5):
        made.read()
    for servo, position in zip(bus.servos.values(), (1800, 2048, 2500), strict=True):
        assert servo.torque and round(servo.position) == position
        assert servo.table[11] == {"current": 0, "position": 3}[mode]
    made.close()


def test_a_process_that_was_not_run_after_it_wrote_has_written(bus: ServoBus, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def late(line: int, data: bytes) -> int:
        count = write(line, data)
        if threading.current_thread() is threading.main_thread():
            time.sleep(1.5 * dxl.Port.WRITE_TIMEOUT)
        return count

    made = driven(bus)
    monkeypatch.setattr(dxl.os, "write", late)
    made.connect()
    monkeypatch.undo()
    made.read()
    made.close()


def test_a_line_that_takes_no_more_bytes_is_an_error_in_time() -> None:
    ours, theirs = os.openpty()
    port = dxl.Port(os.ttyname(theirs), 1_000_000)
    try:
        with pytest.raises(TimeoutError, match="takes no more bytes"):
            for _ in range(1000):
                port.send([0x55] * 1000, 0.0)
    finally:
        port.close()
        os.close(ours)
        os.close(theirs)


def test_nothing_works_before_connect_or_after_close(bus: ServoBus) -> None:
    made = driven(bus)
    for _ in range(2):
        made.stop()
        made.close()
        assert made.status() == {}
        for attempt in (made.read, made.activate, lambda: made.write(np.zeros(3))):
            with pytest.raises(DriverError, match="not connected"):
                attempt()
        made.connect()
        made.read()
        made.close()


@pytest.mark.parametrize("controls", [np.zeros(2), np.array([0.0, np.nan, 0.0]), np.zeros((1, 3))])
def test_wrong_controls_are_refused(bus: ServoBus, active: DynamixelDriver, controls: Any) -> None:
    before = len(bus.requests)
    with pytest.raises(DriverError, match="are not 3 finite numbers"):
        active.write(controls)
    assert len(bus.requests) == before


def test_a_period_is_one_sync_read_one_question_and_one_sync_write(bus: ServoBus, active: DynamixelDriver) -> None:
    for _ in range(30):  # through all that is asked in turn
        before = len(bus.requests)
        active.read()
        active.write(np.zeros(3))
        eventually(lambda count=before: len(bus.requests) >= count + 3)  # type: ignore[misc]
        assert said(bus.requests[before:]) == [SYNC_READ, 2, SYNC_WRITE]


def test_power_that_somebody_left_on_is_off_after_connect(bus: ServoBus) -> None:
    bus[3].write(64, b"\1")
    made = driven(bus)
    made.connect()
    assert not bus[3].torque
    made.close()


def test_servos_that_confirm_nothing_are_made_to(bus: ServoBus) -> None:
    for servo in bus.servos.values():
        servo.table[68] = 0
    made = driven(bus)
    made.connect()
    made.activate()
    made.read()
    made.close()


def test_the_operating_mode_is_written_only_where_it_is_another(bus: ServoBus) -> None:
    bus[3].table[11] = 0
    made = driven(bus)
    for _ in range(2):
        made.connect()
        made.activate()
        made.close()
    assert [sum(address == 11 for address, _ in bus[number].accepted) for number in IDS] == [1, 0, 1]


@pytest.mark.parametrize("mode", ["current", "position"])
def test_stop_switches_off_in_every_state_and_again(bus: ServoBus, mode: str) -> None:
    made = driven(bus, mode)
    made.stop()
    made.connect()
    made.stop()
    for _ in range(2):
        made.activate()
        made.write(np.full(3, 0.3))
        assert all(servo.torque for servo in bus.servos.values())
        made.stop()
        assert not any(servo.torque for servo in bus.servos.values())
        made.stop()
        with pytest.raises(DriverError, match="not active"):
            made.write(np.zeros(3))
    if mode == "current":
        assert all(servo.get(102, 2) == 0 for servo in bus.servos.values())
    made.close()
    made.stop()


def test_close_switches_off_what_is_on(bus: ServoBus, active: DynamixelDriver) -> None:
    active.close()
    assert not any(servo.torque for servo in bus.servos.values())


def test_stop_reaches_the_others_and_names_who_does_not_confirm(bus: ServoBus, active: DynamixelDriver) -> None:
    bus.mute = {7}
    with pytest.raises(DriverError, match=r"not known to be off: servo 7: torque enable \(64\) = 0: no answer"):
        active.stop()
    assert not any(servo.torque for servo in bus.servos.values())
    bus.mute = set()
    active.stop()


def test_an_activation_that_fails_leaves_the_power_off(bus: ServoBus, driver: DynamixelDriver) -> None:
    bus[12].write(38, b"\0\0")

    def fault(count: int, servo: int, packet: bytes) -> bytes:
        return b"" if servo == 12 and bus[12].torque else packet

    bus.fault = fault
    with pytest.raises(DriverError, match="servo 12: torque enable"):
        driver.activate()
    assert not any(servo.torque for servo in bus.servos.values())
    bus.fault = None
    driver.activate()
    driver.read()


def test_it_runs_behind_the_guard_as_the_bridge_has_it(bus: ServoBus) -> None:
    guarded = GuardedDriver(driven(bus))
    guarded.connect()
    guarded.stop()
    guarded.activate()
    for _ in range(20):
        guarded.write(np.array([0.1, -0.1, 0.1]))
        assert np.isfinite(guarded.read().qpos).all()
    guarded.stop()
    guarded.close()


class TestContract(DriverConformance):
    """What every driver must do."""

    task = Arm()
    may_move = True
    servos: ServoBus

    @pytest.fixture(autouse=True)
    def wiring(self) -> Iterator[None]:
        with ServoBus(*(Servo(number) for number in IDS)) as self.servos:
            yield

    def make(self, task: Task) -> DynamixelDriver:
        return DynamixelDriver(task, 0, wired(port=self.servos.path))

    def break_link(self, driver: Any) -> None:
        self.servos.silent = set(IDS)

    def mend_link(self, driver: Any) -> None:
        self.servos.silent = set()


# ---- the watchdog ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["current", "position"])
def test_servos_stop_by_themselves_when_the_driver_falls_silent(bus: ServoBus, mode: str) -> None:
    for servo in bus.servos.values():
        servo.speed = 100.0
    made = driven(bus, mode, watchdog=0.2)
    made.connect()
    made.activate()
    made.write(np.full(3, 0.5))
    eventually(lambda: all(servo.table[98] == 0xFF for servo in bus.servos.values()))
    stopped = [servo.position for servo in bus.servos.values()]
    time.sleep(0.1)
    assert [servo.position for servo in bus.servos.values()] == pytest.approx(stopped, abs=1.0)
    with pytest.raises(DriverError, match=r"servo 7: its watchdog stopped it: no packet for 0\.2 s"):
        made.write(np.full(3, 0.5))
    made.stop()
    made.activate()
    made.read()
    made.close()


def test_without_a_watchdog_servos_go_on(bus: ServoBus) -> None:
    made = driven(bus, watchdog=0.0)
    made.connect()
    made.activate()
    made.write(np.full(3, 0.1))
    time.sleep(0.3)
    assert all(servo.table[98] == 0 and servo.get(102, 2) for servo in bus.servos.values())
    made.close()


def test_a_watchdog_that_tripped_is_cleared_by_the_next_session(bus: ServoBus) -> None:
    for servo in bus.servos.values():
        servo.table[98] = 0xFF
    made = driven(bus)
    made.connect()
    made.activate()
    made.write(np.full(3, 0.3))
    made.read()
    assert all(servo.get(102, 2) for servo in bus.servos.values())
    made.close()


# ---- faults ------------------------------------------------------------------------------------


def test_wrong_checksums_now_and_then_cost_a_repetition_and_nothing_else(
    bus: ServoBus, active: DynamixelDriver
) -> None:
    bus[7].position = 3072

    def fault(count: int, servo: int, packet: bytes) -> bytes:
        return packet[:-1] + bytes([packet[-1] ^ 0x10]) if count % 5 == 0 else packet

    bus.fault = fault
    joint = active.task.model.joint("c")
    for _ in range(6):
        assert active.read().qpos[joint.qposadr[0]] == pytest.approx(1.670796, abs=1e-6)
    figures = active.status()
    assert figures["corrupt_packets"] == figures["retries"] != 0


def test_a_servo_whose_packets_are_always_corrupt_is_named(bus: ServoBus, active: DynamixelDriver) -> None:
    bus.fault = lambda count, servo, packet: packet[:-2] + b"\0\0" if servo == 3 else packet
    with pytest.raises(
        DriverError, match=r"servo 3: realtime tick to present position \(120\): corrupt packet \(2 attempts\)"
    ):
        active.read()


@pytest.mark.parametrize("chained", [False, True])
def test_a_servo_that_falls_silent_is_named(chained: bool) -> None:
    with ServoBus(*(Servo(number) for number in IDS), chained=chained) as bus:
        made = driven(bus)
        made.connect()
        made.activate()
        bus.silent = {3}
        with pytest.raises(DriverError, match=r"servo 3: realtime tick .*: no answer \(2 attempts\)"):
            made.read()
        with pytest.raises(DriverError, match="not known to be off: servo 3"):
            made.stop()
        assert [servo.torque for servo in bus.servos.values()] == [False, True, False]
        bus.silent = set()
        made.close()
        assert not bus[3].torque


def test_servos_that_are_missing_are_all_named_at_connect(bus: ServoBus) -> None:
    bus.silent = {7, 12}
    made = driven(bus)
    with pytest.raises(DriverError, match=f"missing on {bus.path} at 1000000 bit/s: servo 7: ping: no.*; servo 12: "):
        made.connect()
    bus.silent = set()
    made.connect()
    made.close()


def test_garbage_between_packets_does_no_harm(bus: ServoBus, active: DynamixelDriver) -> None:
    bus[7].position = 3072
    garbage = bytes(range(250, 256)) + b"\x00\xff\xff\x12"
    bus.fault = lambda count, servo, packet: garbage[: count % 10] + packet
    joint = active.task.model.joint("c")
    for _ in range(20):
        assert active.read().qpos[joint.qposadr[0]] == pytest.approx(1.670796, abs=1e-6)
    active.stop()


def test_endless_garbage_ends_with_an_error(bus: ServoBus, active: DynamixelDriver) -> None:
    bus.fault = lambda count, servo, packet: b"\xff\xfd\x01" * 500
    with pytest.raises(DriverError, match="servo 7: .*corrupt packet"):
        active.read()


def test_answers_that_take_a_while_are_waited_for(bus: ServoBus, active: DynamixelDriver) -> None:
    def fault(count: int, servo: int, packet: bytes) -> bytes:
        time.sleep(0.01)
        return packet

    bus.fault = fault
    for _ in range(5):
        active.read()
    assert active.status()["retries"] == 0


def test_answers_to_earlier_questions_are_not_taken_for_new_ones(bus: ServoBus, active: DynamixelDriver) -> None:
    active.read()
    bus.late = 3
    with pytest.raises(DriverError, match="servo 7: .*answer to an earlier question"):
        active.read()
    assert active.status()["stale_packets"]


def test_a_servo_that_repeats_its_last_measurement_is_not_believed(bus: ServoBus, active: DynamixelDriver) -> None:
    kept: dict[int, bytes] = {}

    def fault(count: int, servo: int, packet: bytes) -> bytes:
        return kept.setdefault(servo, packet) if servo == 12 and len(packet) == 27 else packet

    bus.fault = fault
    active.read()
    time.sleep(0.05)
    with pytest.raises(DriverError, match=r"servo 12: .*answer to an earlier question \(2 attempts\)"):
        active.read()


def test_answers_that_came_in_time_are_heard_by_a_process_that_was_held_up(
    bus: ServoBus, active: DynamixelDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    port: Any = active._connected()._port
    send = port.send

    def held_up(packet: list[int], timeout: float) -> None:
        send(packet, 0.0)
        time.sleep(0.1)

    monkeypatch.setattr(port, "send", held_up)
    for _ in range(3):
        active.read()
    assert active.status()["retries"] == 0


def test_a_packet_that_comes_twice_is_taken_once(bus: ServoBus, active: DynamixelDriver) -> None:
    bus.fault = lambda count, servo, packet: packet + packet
    bus[12].velocity = bus[7].velocity = 5
    for _ in range(5):
        active.read()
    active.stop()


def test_an_answer_with_the_number_of_a_stranger_is_not_taken(bus: ServoBus, active: DynamixelDriver) -> None:
    bus.fault = lambda count, servo, packet: frame(99, STATUS, packet[8:-2]) if servo == 3 else packet
    with pytest.raises(DriverError, match=r"servo 3: .*answer of servo 99 \(2 attempts\)"):
        active.read()


def test_two_servos_with_one_number_are_not_believed(bus: ServoBus, active: DynamixelDriver) -> None:
    bus[3].position, bus[12].position = 1000, 3000
    bus.fault = lambda count, servo, packet: frame(12, STATUS, packet[8:-2]) if servo == 3 else packet
    with pytest.raises(DriverError, match="servo (3|12): .*(answer of servo 12|two answers|jumped)"):
        active.read()


@pytest.mark.parametrize(
    ("bits", "names"), [(0x04, "overheating"), (0x21, "input voltage, overload"), (0x18, "motor encoder, electrical")]
)
def test_hardware_errors_are_named_at_once_and_at_connect(
    bus: ServoBus, active: DynamixelDriver, bits: int, names: str
) -> None:
    active.read()
    bus[3].fail(bits)
    with pytest.raises(DriverError, match=f"hardware error: servo 3: {names}"):
        active.read()
    assert str(active.status()["hardware_errors"]).startswith(f"servo 3: {names}")
    active.stop()
    assert not any(servo.torque for servo in bus.servos.values())
    active.close()
    with pytest.raises(DriverError, match=f"hardware error: servo 3: {names}"):
        active.connect()
    bus[3].reboot()
    active.connect()
    active.read()


def test_a_servo_that_lost_its_power_for_a_moment_is_named(bus: ServoBus, active: DynamixelDriver) -> None:
    active.read()
    bus[12].reboot()
    with pytest.raises(DriverError, match=r"servo 12: its clock jumped by -?\d+ ms: it has restarted"):
        for _ in range(20):
            active.read()
    active.stop()
    active.close()
    active.connect()
    active.activate()
    active.read()


def test_a_servo_that_somebody_switched_off_is_named(bus: ServoBus, active: DynamixelDriver) -> None:
    bus[12].table[64] = 0
    with pytest.raises(DriverError, match="servo 12: its torque is off"):
        for _ in range(20):
            active.read()


def test_a_cable_that_is_pulled_is_an_error_and_not_a_crash(bus: ServoBus, active: DynamixelDriver) -> None:
    bus.unplug()
    for attempt in (active.read, lambda: active.write(np.zeros(3)), active.stop):
        with pytest.raises(DriverError):
            attempt()
    with pytest.raises(DriverError):
        active.close()
    active.stop()  # closed
    active.close()


def test_servos_of_unknown_models_are_refused(bus: ServoBus) -> None:
    bus[3].model = 350
    with pytest.raises(DriverError, match="servo 3: model number 350 is none of the X series"):
        driven(bus).connect()


def test_servos_that_cannot_control_their_current_are_refused_for_torques_and_taken_for_targets() -> None:
    with ServoBus(*(Servo(number, model=1060) for number in IDS)) as bus:
        with pytest.raises(DriverError, match="servo 7: XL430-W250 cannot control its current"):
            driven(bus).connect()
        made = driven(bus, "position")
        made.connect()
        made.activate()
        made.write(np.zeros(3))
        made.read()
        made.close()


# ---- status ------------------------------------------------------------------------------------


def test_status_tells_the_worst_without_asking_the_bus(bus: ServoBus, active: DynamixelDriver) -> None:
    for number, voltage, temperature in ((7, 118, 41), (3, 109, 40), (12, 121, 72)):
        bus[number].put(144, 2, voltage)
        bus[number].put(146, 1, temperature)
    for _ in range(4 * len(IDS)):
        active.read()
    before = len(bus.requests)
    figures = active.status()
    assert len(bus.requests) == before
    assert (figures["temperature"], figures["hottest_servo"]) == (72.0, 12)
    assert (figures["voltage"], figures["lowest_voltage_servo"]) == (pytest.approx(10.9), 3)
    assert figures["hot"] == "servo 12: 72 deg C"
    assert figures["hardware_errors"] == ""
    assert figures["retries"] == figures["corrupt_packets"] == figures["stale_packets"] == 0


def test_the_first_status_is_of_all_servos(driver: DynamixelDriver) -> None:
    assert driver.status()["temperature"] == 35.0 and driver.status()["voltage"] == pytest.approx(12.0)


def test_measurements_are_decoded_by_their_registers_addresses() -> None:
    size = dxl.MEASUREMENT_FORMAT.size
    assert size == dxl.MEASUREMENT.size
    data = bytearray(size)
    struct.pack_into("<h", data, 126 - 120, -5)
    struct.pack_into("<i", data, 128 - 120, -70_000)
    struct.pack_into("<i", data, 132 - 120, 2_000_000)
    assert dxl.MEASUREMENT_FORMAT.unpack(bytes(data))[4:] == (-5, -70_000, 2_000_000)
