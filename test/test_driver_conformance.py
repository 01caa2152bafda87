"""Every driver of this package keeps the contract that polo_ros.testing tests, and those that do not are caught."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import bad_drivers
import pytest
from bag_sessions import record
from motor_board import MotorBoard, tutorial

from polo_ros.drivers.bag import BagDriver, BagSettings
from polo_ros.drivers.base import Driver
from polo_ros.drivers.mock import MockDriver, MockSettings
from polo_ros.drivers.mujoco import MujocoDriver
from polo_ros.drivers.rc_car import RcCarDriver
from polo_ros.tasks.base import Task
from polo_ros.tasks.cartpole_swingup import CartpoleSwingup
from polo_ros.testing import DriverConformance

# ---- drivers that are right --------------------------------------------------------------------


class Mujoco(DriverConformance):
    def make(self, task: Task) -> Driver:
        return MujocoDriver(task, 0)


class TestMujocoCartpole(Mujoco):
    task = "cartpole_swingup"


class TestMujocoPointMass(Mujoco):
    task = "point_mass_maze"


class TestMujocoHumanoid(Mujoco):
    task = "humanoid_getup"


class Mock(DriverConformance):
    def make(self, task: Task) -> Driver:
        return MockDriver(task, 0)


class TestMockCartpole(Mock):
    task = "cartpole_swingup"


class TestMockPointMass(Mock):
    task = "point_mass_maze"


class TestMockHumanoid(Mock):
    task = "humanoid_getup"


class TestMockThatIsBad(DriverConformance):
    task = "cartpole_swingup"
    still = 0.02  # six standard deviations of what it measures, and some
    nudge = 0.5

    def make(self, task: Task) -> Driver:
        return MockDriver(task, 0, MockSettings(following_time=0.05, delay=0.03, loss=0.1, noise=0.002))


class TestRcCar(DriverConformance):
    task = "rc_car"

    def make(self, task: Task) -> Driver:
        return RcCarDriver(task, 0)


class Bag(DriverConformance):
    task = "cartpole_swingup"
    obeys = False

    @pytest.fixture(autouse=True)
    def _recorded(self, tmp_path: Path) -> None:
        self.path = tmp_path / "bag"
        record(self.path, CartpoleSwingup(), episodes=self.episodes, steps=40)

    episodes = 3

    def make(self, task: Task) -> Driver:
        return BagDriver(task, 0, BagSettings(path=str(self.path)))


class TestBag(Bag):
    pass


class TestBagOfOneEpisode(Bag):
    episodes = 1


class TestBoard(DriverConformance):
    """The driver of docs/your_own_robot.md, and a board whose server may go away."""

    may_move = True
    nudge = 1.0

    @pytest.fixture(autouse=True)
    def _board(self) -> object:
        self.code = tutorial()
        self.task = self.code["Pendulum"]()
        self.board = MotorBoard()
        self.board.switch_on()
        yield
        self.board.switch_off()

    def make(self, task: Task) -> Driver:
        driver: Driver = self.code["Board"](task, 0)
        driver.ADDRESS = self.board.address  # type: ignore[attr-defined]
        return driver

    def break_link(self, driver: Driver) -> None:
        self.board.switch_off()

    def mend_link(self, driver: Driver) -> None:
        self.board.switch_on()


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.prefix) / "bin" / "pytest"), "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


# ---- drivers that are wrong --------------------------------------------------------------------

WRONG = [
    pytest.param(kind, test, id=f"{kind.__name__}-{test.removeprefix('test_')}")
    for kind in bad_drivers.ALL
    for test in kind.caught_by
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], ElementTree.Element]:
    """Each test of bad_drivers that must fail, and the whole suite on the robot that they are made from."""
    report = tmp_path_factory.mktemp("bad") / "report.xml"
    file = str(Path(bad_drivers.__file__))
    chosen = [f"{file}::{kind.__name__}::{test}" for kind in bad_drivers.ALL for test in kind.caught_by]
    chosen += [f"{file}::{whole}" for whole in ("TestGood", "TestUnattended")]
    done = run_pytest(report.parent, "-q", f"--junitxml={report}", "--rootdir", str(Path(file).parent), *chosen)
    assert report.is_file(), done.stdout + done.stderr
    cases = ElementTree.parse(report).iter("testcase")
    return {(case.get("classname", "").rpartition(".")[2], case.get("name", "")): case for case in cases}


@pytest.mark.parametrize(("kind", "test"), WRONG)
def test_a_wrong_driver_is_caught_and_told_what_to_do(
    outcomes: dict[tuple[str, str], ElementTree.Element], kind: type[bad_drivers.Wrong], test: str
) -> None:
    case = outcomes[kind.__name__, test]
    failure = next(iter([*case.iter("failure"), *case.iter("error")]), None)
    assert failure is not None, f"{kind.__name__} passed {test}"
    assert kind.caught_by[test] in (failure.text or ""), failure.text


def test_the_robot_that_the_wrong_drivers_are_made_from_is_right(
    outcomes: dict[tuple[str, str], ElementTree.Element],
) -> None:
    good = {test: case for (kind, test), case in outcomes.items() if kind == "TestGood"}
    assert set(good) == set(SUITE)
    for test, case in good.items():
        assert not list(case.iter("failure")) and not list(case.iter("error")) and not list(case.iter("skipped")), test


def test_nothing_is_written_to_a_robot_that_may_not_move(
    outcomes: dict[tuple[str, str], ElementTree.Element],
) -> None:
    cases = [case for (kind, _), case in outcomes.items() if kind == "TestUnattended"]
    assert len(cases) == len(SUITE)
    for case in cases:
        assert not list(case.iter("failure")) and not list(case.iter("error")), case.get("name")
    reasons = [skipped.get("message", "") for case in cases for skipped in case.iter("skipped")]
    assert len(reasons) == 6
    assert all("set TestUnattended.may_move = True when it has room to move" in reason for reason in reasons)


SUITE = [name for name in dir(DriverConformance) if name.startswith("test_")]


@pytest.mark.parametrize("test", SUITE)
def test_no_test_of_the_suite_passes_every_driver(test: str) -> None:
    assert any(test in kind.caught_by for kind in bad_drivers.ALL)


# ---- as a plugin of pytest ---------------------------------------------------------------------


def test_an_installed_driver_is_tested_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text("def test_other(): pass\n")
    named = ("--polo-driver", "mock", "--polo-task", "point_mass_box")
    done = run_pytest(tmp_path, *named, "--polo-setting", "following_time=0.1", "--polo-attribute", "still=0.02")
    assert done.returncode == 0 and "21 passed, 1 skipped" in done.stdout, done.stdout
    assert "TestDriver (MockDriver):\n  read takes" in done.stdout
    both = run_pytest(tmp_path, *named, "test_other.py")
    assert both.returncode == 0 and "22 passed, 1 skipped" in both.stdout, both.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--polo-driver mock", "--polo-driver needs --polo-task"),
        ("--polo-may-move", "--polo-may-move needs --polo-driver"),
        ("--polo-driver moc --polo-task point_mass_box", "unknown driver 'moc'; drivers: "),
        ("--polo-driver mock --polo-task point", "unknown task 'point'; tasks: "),
        ("--polo-driver mock --polo-task point_mass_box --polo-setting lag=1", "unknown parameter 'mock.lag'"),
        ("--polo-driver mock --polo-task point_mass_box --polo-setting lag", "malformed --polo-setting 'lag'"),
        ("--polo-driver mock --polo-task point_mass_box --polo-attribute steel=1", "attributes: still, settling"),
        ("--polo-driver mock --polo-task point_mass_box --polo-attribute still=x", "attributes: still, settling"),
    ],
)
def test_what_the_command_line_gets_wrong_is_said(tmp_path: Path, arguments: str, words: str) -> None:
    done = run_pytest(tmp_path, *arguments.split(), "-k", "sizes" if "--polo-task" in arguments else "")
    assert done.returncode != 0
    assert words in done.stdout + done.stderr, done.stdout + done.stderr


def test_the_plugin_leaves_the_tests_of_others_alone(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(
        "import sys\n"
        "def test_nothing_heavy_is_loaded():\n"
        "    heavy = {'numpy', 'mujoco', 'rclpy', 'torch', 'yaml', 'polo_ros.testing.driver_conformance'}\n"
        "    assert 'polo_ros.testing.plugin' in sys.modules and not heavy & set(sys.modules)\n"
    )
    done = run_pytest(tmp_path, "-p", "no:hypothesispytest")
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout
    assert "drivers of polo_ros" not in done.stdout


def test_a_class_without_task_or_driver_says_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "from polo_ros.testing import DriverConformance\n"
        "class TestNoTask(DriverConformance):\n"
        "    pass\n"
        "class TestNoDriver(DriverConformance):\n"
        "    task = 'point_mass_box'\n"
    )
    done = run_pytest(tmp_path, "-k", "sizes")
    assert "TestNoTask.task is not set" in done.stdout
    assert "TestNoDriver: write `def make(self, task)" in done.stdout
