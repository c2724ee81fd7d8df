"""run.json records what ran: configuration, seeds, outcomes, code revision, versions, machine, data.

This is the only module that writes or reads it; it also reads what earlier versions wrote. Of the environment it
records only the harness's own variables, because an environment holds secrets.
"""

from __future__ import annotations

import errno
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from benchmark import driver
from benchmark.checkout import ROOT
from benchmark.config import Resolved, RunConfig, kernels, libraries
from benchmark.decode import MalformedError, read_regular
from benchmark.errors import RefusedError, UnwritableError
from benchmark.files import RUN_JSON, is_held, overwrite, write_at_once

VERSION = 1
"""Version of the schema. It rises when a field is removed or changes its meaning."""

RUNNING, KILLED = "running", "killed"
"""The status of a run that is under way, and the one that `read` returns when its processes are gone."""

LARGEST = 1 << 20
"""The most bytes that a run.json may have."""

_FULL = (errno.ENOSPC, errno.EDQUOT)

Scalar = str | int | float | bool | None

_CODE = (
    *("benchmark", "compliance", "harness", "reference_impl", "report"),
    *("run.sub", "run_and_time.sh", "setup.sh", "pyproject.toml", ":(glob)requirements*.lock"),
)
"""The parts of the checkout that a run uses, as git's pathspecs; without its configs, whose values are recorded."""

_PACKAGES = ("torch", "megatron-core", "mlperf-logging", "sentencepiece", "numpy", "transformer-engine")


class UnreadableRecordError(RefusedError):
    """A run.json that cannot be read, or that a later version wrote."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Setting(_Part):
    """One variable of the configuration."""

    value: Scalar = None
    origin: str = ""


class Experiment(_Part):
    """One of the runs."""

    result: str
    """File name of the log."""
    seed: int
    status: str = RUNNING
    """`success`, `aborted`, how the processes ended without logging it, or how far it is."""
    minutes: float | None = None
    """Minutes from run_start to run_stop."""
    lost: int = 0
    """How often it was cut off before its first checkpoint and started again, with a new clock."""


class Seen(_Part):
    """What the ranks of a run find where they start, which may be inside a container."""

    data: dict[str, Any]
    """The manifest of the data, or a note that nothing will be trained."""
    versions: dict[str, str] = {}
    layer_spec: str = ""
    libraries: dict[str, str] = {}
    """Values of the variables in libraries.RECORDED that are set."""
    never_on_a_gpu: tuple[str, ...] = ()
    """The switches that these ranks use on GPUs and that had never run on one before."""


class RunRecord(_Part):
    """The record of a set of runs. A field that an earlier version did not write is empty."""

    version: Annotated[int, Field(ge=1, le=VERSION)] = VERSION
    benchmark: str = ""
    ruleset: str = ""
    system: str = ""
    started: AwareDatetime | None = None
    configuration: dict[str, Setting] = {}
    """Shell name -> value and origin."""
    code: dict[str, Scalar] = {}
    versions: dict[str, str] = {}
    layer_spec: str = ""
    libraries: dict[str, str] = {}
    """The libraries' variables, as in `Seen`; the next field is copied from there too."""
    never_on_a_gpu: tuple[str, ...] = ()
    machine: dict[str, Scalar] = {}
    data: dict[str, Any] = {}
    """As in `Seen`."""
    jobs: tuple[dict[str, str], ...] = ()
    """The jobs of the batch system that ran it, in order."""
    experiments: tuple[Experiment, ...] = ()

    def setting(self, name: str) -> Scalar:
        """Return the value of a variable of the configuration, by shell name; None if it has none."""
        return self.configuration[name].value if name in self.configuration else None

    def config(self) -> RunConfig:
        """Return the configuration, under the ruleset of the runs.

        Raises:
            ConfigError: the recorded values are not a possible configuration.
        """
        values = {name: setting.value for name, setting in self.configuration.items()}
        values["RULESET"] = self.ruleset
        made = {name: str(value) for name, value in values.items() if value is not None}
        return RunConfig.from_environment(made, made=True)

    def with_experiments(self, experiments: Sequence[Experiment]) -> RunRecord:
        return self.model_copy(update={"experiments": tuple(experiments)})

    def with_job(self, job: dict[str, str]) -> RunRecord:
        return self.model_copy(update={"jobs": (*self.jobs, job)})


