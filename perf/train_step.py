"""Measures a training step of the tiny model, ours on Megatron-Core against Hugging Face's LlamaForCausalLM with AdamW.

Each step has forward, backward, gradient clipping and optimizer, with the same shape, batch, precision (fp32) and
threads. They run in turns, each in a process of its own, because ours keeps the memory that it frees. Ours includes
Megatron-Core's DistributedDataParallel, distributed optimizer and schedule, and deterministic algorithms, as the
benchmark runs. Hugging Face's runs with torch's default AdamW, with its fused one, which ours uses, and with both that
and our handling of memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import click
import torch

from benchmark.benchmarks import LLAMA31_TINY
from benchmark.config import RunConfig
from benchmark.rules import AdamW
from perf.measure import in_a_process_of_its_own, in_turns
from reference_impl import cpu, parallel
from reference_impl.checkpoint.huggingface import config_json
from reference_impl.data.published import manifest_of
from reference_impl.step import MegatronStep, synthetic_batches

OURS = "Megatron-Core (ours)"
SEQUENCES = 8
"""Samples of a step."""


def configuration() -> RunConfig:
    variables = {
        "BENCHMARK": LLAMA31_TINY.name,
        "DGXSYSTEM": "perf",
        "DGXNNODES": "1",
        "DGXNGPU": "1",
        "MINIBS": str(SEQUENCES),
        "MICRO_BATCH_SIZE": str(SEQUENCES),
        "PRECISION": "fp32",
        "SEED": "1",
    }
    return RunConfig.from_environment(variables)


def ours(config: RunConfig) -> Callable[[], object]:
    """Return one step of the reference implementation, on synthetic batches."""
    parallel.alone()
    parallel.initialize(config)
    step = MegatronStep(config, manifest_of(LLAMA31_TINY, {}))
    batches = synthetic_batches(config)
    return lambda: step.train_once(batches)


def hugging_face(config: RunConfig, *, fused: bool, keep: bool = False) -> Callable[[], object]:
    """Return the same step with transformers and torch alone.

    Args:
        fused: use AdamW's fused kernel.
        keep: keep freed memory, as ours does.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    if keep:
        cpu.keep_freed_memory()
    adamw = config.rules.optimizer
    llama = LlamaConfig(
        **config_json(config.size, config.vocabulary, "float32", {}), attn_implementation="sdpa", use_cache=False
    )
    model = LlamaForCausalLM(llama).train()
    optimizer = torch_adamw(model, adamw, fused=fused)
    batches = synthetic_batches(config)

    def step() -> float:
        batch = next(batches)
        optimizer.zero_grad()
        logits = model(input_ids=batch.tokens).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), batch.labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), adamw.gradient_clip_norm)
        optimizer.step()
        return loss.item()

    return step


def torch_adamw(model: torch.nn.Module, adamw: AdamW, *, fused: bool) -> torch.optim.AdamW:
    """Return torch's AdamW with the rules' constants, as a user of torch alone would make it."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=1e-4,
        betas=(adamw.beta_1, adamw.beta_2),
        eps=adamw.epsilon,
        weight_decay=adamw.weight_decay,
        fused=fused,
    )


def with_threads(threads: int, build: Callable[[], Callable[[], object]]) -> Callable[[], object]:
    torch.set_num_threads(threads)
    return build()


@click.command()
@click.option("--rounds", default=30)
@click.option("--threads", default=len(os.sched_getaffinity(0)), help="Threads of torch.")
def main(rounds: int, threads: int) -> None:
    """Measure all of them and print the ratios."""
    config = configuration()
    contenders = {
        OURS: partial(ours, config),
        "Hugging Face": partial(hugging_face, config, fused=False),
        "Hugging Face, fused": partial(hugging_face, config, fused=True),
        "Hugging Face, fused, memory kept": partial(hugging_face, config, fused=True, keep=True),
    }
    with ExitStack() as stack:
        work = {
            name: stack.enter_context(in_a_process_of_its_own(partial(with_threads, threads, build)))
            for name, build in contenders.items()
        }
        timings = in_turns(work, rounds, warm_up=5)
    mine = timings[OURS]
    tokens = SEQUENCES * config.rules.sequence_length
    print(
        f"{SEQUENCES} sequences of {config.rules.sequence_length} tokens a step, {threads} threads, "
        f"median of {rounds} rounds"
    )
    for name, timing in timings.items():
        print(
            f"{name:34} {timing.wall * 1e3:7.1f} ms   {tokens / timing.wall:8,.0f} tokens/s   "
            f"ours is {timing.wall / mine.wall:.2f} x as fast"
        )


if __name__ == "__main__":
    main()
