"""Which events a log holds, how often, and in which order. Here a missing event is reported, and nowhere else."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise, repeat

from benchmark.benchmarks import benchmark_named
from benchmark.mllog import END, POINT, START
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
# Optional when they came with 6.0.0, exactly once since 6.1.0.
DESCRIPTION = (*PARALLELISM, *PRECISION, "config_filename")
# Fixed by some benchmarks only; others may log them.
# The last names another network than the benchmark's, in the open division, and is our own.
SITUATIONAL = ("init_checkpoint_step", "max_steps", "target_accuracy", "model_size")
ANNOUNCED = (*SUBMISSION, "seed", *HYPERPARAMETERS, *DESCRIPTION, *SITUATIONAL)
"""Every key that a log may hold before its run starts, each at most once."""

CLOCK = ("init_stop", "run_start", "run_stop")
ONCE = frozenset({*ANNOUNCED, *CLOCK, "train_samples"})

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

_MAY_BE_LOST = PER_RANK | {"tracked_stats"}
"""What the official tools need one of, or none."""
_LEFT_OUT_IN_500 = frozenset({"block_stop"})
_NEW_IN_510 = frozenset({"submission_org", "submission_platform"})
_INSTEAD = {"block_start": "epoch_start", "block_stop": "epoch_stop"}
"""What the official files are content with instead."""
_BEFORE_STOP = frozenset({*ANNOUNCED, *CYCLE, "cache_clear", "init_start", "init_stop", "run_start"})
"""What has no place after run_stop; keys that no rule knows have, as in the v6.0 logs of AMD."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slip:
    """A place where the cycle of blocks and evaluations is broken."""

    key: str
    missing: bool
    """Whether the key is missing before `event`; otherwise `event` is one too many."""
    before: Located | None
    event: Located


# The file itself.


@rule("log.unreadable", source=HARNESS, example="a folder or a pipe named `result_0.txt`")
def unreadable(run: Run) -> Iterator[Breach]:
    """A log is a regular file that can be read."""
    yield from _defects(run, DefectKind.UNREADABLE)


@rule("log.empty", source=LOGGING, example="a file without a `:::MLLOG` line")
def empty(run: Run) -> Iterator[Breach]:
    """A log holds events."""
    if not run.log.counts and not run.log.defects:
        yield Breach(message="no event in the file", expected="lines with :::MLLOG", actual="none")


@rule("log.malformed", source=LOG_FORMAT, example='`:::MLLOG {"key": "seed", "value": NaN}`')
def malformed(run: Run) -> Iterator[Breach]:
    """What follows :::MLLOG is one event: strict JSON, finite numbers, unique names, the fields that mllog writes."""
    yield from _defects(run, DefectKind.MALFORMED)


@rule("log.long_line", source=HARNESS, example="a `:::MLLOG` line of more than a million bytes")
def long_line(run: Run) -> Iterator[Breach]:
    """A line that holds an event is short enough to be read."""
    yield from _defects(run, DefectKind.LONG_LINE)


@rule(
    "log.official_line",
    source=LOG_FORMAT,
    example="text after an event; two events on one line, a WARNING where the lost one is not needed",
)
def official_line(run: Run) -> Iterator[Breach]:
    """The official parser takes a line from its last :::MLLOG to its end for one event; it loses or rejects others."""
    log = run.log
    if not log.crowded:
        return
    needed = [key for key, lost in log.lost.items() if key not in _MAY_BE_LOST or lost == log.counts[key]]
    refused = bool(needed) or sum(log.lost.values()) < len(log.crowded)
    yield Breach(
        message="an event that the official parser does not read where it stands"
        + ("; the log would be refused officially" if refused else ", and does not need"),
        line=log.crowded[0],
        expected="one event a line, after `:::MLLOG ` and with nothing behind it",
        actual=f"{len(log.crowded)} such events" + (f", of {show(needed[0])} among others" if needed else ""),
        severity=Severity.ERROR if refused else Severity.WARNING,
    )


OFFICIAL_LINE = RUN_RULES.rules["log.official_line"]


@rule("log.flood", source=HARNESS, example="a log that every rank wrote all of its events to")
def flood(run: Run) -> Iterator[Breach]:
    """A log holds no more events than one run can have."""
    if run.log.dropped:
        yield Breach(message=f"{run.log.dropped} events are too many to be judged and were left out")


def _defects(run: Run, kind: DefectKind) -> Iterator[Breach]:
    for defect in run.log.defects:
        if defect.kind is kind:
            yield Breach(message=defect.message, line=defect.line, actual=defect.actual)
    yield from repeat(Breach(message="another one"), max(0, run.log.defect_counts[kind] - MAX_DEFECTS))


