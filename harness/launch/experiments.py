"""NEXP runs, one after the other, each watched and all checked, whatever starts their processes.

A run that is cut off (a rank was killed, the time of its job is over) goes on from its checkpoint in the job's next
allocation where there is one, and is aborted where there is none.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import IO, Protocol

import click

from benchmark.checkpoints import complete_in, folder_of
from benchmark.clock import SystemClock
from benchmark.config import NAMES, Resolved, RunConfig, overrides
from benchmark.console import PROGRESS
from benchmark.eventlog import EventLog
from benchmark.files import beside, hold, why_unwritable
from benchmark.processes import adopting, ending_with_this
from benchmark.refusal import Unwritable
from benchmark.run_record import KILLED, RUNNING, Seen
from compliance.check import check_paths
from compliance.formats import text
from harness.early import say_stopping
from harness.launch.hang import END_S, Awaited, Patience
from harness.launch.runs import CUT_OFF, RunSet
from harness.launch.standing import Standing, standing
from harness.launch.telemetry import sampled, sampler
from harness.pace import expected
from harness.preflight import Plan, report_on, warnings
from harness.verdict import conclude
from report.follower import LogFollower
from report.screen import Onlooker, characters, screen
from report.watch import View, in_set, status

POLL_S = 0.2

_ALONE = View()

REFUSED = 2
"""Status of a rank that could not start, go on, or write its log."""

_CHUNK = 1 << 16

_ERROR = re.compile(r"(?:\s*(\d+): ?)?error: (.*)")
"""A line with which a rank says why it ends; srun puts the rank's number before it."""

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

    def missing(self) -> list[str]:
        """A line for each thing that this machine lacks for the runs; empty where others train."""
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

    def gone(self, process: Process) -> bool:
        """Make sure that no rank is left of a process that has ended; False where that cannot be told."""
        ...

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
    """SIGTERM, SIGINT or SIGHUP."""
    again: bool = False
    """A second one: nothing is waited for."""
    save: bool = False
    """SIGUSR1: the time of the job is nearly over."""
    pending: list[int] = field(default_factory=list)
    """To be passed on to the run."""
    running: bool = False
    """Whether there is one."""

    @contextmanager
    def for_a_run(self) -> Iterator[None]:
        """Within the block, signals are the run's to take."""
        self.running = True
        try:
            yield
        finally:
            self.running = False


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
    gone: bool = True
    """Whether it is certain that nobody writes to its log any more."""
    could_not: bool = False
    """It could not be started, or what it says could not be written: this says nothing of a result."""


def run_experiments(resolved: Resolved, launcher: Launcher) -> int:
    """Run, check and summarise; returns the exit status.

    0 a valid result, 1 not, 2 it could not start or be written, 75 it is to be continued, 128 + n signal n ended it.

    Raises:
        ConfigError: the results folder cannot be made, or holds other runs.
    """
    with listening() as received:
        return _run_experiments(resolved, launcher, received)


def _run_experiments(resolved: Resolved, launcher: Launcher, received: Received) -> int:
    config = resolved.config
    print("".join(f"{line}\n" for line in overrides(resolved)), end="", flush=True)
    may, missing = allowed(config, in_batch=bool(launcher.job)), launcher.missing()
    print("".join(f"missing   {line}\n" for line in missing), end="", flush=True)
    if missing or not may:
        return 2
    with launcher:
        try:
            runs = RunSet.open(resolved, launcher.prepare(), launcher.job)
            if unknown := runs.recorded.code.get("error"):
                print(f"revision  not recorded: {unknown}", flush=True)
            endings = run_all(config, runs, launcher, received)
        except (CannotStart, Unwritable) as error:
            print(f"error: {error}", flush=True)
            return 2
        if received.stop and launcher.is_requeued():
            return os.EX_TEMPFAIL
        could_not = any(ending.could_not for ending in endings.values())
        if runs.unfinished() and not received.stop and not could_not and launcher.requeue():
            return os.EX_TEMPFAIL
    return finish(config, runs, endings, received)


