"""Initial weights: every format gives every layout the right values, and every fault is a clear refusal."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.config import RunConfig
from reference_impl.checkpoint.arrays import CheckpointError
from reference_impl.checkpoint.convert import to_distributed
from reference_impl.checkpoint.source import open_checkpoint, usable_checkpoint
from tests.reference_impl.checkpoints import (
    TINY,
    Weights,
    parameter,
    random_weights,
    write_huggingface,
    write_nemo,
    wrong_parameters,
)
from tests.reference_impl.conftest import run_ranks

Tiny = Callable[..., RunConfig]

# More rows than the model's 32,000, as the benchmark's checkpoint has.
ROWS = 32_640
VOCABULARY = 32_000


@pytest.fixture(scope="module")
def weights() -> Weights:
    return random_weights(TINY, ROWS, torch.bfloat16)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, weights: Weights) -> dict[str, Path]:
    """The same weights in each format."""
    root = tmp_path_factory.mktemp("weights")
    found = {
        "NeMo": write_nemo(root / "nemo", TINY, weights),
        "Hugging Face": write_huggingface(root / "huggingface", TINY, weights),
        "converted": root / "converted",
    }
    to_distributed(open_checkpoint(found["Hugging Face"]), found["converted"])
    return found


LAYOUTS: dict[str, dict[str, int]] = {
    "one process": {},
    "DP=2": {"DGXNGPU": 2, "MINIBS": 2},
    "TP=2 x PP=2": {"DGXNGPU": 4, "TENSOR_MODEL_PARALLEL": 2, "PIPELINE_MODEL_PARALLEL": 2},
    "PP=2 interleaved": {"DGXNGPU": 2, "PIPELINE_MODEL_PARALLEL": 2, "INTERLEAVED_PIPELINE": 2},
}


def first_rows(weights: Weights) -> Weights:
    """The weights with the vocabulary of the model."""
    cut = {name: weights[name][:VOCABULARY] for name in ("model.embed_tokens.weight", "lm_head.weight")}
    return weights | cut


@pytest.mark.parametrize(
    ("form", "layout"),
    [
        *(("NeMo", layout) for layout in LAYOUTS),
        ("Hugging Face", "DP=2"),
        ("Hugging Face", "TP=2 x PP=2"),
        ("converted", "TP=2 x PP=2"),
    ],
)
def test_every_rank_holds_its_shard(
    form: str, layout: str, tiny: Tiny, folders: dict[str, Path], weights: Weights
) -> None:
    """All parameters have the checkpoint's values, with the vocabulary's first rows."""
    config = tiny(LOAD_CHECKPOINT=folders[form], PRECISION="bf16", **LAYOUTS[layout])
    mine = first_rows(weights)

    answers = run_ranks(config, lambda one: wrong_parameters(one, mine))

    assert all(count > 0 and wrong == [] for count, wrong in answers), answers


def loaded_by_megatron(config: RunConfig, weights: Weights) -> list[str]:
    """Ask Megatron-Core's own reader the same, with Transformer Engine's names for norms."""
    from megatron.core import dist_checkpointing

    from reference_impl import parallel
    from reference_impl.checkpoint.names import fused
    from reference_impl.model import build_model, named_parameters, unwrap

    parallel.initialize(config)
    chunks = build_model(config)
    state = unwrap(chunks[0]).sharded_state_dict(prefix="module.")
    for value in state.values():
        value.key = fused(value.key)
    folder = str(config.data.load_checkpoint / "weights")  # type: ignore[operator]
    loaded = dist_checkpointing.load({"model": state}, folder)["model"]
    unwrap(chunks[0]).load_state_dict({name.removeprefix("module."): value for name, value in loaded.items()})
    return [
        name for name, value in named_parameters(chunks) if not torch.equal(value, parameter(name, weights, TINY, 1, 0))
    ]


@pytest.mark.parametrize("form", ["NeMo", "converted"])
def test_megatron_core_reads_the_same_files(form: str, tiny: Tiny, folders: dict[str, Path], weights: Weights) -> None:
    """The miniature is a genuine distributed checkpoint, and so is what we write."""
    mine = first_rows(weights)
    config = tiny(LOAD_CHECKPOINT=folders[form], PRECISION="bf16")

    assert run_ranks(config, lambda one: loaded_by_megatron(one, mine)) == [[]]


def how_it_ends(config: RunConfig) -> object:
    """The exit status of a run, or the error of its start."""
    from reference_impl import pretrain

    try:
        return pretrain.train(config)
    except CheckpointError as error:
        return str(error)
    except SystemExit as leaving:
        return leaving.code


def test_a_file_that_breaks_while_it_is_read_ends_every_rank(
    tiny: Tiny, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If one rank cannot read its part, none waits for it; the first reports why, the others exit with status 2."""
    copy = copied(folders["NeMo"], tmp_path)
    data = (copy / "weights" / "__0_0.distcp").read_bytes()
    (copy / "weights" / "__0_0.distcp").write_bytes(data[:64] + bytes(len(data) - 64))
    config = tiny(LOAD_CHECKPOINT=copy, PRECISION="bf16", RESULT_FILE=tmp_path / "log", DGXNGPU=2, MINIBS=2)

    said, status = run_ranks(config, how_it_ends)

    assert "__0_0.distcp, bytes" in said
    assert "expected a saved tensor" in said
    assert status == 2


