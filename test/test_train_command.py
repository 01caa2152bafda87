"""`polo train`, called in this process."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
from offline_samples import pendulum

from polo_ros import tasks
from polo_ros.bench import training
from polo_ros.cli import main
from polo_ros.learning.offline_learner import OfflineLearner
from polo_ros.learning.offline_policy import OfflinePolicy
from polo_ros.replay.dataset import DatasetWriter, Rows

SMALL = [
    argument
    for setting in ("networks.hidden=16", "train.batch_size=32", "ensemble.hidden=8", "fit.max_steps=3")
    for argument in ("--set", setting)
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The pendulum under random control."""
    folder, rng = tmp_path_factory.mktemp("data") / "pendulum", np.random.default_rng(0)
    task, rows = tasks.make("inverted_pendulum"), []
    while len(rows) < 300:
        rows += pendulum(task, rng, lambda obs: rng.uniform(-3.0, 3.0, 1), 100)[0]
    with DatasetWriter(folder, task, task.model_hash) as writer:
        writer.append(Rows(*(np.array(column) for column in zip(*rows, strict=True))))
    return folder


def command(data, out, *more):
    return ["train", "--algorithm", "crr", "--data", str(data), "--out", str(out), *SMALL, *more]


def refused(capsys, arguments):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()[-1]


def test_train_makes_a_policy_and_goes_on_when_told_to_learn_more(data, tmp_path, capsys):
    assert main(command(data, tmp_path / "out", "--updates", "20", "--json")) == 0
    captured = capsys.readouterr()
    first = json.loads(captured.out)
    assert captured.err == ""
    assert (first["task"], first["algorithm"], first["updates"]) == ("inverted_pendulum", "crr", 20)
    assert main(command(data, tmp_path / "out", "--updates", "50")) == 0
    assert "goes on after update 20 of 50" in capsys.readouterr().err
    assert main(command(data, tmp_path / "whole", "--updates", "50", "--json")) == 0
    assert (
        json.loads(capsys.readouterr().out)["weights"]
        == json.loads((tmp_path / "out" / "policy.json").read_text())["weights"]
    )
    task = tasks.make("inverted_pendulum")
    found = OfflinePolicy.load(tmp_path / "out", task)
    assert found.policy.mean(np.zeros((2, 4))).shape == (2, 1)
    assert found.ensemble.members == 4, "config/offline.yaml is what is used"


def test_settings_come_from_file_and_command_line(data, tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("/**:\n  ros__parameters:\n    crr: {samples: 2, temperature: 3.0}\n    train: {model: false}\n")
    arguments = command(data, tmp_path / "out", "--updates", "3", "--config", str(file), "--set", "crr.samples=1")
    assert main(arguments) == 0
    about = json.loads((tmp_path / "out" / "policy.json").read_text())
    assert about["settings"]["crr.samples"] == 1 and about["settings"]["crr.temperature"] == 3.0
    assert OfflinePolicy.load(tmp_path / "out", tasks.make("inverted_pendulum")).model is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_same_command_goes_on(data, tmp_path, capsys, monkeypatch, number):
    advance, handler = OfflineLearner.advance, signal.getsignal(number)

    def interrupted(learner, updates):
        found = advance(learner, updates)
        if learner.done == 128:
            os.kill(os.getpid(), number)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(OfflineLearner, "advance", interrupted)
        assert main(command(data, tmp_path / "out", "--updates", "300")) == 130
    assert signal.getsignal(number) is handler
    assert "stopped after update 128 of 300; the same command goes on from there" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "policy.json").read_text())["updates"] == 128
    assert main(command(data, tmp_path / "out", "--updates", "300")) == 0
    assert main(command(data, tmp_path / "whole", "--updates", "300")) == 0
    stopped, whole = ((tmp_path / name / "policy.safetensors").read_bytes() for name in ("out", "whole"))
    assert stopped == whole


def test_what_does_not_fit_is_refused(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert "unknown parameter 'crr.beta'" in refused(capsys, command(data, out, "--set", "crr.beta=1"))
    assert "updates = -3 is below its minimum 1" in refused(capsys, command(data, out, "--updates", "-3"))
    assert "not a dataset" in refused(capsys, command(tmp_path / "nothing", out))
    assert "seed" in refused(capsys, command(data, out, "--seed", "-1"))
    assert not out.exists()
    assert main(command(data, out, "--updates", "3")) == 0
    capsys.readouterr()
    assert "another training; name another folder: seed was 0 and is 1 now" in refused(
        capsys, command(data, out, "--seed", "1")
    )


def test_damaged_data_are_refused(data, tmp_path, capsys):
    copy = tmp_path / "data"
    copy.mkdir()
    for path in data.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    column = copy / "reward.npy"
    column.write_bytes(column.read_bytes()[:-1] + b"\x7f")
    assert "damaged" in refused(capsys, command(copy, tmp_path / "out"))


def test_bench_times_every_kind_of_update(monkeypatch):
    monkeypatch.setattr(training, "ROWS", 2000)
    monkeypatch.setattr(OfflineLearner, "CHUNK", 1)
    task = tasks.make("half_cheetah")
    for part in training.PARTS.values():
        assert part(task, 1)["updates_per_core_second"] > 0.0
