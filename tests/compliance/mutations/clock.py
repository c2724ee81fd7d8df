"""Mutations of times: initialisation, the clock's start and stop, and its pace."""

from __future__ import annotations

from copy import deepcopy

from tests.compliance.mutations.edits import Edit, add, again, all_of, from_then_on, move_after, shift
from tests.compliance.mutations.mutation import Label, of_8b, of_405b, of_both
from tests.compliance.mutations.sources import (
    CONTIGUOUS,
    DATA_AFTER_START,
    EXACTLY_ONE,
    INIT_LIMIT,
    MAY_STOP,
    NO_PAUSE,
    NOT_CHECKED,
    TWICE,
    official,
    published,
)
from tests.logs import INIT_SECONDS, LogFile

PASS, REJECT, OFFICIAL, DEBATABLE = Label.PASS, Label.REJECT, Label.OFFICIAL, Label.DEBATABLE

MINUTE = 60


def init_of(seconds: float) -> Edit:
    """Initialisation takes so long, up to init_stop."""
    return from_then_on("init_stop", seconds - INIT_SECONDS)


def gap_of(seconds: float) -> Edit:
    """So much time between init_stop and run_start, of which nothing is said."""
    return from_then_on("run_start", seconds)


def _late_start(log: LogFile) -> None:
    """run_start is logged when a hundred steps have been taken."""
    start = log.events.pop(log.indices("run_start")[0])
    place = log.indices("tracked_stats")[100]
    log.events.insert(place + 1, start | {"time_ms": log.events[place]["time_ms"]})


def _second_start(log: LogFile) -> None:
    """run_start again, a hundred steps into the run."""
    place = log.indices("tracked_stats")[100]
    log.events.insert(place + 1, log.get("run_start") | {"time_ms": log.events[place]["time_ms"]})


def _paused(log: LogFile) -> None:
    """run_stop and run_start within the run, half an hour apart."""
    place = log.indices("tracked_stats")[100]
    now = log.events[place]["time_ms"]
    stop, start = deepcopy(log.get("run_stop")), deepcopy(log.get("run_start"))
    stop["metadata"]["status"] = "aborted"
    from_then_on("tracked_stats", 30 * MINUTE, 101)(log)
    log.events[place + 1 : place + 1] = [stop | {"time_ms": now}, start | {"time_ms": now + 30 * MINUTE * 1000}]


def _second_stop(log: LogFile) -> None:
    """A run_stop that succeeds, a minute before the run's own."""
    place = log.indices("run_stop")[0]
    stop = deepcopy(log.events[place])
    log.events.insert(log.indices("block_start")[-1], stop | {"time_ms": log.get("block_start", -1)["time_ms"]})


