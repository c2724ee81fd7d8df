"""Edits of a submission. Those that return a function are written where a table needs one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import TypeAlias

from benchmark.mllog import TOKEN
from tests.compliance.mutations.edits import Edit, all_of, evaluated_at, put, put_metadata, target_of
from tests.compliance.mutations.trees import ALPHA, B405, BETA, Tree
from tests.logs import LogFile

TreeEdit: TypeAlias = Callable[[Tree], object]

A405, A8, B_405 = f"results/{ALPHA}/llama31_405b", f"results/{ALPHA}/llama31_8b", f"results/{BETA}/llama31_405b"
"""Folders of results."""


def in_turn(*edits: TreeEdit) -> TreeEdit:
    """One edit after the other."""

    def edit(tree: Tree) -> None:
        for one in edits:
            one(tree)

    return edit


# Logs.


def logs_of(system: str, benchmark: str, change: Edit, *runs: int) -> TreeEdit:
    """Change the logs of some runs of a result, or of all."""
    return lambda tree: tree.edit(system, benchmark, change, *runs)


def converging(benchmark: str, after: int) -> TreeEdit:
    """All runs of system alpha converge after so many sequences."""

    def edit(tree: Tree) -> None:
        first, second, *_ = evaluated_at(LogFile(tree.logs(ALPHA, benchmark)[0]))
        tree.rerun(ALPHA, benchmark, lambda run: [*range(first, after + 1, second - first)])

    return edit


def copied(benchmark: str, *changes: Edit) -> TreeEdit:
    """Run 1 of system alpha is run 0 again, with changes."""

    def edit(tree: Tree) -> None:
        first, second, *_ = tree.logs(ALPHA, benchmark)
        shutil.copy(first, second)
        tree.edit(ALPHA, benchmark, all_of(*changes), 1)

    return edit


def opened(*changes: Edit) -> TreeEdit:
    """System beta is in the open division, and its logs are changed."""

    def edit(tree: Tree) -> None:
        tree.describe(BETA, division="open")
        (benchmark,) = (path.name for path in (tree.root / "results" / BETA).iterdir())
        tree.edit(BETA, benchmark, all_of(put("submission_division", "open"), *changes))

    return edit


def not_converged(log: LogFile) -> None:
    """The run ends above its target, and says so."""
    log.set("eval_accuracy", target_of(log) + 0.2, -1)
    put_metadata("run_stop", status="aborted")(log)


def killed(log: LogFile) -> None:
    """The log ends within a training block."""
    del log.events[log.indices("block_stop")[-1] :]


# Files, named from the root of the tree.


def write(name: str, text: str) -> TreeEdit:
    def edit(tree: Tree) -> None:
        path = tree.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    return edit


def rename(old: str, new: str) -> TreeEdit:
    def edit(tree: Tree) -> None:
        (tree.root / new).parent.mkdir(parents=True, exist_ok=True)
        (tree.root / old).rename(tree.root / new)

    return edit


def remove(name: str) -> TreeEdit:
    def edit(tree: Tree) -> None:
        path = tree.root / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    return edit


def describe(**fields: object) -> TreeEdit:
    """Change fields of the description of system alpha, or remove those that are `...`."""
    return lambda tree: tree.describe(ALPHA, **fields)


# Power logs.


def power(
    benchmark: str = B405,
    *,
    runs: int,
    nodes: tuple[int, ...] = (1,),
    folder: str = "result_{run}",
    file: str = "node_{node}.txt",
) -> TreeEdit:
    """Power logs for the first runs of system alpha.

    Args:
        nodes: how many log in each run; the last number holds for the runs after.
    """

    def edit(tree: Tree) -> None:
        for run, path in enumerate(tree.logs(ALPHA, benchmark)[:runs]):
            log = LogFile(path)
            text = _power_log(log.get("run_start")["time_ms"], log.get("run_stop")["time_ms"])
            into = tree.result(ALPHA, benchmark) / "power" / folder.format(run=run)
            into.mkdir(parents=True)
            for node in range(nodes[min(run, len(nodes) - 1)]):
                (into / file.format(node=node)).write_text(text, encoding="utf-8")

    return edit


def _power_log(start: int, stop: int) -> str:
    """Source: mlperf_logging, result_summarizer._compute_power_node."""
    readings = [("power_reading", 9000.0, at) for at in range(start, stop, (stop - start) // 4)]
    events = [("power_measurement_start", None, start), *readings, ("power_measurement_stop", None, stop)]
    return "".join(_power_event(*event) for event in events)


def _power_event(key: str, value: float | None, time_ms: int) -> str:
    place = {"file": "power.py", "lineno": 1}
    event = {"namespace": "", "time_ms": time_ms, "event_type": "POINT_IN_TIME", "key": key, "value": value}
    return f"{TOKEN} {json.dumps(event | {'metadata': place})}\n"
