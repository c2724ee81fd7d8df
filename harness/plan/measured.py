"""Measured steps, from tables of published runs and from anybody's own logs.

A table is a CSV file whose columns are named as in `COLUMNS`; other columns are ignored. A log needs its configuration:
a run.json next to it, as our launcher writes, or a config file that the user names.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import inf, prod
from pathlib import Path
from statistics import median
from typing import TypeVar

from benchmark.benchmarks import BENCHMARKS, DEFAULT, benchmark_named, find
from benchmark.config import RunConfig
from benchmark.errors import RefusedError
from benchmark.files import RUN_JSON
from benchmark.hardware import GPUS, PRECISIONS
from benchmark.mllog import TOKEN, Event, MalformedEventError, decode
from benchmark.rules import Rules
from benchmark.run_record import read
from harness.plan.calibration import LOGGED_SPREAD, OWN, TABLED_SPREAD, Measured
from harness.plan.job import TrainingJob, from_config

_Read = TypeVar("_Read")

COLUMNS = ("gpu", "gpus", "precision", "tp", "pp", "cp", "mbs", "microbatches")
"""Columns of every table (or those of INSTEAD in their place), besides one of SECONDS and `round` or `source`."""

INSTEAD: Mapping[str, tuple[str, ...]] = {
    "gpus": ("nodes", "gpus_per_node"),
    "microbatches": ("gbs",),
    "eval_s_median": ("eval_s",),
    "run_minutes": ("minutes",),
    "steps": ("samples", "gbs"),
}
"""Column -> columns that it is computed from. Values of several runs may be separated by ; or /."""

LAYOUT = ("tp", "pp", "cp", "mbs")

SECONDS = ("step_median_s", "step_s")

OPTIONAL = ("benchmark", "layers", "vocab", "vp", "eval_s_median", "run_minutes", "steps")
"""Optional columns: `benchmark` if the file's name begins with no benchmark's name and it is not benchmarks.DEFAULT,
`layers` and `vocab` if they differ from the benchmark's, `vp` if there is interleaving. The last three describe whole
runs; from them the runs' pace is learnt too."""

ROUNDS = ("v5.0", "v5.1", "v6.0", OWN)
"""The software that a step was measured with: that of an MLPerf round's submissions, or the user's own."""

_NEEDED = (*((name, *INSTEAD.get(name, ())[:1]) for name in COLUMNS), SECONDS, ("round", "source"))

SKIPPED_STEPS = 3
"""Steps at the start of a run, which are slower than the rest."""


class UnreadableMeasurementError(RefusedError):
    """No step can be read from a file; the message says what was expected."""


def read_table(path: Path, benchmark: str | None = None) -> list[Measured]:
    """Read the steps of a table.

    Args:
        benchmark: as for `table_rows`.

    Raises:
        UnreadableMeasurementError: a column is missing, or a value does not fit its column.
    """
    return [_named(path, number, _of_row, row) for number, row in table_rows(path, benchmark)]


def table_rows(path: Path, benchmark: str | None = None) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a table that give a layout, with their line numbers, and with INSTEAD's columns computed.

    Published tables leave the layout blank if a submitter has not stated it.

    Args:
        benchmark: for rows that name none; if None, the one that the file's name begins with, or benchmarks.DEFAULT.

    Raises:
        UnreadableMeasurementError: as for `read_table`.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, restval=""))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UnreadableMeasurementError(f"{path}: expected a table: {error}") from None
    if not rows:
        raise UnreadableMeasurementError(f"{path}: expected a table with columns {', '.join(COLUMNS)}; it has no rows")
    if missing := [" or ".join(names) for names in _NEEDED if not any(name in rows[0] for name in names)]:
        raise UnreadableMeasurementError(
            f"{path}: a table of measured steps also needs the columns {', '.join(missing)}"
        )
    benchmark = benchmark or next((name for name in BENCHMARKS if path.name.startswith(name)), DEFAULT.name)
    return [
        (number, _named(path, number, _worked_out, {**row, "benchmark": row.get("benchmark") or benchmark}))
        for number, row in enumerate(rows, start=2)
        if any(map(row.get, LAYOUT)) or not any(map(row.get, SECONDS))
    ]


