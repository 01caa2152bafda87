"""The command line, called in this process."""

from __future__ import annotations

import json

import pytest

from polo_ros import __version__
from polo_ros.cli import main

SMALL = [
    argument
    for setting in ("mppi.rollouts=4", "mppi.horizon=8", "learner.gradient_steps=2", "learner.target_states=4")
    for argument in ("--set", setting)
]
RUN = ["run", "polo", "--task", "cartpole_swingup", "--json", *SMALL]


def read_json(capsys, *arguments):
    assert main(list(arguments)) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments):
    """What is said to a command that is refused."""
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("polo: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_tasks_lists_what_is_installed(capsys):
    rows = read_json(capsys, "tasks", "--json")
    assert {"cartpole_swingup", "point_mass_maze", "humanoid_getup", "humanoid_getup_sparse"} <= rows.keys()
    assert {"humanoid_walk", "humanoid_box", "point_mass_box"} <= rows.keys()
    humanoid = rows["humanoid_getup"]
    assert (humanoid["degrees_of_freedom"], humanoid["actuators"], humanoid["observations"]) == (27, 21, 34)
    assert humanoid["description"]
    assert main(["tasks"]) == 0
    assert "cartpole_swingup" in capsys.readouterr().out


def test_drivers_lists_what_is_installed(capsys):
    rows = read_json(capsys, "drivers", "--json")
    assert {"mujoco", "mock"} <= rows.keys()
    assert all(row["description"] for row in rows.values())


def test_run_prints_figures_as_json(capsys):
    figures = read_json(capsys, *RUN, "--steps", "60", "--seed", "4")
    assert (figures["task"], figures["seed"], figures["steps"]) == ("cartpole_swingup", 4, 60)
    assert figures["weights_version"] == 1
    assert len(figures["episode_returns"]) == 1
    assert figures["real_time_factor"] > 0.0


def test_run_gives_the_same_returns_again(capsys):
    first, again, other = (
        read_json(capsys, *RUN, "--steps", "10", "--seed", seed)["episode_returns"] for seed in ("1", "1", "2")
    )
    assert first == again
    assert first != other


def test_run_prints_what_the_task_measures(capsys):
    run = ["run", "polo", "--task", "point_mass_box", "--steps", "3", *SMALL]
    coverage = read_json(capsys, *run, "--json")["measures"]["coverage"]
    assert 0.0 < coverage < 0.1
    assert main(run) == 0
    assert f"measures             coverage {coverage:.3g}\n" in capsys.readouterr().out


def test_run_without_learning(capsys):
    figures = read_json(capsys, *RUN, "--steps", "5", "--no-learning")
    assert figures["weights_version"] == 0
    assert figures["value_loss"] is None


def test_run_prints_figures_for_people(capsys):
    assert main([a for a in RUN if a != "--json"] + ["--steps", "3"]) == 0
    assert "episode_returns" in capsys.readouterr().out


def test_an_unknown_task_is_named(capsys):
    said = refused(capsys, "run", "polo", "--task", "walk_the_dog")
    assert "unknown task 'walk_the_dog'" in said
    assert "cartpole_swingup" in said


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("mppi.rolouts=5", "unknown parameter 'mppi.rolouts'"),
        ("mppi.rollouts=0", "mppi.rollouts = 0 is below its minimum 1"),
        ("mppi.rollouts=1.5", "mppi.rollouts = 1.5"),
        ("mppi.sigma=.nan", "mppi.sigma = nan is not finite"),
        ("mppi.sigma=wide", "mppi.sigma = 'wide'"),
        ("mppi.fill=half", "mppi.fill = 'half' is unknown; choices: repeat, zero"),
        ("mppi.sigma=", "mppi.sigma = None"),
        ("mppi.sigma", "malformed setting 'mppi.sigma'; write NAME=VALUE"),
    ],
)
def test_a_bad_setting_is_named(capsys, setting, words):
    assert words in refused(capsys, *RUN, "--set", setting)


@pytest.mark.parametrize("steps", ["0", "-3"])
def test_a_number_of_steps_below_one_is_refused(capsys, steps):
    assert f"--steps {steps} is below its minimum 1" in refused(capsys, *RUN, "--steps", steps)


def test_a_negative_number_of_threads_is_refused(capsys):
    assert "threads = -2" in refused(capsys, *RUN, "--threads", "-2")


def test_a_negative_seed_is_refused(capsys):
    assert "seed" in refused(capsys, *RUN, "--seed", "-1")


@pytest.mark.parametrize("arguments", [[], ["dance"], ["run"], ["run", "ppo"], ["run", "polo"]])
def test_a_malformed_command_exits_with_2(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: polo" in capsys.readouterr().err


def test_bench_planning_needs_a_round(capsys):
    assert "repeats = 0 is below its minimum 1" in refused(capsys, "bench", "planning", "--repeats", "0")


def test_bench_planning_gives_a_row_for_each_size(capsys, monkeypatch):
    from polo_ros.bench import planning

    monkeypatch.setattr(planning, "SIZES", (("cartpole_swingup", 4, 5, 1), ("point_mass_maze", 3, 4, 2)))
    rows = read_json(capsys, "bench", "planning", "--repeats", "2", "--json")
    assert [(row["task"], row["rollouts"], row["horizon"], row["members"]) for row in rows] == list(planning.SIZES)
    for row in rows:
        assert row.keys() == {"task", "rollouts", "horizon", "members", "plan_ms", "rollout_ms", "ratio"}
        assert min(row["plan_ms"], row["rollout_ms"], row["ratio"]) > 0.0


def test_version_is_printed(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert __version__ in capsys.readouterr().out
