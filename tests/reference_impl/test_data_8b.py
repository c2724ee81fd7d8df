"""llama31_8b's data through every verb, from C4's shards to a copy from a server: int32, a vocabulary of 128,256."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from click.testing import CliRunner

from benchmark.benchmarks import LLAMA31_8B
from harness.__main__ import main
from reference_impl.data.pair import open_pair
from reference_impl.data.prepare import c4
from reference_impl.data.published import PUBLISHED, PublishedFiles
from reference_impl.files.manifest import Manifest
from tests.own_row import stand_in
from tests.reference_impl.hostile_server import Site, serve

pytestmark = pytest.mark.slow

TEXTS = {"c4-train.en_6_text_document": ["Fellow-Citizens", "caf\u00e9"], LLAMA31_8B.dataset.validation: ["one", "two"]}
LIST = "metadata/llama-3-1-8b-preprocessed-c4-dataset"


def call(*arguments: object) -> str:
    done = CliRunner().invoke(main, ["data", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


def shard(path: Path, *texts: str) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in texts).encode()))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tiktoken")
    return stand_in(tmp_path_factory.mktemp("llama3") / "tokenizer.model")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    """The dataset of one training shard and two documents of validation."""
    folder = tmp_path_factory.mktemp("c4")
    train, validation = TEXTS.values()
    shard(folder / "c4-train.00006-of-01024.json.gz", *train)
    shard(folder / "c4-validation-2-samples.en.json.gz", *validation)
    with mock.patch.multiple(c4, SHARDS_PER_FILE=1, VALIDATION_LINES=2):
        call("prepare", folder / "out", "--c4", folder, "--benchmark", "llama31_8b", "--tokenizer", tokenizer)
    return folder / "out"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published set with files of any size."""
    files = PUBLISHED["llama31_8b"].files
    unsized = replace(files, sizes=dict.fromkeys(files.sizes))
    monkeypatch.setitem(PUBLISHED, "llama31_8b", PublishedFiles(files=unsized, benchmark=LLAMA31_8B))


@pytest.fixture
def bucket(prepared: Path) -> Iterator[Site]:
    """The dataset as MLCommons gives 405B's away: an address, its list of MD5, and the files elsewhere."""
    names = PUBLISHED["llama31_8b"].sizes
    content = {name: (prepared / name).read_bytes() for name in names}
    sums = "".join(f"{hashlib.md5(data).hexdigest()}  ./{name}\n" for name, data in content.items())
    with serve(Site({})) as site:
        files = {f"deep/c4/{name}": data for name, data in content.items()}
        site.files = {f"{LIST}.uri": f"{site.url}/deep/c4\n".encode(), f"{LIST}.md5": sums.encode(), **files}
        yield site


def test_c4_becomes_the_published_files(prepared: Path) -> None:
    """Two pairs of int32, without an end-of-document token, described for a vocabulary of 128,256."""
    manifest = Manifest.load(prepared)
    assert manifest.files.keys() == PUBLISHED["llama31_8b"].sizes.keys()
    assert manifest.vocabulary == 128_256
    for prefix, texts in TEXTS.items():
        pair = open_pair(prepared / prefix)
        assert pair.document(0).dtype == np.int32
        # The stand-in's first 256 ranks are the bytes.
        assert [bytes(pair.document(at).tolist()).decode() for at in range(2)] == texts


@pytest.mark.usefixtures("small")
def test_what_a_server_has_is_fetched_verified_and_shown(bucket: Site, tmp_path: Path, tokenizer: Path) -> None:
    """It is downloaded, verified by every byte and inspected; a later change of a byte is found."""
    folder = tmp_path / "c4"
    call("download", f"{bucket.url}/{LIST}.uri", folder, "--expect", "llama31_8b")
    call("verify", "--expect", "llama31_8b", folder)
    assert "int32" in call("inspect", folder, "--tokenizer", tokenizer, "--expect", "llama31_8b", "--samples", 0)

    train = folder / "c4-train.en_6_text_document.bin"
    train.write_bytes(b"\1" + train.read_bytes()[1:])
    assert CliRunner().invoke(main, ["data", "verify", str(folder)]).exit_code == 1


def test_what_is_published_of_its_sizes() -> None:
    """The two .bin files' sizes mean 21 billion tokens of four bytes for training, and 5,083 sequences for
    evaluation.
    """
    train, validation = (PUBLISHED["llama31_8b"].sizes[f"{prefix}.bin"] or 0 for prefix in TEXTS)
    assert (train, validation) == (83_976_774_280, 166_568_364)
    assert (train % 4, validation % 4) == (0, 0)
    assert validation // 4 // 8192 == 5083
