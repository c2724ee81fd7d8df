"""llama31 plan: plan one configuration, search layouts, refit constants."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from fnmatch import filter as matching
from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchmark.arguments import SETTINGS, PathArgument, Verbs, refusing_files
from benchmark.benchmarks import BENCHMARKS
from benchmark.checkout import CONFIGS
from benchmark.config import ConfigError, RunConfig, resolve
from benchmark.errors import error_lines
from benchmark.files import walk
from benchmark.hardware import GPUS, PRECISIONS
from harness.arguments import BENCHMARK_OPTION

if TYPE_CHECKING:
    from harness.plan.calibration import Calibration, Measured
    from harness.plan.scaling import SearchRequest
    from harness.plan.search import SearchResult

_PATH = PathArgument()


class _Counts(click.ParamType[tuple[int, ...]]):
    """Numbers of GPUs, separated by commas."""

    name = "N[,N...]"

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        counts = value.split(",")
        if not all(count.strip().isascii() and count.strip().isdecimal() and int(count) for count in counts):
            self.fail(f"{value!r}: expected numbers of GPUs such as 512 or 256,512,1024", param, ctx)
        return tuple(dict.fromkeys(map(int, counts)))


class _PlanByDefault(Verbs):
    """A group that runs `layout` if the first argument names no command of it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        named = args and (args[0] in self.commands or args[0] in ("-h", "--help"))
        return super().parse_args(ctx, args if named else ["layout", *args])


@click.group(cls=_PlanByDefault, context_settings=SETTINGS)
def plan() -> None:
    """Predict memory, step time and minutes to the target, without a GPU, before you spend an allocation.

    \b
    llama31 plan configs/config_GB200_128x4x144xtp4pp8cp2.sh
    llama31 plan --gpu GB200 --gpus 512 --precision nvfp4
    llama31 plan --gpu GB200 --gpus 256,512,1024
    llama31 plan --gpu GB200 --minutes 60
    llama31 plan calibrate results/logs/MY_SYSTEM my_steps.csv --out mine.json

    `plan FILE` and `plan --gpu ...` are short for `plan layout FILE` and `plan layout --gpu ...`. `plan layout --help`
    lists the options.

    Your own measured steps make a better calibration, from logs or from a table. `plan calibrate --help` lists the
    columns of a table.
    """


