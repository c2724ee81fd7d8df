"""Each rule finds what breaks it; what breaks nothing is not found."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from benchmark.announce import announce
from benchmark.benchmarks import find
from benchmark.files import RUN_JSON
from benchmark.mllog import TOKEN
from benchmark.rules import ScaledLearningRate
from compliance.checks.clock import AT_ONCE_MS
from compliance.checks.events import ANNOUNCED, required
from compliance.findings import Severity
from compliance.log import MAX_KEPT, MAX_LINE
from compliance.ruleset import PUBLISHED
from compliance.run import CYCLE, RUN_RULES
from tests.conftest import BASES
from tests.logs import LogFile, errors, llama31_405b, make_log, reaching, tiny

Valid = Callable[[str], LogFile]


@pytest.mark.parametrize("base", BASES)
def test_valid_log_has_no_finding(valid: Valid, base: str) -> None:
    """A log of the real loop breaks no rule of any benchmark."""
    assert valid(base).findings() == ()


# One event missing is one finding.


def test_any_removed_event_of_tiny_is_one_error_that_names_it(log: LogFile, subtests: pytest.Subtests) -> None:
    """Whichever line of a log of ours is removed, exactly one ERROR says which event is missing, and nothing else."""
    events = list(log.events)
    for index, removed in enumerate(events):
        log.events = events[:index] + events[index + 1 :]
        log.save()
        with subtests.test(key=removed["key"], line=index + 1):
            (finding,) = log.findings()
            assert finding.severity is Severity.ERROR
            assert f"{removed['key']} is missing" in finding.message
            samples = removed["metadata"].get("samples_count")
            repeated = [event["key"] for event in events].count(removed["key"]) > 1
            assert not (repeated and samples) or str(samples) in finding.message


@pytest.mark.parametrize("base", ["405b", "8b"])
def test_any_removed_required_event_is_one_error(valid: Valid, base: str, subtests: pytest.Subtests) -> None:
    """In a log of an official benchmark, a missing required event is one ERROR, and a missing optional one is not."""
    log = valid(base)
    needed = {*required(BASES[base]().rules), "tracked_stats"}
    asked_for_by_no_rule = {"submission_status"}
    events = list(log.events)
    for index, removed in enumerate(events):
        log.events = events[:index] + events[index + 1 :]
        log.save()
        with subtests.test(key=removed["key"], line=index + 1):
            found = log.findings()
            assert len(found) == (removed["key"] in needed)
            assert len(errors(found)) == (removed["key"] in needed - asked_for_by_no_rule)
            assert all(f"{removed['key']} is missing" in finding.message for finding in found)


def test_log_cut_after_any_line_names_run_stop(log: LogFile, subtests: pytest.Subtests) -> None:
    """A log that was cut off is one ERROR about run_stop, wherever it was cut."""
    events = list(log.events)
    for length in range(1, log.indices("run_stop")[0] + 1):
        log.events = events[:length]
        log.save()
        with subtests.test(length=length):
            (finding,) = log.findings()
            assert (finding.rule, finding.severity) == ("event.missing", Severity.ERROR)
            assert "run_stop is missing" in finding.message


def test_log_cut_before_run_stop_lists_the_rest(log: LogFile) -> None:
    """The one finding about a log that was cut off lists what else is missing."""
    log.events = log.events[: log.indices("seed")[0]]
    log.save()
    (finding,) = log.findings()
    assert "seed" in finding.expected
    assert "run_start" in finding.expected


# The target.


def test_missed_target_is_one_error(tmp_path: Path) -> None:
    """A run that ends above the target has one ERROR, with the target, the last value and why the run ended."""
    first, interval = tiny().schedule.first_eval_step, tiny().schedule.eval_interval_steps
    config = tiny(MAX_STEPS=first + interval)
    target = config.rules.target_log_perplexity
    path = make_log(tmp_path / "result_0.txt", config, [target + 1, target + 0.25])
    (finding,) = LogFile(path).findings()
    assert (finding.rule, finding.severity) == ("eval.target", Severity.ERROR)
    assert str(target) in finding.expected
    assert str(target + 0.25) in finding.actual
    assert "aborted" in finding.message


def test_run_that_died_is_one_error_with_its_reason(tmp_path: Path) -> None:
    """A run that ends before its first evaluation has one ERROR, with the reason that run_stop gives."""
    with pytest.raises(ValueError, match="disk full"):
        make_log(tmp_path / "result_0.txt", tiny(), _failing("disk full"))
    (finding,) = LogFile(tmp_path / "result_0.txt").findings()
    assert (finding.rule, finding.severity) == ("run.status", Severity.ERROR)
    assert "disk full" in finding.message


def test_run_without_a_loss_is_one_error_with_its_reason(tmp_path: Path) -> None:
    """A run that a loss of NaN ended has one ERROR, with the reason that run_stop gives."""
    path = make_log(tmp_path / "result_0.txt", tiny(), (), initial_loss=math.nan)
    (finding,) = LogFile(path).findings()
    assert (finding.rule, finding.severity) == ("run.status", Severity.ERROR)
    assert "loss is nan" in finding.message


def _failing(reason: str) -> Iterable[float]:
    yield from ()
    raise ValueError(reason)


# Each rule, broken alone.


def _set(key: str, value: object, nth: int = 0) -> Callable[[LogFile], None]:
    return lambda log: log.set(key, value, nth)


def _metadata(key: str, nth: int = 0, **values: object) -> Callable[[LogFile], None]:
    return lambda log: log.get(key, nth)["metadata"].update(values)


def _scaled(key: str, factor: float) -> Callable[[LogFile], None]:
    return lambda log: log.set(key, log.get(key)["value"] * factor)


def _long_line(log: LogFile) -> None:
    log.append(":::MLLOG " + " " * MAX_LINE + "\n")


def _flood(log: LogFile) -> None:
    log.events[2:2] = [log.get("seed") | {"key": "note"}] * MAX_KEPT


def _unreadable(log: LogFile) -> None:
    log.path.unlink()
    log.path.mkdir()


def _bad_provenance(log: LogFile) -> None:
    log.path.with_name(RUN_JSON).write_text("{", encoding="utf-8")


def _backward_clock(log: LogFile) -> None:
    log.get("block_stop")["time_ms"] -= 1


def _no_run_time(log: LogFile) -> None:
    log.get("run_stop")["time_ms"] = log.get("run_start")["time_ms"]


def _paused_clock(log: LogFile) -> None:
    paused = [event for event in log.events if event["key"] in ("run_stop", "train_samples")]
    for event in paused:
        event["time_ms"] = log.get("block_stop")["time_ms"]


def _paused_between_reports(log: LogFile) -> None:
    """Every fourth step is reported, and half of the time is on no clock."""
    _report_every(log, 4)
    start = log.get("run_start")["time_ms"]
    for event in log.events[log.indices("run_start")[0] :]:
        event["time_ms"] = start + (event["time_ms"] - start) // 2


def _late_init(log: LogFile) -> None:
    log.delay("init_stop", 60 * BASES["tiny"]().rules.init_limit_minutes_closed)


def _off_schedule(log: LogFile) -> None:
    size = log.get("global_batch_size")["value"]
    for key in ("eval_start", "eval_accuracy", "eval_stop"):
        log.get(key)["metadata"]["samples_count"] -= size


def _ended_by_max_steps(log: LogFile) -> None:
    size = log.get("global_batch_size")["value"]
    for key in ("block_stop", "eval_start", "eval_accuracy", "eval_stop", "run_stop", "train_samples"):
        log.get(key, -1)["metadata"]["samples_count"] = log.get("run_stop")["metadata"]["samples_count"] - size
    log.set("max_steps", log.get("run_stop")["metadata"]["samples_count"] // size)
    log.drop("tracked_stats", -1)


def _tried_again(log: LogFile) -> None:
    """After the first evaluation, a block of no step and another evaluation of the same weights."""
    first = [log.get(key) for key in CYCLE]
    at = log.indices("eval_stop")[0]
    place = {"samples_count": first[-1]["metadata"]["samples_count"]}
    again = [event | {"time_ms": first[-1]["time_ms"], "metadata": event["metadata"] | place} for event in first]
    log.events[at + 1 : at + 1] = again


def _passed_before(log: LogFile) -> None:
    log.set("eval_accuracy", log.get("eval_accuracy", -1)["value"])


def _missed(log: LogFile) -> None:
    log.set("eval_accuracy", log.get("target_accuracy")["value"] + 0.5, nth=-1)


def _add(log: LogFile, key: str, value: object) -> None:
    log.events.insert(log.indices("seed")[0], log.get("seed") | {"key": key, "value": value})


def _again(log: LogFile, key: str, value: object) -> None:
    log.repeat(key)
    log.events[log.indices(key)[1]] = log.get(key) | {"value": value}


def _count_further(log: LogFile, batches: int, *keys: str) -> None:
    size = log.get("global_batch_size")["value"]
    for event in log.events:
        if event["key"] in keys:
            event["metadata"] = event["metadata"] | {
                "samples_count": event["metadata"]["samples_count"] + batches * size
            }


def _report_every(log: LogFile, steps: int, *, until: float = 1.0) -> None:
    """Leave reports of every few steps, up to a part of the run."""
    last = log.get("run_stop")["metadata"]["samples_count"] * until
    gap = steps * log.get("global_batch_size")["value"]
    log.events = [
        event
        for event in log.events
        if event["key"] != "tracked_stats"
        or (event["metadata"]["samples_count"] % gap == 0 and event["metadata"]["samples_count"] <= last)
    ]


def _first_loss(log: LogFile, loss: float) -> None:
    log.get("tracked_stats")["value"]["reduced_train_loss"] = loss


def _huge_batch(log: LogFile) -> None:
    log.set("global_batch_size", BASES["405b"]().rules.max_global_batch_size * 2)  # type: ignore[operator]


def _unverifiable_batch(log: LogFile) -> None:
    rate = find("llama31_405b").learning_rate
    assert isinstance(rate, ScaledLearningRate)
    log.set("global_batch_size", next(size for size in range(rate.batch, 2 * rate.batch) if not rate.verifiable(size)))


def _of_the_round_before(log: LogFile) -> None:
    days = PUBLISHED["6.0.0"] - datetime.fromtimestamp(log.get("run_start")["time_ms"] / 1000, UTC).date()
    for event in log.events:
        event["time_ms"] += 1000 * (days - timedelta(days=1)).total_seconds()


BREAKS: list[tuple[str, str, Callable[[LogFile], None]]] = [
    ("log.unreadable", "tiny", _unreadable),
    ("log.empty", "tiny", lambda log: log.events.clear()),
    ("run.resubmitted", "8b", _of_the_round_before),
    ("log.malformed", "tiny", lambda log: log.append(":::MLLOG {broken}\n")),
    ("log.long_line", "tiny", _long_line),
    ("log.official_line", "tiny", lambda log: log.append(f"{TOKEN}{json.dumps(log.get('tracked_stats'))}\n")),
    ("log.flood", "tiny", _flood),
    ("event.missing", "tiny", lambda log: log.drop("seed")),
    ("event.repeated", "tiny", lambda log: _again(log, "opt_adamw_beta_1", 0.8)),
    ("event.repeated", "tiny", lambda log: log.repeat("init_stop")),
    ("event.repeated", "tiny", lambda log: log.events.extend(log.events)),
    ("event.cache_clear", "tiny", _set("cache_clear", False)),
    ("event.type", "tiny", lambda log: log.get("run_start").update(event_type="POINT_IN_TIME")),
    ("event.order", "tiny", lambda log: log.move("init_start", before="cache_clear")),
    ("event.order", "tiny", lambda log: log.move("run_start", before="seed")),
    ("event.official_order", "tiny", lambda log: log.move("opt_base_learning_rate", before="global_batch_size")),
    ("event.official_order", "tiny", lambda log: log.move("submission_division", before="run_start")),
    ("event.outside_run", "tiny", lambda log: log.move("block_start", before="run_start")),
    ("event.outside_run", "tiny", lambda log: log.move("tracked_stats", before="run_start")),
    ("event.after_stop", "tiny", lambda log: log.move("run_stop", before="eval_accuracy")),
    ("event.after_stop", "tiny", lambda log: log.events.append(log.get("tracked_stats", -1))),
    ("event.samples_count", "tiny", lambda log: log.get("eval_stop")["metadata"].pop("samples_count")),
    ("event.samples_count", "tiny", _metadata("block_start", samples_count=-1)),
    ("event.sequence", "tiny", lambda log: log.drop("eval_stop", 1)),
    ("event.sequence", "tiny", lambda log: log.repeat("eval_accuracy")),
    ("run.benchmark", "tiny", _set("submission_benchmark", "bert")),
    ("run.benchmark", "tiny", _set("submission_benchmark", {"not": "a name"})),
    ("run.provenance", "tiny", _bad_provenance),
    ("run.division", "tiny", _set("submission_division", "Closed")),
    ("run.submission", "tiny", _set("submission_org", " ")),
    ("run.config_filename", "8b", _set("config_filename", "")),
    ("run.seed", "tiny", _set("seed", "twenty")),
    ("run.seed", "tiny", _set("seed", 20.5)),
    ("run.seed", "tiny", _set("seed", True)),
    ("run.seed", "tiny", lambda log: log.get("seed")["metadata"].clear()),
    ("run.seed_again", "tiny", lambda log: log.repeat("seed")),
    ("run.official_open", "8b", _set("submission_division", "open")),
    ("run.status", "tiny", _metadata("run_stop", status="aborted")),
    ("run.samples", "tiny", _metadata("run_stop", samples_count=1)),
    ("hyperparameter.positive", "tiny", _set("gradient_accumulation_steps", 0)),
    ("hyperparameter.positive", "tiny", _set("global_batch_size", "16")),
    ("hyperparameter.positive", "tiny", _set("tensor_parallelism", 0.5)),
    ("hyperparameter.whole", "tiny", _scaled("gradient_accumulation_steps", 1.0)),
    ("hyperparameter.train_samples", "tiny", _set("train_samples", "many")),
    ("hyperparameter.train_samples", "tiny", _set("train_samples", 1)),
    ("hyperparameter.accumulation", "405b", _set("gradient_accumulation_steps", 7)),
    ("hyperparameter.accumulation", "405b", _set("micro_batch_size", 5)),
    ("hyperparameter.dropout", "405b", lambda log: _add(log, "attention_dropout", 0.1)),
    ("hyperparameter.precision", "tiny", _set("lowest_numerical_precision_in_attn", "bf16")),
    ("hyperparameter.largest_batch", "405b", _huge_batch),
    ("hyperparameter.reference_batch", "405b", _scaled("global_batch_size", 0.5)),
    ("hyperparameter.learning_rate_check", "405b", _unverifiable_batch),
    ("hyperparameter.opt_base_learning_rate", "tiny", _scaled("opt_base_learning_rate", 1.001)),
    ("hyperparameter.opt_base_learning_rate", "8b", _scaled("opt_base_learning_rate", -1)),
    ("hyperparameter.opt_end_learning_rate", "tiny", _scaled("opt_end_learning_rate", 2)),
    ("hyperparameter.opt_end_learning_rate", "8b", _scaled("opt_end_learning_rate", 2)),
    ("hyperparameter.opt_learning_rate_warmup_steps", "tiny", _set("opt_learning_rate_warmup_steps", 1)),
    ("hyperparameter.opt_learning_rate_warmup_steps", "8b", _set("opt_learning_rate_warmup_steps", 0.5)),
    ("hyperparameter.opt_learning_rate_decay_steps", "tiny", _scaled("opt_learning_rate_decay_steps", 2)),
    ("hyperparameter.opt_learning_rate_decay_steps", "8b", _scaled("opt_learning_rate_decay_steps", 2)),
    ("hyperparameter.max_sequence_length", "tiny", _scaled("max_sequence_length", 2)),
    ("hyperparameter.init_checkpoint_step", "405b", _set("init_checkpoint_step", 1)),
    ("hyperparameter.max_steps", "8b", _set("max_steps", 1)),
    ("hyperparameter.eval_samples", "tiny", _scaled("eval_samples", 0.5)),
    ("hyperparameter.target_accuracy", "tiny", _scaled("target_accuracy", 1.1)),
    ("hyperparameter.opt_name", "tiny", _set("opt_name", "lamb")),
    ("hyperparameter.opt_learning_rate_decay_schedule", "tiny", _set("opt_learning_rate_decay_schedule", "linear")),
    ("hyperparameter.opt_adamw_beta_1", "tiny", _set("opt_adamw_beta_1", True)),
    ("hyperparameter.opt_adamw_beta_2", "tiny", _scaled("opt_adamw_beta_2", 0.5)),
    ("hyperparameter.opt_adamw_epsilon", "tiny", _scaled("opt_adamw_epsilon", 10)),
    ("hyperparameter.opt_adamw_weight_decay", "tiny", _set("opt_adamw_weight_decay", None)),
    ("hyperparameter.opt_gradient_clip_norm", "tiny", _scaled("opt_gradient_clip_norm", 2)),
    ("clock.init_limit", "tiny", _late_init),
    ("clock.init_limit", "tiny", lambda log: log.delay("run_start", 60 * 30)),
    ("clock.gap", "tiny", lambda log: log.delay("run_start", 2 * AT_ONCE_MS / 1000)),
    ("clock.monotone", "tiny", _backward_clock),
    ("clock.run", "tiny", _no_run_time),
    ("clock.prompt_stop", "tiny", lambda log: log.delay("run_stop", 2 * AT_ONCE_MS / 1000)),
    ("clock.steps", "tiny", _paused_clock),
    ("clock.steps", "8b", _paused_between_reports),
    ("eval.position", "tiny", _metadata("eval_accuracy", samples_count=1)),
    ("eval.position", "tiny", lambda log: _count_further(log, 1, "eval_accuracy")),
    ("eval.position", "tiny", lambda log: _count_further(log, -2, "eval_accuracy")),
    ("eval.position", "tiny", lambda log: _count_further(log, -1, "eval_stop")),
    ("eval.value", "tiny", _set("eval_accuracy", "low")),
    ("eval.value", "tiny", _set("eval_accuracy", 10**400)),
    ("eval.cadence", "tiny", _off_schedule),
    ("eval.cadence", "tiny", _tried_again),
    ("eval.max_steps", "tiny", _ended_by_max_steps),
    ("eval.target", "tiny", _missed),
    ("eval.stop_at_target", "tiny", _passed_before),
    ("train.blocks", "tiny", _metadata("block_stop", samples_count=999)),
    ("train.blocks", "tiny", _metadata("block_start", samples_count=0, nth=1)),
    ("train.steps", "tiny", lambda log: log.drop("tracked_stats", 3)),
    ("train.steps", "tiny", lambda log: _report_every(log, 4, until=0.5)),
    ("train.steps", "tiny", lambda log: log.repeat("tracked_stats")),
    ("train.loss", "tiny", lambda log: log.get("tracked_stats")["value"].update(reduced_train_loss="low")),
    ("train.initial_loss", "tiny", lambda log: _first_loss(log, 1.0)),
]


@pytest.mark.parametrize(("rule", "base", "break_it"), BREAKS, ids=[f"{rule}-{base}" for rule, base, _ in BREAKS])
def test_rule_finds_what_breaks_it(valid: Valid, rule: str, base: str, break_it: Callable[[LogFile], None]) -> None:
    """A log that is valid but for one thing has a finding of that thing's rule, and no check crashes on it."""
    log = valid(base)
    log.save()
    break_it(log)
    if log.path.is_file() and rule not in ("log.malformed", "log.long_line", "log.official_line"):
        log.save()
    found = log.findings()
    assert rule in {finding.rule for finding in found}
    assert not [finding for finding in found if "crashed" in finding.message]


