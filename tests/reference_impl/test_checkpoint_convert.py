"""Conversion gives the same bits back, in bounded memory, and the same bytes after a kill."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from math import prod
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file

from benchmark.checkout import ROOT
from benchmark.sizes import ModelSize
from reference_impl.checkpoint import convert
from reference_impl.checkpoint.arrays import CheckpointError, read
from reference_impl.checkpoint.convert import to_distributed, to_huggingface
from reference_impl.checkpoint.inspection import describe, find_faults, read_manifest
from reference_impl.checkpoint.names import huggingface_shapes
from reference_impl.checkpoint.parts import JOURNAL, PartFolder
from reference_impl.checkpoint.source import open_checkpoint
from reference_impl.files.manifest import FolderManifest
from tests.reference_impl.checkpoints import (
    Weights,
    llama_config,
    random_weights,
    stacked,
    write_huggingface,
    write_nemo,
)

# Odd numbers everywhere, so that no cut falls on a round one.
SIZE = ModelSize(name="", layers=3, hidden=60, ffn_hidden=91, heads=6, query_groups=2)
ROWS = 257


@pytest.fixture(params=[torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def weights(request: pytest.FixtureRequest) -> Weights:
    return random_weights(SIZE, ROWS, request.param)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every matrix is cut into several pieces."""
    monkeypatch.setattr(convert, "PIECE_BYTES", 5000)


def same(a: Weights, b: Weights) -> bool:
    bits = [{name: value.contiguous().view(torch.uint8) for name, value in one.items()} for one in (a, b)]
    return a.keys() == b.keys() and all(torch.equal(bits[0][name], bits[1][name]) for name in a)


def huggingface_weights(folder: Path) -> Weights:
    """By safetensors' own reader."""
    return {name: value for path in sorted(folder.glob("*.safetensors")) for name, value in load_file(path).items()}


