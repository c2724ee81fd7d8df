"""Write the README.md of a packaged implementation: how to repeat its runs, and which files decide each part of them.

Everything in it comes from run.json, from the rules or from a packaged file. Source: submission_rules.adoc, "Source
code requirements for replication" and "... for training inspection".
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from shlex import quote
from typing import Any

from benchmark.announce import announce
from benchmark.benchmarks import Benchmark
from benchmark.config import ConfigError, RunConfig, source_config
from benchmark.config.groups import Hyperparameters, Kernels, Layout, Submission
from benchmark.rules import ScaledLearningRate
from compliance.convergence.score import minutes_to_target
from compliance.package.runs import ChosenRuns

DATA, WEIGHTS = "/data/dataset", "/data/weights"
"""The folders that the steps use for data and weights; any others will do."""

WHERE = (
    ("data preprocessing", ("reference_impl/data/prepare/", "docs/data.md")),
    ("order of the data", ("reference_impl/data/read/datasets.py",)),
    ("model", ("benchmark/sizes.py", "reference_impl/model.py", "reference_impl/layers.py")),
    ("its initial weights", ("reference_impl/checkpoint/initial.py", "docs/checkpoints.md")),
    ("optimizer and schedule", ("reference_impl/optimizer.py", "benchmark/rules.py")),
    ("hyperparameters", ("benchmark/rules.py", "benchmark/announce.py")),
    ("when it is evaluated", ("benchmark/rules.py", "benchmark/loop.py")),
    ("how it is evaluated", ("reference_impl/step.py", "reference_impl/head.py")),
    ("what is timed", ("benchmark/loop.py",)),
)
"""Parts of a run that a reviewer must be able to verify, and the files that decide each."""

_REPEATED = (Layout, Kernels, Hyperparameters, Submission)
"""Groups of variables that define a run. The others hold paths of the machine that it ran on."""


@dataclass(frozen=True)
class _Runs:
    """The runs of a system, as the README describes them."""

    chosen: ChosenRuns
    file: str
    """The path of the config file, relative to the README."""
    exports: Mapping[str, str]
    """Variables of the runs that the config file does not set: name -> value."""

    @property
    def config(self) -> RunConfig:
        return self.chosen.launch.config

    @property
    def benchmark(self) -> Benchmark:
        return self.config.benchmark_row


def readme(chosen: ChosenRuns, checkout: Path, file: str) -> str:
    """Return the text of the README.

    Args:
        chosen: the runs of one system and benchmark.
        checkout: the folder from which the implementation is copied.
        file: the path of the runs' config file, relative to the checkout.
    """
    runs = _Runs(chosen, file, beyond(chosen.launch.config, checkout / file))
    parts = (_head, _steps, _results, _data, _hyperparameters, _software, _where)
    return "\n".join(line for part in parts for line in part(runs))


def beyond(config: RunConfig, file: Path) -> dict[str, str]:
    """Return the variables of a run that its config file, sourced in a bare shell, does not set to the same value."""
    try:
        # Variables of the shell that builds the package must not look like those of the file.
        from_file = RunConfig.from_environment(source_config(file, {"PATH": os.defpath}), made=True).to_environment()
    except ConfigError:
        from_file = {}
    names = [str(info.alias) for group in _REPEATED for info in group.model_fields.values()]
    values = config.to_environment()
    return {name: values.get(name, "") for name in ("RULESET", *names) if values.get(name) != from_file.get(name)}


def _head(runs: _Runs) -> Iterator[str]:
    config, record = runs.config, runs.chosen.launch.record
    layout = config.layout
    yield f"# {config.benchmark} on {record.system}"
    yield ""
    yield f"Pretraining of Llama 3.1 {config.size.name} by the rules of MLPerf Training {config.rules.ruleset},"
    yield f"{config.submission.division} division, on {layout.nodes} nodes of {layout.gpus_per_node} accelerators."
    if any(run.log.not_a_run for run in runs.chosen.runs):
        yield ""
        yield "**A rehearsal: these runs were simulated, and nothing was trained.**"


def _steps(runs: _Runs) -> Iterator[str]:
    config, row = runs.config, runs.benchmark
    loads = row.initial_weights is not None
    yield from _section("Steps to reproduce")
    yield "Run these commands in this folder. [docs/](docs/) explains each step in full."
    yield ""
    yield "1. Install the environment, on a bare machine:"
    yield ""
    yield "        bash setup.sh                # into .venv; `llama31` below is .venv/bin/llama31"
    yield ""
    image = _code(_image(config)) or "no container"
    yield f"   or build the image of the [Dockerfile](Dockerfile) and name it in `CONT`. These runs used {image}."
    yield f"2. Get the data, {row.dataset.corpus} ([docs/data.md](docs/data.md)):"
    yield ""
    yield f"        llama31 data download {row.name} {DATA}"
    yield f"        llama31 data verify --expect {row.name} {DATA}"
    yield ""
    yield from _tokenizer(row)
    yield f"3. Get the initial weights: {_weights(row)} ([docs/checkpoints.md](docs/checkpoints.md))."
    if loads:
        yield ""
        yield f"        llama31 checkpoint inspect {WEIGHTS}"
        yield ""
    yield "4. Start the runs with Slurm ([docs/slurm.md](docs/slurm.md)) or, on one node, with `bash run_and_time.sh`:"
    yield ""
    yield f"        source {quote(runs.file)}"
    yield from (f"        export {name}={quote(value)}" for name, value in runs.exports.items())
    folders = [f"DATADIR={DATA}", *([f"LOAD_CHECKPOINT={WEIGHTS}"] if loads else [])]
    yield f"        export {' '.join([*_job(config), *folders])}"
    yield '        sbatch -N "$DGXNNODES" -t "$WALLTIME" run.sub'
    yield ""
    yield "   `NEXP=1 SEED=<seed>` repeats one of the runs below; without SEED each run draws its own seed."
    yield "5. Check their logs:"
    yield ""
    yield f"        llama31 check results/logs/{runs.chosen.launch.record.system}"


def _job(config: RunConfig) -> Iterator[str]:
    """Yield the settings of a job that makes a whole result, with as much time a run as the original jobs had."""
    runs, minutes = config.rules.runs, config.job.walltime
    yield f"NEXP={runs}"
    if minutes is not None:
        yield f"WALLTIME={minutes * ceil(runs / config.job.experiments)}"


def _tokenizer(row: Benchmark) -> Iterator[str]:
    if not row.tokenizer.installed:
        yield f"   The tokenizer is {row.tokenizer.about}. Get it from its publisher and `export TOKENIZER=<its file>`."


def _weights(row: Benchmark) -> str:
    if row.initial_weights is None:
        return "none to get, they are drawn at random with the seed of the run"
    return f"{row.initial_weights.about}, as MLCommons or Hugging Face publish it"


def _results(runs: _Runs) -> Iterator[str]:
    chosen = runs.chosen
    yield from _section("Runs")
    if len(chosen.runs) == chosen.launched:
        yield f"All {chosen.launched} runs that were launched."
    else:
        yield f"{len(chosen.runs)} consecutive runs of the {chosen.launched} that were launched: of all such sets,"
        yield 'the one whose score is the median (training_rules.adoc, "Scoring").'
    yield ""
    yield from _table("log", "seed", "minutes to the target")
    for index, run in enumerate(chosen.runs):
        seed, minutes = run.value("seed") if run.has("seed") else "", minutes_to_target(run)
        yield _row(f"result_{index}.txt", str(seed), "not reached" if minutes is None else f"{minutes:.3f}")


def _data(runs: _Runs) -> Iterator[str]:
    row, recorded = runs.benchmark, runs.chosen.launch.record.data
    files = recorded.get("files")
    yield from _section("Data")
    yield f"{row.dataset.corpus}; tokenizer {row.tokenizer.about}, {row.vocabulary:,} pieces."
    if not isinstance(files, Mapping):
        yield "The runs recorded no files."
        return
    yield f"Compared before the runs: {recorded.get('compared', 'nothing')} of these files."
    yield ""
    yield from _table("file", "bytes", "checksum")
    for name, entry in files.items():
        yield _row(str(name), *_entry(entry))


def _entry(entry: Any) -> tuple[str, str]:
    if not isinstance(entry, Mapping):
        return "", ""
    sums = (f"{name} {entry[name]}" for name in ("sha256", "md5") if entry.get(name))
    return str(entry.get("bytes", "")), next(sums, "")


def _hyperparameters(runs: _Runs) -> Iterator[str]:
    """Yield the hyperparameters of the runs and, in the open division, the closed division's where they differ."""
    config = runs.config
    yield from _section("Hyperparameters")
    closed = {"model_size": runs.benchmark.size.name, **_announced(_as_if_closed(config))}
    if config.is_open:
        yield "The closed division's value is given where it differs."
        yield ""
    yield from _table("key", "value", *(["closed division"] if config.is_open else []))
    for key, value in _announced(config).items():
        other = [] if not config.is_open else ["" if closed[key] == value else str(closed[key])]
        yield _row(key, str(value), *other)