def test_every_rule_has_a_log_that_breaks_it() -> None:
    """No rule is without a test of what it finds."""
    missing = set(RUN_RULES.rules) - {rule for rule, _, _ in BREAKS}
    assert not missing, "each needs a row in BREAKS, with a log that breaks it"


# What accepted logs do is a warning.


def _warnings(log: LogFile) -> list[str]:
    log.save()
    found = log.findings()
    assert errors(found) == []
    return [finding.rule for finding in found if finding.severity is Severity.WARNING]


def _evaluate_every(log: LogFile, intervals: float) -> None:
    """Say of each evaluation that it came after another number of sequences, evenly spaced."""
    for event in log.events:
        if "samples_count" in event["metadata"]:
            samples = int(event["metadata"]["samples_count"] * intervals)
            event["metadata"] = event["metadata"] | {"samples_count": samples}
    log.set("train_samples", log.get("run_stop")["metadata"]["samples_count"])
    log.events = [event for event in log.events if event["key"] != "tracked_stats"]


def _of_ranks(log: LogFile, *keys: str) -> None:
    """Each rank's cache_clear and init_start, in this order."""
    once = {key: log.get(key) for key in ("cache_clear", "init_start")}
    log.events = [event for event in log.events if event["key"] not in once]
    log.events[:0] = [once[key] for key in keys]


