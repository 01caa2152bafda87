from __future__ import annotations

import re
from pathlib import Path

from polo_ros.agents.reference import parameter_table
from polo_ros.nodes.recorder import TOPICS

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "interfaces.md").read_text("utf-8")
NODES = "\n".join(path.read_text("utf-8") for path in (ROOT / "polo_ros" / "nodes").glob("*.py"))


def test_the_documented_parameters_are_those_of_the_code() -> None:
    assert parameter_table() in DOCUMENT


def test_every_topic_of_the_code_is_documented_with_its_type_and_every_documented_one_exists() -> None:
    created = set(re.findall(r"create_(?:lifecycle_)?(?:publisher|subscription)\(\s*\w+,\s*\"([^\"]+)\"", NODES))
    created |= {name for name, *_ in TOPICS}
    documented = set(re.findall(r"^\| `([^`]+)` \| \w+/msg/", DOCUMENT, re.M))
    assert created == documented
    for name, kind, *_ in TOPICS:
        assert f"| `{name}` | {kind} |" in DOCUMENT


def test_every_service_of_the_code_is_documented() -> None:
    served = set(re.findall(r"\(\"(\w+)\", self\._serve_\w+\)", NODES))
    assert served == set(re.findall(r"`bridge/(\w+)`", DOCUMENT))
