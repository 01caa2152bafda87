"""Bags are written as rosbag2 writes them, and survive crashes, restarts and full disks."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import bag_samples as samples
import pytest
import yaml
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader

from polo_ros.replay.bag_reader import BagReader, read_messages, read_metadata_yaml, read_transitions
from polo_ros.replay.bag_types import SESSION_RECORD
from polo_ros.replay.bag_writer import BagError, BagWriter, TopicInfo, message_definition, qos_yaml, type_hash


def test_rosbags_reads_topics_types_qos_and_every_message(tmp_path: Path) -> None:
    samples.write_bag(tmp_path / "bag", steps=30, metadata={"task": "joint", "note": "line one\nline: two"})
    with AnyReader([tmp_path / "bag"], default_typestore=samples.store()) as reader:
        found = [(c.topic, c.msgtype, stamp, bytes(raw)) for c, stamp, raw in reader.messages()]
        steps = [reader.deserialize(raw, c.msgtype).step for c, _, raw in reader.messages()]
    assert found == [("/transition", samples.TRANSITION, samples.log_time(k), samples.transition(k)) for k in range(30)]
    assert steps == list(range(30))
    with Reader(tmp_path / "bag") as reader:
        assert {c.topic: c.msgtype for c in reader.connections} == dict(samples.TOPICS)
        assert reader.connections[0].digest == samples.store().hash_rihs01(samples.TRANSITION)
        qos = reader.connections[0].ext.offered_qos_profiles[0]
        assert (qos.depth, qos.reliability.name, qos.durability.name) == (10, "RELIABLE", "VOLATILE")
        assert reader.message_count == 30
        assert reader.duration == samples.log_time(29) - samples.log_time(0) + 1
        assert reader.storage.metadata.custom == {"task": "joint", "note": "line one\nline: two"}


def test_a_single_file_is_a_whole_indexed_ros2_mcap(tmp_path: Path) -> None:
    writer = samples.write_bag(tmp_path / "bag", metadata={"task": "joint"})
    with open(tmp_path / "bag" / "bag_0.mcap", "rb") as stream:
        reader = make_reader(stream, validate_crcs=True)
        summary = reader.get_summary()
        assert reader.get_header().profile == "ros2"
        assert summary is not None and summary.statistics is not None
        assert summary.statistics.message_count == 20
        assert {channel.message_encoding for channel in summary.channels.values()} == {"cdr"}
        assert {schema.encoding for schema in summary.schemas.values()} == {"ros2msg"}
        records = {record.name: record.metadata for record in reader.iter_metadata()}
        assert records[SESSION_RECORD] == {"task": "joint"}
        copy = yaml.safe_load(records["rosbag2"]["serialized_metadata"])
        assert copy["message_count"] == 20
        times = [(message.log_time, message.publish_time) for _, _, message in reader.iter_messages()]
    assert times == [(samples.log_time(k), samples.log_time(k) - 1000) for k in range(20)]
    assert writer.messages == 20
    assert writer.bytes == (tmp_path / "bag" / "bag_0.mcap").stat().st_size


def test_session_metadata_starts_every_file(tmp_path: Path) -> None:
    samples.write_bag(tmp_path / "bag", steps=30, split_s=0.2, metadata={"task": "joint", "seed": "3"})
    files = sorted((tmp_path / "bag").glob("*.mcap"))
    assert [path.name for path in files] == ["bag_0.mcap", "bag_1.mcap", "bag_2.mcap"]
    for path in files:
        start = path.read_bytes()[:300]
        assert SESSION_RECORD.encode() in start and b"joint" in start


def test_split_bags_keep_all_messages_and_list_all_files(tmp_path: Path) -> None:
    samples.write_bag(tmp_path / "bag", steps=30, split_s=0.2)
    metadata = read_metadata_yaml(tmp_path / "bag")
    assert metadata is not None
    assert metadata["relative_file_paths"] == ["bag_0.mcap", "bag_1.mcap", "bag_2.mcap"]
    assert [entry["message_count"] for entry in metadata["files"]] == [10, 10, 10]
    assert metadata["message_count"] == 30
    with AnyReader([tmp_path / "bag"], default_typestore=samples.store()) as reader:
        assert sum(1 for _ in reader.messages()) == 30
    assert [t.step for t in read_transitions(tmp_path / "bag")] == list(range(30))


def test_flushed_messages_survive_a_killed_recorder(tmp_path: Path) -> None:
    program = """
        import os, signal, sys
        sys.path.insert(0, sys.argv[2])
        import bag_samples as samples
        from pathlib import Path
        writer = samples.write_bag(Path(sys.argv[1]), steps=20, flush_every=20, close=False)
        for step in range(20, 25):
            writer.write("/transition", samples.transition(step), samples.log_time(step), 0)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    here = Path(__file__).resolve().parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "bag"), str(here)],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    problems: list = []
    steps = [m.step for m in read_transitions(tmp_path / "bag", problems=problems)]
    assert steps == list(range(20))
    assert [problem.kind for problem in problems] == ["truncated"]
    assert read_metadata_yaml(tmp_path / "bag") is not None, "a bag folder is one from the start"


