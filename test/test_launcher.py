"""`polo launch` without ROS 2: launch files, their substitutions, and the processes they start."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from polo_ros.launcher import launch, launch_file
from polo_ros.launcher.launch_file import LaunchError
from polo_ros.launcher.processes import ended_well
from polo_ros.launcher.substitutions import Context, substitute, typed

FIXTURE = Path(__file__).parent / "launch_fixtures" / "node.py"
PATIENCE = 60.0  # s until a test gives up; far more than anything here takes


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """An install prefix with one package, `toys`, and its one executable, `node`."""
    root = tmp_path / "prefix"
    (root / "share/ament_index/resource_index/packages").mkdir(parents=True)
    (root / "share/ament_index/resource_index/packages/toys").touch()
    (root / "lib/toys").mkdir(parents=True)
    program = root / "lib/toys/node"
    program.write_text(f"#!{sys.executable}\n{FIXTURE.read_text(encoding='utf-8')}", encoding="utf-8")
    program.chmod(0o755)
    return root


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a launch file of the given elements."""

    def writer(text: str, name: str = "toy.launch.xml") -> Path:
        path = tmp_path / name
        path.write_text(f"<launch>\n{text}\n</launch>\n", encoding="utf-8")
        return path

    return writer


def evaluated(path: Path, prefix: Path | None = None, **given: str) -> list[launch_file.Node]:
    environment = {"AMENT_PREFIX_PATH": str(prefix or ""), "HOME": "/home/me"}
    return launch_file.nodes(launch_file.load(path), given, environment)[0]


# Substitutions: the expected values are those of the `launch` package, version 3.7.1.

VALUES = {"a": "1", "b": "", "c": "x y", "t": "true", "f": "0.1"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("plain", "plain"),
        ("a$(var a)b$(var c)", "a1bx y"),
        ("$(env HOME)", "/home/me"),
        ("$(env NOPE d)", "d"),
        ("$(env NOPE 'd $(var c)')", "d x y"),
        ('$(env NOPE "d e")', "d e"),
        ("$(var $(env NOPE a))", "1"),
        ("$(equals $(var a) 1.0)", "true"),
        ("$(equals 1 true)", "true"),
        ("$(equals 0.1 $(var f))", "true"),
        ("$(equals $(var c) 'x y')", "true"),
        ("$(not $(equals x$(var b) x))", "false"),
        ("$(not-equals $(var t) True)", "false"),
        ("$(and true 0)", "false"),
        ("$(or $(var t) false)", "true"),
        ("$(if $(var t) yes no)", "yes"),
        ("$(if false yes)", ""),
        ("$(dirname)/x", "/files/x"),
        (r"\$(var a)", "$(var a)"),
        ("$5 (a) $", "$5 (a) $"),
        ("$(eval 'time.strftime(\"%%\")' time)", "%"),
    ],
)
def test_substitutions_agree_with_ros_launch(text: str, expected: str) -> None:
    assert substitute(text, Context(VALUES, {"HOME": "/home/me"}, Path("/files"))) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("$(var nope)", "known: a, b, c, f, t"),
        ("$(env NOPE)", "'NOPE' is not set"),
        ("$(frob x)", "$(frob) is not supported by polo launch"),
        ("$(command 'rm x')", "$(command) is not supported by polo launch"),
        ("$(var a", "no closing parenthesis"),
        ("$(env NOPE 'a)", "no closing '"),
        ("$(equals  1 1)", "one space"),
        ("$(var)", "takes 1 to 2 arguments, got 0"),
        ("$(not maybe)", "'maybe' is not a condition"),
        ("$(eval '1+1')", "time.strftime('format')"),
        ("$(eval '__import__(\"os\").getcwd()')", "time.strftime('format')"),
        ("$(find-pkg-share nix)", "package 'nix' is not installed"),
    ],
)
def test_a_substitution_that_cannot_be_made_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        substitute(text, Context(dict(VALUES)))


