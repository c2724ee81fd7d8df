"""The fuzzer of checkpoints makes the inputs that it promises, and the readers survive them."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from perf.fuzz_checkpoints import FUZZ, YAML_BOMBS, bases, make
from perf.fuzzing import chance, look
from reference_impl.checkpoint.arrays import CheckpointError, _Window
from reference_impl.checkpoint.source import open_checkpoint


def test_some_checkpoints_are_read_without_a_crash() -> None:
    """No input of the first few makes a reader raise anything but a refusal; a full run has thousands."""
    found = look(FUZZ, 7, None, range(60))
    assert (found.inputs, found.failures) == (60, [])


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


def _setting(name: str, value: object) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("weights/.metadata", _fifo, "not a regular file"),
        ("context/model.yaml", _fifo, "not a regular file"),
        ("context/model.yaml", _text(YAML_BOMBS[0]), "20,000 values with its aliases expanded"),
        ("context/model.yaml", _text(YAML_BOMBS[1]), "alias 'a' refers to a node that is not complete"),
        ("context/model.yaml", _text("[" * 10_000), "lists and mappings are nested more than 64 deep"),
        ("config.json", _setting("num_hidden_layers", 10**9), "layers is 1000000000, expected 1 to 1,000"),
        ("config.json", _setting("num_attention_heads", 0), "num_attention_heads is 0, expected an integer above 0"),
        ("config.json", _setting("vocab_size", 10**400), "vocab_size is 1000.*, expected an integer above 0"),
        ("config.json", _text("[" * 100_000), "arrays and objects are nested more than 64 deep"),
        ("model.safetensors.index.json", _text('{"a":' * 100_000), "arrays and objects are nested more than 64 deep"),
        ("model.safetensors", _fifo, "not a regular file"),
    ],
)
def test_a_hostile_file_is_one_error(file: str, change: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    """Inputs that once crashed, hung or killed `inspect` are refused in one short line that names the file."""
    files = next(base for base in bases() if file in base)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    open_checkpoint(tmp_path)
    change(tmp_path / file)
    with pytest.raises(CheckpointError, match=said) as caught:
        open_checkpoint(tmp_path)
    assert str(tmp_path / file) in str(caught.value)
    assert len(caught.value.faults) == 1
    assert len(str(caught.value)) < 500


def test_a_window_fills_what_it_is_given(tmp_path: Path) -> None:
    """It also fills a bytearray, with which Python's own read-to-the-end asks for the rest."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with path.open("rb") as file, io.BufferedReader(_Window(file.fileno(), 2, 6)) as window:
        assert window.read() == b"234567"


def made(folder: Path, seed: int) -> dict[str, bytes]:
    folder.mkdir()
    make(chance(seed, 3), folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_inputs_depend_on_the_seed_alone(tmp_path: Path) -> None:
    """An input that failed can be made again."""
    assert made(tmp_path / "one", 7) == made(tmp_path / "again", 7) != made(tmp_path / "other", 8)
