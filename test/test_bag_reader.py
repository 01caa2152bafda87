"""Whatever is in a bag, reading it gives messages that were written, or a clear error."""

from __future__ import annotations

import os
import resource
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import bag_samples as samples
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.opcode import Opcode
from mcap.writer import CompressionType, Writer

from polo_ros.replay.bag_reader import BagReader, read_messages, read_transitions
from polo_ros.replay.bag_types import BagError, BagProblem
from polo_ros.replay.bag_writer import BagWriter
from polo_ros.replay.mcap_file import scan
from polo_ros.replay.transition_check import check_transitions

QUICK = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@cache
def _whole() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        samples.write_bag(Path(folder) / "bag", steps=8, flush_every=2)
        return (Path(folder) / "bag" / "bag_0.mcap").read_bytes()


EXPECTED = [samples.transition(step) for step in range(8)]


def _read(path: Path) -> tuple[list[bytes], list[BagProblem]]:
    problems: list[BagProblem] = []
    return [message.cdr for message in read_messages(path, problems=problems)], problems


def test_transitions_come_back_as_they_were(tmp_path: Path) -> None:
    samples.write_bag(tmp_path / "bag", steps=3)
    found = list(read_transitions(tmp_path / "bag"))[2]
    assert (found.step, found.episode, found.episode_step, found.plan_id) == (2, 0, 2, 3)
    np.testing.assert_array_equal(found.state, [0.04, 0.2, -0.5])
    np.testing.assert_array_equal(found.observation, [0.2, 1.0])
    np.testing.assert_array_equal(found.action, [0.25])
    assert found.state.dtype == found.action.dtype == np.float64
    assert (found.reward, found.terminated, found.truncated, found.safe_stop) == (1.0, False, False, False)


def test_only_the_topics_asked_for_are_read(tmp_path: Path) -> None:
    with samples.write_bag(tmp_path / "bag", steps=3, close=False) as writer:
        status = samples.cdr("polo_ros/msg/PlannerStatus", plan_ms=2.0)
        writer.write("/planner/status", status, samples.START, samples.START)
    found = list(read_messages(tmp_path / "bag", ["/planner/status"]))
    assert found == [("/planner/status", "polo_ros/msg/PlannerStatus", samples.START, status)]
    assert len(list(read_messages(tmp_path / "bag"))) == 4


def test_a_missing_metadata_file_costs_nothing_but_a_note(tmp_path: Path) -> None:
    samples.write_bag(tmp_path / "bag")
    (tmp_path / "bag" / "metadata.yaml").unlink()
    messages, problems = _read(tmp_path / "bag")
    assert len(messages) == 20
    assert [problem.kind for problem in problems] == ["missing"]


@pytest.mark.parametrize("text", ["", "a: [", "rosbag2_bagfile_information: 3", "\x00\x01", "- 1\n", "&a [*a]"])
def test_a_damaged_metadata_file_costs_nothing_but_a_note(tmp_path: Path, text: str) -> None:
    samples.write_bag(tmp_path / "bag")
    (tmp_path / "bag" / "metadata.yaml").write_text(text)
    messages, problems = _read(tmp_path / "bag")
    assert len(messages) == 20
    assert [(problem.file, problem.kind) for problem in problems] == [("metadata.yaml", "damaged")]


def test_metadata_never_makes_python_objects(tmp_path: Path) -> None:
    samples.write_bag(tmp_path / "bag")
    text = f"!!python/object/apply:os.mkdir ['{tmp_path}/made']"
    (tmp_path / "bag" / "metadata.yaml").write_text(text)
    _, problems = _read(tmp_path / "bag")
    assert problems[0].kind == "damaged"
    assert not (tmp_path / "made").exists()


def test_files_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    samples.write_bag(tmp_path / "bag", steps=24, split_s=0.04)
    assert len(list((tmp_path / "bag").glob("*.mcap"))) == 12
    assert [t.step for t in read_transitions(tmp_path / "bag")] == list(range(24))


