"""Measures the planner on published runs: step time, memory, time to target, the search, and its own speed.

The rows are the tables in perf/steps, to which the shipped calibration is fitted. Each prediction says what its
constants were fitted to. The people who chose the shape of the model had seen these rows, so rows that nobody here has
seen are the better test.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import exp, log
from pathlib import Path
from statistics import fmean, median

import click

from benchmark.benchmarks import BENCHMARKS, LLAMA31_405B, find
from benchmark.checkout import ROOT
from benchmark.rules import FreeLearningRate, Rules, Schedule
from harness.plan import calibration, memory, step_time
from harness.plan.calibration import Fitted, Measured, Prior
from harness.plan.job import precision_values
from harness.plan.measured import read_table, table_rows
from harness.plan.search import bare_values, search
from harness.plan.time_to_target import Pace, evaluation_steps, outcome, outcomes

STEPS = ROOT / "perf" / "steps"
RUNS, LAYOUTS = STEPS / "llama31_405b_runs.csv", STEPS / "llama31_405b_layouts.csv"
EIGHT = STEPS / "llama31_8b_runs.csv"
SMALL = 512
"""Most GPUs of a row that counts as small."""

Predict = Callable[[Measured], float]


@dataclass(frozen=True)
class PublishedRows:
    """The published rows."""

    runs: list[Measured]
    layouts: list[Measured]
    """Rows of a framework's recipes, which are not whole runs."""
    columns: list[dict[str, str]]
    """Columns of the runs, as in the table."""

    @property
    def all(self) -> list[Measured]:
        return [*self.runs, *self.layouts]


def read(runs: Path = RUNS, layouts: Path = LAYOUTS) -> PublishedRows:
    return PublishedRows(
        runs=read_table(runs), layouts=read_table(layouts), columns=[row for _, row in table_rows(runs)]
    )


def read_eight(runs: Path = EIGHT) -> PublishedRows:
    """Read the rows of llama31_8b, which are all of whole runs."""
    return PublishedRows(runs=read_table(runs), layouts=[], columns=[row for _, row in table_rows(runs)])


# Step time.


def fitted(rows: Sequence[Measured], prior: Callable[[str], Prior] = calibration.physical_prior) -> Predict:
    constants = calibration.fit(rows, prior)
    return lambda row: step_time.seconds(row.job, constants)


def constant_rate(rows: Sequence[Measured]) -> Predict:
    """Return the model to beat: one FLOP rate for each (GPU, precision), and the pipeline's bubble."""

    def busy(row: Measured) -> float:
        job = row.job
        work = job.size.flops_per_sample(job.sequence_length, job.vocabulary) * job.global_batch_size / job.gpus
        return work * (1 + job.bubble / job.microbatches)

    rates = {
        name: exp(fmean(log(busy(row) / row.seconds) for row in rows if row.group == name))
        for name in {row.group for row in rows}
    }
    return lambda row: busy(row) / rates[row.group]


def errors(rows: Iterable[Measured], predict: Predict) -> list[float]:
    return [predict(row) / row.seconds - 1 for row in rows]


def summary(found: Sequence[float]) -> str:
    if not found:
        return "no rows"
    sizes = [abs(error) for error in found]
    return f"{len(found):3} rows  MAPE {fmean(sizes):6.2%}  max {max(sizes):6.2%}"


def left_out(rows: Sequence[Measured], data: PublishedRows) -> list[float]:
    """Return the error of each row, predicted with constants that were fitted to all other rows."""
    return [error for row in rows for error in errors([row], fitted([other for other in data.all if other is not row]))]


