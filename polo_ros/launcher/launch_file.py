"""Launch XML, as far as `polo launch` knows it: a file and its arguments become the nodes to start.

A file is first checked whole against `ELEMENTS`, branches that are not taken included, so that what is not
supported is refused by name and line before anything starts. Scopes are those of the `launch` package: a group
keeps what is set inside to itself, an include does not.
"""

from __future__ import annotations

import os
import shlex
import xml.parsers.expat
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polo_ros.launcher.substitutions import Call, Context, parse, perform, substitute, truth, typed


class LaunchError(ValueError):
    """A launch file or its arguments cannot be used; the message names file, line and what would be right."""


@dataclass
class Element:
    """One XML element and where it stands."""

    tag: str
    attributes: dict[str, str]
    file: Path
    line: int
    children: list[Element] = field(default_factory=list)

    def error(self, message: object) -> LaunchError:
        """An error at this element's place; one that names its own place already stays as it is."""
        if isinstance(message, LaunchError):
            return message
        return LaunchError(f"{self.file.name}:{self.line}: {message}")

    def text(self, name: str, context: Context, default: str | None = None) -> str:
        """An attribute with its substitutions replaced."""
        raw = self.attributes.get(name, default)
        if raw is None:
            raise self.error(f"<{self.tag}> needs the attribute '{name}'")
        try:
            return substitute(raw, context)
        except ValueError as error:
            raise self.error(error) from None

    def truth(self, name: str, context: Context, default: bool) -> bool:
        """A condition with its substitutions replaced."""
        if name not in self.attributes:
            return default
        try:
            return truth(self.text(name, context))
        except ValueError as error:
            raise error if isinstance(error, LaunchError) else self.error(f"{name}: {error}") from None

    def number(self, name: str, default: float) -> float:
        """A non-negative number, written literally as `launch` demands it."""
        raw = self.attributes.get(name)
        try:
            value = default if raw is None else float(raw)
        except ValueError:
            value = -1.0
        if not 0.0 <= value < float("inf"):
            raise self.error(f"{name} = '{raw}' is not a number of seconds")
        return value


@dataclass(frozen=True)
class Shape:
    """What one element may hold."""

    required: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    children: frozenset[str] = frozenset()

    @property
    def attributes(self) -> frozenset[str]:
        """Every attribute that the element may have."""
        return self.required | self.optional


def _shape(required: str = "", optional: str = "", children: str = "") -> Shape:
    return Shape(frozenset(required.split()), frozenset(optional.split()), frozenset(children.split()))


_ACTIONS = "arg let group include node set_env push_ros_namespace push-ros-namespace set_parameters_from_file log"
_NODE = (
    "name namespace output respawn respawn_delay respawn_max_retries on_exit sigterm_timeout sigkill_timeout "
    "args ros_args if unless"
)
ELEMENTS = {
    "launch": _shape(children=_ACTIONS),
    "arg": _shape("name", "default description", "choice"),
    "choice": _shape("value"),
    "let": _shape("name value", "if unless"),
    "group": _shape("", "scoped if unless", _ACTIONS),
    "include": _shape("file", "if unless", "arg"),
    "include/arg": _shape("name value"),
    "node": _shape("pkg exec", _NODE, "param remap env"),
    "param": _shape("", "name value type from"),
    "remap": _shape("from to"),
    "env": _shape("name value"),
    "set_env": _shape("name value", "if unless"),
    "push_ros_namespace": _shape("namespace", "if unless"),
    "push-ros-namespace": _shape("namespace", "if unless"),
    "set_parameters_from_file": _shape("filename", "if unless"),
    "log": _shape("message", "if unless"),
}


