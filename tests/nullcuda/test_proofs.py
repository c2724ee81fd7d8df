"""What was shown of each combination of the low precisions, by its warm-up, a checkpoint and an evaluation.

On the null device nothing has a value: shown is which tensors are written to, not what with. docs/gpu.md has the table.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.checkout import ROOT
from harness.dryrun.answer import Answer, Verdict
from harness.dryrun.run import Rank, ask, run

pytestmark = pytest.mark.slow

TINY = {"LAYER_SPEC": "te", "DGXNGPU": "1", "MINIBS": "16", "MICRO_BATCH_SIZE": "8"}
FP8 = {"PRECISION": "fp8", "FP8_RECIPE": "tensorwise"}
COMBINATIONS = [
    {"PRECISION": "bf16"},
    {"PRECISION": "bf16", "USE_PRECISION_AWARE_OPTIMIZER": "True"},
    FP8,
    {"PRECISION": "fp8", "FP8_RECIPE": "blockwise"},
    {"PRECISION": "fp8", "FP8_RECIPE": "mxfp8"},
    FP8 | {"FP8_PARAM_GATHER": "True"},
    FP8 | {"FP8_PARAM_GATHER": "True", "NUM_LAYERS_AT_START_IN_BF16": "1"},
    FP8 | {"FP8_PARAM_GATHER": "True", "USE_PRECISION_AWARE_OPTIMIZER": "True"},
    {"PRECISION": "nvfp4"},
    {"PRECISION": "nvfp4", "NUM_LAYERS_AT_END_IN_BF16": "1"},
]
GRAPHS: tuple[dict[str, str], ...] = ({}, {"CUDA_GRAPH_IMPLEMENTATION": "local"}, {"FULL_CUDA_GRAPH": "True"})

HEAD = (
    "| combination | put back by the warm-up | set by a checkpoint | graphs of a step, in order | in an evaluation |\n"
    "|---|---:|---:|---:|---:|"
)


def row(combination: dict[str, str], answer: Answer) -> str:
    name = " ".join(f"{variable}={value}" for variable, value in combination.items())
    graphs = answer.step.calls.get("cudaGraphLaunch", 0)
    return f"| `{name}` | {answer.tensors} of {answer.tensors} | all | {graphs} | {answer.graphs_in_evaluation} |"


def refused(combination: dict[str, str]) -> bool:
    return {"FP8_PARAM_GATHER", "CUDA_GRAPH_IMPLEMENTATION"} <= combination.keys()


def test_every_combination_is_put_back_saved_and_read(null_python: str, tmp_path: Path) -> None:
    """With and without graphs; and the guide has the table."""
    del null_python  # made, or the test is skipped
    asked = [{**one, **graphs} for one in COMBINATIONS for graphs in GRAPHS if not refused(one | graphs)]
    ranks = [
        Rank(
            asked=ask(ROOT / "config_tiny.sh", TINY | one, "GB200"),
            rank=0,
            microbatches=2,
            steps=1,
            folder=tmp_path / str(number),
        )
        for number, one in enumerate(asked)
    ]
    found: dict[int, str] = {}
    for rank, outcome in run(ranks, jobs=2):
        number = ranks.index(rank)
        assert isinstance(outcome, Verdict), outcome
        assert outcome.faults == [], asked[number]
        assert outcome.answer.changed_by_warm_up == ()
        found[number] = row(asked[number], outcome.answer)
    table = "\n".join([HEAD, *(found[number] for number in range(len(asked)))])
    assert table in (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8"), table