def test_writing_alone_flushes_once_a_period(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "bag", samples.topics(), flush_s=1e-9)
    for step in range(3):
        writer.write("/transition", samples.transition(step), samples.log_time(step), 0)
    assert [t.step for t in read_transitions(tmp_path / "bag")] == [0, 1, 2]
    writer.close()


def test_a_bag_without_messages_is_whole(tmp_path: Path) -> None:
    BagWriter(tmp_path / "bag", samples.topics()).close()
    with Reader(tmp_path / "bag") as reader:
        assert reader.message_count == 0
        assert len(reader.connections) == 3
    reader = BagReader(tmp_path / "bag")
    assert list(reader.messages()) == []
    assert reader.problems == []


def test_a_restarted_recorder_continues_the_bag_and_overwrites_nothing(tmp_path: Path) -> None:
    samples.write_bag(tmp_path / "bag", steps=22, split_s=0.2, close=False)
    before = {path.name: path.read_bytes() for path in (tmp_path / "bag").glob("*.mcap")}
    writer = BagWriter(tmp_path / "bag", samples.topics(), 0.0, {"task": "joint"})
    for step in range(25, 30):
        writer.write("/transition", samples.transition(step), samples.log_time(step), 0)
    writer.close()
    for name, content in before.items():
        assert (tmp_path / "bag" / name).read_bytes() == content
    metadata = read_metadata_yaml(tmp_path / "bag")
    assert metadata is not None
    assert [(entry["path"], entry["message_count"]) for entry in metadata["files"]] == [
        ("bag_0.mcap", 10),
        ("bag_1.mcap", 10),
        ("bag_2.mcap", 0),  # two messages were never flushed
        ("bag_3.mcap", 5),
    ]
    assert metadata["message_count"] == 25
    assert [t.step for t in read_transitions(tmp_path / "bag")] == [*range(20), *range(25, 30)]


def test_a_foreign_file_in_the_folder_keeps_its_number_and_content(tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "bag_4.mcap").write_text("not a bag")
    samples.write_bag(tmp_path / "bag")
    assert (tmp_path / "bag" / "bag_4.mcap").read_text() == "not a bag"
    metadata = read_metadata_yaml(tmp_path / "bag")
    assert metadata is not None
    assert metadata["relative_file_paths"] == ["bag_5.mcap"]


def test_a_disk_that_stays_full_gets_no_file_for_every_attempt(tmp_path: Path) -> None:
    samples.write_bag(tmp_path / "bag", steps=20)
    before = sorted(tmp_path.rglob("*"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for allowed in (0, 100):
        resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, hard))
        try:
            with pytest.raises(BagError, match="cannot be written"):
                samples.write_bag(tmp_path / "bag", steps=20)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert sorted(tmp_path.rglob("*")) == before
    signal.signal(signal.SIGXFSZ, previous)
    assert samples.write_bag(tmp_path / "bag", steps=20).path.name == "bag_1.mcap"


def test_a_full_disk_is_named_and_the_bag_stays_closable_and_readable(tmp_path: Path) -> None:
    writer = samples.write_bag(tmp_path / "bag", steps=20, close=False)
    size = writer.path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, hard))
    try:
        writer.write("/transition", samples.transition(20), samples.log_time(20), 0)
        with pytest.raises(BagError, match=r"bag_0\.mcap: cannot be written: File too large"):
            writer.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    with pytest.raises(BagError, match="File too large"):
        writer.write("/transition", samples.transition(21), samples.log_time(21), 0)
    writer.close()
    writer.close()
    assert [t.step for t in read_transitions(tmp_path / "bag")] == list(range(20))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BagError, match="file/bag: cannot be written"):
        BagWriter(tmp_path / "file" / "bag", samples.topics())


