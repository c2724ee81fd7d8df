"""Measures building and opening the index of the training data at its real size, against Megatron-Core's own code.

The dataset has as many documents and tokens as C4's last 256 shards, 91.6 million and 47.8 billion: drawn lengths in a
real `.idx`, and a `.bin` that takes no space. Each build has a process of its own, for a peak memory of its own. All
arrays of the two indices are compared. Needs 4 GB in the temporary folder.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from benchmark.benchmarks import LLAMA31_405B
from benchmark.checkout import ROOT
from benchmark.config import RunConfig
from reference_impl.data.inspect import expected_counts
from reference_impl.data.pair import write_idx
from reference_impl.data.published import PUBLISHED, manifest_of
from reference_impl.tokenizer import Tokenizer, benchmark_tokenizer

SIZES, DATASET = PUBLISHED[LLAMA31_405B.name].sizes, LLAMA31_405B.dataset
MAX_STEPS = 500
"""As in NVIDIA's published configurations."""


def make_dataset(folder: Path, scale: float) -> None:
    """Make pairs with `scale` times the published documents and tokens; lengths vary like those of web pages."""
    generator = np.random.default_rng(0)
    for prefix in {name.rsplit(".", 1)[0] for name in SIZES}:
        documents, tokens = expected_counts(SIZES, prefix, itemsize=2)
        assert documents is not None
        assert tokens is not None
        share = scale if prefix in DATASET.train else 1.0
        drawn = generator.lognormal(0.0, 1.0, int(documents * share))
        lengths = np.maximum(1, drawn * (tokens * share / drawn.sum())).astype(np.int32)
        write_idx(folder / f"{prefix}.idx", np.dtype(np.uint16), lengths)
        with (folder / f"{prefix}.bin").open("wb") as file:
            file.truncate(2 * int(lengths.sum(dtype=np.int64)))


def build(which: str, folder: Path, cache: Path) -> dict[str, float]:
    """Open the training blend, building its index if `cache` has none; return seconds and peak bytes."""
    from megatron.core.datasets.gpt_dataset import GPTDataset

    from reference_impl.data.read import datasets
    from reference_impl.data.read.index import one_process

    if which == "Megatron-Core":
        datasets.CachedGPTDataset = GPTDataset  # type: ignore[misc]
    variables = {
        "BENCHMARK": LLAMA31_405B.name,
        "RULESET": LLAMA31_405B.rulesets[-1],
        "DGXSYSTEM": "perf",
        "DGXNNODES": "1",
        "DGXNGPU": "1",
        "MINIBS": "1152",
        "SEED": "1",
        "MAX_STEPS": str(MAX_STEPS),
        "NPY_INDEX_DIR": str(cache),
    }
    config = RunConfig.from_environment(variables)
    tokenizer = Tokenizer(benchmark_tokenizer())
    with one_process():
        wall, cpu = time.perf_counter(), time.process_time()
        train = datasets.open_train(config, folder, manifest_of(LLAMA31_405B, {}), tokenizer)
        train[0]
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall": wall, "cpu": cpu, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def digests(cache: Path) -> set[tuple[str, str]]:
    """Return (kind of array, checksum) for each array of an index."""
    pairs = set()
    for path in cache.rglob("*.npy"):
        with path.open("rb") as file:
            pairs.add((path.stem.rsplit("-", 1)[-1], hashlib.file_digest(file, "sha256").hexdigest()))
    return pairs


@click.command()
@click.option("--scale", default=1.0, show_default=True, help="Size of the training data, relative to the real one.")
@click.option("--child", nargs=3, hidden=True)
def main(scale: float, child: tuple[str, str, str] | None) -> None:
    """Measure cold builds and a warm start, and compare the bytes."""
    if child:
        print(json.dumps(build(child[0], Path(child[1]), Path(child[2]))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "data"
        folder.mkdir()
        # A child's peak starts at what its parent holds, so the lengths are drawn in another process.
        maker = multiprocessing.get_context("spawn").Process(target=make_dataset, args=(folder, scale))
        maker.start()
        maker.join()
        caches = {which: Path(name) / which for which in ("Megatron-Core", "ours")}
        rounds = (("cold", "Megatron-Core"), ("cold", "ours"), ("warm", "Megatron-Core"), ("warm", "ours"))
        for start, which in rounds:
            command = [sys.executable, "-m", "perf.index", "--child", which, str(folder), str(caches[which])]
            done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
            took = json.loads(done.stdout)
            print(
                f"{start}  {which:14} {took['wall']:6.2f} s   {took['cpu']:6.2f} core-s   "
                f"peak {took['peak'] / 1e9:5.2f} GB",
                flush=True,
            )
        theirs, ours = (digests(cache) for cache in caches.values())
        print(f"{len(ours)} arrays, {'the same bytes' if ours == theirs else 'OTHER BYTES'}")


if __name__ == "__main__":
    main()
