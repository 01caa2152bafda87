"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from polo_ros.files import replacing, write_whole


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "facts.json"
    path.write_text("before")
    return path


def test_a_file_is_replaced_at_the_end_and_nothing_else_is_left(file: Path) -> None:
    with replacing(file) as partial:
        partial.write_text("after")
        assert file.read_text() == "before"
        assert partial.parent == file.parent and partial.name.startswith(".")
    assert file.read_text() == "after"
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("durable", [False, True])
def test_of_a_block_that_raises_nothing_stays(file: Path, error: BaseException, durable: bool) -> None:
    with pytest.raises(type(error)), replacing(file, durable=durable) as partial:
        partial.write_text("aft")
        raise error
    assert file.read_text() == "before"
    assert list(file.parent.iterdir()) == [file]


def test_a_block_that_wrote_nothing_is_an_error(file: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(file):
        pass
    assert file.read_text() == "before"


def test_text_is_utf_8_and_bytes_are_bytes(file: Path) -> None:
    write_whole(file, "Größe")
    assert file.read_bytes() == b"Gr\xc3\xb6\xc3\x9fe"
    write_whole(file, b"\x00\xff")
    assert file.read_bytes() == b"\x00\xff"


def test_what_is_durable_is_on_the_disk_before_its_name_is_and_then_the_name(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, str]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append((os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")), file.read_text()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_whole(file, "after", durable=True)
    assert synced == [(f".{file.name}.{os.getpid()}", "before"), (file.parent.name, "after")]
    synced.clear()
    write_whole(file, "later")
    assert synced == []