def _named(path: Path, number: int, read: Callable[[dict[str, str]], _Read], row: dict[str, str]) -> _Read:
    """Return what `read` makes of a row; an error names the row's line."""
    try:
        return read(row)
    except KeyError as error:
        raise UnreadableMeasurementError(f"{path}, line {number}: a column {error} is needed") from None
    except ValueError as error:
        raise UnreadableMeasurementError(f"{path}, line {number}: {error}") from None


def _worked_out(row: Mapping[str, str]) -> dict[str, str]:
    """Return a row with the columns that INSTEAD computes from others."""
    complete = dict(row)
    if not complete.get("gpus") and complete.get("nodes"):
        complete["gpus"] = str(_product(complete, *INSTEAD["gpus"]))
    if not complete.get("microbatches") and complete.get("gbs"):
        complete["microbatches"] = str(_microbatches(complete))
    if not complete.get("eval_s_median") and complete.get("eval_s"):
        complete["eval_s_median"], complete["run_minutes"] = complete["eval_s"], complete["minutes"].replace("/", ";")
        samples, gbs = complete["samples"].split("/"), int(complete["gbs"])
        complete["steps"] = ";".join(str(int(each) // gbs) for each in samples)
    return complete


def _microbatches(row: Mapping[str, str]) -> int:
    """Return the microbatches of a replica in a step, from the global batch size."""
    gpus, gbs, ranks, mbs = int(row["gpus"]), int(row["gbs"]), _product(row, "tp", "pp", "cp"), int(row["mbs"])
    if min(gpus, gbs, ranks, mbs) < 1:
        raise ValueError("a count is below 1")
    microbatches, remainder = divmod(gbs * ranks, gpus * mbs)
    if remainder:
        raise ValueError(f"gbs {gbs} is not a multiple of mbs x gpus / (tp x pp x cp) = {mbs} x {gpus} / {ranks}")
    return microbatches


def _product(row: Mapping[str, str], *names: str) -> int:
    return prod(int(row[name]) for name in names)


def _of_row(row: Mapping[str, str]) -> Measured:
    benchmark = benchmark_named(row["benchmark"])
    release, recipe = row.get("round"), row.get("source")
    if release and release not in ROUNDS:
        raise ValueError(f"round is {release!r}, expected one of {', '.join(ROUNDS)}")
    if not release and not recipe:
        raise ValueError(f"expected a round ({', '.join(ROUNDS)}) or the source of a recipe, found neither")
    if row["gpu"] not in GPUS:
        raise ValueError(f"gpu is {row['gpu']!r}, expected one of {', '.join(GPUS)}")
    job = TrainingJob(
        size=replace(benchmark.size, layers=int(row.get("layers") or benchmark.size.layers)),
        vocabulary=int(row.get("vocab") or benchmark.vocabulary),
        sequence_length=benchmark.rules[-1].sequence_length,
        gpu=GPUS[row["gpu"]],
        gpus=int(row["gpus"]),
        tensor=int(row["tp"]),
        pipeline=int(row["pp"]),
        chunks=int(row.get("vp") or 1),
        context=int(row["cp"]),
        micro_batch=int(row["mbs"]),
        microbatches=int(row["microbatches"]),
        precision=row["precision"],
        release=release or _release_of_recipe(recipe or ""),
        stack="mlperf" if release else "recipe",
    )
    _check(job)
    step = _positive(row.get("step_median_s") or row["step_s"])
    source = " ".join(row[name] for name in ("round", "submitter", "system", "source") if row.get(name))
    if not row.get("eval_s_median"):
        spread = LOGGED_SPREAD if job.stack == "mlperf" else TABLED_SPREAD
        return Measured(job=job, seconds=step, source=source, spread=spread)
    evaluation = _positive(row["eval_s_median"])
    rules = benchmark.rules[-1] if release in (None, "", OWN) else find(benchmark.name, release[1:] + ".0")
    batches = -(-rules.eval_sequences // job.global_batch_size)
    starts = [
        60 * float(minutes) - int(steps) * step - _evaluations(rules, job, int(steps)) * evaluation
        for minutes, steps in zip(row["run_minutes"].split(";"), row["steps"].split(";"), strict=True)
    ]
    return Measured(job=job, seconds=step, source=source, evaluation=evaluation / batches / step, start=median(starts))


def _check(job: TrainingJob) -> None:
    if min(job.gpus, job.ranks, job.chunks, job.micro_batch, job.microbatches, job.size.layers, job.vocabulary) < 1:
        raise ValueError("a count is below 1")
    if job.gpus % job.ranks:
        raise ValueError(f"{job.gpus} GPUs are not a multiple of tp x pp x cp = {job.ranks}")
    layers, stages = job.size.layers, job.pipeline * job.chunks
    if layers % stages and (layers + 2) % stages:
        raise ValueError(f"pp x vp = {stages} divides neither {layers} layers nor {layers} + 2")
    if job.precision not in PRECISIONS or job.gpu.peak(job.precision) is None:
        raise ValueError(f"{job.gpu.name} has no matrix products in {job.precision!r}")


def _positive(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < inf:
        raise ValueError(f"expected seconds above 0, read {text!r}")
    return seconds


def _release_of_recipe(source: str) -> str:
    """Return the round of a recipe's software: v5.0 for NeMo's up to 25.05, v6.0 for those of Megatron-Bridge 26."""
    return "v6.0" if "Megatron-Bridge" in source else "v5.0"


def _evaluations(rules: Rules, job: TrainingJob, steps: int) -> int:
    gbs = job.global_batch_size
    return max(0, steps // rules.eval_interval_steps(gbs) - rules.skipped_evals(gbs))


def read_log(path: Path, config: RunConfig | None = None, gpu: str | None = None) -> Measured:
    """Return the median step of one run.

    Args:
        config: the run's configuration, if there is no run.json next to the log.

    Raises:
        UnreadableMeasurementError: there is no configuration or no step, or the batch is not the configuration's.
    """
    events = list(_events(path))
    config = config or _recorded_config(path)
    layout = config.layout
    times = [event.value["train_step_time"] for event in events if _is_step(event)][SKIPPED_STEPS:]
    if not times:
        raise UnreadableMeasurementError(
            f"{path}: expected more than {SKIPPED_STEPS} tracked_stats events with train_step_time"
        )
    logged = next((event.value for event in events if event.key == "global_batch_size"), None)
    if logged != layout.global_batch_size:
        raise UnreadableMeasurementError(
            f"{path}: logs global_batch_size {logged}, but its configuration has {layout.global_batch_size}"
        )
    job = from_config(config, gpu=gpu, release=OWN)
    step, evaluations = median(times), _durations(events, "eval_start", "eval_stop")
    batches = -(-config.rules.eval_sequences // layout.global_batch_size)
    whole = _durations(events, "run_start", "run_stop")
    taken = len(times) + SKIPPED_STEPS
    return Measured(
        job=job,
        seconds=step,
        source=path.name,
        evaluation=median(evaluations) / batches / step if evaluations else None,
        start=max(0.0, whole[0] - taken * step - sum(evaluations)) if whole else None,
    )


def _recorded_config(path: Path) -> RunConfig:
    record = path.with_name(RUN_JSON)
    if not record.is_file():
        raise UnreadableMeasurementError(
            f"{path}: there is no run.json next to it; name its configuration with --config config_X.sh"
        )
    try:
        return read(record).config()
    except RefusedError as error:
        raise UnreadableMeasurementError(f"{record}: expected the configuration of a run: {error}") from None


def _events(path: Path) -> Iterator[Event]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            _, token, text = line.partition(TOKEN)
            if not token:
                continue
            try:
                yield decode(text)
            except MalformedEventError as error:
                raise UnreadableMeasurementError(f"{path}: {error}") from None


def _is_step(event: Event) -> bool:
    if event.key != "tracked_stats" or not isinstance(event.value, dict):
        return False
    seconds = event.value.get("train_step_time")
    return isinstance(seconds, int | float) and seconds > 0


def _durations(events: list[Event], start: str, stop: str) -> list[float]:
    """Return the seconds between each start and the stop after it."""
    durations, began = [], None
    for event in events:
        if event.key == start:
            began = event.time_ms
        elif event.key == stop and began is not None:
            durations.append((event.time_ms - began) / 1000)
            began = None
    return durations
