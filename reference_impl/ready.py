"""python -m reference_impl.ready: can the run that the environment describes be trained here?

Refuses what the trainer cannot do, makes sure that the data is there and right, and prints the data's manifest as JSON.
Imports without torch. Exit status: 0 it can, 2 it cannot.
"""

from __future__ import annotations

import sys

from benchmark.config import ConfigError, RunConfig
from reference_impl.data.manifest import DataError
from reference_impl.data.source import data_folder, ready
from reference_impl.tokenizer import TokenizerError


def main() -> int:
    try:
        config = RunConfig.from_environment()
        refuse_unfinished(config)
        manifest = ready(config)
    except (ConfigError, DataError, TokenizerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"data      {data_folder(config)} verified", file=sys.stderr)
    print(manifest.model_dump_json())
    return 0


def refuse_unfinished(config: RunConfig) -> None:
    """Raise ConfigError for a run that the trainer cannot do yet."""
    if config.rules.init_checkpoint_step is not None:
        raise ConfigError([f"BENCHMARK={config.benchmark} starts from a checkpoint, which the trainer cannot load yet"])
    if config.rank is None and config.nodes != 1:
        raise ConfigError(
            [
                f"DGXNNODES={config.nodes}: the ranks of one node are started here; start those of several"
                " with torchrun's variables (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) set"
            ]
        )


if __name__ == "__main__":
    sys.exit(main())