def step_tables(data: PublishedRows) -> None:
    small = [row for row in data.all if row.job.gpus <= SMALL]
    small_runs = [row for row in data.runs if row.job.gpus <= SMALL]
    large_runs = [row for row in data.runs if row.job.gpus > SMALL]
    large = [row for row in data.all if row.job.gpus > SMALL]
    print(f"Step time: fitted to rows of at most {SMALL} GPUs, predicting larger ones")
    print(f"  MLPerf runs, this model                  {summary(errors(large_runs, fitted(small)))}")
    print(f"  MLPerf runs, constant TFLOP/s + bubble   {summary(errors(large_runs, constant_rate(small)))}")
    print(f"    the same, fitted to MLPerf runs alone  {summary(errors(large_runs, constant_rate(small_runs)))}")
    print(f"  runs and layouts, this model             {summary(errors(large, fitted(small)))}")
    print(f"  runs and layouts, constant + bubble      {summary(errors(large, constant_rate(small)))}")
    for name, priors in _other_priors().items():
        print(f"  MLPerf runs, {name:27} {summary(errors(large_runs, fitted(small, priors)))}")
    for row, error in zip(large_runs, errors(large_runs, fitted(small)), strict=True):
        print(f"    {error:+7.2%}  {row.job.gpus:5} {row.group:17} M={row.job.microbatches:3}  {row.source}")
    print("Step time: every row left out in turn")
    print(f"  MLPerf runs                              {summary(left_out(data.runs, data))}")
    print(f"    without those alone of their group     {summary(left_out(_with_company(data), data))}")
    print(f"  layouts                                  {summary(left_out(data.layouts, data))}")
    print("Step time: fitted to PP=8, predicting the other PP")
    eight = [row for row in data.all if row.job.pipeline == 8]
    others = [row for row in data.all if row.job.pipeline != 8]
    print(f"  this model                               {summary(errors(others, fitted(eight)))}")
    known = [row for row in others if any(row.group == other.group for other in eight)]
    print(f"  constant TFLOP/s + bubble                {summary(errors(known, constant_rate(eight)))}")
    for row, error in zip(others, errors(others, fitted(eight)), strict=True):
        job = row.job
        cut = f"TP {job.tensor} PP {job.pipeline:2} VP {job.chunks} CP {job.context} {job.size.layers:3} layers"
        print(f"    {error:+7.2%}  {job.gpus:5} {row.group:17} {cut}")
    print("Step time: fitted to every row")
    print(f"  MLPerf runs                              {summary(errors(data.runs, fitted(data.all)))}")
    print(f"  layouts                                  {summary(errors(data.layouts, fitted(data.all)))}")


def _other_priors() -> dict[str, Callable[[str], Prior]]:
    """Return priors that halve or double the cost of a step's ends, to show whether the result depends on them."""

    def scaled(factor: float) -> Callable[[str], Prior]:
        def prior(name: str) -> Prior:
            believed = calibration.physical_prior(name)
            return replace(believed, value=believed.value * factor) if name in ("fixed", "data") else believed

        return prior

    return {"priors of a step's ends / 2": scaled(0.5), "priors of a step's ends x 2": scaled(2.0)}


def eight_tables(data: PublishedRows) -> None:
    """Print llama31_8b's errors: fitted to all, each system left out, and all of its GPU and precision left out."""
    rows = data.runs
    alone = left_out(rows, data)
    print("Step time of 8B: each system left out in turn")
    print(f"  this model, fitted to all                {summary(errors(rows, fitted(rows)))}")
    print(f"  this model, left out                     {summary(alone)}")
    print(f"    without those alone of their group     {summary(left_out(_with_company(data), data))}")
    shared = _with_company(data)
    others = {row.source: [other for other in rows if other is not row] for row in shared}
    rates = [error for row in shared for error in errors([row], constant_rate(others[row.source]))]
    print(f"    those by constant TFLOP/s              {summary(rates)}")
    groups = {row.group: [other for other in rows if other.group != row.group] for row in rows}
    without = [error for row in rows for error in errors([row], fitted(groups[row.group]))]
    print(f"  all of the same GPU and precision out    {summary(without)}")
    for row, error, group in zip(rows, alone, without, strict=True):
        job = row.job
        cut = f"TP {job.tensor} CP {job.context} MBS {job.micro_batch}"
        print(f"    {error:+7.2%} ({group:+7.2%})  {job.gpus:5} {row.group:17} {cut}  {row.source}")


# Memory.


