"""What a run is doing, read from its log as it grows; the trainer itself draws nothing.

The display lives in the launcher's process, outside the timed one: the log is the only thing that crosses.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from benchmark.config import RunConfig
from benchmark.convergence import mean_samples
from benchmark.mllog import Event, events_in
from benchmark.stragglers import SLOW

PLAIN_LINE_EVERY_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A run so far."""

    phase: str = "starting"
    step: int = 0
    samples: int = 0
    """Sequences trained on."""
    loss: float | None = None
    """Of the last step."""
    log_perplexity: float | None = None
    """At the last evaluation."""
    step_time: float | None = None
    """Seconds a step, smoothed over about ten steps."""
    status: str = ""
    """Of run_stop."""
    reason: str = ""
    error: str = ""
    """Type of the exception that ended it."""
    slow: str = ""
    """The ranks that are far slower than others."""
    started_ms: float | None = None
    """run_start."""
    stopped_ms: float | None = None
    """run_stop."""

    @property
    def minutes(self) -> float | None:
        """From run_start to run_stop."""
        if self.started_ms is None or self.stopped_ms is None:
            return None
        return (self.stopped_ms - self.started_ms) / 60_000


PHASES = {
    "init_start": "initialising",
    "run_start": "opening data",
    "block_start": "training",
    "eval_start": "evaluating",
    "run_stop": "done",
}


def advance(progress: Progress, event: Event) -> Progress:
    """The progress after one more event; one that no run of ours writes is passed over, like a broken line."""
    try:
        return _after(progress, event)
    except (LookupError, TypeError, ValueError, ArithmeticError):
        return progress


def going_on(progress: Progress) -> Progress:
    """The progress of a run that was interrupted, when its next processes start."""
    return replace(progress, phase="resuming", status="", reason="", error="", stopped_ms=None)


def _after(progress: Progress, event: Event) -> Progress:
    progress = replace(progress, phase=PHASES.get(event.key, progress.phase))
    match event.key:
        case "run_start":
            return replace(progress, started_ms=event.time_ms)
        case "eval_accuracy":
            return replace(progress, log_perplexity=float(event.value))
        case "run_stop":
            status, reason = str(event.metadata.get("status", "")), str(event.metadata.get("reason", ""))
            error = str(event.metadata.get("error", ""))
            return replace(progress, stopped_ms=event.time_ms, status=status, reason=reason, error=error)
        case "tracked_stats" if isinstance(event.value, dict) and "resumed" in event.value:
            return going_on(progress)
        case "tracked_stats" if isinstance(event.value, dict) and "slowest_ranks" in event.value:
            return replace(progress, slow=_slow(event.value["slowest_ranks"]))
        case "tracked_stats" if isinstance(event.value, dict) and "train_step_time" in event.value:
            return _after_step(progress, event.value, event.metadata)
    return progress


def _after_step(progress: Progress, value: dict[str, Any], metadata: Any) -> Progress:
    seconds = float(value["train_step_time"])
    smoothed = seconds if progress.step_time is None else 0.9 * progress.step_time + 0.1 * seconds
    return replace(
        progress,
        step=int(metadata["step"]),
        samples=int(metadata["samples_count"]),
        loss=float(value["reduced_train_loss"]),
        step_time=smoothed,
    )


def _slow(slowest: list[dict[str, Any]]) -> str:
    """The slowest rank and how many are like it; empty where none is far slower than others."""
    slow = [rank for rank in slowest if rank["ratio"] > SLOW]
    if not slow:
        return ""
    first, more = slow[0], f", {len(slow) - 1} more" if len(slow) > 1 else ""
    return f"slow: rank {first['rank']} on {first['node']}, {first['ratio'] - 1:.0%} over the median{more}"


_CHUNK = 1 << 20
"""Bytes that are read at a time."""