def test_a_lost_file_is_reported(tmp_path: Path) -> None:
    samples.write_bag(tmp_path / "bag", steps=30, split_s=0.2)
    (tmp_path / "bag" / "bag_1.mcap").unlink()
    problems: list[BagProblem] = []
    steps = [t.step for t in read_transitions(tmp_path / "bag", problems=problems)]
    assert steps == [*range(10), *range(20, 30)]
    assert [(problem.file, problem.kind) for problem in problems] == [("bag_1.mcap", "missing")]


def test_an_empty_file_beside_good_ones_is_reported(tmp_path: Path) -> None:
    samples.write_bag(tmp_path / "bag")
    (tmp_path / "bag" / "bag_1.mcap").write_bytes(b"")
    messages, problems = _read(tmp_path / "bag")
    assert len(messages) == 20
    assert [(problem.file, problem.kind) for problem in problems] == [("bag_1.mcap", "unreadable")]


@pytest.mark.parametrize(
    "content", [b"", b"hello, this is text\n" * 50, b"\x89MCAP", b"SQLite format 3\x00", b"\x80\x04."]
)
def test_what_is_no_bag_is_called_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.mcap"
    path.write_bytes(content)
    with pytest.raises(BagError, match=r"x\.mcap: (not an MCAP file|the file is empty)"):
        list(read_messages(path))


def test_folders_without_a_bag_are_called_so(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="nowhere: no such bag"):
        BagReader(tmp_path / "nowhere")
    (tmp_path / "data.db3").write_bytes(b"")
    with pytest.raises(BagError, match=r"no \.mcap file in this folder, which holds data\.db3"):
        BagReader(tmp_path)


def test_a_run_folder_stands_for_its_bag(tmp_path: Path) -> None:
    samples.write_bag(tmp_path / "bag")
    assert len(list(read_messages(tmp_path))) == 20


def _foreign(path: Path, profile: str, encoding: str, compression: CompressionType, chunked: bool) -> None:
    with open(path, "wb") as stream:
        writer = Writer(stream, compression=compression, use_chunking=chunked)
        writer.start(profile)
        schema = writer.register_schema(samples.TRANSITION, "ros2msg", samples.definition(samples.TRANSITION).encode())
        channel = writer.register_channel("/robot/transition", encoding, schema)
        for step in range(4):
            writer.add_message(channel, samples.log_time(step), samples.transition(step), samples.log_time(step))
        writer.finish()


@pytest.mark.parametrize("compression", list(CompressionType))
@pytest.mark.parametrize("chunked", [True, False])
def test_bags_of_other_recorders_are_read(tmp_path: Path, compression: CompressionType, chunked: bool) -> None:
    _foreign(tmp_path / "x.mcap", "ros2", "cdr", compression, chunked)
    problems: list[BagProblem] = []
    found = list(read_transitions(tmp_path / "x.mcap", problems=problems))
    assert [t.step for t in found] == [0, 1, 2, 3]
    assert problems == []


def test_files_of_another_profile_or_encoding_are_refused_by_name(tmp_path: Path) -> None:
    _foreign(tmp_path / "x.mcap", "ros1", "cdr", CompressionType.ZSTD, True)
    with pytest.raises(BagError, match="profile 'ros1', expected 'ros2'"):
        list(read_messages(tmp_path / "x.mcap"))
    _foreign(tmp_path / "y.mcap", "ros2", "json", CompressionType.ZSTD, True)
    messages, problems = _read(tmp_path / "y.mcap")
    assert messages == []
    assert "encoded as 'json', not 'cdr'" in problems[0].message


