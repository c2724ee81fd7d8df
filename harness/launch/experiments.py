"""NEXP runs, one after the other, each watched and all checked, whatever starts their processes.

A run that is cut off (a rank was killed, the time of its job is over) goes on from its checkpoint in the job's next
allocation where there is one, and is aborted where there is none.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import click

from benchmark.checkpoints import complete_in, folder_of
from benchmark.clock import SystemClock
from benchmark.config import NAMES, Resolved, RunConfig, overrides
from benchmark.eventlog import EventLog
from benchmark.files import beside
from benchmark.run_record import Seen
from compliance.formats import text
from harness.launch.hang import Silence
from harness.launch.runs import CUT_OFF, RUNNING, RunSet
from harness.launch.standing import Standing, standing
from harness.launch.telemetry import sampled, sampler
from harness.preflight import Plan, report_on, warnings
from harness.verdict import conclude
from report.follower import LogFollower
from report.screen import Onlooker, characters, screen
from report.watch import View

POLL_S = 0.2

Process = subprocess.Popen[bytes]


class CannotStart(RuntimeError):
    """Something that every run needs is missing."""


class Launcher(Protocol):
    """What starts the processes of a run, on this machine or on the nodes of a job.

    A context manager around all runs, which leaves nothing behind.
    """

    def __enter__(self) -> object: ...
    def __exit__(self, *error: object) -> None: ...

    @property
    def job(self) -> dict[str, str]:
        """Where this runs, for run.json; empty if there is nothing to say. `id` tells jobs apart."""
        ...

    def prepare(self) -> Seen:
        """Make sure that runs can start; returns what they will be trained on and with.

        Raises:
            CannotStart
        """
        ...

    def clear_caches(self) -> None:
        """Called before a run starts.

        Raises:
            CannotStart
        """

    def command(self) -> list[str]:
        """Starts all ranks of one run and ends with the status of the worst."""
        ...

    def variables(self) -> dict[str, str]:
        """What the command has to know beside the configuration."""
        ...

    def send(self, process: Process, number: int) -> None:
        """Pass a signal on to the ranks."""

    def stacks(self, console: Path) -> list[str]:
        """Which rank hangs, and where, a line each; empty where that cannot be told."""
        ...

    def kill(self, process: Process) -> None:
        """End ranks that may no longer listen."""

    def on_each_node(self, command: Sequence[str]) -> list[str]:
        """Starts a command once a node, outside any container, and hands on the end of standard input."""
        ...

    def is_requeued(self) -> bool:
        """Asked after a SIGTERM: whether this job will be run again, so that what it leaves is no end."""
        ...

    def requeue(self) -> bool:
        """Ask for another allocation, which this process does not outlive; False if there is none to be had."""
        ...


@dataclass
class Received:
    """The signals that this process was sent."""

    stop: int = 0
    """SIGTERM or SIGINT."""
    save: bool = False
    """SIGUSR1: the time of the job is nearly over."""
    pending: list[int] = field(default_factory=list)
    """To be passed on to the run."""
    running: bool = False
    """Whether there is one."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How the processes of a run ended."""

    status: int
    """As a shell gives it: 128 + n for signal n."""
    standing: Standing
    cause: str = ""
    """Why it is no success."""
    cut_off: bool = False
    """The run came to no end of its own: it hung, was killed, failed on its way, or was told to save and stop."""


def run_experiments(resolved: Resolved, launcher: Launcher) -> int:
    """Run, check and summarise; returns the exit status.

    0 a valid result, 1 not, 2 it could not start, 75 it is to be continued, 128 + n signal n ended it.

    Raises:
        ConfigError: the results folder cannot be made, or holds other runs.
    """
    config = resolved.config
    print("".join(f"{line}\n" for line in overrides(resolved)), end="", flush=True)
    if not allowed(config):
        return 2
    with listening() as received, launcher:
        try:
            runs = RunSet.open(resolved, launcher.prepare(), launcher.job)
            if unknown := runs.recorded.code.get("error"):
                print(f"revision  not recorded: {unknown}", flush=True)
            endings = run_all(config, runs, launcher, received)
        except CannotStart as error:
            print(f"error: {error}", flush=True)
            return 2
        if received.stop and launcher.is_requeued():
            return os.EX_TEMPFAIL
        if runs.unfinished() and not received.stop and launcher.requeue():
            return os.EX_TEMPFAIL
    for index, ending in endings.items():
        close_log(runs.result(index), ending)
    if received.save and runs.unfinished():
        print(f"to be continued: set RESUME={runs.folder}", flush=True)
        return os.EX_TEMPFAIL
    statuses = {one.result: int(one.status != "success") for one in runs.experiments}
    for index, ending in endings.items():
        log = runs.experiments[index].result
        statuses[log] = max(statuses[log], ending.status)
    causes = [f"run {index}: {ending.cause}" for index, ending in endings.items() if ending.cause]
    return conclude(config, runs.folder, statuses, causes, interrupted=bool(received.stop))