def finish(config: RunConfig, runs: RunSet, endings: Mapping[int, Ending], received: Received) -> int:
    """Close the logs of runs that could not, and judge all of them; returns the exit status."""
    unwritten = []
    for index, ending in endings.items():
        try:
            close_log(runs.result(index), ending)
        except Unwritable as error:
            unwritten.append(str(error))
    stopped = 128 + received.stop if received.stop else 0
    if received.again:
        return stopped
    if received.save and runs.unfinished():
        print(f"to be continued: set RESUME={runs.folder}", flush=True)
        return os.EX_TEMPFAIL
    statuses = {one.result: 0 if one.status == "success" else stopped or 1 for one in runs.experiments}
    for index, ending in endings.items():
        log = runs.experiments[index].result
        statuses[log] = max(statuses[log], ending.status)
    causes = [f"run {index}: {ending.cause}" for index, ending in endings.items() if ending.cause]
    status = conclude(config, runs.folder, statuses, [*causes, *unwritten], interrupted=bool(received.stop))
    could_not = bool(unwritten) or any(ending.could_not for ending in endings.values())
    return 2 if could_not and not stopped else status


def run_all(config: RunConfig, runs: RunSet, launcher: Launcher, received: Received) -> dict[int, Ending]:
    """The runs that are not over, in order, as far as they come; how each ended, by its number."""
    endings: dict[int, Ending] = {}
    for index in runs.unfinished():
        if received.save or received.stop:
            break
        endings[index] = ending = run_experiment(config, runs, index, launcher, received)
        if ending.cut_off or ending.could_not:
            break
    return endings


def open_console(path: Path) -> IO[bytes]:
    """Open what the processes of a run print to.

    Raises:
        Unwritable
    """
    try:
        return path.open("ab")
    except OSError as error:
        raise Unwritable(path, error) from None


def run_experiment(config: RunConfig, runs: RunSet, index: int, launcher: Launcher, received: Received) -> Ending:
    """One of the runs, from where it stands.

    Raises:
        CannotStart: its processes are still on, or it cannot be started.
    """
    seed, log = runs.experiments[index].seed, runs.result(index)
    run = config.for_experiment(seed=seed, result_file=log)
    print(f"run {index + 1} of {config.job.experiments}, seed {seed}", flush=True)
    with open_console(runs.console(index)) as output:
        # Held by whatever is started here, too, so that it is free when nothing of the run is left.
        if not hold(output) and not runs.requeued:
            raise CannotStart(
                f"run {index} of {runs.folder} is on: a process has {output.name} open; where its node is dead and "
                "there is none, rename that file"
            )
        if runs.experiments[index].status == KILLED:
            print(f"run {index} was killed: no process of it is left", flush=True)
        before = stands(log, config)
        if has_succeeded(log, before, config):
            print(f"run {index} had reached its target", flush=True)
            runs.update(index, status=before.status, minutes=before.minutes)
            return Ending(status=0, standing=before)
        if not has_checkpoint(run):
            runs.update(index, lost=set_aside(log))
            launcher.clear_caches()
        with received.for_a_run():
            runs.update(index, status=RUNNING)
            ending = run_once(run, output, launcher, received, view_of(config, runs, index))
            if ending.status and (full := why_unwritable(runs.folder)):
                ending = replace(ending, cause=f"LOGDIR={config.job.log_dir}: {full}", could_not=True)
            if ending.cause:
                print(f"run {index} ended with status {ending.status}: {ending.cause}", flush=True)
                print(f"console   {output.name}", flush=True)
            if not (received.stop and launcher.is_requeued()):
                write_down(config, runs, index, ending)
    return ending


def write_down(config: RunConfig, runs: RunSet, index: int, ending: Ending) -> None:
    """Record how a run has ended, in run.json; a line where that cannot be written."""
    try:
        if ending.cut_off and config.job.save_checkpoint is not None:
            runs.update(index, status=CUT_OFF)
        else:
            said = ending.standing.status or f"ended with status {ending.status} and no run_stop"
            runs.update(index, status=said, minutes=ending.standing.minutes)
    except Unwritable as error:
        print(f"run {index} is not recorded: {error}", flush=True)


def stands(log: Path, config: RunConfig) -> Standing:
    """Where a run stands by its log."""
    follower = LogFollower(log, config.rules.ruleset)
    follower.poll()
    return standing(follower.run)


def has_succeeded(log: Path, standing: Standing, config: RunConfig) -> bool:
    """Whether a log is that of a whole and valid run, so that it is a success whatever became of its processes."""
    if standing.status != "success":
        return False
    try:
        return check_paths([log], config.rules.ruleset).passed
    except Exception as error:  # noqa: BLE001 - a check that crashes has not passed
        print(f"compliance check crashed: {type(error).__name__}: {error}", flush=True)
        return False


def view_of(config: RunConfig, runs: RunSet, index: int) -> View:
    """One of the runs as it is shown: by those that are over, or by the planner, before it can tell by itself."""
    view, planned = in_set(runs.experiments, runs.experiments[index].result), expected(config)
    return view if view.usual is not None or planned is None else replace(view, usual=60 * planned.usual)


