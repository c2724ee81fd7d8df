"""Fuzzes the readers of checkpoints: no folder may make one crash, hang, or take more memory than its bytes ask for.

    python -m perf.fuzz_checkpoints --inputs 10000 --seed 1

Each input is a small checkpoint of a tiny model, NeMo's or Hugging Face's, or the record that a run resumes from, with
some changes: values, bytes, depth and size of its JSON, YAML and pickles, bombs of aliases and memo entries, links and
pipes. Each is inspected, compared with its model, and read as a checkpoint to resume from. Anything unusable must be
one refusal. Any other exception, a process that dies, and more than 8 GB of address space are failures.
"""

from __future__ import annotations

import json
import os
import re
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from math import prod
from pathlib import Path
from random import Random

import click

from benchmark.checkpoints import RECORD, read_record
from benchmark.errors import RefusedError
from benchmark.sizes import SIZES
from perf.fuzz_reader import ODD_BYTES, ODD_VALUES
from perf.fuzzing import Fuzz, options, run
from reference_impl.checkpoint import huggingface, names
from reference_impl.checkpoint.arrays import UNLOADABLE, load_archive, read
from reference_impl.checkpoint.inspection import describe
from reference_impl.checkpoint.source import faults_for, open_checkpoint

TINY, VOCABULARY = SIZES["tiny"], 8

BOMBS = {
    "deep tuples": b"\x80\x02)" + b"\x85" * 300_000 + b".",
    "deep key": b"\x80\x02}(" + b")" + b"\x85" * 300_000 + b"Nu.",
    "deep lists": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "memo place": b"\x80\x02]r\xff\xff\xff\x7f.",
    "long text": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x00.",
    "byte array": b"\x80\x05\x96" + b"\x00" * 5 + b"\x01\x00\x00.",
    "doubled tuple": b"\x80\x02)" + b"q\x00h\x00\x86" * 5000 + b".",
    "doubled key": b"\x80\x02}(N" + b"q\x00h\x00\x86" * 60 + b"Nu.",
    "long number": b"\x80\x02\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20) + b".",
    "digits": b"L" + b"9" * 500_000 + b"L\n.",
    "call": b"cos\nsystem\n(S'true'\ntR.",
    "frame": b"\x80\x04\x95" + b"\xff" * 8 + b".",
}
"""Pickles that ask for more memory or depth than their bytes have."""

YAML_BOMBS = (
    "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "a: &a {b: *a}\n",
    "a: &a {k: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1 if i else ''}, *a]}}\n" for i in range(30)),
    "[" * 100_000,
    "".join(" " * depth + "a:\n" for depth in range(3000)),
    "- " * 50_000,
    "a: !!python/object/apply:os.system [true]\n",
    "num_layers: 2001-13-99\nhidden_size: 12:30:45\n",
    "num_layers: .inf\nhidden_size: .nan\n",
    "? [a, b]\n: c\n",
)
YAML_VALUES = (
    ".inf",
    "-.inf",
    ".nan",
    "2001-01-01",
    "0",
    "-1",
    "1e9",
    "1000000000",
    "null",
    "[]",
    "{}",
    "0x10",
    "9" * 5000,
)


@cache
def bases() -> tuple[dict[str, bytes], ...]:
    """Return the files of a Hugging Face checkpoint, and of the NeMo one that `convert` makes of it."""
    from reference_impl.checkpoint.convert import to_distributed

    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch, "huggingface"), Path(scratch, "nemo")
        source.mkdir()
        tensors = names.huggingface_shapes(TINY, VOCABULARY)
        values = bytes(2 * sum(map(prod, tensors.values())))
        (source / huggingface.SINGLE).write_bytes(huggingface.header(tensors, "bfloat16") + values)
        config = huggingface.config_json(TINY, VOCABULARY, "bfloat16", {})
        (source / huggingface.CONFIG).write_text(json.dumps(config))
        index = huggingface.index_json([(huggingface.SINGLE, tensors)], 2)
        (source / huggingface.INDEX).write_text(json.dumps(index))
        to_distributed(open_checkpoint(source), target, VOCABULARY, lambda _: None, 1)
        made = [
            {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
            for folder in (source, target)
        ]
    record = {"step": 4, "log_bytes": 100, "run": {"SEED": 1, "BENCHMARK": "llama31_tiny"}}
    return tuple(files | {RECORD: json.dumps(record).encode()} for files in made)


# Changes of a file's bytes.


def _bytes(chance: Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 4, 30))):
        # Mostly near the start, where the headers are.
        at = chance.randrange(min(len(changed), chance.choice((64, 4096, 1 << 30)))) if changed else 0
        changed[at : at + 1] = bytes([chance.randrange(256)])
    return bytes(changed)


