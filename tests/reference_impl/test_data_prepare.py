"""Preparing data: Megatron-Core's bytes, hostile lines by the stated policy, and the same bytes after any kill."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from megatron.core.datasets.indexed_dataset import DType, IndexedDataset, IndexedDatasetBuilder

from harness.verbs.data import data as main
from reference_impl.data.pair import open_pair, write_idx
from reference_impl.data.prepare import built_in, c4, tokenise
from reference_impl.data.prepare.dataset import Counts, DatasetPlan, PlannedPair, prepare
from reference_impl.data.prepare.documents import C4Shard, Fault, document
from reference_impl.data.published import PUBLISHED
from reference_impl.files.manifest import DataError, load
from reference_impl.tokenizer import Tokenizer, benchmark_tokenizer

MEGABYTE = "megabyte " * 116_509
HOSTILE = {
    "an ordinary line": {"text": "The quick brown fox."},
    "no text at all": {"text": ""},
    "one line of a megabyte": {"text": MEGABYTE},
    "embedded NUL": {"text": "before\x00after"},
    "white space alone": {"text": " \n\t  "},
    "beyond the basic plane": {"text": "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 🦙 \U0010ffff"},
    "the mark of a word": {"text": "a▁b ▁ c"},
    "a control symbol, spelt": {"text": "one</s>two <unk> <s>"},
}
FAULTY = {
    "not UTF-8": b'{"text": "caf\xe9"}',
    "not JSON": b'{"text": "cut o',
    "not an object": b'["text"]',
    "no text": b'{"url": "http://example.com"}',
    "text is not a string": b'{"text": 7}',
    "lone surrogate": b'{"text": "half \\ud83e of a llama"}',
}


def shard(path: Path, lines: Sequence[bytes]) -> C4Shard:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(b"".join(line + b"\n" for line in lines), mtime=0))
    return C4Shard(path)


def lines_of(texts: Sequence[str]) -> list[bytes]:
    return [json.dumps({"text": text, "url": "http://example.com"}).encode() for text in texts]


def plan(*shards: C4Shard, lines: int | None = None, append_eod: bool = False) -> DatasetPlan:
    outputs = (
        PlannedPair(prefix="train_text_document", shards=shards, weight=1.0),
        PlannedPair(prefix="validation_text_document", shards=shards[:1], lines=lines),
    )
    return DatasetPlan(corpus="test", outputs=outputs, tokenizer=benchmark_tokenizer(), append_eod=append_eod)


def megatron(prefix: Path, documents: Sequence[Sequence[int]], vocabulary: int = 32_000) -> dict[str, bytes]:
    """What Megatron-Core's builder writes of documents that it is given one at a time."""
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=DType.optimal_dtype(vocabulary))
    for tokens in documents:
        builder.add_document(torch.tensor(tokens), [len(tokens)])
    builder.finalize(f"{prefix}.idx")
    return {suffix: Path(f"{prefix}.{suffix}").read_bytes() for suffix in ("bin", "idx")}


def contents(folder: Path, prefix: str = "train_text_document") -> dict[str, bytes]:
    return {suffix: (folder / f"{prefix}.{suffix}").read_bytes() for suffix in ("bin", "idx")}


@pytest.mark.parametrize("workers", [1, 3])
def test_hostile_documents_become_megatrons_bytes(tmp_path: Path, tokenizer: Tokenizer, workers: int) -> None:
    """Whatever a text holds, the pair is the one that Megatron-Core writes; an empty text makes no document."""
    texts = [record["text"] for record in HOSTILE.values()]
    shards = [shard(tmp_path / f"{number}.json.gz", lines_of(texts[number:])) for number in range(4)]
    counts = prepare(tmp_path / "out", plan(*shards), workers=workers)["train_text_document"]
    documents = [tokenizer.encode(text) for number in range(4) for text in texts[number:]]

    assert contents(tmp_path / "out") == megatron(tmp_path / "theirs", [tokens for tokens in documents if tokens])
    assert counts == Counts(
        documents=len(documents) - 2, tokens=sum(map(len, documents)), empty=2, faulty={}, examples=()
    )