def test_an_anonymous_name_stays_the_same_within_a_session() -> None:
    one, other = Context(), Context()
    assert substitute("$(anon n)", one) == substitute("$(anon n)", one) != substitute("$(anon n)", other)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("1", None, 1),
        ("1.0", None, 1.0),
        ("1e-3", None, "1e-3"),  # YAML 1.1, as launch_ros and rcl read it
        ("true", None, True),
        ("abc", None, "abc"),
        ("", None, ""),
        ("[1, 2]", None, [1, 2]),
        ("1", "float", 1.0),
        ("1e-3", "float", 1e-3),
        ("7", "int", 7),
        ("1", "bool", True),
        ("False", "bool", False),
        ("1", "str", "1"),
        ("[a, b]", "list_of_str", ["a", "b"]),
    ],
)
def test_parameter_types_agree_with_launch_ros(text: str, kind: str | None, value: object) -> None:
    got = typed(text, kind)
    assert (type(got), got) == (type(value), value)


@pytest.mark.parametrize(
    ("text", "kind"),
    [("x", "int"), ("1.5", "int"), ("", "float"), ("maybe", "bool"), ("~", None), ("{a: 1}", None), ("[1, 2.0]", None)]
    + [("1", "list_of_int"), ("[1, a]", "list_of_int"), ("1", "number")],
)
def test_a_value_of_the_wrong_type_is_refused(text: str, kind: str | None) -> None:
    with pytest.raises(ValueError, match=re.escape(f"'{text if kind != 'number' else kind}'")):
        typed(text, kind)


# Launch files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<timer period='1'/>", "toy.launch.xml:2: <timer> is not supported by polo launch in <launch>"),
        ("<group>\n<executable cmd='ls'/>\n</group>", "toy.launch.xml:3: <executable> is not supported"),
        ("<group if='false'>\n\n<timer/></group>", "toy.launch.xml:4: <timer> is not supported"),
        ("<node pkg='a' exec='b' machine='c'/>", "toy.launch.xml:2: <node> attribute 'machine' is not supported"),
        ("<node pkg='a'/>", "toy.launch.xml:2: <node> needs the attribute 'exec'"),
        ("<node pkg='a' exec='b' name='$(frob)'/>", "toy.launch.xml:2: $(frob) is not supported"),
        ("<node pkg='a' exec='b' name='a-b'/>", "toy.launch.xml:2: node name 'a-b' is not valid"),
        ("<node pkg='a' exec='b' output='log'/>", "toy.launch.xml:2: output = 'log' is not supported"),
        ("<node pkg='a' exec='b' on_exit='restart'/>", "toy.launch.xml:2: on_exit = 'restart' is not supported"),
        ("<node pkg='a' exec='b' respawn_delay='-1'/>", "toy.launch.xml:2: respawn_delay = '-1'"),
        ("<node pkg='a' exec='b' respawn='perhaps'/>", "toy.launch.xml:2: respawn: 'perhaps' is not a condition"),
        ("<node pkg='a' exec='b'><param name='p'/></node>", "toy.launch.xml:2: <param> needs either"),
        ("<node pkg='a' exec='b'><param name='p' value='x' type='int'/></node>", "parameter 'p': 'x' is not of type"),
        ("<node pkg='a' exec='b'><param from='nix.yaml'/></node>", "nix.yaml' does not exist"),
        ("<set_parameters_from_file filename='nix.yaml'/>", "nix.yaml' does not exist"),
        ("<push_ros_namespace namespace='a b'/>", "toy.launch.xml:2: namespace '/a b' is not valid"),
        ("<include file='nix.launch.xml'/>", "nix.launch.xml' does not exist"),
        ("<include file='$(dirname)/toy.launch.xml'/>", "toy.launch.xml:2: toy.launch.xml includes itself"),
        ("<arg name='x'/>", "toy.launch.xml:2: launch argument 'x' (no description) has no default"),
        ("<arg name='x' default='c'>\n<choice value='a'/></arg>", "x = 'c' is unknown; choices: a"),
        ("<log message='a' if='1' unless='1'/>", "exclude each other"),
        ("<arg name='x' default='1'>text</arg>", "toy.launch.xml:2: text 'text'"),
        ("<group>", "toy.launch.xml:3: not a launch XML file: mismatched tag"),
    ],
)
def test_what_is_not_understood_is_refused_by_name_and_line(
    write: Callable[..., Path], text: str, message: str
) -> None:
    with pytest.raises(LaunchError, match=re.escape(message)):
        evaluated(write(text))


