"""llama31 checkpoint: what it prints, refuses and returns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmark.checkout import ROOT
from harness.verbs.checkpoint import checkpoint as main
from tests.reference_impl.checkpoints import TINY, random_weights, write_huggingface, write_nemo

ROWS = 1000


@pytest.fixture
def nemo(tmp_path: Path) -> Path:
    return write_nemo(tmp_path / "nemo", TINY, random_weights(TINY, ROWS, torch.bfloat16))


def call(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    done = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    return done.exit_code, done.stdout, done.stderr


def program(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The program where torch cannot be imported."""
    code = (
        "import runpy, sys; sys.modules['torch'] = None; "
        "sys.argv = ['', 'checkpoint', *sys.argv[1:]]; runpy.run_module('harness', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_inspect_shows_the_model_and_every_tensor(nemo: Path) -> None:
    """It shows format, size, vocabulary, waste and tensors, without torch and without reading weights."""
    for path in (nemo / "weights").glob("*.distcp"):
        path.write_bytes(bytes(path.stat().st_size))

    done = program("inspect", nemo)

    assert done.returncode == 0, done.stderr
    assert "format      NeMo\nmodel       tiny: 2 layers, hidden 128, ffn 384, 8 heads, 2 query groups" in done.stdout
    assert "vocabulary  1,000 rows" in done.stdout
    assert "waste " in done.stdout
    assert "decoder.layers.mlp.linear_fc1.weight" in done.stdout
    assert "2 x 768 x 128  bfloat16  393.2 kB  4 pieces" in done.stdout


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    """It exits with status 2 and one line that says what was expected."""
    done = program("inspect", tmp_path)

    assert done.returncode == 2
    assert done.stderr == (
        f"error: {tmp_path} is not a checkpoint: it holds none of these; expected weights/.metadata (NeMo), .metadata "
        "(Megatron-Core), or model.safetensors.index.json or model.safetensors (Hugging Face)\n"
    )


def test_convert_export_and_verify(nemo: Path, tmp_path: Path) -> None:
    """The three commands work one after the other."""
    assert call("export", nemo, tmp_path / "exported")[0] == 0
    assert call("convert", tmp_path / "exported", tmp_path / "converted")[0] == 0
    status, said, _ = call("verify", tmp_path / "converted", "--benchmark", "llama31_tiny")

    assert (status, said) == (0, f"{tmp_path / 'converted'}: every tensor is there, 9 files as in the manifest\n")


def test_only_the_benchmarks_model_is_converted_for_it(nemo: Path, tmp_path: Path) -> None:
    """With --benchmark, another model and a smaller vocabulary are refused, and nothing is written."""
    status, _, said = call("convert", nemo, tmp_path / "converted", "--benchmark", "llama31_tiny")
    assert (status, "it has 1,000 vocabulary rows, but the model has 32,000" in said) == (2, True)
    status, _, said = call("export", nemo, tmp_path / "converted", "--benchmark", "llama31_8b")
    assert (status, "its model has layers 2, expected 32" in said) == (2, True)
    assert not (tmp_path / "converted").exists()


def test_verify_finds_what_is_wrong(tmp_path: Path) -> None:
    """It exits with status 1 and one line for each fault: another model, and a truncated file."""
    folder = write_huggingface(tmp_path, TINY, random_weights(TINY, ROWS))
    status, _, said = call("verify", folder, "--benchmark", "llama31_8b")
    assert status == 1
    assert f"error: {folder}: its model has layers 2, expected 32\n" in said

    broken = folder / "model-00001-of-00002.safetensors"
    broken.write_bytes(broken.read_bytes()[:-1])
    status, _, said = call("verify", folder)
    assert status == 1
    assert "truncated" in said
