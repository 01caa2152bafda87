from __future__ import annotations

from pathlib import Path

from polo_ros import resources
from polo_ros.agents.reference import parameter_table
from polo_ros.nodes.interfaces import NODES, TOPICS, interface_tables
from polo_ros.nodes.recorder import TOPICS as RECORDED

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "interfaces.md").read_text("utf-8")


def test_the_documented_parameters_are_those_of_the_code() -> None:
    assert parameter_table() in DOCUMENT


def test_the_documented_topics_and_services_are_those_of_the_table() -> None:
    """That the table is what nodes use is the matter of test_permissions."""
    topics, services = interface_tables().split("\n\n")
    assert topics in DOCUMENT
    assert services in DOCUMENT


def test_the_recorder_records_what_the_table_gives_it() -> None:
    types = {topic.name: topic.type for topic in TOPICS if "recorder" in topic.subscribers}
    assert {name: kind for name, kind, *_ in RECORDED} == types


def test_the_table_knows_every_program() -> None:
    programs = resources.prefix() / "lib" / resources.PACKAGE
    # The offline learner stands in for the learner, by its name and with its rights: see test_offline_node.
    # The injector puts faults into sessions, and must not be allowed to where it is not wanted.
    assert {path.name for path in programs.iterdir()} - {"injector", "offline_learner"} == set(NODES)
