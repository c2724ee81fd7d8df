"""A benchmark of the tests' own, in every process that has the folder of its `sitecustomize.py` on its PYTHONPATH.

8B cut down: two layers of 128, all 128,256 rows, short sequences, and a target that a minute of one CPU core reaches.
"""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

from benchmark.benchmarks import LLAMA31_8B, LLAMA31_TINY, Benchmark, random_first_loss
from benchmark.rules import FreeLearningRate, ReferencePoint

NAME = "llama31_8b_cut"

_SIZE = replace(LLAMA31_8B.size, layers=2, hidden=128, ffn_hidden=384, heads=8, query_groups=2)

# The stand-in for the tokenizer spells English in single bytes, of which a model that has learnt only how often each
# occurs has 3.1 nats.
_RULES = replace(
    LLAMA31_8B.rules[-1],
    benchmark=NAME,
    target_log_perplexity=3.4,
    sequence_length=32,
    eval_sequences=16,
    eval_every_sequences=64,
    accepted_cadences=range(0),
    learning_rate=FreeLearningRate(end_fraction=0.1, total_steps=1000),
    runs=3,
    fixed_max_steps=None,
    reference_points=(
        ReferencePoint(global_batch_size=8, samples=(192,) * 6, base_learning_rate=4e-3, warmup_samples=64),
    ),
)

ROW = Benchmark(
    name=NAME,
    size=_SIZE,
    tokenizer=LLAMA31_8B.tokenizer,
    dataset=LLAMA31_TINY.dataset,
    initial_train_loss=random_first_loss(_SIZE, LLAMA31_8B.vocabulary),
    submittable=False,
    give_up_samples=8000,
    rules=(_RULES,),
)


def stand_in(path: Path) -> Path:
    """Write a stand-in for Llama 3.1's tokenizer file: 128,000 ranks, which 256 special tokens follow."""
    singles = [bytes([value]) for value in range(256)]
    longer = (bytes([1 + index // 65536, index // 256 % 256, index % 256]) for index in range(128_000 - 256))
    path.write_bytes(b"".join(base64.b64encode(rank) + b" %d\n" % at for at, rank in enumerate([*singles, *longer])))
    return path


def hook(folder: Path) -> Path:
    """Write the `sitecustomize.py` that adds the row to every Python that finds it."""
    text = "from benchmark.benchmarks import BENCHMARKS\nfrom tests.own_row import ROW\n\nBENCHMARKS[ROW.name] = ROW\n"
    (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
    return folder
