"""`polo reproduce`: trials are run once and kept, judged by their experiment, and drawn."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from plugin_packages import install
from toy_experiment.toys import Counted, Single, Toy

from polo_ros import tasks
from polo_ros.agents.configs import CONFIGS
from polo_ros.agents.polo import PoloConfig
from polo_ros.agents.run import run_polo
from polo_ros.cli import main
from polo_ros.config import replace
from polo_ros.experiments import agents, comparison, registry
from polo_ros.experiments.agents import settings_of
from polo_ros.experiments.base import Experiment, Outcomes, Trial, Workplace, plain
from polo_ros.experiments.runner import TrialFailed, reproduce
from polo_ros.tasks.humanoid_walk import HumanoidWalk

HERE = str(Path(__file__).parent)
RESULTS = Path(__file__).parents[1] / "docs" / "results"
DOMAIN = "160"
LEARNING = {
    "task": "short_getup",
    "steps": 120,
    "seed": 3,
    "config": {
        "mppi.rollouts": 4,
        "mppi.horizon": 2,
        "targets.horizon": 2,
        "targets.rollouts": 4,
        "learner.gradient_steps": 4,
        "learner.target_states": 8,
        "value.hidden": 8,
    },
}


@pytest.fixture(autouse=True)
def toy_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy's jobs and task, for this process's children too."""
    packages = tmp_path / "packages"
    packages.mkdir()
    install(packages, "toy_experiment", "[polo_ros.tasks]\nshort_getup = toy_experiment.learning:ShortGetup\n")
    paths = [HERE, str(packages), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))


def run(tmp_path: Path, experiment: Experiment, **options: Any) -> dict[str, Any]:
    options = {"budget": "full", "seeds": 2, "folder": tmp_path / "toy", "store": tmp_path / "trials", **options}
    return reproduce(experiment, **options)


def calls(tmp_path: Path) -> dict[str, int]:
    """How often the job of each trial was called, by name and fingerprint."""
    return {path.parent.name: len(path.read_text().splitlines()) for path in tmp_path.glob("trials/*/calls")}


# ---- what comes out ----------------------------------------------------------------------------