@given(length=st.integers(min_value=0, max_value=len(_whole()) - 1))
@QUICK
def test_a_bag_cut_at_any_length_gives_its_whole_chunks(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.mcap"
    path.write_bytes(_whole()[:length])
    if length < 8:
        with pytest.raises(BagError):
            _read(path)
        return
    messages, problems = _read(path)
    assert messages == EXPECTED[: len(messages)]
    assert len(messages) % 2 == 0
    assert [problem.kind for problem in problems] == ["truncated"]


def test_every_chunk_that_was_flushed_is_there_after_a_cut(tmp_path: Path) -> None:
    whole = _whole()
    path = tmp_path / "x.mcap"
    counts = []
    for length in range(8, len(whole), 7):
        path.write_bytes(whole[:length])
        counts.append(len(_read(path)[0]))
    assert counts == sorted(counts)
    assert set(counts) == {0, 2, 4, 6, 8}


@given(bits=st.lists(st.integers(min_value=0, max_value=8 * len(_whole()) - 1), min_size=1, max_size=4, unique=True))
@QUICK
def test_flipped_bits_never_forge_a_message(tmp_path: Path, bits: list[int]) -> None:
    content = bytearray(_whole())
    for bit in bits:
        content[bit // 8] ^= 1 << bit % 8
    path = tmp_path / "x.mcap"
    path.write_bytes(bytes(content))
    problems: list[BagProblem] = []
    try:
        found = list(read_messages(path, problems=problems))
        scan(path)
        checked = check_transitions(BagReader(path))
    except BagError as error:
        assert "x.mcap" in str(error)
        return
    messages = [message.cdr for message in found]
    rest = iter(EXPECTED)
    assert all(message in rest for message in messages), "an altered message, or another order"
    assert checked.transitions <= len(messages)
    assert len(messages) == len(EXPECTED) or problems, "a loss that nobody reports"


def _records(content: bytes) -> list[tuple[int, int]]:
    """Opcode and offset of every record of a file."""
    found, position = [], 8
    while position < len(content) - 8:
        opcode, length = struct.unpack_from("<BQ", content, position)
        found.append((opcode, position))
        position += 9 + length
    return found


def test_a_chunk_that_passes_for_something_else_is_missed(tmp_path: Path) -> None:
    content = bytearray(_whole())
    chunks = [offset for opcode, offset in _records(_whole()) if opcode == Opcode.CHUNK]
    content[chunks[1]] = 0x40
    (tmp_path / "x.mcap").write_bytes(content)
    messages, problems = _read(tmp_path / "x.mcap")
    assert messages == EXPECTED[:2] + EXPECTED[4:]
    assert [problem.message for problem in problems] == ["6 of 8 messages of its index are readable"]


def test_an_index_that_passes_for_a_message_is_left_out(tmp_path: Path) -> None:
    content = bytearray(_whole())
    indexes = [offset for opcode, offset in _records(_whole()) if opcode == Opcode.MESSAGE_INDEX]
    content[indexes[0]] = Opcode.MESSAGE
    (tmp_path / "x.mcap").write_bytes(content)
    messages, problems = _read(tmp_path / "x.mcap")
    assert messages == EXPECTED
    assert [problem.message for problem in problems] == ["a message outside the chunks is left out"]


@pytest.mark.parametrize("number", [0, -1])
def test_of_two_descriptions_of_a_topic_the_checked_one_counts(tmp_path: Path, number: int) -> None:
    content = bytearray(_whole())
    channels = [offset for opcode, offset in _records(_whole()) if opcode == Opcode.CHANNEL]
    for offset in (channels[:3], channels[3:])[number]:  # at the start, and in the index
        content[content.index(b"/", offset) + 1] ^= 1
    (tmp_path / "x.mcap").write_bytes(content)
    info, _ = scan(tmp_path / "x.mcap")
    assert sorted(name for name, _ in info.topics) == ["/learner/status", "/planner/status", "/transition"]
    assert info.messages == 8


@contextmanager
def little_memory() -> Iterator[None]:
    """512 MiB more than there are in use."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (512 << 20), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


HUGE = 1 << 40  # bytes of a file with a hole in it


@pytest.mark.parametrize("kind", [Opcode.CHUNK, Opcode.METADATA, Opcode.FOOTER])
def test_a_length_that_cannot_be_is_a_problem_and_takes_no_memory(tmp_path: Path, kind: int) -> None:
    content = bytearray(_whole())
    offset = [offset for opcode, offset in _records(_whole()) if opcode == kind][0 if kind == Opcode.METADATA else -1]
    if kind != Opcode.FOOTER:
        struct.pack_into("<Q", content, offset + 1, HUGE - offset - 9)
    (tmp_path / "x.mcap").write_bytes(content)
    os.truncate(tmp_path / "x.mcap", HUGE)
    with little_memory():
        messages, problems = _read(tmp_path / "x.mcap")
        counted, _ = scan(tmp_path / "x.mcap")
    lost = {Opcode.CHUNK: 2, Opcode.METADATA: 8, Opcode.FOOTER: 0}[Opcode(kind)]
    assert messages == EXPECTED[: 8 - lost]
    assert counted.messages == 8 - lost
    if kind == Opcode.FOOTER:
        assert [problem.message for problem in problems] == ["does not end as an MCAP file does"]
    else:
        assert f"a record of {HUGE - offset - 9} bytes is left out" in problems[0].message


def test_an_index_that_cannot_be_so_large_is_not_used(tmp_path: Path) -> None:
    whole, size = _whole(), 9 + 20 + 8  # the footer with the magic
    start = struct.unpack_from("<Q", whole, len(whole) - size + 9)[0]
    with open(tmp_path / "x.mcap", "wb") as stream:
        stream.write(whole[:-size])
        stream.seek(HUGE)
        stream.write(struct.pack("<BQQQI", Opcode.FOOTER, 20, start, 0, 0) + whole[-8:])
    with little_memory():
        counted, problems = scan(tmp_path / "x.mcap")
    assert counted.messages == 8
    assert "goes on with zeros" in problems[0].message


@given(content=st.binary(max_size=300))
@QUICK
def test_random_bytes_after_the_magic_end_in_a_problem(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.mcap"
    path.write_bytes(b"\x89MCAP0\r\n" + content)
    try:
        _, problems = _read(path)
    except BagError:
        return
    assert problems


def test_a_message_that_is_not_what_its_topic_says_is_left_out(tmp_path: Path) -> None:
    with samples.write_bag(tmp_path / "bag", steps=3, close=False) as writer:
        for content in (b"", b"\x00", b"\x00\x01\x00\x00" + b"\xff" * 80, samples.transition(3)[:-9]):
            writer.write("/transition", content, samples.START, 0)
    problems: list[BagProblem] = []
    assert [t.step for t in read_transitions(tmp_path / "bag", problems=problems)] == [0, 1, 2]
    assert [problem.kind for problem in problems] == ["undecodable"]
    assert "4 messages" in problems[0].message


@pytest.mark.parametrize("text", ["", "garbage ! (", "float64 x\n" * 3, "polo_ros/Transition again\n", "\x00\xff"])
def test_an_unusable_definition_is_a_problem(tmp_path: Path, text: str) -> None:
    info = samples.topics()[0]
    info = type(info)(info.name, info.type, text)
    with BagWriter(tmp_path / "bag", [info]) as writer:
        writer.write(info.name, samples.transition(0), samples.START, 0)
    problems: list[BagProblem] = []
    assert list(read_transitions(tmp_path / "bag", problems=problems)) == []
    assert [problem.kind for problem in problems] == ["undecodable"]


def test_transitions_of_another_model_are_refused(tmp_path: Path) -> None:
    samples.write_bag(tmp_path / "bag")
    assert len(list(read_transitions(tmp_path / "bag", model_hash="0123456789abcdef"))) == 20
    with pytest.raises(BagError, match="transition 0 is of model 0123456789abcdef, expected feed"):
        list(read_transitions(tmp_path / "bag", model_hash="feed"))


def test_of_two_robots_one_must_be_named(tmp_path: Path) -> None:
    topics = [samples.topic(f"/{name}/transition", samples.TRANSITION) for name in "ab"]
    with BagWriter(tmp_path / "bag", topics) as writer:
        for step in range(4):
            for info in topics:
                writer.write(info.name, samples.transition(step), samples.log_time(step), 0)
    with pytest.raises(BagError, match="several robots: /a/transition, /b/transition"):
        list(read_transitions(tmp_path / "bag"))
    assert len(list(read_transitions(tmp_path / "bag", topic="/b/transition"))) == 4


def test_the_index_says_what_reading_says(tmp_path: Path) -> None:
    samples.write_bag(tmp_path / "bag", steps=9)
    path = tmp_path / "bag" / "bag_0.mcap"
    quick, _ = scan(path)
    path.write_bytes(path.read_bytes()[:-1])  # without its last byte it must be read
    slow, problems = scan(path)
    assert problems and not slow.complete and quick.complete
    for name in ("messages", "start_ns", "end_ns", "counts", "topics", "session"):
        assert getattr(quick, name) == getattr(slow, name), name