def run_all(config: RunConfig, runs: RunSet, launcher: Launcher, received: Received) -> dict[int, Ending]:
    """The runs that are not over, in order, as far as they come; how each ended, by its number."""
    endings: dict[int, Ending] = {}
    for index in runs.unfinished():
        if received.save or received.stop:
            break
        endings[index] = ending = run_experiment(config, runs, index, launcher, received)
        if ending.cut_off:
            break
    return endings


def run_experiment(config: RunConfig, runs: RunSet, index: int, launcher: Launcher, received: Received) -> Ending:
    """One of the runs, from where it stands."""
    seed, console = runs.experiments[index].seed, runs.folder / f"console_{index}.log"
    run = config.for_experiment(seed=seed, result_file=runs.result(index))
    print(f"run {index + 1} of {config.job.experiments}, seed {seed}", flush=True)
    if not has_checkpoint(run):
        runs.update(index, lost=set_aside(runs.result(index)))
        launcher.clear_caches()
    runs.update(index, status=RUNNING)
    ending = run_once(run, console, launcher, received)
    if ending.cause:
        print(f"run {index} ended with status {ending.status}: {ending.cause}", flush=True)
        print(f"console   {console}", flush=True)
    if received.stop and launcher.is_requeued():
        return ending
    if ending.cut_off and run.job.save_checkpoint is not None:
        runs.update(index, status=CUT_OFF)
    else:
        said = ending.standing.status or f"ended with status {ending.status} and no run_stop"
        runs.update(index, status=said, minutes=ending.standing.minutes)
    return ending


def run_once(config: RunConfig, console: Path, launcher: Launcher, received: Received) -> Ending:
    """The processes of one run, from their start to their end."""
    assert config.process.result_file is not None
    follower = LogFollower(config.process.result_file, config.rules.ruleset)
    # Of a run that goes on, what its console and log say is of the processes before these.
    said_before = console.stat().st_size if console.exists() else 0
    follower.poll()
    before, heard = standing(follower.run), False
    view = View(blocks=characters())
    silence = Silence(limit=config.job.hang_monitor_timeout * 60, since=time.monotonic())
    hang: list[str] = []
    with (
        console.open("ab") as output,
        Onlooker(screen()) as shown,
        telemetry(config, launcher),
        started(config, launcher, output) as process,
    ):
        received.running = running = True
        while running:
            running = process.poll() is None
            if follower.poll():
                heard = True
                silence.broken(time.monotonic())
                shown.show(follower.run, view)
            while running and received.pending:
                launcher.send(process, received.pending.pop())
            if running and not hang and silence.too_long(time.monotonic()):
                hang = end_hang(launcher, process, console, silence.limit)
            if running:
                time.sleep(POLL_S)
        received.running = False
        if heard:
            shown.show(follower.run, view, last=True)
    # Where these processes logged nothing, the log is as those before had left it, and says nothing of them.
    now = standing(follower.run) if heard else replace(before, status="", reason="", error="", stopped_ms=None)
    ending = how_it_ended(process.returncode, now, last_words(console, said_before), hang)
    return ending if heard else replace(ending, standing=before)


def end_hang(launcher: Launcher, process: Process, console: Path, limit: float) -> list[str]:
    """End the ranks of a run that hangs; which of them it was, and where, a line each."""
    hang = [f"no line in the log for {limit:g} s", *launcher.stacks(console)]
    print("\n".join(f"hang      {line}" for line in hang), flush=True)
    launcher.kill(process)
    return hang


