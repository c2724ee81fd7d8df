"""Measures layers of the 405B shape on one GPU, ours against Hugging Face's, in TFLOP/s.

A step is forward and backward over the microbatches, gradient clipping and AdamW. Ours is what the trainer runs, on
Megatron-Core: bf16 weights, fp32 gradients, DistributedDataParallel, distributed optimizer with fp32 copies. Hugging
Face's is LlamaDecoderLayer in bf16 with torch's fused AdamW on the bf16 weights, which moves fewer bytes. The shards of
TP4 and TP8 are measured as one GPU sees them, without communication. The two run one after the other, since two sets of
weights do not fit; results are medians. Operations are counted with full attention (ModelSize.layer_flops); causal
kernels do half of that part, 4 % of the whole.

Exit status 2 without CUDA; --cpu-smoke shows on a tiny shape that the program works.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import click
import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.optimizer import get_megatron_optimizer
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import build_module
from megatron.core.transformer.transformer_config import TransformerConfig

from benchmark.benchmarks import LLAMA31_405B
from benchmark.config import RunConfig
from benchmark.config.kernels import layer_spec
from benchmark.sizes import ModelSize
from perf.measure import Timing, in_turns
from perf.train_step import torch_adamw
from reference_impl import parallel
from reference_impl.layers import block_spec
from reference_impl.model import ddp_config, transformer_config
from reference_impl.optimizer import optimizer_config, use_fused_kernel

SMOKE = ModelSize(name="smoke", layers=1, hidden=128, ffn_hidden=256, heads=16, query_groups=8)

Step = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """The part of some layers that one GPU of a tensor-parallel group computes."""

    size: ModelSize
    tp: int
    layers: int
    microbatches: int
    sequence_length: int

    @property
    def flops(self) -> float:
        """FLOP of one step, with full attention."""
        return self.size.layer_flops(self.sequence_length) / self.tp * self.layers * self.microbatches


def run_config(spec: str) -> RunConfig:
    """Return one GPU's worth of a 405B run; the layers' shape is set separately."""
    variables = {
        "BENCHMARK": LLAMA31_405B.name,
        "RULESET": LLAMA31_405B.rulesets[-1],
        "DGXSYSTEM": "perf",
        "DGXNNODES": "1",
        "DGXNGPU": "1",
        "MINIBS": "1152",
        "LAYER_SPEC": spec,
        "OVERLAP_GRAD_REDUCE": "False",
        "SEED": "1",
    }
    return RunConfig.from_environment(variables)


def shard(config: RunConfig, shape: LayerShape) -> TransformerConfig:
    """Return Megatron-Core's configuration of the shape: heads and the MLP's width are divided, the rest is whole."""
    size = shape.size
    return replace(
        transformer_config(config, parallel.machine()),
        num_layers=shape.layers,
        hidden_size=size.hidden,
        ffn_hidden_size=size.ffn_hidden // shape.tp,
        num_attention_heads=size.heads // shape.tp,
        num_query_groups=size.query_groups // shape.tp,
        kv_channels=size.head_dim,
    )


class Layers(MegatronModule):
    """Layers alone, without embedding and loss."""

    def __init__(self, config: RunConfig, transformer: TransformerConfig) -> None:
        super().__init__(transformer)
        specs = block_spec(transformer, None, layer_spec(config.kernels, parallel.machine())).layer_specs
        self.layers = torch.nn.ModuleList(
            build_module(spec, config=transformer, layer_number=index + 1) for index, spec in enumerate(specs)
        )

    def forward(self, hidden: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            hidden, _ = layer(hidden, attention_mask=None, rotary_pos_emb=rotary)
        return hidden


def ours(config: RunConfig, shape: LayerShape) -> Step:
    """Return a step of the trainer's layers."""
    transformer, where = shard(config, shape), parallel.device()
    layers = Layers(config, transformer).to(where)
    model = DistributedDataParallel(transformer, ddp_config(config.kernels, parallel.machine()), layers)
    optimizer = get_megatron_optimizer(optimizer_config(config), [model], use_gloo_process_groups=False)
    use_fused_kernel(optimizer)
    rotary = RotaryEmbedding(
        shape.size.head_dim,
        rotary_percent=1.0,
        rotary_base=shape.size.rotary_base,
        rope_scaling=True,
        use_cpu_initialization=transformer.use_cpu_initialization,
    )(shape.sequence_length).to(where)
    hidden = random_hidden(shape.sequence_length, 1, shape.size.hidden)
    gradient = torch.randn_like(hidden)

    def step() -> None:
        model.zero_grad_buffer()
        optimizer.zero_grad()
        for _ in range(shape.microbatches):
            hidden.grad = None
            model(hidden, rotary).backward(gradient)
        model.finish_grad_sync()
        optimizer.step()

    return step