# Which events, how often.


def required(
    row: Rules | None, *, aborted: bool = False, excused: bool = False, is_open: bool = False
) -> tuple[str, ...]:
    """The keys that a log must hold, in the order in which they are logged."""
    submission = [key for key in SUBMISSION if key not in _NEW_IN_510 or row is None or in_force(row, since="5.1.0")]
    # training_rules, "Random numbers": in the open division the seed is not expected to be logged.
    announced = (*submission, *(() if is_open else ("seed",)), *HYPERPARAMETERS, *_required_by(row))
    # What an aborted run did not come to is no second fault, nor that one that need not reach the target was killed.
    cycle = () if aborted else CYCLE
    end = () if excused else ("run_stop", "train_samples")
    return ("cache_clear", "init_start", *announced, "init_stop", "run_start", *cycle, *end)


def _required_by(row: Rules | None) -> tuple[str, ...]:
    if row is None:
        return ()
    if not benchmark_named(row.benchmark).submittable:
        # A benchmark of this harness alone: its logs hold all that the harness logs.
        return (*DESCRIPTION, "max_steps", "target_accuracy")
    description = DESCRIPTION if in_force(row, since="6.1.0") else ()
    checkpoint = () if row.init_checkpoint_step is None else ("init_checkpoint_step",)
    steps = () if row.fixed_max_steps is None else ("max_steps",)
    return (*description, *checkpoint, *steps)


@rule("event.missing", source=LOGGING, example="no `seed`; no `run_stop`, in a log that was cut off")
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
    """WARNING for what no rule asks for, and for what accepted v5.0 logs left out; the rule's own severity otherwise.

    Without eval_start (NVIDIA's v5.0 logs of tyche) nobody can tell how long evaluations took, which is judged nowhere.
    """
    if run.row is None or not benchmark_named(run.row.benchmark).submittable:
        return None
    left_out = key in _LEFT_OUT_IN_500 and in_force(run.row, until="5.0.0")
    return Severity.WARNING if left_out or key in ("eval_start", "submission_status") else None


@rule(
    "event.repeated",
    source=LOGGING,
    example="two `global_batch_size`, a WARNING if they say the same; two runs in one file",
)
def repeated(run: Run) -> Iterator[Breach]:
    """What describes a run is logged exactly once; the same value again, or a second seed, is a WARNING."""
    starts = run.all("run_start")
    if len({start.event.time_ms for start in starts}) > 1:
        yield Breach(
            message="the file holds several runs",
            expected="run_start exactly once",
            actual=f"{len(starts)} times, again in line {starts[1].line}",
        )
        return
    for key in sorted(ONCE):
        again = run.all(key)[1:]
        if again:
            yield Breach(
                message=f"{key} is logged again",
                line=again[0].line,
                expected="exactly once",
                actual=f"{len(again) + 1} times",
                severity=Severity.WARNING if _may_repeat(run, key) else Severity.ERROR,
            )


def _may_repeat(run: Run, key: str) -> bool:
    """Whether a key that is logged again changes nothing, by compliance_checker and by seed_checker.

    Each seed of a run is compared with those of the others; see result.seeds. A clock that starts or stops twice has to
    say the same time, which the official checker overlooks because all its events have the value null.
    """
    first, *others = (event.event for event in run.all(key))
    if key in CLOCK and any(other.time_ms != first.time_ms for other in others):
        return False
    return key == "seed" or all(other.value == first.value for other in others)


@rule("event.cache_clear", source=DATA_STATE, example="`cache_clear` false")
def cache_clear(run: Run) -> Iterator[Breach]:
    """Caches were cleared, on every rank that says anything about it."""
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
    """Starts, stops and points are logged as such."""
    for event in run.in_order(tuple(INTERVALS)):
        expected, actual = INTERVALS[event.event.key], event.event.event_type
        if actual != expected:
            yield Breach(
                message=f"{event.event.key} has the wrong event_type", line=event.line, expected=expected, actual=actual
            )


# In which order.


@rule(
    "event.order", source=RUN_RESULTS, example="`init_start` before `cache_clear`; a hyperparameter after `run_start`"
)
def order(run: Run) -> Iterator[Breach]:
    """Caches are cleared, initialisation starts and stops, the run starts, after all is announced, and stops."""
    yield from _initialised_early(run)
    for earlier, later in pairwise(("init_start", *CLOCK)):
        yield from _disorder(run, earlier, later)
    start = run.first("run_start")
    late = [event for event in run.in_order(ANNOUNCED) if event.index > start.index]
    if late:
        yield Breach(
            message=f"announced after the run started: {', '.join(event.event.key for event in late)}",
            line=late[0].line,
            expected="all that is announced before run_start",
            actual=f"run_start is in line {start.line}",
        )


