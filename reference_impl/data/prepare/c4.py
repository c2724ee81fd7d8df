"""The benchmarks' dataset as shards of C4: which lines of which files become which pair.

As in the reference's `consolidate_data.sh` and `preprocess.sh`, but without their merged copies of the text: each file
holds 128 of the 1024 training shards, and training uses the last two files; validation is its first 91,205 documents.
Documents do not end with an end-of-document token, since `preprocess.sh` is not told to append one.
"""

from __future__ import annotations

from pathlib import Path

from benchmark.benchmarks import BENCHMARKS, Dataset
from reference_impl.data.prepare.dataset import DatasetPlan, PlannedPair
from reference_impl.data.prepare.documents import C4Shard
from reference_impl.files.manifest import DataError
from reference_impl.tokenizer import Tokenizer

TRAIN_SHARDS, VALIDATION_SHARDS = 1024, 8
SHARDS_PER_FILE = 128
VALIDATION_LINES = 91_205
"""As in the reference's consolidate_data.sh: shards of a training file, and documents of validation."""


def plan(benchmark: str, folder: Path, tokenizer: Path) -> DatasetPlan:
    """Return the plan for the dataset of `benchmark`, from the `c4-*.json.gz` files (or unpacked `.json`) in `folder`.

    Raises:
        DataError: the benchmark has no dataset of C4, or one with another vocabulary than the tokenizer's; or shards
    are
            missing, all of which are listed.
    """
    row = BENCHMARKS[benchmark]
    if row.dataset.files is None:
        raise DataError(f"{benchmark} has no dataset of C4")
    outputs = _outputs(row.dataset, folder)
    paths = [folder / shard.name for output in outputs for shard in output.shards]
    if missing := [path for path in paths if not path.is_file()]:
        raise DataError("\n".join(f"{path} does not exist, nor does {path.stem}" for path in missing))
    if (pieces := Tokenizer(tokenizer).vocab_size) != row.vocabulary:
        raise DataError(
            f"{tokenizer} has {pieces} pieces, but the dataset of {benchmark} has a vocabulary of {row.vocabulary}; "
            "name another file with --tokenizer"
        )
    return DatasetPlan(corpus=f"C4 en, for {benchmark}", outputs=outputs, tokenizer=tokenizer, append_eod=False)


def _outputs(dataset: Dataset, folder: Path) -> tuple[PlannedPair, ...]:
    train = [
        PlannedPair(prefix=prefix, shards=_train_shards(folder, _file_number(prefix)), weight=1 / len(dataset.train))
        for prefix in dataset.train
    ]
    validation = PlannedPair(prefix=dataset.validation, shards=_validation_shards(folder), lines=VALIDATION_LINES)
    return (*train, validation)


def _file_number(prefix: str) -> int:
    """Return the 6 of `c4-train.en_6_text_document`."""
    return int(prefix.split("_")[1])


def _train_shards(folder: Path, number: int) -> tuple[C4Shard, ...]:
    shards = range(number * SHARDS_PER_FILE, (number + 1) * SHARDS_PER_FILE)
    return tuple(_shard(folder / f"c4-train.{shard:05}-of-{TRAIN_SHARDS:05}.json.gz") for shard in shards)


def _validation_shards(folder: Path) -> tuple[C4Shard, ...]:
    """Return C4's own validation shards, or the single file with the first documents that MLCommons offers."""
    first_documents = _shard(folder / f"c4-validation-{VALIDATION_LINES}-samples.en.json.gz")
    if first_documents.path.exists():
        return (first_documents,)
    shards = range(VALIDATION_SHARDS)
    return tuple(_shard(folder / f"c4-validation.{shard:05}-of-{VALIDATION_SHARDS:05}.json.gz") for shard in shards)


def _shard(packed: Path) -> C4Shard:
    """Return a shard as it was published, or unpacked if only that is there."""
    unpacked = packed.with_suffix("")
    return C4Shard(unpacked if unpacked.exists() and not packed.exists() else packed)
