"""One log as the rules see it: its events by key, the rules that apply, its evaluations and training steps.

A property raises AbsentError if the log lacks an event that it needs; see compliance.checks.rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from benchmark.benchmarks import UnknownRulesError, find
from benchmark.rules import FreeLearningRate, Rules, RuleViolationError, Schedule
from compliance.checks.rule import AbsentError, Rulebook, in_force
from compliance.findings import as_count, as_number
from compliance.log import Located, Log
from compliance.ruleset import LATEST, ChosenRuleset, round_at

EVALUATION = ("eval_start", "eval_accuracy", "eval_stop")
BLOCK = ("block_start", "block_stop")
FREE_IN_OPEN = "hyperparameters, batch size, first loss, cadence of evaluations, seeds and convergence"
"""What the rules fix only in the closed division, so that it is not judged in the open one."""

CYCLE = (*BLOCK, *EVALUATION)
"""The keys that a run repeats between run_start and run_stop, in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The events of one evaluation; None for one that is missing."""

    start: Located | None
    accuracy: Located | None
    stop: Located | None

    @property
    def events(self) -> tuple[Located, ...]:
        """The events that the log has, at least one: the start, the stop, then the value."""
        return tuple(event for event in (self.start, self.stop, self.accuracy) if event is not None)

    @property
    def position(self) -> int:
        """Samples trained on before the evaluation."""
        # Some published logs count one batch less at eval_accuracy, so it comes last; see eval.position.
        return next(filter(None, map(samples_count, self.events)))

    @property
    def log_perplexity(self) -> float | None:
        """The value of eval_accuracy; None if it is missing or not a number."""
        return None if self.accuracy is None else as_number(self.accuracy.event.value)

    @property
    def line(self) -> int | None:
        """The line of eval_accuracy, else that of another of its events."""
        return next((event.line for event in (self.accuracy, self.start, self.stop) if event is not None), None)


@dataclass(frozen=True)
class Run:
    """A log under a ruleset."""

    log: Log
    chosen: ChosenRuleset = LATEST
    """The ruleset to judge by."""
    excused: bool = False
    """Whether it is the one run of its result that may miss the target and counts as the slowest."""

    @property
    def file(self) -> str:
        return str(self.log.path)

    # Events.

    def all(self, key: str) -> Sequence[Located]:
        """Return the kept events of a key, in file order."""
        return self.log.events.get(key, ())

    def has(self, key: str) -> bool:
        """Return whether the log has an event of a key."""
        return self.log.counts[key] > 0

    def first(self, key: str) -> Located:
        """Return the first event of a key.

        Raises:
            AbsentError: there is none.
        """
        if not self.all(key):
            raise AbsentError(key)
        return self.all(key)[0]

    def last(self, key: str) -> Located:
        """Return the last event of a key; raises AbsentError as `first` does."""
        self.first(key)
        return self.all(key)[-1]

    def value(self, key: str) -> object:
        """Return the value of the first event of a key; raises AbsentError as `first` does."""
        return self.first(key).event.value

    def number(self, key: str) -> float:
        """Return the number that is the value of a key's first event.

        Raises:
            AbsentError: there is no such event, or its value is not a finite number.
        """
        number = as_number(self.value(key))
        if number is None:
            raise AbsentError(key)
        return number

    def in_order(self, keys: Sequence[str]) -> list[Located]:
        """Return every event of the keys, in file order."""
        return sorted((event for key in keys for event in self.all(key)), key=lambda event: event.index)

    # The rules that apply.

    @cached_property
    def row(self) -> Rules | None:
        """The rules of the chosen ruleset; for a run of an earlier round, with the evaluations of that round."""
        row, own = self._row_of(self.chosen.ruleset), self.own_round
        return row if row is None or own is None else row.evaluated_as(own)

    @cached_property
    def own_round(self) -> Rules | None:
        """The rules of the round that the run was made for, by its time, if that is an earlier one; else None.

        Also None for a run that was made early for the new round: it evaluates when that round says. Logs of an earlier
        round may be submitted again and then have to pass the checkers of the new round, which judge everything in a
        log except when it evaluates.
        Source: training_rules.adoc, "Results Resubmission".
        """
        row, starts = self._row_of(self.chosen.ruleset), self.all("run_start")
        made_for = round_at(starts[0].event.time_ms) if starts else None
        own = None if made_for is None else self._row_of(made_for)
        if row is None or own is None or own == row or not in_force(own, until=row.ruleset):
            return None
        made_early = self._evaluates_first_as(row) and not self._evaluates_first_as(own)
        return None if made_early else own

    def _evaluates_first_as(self, row: Rules) -> bool:
        """Return whether the first evaluation is where a row has it, which depends on the batch size only."""
        try:
            size = self.global_batch_size
        except AbsentError:
            return False
        first = (row.skipped_evals(size) + 1) * row.eval_interval_steps(size) * size
        return bool(self.evaluations) and self.evaluations[0].position == first

    def _row_of(self, ruleset: str | None) -> Rules | None:
        try:
            benchmark = self.value("submission_benchmark")
            return find(benchmark, ruleset) if isinstance(benchmark, str) else None
        except (AbsentError, UnknownRulesError):
            return None

    @property
    def rules(self) -> Rules:
        """The rules that apply; raises AbsentError if there are none."""
        if self.row is None:
            raise AbsentError("submission_benchmark")
        return self.row

    @property
    def is_open(self) -> bool:
        """Whether the log states the open division."""
        return self.has("submission_division") and self.value("submission_division") == "open"

    @property
    def closed_rules(self) -> Rules:
        """The rules, for values that they fix only in the closed division; raises AbsentError in the open one."""
        if self.is_open:
            raise AbsentError("closed division")
        return self.rules

    @property
    def global_batch_size(self) -> int:
        """Samples of a step; raises AbsentError if the log has no whole number >= 1 under that key."""
        size = as_count(self.value("global_batch_size"))
        if not size:
            raise AbsentError("global_batch_size")
        return size

    @property
    def schedule(self) -> Schedule:
        """The schedule that the rules give this run; where they leave it free, with its own learning rate and warm-up.

        Raises:
            AbsentError: the log lacks a value that the schedule needs.
        """
        if not isinstance(self.rules.learning_rate, FreeLearningRate):
            return self.rules.schedule(self.global_batch_size)
        rate = self.number("opt_base_learning_rate")
        warmup = int(self.number("opt_learning_rate_warmup_steps"))
        try:
            return self.rules.schedule(self.global_batch_size, learning_rate=rate, warmup_steps=warmup)
        except RuleViolationError as error:
            raise AbsentError("schedule") from error

    # What happened in the run.

    @property
    def status(self) -> object:
        """The status at run_stop; raises AbsentError without a run_stop."""
        return self.first("run_stop").event.metadata.get("status")

    @property
    def aborted(self) -> bool:
        """Whether it stopped before its target. An excused run without run_stop counts: it may have been killed."""
        return self.status == "aborted" if self.has("run_stop") else self.excused

    @cached_property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """The evaluations, in file order. Events without a usable samples_count belong to none of them."""
        return tuple(_evaluations(self.in_order(EVALUATION)))

    @property
    def last_evaluation(self) -> Evaluation:
        """The last evaluation; raises AbsentError if there is none."""
        if not self.evaluations:
            raise AbsentError("eval_accuracy")
        return self.evaluations[-1]

    @property
    def last_log_perplexity(self) -> float:
        """The log perplexity of the last evaluation; raises AbsentError if it has no usable value."""
        value = self.last_evaluation.log_perplexity
        if value is None:
            raise AbsentError("eval_accuracy")
        return value

    @property
    def samples(self) -> int:
        """Samples trained on, by run_stop or else by the last evaluation; raises AbsentError without either."""
        stated = samples_count(self.first("run_stop"))
        return self.last_evaluation.position if stated is None else stated


def samples_count(event: Located) -> int | None:
    """Return the samples_count in an event's metadata; None if it is missing or not a whole number."""
    return as_count(event.event.metadata.get("samples_count"))


def _evaluations(events: Iterable[Located]) -> Iterator[Evaluation]:
    """Group events into evaluations: from a start to its stop or, if one is missing, those with one samples_count."""
    current: dict[str, Located] = {}
    for event in filter(samples_count, events):
        if current and _begins_another(event, current):
            yield _evaluation(current)
            current = {}
        current[event.event.key] = event
    if current:
        yield _evaluation(current)


def _begins_another(event: Located, current: Mapping[str, Located]) -> bool:
    """Return whether an event belongs to another evaluation than the current events."""
    key = event.event.key
    is_apart = key == "eval_start" or "eval_stop" in current
    return key in current or (is_apart and samples_count(event) not in map(samples_count, current.values()))


def _evaluation(events: Mapping[str, Located]) -> Evaluation:
    start, accuracy, stop = map(events.get, EVALUATION)
    return Evaluation(start=start, accuracy=accuracy, stop=stop)


RUN_RULES: Rulebook[Run] = Rulebook()
rule = RUN_RULES.rule
