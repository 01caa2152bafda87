"""What is learned from offline: bags become a dataset once, and a restart goes on with it while they are the same."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import bag_samples as samples
import bag_sessions
import pytest

from polo_ros import tasks
from polo_ros.replay.bag_types import BagError
from polo_ros.replay.bag_writer import BagWriter
from polo_ros.replay.dataset import Dataset, DatasetError
from polo_ros.replay.offline_data import open_data

NAME = "cartpole_swingup"


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    bag_sessions.record(tmp_path / "bag", tasks.make(NAME), steps=10)
    return tmp_path / "bag"


def test_a_restart_opens_what_was_made(bag: Path, tmp_path: Path) -> None:
    made = open_data(str(bag), tmp_path / "out" / "dataset", NAME)
    again = open_data(f" {bag} ,", tmp_path / "out" / "dataset", NAME)
    assert (len(again), again.digest) == (10, made.digest)
    assert open_data(str(tmp_path / "out" / "dataset"), tmp_path / "unused").digest == made.digest


def test_a_restart_goes_on_where_some_bag_has_no_transitions(bag: Path, tmp_path: Path) -> None:
    BagWriter(tmp_path / "silent", samples.topics()[1:], 0.0, {"task": NAME}).close()
    source = f"{bag},{tmp_path / 'silent'}"
    made = open_data(source, tmp_path / "dataset")
    assert made.summary()["sources"][-1] == {"path": str(tmp_path / "silent"), "robot": "", "read": 0, "rows": 0}
    assert open_data(source, tmp_path / "dataset").digest == made.digest
    with pytest.raises(DatasetError, match=r"was made of .*silent, not of [^,]*/bag: name another folder"):
        open_data(str(bag), tmp_path / "dataset")


@pytest.mark.parametrize("change", ["grown", "another file", "a file gone"])
def test_a_bag_that_has_changed_since_is_named(bag: Path, tmp_path: Path, change: str) -> None:
    shutil.copy(bag / "bag_0.mcap", bag / "bag_1.mcap")
    folder = tmp_path / "dataset"
    made = open_data(str(bag), folder)
    size = (bag / "bag_0.mcap").stat().st_size
    if change == "grown":
        with open(bag / "bag_1.mcap", "ab") as stream:
            stream.write(b"more")
        text = f"bag_1.mcap has {size + 4} bytes, had {size}"
    elif change == "another file":
        shutil.copy(bag / "bag_0.mcap", bag / "bag_2.mcap")
        text = f"bag_2.mcap has {size} bytes, had 0"
    else:
        (bag / "bag_1.mcap").unlink()
        text = f"bag_1.mcap has 0 bytes, had {size}"
    expected = f"{bag} has changed since {folder} was made of it: {text}; name another folder"
    with pytest.raises(DatasetError, match=re.escape(expected)):
        open_data(str(bag), folder)
    assert open_data(str(folder), tmp_path / "unused").digest == made.digest  # as the message says


def test_a_bag_that_is_gone_since_is_not_missed(bag: Path, tmp_path: Path) -> None:
    made = open_data(str(bag), tmp_path / "dataset")
    shutil.rmtree(bag)
    assert open_data(str(bag), tmp_path / "dataset").digest == made.digest
    with pytest.raises(BagError, match="no such bag"):
        open_data(str(bag), tmp_path / "other")


def test_a_damaged_dataset_is_refused(bag: Path, tmp_path: Path) -> None:
    open_data(str(bag), tmp_path / "dataset")
    path = tmp_path / "dataset" / "reward.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert len(Dataset.open(tmp_path / "dataset")) == 10
    with pytest.raises(DatasetError, match="damaged: its digest is"):
        open_data(str(bag), tmp_path / "dataset")


def test_data_of_another_task_or_of_nothing_are_refused(bag: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="data is empty"):
        open_data(" , ", tmp_path / "dataset")
    open_data(str(bag), tmp_path / "dataset")
    with pytest.raises(DatasetError, match=f"is of task '{NAME}', expected 'hopper'"):
        open_data(str(bag), tmp_path / "dataset", "hopper")
