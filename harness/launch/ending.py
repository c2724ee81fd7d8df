"""Determines how a run ended, from its processes' status, its log and its last words, and closes its log."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.clock import SystemClock
from benchmark.config import RunConfig
from benchmark.console import PROGRESS
from benchmark.eventlog import EventLog, end_of_lines
from compliance.check import check_paths
from harness.launch.standing import Standing

REFUSED = 2
"""Status of a rank that could not start, continue, or write its log."""

_ERROR = re.compile(r"(?:\s*(\d+): ?)?error: (.*)")
"""A line in which a rank reports why it ends; srun puts the rank's number before it."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How the processes of a run ended."""

    status: int
    """The exit status as a shell reports it: 128 + n for signal n."""
    standing: Standing
    cause: str = ""
    """Why the run was not a success."""
    cut_off: bool = False
    """The run did not end by itself: it hung, was killed, failed on its way, or was told to save and stop."""
    gone: bool = True
    """Whether it is certain that no process writes to its log any more."""
    could_not: bool = False
    """It could not be started, or its log could not be written, so nothing is known about a result."""


def how_it_ended(returncode: int, standing: Standing, words: str, hang: Sequence[str] = (), *, stop: int = 0) -> Ending:
    """Work out the ending from the processes' status (-n for signal n), their log, last words, hang and stop signal."""
    status = returncode if returncode >= 0 else 128 - returncode
    if hang:
        cause = "; ".join(hang[:2])
    elif stop and status:
        status, cause = 128 + stop, f"Interrupted: {signal.Signals(stop).name}"
    else:
        if returncode < 0:
            words = f"the process that started its ranks was ended by {signal.Signals(-returncode).name}"
        reasons = [standing.reason, words if standing.error or not standing.reason else ""]
        cause = "; ".join(filter(None, reasons)) if status else ""
    cut_off = standing.status != "success" and (bool(hang) or was_cut_off(status, standing, words))
    return Ending(status=status, standing=standing, cause=cause, cut_off=cut_off, could_not=status == REFUSED)


def was_cut_off(status: int, standing: Standing, words: str) -> bool:
    """Return whether a run was cut off: after its clock had started, or by a signal from outside.

    srun ends the other ranks when one fails, so its own status says little; `words` are the run's last ones.
    """
    if status in (0, os.EX_TEMPFAIL):
        return status == os.EX_TEMPFAIL
    if standing.status == "success" or (standing.status == "aborted" and not standing.error):
        return False
    return standing.started_ms is not None or "Exited with exit code" not in words


def has_succeeded(log: Path, standing: Standing, config: RunConfig) -> bool:
    """Return whether a log is whole and valid, so that its run is a success whatever happened to its processes."""
    if standing.status != "success":
        return False
    try:
        return check_paths([log], config.rules.ruleset).passed
    except Exception as error:  # noqa: BLE001 - a check that crashes has not passed
        print(f"compliance check crashed: {type(error).__name__}: {error}", flush=True)
        return False


def last_words(console: Path, start: int = 0) -> str:
    """Return the reason that a run's processes give for their end: the error of the rank that ended first.

    Without such an error, return srun's complaint about that rank, or the last line of all.

    Args:
        start: where the processes' output begins in the console.
    """
    printed = console.read_bytes()[start:].decode(errors="replace").strip().splitlines()
    lines = [line for line in printed if PROGRESS not in line]
    complaints = [line for line in lines if line.startswith("srun: error: ") and "task" in line]
    if not complaints:
        errors = [match[2] for line in lines if (match := _ERROR.match(line))]
        return (errors[:1] or lines[-1:] or ["it printed nothing"])[0]
    first = min(complaints, key=_after_the_cause)
    task = re.search(r"tasks? (\d+)", first)
    own = [match[2] for line in lines if (match := _ERROR.match(line)) and task and match[1] == task[1]]
    return ": ".join([first, *own[:1]])


def _after_the_cause(complaint: str) -> int:
    """Return 0 for a rank that was killed, 1 for one that failed, perhaps because of it, 2 for one ended for either.

    srun reports them in any order.
    """
    if complaint.endswith(("Terminated", "Exited with exit code 143")):
        return 2
    return int("Exited with exit code" in complaint)


def close_log(log: Path, ending: Ending) -> None:
    """Log the run_stop that a killed run could not log itself; half a line at its end is kept apart."""
    standing = ending.standing
    if standing.started_ms is None or standing.stopped_ms is not None:
        return
    if not ending.gone:
        print(f"log       left open: processes may still write to {log}", flush=True)
        return
    events = EventLog(log, SystemClock())
    with log.open("rb") as file:
        events.cut(end_of_lines(file))
    events.end("run_stop", status="aborted", samples_count=standing.samples, reason=ending.cause)
    events.event("train_samples", standing.samples)
