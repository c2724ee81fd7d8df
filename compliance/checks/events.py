"""Rules about which events a log holds, how often and in which order. Only this module reports a missing event."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise, repeat

from benchmark.benchmarks import benchmark_named
from benchmark.mllog import END, POINT, START
from benchmark.plurals import counted
from benchmark.rules import Rules, ScaledLearningRate
from compliance.checks.rule import Breach, in_force
from compliance.checks.sources import DATA_STATE, HARNESS, LOG_FORMAT, LOGGING, RUN_RESULTS
from compliance.findings import Severity, show
from compliance.log import MAX_DEFECTS, PER_RANK, DefectKind, Located
from compliance.run import BLOCK, CYCLE, EVALUATION, RUN_RULES, Run, rule, samples_count

SUBMISSION = (
    "submission_benchmark",
    "submission_org",
    "submission_division",
    "submission_status",
    "submission_platform",
)
HYPERPARAMETERS = (
    "global_batch_size",
    "gradient_accumulation_steps",
    "max_sequence_length",
    "eval_samples",
    "opt_name",
    "opt_base_learning_rate",
    "opt_end_learning_rate",
    "opt_learning_rate_warmup_steps",
    "opt_learning_rate_decay_steps",
    "opt_learning_rate_decay_schedule",
    "opt_adamw_beta_1",
    "opt_adamw_beta_2",
    "opt_adamw_epsilon",
    "opt_adamw_weight_decay",
    "opt_gradient_clip_norm",
)
PARALLELISM = (
    "micro_batch_size",
    "tensor_parallelism",
    "pipeline_parallelism",
    "context_parallelism",
    "expert_parallelism",
)
PRECISION = (
    "lowest_numerical_precision_in_linear",
    "lowest_numerical_precision_in_attn",
    "lowest_numerical_precision_in_comm",
)
# Optional in 6.0.0, which introduced them; exactly once since 6.1.0.
DESCRIPTION = (*PARALLELISM, *PRECISION, "config_filename")
# Only some benchmarks fix the first three; others may log them. model_size is our own key: in the open division it
# names a network other than the benchmark's.
SITUATIONAL = ("init_checkpoint_step", "max_steps", "target_accuracy", "model_size")
ANNOUNCED = (*SUBMISSION, "seed", *HYPERPARAMETERS, *DESCRIPTION, *SITUATIONAL)
"""Every key that a run may announce before it starts, each at most once."""

CLOCK = ("init_stop", "run_start", "run_stop")
ONCE = frozenset({*ANNOUNCED, *CLOCK, "train_samples"})
"""Keys that a log may hold at most once."""

INTERVALS = {
    "init_start": START,
    "init_stop": END,
    "run_start": START,
    "run_stop": END,
    "block_start": START,
    "block_stop": END,
    "eval_start": START,
    "eval_stop": END,
    "eval_accuracy": POINT,
}
"""Key -> the event_type that it is logged with."""

_MAY_BE_LOST = PER_RANK | {"tracked_stats"}
"""Keys of which the official tools need one event, or none: losing another one changes nothing."""
_LEFT_OUT_IN_500 = frozenset({"block_stop"})
"""Keys that accepted v5.0 logs leave out."""
_NEW_IN_510 = frozenset({"submission_org", "submission_platform"})
"""Keys that are required since 5.1.0."""
_INSTEAD = {"block_start": "epoch_start", "block_stop": "epoch_stop"}
"""Key -> the key that the official rule files accept in its place."""
_BEFORE_STOP = frozenset({*ANNOUNCED, *CYCLE, "cache_clear", "init_start", "init_stop", "run_start"})
"""Keys that must not come after run_stop. Keys that no rule knows may, as in AMD's v6.0 logs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slip:
    """A place where the cycle of blocks and evaluations is broken."""

    key: str
    missing: bool
    """True if the key is missing before `event`; False if `event` is one too many."""
    before: Located | None
    event: Located


# The file itself.


@rule("log.unreadable", source=HARNESS, example="a folder or a pipe named `result_0.txt`")
def unreadable(run: Run) -> Iterator[Breach]:
    """A log is a regular file that can be read."""
    yield from _defects(run, DefectKind.UNREADABLE)


