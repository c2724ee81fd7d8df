"""What the planner's tests share: jobs, and the published rows."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from hypothesis import strategies as st

from benchmark.hardware import GPUS
from benchmark.sizes import SIZES
from harness.plan.job import TrainingJob
from perf import plan_accuracy

GB200 = TrainingJob(
    size=SIZES["405b"],
    vocabulary=32_000,
    sequence_length=8192,
    gpu=GPUS["GB200"],
    gpus=512,
    tensor=4,
    pipeline=8,
    chunks=8,
    context=2,
    micro_batch=1,
    microbatches=144,
    precision="nvfp4",
    release="v5.1",
)
"""As 512 GB200 were submitted in v5.1."""


@cache
def published() -> plan_accuracy.PublishedRows:
    return plan_accuracy.read()


@st.composite
def jobs(draw: st.DrawFn) -> TrainingJob:
    """Any cut of 405B that its layers allow."""
    size = SIZES["405b"]
    stages = draw(st.sampled_from([n for n in range(1, 129) if 126 % n == 0 or 128 % n == 0]))
    pipeline = draw(st.sampled_from([p for p in range(1, 33) if stages % p == 0]))
    chunks = stages // pipeline if pipeline > 1 else 1
    if size.layers % (pipeline * chunks) and (size.layers + 2) % (pipeline * chunks):
        pipeline = chunks = 1
    tensor, context, data = (draw(st.sampled_from([1, 2, 4, 8])) for _ in range(3))
    gpu = draw(st.sampled_from(sorted(GPUS)))
    return replace(
        GB200,
        gpu=GPUS[gpu],
        precision=draw(st.sampled_from(["bf16", "fp8"])),
        gpus=tensor * pipeline * context * data,
        tensor=tensor,
        pipeline=pipeline,
        chunks=chunks,
        context=context,
        micro_batch=draw(st.sampled_from([1, 2])),
        microbatches=pipeline * draw(st.integers(1, 4)),
        recompute=draw(st.sampled_from([frozenset(), frozenset({"mlp"}), frozenset({"full"})])),
    )
