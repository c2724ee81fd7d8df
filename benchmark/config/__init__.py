"""What one run is: the variables that a user can set, read once from the environment, and what follows from them."""

from benchmark.config.resolve import Resolved, describe, resolve
from benchmark.config.run_config import LIBRARY_PREFIXES, NAMES, ConfigError, RunConfig
from benchmark.config.sourcing import config_files, source_config

__all__ = [
    "LIBRARY_PREFIXES",
    "NAMES",
    "ConfigError",
    "Resolved",
    "RunConfig",
    "config_files",
    "describe",
    "resolve",
    "source_config",
]
