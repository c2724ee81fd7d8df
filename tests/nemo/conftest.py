"""A miniature Llama 3.1 that both sides convert, and NeMo's results, made in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from reference_impl.checkpoint.convert import to_distributed
from reference_impl.checkpoint.source import open_checkpoint
from tests.environments import interpreter_of
from tests.nemo.recipe import CONFIG, SCHEDULE_STEPS
from tests.reference_impl.checkpoints import TINY, Weights, llama_config, random_weights

HERE = Path(__file__).parent

ROWS = 32_256
"""Vocabulary of the miniature: more than the 32,000 of the benchmark, as the checkpoint of the benchmark has."""


@pytest.fixture(scope="session")
def nemo_python() -> str:
    """NeMo's interpreter."""
    return interpreter_of("--nemo", ".venv-nemo", "1.6 GB")


@pytest.fixture(scope="session")
def weights() -> Weights:
    return random_weights(TINY, ROWS, torch.bfloat16)


@pytest.fixture(scope="session")
def folder(nemo_python: str, weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What nemo_side.py describes, after it ran."""
    root = tmp_path_factory.mktemp("nemo")
    write_huggingface(root / "huggingface", weights)
    to_distributed(open_checkpoint(root / "huggingface"), root / "ours")
    (root / "schedule.json").write_text(json.dumps(schedule()))
    environment = {
        **{name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}},
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "NEMO_HOME": str(root / "home"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [nemo_python, str(HERE / "nemo_side.py"), str(root)],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return root


def write_huggingface(folder: Path, weights: Weights) -> None:
    """As Meta published Llama 3.1: NeMo's transformers 4 does not know the config.json that transformers 5 writes."""
    folder.mkdir()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = llama_config(TINY, ROWS).to_dict()
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope, "torch_dtype": "bfloat16"}
    config |= {"architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)


def write_tokenizer(folder: Path) -> None:
    """NeMo takes the vocabulary from a tokenizer; this one has as many words as the model has rows."""
    special = {"unk_token": "<0>", "bos_token": "<1>", "eos_token": "<2>"}
    words = {f"<{number}>": number for number in range(ROWS)}
    model = {"type": "WordLevel", "vocab": words, "unk_token": "<0>"}
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    tokenizer: dict[str, Any] = {"version": "1.0", "added_tokens": [], "model": model, **empty}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def schedule() -> dict[str, Any]:
    """The rules' schedule, in the words of NeMo's scheduler."""
    ours = CONFIG.schedule
    return {
        "peak": ours.base_learning_rate,
        "end": ours.end_learning_rate,
        "warmup_steps": ours.warmup_steps,
        "max_steps": ours.max_steps,
        "steps": SCHEDULE_STEPS,
    }