def memory_table(data: PublishedRows) -> None:
    print("Memory: logged peak of global rank 0 against the count for stage 0")
    errors_of_ranks = []
    for row, columns in zip(data.runs, data.columns, strict=True):
        stage, logged = memory.stages(row.job)[0], columns["max_mem_reported"]
        worst = memory.worst(row.job)
        fits = "fits" if memory.fits(worst, row.job) else "DOES NOT FIT"
        room = (row.job.gpu.memory - worst.total) / memory.GIB
        line = f"  {row.job.gpus:5} {row.group:17} worst stage {worst.total / memory.GIB:6.1f} GiB, {room:5.1f} left"
        line += f", {fits}"
        if logged:
            counted = stage.allocated / memory.GIB
            if without_moments(columns):
                counted -= stage.parameters * row.job.moment_bytes / row.job.sharding / memory.GIB
            errors_of_ranks.append(counted / float(logged) - 1)
            line += f"; rank 0 logged {float(logged):7.2f}, counted {counted:7.2f}, {errors_of_ranks[-1]:+.2%}"
            line += " (without AdamW's moments)" if without_moments(columns) else ""
        print(line)
    print(f"  {summary(errors_of_ranks)}")


def without_moments(columns: dict[str, str]) -> bool:
    """Return whether the run logged its peak before AdamW's moments existed.

    CoreWeave's runs of up to 1536 GPUs captured their CUDA graph without an optimizer step; their larger ones took one.
    """
    return columns["system"].startswith("carina") and int(columns["gpus"]) <= 1536


# Time to target.


@dataclass(frozen=True, kw_only=True)
class End:
    """Where one published run ended, and what the planner predicted."""

    system: str
    samples: int
    minutes: float
    predicted: float
    """Predicted minutes of a run that ends there."""
    printed: bool
    """Whether it ended at an outcome that the planner prints."""
    likely: tuple[int, ...]
    """Samples of those outcomes."""


def _cadence(rules: Rules, gbs: int) -> Schedule:
    """Return when evaluations are due; the learning rate, which llama31_8b leaves free, does not matter for that."""
    if isinstance(rules.learning_rate, FreeLearningRate):
        return rules.schedule(gbs, learning_rate=1.0, warmup_steps=0)
    return rules.schedule(gbs)


def target_outcomes(row: Measured, columns: dict[str, str], known: Fitted) -> Iterator[End]:
    """Yield the runs of one system."""
    rules = find(columns["benchmark"], columns["round"].removeprefix("v") + ".0")
    gbs = int(columns["gbs"])
    step = step_time.seconds(row.job, known.constants)
    evaluation = step * evaluation_steps(rules, gbs, known.evaluation)
    pace = Pace(step=step, evaluation=evaluation, start=known.start, spread=0.0)
    schedule = _cadence(rules, gbs)
    likely = tuple(each.samples for each in outcomes(rules, schedule, pace))
    for minutes, steps in zip(columns["run_minutes"].split(";"), columns["steps"].split(";"), strict=True):
        samples = int(steps) * gbs
        yield End(
            system=columns["system"],
            samples=samples,
            minutes=float(minutes),
            predicted=outcome(rules, schedule, pace, int(steps)).minutes,
            printed=samples in likely,
            likely=likely,
        )


def target_tables(data: PublishedRows) -> None:
    (whole,) = calibration.calibrate(data.all, made="", command="").sizes.values()
    pairs = list(zip(data.runs, data.columns, strict=True))
    ends = [end for row, columns in pairs for end in target_outcomes(row, columns, whole)]
    without = [
        end
        for row, columns in pairs
        for known in [replace(whole, constants=calibration.fit([other for other in data.all if other is not row]))]
        for end in target_outcomes(row, columns, known)
    ]
    print(f"Time to target of {data.columns[0]['benchmark']}: samples known, step predicted")
    print(f"  step fitted to every row                 {summary([end.predicted / end.minutes - 1 for end in ends])}")
    print(f"  step with this system left out           {summary([end.predicted / end.minutes - 1 for end in without])}")
    shared = {row.source for row in _with_company(data)}
    counted = [end for end in without if any(source.endswith(end.system) for source in shared)]
    print(f"    without those alone of their group     {summary([end.predicted / end.minutes - 1 for end in counted])}")
    print("Time to target: samples not known, is the outcome in the printed set?")
    outside = {(end.system, end.samples): end.likely for end in ends if not end.printed}
    for (system, samples), likely in outside.items():
        print(f"  outside: {system} ended at {samples:,}, not {', '.join(f'{n:,}' for n in likely)}")
    sizes = {len(end.likely) for end in ends}
    print(f"  {sum(end.printed for end in ends)} of {len(ends)} runs inside sets of {min(sizes)} to {max(sizes)}")


