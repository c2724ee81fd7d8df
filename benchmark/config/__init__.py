"""The configuration of a run: which variables a user can set, and what follows from their values."""

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