def _announced(config: RunConfig) -> dict[str, object]:
    announced = announce(config.changed(NEXP=1, SEED=0, SEED_BASE=None))
    return {key: value for key, value in announced if key != "seed" and not key.startswith("submission_")}


def _as_if_closed(config: RunConfig) -> RunConfig:
    """Return the run with the hyperparameters that the closed division fixes."""
    fixed = list(config.hyperparameters.of_the_open_division)
    if isinstance(config.rules.learning_rate, ScaledLearningRate):
        fixed += ["LEARNING_RATE", "WARMUP_STEPS"]
    return config.changed(MLPERF_SUBMISSION_DIVISION="closed", **dict.fromkeys(fixed))


def _software(runs: _Runs) -> Iterator[str]:
    record = runs.chosen.launch.record
    code, state = record.code, {True: ", with changes", False: "", None: ", possibly with changes"}
    versions = {
        "this code": f"revision {code.get('revision') or 'unknown'}{state.get(_flag(code.get('modified')), '')}",
        **record.versions,
        "layers": record.layer_spec,
        **record.libraries,
        "container image": _image(runs.config),
    }
    yield from _section("Software")
    yield from _table("what", "version or value")
    yield from (_row(name, value) for name, value in versions.items() if value)


def _image(config: RunConfig) -> str:
    """Return the container image; for a file only its name, because its folder is private."""
    image = config.job.container_image
    return Path(image).name if image.startswith("/") else image


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _where(_runs: _Runs) -> Iterator[str]:
    yield from _section("Where each part is written")
    yield from _table("what", "where")
    for what, files in WHERE:
        yield f"| {what} | {', '.join(f'[{file}]({file})' for file in files)} |"
    yield ""


# Markdown.


def _section(title: str) -> Iterator[str]:
    yield from ("", f"## {title}", "")


def _table(*heads: str) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"


def _row(name: str, *values: str) -> str:
    return f"| {_text(name)} | {' | '.join(map(_code, values))} |"


def _code(value: str) -> str:
    return f"`{_text(value)}`" if value else ""


def _text(value: str) -> str:
    """Return text for a cell of a table, with every character replaced that would end the cell or the line."""
    return value.replace("|", "/").replace("`", "'").replace("\n", " ")
