"""Rules about the tree of an organisation: its results/ and benchmarks/; those about systems/ are in checks.systems.

The official checker skips folders that it does not expect, so a misspelt one passes there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmark.benchmarks import BENCHMARKS, OTHER_BENCHMARKS
from benchmark.files import walk
from benchmark.plurals import counted
from benchmark.rules import Rules
from compliance import bypass
from compliance.checks.results import CURVES, alike
from compliance.checks.rule import Breach, Rulebook
from compliance.checks.sources import BENCHMARK_RESULTS, CONVERGENCE_POINTS, HARNESS
from compliance.checks.systems import REHEARSAL, SUBMISSION_STRUCTURE, SUMMARIZER, System, organisations
from compliance.convergence.scaling import scaling
from compliance.findings import Finding, Severity, show
from compliance.result import LOG_NAME, Result
from compliance.run import Run

PACKAGE_CHECKER = "mlcommons/logging, package_checker"
REPOSITORY_CHECKER = "mlcommons/logging, repo_checker"

SUBMITTABLE = tuple(row.name for row in BENCHMARKS.values() if row.submittable)
"""Names of the benchmarks here that MLPerf takes results of."""

LARGEST_FILE = 50 << 20
"""Bytes. The repository of submissions refuses a larger file. Source: repo_checker."""

NAME = re.compile(r"(?!\.)[\w.+@=,-]+")
"""Names that a folder or a file of a submission may have."""

_LIKE_PARAMETERS = re.compile(r"\W*package[-_ ]?check(er)?[-_ ]?param(eter)?s?(\..*)?", re.IGNORECASE)
_PARAMETERS_PLACE = re.compile(rf"results/[^/]+/(?:[^/]+/)?{bypass.PARAMETERS}")


@dataclass(frozen=True)
class Package:
    """The tree of one organisation and the results in it."""

    directory: Path
    results: tuple[Result, ...]

    @property
    def file(self) -> str:
        return str(self.directory)

    @property
    def row(self) -> Rules | None:
        return next((result.row for result in self.results if result.row is not None), None)

    @cached_property
    def systems(self) -> tuple[System, ...]:
        """Every described system, without its results: checks.systems judges them together."""
        return tuple(System(path, ()) for path in sorted(self.directory.glob("systems/*.json")))

    @cached_property
    def folders(self) -> dict[Path, int]:
        """Each folder results/<system>/<benchmark>, and the number of logs in it."""
        folders = sorted(path for path in self.directory.glob("results/*/*") if path.is_dir())
        return {folder: sum(map(_is_log, folder.iterdir())) for folder in folders}


def _is_log(path: Path) -> bool:
    return LOG_NAME.fullmatch(path.name) is not None and not path.is_dir()


PACKAGE_RULES: Rulebook[Package] = Rulebook()
rule = PACKAGE_RULES.rule


def check_package(package: Package) -> tuple[Finding, ...]:
    """Return every finding about an organisation's tree as a whole; raises nothing."""
    return PACKAGE_RULES.judge(package)


def disqualifications(run: Run) -> list[str]:
    """Return the marks by which a log says that its run does not count, such as `simulated`; empty if it has none."""
    return sorted(run.log.not_a_run)


@rule("package.real_runs", source=HARNESS, example='`tracked_stats` with the value `{"simulated": true}`')
def real_runs(package: Package) -> Iterator[Breach]:
    """No log is of a run that was simulated, shortened to a proxy, fed with mock data or forced to succeed."""
    for result in package.results:
        for run in result.runs:
            marks = disqualifications(run)
            if marks:
                yield Breach(
                    message=f"{_place(package, run.log.path)} says that its run does not count",
                    expected="a run that trained",
                    actual=", ".join(marks),
                )


@rule(
    "package.rehearsal",
    source=HARNESS,
    example='a folder REHEARSAL-Example, or `"submitter": "REHEARSAL-Example"` in a system',
)
def rehearsal(package: Package) -> Iterator[Breach]:
    """A package that was made as a rehearsal is not submitted, even if the marks in its logs are gone."""
    folder = package.directory.resolve().name
    places = [f"the folder {show(folder)}"] if folder.startswith(REHEARSAL) else []
    for system in package.systems:
        named = system.description.get("submitter") if isinstance(system.description, Mapping) else None
        if isinstance(named, str) and named.startswith(REHEARSAL):
            places.append(f"submitter {show(named)} in {_place(package, system.path)}")
    if places:
        yield Breach(message="the tree is a rehearsal", expected="a submission of runs", actual="; ".join(places))


