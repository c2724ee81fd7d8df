"""What is in a dataset: documents, tokens, samples and text, next to what is expected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reference_impl.data.pair import DatasetPair, open_pair
from reference_impl.files.manifest import FILE_NAME, DataError, load
from reference_impl.tokenizer import Tokenizer

IDX_BYTES, IDX_BYTES_A_DOCUMENT = 42, 20
SAMPLE_TOKENS = 48
"""Tokens that are shown from the start of a document."""


@dataclass(frozen=True)
class Contents:
    """The contents of one `.bin`/`.idx` pair."""

    prefix: str
    documents: int
    tokens: int
    dtype: str
    sequences: int
    """Number of sequences of the requested length; neighbours overlap by one token."""
    samples: tuple[tuple[int, str], ...]
    """(number of a document, start of its text)"""


def contents(folder: Path, prefix: str, tokenizer: Tokenizer, *, sequence_length: int, samples: int) -> Contents:
    """Describe what a pair holds; `samples` documents, evenly spread, are decoded.

    Raises:
        DataError: a file is missing, or the two files do not belong together.
    """
    pair = open_pair(folder / prefix)
    documents, tokens = len(pair.lengths), len(pair.tokens)
    numbers = sorted({index * documents // samples for index in range(samples)}) if samples and documents else []
    return Contents(
        prefix=prefix,
        documents=documents,
        tokens=tokens,
        dtype=str(pair.tokens.dtype),
        sequences=max(0, (tokens - 1) // sequence_length),
        samples=tuple((number, _start(pair, number, tokenizer)) for number in numbers),
    )


def _start(pair: DatasetPair, number: int, tokenizer: Tokenizer) -> str:
    return tokenizer.decode(pair.document(number)[:SAMPLE_TOKENS].tolist())


def prefixes(folder: Path) -> list[str]:
    """Return the prefixes of a folder's pairs: those in its manifest, or those that are there.

    Raises:
        DataError: there is none, or the manifest is malformed.
    """
    if (folder / FILE_NAME).exists():
        return load(folder).prefixes
    prefixes_here = sorted(path.name.removesuffix(".idx") for path in folder.glob("*.idx"))
    if not prefixes_here:
        raise DataError(f"{folder} holds no .idx and no {FILE_NAME}")
    return prefixes_here


def expected_counts(sizes: Mapping[str, int | None], prefix: str, itemsize: int) -> tuple[int | None, int | None]:
    """Return the (documents, tokens) that the published sizes of a pair's files imply; None for an unpublished size."""
    idx, binary = sizes.get(f"{prefix}.idx"), sizes.get(f"{prefix}.bin")
    documents = None if idx is None else (idx - IDX_BYTES) // IDX_BYTES_A_DOCUMENT
    return documents, None if binary is None else binary // itemsize


def faults(pairs: Sequence[Contents], sizes: Mapping[str, int | None], tokenizer: Tokenizer) -> Iterator[str]:
    """Yield how the pairs differ from the published ones, whose files have `sizes`, and from the tokenizer's output."""
    published = {name.rsplit(".", 1)[0] for name in sizes}
    yield from (f"{prefix} is missing" for prefix in sorted(published - {pair.prefix for pair in pairs}))
    for pair in pairs:
        if pair.dtype != str(tokenizer.dtype):
            yield f"{pair.prefix} holds {pair.dtype}, but tokens of {tokenizer.path.name} are {tokenizer.dtype}"
        if published and pair.prefix not in published:
            yield f"{pair.prefix} is not expected"
            continue
        counts = zip(
            ("documents", "tokens"),
            (pair.documents, pair.tokens),
            expected_counts(sizes, pair.prefix, tokenizer.dtype.itemsize),
            strict=True,
        )
        for what, count, expected in counts:
            if expected not in (None, count):
                yield f"{pair.prefix} has {count:,} {what}, expected {expected:,}"


def text(pairs: Sequence[Contents], sequence_length: int) -> str:
    """Return a table of the pairs, followed by the sample texts."""
    heads = "", "documents", "tokens", "type", f"sequences of {sequence_length}"
    rows = [(p.prefix, f"{p.documents:,}", f"{p.tokens:,}", p.dtype, f"{p.sequences:,}") for p in pairs]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    form = "  ".join([f"{{:<{widths[0]}}}", *(f"{{:>{width}}}" for width in widths[1:])])
    table = [form.format(*row) for row in (heads, *rows)]
    samples = [f"{pair.prefix}, document {number:,}: {start!r}" for pair in pairs for number, start in pair.samples]
    return "\n".join([*table, *samples])