def _log_duration(log: LogFile) -> None:
    log.events.append(log.events[-1] | {"key": "run_duration", "value": "86 minutes"})


def _leave_out(log: LogFile, key: str) -> None:
    log.events = [event for event in log.events if event["key"] != key]


def _rename(log: LogFile, before: str, after: str) -> None:
    for event in log.events:
        event["key"] = event["key"].replace(before, after)


RANKS = ("cache_clear", "init_start", "cache_clear", "cache_clear", "init_start", "init_start")

ACCEPTED: list[tuple[str, str, Callable[[LogFile], None], list[str]]] = [
    (
        "AMD v5.1: evaluation a batch less",
        "8b",
        lambda log: _count_further(log, -1, "eval_accuracy"),
        ["eval.position"],
    ),
    ("AMD v5.1: interleaved ranks", "8b", lambda log: _of_ranks(log, *RANKS), []),
    (
        "AMD v6.0: keys that no rule knows",
        "8b",
        _log_duration,
        [],
    ),
    ("AMD v6.0: no status", "8b", _set("submission_status", ""), ["run.submission"]),
    ("NVIDIA v6.0: steps before", "405b", lambda log: _count_further(log, -1, "tracked_stats"), []),
    ("UF v5.1: half the interval", "8b", lambda log: _evaluate_every(log, 0.5), ["eval.cadence"]),
    ("four times the interval", "8b", lambda log: _evaluate_every(log, 4), ["eval.cadence"]),
    ("two seeds", "8b", lambda log: _again(log, "seed", 9), ["event.repeated"]),
    ("the same value twice", "8b", lambda log: log.repeat("opt_name"), ["event.repeated"]),
    ("seed as text", "8b", _set("seed", "7758"), []),
    ("seed below zero", "8b", _set("seed", -7758), []),
    ("mxfp6 since 6.1.0", "8b", _set("lowest_numerical_precision_in_attn", "mxfp6"), []),
    ("all published: 8000.0 steps", "405b", _scaled("opt_learning_rate_warmup_steps", 1.0), []),
    ("some steps reported", "8b", lambda log: _report_every(log, 4), []),
    ("another initialisation", "8b", lambda log: _first_loss(log, 13.4), ["train.initial_loss"]),
    ("another precision", "405b", lambda log: _first_loss(log, 7.4), ["train.initial_loss"]),
    ("NVIDIA v5.0: no eval_start", "8b", lambda log: _leave_out(log, "eval_start"), ["event.missing"]),
    ("epochs instead of blocks", "8b", lambda log: _rename(log, "block_", "epoch_"), []),
    ("no status at all", "405b", lambda log: log.drop("submission_status"), ["event.missing"]),
    ("two ranks start the clock", "8b", lambda log: log.repeat("run_start"), ["event.repeated"]),
    ("a clock between ranks", "8b", lambda log: log.get("seed").update(time_ms=log.get("seed")["time_ms"] - 1), []),
]


