"""llama31_8b's vocabulary of 128,256 pieces: any layout trains it, and no other data is accepted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmark.benchmarks import BENCHMARKS, LLAMA31_8B, LLAMA31_TINY, Benchmark, random_first_loss
from benchmark.config import RunConfig
from reference_impl.data.pair import write_idx
from reference_impl.data.published import manifest_of
from reference_impl.data.read.configured import dataset_of, ready
from reference_impl.files.manifest import DataError, Manifest, describe_files
from reference_impl.tokenizer import TokenizerError
from tests.own_row import stand_in
from tests.reference_impl.conftest import run_ranks

STEPS = 3
DOCUMENTS, DOCUMENT_TOKENS = 64, 256

SIZE = replace(LLAMA31_8B.size, layers=2, hidden=64, ffn_hidden=128, heads=8, query_groups=2)
"""8B cut down: two layers, narrow, all rows."""
CUT = Benchmark(
    name="llama31_8b_cut",
    size=SIZE,
    tokenizer=LLAMA31_8B.tokenizer,
    dataset=LLAMA31_TINY.dataset,
    initial_train_loss=random_first_loss(SIZE, LLAMA31_8B.vocabulary),
    submittable=False,
    rules=tuple(replace(rules, benchmark="llama31_8b_cut") for rules in LLAMA31_TINY.rules),
)

LAYOUTS = {
    "TP=2": {"DGXNGPU": 2, "TENSOR_MODEL_PARALLEL": 2},
    "PP=2": {"DGXNGPU": 2, "PIPELINE_MODEL_PARALLEL": 2},
}


@pytest.fixture(scope="module")
def llama3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for Llama 3.1's tokenizer file: 128,000 ranks, which 256 special tokens follow."""
    pytest.importorskip("tiktoken")
    return stand_in(tmp_path_factory.mktemp("llama3") / "tokenizer.model")


def dataset(folder: Path, benchmark: Benchmark, dtype: type[np.uint16 | np.int32]) -> Path:
    """Random ids of the whole vocabulary, as a dataset of the benchmark."""
    folder.mkdir()
    random = np.random.default_rng(0)
    lengths = np.full(DOCUMENTS, DOCUMENT_TOKENS, np.int32)
    names = []
    for prefix in (*benchmark.dataset.train, benchmark.dataset.validation):
        ids = random.integers(0, min(benchmark.vocabulary, np.iinfo(dtype).max), int(lengths.sum()))
        ids.astype(dtype).tofile(folder / f"{prefix}.bin")
        write_idx(folder / f"{prefix}.idx", np.dtype(dtype), lengths)
        names += [f"{prefix}.bin", f"{prefix}.idx"]
    manifest_of(benchmark, describe_files(folder, names)).save(folder)
    return folder


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("wide") / "data", CUT, np.int32)


@pytest.fixture
def cut(
    tiny: Callable[..., RunConfig], wide: Path, llama3: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RunConfig]:
    """Makes a configuration of the cut-down 8B at a global batch size of 4, changed by the variables given."""
    monkeypatch.setitem(BENCHMARKS, CUT.name, CUT)
    defaults = {"BENCHMARK": CUT.name, "DATADIR": wide, "TOKENIZER": llama3, "MINIBS": 4}
    return lambda **variables: tiny(**{**defaults, **variables})


def losses(config: RunConfig) -> tuple[list[float], int]:
    """Of the first steps, and rows of the embedding that this rank holds."""
    from reference_impl import parallel
    from reference_impl.step import MegatronStep

    parallel.initialize(config)
    step = MegatronStep(config, dataset_of(config))
    step.open_data()
    rows = next(step.chunks[0].parameters()).shape[0]
    taken = [stats.loss for stats in step.train(STEPS)]
    parallel.shut_down()
    return taken, rows


@pytest.mark.slow
def test_every_layout_trains_all_rows(cut: Callable[..., RunConfig]) -> None:
    """One process, TP 2 and PP 2 train 128,256 rows on int32 data with equal losses, the first that of 128,256."""
    config = cut()
    assert ready(config).manifest.vocabulary == 128_256
    ((expected, rows),) = run_ranks(config, losses)

    low, high = CUT.initial_train_loss
    assert rows == 128_256
    assert low < expected[0] < high
    for variables in LAYOUTS.values():
        for taken, _ in run_ranks(cut(**variables), losses):
            assert taken == pytest.approx(expected, abs=3e-6)


def going_on(config: RunConfig, folder: Path) -> tuple[float, float]:
    """The loss of the step after a save, by the run that saved and by one that loads it."""
    from reference_impl import parallel
    from reference_impl.step import MegatronStep

    parallel.initialize(config)
    first, second = (MegatronStep(config, dataset_of(config)) for _ in range(2))
    first.open_data()
    list(first.train(2))
    first.save(folder, _nothing, _refuse)
    first.finish_saving()
    (expected,) = first.train(1)
    second.load(folder)
    second.open_data()
    (found,) = second.train(1)
    parallel.shut_down()
    return expected.loss, found.loss


def _nothing() -> None: ...


def _refuse(why: str) -> None:
    raise AssertionError(why)


@pytest.mark.slow
def test_all_rows_are_saved_and_loaded(cut: Callable[..., RunConfig], tmp_path: Path) -> None:
    """A resumed run takes exactly the step that it would have taken."""
    ((expected, found),) = run_ranks(cut(), partial(going_on, folder=tmp_path / "state"))
    assert found == expected


def test_data_of_32_000_pieces_are_refused(
    cut: Callable[..., RunConfig], tmp_path: Path, llama3: Path, data_dir: Path, tokenizer: object
) -> None:
    """They are refused before a model is built, whether data and tokenizer agree or not."""
    message = r"was made with a vocabulary of 32,000; that of llama31_8b_cut, Llama 3\.1's, has 128,256 pieces"
    for variables in ({"TOKENIZER": llama3}, {"TOKENIZER": ""}):
        config = cut(DATADIR=data_dir, **variables)
        with pytest.raises(DataError, match=message):
            dataset_of(config)
    with pytest.raises(DataError, match=message):
        ready(cut(DATADIR=data_dir))


def test_a_tokenizer_of_32_000_pieces_is_refused(cut: Callable[..., RunConfig], data_dir: Path) -> None:
    """Even with data of its own, every difference from the benchmark's row is named at once."""
    mixtral = cut(DATADIR=data_dir).changed(TOKENIZER=None)
    with pytest.raises(TokenizerError, match=r"TOKENIZER is not set, and no package has Llama 3\.1's tokenizer"):
        ready(mixtral)


def test_tokens_of_another_type_are_refused(cut: Callable[..., RunConfig], tmp_path: Path) -> None:
    """A manifest for 128,256 pieces does not turn 16-bit tokens into the tokenizer's type."""
    narrow = dataset(tmp_path / "narrow", CUT, np.uint16)
    assert Manifest.load(narrow).vocabulary == 128_256
    with pytest.raises(
        DataError, match=r"train_text_document\.bin holds uint16, but tokens of tokenizer\.model are int32"
    ):
        ready(cut(DATADIR=narrow))
