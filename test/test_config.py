"""Configuration dataclasses: one declaration for code, files, the command line and ROS parameters."""

from __future__ import annotations

import dataclasses
import importlib
import math
import pkgutil
from array import array

import pytest

import polo_ros
from polo_ros import resources, tasks
from polo_ros.agents.configs import CONFIGS
from polo_ros.agents.loop_config import LoopConfig, OfflineAgentConfig
from polo_ros.agents.polo import PoloConfig
from polo_ros.config import Config, entry_type, fields, flatten, option, read_parameters, replace, unknown_parameter
from polo_ros.learning.offline_config import OfflineConfig
from polo_ros.session.config import (
    OFFLINE_AGENTS,
    BridgeConfig,
    LearnerNodeConfig,
    PlannerConfig,
    RecorderConfig,
    SessionConfig,
    for_task,
    task_parameters,
)

SESSION = (SessionConfig, BridgeConfig, PlannerConfig, LearnerNodeConfig, RecorderConfig, PoloConfig, LoopConfig)
IN_FILES = (*SESSION, OfflineConfig, OfflineAgentConfig)


def every_config() -> list[type[Config]]:
    """All configurations of the package, wherever they stand; ROS is left alone."""
    for module in pkgutil.walk_packages(polo_ros.__path__, "polo_ros."):
        if not module.name.startswith(("polo_ros.nodes", "polo_ros.launcher", "polo_ros.msg")):
            importlib.import_module(module.name)
    found, open_ = [], [Config]
    while open_:
        for kind in open_.pop().__subclasses__():
            open_.append(kind)
            if kind.__module__.startswith("polo_ros.") and dataclasses.fields(kind):
                found.append(kind)
    return sorted(set(found), key=lambda kind: kind.__name__)


EVERY = every_config()
OPTIONS = [(kind, name) for kind in EVERY for name, *_ in fields(kind())]


def described(kind, wanted):
    return next((value, type_, info) for name, value, type_, info in fields(kind()) if name == wanted)


def test_every_session_config_is_found():
    assert set(SESSION) <= set(EVERY)
    assert len(EVERY) >= 10


@pytest.mark.parametrize("kind", EVERY)
def test_defaults_are_valid_and_frozen(kind):
    config = kind()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, dataclasses.fields(config)[0].name, 0)


@pytest.mark.parametrize(("kind", "name"), OPTIONS)
def test_every_option_has_a_sentence_and_a_plain_type(kind, name):
    value, type_, info = described(kind, name)
    assert info.doc
    entry = entry_type(type_)
    assert (entry or type_) in (int, float, str, bool)
    assert type(value) is (type_ if entry is None else tuple)


def wrong_values(type_, info):
    entry = entry_type(type_)
    if entry is not None:
        return [None, 1, "one", {"a": 1}, *([wrong] for wrong in wrong_values(entry, info))]
    wrong: list[object] = [None, [1], {"a": 1}]
    if type_ is float:
        wrong += [math.nan, math.inf, -math.inf, True, "1.0"]
    if type_ is int:
        wrong += [math.nan, 1.5, True, "1"]
    if type_ is bool:
        wrong += [0, 1, "true"]
    if type_ is str:
        wrong += [1, True]
    if info.choices:
        wrong.append("no such choice")
    if info.low is not None:
        wrong.append(type_(info.low - 1))
    if info.high is not None:
        wrong.append(type_(info.high * 2 + 1))
    return wrong


@pytest.mark.parametrize(("kind", "name"), OPTIONS)
def test_a_wrong_value_is_refused_by_name(kind, name):
    _, type_, info = described(kind, name)
    for value in wrong_values(type_, info):
        with pytest.raises(ValueError) as caught:
            replace(kind(), {name: value})
        assert name in str(caught.value), value


