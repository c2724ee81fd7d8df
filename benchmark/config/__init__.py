"""The configuration of a run: which variables a user can set, and what follows from their values."""

from benchmark.config.resolve import Resolved, by_origin, describe, overrides, resolve, resolve_for_nodes
from benchmark.config.run_config import LIBRARY_PREFIXES, NAMES, ConfigError, RunConfig
from benchmark.config.sourcing import config_files, source_config

__all__ = [
    "LIBRARY_PREFIXES",
    "NAMES",
    "ConfigError",
    "Resolved",
    "RunConfig",
    "by_origin",
    "config_files",
    "describe",
    "overrides",
    "resolve",
    "resolve_for_nodes",
    "source_config",
]
