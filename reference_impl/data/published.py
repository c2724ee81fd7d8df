"""What MLCommons publishes for the benchmarks: file names, exact sizes, where the lists are, and its layout's faults.

Sizes are those of the `expected-mounts` lists of NVIDIA's accepted v5.1 submission. Checksums are in no public text:
the downloader reads them from the MD5 list beside each `.uri` file. To add a set of files, add a row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reference_impl.data.manifest import DataError, FileEntry, FolderManifest, Manifest, Part, size_fault
from reference_impl.tokenizer import BENCHMARK_TOKENIZER_SHA256

_METADATA = "https://training.mlcommons-storage.org/metadata"


@dataclass(frozen=True, kw_only=True)
class Published:
    """A folder as the benchmark has it."""

    about: str
    sizes: Mapping[str, int | None]
    """Bytes of each file; None where the file belongs there and its size is not published."""
    uri: str | None = None
    """The text file that names the base address; None where it is not public."""
    dataset: Dataset | None = None

    @property
    def address(self) -> str:
        """Where MLCommons has it.

        Raises:
            DataError: that is not public.
        """
        if self.uri is None:
            raise DataError(f"the address of the {self.about} is not public; give that of your copy, and --expect")
        return self.uri

    def manifest(self, files: Mapping[str, FileEntry]) -> FolderManifest:
        """The manifest of a copy: a dataset's says what its files are for."""
        return FolderManifest(files=dict(files)) if self.dataset is None else self.dataset.manifest(files)

    def found_in(self, folder: Path) -> Manifest:
        """The manifest of a dataset that has none of its own: sizes, and no checksums.

        Raises:
            DataError: a file is missing or has another size, or this is no dataset.
        """
        faults = self.size_faults(folder)
        if faults or self.dataset is None:
            raise DataError("\n".join(faults) or f"the {self.about} is no dataset")
        return self.dataset.manifest({name: FileEntry(bytes=(folder / name).stat().st_size) for name in self.sizes})

    def size_faults(self, folder: Path) -> list[str]:
        """One line for each file that is missing or has another size than the published one."""
        return [fault for name, size in self.sizes.items() if (fault := size_fault(folder / name, size))]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What the files of a dataset are for."""

    corpus: str
    train: tuple[str, ...]
    """Prefixes of the training blend, of equal weight."""
    validation: str
    tokenizer_sha256: str | None
    """None where it is not known."""
    vocabulary: int

    def manifest(self, files: Mapping[str, FileEntry]) -> Manifest:
        return Manifest(
            corpus=self.corpus,
            tokenizer_sha256=self.tokenizer_sha256,
            vocabulary=self.vocabulary,
            train=tuple(Part(prefix=prefix, weight=1 / len(self.train)) for prefix in self.train),
            validation=self.validation,
            files=dict(files),
        )


_TRAIN_6, _TRAIN_7 = "c4-train.en_6_text_document", "c4-train.en_7_text_document"
_VALIDATION = "c4-validation-91205-samples.en_text_document"

PUBLISHED = {
    # C4 shards 768 to 1023 and the first 91,205 validation documents, tokenised with Mixtral 8x22B's tokenizer, uint16.
    "llama31_405b": Published(
        about="dataset of llama31_405b",
        uri=f"{_METADATA}/mixtral-8x22b-preprocessed-c4-dataset.uri",
        sizes={
            f"{_TRAIN_6}.bin": 47_578_969_786,
            f"{_TRAIN_6}.idx": 912_172_262,
            f"{_TRAIN_7}.bin": 47_976_859_012,
            f"{_TRAIN_7}.idx": 919_464_442,
            f"{_VALIDATION}.bin": 94_373_710,
            f"{_VALIDATION}.idx": 1_824_142,
        },
        dataset=Dataset(
            corpus="C4 en, shards 768-1023, as MLCommons publishes it for llama31_405b",
            train=(_TRAIN_6, _TRAIN_7),
            validation=_VALIDATION,
            tokenizer_sha256=BENCHMARK_TOKENIZER_SHA256,
            vocabulary=32_000,
        ),
    ),
    "llama31_405b-tokenizer": Published(
        about="tokenizer of llama31_405b, Mixtral 8x22B's",
        uri=f"{_METADATA}/mixtral-8x22b-tokenizer.uri",
        sizes={
            "special_tokens_map.json": 414,
            "tokenizer.json": 1_795_188,
            "tokenizer.model": 493_443,
            "tokenizer.model.v1": 493_443,
            "tokenizer_config.json": 996,
        },
    ),
    "llama31_405b-checkpoint": Published(
        about="initial checkpoint of llama31_405b",
        sizes={
            "context/io.json": 21_521,
            "context/model.yaml": 6_210,
            "context/nemo_tokenizer/special_tokens_map.json": 301,
            "context/nemo_tokenizer/tokenizer.json": 17_209_920,
            "context/nemo_tokenizer/tokenizer_config.json": 50_530,
            # Without it nothing loads, and the published lists skip it because its name starts with a dot.
            "weights/.metadata": None,
            "weights/__0_0.distcp": 625_703_140_948,
            "weights/__0_1.distcp": 625_703_107_000,
            "weights/common.pt": 2_839,
            "weights/metadata.json": 119,
        },
    ),
    # Sizes of the .bin files alone are published; int32 tokens of Llama 3.1's own tokenizer.
    "llama31_8b": Published(
        about="dataset of llama31_8b",
        uri=f"{_METADATA}/llama-3-1-8b-preprocessed-c4-dataset.uri",
        sizes={
            f"{_TRAIN_6}.bin": 83_976_774_280,
            f"{_TRAIN_6}.idx": None,
            f"{_VALIDATION}.bin": 166_568_364,
            f"{_VALIDATION}.idx": None,
        },
        dataset=Dataset(
            corpus="C4 en, shards 768-895, as MLCommons publishes it for llama31_8b",
            train=(_TRAIN_6,),
            validation=_VALIDATION,
            tokenizer_sha256=None,
            vocabulary=128_256,
        ),
    ),
}

# (name as in the bucket, name as every script expects it). The validation pair lies in folders named like the files,
# and is misspelt with two n; other copies keep it in a folder `validation`.
LAYOUT_FAULTS = (
    (re.compile(r"(?:.*/)?c4-validationn-91205-samples\.en_text_document\.(bin|idx)"), rf"{_VALIDATION}.\1"),
)


def repaired_name(name: str) -> str:
    """The name that a published file should have had."""
    for pattern, right in LAYOUT_FAULTS:
        if (match := pattern.fullmatch(name)) is not None:
            return match.expand(right)
    return name
