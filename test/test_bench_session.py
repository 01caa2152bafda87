"""The session bench's own arithmetic, on a bag whose times are known."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bag_samples import START, cdr, topic

from polo_ros.bench.session import _nodes, _thinned, beyond_plan_ms
from polo_ros.replay.bag_writer import BagWriter

MS = 1_000_000  # ns


def test_latency_counts_from_the_newest_publication_of_the_state_to_the_first_arrival_of_its_plan(
    tmp_path: Path,
) -> None:
    kinds = {"/state": "State", "/plan": "Plan", "/planner/status": "PlannerStatus"}
    with BagWriter(tmp_path, [topic(name, f"polo_ros/msg/{kind}") for name, kind in kinds.items()]) as bag:

        def add(name: str, log_ms: float, publish_ms: float, **fields: object) -> None:
            data = cdr(f"polo_ros/msg/{kinds[name]}", **fields)
            bag.write(name, data, START + round(log_ms * MS), START + round(publish_ms * MS))

        add("/state", 1.0, 0.0, step=0)
        add("/plan", 9.0, 8.0, plan_id=1, state_step=0)
        add("/planner/status", 9.5, 8.5, plan_id=1, plan_ms=7.0)
        add("/state", 21.0, 20.0, step=1)
        add("/state", 221.0, 220.0, step=1)  # a waiting bridge repeats it
        add("/plan", 231.0, 230.0, plan_id=2, state_step=1)
        add("/plan", 431.0, 430.0, plan_id=2, state_step=1)  # and gets the same plan again
        add("/planner/status", 432.0, 431.0, plan_id=2, plan_ms=8.0)
        add("/plan", 440.0, 439.0, plan_id=3, state_step=7)  # of a state that is not in the bag
        add("/planner/status", 441.0, 440.0, plan_id=3, plan_ms=8.0)
    assert beyond_plan_ms(tmp_path) == pytest.approx([2.0, 3.0], abs=1e-6)


def test_memory_is_that_of_the_processes_that_the_launcher_started(tmp_path: Path) -> None:
    program = tmp_path / "polo_ros" / "sleeper"
    program.parent.mkdir()
    program.write_text("import time\nheld = bytearray(50_000_000)\nprint('there', flush=True)\ntime.sleep(60)\n")
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "there\n"
        try:
            found = dict(_nodes(os.getpid()))
        finally:
            process.kill()
    assert 50 < found["sleeper"] < 200
    assert "sleeper" not in dict(_nodes(process.pid))


def test_memory_over_time_leaves_out_the_end() -> None:
    assert _thinned([float(v) for v in range(1, 64)]) == [1.0, 11.0, 21.0, 31.0, 40.0, 50.0, 60.0]
