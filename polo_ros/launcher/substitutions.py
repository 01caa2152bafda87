"""The `$(name arguments)` of launch files, and the typed values that they become.

Same syntax and results as the `launch` package for the substitutions listed in `KNOWN`; any other is refused.
"""

from __future__ import annotations

import ast
import math
import os
import random
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ARGUMENTS = {  # name: fewest and most arguments
    "var": (1, 2),
    "env": (1, 2),
    "find-pkg-share": (1, 1),
    "find-pkg-prefix": (1, 1),
    "dirname": (0, 0),
    "anon": (1, 1),
    "equals": (2, 2),
    "not-equals": (2, 2),
    "not": (1, 1),
    "and": (2, 2),
    "or": (2, 2),
    "if": (2, 3),
    "eval": (1, 2),
}
KNOWN = tuple(ARGUMENTS)
SCALARS: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str}


@dataclass(frozen=True)
class Call:
    """One `$(name argument ...)`; an argument is a template of its own."""

    name: str
    arguments: tuple[tuple[str | Call, ...], ...]


Template = tuple[str | Call, ...]


@dataclass
class Context:
    """What substitutions see: launch arguments, environment, and the folder of the launch file."""

    values: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    folder: Path = Path()
    anonymous: dict[str, str] = field(default_factory=dict)


