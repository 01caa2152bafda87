"""`polo bench offline`: its figures are of whole work, whatever they are."""

from __future__ import annotations

import json

import pytest

from polo_ros.bench import offline
from polo_ros.cli import main


def test_each_part_is_a_row_with_figures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(offline, "TRANSITIONS", 400)
    monkeypatch.setattr(offline, "EPISODE", 100)
    monkeypatch.setattr(offline, "PARTS", {"reading": offline.bench_reading})
    assert main(["bench", "offline", "--repeats", "1", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["part"], row["transitions"], row["wanted_per_s"]) == ("reading", 400, 50_000.0)
    assert all(row[name] > 0.0 for name in ("bag_mb", "read_per_s", "dataset_per_s", "one_by_one_per_s", "sample_us"))


def test_a_bench_without_rounds_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "offline", "--repeats", "0"]) == 2
    assert "repeats = 0 is below its minimum 1" in capsys.readouterr().err