def test_a_file_that_is_no_launch_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    path.write_text("<robot/>")
    with pytest.raises(LaunchError, match="x.xml:1: the outermost element is <robot>"):
        launch_file.load(path)
    with pytest.raises(LaunchError, match="nix.xml: No such file"):
        launch_file.load(tmp_path / "nix.xml")


def test_a_group_keeps_what_is_set_inside_to_itself(write: Callable[..., Path]) -> None:
    nodes = evaluated(
        write(
            """
            <let name="v" value="out"/>
            <set_env name="E" value="out"/>
            <group><let name="v" value="in"/><set_env name="E" value="in"/><push_ros_namespace namespace="robot"/>
              <node pkg="a" exec="b" name="$(var v)" namespace="arm"/></group>
            <node pkg="a" exec="b" name="$(var v)"/>
            """
        )
    )
    assert [(n.name, n.namespace, n.environment["E"]) for n in nodes] == [
        ("in", "/robot/arm", "in"),
        ("out", "/", "out"),
    ]
    assert [n.parameter_key for n in nodes] == ["/robot/arm/in", "/out"]


def test_conditions_choose_what_runs(write: Callable[..., Path]) -> None:
    text = "".join(f"<node pkg='a' exec='{w}{v}' {w}='$(var x)'/>" for w in ("if", "unless") for v in (1,))
    path = write(f"<arg name='x' default='true'/>{text}")
    assert [n.executable for n in evaluated(path)] == ["if1"]
    assert [n.executable for n in evaluated(path, x="0")] == ["unless1"]