@rule("log.empty", source=LOGGING, example="a file without a `:::MLLOG` line")
def empty(run: Run) -> Iterator[Breach]:
    """A log holds at least one event."""
    if not run.log.counts and not run.log.defects:
        yield Breach(message="the file holds no event", expected="lines with :::MLLOG", actual="none")


@rule("log.malformed", source=LOG_FORMAT, example='`:::MLLOG {"key": "seed", "value": NaN}`')
def malformed(run: Run) -> Iterator[Breach]:
    """After :::MLLOG comes one event: strict JSON, finite numbers, unique names, the fields that mllog writes."""
    yield from _defects(run, DefectKind.MALFORMED)


@rule("log.long_line", source=HARNESS, example="a `:::MLLOG` line of more than 1 MiB")
def long_line(run: Run) -> Iterator[Breach]:
    """A line with an event is short enough to be read."""
    yield from _defects(run, DefectKind.LONG_LINE)


@rule(
    "log.official_line",
    source=LOG_FORMAT,
    example="text after an event; two events on one line (a WARNING if no official tool needs the lost one)",
)
def official_line(run: Run) -> Iterator[Breach]:
    """Every event stands alone on its line; the official parser loses or rejects any other.

    That parser takes everything from the last :::MLLOG of a line to its end for one event.
    """
    log = run.log
    if not log.crowded:
        return
    needed = [key for key, lost in log.lost.items() if key not in _MAY_BE_LOST or lost == log.counts[key]]
    refused = bool(needed) or sum(log.lost.values()) < len(log.crowded)
    yield Breach(
        message="an event does not stand alone on its line, so the official parser does not read it"
        + ("; the log would be refused officially" if refused else "; no official tool needs it"),
        line=log.crowded[0],
        expected="one event a line, after `:::MLLOG ` and with nothing behind it",
        actual=counted(len(log.crowded), "such event") + (f", {show(needed[0])} among them" if needed else ""),
        severity=Severity.ERROR if refused else Severity.WARNING,
    )


OFFICIAL_LINE = RUN_RULES.rules["log.official_line"]


@rule("log.flood", source=HARNESS, example="a log to which every rank wrote all of its events")
def flood(run: Run) -> Iterator[Breach]:
    """A log holds no more events than one run can log."""
    if run.log.dropped:
        yield Breach(message=f"the log holds too many events: {run.log.dropped} more were not judged")


def _defects(run: Run, kind: DefectKind) -> Iterator[Breach]:
    for defect in run.log.defects:
        if defect.kind is kind:
            yield Breach(message=defect.message, line=defect.line, actual=defect.actual)
    yield from repeat(Breach(message="another defect of this kind"), max(0, run.log.defect_counts[kind] - MAX_DEFECTS))


# Which events a log holds, and how often.


def required(
    row: Rules | None, *, aborted: bool = False, excused: bool = False, is_open: bool = False
) -> tuple[str, ...]:
    """Return the keys that a log must hold, in the order in which they are logged.

    Args:
        row: the rules of its benchmark; None where the benchmark is unknown.
        aborted: whether the run stopped before its target.
        excused: whether it is the one run of its result that may miss the target.
        is_open: whether it is of the open division.
    """
    submission = [key for key in SUBMISSION if key not in _NEW_IN_510 or row is None or in_force(row, since="5.1.0")]
    # training_rules, "Random numbers": in the open division the seed is not expected to be logged.
    announced = (*submission, *(() if is_open else ("seed",)), *HYPERPARAMETERS, *_required_by(row))
    # An aborted run is not faulted again for events that it never reached, and an excused run may have been killed.
    cycle = () if aborted else CYCLE
    end = () if excused else ("run_stop", "train_samples")
    return ("cache_clear", "init_start", *announced, "init_stop", "run_start", *cycle, *end)


