"""The runbook has a row for whatever the code can say to an operator, and speaks of nothing else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "polo_ros").rglob("*.py"))
NODES = ("base", "bridge", "planner", "learner", "recorder", "monitor", "shadow")
VARIES = "\0"  # in a template: what is filled in
ANSWERS = {"its cause is still there", "no limits"}  # of safety's, which no period is counted under
LOGGED = ("warning", "error", "fatal")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def template(node: ast.AST | None) -> str:
    """A text of the code as it is before anything is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) or VARIES for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    return VARIES if node is not None else ""


def texts_in(node: ast.AST) -> set[str]:
    """Every text in a piece of code, whole."""
    if isinstance(node, ast.Constant | ast.JoinedStr):
        return {template(node)}
    return {text for child in ast.iter_child_nodes(node) for text in texts_in(child)}


def called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


def calls(paths: list[Path], *names: str) -> Iterator[ast.Call]:
    for path in paths:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and called(node) in names:
                yield node


def of_node(name: str) -> list[Path]:
    return [ROOT / "polo_ros" / "nodes" / f"{name}.py"]


def counters(name: str) -> set[str]:
    """Names under which a node counts what goes wrong."""
    found = {template(call.args[0]) for call in calls(of_node(name), "refuse") if call.args}
    for node in ast.walk(tree(of_node(name)[0])):
        if isinstance(node, ast.Call) and called(node) == "update" and ast.unparse(node.func) == "self.counts.update":
            found |= {keyword.arg or "" for keyword in node.keywords}
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "self.counts":
            found.add(template(node.slice))
    return found - {VARIES, ""}


def words(name: str) -> set[str]:
    """What a node says: in its log, as its problem, as what it refuses, as an alert."""
    found = {template(call.args[-1]) for call in calls(of_node(name), "refuse", "Alert", "SystemExit") if call.args}
    found |= {template(call.args[0]) for call in calls(of_node(name), *LOGGED) if call.args}
    for node in ast.walk(tree(of_node(name)[0])):
        if isinstance(node, ast.Assign) and any(
            ast.unparse(target) in ("self.problem", "self.failure") for target in node.targets
        ):
            found |= {template(part) for part in ast.walk(node.value) if isinstance(part, ast.JoinedStr)}
        if isinstance(node, ast.FunctionDef) and node.name in ("alerts", "_stale"):
            found |= {template(part) for part in ast.walk(node) if isinstance(part, ast.JoinedStr)}
    return {text for text in found if len(re.sub(r"\W", "", text)) > 3}


def kinds() -> set[str]:
    """Kinds of faults and of safe stops: what stands before the colon of the supervisor's reasons."""
    safety = [path for path in SOURCES if path.parent.name == "safety"]
    bridge = of_node("bridge")
    texts = {
        template(call.args[0]) for call in calls([*safety, *bridge], "_count", "Fault", "Finding", "stop") if call.args
    }
    texts |= {template(call.args[1]) for call in calls(safety, "PlayedAction") if len(call.args) > 1}
    for path in safety:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Return | ast.Assign):
                parts = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
                texts |= {template(part) for part in parts if ":" in template(part)}
            if isinstance(node, ast.BoolOp):
                texts |= {template(part) for part in node.values if isinstance(part, ast.Constant)}
    constants = [node for node in tree(bridge[0]).body if isinstance(node, ast.Assign)]
    texts |= {template(node.value) for node in constants}
    found = {text.partition(":")[0] for text in texts}
    return {kind for kind in found if re.fullmatch(r"[a-z]+( [a-z]+)*", kind)} - ANSWERS


def driver_errors() -> set[str]:
    drivers = [path for path in SOURCES if path.parent.name == "drivers" or path.name.startswith("ros2_control")]
    found = {template(call.args[0]) for call in calls(drivers, "DriverError", "refuse") if call.args}
    for path in drivers:  # what is wrong, put into words elsewhere
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Return):
                found |= {text for text in texts_in(node) if text.count(" ") > 2}
    return {text for text in found if len(re.sub(r"\W", "", text)) > 3}


def refusals() -> set[str]:
    paths = [path for path in SOURCES if path.name in ("convert.py", "weights.py", "value_function.py")]
    found = {template(call.args[0]) for call in calls(paths, "MessageError", "WeightsError")}
    for path in SOURCES:
        if path.name in ("timeline.py", "authority.py"):
            for node in ast.walk(tree(path)):
                if isinstance(node, ast.FunctionDef) and node.name in ("_objection", "objection"):
                    found |= {template(part.value) for part in ast.walk(node) if isinstance(part, ast.Return)}
    # Of weights that a session begins with: said by who starts it, not by who receives them.
    return {text for text in found if text.strip(VARIES) and not text.startswith("initial weights")}


