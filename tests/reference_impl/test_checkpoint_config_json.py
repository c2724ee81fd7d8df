"""config.json as other tools write it: the same model in other words is read, another model is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmark.sizes import SIZES
from reference_impl.checkpoint.arrays import CheckpointError
from reference_impl.checkpoint.huggingface import config_json, read_config
from reference_impl.checkpoint.source import size_faults

EIGHT = SIZES["8b"]


def written(folder: Path, change: dict[str, Any], end: str = "\n") -> Path:
    text = json.dumps(config_json(EIGHT, 128_256, "bfloat16", {}) | change, indent=2)
    (folder / "config.json").write_bytes(text.replace("\n", end).encode())
    return folder


def as_text(value: Any) -> Any:
    """Every number as text, those within objects too."""
    if isinstance(value, dict):
        return {name: as_text(each) for name, each in value.items()}
    return str(value) if isinstance(value, int | float) else value


@pytest.mark.parametrize(
    ("change", "end"),
    [
        (as_text(config_json(EIGHT, 128_256, "bfloat16", {})), "\n"),
        ({"hidden_size": 4096.0, "rope_theta": "5e5"}, "\n"),
        ({"head_dim": None, "hidden_act": None}, "\n"),
        ({}, "\r\n"),
    ],
    ids=["numbers as text", "integers as floats", "defaults as null", "CRLF"],
)
def test_the_same_model_in_other_words_is_read(change: dict[str, Any], end: str, tmp_path: Path) -> None:
    """Numbers and booleans written as text, and Windows line ends, are accepted."""
    size, vocabulary = read_config(written(tmp_path, change, end))
    assert list(size_faults(size, EIGHT)) == []
    assert vocabulary == 128_256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', expected 'silu'"),
        ({"attention_bias": True}, "attention_bias is True, expected False"),
        ({"mlp_bias": "true"}, "mlp_bias is 'true', expected False"),
        ({"hidden_size": "a lot"}, "hidden_size is 'a lot', expected an integer above 0"),
        ({"hidden_size": 4096.5}, r"hidden_size is 4096\.5, expected an integer above 0"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True, expected an integer above 0"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0, expected an integer above 0"),
        ({"rms_norm_eps": "nan"}, "rms_norm_eps is 'nan', expected a number above 0"),
        ({"vocab_size": [1]}, r"vocab_size is \[1\], expected an integer above 0"),
        ({"rope_scaling": {"factor": "8"}}, "RoPE's rope_type is None, expected 'llama3'"),
        ({"rope_scaling": 8}, "'int' object is not a mapping"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_another_model_is_one_clear_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    """The error names the file, the field, what was read and what was expected."""
    with pytest.raises(CheckpointError, match=rf"config\.json.*{message}"):
        read_config(written(tmp_path, change))
