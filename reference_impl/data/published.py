"""Sets of files that MLCommons publishes for the benchmarks, and the faults in their layout.

The rows of benchmark.benchmarks say what each set holds; here a copy of a set is compared and given its manifest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmark.benchmarks import BENCHMARKS, Benchmark, FileSet
from reference_impl.files.manifest import BlendPart, DataError, FileEntry, FolderManifest, Manifest, size_fault


@dataclass(frozen=True, kw_only=True)
class PublishedFiles:
    """A published set of files."""

    files: FileSet
    benchmark: Benchmark | None = None
    """The benchmark whose dataset it is; None for a tokenizer or a checkpoint."""

    @property
    def about(self) -> str:
        return self.files.about

    @property
    def sizes(self) -> Mapping[str, int | None]:
        """Bytes of each file; None where the size is not published."""
        return self.files.sizes

    @property
    def address(self) -> str:
        """Address at which MLCommons publishes it.

        Raises:
            DataError: the address is not public.
        """
        if self.files.uri is None:
            raise DataError(f"the address of the {self.about} is not public; give your copy's address, and --expect")
        return self.files.uri

    def manifest(self, files: Mapping[str, FileEntry]) -> FolderManifest:
        """Return the manifest of a copy; a dataset's manifest also says what its files are for."""
        return FolderManifest(files=dict(files)) if self.benchmark is None else manifest_of(self.benchmark, files)

    def found_in(self, folder: Path) -> Manifest:
        """Return the manifest of a dataset folder that has none: sizes without checksums.

        Raises:
            DataError: a file is missing or has another size, or this set is not a dataset.
        """
        faults = self.size_faults(folder)
        if faults or self.benchmark is None:
            raise DataError("\n".join(faults) or f"the {self.about} is not a dataset")
        files = {name: FileEntry(bytes=(folder / name).stat().st_size) for name in self.sizes}
        return manifest_of(self.benchmark, files)

    def size_faults(self, folder: Path) -> list[str]:
        """Return one line for each file that is missing or has another size than the published one."""
        return [fault for name, size in self.sizes.items() if (fault := size_fault(folder / name, size))]


def manifest_of(benchmark: Benchmark, files: Mapping[str, FileEntry]) -> Manifest:
    """Return the manifest of a benchmark's dataset with these files."""
    dataset = benchmark.dataset
    return Manifest(
        corpus=dataset.corpus,
        tokenizer_sha256=benchmark.tokenizer.sha256,
        vocabulary=benchmark.vocabulary,
        train=tuple(BlendPart(prefix=prefix, weight=1 / len(dataset.train)) for prefix in dataset.train),
        validation=dataset.validation,
        files=dict(files),
    )


def benchmark_faults(benchmark: Benchmark, folder: Path, manifest: Manifest) -> Iterator[str]:
    """Yield how a dataset's manifest differs from the benchmark's row in vocabulary, tokenizer or training files."""
    name, expected = benchmark.name, manifest_of(benchmark, {})
    if manifest.vocabulary != expected.vocabulary:
        yield (
            f"{folder} was made with a vocabulary of {manifest.vocabulary:,}; that of {name}, "
            f"{benchmark.tokenizer.about}, has {expected.vocabulary:,} pieces"
        )
    elif None not in (known := (manifest.tokenizer_sha256, expected.tokenizer_sha256)) and known[0] != known[1]:
        yield f"{folder} was made with a tokenizer of sha256 {known[0]}; that of {name} has {known[1]}"
    if (found := _use(manifest)) != (use := _use(expected)):
        yield f"{folder} is for {found}; {name} is for {use}"


def _use(manifest: Manifest) -> str:
    total = sum(part.weight for part in manifest.train)
    blend = " + ".join(f"{part.weight / total:.3g} {part.prefix}" for part in manifest.train)
    return f"training on {blend}, validation on {manifest.validation}"


def _published_sets() -> Iterator[tuple[str, PublishedFiles]]:
    for row in BENCHMARKS.values():
        if row.dataset.files is None:
            continue
        yield row.name, PublishedFiles(files=row.dataset.files, benchmark=row)
        if row.tokenizer.files is not None:
            yield f"{row.name}-tokenizer", PublishedFiles(files=row.tokenizer.files)
        if row.initial_weights is not None:
            yield f"{row.name}-checkpoint", PublishedFiles(files=row.initial_weights)


PUBLISHED: dict[str, PublishedFiles] = dict(_published_sets())
"""The sets by the names that the data verbs take: a benchmark's name for its dataset, with -tokenizer or -checkpoint
for the others."""

# (name as in the bucket, name that every script expects). The validation pair lies in folders named like the files, and
# is misspelt with two n; other copies keep it in a folder `validation`.
LAYOUT_FAULTS = (
    (
        re.compile(r"(?:.*/)?c4-validationn-91205-samples\.en_text_document\.(bin|idx)"),
        r"c4-validation-91205-samples.en_text_document.\1",
    ),
)


def repaired_name(name: str) -> str:
    """Return the name that a published file should have had."""
    for pattern, right in LAYOUT_FAULTS:
        if (match := pattern.fullmatch(name)) is not None:
            return match.expand(right)
    return name