@pytest.mark.parametrize(
    ("base", "change", "expected"), [row[1:] for row in ACCEPTED], ids=[row[0] for row in ACCEPTED]
)
def test_what_accepted_logs_do_is_no_error(
    valid: Valid, base: str, change: Callable[[LogFile], None], expected: list[str]
) -> None:
    """Deviations in published logs, or ones the policies allow, are at most a WARNING."""
    log = valid(base)
    change(log)
    assert _warnings(log) == expected


@pytest.mark.parametrize(("base", "loss"), [("405b", 5.65), ("405b", 12.4), ("8b", 3.4)])
def test_first_loss_of_other_weights_is_an_error(valid: Valid, base: str, loss: float) -> None:
    """A model that was trained before, or one that should have been loaded and was not, is an ERROR."""
    log = valid(base)
    _first_loss(log, loss)
    log.save()
    assert [finding.rule for finding in errors(log.findings())] == ["train.initial_loss"]


def test_rank_that_did_not_clear_its_caches_is_an_error(valid: Valid) -> None:
    """One of many ranks that says false is found, though few of what ranks repeat is kept."""
    log = valid("8b")
    _of_ranks(log, *RANKS)
    log.events[2] = log.events[2] | {"value": False}
    log.save()
    assert [finding.rule for finding in errors(log.findings())] == ["event.cache_clear"]