def how_it_ended(returncode: int, standing: Standing, words: str, hang: Sequence[str]) -> Ending:
    """By the processes' status (-n for signal n), log and last words, and where they hung."""
    status = returncode if returncode >= 0 else 128 - returncode
    said = [standing.reason, words if standing.error or not standing.reason else ""]
    cause = "; ".join(hang[:2] or filter(None, said)) if status else ""
    cut_off = bool(hang) or was_cut_off(status, standing, words)
    return Ending(status=status, standing=standing, cause=cause, cut_off=cut_off)


def telemetry(config: RunConfig, launcher: Launcher) -> AbstractContextManager[None]:
    """Samples of every node, where they are asked for."""
    if not config.job.telemetry_interval or config.process.result_file is None:
        return nullcontext()
    return sampled(launcher.on_each_node(sampler(config.process.result_file, config.job.telemetry_interval)))


@contextmanager
def started(config: RunConfig, launcher: Launcher, output: Any) -> Iterator[Process]:
    """A run's processes, which never outlive the block."""
    process = subprocess.Popen(
        launcher.command(),
        env=child_environment(config) | launcher.variables(),
        stdout=output,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        # Ctrl-C reaches every process of a terminal's group; it should reach the ranks once, through here.
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            launcher.kill(process)
            process.wait()


@contextmanager
def listening() -> Iterator[Received]:
    """Within the block, signals are noted for the run; where there is none, one that asks to stop ends this process."""
    received = Received()

    def stop(number: int, _frame: FrameType | None) -> None:
        if not received.running:
            raise SystemExit(128 + number)
        if not received.stop:
            received.stop = number
            received.pending.append(number)

    def save(number: int, _frame: FrameType | None) -> None:
        if not received.save:
            received.save = True
            received.pending.append(number)

    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGUSR1: save}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def was_cut_off(status: int, standing: Standing, words: str) -> bool:
    """Whether a run ended on its way: after its clock had started, or by a signal that nobody here had sent.

    srun ends the other ranks when one fails, so its own status tells little; `words` are the run's last ones.
    """
    if status in (0, os.EX_TEMPFAIL):
        return status == os.EX_TEMPFAIL
    if standing.status == "success" or (standing.status == "aborted" and not standing.error):
        return False
    return standing.started_ms is not None or "Exited with exit code" not in words


def has_checkpoint(config: RunConfig) -> bool:
    """Whether the run can go on where it was saved."""
    folder = folder_of(config)
    return folder is not None and bool(complete_in(folder))


def set_aside(log: Path) -> int:
    """Rename the log of a run that was cut off before its first checkpoint and starts again, with the same seed.

    Returns:
        How many logs of this run have been set aside by now.
    """
    if log.exists():
        log.rename(beside(log, "lost"))
    return sum(1 for _ in log.parent.glob(f"{log.name}.lost-*"))


def close_log(log: Path, ending: Ending) -> None:
    """Log the run_stop that a run which was killed could not log itself."""
    standing = ending.standing
    if standing.started_ms is None or standing.stopped_ms is not None:
        return
    events = EventLog(log, SystemClock())
    events.end("run_stop", status="aborted", samples_count=standing.samples, reason=ending.cause)
    events.event("train_samples", standing.samples)


def last_words(console: Path, start: int = 0) -> str:
    """What a run's processes said last, from byte `start` on, or srun's complaint about the rank that ended first."""
    lines = console.read_bytes()[start:].decode(errors="replace").strip().splitlines()
    complaints = [line for line in lines if line.startswith("srun: error: ") and "task" in line]
    return (sorted(complaints, key=_after_the_cause)[:1] or lines[-1:] or ["it printed nothing"])[0]


def _after_the_cause(complaint: str) -> int:
    """0 for a rank that was killed, 1 for one that failed, maybe for that, 2 for one that was ended for either.

    srun reports them as they come.
    """
    if complaint.endswith(("Terminated", "Exited with exit code 143")):
        return 2
    return int("Exited with exit code" in complaint)


def allowed(config: RunConfig) -> bool:
    """Whether the rules allow what is about to run; what they say of it is printed."""
    report = report_on(Plan(path=None, possible=config))
    click.echo("\n".join([*warnings(config), text(report, "configuration")]))
    return report.passed


def child_environment(config: RunConfig, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a process that reads `config` back: of our variables exactly its own, and all others."""
    others = {name: value for name, value in environment.items() if name not in NAMES}
    return others | config.to_environment()
