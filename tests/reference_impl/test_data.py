"""Data: the corpus is the pinned one, wrong bytes are refused, every sequence is read exactly once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from megatron.core.datasets.indexed_dataset import IndexedDataset

from benchmark.config import RunConfig
from benchmark.errors import RefusedError
from reference_impl.data.prepare import built_in
from reference_impl.data.read import configured
from reference_impl.data.read.configured import data_folder, ready
from reference_impl.data.read.datasets import Reader, _validation
from reference_impl.files import manifest
from reference_impl.files.manifest import DataError
from reference_impl.ready import make_ready
from reference_impl.tokenizer import Tokenizer, TokenizerError, benchmark_tokenizer

# Of the files that the pinned corpus and the pinned tokenizer give.
TRAIN_SHA256 = "92a35faa10d7ba441bedd4ad193abb8b21787c4c572b6abbf10d6560d6946d4b"
VALIDATION_SHA256 = "a42fe46137d9ec743ebc1b5d60c996e49b0ee6328eb166f051ef21f31fc50c71"


@pytest.fixture
def copy(data_dir: Path, tmp_path: Path) -> Path:
    """A copy of the dataset to break."""
    return Path(shutil.copytree(data_dir, tmp_path / "copy"))


def test_the_corpus_is_always_the_same_bytes(data_dir: Path) -> None:
    """Preparing the built-in corpus gives the pinned checksums."""
    files = manifest.load(data_dir).files

    assert files["train_text_document.bin"].sha256 == TRAIN_SHA256
    assert files["validation_text_document.bin"].sha256 == VALIDATION_SHA256


def test_train_and_validation_share_no_document() -> None:
    """No address is in both parts, and none is lost."""
    texts = built_in.addresses()
    train, validation = built_in.split(texts)

    assert len(train) + len(validation) == len(texts)
    assert not any(address.startswith(opening) for opening in validation for address in train)


def test_a_dataset_as_its_manifest_says_is_accepted(data_dir: Path, tiny: Callable[..., RunConfig]) -> None:
    """Verification returns the manifest of an untouched folder."""
    assert ready(tiny(DATADIR=data_dir)).manifest == manifest.load(data_dir)


def test_a_truncated_bin_is_refused_with_both_sizes(copy: Path, tiny: Callable[..., RunConfig]) -> None:
    """The message holds the bytes found and the bytes expected."""
    file = copy / "train_text_document.bin"
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.truncate(size - 2)

    with pytest.raises(DataError, match=f"has {size - 2} bytes, expected {size}"):
        ready(tiny(DATADIR=copy))


def test_one_changed_byte_is_refused(copy: Path, tiny: Callable[..., RunConfig]) -> None:
    """Content is compared, not only size."""
    file = copy / "validation_text_document.bin"
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])

    with pytest.raises(DataError, match=r"validation_text_document\.bin has sha256"):
        ready(tiny(DATADIR=copy))


def test_all_faults_are_in_one_report(copy: Path, tiny: Callable[..., RunConfig]) -> None:
    """Two missing files are two lines of one error."""
    (copy / "train_text_document.bin").unlink()
    (copy / "validation_text_document.idx").unlink()

    with pytest.raises(DataError) as caught:
        ready(tiny(DATADIR=copy))
    assert str(caught.value).count("No such file or directory") == 2


def test_data_of_another_vocabulary_is_refused(copy: Path, tiny: Callable[..., RunConfig]) -> None:
    """Data that the benchmark's tokenizer did not make are refused with both vocabularies."""
    path = copy / manifest.FILE_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocabulary": 32_768}))

    with pytest.raises(DataError) as caught:
        ready(tiny(DATADIR=copy))
    assert f"{copy} was made with a vocabulary of 32,768; that of llama31_tiny, Mixtral 8x22B's, has 32,000" in str(
        caught.value
    )
    assert "has 32000 pieces, but the data in" in str(caught.value)


def test_data_of_another_tokenizer_is_refused(copy: Path, tiny: Callable[..., RunConfig]) -> None:
    """A tokenizer with the same number of pieces is still another tokenizer."""
    path = copy / manifest.FILE_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_sha256": "0" * 64}))

    with pytest.raises(DataError, match="was made with 0000"):
        ready(tiny(DATADIR=copy))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"corpus": 1}', "\0"])
def test_a_broken_manifest_is_one_error(content: str, copy: Path) -> None:
    """Whatever manifest.json holds, the error says so."""
    (copy / manifest.FILE_NAME).write_text(content)

    with pytest.raises(DataError, match="is not a manifest"):
        manifest.load(copy)


@pytest.mark.parametrize("how", ["a pipe", "too large", "deep"])
def test_a_hostile_manifest_is_one_error_at_once(how: str, copy: Path) -> None:
    """Nothing waits for it, and no more is read than a manifest can have."""
    path = copy / manifest.FILE_NAME
    path.unlink()
    if how == "a pipe":
        os.mkfifo(path)
    elif how == "too large":
        path.touch()
        os.truncate(path, manifest.LARGEST + 1)
    else:
        path.write_text("[" * 100_000)

    with pytest.raises(DataError, match="is not a manifest"):
        manifest.load(copy)


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    """A text file as TOKENIZER is named in the error."""
    path = tmp_path / "tokenizer.model"
    path.write_text("not a model")

    with pytest.raises(TokenizerError, match=r"tokenizer\.model is not a SentencePiece model"):
        Tokenizer(path)


def test_the_benchmark_tokenizer_is_the_published_one(tokenizer: Tokenizer) -> None:
    """Size, special pieces and ids of a sentence are those of the Mixtral tokenizer."""
    assert benchmark_tokenizer().stat().st_size == 493_443
    assert (tokenizer.vocab_size, tokenizer.eod) == (32_000, 2)
    assert tokenizer.encode("Hello world") == [22557, 1526]