def test_open_division_evaluates_when_it_likes(tmp_path: Path) -> None:
    """Cadence and seed are asked for in the closed division alone."""
    config = llama31_405b(MLPERF_SUBMISSION_DIVISION="open")
    log = LogFile(make_log(tmp_path / "result_0.txt", config, reaching(config)))
    log.drop("seed")
    _evaluate_every(log, 0.5)
    assert _warnings(log) == []


@pytest.mark.parametrize("keys", [("init_start", *RANKS, "cache_clear"), (*RANKS[1:], RANKS[0])])
def test_rank_that_initialises_before_it_clears_is_an_error(valid: Valid, keys: tuple[str, ...]) -> None:
    """However ranks interleave, none may initialise before its caches are cleared."""
    log = valid("8b")
    _of_ranks(log, *keys)
    log.save()
    assert [finding.rule for finding in errors(log.findings())] == ["event.order"]


@pytest.fixture
def scaled_log(tmp_path: Path) -> LogFile:
    """A 405B log at a batch size at which neither learning rate nor warm-up are round numbers."""
    rate = find("llama31_405b").learning_rate
    assert isinstance(rate, ScaledLearningRate)
    config = llama31_405b(MINIBS=next(m for m in range(200, 300) if (rate.warmup_steps * rate.batch) % m))
    return LogFile(make_log(tmp_path / "result_0.txt", config, reaching(config)))