def tree(folder: Path) -> dict[str, str]:
    """Digest of every file."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# Round trips.


def test_huggingface_to_ours_and_back(tmp_path: Path, weights: Weights, small_pieces: None) -> None:
    """Every bit of every tensor comes back, in files of the requested size, with a config for the same model."""
    source = write_huggingface(tmp_path / "source", SIZE, weights)
    to_distributed(open_checkpoint(source), tmp_path / "ours")
    to_huggingface(open_checkpoint(tmp_path / "ours"), tmp_path / "back", shard_bytes=40_000)

    assert same(huggingface_weights(tmp_path / "back"), weights)
    assert len(list((tmp_path / "back").glob("*.safetensors"))) > 3
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert type(llama_config(SIZE, ROWS)).from_dict(config).to_diff_dict() == {
        **llama_config(SIZE, ROWS).to_diff_dict(),
        **{name: config[name] for name in ("architectures", "head_dim", "bos_token_id", "eos_token_id")},
        "dtype": config["torch_dtype"],
    }


def test_nemo_to_huggingface_to_ours(tmp_path: Path, weights: Weights, small_pieces: None) -> None:
    """A NeMo checkpoint is exported and the export converted; each has the right values under its names."""
    nemo = write_nemo(tmp_path / "nemo", SIZE, weights)
    to_huggingface(open_checkpoint(nemo), tmp_path / "exported")
    to_distributed(open_checkpoint(tmp_path / "exported"), tmp_path / "ours")

    assert same(huggingface_weights(tmp_path / "exported"), weights)
    ours = open_checkpoint(tmp_path / "ours")
    whole = {name: read(tensor, ((0,) * len(tensor.shape), tensor.shape)) for name, tensor in ours.tensors.items()}
    assert same(whole, stacked(SIZE, weights))


def test_the_first_rows_of_the_vocabulary_can_be_kept(tmp_path: Path, weights: Weights) -> None:
    """Embedding and output keep that many rows; more than there are is refused."""
    source = open_checkpoint(write_nemo(tmp_path / "nemo", SIZE, weights))
    to_huggingface(source, tmp_path / "kept", vocabulary=100)

    kept = huggingface_weights(tmp_path / "kept")
    assert kept["lm_head.weight"].shape == kept["model.embed_tokens.weight"].shape == (100, 60)
    assert torch.equal(kept["lm_head.weight"], weights["lm_head.weight"][:100])
    with pytest.raises(CheckpointError, match="has 257 vocabulary rows, expected at least 300"):
        to_huggingface(source, tmp_path / "more", vocabulary=300)


def test_no_value_is_written_twice(tmp_path: Path, weights: Weights) -> None:
    """The copy of a checkpoint that holds fc1 twice holds it once, and the report gives the wasted bytes."""
    nemo = open_checkpoint(write_nemo(tmp_path / "nemo", SIZE, weights))
    to_distributed(nemo, tmp_path / "ours")

    twice = SIZE.layers * 2 * SIZE.ffn_hidden * SIZE.hidden * weights["lm_head.weight"].element_size()
    entries = 9 * SIZE.layers * 3000
    assert twice < nemo.wasted_bytes < twice + entries
    assert open_checkpoint(tmp_path / "ours").wasted_bytes < entries
    assert f"waste       {nemo.wasted_bytes:,} bytes of the files hold no weight" in describe(nemo)


@pytest.mark.parametrize("write", [to_distributed, to_huggingface])
def test_the_manifest_vouches_for_every_byte(write: Callable[..., None], tmp_path: Path, weights: Weights) -> None:
    """A flipped bit is found and its file named; without it there is no fault."""
    write(open_checkpoint(write_nemo(tmp_path / "nemo", SIZE, weights)), tmp_path / "copy")
    manifest = read_manifest(tmp_path / "copy")
    assert set(manifest.files) == tree(tmp_path / "copy").keys() - {"manifest.json"}
    assert find_faults(tmp_path / "copy", manifest, SIZE) == []

    largest = max(manifest.files, key=lambda name: manifest.files[name].bytes)
    data = bytearray((tmp_path / "copy" / largest).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "copy" / largest).write_bytes(data)
    (fault,) = find_faults(tmp_path / "copy", manifest, SIZE)
    assert f"{largest} has sha256" in fault


# Killed, and called again.


def convert_until(source: Path, target: Path, write: Callable[..., None], kill_after: int | None) -> None:
    """Convert in this process, which kills itself after this many bytes, or before the manifest if None."""
    seen = 0

    def kill(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def advance(count: int) -> None:
        nonlocal seen
        seen += count
        if kill_after is not None and seen > kill_after:
            kill()

    with patch.object(FolderManifest, "save", kill) if kill_after is None else nullcontext():
        write(open_checkpoint(source), target, advance=advance)


def complete_in(target: Path) -> list[str]:
    """The files that an unfinished conversion lists as complete; another may be whole but not yet listed."""
    text = (target / JOURNAL).read_text(encoding="utf-8")
    return [json.loads(line)["name"] for line in text.split("\n")[1:-1]]


@pytest.mark.parametrize("write", [to_distributed, to_huggingface])
def test_a_killed_conversion_goes_on_to_the_same_bytes(
    write: Callable[..., None], tmp_path: Path, small_pieces: None
) -> None:
    """It is killed in each quarter and before the last file; complete files are not written again."""
    source = write_nemo(tmp_path / "source", SIZE, random_weights(SIZE, ROWS, torch.bfloat16))
    write(open_checkpoint(source), tmp_path / "undisturbed")
    target = tmp_path / "killed"
    context = multiprocessing.get_context("fork")
    total = SIZE.parameters(ROWS) * 2
    kept: dict[str, int] = {}
    for kill_after in (0, total // 4, total // 2, total // 4, None):
        process = context.Process(target=convert_until, args=(source, target, write, kill_after))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert (target / JOURNAL).exists()
        times = {name: (target / name).stat().st_mtime_ns for name in complete_in(target)}
        assert {name: times[name] for name in kept} == kept
        kept = times
    write(open_checkpoint(source), target)

    assert tree(target) == tree(tmp_path / "undisturbed")


def test_a_torn_line_of_the_journal_is_written_again(tmp_path: Path) -> None:
    """A kill while the journal is written does no harm."""
    source = write_nemo(tmp_path / "source", SIZE, random_weights(SIZE, ROWS, torch.bfloat16))
    to_distributed(open_checkpoint(source), tmp_path / "undisturbed")
    process = multiprocessing.get_context("fork").Process(
        target=convert_until, args=(source, tmp_path / "killed", to_distributed, None)
    )
    process.start()
    process.join()
    journal = tmp_path / "killed" / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-20])
    to_distributed(open_checkpoint(source), tmp_path / "killed")

    assert tree(tmp_path / "killed") == tree(tmp_path / "undisturbed")


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    """Neither foreign files nor another unfinished conversion are overwritten."""
    weights = random_weights(SIZE, ROWS, torch.bfloat16)
    source = open_checkpoint(write_nemo(tmp_path / "source", SIZE, weights))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("the only copy")
    with pytest.raises(CheckpointError, match="is not empty"):
        to_distributed(source, tmp_path / "full")
    process = multiprocessing.get_context("fork").Process(
        target=convert_until, args=(tmp_path / "source", tmp_path / "begun", to_distributed, None)
    )
    process.start()
    process.join()
    with pytest.raises(CheckpointError, match="holds another call's unfinished work"):
        to_distributed(source, tmp_path / "begun", vocabulary=100)


@pytest.mark.parametrize(
    "line", ["[" * 100_000, "{}", "[]", "null", '{"name": "../x", "entry": {"bytes": 1}, "memory": 0}', '{"name": "x"}']
)
def test_a_hostile_journal_is_one_error(line: str, tmp_path: Path) -> None:
    """A journal that somebody else may have written is refused, and names nothing outside its folder."""
    (tmp_path / JOURNAL).write_text(f"{{}}\n{line}\n")
    with pytest.raises(CheckpointError, match=r"is not a journal of unfinished work: [^\n]+$"):
        PartFolder(tmp_path, {})


# Memory.

MEASURE = """
import re, sys
from pathlib import Path
from reference_impl.checkpoint import arrays, convert
from reference_impl.checkpoint.source import open_checkpoint

