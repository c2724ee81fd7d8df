"""Join the launches of a system into one result.

The official rcp_checker judges all logs of a folder together. Launches of one system, benchmark, ruleset and global
batch size would have to share a folder there, so they are joined here.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path

from benchmark.errors import RefusedError
from benchmark.files import RUN_JSON
from compliance.checks.systems import place_of
from compliance.convergence.rcp import batch_size
from compliance.result import Result
from compliance.run import Run


def pooled(results: Iterable[Result]) -> list[Result]:
    """Return the results with all launches of a system joined, in the order of the first; each log counts once.

    A folder whose system is unknown, or whose logs differ in batch size, stays a result of its own.
    """
    groups: defaultdict[Hashable, list[Result]] = defaultdict(list)
    for result in results:
        groups[_kind(result) or result.directory].append(result)
    return [group[0] if len(group) == 1 else joined(group) for group in groups.values()]


def joined(results: Sequence[Result]) -> Result:
    """Return the runs of several results as one, in the folder that holds them all; each log counts once."""
    runs: dict[Path, Run] = {}
    for result in results:
        for run in result.runs:
            runs.setdefault(run.log.path.resolve(), run)
    return Result(common_folder([result.directory for result in results]), tuple(runs.values()))


def common_folder(folders: Sequence[Path]) -> Path:
    """Return the lowest folder that holds all the folders."""
    if len({folder.is_absolute() for folder in folders}) > 1:
        folders = [folder.absolute() for folder in folders]
    return Path(os.path.commonpath(folders) or ".")


def _kind(result: Result) -> Hashable | None:
    """Return what results that are judged together share; None for one that is judged alone."""
    row, system, sizes = result.row, _system(result.directory), {batch_size(run) for run in result.runs}
    if row is None or system is None or len(sizes) > 1:
        return None
    return system, row.benchmark, row.ruleset, *sizes


def _system(folder: Path) -> Hashable | None:
    """Return what identifies the system of a folder of runs: its place in a submission, or its run.json."""
    place = place_of(folder)
    if place is not None and len(place.below) > 1:
        return os.path.abspath(place.tree), place.below[:2]
    try:
        if not (folder / RUN_JSON).is_file():
            return None
        # Importing pydantic takes 0.1 s, which logs without a run.json need not pay.
        from benchmark.run_record import read

        recorded = read(folder / RUN_JSON)
        return (recorded.system, recorded.setting("MLPERF_SUBMISSION_ORG")) if recorded.system else None
    except (OSError, RefusedError):
        return None
