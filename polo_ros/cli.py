"""`polo`: everything that can be done from the command line."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from polo_ros import __version__, drivers, tasks, tracebacks
from polo_ros.agents import registry
from polo_ros.learning.offline_config import ALGORITHMS
from polo_ros.process import prepare
from polo_ros.replay.cli import add_bag_commands, add_dataset_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] == ["launch"]:  # has options of its own, and must not load what it starts
        from polo_ros.launcher.launch import main as launch

        return launch(arguments[1:])
    parser = argparse.ArgumentParser(prog="polo", description="Plan online, learn offline.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_run(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_lists(commands)
    _add_parameters(commands)
    _add_permissions(commands)
    _add_bench(commands)
    _add_faults(commands)
    _add_reproduce(commands)
    add_bag_commands(commands)
    add_dataset_command(commands)
    commands.add_parser("launch", help="start a session: polo launch sim task:=NAME")
    options = parser.parse_args(arguments)
    prepare()
    try:
        return int(options.run(options))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{tracebacks.needed(error)}polo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _add_run(commands: Any) -> None:
    parser = commands.add_parser("run", help="run an agent in this process, without ROS")
    parser.add_argument("agent", choices=registry.names(), help="what plans and learns")
    parser.add_argument("--task", required=True, help="task; `polo tasks` lists them")
    parser.add_argument("--steps", type=int, default=500, help="control periods (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: 0)")
    parser.add_argument("--threads", type=int, default=0, help="rollout threads; 0: one a core")
    parser.add_argument("--no-learning", action="store_true", help="learn nothing: plain MPC, or an actor as it begins")
    parser.add_argument("--config", default="", metavar="FILE", help="ROS parameter file, as launch's config:=FILE")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON only")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if options.steps < 1:
        raise ValueError(f"--steps {options.steps} is below its minimum 1")
    task = tasks.make(options.task)
    agent = registry.get(options.agent)
    config = _agent_config(options.agent, options.task, options.config, options.set, {})

    told = registry.RunOptions(
        steps=options.steps,
        seed=options.seed,
        threads=options.threads,
        learn=not options.no_learning,
        say=None if options.json else _say,
    )
    _print(agent.run(task, config, told), options.json)
    return 0


def _agent_config(agent: str, task: str, file: str, changes: Sequence[str], more: Mapping[str, Any]) -> Any:
    """The settings of an agent; see `_settings`."""
    from polo_ros.agents.configs import CONFIGS

    return _settings(CONFIGS[agent], agent, task, file, changes, more)


def _settings(config: Any, agent: str, task: str, file: str, changes: Sequence[str], more: Mapping[str, Any]) -> Any:
    """`config` with what the agent's and task's files, a parameter file, NAME=VALUE and `more` change, in this order.

    What holds between settings is checked of the last of them alone.
    """
    from polo_ros.config import flatten, read_parameters, replace
    from polo_ros.nodes.known import OTHERS
    from polo_ros.session.config import task_parameters

    given = read_parameters(_parameter_file(file)) if file else {}
    # A session's file: what is for its nodes alone has no meaning here, what nobody knows is refused below.
    ours = flatten(config)
    others = {name for other in OTHERS for name in flatten(other)} - ours.keys()
    of_drivers = tuple(f"{name}." for name in drivers.names())
    parsed = {name: value for name, value in given.items() if name not in others and not name.startswith(of_drivers)}
    parsed.update(_changes(changes))
    of_task = {name: value for name, value in task_parameters(task, agent=agent).items() if name in ours}
    return replace(config, {**of_task, **parsed, **more})


def _add_train(commands: Any) -> None:
    parser = commands.add_parser("train", help="learn policy, values and model from a dataset; see docs/offline.md")
    parser.add_argument("--algorithm", required=True, choices=ALGORITHMS, help="what learns")
    parser.add_argument("--data", required=True, metavar="DIR", help="dataset; `polo dataset` makes one")
    parser.add_argument("--out", required=True, metavar="DIR", help="what came of it; a training there goes on")
    parser.add_argument("--updates", type=int, default=0, help="updates in all; 0: as train.updates says")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: 0)")
    parser.add_argument("--config", default="", metavar="FILE", help="ROS parameter file, over config/offline.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON only")
    parser.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> int:
    import signal

    from polo_ros.learning.offline_config import OfflineConfig
    from polo_ros.learning.offline_learner import OfflineLearner
    from polo_ros.learning.offline_training import Told, train
    from polo_ros.replay.dataset import Dataset

    data = Dataset.open(options.data)
    data.verify()
    changes = {"train.updates": options.updates} if options.updates else {}
    config = _settings(OfflineConfig(), options.algorithm, data.task, options.config, options.set, changes)
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    learner = OfflineLearner(tasks.make(data.task), data, options.algorithm, config, options.seed)
    before = [(number, signal.signal(number, stop)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        figures = train(learner, Path(options.out), Told(lambda: stopped, _silent if options.json else _say))
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    _print(figures, options.json)
    return 130 if stopped and learner.done < learner.total else 0


def _add_evaluate(commands: Any) -> None:
    parser = commands.add_parser("evaluate", help="try what was learned offline in simulation; see docs/offline.md")
    parser.add_argument("--policy", required=True, metavar="DIR", help="what `polo train --out` wrote")
    parser.add_argument("--task", default="", help="task; it must be the policy's (default: that)")
    text = "who acts: LOOP, which looks ahead; none: the policy alone; or one after the other (default: loop)"
    parser.add_argument("--planner", default="loop", choices=["loop", "none", "both"], help=text)
    parser.add_argument("--episodes", type=int, default=5, help="how many, always from the same starts (default: 5)")
    text = "control periods after which an episode is cut, unless the task cuts it before (default: 1000)"
    parser.add_argument("--steps", type=int, default=1000, help=text)
    parser.add_argument("--seed", type=int, default=0, help="of starts and noise (default: 0)")
    parser.add_argument("--threads", type=int, default=0, help="rollout threads; 0: one a core")
    parser.add_argument("--config", default="", metavar="FILE", help="ROS parameter file, over config/offline.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON only")
    parser.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    from polo_ros.agents.offline import EvaluateOptions, evaluate
    from polo_ros.learning.offline_policy import read_about

    for name in ("episodes", "steps"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} {getattr(options, name)} is below its minimum 1")
    about = read_about(options.policy)
    task = tasks.make(options.task or about["task"])
    # Sizes are the training's, and settings that say how to plan with them may depend on that.
    config = _agent_config(about["algorithm"], task.name, options.config, options.set, about["settings"])

    told = EvaluateOptions(
        planners=("none", "loop") if options.planner == "both" else (options.planner,),
        episodes=options.episodes,
        seed=options.seed,
        steps=options.steps,
        threads=options.threads,
        say=_silent if options.json else _say,
    )
    _print(evaluate(options.policy, task, config, told), options.json)
    return 0


def _say(line: str) -> None:
    """A word of progress, beside what is printed."""
    print(line, file=sys.stderr, flush=True)


def _silent(line: str) -> None:
    """No word of progress: JSON is all that is wanted."""


def _changes(changes: Sequence[str]) -> dict[str, Any]:
    """Values by name of NAME=VALUE, as YAML reads them."""
    import yaml

    parsed: dict[str, Any] = {}
    for change in changes:
        name, separator, value = change.partition("=")
        if not separator:
            raise ValueError(f"malformed setting '{change}'; write NAME=VALUE")
        parsed[name] = yaml.safe_load(value)
    return parsed


def _parameter_file(name: str) -> Path:
    """A file, or one of those in the package's config folder."""
    from polo_ros import resources

    path = Path(name)
    return path if path.exists() or path.parent != Path() else resources.path("config", name)


