"""The fault campaign: its oracle finds what it is told to look for, its cases cover what there is, and it runs."""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import serialize_message
from session_runs import POLO, environment

import polo_ros.msg
from polo_ros import tasks
from polo_ros.cli import main
from polo_ros.drivers.base import DriverError
from polo_ros.drivers.guard import GuardedDriver
from polo_ros.faults import allowed, campaign, cases, journal, oracle
from polo_ros.faults.kinds import Spoil
from polo_ros.faults.messages import KINDS, RECEIVED, edits, fields, spoil
from polo_ros.faults.oracle import Evidence, Limits, Violation
from polo_ros.faults.probe import ORDER, STATES, ProbeDriver, ProbeSettings
from polo_ros.learning.weights import Weights, digest
from polo_ros.nodes import convert

DOMAIN = 187
DT = 0.02
LIMITS = Limits(
    low=[-0.8], high=[0.8], change=[0.5], safe=[0.0], period=DT, max_plan_age=0.2, max_state_age=0.2, model_hash="m"
)
DOCS = Path(__file__).parents[1] / "docs" / "faults.md"


# ---- the oracle, on journals that were doctored --------------------------------------------------


class Tape:
    """Journals of a session: every period has its state, a plan of its own, and a command of 0.01 per step."""

    def __init__(self, steps: int = 40) -> None:
        self.driver: list[journal.Record] = []
        self.traffic: list[journal.Record] = []
        self.arms: list[float] = []
        for step in range(steps):
            self.period(step, [round(0.01 * (step % 50) + 0.01, 3)])

    def period(self, step: int, action: list[float], plan: bool = True, **more: Any) -> None:
        """A control period; `more` changes its plan."""
        t = 100.0 + DT * step
        self.driver.append(self._call(t, "read", qpos=[float(step)], qvel=[0.0], bad=""))
        self.traffic.append({"t": t + 0.001, "do": "state", "step": step, "episode": 0, "qpos": [float(step)],
                             "qvel": [0.0]})  # fmt: skip
        if plan:
            made = {"t": t + 0.002, "do": "plan", "planner_id": 7, "state_step": step, "first_step": step, "episode": 0,
                    "model_hash": "m", "dt": DT, "horizon": 25, "nu": 1, "actions": action * 25}  # fmt: skip
            self.traffic.append({**made, **more})
        self.driver.append(self._call(t + 0.003, "write", action=action))

    @staticmethod
    def _call(t: float, do: str, **more: Any) -> journal.Record:
        return {"t": t, "clock": t, "pid": 1, "waited": 0.0, "do": do, **more}

    def later(self, seconds: float, from_step: int) -> None:
        """Everything from a step on happens later: the bridge stood still."""
        begin = 100.0 + DT * from_step - 1e-6
        for record in (*self.driver, *self.traffic):
            if record["t"] >= begin:
                record["t"] += seconds
                if "clock" in record:
                    record["clock"] += seconds

    def writes(self) -> list[journal.Record]:
        return [record for record in self.driver if record["do"] == "write"]

    def plans(self) -> list[journal.Record]:
        return [record for record in self.traffic if record["do"] == "plan"]

    def evidence(self) -> Evidence:
        return oracle.assemble(self.driver, self.traffic, LIMITS, self.arms)

    def found(self) -> dict[str, list[Violation]]:
        """All violations, by rule."""
        evidence = self.evidence()
        everything = [
            *oracle.controls_out_of_limits(evidence),
            *oracle.commands_without_plan(evidence),
            *oracle.two_masters(evidence),
            *oracle.unanswered_states(evidence),
            *oracle.late_stops(evidence, oracle.stops(evidence)),
            *oracle.steps_that_fell(self.traffic),
        ]
        return {rule: [v for v in everything if v.rule == rule] for rule in {v.rule for v in everything}}


def test_a_session_in_order_has_no_violation() -> None:
    assert Tape().found() == {}


@pytest.mark.parametrize("action", [[math.nan], [math.inf], [], [0.1, 0.1], [0.81], [-5.0]])
def test_a_command_that_no_robot_may_get_is_found(action: list[float]) -> None:
    tape = Tape()
    tape.writes()[20]["action"] = action
    assert len(tape.found()["limits"]) >= 1