@pytest.mark.parametrize(("kind", "name"), OPTIONS)
def test_the_bounds_themselves_are_allowed(kind, name):
    _, type_, info = described(kind, name)
    entry = entry_type(type_)
    bounds = [(entry or type_)(bound) for bound in (info.low, info.high) if bound is not None]
    for allowed in (*bounds, *info.choices):
        value = allowed if entry is None else (allowed,)
        assert flatten(replace(kind(), {name: value}))[name] == value


@pytest.mark.parametrize("kind", EVERY)
def test_an_unknown_name_is_refused_and_a_near_one_is_suggested(kind):
    first = next(name for name, *_ in fields(kind()))
    for unknown in ("nonsense", "mppi.nonsense", first + "x", ""):
        with pytest.raises(ValueError, match=f"unknown parameter '{unknown}'; .*parameters: ") as caught:
            replace(kind(), {unknown: 1})
        assert (f"; did you mean '{first}'? parameters: " in str(caught.value)) == (unknown == first + "x")
        known, group = flatten(kind()), unknown.partition(".")[0]
        of_group = {name for name in known if "." in unknown and name.startswith(f"{group}.")}
        listed = str(caught.value).partition("parameters: ")[2].split(", ")
        assert set(listed) == (of_group or {f"{name.partition('.')[0]}.*" if "." in name else name for name in known})


def test_an_unknown_name_is_told_those_of_its_group_or_what_groups_there_are():
    known = ("seed", "mppi.sigma", "mppi.horizon", "value.sigma")
    said = unknown_parameter("mppi.nonsense", known)
    assert said == "unknown parameter 'mppi.nonsense'; parameters: mppi.horizon, mppi.sigma"
    for unknown in ("nonsense", "nonsense.sigma", "mppi"):
        said = unknown_parameter(unknown, known)
        assert said == f"unknown parameter '{unknown}'; parameters: mppi.*, seed, value.*"


@pytest.mark.parametrize("kind", EVERY)
def test_flatten_and_replace_are_a_round_trip(kind):
    config = kind()
    flat = flatten(config)
    assert replace(config, flat) == config
    changed = {}
    for name, value, type_, info in fields(config):
        if info.choices:
            changed[name] = info.choices[-1]
        elif type_ is bool:
            changed[name] = not value
        elif entry_type(type_) is not None:
            changed[name] = value[:-1]
        elif type_ is str:
            changed[name] = "other"
        else:
            top = math.inf if info.high is None else info.high
            changed[name] = type_(min(info.low + 1, top)) if info.low is not None else value
    other = replace(config, changed)
    assert flatten(other) == changed
    assert other != config
    assert flatten(config) == flat


def test_an_int_is_taken_where_a_float_is_asked_for_and_becomes_one():
    config = replace(PoloConfig(), {"mppi.sigma": 1})
    assert type(config.mppi.sigma) is float


def test_one_bad_value_among_many_changes_nothing():
    with pytest.raises(ValueError, match=r"mppi\.rollouts = 0 is below its minimum 1"):
        replace(PoloConfig(), {"mppi.sigma": 0.5, "mppi.rollouts": 0})


def test_an_instance_is_checked_when_it_is_made():
    @dataclasses.dataclass(frozen=True)
    class Own(Config):
        gain: float = option(1.0, "a gain", low=0.0)

    assert Own(2.0).gain == 2.0
    with pytest.raises(ValueError, match="gain = -1.0 is below its minimum 0.0"):
        Own(-1.0)


@pytest.mark.parametrize(
    "name",
    [
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
    ],
)
def test_every_task_has_a_file_of_settings(name):
    assert name in tasks.names()
    assert task_parameters(name)


@pytest.mark.parametrize("file", sorted(resources.path("config").glob("*.yaml")), ids=lambda path: path.stem)
def test_installed_settings_are_known_and_valid(file):
    given = {n: tuple(v) if isinstance(v, list) else v for n, v in read_parameters(file).items()}
    assert given
    known: dict[str, object] = {}
    for kind in IN_FILES:
        names = {name: (type_, info) for name, _, type_, info in fields(kind())}
        assert all(known.get(name, meaning) == meaning for name, meaning in names.items()), "one name, two meanings"
        known |= names
        chosen = {name: value for name, value in given.items() if name in names}
        assert chosen.items() <= flatten(replace(kind(), chosen)).items()
    assert set(given) <= set(known)
    assert (
        flatten(for_task(PoloConfig(), file.stem)).items()
        >= {name: value for name, value in given.items() if name in flatten(PoloConfig())}.items()
    )