@rule(
    "package.benchmark",
    source=f"{PACKAGE_CHECKER}; {SUMMARIZER}",
    example="results/A/llama3_405b/, results/A/llama31_tiny/, results/A/notes/ without logs",
)
def benchmark(package: Package) -> Iterator[Breach]:
    """Every folder of a system is named after an MLPerf benchmark.

    The official package_checker skips any other, but result_summarizer ends with an AssertionError.
    """
    for folder in package.folders:
        if folder.name not in SUBMITTABLE and folder.name not in OTHER_BENCHMARKS:
            yield Breach(
                message=f"{_place(package, folder)} is not named after a benchmark, which would be refused officially",
                expected=f"one of {', '.join(SUBMITTABLE)}",
                actual=show(folder.name),
            )


@rule("package.file_count", source=PACKAGE_CHECKER, example="four logs of llama31_405b")
def file_count(package: Package) -> Iterator[Breach]:
    """A result has exactly as many logs as the rules ask for."""
    needed = {row.name: row.rules[-1].runs for row in BENCHMARKS.values()}
    for folder, logs in package.folders.items():
        if logs != needed.get(folder.name, logs):
            yield Breach(
                message=f"{_place(package, folder)} does not have as many logs as a result",
                expected=f"{needed[folder.name]} files result_*.txt",
                actual=str(logs),
            )


@rule(
    "package.empty", source=HARNESS, example="a folder results/A without a folder of a benchmark; results/ without logs"
)
def empty(package: Package) -> Iterator[Breach]:
    """A tree has results, and so does every folder of a system in it; the official checker skips empty folders."""
    if not package.results:
        yield Breach(message="results/ has no logs", expected="results/<system>/<benchmark>/result_<n>.txt")
    with_results = {folder.parent for folder in package.folders}
    for folder in sorted(path for path in package.directory.glob("results/*") if path.is_dir()):
        if folder not in with_results:
            yield Breach(message=f"{_place(package, folder)} has no folder of a benchmark")


@rule(
    "package.distinct",
    source=BENCHMARK_RESULTS,
    example="the logs of results/A/llama31_405b again in results/B/llama31_405b, even with other seeds",
)
def distinct(package: Package) -> Iterator[Breach]:
    """No run is submitted again for another system or another benchmark."""
    for what, curve in CURVES.items():
        shared = alike((run for result in package.results for run in result.runs), curve)
        shared = [runs for runs in shared if len({run.log.path.parent for run in runs}) > 1]
        if shared:
            yield Breach(
                message=f"several results hold {counted(len(shared), 'run')} with the same {what}, to the last digit",
                expected="runs of its own in each result",
                actual=f"equal in {', '.join(_place(package, run.log.path) for run in shared[0])}",
            )
            return


@rule(
    "package.submitter",
    source=SUBMISSION_STRUCTURE,
    severity=Severity.WARNING,
    example="systems of two submitters in one tree; A + B and B+A count as one",
)
def submitter(package: Package) -> Iterator[Breach]:
    """All systems of a tree have one submitter.

    This is a WARNING, as is system.submitter, which compares the submitter with the logs.
    """
    named: dict[tuple[str, ...], str] = {}
    for system in package.systems:
        if isinstance(system.description, Mapping) and isinstance(name := system.description.get("submitter"), str):
            named.setdefault(tuple(organisations(name)), f"{show(name)} in {system.path.name}")
    if len(named) > 1:
        yield Breach(message="the systems are of several submitters", expected="one", actual="; ".join(named.values()))


@rule("package.spare", source=SUBMISSION_STRUCTURE, severity=Severity.INFO, example="systems/B.json without results/B/")
def spare(package: Package) -> Iterator[Breach]:
    """Every system that is described has results."""
    for system in package.systems:
        if not (package.directory / "results" / system.path.stem).is_dir():
            yield Breach(message=f"{_place(package, system.path)} describes a system without results")


@rule("package.links", source=HARNESS, example="results/A/llama31_405b as a link to another folder")
def links(package: Package) -> Iterator[Breach]:
    """No folder of results is a link: checks do not look for logs behind links."""
    for here, folders, _ in walk(package.directory / "results", unreadable=lambda _: None):
        for path in (Path(here, name) for name in folders):
            if path.is_symlink():
                yield Breach(message="a folder of results is a link", actual=show(_place(package, path)))