def run_once(
    config: RunConfig, output: IO[bytes], launcher: Launcher, received: Received, view: View = _ALONE
) -> Ending:
    """The processes of one run, from their start to their end.

    Args:
        output: the console.
        view: how it is shown.
    """
    assert config.process.result_file is not None
    console = Path(output.name)
    follower = LogFollower(config.process.result_file, config.rules.ruleset)
    # Of a run that goes on, what its console and log say is of the processes before these.
    said_before = output.seek(0, os.SEEK_END)
    view = replace(view, blocks=characters(), resuming=follower.poll())
    before = standing(follower.run)
    with adopting() as family:
        with started(config, launcher, output) as process, telemetry(config, launcher):
            heard, hang = look_on(config, follower, process, console, launcher, received, view)
        gone = family.end()
        # In a job, ranks descend from others.
        gone = launcher.gone(process) and gone
    heard = follower.poll() or heard
    # Where these processes logged nothing, the log is as those before had left it, and says nothing of them.
    now = standing(follower.run) if heard else replace(before, status="", reason="", error="", stopped_ms=None)
    ending = how_it_ended(process.returncode, now, last_words(console, said_before), hang, stop=received.stop)
    if ending.status and has_succeeded(config.process.result_file, now, config):
        print(f"its processes ended with status {ending.status} after the run, whose log is whole", flush=True)
        ending = Ending(status=0, standing=now)
    return replace(ending, gone=gone, standing=now if heard else before)


def look_on(
    config: RunConfig,
    follower: LogFollower,
    process: Process,
    console: Path,
    launcher: Launcher,
    received: Received,
    view: View,
) -> tuple[bool, list[str]]:
    """Show a run until its process has ended, hand signals on to it, and kill it where what is awaited does not come.

    Returns:
        Whether it has logged anything, and where it hung.
    """
    heard, hurried, hang, heard_at = False, False, list[str](), time.monotonic()
    patience = Patience(config.job.hang_monitor_timeout * 60, heard_at)
    with Onlooker(screen(status)) as shown:
        running = True
        while running:
            running = process.poll() is None
            if follower.poll():
                heard, heard_at, view = True, time.monotonic(), replace(view, resuming=False)
                patience.heard(heard_at, run_stop=follower.run.has("run_stop"))
            shown.show(follower.run, replace(view, quiet=time.monotonic() - heard_at))
            while running and received.pending:
                hand_on(received.pending.pop(), process, launcher, patience)
            if running and (patience.is_over(time.monotonic()) or (received.again and not hurried)):
                hurried = received.again
                if patience.awaited is Awaited.LINE and not hang:
                    hang = find_hang(launcher, console, config.job.hang_monitor_timeout * 60)
                elif patience.awaited is Awaited.END:
                    print(f"run_stop came {END_S:g} s ago, and processes are left: they are killed", flush=True)
                launcher.kill(process)
                patience.killed(time.monotonic())
            if running:
                time.sleep(POLL_S)
        if heard:
            shown.show(follower.run, view, last=True)
    return heard, hang


def hand_on(number: int, process: Process, launcher: Launcher, patience: Patience) -> None:
    """Tell the ranks to save and stop, or to stop at once; those take SIGTERM for whatever came."""
    if number == signal.SIGUSR1:
        launcher.send(process, number)
    else:
        print("stopping", flush=True)
        launcher.send(process, signal.SIGTERM)
        patience.told_to_stop(time.monotonic())


def find_hang(launcher: Launcher, console: Path, limit: float) -> list[str]:
    """Which ranks of a run hang, and where, a line each."""
    hang = [f"no line in the log for {limit:g} s", *launcher.stacks(console)]
    print("\n".join(f"hang      {line}" for line in hang), flush=True)
    return hang


def how_it_ended(returncode: int, standing: Standing, words: str, hang: Sequence[str] = (), *, stop: int = 0) -> Ending:
    """By the processes' status (-n for signal n), log and last words, where they hung, and what told them to stop."""
    status = returncode if returncode >= 0 else 128 - returncode
    if hang:
        cause = "; ".join(hang[:2])
    elif stop and status:
        status, cause = 128 + stop, f"Interrupted: {signal.Signals(stop).name}"
    else:
        if returncode < 0:
            words = f"what started its ranks was ended by {signal.Signals(-returncode).name}"
        said = [standing.reason, words if standing.error or not standing.reason else ""]
        cause = "; ".join(filter(None, said)) if status else ""
    cut_off = standing.status != "success" and (bool(hang) or was_cut_off(status, standing, words))
    return Ending(status=status, standing=standing, cause=cause, cut_off=cut_off, could_not=status == REFUSED)


