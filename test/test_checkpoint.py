"""Checkpoints survive what happens to files."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from polo_ros.learning.checkpoint import Checkpoint, CheckpointError, Spec, load, previous, save

SPEC: Spec = {"w": (np.dtype(np.float32), (2, 3)), "log": (np.dtype(np.int64), (-1,))}


def sample(number: int = 1) -> Checkpoint:
    arrays = {"w": np.full((2, 3), number, np.float32), "log": np.arange(number)}
    return Checkpoint("polo", "cart", "abcd", {"learner.update_every": 16}, {"updates": number}, arrays)


def read(path: Path, **changes: object) -> Checkpoint:
    arguments: dict = {"kind": "polo", "task": "cart", "model_hash": "abcd", "spec": SPEC, **changes}
    return load(path, **arguments)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "learner.safetensors"


def test_what_is_saved_is_loaded_and_leaves_no_temporary_file(path: Path) -> None:
    save(path, sample(3))
    found = read(path)
    assert (found.config, found.state, found.warnings) == ({"learner.update_every": 16}, {"updates": 3}, ())
    np.testing.assert_array_equal(found.arrays["w"], sample(3).arrays["w"])
    np.testing.assert_array_equal(found.arrays["log"], [0, 1, 2])
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_one_before_is_kept(path: Path) -> None:
    for number in (1, 2, 3):
        save(path, sample(number))
    assert read(path).state == {"updates": 3}
    assert read(previous(path)).state == {"updates": 2}
    assert len(list(path.parent.iterdir())) == 2


def test_nothing_there_is_said_to_be_nothing_there(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        read(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(path: Path, share: float) -> None:
    save(path, sample())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match="truncated or not a safetensors file"):
        read(path)


def test_every_flipped_bit_is_noticed(path: Path) -> None:
    save(path, sample())
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(bytes(damaged))
        with pytest.raises(CheckpointError):
            read(path)


def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(path: Path) -> None:
    save(path, sample(1))
    save(path, sample(2))
    path.write_bytes(path.read_bytes()[:-4])
    found = read(path)
    assert found.state == {"updates": 1}
    assert len(found.warnings) == 1
    assert "truncated" in found.warnings[0]
    assert previous(path).name in found.warnings[0]


def test_both_damaged_names_both(path: Path) -> None:
    save(path, sample(1))
    save(path, sample(2))
    path.write_bytes(b"")
    previous(path).write_bytes(b"x" * 50)
    with pytest.raises(CheckpointError, match="the one before is no better"):
        read(path)


@pytest.mark.parametrize("moment", [0, 1])
def test_a_crash_while_renaming_costs_nothing(path: Path, monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    save(path, sample(1))
    real, calls = os.replace, []

    def crash(source: object, target: object) -> None:
        calls.append(target)
        if len(calls) == moment + 1:
            raise OSError("power cut")
        real(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="power cut"):
        save(path, sample(2))
    monkeypatch.undo()
    assert read(path).state == {"updates": 1}
    save(path, sample(3))
    assert read(path).state == {"updates": 3}


def test_a_checkpoint_that_cannot_be_written_raises_and_leaves_the_old_one(path: Path) -> None:
    save(path, sample(1))
    with pytest.raises(TypeError):
        save(path, replace(sample(2), state={"updates": object()}))
    assert read(path).state == {"updates": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "pole"}, "task is 'cart', expected 'pole'"),
        ({"kind": "loop"}, "kind is 'polo', expected 'loop'"),
        ({"model_hash": "beef"}, "model_hash is 'abcd', expected 'beef'"),
        ({"spec": {**SPEC, "w": (np.dtype(np.float32), (2, 4))}}, r"'w' has shape \(2, 3\), expected \(2, 4\)"),
        ({"spec": {**SPEC, "log": (np.dtype(np.int64), (-1, 2))}}, r"'log' has shape \(1,\), expected \(any, 2\)"),
        ({"spec": {**SPEC, "w": (np.dtype(np.float64), (2, 3))}}, "'w' is float32, expected float64"),
        ({"spec": {"w": SPEC["w"]}}, r"missing \[\], unknown \['log'\]"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_and_says_of_what(path: Path, changes: dict, message: str) -> None:
    save(path, sample())
    with pytest.raises(CheckpointError, match=message):
        read(path, **changes)


def test_numbers_that_are_not_finite_are_refused(path: Path) -> None:
    bad = sample()
    bad.arrays["w"][1, 1] = np.nan
    save(path, bad)
    with pytest.raises(CheckpointError, match="'w' contains values that are not finite"):
        read(path)


def test_other_files_are_refused_and_pickles_never_run(path: Path) -> None:
    path.parent.mkdir()
    ran: list[int] = []

    class Bomb:
        def __reduce__(self) -> tuple:
            return (ran.append, (1,))

    for data in (pickle.dumps(Bomb()), b"\x00" * 100, safetensors.numpy.save({"w": np.zeros(2)})):
        path.write_bytes(data)
        with pytest.raises(CheckpointError):
            read(path)
    assert not ran
