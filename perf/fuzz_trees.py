"""Fuzzes the verbs that read submissions: no tree may make one crash or hang.

    python -m perf.fuzz_trees --inputs 10000 --seed 1

Each input is the tree of a small submission with changes in files that other people write: values, bytes, depth and
size of its JSON files, names of files and folders, links, pipes. It is checked, scored, compared with the reference,
copied for the official tools, and reported on in all three forms. Anything unusable must be refused or be a finding. An
input that raises anything else, or makes a check crash, is a failure, and is written to --keep.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import click

from benchmark.errors import RefusedError
from benchmark.files import DEEPEST, RUN_JSON
from benchmark.telemetry import HEADER, file_of
from compliance import formats
from compliance.check import check_paths, find_logs, open_result
from compliance.checks.systems import FIELDS
from compliance.convergence.rcp import compare
from compliance.rewritten import rewrite
from perf.fuzz_reader import ODD_BYTES, ODD_VALUES, base_logs
from perf.fuzzing import Fuzz, options, run
from report.write import render

RESULT = "results/S/llama31_405b"
SYSTEM = "systems/S.json"
FILES: dict[str, Any] = {
    SYSTEM: {
        **dict.fromkeys(FIELDS, "x"),
        "number_of_nodes": "144",
        "accelerators_per_node": "8",
        "host_processors_per_node": 2,
        "accelerator_model_name": "NVIDIA H100",
        "division": "closed",
        "other_software_stack": {"a": "1"},
    },
    f"{RESULT}/scaling.json": {"scaling_factor": 1.01},
    "results/S/privateid.json": {"private_id": "x"},
    f"{RESULT}/{RUN_JSON}": {
        "version": 1,
        "benchmark": "llama31_405b",
        "ruleset": "5.0.0",
        "system": "S",
        "configuration": {"DGXNNODES": {"value": 144, "origin": "x"}, "DGXNGPU": {"value": 8, "origin": "x"}},
        "versions": {"torch": "2"},
        "machine": {"cores": 8, "memory_gib": 5.0},
        "code": {"revision": "x"},
        "data": {"files": 1},
        "experiments": [{"result": "result_0.txt", "seed": 1, "minutes": 3.0}],
    },
}
"""Values that are written as JSON."""

NAMES = ("a b", ".x", "x" * 255, "\n", "\x1b[2J", "\udcff", "result_9.txt", "package_checker_params", "{0}", "[a]*?")
ODD_TREE_VALUES = (
    *ODD_VALUES,
    1e15,
    2**53,
    2**63,
    1e300,
    -1e308,
    "1e308",
    "9" * 4000,
    " 8 ",
    "٣",
    [1e308],
    {"a": [{}]},
)

Files = dict[str, Any]


@cache
def _logs() -> list[bytes]:
    """Return three runs of one result: one log with different seeds."""
    lines = b"".join(base_logs()[0])
    return [lines.replace(b'"seed", "value": 1,', b'"seed", "value": %d,' % seed) for seed in range(1, 4)]


# Changes to values before they are written, and to the tree afterwards.


def _value(chance: Random, files: Files) -> None:
    """Change one value somewhere in a file, or make a file of one value."""
    name = chance.choice(list(files))
    if chance.random() < 0.1:
        files[name] = chance.choice(ODD_TREE_VALUES)
        return
    here = files[name]
    while isinstance(here, dict | list) and here:
        key = chance.choice(list(here)) if isinstance(here, dict) else chance.randrange(len(here))
        if not (isinstance(here[key], dict | list) and here[key]) or chance.random() < 0.3:
            here[key] = chance.choice(ODD_TREE_VALUES)
            return
        here = here[key]


def _bytes(chance: Random, folder: Path) -> None:
    path = _file(chance, folder)
    content, odd = path.read_bytes(), chance.choice(ODD_BYTES) * chance.choice((1, 1, 200))
    at = chance.randrange(len(content) + 1)
    path.write_bytes(content[:at] + odd + content[at + chance.choice((0, 0, 1, 50)) :])


def _deep(chance: Random, folder: Path) -> None:
    """Write deeply nested JSON: many lists in lists."""
    depth = chance.choice((50, 900, 100_000))
    _file(chance, folder).write_text('{"x": ' + "[" * depth + chance.choice(("", "]" * depth + "}")))


def _large(chance: Random, folder: Path) -> None:
    _file(chance, folder).write_bytes(b" " * chance.choice((2 << 20, 8 << 20)))


def _kind(chance: Random, folder: Path) -> None:
    """Turn a file into something else."""
    path = _file(chance, folder)
    path.unlink()
    chance.choice(
        (
            path.mkdir,
            lambda: os.mkfifo(path),
            lambda: path.symlink_to(path),
            lambda: path.symlink_to("/dev/zero"),
            lambda: path.symlink_to("/etc/passwd"),
            lambda: path.symlink_to("nowhere"),
            lambda: None,
        )
    )()


def _name(chance: Random, folder: Path) -> None:
    """Add a file or a folder with an odd name."""
    places = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    path = chance.choice(places) / chance.choice(NAMES)
    if path.exists() or path.is_symlink():
        return
    if chance.random() < 0.5:
        path.mkdir()
    else:
        path.write_bytes(chance.choice(ODD_BYTES))


def _nested(chance: Random, folder: Path) -> None:
    """Add deeply nested folders."""
    (folder / "results" / "/".join("d" * chance.choice((10, DEEPEST - 2, DEEPEST + 40)))).mkdir(
        parents=True, exist_ok=True
    )


def _file(chance: Random, folder: Path) -> Path:
    return chance.choice(sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()))


_CHANGES: tuple[Callable[[Random, Path], None], ...] = (
    *(_bytes, _bytes, _bytes, _deep, _large, _kind, _name, _name, _nested),
)


def make(chance: Random, folder: Path) -> int:
    """Write a tree with a few odd values and, half of the time, a few other changes."""
    files = json.loads(json.dumps(FILES))
    for _ in range(chance.choice((0, 1, 1, 2, 4))):
        _value(chance, files)
    texts = {name: json.dumps(value).encode() for name, value in files.items()}
    texts |= {f"{RESULT}/result_{run}.txt": log for run, log in enumerate(_logs())}
    texts["results/S/package_checker_params"] = b"rcp-bypass\n"
    texts[str(file_of(Path(RESULT, "result_0.txt"), "n1"))] = f"{HEADER}\n1,0,1,1,1,1,1,1,1,\n".encode()
    for name, content in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for _ in range(chance.choice((0, 1, 2))):
        chance.choice(_CHANGES)(chance, folder)
    return sum(map(len, texts.values()))


def attempt(folder: Path) -> str:
    """Run every verb that reads trees; they must all refuse the same trees."""
    try:
        groups = find_logs([folder])
        report = check_paths([folder], scored=True)
    except RefusedError:
        return ""
    for form in (formats.text, formats.as_json, formats.junit, formats.sarif):
        form(report)
    for group in groups:
        compare(open_result(group))
    for kind in ("html", "md", "csv"):
        render([folder], kind)
    with tempfile.TemporaryDirectory(dir=folder.parent) as copy:
        rewrite(folder, Path(copy))
    return next((finding.message for finding in report.findings if "crashed" in finding.message), "")


FUZZ = Fuzz(make=make, attempt=attempt, part=100, memory=4 << 30)


@click.command()
@options(10_000)
def main(inputs: int, seed: int, processes: int, keep: Path | None) -> None:
    """Look at mutated trees; exit 1 if one makes a verb crash or hang."""
    run(FUZZ, inputs, seed, processes, keep)


if __name__ == "__main__":
    main()