def test_the_built_in_corpus_becomes_megatrons_bytes(data_dir: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Each address ends with the end-of-document token, in Megatron-Core's own bytes."""
    sides = dict(zip((built_in.TRAIN, built_in.VALIDATION), built_in.split(built_in.addresses()), strict=True))
    for prefix, texts in sides.items():
        documents = [[*tokenizer.encode(text), tokenizer.eod] for text in texts]
        assert contents(data_dir, prefix) == megatron(tmp_path / prefix, documents)


def test_the_command_makes_the_benchmarks_dataset(tmp_path: Path) -> None:
    """`prepare --c4` writes the published files, and accounts for every line."""
    for number in range(8):
        shard(tmp_path / f"c4-validation.{number:05}-of-00008.json.gz", lines_of([f"validation {number}"]))
    for number in (6, 7):
        shard(tmp_path / f"c4-train.{number:05}-of-01024.json.gz", [*lines_of(["text", ""]), FAULTY["no text"]])
    command = ["prepare", str(tmp_path / "out"), "--c4", str(tmp_path), "--workers", "2", "--skip-faulty"]
    with mock.patch.multiple(c4, SHARDS_PER_FILE=1, VALIDATION_LINES=2):
        done = CliRunner().invoke(main, command)

    assert done.exit_code == 0, done.output
    assert "c4-train.en_6_text_document: 1 documents, 1 tokens, 1 empty lines, left out: 1 no text" in done.output
    assert "c4-train.00006-of-01024.json.gz, line 3: no text (it has 'url')" in done.output
    assert load(tmp_path / "out").files.keys() == PUBLISHED["llama31_405b"].sizes.keys()
    assert open_pair(tmp_path / "out" / "c4-validation-91205-samples.en_text_document").lengths.size == 2


def test_a_process_opens_its_tokenizer_once(tmp_path: Path) -> None:
    """It does, however many shards it has, so a small shard does not cost half a second."""
    shards = [shard(tmp_path / f"{number}.json.gz", lines_of(["text"])) for number in range(5)]
    tokenise._opened.cache_clear()
    with mock.patch.object(Tokenizer, "_load", autospec=True, side_effect=Tokenizer._load) as load:
        prepare(tmp_path / "out", plan(*shards))

    assert load.call_count == 2


def test_unpacked_shards_are_read(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Without `.gz` the documents are the same; if both files are there, the packed one is read."""
    lines = b"".join(line + b"\n" for line in lines_of(["unpacked"]))
    for number in (6, 7):
        (tmp_path / f"c4-train.{number:05}-of-01024.json").write_bytes(lines)
    (tmp_path / "c4-validation-1-samples.en.json").write_bytes(lines)
    shard(tmp_path / "c4-train.00007-of-01024.json.gz", lines_of(["packed"]))
    with mock.patch.multiple(c4, SHARDS_PER_FILE=1, VALIDATION_LINES=1):
        prepare(tmp_path / "out", c4.plan("llama31_405b", tmp_path, benchmark_tokenizer()))

    for prefix, text in ((6, "unpacked"), (7, "packed")):
        document = open_pair(tmp_path / "out" / f"c4-train.en_{prefix}_text_document").document(0)
        assert document.tolist() == tokenizer.encode(text)


@pytest.mark.parametrize("kind", FAULTY)
def test_a_faulty_line_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    """The refusal names shard, line and fault, and no dataset appears."""
    shards = shard(tmp_path / "0.json.gz", [*lines_of(["fine"]), FAULTY[kind]])

    with pytest.raises(DataError, match=rf"0\.json\.gz, line 2: {kind} \("):
        prepare(tmp_path / "out", plan(shards))
    assert not (tmp_path / "out").exists()


def test_all_faulty_lines_of_a_shard_are_in_one_report(tmp_path: Path) -> None:
    """Twenty are named, the rest counted."""
    shards = shard(tmp_path / "0.json.gz", [b"{" for _ in range(25)])

    with pytest.raises(DataError) as caught:
        prepare(tmp_path / "out", plan(shards))
    assert str(caught.value).count(": not JSON (") == 20
    assert "and 5 more lines of 0.json.gz" in str(caught.value)


def test_skipped_lines_are_counted_by_fault(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """With skip_faulty the rest is prepared after a refusal, and every line is accounted for."""
    lines = [*lines_of(["first", ""]), *FAULTY.values(), FAULTY["no text"], *lines_of(["last"])]
    what = plan(shard(tmp_path / "0.json.gz", lines))
    with pytest.raises(DataError):
        prepare(tmp_path / "out", what)
    counts = prepare(tmp_path / "out", what, skip_faulty=True)["train_text_document"]

    assert counts.faulty == {**dict.fromkeys(FAULTY, 1), "no text": 2}
    assert counts.documents + counts.empty + sum(counts.faulty.values()) == len(lines)
    assert len(counts.examples) == len(FAULTY)
    documents = [tokenizer.encode("first"), tokenizer.encode("last")]
    assert contents(tmp_path / "out") == megatron(tmp_path / "theirs", documents)


@pytest.mark.parametrize(
    ("damage", "skip_faulty", "workers"),
    [("cut off", False, 1), ("cut off", True, 2), ("flipped", True, 1), ("no gzip", True, 1), ("empty", True, 1)],
)
def test_a_damaged_shard_is_always_refused(tmp_path: Path, damage: str, skip_faulty: bool, workers: int) -> None:
    """Nobody knows what is missing from a shard that does not end with its checksum."""
    path = shard(tmp_path / "0.json.gz", lines_of(["some text"] * 50)).path
    whole = path.read_bytes()
    broken = {"cut off": whole[:-9], "flipped": whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:], "no gzip": b"plain"}
    broken["empty"] = b""
    path.write_bytes(broken[damage])

    with pytest.raises(DataError, match=r"0\.json\.gz is cut off or damaged"):
        prepare(tmp_path / "out", plan(C4Shard(path)), skip_faulty=skip_faulty, workers=workers)


def test_a_shard_that_cannot_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    """The error is the system's reason."""
    (tmp_path / "0.json.gz").mkdir()

    with pytest.raises(DataError, match=r"0\.json\.gz: Is a directory$"):
        prepare(tmp_path / "out", plan(C4Shard(tmp_path / "0.json.gz")))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_error_and_the_next_call_goes_on(tmp_path: Path, workers: int) -> None:
    """It names the unfinished folder; with space again, the bytes are those of an undisturbed call."""
    text = "".join(chr(0x4E00 + index) for index in range(20_000))
    what, folder = plan(*(shard(tmp_path / f"{n}.json.gz", lines_of([text])) for n in range(2))), tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(DataError, match=r"\.out\.unfinished: File too large$"):
            prepare(folder, what, workers=workers)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    prepare(folder, what, workers=workers)
    prepare(tmp_path / "quiet", what)

    assert load(folder) == load(tmp_path / "quiet")


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    """The error names the path."""
    (tmp_path / "file").touch()

    with pytest.raises(DataError, match=r"file/\.out\.unfinished: Not a directory$"):
        prepare(tmp_path / "file" / "out", plan(shard(tmp_path / "0.json.gz", lines_of(["text"]))))


@given(st.binary(max_size=60) | st.text().map(lambda text: json.dumps({"text": text}).encode()))
def test_any_line_is_a_text_or_a_fault(line: bytes) -> None:
    """No line raises, and each text can be encoded."""
    found = document(1, line)
    assert isinstance(found, Fault) or found.encode("utf-8") is not None


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_lines_are_counted_through_the_shards(tmp_path: Path, tokenizer: Tokenizer, workers: int) -> None:
    """Five lines of shards of three are the first and two of the second, an empty one among them."""
    texts = ["one", "", "three", "four", "five", "six", "seven", "eight", "nine"]
    shards = tuple(shard(tmp_path / f"{n}.json.gz", lines_of(texts[3 * n : 3 * n + 3])) for n in range(3))
    output = PlannedPair(prefix="first", shards=shards, lines=5)
    counts = prepare(
        tmp_path / "out",
        DatasetPlan(corpus="test", outputs=(output,), tokenizer=benchmark_tokenizer(), append_eod=False),
        workers=workers,
    )["first"]

    expected = megatron(tmp_path / "theirs", [tokenizer.encode(text) for text in texts[:5] if text])
    assert contents(tmp_path / "out", "first") == expected
    assert (counts.documents, counts.empty) == (4, 1)


def test_too_few_lines_are_refused(tmp_path: Path) -> None:
    """A validation set with too few lines is not accepted."""
    with pytest.raises(DataError, match="the shards have 2 lines, expected 3"):
        prepare(tmp_path / "out", plan(shard(tmp_path / "0.json.gz", lines_of(["a", "b"])), lines=3))


def test_other_shards_do_not_continue_an_unfinished_folder(tmp_path: Path) -> None:
    """Only the same plan continues what a killed call left."""
    path = shard(tmp_path / "0.json.gz", list(FAULTY.values())).path
    with pytest.raises(DataError):
        prepare(tmp_path / "out", plan(C4Shard(path)))
    shard(path, lines_of(["another text"]))

    with pytest.raises(DataError, match=r"\.out\.unfinished was begun with other shards"):
        prepare(tmp_path / "out", plan(C4Shard(path)))


def test_the_benchmarks_files_are_the_references_shards(tmp_path: Path) -> None:
    """128 shards a training file from 768 on, the first 91,205 validation lines, no end-of-document token."""
    for number in range(768, 1024):
        (tmp_path / f"c4-train.{number:05}-of-01024.json.gz").touch()
    for number in range(8):
        (tmp_path / f"c4-validation.{number:05}-of-00008.json.gz").touch()
    made = c4.plan("llama31_405b", tmp_path, benchmark_tokenizer())

    six, seven, validation = made.outputs
    assert (six.prefix, six.weight) == ("c4-train.en_6_text_document", 0.5)
    assert [shard.name[9:14] for shard in (*six.shards, *seven.shards)] == [f"{n:05}" for n in range(768, 1024)]
    assert (validation.lines, len(validation.shards)) == (91_205, 8)
    assert not made.append_eod


def test_a_tokenizer_of_another_benchmark_is_refused_before_hours_of_work(tmp_path: Path) -> None:
    """8B's dataset needs 128,256 pieces, while 405B's tokenizer has 32,000."""
    for number in range(768, 896):
        (tmp_path / f"c4-train.{number:05}-of-01024.json.gz").touch()
    for number in range(8):
        (tmp_path / f"c4-validation.{number:05}-of-00008.json.gz").touch()

    with pytest.raises(DataError, match="has 32000 pieces, but the dataset of llama31_8b has a vocabulary of 128256"):
        c4.plan("llama31_8b", tmp_path, benchmark_tokenizer())


def test_missing_shards_are_listed(tmp_path: Path) -> None:
    """All of them are in one report."""
    with pytest.raises(DataError) as caught:
        c4.plan("llama31_8b", tmp_path, benchmark_tokenizer())
    assert str(caught.value).count("does not exist") == 128 + 8


@given(lengths=st.lists(st.integers(1, 2**20), max_size=50), wide=st.booleans())
def test_an_index_is_megatrons(tmp_path_factory: pytest.TempPathFactory, lengths: list[int], wide: bool) -> None:
    """For any lengths and either type, the bytes are those of Megatron-Core's writer."""
    folder = tmp_path_factory.mktemp("idx")
    dtype = np.dtype(np.int32 if wide else np.uint16)
    builder = IndexedDatasetBuilder(str(folder / "theirs.bin"), dtype=dtype.type)
    builder.sequence_lengths, builder.document_indices = lengths, list(range(len(lengths) + 1))
    builder.finalize(str(folder / "theirs.idx"))
    write_idx(folder / "ours.idx", dtype, np.array(lengths, dtype=np.int32))

    assert (folder / "ours.idx").read_bytes() == (folder / "theirs.idx").read_bytes()


def test_a_pair_reads_as_megatron_reads_it(data_dir: Path) -> None:
    """Every document is the same, by number."""
    prefix = data_dir / "validation_text_document"
    ours, theirs = open_pair(prefix), IndexedDataset(str(prefix))

    assert len(ours.lengths) == len(theirs)
    assert all(np.array_equal(ours.document(index), theirs[index]) for index in range(len(theirs)))


# Kills.


class Killed(BaseException):
    """Ends a call as a kill would: nothing catches it."""


def test_a_kill_before_any_write_leads_to_the_same_bytes(tmp_path: Path) -> None:
    """Whichever change of a file a kill precedes, the next call completes the dataset."""
    shards = [shard(tmp_path / f"{n}.json.gz", lines_of([f"text {n}", "more"])) for n in range(3)]
    what, folder = plan(*shards, lines=1), tmp_path / "killed"
    prepare(tmp_path / "quiet", what)
    expected, left = load(tmp_path / "quiet"), 0

    def until(change: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*values: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return change(*values, **more)

        return counted

    finished_after = None
    changes = [(Path, "rename"), (Path, "unlink"), (Path, "mkdir"), (os, "fsync"), (os, "sendfile"), (os, "rmdir")]
    for allowed in range(200):
        left = allowed
        with ExitStack() as patches:
            for owner, name in changes:
                patches.enter_context(mock.patch.object(owner, name, until(getattr(owner, name))))
            with suppress(Killed):
                prepare(folder, what)
                finished_after = allowed
        if not folder.exists():
            prepare(folder, what)
        assert load(folder) == expected
        shutil.rmtree(folder)
        if finished_after is not None:
            break
    assert finished_after is not None
    assert finished_after > 30


KILLS = 20


@pytest.mark.slow
def test_after_any_kill_the_bytes_are_the_same(tmp_path: Path) -> None:
    """After SIGKILL at 20 random moments, every fifth with workers, the dataset is that of an undisturbed call."""
    texts = [text[start : start + 400] for text in built_in.addresses() for start in range(0, len(text), 400)]
    what = plan(*(shard(tmp_path / f"{n:02}.json.gz", lines_of(texts[n::12])) for n in range(12)), lines=100)
    quiet, folder = tmp_path / "quiet", tmp_path / "killed"
    prepare(quiet, what)
    expected = load(quiet)

    moments, kills = random.Random(0), 0
    while kills < KILLS:
        workers = 1 if kills % 5 else 2
        process = multiprocessing.get_context("fork").Process(
            target=prepare, args=(folder, what), kwargs={"workers": workers}
        )
        process.start()
        # Workers import before they work. Nobody ends them but they themselves.
        process.join(timeout=moments.uniform(0, 1.0 if workers == 1 else 4.0))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        if folder.exists():
            assert load(folder) == expected
            shutil.rmtree(folder)
    prepare(folder, what)

    assert load(folder) == expected
    assert not list(tmp_path.glob(".killed*"))
