"""Rules about power logs: power/result_<i>/node_<j>.txt and sw_<k>.txt, for all runs of a result or for none.

The official package_checker tolerates one run of a result that does not comply: one that missed the target, or one
whose power logs differ from the others'. The official result_summarizer needs readings of all the other runs.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from benchmark.mllog import Event
from benchmark.plurals import counted
from compliance.checks.rule import Breach
from compliance.checks.systems import SUBMISSION_STRUCTURE, SUMMARIZER
from compliance.convergence.olympic import converged
from compliance.findings import Severity, as_number, show
from compliance.log import load
from compliance.result import Result, rule
from compliance.run import Run

SOURCE = f"{SUBMISSION_STRUCTURE}; mlcommons/logging, power_checker; {SUMMARIZER}"

START, STOP = "power_measurement_start", "power_measurement_stop"
NUMBERS = frozenset({"power_reading", "conversion_eff", "interconnect_power_est"})
"""Keys whose values the official summariser multiplies."""

_KINDS = ("node", "sw")
"""Power logs are of nodes and of switches."""
_NAME = re.compile(r"(node|sw)_([0-9]{1,9})\.txt")


@rule(
    "power.files",
    source=SOURCE,
    example="power logs of 8 of 10 runs; node_1.txt and node_2.txt without node_0.txt (a WARNING if in one run only)",
)
def files(result: Result) -> Iterator[Breach]:
    """If one run has power logs, every run has as many of nodes and of switches, both numbered from 0.

    One run that differs is a WARNING if all runs reached the target: package_checker tolerates it as the one run that
    does not comply.
    """
    power = result.directory / "power"
    if not power.exists():
        return
    if not any(_folder(power, run).is_dir() for run in result.runs):
        yield Breach(
            message="power/ has no folder of a run, which would be refused officially: package_checker",
            expected="power/result_<i>/node_<j>.txt",
        )
        return
    unusable = {run.log.path.name: fault for run in result.runs if (fault := _unusable(_folder(power, run), run))}
    for name, fault in unusable.items():
        yield Breach(message=f"the power logs of {name} would be refused officially: {fault}")
    yield from _not_as_others({run: _numbers(_folder(power, run)) for run in result.runs}, unusable)


def _not_as_others(numbers: Mapping[Run, Mapping[str, list[int]]], unusable: Mapping[str, str]) -> Iterator[Breach]:
    """Report the runs whose files differ in number from most others'; `numbers` are those in the names of the files."""
    usual = {kind: Counter(len(of[kind]) for of in numbers.values()).most_common(1)[0][0] for kind in _KINDS}
    odd = [run for run, of in numbers.items() if any(of[kind] != list(range(usual[kind])) for kind in _KINDS)]
    odd = [run for run in odd if run.log.path.name not in unusable]
    others = [run for run in numbers if run not in odd and not converged(run)]
    if odd:
        yield Breach(
            message="the power logs of some runs differ in number from those of the others",
            expected=" and ".join(f"{counted(usual[kind], 'file')} {kind}_<n>.txt, from 0" for kind in _KINDS),
            actual=", ".join(run.log.path.name for run in odd),
            severity=Severity.WARNING if len(odd) + len(others) == 1 and not unusable else None,
        )


def _unusable(folder: Path, run: Run) -> str:
    """Return why the official tools would fail on a run's power logs or find none to add up; empty if they accept."""
    if folder.exists() and not folder.is_dir():
        return f"{folder.name} is not a folder"
    names = _names(folder)
    misnamed = [name for name in names if not _NAME.fullmatch(name)]
    if misnamed:
        return f"{show(misnamed[0])} is neither node_<j>.txt nor sw_<k>.txt"
    if converged(run) and not any(name.startswith("node") for name in names):
        return "no node_<j>.txt"
    return ""


def _numbers(folder: Path) -> dict[str, list[int]]:
    """Return the numbers in the names of a run's files by kind, in order."""
    named = [match.groups() for match in map(_NAME.fullmatch, _names(folder)) if match]
    return {kind: sorted(int(number) for other, number in named if other == kind) for kind in _KINDS}


def _names(folder: Path) -> list[str]:
    """Return the names of the files that the official tools look at."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(name for name in names if name.startswith(_KINDS))


def _folder(power: Path, run: Run) -> Path:
    return power / run.log.path.stem


@rule("power.readings", source=SUMMARIZER, example='an empty node_0.txt; a `power_reading` of "90 W"')
def readings(result: Result) -> Iterator[Breach]:
    """The power of every node and switch can be added up for each run that reached the target."""
    power = result.directory / "power"
    for run in filter(converged, result.runs):
        folder = _folder(power, run)
        for name in filter(_NAME.fullmatch, _names(folder)):
            fault = _unreadable(folder / name)
            if fault:
                yield Breach(
                    message=f"power/{folder.name}/{name} would be refused officially: {fault}",
                    expected=f"{START}, readings that are numbers, {STOP}",
                )


def _unreadable(path: Path) -> str:
    times: dict[str, float] = {}
    wrong: dict[str, object] = {}
    load(path, partial(_look, times, wrong))
    if wrong:
        return "; ".join(f"{key} {show(value)} is not a number" for key, value in wrong.items())
    if path.name.startswith("sw"):
        return ""
    if START not in times:
        return f"it lacks {START}"
    return "" if times[START] < times.get(STOP, math.inf) else f"{STOP} is not after {START}"


def _look(times: dict[str, float], wrong: dict[str, object], _line: int, event: Event) -> None:
    """Keep the start and stop of the measurement, and for each key the first value that is not a number."""
    if event.key in (START, STOP):
        times[event.key] = event.time_ms
    if event.key in NUMBERS and as_number(event.value) is None:
        wrong.setdefault(event.key, event.value)