def _required_by(row: Rules | None) -> tuple[str, ...]:
    if row is None:
        return ()
    if not benchmark_named(row.benchmark).submittable:
        # Only this harness has the benchmark, so its logs hold everything that the harness logs.
        return (*DESCRIPTION, "max_steps", "target_accuracy")
    description = DESCRIPTION if in_force(row, since="6.1.0") else ()
    checkpoint = () if row.init_checkpoint_step is None else ("init_checkpoint_step",)
    steps = () if row.fixed_max_steps is None else ("max_steps",)
    return (*description, *checkpoint, *steps)


@rule(
    "event.missing",
    source=LOGGING,
    example="a log without `seed`; one cut off before `run_stop`; one without `eval_start` (a WARNING)",
)
def missing(run: Run) -> Iterator[Breach]:
    """Every required event is in the log."""
    if not run.log.counts:
        return
    due = required(run.row, aborted=run.aborted, excused=run.excused, is_open=run.is_open)
    keys = [key for key in due if not run.has(key) and not run.has(_INSTEAD.get(key, key))]
    if "run_stop" in keys:
        yield _cut_off(run, keys)
        return
    for key in keys:
        often = "exactly once" if key in ONCE else "at least once"
        yield Breach(
            message=f"{key} is missing", expected=f"{key} {often}", actual="none", severity=_strictness(run, key)
        )


def _cut_off(run: Run, keys: Sequence[str]) -> Breach:
    last = deque(run.log.marks, maxlen=1)[0]
    others = [key for key in keys if key != "run_stop"]
    return Breach(
        message="run_stop is missing: the run did not end, or its log is cut off",
        line=last.line,
        expected="run_stop exactly once" + (f"; also missing: {', '.join(others)}" if others else ""),
        actual=f"the last event is {show(last.key)}",
    )


def _strictness(run: Run, key: str) -> Severity | None:
    """Return WARNING for a key that no rule asks for or that accepted v5.0 logs left out, else None: the rule's own.

    NVIDIA's v5.0 logs of tyche lack eval_start. It would tell how long evaluations took, which no rule judges.
    """
    if run.row is None or not benchmark_named(run.row.benchmark).submittable:
        return None
    left_out = key in _LEFT_OUT_IN_500 and in_force(run.row, until="5.0.0")
    return Severity.WARNING if left_out or key in ("eval_start", "submission_status") else None


@rule(
    "event.repeated",
    source=LOGGING,
    example="`global_batch_size` twice (a WARNING if both values are the same); two runs in one file",
)
def repeated(run: Run) -> Iterator[Breach]:
    """What describes a run is logged once; the same value again, or a second seed, is a WARNING."""
    starts = run.all("run_start")
    if len({start.event.time_ms for start in starts}) > 1:
        yield Breach(
            message="the file holds several runs",
            expected="run_start exactly once",
            actual=f"{len(starts)} times, again in line {starts[1].line}",
        )
        return
    for key in sorted(ONCE):
        repeats = run.all(key)[1:]
        if repeats:
            yield Breach(
                message=f"{key} is logged again",
                line=repeats[0].line,
                expected="exactly once",
                actual=f"{len(repeats) + 1} times",
                severity=Severity.WARNING if _may_repeat(run, key) else Severity.ERROR,
            )


def _may_repeat(run: Run, key: str) -> bool:
    """Return whether compliance_checker and seed_checker accept that a key is logged again.

    Every seed of a run is compared with those of the other runs; see result.seeds. A clock event that is logged twice
    must state the same time. The official checker overlooks that, because all clock events have the value null.
    """
    first, *others = (event.event for event in run.all(key))
    if key in CLOCK and any(other.time_ms != first.time_ms for other in others):
        return False
    return key == "seed" or all(other.value == first.value for other in others)


@rule("event.cache_clear", source=DATA_STATE, example="`cache_clear` false")
def cache_clear(run: Run) -> Iterator[Breach]:
    """Yield every rank that logs cache_clear logs that its caches were cleared."""
    for event in run.all("cache_clear"):
        if event.event.value is not True:
            yield Breach(
                message="the log does not say that caches were cleared",
                line=event.line,
                expected="cache_clear true",
                actual=show(event.event.value),
            )


