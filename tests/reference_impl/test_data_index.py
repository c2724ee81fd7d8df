"""The index has Megatron-Core's bytes for any lengths and number of epochs, and a wrong one is never used."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron.core.datasets.gpt_dataset import GPTDataset
from megatron.core.datasets.utils import Split

from benchmark.config import RunConfig
from harness.verbs.data import data as main
from reference_impl.data.read.configured import data_folder
from reference_impl.data.read.datasets import CachedGPTDataset, index_folder
from reference_impl.data.read.index import prebuild
from reference_impl.data.read.order import shuffled
from reference_impl.files import manifest
from reference_impl.files.manifest import DataError

LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=60).filter(lambda lengths: sum(lengths) > 24)


def megatrons(
    sizes: np.ndarray, documents: np.ndarray, *, sequence_length: int, sequences: int | None, seed: int
) -> tuple[np.ndarray, ...]:
    """What GPTDataset builds of these documents of a file with these lengths."""
    dataset = GPTDataset.__new__(GPTDataset)
    dataset.config = SimpleNamespace(
        defer_npy_index_mmap=False,
        path_to_cache=None,
        mock=True,
        sequence_length=sequence_length,
        add_extra_token_to_sequence=True,
        random_seed=seed,
        fast_cache_load=False,
    )
    dataset.dataset, dataset.indices = SimpleNamespace(sequence_lengths=sizes), documents
    dataset.num_samples, dataset.index_split = sequences, Split.train
    return dataset._build_document_sample_shuffle_indices()


@settings(max_examples=300)
@given(
    lengths=LENGTHS,
    sequence_length=st.integers(2, 12),
    sequences=st.none() | st.integers(1, 400),
    seed=st.integers(0, 2**32 - 1),
    every=st.integers(1, 3),
)
def test_the_arrays_are_megatrons(
    lengths: list[int], sequence_length: int, sequences: int | None, seed: int, every: int
) -> None:
    """That holds for all or some documents, of any length, even empty, in any epochs, with or without a separate
    last one.
    """
    sizes = np.repeat(np.array(lengths, dtype=np.int32), every)
    documents = np.arange(0, len(sizes), every, dtype=np.int32)
    expected = megatrons(sizes, documents, sequence_length=sequence_length, sequences=sequences, seed=seed)
    found = shuffled(sizes, documents, sequence_length=sequence_length, sequences=sequences, seed=seed)

    for array, (name, ours) in zip(expected, found.items(), strict=True):
        assert array.dtype == ours.dtype, name
        assert np.array_equal(array, ours), name


@pytest.fixture
def run(tiny: Callable[..., RunConfig]) -> Callable[..., list[str]]:
    """Prebuilds the index of a run of the built-in corpus, changed by the variables given."""
    return lambda **variables: list(prebuild(tiny(**variables)))


def test_an_index_is_built_once(run: Callable[..., list[str]]) -> None:
    """The second call finds it; another seed builds its own."""
    assert "built" in run(SEED=1)[0]
    assert "already there" in run(SEED=1)[0]
    assert "built" in run(SEED=2)[0]


def test_every_seed_of_several_runs_is_built(run: Callable[..., list[str]]) -> None:
    """SEED_BASE and NEXP name the seeds."""
    assert [line.split(":")[0] for line in run(SEED="", SEED_BASE=5, NEXP=2)] == ["seed 5", "seed 6"]


@pytest.mark.parametrize("variables", [{"MAX_STEPS": 300}, {"SEED": 8}])
def test_another_run_builds_its_own(run: Callable[..., list[str]], variables: dict[str, object]) -> None:
    """Whatever changes the order of documents changes the key."""
    run()
    assert "built" in run(**variables)[0]


def test_other_data_in_the_same_place_builds_its_own(tiny: Callable[..., RunConfig], data_dir: Path) -> None:
    """The key identifies the data, not only their place."""
    config, original = tiny(), manifest.load(data_dir)
    name = "train_text_document.bin"
    changed = original.files[name].model_copy(update={"sha256": "0" * 64})
    other = original.model_copy(update={"files": {**original.files, name: changed}})

    assert index_folder(config, original) != index_folder(config, other)


def test_a_build_that_was_killed_is_no_index(tiny: Callable[..., RunConfig], run: Callable[..., list[str]]) -> None:
    """Without the file that is written last, the others are made again."""
    run()
    folder = index_folder(tiny(), manifest.load(data_folder(tiny())))
    expected = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in folder.glob(f"*{CachedGPTDataset.__name__}*"):
        path.unlink() if path.suffix == ".txt" else path.write_bytes(path.read_bytes()[:50])
    run()

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == expected


def test_an_index_that_is_none_is_refused(
    tiny: Callable[..., RunConfig], run: Callable[..., list[str]], tmp_path: Path
) -> None:
    """A pickle in place of an array, which numpy would execute, is refused by name."""

    class Attack:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "attacked"),)

    run()
    folder = index_folder(tiny(), manifest.load(data_folder(tiny())))
    next(folder.glob("*-shuffle_index.npy")).write_bytes(pickle.dumps(Attack()))

    with pytest.raises(DataError, match=r"-shuffle_index\.npy is not a numpy array"):
        run()
    assert not (tmp_path / "attacked").exists()


def test_an_index_that_is_open_is_never_written_to(
    tiny: Callable[..., RunConfig], run: Callable[..., list[str]]
) -> None:
    """Two runs may build the same index at once; what the first maps is not changed by the second."""
    run()
    folder = index_folder(tiny(), manifest.load(data_folder(tiny())))
    with ExitStack() as stack:
        files = [
            stack.enter_context(path.open("rb")) for path in folder.glob(f"*{CachedGPTDataset.__name__}*_index.npy")
        ]
        before = [os.fstat(file.fileno()).st_mtime_ns for file in files]
        next(folder.glob(f"*{CachedGPTDataset.__name__}*.txt")).unlink()
        run()

        assert len(files) == 3
        assert [os.fstat(file.fileno()).st_mtime_ns for file in files] == before


def test_an_index_folder_that_cannot_be_made_is_one_error(run: Callable[..., list[str]], tmp_path: Path) -> None:
    """The error names the path."""
    (tmp_path / "file").touch()

    with pytest.raises(DataError, match=r"file/\w+: Not a directory$"):
        run(NPY_INDEX_DIR=tmp_path / "file")


def test_an_index_without_a_seed_is_refused(run: Callable[..., list[str]]) -> None:
    """A drawn seed would differ from the run's."""
    with pytest.raises(DataError, match="SEED or SEED_BASE is not set"):
        run(SEED="")


def test_an_index_that_does_not_fit_is_refused(run: Callable[..., list[str]]) -> None:
    """The error has the arithmetic, before anything is built."""
    with mock.patch("shutil.disk_usage", return_value=SimpleNamespace(free=1000)), pytest.raises(DataError) as caught:
        run()
    assert "has 1.0 kB" in str(caught.value)
    assert "A smaller MAX_STEPS" in str(caught.value)


def test_the_command_builds_what_the_environment_describes(tiny: Callable[..., RunConfig]) -> None:
    """`index` reads the variables that a run reads, and refuses what a run refuses."""
    environment = tiny(SEED=3).to_environment()
    done = CliRunner().invoke(main, ["index"], env=environment)
    assert (done.exit_code, done.output[:7]) == (0, "seed 3:")
    assert CliRunner().invoke(main, ["index"], env={**environment, "MINIBS": "x"}).exit_code == 2
