"""The recorder on a disk that fills up."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import rclpy
from bag_samples import cdr

from polo_ros.nodes.recorder import Recorder
from polo_ros.replay.bag_reader import BagReader
from polo_ros.replay.bag_types import STATE, BagError


def test_recording_goes_on_when_a_full_disk_has_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    rclpy.init(args=["--ros-args", "-p", f"run_dir:={tmp_path}", "-p", "autostart:=false"], domain_id=150)
    recorder = None
    try:
        recorder = Recorder()
        recorder.trigger_configure()
        recorder.trigger_activate()
        write = recorder._writer("/state")

        def state(step: int) -> None:
            write(cdr(STATE, step=step), {"received_timestamp": time.time_ns(), "source_timestamp": 0})

        state(0)
        recorder._flush()
        assert recorder._bag is not None
        full = BagError("no space left on device")
        monkeypatch.setattr(recorder._bag, "write", lambda *_: (_ for _ in ()).throw(full))
        state(1)  # this one fails
        state(2)  # this one has nowhere to go
        recorder._flush()  # too early to try again
        assert recorder._bag is None and recorder.counts["messages_lost"] == 2
        assert "no space left on device" in recorder.failure
        recorder._again = 0.0
        recorder._flush()
        assert recorder.failure == ""
        state(3)
    finally:
        if recorder is not None:
            recorder.close()
            recorder.destroy_node()
        rclpy.try_shutdown()
    assert [m.step for _, m in BagReader(tmp_path / "bag").decoded(types=[STATE])] == [0, 3]