def test_rounded_learning_rate_is_refused_officially(scaled_log: LogFile) -> None:
    """A learning rate rounded as the policy's text says is an ERROR that says who refuses it."""
    rate = scaled_log.get("opt_base_learning_rate")["value"]
    scaled_log.set("opt_base_learning_rate", float(f"{rate:.3e}"))
    scaled_log.save()
    (finding,) = errors(scaled_log.findings())
    assert "refused officially" in finding.message


def test_fractional_warmup_is_a_warning(scaled_log: LogFile) -> None:
    """A warm-up logged as the quotient that was to be rounded up, as in published logs, is a WARNING."""
    rate = find("llama31_405b").learning_rate
    assert isinstance(rate, ScaledLearningRate)
    size = scaled_log.get("global_batch_size")["value"]
    scaled_log.set("opt_learning_rate_warmup_steps", rate.warmup_steps * rate.batch / size)
    assert "hyperparameter.opt_learning_rate_warmup_steps" in _warnings(scaled_log)


def test_unscaled_decay_is_a_warning_in_5_0_0_only(tmp_path: Path) -> None:
    """The reference batch's decay at another batch size is a WARNING in the round that accepted it, then an ERROR."""
    rate = find("llama31_405b").learning_rate
    assert isinstance(rate, ScaledLearningRate)
    rule = "hyperparameter.opt_learning_rate_decay_steps"
    for ruleset, severity in (("5.0.0", Severity.WARNING), ("5.1.0", Severity.ERROR)):
        config = llama31_405b(RULESET=ruleset, MINIBS=288)
        log = LogFile(make_log(tmp_path / f"result_{ruleset}.txt", config, reaching(config)), ruleset)
        log.set("opt_learning_rate_decay_steps", rate.total_steps - rate.warmup_steps)
        log.save()
        assert [(finding.rule, finding.severity) for finding in log.findings()] == [(rule, severity)]


