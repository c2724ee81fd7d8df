"""python -m perf.gpu_check: check on a GPU, in minutes, what no CPU can show of the trainer's `torch` layers.

Each check prints what it found. A check that fails prints why, and the others still run. Exit status: 0 all passed, 1
one failed, 2 there is no CUDA. --cpu-smoke shows on small shapes that the program works; its times mean nothing.
--predict asks the null device beforehand which memory, waits and kernels a tiny step will have, and writes them to
gpu_predicted.json next to this file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmark.checkout import ROOT
from benchmark.errors import HarnessError
from harness.dryrun.run import Rank, ask, run
from perf.measure import in_turns

TINY = {
    "BENCHMARK": "llama31_tiny",
    "DGXSYSTEM": "gpu_check",
    "DGXNNODES": 1,
    "DGXNGPU": 1,
    "MINIBS": 16,
    "MICRO_BATCH_SIZE": 8,
    "PRECISION": "bf16",
    "LAYER_SPEC": "torch",
    "SEED": 7,
}

ROUNDS = 10
"""Timed repeats of each kernel, of which the median counts."""

PREDICTED = Path(__file__).with_name("gpu_predicted.json")

_PEAK_TOLERANCE = 0.02
"""Bytes of cuBLAS's and cuDNN's workspaces, which are in the allocator, but not on the null device."""


class CheckFailedError(HarnessError):
    """A result differs from what it must be."""


def curve(*arguments: str, **variables: object) -> dict[str, Any]:
    """Run perf.curve for five steps of the tiny model; `variables` change its configuration or environment."""
    environment = {**os.environ, **{name: str(value) for name, value in {**TINY, **variables}.items()}}
    command = [sys.executable, "-m", "perf.curve", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CheckFailedError(f"{' '.join(command)} ended with status {done.returncode}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def neutral(smoke: bool) -> Iterator[str]:
    """The warm-up leaves the losses and norms of the steps after it as they are without it, to the bit."""
    del smoke
    cold, warm = curve(), curve("--warm-up")
    for name in ("losses", "grad_norms"):
        if cold[name] != warm[name]:
            raise CheckFailedError(f"{name} {cold[name]} without warm-up, {warm[name]} after it")
    yield f"losses {cold['losses'][0]:.4f} to {cold['losses'][-1]:.4f} with and without warm-up"
    yield f"tiny: peak {cold['peak'] / 2**20:.1f} MiB allocated, {cold['reserved'] / 2**20:.1f} reserved"
    yield f"tiny: {cold['synchronisations']} host synchronisations in a step"
    for kernel, count in list(cold["kernels"].items())[:12]:
        yield f"tiny: {count:5} x {kernel[:100]}"


def predicted(smoke: bool) -> Iterator[str]:
    """Compare memory, host waits and kernels of a tiny step with the null device's prediction.

    The null device's environment has Transformer Engine, whose optimizer stands in for torch's there.
    """
    before = json.loads(PREDICTED.read_text())
    if smoke:
        yield f"peak {before['peak_bytes'] / 2**20:.1f} MiB, {before['host_waits']} waits: no GPU to compare with"
        return
    measured = curve(KERNEL_FUSION=False)
    off = measured["peak"] / before["peak_bytes"] - 1
    yield f"peak {measured['peak'] / 2**20:.1f} MiB, predicted {before['peak_bytes'] / 2**20:.1f}: {100 * off:+.1f} %"
    yield f"host waits {measured['synchronisations']}, predicted {before['host_waits']}"
    kernels, counted = measured["kernels"], before["step"]["kernels"]
    # Kernels that torch itself launches; libraries choose theirs by GPU.
    named = sorted(name for name in kernels.keys() | counted.keys() if "at::native" in name)
    differing = [name for name in named if kernels.get(name, 0) != counted.get(name, 0)]
    yield f"{len(named) - len(differing)} of {len(named)} of torch's kernels are launched as often as predicted"
    for name in differing:
        yield f"{kernels.get(name, 0)} x, predicted {counted.get(name, 0)} x {name[:100]}"
    if abs(off) > _PEAK_TOLERANCE:
        raise CheckFailedError(
            f"peak {measured['peak']} bytes is {100 * off:+.1f} % off the predicted {before['peak_bytes']}"
        )


def predict() -> None:
    """Ask the null device; this needs its environment (bash setup.sh --null-gpu)."""
    values = {name: str(value) for name, value in TINY.items() if name != "DGXSYSTEM"} | {"KERNEL_FUSION": "False"}
    asked = ask(ROOT / "config_tiny.sh", values, "H200")
    ((_, outcome),) = run([Rank(asked=asked, rank=0, microbatches=asked.fewer_microbatches())])
    PREDICTED.write_text(json.dumps(outcome.document(), indent=1) + "\n")


def attention(smoke: bool) -> Iterator[str]:
    """Time flash and cuDNN attention as one rank of TP8 runs it in the 405B model, forward and backward."""
    heads, groups, length, width = (4, 1, 128, 32) if smoke else (16, 1, 8192, 128)

    def drawn(count: int) -> torch.Tensor:
        shape = (1, count, length, width)
        return torch.randn(shape, device=device(), dtype=torch.bfloat16, requires_grad=True)

    q, k, v = drawn(heads), drawn(groups), drawn(groups)
    kernels = [SDPBackend.MATH] if smoke else [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION]

    def work(kernel: SDPBackend) -> Callable[[], None]:
        def call() -> None:
            with sdpa_kernel(kernel):
                out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            out.sum().backward()
            wait()

        return call

    flops = 3.5 * 2 * 2 * heads * length**2 * width / 2
    for name, timing in in_turns({kernel.name: work(kernel) for kernel in kernels}, ROUNDS).items():
        yield f"{name}: {timing.wall * 1e3:.3f} ms, {flops / timing.wall / 1e12:.0f} TFLOP/s"


def scaled_products(smoke: bool) -> Iterator[str]:
    """Time fp8 matrix products against bf16's, with a scale a tensor and a scale a row, at TP1's and TP8's widths."""
    rows, hidden = (64, 64) if smoke else (8192, 16384)
    for tp in (1, 8):
        columns = max(16, hidden // tp)
        flops = 2 * rows * columns * hidden
        for name, timing in in_turns(_products(rows, columns, hidden), ROUNDS).items():
            yield f"TP{tp} {name}: {timing.wall * 1e3:.3f} ms, {flops / timing.wall / 1e12:.0f} TFLOP/s"


def _products(rows: int, columns: int, hidden: int) -> dict[str, Callable[[], None]]:
    """Return the product [rows, hidden] x [hidden, columns] in each precision."""
    a = torch.randn(rows, hidden, device=device(), dtype=torch.bfloat16)
    b = torch.randn(columns, hidden, device=device(), dtype=torch.bfloat16)
    a8, b8 = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn)

    def scaled(scale_a: tuple[int, ...], scale_b: tuple[int, ...]) -> Callable[[], object]:
        scales = torch.ones(scale_a, device=device()), torch.ones(scale_b, device=device())
        return lambda: torch._scaled_mm(a8, b8.t(), *scales, out_dtype=torch.bfloat16)

    return {
        "bf16": _waited(lambda: a @ b.t()),
        "fp8, a scale a tensor": _waited(scaled((), ())),
        "fp8, a scale a row": _waited(scaled((rows, 1), (1, columns))),
    }


def _waited(call: Callable[[], object]) -> Callable[[], None]:
    def whole() -> None:
        call()
        wait()

    return whole


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


CHECKS = (neutral, predicted, attention, scaled_products)


@click.command()
@click.option("--cpu-smoke", "smoke", is_flag=True, help="Small shapes, on a CPU.")
@click.option("--predict", "predicting", is_flag=True, help="On the null device, before there is a GPU.")
def main(smoke: bool, predicting: bool) -> None:
    """Run every check, one after the other."""
    if predicting:
        predict()
        return
    if not torch.cuda.is_available() and not smoke:
        click.echo("error: torch sees no CUDA device", err=True)
        raise SystemExit(2)
    where = "a CPU, small shapes" if smoke else f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    click.echo(f"on {where}")
    failed = False
    for check in CHECKS:
        try:
            for line in check(smoke):
                click.echo(f"{check.__name__:16} {line}")
        except Exception as error:  # noqa: BLE001 - the other checks should still run
            failed = True
            click.echo(f"{check.__name__:16} FAIL {type(error).__name__}: {error}")
    raise SystemExit(int(failed))


if __name__ == "__main__":
    main()
