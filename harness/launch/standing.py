"""The state of a run as its log shows it; the launcher acts on it."""

from __future__ import annotations

from dataclasses import dataclass

from compliance.checks.rule import AbsentError
from compliance.run import Run
from report.forecast import trained


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The state of a run that has not begun, is running, or is over."""

    samples: int = 0
    """Samples trained on."""
    status: str = ""
    """Status of run_stop; empty before it."""
    reason: str = ""
    error: str = ""
    """Type of the exception that ended the run."""
    started_ms: float | None = None
    """run_start."""
    stopped_ms: float | None = None
    """run_stop."""

    @property
    def minutes(self) -> float | None:
        """Minutes from run_start to run_stop."""
        if self.started_ms is None or self.stopped_ms is None:
            return None
        return (self.stopped_ms - self.started_ms) / 60_000


def standing(run: Run) -> Standing:
    """Return the state that the log shows so far."""
    start = run.first("run_start").event if run.has("run_start") else None
    stop = run.last("run_stop").event if run.has("run_stop") else None
    fields = {} if stop is None else {name: str(stop.metadata.get(name, "")) for name in ("status", "reason", "error")}
    try:
        samples = trained(run)
    except AbsentError:
        samples = 0
    return Standing(
        samples=samples,
        started_ms=None if start is None else start.time_ms,
        stopped_ms=None if stop is None else stop.time_ms,
        **fields,
    )