def hugging_face(config: RunConfig, shape: LayerShape) -> Step:
    """Return the same step with transformers and torch alone."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

    size, adamw, where = shape.size, config.rules.optimizer, parallel.device()
    llama = LlamaConfig(
        hidden_size=size.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=size.heads // shape.tp,
        num_key_value_heads=size.query_groups // shape.tp,
        head_dim=size.head_dim,
        intermediate_size=size.ffn_hidden // shape.tp,
        rms_norm_eps=size.norm_epsilon,
        attn_implementation="sdpa",
    )
    with where:
        layers = torch.nn.ModuleList(LlamaDecoderLayer(llama, index) for index in range(shape.layers)).bfloat16()
        positions = torch.arange(shape.sequence_length)[None]
        hidden = random_hidden(1, shape.sequence_length, size.hidden)
        embeddings = LlamaRotaryEmbedding(llama)(hidden, positions)
    gradient = torch.randn_like(hidden)
    optimizer = torch_adamw(layers, adamw, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        for _ in range(shape.microbatches):
            hidden.grad = None
            out = hidden
            for layer in layers:
                out = layer(out, attention_mask=None, position_embeddings=embeddings)
            out.backward(gradient)
        torch.nn.utils.clip_grad_norm_(layers.parameters(), adamw.gradient_clip_norm)
        optimizer.step()

    return step


def random_hidden(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=parallel.device(), dtype=torch.bfloat16).requires_grad_()


def measured(step: Step, rounds: int) -> Timing:
    """Time a step, including its last kernel."""

    def finished() -> None:
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return in_turns({"step": finished}, rounds)["step"]


def forget() -> None:
    """Free the memory of the last step, so that the next step's peak is its own."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


@click.command()
@click.option("--layers", default=1, help="Layers in a row; one of 405B takes 57 GB at TP1 with its optimizer.")
@click.option("--microbatches", default=4, help="Sequences a step.")
@click.option("--rounds", default=10)
@click.option("--layer-spec", "spec", default="auto", type=click.Choice(["auto", "te", "torch"]))
@click.option(
    "--cpu-smoke", is_flag=True, help="A tiny shape, anywhere: shows that the program works, measures nothing."
)
def main(layers: int, microbatches: int, rounds: int, spec: str, cpu_smoke: bool) -> None:
    """Measure each shape and print a table.

    \b
    python -m perf.gpu_layers --layer-spec torch
    """
    if not (cpu_smoke or torch.cuda.is_available()):
        print("error: needs a CUDA GPU, and torch sees none; --cpu-smoke shows the program on a CPU", file=sys.stderr)
        raise SystemExit(2)
    size, length = (SMOKE, 64) if cpu_smoke else (LLAMA31_405B.size, 8192)
    config = run_config(spec)
    parallel.alone()
    parallel.initialize(config)
    chosen = layer_spec(config.kernels, parallel.machine())
    print(
        f"{layers} layers, {microbatches} x {length} tokens, bf16, forward + backward + AdamW, full-attention FLOPs, "
        f"median of {rounds} rounds"
    )
    for tp in (1, 4, 8):
        shape = LayerShape(size=size, tp=tp, layers=layers, microbatches=microbatches, sequence_length=length)
        for name, build in ((f"ours ({chosen})", ours), ("Hugging Face", hugging_face)):
            forget()
            timing = measured(build(config, shape), rounds)
            print(
                f"TP{tp} {name:14} {timing.wall * 1e3:9.1f} ms {shape.flops / timing.wall / 1e12:8.1f} TFLOP/s "
                f"{parallel.peak_memory_gib() or 0:7.1f} GiB"
            )
    parallel.shut_down()


if __name__ == "__main__":
    main()
