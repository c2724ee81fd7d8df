"""Verification: every difference of a folder is in one report, and the benchmark's data is known by name and size."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from benchmark.benchmarks import BENCHMARKS, LLAMA31_8B, LLAMA31_405B, Benchmark, find
from benchmark.config import RunConfig
from harness.verbs.data import data as main
from reference_impl.data.pair import write_idx
from reference_impl.data.published import PUBLISHED, PublishedFiles, manifest_of
from reference_impl.data.read import configured
from reference_impl.data.read.configured import ready
from reference_impl.files.checksum import BUFFER_BYTES, digest, in_parallel
from reference_impl.files.manifest import (
    FILE_NAME,
    DataError,
    FileEntry,
    FolderManifest,
    Manifest,
    describe_files,
    load,
    parse_any,
)
from reference_impl.files.progress import describe
from tests.waiting import STILL_S

FILES = {"a.bin": b"1234", "b.idx": b"12", "deep/er/.metadata": b"hidden", ".top": b"", "c": b"123"}


def verify(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["verify", *map(str, arguments)])


def refusal(*arguments: object) -> str:
    """What `verify` prints when it ends with status 2."""
    done = verify(*arguments)
    assert done.exit_code == 2, done.output
    return done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a manifest, made by `verify --init`."""
    here = tmp_path / "here"
    for name, data in FILES.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(data)
    assert verify("--init", here).exit_code == 0
    return here