@plan.command()
@click.argument("file", required=False, type=_PATH)
@click.option(
    "--gpu", type=click.Choice(list(GPUS)), help="GPU to plan for; if not given, the one in the system's name."
)
@click.option(
    "--gpus",
    type=_Counts(),
    help="Search the layouts of this many GPUs, without FILE; for several numbers, the best of each.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Search the layouts of the fewest GPUs that reach the target in this many minutes.",
)
@BENCHMARK_OPTION
@click.option(
    "--search", "searching", is_flag=True, help="Search the layouts of FILE's GPUs instead of planning FILE's own."
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Precision instead of FILE's own; a search without FILE uses bf16.",
)
@click.option("--quantised-weights", is_flag=True, help="Keep weights only in fp8, as published runs do.")
@click.option(
    "--top", default=10, show_default=True, type=click.IntRange(min=1), help="Number of layouts that a search lists."
)
@click.option("--calibration", "calibration_file", type=_PATH, help="Your own constants, from `plan calibrate`.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@click.option("--picture", type=_PATH, help="Also draw memory and step time into this SVG file.")
@click.option(
    "--write",
    type=_PATH,
    is_flag=False,
    flag_value=CONFIGS,
    help="Also write the first layout of each search as a config file, to this folder or the checkout's configs/.",
)
def layout(
    file: Path | None,
    gpu: str | None,
    gpus: tuple[int, ...] | None,
    minutes: float | None,
    benchmark: str,
    searching: bool,
    precision: str | None,
    quantised_weights: bool,
    top: int,
    calibration_file: Path | None,
    as_json: bool,
    picture: Path | None,
    write: Path | None,
) -> None:
    """Plan the configuration of FILE or of the environment, or search the layouts of some GPUs.

    \b
    llama31 plan layout configs/config_GB200_128x4x144xtp4pp8cp2.sh --precision nvfp4
    llama31 plan layout --gpu GB200 --gpus 512 --write
    llama31 plan layout --gpu GB200 --gpus 256,512,1024
    llama31 plan layout --gpu GB200 --minutes 60
    llama31 plan layout configs/config_GB200_128x4x144xtp4pp8cp2.sh --minutes 60

    Exit status: 0 it fits and is fast enough, 1 it does not or no layout does.
    """
    searching = searching or gpus is not None or minutes is not None
    _refuse(
        {
            "--write needs a search (--gpus, --minutes or --search)": write is not None and not searching,
            "--write makes a config of this trainer, whose weights stay in bf16: leave --quantised-weights out": (
                write is not None and quantised_weights
            ),
            "--picture draws one configuration; a search has many": picture is not None and searching,
            "--gpus and FILE both give the number of GPUs; give one": gpus is not None and file is not None,
            "--gpus needs --gpu": gpus is not None and gpu is None,
            "--minutes needs --gpu or FILE": minutes is not None and gpu is None and file is None,
            "--minutes finds the number of GPUs that --gpus gives; give one": minutes is not None and gpus is not None,
        }
    )
    calibration = _calibration(calibration_file)
    if not searching:
        config = resolve(file).config
        if precision is not None:
            config = RunConfig.from_environment(config.to_environment() | _precision(precision))
        _plan(config, calibration, gpu, quantised_weights, as_json, picture)
        return
    from harness.plan.scaling import SearchRequest
    from harness.plan.search import bare_values

    if file is None and gpu is not None and (gpus is not None or minutes is not None):
        values = bare_values(BENCHMARKS[benchmark], GPUS[gpu], 1, GPUS[gpu].gpus_per_node)
    else:
        values = _values(file)
    request = SearchRequest(
        base=values | _precision(precision), calibration=calibration, gpu=gpu, quantised_weights=quantised_weights
    )
    if minutes is not None:
        results = _search_fewest(request, minutes, top, as_json)
    elif gpus is None:
        results = _search_one(request, request.gpus, top, as_json)
    elif len(gpus) == 1:
        results = _search_one(request, gpus[0], top, as_json)
    else:
        results = _search_several(request, gpus, as_json)
    for each in results:
        if write is not None and each.candidates:
            click.echo(f"written: {_write(each, calibration, write)}", err=True)
    if not all(each.candidates for each in results):
        raise SystemExit(1)


def _refuse(faults: dict[str, bool]) -> None:
    found = [fault for fault, holds in faults.items() if holds]
    if found:
        raise ConfigError(found)


def _calibration(path: Path | None) -> Calibration:
    from harness.plan.calibration import SHIPPED, load

    return load(path or SHIPPED)


def _plan(
    config: RunConfig,
    calibration: Calibration,
    gpu: str | None,
    quantised_weights: bool,
    as_json: bool,
    picture: Path | None,
) -> None:
    from harness.plan.planner import plan as make_plan
    from harness.plan.presentation import plan_values, text

    made = make_plan(config, calibration, gpu, quantised_weights=quantised_weights)
    click.echo(json.dumps(plan_values(made), indent=2) if as_json else text(made, calibration))
    if picture is not None:
        from harness.plan.picture import svg

        _save(picture, svg(made))
    if not made.fits:
        raise SystemExit(1)


def _search_one(request: SearchRequest, gpus: int, top: int, as_json: bool) -> list[SearchResult]:
    """Print and return the layouts of one number of GPUs; if none fits, print changes that would."""
    from harness.plan.presentation import instead_lines, search_values, table
    from harness.plan.scaling import instead

    result = request.at(gpus, top)
    others = [] if result.candidates else list(instead(request, result))
    if as_json:
        click.echo(json.dumps(search_values(result, top, others), indent=2))
    else:
        click.echo("\n".join([table(result, top), *instead_lines(others)]))
    return [result]


def _search_several(request: SearchRequest, counts: tuple[int, ...], as_json: bool) -> list[SearchResult]:
    """Print and return the fastest layout for each number of GPUs."""
    from harness.plan.presentation import scaling_table, scaling_values
    from harness.plan.scaling import instead

    results = [request.at(gpus, listed=1) for gpus in sorted(counts)]
    others = {each.gpus: list(instead(request, each)) for each in results if not each.candidates}
    click.echo(json.dumps(scaling_values(results, others), indent=2) if as_json else scaling_table(results, others))
    return results


def _search_fewest(request: SearchRequest, minutes: float, top: int, as_json: bool) -> list[SearchResult]:
    """Print and return the layouts of the fewest GPUs that are fast enough.

    Raises:
        ConfigError: no number of GPUs is fast enough.
    """
    from harness.plan.presentation import fewest_text, search_values, too_slow
    from harness.plan.scaling import fewest

    result = fewest(request, minutes, top)
    if result is None or result.candidates[0].minutes > minutes:
        click.echo(error_lines([too_slow(result, minutes)]), err=True, nl=False)
        raise SystemExit(1)
    click.echo(json.dumps(search_values(result, top, []), indent=2) if as_json else fewest_text(result, minutes, top))
    return [result]


def _values(file: Path | None) -> dict[str, str]:
    """Return the variables that a configuration sets beyond its defaults."""
    resolved = resolve(file)
    values = resolved.config.to_environment()
    return {name: values[name] for name, origin in resolved.origins.items() if origin != "default" and name in values}


def _precision(precision: str | None) -> dict[str, str]:
    from harness.plan.job import precision_values

    if precision is None:
        return {}
    # Variables of another precision are unset.
    unset = {"FP8_RECIPE": ""} | ({} if precision == "fp8" else {"FP8_PARAM_GATHER": ""})
    return unset | precision_values(precision)


def _write(result: SearchResult, calibration: Calibration, folder: Path) -> Path:
    """Write the first layout as a config file; never overwrite an existing one."""
    from harness.config_file import write_config
    from harness.plan.planner import plan as make_plan

    best = result.candidates[0]
    made = make_plan(best.config, calibration, result.gpu.name)
    comment = (
        f"{result.gpus} {result.gpu.name} in {result.precision}: planned at {best.step:.2f} s a step, "
        f"{best.minutes:.0f} minutes to the target."
    )
    values = {**best.values, "WALLTIME": str(made.walltime)}
    return write_config(folder, result.gpu.system, values, comment)


def _save(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"{path} cannot be written: {error.strerror}"]) from None


