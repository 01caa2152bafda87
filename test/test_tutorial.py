"""docs/your_own_robot.md, done as it says."""

from __future__ import annotations

import json
import re
import shlex
import socketserver
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from session_runs import POLO, environment, transitions

TEXT = (Path(__file__).parents[1] / "docs" / "your_own_robot.md").read_text("utf-8")
DOMAIN = 130


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.M | re.S)


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


def commands() -> list[list[str]]:
    return [shlex.split(line)[1:] for text in blocks("bash") for line in text.splitlines() if line.startswith("polo ")]


def test_the_tutorials_commands_swing_the_pendulum_up(written: Path, installed: Path, tmp_path: Path) -> None:
    run, sim, _ = commands()
    figures = json.loads(polo(written, installed, DOMAIN, run))
    assert figures["steps"] == 300 and figures["success"] is True
    output = polo(written, installed, DOMAIN, [*sim, f"run_dir:={tmp_path}"])
    assert "pendulum (seed 0, lockstep, mujoco)" in output
    assert len(transitions(tmp_path)) == 200


class _Board(socketserver.StreamRequestHandler):
    """The tutorial's motor board, with a motor that turns as fast as it is told."""

    angle = 0.0
    written: list[float] = []

    def handle(self) -> None:
        for line in self.rfile:
            word, *rest = line.decode().split()
            if word == "w":
                _Board.written.append(float(rest[0]))
                _Board.angle += 0.02 * float(rest[0])
            self.wfile.write(f"{_Board.angle} 0.0\n".encode())


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def test_the_tutorials_driver_runs_a_session_and_leaves_the_robot_at_rest(
    written: Path, installed: Path, tmp_path: Path
) -> None:
    robot = commands()[-1]
    with _Server(("127.0.0.1", 7000), _Board) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        output = polo(written, installed, DOMAIN + 1, [*robot, "duration:=2", f"run_dir:={tmp_path}"])
        server.shutdown()
    assert "pendulum (seed 0, realtime, pendulum_board)" in output
    found = transitions(tmp_path)
    assert len(found) >= 95 and any(t.plan_id for t in found)
    assert len(_Board.written) >= len(found) and max(map(abs, _Board.written)) <= 0.7
    assert _Board.written[-1] == 0.0