def test_preparing_into_an_existing_folder_is_refused(data_dir: Path, tokenizer: Tokenizer) -> None:
    """Existing data is never overwritten."""
    with pytest.raises(DataError, match="already exists"):
        built_in.prepare(data_dir, tokenizer)


def test_a_benchmark_without_its_own_data_needs_datadir(tiny: Callable[..., RunConfig]) -> None:
    """llama31_8b without DATADIR is refused, and the error names the variable."""
    config = tiny(BENCHMARK="llama31_8b", RULESET="6.1.0", MINIBS=16, DATADIR="")

    with pytest.raises(DataError, match="DATADIR is not set"):
        data_folder(config)


def test_runs_that_start_at_once_make_the_corpus_once(
    tiny: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One makes it, the other waits, and both have it."""
    monkeypatch.setattr(configured, "BUILT_IN", tmp_path / "data" / "tiny")
    config = tiny().changed(DATADIR=None)
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(ready, [config, config]))

    assert found[0] == found[1]


def test_a_datadir_that_is_not_there_is_refused(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    """A folder that the user named is never made."""
    with pytest.raises(DataError, match="does not exist"):
        ready(tiny(DATADIR=tmp_path / "nowhere"))


def test_a_link_whose_target_is_not_there_is_named(tiny: Callable[..., RunConfig], copy: Path) -> None:
    """A container may see the folder but not the targets of its links; "no manifest" would say too little."""
    (copy / "manifest.json").rename(copy.with_name("manifest.json"))
    (copy / "manifest.json").symlink_to("../manifest.json")
    make_ready(tiny(DATADIR=copy))
    copy.with_name("manifest.json").unlink()
    with pytest.raises(RefusedError) as refusal:
        make_ready(tiny(DATADIR=copy))
    link, target = copy / "manifest.json", copy.with_name("manifest.json")
    assert refusal.value.faults[-1] == f"{link} leads to {target}, which is not there"


def test_validation_is_read_in_its_own_order(
    tiny: Callable[..., RunConfig], data_dir: Path, tokenizer: Tokenizer
) -> None:
    """Sequence i of validation is tokens i*length to (i+1)*length of the file, whatever the seed."""
    raw = np.fromfile(data_dir / "validation_text_document.bin", dtype=np.uint16)
    config = tiny(SEED=123)
    length = config.rules.sequence_length
    dataset = _validation(config, data_dir / "validation_text_document", tokenizer)

    assert len(dataset) == (len(raw) - 1) // length
    for index in (0, 1, len(dataset) - 1):
        expected = raw[index * length : (index + 1) * length + 1].astype(np.int64)
        assert torch.equal(dataset[index]["tokens"], torch.from_numpy(expected[:-1]))
        assert torch.equal(dataset[index]["labels"], torch.from_numpy(expected[1:]))


def test_documents_end_with_end_of_document(data_dir: Path, tokenizer: Tokenizer) -> None:
    """The last token of each document is the tokenizer's end-of-sequence piece."""
    documents = IndexedDataset(str(data_dir / "train_text_document"))

    assert {int(documents[index][-1]) for index in range(len(documents))} == {tokenizer.eod}


class Numbers:
    """A dataset whose sequence i is i, repeated."""

    length = 8

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = torch.full((self.length,), index)
        return {"tokens": row, "labels": row, "loss_mask": torch.ones(self.length)}


@given(
    sequences=st.integers(1, 200),
    micro_batch_size=st.integers(1, 9),
    replicas=st.integers(1, 9),
)
def test_an_evaluation_counts_every_sequence_once(sequences: int, micro_batch_size: int, replicas: int) -> None:
    """Over all replicas, the counted sequences are exactly the first N, in as many microbatches on each."""
    counted: list[int] = []
    for replica in range(replicas):
        reader = Reader(micro_batch_size=micro_batch_size, replica=replica, replicas=replicas)
        for batch in islice(reader.evaluation(Numbers(), sequences), reader.evaluation_microbatches(sequences)):
            counted += batch.tokens[batch.loss_mask.bool()][:: Numbers.length].tolist()

    assert sorted(counted) == list(range(sequences))


@given(
    start=st.integers(0, 50), micro_batch_size=st.integers(1, 5), replicas=st.integers(1, 5), steps=st.integers(1, 4)
)
def test_training_reads_consecutive_sequences(start: int, micro_batch_size: int, replicas: int, steps: int) -> None:
    """Together the replicas read each sequence from `start` once, in order of microbatches."""
    seen: list[int] = []
    for replica in range(replicas):
        batches = Reader(micro_batch_size, replica, replicas).training(Numbers(), start)
        for _ in range(steps):
            seen += next(batches).tokens[:, 0].tolist()

    assert sorted(seen) == list(range(start, start + steps * micro_batch_size * replicas))


@given(cp_size=st.sampled_from([1, 2, 4]))
def test_context_parallel_ranks_hold_every_token_once(cp_size: int) -> None:
    """The ranks' chunks together are the sequence."""
    row = torch.arange(16)[None]
    parts = [Reader(1, 0, 1, rank, cp_size)._mine(row) for rank in range(cp_size)]

    assert sorted(torch.cat(parts, 1)[0].tolist()) == row[0].tolist()


def test_a_corpus_that_cannot_be_made_names_the_way_out(tmp_path: Path) -> None:
    """A checkout may be read-only, but DATADIR need not be."""
    (tmp_path / "data").touch()
    with pytest.raises(DataError, match=r"cannot be made: .*; set DATADIR to another folder"):
        configured._make_built_in(tmp_path / "data" / "tiny")