def _squeezed(log: LogFile) -> None:
    """The last half of the steps takes a tenth of the time that the steps themselves report."""
    since = log.indices("tracked_stats")[len(log.indices("tracked_stats")) // 2]
    start = log.events[since]["time_ms"]
    for event in log.events[since:]:
        event["time_ms"] = start + (event["time_ms"] - start) // 10


def _touches_data(log: LogFile) -> None:
    """The first training step is logged before run_start."""
    stats = log.events.pop(log.indices("tracked_stats")[0])
    log.events.insert(log.indices("run_start")[0], stats | {"time_ms": log.get("run_start")["time_ms"]})


def _evaluates_before(log: LogFile) -> None:
    """An evaluation, of which the result is far from the target, before run_start."""
    start = log.indices("eval_start")[0]
    evaluation = [deepcopy(event) for event in log.events[start : start + 3]]
    for event in evaluation:
        event["time_ms"] = log.get("run_start")["time_ms"]
        event["metadata"]["samples_count"] = 0
    log.events[log.indices("run_start")[0] : log.indices("run_start")[0]] = evaluation


def _warm_up_stats(log: LogFile) -> None:
    stop = log.get("init_stop")
    stats = log.get("tracked_stats") | {"value": {"warmup_time": 95.9}, "time_ms": stop["time_ms"]}
    log.events.insert(
        log.indices("init_stop")[0], stats | {"metadata": stats["metadata"] | {"step": 0, "samples_count": 0}}
    )


def _float_times(log: LogFile) -> None:
    for event in log.events:
        event["time_ms"] = float(event["time_ms"])


CLOCK = (
    # Initialisation.
    *of_both("init-31-minutes", "Initialisation takes 31 minutes.", init_of(31 * MINUTE), REJECT, INIT_LIMIT),
    *of_both(
        "init-just-below", "Initialisation takes 29 minutes and 59 seconds.", init_of(30 * MINUTE - 1), PASS, INIT_LIMIT
    ),
    of_405b(
        "init-30-minutes",
        "Initialisation takes 30 minutes to the millisecond.",
        init_of(30 * MINUTE),
        OFFICIAL,
        f"{INIT_LIMIT}; {official('common.yaml', 'less than, not up to')}",
    ),
    *of_both(
        "init-and-gap",
        "20 minutes of initialisation, and 15 more before run_start of which nothing is said.",
        all_of(init_of(20 * MINUTE), gap_of(15 * MINUTE)),
        REJECT,
        f"{INIT_LIMIT}; the clock starts when it is exceeded",
    ),
    of_8b(
        "gap-alone",
        "31 minutes between init_stop and run_start.",
        gap_of(31 * MINUTE),
        REJECT,
        f"{INIT_LIMIT}; the clock starts when it is exceeded",
    ),
    of_405b(
        "init-and-gap-below",
        "13 minutes of initialisation, and 7 more before run_start.",
        all_of(init_of(13 * MINUTE), gap_of(7 * MINUTE)),
        PASS,
        published("CoreWeave v6.0 405B", "421 s between init_stop and run_start"),
    ),
    of_8b(
        "gap-of-70-seconds",
        "70 seconds between init_stop and run_start.",
        gap_of(70),
        PASS,
        published("AMD v6.0 8B", "70 s between init_stop and run_start"),
    ),
    of_8b(
        "cache-cleared-long-ago",
        "The caches were cleared 40 minutes before init_start.",
        shift("cache_clear", -40 * MINUTE),
        DEBATABLE,
        INIT_LIMIT,
    ),
    *of_both("init-stop-missing", "No init_stop.", lambda log: log.drop("init_stop"), REJECT, EXACTLY_ONE),
    of_405b(
        "init-stop-after-run-start",
        "init_stop comes after run_start.",
        move_after("init_stop", "run_start"),
        REJECT,
        official("common.yaml", "init_stop: not s['run_started']"),
    ),
    of_8b(
        "init-stop-twice",
        "A second init_stop after run_start.",
        add("init_stop", None, after="run_start"),
        REJECT,
        official("common.yaml", "init_stop: not s['run_started']"),
    ),
    # Start.
    *of_both(
        "block-before-run-start",
        "Training starts, and a hundred steps later the clock.",
        _late_start,
        REJECT,
        DATA_AFTER_START,
    ),
    *of_both(
        "step-before-run-start",
        "The first training step is logged before run_start.",
        _touches_data,
        REJECT,
        DATA_AFTER_START,
    ),
    of_8b(
        "evaluation-before-run-start", "An evaluation before run_start.", _evaluates_before, REJECT, DATA_AFTER_START
    ),
    of_8b(
        "warm-up-before-run-start",
        "tracked_stats of the warm-up, without a loss, before init_stop.",
        _warm_up_stats,
        PASS,
        published("NVIDIA and Verda v5.1 8B", "warmup_time before init_stop"),
    ),
    of_405b(
        "first-block-late",
        "Training starts ten minutes after the clock.",
        from_then_on("block_start", 10 * MINUTE),
        PASS,
        CONTIGUOUS,
    ),
    of_405b("run-start-twice", "Two ranks log run_start in the same millisecond.", again("run_start"), PASS, TWICE),
    *of_both(
        "run-start-again",
        "run_start again a hundred steps into the run, from where the summarizer counts.",
        _second_start,
        REJECT,
        f"{CONTIGUOUS}; {official('result_summarizer._query_run_start_stop', 'the last run_start counts')}",
    ),
    # Stop.
    *of_both(
        "run-stop-before-evaluation",
        "run_stop has the time at which the passing evaluation starts.",
        shift("run_stop", -3),
        REJECT,
        MAY_STOP,
    ),
    of_405b(
        "run-stop-before-start", "run_stop has a time before run_start.", shift("run_stop", -3600), REJECT, CONTIGUOUS
    ),
    of_8b(
        "run-stop-at-start",
        "run_stop has the time of run_start.",
        lambda log: log.get("run_stop").update(time_ms=log.get("run_start")["time_ms"]),
        REJECT,
        MAY_STOP,
    ),
    of_8b(
        "run-stop-late",
        "run_stop comes half a minute after the passing evaluation.",
        from_then_on("run_stop", 30),
        PASS,
        MAY_STOP,
    ),
    of_405b(
        "run-stop-2-seconds-late",
        "run_stop comes 2.4 seconds after the passing evaluation.",
        from_then_on("run_stop", 2.4),
        PASS,
        published("NVIDIA v5.0 405B", "2.36 s"),
    ),
    of_405b("run-stop-twice", "Two ranks log run_stop in the same millisecond.", again("run_stop"), PASS, TWICE),
    *of_both(
        "run-stop-early",
        "A first run_stop before the last block, where the summarizer stops to count.",
        _second_stop,
        REJECT,
        f"{MAY_STOP}; {official('result_summarizer._query_run_start_stop', 'the first run_stop counts')}",
    ),
    # Pace.
    *of_both("paused", "run_stop and run_start half an hour apart, within the run.", _paused, REJECT, NO_PAUSE),
    *of_both(
        "clock-set-back",
        "In the middle of the run the clock is set back by three minutes.",
        from_then_on("tracked_stats", -180, 150),
        REJECT,
        NO_PAUSE,
    ),
    of_405b(
        "clock-squeezed",
        "Half of the steps take a tenth of the time that they themselves report.",
        _squeezed,
        REJECT,
        f"{NO_PAUSE}; the steps' own times contradict the clock",
    ),
    of_8b(
        "clock-squeezed",
        "Half of the steps take a tenth of the time that they themselves report.",
        _squeezed,
        REJECT,
        f"{NO_PAUSE}; the steps' own times contradict the clock",
    ),
    of_405b(
        "long-step",
        "A step takes half an hour by the clock.",
        from_then_on("tracked_stats", 30 * MINUTE, 100),
        PASS,
        "the clock runs on; no rule asks for even steps",
    ),
    *of_both(
        "ranks-50-ms-apart",
        "One event of the run is stamped 50 ms before the one above it.",
        shift("block_stop", -0.05),
        DEBATABLE,
        published("405B and 8B", "1 to 144 ms between ranks"),
    ),
    of_405b(
        "ranks-3-seconds-apart",
        "init_start is stamped 2.9 seconds before cache_clear of another rank.",
        all_of(again("cache_clear"), again("init_start"), shift("cache_clear", 2.9, 1)),
        DEBATABLE,
        published("405B", "up to 2.9 s between ranks before init_stop"),
    ),
    of_8b(
        "block-ends-before-it-starts",
        "A block ends a minute before it starts.",
        shift("block_stop", -MINUTE - 32, 1),
        DEBATABLE,
        NOT_CHECKED,
    ),
    of_8b(
        "time-as-float",
        "Times are floats.",
        _float_times,
        PASS,
        official("mlp_parser.string_to_logline", "float(m['time_ms'])"),
    ),
    of_405b(
        "time-null",
        "The time of run_stop is null.",
        lambda log: log.get("run_stop").update(time_ms=None),
        REJECT,
        CONTIGUOUS,
    ),
)
