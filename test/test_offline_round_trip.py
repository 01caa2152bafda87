"""From a bag to a better policy: the commands of docs/offline.md, one after the other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from session_runs import transitions, whole_session

from polo_ros import drivers, tasks
from polo_ros.agents.configs import CONFIGS
from polo_ros.agents.offline import deploy
from polo_ros.agents.online import play_episode
from polo_ros.cli import main
from polo_ros.config import replace
from polo_ros.learning.weights import WeightsError
from polo_ros.session.config import for_task
from polo_ros.session.loop import RobotLoop

DOMAIN = 191
TASK, SEED = "inverted_pendulum", 0
DOCUMENT = Path(__file__).parents[1] / "docs" / "offline.md"
NOISE = "/**:\n  ros__parameters:\n    arc: {noise: 0.4}\n"


def command(*words: str, **paths: Path) -> list[str]:
    """A command of `polo` as the document has it, of which all words are there in one line, with paths of the test."""
    lines = [line.split("#")[0].split() for line in DOCUMENT.read_text("utf-8").splitlines()]
    (found,) = [line[1:] for line in lines if line[:1] == ["polo"] and set(words) <= set(line)]
    for name, path in paths.items():
        assert name in found
        found = [str(path) if word == name else word for word in found]
    return found


def returns_of(found: list) -> list[float]:
    """Of whole episodes."""
    ended = [t.episode for t in found if t.terminated or t.truncated]
    return [sum(t.reward for t in found if t.episode == episode) for episode in ended]


def test_a_bag_of_random_actions_becomes_a_policy_that_lookahead_improves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lockstep = (f"task:={TASK}", "clock:=lockstep", f"seed:={SEED}")
    whole_session(tmp_path / "random", DOMAIN, *lockstep, "agent:=sac", "learner:=false", "duration:=32")
    data, trained = tmp_path / "data", tmp_path / "trained"
    assert main(command("dataset", "runs/random", **{"runs/random": tmp_path / "random", "data": data})) == 0
    made = command("train", "--updates", "200", data=data, trained=trained)
    capsys.readouterr()
    assert main([*made, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["task"], told["data"]["rows"]) == (TASK, 800)

    config, task = for_task(CONFIGS["crr"], TASK, agent="crr"), tasks.make(TASK)
    noise = tmp_path / "noise.yaml"
    noise.write_text(NOISE)
    planned = tmp_path / "planned"
    played = ("agent:=crr", f"policy:={trained}", f"config:={noise}", "duration:=6")
    whole_session(planned, DOMAIN, *lockstep, *played)
    found = transitions(planned)
    assert len(found) == 150 and {t.weights_version for t in found} == {200}, "its updates"
    with_lookahead = returns_of(found)

    # The same starts: episodes of the same numbers and seed.
    alone = deploy(trained, "crr", task, replace(config, {"lookahead.search": "none"}), SEED).planner
    looking = deploy(trained, "crr", task, replace(config, {"arc.noise": 0.4}), SEED).planner
    with pytest.raises(WeightsError, match="expected 'plas'"):
        deploy(trained, "plas", task, config, SEED)
    driver = drivers.simulator(task, SEED)
    driver.connect()
    loop = RobotLoop(task, driver, 1.0)
    episodes = [play_episode(loop, alone, number, 1000) for number in range(len(with_lookahead))]
    first = play_episode(loop, looking, found[0].episode, 1000)
    driver.close()
    without = [sum(t.reward for t in episode) for episode in episodes]
    assert len(without) >= 2
    np.testing.assert_array_equal(episodes[0][0].observation, found[0].observation)
    same = [t.action.tobytes() for t in found if t.episode == found[0].episode]
    assert [t.action.tobytes() for t in first] == same, "the session is the run in one process"
    assert np.mean(with_lookahead) > np.mean(without) > np.mean(returns_of(transitions(tmp_path / "random")))