def test_results_say_what_was_run_what_it_cost_and_what_holds(tmp_path: Path) -> None:
    results = run(tmp_path, Toy())
    assert results == json.loads((tmp_path / "toy" / "results.json").read_text())
    assert (results["name"], results["paper"], results["question"]) == (Toy.name, Toy.paper, Toy.question)
    assert (results["budget"], results["seeds"]) == ("full", 2)
    assert results["versions"].keys() == {"polo_ros", "python", "mujoco", "numpy", "torch"}
    assert results["claims"] == [
        {"claim": "the total is 6", "holds": True, "figures": {"total": 6.0, "none": None}},
        {"claim": "pigs fly", "holds": False, "figures": {}},
    ]
    first, _, total = results["trials"]
    assert first["name"] == "draw-1" and first["job"] == "toy_experiment.jobs:draw"
    assert first["settings"] == {"number": 1} and first["facts"] == {"s": 1}
    assert first["numbers"] == {"number": 1.0, "missing": None}
    assert total["numbers"] == {"number": 6.0}
    assert all(trial["cpu_s"] > 0.0 for trial in results["trials"])
    assert results["cpu_core_hours"] == pytest.approx(sum(trial["cpu_s"] for trial in results["trials"]) / 3600.0)
    with Image.open(tmp_path / "toy" / "figure.png") as image:
        assert image.format == "PNG"
    assert results["files"] == ["first.txt", "total.txt"]
    assert (tmp_path / "toy" / "total.txt").read_text() == "6.0 in all\n"
    assert (tmp_path / "toy" / "first.txt").read_text() == "1.0\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budget": "huge"}, "unknown budget 'huge'; budgets: full, small"),
        ({"seeds": 0}, "--seeds 0 is below its minimum 1"),
        ({"jobs": -1}, "--jobs -1 is below its minimum 0"),
    ],
)
def test_a_bad_option_is_named(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run(tmp_path, Toy(), **options)


# ---- what is run again -------------------------------------------------------------------------


def test_a_trial_runs_once_and_is_kept(tmp_path: Path) -> None:
    first = run(tmp_path, Toy())
    said: list[str] = []
    assert run(tmp_path, Toy(), report=said.append) == first
    assert said == ["3 of 3 trials are there already"]
    assert set(calls(tmp_path).values()) == {1}
    run(tmp_path, Toy(), seeds=3, folder=tmp_path / "more")
    # The two seeds of before, the third, and a total of two and one of three.
    assert sorted(name.rpartition("-")[0] for name in calls(tmp_path)) == [
        "draw-1",
        "draw-2",
        "draw-3",
        "total",
        "total",
    ]


def test_a_changed_setting_runs_only_what_depends_on_it_again(tmp_path: Path) -> None:
    run(tmp_path, Toy())
    before = calls(tmp_path)
    assert run(tmp_path, Toy(factor=3.0))["trials"][-1]["numbers"]["number"] == 9.0
    new = calls(tmp_path).keys() - before.keys()
    assert [name.rpartition("-")[0] for name in new] == ["total"]
    before = calls(tmp_path)
    assert run(tmp_path, Toy({2: 5.0}))["trials"][-1]["numbers"]["number"] == 12.0
    new = calls(tmp_path).keys() - before.keys()
    assert sorted(name.rpartition("-")[0] for name in new) == ["draw-2", "total"]
    assert set(calls(tmp_path).values()) == {1}


def test_what_is_recorded_is_not_run_again(tmp_path: Path) -> None:
    first = run(tmp_path, Counted(), store=tmp_path / "before")
    said: list[str] = []
    recorded = [tmp_path / "toy" / "results.json"]
    again = run(tmp_path, Counted(), folder=tmp_path / "again", recorded=recorded, report=said.append)
    assert again == first
    assert said == [f"{recorded[0]} has 5 of 5 trials"]
    assert not calls(tmp_path)


def test_a_trial_that_is_run_gets_the_files_of_what_it_needs(tmp_path: Path) -> None:
    first = run(tmp_path, Counted(), store=tmp_path / "before")
    recorded = [tmp_path / "toy" / "results.json"]
    more = run(tmp_path, Counted(), seeds=3, folder=tmp_path / "more", recorded=recorded)
    # A total of three reads the notes of all three; of what stands apart only the third is missing.
    assert sorted(name.rpartition("-")[0] for name in calls(tmp_path)) == [
        "apart-3",
        "draw-1",
        "draw-2",
        "draw-3",
        "total",
    ]
    numbers = {trial["name"]: trial["numbers"]["number"] for trial in more["trials"]}
    assert numbers["total"] == 12.0 and numbers["apart-1"] == -1.0
    cpu_s = [{trial["name"]: trial["cpu_s"] for trial in results["trials"]}["apart-1"] for results in (first, more)]
    assert cpu_s[0] == cpu_s[1]  # what it took then


def test_records_of_other_settings_or_of_what_these_need_are_not_used(tmp_path: Path) -> None:
    run(tmp_path, Counted(), store=tmp_path / "before")
    said: list[str] = []
    recorded = [tmp_path / "toy" / "results.json"]
    changed = run(tmp_path, Counted({2: 5.0}), folder=tmp_path / "new", recorded=recorded, report=said.append)
    assert said[0] == f"{recorded[0]} has 3 of 5 trials"  # the total's own settings are as before
    numbers = {trial["name"]: trial["numbers"]["number"] for trial in changed["trials"]}
    assert numbers["total"] == 12.0


def test_a_record_of_other_versions_is_not_used(tmp_path: Path) -> None:
    results = run(tmp_path, Counted(), store=tmp_path / "before")
    recorded = tmp_path / "old.json"
    recorded.write_text(json.dumps({**results, "versions": {**results["versions"], "mujoco": "2.1.0"}}))
    said: list[str] = []
    run(tmp_path, Counted(), recorded=[recorded], report=said.append)
    assert said[0] == f"{recorded} is of other versions and not used: {{'mujoco': '2.1.0'}}"
    assert len(calls(tmp_path)) == 5


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"trials": [{"name": "total"}], "versions": {}}'])
def test_a_record_that_is_none_is_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "results.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=f"{path} is no results.json of `polo reproduce`"):
        run(tmp_path, Counted(), recorded=[path])


