"""docs/your_own_robot.md, done as it says."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from motor_board import MotorBoard, blocks
from session_runs import POLO, environment, safely, session, transitions, wait_until
from strangers import stranger

DOMAIN = 130
PORT = 7000  # the tutorial's


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tutorial's files in a folder."""
    source = tmp_path_factory.mktemp("source")
    for text in [*blocks("toml"), *blocks("python"), *blocks("yaml")]:
        path = source / text.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return source


@pytest.fixture(scope="module")
def installed(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its package, installed into a folder of its own."""
    site = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), str(written / "my_robot")], check=True, timeout=120)
    return site


def polo(written: Path, installed: Path, domain: int, arguments: list[str]) -> str:
    done = subprocess.run(
        [str(POLO), *arguments],
        env={**environment(domain), "PYTHONPATH": str(installed)},
        cwd=written,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def commands(program: str = "polo") -> list[list[str]]:
    lines = [line for text in blocks("bash") for line in text.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith(f"{program} ")]


def test_the_tutorials_commands_swing_the_pendulum_up(written: Path, installed: Path, tmp_path: Path) -> None:
    run, sim, _ = commands()
    figures = json.loads(polo(written, installed, DOMAIN, run))
    assert figures["steps"] == 300 and figures["success"] is True
    output = polo(written, installed, DOMAIN, [*sim, f"run_dir:={tmp_path}"])
    assert "pendulum (seed 0, lockstep, mujoco)" in output
    assert len(transitions(tmp_path)) == 200


def test_the_tutorials_driver_runs_a_session_and_leaves_the_robot_at_rest(
    written: Path, installed: Path, tmp_path: Path
) -> None:
    with MotorBoard(PORT) as board:
        output = polo(written, installed, DOMAIN + 1, [*commands()[-1], "duration:=2", f"run_dir:={tmp_path}"])
    assert "pendulum (seed 0, realtime, pendulum_board)" in output
    found = transitions(tmp_path)
    assert len(found) >= 95 and any(t.plan_id for t in found)
    assert board.written[0] == board.written[-1] == 0.0, "at rest before the first plan and after the last"
    assert len(board.written) >= len(found) and max(map(abs, board.written)) <= 0.7
    # A transition is what the action of its own period did: the board turns by 0.02 rad for a command of 1.
    for t in found:
        turned = t.next_observation - t.observation
        angle = np.arctan2(t.next_observation[0], t.next_observation[2]) - np.arctan2(
            t.observation[0], t.observation[2]
        )
        assert np.isfinite(turned).all()
        assert np.mod(angle - 0.02 * t.action[0] + np.pi, 2 * np.pi) - np.pi == pytest.approx(0.0, abs=1e-6)
    # The session's time begins at 0 s and goes by whole periods, whatever clock the board has.
    assert 0.0 <= found[0].state[0] < 1.0


def test_a_board_that_hangs_up_is_connected_again_and_waits_to_be_armed(
    written: Path, installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(installed))
    monkeypatch.chdir(written)
    arguments = commands()[-1][2:]
    board = MotorBoard(PORT)
    with session(tmp_path, DOMAIN + 2, *arguments, file="robot") as process, stranger(DOMAIN + 2) as other:
        with board:
            wait_until(lambda: len(safely(tmp_path)) > 20, 60, "control")
        other.until(lambda: "fault" in other.fresh_figures("bridge"), "a fault", 20.0)
        figures = other.fresh_figures("bridge")
        assert figures["fault"].startswith("driver: motor board: ")
        failed = int(figures["step"])
        with board:
            other.until(lambda: other.newest_of("transition").step > failed + 20, "control again", 60.0)
            stopped = other.newest_of("transition").step
            assert other.trigger("arm").success
            wait_until(lambda: any(t.plan_id for t in safely(tmp_path)[-10:]), 60, "plans again")
        assert process.poll() is None
    steps = [t.step for t in transitions(tmp_path)]
    times = [t.state[0] for t in transitions(tmp_path)]
    assert steps == sorted(set(steps)) and times == sorted(times)
    assert all(t.safe_stop for t in transitions(tmp_path) if failed < t.step <= stopped)


@pytest.mark.parametrize("arguments", commands("pytest"), ids=["file", "name"])
def test_the_tutorials_driver_keeps_the_contract(written: Path, installed: Path, arguments: list[str]) -> None:
    with MotorBoard(PORT) as board:
        done = subprocess.run(
            [str(POLO.with_name("pytest")), "-p", "no:cacheprovider", *arguments],
            env={**os.environ, "PYTHONPATH": str(installed)},
            cwd=written,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    # What a robot cannot, and what nobody has arranged: a reset, and a link that breaks.
    assert "19 passed, 3 skipped" in done.stdout, done.stdout
    assert "read takes" in done.stdout and "not tested: a broken link" in done.stdout
    assert any(board.written) and board.written[-1] == 0.0