def test_wrong_topics_and_times_are_refused_by_name(tmp_path: Path) -> None:
    with samples.write_bag(tmp_path / "bag", close=False) as writer:
        with pytest.raises(BagError, match="'/stat' is not recorded; topics: /transition"):
            writer.write("/stat", b"", 0, 0)
        with pytest.raises(BagError, match="time -1"):
            writer.write("/transition", b"", -1, 0)
    with pytest.raises(BagError, match="closed"):
        writer.write("/transition", b"", 0, 0)
    with pytest.raises(BagError, match="twice"):
        BagWriter(tmp_path / "other", [samples.topics()[0]] * 2)
    assert len(list(read_messages(tmp_path / "bag"))) == 20


def _share(tmp_path: Path) -> Path:
    for name, text in {
        "a_msgs/msg/Top.msg": "# text\nstd_msgs/Header header\nInner[<=3] inner  # b_msgs/Unused x\nstring<=5 name\n",
        "a_msgs/msg/Inner.msg": "uint8 LIMIT=3\nb_msgs/Leaf[] leaves\nInner2 other",
        "a_msgs/msg/Inner2.msg": "float64[4] numbers\n",
        "b_msgs/msg/Leaf.msg": "bool yes\n",
        "std_msgs/msg/Header.msg": "builtin_interfaces/Time stamp\nstring frame_id\n",
        "builtin_interfaces/msg/Time.msg": "int32 sec\nuint32 nanosec\n",
    }.items():
        path = tmp_path / "share" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    hashes = '{"type_hashes": [{"type_name": "a_msgs/msg/Top", "hash_string": "RIHS01_12"}]}'
    (tmp_path / "share" / "a_msgs/msg/Top.json").write_text(hashes)
    return tmp_path / "share"


def test_definitions_are_concatenated_with_all_that_they_use(tmp_path: Path) -> None:
    text = message_definition("a_msgs/msg/Top", [tmp_path, _share(tmp_path)])
    parts = text.split("=" * 80 + "\n")
    assert parts[0].startswith("# text\nstd_msgs/Header header\n")
    assert [part.splitlines()[0] for part in parts[1:]] == [
        "MSG: std_msgs/Header",
        "MSG: a_msgs/Inner",
        "MSG: builtin_interfaces/Time",
        "MSG: b_msgs/Leaf",
        "MSG: a_msgs/Inner2",
    ]
    assert text.endswith("\n")
    assert type_hash("a_msgs/msg/Top", [_share(tmp_path)]) == "RIHS01_12"
    assert type_hash("a_msgs/msg/Inner", [_share(tmp_path)]) == ""


def test_definitions_are_found_under_the_ament_prefix_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _share(tmp_path)
    monkeypatch.setenv("AMENT_PREFIX_PATH", os.pathsep.join(["", str(tmp_path)]))
    assert "MSG: b_msgs/Leaf" in message_definition("a_msgs/msg/Top")


def test_a_missing_definition_is_named_with_the_places_searched(tmp_path: Path) -> None:
    with pytest.raises(BagError, match=r"'a_msgs/msg/Nothing'; share folders searched: .*share"):
        message_definition("a_msgs/msg/Nothing", [_share(tmp_path)])
    with pytest.raises(BagError, match="not a message type"):
        message_definition("../../etc/passwd", [tmp_path])


def test_the_packages_own_definitions_decode_its_messages(tmp_path: Path) -> None:
    share = _share(tmp_path)
    (share / "polo_ros").mkdir()
    (share / "polo_ros" / "msg").symlink_to(samples.MSG)
    text = message_definition(samples.TRANSITION, [share])
    info = TopicInfo("/robot/transition", samples.TRANSITION, text, qos_yaml(reliable=False))
    with BagWriter(tmp_path / "bag", [info]) as writer:
        writer.write(info.name, samples.transition(5), samples.START, samples.START)
    assert [t.step for t in read_transitions(tmp_path / "bag")] == [5]