@plan.command()
@click.argument("paths", nargs=-1, required=True, type=_PATH)
@click.option("--config", "config_file", type=_PATH, help="Configuration of logs without a run.json next to them.")
@click.option("--gpu", type=click.Choice(list(GPUS)), help="GPU of logs whose system's name does not contain it.")
@click.option("--from-scratch", is_flag=True, help="Start from physics, not from the shipped constants.")
@click.option("--out", type=_PATH, help="File to write; if not given, standard output.")
def calibrate(
    paths: tuple[Path, ...], config_file: Path | None, gpu: str | None, from_scratch: bool, out: Path | None
) -> None:
    """Refit the constants to logs (files, or folders of result_*.txt) and tables of measured steps (.csv).

    \b
    llama31 plan calibrate results/logs/MY_SYSTEM --out mine.json
    llama31 plan calibrate my_steps.csv --out mine.json
    llama31 plan --gpu H200 --gpus 512 --precision fp8 --calibration mine.json

    A table has one row for each measured step and these columns, in any order:

    \b
    gpu             H100, H200, B200, B300, GB200 or GB300
    gpus            how many trained together; or nodes and gpus_per_node
    precision       of the linear layers: bf16, fp8, mxfp8 or nvfp4
    tp, pp, cp      tensor, pipeline and context parallel sizes
    mbs             samples in a microbatch
    microbatches    of a replica in a step: MINIBS over mbs; or gbs, the global batch size
    step_median_s   seconds of a step, the median (or step_s)
    round           own: measured with your own software, which plans then assume;
                    v5.0, v5.1, v6.0: measured in a submission of that round
    source          if there is no round: the framework's recipe that was measured

    These columns are optional: benchmark (default: the one that the file name begins with, or llama31_405b), layers and
    vocab (default: the benchmark's), vp (interleaving), and for whole runs eval_s_median, run_minutes and steps, the
    last two separated by ; between runs, or eval_s, minutes and samples, separated by /. A row with a blank layout is
    skipped.
    """
    from harness.plan import calibration

    config = None if config_file is None else resolve(config_file).config
    measured = [row for path in paths for row in _read(path, config, gpu)]
    before = None if from_scratch else calibration.load()
    names = " ".join(map(str, paths))
    fitted = calibration.calibrate(
        measured,
        made=datetime.now(UTC).date().isoformat(),
        command=f"llama31 plan calibrate {'--from-scratch ' if from_scratch else ''}{names}",
        before=before,
    )
    for residual in fitted.residuals[-len(measured) :]:
        click.echo(
            f"{residual.error:+7.1%} predicted over measured, {residual.left_out:+7.1%} left out: "
            f"{residual.group}, {residual.gpus} GPUs, {residual.source}",
            err=True,
        )
    if out is None:
        click.echo(calibration.dump(fitted), nl=False)
    else:
        _save(out, calibration.dump(fitted))


def _logs_below(folder: Path) -> Iterator[Path]:
    return (Path(here, name) for here, _, names in walk(folder) for name in matching(names, "result_*.txt"))


def _read(path: Path, config: RunConfig | None, gpu: str | None) -> list[Measured]:
    from harness.plan.measured import UnreadableMeasurementError, read_log, read_table

    with refusing_files():
        if path.suffix == ".csv":
            return read_table(path)
        logs = sorted(_logs_below(path)) if path.is_dir() else [path]
        if not logs:
            raise UnreadableMeasurementError(f"{path} holds no result_*.txt")
        return [read_log(log, config, gpu) for log in logs]