# What is refused before the run starts.


def copied(folder: Path, tmp_path: Path) -> Path:
    """A checkpoint of which files can be changed; the others are links."""
    target = tmp_path / "copy"
    for path in folder.rglob("*"):
        if path.is_file():
            place = target / path.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.hardlink_to(path)
    return target


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def change_index(folder: Path, change: Callable[[Any], None]) -> None:
    path = folder / "weights" / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    change(metadata)
    replace(path, pickle.dumps(metadata))


QKV = "module.decoder.layers.self_attention.linear_qkv.weight"


def shorten(folder: Path) -> None:
    path = folder / "weights" / "__0_1.distcp"
    replace(path, path.read_bytes()[:-1000])


def reshape(folder: Path) -> None:
    def change(metadata: Any) -> None:
        metadata.state_dict_metadata[QKV].size = torch.Size((2, 256, 128))

    change_index(folder, change)


def retype(folder: Path) -> None:
    def change(metadata: Any) -> None:
        metadata.state_dict_metadata[QKV].properties.dtype = torch.float32

    change_index(folder, change)


def add(folder: Path) -> None:
    def change(metadata: Any) -> None:
        tensors = metadata.state_dict_metadata
        tensors["module.decoder.layers.self_attention.linear_qkv.bias"] = tensors[QKV]
        bias = {index: info for index, info in metadata.storage_data.items() if index.fqn == QKV}
        for index, info in bias.items():
            metadata.storage_data[type(index)(QKV.replace("weight", "bias"), index.offset)] = info

    change_index(folder, change)


def drop(folder: Path) -> None:
    change_index(folder, lambda metadata: metadata.state_dict_metadata.pop(QKV))


def drop_chunk(folder: Path) -> None:
    change_index(folder, lambda metadata: metadata.state_dict_metadata[QKV].chunks.pop())


def resize(folder: Path) -> None:
    path = folder / "context" / "model.yaml"
    replace(path, path.read_bytes().replace(b"num_query_groups: 2", b"num_query_groups: 4"))


def rescale(folder: Path) -> None:
    path = folder / "context" / "model.yaml"
    replace(path, path.read_bytes().replace(b"scale_factor: 8.0", b"scale_factor: 1.0"))


def shorten_context(folder: Path) -> None:
    path = folder / "context" / "model.yaml"
    replace(path, path.read_bytes().replace(b"old_context_len: 8192", b"old_context_len: 4096"))


def garble(folder: Path) -> None:
    replace(folder / "weights" / ".metadata", b"\x80\x04 no pickle")


