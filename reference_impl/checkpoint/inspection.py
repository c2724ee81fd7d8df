"""What a checkpoint holds and what is wrong with it, as text. Without torch; only verifying reads the weights."""

from __future__ import annotations

from pathlib import Path

from benchmark.sizes import SIZES, ModelSize
from reference_impl.checkpoint.arrays import CheckpointError
from reference_impl.checkpoint.source import Checkpoint, faults_for, open_checkpoint, own_faults, size_faults
from reference_impl.files.checksum import Advance, silent
from reference_impl.files.manifest import FILE_NAME, FolderManifest, file_faults
from reference_impl.files.progress import size as text_of_bytes


def describe(checkpoint: Checkpoint) -> str:
    """Return a checkpoint as a table: what it is, each of its tensors, and what is wrong with it."""
    values = sum(tensor.values for tensor in checkpoint.tensors.values())
    rows = [
        ("folder", str(checkpoint.folder)),
        ("format", checkpoint.format),
        ("model", _model(checkpoint.size)),
        ("vocabulary", f"{checkpoint.vocabulary:,} rows"),
        ("weights", f"{values:,} {checkpoint.dtype}, {text_of_bytes(checkpoint.bytes)}"),
        ("waste", _waste(checkpoint)),
        ("others", f"{checkpoint.others:,} entries that are not weights"),
    ]
    lines = [f"{name:12}{text}" for name, text in rows if text]
    width = max(len(name) for name in checkpoint.tensors)
    for name, tensor in checkpoint.tensors.items():
        shape, length = " x ".join(map(str, tensor.shape)), text_of_bytes(tensor.bytes)
        lines.append(f"{name:{width}}  {shape:>20}  {tensor.dtype:9}{length:>9}  {len(tensor.pieces):,} pieces")
    return "\n".join([*lines, *(f"fault       {fault}" for fault in own_faults(checkpoint))])


def summary(checkpoint: Checkpoint, vocabulary: int) -> str:
    """Return one line on a checkpoint, as a model with this many vocabulary rows uses it."""
    taken = "" if checkpoint.vocabulary == vocabulary else f", the first {vocabulary:,} taken"
    return (
        f"{checkpoint.folder}, {checkpoint.format}, {text_of_bytes(checkpoint.bytes)} {checkpoint.dtype}, "
        f"{checkpoint.vocabulary:,} vocabulary rows{taken}"
    )


def _model(size: ModelSize | None) -> str:
    if size is None:
        return "unknown: there is no model.yaml, and the shapes are not those of a known size"
    known = next((name for name, row in SIZES.items() if not list(size_faults(row, size))), "not a known size")
    return (
        f"{known}: {size.layers} layers, hidden {size.hidden:,}, ffn {size.ffn_hidden:,}, {size.heads} heads, "
        f"{size.query_groups} query groups, RoPE {size.rotary_base:,} x {size.rotary_scaling_factor:g}"
    )


def _waste(checkpoint: Checkpoint) -> str:
    wasted = checkpoint.wasted_bytes
    share = wasted / max(1, checkpoint.bytes + wasted)
    # The files' headers are too small to mention.
    if share < 0.01:
        return ""
    return f"{wasted:,} bytes of the files hold no weight ({share:.1%}); `convert` writes each value once"


def read_manifest(folder: Path) -> FolderManifest:
    """Return a folder's manifest, or an empty one if it has none.

    Raises:
        DataError: it is malformed.
    """
    return FolderManifest.load(folder) if (folder / FILE_NAME).exists() else FolderManifest(files={})


def find_faults(
    folder: Path, manifest: FolderManifest, size: ModelSize | None = None, advance: Advance = silent
) -> list[str]:
    """Return a line for each file that differs from the manifest and each tensor that does not fit the model.

    The model is that of `size`, or the checkpoint's own if None.
    """
    faults = file_faults(folder, manifest.files, advance=advance)
    try:
        checkpoint = open_checkpoint(folder)
    except CheckpointError as error:
        return faults + error.faults
    if size is None:
        return faults + own_faults(checkpoint)
    return faults + faults_for(checkpoint, size, checkpoint.vocabulary, checkpoint.dtype)