@rule("package.names", source=REPOSITORY_CHECKER, example="a folder `.git`, a file `my log.txt`")
def names(package: Package) -> Iterator[Breach]:
    """No name starts with a dot or has a space in it, no link is broken, and no file is larger than 50 MiB."""
    for path in _files(package):
        fault = _name_fault(path)
        if fault:
            yield Breach(message=fault, actual=show(_place(package, path)))


def _files(package: Package) -> Iterator[Path]:
    """Return every file and folder of the tree."""
    return (Path(here, name) for here, folders, files in walk(package.directory) for name in [*folders, *files])


def _name_fault(path: Path) -> str:
    if path.name.startswith(".") or " " in path.name:
        return "a name has a space in it or starts with a dot"
    if not path.exists():
        return "a link is broken"
    return "a file is larger than 50 MiB" if path.is_file() and path.stat().st_size > LARGEST_FILE else ""


@rule(
    "package.parameters",
    source=f"{CONVERGENCE_POINTS}; {PACKAGE_CHECKER}",
    severity=Severity.WARNING,
    example="`rcp-bypass` in results/A/package_checker_params; the same with a line break after it, or elsewhere",
)
def parameters(package: Package) -> Iterator[Breach]:
    """No package_checker_params turns off an official check, or tries to without effect."""
    for path in _files(package):
        if _LIKE_PARAMETERS.fullmatch(path.name):
            yield from _parameters(_place(package, path), path)


def _parameters(place: str, path: Path) -> Iterator[Breach]:
    if not _PARAMETERS_PLACE.fullmatch(place):
        read = f"results/<system>/{bypass.PARAMETERS} or results/<system>/<benchmark>/{bypass.PARAMETERS}"
        yield Breach(message=f"{place} has no effect: the official checker does not read it here", expected=read)
        return
    try:
        *before, last = bypass.lines(path)
    except (OSError, ValueError) as error:
        message = f"{place} would be refused officially: package_checker cannot read it"
        yield Breach(message=message, actual=str(error), severity=Severity.ERROR)
        return
    if last in bypass.SWITCHES:
        yield Breach(
            message=f"{place} turns off {bypass.SWITCHES[last]}",
            expected="no such file; with one, the results chair is notified and the submission audited",
            actual=last,
        )
    idle = [line for line in before if line] or [last] * (last not in bypass.SWITCHES)
    if idle:
        yield Breach(
            message=f"a line of {place} has no effect",
            expected=f"{' or '.join(bypass.SWITCHES)} as the last line, without a line break at its end",
            actual=show(idle[0]),
        )


@rule(
    "package.scaling",
    source=f'training_rules.adoc, "Score scaling"; {SUMMARIZER} and rcp_checker',
    example="a factor of 1.0 for runs that converged faster than the reference's mean",
)
def scaling_file(package: Package) -> Iterator[Breach]:
    """The factor in a scaling.json follows from the runs: the official summariser multiplies the score by it.

    A larger factor is a WARNING. It is not an advantage, and the committee may have set it, which no log tells.
    """
    for result in package.results:
        file = scaling(result)
        if file is None:
            continue
        place = _place(package, Path(file.path))
        if file.fault:
            yield Breach(
                message=f"{place} would be refused officially: result_summarizer cannot read it", actual=file.fault
            )
        elif file.too_small or file.too_large:
            yield Breach(
                message=f"{place} makes the score {'shorter' if file.too_small else 'longer'} than the runs do",
                expected=f"a factor of {file.own}, or no file",
                actual=f"{file.stated}",
                severity=None if file.too_small else Severity.WARNING,
            )


@rule(
    "package.implementation",
    source=SUBMISSION_STRUCTURE,
    severity=Severity.WARNING,
    example="results of llama31_405b without benchmarks/llama31_405b/implementations/",
)
def implementation(package: Package) -> Iterator[Breach]:
    """The code of every benchmark with results is in benchmarks/<benchmark>/implementations/."""
    for name in sorted({folder.name for folder, logs in package.folders.items() if logs}):
        folder = package.directory / "benchmarks" / name / "implementations"
        if not folder.is_dir() or not any(folder.iterdir()):
            yield Breach(message=f"no implementation of {show(name)}", expected=f"files in {_place(package, folder)}")


def _place(package: Package, path: Path) -> str:
    return path.relative_to(package.directory).as_posix()
