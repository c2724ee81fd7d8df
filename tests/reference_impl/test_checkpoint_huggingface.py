"""The same weights give the same logits and loss as in Hugging Face's model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from benchmark.benchmarks import BENCHMARKS, LLAMA31_TINY
from benchmark.config import RunConfig
from benchmark.sizes import SIZES, ModelSize
from reference_impl.checkpoint.convert import to_huggingface
from reference_impl.checkpoint.source import open_checkpoint
from tests.reference_impl.checkpoints import random_weights, write_nemo
from tests.reference_impl.conftest import run_ranks

Tiny = Callable[..., RunConfig]

# One layer with the head size, the heads a group and the RoPE of 405B; hidden is what 16 heads of 128 make.
SLICE_OF_405B = ModelSize(name="tiny", layers=1, hidden=2048, ffn_hidden=512, heads=16, query_groups=1)


def test_the_slice_is_405bs() -> None:
    """Head size, heads a group, and everything that no weight shows equal the 405B row."""
    whole = SIZES["405b"]
    for number in ("head_dim", "norm_epsilon", "rotary_base", "rotary_scaling_factor"):
        assert getattr(SLICE_OF_405B, number) == getattr(whole, number)
    assert SLICE_OF_405B.heads // SLICE_OF_405B.query_groups == whole.heads // whole.query_groups == 16


def ours(config: RunConfig, tokens: torch.Tensor) -> dict[str, Any]:
    """Logits [tokens, vocabulary] and mean loss of our model."""
    from reference_impl import parallel
    from reference_impl.checkpoint.initial import load_initial_weights
    from reference_impl.model import build_model, unwrap

    parallel.initialize(config)
    (chunk,) = build_model(config)
    load_initial_weights(config, [chunk])
    chunk.eval()
    with torch.no_grad():
        logits = chunk(tokens[:, :-1], None, None)
        # What the model does with labels, on [tokens, batch, vocabulary]; it overwrites its argument.
        losses = unwrap(chunk).compute_language_model_loss(tokens[:, 1:], logits.transpose(0, 1).clone())
    return {"logits": logits[0].numpy(), "loss": float(losses.mean())}


@pytest.mark.parametrize(
    ("size", "vocabulary", "length"),
    [(SIZES["tiny"], 32_000, 128), (SLICE_OF_405B, 512, 8192)],
    ids=["tiny", "slice of 405B at 8192 tokens"],
)
def test_logits_and_loss_are_hugging_faces(
    size: ModelSize, vocabulary: int, length: int, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A NeMo checkpoint in our model and its export in transformers agree within fp32 tolerance."""
    row = replace(LLAMA31_TINY, size=size, tokenizer=replace(LLAMA31_TINY.tokenizer, vocabulary=vocabulary))
    monkeypatch.setitem(BENCHMARKS, LLAMA31_TINY.name, row)
    weights = write_nemo(tmp_path / "nemo", size, random_weights(size, vocabulary))
    tokens = torch.randint(0, vocabulary, (1, length + 1), generator=torch.Generator().manual_seed(1))

    (mine,) = run_ranks(tiny(LOAD_CHECKPOINT=weights), lambda config: ours(config, tokens))
    to_huggingface(open_checkpoint(weights), tmp_path / "exported")
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "exported", dtype=torch.float32)
    with torch.no_grad():
        logits = theirs(tokens[:, :-1]).logits[0]
        loss = torch.nn.functional.cross_entropy(logits, tokens[0, 1:])

    found = torch.from_numpy(mine["logits"]).view_as(logits)
    spread = float(logits.std())
    assert spread > 0.1
    # Rounding, of sums over up to 8192 keys.
    torch.testing.assert_close(found, logits, rtol=0, atol=2e-5 * spread)
    assert mine["loss"] == pytest.approx(float(loss), abs=2e-6)
