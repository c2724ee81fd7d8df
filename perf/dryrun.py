"""python -m perf.dryrun > docs/dryrun.md: every shipped shape on the null device.

It runs the first, the second and the last pipeline stage of each, two ranks at a time: half an hour on two
cores. The planner's memory is printed next to what the device counted. `--json FILE` keeps each rank's document.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from benchmark.arguments import PathArgument
from benchmark.checkout import ROOT
from benchmark.config.sourcing import config_files
from harness.dryrun.answer import Broken, RankVerdict
from harness.dryrun.lines import lines, table
from harness.dryrun.run import Asked, Rank, ask, run
from harness.plan import memory
from harness.plan.job import from_config, precision_of

_STEPS = 1
"""Steps after the warm-up, which has two of its own, so that the optimizer's state exists."""

PAGE = """# Every shipped shape on the null device

`python -m perf.dryrun > docs/dryrun.md`, {date}, {minutes} minutes on two cores; {versions}. What the null device is,
and what it cannot show: [nullcuda/README.md](../nullcuda/README.md).

The first rank of the first, the second and the last pipeline stage of each shape, with two microbatches for each
stage or all of a run that has fewer, after a warm-up and {steps} step. **Peak** is what PyTorch's allocator has
handed out at most, **reserved** what it has held, **planned** what `llama31 plan` says of the peak. **Left** is the
GPU's memory less what is reserved and what is taken for all that lies outside of the allocator; a shape fits where
that is not negative. **Host waits** are of one step. What follows is a microbatch's share of a step: operations that
the host queues, matrix products (and how they differ from the model's own, without attention), those that the
backward pass makes again, attention with masked entries counted, bytes of all collectives on this rank, and
milliseconds of one core of the machine that ran it.
"""


@click.command()
@click.argument("configs", nargs=-1, type=PathArgument(exists=True, dir_okay=False))
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(min=1), help="Ranks at the same time.")
@click.option("--json", "kept", type=PathArgument(dir_okay=False), help="Also keep each rank's document in this file.")
@click.option("--peaks", type=PathArgument(dir_okay=False), help="Also write what the planner's test compares with.")
def main(configs: tuple[Path, ...], jobs: int, kept: Path | None, peaks: Path | None) -> None:
    """Prints the table; exits 1 if a shape does not fit, or runs as it should not."""
    ranks = shipped_ranks(list(configs) or shipped())
    began = datetime.now(UTC)
    outcomes: list[RankVerdict | Broken] = []
    for rank, outcome in run(ranks, jobs=jobs):
        outcomes.append(outcome)
        sys.stderr.write(f"{len(outcomes)} of {len(ranks)}: {outcome.config.system}, rank {rank.rank}\n")
    if kept is not None:
        kept.write_text("".join(f"{json.dumps(outcome.document())}\n" for outcome in outcomes))
    for broken in (outcome for outcome in outcomes if isinstance(outcome, Broken)):
        sys.stderr.write("\n".join(lines(broken)) + "\n")
    verdicts = [outcome for outcome in outcomes if isinstance(outcome, RankVerdict)]
    verdicts.sort(key=lambda verdict: (verdict.config.system, verdict.answer.stage))
    if peaks is not None:
        peaks.write_text(golden(verdicts, began))
    versions = ", ".join(f"{name} {version}" for name, version in verdicts[0].answer.versions.items())
    minutes = (datetime.now(UTC) - began).total_seconds() / 60
    print(PAGE.format(date=f"{began:%Y-%m-%d}", minutes=f"{minutes:.0f}", versions=versions, steps=_STEPS))
    print("\n".join(table([(verdict, planned(verdict)) for verdict in verdicts])))
    sys.exit(int(any(outcome.faults for outcome in outcomes)))


def shipped() -> list[Path]:
    """Return the configs of systems with GPUs."""
    return [path for path in config_files(ROOT) if path.name != "config_tiny.sh"]


def shipped_ranks(configs: list[Path]) -> list[Rank]:
    """Return a rank of the first, the second and the last stage of each config, with the microbatches of its peak."""
    return [_rank(asked, stage) for asked in map(ask, configs) for stage in asked.stages()]


def worst_ranks(configs: list[Path]) -> list[Rank]:
    """Return, for each config, a rank of the stage that needs most memory according to the planner."""
    return [
        _rank(asked, memory.worst(from_config(asked.config, gpu=asked.gpu.name)).stage) for asked in map(ask, configs)
    ]


def _rank(asked: Asked, stage: int) -> Rank:
    return Rank(asked=asked, rank=asked.rank_of(stage), microbatches=asked.fewer_microbatches(), steps=_STEPS)


def golden(verdicts: Sequence[RankVerdict], measured: datetime) -> str:
    """Return tests/golden/null_peaks.json: peaks that the planner may exceed, but not fall below."""
    rows = [
        {
            "config": verdict.config.system,
            "stage": verdict.answer.stage,
            "precision": precision_of(verdict.config.kernels),
            "microbatches": verdict.answer.microbatches,
            "allocated": verdict.answer.peak,
            "reserved": verdict.answer.reserved,
        }
        for verdict in verdicts
    ]
    document = {
        "what": "most that PyTorch's allocator hands out and reserves in one rank on the null device, bytes",
        "measured": f"{measured:%Y-%m-%d}",
        "how": "python -m perf.dryrun --peaks tests/golden/null_peaks.json",
        "versions": verdicts[0].answer.versions,
    }
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    return json.dumps(document, indent=1).removesuffix("\n}") + f',\n "peaks": [\n{lines}\n ]\n}}\n'


def planned(verdict: RankVerdict) -> float:
    """Return the planner's bytes in the allocator, for the rank's stage and for the microbatches that it ran."""
    layout = verdict.config.layout
    fewer = verdict.config.changed(MINIBS=verdict.answer.microbatches * layout.micro_batch_size)
    job = from_config(fewer, gpu=verdict.gpu.name)
    return memory.stages(job)[verdict.answer.stage].allocated


if __name__ == "__main__":
    main()