def telemetry(config: RunConfig, launcher: Launcher) -> AbstractContextManager[None]:
    """Samples of every node, where they are asked for."""
    if not config.job.telemetry_interval or config.process.result_file is None:
        return nullcontext()
    return sampled(launcher.on_each_node(sampler(config.process.result_file, config.job.telemetry_interval)))


@contextmanager
def started(config: RunConfig, launcher: Launcher, output: IO[bytes]) -> Iterator[Process]:
    """A run's processes, which never outlive the block."""
    process = subprocess.Popen(
        launcher.command(),
        env=child_environment(config) | launcher.variables(),
        stdout=output,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        # Ctrl-C reaches every process of a terminal's group; it should reach the ranks once, through here.
        start_new_session=True,
        # When this process is killed, what it has started ends the ranks as it does when it is told to.
        preexec_fn=ending_with_this(signal.SIGTERM),
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
        if received.stop:
            # A terminal that is closed sends several SIGHUP, of which none is a person's second thought.
            if number != signal.SIGHUP:
                if received.again or not received.running:
                    os._exit(128 + number)
                received.again = True
            return
        received.stop = number
        if number == signal.SIGHUP:
            leave_terminal()
        if received.running:
            received.pending.append(number)
        else:
            say_stopping()
            raise SystemExit(128 + number)

    def save(number: int, _frame: FrameType | None) -> None:
        if not received.save:
            received.save = True
            received.pending.append(number)

    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: stop, signal.SIGUSR1: save}
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        # As nohup leaves it.
        del handlers[signal.SIGHUP]
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_terminal() -> None:
    """Write nothing more to a terminal that is gone, where writing fails."""
    for descriptor in (1, 2):
        if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


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
    """Log the run_stop that a run which was killed could not log itself; half a line at the end is kept beside it."""
    standing = ending.standing
    if standing.started_ms is None or standing.stopped_ms is not None:
        return
    if not ending.gone:
        print(f"log       left open: processes may still write to {log}", flush=True)
        return
    events = EventLog(log, SystemClock())
    events.cut(whole_lines(log))
    events.end("run_stop", status="aborted", samples_count=standing.samples, reason=ending.cause)
    events.event("train_samples", standing.samples)


def whole_lines(log: Path) -> int:
    """Bytes of a log up to the end of its last whole line."""
    with log.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        while position:
            start = max(0, position - _CHUNK)
            file.seek(start)
            if (found := file.read(position - start).rfind(b"\n")) >= 0:
                return start + found + 1
            position = start
    return 0


def last_words(console: Path, start: int = 0) -> str:
    """Why a run's processes say that they ended: what the rank that ended first has called an error.

    Where none has, srun's complaint about that rank alone, or their last line.

    Args:
        start: where in the console they began.
    """
    said = console.read_bytes()[start:].decode(errors="replace").strip().splitlines()
    lines = [line for line in said if PROGRESS not in line]
    complaints = [line for line in lines if line.startswith("srun: error: ") and "task" in line]
    if not complaints:
        errors = [match[2] for line in lines if (match := _ERROR.match(line))]
        return (errors[:1] or lines[-1:] or ["it printed nothing"])[0]
    first = min(complaints, key=_after_the_cause)
    task = re.search(r"tasks? (\d+)", first)
    own = [match[2] for line in lines if (match := _ERROR.match(line)) and task and match[1] == task[1]]
    return ": ".join([first, *own[:1]])


def _after_the_cause(complaint: str) -> int:
    """0 for a rank that was killed, 1 for one that failed, maybe for that, 2 for one that was ended for either.

    srun reports them as they come.
    """
    if complaint.endswith(("Terminated", "Exited with exit code 143")):
        return 2
    return int("Exited with exit code" in complaint)


def allowed(config: RunConfig, *, in_batch: bool) -> bool:
    """Whether the rules allow what is about to run; what they say of it is printed."""
    report = report_on(Plan(path=None, possible=config, in_batch=in_batch))
    click.echo("\n".join([*warnings(config), text(report, "configuration")]))
    return report.passed


def child_environment(config: RunConfig, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a process that reads `config` back: of our variables exactly its own, and all others."""
    others = {name: value for name, value in environment.items() if name not in NAMES}
    return others | config.to_environment()