def rows(document: Path) -> Iterator[tuple[str, list[str]]]:
    """The heading and the cells of every row of a document's tables."""
    heading = ""
    for line in document.read_text("utf-8").splitlines():
        if line.startswith("#"):
            heading = line.strip("# ")
        if line.startswith("|") and not line.startswith("|-"):
            yield heading, [cell.strip() for cell in line.strip("|").split(" | ")]


RUNBOOK = ROOT / "docs" / "runbook.md"
DRIVERS = [ROOT / "docs" / "drivers" / f"{name}.md" for name in ("dynamixel", "ros2_control")]


def phrases(*headings: str) -> set[str]:
    """What the first cells of the runbook's tables quote; of some headings, or of all."""
    cells = [cells[0] for heading, cells in rows(RUNBOOK) if not headings or heading in headings]
    return {phrase for cell in cells for phrase in re.findall(r"`([^`]+)`", cell)}


def quotes(phrase: str, text: str) -> bool:
    """Whether a phrase quotes a text of the code: its parts are there, in this order."""
    parts = [re.escape(part.strip()) for part in phrase.split("…") if part.strip()]
    begin = "" if phrase.startswith("…") else "^"
    return bool(parts) and re.search(begin + ".*".join(parts), text, re.M) is not None


@pytest.mark.parametrize("node", [name for name in NODES if name != "base"])
def test_every_counter_of_a_node_has_a_row_of_that_node(node: str) -> None:
    found = counters(node)
    assert found or node == "monitor"
    text = RUNBOOK.read_text("utf-8").split(f"## {node.capitalize()}")[1].split("\n## ")[0]
    assert not {name for name in found if f"`{name}`" not in text}


@pytest.mark.parametrize("node", NODES)
def test_whatever_a_node_says_has_a_row(node: str) -> None:
    found, known = words(node), {phrase for phrase in phrases() if " " in phrase}
    assert found
    assert not {text.replace(VARIES, "…") for text in found if not any(quotes(phrase, text) for phrase in known)}


def test_every_kind_of_fault_and_safe_stop_has_a_row() -> None:
    found = kinds()
    assert {"position", "velocity", "tracking", "driver", "no plan", "stopped by service", "rate limit"} <= found
    text = RUNBOOK.read_text("utf-8").split("### Faults")[1].split("\n## ")[0]
    assert not {kind for kind in found if f"`{kind}`" not in text}


def test_every_reason_to_refuse_a_message_has_a_row() -> None:
    found, known = refusals(), phrases("Refused messages")
    assert len(found) > 20
    assert not {text.replace(VARIES, "…") for text in found if not any(quotes(phrase, text) for phrase in known)}


def test_every_error_of_a_driver_has_a_row_here_or_in_its_own_document() -> None:
    known = phrases("Drivers")
    for document in DRIVERS:
        known |= {phrase for heading, cells in rows(document) for phrase in re.findall(r"`([^`]+)`", cells[0])}
    found = driver_errors()
    assert len(found) > 30
    assert not {text.replace(VARIES, "…") for text in found if not any(_same(phrase, text) for phrase in known)}


def _same(phrase: str, text: str) -> bool:
    """As `quotes`; a driver's document fills in an example and leaves out what comes after."""
    ours, theirs = text.split(VARIES), re.split(r"\.\.\.|/\S+|\d+\S*", phrase)
    long = re.compile(r"(\W*\w){9}")
    return (
        quotes(phrase, text)
        or any(part.strip(" ;:,") in phrase for part in ours if long.match(part))
        or any(part.strip(" ;:,") in text for part in theirs if long.match(part))
    )


def test_the_runbook_quotes_nothing_that_the_code_does_not_say() -> None:
    said = set()
    for path in SOURCES:
        said |= texts_in(tree(path))
        said |= {node.arg for node in ast.walk(tree(path)) if isinstance(node, ast.keyword) and node.arg}
    whole = "\n".join(said)
    foreign = {"This Fast DDS version doesn't have the security libraries"}  # the middleware's own
    assert not {phrase for phrase in phrases() - foreign if not quotes(phrase, whole)}