def test_an_experiment_that_reads_files_takes_no_record(tmp_path: Path) -> None:
    run(tmp_path, Toy())
    with pytest.raises(ValueError, match="toy reads files that its trials leave; recorded results have numbers alone"):
        run(tmp_path, Toy(), recorded=[tmp_path / "toy" / "results.json"])


def test_a_failed_trial_is_named_with_its_output_and_the_others_stay(tmp_path: Path) -> None:
    class Failing(Toy):
        def trials(self, budget: str, seeds: int) -> list[Trial]:
            drawn = super().trials(budget, seeds)[:-1]
            needs = tuple(trial.name for trial in drawn)
            return [*drawn, Trial("doomed", "toy_experiment.jobs:fail", {"words": "no such luck"}, needs)]

    with pytest.raises(TrialFailed, match=r"(?s)trial 'doomed' failed \(exit code 1\).*ArithmeticError: no such luck"):
        run(tmp_path, Failing())
    said: list[str] = []
    run(tmp_path, Toy(), report=said.append)
    assert said[0] == "2 of 3 trials are there already"


def test_two_processes_do_not_work_on_one_trial(tmp_path: Path) -> None:
    single = Single("toy_experiment.jobs:draw", {"number": 1})
    run(tmp_path, single)
    (outcome,) = tmp_path.glob("trials/*/outcome.json")
    outcome.unlink()
    with open(outcome.parent / "lock", "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate()
        lock.write("4711")
        lock.flush()
        with pytest.raises(TrialFailed, match=f"process 4711 already works on this trial, in {outcome.parent}\n$"):
            run(tmp_path, single)
    run(tmp_path, single)


def test_a_trial_runs_the_code_of_its_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout in the current folder may be another version than the one that is installed."""
    (tmp_path / "checkout" / "polo_ros").mkdir(parents=True)
    (tmp_path / "checkout" / "polo_ros" / "__init__.py").write_text("raise RuntimeError('the checkout')\n")
    monkeypatch.chdir(tmp_path / "checkout")
    run(tmp_path, Single("toy_experiment.jobs:draw", {"number": 1}), folder=Path("out"), store=Path("trials"))
    assert len(list(Path("trials").glob("one-*/outcome.json"))) == 1


def test_each_trial_has_a_process_of_its_own(tmp_path: Path) -> None:
    """What one leaves in memory, the next does not find; and it was forked from a process without other threads."""

    class Two(Single):
        def trials(self, budget: str, seeds: int) -> list[Trial]:
            return [Trial(name, "toy_experiment.jobs:remember", {"name": name}) for name in ("one", "other")]

    results = run(tmp_path, Two("", {}), jobs=1)
    assert [trial["numbers"] for trial in results["trials"]] == [{"calls": 1, "threads": 1}] * 2


def test_trials_and_what_they_have_started_end_with_their_runner(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from polo_ros.experiments import runner; from toy_experiment.toys import Single\n"
        "single = Single('toy_experiment.jobs:linger', {})\n"
        "runner.reproduce(single, budget='full', seeds=1, folder=Path('toy'), store=Path('trials'))"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path) as runner:
        wait_for(lambda: bool(list(tmp_path.glob("trials/*/progress"))))
        (trial,) = tmp_path.glob("trials/*")
        pids = [int((trial / name).read_text()) for name in ("lock", "started")]
        assert all(is_running(pid) for pid in pids)
        runner.kill()
    wait_for(lambda: not any(is_running(pid) for pid in pids))
    assert not (trial / "outcome.json").exists()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(happened: Callable[[], bool], patience_s: float = 60.0) -> None:
    end = time.monotonic() + patience_s
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


# ---- learning that is killed -------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Numbers, weights and arrays of a learning that nobody killed; made when first asked for."""
    kept: list[Any] = []

    def get() -> Any:
        if not kept:
            folder = tmp_path_factory.mktemp("uninterrupted")
            kept.append(learned(folder, run(folder, Single("toy_experiment.learning:learn", LEARNING))))
        return kept[0]

    return get


def learned(folder: Path, results: dict[str, Any]) -> tuple[dict[str, Any], bytes, dict[str, bytes]]:
    (trial,) = folder.glob("trials/one-*")
    with np.load(trial / "arrays.npz") as arrays:
        found = {name: arrays[name].tobytes() for name in arrays.files}
    return results["trials"][0]["numbers"], (trial / "weights.safetensors").read_bytes(), found


def test_a_trial_gives_the_bits_of_a_call(
    tmp_path: Path, toy_package: None, monkeypatch: pytest.MonkeyPatch, uninterrupted: Any
) -> None:
    monkeypatch.syspath_prepend(tmp_path / "packages")
    numbers, weights, arrays = uninterrupted()
    called = agents.learn(LEARNING, Workplace(tmp_path, {}, lambda done, words: None))
    assert plain({**called, "saves": numbers["saves"]}) == numbers
    assert (tmp_path / "weights.safetensors").read_bytes() == weights
    with np.load(tmp_path / "arrays.npz") as found:
        assert {name: found[name].tobytes() for name in found.files} == arrays


@pytest.mark.parametrize(
    ("kill", "saves_left"),
    [
        ("step 100", 1),  # in the third episode, with two behind it
        ("save 2", 2),  # between the two files of an episode's end: the second episode is run again
    ],
)
def test_a_killed_learning_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Any, kill: str, saves_left: int
) -> None:
    single = Single("toy_experiment.learning:learn", LEARNING)
    whole_numbers, *whole = uninterrupted()
    monkeypatch.setenv("TOY_KILL", kill)
    with pytest.raises(TrialFailed, match=r"exit code -9"):
        run(tmp_path, single)
    monkeypatch.delenv("TOY_KILL")
    numbers, *rest = learned(tmp_path, run(tmp_path, single))
    assert (whole_numbers.pop("saves", 3), numbers.pop("saves")) == (3, saves_left)
    assert numbers == whole_numbers
    assert rest == whole
    assert len(numbers["episode_returns"]) == 3