def test_a_command_that_changes_too_fast_is_found_and_a_safe_stop_may() -> None:
    tape = Tape()
    for write in tape.writes()[10:20]:
        write["action"] = [-0.35]
    assert len(tape.found()["limits"]) == 1  # 0.45 down, 0.56 up again
    tape = Tape()
    tape.writes()[39]["action"] = [0.0]
    tape.writes()[38]["action"] = [0.39]
    assert "limits" not in tape.found()


@given(st.integers(0, 39), st.floats(-0.8, 0.8).filter(lambda u: abs(u) > 1e-6))
@settings(max_examples=200, deadline=None)
def test_any_command_that_no_plan_gives_is_found(step: int, action: float) -> None:
    tape = Tape()
    truth = tape.writes()[step]["action"][0]
    known = {record["action"][0] for record in tape.writes()}
    tape.writes()[step]["action"] = [action]
    wrong = abs(action - truth) > 1e-6 and all(abs(action - other) > 1e-6 for other in known)
    assert ("plan" in tape.found()) == wrong or not wrong


@pytest.mark.parametrize(
    "change",
    [
        {"model_hash": "x"},
        {"dt": 0.01},
        {"dt": math.nan},
        {"horizon": 24},
        {"nu": 2},
        {"actions": [math.nan] * 25},
        {"actions": []},
        {"episode": 1},
        {"state_step": 30, "first_step": 30},
        {"first_step": 19},
    ],
)
def test_a_plan_that_is_not_valid_justifies_no_command(change: dict[str, Any]) -> None:
    tape = Tape()
    tape.writes()[20]["action"] = [0.123]
    plan = tape.plans()[20]
    plan["actions"] = [0.123] * 25
    assert "plan" not in tape.found()
    plan.update(change)
    assert len(tape.found()["plan"]) == 1


def test_a_plan_that_is_played_for_too_many_periods_is_found() -> None:
    tape = Tape(20)
    for step in range(20, 35):
        tape.period(step, [0.2], plan=False)
    late = tape.found()["plan"]
    assert len(late) == 35 - 20 - 10  # the last plan is of step 19, and ten periods are max_plan_age
    assert "allowed 0.2 s" in late[0].text


def test_a_plan_that_is_old_by_the_clock_is_found_though_its_steps_are_few() -> None:
    tape = Tape(20)
    for step in range(20, 25):
        tape.period(step, [0.2], plan=False)
    assert "plan" not in tape.found()
    tape.later(1.0, from_step=22)
    assert len(tape.found()["plan"]) == 3
    assert "1.0" in tape.found()["plan"][0].text


def _stopping_after(periods: int, waited: float = 0.0) -> Tape:
    tape = Tape(20)
    for step in range(20, 20 + periods):
        tape.period(step, [0.2], plan=False)
    tape.period(20 + periods, [0.0], plan=False)
    tape.driver[-1]["waited"] = waited
    return tape


def test_the_safe_stop_is_measured_from_the_state_of_the_last_plan() -> None:
    tape = _stopping_after(10)
    evidence = tape.evidence()
    assert oracle.commands_without_plan(evidence) == []
    (stop,) = oracle.stops(evidence)
    assert stop.seconds == pytest.approx(11 * DT + 0.003)  # of step 19; written 3 ms into step 30
    assert oracle.late_stops(evidence, [stop]) == []


def test_a_late_safe_stop_is_found_unless_the_machine_had_no_core_for_it() -> None:
    for waited, found in ((0.0, 1), (0.6, 0), (0.1, 1)):
        tape = _stopping_after(10, waited)
        tape.later(0.5, from_step=30)
        evidence = tape.evidence()
        oracle.commands_without_plan(evidence)
        assert len(oracle.late_stops(evidence, oracle.stops(evidence))) == found


def test_a_driver_that_is_told_to_stop_is_stopped() -> None:
    tape = Tape(20)
    tape.driver.append(tape._call(100.0 + 20 * DT, "stop"))
    evidence = tape.evidence()
    oracle.commands_without_plan(evidence)
    (stop,) = oracle.stops(evidence)
    assert stop.seconds == pytest.approx(DT)