def test_v5_0_blocks_without_stop_are_a_warning(tmp_path: Path) -> None:
    """Blocks without a stop and evaluations without a start, as in accepted v5.0 logs, are WARNINGs there."""
    config = llama31_405b(RULESET="5.0.0")
    log = LogFile(make_log(tmp_path / "result_0.txt", config, reaching(config)), "5.0.0")
    log.drop("block_stop")
    log.events = [event for event in log.events if event["key"] != "eval_start"]
    assert sorted(_warnings(log)) == ["event.missing", "event.sequence"]


def test_v5_0_evaluation_without_value_is_an_error(tmp_path: Path) -> None:
    """The parts of blocks that v5.0 left out do not excuse an evaluation without a value."""
    config = llama31_405b(RULESET="5.0.0")
    log = LogFile(make_log(tmp_path / "result_0.txt", config, reaching(config)), "5.0.0")
    log.drop("eval_accuracy", -1)
    log.save()
    assert [finding.rule for finding in errors(log.findings())] == ["event.sequence"]


def test_open_division_leaves_the_optimizer_free(valid: Valid) -> None:
    """Optimizer values that the closed division fixes break no rule in the open one; the target and others still do."""
    log = valid("405b")
    log.set("submission_division", "open")
    for event in log.events:
        if event["key"].startswith("opt_") and isinstance(event["value"], float):
            event["value"] *= 2
    assert _warnings(log) == []
    log.set("eval_samples", 1)
    log.save()
    assert [finding.rule for finding in log.findings()] == ["hyperparameter.eval_samples"]


# What the tables of compliance cover.


@pytest.mark.parametrize("base", BASES)
def test_every_announced_key_is_known(base: str) -> None:
    """The keys that the harness announces are those that the checks expect once."""
    assert {key for key, _ in announce(BASES[base]())} <= set(ANNOUNCED)


def test_ruleset_without_the_benchmark_is_a_finding(valid: Valid) -> None:
    """Llama 3.1 405B is not in every ruleset; judging it by another is an ERROR, not an exception."""
    log = valid("405b")
    log.ruleset = "6.1.0"
    assert [finding.rule for finding in errors(log.findings())] == ["run.benchmark"]


def test_unlisted_findings_are_counted(log: LogFile) -> None:
    """A rule that is broken a thousand times is listed a few times, and the rest is counted."""
    log.append(":::MLLOG {\n" * 5000)
    found = log.findings()
    assert len(found) < 20
    assert "4990 more" in found[0].message