@rule("event.type", source=LOG_FORMAT, severity=Severity.WARNING, example="`run_start` as POINT_IN_TIME")
def interval(run: Run) -> Iterator[Breach]:
    """Starts, stops and points in time are logged with the event_type that fits them."""
    for event in run.in_order(tuple(INTERVALS)):
        expected, actual = INTERVALS[event.event.key], event.event.event_type
        if actual != expected:
            yield Breach(
                message=f"{event.event.key} has the wrong event_type", line=event.line, expected=expected, actual=actual
            )


# In which order events come.


@rule(
    "event.order", source=RUN_RESULTS, example="`init_start` before `cache_clear`; a hyperparameter after `run_start`"
)
def order(run: Run) -> Iterator[Breach]:
    """Caches are cleared, then the run initialises, starts and stops; everything is announced before it starts."""
    yield from _initialised_early(run)
    for earlier, later in pairwise(("init_start", *CLOCK)):
        yield from _disorder(run, earlier, later)
    start = run.first("run_start")
    late = [event for event in run.in_order(ANNOUNCED) if event.index > start.index]
    if late:
        yield Breach(
            message=f"announced after the run started: {', '.join(event.event.key for event in late)}",
            line=late[0].line,
            expected="submission information, seed and hyperparameters before run_start",
            actual=f"run_start is in line {start.line}",
        )


def _initialised_early(run: Run) -> Iterator[Breach]:
    """Find an init_start before its rank's cache_clear; events of ranks interleave in one file, as in AMD's 8B logs."""
    cleared = started = 0
    # Unless every rank logs both events, nobody can tell which rank an init_start is of.
    both = run.log.counts["cache_clear"] == run.log.counts["init_start"]
    for mark in run.log.marks if run.has("cache_clear") else ():
        cleared += mark.key == "cache_clear"
        started += mark.key == "init_start"
        if started > cleared and (both or not cleared):
            yield Breach(
                message="init_start comes before cache_clear",
                line=mark.line,
                expected="cache_clear before init_start, on each rank",
                actual=f"{cleared} cache_clear before {started} init_start",
            )
            return


@rule("event.official_order", source=LOGGING, example="`opt_base_learning_rate` before `global_batch_size`")
def official_order(run: Run) -> Iterator[Breach]:
    """A value comes after those by which the official checker judges it; that checker rejects one that is too early."""
    for earlier, later in _judged_in_order(run):
        if run.has(earlier) and run.has(later) and run.first(earlier).index > run.first(later).index:
            yield Breach(
                message=f"{earlier} comes after {later}; the log would be refused officially",
                line=run.first(earlier).line,
                expected=f"{earlier} before {later}",
                actual=f"{later} is in line {run.first(later).line}",
            )


def _judged_in_order(run: Run) -> Iterator[tuple[str, str]]:
    """Yield pairs of keys: the official checker judges the second by the first. Source: closed_<benchmark>.yaml."""
    yield "submission_division", "init_stop"
    if isinstance(run.closed_rules.learning_rate, ScaledLearningRate):
        yield "global_batch_size", "opt_base_learning_rate"
        yield "global_batch_size", "opt_learning_rate_warmup_steps"
    if in_force(run.closed_rules, since="5.1.0"):
        yield "opt_learning_rate_warmup_steps", "opt_learning_rate_decay_steps"


def _disorder(run: Run, earlier: str, later: str) -> Iterator[Breach]:
    if run.has(earlier) and run.has(later) and run.last(earlier).index > run.first(later).index:
        yield Breach(
            message=f"{earlier} comes after {later}",
            line=run.last(earlier).line,
            expected=f"{earlier} before {later}",
            actual=f"{later} is in line {run.first(later).line}",
        )


@rule("event.outside_run", source=RUN_RESULTS, example="`block_start` before `run_start`")
def outside_run(run: Run) -> Iterator[Breach]:
    """Nothing is trained or evaluated before run_start, which starts the clock."""
    start = run.first("run_start")
    early = [(event.line, event.event.key) for event in run.in_order(CYCLE) if event.index < start.index]
    early += [(step.line, "a training step") for step in run.log.steps if step.line < start.line]
    if early:
        line, what = min(early)
        yield Breach(
            message=f"{what} before the clock started",
            line=line,
            expected="training and evaluation between run_start and run_stop",
            actual=f"{counted(len(early), 'event')} before run_start in line {start.line}",
        )


