"""What NeMo itself does, run by NeMo's own interpreter: python nemo_side.py FOLDER.

Imports nothing of this project, so that what it writes is NeMo's work alone. In FOLDER:

    huggingface/    a Llama 3.1 as Hugging Face has it      -> nemo/                 NeMo's importer
    ours/           the same, converted by this project     -> exported/             NeMo's loader and exporter
    schedule.json   peak, end, warm-up, length, steps       -> learning_rates.json   NeMo's scheduler
                                                            -> recipe.json           NeMo's recipe llama31_405b
"""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import fiddle
import torch
from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer
from nemo.collections.llm.gpt.model import llama
from nemo.collections.llm.recipes import llama31_405b
from nemo.core.optim.lr_scheduler import CosineAnnealing
from nemo.lightning.io import pl

# Kernels that a CPU has not; none of them changes a weight.
NO_FUSION = {
    "apply_rope_fusion": False,
    "bias_activation_fusion": False,
    "bias_dropout_fusion": False,
    "masked_softmax_fusion": False,
    "persist_layer_norm": False,
}

# Transformer Engine fuses a norm with the projection behind it, and NeMo's converters know the norm by that name only.
# Without it the norm is a module of its own in memory; on disk Megatron-Core has the fused name either way.
UNFUSED = {
    "self_attention.linear_qkv.layer_norm_weight": "input_layernorm.weight",
    "mlp.linear_fc1.layer_norm_weight": "pre_mlp_layernorm.weight",
}


def unfused(name: str) -> str:
    for fused_name, own_name in UNFUSED.items():
        name = name.replace(fused_name, own_name)
    return name


def apply_transforms(
    *models: Any, mapping: dict[str, str], original: Any = llama.io.apply_transforms, **rest: Any
) -> Any:
    """NeMo's own, for a model without Transformer Engine, whose norms PyTorch makes in fp32."""
    in_bf16 = [model.to(torch.bfloat16) for model in models]
    return original(*in_bf16, mapping={unfused(old): unfused(new) for old, new in mapping.items()}, **rest)


class Importer(llama.HFLlamaImporter):
    """NeMo's importer, for a model without Transformer Engine."""

    @property
    def config(self) -> llama.LlamaConfig:
        without_fusion = functools.partial(llama.Llama31Config, **NO_FUSION)
        with mock.patch.object(llama, "Llama31Config", without_fusion):
            return super().config

    @property
    def tokenizer(self) -> AutoTokenizer:
        # NeMo's own goes through a fixed folder under /tmp.
        return AutoTokenizer(str(self))


# Asked for by NeMo and Megatron-Core on their way, without an answer where there is no GPU.
ON_CPU: dict[str, Any] = {
    "current_device": lambda: torch.device("cpu"),
    "synchronize": lambda *_: None,
    "Stream": lambda: None,
    "stream": lambda _: contextlib.nullcontext(),
}


def convert(folder: Path) -> None:
    with (
        mock.patch.multiple(torch.cuda, **ON_CPU),
        # Moves what was loaded to the GPU, which has to be there.
        mock.patch.object(pl, "_fix_tensors_device", lambda checkpoint: checkpoint),
        mock.patch.object(llama.io, "apply_transforms", apply_transforms),
    ):
        Importer(str(folder / "huggingface")).apply(folder / "nemo")
        # To read weights, NeMo wants beside them the model as its own Python objects, which only NeMo writes.
        shutil.move(folder / "ours" / "context", folder / "ours" / "our_context")
        shutil.copytree(folder / "nemo" / "context", folder / "ours" / "context")
        llama.HFLlamaExporter(str(folder / "ours")).apply(folder / "exported")


def learning_rates(peak: float, end: float, warmup_steps: int, max_steps: int, steps: list[int]) -> list[float]:
    """What NeMo's scheduler takes each of the steps with, counted from 1."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = CosineAnnealing(optimizer, max_steps=max_steps, warmup_steps=warmup_steps, constant_steps=0, min_lr=end)
    rates = []
    for step in steps:
        scheduler.last_epoch = step - 1
        rates.append(float(scheduler.get_lr()[0]))
    return rates


def hyperparameters(config: Any, *, include_defaults: bool, name: str = "") -> Iterator[tuple[str, Any]]:
    """(where it is, plain value) of a recipe's arguments."""
    if isinstance(config, fiddle.Buildable):
        for argument, value in fiddle.ordered_arguments(config, include_defaults=include_defaults).items():
            path = f"{name}.{argument}" if name else argument
            yield from hyperparameters(value, include_defaults=include_defaults, name=path)
    elif isinstance(config, torch.dtype):
        yield name, str(config)
    elif config is None or isinstance(config, bool | int | float | str):
        yield name, config


def main(folder: Path) -> None:
    recipe = llama31_405b.pretrain_recipe()
    values = dict(hyperparameters(recipe, include_defaults=True))
    chosen = [name for name, _ in hyperparameters(recipe, include_defaults=False)]
    (folder / "recipe.json").write_text(json.dumps({"values": values, "chosen": chosen}))

    schedule = json.loads((folder / "schedule.json").read_text())
    (folder / "learning_rates.json").write_text(json.dumps(learning_rates(**schedule)))

    convert(folder)


# Megatron-Core writes checkpoints in processes that import this file again.
if __name__ == "__main__":
    main(Path(sys.argv[1]))
