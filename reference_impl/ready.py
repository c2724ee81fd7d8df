"""python -m reference_impl.ready: can the run that the environment describes be trained here?

Refuses what the trainer cannot do, makes sure that the data is there and right, and answers as JSON what is seen here:
the data's manifest, what of its files was compared (their bytes or, of a large dataset, their sizes), and versions.
Initial weights are opened and accounted for, and not read. Imports without torch. Exit status: 0 it can, 2 it cannot.
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
    """For a reader."""
    seen: Seen
    """With the manifest of its data, and what of the files was compared."""


def make_ready(config: RunConfig) -> ReadyRun:
    """Make sure that a run can be trained here.

    Raises:
        RefusedError: it cannot.
    """
    try:
        return _make_ready(config)
    except RefusedError as error:
        raise RefusedError([*error.faults, *links_to_nowhere(config)]) from None


def links_to_nowhere(config: RunConfig) -> Iterator[str]:
    """Yield the first such link of each folder that is read: in a container, its target is not mounted."""
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
    """Raise ConfigError for a run of a network that the benchmark starts from a checkpoint, and that has none."""
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
