"""Runs an experiment's trials, each in a process of its own, on all cores; goes on where it was stopped."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from polo_ros import __version__
from polo_ros.experiments.base import BUDGETS, Claim, Experiment, Outcomes, Trial, Workplace, plain
from polo_ros.experiments.nursery import Nursery, hatch
from polo_ros.files import replacing, write_whole
from polo_ros.process import prepare

POLL = 0.2  # s


class TrialFailed(RuntimeError):
    """A trial ended without an outcome; the message holds the end of what it printed."""


class Busy(RuntimeError):
    """Another process works on the same trial."""


class Orphaned(RuntimeError):
    """The process that waited for a trial was killed: nobody does any more."""


def reproduce(
    experiment: Experiment,
    *,
    budget: str,
    seeds: int,
    folder: Path,
    store: Path,
    jobs: int = 0,
    recorded: Sequence[Path] = (),
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Run what is missing of an experiment, judge its claims and draw its figure.

    Args:
        experiment: What to run.
        budget: `full` or `small`.
        seeds: Number of seeds.
        folder: Gets `results.json`, `figure.png` and the experiment's extras.
        store: Folder of trials. What is there already, of this or another experiment, is used as far as job,
            settings and versions agree.
        jobs: Trials at a time; 0: one a core.
        recorded: Files that earlier runs have left as `results.json`. Outcomes that they hold are used as those in the
            store, but where a trial that is yet to be run needs files.
        report: Gets lines of progress.

    Returns:
        What results.json holds.

    Raises:
        ValueError: Unknown budget, no seed, a negative number of jobs; what is `recorded` are no results, or the
            experiment reads its trials' files, which no record has.
        TrialFailed: A trial failed; the others' outcomes are kept.
    """
    if budget not in BUDGETS:
        raise ValueError(f"unknown budget '{budget}'; budgets: {', '.join(BUDGETS)}")
    if seeds < 1:
        raise ValueError(f"--seeds {seeds} is below its minimum 1")
    if jobs < 0:
        raise ValueError(f"--jobs {jobs} is below its minimum 0")
    if recorded and experiment.reads_files:
        raise ValueError(f"{experiment.name} reads files that its trials leave; recorded results have numbers alone")
    trials = experiment.trials(budget, seeds)
    queue = _Trials(trials, store, jobs or len(os.sched_getaffinity(0)), report)
    for path in recorded:
        queue.take(path)
    queue.run()
    outcomes = queue.outcomes()
    claims = experiment.claims(outcomes)
    extras = experiment.extras(outcomes)
    results = {
        "name": experiment.name,
        "paper": experiment.paper,
        "question": experiment.question,
        "budget": budget,
        "seeds": seeds,
        "versions": versions(),
        "cpu_core_hours": sum(outcomes.cpu_s.values()) / 3600.0,
        "claims": [plain({"claim": c.claim, "holds": bool(c.holds), "figures": c.figures}) for c in claims],
        "files": list(extras),
        "trials": [
            {
                "name": trial.name,
                "job": trial.job,
                "settings": plain(trial.settings),
                "facts": plain(trial.facts),
                "cpu_s": outcomes.cpu_s[trial.name],
                "numbers": outcomes.numbers[trial.name],
            }
            for trial in trials
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "results.json", json.dumps(results, indent=1) + "\n")
    for name, extra in extras.items():
        write_whole(folder / name, extra if isinstance(extra, str) else extra.read_bytes())
    draw(experiment, outcomes, claims, folder / "figure.png")
    return results


def versions() -> dict[str, str]:
    """What the numbers depend on beside the settings."""
    return {
        "polo_ros": __version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "mujoco": mujoco.__version__,
        "numpy": np.__version__,
        "torch": version("torch"),  # which takes seconds to import
    }


def draw(experiment: Experiment, outcomes: Outcomes, claims: list[Claim], path: Path) -> None:
    """Draw an experiment's figure into a PNG."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 8, "axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True}):
        figure = Figure(figsize=(9, 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        experiment.draw(outcomes, figure)
        held = sum(claim.holds for claim in claims)
        figure.suptitle(f"{experiment.name} ({experiment.paper}): {held} of {len(claims)} claims hold")
        with replacing(path) as partial:
            figure.savefig(partial, dpi=110, format="png")


@dataclass
class _Running:
    trial: Trial
    began: float


class _Trials:
    """Starts what can be started, collects what has ended."""

    def __init__(self, trials: list[Trial], store: Path, jobs: int, report: Callable[[str], None]) -> None:
        names = [trial.name for trial in trials]
        if len(set(names)) != len(names):
            raise ValueError("two trials have one name")
        self._trials = {trial.name: trial for trial in trials}
        self._store = store
        self._jobs = jobs
        self._report = report
        self._fingerprints: dict[str, str] = {}
        self._recorded: dict[str, Mapping[str, Any]] = {}  # outcomes without files, by name of trial
        self._running: dict[str, _Running] = {}
        self._done: set[str] = set()

    def take(self, path: Path) -> None:
        """Use the outcomes of a results.json as far as job, settings and versions agree, of what a trial needs too.

        Raises:
            ValueError: It is none.
        """
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
            kept = {trial["name"]: trial for trial in results["trials"]}
            facts = {name: [trial["job"], trial["settings"]] for name, trial in kept.items()}
            outcomes = {name: {"cpu_s": trial["cpu_s"], "numbers": trial["numbers"]} for name, trial in kept.items()}
            others = {name: found for name, found in results["versions"].items() if found != versions().get(name)}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is no results.json of `polo reproduce`: {error!r}") from None
        if others:
            self._report(f"{path} is of other versions and not used: {others}")
            return

        def agrees(name: str) -> bool:
            trial = self._trials[name]
            return facts.get(name) == [trial.job, plain(trial.settings)] and all(map(agrees, trial.needs))

        agreeing = {name: outcomes[name] for name in self._trials if agrees(name)}
        self._report(f"{path} has {len(agreeing)} of {len(self._trials)} trials")
        self._recorded.update(agreeing)

    def run(self) -> None:
        """Until every trial has an outcome."""
        kept = {name for name in self._trials if self._is_done(name)}
        # What reads files of another trial needs more of it than a record has.
        missing = [name for name in self._trials if name not in kept and name not in self._recorded]
        for name in missing:
            for need in self._trials[name].needs:
                if need in self._recorded and need not in kept:
                    del self._recorded[need]
                    missing.append(need)
        self._done = kept | self._recorded.keys()
        if kept:
            self._report(f"{len(kept)} of {len(self._trials)} trials are there already")
        if len(self._done) < len(self._trials):
            self._store.mkdir(parents=True, exist_ok=True)
            with Nursery("polo_ros.experiments.runner", self._store) as nursery:
                while len(self._done) < len(self._trials):
                    self._start(nursery)
                    self._collect(nursery.ended(POLL))

    def outcomes(self) -> Outcomes:
        """What all trials have found."""
        folders = {name: self.folder(name) for name in self._trials if self._is_done(name)}
        texts = {name: (folder / "outcome.json").read_text(encoding="utf-8") for name, folder in folders.items()}
        found = {**self._recorded, **{name: json.loads(text) for name, text in texts.items()}}
        return Outcomes(
            tuple(self._trials.values()),
            {name: found[name]["numbers"] for name in self._trials},
            folders,
            {name: found[name]["cpu_s"] for name in self._trials},
        )

    def folder(self, name: str) -> Path:
        """Where a trial works and leaves its outcome."""
        return self._store / f"{name}-{self._fingerprint(name)}"

    def _fingerprint(self, name: str) -> str:
        """Changes with anything that the outcome depends on, but for the code between two versions."""
        if name not in self._fingerprints:
            trial = self._trials[name]
            needs = {need: self._fingerprint(need) for need in trial.needs}
            facts = [trial.job, plain(trial.settings), sorted(needs.values()), versions()]
            self._fingerprints[name] = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        return self._fingerprints[name]

    def _is_done(self, name: str) -> bool:
        return _has_outcome(self.folder(name))

    def _start(self, nursery: Nursery) -> None:
        ready = [
            trial
            for name, trial in self._trials.items()
            if name not in self._done and name not in self._running and self._done.issuperset(trial.needs)
        ]
        # Those that want the machine to themselves come last.
        ready.sort(key=lambda trial: (trial.exclusive, -self._weight(trial.name)))
        for trial in ready[: self._jobs - len(self._running)]:
            if self._running and (trial.exclusive or any(r.trial.exclusive for r in self._running.values())):
                break
            folder = self.folder(trial.name)
            folder.mkdir(parents=True, exist_ok=True)
            order = {
                "job": trial.job,
                "settings": plain(trial.settings),
                "needs": {need: str(self.folder(need).resolve()) for need in trial.needs},
            }
            write_whole(folder / "order.json", json.dumps(order, indent=1) + "\n")
            nursery.start(folder.resolve(), _job(trial.job)[0])
            self._running[trial.name] = _Running(trial, time.monotonic())

    def _weight(self, name: str) -> float:
        """Expected time from the start of a trial to the end of the longest chain that waits for it."""
        waiting = [self._weight(other.name) for other in self._trials.values() if name in other.needs]
        return self._trials[name].cost + max(waiting, default=0.0)

    def _collect(self, ended: dict[Path, int]) -> None:
        for name, running in list(self._running.items()):
            code = ended.get(self.folder(name).resolve())
            if code is None:
                self._report(f"{len(self._done)}/{len(self._trials)} {name}: {self._said(name)}")
                continue
            del self._running[name]
            if code or not self._is_done(name):
                log = (self.folder(name) / "log").read_text(encoding="utf-8", errors="replace")
                raise TrialFailed(f"trial '{name}' failed (exit code {code}):\n{log[-3000:]}")
            self._done.add(name)
            took = time.monotonic() - running.began
            self._report(f"{len(self._done)}/{len(self._trials)} {name}: done in {took:.0f} s")

    def _said(self, name: str) -> str:
        try:
            return (self.folder(name) / "progress").read_text(encoding="utf-8")
        except FileNotFoundError:
            return "starts"


def work(folder: Path) -> None:
    """Do the trial that `folder`/order.json asks for, and write `folder`/outcome.json, unless that is there.

    Raises:
        Busy: Another process works in `folder`.
    """
    with _alone(folder):
        if not _has_outcome(folder):
            _work(folder)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep others out of a trial's folder; the system lets them in again however this process ends."""
    with open(folder / "lock", "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise Busy(f"process {lock.read() or '?'} already works on this trial, in {folder}") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _has_outcome(folder: Path) -> bool:
    try:
        json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return True


def _work(folder: Path) -> None:
    prepare()
    order = json.loads((folder / "order.json").read_text(encoding="utf-8"))
    module, function = _job(order["job"])
    job = getattr(importlib.import_module(module), function)

    parent = os.getppid()

    def progress(done: float, words: str) -> None:
        if os.getppid() != parent:
            raise Orphaned("the process that started this trial is gone")
        write_whole(folder / "progress", f"{100 * done:3.0f} %  {words}")
        # What an interrupted trial has used counts too, once it goes on.
        write_whole(folder / "cpu_s", f"{spent + _cpu_s():.3f}")

    try:
        spent = float((folder / "cpu_s").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        spent = 0.0
    workplace = Workplace(folder, {name: Path(path) for name, path in order["needs"].items()}, progress)
    numbers = job(order["settings"], workplace)
    outcome = {
        "cpu_s": spent + _cpu_s(),
        "numbers": plain(numbers),
    }
    write_whole(folder / "outcome.json", json.dumps(outcome, indent=1) + "\n")


def _job(job: str) -> tuple[str, str]:
    """Module and function of a trial's job."""
    module, _, function = job.partition(":")
    return module if "." in module else f"polo_ros.experiments.{module}", function


def _cpu_s() -> float:
    """Processor time of this process and of those that it has started and seen end, s."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    prepare()
    try:
        work(hatch(int(sys.argv[1])))
    except (Busy, Orphaned) as error:
        sys.exit(str(error))
