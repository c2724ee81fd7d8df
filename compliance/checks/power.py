"""Power logs of a result: power/result_<i>/node_<j>.txt and sw_<k>.txt, for all of its runs or for none.

The official package_checker lets one file of a result go that does not comply; a run that missed the target is one, and
so is one whose power logs are not as the others'. The official result_summarizer needs readings of every other run.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from benchmark.mllog import Event
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
_NAME = re.compile(r"(node|sw)_([0-9]{1,9})\.txt")


@rule(
    "power.files",
    source=SOURCE,
    example="power logs of 8 of 10 runs; files node_1.txt and node_2.txt, a WARNING if it is one run without a 0",
)
def files(result: Result) -> Iterator[Breach]:
    """Where a run has power logs, every run has them: as many of nodes and switches, each kind numbered from 0.

    One run whose logs are numbered or counted otherwise is a WARNING where all runs reached the target, because
    package_checker lets it go as the one file that does not comply.
    """
    power = result.directory / "power"
    if not power.exists():
        return
    if not any(_folder(power, run).is_dir() for run in result.runs):
        yield Breach(
            message="power/ has logs of no run, which would be refused officially: package_checker",
            expected="power/result_<i>/node_<j>.txt",
        )
        return
    unusable = {run.log.path.name: fault for run in result.runs if (fault := _unusable(_folder(power, run), run))}
    for name, fault in unusable.items():
        yield Breach(message=f"the power logs of {name} would be refused officially: {fault}")
    yield from _not_as_others({run: _numbers(_folder(power, run)) for run in result.runs}, unusable)


def _not_as_others(numbers: Mapping[Run, Mapping[str, list[int]]], unusable: Mapping[str, str]) -> Iterator[Breach]:
    """The runs whose logs are numbered or counted otherwise than in most; `numbers` are those of each run's files."""
    usual = {kind: Counter(len(of[kind]) for of in numbers.values()).most_common(1)[0][0] for kind in _KINDS}
    odd = [run for run, of in numbers.items() if any(of[kind] != list(range(usual[kind])) for kind in _KINDS)]
    odd = [run for run in odd if run.log.path.name not in unusable]
    others = [run for run in numbers if run not in odd and not converged(run)]
    if odd:
        yield Breach(
            message="power logs are not as those of the other runs",
            expected=" and ".join(f"{usual[kind]} files {kind}_<n>.txt, from 0 on" for kind in _KINDS),
            actual=", ".join(run.log.path.name for run in odd),
            severity=Severity.WARNING if len(odd) + len(others) == 1 and not unusable else None,
        )


def _unusable(folder: Path, run: Run) -> str:
    """Why the official tools would end with an error over a run's power logs, or have nothing to add up."""
    if folder.exists() and not folder.is_dir():
        return f"{folder.name} is no folder"
    names = _names(folder)
    misnamed = [name for name in names if not _NAME.fullmatch(name)]
    if misnamed:
        return f"{show(misnamed[0])} is neither node_<j>.txt nor sw_<k>.txt"
    if converged(run) and not any(name.startswith("node") for name in names):
        return "no node_<j>.txt"
    return ""


def _numbers(folder: Path) -> dict[str, list[int]]:
    """The numbers of a run's files by kind, in order."""
    named = [found.groups() for found in map(_NAME.fullmatch, _names(folder)) if found]
    return {kind: sorted(int(number) for other, number in named if other == kind) for kind in _KINDS}


def _names(folder: Path) -> list[str]:
    """The files that the official tools look at."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(name for name in names if name.startswith(_KINDS))


def _folder(power: Path, run: Run) -> Path:
    return power / run.log.path.stem


@rule("power.readings", source=SUMMARIZER, example='an empty node_0.txt; a `power_reading` of "90 W"')
def readings(result: Result) -> Iterator[Breach]:
    """The power of each node and switch can be added up for each run that counts."""
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
        return "; ".join(f"{key} {show(value)} is no number" for key, value in wrong.items())
    if path.name.startswith("sw"):
        return ""
    if START not in times:
        return f"it has no {START}"
    return "" if times[START] < times.get(STOP, math.inf) else f"{STOP} is not after {START}"


def _look(times: dict[str, float], wrong: dict[str, object], _line: int, event: Event) -> None:
    """Keep when power was measured, and the first value of each key that is no number."""
    if event.key in (START, STOP):
        times[event.key] = event.time_ms
    if event.key in NUMBERS and as_number(event.value) is None:
        wrong.setdefault(event.key, event.value)
