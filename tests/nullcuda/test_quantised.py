"""Weights in fp8 alone: values go in and out, the optimizer's copies start from them, and they are restored."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmark.checkout import ROOT
from harness.dryrun.environment import variables

pytestmark = pytest.mark.slow

# Copies of up to 1 MiB are done on the null device, so what the host writes is there to be read; fp8 values are not.
SCRIPT = """
import torch, transformer_engine.pytorch as te
from transformer_engine.common.recipe import Float8CurrentScaling
from nullcuda.device import NullDevice
from reference_impl import quantised

NullDevice().become("a GPU", (9, 0), 2**34, 132, 1)
with te.fp8_model_init(enabled=True, recipe=Float8CurrentScaling(), preserve_high_precision_init_val=True):
    layer = te.Linear(32, 16, bias=False, params_dtype=torch.bfloat16)
weight, values = layer.weight, torch.arange(512).bfloat16().view(16, 32)
weight.main_grad = torch.zeros(16, 32)
with torch.no_grad():
    quantised.write(weight, values.cuda())
print("written", torch.equal(weight.get_high_precision_init_val(), values))
for writing in (True, False):
    with quantised.in_bf16([layer], writing=writing), torch.no_grad():
        print("inside", type(layer.weight).__name__, layer.weight.dtype)
        layer.weight.copy_((-values).cuda())
        values = values / 2
    print("after", layer.weight is weight, weight.get_high_precision_init_val()[0, :3].tolist())
print("inner", *sorted(quantised.inner_tensors(weight)))
pointer = weight._transpose.data_ptr()
quantised.transpose([weight])
print("in place", weight._transpose.data_ptr() == pointer)
"""


def test_a_weight_in_fp8_takes_values_and_remembers_them_for_the_optimizer(null_python: str) -> None:
    """That holds directly and through a checkpoint; saving changes nothing, and a transposed copy keeps its place."""
    done = subprocess.run(
        [null_python, "-c", SCRIPT],
        cwd=ROOT,
        env=variables(Path(null_python), {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [
        "written True",
        "inside Parameter torch.bfloat16",
        "after True [-0.0, -1.0, -2.0]",
        "inside Parameter torch.bfloat16",
        "after True [-0.0, -1.0, -2.0]",
        "inner _data _quantizer.amax _quantizer.scale _scale_inv",
        "in place True",
    ], done.stderr[-2000:]
