"""What was shown of each combination of the low precisions, by its warm-up, a checkpoint and an evaluation.

On the null device nothing has a value: shown is which tensors are written to, not what with. docs/gpu.md has the table.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.checkout import ROOT
from harness.dryrun.answer import RankVerdict
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
    "| combination | without graphs | `CUDA_GRAPH_IMPLEMENTATION=local` | `FULL_CUDA_GRAPH=True` |",
    "|---|---|---|---|",
)
SHOWN = ("put back, read back", "and replayed in order", "and replayed once")


def row(combination: dict[str, str]) -> str:
    """What docs/gpu.md says of one."""
    name = " ".join(f"{variable}={value}" for variable, value in combination.items())
    cells = ("refused" if refused(combination | graphs) else shown for graphs, shown in zip(GRAPHS, SHOWN, strict=True))
    return f"| `{name}` | {' | '.join(cells)} |"


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
    for rank, outcome in run(ranks, jobs=2):
        combination = asked[ranks.index(rank)]
        assert isinstance(outcome, RankVerdict), outcome
        # Of tensors that are not put back or not read, of group keys, and of graphs out of order or in an evaluation.
        assert outcome.faults == [], combination
        replayed = {"CUDA_GRAPH_IMPLEMENTATION": 4 * 2, "FULL_CUDA_GRAPH": 1}
        expected = sum(count for switch, count in replayed.items() if switch in combination)
        assert outcome.answer.step.calls.get("cudaGraphLaunch", 0) == expected, combination
    table = "\n".join([*HEAD, *map(row, COMBINATIONS)])
    assert table in (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8"), table