@dataclass(frozen=True)
class Argument:
    """A declared launch argument."""

    name: str
    default: str | None
    description: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Node:
    """A node to start, with everything substituted.

    Attributes:
        parameters: in the order in which they apply: parameter files, and dictionaries of names and values.
        respawn_max_retries: restarts before giving up; negative: never give up.
        sigterm_timeout: time from SIGINT to SIGTERM at shutdown, s.
        sigkill_timeout: time from SIGTERM to SIGKILL, s.
    """

    package: str
    executable: str
    name: str = ""
    namespace: str = "/"
    arguments: tuple[str, ...] = ()
    ros_arguments: tuple[str, ...] = ()
    parameters: tuple[Path | dict[str, Any], ...] = ()
    remappings: tuple[tuple[str, str], ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    respawn: bool = False
    respawn_delay: float = 0.0
    respawn_max_retries: int = -1
    shutdown_on_exit: bool = False
    sigterm_timeout: float = 5.0
    sigkill_timeout: float = 5.0
    element: Element | None = field(default=None, compare=False, repr=False)

    @property
    def label(self) -> str:
        """What the node is called in the launcher's output: bridge, or robot_1/bridge where it has a namespace."""
        return f"{self.namespace}/{self.name or self.executable}".lstrip("/")

    @property
    def parameter_key(self) -> str:
        """The node's key in a parameter file."""
        return "/**" if not self.name else f"{self.namespace.rstrip('/')}/{self.name}"


@dataclass
class _Scope(Context):
    """Substitution context, and what else a group keeps to itself."""

    namespace: str = ""
    parameter_files: tuple[Path, ...] = ()

    def inner(self) -> _Scope:
        scope = copy(self)
        scope.values = dict(self.values)
        scope.environment = dict(self.environment)
        return scope


def load(path: Path) -> Element:
    """Read a launch file and check that all of it is understood.

    Raises:
        LaunchError: if the file cannot be read, is no XML, or holds anything that is not in `ELEMENTS`.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LaunchError(f"{path}: {error.strerror}") from None
    path = _path(str(path))
    parser = xml.parsers.expat.ParserCreate()
    stack: list[Element] = []
    roots: list[Element] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        element = Element(tag, attributes, path, parser.CurrentLineNumber)
        (stack[-1].children if stack else roots).append(element)
        stack.append(element)

    def characters(text: str) -> None:
        if text.strip():
            raise LaunchError(f"{path.name}:{parser.CurrentLineNumber}: text '{text.strip()}' outside of any attribute")

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda tag: stack.pop()
    parser.CharacterDataHandler = characters
    try:
        parser.Parse(data, True)
    except xml.parsers.expat.ExpatError as error:
        message = xml.parsers.expat.ErrorString(error.code)
        raise LaunchError(f"{path.name}:{error.lineno}: not a launch XML file: {message}") from None
    if roots[0].tag != "launch":
        raise roots[0].error(f"the outermost element is <{roots[0].tag}>; <launch> is expected")
    _check(roots[0], ELEMENTS["launch"])
    return roots[0]


def _check(element: Element, shape: Shape) -> None:
    for name, value in element.attributes.items():
        if name not in shape.attributes:
            known = ", ".join(sorted(shape.attributes)) or "none"
            what = f"<{element.tag}> attribute '{name}'"
            raise element.error(f"{what} is not supported by polo launch; supported: {known}")
        if name == "description":  # plain text for both launchers
            continue
        try:
            parse(value)
        except ValueError as error:
            raise element.error(error) from None
    for name in sorted(shape.required - set(element.attributes)):
        raise element.error(f"<{element.tag}> needs the attribute '{name}'")
    for child in element.children:
        if child.tag not in shape.children:
            known = ", ".join(f"<{tag}>" for tag in sorted(shape.children)) or "none"
            raise child.error(f"<{child.tag}> is not supported by polo launch in <{element.tag}>; supported: {known}")
        _check(child, ELEMENTS.get(f"{element.tag}/{child.tag}", ELEMENTS[child.tag]))


def _path(text: str) -> Path:
    return Path(os.path.abspath(text))


def arguments(root: Element, environment: Mapping[str, str]) -> dict[str, Argument]:
    """The launch arguments that a file declares, and those of the files it includes, the outermost first.

    A file whose name depends on launch arguments is not looked into.
    """
    found: dict[str, Argument] = {}
    _collect(root, environment, found, ())
    return found


def _collect(
    element: Element, environment: Mapping[str, str], found: dict[str, Argument], above: tuple[Path, ...]
) -> None:
    for child in element.children:
        if child.tag == "arg":
            choices = tuple(choice.attributes["value"] for choice in child.children)
            name, default = child.attributes["name"], child.attributes.get("default")
            description = " ".join(child.attributes.get("description", "").split())
            found.setdefault(name, Argument(name, default, description, choices))
        elif child.tag == "group":
            _collect(child, environment, found, above)
        elif child.tag == "include":
            context = Context(environment=dict(environment), folder=child.file.parent)
            try:
                path = _path(substitute(child.attributes["file"], context))
            except ValueError:
                continue
            _collect(_included(child, path, above), environment, found, (*above, path))


def _included(include: Element, path: Path, above: tuple[Path, ...]) -> Element:
    if path in above or path == include.file:
        raise include.error(f"{path.name} includes itself")
    if not path.is_file():
        raise include.error(f"included file '{path}' does not exist")
    return load(path)


def check_arguments(given: Mapping[str, str], choices: Mapping[str, Sequence[str]], file: str) -> None:
    """Raise LaunchError for an argument that a launch file does not have, or a value that it does not allow.

    Args:
        given: launch arguments, as text.
        choices: for each argument of the file what it may be; empty: anything.
        file: the file's name.
    """
    for name, value in given.items():
        if name not in choices:
            known = ", ".join(sorted(choices)) or "none"
            raise LaunchError(f"{file}: unknown launch argument '{name}'; arguments: {known}")
        if choices[name] and value not in choices[name]:
            raise LaunchError(f"{file}: {name} = '{value}' is unknown; choices: {', '.join(choices[name])}")


def nodes(root: Element, given: Mapping[str, str], environment: Mapping[str, str]) -> tuple[list[Node], list[str]]:
    """What a launch file starts, and the messages it logs.

    Args:
        root: a loaded launch file.
        given: launch arguments, as text.
        environment: environment variables that the nodes inherit.

    Raises:
        LaunchError: naming file and line.
    """
    scope = _Scope(values=dict(given), environment=dict(environment), folder=root.file.parent)
    out: list[Node] = []
    messages: list[str] = []
    _run(root, scope, out, messages, ())
    return out, messages


def _run(parent: Element, scope: _Scope, out: list[Node], messages: list[str], above: tuple[Path, ...]) -> None:
    for element in parent.children:
        if not _wanted(element, scope):
            continue
        match element.tag:
            case "arg":
                _declare(element, scope)
            case "let":
                scope.values[element.text("name", scope)] = element.text("value", scope)
            case "set_env":
                scope.environment[element.text("name", scope)] = element.text("value", scope)
            case "push_ros_namespace" | "push-ros-namespace":
                scope.namespace = _namespace(element, scope.namespace, element.text("namespace", scope))
            case "set_parameters_from_file":
                path = _path(element.text("filename", scope))
                if not path.is_file():
                    raise element.error(f"parameter file '{path}' does not exist")
                scope.parameter_files = (*scope.parameter_files, path)
            case "log":
                messages.append(element.text("message", scope))
            case "group":
                _run(element, scope.inner() if element.truth("scoped", scope, True) else scope, out, messages, above)
            case "include":
                _include(element, scope, out, messages, above)
            case _:
                out.append(_node(element, scope))


def _wanted(element: Element, scope: _Scope) -> bool:
    """Whether an element's condition holds."""
    if {"if", "unless"} <= set(element.attributes):
        raise element.error("'if' and 'unless' exclude each other")
    return element.truth("if", scope, True) and not element.truth("unless", scope, False)


def _declare(element: Element, scope: _Scope) -> None:
    name = element.attributes["name"]
    if name not in scope.values:
        if "default" not in element.attributes:
            what = element.attributes.get("description", "no description")
            raise element.error(f"launch argument '{name}' ({what}) has no default; give {name}:=VALUE")
        scope.values[name] = element.text("default", scope)
    choices = [choice.attributes["value"] for choice in element.children]
    if choices and scope.values[name] not in choices:
        raise element.error(
            f"launch argument {name} = '{scope.values[name]}' is unknown; choices: {', '.join(choices)}"
        )


def _include(element: Element, scope: _Scope, out: list[Node], messages: list[str], above: tuple[Path, ...]) -> None:
    path = _path(element.text("file", scope))
    root = _included(element, path, above)
    for argument in element.children:
        scope.values[argument.text("name", scope)] = argument.text("value", scope)
    outside, scope.folder = scope.folder, path.parent
    _run(root, scope, out, messages, (*above, element.file, path))
    scope.folder = outside


def _namespace(element: Element, base: str, name: str) -> str:
    """`name` below the namespace `base`, absolute."""
    joined = name if name.startswith("/") else f"{base.rstrip('/')}/{name}"
    joined = joined.rstrip("/") or "/"
    parts = joined.split("/")[1:]
    if joined != "/" and not all(part.isidentifier() and part.isascii() for part in parts):
        raise element.error(f"namespace '{joined}' is not valid; write names of letters, digits and _ with / between")
    return joined


def _node(element: Element, scope: _Scope) -> Node:
    name = element.text("name", scope, "")
    if name and not (name.isidentifier() and name.isascii()):
        raise element.error(f"node name '{name}' is not valid; use letters, digits and _")
    output = element.text("output", scope, "screen")
    if output not in ("screen", "both"):
        raise element.error(f"output = '{output}' is not supported by polo launch; supported: both, screen")
    on_exit = element.attributes.get("on_exit")
    if on_exit not in (None, "shutdown"):
        raise element.error(f"on_exit = '{on_exit}' is not supported by polo launch; supported: shutdown")
    retries = element.attributes.get("respawn_max_retries", "-1")
    if not retries.lstrip("-").isdigit():
        raise element.error(f"respawn_max_retries = '{retries}' is not a whole number")
    environment = dict(scope.environment)
    parameters: list[Path | dict[str, Any]] = list(scope.parameter_files)
    remappings = []
    for child in element.children:
        if child.tag == "env":
            environment[child.text("name", scope)] = child.text("value", scope)
        elif child.tag == "remap":
            remappings.append((child.text("from", scope), child.text("to", scope)))
        else:
            _add_parameter(child, scope, parameters)
    return Node(
        package=element.text("pkg", scope),
        executable=element.text("exec", scope),
        name=name,
        namespace=_namespace(element, scope.namespace, element.text("namespace", scope, "")),
        arguments=_words(element, "args", scope),
        ros_arguments=_words(element, "ros_args", scope),
        parameters=tuple(parameters),
        remappings=tuple(remappings),
        environment=environment,
        respawn=element.truth("respawn", scope, False),
        respawn_delay=element.number("respawn_delay", 0.0),
        respawn_max_retries=int(retries),
        shutdown_on_exit=on_exit == "shutdown",
        sigterm_timeout=element.number("sigterm_timeout", 5.0),
        sigkill_timeout=element.number("sigkill_timeout", 5.0),
        element=element,
    )


def _add_parameter(element: Element, scope: _Scope, parameters: list[Path | dict[str, Any]]) -> None:
    given = set(element.attributes)
    if given == {"from"}:
        path = _path(element.text("from", scope))
        if not path.is_file():
            raise element.error(f"parameter file '{path}' does not exist")
        parameters.append(path)
    elif {"name", "value"} <= given <= {"name", "value", "type"}:
        name = element.text("name", scope)
        try:
            value = typed(element.text("value", scope), element.attributes.get("type"))
        except ValueError as error:
            raise element.error(f"parameter '{name}': {error}") from None
        if not parameters or isinstance(parameters[-1], Path):
            parameters.append({})
        last = parameters[-1]
        assert isinstance(last, dict)
        last[name] = value
    else:
        raise element.error("<param> needs either 'name' and 'value', with or without 'type', or 'from' alone")


def _words(element: Element, name: str, scope: _Scope) -> tuple[str, ...]:
    """Command line arguments: split where the file has spaces, never inside a substituted value."""
    # A stand-in for each substitution keeps spaces in its value from being taken for separators.
    values: list[str] = []
    pattern = ""
    for part in parse(element.attributes.get(name, "")):
        if isinstance(part, str):
            pattern += part
        else:
            pattern += f"\0{len(values)}\0"
            values.append(_performed(element, part, scope))
    words = shlex.split(pattern)
    for index, value in enumerate(values):
        words = [word.replace(f"\0{index}\0", value) for word in words]
    return tuple(words)


def _performed(element: Element, call: Call, scope: _Scope) -> str:
    try:
        return perform((call,), scope)
    except ValueError as error:
        raise element.error(error) from None
