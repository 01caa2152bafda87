"""Tasks and drivers of other packages are found by name, and a broken one harms nobody else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from plugin_packages import install

from polo_ros import drivers, tasks
from polo_ros.cli import main

TASK = '''
import mujoco
import numpy as np
from polo_ros.tasks.base import ObservationSpec, Task

MODEL = """
<mujoco model="door">
  <option timestep="0.01"/>
  <worldbody><body name="leaf">
    <joint name="hinge" type="hinge" axis="0 0 1" damping="0.1"/>
    <geom type="box" size="0.4 0.02 1" pos="0.4 0 1" mass="5"/>
  </body></worldbody>
  <actuator><motor joint="hinge" ctrllimited="true" ctrlrange="-2 2"/></actuator>
  <sensor><jointpos joint="hinge"/><jointvel joint="hinge"/></sensor>
</mujoco>
"""

class Door(Task):
    name = "door_opening"
    description = "open a door"
    control_dt = 0.02
    discount = 0.95
    observation_spec = ObservationSpec((("angle", 1), ("rate", 1)))

    def __init__(self):
        self.model = mujoco.MjModel.from_xml_string(MODEL)

    def reset(self, rng):
        return self.pack(0.0, rng.uniform(-0.1, 0.1, 1), np.zeros(1), np.empty(0))

    def observe(self, sensordata):
        return np.array(sensordata)

    def reward(self, obs, action, next_obs):
        return next_obs[..., 0]

class Misnamed(Door):
    name = "something_else"

class Contradictory(Door):
    name = "contradictory"
    observation_spec = ObservationSpec((("angle", 1),))

class Undamped(Door):
    name = "undamped"
    safe_stop = "damp"

class Ragged(Door):
    name = "ragged"
    def success(self, observations):
        return bool(np.add(np.ones(2), np.ones(3)).any())

class Clumsy(Door):
    name = "clumsy"
    def __init__(self):
        raise RuntimeError("no model here")
'''

DRIVER = """
from polo_ros.drivers.mujoco import MujocoDriver

class DoorDriver(MujocoDriver):
    pass

class Homeless(MujocoDriver):
    def __init__(self, task, seed, settings):
        raise OSError("no such port")
"""

ENTRY_POINTS = """
[polo_ros.tasks]
door_opening = doors.tasks:Door
door_misnamed = doors.tasks:Misnamed
contradictory = doors.tasks:Contradictory
undamped = doors.tasks:Undamped
ragged = doors.tasks:Ragged
clumsy = doors.tasks:Clumsy
not_a_task = builtins:dict
broken = doors.broken:Task
absent = doors.tasks:Absent

[polo_ros.drivers]
door = doors.drivers:DoorDriver
homeless = doors.drivers:Homeless
not_a_driver = doors.drivers:lambda_
broken = doors.broken:Driver
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own package as pip would install it."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, "doors", ENTRY_POINTS)
    (folder / "doors").mkdir()
    (folder / "doors" / "__init__.py").write_text("")
    (folder / "doors" / "tasks.py").write_text(TASK)
    (folder / "doors" / "drivers.py").write_text(DRIVER + "\nlambda_ = lambda task, seed, settings: 5\n")
    (folder / "doors" / "broken.py").write_text("import a_package_that_is_not_there\n")
    return folder


