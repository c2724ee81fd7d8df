"""The measurements on a GPU work on tiny shapes anywhere, and refuse to measure without a GPU."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from benchmark.checkout import ROOT


def gpu_layers(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "perf.gpu_layers", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_smoke_measures_every_shape() -> None:
    """Ours and Hugging Face's have a rate each, at TP1 and as shards of TP4 and TP8."""
    done = gpu_layers("--cpu-smoke", "--rounds", "1", "--microbatches", "1", "--layer-spec", "torch")

    assert done.returncode == 0, done.stderr
    rows = [line.split()[:2] for line in done.stdout.splitlines() if "TFLOP/s" in line]
    assert rows == [[tp, name] for tp in ("TP1", "TP4", "TP8") for name in ("ours", "Hugging")]


@pytest.mark.slow
def test_smoke_checks_everything() -> None:
    """On small shapes no check of perf/gpu_check.sh fails, and none is left out."""
    command = [sys.executable, "-m", "perf.gpu_check", "--cpu-smoke"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    shown = {line.split()[0] for line in done.stdout.splitlines()[1:]}
    assert shown == {"neutral", "predicted", "attention", "scaled_products"}


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_a_gpu_it_refuses() -> None:
    """It exits with status 2 and one line that says what is missing."""
    done = gpu_layers()

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("error: needs a CUDA GPU")