class LineFollower:
    """The lines of a file that is still being written, each once, when it is complete.

    Args:
        longest: bytes of a line that is looked at, a megabyte at most.
    """

    def __init__(self, path: Path, longest: int = _CHUNK) -> None:
        self._path = path
        self._longest = longest
        self._position = 0
        self._inode = 0
        self._skipping = False
        """Within a line that is too long to be looked at."""

    def poll(self) -> tuple[bool, list[bytes]]:
        """Whether the file begins anew (it was cut back or replaced), and some of its lines since the last call.

        At most a megabyte of them; none before the file exists; an empty one for a line that is too long to be read.
        """
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return False, []
        with file:
            status = os.fstat(file.fileno())
            anew = self._inode != 0 and (status.st_ino != self._inode or status.st_size < self._position)
            if anew:
                self._position, self._skipping = 0, False
            self._inode = status.st_ino
            file.seek(self._position)
            return anew, self._complete(file.read(_CHUNK))

    def _complete(self, read: bytes) -> list[bytes]:
        end = read.rfind(b"\n") + 1
        if end == 0 and len(read) < self._longest:
            return []
        self._position += end or len(read)
        complete = [text + b"\n" for text in read[:end].split(b"\n")[:-1]]
        if self._skipping and complete:
            complete[0] = b"\n"
        self._skipping = end == 0
        return complete


class LogFollower:
    """The events of a log that is still being written, each once, as its line is complete."""

    def __init__(self, path: Path) -> None:
        self._lines = LineFollower(path)

    def poll(self) -> Iterator[Event]:
        """The events since the last call; none before the file exists, all again when it was cut back."""
        while lines := self._lines.poll()[1]:
            for line in lines:
                yield from events_in(line.decode("utf-8", errors="replace"))


def expected_samples(config: RunConfig, samples: int) -> int:
    """Where the target is likely: the first evaluation from `samples` on that is past the reference's mean."""
    gbs = config.layout.global_batch_size
    least = max(samples, mean_samples(config.rules, gbs) or 0)
    return min(config.schedule.evaluation_from(least), config.step_limit * gbs)


def line(config: RunConfig, progress: Progress) -> str:
    """One line that says it all."""
    expected = expected_samples(config, progress.samples)
    of_expected = "" if progress.status else f"/~{expected:,}"
    parts = [f"{progress.phase:12}", f"step {progress.step:4}", f"{progress.samples:,}{of_expected} sequences"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.log_perplexity is not None:
        parts.append(f"log perplexity {progress.log_perplexity:.3f} (target {config.rules.target_log_perplexity})")
    if progress.step_time:
        tokens = config.layout.global_batch_size * config.rules.sequence_length / progress.step_time
        parts.append(f"{tokens:,.0f} tokens/s")
    if progress.step_time and not progress.status:
        remaining = (expected - progress.samples) / config.layout.global_batch_size * progress.step_time
        parts.append(f"ETA {int(remaining) // 60}:{int(remaining) % 60:02}")
    if progress.slow and not progress.status:
        parts.append(progress.slow)
    return "  ".join(parts)


class Display(Protocol):
    """Shows progress; a context manager around the run."""

    def __enter__(self) -> Display: ...
    def __exit__(self, *error: object) -> None: ...
    def update(self, config: RunConfig, progress: Progress, now: float) -> None:
        """Called at each poll, with the time in seconds."""


class PlainDisplay:
    """A line every ten seconds, and one for each evaluation."""

    def __init__(self) -> None:
        self._shown_at = float("-inf")
        self._shown: Progress | None = None

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def update(self, config: RunConfig, progress: Progress, now: float) -> None:
        before = self._shown
        evaluated = before is not None and progress.log_perplexity != before.log_perplexity
        due = now - self._shown_at >= PLAIN_LINE_EVERY_S
        if evaluated or (due and progress != before):
            print(line(config, progress), flush=True)
            self._shown, self._shown_at = progress, now


class RichDisplay:
    """A bar towards the expected number of sequences."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            SpinnerColumn(), BarColumn(bar_width=24), TextColumn("{task.description}"), TimeElapsedColumn()
        )
        self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> RichDisplay:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def update(self, config: RunConfig, progress: Progress, now: float) -> None:  # noqa: ARG002 - rich keeps its own time
        total = expected_samples(config, progress.samples)
        self._bar.update(self._task, description=line(config, progress), completed=progress.samples, total=total)


def display() -> Display:
    """A live bar on a terminal, plain lines elsewhere."""
    return RichDisplay() if sys.stdout.isatty() else PlainDisplay()
