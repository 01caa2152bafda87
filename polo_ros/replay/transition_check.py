"""What is wrong with the transitions of a bag: gaps, steps that fall, numbers that are not finite, other models."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from polo_ros.replay.bag_reader import BagReader
from polo_ros.replay.bag_types import BagProblem
from polo_ros.replay.mcap_file import Record
from polo_ros.replay.transition import Transition


@dataclass
class TransitionCheck:
    """What `check_transitions` counted."""

    transitions: int = 0
    first_step: int = 0
    last_step: int = 0
    lost: int = 0  # numbers missing between the first and the last step
    resets: int = 0  # episodes begun after the first
    model_hashes: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int, int]] = field(default_factory=list)  # (nstate, nobs, nu) in order of appearance
    problems: list[BagProblem] = field(default_factory=list)


class _Check:
    """What is wrong with the transitions of one topic."""

    def __init__(self) -> None:
        self.result = TransitionCheck()
        self._gaps: list[str] = []
        self._falls: list[str] = []
        self._wrong: list[int] = []
        self._episode: int | None = None

    def add(self, transition: Transition, model_hash: str) -> None:
        result, step = self.result, transition.step
        if result.transitions == 0:
            result.first_step = step
        elif step <= result.last_step:
            self._falls.append(f"{result.last_step} -> {step}")
        elif step > result.last_step + 1:
            result.lost += step - result.last_step - 1
            self._gaps.append(f"{result.last_step} -> {step}")
        if self._episode is not None and transition.episode != self._episode:
            result.resets += 1
        self._episode = transition.episode
        result.last_step = step
        result.transitions += 1
        if model_hash not in result.model_hashes:
            result.model_hashes.append(model_hash)
        sizes = (len(transition.state), len(transition.observation), len(transition.action))
        if sizes not in result.sizes:
            result.sizes.append(sizes)
        if len(transition.next_observation) != len(transition.observation) or not transition.finite:
            self._wrong.append(step)

    def finish(self, name: str) -> TransitionCheck:
        """The result, with the problems of the topic `name`."""
        result = self.result

        def problem(kind: str, message: str) -> None:
            result.problems.append(BagProblem(name, kind, message))

        if self._gaps:
            problem("gap", f"{result.lost} steps are missing: {_some(self._gaps)}")
        if self._falls:
            problem("order", f"steps do not rise: {_some(self._falls)}")
        if self._wrong:
            found = f"{len(self._wrong)} steps: {_some(self._wrong)}"
            problem("not_finite", f"numbers are not finite or sizes disagree at {found}")
        if len(result.sizes) > 1:
            problem("sizes", f"(state, observation, action) sizes change: {_some(result.sizes)}")
        if len(result.model_hashes) > 1:
            problem("models", f"transitions of several models: {_some(result.model_hashes)}")
        return result


def check_transitions(
    reader: BagReader, topic: str | None = None, also: Callable[[Record, Transition], None] | None = None
) -> TransitionCheck:
    """Read all transitions and look for gaps, steps that fall, numbers that are not finite, and changes of model.

    Args:
        reader: the bag.
        topic: the topic to read; None: the only one of type Transition.
        also: called with every transition on the way.
    """
    check, name = _Check(), topic or "transition"
    for record, transition, model_hash in reader.transitions(topic):
        name = record.topic.name
        check.add(transition, model_hash)
        if also is not None:
            also(record, transition)
    return check.finish(name)


def check_robots(
    reader: BagReader, topics: Collection[str], also: Callable[[Record, Transition], None] | None = None
) -> dict[str, TransitionCheck]:
    """`check_transitions` of several robots in one pass: each one's steps are counted by themselves.

    Args:
        reader: the bag.
        topics: their topics.
        also: called with every transition on the way.

    Returns:
        what was found, by topic.
    """
    checks = {name: _Check() for name in topics}
    for record, transition, model_hash in reader.every_transition(topics):
        checks[record.topic.name].add(transition, model_hash)
        if also is not None:
            also(record, transition)
    return {name: check.finish(name) for name, check in checks.items()}


def _some(items: Collection[Any], limit: int = 5) -> str:
    shown = ", ".join(str(item) for item in list(items)[:limit])
    return f"{shown}, ..." if len(items) > limit else shown