def _add_lists(commands: Any) -> None:
    for word, module in (("tasks", tasks), ("drivers", drivers)):
        parser = commands.add_parser(word, help=f"list the {word} that are installed")
        parser.add_argument("--json", action="store_true", help="print as JSON")
        parser.set_defaults(run=_list, module=module)


def _add_parameters(commands: Any) -> None:
    parser = commands.add_parser("parameters", help="list all parameters of a session, as in docs/interfaces.md")
    parser.set_defaults(run=_parameters)


def _parameters(_: argparse.Namespace) -> int:
    from polo_ros.agents.reference import parameter_table

    print(parameter_table(), end="")
    return 0


def _add_permissions(commands: Any) -> None:
    parser = commands.add_parser("permissions", help="write what each node may do, for SROS 2; see docs/security.md")
    parser.add_argument("--namespace", default="", metavar="NS", help="of the session's nodes (default: none)")
    parser.add_argument("--robots", nargs="*", default=(), metavar="NAME", help="of a fleet (default: one robot)")
    parser.add_argument("--driver", default=drivers.SIMULATION, help=f"of the robot (default: {drivers.SIMULATION})")
    parser.add_argument("--config", default="", metavar="FILE", help="ROS parameter file with the driver's settings")
    parser.add_argument(
        "--format",
        choices=["policy", "permissions", "tables"],
        default="policy",
        help="a SROS 2 policy, DDS permissions to be signed, or the tables of docs/interfaces.md (default: policy)",
    )
    parser.add_argument("--domain", type=int, default=0, help="permissions: the ROS_DOMAIN_ID (default: 0)")
    parser.add_argument("--days", type=int, default=365, help="permissions: how long they are valid (default: 365)")
    parser.add_argument("--output", default="", metavar="FILE", help="where to write (default: to the terminal)")
    parser.set_defaults(run=_permissions)