def growth(work, source, target):
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is there now
    before = memory("VmRSS")
    work(open_checkpoint(source), target, jobs=2)
    return memory("VmHWM") - before

def memory(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

convert.PIECE_BYTES = arrays.BLOCK_BYTES = int(sys.argv[1])
small, large, out = map(Path, sys.argv[2:])
for source, names in ((small, "01"), (large, "23")):
    there = growth(convert.to_distributed, source, out / names[0])
    back = growth(convert.to_huggingface, out / names[0], out / names[1])
print(there, back)
"""


def write_zeros(folder: Path, size: ModelSize, rows: int) -> int:
    """A model of zeros in one sparse file; returns its bytes."""
    from reference_impl.checkpoint.huggingface import header

    shapes = huggingface_shapes(size, rows)
    llama_config(size, rows).save_pretrained(folder)
    start, length = header(shapes, "bfloat16"), sum(map(prod, shapes.values())) * 2
    with (folder / "model.safetensors").open("wb") as file:
        file.write(start)
        file.truncate(len(start) + length)
    return length


def test_memory_is_bounded_whatever_the_size(tmp_path: Path) -> None:
    """Two files at once, in pieces of 4 MiB, take under 48 MiB for a model of 262 MB, both ways."""
    piece, large = 4 << 20, ModelSize(name="", layers=6, hidden=512, ffn_hidden=8192, heads=8, query_groups=8)
    write_zeros(tmp_path / "small", SIZE, ROWS)
    model_bytes = write_zeros(tmp_path / "large", large, 48_000)
    command = [sys.executable, "-c", MEASURE, str(piece), *(str(tmp_path / name) for name in ("small", "large", "out"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    growths = list(map(int, done.stdout.split()))
    bound = 48 << 20
    assert model_bytes > 5 * bound
    assert max(growths) < bound, growths