def test_an_included_file_takes_arguments_and_knows_its_own_folder(write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write("<arg name='x'/><arg name='y' default='dy'/><let name='here' value='$(dirname)'/>", "sub/in.launch.xml")
    path = write(
        "<arg name='y' default='mine'/>"
        "<include file='$(dirname)/sub/in.launch.xml'><arg name='x' value='vx'/></include>"
        "<node pkg='$(var x)' exec='$(var y)'><param name='p' value='$(var here)'/></node>"
    )
    (node,) = evaluated(path)
    assert (node.package, node.executable, node.parameters) == ("vx", "mine", ({"p": str(tmp_path / "sub")},))
    declared = launch_file.arguments(launch_file.load(path), {})
    assert {name: argument.default for name, argument in declared.items()} == {"y": "mine", "x": None}


def test_arguments_are_split_at_the_files_spaces_only(write: Callable[..., Path]) -> None:
    path = write("<arg name='v' default='two words'/><node pkg='a' exec='b' args='-x $(var v) \"a b\" p$(var v)q'/>")
    assert evaluated(path)[0].arguments == ("-x", "two words", "a b", "ptwo wordsq")


def test_parameters_apply_in_the_files_order(write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("")
    inner = "<param name='i' value='1'/><param name='s' value='1' type='str'/><param from='$(dirname)/p.yaml'/>"
    (node,) = evaluated(write(f"<node pkg='a' exec='b'>{inner}<param name='f' value='1' type='float'/></node>"))
    assert node.parameters == ({"i": 1, "s": "1"}, tmp_path / "p.yaml", {"f": 1.0})


def test_a_node_gets_the_command_line_that_launch_ros_writes(write: Callable[..., Path], prefix: Path) -> None:
    (node,) = evaluated(
        write(
            "<node pkg='toys' exec='node' name='n' namespace='r' args='-x' ros_args='--log-level warn'>"
            "<remap from='a' to='b'/></node>"
        ),
        prefix,
    )
    program = str(prefix / "lib/toys/node")
    ros = ["--ros-args", "-r", "__node:=n", "-r", "__ns:=/r", "--params-file", "p.yaml", "-r", "a:=b"]
    expected = (program, "-x", "--ros-args", "--log-level", "warn", *ros)
    assert launch.command(node, [Path("p.yaml")]) == expected


# The command


def test_the_session_environment_leaves_what_the_user_has_set() -> None:
    user = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", "ROS_DOMAIN_ID": "7"}
    environment = launch.session_environment(user)
    assert environment.items() >= user.items()
    assert environment["PYTHONUNBUFFERED"] == "1"
    assert sys.prefix in environment["AMENT_PREFIX_PATH"].split(os.pathsep)
    assert launch.session_environment({})["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert "ROS_DOMAIN_ID" not in launch.session_environment({})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sed:=3"], "toy.launch.xml: unknown launch argument 'sed'; arguments: clock, seed"),
        (["clock:=fast"], "toy.launch.xml: clock = 'fast' is unknown; choices: slow"),
        (["seed=3"], "malformed launch argument 'seed=3'; write NAME:=VALUE"),
        (["seed:="], "malformed launch argument 'seed:='"),
    ],
)
def test_a_wrong_launch_argument_is_refused(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    text = "<arg name='seed' default='0'/><arg name='clock' default='slow'><choice value='slow'/></arg>"
    assert launch.main([str(write(text)), "--own", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_launch_file_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["./nix.launch.xml", "--own"]) == 2
    assert "launch file './nix.launch.xml' does not exist" in capsys.readouterr().err


def test_arguments_are_shown_with_default_choices_and_description(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    text = "<arg name='clock' default='slow' description='who waits'><choice value='slow'/></arg><arg name='must'/>"
    assert launch.main([str(write(text)), "--own", "--show-args"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"clock\n +who waits\n +choices: slow\n +\(default: 'slow'\)\n", shown)
    assert re.search(r"must\n +no description given\n +\(required\)", shown)


# Processes


class Launched:
    """A launcher in a process of its own, and what it says."""

    def __init__(self, path: Path, prefix: Path, *, read: bool = True) -> None:
        environment = {**os.environ, "AMENT_PREFIX_PATH": str(prefix)}
        code = "import sys; from polo_ros.launcher.launch import main; sys.exit(main(sys.argv[1:]))"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(path), "--own"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self.pids: set[int] = set()
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        if read:
            self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def expect(self, text: str) -> str:
        """The next line that contains `text`."""
        end = time.monotonic() + PATIENCE
        while (left := end - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                line = self._queue.get(timeout=left)
                assert line is not None, f"no '{text}' in:\n" + "\n".join(self.lines)
                self.lines.append(line)
                for found in re.findall(r'"(?:pid|child)": (\d+)', line):
                    self.pids.add(int(found))
                if text in line:
                    return line
        raise AssertionError(f"no '{text}' within {PATIENCE} s in:\n" + "\n".join(self.lines))

    def ready(self, name: str) -> dict[str, Any]:
        """What node `name` says when it starts the next time."""
        state: dict[str, Any] = json.loads(self.expect(f"[{name}] ready ").split(" ready ", 1)[1])
        return state

    def end(self) -> int:
        """Wait for the launcher; its exit code."""
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        while (line := self._queue.get(timeout=PATIENCE)) is not None:
            self.lines.append(line)
        return code

    def __repr__(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture
def start(prefix: Path, write: Callable[..., Path]) -> Iterator[Callable[..., Launched]]:
    """Launches nodes, given as the attributes and children of their elements."""
    started: list[Launched] = []

    def starter(*nodes: str) -> Launched:
        elements = "\n".join(
            f"<node pkg='toys' exec='node' name='n{index}' {node}" + ("" if node.endswith("</node>") else "/>")
            for index, node in enumerate(nodes)
        )
        started.append(Launched(write(elements), prefix))
        return started[-1]

    yield starter
    for launched in started:
        for pid in (launched.process.pid, *launched.pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        launched.process.wait(PATIENCE)


def running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(*pids: int) -> bool:
    """Wait until none of the processes runs; False if they will not go."""
    end = time.monotonic() + PATIENCE
    while any(running(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(running(pid) for pid in pids)


def test_nodes_get_their_parameters_and_environment_and_a_prefix_on_each_line(
    start: Callable[..., Launched],
) -> None:
    inner = "<param name='p.q' value='1' type='float'/><param name='s' value='1' type='str'/>"
    launched = start(f"namespace='robot' args='--end 0'>{inner}<env name='MARK' value='m'/></node>")
    state = launched.ready("robot/n0")
    assert state["parameters"] == {"/robot/n0": {"p.q": 1.0, "s": "1"}}
    assert state["mark"] == "m"
    assert state["arguments"][:2] == ["--end", "0"]
    assert launched.end() == 0, launched
    left = [argument for argument in state["arguments"] if "polo_launch_" in argument]
    assert left and not any(Path(path).exists() for path in left)


def test_a_killed_node_is_started_again_and_the_others_go_on(start: Callable[..., Launched]) -> None:
    launched = start("respawn='true' respawn_delay='0.1'", "")
    first, other = launched.ready("n0")["pid"], None
    for line in launched.lines:
        other = json.loads(line.split(" ready ", 1)[1])["pid"] if line.startswith("[n1] ready") else other
    other = other or launched.ready("n1")["pid"]
    os.kill(first, signal.SIGKILL)
    launched.expect("[n0] ended: killed by SIGKILL")
    second = launched.ready("n0")["pid"]
    assert second != first and running(other)
    launched.process.send_signal(signal.SIGINT)
    assert launched.end() == 0, launched
    assert not running(second) and not running(other)


def test_respawning_gives_up_after_its_retries_and_says_so_in_the_exit_code(start: Callable[..., Launched]) -> None:
    launched = start("respawn='true' respawn_max_retries='2' args='--end 3'")
    assert launched.end() == 1
    assert str(launched).count("[n0] ended: exit code 3") == 3, launched


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (4, 1)])
def test_the_end_of_a_required_node_ends_the_session(start: Callable[..., Launched], code: int, expected: int) -> None:
    launched = start(f"on_exit='shutdown' args='--end {code}'", "respawn='true'")
    assert launched.end() == expected, launched
    assert "stopping: n0 has ended" in str(launched)
    assert str(launched).count("[n1] started") == 1  # no restart while the session stops


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_every_node_in_order(start: Callable[..., Launched], number: signal.Signals) -> None:
    launched = start("respawn='true'")
    pid = launched.ready("n0")["pid"]
    launched.process.send_signal(number)
    assert launched.end() == 0, launched
    assert "[n0] got SIGINT" in str(launched)
    assert not running(pid)


def test_a_node_that_does_not_stop_gets_sigterm_then_sigkill(start: Callable[..., Launched]) -> None:
    launched = start("args='--stubborn' sigterm_timeout='0.2' sigkill_timeout='0.2'")
    pid = launched.ready("n0")["pid"]
    launched.process.send_signal(signal.SIGINT)
    assert launched.end() == 1, launched  # what had to be killed has not ended in order
    wanted = ["got SIGINT", "sending SIGTERM", "got SIGTERM", "sending SIGKILL", "ended: killed by SIGKILL"]
    assert [text for line in launched.lines for text in wanted if text in line] == wanted
    assert not running(pid)


def test_a_second_interrupt_hurries(start: Callable[..., Launched]) -> None:
    launched = start("args='--deaf' sigterm_timeout='600'")
    launched.ready("n0")
    launched.process.send_signal(signal.SIGINT)
    launched.expect("[n0] got SIGINT")
    launched.process.send_signal(signal.SIGINT)
    assert launched.end() == 0, launched
    assert "[n0] got SIGTERM" in str(launched)


def test_a_third_interrupt_kills(start: Callable[..., Launched]) -> None:
    launched = start("args='--stubborn' sigterm_timeout='600' sigkill_timeout='600'")
    launched.ready("n0")
    for text in ("got SIGINT", "got SIGTERM"):
        launched.process.send_signal(signal.SIGINT)
        launched.expect(text)
    launched.process.send_signal(signal.SIGINT)
    assert launched.end() == 0, launched


def test_a_crash_shows_in_the_exit_code(start: Callable[..., Launched]) -> None:
    launched = start("on_exit='shutdown' args='--crash'")
    assert launched.end() == 1
    assert "ended: killed by SIGSEGV" in str(launched)


@pytest.mark.parametrize(
    ("code", "age", "good"),
    [
        (0, 60.0, True),
        (-signal.SIGINT, 60.0, True),
        (128 + signal.SIGTERM, 60.0, True),
        (1, 60.0, False),  # it could not finish, a recorder's summary for one
        (1, 0.1, True),  # Python, interrupted while it starts
        (-signal.SIGKILL, 0.1, False),
        (-signal.SIGSEGV, 0.1, False),
    ],
)
def test_a_node_that_fails_while_it_stops_shows_in_the_exit_code(code: int, age: float, good: bool) -> None:
    assert ended_well(code, age) is good


def test_what_a_node_has_started_ends_with_it(start: Callable[..., Launched]) -> None:
    launched = start("args='--child'", "")
    state = launched.ready("n0")
    os.kill(state["pid"], signal.SIGKILL)
    assert gone(state["child"])
    launched.process.send_signal(signal.SIGINT)
    assert launched.end() == 1, launched  # n0 failed for good


def test_killing_the_launcher_leaves_no_process_behind(start: Callable[..., Launched]) -> None:
    quick = "sigterm_timeout='0.2' sigkill_timeout='0.2'"
    launched = start("", f"args='--stubborn' {quick}", f"args='--child' {quick}")
    while len(launched.pids) < 4:
        launched.expect(" ready ")
    launched.process.kill()
    assert gone(*launched.pids), launched


def test_a_closed_output_ends_the_session(write: Callable[..., Path], prefix: Path) -> None:
    talker = "<node pkg='toys' exec='node' name='talker' respawn='true' respawn_delay='0.1' args='--end 0'/>"
    launched = Launched(write(f"{talker}<node pkg='toys' exec='node' name='quiet'/>"), prefix, read=False)
    assert launched.process.stdout is not None
    line = ""
    while "[quiet] ready " not in line:
        line = launched.process.stdout.readline()
    launched.process.stdout.close()
    assert launched.process.wait(PATIENCE) == 0
    assert not running(json.loads(line.split(" ready ", 1)[1])["pid"])


def test_an_executable_that_is_not_there_is_refused_before_anything_starts(
    write: Callable[..., Path], prefix: Path
) -> None:
    path = write("<node pkg='toys' exec='node' name='good'/>\n<node pkg='toys' exec='nod' name='bad'/>")
    launched = Launched(path, prefix)
    assert launched.end() == 2
    assert "toy.launch.xml:3: package 'toys' has no executable 'nod'" in str(launched)
    assert "executables: node" in str(launched)
    assert "[good]" not in str(launched)


def test_a_program_that_cannot_run_ends_the_session(write: Callable[..., Path], prefix: Path) -> None:
    shutil.copy(prefix / "lib/toys/node", prefix / "lib/toys/broken")
    (prefix / "lib/toys/broken").write_bytes(b"\x7fELF nonsense")
    launched = Launched(write("<node pkg='toys' exec='node'/>\n<node pkg='toys' exec='broken'/>"), prefix)
    assert launched.end() == 1
    assert "[broken] cannot start" in str(launched)