@rule("event.after_stop", source=RUN_RESULTS, example="`eval_accuracy` after `run_stop`")
def after_stop(run: Run) -> Iterator[Breach]:
    """No event of the run comes after run_stop, except train_samples."""
    stop = run.first("run_stop")
    marks = islice(run.log.marks, stop.index + 1, None)
    late = [(mark.line, show(mark.key)) for mark in marks if mark.key in _BEFORE_STOP]
    late += [(step.line, "a training step") for step in run.log.steps if step.line > stop.line]
    if late:
        line, what = min(late)
        yield Breach(
            message=f"{what} after the run stopped",
            line=line,
            expected="no event of the run after run_stop, except train_samples",
            actual=f"{counted(len(late), 'event')} after run_stop in line {stop.line}",
        )


@rule("event.samples_count", source=LOGGING, example="`eval_stop` without `samples_count`")
def placed(run: Run) -> Iterator[Breach]:
    """Blocks and evaluations state in their metadata after how many samples they start and stop."""
    for event in run.in_order(CYCLE):
        # eval.position judges eval_accuracy.
        if event.event.key != "eval_accuracy" and samples_count(event) is None:
            yield Breach(
                message=f"{event.event.key} does not say after how many samples it comes",
                line=event.line,
                expected="samples_count as a whole number >= 0",
                actual=show(event.event.metadata.get("samples_count")),
            )


@rule(
    "event.sequence",
    source=LOGGING,
    example="`block_start` twice without an evaluation in between (in 5.0.0 a WARNING)",
)
def sequence(run: Run) -> Iterator[Breach]:
    """Blocks of training alternate with evaluations, and none of their events is missing."""
    for cycle, severity in _cycles(run):
        slips = list(_slips(run, [key for key in cycle if run.has(key)]))
        for kind in dict.fromkeys((slip.key, slip.missing) for slip in slips):
            places = [slip for slip in slips if (slip.key, slip.missing) == kind]
            yield _slip_breach(places, cycle, severity)


def _cycles(run: Run) -> Sequence[tuple[Sequence[str], Severity]]:
    if run.row is not None and in_force(run.row, until="5.0.0"):
        # Accepted v5.0 logs evaluate inside a block, and leave out every block_stop but one.
        return (BLOCK, Severity.WARNING), (EVALUATION, Severity.ERROR)
    return ((CYCLE, Severity.ERROR),)


def _slips(run: Run, cycle: Sequence[str]) -> Iterator[_Slip]:
    """Walk the events of a cycle and yield each slip; a key that the log lacks altogether is left to event.missing."""
    due, before = 0, None
    for event in run.in_order(cycle):
        if before is not None and before.event.key == event.event.key and len(cycle) > 2:
            yield _Slip(key=event.event.key, missing=False, before=before, event=event)
            continue
        place = cycle.index(event.event.key)
        while due != place:
            yield _Slip(key=cycle[due], missing=True, before=before, event=event)
            due = (due + 1) % len(cycle)
        due, before = (place + 1) % len(cycle), event
    if due and run.has("run_stop") and not run.aborted:
        for key in cycle[due:]:
            yield _Slip(key=key, missing=True, before=before, event=run.first("run_stop"))


def _slip_breach(places: Sequence[_Slip], cycle: Sequence[str], severity: Severity) -> Breach:
    first = places[0]
    more = f", and at {counted(len(places) - 1, 'other place')}" if len(places) > 1 else ""
    if first.missing:
        after = "the start of the log" if first.before is None else _place(first.before)
        message = f"{first.key} is missing between {after} and {_place(first.event)}{more}"
    else:
        message = f"{_place(first.event)} follows another {first.key}{more}"
    return Breach(message=message, line=first.event.line, expected=" -> ".join(cycle), severity=severity)


def _place(event: Located) -> str:
    samples = samples_count(event)
    return f"{event.event.key} (line {event.line}{'' if samples is None else f', samples_count {samples}'})"