def seen_here(config: RunConfig, data: dict[str, Any]) -> Seen:
    """Return what this process's own environment offers."""
    spec = kernels.layer_spec(config.kernels, kernels.probe())
    used = config.changed(LAYER_SPEC=spec)
    unproven = kernels.never_on_a_gpu(used.kernels, used.layout) if driver.gpu_names() else ()
    return Seen(
        data=data,
        versions=versions(),
        layer_spec=spec,
        libraries={name: os.environ[name] for name in libraries.RECORDED if os.environ.get(name)},
        never_on_a_gpu=tuple(switch.name for switch in unproven),
    )


def record(resolved: Resolved, seen: Seen, started: datetime) -> RunRecord:
    """Return the record of a set of runs, without their outcomes."""
    config = resolved.config
    values = config.values(as_json=True)
    return RunRecord(
        benchmark=config.benchmark,
        ruleset=config.rules.ruleset,
        system=config.system,
        started=started.replace(microsecond=0),
        configuration={name: Setting(value=value, origin=resolved.origins[name]) for name, value in values.items()},
        code=code_revision(),
        versions=seen.versions,
        layer_spec=seen.layer_spec,
        libraries=seen.libraries,
        never_on_a_gpu=seen.never_on_a_gpu,
        machine=machine(),
        data=seen.data,
    )


def write(folder: Path, recorded: RunRecord) -> None:
    """Write run.json whole, or leave the last one; on a full disk, reuse the space of the last one.

    Raises:
        UnwritableError: it cannot be written.
    """
    path, text = folder / RUN_JSON, recorded.model_dump_json(indent=2) + "\n"
    try:
        try:
            write_at_once(path, text)
        except OSError as error:
            if error.errno not in _FULL or not overwrite(path, text):
                raise
    except OSError as error:
        raise UnwritableError(path, error) from None


def console_of(folder: Path, result: str) -> Path:
    """Return the file that the processes of a run print to: `console_<n>.log` for result_<n>.txt.

    Each of them holds it open and locked, so the lock is held while one of them lives.
    """
    return folder / result.replace("result_", "console_").replace(".txt", ".log")


def read(path: Path) -> RunRecord:
    """Read a run.json, which may be anybody's; a run recorded as running whose processes are gone becomes KILLED.

    Raises:
        UnreadableRecordError: the file is not a record, with the first reason.
        OSError: it cannot be opened.
    """
    try:
        recorded = RunRecord.model_validate_json(read_regular(path, LARGEST))
    except MalformedError as error:
        raise UnreadableRecordError(f"{path} is not a record of runs: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UnreadableRecordError(f"{path} is not a record of runs: {where}: {first['msg']}") from None
    return recorded.with_experiments([_as_it_is(path.parent, one) for one in recorded.experiments])


def _as_it_is(folder: Path, one: Experiment) -> Experiment:
    gone = one.status == RUNNING and is_held(console_of(folder, Path(one.result).name)) is False
    return one.model_copy(update={"status": KILLED}) if gone else one


def stamp(now: datetime) -> str:
    """Return the name of a set's folder, or its start: UTC time, in seconds."""
    return now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def code_revision() -> dict[str, Scalar]:
    """Return the commit of the checkout, and whether any of the code that a run uses differs from it.

    If git does not answer, both are None, and `error` has its reason.
    """
    try:
        revision, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", *_CODE)
    except (OSError, subprocess.CalledProcessError) as error:
        return {"revision": None, "modified": None, "error": _reason(error)}
    return {"revision": revision, "modified": bool(changes)}


def _git(*arguments: str) -> str:
    # Without a lock, since other jobs may run git in the same checkout.
    command = ["git", "--no-optional-locks", "-C", str(ROOT), *arguments]
    environment = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def _reason(error: OSError | subprocess.CalledProcessError) -> str:
    """Return the first line of git's error; the others are advice."""
    if isinstance(error, OSError):
        return f"git: {error.strerror}"
    return f"git: {error.stderr.partition(chr(10))[0].removeprefix('fatal: ')}"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide what a run computes; absent ones are left out."""
    installed = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def machine() -> dict[str, Scalar]:
    """Return processor, memory, and the cores that this process may use, without names that identify a host."""
    pages, page_size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages * page_size / 2**30, 1),
        "kernel": platform.release(),
        "platform": sys.platform,
    }


def distribution() -> str:
    """Return the name of this machine's operating system; empty if it has none."""
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((text.split(":", 1)[1].strip() for text in lines if text.startswith("model name")), platform.machine())