@pytest.fixture
def installed(package: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package on the path."""
    monkeypatch.syspath_prepend(str(package))
    return package


def test_this_package_brings_its_tasks_and_drivers() -> None:
    expected = {
        "cartpole_swingup",
        "humanoid_box",
        "humanoid_getup",
        "humanoid_getup_sparse",
        "hand_reorient",
        "humanoid_walk",
        "point_mass_box",
        "point_mass_maze",
        "ant",
        "claw",
        "half_cheetah",
        "hopper",
        "humanoid",
        "inverted_pendulum",
        "pen",
        "swimmer",
        "walker2d",
    }
    assert expected <= set(tasks.names())
    assert {"mock", "mujoco"} <= set(drivers.names())
    for name in expected:
        task = tasks.make(name)
        assert task.name == name
        for driver in ("mock", "mujoco"):
            assert drivers.make(driver, task, 0).task is task


def test_a_task_and_a_driver_of_another_package_are_made_by_name(
    installed: Path,
) -> None:
    assert "door_opening" in tasks.names() and "door" in drivers.names()
    task = tasks.make("door_opening")
    driver = drivers.make("door", task, 3)
    assert type(driver).__name__ == "DoorDriver" and driver.seed == 3
    driver.connect()
    driver.write(np.array([2.0]))
    assert driver.read().time == pytest.approx(0.02)
    assert task.physics_steps == 2


def test_a_safe_stop_that_is_none_is_refused_when_the_task_is_made(installed: Path) -> None:
    with pytest.raises(ValueError, match="task 'undamped': safe_stop_damping = 0.0 is not a number > 0"):
        tasks.make("undamped")


def test_an_unknown_name_is_answered_with_those_that_there_are() -> None:
    with pytest.raises(
        ValueError,
        match=r"unknown task 'cartpol'; tasks: .*cartpole_swingup.*point_mass_maze",
    ):
        tasks.make("cartpol")
    task = tasks.make("point_mass_maze")
    with pytest.raises(ValueError, match=r"unknown driver 'mujocco'; drivers: .*mock.*mujoco"):
        drivers.make("mujocco", task, 0)


def test_a_broken_plugin_is_named_and_the_others_work(installed: Path) -> None:
    message = "'broken' of package doors cannot be loaded from doors.broken:{}: ModuleNotFoundError: .*not_there"
    with pytest.raises(ValueError, match="task " + message.format("Task")):
        tasks.make("broken")
    task = tasks.make("door_opening")
    with pytest.raises(ValueError, match="driver " + message.format("Driver")):
        drivers.make("broken", task, 0)
    assert drivers.make("door", task, 0).task is task


def test_lists_and_the_reference_do_without_a_broken_driver(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["drivers"]) == 0
    said = capsys.readouterr().out
    assert "broken: driver 'broken' of package doors cannot be loaded" in said and "mock" in said
    assert main(["parameters"]) == 0
    said = capsys.readouterr().out
    assert "driver `mock`" in said and "driver `door`" not in said
    assert drivers.built_in("mock") and not drivers.built_in("door")


def test_an_error_in_code_of_others_comes_with_its_line(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--steps", "1", "--no-learning", "--set", "mppi.rollouts=2", "--set", "mppi.horizon=2"]
    assert main(["run", "polo", "--task", "ragged", *arguments]) == 2
    said = capsys.readouterr().err
    assert "tasks.py" in said and "return bool(np.add(np.ones(2), np.ones(3)).any())" in said
    assert said.splitlines()[-1].startswith("polo: operands could not be broadcast")
    assert main(["run", "polo", "--task", "contradictory", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1, "what this package finds wrong it says in a line"
    assert main(["run", "polo", "--task", "broken", *arguments]) == 2
    assert "broken.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "absent",
            "'absent' of package doors cannot be loaded from doors.tasks:Absent: AttributeError",
        ),
        ("clumsy", "task 'clumsy' cannot be made: RuntimeError: no model here"),
        ("not_a_task", "task 'not_a_task' is a dict, not a polo_ros.tasks.base.Task"),
        ("door_misnamed", "task 'door_misnamed' calls itself 'something_else'"),
        (
            "contradictory",
            r"task 'contradictory': observe gives shape \(2,\), observation_spec says \(1,\)",
        ),
    ],
)
def test_a_task_that_is_not_whole_is_refused_with_the_reason(installed: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tasks.make(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "homeless",
            "driver 'homeless' cannot be made for task 'door_opening': OSError: no such port",
        ),
        (
            "not_a_driver",
            "driver 'not_a_driver' is a int, not a polo_ros.drivers.base.Driver",
        ),
    ],
)
def test_a_driver_that_is_not_one_is_refused_with_the_reason(installed: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drivers.make(name, tasks.make("door_opening"), 0)


def test_a_name_that_two_packages_claim_is_refused_and_both_are_named(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "gates", "[polo_ros.tasks]\ndoor_opening = gates:Gate\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        ValueError,
        match=r"offered by doors \(doors.tasks:Door\) and gates \(gates:Gate\)",
    ):
        tasks.make("door_opening")


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("next_obs", r"reward of observations \(2,\) and actions \(1,\) has shape \(2,\), expected \(\)"),
        ("next_obs.sum()", r"reward of observations \(2, 2\) and actions \(2, 1\) has shape \(\), expected \(2,\)"),
        ("next_obs[..., 5]", r"fails at .*gates.py:\d+: IndexError"),
        ("np.log(next_obs[..., 0] - 1e9)", r"reward of observations \(2,\) and actions \(1,\) is not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in log")
def test_a_reward_that_is_not_one_number_an_observation_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reward: str, message: str
) -> None:
    name = f"gates{abs(hash(reward))}"
    install(tmp_path, name, f"[polo_ros.tasks]\ndoor_opening = {name}.gates:Door\n")
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / name / "gates.py").write_text(TASK.replace("return next_obs[..., 0]", f"return {reward}"))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=message):
        tasks.make("door_opening")