def _permissions(options: argparse.Namespace) -> int:
    from datetime import datetime, timedelta, timezone

    from polo_ros.config import read_parameters, replace
    from polo_ros.nodes import permissions
    from polo_ros.nodes.interfaces import interface_tables

    own_settings = None
    if options.driver != drivers.SIMULATION:
        own = f"{options.driver}."
        given = read_parameters(Path(options.config)) if options.config else {}
        known = {name: value for name, value in given.items() if name.startswith(own)}
        own_settings = getattr(replace(drivers.settings(options.driver), known), options.driver)
    enclaves = permissions.enclaves(options.namespace, options.robots, options.driver, own_settings)
    if options.format == "policy":
        text = permissions.policy(enclaves)
    elif options.format == "permissions":
        now = datetime.now(timezone.utc)
        text = permissions.permissions(enclaves, options.domain, now, now + timedelta(days=options.days))
    else:
        text = interface_tables()
    if not options.output:
        print(text, end="")
        return 0
    try:
        Path(options.output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{options.output}: cannot be written: {error.strerror}") from None
    return 0


def _list(options: argparse.Namespace) -> int:
    names = options.module.names()
    rows: dict[str, dict[str, object]] = {}
    for name in names:
        try:
            rows[name] = _task_row(name) if options.module is tasks else {"description": drivers.describe(name)}
        except ValueError as error:  # of another package: the others are there all the same
            rows[name] = {"description": f"broken: {error}"}
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        for name, row in rows.items():
            print(f"{name:26s} {row['description']}")
    return 0


def _task_row(name: str) -> dict[str, object]:
    task = tasks.make(name)
    return {
        "description": task.description,
        "control_dt": task.control_dt,
        "degrees_of_freedom": int(task.model.nv),
        "actuators": int(task.model.nu),
        "observations": task.observation_spec.size,
    }


def _add_bench(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        help="measure: planning (in learned models: ensemble, loop), a run of POLO, a session, bridge, fleet, delays, "
        "learning offline",
    )
    what = ["planning", "ensemble", "loop", "polo", "session", "latency", "bridge", "fleet", "offline"]
    parser.add_argument("what", choices=what, help="what to measure")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument(
        "--repeats", type=int, default=30, help="planning, ensemble, loop, offline: rounds (default: 30)"
    )
    parser.add_argument("--steps", type=int, default=320, help="polo: control periods of each run (default: 320)")
    parser.add_argument(
        "--duration", type=float, default=60.0, help="session, bridge, fleet: robot time, s (default: 60)"
    )
    parser.add_argument("--robots", type=int, default=8, help="fleet: how many, up to 8 (default: 8)")
    parser.add_argument("--seeds", type=int, default=3, help="latency: runs of each kind (default: 3)")
    parser.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> int:
    if options.what == "planning":
        from polo_ros.bench.planning import bench_planning

        rows = bench_planning(options.repeats)
    elif options.what == "ensemble":
        from polo_ros.bench.ensemble import bench_ensemble

        rows = bench_ensemble(options.repeats)
    elif options.what == "loop":
        from polo_ros.bench.loop import bench_loop

        rows = bench_loop(options.repeats)
    elif options.what == "offline":
        from polo_ros.bench.offline import bench_offline

        rows = bench_offline(options.repeats)
    elif options.what == "polo":
        from polo_ros.bench.polo import bench_polo

        rows = bench_polo(options.steps)
    elif options.what == "latency":
        from polo_ros.bench.latency import bench_latency

        rows = bench_latency(options.seeds)
    elif options.what == "bridge":
        from polo_ros.bench.bridge import bench_bridge

        rows = [bench_bridge(options.duration)]
    elif options.what == "fleet":
        from polo_ros.bench.fleet import bench_fleet, format_fleet

        rows = [bench_fleet(options.robots, options.duration)]
        if not options.json:
            print(format_fleet(rows[0]))
            return 0
    else:
        from polo_ros.bench.session import bench_session

        rows = [bench_session(options.duration)]
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        for row in rows:
            print("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    return 0


def _add_faults(commands: Any) -> None:
    parser = commands.add_parser("faults", help="break a session in every way there is, and judge what comes of it")
    parser.add_argument("--cases", type=int, default=560, help="number of cases (default: 560)")
    parser.add_argument("--seed", type=int, default=0, help="of the random ones (default: 0)")
    parser.add_argument("--only", default="", metavar="NAME", help="the fixed cases whose group or name contains it")
    parser.add_argument("--list", action="store_true", help="list the cases instead of running them")
    parser.add_argument("--folder", default="", help="keep all evidence there (default: it is thrown away)")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.set_defaults(run=_faults)


def _faults(options: argparse.Namespace) -> int:
    from polo_ros.faults import campaign, report
    from polo_ros.faults.cases import chosen

    cases = chosen(options.cases, options.seed, options.only)
    if not cases:
        raise ValueError(f"no case matches --only '{options.only}' --cases {options.cases}; --list shows them")
    if options.list:
        for case in cases:
            print(f"{case.group:14s} {case.name}")
        return 0

    def silent(_: str) -> None:
        return

    def progress(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    began = time.monotonic()
    keep = Path(options.folder).resolve() if options.folder else None
    outcomes = campaign.run(cases, keep, silent if options.json else lambda text: print(text, flush=True), progress)
    figures = report.as_json(outcomes, options.seed, time.monotonic() - began)
    if options.json:
        print(report.as_text(figures))
    else:
        print(report.table(outcomes))
        words = ("cases", "violations", "worst_stop_s", "stop_limit_s", "lost", "seed", "duration_s")
        print("  ".join(f"{word} {figures[word]}" for word in words))
    return 1 if figures["violations"] else 0


def _add_reproduce(commands: Any) -> None:
    parser = commands.add_parser("reproduce", help="run an experiment of a paper and say which of its claims hold")
    parser.add_argument("name", nargs="?", default="", help="experiment; without one, they are listed")
    parser.add_argument("--seeds", type=int, default=0, help="number of seeds; 0: the experiment's own")
    parser.add_argument("--budget", choices=["full", "small"], default="full", help="small: minutes, to see it work")
    parser.add_argument("--jobs", type=int, default=0, help="trials at a time; 0: one a core")
    parser.add_argument("--folder", default="", help="where it works (default: runs/reproduce/NAME-BUDGET)")
    parser.add_argument(
        "--recorded",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="results.json of an earlier run: what it has is not run again, where settings and versions agree",
    )
    parser.add_argument("--json", action="store_true", help="print results.json instead of the claims")
    parser.set_defaults(run=_reproduce)


def _reproduce(options: argparse.Namespace) -> int:
    from polo_ros.experiments import registry
    from polo_ros.experiments.runner import reproduce

    if not options.name:
        for name in registry.names():
            experiment = registry.get(name)
            print(f"{name:18s} {experiment.paper:18s} {experiment.question}")
        return 0
    experiment = registry.get(options.name)
    folder = Path(options.folder or f"runs/reproduce/{experiment.name}-{options.budget}")
    results = reproduce(
        experiment,
        budget=options.budget,
        seeds=options.seeds or experiment.default_seeds,
        folder=folder,
        store=folder.parent / "trials",
        jobs=options.jobs,
        recorded=options.recorded,
        report=Progress(sys.stderr),
    )
    if options.json:
        print(json.dumps(results, indent=2))
        return 0
    for claim in results["claims"]:
        print(f"{'holds' if claim['holds'] else 'does not hold':14s} {claim['claim']}")
        for figure, value in claim["figures"].items():
            print(f"{'':14s}   {figure}: {_shown(value)}")
    files = ", ".join(f"{folder}/{name}" for name in ("results.json", "figure.png", *results["files"]))
    print(f"{results['cpu_core_hours']:.2f} core-hours; {files}")
    return 0


class Progress:
    """Lines of progress on a stream: each trial's own line now and then, everything else at once."""

    PERIOD = 10.0  # s between two lines of one trial that is under way

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last: dict[str, float] = {}

    def __call__(self, line: str) -> None:
        """Print `line`, or leave it out."""
        name, _, words = line.partition(":")
        now = time.monotonic()
        if "%" in words and now - self._last.get(name, 0.0) < self.PERIOD:
            return
        if words.strip() == "starts":
            return
        self._last[name] = now
        print(line, file=self._stream, flush=True)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list):
        return ", ".join(_shown(inner) for inner in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(inner)}" for key, inner in value.items())
    return str(value)


def _print(figures: dict[str, object], as_json: bool) -> None:
    if as_json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:20s} {_shown(value) if isinstance(value, dict) else value}")