def _initialised_early(run: Run) -> Iterator[Breach]:
    """Each rank clears its caches before it initialises; ranks that write one file interleave, as in AMD's 8B logs."""
    cleared = started = 0
    # Where not every rank logs both, it is not known whose initialisation an event is.
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
    """The official checker judges a value by those logged before it, and rejects a right one that comes too early."""
    for earlier, later in _judged_in_order(run):
        if run.has(earlier) and run.has(later) and run.first(earlier).index > run.first(later).index:
            yield Breach(
                message=f"{earlier} comes after {later}; the log would be refused officially",
                line=run.first(earlier).line,
                expected=f"{earlier} before {later}",
                actual=f"{later} is in line {run.first(later).line}",
            )


def _judged_in_order(run: Run) -> Iterator[tuple[str, str]]:
    """Pairs of which the official checker needs the first to judge the second. Source: closed_<benchmark>.yaml."""
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
    """Nothing is trained or evaluated before the clock starts."""
    start = run.first("run_start")
    early = [(event.line, event.event.key) for event in run.in_order(CYCLE) if event.index < start.index]
    early += [(step.line, "a training step") for step in run.log.steps if step.line < start.line]
    if early:
        line, what = min(early)
        yield Breach(
            message=f"{what} before the clock started",
            line=line,
            expected="training and evaluation between run_start and run_stop",
            actual=f"{len(early)} events before run_start in line {start.line}",
        )


@rule("event.after_stop", source=RUN_RESULTS, example="`eval_accuracy` after `run_stop`")
def after_stop(run: Run) -> Iterator[Breach]:
    """A run ends with run_stop."""
    stop = run.first("run_stop")
    marks = islice(run.log.marks, stop.index + 1, None)
    late = [(mark.line, show(mark.key)) for mark in marks if mark.key in _BEFORE_STOP]
    late += [(step.line, "a training step") for step in run.log.steps if step.line > stop.line]
    if late:
        line, what = min(late)
        yield Breach(
            message=f"{what} after the run stopped",
            line=line,
            expected="nothing of the run after run_stop but train_samples",
            actual=f"{len(late)} events after run_stop in line {stop.line}",
        )


@rule("event.samples_count", source=LOGGING, example="`eval_stop` without `samples_count`")
def placed(run: Run) -> Iterator[Breach]:
    """Blocks and evaluations say in their metadata after how many sequences they start and stop."""
    for event in run.in_order(CYCLE):
        # eval.position is about eval_accuracy.
        if event.event.key != "eval_accuracy" and samples_count(event) is None:
            yield Breach(
                message=f"{event.event.key} does not say where it is",
                line=event.line,
                expected="samples_count as a whole number >= 0",
                actual=show(event.event.metadata.get("samples_count")),
            )


@rule(
    "event.sequence", source=LOGGING, example="`block_start` twice, without an evaluation between; in 5.0.0 a WARNING"
)
def sequence(run: Run) -> Iterator[Breach]:
    """Blocks of training and evaluations alternate, each started, reported and stopped."""
    for cycle, severity in _cycles(run):
        slips = list(_slips(run, [key for key in cycle if run.has(key)]))
        for kind in dict.fromkeys((slip.key, slip.missing) for slip in slips):
            places = [slip for slip in slips if (slip.key, slip.missing) == kind]
            yield _slip_breach(places, cycle, severity)


def _cycles(run: Run) -> Sequence[tuple[Sequence[str], Severity]]:
    if run.row is not None and in_force(run.row, until="5.0.0"):
        # Accepted v5.0 logs evaluate inside a block, and leave out all block_stops but one.
        return (BLOCK, Severity.WARNING), (EVALUATION, Severity.ERROR)
    return ((CYCLE, Severity.ERROR),)


def _slips(run: Run, cycle: Sequence[str]) -> Iterator[_Slip]:
    """Walk the events of a cycle; its keys are those that the log has, for one that is nowhere is reported as that."""
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
    more = f", and at {len(places) - 1} other places" if len(places) > 1 else ""
    if first.missing:
        after = "the start of the log" if first.before is None else _place(first.before)
        message = f"{first.key} is missing between {after} and {_place(first.event)}{more}"
    else:
        message = f"{_place(first.event)} follows another {first.key}{more}"
    return Breach(message=message, line=first.event.line, expected=" -> ".join(cycle), severity=severity)


def _place(event: Located) -> str:
    samples = samples_count(event)
    return f"{event.event.key} (line {event.line}{'' if samples is None else f', samples_count {samples}'})"