def _with_company(data: PublishedRows) -> list[Measured]:
    """Return the runs whose (GPU, precision) another row has too."""
    return [row for row in data.runs if sum(other.group == row.group for other in data.all) > 1]


# The search.


def search_table(data: PublishedRows) -> None:
    print(
        "Search: where is the published (TP, PP, CP) of each GPU and scale, weights kept as published runs keep them?"
    )
    shipped, seen = calibration.load(), set()
    for row in data.runs:
        job = row.job
        if (job.gpu.name, job.gpus, job.precision) in seen:
            continue
        seen.add((job.gpu.name, job.gpus, job.precision))
        per_node = job.gpu.gpus_per_node
        base = {
            **bare_values(LLAMA31_405B, job.gpu, job.gpus // per_node, per_node),
            **precision_values(job.precision),
        }
        candidates = search(base, shipped, quantised_weights=True, listed=60).candidates
        cuts = [(each.job.tensor, each.job.pipeline, each.job.context) for each in candidates]
        published = (job.tensor, job.pipeline, job.context)
        rank = cuts.index(published) + 1 if published in cuts else None
        first = candidates[0]
        cut = "TP {} PP {} CP {}".format(*published)
        line = f"  {job.gpus:5} {row.group:17} {cut}: rank {rank} of {len(cuts)}"
        if rank is not None and rank > 1:
            mine = candidates[rank - 1]
            behind = mine.minutes / first.minutes - 1
            line += ", {:.1%} behind TP {} PP {} CP {}: ".format(behind, *cuts[0])
            line += ", ".join(
                f"{kind} {(minutes - first.kinds[kind]) / first.minutes:+.1%}" for kind, minutes in mine.kinds.items()
            )
        print(line)


# Speed.


def speed_table() -> None:
    print("Speed: whole processes, the interpreter's start included, medians")
    config = "configs/config_GB200_128x4x144xtp4pp8cp2.sh"
    commands = {
        "plan configs/config_GB200_128x4x144xtp4pp8cp2.sh": ["plan", config],
        "plan --gpu GB200 --gpus 512": ["plan", "--gpu", "GB200", "--gpus", "512"],
        "plan --gpu H100 --gpus 8192": ["plan", "--gpu", "H100", "--gpus", "8192"],
    }
    for name, arguments in commands.items():
        print(f"  {name:42} {median(_seconds(arguments) for _ in range(7)):6.3f} s")


def _seconds(arguments: Sequence[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "harness", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
    return time.perf_counter() - start


@click.command()
@click.option("--runs", type=click.Path(path_type=Path), default=RUNS, help="Table of published runs.")
@click.option("--layouts", type=click.Path(path_type=Path), default=LAYOUTS, help="Table of other layouts.")
@click.option(
    "--held-out", type=click.Path(path_type=Path), help="Table of rows that were never fitted: predict these."
)
@click.option(
    "--benchmark", type=click.Choice(list(BENCHMARKS)), help="Of rows of that table which name none, nor does its name."
)
def main(runs: Path, layouts: Path, held_out: Path | None, benchmark: str | None) -> None:
    """Print how right and how fast the planner is."""
    if held_out is not None:
        shipped, rows = calibration.load(), read_table(held_out, benchmark)
        step_errors = errors(rows, lambda row: step_time.seconds(row.job, shipped.of(row.job.size).constants))
        for row, error in zip(rows, step_errors, strict=True):
            print(f"    {error:+7.2%}  {row.job.gpus:5} {row.group:17} M={row.job.microbatches:3}  {row.source}")
        print(f"  {summary(step_errors)}")
        return
    data = read(runs, layouts)
    step_tables(data)
    memory_table(data)
    target_tables(data)
    search_table(data)
    eight = read_eight()
    eight_tables(eight)
    target_tables(eight)
    speed_table()


if __name__ == "__main__":
    main()