def _odd(chance: Random, content: bytes) -> bytes:
    at = chance.randrange(min(len(content), 4096) + 1)
    return content[:at] + chance.choice(ODD_BYTES) + content[at + chance.choice((0, 0, 1, 50)) :]


def _cut(chance: Random, content: bytes) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def _value(chance: Random, content: bytes) -> bytes:
    """Replace one value of JSON, with or without the length in front of it that safetensors has."""
    start = 8 if content[8:9] == b"{" else 0
    length = int.from_bytes(content[:8], "little") if start else len(content)
    try:
        document = json.loads(content[start : start + length])
    except (ValueError, RecursionError):
        return _number(chance, content)
    odd = chance.choice(ODD_VALUES)
    here = document
    while isinstance(here, dict | list) and here:
        key = chance.choice(list(here)) if isinstance(here, dict) else chance.randrange(len(here))
        if not isinstance(here[key], dict | list) or chance.random() < 0.2:
            here[key] = odd
            break
        here = here[key]
    text = json.dumps(document).encode()
    return (len(text).to_bytes(8, "little") if start else b"") + text + content[start + length :]


def _number(chance: Random, content: bytes) -> bytes:
    """Replace one number of YAML, or anything that looks like one."""
    matches = list(re.finditer(rb"[0-9]+(?:\.[0-9]+)?", content[:10_000]))
    if not matches:
        return content
    match = chance.choice(matches)
    return content[: match.start()] + chance.choice(YAML_VALUES).encode() + content[match.end() :]


def _bomb(chance: Random, _: bytes) -> bytes:
    deep = chance.choice((b"[", b'{"x":')) * 100_000
    return chance.choice((*BOMBS.values(), *(text.encode() for text in YAML_BOMBS), deep))


def _operation(chance: Random, content: bytes) -> bytes:
    """Insert an operation of a pickle into another."""
    at = chance.randrange(min(len(content), 2000) + 1)
    return (
        content[:at] + chance.choice((b"0", b"2", b"(", b"b", b"R", b"\x81", b"u", b"e", b"t", b"h\x00")) + content[at:]
    )


_CHANGES: tuple[Callable[[Random, bytes], bytes], ...] = (
    *(_bytes, _bytes, _odd, _cut, _value, _value, _value, _number, _bomb, _operation),
)


def make(chance: Random, folder: Path) -> int:
    """Write a checkpoint in which one or a few files are changed, or are not files."""
    files = dict(chance.choice(bases()))
    special = None
    for _ in range(chance.choice((1, 1, 2))):
        name = chance.choice(sorted(files))
        if chance.random() < 0.05:
            special = name
        else:
            files[name] = chance.choice(_CHANGES)(chance, files[name])
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == special:
            _special(chance, path)
        else:
            path.write_bytes(content)
    return sum(map(len, files.values()))


def _special(chance: Random, path: Path) -> None:
    match chance.randrange(5):
        case 0:
            os.mkfifo(path)
        case 1:
            path.symlink_to(path)
        case 2:
            path.symlink_to("/dev/zero")
        case 3:
            path.mkdir()
        case _:
            pass


def attempt(folder: Path) -> str:
    """Inspect it, compare it with its model, read a tensor, and read it as a checkpoint to resume from."""
    for read_it in (_inspect, _common, read_record):
        with suppress(RefusedError):
            read_it(folder)
    return ""


def _inspect(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    describe(checkpoint)
    faults_for(checkpoint, TINY, VOCABULARY, "bfloat16")
    tensor = checkpoint.tensors[names.EMBEDDING]
    if tensor.bytes < 1 << 20:
        read(tensor, ((0, 0), tensor.shape))


def _common(folder: Path) -> None:
    path = folder / "weights" / "common.pt"
    if not path.is_file():
        return
    with path.open("rb") as file, suppress(*UNLOADABLE):
        load_archive(file, "cpu")


FUZZ = Fuzz(make=make, attempt=attempt, part=500, memory=8 << 30)


@click.command()
@options(10_000)
def main(inputs: int, seed: int, processes: int, keep: Path | None) -> None:
    """Look at mutated checkpoints; exit 1 if one makes a reader crash, hang or die."""
    run(FUZZ, inputs, seed, processes, keep)


if __name__ == "__main__":
    main()
