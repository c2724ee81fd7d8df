"""Runs ranks of configurations in one process of the null environment, and returns a verdict for each."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from benchmark.checkout import ROOT
from benchmark.config import RunConfig, resolve
from benchmark.errors import RefusedError
from benchmark.hardware import GPUS, Gpu, gpu_of_system
from benchmark.rules import FreeLearningRate
from harness.dryrun.answer import Answer, Broken, RankVerdict
from harness.dryrun.environment import interpreter, variables

DEFAULT_GPU = GPUS["H100"]
"""Used if neither the system's name nor the caller names a GPU."""


class DryRunFailedError(RefusedError):
    """The process that runs the ranks ended before all of them had answered."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A configuration to run."""

    config: RunConfig
    gpu: Gpu
    library: Mapping[str, str] = field(default_factory=dict)
    """Variables that it exports for the libraries underneath."""

    def stages(self) -> list[int]:
        """Return the stages that may need most memory: the first, the second and the last."""
        last = self.config.layout.pipeline_model_parallel - 1
        return sorted({0, min(1, last), last})

    def rank_of(self, stage: int) -> int:
        """Return the first rank of a pipeline stage."""
        layout = self.config.layout
        return next(rank for rank in range(layout.world_size) if layout.stage_of(rank) == stage)

    def fewer_microbatches(self) -> int:
        """Return two microbatches for each stage, after which peak memory no longer grows; at most the run's own."""
        layout = self.config.layout
        return min(layout.gradient_accumulation_steps, 2 * layout.pipeline_model_parallel)


def ask(file: Path, values: Mapping[str, str] | None = None, gpu: str | None = None) -> Asked:
    """Read the configuration in a file, with other values for some variables, by shell name.

    Raises:
        ConfigError: the file, a name, or the combination is wrong; or there is no such GPU.
    """
    # The name of a config file is the name of its system.
    device = gpu_of_system(file.stem) or DEFAULT_GPU if gpu is None else GPUS[gpu]
    # A fixed seed makes the run repeatable, and no weights are read. With other values, the file's name would be wrong.
    fixed = {"SEED": "1", "LOAD_CHECKPOINT": ""} | ({"DGXSYSTEM": f"{device.system}_changed"} if values else {})
    resolved = resolve(file, values=fixed | dict(values or {}))
    return Asked(config=_with_its_rate(resolved.config), gpu=device, library=resolved.libraries)


def _with_its_rate(config: RunConfig) -> RunConfig:
    """Set what the rules leave free: the reference may have no learning rate for so few microbatches."""
    if not isinstance(config.rules.learning_rate, FreeLearningRate):
        return config
    schedule = config.schedule
    return config.changed(LEARNING_RATE=schedule.base_learning_rate, WARMUP_STEPS=schedule.warmup_steps)


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One rank to run."""

    asked: Asked
    rank: int
    microbatches: int
    steps: int = 2
    folder: Path | None = None
    """Folder to save a checkpoint to and load it from; None to do neither."""

    def line(self) -> str:
        """Return the rank as a line of JSON, which nullcuda reads."""
        config, gpu = self.asked.config, self.asked.gpu
        each = config.layout.gpus_per_node
        return json.dumps(
            {
                "variables": config.changed(RANK=self.rank, LOCAL_RANK=self.rank % each).to_environment(),
                "microbatches": self.microbatches,
                "gpu": {
                    "name": f"NVIDIA {gpu.name}",
                    "capability": gpu.compute_capability,
                    "memory": gpu.memory,
                    "multiprocessors": gpu.multiprocessors,
                    "count": each,
                },
                "steps": self.steps,
                "folder": None if self.folder is None else str(self.folder),
            }
        )


def run(ranks: Sequence[Rank], *, jobs: int = 1) -> Iterator[tuple[Rank, RankVerdict | Broken]]:
    """Run the ranks, and yield the outcome of each in the order in which they end.

    Raises:
        NoNullDeviceError: there is no environment for it.
        DryRunFailedError: their process ended before all of them were run.
    """
    python = interpreter()
    # A process has one environment; configurations that export the same values for the libraries share it.
    together: dict[frozenset[tuple[str, str]], list[Rank]] = {}
    for rank in ranks:
        together.setdefault(frozenset(rank.asked.library.items()), []).append(rank)
    for library, group in together.items():
        yield from _run(python, variables(python, dict(library)), group, jobs)


def _run(
    python: Path, environment: dict[str, str], ranks: Sequence[Rank], jobs: int
) -> Iterator[tuple[Rank, RankVerdict | Broken]]:
    with tempfile.TemporaryFile() as output:
        command = [str(python), "-m", "nullcuda", str(jobs)]
        with _process(command, environment, output) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("".join(f"{rank.line()}\n" for rank in ranks))
            process.stdin.close()
            answered = 0
            for line in process.stdout:
                answer = json.loads(line)
                answered += 1
                rank = ranks[answer.pop("index")]
                yield rank, _outcome(rank, answer)
        if answered < len(ranks):
            raise DryRunFailedError(
                [f"the null device's process ended with status {process.returncode}", *_last_lines(output)]
            )


def _outcome(rank: Rank, answer: dict[str, Any]) -> RankVerdict | Broken:
    asked = rank.asked
    if "error" in answer:
        return Broken(config=asked.config, gpu=asked.gpu, rank=rank.rank, error=answer["error"], trace=answer["trace"])
    return RankVerdict(config=asked.config, gpu=asked.gpu, answer=Answer.model_validate(answer))


@contextmanager
def _process(command: list[str], environment: dict[str, str], errors: IO[bytes]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
    )
    try:
        yield process
        process.wait()
    finally:
        # The process ends its own ranks.
        process.kill()
        process.wait()


def _last_lines(said: IO[bytes]) -> list[str]:
    said.seek(0)
    return said.read().decode(errors="replace").splitlines()[-20:]