def test_init_describes_every_file(folder: Path) -> None:
    """Sizes and checksums of all files below the folder are in the manifest, hidden ones too, and nothing else."""
    expected = {
        name: FileEntry(bytes=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in FILES.items()
    }
    assert FolderManifest.load(folder).files == expected


def test_a_folder_as_its_manifest_says_passes(folder: Path) -> None:
    """It exits 0 and says what was compared, in full and quickly."""
    assert verify(folder).stdout == f"{folder}: 5 files, 15 bytes, bytes as in manifest.json\n"
    assert verify("--quick", folder).stdout == f"{folder}: 5 files, 15 bytes, sizes as in manifest.json\n"


def test_every_difference_is_in_one_report(folder: Path) -> None:
    """Missing, shorter, changed, turned into a folder, not expected: one line each, exit status 1."""
    (folder / "a.bin").write_bytes(b"1235")
    (folder / "b.idx").unlink()
    (folder / "deep/er/.metadata").write_bytes(b"short")
    (folder / "c").unlink()
    (folder / "c").mkdir()
    (folder / "deep/.extra").write_bytes(b"")

    done = verify(folder)

    found, expected = (hashlib.sha256(data).hexdigest() for data in (b"1235", b"1234"))
    assert done.exit_code == 1
    assert set(done.stdout.splitlines()) == {
        f"{folder}/a.bin has sha256 {found}, expected {expected}",
        f"{folder}/b.idx: No such file or directory, expected 2 bytes",
        f"{folder}/deep/er/.metadata has 5 bytes, expected 6",
        f"{folder}/c is not a file, expected 3 bytes",
        f"{folder}/deep/.extra is not expected",
    }


def test_a_folder_that_cannot_be_read_hides_no_other_fault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one more line of the report."""
    scan = os.scandir

    def scandir(path: str) -> Any:
        if str(path).endswith("/deep"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scan(path)

    (folder / "a.bin").unlink()
    (folder / "new").touch()
    monkeypatch.setattr(os, "scandir", scandir)
    done = verify(folder)

    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        f"{folder}/a.bin: No such file or directory, expected 4 bytes",
        f"{folder}/deep: Permission denied",
        f"{folder}/new is not expected",
    ]


def test_a_manifest_that_was_being_written_is_no_file_of_the_folder(folder: Path) -> None:
    """After a kill, --init describes the folder's files, and the folder passes."""
    (folder / FILE_NAME).rename(folder / f"{FILE_NAME}.0123abcd.new")

    assert verify("--init", folder).exit_code == 0
    assert set(FolderManifest.load(folder).files) == set(FILES)
    assert verify(folder).exit_code == 0


def test_the_first_error_stops_the_rest() -> None:
    """It is reported without waiting for work that began earlier."""
    stop, told = Event(), list[bool]()

    def work(item: str) -> None:
        if item == "fails":
            raise DataError(item)
        told.append(stop.wait(STILL_S))

    with pytest.raises(DataError):
        in_parallel(work, ["goes on", "fails"], 2, stop)
    assert told == [True]


def test_one_files_trouble_ends_the_reading_of_the_others(tmp_path: Path) -> None:
    """An error, or the user's interrupt, is not kept back until the longest file has been read."""
    with (tmp_path / "long").open("wb") as file:
        file.truncate(64 << 30)
    counted: list[int] = []

    with pytest.raises(DataError, match="missing: No such file"):
        describe_files(tmp_path, ["missing", "long"], counted.append)
    assert sum(counted) < 64 << 30


def test_quick_compares_sizes_and_nothing_else(folder: Path) -> None:
    """Other bytes and other times of the same length pass; another length does not."""
    (folder / "a.bin").write_bytes(b"4321")
    os.utime(folder / "b.idx", (0, 0))
    assert verify("--quick", folder).exit_code == 0

    (folder / "a.bin").write_bytes(b"12345")
    done = verify("--quick", folder)
    assert (done.exit_code, done.stdout) == (1, f"{folder}/a.bin has 5 bytes, expected 4\n")


@given(where=st.integers(0, 3 * BUFFER_BYTES + 4), bit=st.integers(0, 7))
def test_one_bit_anywhere_is_found(tmp_path_factory: pytest.TempPathFactory, where: int, bit: int) -> None:
    """The digest is that of hashlib over all bytes, so one bit that differs, on either side of a buffer, shows."""
    path = tmp_path_factory.getbasetemp() / "bit.bin"
    data = bytearray(3 * BUFFER_BYTES + 5)
    data[where] ^= 1 << bit
    path.write_bytes(data)

    assert digest(path) == hashlib.sha256(data).hexdigest()


def test_init_overwrites_no_manifest(folder: Path) -> None:
    """A second --init is refused, since it would declare present faults right."""
    assert "already exists; remove it" in refusal("--init", folder)


def test_init_describes_only_files_that_can_be_read(tmp_path: Path) -> None:
    """A dangling link and a pipe are refused by name, both in one error; neither is waited for."""
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")

    assert refusal("--init", tmp_path).splitlines() == [
        f"error: {tmp_path}/dangling: No such file or directory",
        f"error: {tmp_path}/pipe is not a file",
    ]


def test_a_folder_without_a_manifest_is_told_how_to_get_one(tmp_path: Path) -> None:
    """The error names the file and the command."""
    assert re.search(r"manifest\.json does not exist; .* verify --init", refusal(tmp_path))


def test_a_linked_folder_is_reported_and_not_entered(folder: Path, tmp_path: Path) -> None:
    """What a link leads to is outside, so no manifest vouches for it."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_bytes(b"")
    (folder / "link").symlink_to(tmp_path / "outside")

    assert verify(folder).stdout == f"{folder}/link is not expected\n"


def test_a_name_that_no_terminal_shows_is_shown_escaped(folder: Path) -> None:
    """A file whose name is not text is reported, not a crash."""
    os.close(os.open(os.fsencode(folder) + b"/\xff\n", os.O_CREAT | os.O_WRONLY))

    done = verify(folder)
    assert (done.exit_code, done.stdout) == (1, f"{folder}/\\udcff\\n is not expected\n")


# What is published.


def make_sparse(folder: Path, name: str, unknown: int = 42) -> Path:
    """A folder of files with the published names and sizes: an index says its type, the other bytes are holes."""
    for file, length in PUBLISHED[name].sizes.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".idx":
            row = BENCHMARKS[name]
            write_idx(path, np.dtype(np.uint16 if row.vocabulary < 65_500 else np.int32), np.empty(0, np.int32))
        with path.open("ab") as stream:
            stream.truncate(unknown if length is None else length)
    return folder


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_set_is_known_by_names_and_sizes(name: str, tmp_path: Path) -> None:
    """A copy of the right sizes passes, at once whatever its size; with one byte less it does not."""
    folder = make_sparse(tmp_path, name)
    assert verify("--quick", "--expect", name, folder).exit_code == 0

    sized = next(file for file, length in PUBLISHED[name].sizes.items() if length is not None)
    length = (folder / sized).stat().st_size
    with (folder / sized).open("r+b") as stream:
        stream.truncate(length - 1)
    done = verify("--quick", "--expect", name, folder)
    assert (done.exit_code, done.stdout) == (1, f"{folder / sized} has {length - 1} bytes, expected {length}\n")


def test_the_checkpoints_hidden_file_is_missed(tmp_path: Path) -> None:
    """Without weights/.metadata nothing loads, yet lists that skip hidden files do not show that it is missing."""
    folder = make_sparse(tmp_path, "llama31_405b-checkpoint")
    (folder / "weights/.metadata").unlink()

    done = verify("--expect", "llama31_405b-checkpoint", folder)
    assert (done.exit_code, done.stdout) == (1, f"{folder}/weights/.metadata: No such file or directory\n")


def test_sizes_of_the_405b_dataset_agree_with_its_documents_and_tokens() -> None:
    """An .idx has 34 + 20 x documents + 8 bytes, a .bin 2 bytes a token; an evaluation fills the validation set."""
    sizes = PUBLISHED["llama31_405b"].sizes
    numbers = {name: number for name, number in sizes.items() if number is not None}
    documents = [(numbers[name] - 42) / 20 for name in numbers if name.endswith(".idx")]
    tokens = [numbers[name] // 2 for name in numbers if name.endswith(".bin")]
    rules = find("llama31_405b")

    assert sum(numbers.values()) == 97_483_663_354
    assert documents == [45_608_611, 45_973_220, 91_205]
    assert tokens == [23_789_484_893, 23_988_429_506, 47_186_855]
    assert (tokens[-1] - 1) // rules.sequence_length == rules.eval_sequences


def test_the_published_layout_is_repaired_in_place(tmp_path: Path) -> None:
    """Files that another downloader left nested and misspelt get their names, and nothing else is left."""
    folder = make_sparse(tmp_path, "llama31_405b")
    for suffix in ("bin", "idx"):
        right = folder / f"c4-validation-91205-samples.en_text_document.{suffix}"
        right.rename(folder / "aside")
        right.mkdir()
        (folder / "aside").rename(right / f"c4-validationn-91205-samples.en_text_document.{suffix}")
    assert verify("--quick", "--expect", "llama31_405b", folder).exit_code == 1

    assert verify("--repair", "--quick", "--expect", "llama31_405b", folder).exit_code == 0


def test_a_repair_overwrites_nothing(tmp_path: Path) -> None:
    """If the right name is taken, both files stay as they are."""
    (tmp_path / "c4-validation-91205-samples.en_text_document.bin").write_bytes(b"right")
    (tmp_path / "c4-validationn-91205-samples.en_text_document.bin").write_bytes(b"misspelt")

    assert "is already there" in refusal("--repair", "--quick", tmp_path)
    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == [b"misspelt", b"right"]


# Before a run.


@pytest.fixture
def large(tmp_path: Path) -> Callable[..., RunConfig]:
    """Makes a 405B configuration that reads the given folder."""

    def make(folder: Path) -> RunConfig:
        variables = {
            "BENCHMARK": "llama31_405b",
            "RULESET": "6.0.0",
            "DGXSYSTEM": "test",
            "DGXNNODES": "288",
            "DGXNGPU": "8",
            "TENSOR_MODEL_PARALLEL": "8",
            "PIPELINE_MODEL_PARALLEL": "8",
            "CONTEXT_PARALLEL": "2",
            "MINIBS": "64",
            "DATADIR": str(folder),
        }
        return RunConfig.from_environment(variables)

    return make


def test_the_benchmarks_dataset_needs_no_manifest(large: Callable[..., RunConfig], tmp_path: Path) -> None:
    """A folder of the published files is the 405B dataset: two parts in equal shares, their sizes compared."""
    data = ready(large(make_sparse(tmp_path, "llama31_405b")))

    assert [(part.prefix, part.weight) for part in data.manifest.train] == [
        ("c4-train.en_6_text_document", 0.5),
        ("c4-train.en_7_text_document", 0.5),
    ]
    assert data.manifest.validation == "c4-validation-91205-samples.en_text_document"
    assert data.compared == "sizes"


def test_a_dataset_that_is_cut_short_is_refused(large: Callable[..., RunConfig], tmp_path: Path) -> None:
    """Every file of another size is named before the run."""
    folder = make_sparse(tmp_path, "llama31_405b")
    for file in list(folder.iterdir())[:2]:
        file.write_bytes(b"")

    with pytest.raises(DataError) as caught:
        ready(large(folder))
    assert str(caught.value).count(" has 0 bytes, expected ") == 2


def test_another_dataset_is_not_the_benchmarks(large: Callable[..., RunConfig], data_dir: Path) -> None:
    """405B is not trained on the tiny corpus, however right its manifest is."""
    with pytest.raises(
        DataError, match=r"en_6_text_document\.bin: No such file(.|\n)*; llama31_405b is for training on"
    ):
        ready(large(data_dir))


def test_a_small_dataset_is_hashed_before_each_run(
    tiny: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The built-in corpus is compared byte for byte, one above the limit by its sizes."""
    assert ready(tiny()).compared == "bytes"

    monkeypatch.setattr(configured, "HASHED_BYTES", 1000)
    assert ready(tiny()).compared == "sizes"


@pytest.mark.parametrize("row", [LLAMA31_405B, LLAMA31_8B], ids=lambda row: row.name)
def test_a_dataset_is_described_for_its_use(row: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--init with a published set writes what verify and training read: parts, validation set, vocabulary."""
    assert row.dataset.files is not None
    unsized = replace(row.dataset.files, sizes=dict.fromkeys(row.dataset.files.sizes))
    monkeypatch.setitem(PUBLISHED, row.name, PublishedFiles(files=unsized, benchmark=row))
    folder = make_sparse(tmp_path, row.name)
    assert verify("--init", "--expect", row.name, folder).exit_code == 0
    assert verify("--expect", row.name, folder).exit_code == 0

    for dataset in (load(folder), parse_any((folder / FILE_NAME).read_bytes(), "a server")):
        assert isinstance(dataset, Manifest)
        assert dataset.prefixes == [*row.dataset.train, row.dataset.validation]
        assert (dataset.vocabulary, dataset.tokenizer_sha256) == (row.vocabulary, row.tokenizer.sha256)


def test_a_manifest_of_another_benchmark_is_a_fault(tmp_path: Path) -> None:
    """Files of the right sizes but another vocabulary are not what --expect asks for."""
    folder = make_sparse(tmp_path, "llama31_8b")
    entries = {path.name: FileEntry(bytes=path.stat().st_size) for path in folder.iterdir()}
    manifest_of(replace(LLAMA31_8B, tokenizer=LLAMA31_405B.tokenizer), entries).save(folder)

    done = verify("--quick", "--expect", "llama31_8b", folder)
    assert done.exit_code == 1
    assert "was made with a vocabulary of 32,000; that of llama31_8b" in done.stdout


# What people see.


def test_a_line_of_progress_has_rate_and_time_left() -> None:
    """Bytes that an earlier call did count in the share and not in the rate."""
    line = describe("download", 12_000_000_000, 97_000_000_000, 2_000_000_000, 10.0)
    assert line == "download  12.0 GB of 97.0 GB  12.4 %  200.0 MB/s  0:07:05 left"