# ---- acting ------------------------------------------------------------------------------------


def test_acting_tells_what_the_task_measures_from_the_start_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "make_video", lambda *_: "no offscreen GL: test")
    workplace = Workplace(tmp_path, {}, lambda done, words: None)
    settings = {"task": "humanoid_walk", "steps": 3, "seed": 5, "config": {"mppi.rollouts": 4, "mppi.horizon": 2}}
    numbers = agents.act({**settings, "video": True}, workplace)
    task = tasks.make("humanoid_walk")
    result = run_polo(task, replace(PoloConfig(), settings["config"]), steps=3, seed=5, learn=False)
    first = result.transitions[0]
    seen = np.array([first.observation, *(transition.next_observation for transition in result.transitions)])
    assert numbers.items() >= task.measures(seen).items()
    assert numbers["mean_reward"] == pytest.approx(np.mean([transition.reward for transition in result.transitions]))
    with np.load(tmp_path / "arrays.npz") as arrays:
        np.testing.assert_array_equal(arrays["observations"], seen[1:])
        np.testing.assert_array_equal(arrays["qpos"][0], first.state[1:29])
    # A film that cannot be made is no failure.
    assert numbers["video"] == "no offscreen GL: test"
    assert "video" not in agents.act(settings, workplace)


# ---- the experiments ---------------------------------------------------------------------------