def test_loop_and_its_baselines_share_their_settings(tmp_path, monkeypatch):
    (tmp_path / "config").mkdir()
    files = {
        "arm": "sac: {warmup: 1, batch_size: 2}",
        "loop": "sac: {warmup: 3, update_every: 4}",
        "arm.loop": "sac: {warmup: 5}",
    }
    for name, text in files.items():
        (tmp_path / "config" / f"{name}.yaml").write_text(f"/**:\n  ros__parameters:\n    {text}\n")
    monkeypatch.setenv("POLO_ROS_SHARE", str(tmp_path))
    for name, config in CONFIGS.items():
        if name != "polo" and name not in OFFLINE_AGENTS:
            sac = for_task(config, "arm", agent=name).sac
            assert (sac.warmup, sac.batch_size, sac.update_every) == (5, 2, 4)
    assert task_parameters("arm") == {"sac.warmup": 1, "sac.batch_size": 2}


def test_a_clock_has_settings_of_its_own_over_the_tasks(tmp_path, monkeypatch):
    (tmp_path / "config").mkdir()
    for name, text in {"arm": "mppi: {horizon: 40, sigma: 0.5}", "arm.realtime": "mppi: {horizon: 10}"}.items():
        (tmp_path / "config" / f"{name}.yaml").write_text(f"/**:\n  ros__parameters:\n    {text}\n")
    monkeypatch.setenv("POLO_ROS_SHARE", str(tmp_path))
    found = {clock: for_task(PoloConfig(), "arm", clock).mppi for clock in ("lockstep", "realtime")}
    assert [found[clock].horizon for clock in found] == [40, 10]
    assert [found[clock].sigma for clock in found] == [0.5, 0.5]


def test_a_task_without_a_file_has_the_defaults():
    assert for_task(PoloConfig(), "no_such_task") == PoloConfig()


@pytest.mark.parametrize("text", ["", "a: 1", "/**: {}", "/**:\n  other: {}", "- 1"])
def test_a_file_that_is_no_parameter_file_is_named(tmp_path, text):
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"odd\.yaml: no '/\*\*: ros__parameters:' section"):
        read_parameters(path)


@dataclasses.dataclass(frozen=True)
class Arm(Config):
    joints: tuple[str, ...] = option(("hip", "knee"), "names")
    gains: tuple[float, ...] = option((), "one a joint", low=0.0, high=10.0)
    ids: tuple[int, ...] = option((1, 2), "numbers", low=0, high=253)


@pytest.mark.parametrize(("kind", "name"), [(Arm, name) for name, *_ in fields(Arm())])
def test_lists_are_checked_as_a_whole_and_one_by_one(kind, name):
    test_every_option_has_a_sentence_and_a_plain_type(kind, name)
    test_a_wrong_value_is_refused_by_name(kind, name)
    test_the_bounds_themselves_are_allowed(kind, name)
    test_flatten_and_replace_are_a_round_trip(kind)


def test_a_list_is_taken_from_what_files_and_ros_give():
    given = replace(Arm(), {"joints": ["ankle"], "gains": [1, 2.5], "ids": array("q", [3])})
    assert given == Arm(joints=("ankle",), gains=(1.0, 2.5), ids=(3,))
    assert [type(gain) for gain in given.gains] == [float, float]
    with pytest.raises(ValueError, match=r"gains\[1\] = 11.0 is above its maximum 10"):
        replace(Arm(), {"gains": [1.0, 11.0]})
    with pytest.raises(ValueError, match="ids = .* is not of type list of int"):
        replace(Arm(), {"ids": [1, 2.5]})
