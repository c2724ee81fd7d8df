"""Fuzzes the log reader and the rules: no bytes may make one crash, or take more than linear time.

    python -m perf.fuzz_reader --inputs 1000000 --seed 1

Each input is a short valid log of 405B or 8B with a few random changes: bytes, lines, values of events, or odd tokens
in odd places. It is read and judged by every rule for one log. No exception may leave the reader, and no check may
crash. A failing input is written to --keep.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from random import Random

import click

from benchmark.benchmarks import find
from benchmark.config import RunConfig
from benchmark.mllog import TOKEN
from compliance.check import open_run
from compliance.checks.runs import check_run
from harness.simulate import SimulatedPace, VirtualClock, simulate
from perf.fuzzing import Fuzz, options, run

FIRST, LAST = 60, 12
"""Lines of a log that an input keeps, so that it is short: every announcement, some evaluations, the end."""

LONG = 200_000
"""Bytes of a line that repeats one piece."""

ODD_BYTES = (
    *(TOKEN.encode(), f"{TOKEN} ".encode(), f"{TOKEN} {{".encode(), b"{", b"}", b"[" * 500, b'"', b"\\", b"\\u0000"),
    *(b"\r", b"\n", b"\x00", b"\x1c", b"\xff\xfe", b"\xed\xa0\x80", "\u2028".encode(), "\ufeff".encode()),
    *(b"NaN", b"-Infinity", b"1e999", b"1" * 400, b"1" * 5000, b"null", b"true", b"," * 50, b" " * 300),
)
ODD_VALUES: tuple[object, ...] = (
    *(None, True, False, -1, 0, -0.0, 0.5, 5.6, 1e308, 5e-324, 10**30, 10**400, -(10**400)),
    *("", " ", "1152", "x" * 300, "\ud800", "\x1b[2J", "../../x", [], {}, [[]], {"samples_count": 1}),
)
FIELDS = ("key", "value", "event_type", "time_ms", "metadata", "namespace")
NAMES = ("samples_count", "status", "file", "lineno", "step")


@cache
def base_logs() -> list[list[bytes]]:
    """Return the lines of one short valid log for each benchmark and ruleset that MLCommons has."""
    return [_base_log(name, ruleset) for name, ruleset in (("llama31_405b", "5.0.0"), ("llama31_405b", "6.0.0"))] + [
        _base_log("llama31_8b", "6.1.0")
    ]


def _base_log(benchmark: str, ruleset: str) -> list[bytes]:
    size = find(benchmark, ruleset).reference_points[-1].global_batch_size
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "result_0.txt")
        variables = {
            "BENCHMARK": benchmark,
            "RULESET": ruleset,
            "DGXSYSTEM": "fuzz",
            "CONFIG_FILENAME": "config_fuzz.sh",
            "DGXNNODES": "1",
            "DGXNGPU": "1",
            "MINIBS": str(size),
            "SEED": "1",
            "RESULT_FILE": str(log),
        }
        simulate(RunConfig.from_environment(variables), VirtualClock(1.75e9), SimulatedPace())
        lines = log.read_bytes().splitlines(keepends=True)
    return lines[:FIRST] + lines[-LAST:]


# Mutations.


def mutated(chance: Random) -> bytes:
    """Return a log with a few random changes."""
    bases = base_logs()
    lines = list(chance.choice(bases))
    for _ in range(chance.choice((1, 1, 2, 3, 6))):
        chance.choice(_MUTATIONS)(chance, lines, bases)
    return b"".join(lines)


def _bytes(chance: Random, lines: list[bytes], _: object) -> None:
    index = chance.randrange(len(lines))
    line = bytearray(lines[index] or b"\n")
    for _byte in range(chance.choice((1, 1, 4, 30))):
        line[chance.randrange(len(line))] = chance.randrange(256)
    lines[index] = bytes(line)


def _odd_bytes(chance: Random, lines: list[bytes], _: object) -> None:
    index = chance.randrange(len(lines))
    at = chance.randrange(len(lines[index]) + 1)
    lines[index] = lines[index][:at] + chance.choice(ODD_BYTES) * chance.choice((1, 1, 1, 3)) + lines[index][at:]


def _cut(chance: Random, lines: list[bytes], _: object) -> None:
    index = chance.randrange(len(lines))
    start, end = sorted(chance.randrange(len(lines[index]) + 1) for _edge in range(2))
    lines[index] = lines[index][:start] + lines[index][end:]


def _move(chance: Random, lines: list[bytes], bases: Sequence[list[bytes]]) -> None:
    start = chance.randrange(len(lines))
    end = start + chance.choice((1, 1, 5, 40))
    taken = lines[start:end]
    match chance.randrange(4):
        case 0:
            del lines[start : min(end, len(lines) - 1)]
        case 1:
            lines[start:start] = taken
        case 2:
            chance.shuffle(taken)
            lines[start:end] = taken
        case _:
            lines[start:start] = chance.choice(bases)[start:end]


def _grow(chance: Random, lines: list[bytes], bases: Sequence[list[bytes]]) -> None:
    """Usually change bytes; now and then add a line of 200 kB."""
    if chance.random() < 0.97:
        _odd_bytes(chance, lines, bases)
        return
    piece = chance.choice((chance.choice(ODD_BYTES), chance.choice(lines).rstrip(b"\n") or b"{"))
    lines.insert(chance.randrange(len(lines)), piece * (LONG // len(piece)) + b"\n")


def _event(chance: Random, lines: list[bytes], _: object) -> None:
    index = chance.randrange(len(lines))
    try:
        event = json.loads(lines[index].removeprefix(TOKEN.encode()))
    except (ValueError, RecursionError):
        return
    if not isinstance(event, dict):
        return
    metadata = event.get("metadata")
    if chance.random() < 0.5 or not isinstance(metadata, dict):
        event[chance.choice(FIELDS)] = chance.choice(ODD_VALUES)
    else:
        metadata[chance.choice(NAMES)] = chance.choice(ODD_VALUES)
    lines[index] = f"{TOKEN} {json.dumps(event)}\n".encode()


_MUTATIONS: tuple[Callable[[Random, list[bytes], Sequence[list[bytes]]], None], ...] = (
    *(_bytes, _grow, _cut, _move, _event, _event),
)


# Reading.


def make(chance: Random, folder: Path) -> int:
    """Write a mutated log."""
    content = mutated(chance)
    (folder / "log").write_bytes(content)
    return len(content)


def attempt(folder: Path) -> str:
    """Read and judge it: no check may crash."""
    found = check_run(open_run(folder / "log"))
    return next((finding.message for finding in found if "crashed" in finding.message), "")


FUZZ = Fuzz(make=make, attempt=attempt, part=5000)


@click.command()
@options(1_000_000)
def main(inputs: int, seed: int, processes: int, keep: Path | None) -> None:
    """Read mutated logs; exit 1 if one makes the reader or a rule crash."""
    run(FUZZ, inputs, seed, processes, keep)


if __name__ == "__main__":
    main()