def attack(folder: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(folder / "attacked"),))

    replace(folder / "weights" / ".metadata", pickle.dumps({"state_dict_metadata": Attack()}))


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (shorten, r"__0_1\.distcp has [\d,]+ bytes, expected [\d,]+: truncated"),
    "no .metadata": (remove("weights/.metadata"), r"\.metadata is missing next to 2 \.distcp files: it is hidden"),
    "no file": (remove("weights/__0_0.distcp"), r"__0_0\.distcp: No such file or directory, expected [\d,]+ bytes"),
    "wrong shape": (reshape, r"linear_qkv\.weight has shape \(2, 256, 128\), expected \(2, 192, 128\)"),
    "wrong type": (retype, r"linear_qkv\.weight is float32, expected bfloat16 as embedding\.word_embeddings\.weight"),
    "one too many": (add, r"linear_qkv\.bias \(2, 192, 128\) is unexpected: this model has no such tensor"),
    "one too few": (drop, r"linear_qkv\.weight is missing, expected \(2, 192, 128\)"),
    "a hole": (drop_chunk, r"linear_qkv\.weight \(2, 192, 128\) has 49,152 values, but its pieces hold 24,576"),
    "another model": (resize, r"its model has query_groups 4, expected 2"),
    "other RoPE scaling": (rescale, r"its model has rotary_scaling_factor 1\.0, expected 8\.0"),
    "other RoPE": (shorten_context, r"model\.yaml: RoPE's old_context_len is 4096, expected 8192"),
    "no index": (garble, r"\.metadata is not an index of a distributed checkpoint"),
    "a pickle that runs code": (attack, r"not an index of a distributed checkpoint: it names 'posix\.mkdir"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_checkpoint_is_refused_before_the_run(
    fault: str, tiny: Tiny, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Each fault is named with what was read and what was expected; nothing that a pickle names is called."""
    change, message = FAULTS[fault]
    copy = copied(folders["NeMo"], tmp_path)
    change(copy)

    with pytest.raises(CheckpointError, match=message):
        usable_checkpoint(tiny(LOAD_CHECKPOINT=copy, PRECISION="bf16"))
    assert not (copy / "attacked").exists()


def test_all_faults_are_listed_at_once(tiny: Tiny, folders: dict[str, Path], tmp_path: Path) -> None:
    """A missing tensor, a wrong shape and a wrong model are three lines of one error."""
    copy = copied(folders["NeMo"], tmp_path)
    drop(copy)
    rescale(copy)

    with pytest.raises(CheckpointError) as refused:
        usable_checkpoint(tiny(LOAD_CHECKPOINT=copy, PRECISION="bf16"))
    assert len(refused.value.faults) == 2


def cut(folder: Path) -> None:
    path = folder / "model-00002-of-00002.safetensors"
    replace(path, path.read_bytes()[:-1000])


def cut_header(folder: Path) -> None:
    path = folder / "model-00002-of-00002.safetensors"
    replace(path, path.read_bytes()[:100])


def edit_config(old: bytes, new: bytes) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        text = (folder / "config.json").read_bytes()
        assert old in text
        replace(folder / "config.json", text.replace(old, new))

    return edit


HUGGINGFACE_FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (cut, r"model-00002-of-00002\.safetensors has [\d,]+ bytes, expected [\d,]+: truncated"),
    "truncated header": (cut_header, r"is not a safetensors file, or is truncated"),
    "no file": (remove("model-00001-of-00002.safetensors"), r"model-00001-of-00002\.safetensors: No such file"),
    "no config": (remove("config.json"), r"config\.json: No such file"),
    "another model": (
        edit_config(b'"intermediate_size": 384', b'"intermediate_size": 512'),
        r"mlp\.gate_proj\.weight has shape \(384, 128\), expected \(512, 128\)",
    ),
    "other RoPE": (
        edit_config(b'"low_freq_factor": 1.0', b'"low_freq_factor": 2.0'),
        r"RoPE's low_freq_factor is 2\.0",
    ),
    "tied": (
        edit_config(b'"tie_word_embeddings": false', b'"tie_word_embeddings": true'),
        r"tie_word_embeddings is True",
    ),
}


@pytest.mark.parametrize("fault", HUGGINGFACE_FAULTS)
def test_a_faulty_huggingface_folder_is_refused(
    fault: str, tiny: Tiny, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Faults of safetensors files and config.json are named in the same way."""
    change, message = HUGGINGFACE_FAULTS[fault]
    copy = copied(folders["Hugging Face"], tmp_path)
    change(copy)

    with pytest.raises(CheckpointError, match=message):
        usable_checkpoint(tiny(LOAD_CHECKPOINT=copy, PRECISION="bf16"))


def as_training_state(metadata: Any) -> None:
    """Names without prefix, and an optimizer's beside them."""
    for name, entry in list(metadata.state_dict_metadata.items()):
        del metadata.state_dict_metadata[name]
        bare = name.removeprefix("module.")
        metadata.state_dict_metadata |= {bare: entry, f"optimizer.state.exp_avg.{bare}": entry}
    for index, info in list(metadata.storage_data.items()):
        bare = index.fqn.removeprefix("module.")
        for name in (bare, f"optimizer.state.exp_avg.{bare}"):
            metadata.storage_data[type(index)(name, index.offset)] = info


def test_a_training_states_weights_can_start_a_run(tiny: Tiny, folders: dict[str, Path], tmp_path: Path) -> None:
    """A plain distributed checkpoint can, and its optimizer is ignored."""
    copy = copied(folders["NeMo"], tmp_path)
    change_index(copy, as_training_state)

    checkpoint = usable_checkpoint(tiny(LOAD_CHECKPOINT=copy / "weights", PRECISION="bf16"))

    assert checkpoint.format == "Megatron-Core"
    assert checkpoint.tensors.keys() == open_checkpoint(folders["NeMo"]).tensors.keys()


def test_weights_are_never_rounded(tiny: Tiny, tmp_path: Path) -> None:
    """fp32 weights do not start a bf16 run; bf16 weights start either (in the layouts above)."""
    folder = write_huggingface(tmp_path, TINY, random_weights(TINY, VOCABULARY))

    assert usable_checkpoint(tiny(LOAD_CHECKPOINT=folder, PRECISION="fp32")).dtype == "float32"
    with pytest.raises(CheckpointError, match="weights are float32; the model's are bfloat16, which would round them"):
        usable_checkpoint(tiny(LOAD_CHECKPOINT=folder, PRECISION="bf16"))


def test_too_small_a_vocabulary_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    """Rows can be left out, but not made up."""
    folder = write_nemo(tmp_path, TINY, random_weights(TINY, 1000))

    with pytest.raises(CheckpointError, match="it has 1,000 vocabulary rows, but the model has 32,000"):
        usable_checkpoint(tiny(LOAD_CHECKPOINT=folder))


def test_a_folder_without_a_checkpoint_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    """The error says which files were expected."""
    with pytest.raises(CheckpointError, match=r"is not a checkpoint: it holds none .* weights/\.metadata \(NeMo\)"):
        usable_checkpoint(tiny(LOAD_CHECKPOINT=tmp_path))
