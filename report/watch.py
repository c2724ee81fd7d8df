"""Describes a run from its log while it lasts: where it stands, when it will end, what is certainly wrong.

As text, independent of terminal and clock: two lines for those who wait (`status`), or everything (`lines`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from statistics import fmean, median

from benchmark import stragglers
from benchmark.run_record import Experiment
from compliance.checks.rule import AbsentError
from compliance.checks.runs import check_run
from compliance.convergence.rcp import samples_to_target
from compliance.findings import Finding, show
from compliance.log import Located
from compliance.result import in_capitals
from compliance.run import Run
from report.facts import SLOW, RunFacts
from report.forecast import arrival, margin, next_evaluation, seconds_left, seconds_so_far, trained
from report.series import Point, binned

_OF_DIVISION = ("hyperparameter.", "eval.cadence", "train.initial_loss")
"""Rules that the open division may be free of. They are judged once the log names its division."""

CERTAIN = frozenset(
    {
        *("log.malformed", "log.long_line", "log.official_line", "event.samples_count"),
        *("event.repeated", "event.type", "event.order", "event.official_order", "event.outside_run"),
        *("event.cache_clear", "event.sequence", "event.after_stop"),
        *("clock.init_limit", "clock.gap", "clock.monotone", "clock.run"),
        *("eval.position", "eval.value", "eval.cadence", "eval.stop_at_target", "train.loss", "train.initial_loss"),
        *("run.benchmark", "run.division", "run.submission", "run.seed", "run.config_filename", "run.status"),
    }
)
"""Rules that no later line can satisfy once they are broken, besides those of hyperparameters.

The others are judged when the run has stopped.
"""

PHASES = {
    "init_start": "initialising",
    "run_start": "opening data",
    "block_start": "training",
    "eval_start": "evaluating",
    "run_stop": "done",
}
"""What a run does after an event."""

RECENT = 32
"""Number of latest steps whose median is compared with that of all steps."""

QUIET = 60
"""Seconds without an event after which the silence is reported."""

LEAST_CURVE, WIDEST_CURVE = 8, 60
"""Fewest and most characters of a curve; a wider one is not clearer."""

NAME = 12
"""Width of the first column, which names a line's subject."""

LONGEST = 1e9
"""Longest duration that is shown, in seconds: 30 years."""

BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN_BLOCKS = "_.-=+*%#"
"""For a terminal without these characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchView:
    """How a run is shown, and what is known besides its log."""

    width: int = 78
    blocks: str = BLOCKS
    others: Sequence[int | None] = ()
    """Samples to the target of the runs of the same result that are over; None for one that missed it."""
    final: bool = False
    """Whether the log has come to its end, so that every rule can be judged."""
    number: int = 1
    """Number of the run in its set, from 1."""
    runs: int = 1
    """Number of runs in the set."""
    usual: float | None = None
    """Seconds that a run of the set takes: the mean of those that are over, else the planned time."""
    quiet: float = 0.0
    """Seconds since the last event."""
    resuming: bool = False
    """Whether processes that resume the run have been started and have logged nothing yet."""


def in_set(experiments: Sequence[Experiment], log: str) -> WatchView:
    """Return the view of a run within its set, which run.json describes."""
    names = [one.result for one in experiments]
    if log not in names:
        return WatchView()
    over = [60 * one.minutes for one in experiments if one.minutes and one.status == "success"]
    return WatchView(number=names.index(log) + 1, runs=len(names), usual=fmean(over) if over else None)


def certain(run: Run, *, final: bool = False) -> list[Finding]:
    """Return the findings that stay, whatever is logged later."""
    return [finding for finding in check_run(run) if final or _is_certain(finding.rule, run)]


def _is_certain(rule: str, run: Run) -> bool:
    if rule.startswith(_OF_DIVISION) and not run.has("submission_division"):
        return False
    # A run_stop cuts off the block or evaluation under way; the lines after it may complete the sequence.
    known = rule in CERTAIN or rule.startswith("hyperparameter.")
    return known and not (rule == "event.sequence" and run.has("run_stop"))


def lines(run: Run, view: WatchView) -> Iterator[str]:
    """Yield everything that can be reported about a run, in a fixed order of lines."""
    facts = RunFacts(run)
    place = [f"run {view.number} of {view.runs}"] if view.runs > 1 else []
    yield f"{phase(run):{NAME}} {'  '.join([_benchmark(run), run.log.path.name, *place])}"
    if run.log.not_a_run:
        yield f"{in_capitals(sorted(run.log.not_a_run)):{NAME}} its log says that this run does not count"
    for part in (_progress, _losses, _evaluations, _arrival, _margin, _steps, _checkpoints, _stragglers, _last_line):
        yield from _those(part, facts, view)
    for finding in certain(run, final=view.final):
        where = "" if finding.line is None else f" line {finding.line}"
        yield f"{finding.severity:<{NAME}} {finding.rule}{where}: {finding.message}; {finding.actual}"


def status(run: Run, view: WatchView) -> Iterator[str]:
    """Yield at most two lines that fit the width: the time left and the step, then the losses once there are any."""
    yield head(run, view)
    facts = RunFacts(run)
    if facts.losses:
        yield _curve(facts, view)


def head(run: Run, view: WatchView, *, alone: bool = False) -> str:
    """Return the first of the two lines; `alone`, with the loss."""
    facts = RunFacts(run)
    now = "resuming" if view.resuming else phase(run)
    said = (_times, _step, *((_loss,) if alone else ()), _quiet)
    parts = [part for one in said for part in _those(one, facts, view)]
    while parts and len(_row(now, parts)) > view.width:
        parts.pop()
    return _row(now, parts)


def _curve(facts: RunFacts, view: WatchView) -> str:
    """Return the losses as a curve, and as many other values as leave it its least length."""
    low, high = f"{facts.losses[0][1]:.3f}", f"{facts.losses[-1][1]:.3f}"
    beside = [part for said in (_perplexity, _slow, _speed) for part in _those(said, facts, view)]
    while True:
        row = _row("loss", [f"{low}  {high}", *beside])
        room = view.width - len(row)
        if room >= LEAST_CURVE or not beside:
            break
        beside.pop()
    drawn = sparkline(facts.losses, min(max(room, LEAST_CURVE), WIDEST_CURVE), view.blocks)
    return _row("loss", [f"{low} {drawn} {high}", *beside])


def _those(said: Callable[[RunFacts, WatchView], Iterator[str]], facts: RunFacts, view: WatchView) -> list[str]:
    """Return the lines of `said`; none if the log does not have enough for them."""
    try:
        return list(said(facts, view))
    except AbsentError:
        return []


def _row(name: str, parts: Sequence[str]) -> str:
    return f"{name:{NAME}} {'  '.join(parts)}".rstrip()


def _times(facts: RunFacts, view: WatchView) -> Iterator[str]:
    """Yield the ETA of the run, and of its set."""
    left = 0.0 if _is_over(facts, view) else seconds_left(facts, view.usual, view.quiet)
    if not _is_over(facts, view):
        yield f"ETA {'after step 1' if left is None else duration(left)}"
    if view.runs > 1:
        yield f"run {view.number} of {view.runs}{'' if left is None else _all(facts, view, left)}"


def _all(facts: RunFacts, view: WatchView, left: float) -> str:
    """Return the ETA of a set whose current run ends after `left` seconds; empty for the last run."""
    more = view.runs - view.number
    each = seconds_so_far(facts.run) + left if view.usual is None else view.usual
    return f", all {duration(left + more * each)}" if more else ""


def _is_over(facts: RunFacts, view: WatchView) -> bool:
    """Return whether nothing follows. The log of a run that is being resumed may hold an earlier run_stop."""
    return facts.run.has("run_stop") and not view.resuming


def duration(seconds: float) -> str:
    """Return hours, minutes and seconds; "unknown" for a number that no run could take."""
    return str(timedelta(seconds=round(seconds))) if 0 <= seconds < LONGEST else "unknown"


def _step(facts: RunFacts, view: WatchView) -> Iterator[str]:
    run = facts.run
    taken = f"step {trained(run) // run.global_batch_size:,}"
    try:
        yield taken if _is_over(facts, view) else f"{taken} of {arrival(facts).samples // run.global_batch_size:,}"
    except AbsentError:
        yield taken


def _loss(facts: RunFacts, _view: WatchView) -> Iterator[str]:
    if facts.losses:
        yield f"loss {facts.losses[-1][1]:.3f}"


def _quiet(_facts: RunFacts, view: WatchView) -> Iterator[str]:
    if view.quiet >= QUIET:
        yield f"quiet for {duration(view.quiet)}"


def _perplexity(facts: RunFacts, _view: WatchView) -> Iterator[str]:
    if facts.evaluations:
        yield f"eval {facts.evaluations[-1][1]:.4f} (target {facts.run.rules.target_log_perplexity})"


def _speed(facts: RunFacts, _view: WatchView) -> Iterator[str]:
    recent = [seconds for _, seconds in facts.step_seconds[-RECENT:]]
    if sum(recent) > 0:
        tokens = len(recent) * facts.run.global_batch_size * facts.run.rules.sequence_length
        yield f"{tokens / sum(recent):,.0f} tokens/s"


def phase(run: Run) -> str:
    """Return what the run is doing."""
    events = run.in_order([*PHASES, "eval_stop"])
    if not events:
        return "starting"
    key = events[-1].event.key
    if key == "run_stop":
        return show(run.status).strip("'")[:NAME]
    if _is_resuming(run, events[-1]):
        return "resuming"
    return PHASES.get(key, PHASES["block_start"])


def _is_resuming(run: Run, last: Located) -> bool:
    """Return whether it was resumed and has done nothing since: no step, no other phase."""
    marks = [mark for mark in run.all("tracked_stats") if isinstance(mark.event.value, dict)]
    resumed = [mark for mark in marks if mark.event.value.get("resumed") is True]
    steps = deque(run.log.steps, maxlen=1)
    return bool(resumed) and resumed[-1].line > max(last.line, steps[0].line if steps else 0)


def _benchmark(run: Run) -> str:
    if run.row is None:
        return "unknown benchmark"
    name = f"{run.row.benchmark} {run.row.ruleset} ({run.chosen.origin})"
    try:
        return f"{name}, batch size {run.global_batch_size}"
    except AbsentError:
        return name


def _progress(facts: RunFacts, _view: WatchView) -> Iterator[str]:
    run = facts.run
    loss = f", training loss {facts.losses[-1][1]:.3f}" if facts.losses else ""
    yield f"{'progress':{NAME}} step {trained(run) // run.global_batch_size:,}, {trained(run):,} samples{loss}"


def _losses(facts: RunFacts, view: WatchView) -> Iterator[str]:
    if facts.losses:
        yield f"{'loss':{NAME}} {_ends(facts.losses, view)}"


def _evaluations(facts: RunFacts, view: WatchView) -> Iterator[str]:
    if facts.evaluations:
        latest = ", ".join(f"{value:.4f}" for _, value in facts.evaluations[-3:])
        drawn = _ends(facts.evaluations, view) if len(facts.evaluations) > 2 else ""
        yield f"{'evaluation':{NAME}} {latest} (target {facts.run.rules.target_log_perplexity}) {drawn}".rstrip()


def _arrival(facts: RunFacts, view: WatchView) -> Iterator[str]:
    if facts.run.has("run_stop"):
        return
    stop = arrival(facts)
    yield (
        f"{'ETA':{NAME}} {duration(max(0.0, stop.remaining - view.quiet))}, {stop.minutes:.1f} min after the start, "
        f"at {stop.samples:,} samples by {stop.by}"
    )


def _margin(facts: RunFacts, view: WatchView) -> Iterator[str]:
    run = facts.run
    stopped = samples_to_target(run)
    if run.has("run_stop") and stopped is None:
        return
    if run.is_open:
        yield f"{'convergence':{NAME}} not judged in the open division"
        return
    samples = next_evaluation(run) if stopped is None else stopped
    found = margin(run.rules, run.global_batch_size, samples, view.others)
    if found is None:
        return
    when = " if it stops at the next evaluation" if stopped is None else ""
    room = f"{abs(found.margin):,.0f} {'above' if found.margin >= 0 else 'BELOW'} the smallest accepted mean"
    verb = "would be" if stopped is None or found.runs == 1 else "are"
    of = f"mean of {found.runs} runs" if found.runs > 1 else "if all runs were like this one"
    factor = f"minutes {verb} multiplied by {found.factor:.4f} ({of})"
    yield f"{'convergence':{NAME}} {samples:,} samples{when}, {room}; {factor}"


def _steps(facts: RunFacts, _view: WatchView) -> Iterator[str]:
    times = facts.step_times
    if times is None:
        return
    recent = median(seconds for _, seconds in facts.step_seconds[-RECENT:])
    trend = recent / times.median - 1 if times.median > 0 else 0.0
    slow = f"{len(times.slow)} of {times.count} steps {SLOW} times that or longer"
    latest = f", last after {times.slow[-1][0]:,.0f}: {times.slow[-1][1]:.3f} s" if times.slow else ""
    yield f"{'step':{NAME}} median {times.median:.3f} s, last {RECENT} {trend:+.1%}; {slow}{latest}"


def _checkpoints(facts: RunFacts, _view: WatchView) -> Iterator[str]:
    """Yield the latest checkpoint fault, and the number of earlier ones."""
    if faults := facts.checkpoint_faults:
        yield f"{'checkpoint':{NAME}} {faults[-1]}" + (f"; {len(faults) - 1} before" if len(faults) > 1 else "")


def _stragglers(facts: RunFacts, view: WatchView) -> Iterator[str]:
    yield from (f"{'slow':{NAME}} {said.removeprefix('slow: ')}" for said in _slow(facts, view))


def _last_line(facts: RunFacts, view: WatchView) -> Iterator[str]:
    if view.quiet > 0 and not facts.run.has("run_stop"):
        yield f"{'last line':{NAME}} {view.quiet:.0f} s ago"


def _slow(facts: RunFacts, _view: WatchView) -> Iterator[str]:
    """Yield the slowest rank of the last report of stragglers if it is far slower; nothing once the run is over."""
    latest = [] if facts.run.has("run_stop") else facts.latest_slow_ranks
    far = [one for one in latest if one.high > stragglers.SLOW]
    if far:
        more = f", {len(far) - 1} more" if len(far) > 1 else ""
        yield f"slow: rank {far[0].rank} on {far[0].node}, {far[0].high - 1:.0%} over the median{more}"


def _ends(points: Sequence[Point], view: WatchView) -> str:
    """Return a curve between its first and its last value."""
    drawn = sparkline(points, max(LEAST_CURVE, view.width - 36), view.blocks)
    return f"{points[0][1]:.3f} {drawn} {points[-1][1]:.3f}"


def sparkline(points: Sequence[Point], width: int, blocks: str) -> str:
    """Return at most `width` characters whose heights follow the values."""
    means = [one.mean for one in binned(points, width)]
    low, high = min(means), max(means)
    top = len(blocks) - 1
    return "".join(blocks[round((value - low) / (high - low) * top) if high > low else 0] for value in means)