@pytest.mark.parametrize("bad", ["qpos nan", "position out of range"])
def test_planned_control_after_a_state_that_must_not_be_is_found_until_somebody_arms(bad: str) -> None:
    tape = Tape()
    reads = [record for record in tape.driver if record["do"] == "read"]
    reads[20]["bad"] = bad
    assert len(tape.found()["fault"]) == 1
    for write in tape.writes()[20:25]:
        write["action"] = [0.0]
    assert len(tape.found()["fault"]) == 1
    tape.arms.append(tape.writes()[24]["t"] + 0.001)
    assert "fault" not in tape.found()


def test_planned_control_after_an_error_of_the_driver_is_found() -> None:
    tape = Tape()
    place = tape.driver.index(tape.writes()[20])
    tape.driver.insert(place + 1, tape._call(tape.driver[place]["t"], "error", at="write", what="raise OSError"))
    assert len(tape.found()["fault"]) == 1
    tape.driver[place + 1]["at"] = "status"  # which nobody controls by
    assert "fault" not in tape.found()


def test_a_state_that_stands_still_may_be_obeyed_for_max_state_age_only() -> None:
    tape = Tape()
    reads = [record for record in tape.driver if record["do"] == "read"]
    for read in reads[10:20]:
        read["bad"] = "frozen"
    assert "fault" not in tape.found()
    for read in reads[20:25]:
        read["bad"] = "frozen"
    # 0.2 s and a period are allowed, from the first of them on: that one was measured.
    assert len(tape.found()["fault"]) == 3
    for write in tape.writes()[22:25]:
        write["action"] = [0.0]
    tape.arms.append(tape.writes()[24]["t"] + 0.001)
    assert "fault" not in tape.found()


def test_two_planners_may_both_be_silent_and_the_first_to_speak_again_is_obeyed() -> None:
    def back(first: int, second: int) -> Tape:
        """Silence from step 10 to 24, then a rival's plans; the one that was obeyed speaks from `first` on."""
        tape = Tape()
        tape.traffic = [r for r in tape.traffic if r["do"] == "state" or not 10 <= r["state_step"] < 24]
        for write in tape.writes()[20:24]:
            write["action"] = [0.0]
        for write in tape.writes()[10:20]:
            write["action"] = [0.1]  # of the plan of step 9
        for plan in [plan for plan in tape.plans() if plan["state_step"] >= 24]:
            rival = {**plan, "planner_id": 8, "actions": [-0.1] * 25, "t": plan["t"] + second * 1e-4}
            tape.traffic.append(rival)
            plan["t"] += first * 1e-4
        tape.traffic.sort(key=lambda record: record["t"])
        for write in tape.writes()[24:]:
            write["action"] = [-0.1]
        return tape

    assert "planner" not in back(first=2, second=1).found()
    assert len(back(first=1, second=2).found()["planner"]) == 1


def test_two_planners_that_are_obeyed_in_turn_are_found() -> None:
    tape = Tape()
    for plan, write in zip(tape.plans()[10:], tape.writes()[10:], strict=True):
        plan["planner_id"] = 8
        plan["actions"] = [-0.1] * 25
        write["action"] = [-0.1]
    silent = deepcopy(tape)
    assert len(tape.found()["planner"]) == 1
    silent.later(0.5, from_step=10)  # the first one has been silent for long
    assert "planner" not in silent.found()


def test_periods_that_are_not_in_the_bag_are_found() -> None:
    evidence = Tape().evidence()
    recorded = {period.step: [period.action] for period in evidence.periods}
    assert oracle.lost(evidence, recorded) == []
    del recorded[17]
    recorded[18] = [[0.7]]
    assert [period.step for period in oracle.lost(evidence, recorded)] == [17, 18]


def test_periods_of_a_bridge_that_is_heard_late_are_counted_back() -> None:
    tape = Tape()
    recorded = {period.step: [period.action] for period in tape.evidence().periods}
    tape.traffic = [r for r in tape.traffic if r["do"] == "plan" or r["step"] >= 15]
    evidence = tape.evidence()
    assert [period.step for period in evidence.periods] == list(range(40))
    assert oracle.lost(evidence, recorded) == [] and tape.found() == {}