class _Reader:
    """Recursive descent over one attribute's text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def template(self, end: str) -> Template:
        """Parts up to, but without, one of the characters in `end` (the end of text if `end` is empty)."""
        parts: list[str | Call] = []
        plain = ""
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "\\" and self.at + 1 < len(self.text):
                plain += self.text[self.at + 1]
                self.at += 2
            elif self.text.startswith("$(", self.at):
                if plain:
                    parts.append(plain)
                    plain = ""
                parts.append(self.call())
            elif char in end:
                break
            else:
                plain += char
                self.at += 1
        if plain:
            parts.append(plain)
        return tuple(parts)

    def call(self) -> Call:
        start = self.at
        self.at += 2
        name = ""
        while self.at < len(self.text) and (self.text[self.at].isalnum() or self.text[self.at] in "_-"):
            name += self.text[self.at]
            self.at += 1
        arguments: list[Template] = []
        while self.at < len(self.text) and self.text[self.at] == " ":
            self.at += 1
            quote = self.text[self.at : self.at + 1]
            if quote and quote in "'\"":
                self.at += 1
                arguments.append(self.template(quote))
                if self.text[self.at : self.at + 1] != quote:
                    raise ValueError(f"'{self.text[start:]}' has no closing {quote}")
                self.at += 1
            else:
                arguments.append(self.template(" )"))
                if not arguments[-1]:
                    raise ValueError(f"'{self.text[start:]}' has an empty argument; separate arguments by one space")
        if self.text[self.at : self.at + 1] != ")":
            raise ValueError(f"'{self.text[start:]}' has no closing parenthesis")
        self.at += 1
        if name not in ARGUMENTS:
            raise ValueError(f"$({name}) is not supported by polo launch; supported: {', '.join(KNOWN)}")
        low, high = ARGUMENTS[name]
        if not low <= len(arguments) <= high:
            wanted = str(low) if low == high else f"{low} to {high}"
            raise ValueError(f"$({name}) takes {wanted} arguments, got {len(arguments)}")
        return Call(name, tuple(arguments))


def parse(text: str) -> Template:
    """Text with substitutions as plain parts and calls.

    Raises:
        ValueError: for a substitution that is unknown or malformed.
    """
    return _Reader(text).template("")


def substitute(text: str, context: Context) -> str:
    """`text` with every substitution replaced.

    Raises:
        ValueError: for a substitution that is unknown, malformed or has no value.
    """
    return perform(parse(text), context)


def perform(template: Template, context: Context) -> str:
    """A parsed template with every substitution replaced; raises ValueError for one that has no value."""
    return "".join(part if isinstance(part, str) else _call(part, context) for part in template)


def _call(call: Call, context: Context) -> str:
    arguments = [perform(argument, context) for argument in call.arguments]
    first = arguments[0] if arguments else ""
    match call.name:
        case "var":
            if first not in context.values and len(arguments) == 1:
                raise ValueError(f"$(var {first}) has no value; known: {', '.join(sorted(context.values)) or 'none'}")
            return context.values.get(first, arguments[-1])
        case "env":
            if first not in context.environment and len(arguments) == 1:
                raise ValueError(f"environment variable '{first}' is not set, and $(env {first}) names no default")
            return context.environment.get(first, arguments[-1])
        case "find-pkg-share":
            return str(package_prefix(first, context.environment) / "share" / first)
        case "find-pkg-prefix":
            return str(package_prefix(first, context.environment))
        case "dirname":
            return str(context.folder)
        case "anon":
            return context.anonymous.setdefault(first, _anonymous(first))
        case "equals":
            return _text(equal(first, arguments[1]))
        case "not-equals":
            return _text(not equal(first, arguments[1]))
        case "not":
            return _text(not truth(first))
        case "and":
            return _text(truth(first) and truth(arguments[1]))
        case "or":
            return _text(truth(first) or truth(arguments[1]))
        case "if":
            return arguments[1] if truth(first) else (arguments[2:] or [""])[0]
        case _:
            return evaluate(first)


def _text(value: bool) -> str:
    return "true" if value else "false"


def _anonymous(name: str) -> str:
    host = socket.gethostname()
    # The operating system's randomness: two sessions with the same seed still need two names.
    text = f"{name}_{host}_{os.getpid()}_{random.SystemRandom().randrange(2**63)}"
    return text.replace(".", "_").replace("-", "_").replace(":", "_")


def truth(text: str) -> bool:
    """A condition: true, false, 1 or 0, in any case."""
    value = text.strip().lower()
    if value in ("true", "1"):
        return True
    if value in ("false", "0"):
        return False
    raise ValueError(f"'{text}' is not a condition; write true, false, 1 or 0")


def equal(left: str, right: str) -> bool:
    """Equality as `launch` has it: booleans by meaning, numbers by nearness, all else as text."""
    booleans = ("true", "false", "1", "0")
    if left.lower() in booleans and right.lower() in booleans:
        return truth(left) == truth(right)
    try:
        return math.isclose(float(left), float(right))
    except ValueError:
        return left == right


def evaluate(expression: str) -> str:
    """The one form of `$(eval ...)` that polo launch knows: `time.strftime('format')`."""
    try:
        node: Any = ast.parse(expression.strip(), mode="eval").body
    except SyntaxError:
        node = None
    if (
        isinstance(node, ast.Call)
        and ast.unparse(node.func) == "time.strftime"
        and len(node.args) == 1
        and not node.keywords
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    ):
        return time.strftime(node.args[0].value)
    raise ValueError(f"$(eval {expression}) is not supported by polo launch; supported: time.strftime('format')")


def package_prefix(package: str, environment: Mapping[str, str]) -> Path:
    """Install prefix of a ROS package, from the ament index.

    Raises:
        ValueError: if no prefix in AMENT_PREFIX_PATH has the package.
    """
    prefixes = [part for part in environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if part]
    for prefix in prefixes:
        if (Path(prefix) / "share/ament_index/resource_index/packages" / package).is_file():
            return Path(prefix)
    raise ValueError(
        f"package '{package}' is not installed; searched AMENT_PREFIX_PATH: {', '.join(prefixes) or 'empty'}"
    )


def typed(text: str, kind: str | None) -> Any:
    """A parameter's value from its text; `kind` is its `type` attribute, None or "yaml" for YAML's rules.

    Raises:
        ValueError: if the text does not fit.
    """
    if kind == "str":
        return text
    if kind in ("int", "float"):
        try:
            return SCALARS[kind](text)
        except ValueError:
            raise ValueError(f"'{text}' is not of type {kind}") from None
    if kind == "bool":
        value = yaml.safe_load({"1": "true", "0": "false"}.get(text, text)) if text else text
        if not isinstance(value, bool):
            raise ValueError(f"'{text}' is not of type bool; write true or false")
        return value
    if kind is None or kind == "yaml":
        return _inferred(text)
    item = SCALARS.get(kind.removeprefix("list_of_")) if kind.startswith("list_of_") else None
    if item is None:
        kinds = [*SCALARS, *(f"list_of_{name}" for name in SCALARS), "yaml"]
        raise ValueError(f"unknown type '{kind}'; types: {', '.join(kinds)}")
    value = _inferred(text)
    if not isinstance(value, list) or any(type(entry) is not item for entry in value):
        raise ValueError(f"'{text}' is not of type {kind}; write a YAML list such as [a, b]")
    return value


def _inferred(text: str) -> Any:
    if not text:
        return text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f"'{text}' is not a YAML value; give type=\"str\" for plain text") from None
    entries = value if isinstance(value, list) else [value]
    kinds = {type(entry) for entry in entries}
    if len(kinds) > 1 or not kinds <= set(SCALARS.values()):
        raise ValueError(f"'{text}' is neither a bool, int, float or str nor a list of one of them")
    return value
