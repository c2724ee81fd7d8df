"""run.json: what ran. Configuration and origins, seeds, outcomes, code revision, versions, machine, data.

Of the environment, only the variables of the configuration's own table: an environment holds secrets.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmark.checkout import ROOT
from benchmark.config import NAMES, Resolved, kernels
from benchmark.files import write_at_once

FILE_NAME = "run.json"

_PACKAGES = ("torch", "megatron-core", "mlperf-logging", "sentencepiece", "numpy", "transformer-engine")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One of the runs, as run.json lists it."""

    result: str
    """File name of the log."""
    seed: int
    status: str = "running"
    """`success`, `aborted`, or how the processes ended without saying so."""
    minutes: float | None = None
    """From run_start to run_stop."""
    lost: int = 0
    """How often it was cut off before its first checkpoint and started again, under a new clock."""


def record(resolved: Resolved, data: dict[str, Any], started: datetime) -> dict[str, Any]:
    """Everything about a set of runs but their outcomes."""
    config = resolved.config
    values = config.model_dump(mode="json", by_alias=True)
    return {
        "benchmark": config.benchmark,
        "ruleset": config.rules.ruleset,
        "system": config.system,
        "started": started.isoformat(timespec="seconds"),
        "configuration": {name: {"value": values[name], "origin": resolved.origins[name]} for name in NAMES},
        "code": code_revision(),
        "versions": versions(),
        "layer_spec": kernels.layer_spec(config, kernels.probe()),
        "machine": machine(),
        "data": data,
    }


def write(folder: Path, recorded: dict[str, Any], experiments: list[Experiment]) -> None:
    """Write run.json whole, or leave the last one."""
    text = json.dumps({**recorded, "experiments": [asdict(one) for one in experiments]}, indent=2) + "\n"
    write_at_once(folder / FILE_NAME, text)


def stamp(now: datetime) -> str:
    """The name of a run's folder: UTC time, to the second."""
    return now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def code_revision() -> dict[str, Any]:
    """The commit of the checkout and whether files differ from it; both None outside a git checkout."""
    revision = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain")
    return {"revision": revision, "modified": None if changes is None else bool(changes)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide what a run computes; absent ones are left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, and memory, without names that identify a host."""
    pages, page_size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages * page_size / 2**30, 1),
        "kernel": platform.release(),
        "platform": sys.platform,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((text.split(":", 1)[1].strip() for text in lines if text.startswith("model name")), platform.machine())
