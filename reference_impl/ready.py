"""python -m reference_impl.ready: check that the run that the environment describes can be trained here.

It refuses what the trainer cannot do, makes sure that the data is there and right, and prints as JSON what it found:
the data's manifest, what was compared of its files (their bytes or, for a large dataset, their sizes), and versions. It
opens initial weights and accounts for every tensor, but does not read them. Imports no torch. Exit status: 0 the run
can be trained here, 2 it cannot.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from benchmark.answers import answer
from benchmark.config import ConfigError, RunConfig
from benchmark.errors import RefusedError, error_lines
from benchmark.files import links_in
from benchmark.run_record import Seen, seen_here
from reference_impl.checkpoint.inspection import summary
from reference_impl.checkpoint.source import usable_checkpoint
from reference_impl.data.read.configured import data_folder, ready


@dataclass(frozen=True)
class ReadyRun:
    """What a run will be trained on."""

    lines: tuple[str, ...]
    """Lines for people."""
    seen: Seen
    """Fields for run.json: the data's manifest, and what was compared of its files."""


def make_ready(config: RunConfig) -> ReadyRun:
    """Make sure that a run can be trained here.

    Raises:
        RefusedError: it cannot, with the reasons.
    """
    try:
        return _make_ready(config)
    except RefusedError as error:
        raise RefusedError([*error.faults, *links_to_nowhere(config)]) from None


def links_to_nowhere(config: RunConfig) -> Iterator[str]:
    """Yield the first broken link of each folder that is read: in a container, its target is not mounted."""
    for folder in (config.data.data_dir, config.data.load_checkpoint):
        links = links_in(folder) if folder is not None else iter(())
        if link := next((link for link in links if not link.exists()), None):
            yield f"{link} leads to {os.path.realpath(link)}, which is not there"


def _make_ready(config: RunConfig) -> ReadyRun:
    require_initial_weights(config)
    weights = usable_checkpoint(config) if config.data.load_checkpoint else None
    data = ready(config)
    lines = [] if weights is None else [f"weights   {summary(weights, config.vocabulary)}"]
    lines.append(f"data      {data_folder(config)}, {data.compared} of its files compared")
    manifest = data.manifest.model_dump(mode="json", exclude_none=True)
    return ReadyRun(tuple(lines), seen_here(config, {"compared": data.compared, **manifest}))


def require_initial_weights(config: RunConfig) -> None:
    """Raise ConfigError if the benchmark starts the network from a checkpoint and the run has none."""
    row = config.benchmark_row
    if row.initial_weights is not None and config.size == row.size and config.data.load_checkpoint is None:
        raise ConfigError(
            [
                f"BENCHMARK={config.benchmark} starts from a checkpoint: set LOAD_CHECKPOINT to the folder of its "
                "initial weights, in NeMo's format or Hugging Face's"
            ]
        )


def main() -> int:
    try:
        done = make_ready(RunConfig.from_environment())
    except RefusedError as error:
        sys.stderr.write(error_lines(error.faults))
        return 2
    print("\n".join(done.lines), file=sys.stderr)
    answer(done.seen.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