def test_a_state_heard_of_one_bridge_names_no_period_of_another() -> None:
    """Robots begin anew in the same state, and go on equally while nobody controls them."""
    first, second = Tape(10), Tape(10)
    first.traffic = []  # of the first one no state was heard
    for record in (*second.driver, *second.traffic):
        record["t"] += 5.0
        for name in ("step", "state_step", "first_step"):
            if name in record:
                record[name] += 1000
        if "pid" in record:
            record["pid"], record["clock"] = 2, record["clock"] + 5.0
    first.driver += second.driver
    first.traffic += second.traffic
    evidence = first.evidence()
    assert [period.step for period in evidence.periods] == [-1] * 10 + list(range(1000, 1010))


def test_a_step_that_falls_is_found() -> None:
    tape = Tape()
    states = [record for record in tape.traffic if record["do"] == "state"]
    for state in states[20:]:
        state["step"] -= 5
    assert len(tape.found()["step"]) == 1


# ---- cases ---------------------------------------------------------------------------------------


def _messages() -> dict[str, Any]:
    """One of each, in order, every field with something in it."""
    arrays = {"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float32)}
    data = Weights("value_ensemble", "t", "m", 5000, 5000, arrays).encode()
    found = {}
    for name in RECEIVED:
        message = getattr(polo_ros.msg, name)()
        for field, type_ in fields(name).items():
            if type_ in ("uint64", "uint32"):
                setattr(message, field, 5000)
            elif type_ == "string":
                setattr(message, field, "right")
            elif type_ == "float64":
                setattr(message, field, 0.5)
            elif type_ == "float64[]":
                getattr(message, field).extend([0.1, 0.2])
            elif type_ == "uint8[]":
                setattr(message, field, type(getattr(message, field))("B", data))
        if name == "Weights":
            message.digest = digest(data)
        message.header.stamp.sec, message.header.frame_id = 5, "world"
        found[name] = message
    return found


def test_every_field_of_every_message_is_spoilt_in_every_way() -> None:
    tried = {(case.faults[0].message, *edit) for case in cases.fixed() for fault in case.faults
             if isinstance(fault, Spoil) for edit in fault.edits if isinstance(case.faults[0], Spoil)}  # fmt: skip
    for name in RECEIVED:
        known = getattr(polo_ros.msg, name).get_fields_and_field_types()
        assert list(fields(name)) == list(known), "the definition is read wrongly"
        for field, type_ in fields(name).items():
            assert {(name, field, kind) for kind in KINDS[type_]} <= tried


def test_every_way_to_spoil_a_message_changes_it_and_it_can_still_be_sent() -> None:
    for name, message in _messages().items():
        before = serialize_message(message)
        for edit in edits(name):
            changed = deepcopy(message)
            spoil(changed, edit)
            assert serialize_message(changed) != before, edit
            if edit[1].startswith("forged"):
                assert changed.digest == digest(bytes(changed.data))


@pytest.mark.parametrize("name", ["State", "Transition"])
def test_a_step_that_no_session_reaches_is_refused(name: str) -> None:
    """A planner counts on from it, and what comes out would fit no message."""
    task = tasks.make("cartpole_swingup")
    message = getattr(polo_ros.msg, name)(step=2**64 - 1, model_hash=task.model_hash)
    read = {"State": convert.state_vector, "Transition": convert.transition}[name]
    with pytest.raises(convert.MessageError, match="step is 18446744073709551615, expected at most"):
        read(message, task)


def test_there_are_more_than_200_cases_and_each_has_its_price() -> None:
    fixed = cases.fixed()
    assert len(fixed) >= 200
    assert all(name in allowed.ALLOWED for case in fixed for name in case.allows)
    # Weights must differ from those in use, or the case would be none.
    assert {case.name for case in cases.chosen(len(cases.FIRST), 0)} == set(cases.FIRST)


def test_random_cases_are_those_of_their_seed() -> None:
    number = len(cases.fixed()) + 20
    first, again, other = (cases.chosen(number, seed)[-20:] for seed in (1, 1, 2))
    assert [case.name for case in first] == [case.name for case in again]
    assert first == again or any("nan" in repr(case) for case in first)
    assert [case.name for case in first] != [case.name for case in other]
    assert all(case.group == "random" for case in first)


def test_the_documentation_has_the_table_of_what_is_allowed() -> None:
    assert allowed.table() in DOCS.read_text(encoding="utf-8")


# ---- the driver that fails -----------------------------------------------------------------------


def _probe(folder: Path, simulated: bool = True) -> ProbeDriver:
    return ProbeDriver(tasks.make("cartpole_swingup"), 0, ProbeSettings(str(folder), simulated))


def _order(folder: Path, call: str, what: str, times: int = 1) -> None:
    draft = folder / "draft"
    draft.write_text(json.dumps({"call": call, "what": what, "times": times}))
    os.replace(draft, folder / ORDER)


def test_every_command_is_in_the_journal_before_it_acts(tmp_path: Path) -> None:
    probe = _probe(tmp_path)
    probe.connect()
    probe.read()
    _order(tmp_path, "write", "raise OSError")
    with pytest.raises(OSError, match="fault campaign"):
        probe.write(np.array([0.25]))
    probe.write(np.array([0.5]))  # once only
    calls = [(r["do"], r.get("action")) for r in journal.read(tmp_path / journal.DRIVER)]
    assert calls == [("connect", None), ("read", None), ("write", [0.25]), ("error", None), ("write", [0.5])]


@pytest.mark.parametrize("what", STATES)
def test_every_wrong_state_of_the_probe_is_wrong(tmp_path: Path, what: str) -> None:
    probe = _probe(tmp_path)
    guard = GuardedDriver(probe)
    guard.connect()
    right = guard.read()
    _order(tmp_path, "read", what)
    if what in cases.BELIEVED or what == "qpos huge":  # for a supervisor to find
        state = guard.read()
        assert (
            (np.abs(state.qpos).max(), np.abs(state.qvel).max(), state.age) > (50.0, 0, 0)
            or state.age == 10.0
            or (np.abs(state.qvel).max() > 1e3)
        )
    else:
        with pytest.raises(DriverError):
            guard.read()
    assert (guard.read().qpos == right.qpos).all()


def test_the_plant_moves_by_itself(tmp_path: Path) -> None:
    probe = _probe(tmp_path, simulated=False)
    assert not probe.simulated and not probe.can_reset
    probe.connect()
    probe.write(np.array([0.8]))
    first = probe.read()
    while (later := probe.read()).time < first.time + 0.05:
        pass
    assert later.qpos[0] > first.qpos[0]


# ---- the whole of it -----------------------------------------------------------------------------


def test_a_small_campaign_finds_no_violation() -> None:
    done = subprocess.run(
        [str(POLO), "faults", "--json", "--cases", str(len(cases.FIRST)), "--seed", "3"],
        env=environment(DOMAIN),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    figures = json.loads(done.stdout)
    wrong = {row["name"]: row["violations"] for row in figures["results"] if row["violations"]}
    assert wrong == {} and done.returncode == 0, done.stderr
    assert (figures["cases"], figures["violations"], figures["seed"]) == (len(cases.FIRST), 0, 3)
    rows = {row["name"]: row for row in figures["results"]}
    assert set(rows) == set(cases.FIRST)
    # They did something, or the campaign says nothing.
    for name in ("Plan actions nan (instead)", "plan loss 100%", "SIGKILL planner", "read: qpos nan"):
        assert rows[name]["stop_s"] > 0.0 and rows[name]["safe_stops"] > 0, name
    assert all(row["commands"] > 0 for row in rows.values())
    assert figures["worst_stop_s"] == max(row["stop_s"] for row in rows.values() if row["stop_s"] is not None)


def test_a_case_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["faults", "--only", "nonsense"]) == 2
    assert "no case matches --only 'nonsense'" in capsys.readouterr().err


def test_violations_are_told_and_end_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(found: Any, keep: Any, say: Callable[[str], None], progress: Any) -> list[campaign.Outcome]:
        outcomes = [campaign.Outcome(case.name, case.group, case.session) for case in found]
        outcomes[0].violations.append("limits: the driver got [nan]")
        for outcome in outcomes:
            say(campaign.line(outcome))
        return outcomes

    monkeypatch.setattr(campaign, "run", run)
    assert main(["faults", "--cases", "3"]) == 1
    printed = capsys.readouterr().out
    assert "VIOLATION" in printed and "limits: the driver got [nan]" in printed and "violations 1" in printed