def test_an_unknown_experiment_suggests_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "polo.horizons"]) == 2
    said = capsys.readouterr().err
    assert "unknown experiment 'polo.horizons'; experiments: polo.exploration, polo.horizon," in said
    assert "did you mean 'polo.horizon'?" in said


def test_experiments_are_listed_with_their_question(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == registry.names()
    assert all(line.endswith("?") for line in lines)


@pytest.mark.parametrize("budget", ["full", "small"])
@pytest.mark.parametrize("name", registry.names())
def test_the_trials_of_an_experiment_are_consistent(name: str, budget: str) -> None:
    experiment = registry.get(name)
    assert experiment.name == name
    trials = experiment.trials(budget, 2)
    names = [trial.name for trial in trials]
    assert len(set(names)) == len(names)
    assert len(experiment.trials(budget, 3)) >= len(trials)
    for trial in trials:
        assert Path(trial.name).name == trial.name
        assert set(trial.needs) <= set(names[: names.index(trial.name)])
        assert plain(trial.settings) == trial.settings
        replace(CONFIGS.get(trial.settings.get("agent", ""), PoloConfig()), trial.settings.get("config", {}))


@pytest.mark.parametrize("budget", ["full", "small"])
def test_experiments_share_the_trials_that_they_have_in_common(budget: str) -> None:
    """One name is one trial, in whichever experiment."""
    seen: dict[str, Any] = {}
    for name in registry.names():
        for trial in registry.get(name).trials(budget, 2):
            what = (trial.job, trial.settings, trial.needs)
            assert seen.setdefault(trial.name, what) == what, trial.name
    horizon, head_size = (
        {trial.name for trial in registry.get(name).trials(budget, 2)} for name in ("polo.horizon", "polo.head_size")
    )
    assert len(horizon & head_size) == 3  # the learner and its two episodes with the nominal head


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all experiments: they share trials."""
    return tmp_path_factory.mktemp("reproduce")


def measures_time(name: str) -> bool:
    return any(trial.exclusive for trial in registry.get(name).trials("small", 1))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.alone if measures_time(name) else ()) for name in registry.names()],
)
def test_a_small_budget_says_of_each_claim_whether_it_holds(
    name: str, shared: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", DOMAIN)
    folder = shared / name
    assert main(["reproduce", name, "--budget", "small", "--seeds", "1", "--folder", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    results = json.loads((folder / "results.json").read_text())
    said = [line for line in lines if line.startswith(("holds ", "does not hold "))]
    assert [line[14:].strip() for line in said] == [claim["claim"] for claim in results["claims"]] != []
    assert [line.startswith("holds") for line in said] == [claim["holds"] for claim in results["claims"]]
    assert lines[-1].endswith("figure.png" + "".join(f", {folder}/{file}" for file in results["files"]))
    assert (folder / "figure.png").stat().st_size > 10_000
    for file in results["files"]:
        assert (folder / file).stat().st_size > 0


# ---- claims ------------------------------------------------------------------------------------


RECORDS = sorted(path for path in RESULTS.glob("*.json") if path.stem in registry.names())
JUDGED = [path for path in RECORDS if not registry.get(path.stem).reads_files]


@pytest.mark.parametrize("record", RECORDS, ids=[path.stem for path in RECORDS])
def test_what_is_recorded_is_a_full_budget_with_a_figure(record: Path) -> None:
    results = json.loads(record.read_text(encoding="utf-8"))
    assert (results["name"], results["budget"]) == (record.stem, "full")
    assert record.with_suffix(".png").is_file()


@pytest.mark.parametrize("record", JUDGED, ids=[path.stem for path in JUDGED])
def test_recorded_claims_follow_from_the_recorded_numbers(record: Path) -> None:
    results = json.loads(record.read_text(encoding="utf-8"))
    kept = results["trials"]
    outcomes = Outcomes(
        tuple(Trial(trial["name"], trial["job"], trial["settings"], facts=trial["facts"]) for trial in kept),
        {trial["name"]: trial["numbers"] for trial in kept},
        cpu_s={trial["name"]: trial["cpu_s"] for trial in kept},
    )
    claims = [
        {"claim": claim.claim, "holds": bool(claim.holds), "figures": claim.figures}
        for claim in registry.get(record.stem).claims(outcomes)
    ]
    assert plain(claims) == results["claims"]


def outcomes(trials: list[Trial], numbers: Mapping[str, Mapping[str, float]], **more: Any) -> Outcomes:
    """Outcomes whose numbers depend on the agent only."""
    return Outcomes(tuple(trials), {trial.name: numbers[trial.facts["agent"]] for trial in trials}, **more)


def held(experiment: Experiment, found: Outcomes) -> list[bool]:
    return [bool(claim.holds) for claim in experiment.claims(found)]


WALKS = {"mean_reward": 0.8, "speed": 1.1, "speed_error": 0.2, "lowest_height": 1.0, "upright_s": 4.8}


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        ({}, [True, True]),
        ({"speed_error": 0.31}, [False, True]),
        ({"lowest_height": 0.5}, [False, True]),
        ({"mean_reward": 0.6}, [True, False]),
    ],
)
def test_walking_is_speed_without_a_fall(change: dict[str, float], holds: list[bool]) -> None:
    walk = registry.get("polo.walk")
    found = outcomes(
        walk.trials("full", 3), {"learning": {}, "POLO": {**WALKS, **change}, "MPC": {**WALKS, "mean_reward": 0.7}}
    )
    assert held(walk, found) == holds


def test_two_of_three_runs_are_enough() -> None:
    for runs, holds in (([1, 1, 0], True), ([1, 0, 0], False), ([1], True), ([1, 1, 1, 0, 0], False)):
        assert comparison.two_of_three("sings", np.array(runs, bool), {}).holds is holds


@pytest.mark.parametrize(("distance", "holds"), [(0.3, True), (0.31, False)])
def test_the_box_must_be_near_its_target_at_the_end(distance: float, holds: bool) -> None:
    box = registry.get("polo.box")
    ends = {"mean_reward": 1.0, "final_distance": distance, "least_distance": 0.0}
    found = outcomes(box.trials("full", 3), {"learning": {}, "POLO": ends, "MPC": ends})
    assert held(box, found) == [holds, True]


@pytest.mark.parametrize(("hours", "holds"), [(0.49, True), (0.51, False)])
def test_every_horizon_of_the_hand_must_be_cheap_to_learn(hours: float, holds: bool) -> None:
    hand = registry.get("polo.hand")
    trials = hand.trials("full", 3)
    assert {trial.settings["steps"] for trial in trials} == {2500, 1000}
    cpu_s = {trial.name: 0.1 for trial in trials} | {"hand_reorient-learn-h16-s0": 3600.0 * hours}
    rewards = {"learning": {"mean_reward": 0.0}, "POLO": {"mean_reward": -0.1}, "MPC": {"mean_reward": -0.2}}
    assert held(hand, outcomes(trials, rewards, cpu_s=cpu_s)) == [True, holds]


def test_polo_must_not_be_worse_at_any_horizon() -> None:
    trials = registry.get("polo.hand").trials("full", 1)
    numbers = {trial.name: {"mean_reward": float(trial.facts["agent"] == "POLO")} for trial in trials}
    assert comparison.not_worse(Outcomes(tuple(trials), numbers)).holds
    numbers["hand_reorient-polo-h16-s0"] = {"mean_reward": -1.0}
    assert not comparison.not_worse(Outcomes(tuple(trials), numbers)).holds


def test_a_walk_without_a_horizon_of_its_own_plans_as_its_task_says() -> None:
    learning, *_ = registry.get("polo.walk").trials("full", 1)
    assert learning.settings["steps"] == 20 * HumanoidWalk.episode_steps == 12_000
    assert learning.settings["config"] == settings_of("humanoid_walk", {})
