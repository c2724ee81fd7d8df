"""A run while it is on, from its log alone: where it stands, when it will be there, what is certain to be wrong.

As text, which knows neither of a terminal nor of a clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from statistics import median

from benchmark import stragglers
from compliance.checks.rule import Absent
from compliance.checks.runs import check_run
from compliance.convergence.rcp import samples_to_target
from compliance.findings import Finding, show
from compliance.result import in_capitals
from compliance.run import Run
from report.facts import SLOW, RunFacts
from report.forecast import arrival, margin, next_evaluation, trained
from report.series import Point, binned

_OF_DIVISION = ("hyperparameter.", "eval.cadence", "train.initial_loss")
"""Rules of which the open division is free of some, so that they wait for the log to name its division."""

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
"""Rules that no later line can make good again once they are broken, besides those of hyperparameters.

The others are judged when the run has stopped.
"""

PHASES = {
    "init_start": "initialising",
    "run_start": "opening data",
    "block_start": "training",
    "eval_start": "evaluating",
    "run_stop": "done",
}
"""What a run does from an event on."""

RECENT = 32
"""Steps whose median is compared with that of all steps."""

BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN_BLOCKS = "_.-=+*%#"
"""For a terminal without these characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How to write it."""

    width: int = 78
    blocks: str = BLOCKS
    others: Sequence[int | None] = ()
    """Samples to the target of the runs of the same result that are over; None for one that missed it."""
    final: bool = False
    """Whether the log has come to its end, so that every rule can be judged."""


def certain(run: Run, *, final: bool = False) -> list[Finding]:
    """The findings that stay, whatever is logged after this."""
    return [finding for finding in check_run(run) if final or _is_certain(finding.rule, run)]


def _is_certain(rule: str, run: Run) -> bool:
    if rule.startswith(_OF_DIVISION) and not run.has("submission_division"):
        return False
    # A run_stop makes a block or an evaluation that is under way one that was cut off, and what follows mends it.
    known = rule in CERTAIN or rule.startswith("hyperparameter.")
    return known and not (rule == "event.sequence" and run.has("run_stop"))


def lines(run: Run, view: View) -> Iterator[str]:
    """What there is to say about a run, a line each, in an order that stays."""
    facts = RunFacts(run)
    yield f"{phase(run):12} {_benchmark(run)}  {run.log.path.name}"
    if run.log.not_a_run:
        yield f"{in_capitals(sorted(run.log.not_a_run)):12} a run that does not count, as its log says"
    for said in (_progress, _losses, _evaluations, _arrival, _margin, _steps, _checkpoints, _stragglers):
        try:
            yield from said(facts, view)
        except Absent:
            continue
    for finding in certain(run, final=view.final):
        where = "" if finding.line is None else f" line {finding.line}"
        yield f"{finding.severity:<12} {finding.rule}{where}: {finding.message}; {finding.actual}"


def line(run: Run) -> str:
    """The most of it in one line, for a terminal that cannot be drawn on."""
    facts = RunFacts(run)
    parts: list[str] = []
    for said in (_trained, _perplexity, _speed, _remaining, _slow):
        try:
            parts += said(facts)
        except Absent:
            continue
    return f"{phase(run):12} {'  '.join(parts)}".rstrip()


def _perplexity(facts: RunFacts) -> Iterator[str]:
    if facts.evaluations:
        yield f"log perplexity {facts.evaluations[-1][1]:.4f} (target {facts.run.rules.target_log_perplexity})"


def _speed(facts: RunFacts) -> Iterator[str]:
    recent = [seconds for _, seconds in facts.step_seconds[-RECENT:]]
    if sum(recent) > 0:
        tokens = len(recent) * facts.run.global_batch_size * facts.run.rules.sequence_length
        yield f"{tokens / sum(recent):,.0f} tokens/s"


def _remaining(facts: RunFacts) -> Iterator[str]:
    if not facts.run.has("run_stop"):
        found = arrival(facts)
        yield f"ETA {timedelta(seconds=round(found.remaining))} at {found.samples:,} sequences"


def phase(run: Run) -> str:
    """What the run does now."""
    events = run.in_order([*PHASES, "eval_stop"])
    if not events:
        return "starting"
    key = events[-1].event.key
    if key == "run_stop":
        return show(run.status).strip("'")[:12]
    return PHASES.get(key, PHASES["block_start"])


def _benchmark(run: Run) -> str:
    if run.row is None:
        return "unknown benchmark"
    name = f"{run.row.benchmark} {run.row.ruleset} ({run.chosen.origin})"
    try:
        return f"{name}, batch size {run.global_batch_size}"
    except Absent:
        return name


def _progress(facts: RunFacts, _view: View) -> Iterator[str]:
    yield from (f"{'progress':12} {said}" for said in _trained(facts))


def _trained(facts: RunFacts) -> Iterator[str]:
    run = facts.run
    loss = f", training loss {facts.losses[-1][1]:.3f}" if facts.losses else ""
    yield f"step {trained(run) // run.global_batch_size:,}, {trained(run):,} sequences{loss}"


def _losses(facts: RunFacts, view: View) -> Iterator[str]:
    if facts.losses:
        yield f"{'loss':12} {sparkline(facts.losses, view)}"


def _evaluations(facts: RunFacts, view: View) -> Iterator[str]:
    if facts.evaluations:
        latest = ", ".join(f"{value:.4f}" for _, value in facts.evaluations[-3:])
        drawn = sparkline(facts.evaluations, view) if len(facts.evaluations) > 2 else ""
        yield f"{'evaluation':12} {latest} (target {facts.run.rules.target_log_perplexity}) {drawn}".rstrip()


def _arrival(facts: RunFacts, _view: View) -> Iterator[str]:
    if facts.run.has("run_stop"):
        return
    found = arrival(facts)
    yield (
        f"{'ETA':12} {timedelta(seconds=round(found.remaining))}, {found.minutes:.1f} min after the start, "
        f"at {found.samples:,} sequences by {found.by}"
    )


def _margin(facts: RunFacts, view: View) -> Iterator[str]:
    run = facts.run
    stopped = samples_to_target(run)
    if run.has("run_stop") and stopped is None:
        return
    if run.is_open:
        yield f"{'convergence':12} not judged in the open division"
        return
    samples = next_evaluation(run) if stopped is None else stopped
    found = margin(run.rules, run.global_batch_size, samples, view.others)
    if found is None:
        return
    verb = "stopping at the next evaluation would be" if stopped is None else "the score is"
    of = f"mean of {found.runs} runs" if found.runs > 1 else "were all runs like this one"
    room = f"{abs(found.margin):,.0f} {'above' if found.margin >= 0 else 'BELOW'} the smallest accepted mean"
    yield f"{'convergence':12} {samples:,}: {verb} normalised by {found.factor:.4f} ({of}); {room}"


def _steps(facts: RunFacts, _view: View) -> Iterator[str]:
    times = facts.step_times
    if times is None:
        return
    recent = median(seconds for _, seconds in facts.step_seconds[-RECENT:])
    trend = recent / times.median - 1 if times.median > 0 else 0.0
    slow = f"{len(times.slow)} of {times.count} steps {SLOW} times that or longer"
    latest = f", last after {times.slow[-1][0]:,.0f}: {times.slow[-1][1]:.3f} s" if times.slow else ""
    yield f"{'step':12} median {times.median:.3f} s, last {RECENT} {trend:+.1%}; {slow}{latest}"


def _checkpoints(facts: RunFacts, _view: View) -> Iterator[str]:
    """The last one that is missing."""
    if found := facts.checkpoint_faults:
        yield f"{'checkpoint':12} {found[-1]}" + (f"; {len(found) - 1} before" if len(found) > 1 else "")


def _stragglers(facts: RunFacts, _view: View) -> Iterator[str]:
    yield from (f"{'slow':12} {said.removeprefix('slow: ')}" for said in _slow(facts))


def _slow(facts: RunFacts) -> Iterator[str]:
    """The ranks that the last report of stragglers found far slower than others; none once the run is over."""
    latest = [] if facts.run.has("run_stop") else facts.latest_slow_ranks
    far = [one for one in latest if one.high > stragglers.SLOW]
    if far:
        more = f", {len(far) - 1} more" if len(far) > 1 else ""
        yield f"slow: rank {far[0].rank} on {far[0].node}, {far[0].high - 1:.0%} over the median{more}"


def sparkline(points: Sequence[Point], view: View) -> str:
    """A line of text as high as its values, from the lowest to the highest."""
    means = [one.mean for one in binned(points, max(8, view.width - 36))]
    low, high = min(means), max(means)
    top = len(view.blocks) - 1
    drawn = (view.blocks[round((value - low) / (high - low) * top) if high > low else 0] for value in means)
    return f"{means[0]:.3f} {''.join(drawn)} {means[-1]:.3f}"
