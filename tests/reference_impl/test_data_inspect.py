"""Looking at data: its contents are shown, and counts that differ from the expected ones fail."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from harness.verbs.data import data as main
from reference_impl.data.inspect import expected_counts, prefixes
from reference_impl.data.pair import open_pair, write_idx
from reference_impl.data.published import PUBLISHED
from reference_impl.files.manifest import DataError
from reference_impl.tokenizer import Tokenizer


def sparse_pair(prefix: Path, documents: int, tokens: int) -> None:
    """A pair of that many documents and tokens, of which the disk holds the lengths alone."""
    lengths = np.full(documents, tokens // documents, dtype=np.int32)
    lengths[: tokens - int(lengths.sum())] += 1
    write_idx(prefix.with_name(prefix.name + ".idx"), np.dtype(np.uint16), lengths)
    with prefix.with_name(prefix.name + ".bin").open("wb") as file:
        file.truncate(2 * tokens)


@pytest.mark.parametrize(
    ("prefix", "documents", "tokens"),
    [
        ("c4-train.en_6_text_document", 45_608_611, 23_789_484_893),
        ("c4-train.en_7_text_document", 45_973_220, 23_988_429_506),
        ("c4-validation-91205-samples.en_text_document", 91_205, 47_186_855),
    ],
)
def test_the_published_sizes_are_the_readmes_counts(prefix: str, documents: int, tokens: int) -> None:
    """The reference's README says how many documents and tokens the published files hold."""
    assert expected_counts(PUBLISHED["llama31_405b"].sizes, prefix, itemsize=2) == (documents, tokens)


def test_a_dataset_is_shown(data_dir: Path) -> None:
    """Documents, tokens, sequences, and the start of the first document are shown."""
    done = CliRunner().invoke(main, ["inspect", str(data_dir), "--samples", "1"])

    assert done.exit_code == 0
    assert re.search(r"^train_text_document +240 +2,5\d\d,\d{3} +uint16 +30\d$", done.output, re.MULTILINE)
    assert "train_text_document, document 0: 'Fellow-Citizens of the Senate" in done.output


def test_other_counts_fail(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """A document too few and two pairs that are not there are three faults, and exit 1."""
    prefix = "c4-validation-91205-samples.en_text_document"
    sparse_pair(tmp_path / prefix, 91_204, 47_186_855)
    done = CliRunner().invoke(main, ["inspect", str(tmp_path), "--expect", "llama31_405b", "--samples", "0"])

    assert done.exit_code == 1
    assert f"{prefix} has 91,204 documents, expected 91,205" in done.output
    assert done.output.count("is missing") == 2


def test_only_a_dataset_can_be_expected(tmp_path: Path) -> None:
    """A published tokenizer has no documents: the choices are named, exit 2."""
    done = CliRunner().invoke(main, ["inspect", str(tmp_path), "--expect", "llama31_405b-tokenizer"])

    assert done.exit_code == 2
    assert "'llama31_405b', 'llama31_8b'" in done.output


def test_another_type_is_a_fault(tmp_path: Path, data_dir: Path, tokenizer: Tokenizer) -> None:
    """int32 tokens for a vocabulary that fits 16 bits were written by something else."""
    write_idx(tmp_path / "a.idx", np.dtype(np.int32), np.array([2], dtype=np.int32))
    (tmp_path / "a.bin").write_bytes(np.array([1, 2], dtype=np.int32).tobytes())
    done = CliRunner().invoke(main, ["inspect", str(tmp_path)])

    assert (done.exit_code, "holds int32" in done.output) == (1, True)


def test_a_file_that_was_cut_is_refused(tmp_path: Path) -> None:
    """Either file is refused, with both sizes."""
    sparse_pair(tmp_path / "a", 10, 100)
    with (tmp_path / "a.bin").open("r+b") as file:
        file.truncate(198)
    with pytest.raises(DataError, match=r"a\.bin has 198 bytes, but 100 tokens of uint16 take 200"):
        open_pair(tmp_path / "a")
    with (tmp_path / "a.idx").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(DataError, match=r"a\.idx has 100 bytes, but a header and 10 documents take 242"):
        open_pair(tmp_path / "a")


@pytest.mark.parametrize("content", [b"", b"MMIDIDX", b"\0" * 42])
def test_another_file_is_no_index(tmp_path: Path, content: bytes) -> None:
    """Any file may be called .idx, so its header is checked."""
    (tmp_path / "a.idx").write_bytes(content)
    (tmp_path / "a.bin").touch()

    with pytest.raises(DataError, match="is not a Megatron index"):
        open_pair(tmp_path / "a")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    """The error says what was looked for."""
    with pytest.raises(DataError, match=r"holds no \.idx"):
        prefixes(tmp_path)
