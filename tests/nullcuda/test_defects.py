"""Defects that only the GPU's own code showed: a rank of a small world each, all in one process of the null device."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmark.checkout import CONFIGS, ROOT
from harness.dryrun.answer import RankVerdict
from harness.dryrun.environment import variables
from harness.dryrun.run import Asked, Rank, ask, run

pytestmark = pytest.mark.slow

ONE_RANK = {
    "BENCHMARK": "llama31_tiny",
    "DGXSYSTEM": "null",
    "DGXNNODES": "1",
    "DGXNGPU": "1",
    "MINIBS": "8",
    "SEED": "1",
}
TINY = {"PRECISION": "bf16", "DGXNGPU": "1", "MINIBS": "16", "MICRO_BATCH_SIZE": "8"}
H200 = CONFIGS / "config_DGXH200_64x8x144xtp4pp8cp2.sh"


def tiny(**values: str) -> Asked:
    return ask(ROOT / "config_tiny.sh", TINY | values, "H200")


@pytest.fixture(scope="module")
def verdicts(null_python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RankVerdict]:
    del null_python  # made, or the test is skipped
    split = ask(H200, {"LAYER_SPEC": "torch", "PRECISION": "bf16", "FP8_PARAM_GATHER": ""})
    few, many, folder = tiny(LAYER_SPEC="te"), tiny(LAYER_SPEC="te", MINIBS="64"), tmp_path_factory.mktemp("state")
    halved = tiny(LAYER_SPEC="te", USE_PRECISION_AWARE_OPTIMIZER="True")
    piped = ask(
        ROOT / "config_tiny.sh",
        TINY
        | {"DGXNGPU": "2", "PIPELINE_MODEL_PARALLEL": "2", "MINIBS": "32", "LAYER_SPEC": "te"}
        | {"PRECISION": "nvfp4", "CUDA_GRAPH_IMPLEMENTATION": "local"},
        "GB200",
    )
    ranks = {
        "te": Rank(asked=few, rank=0, microbatches=2),
        "te, more microbatches": Rank(asked=many, rank=0, microbatches=8),
        "moments in bf16": Rank(asked=halved, rank=0, microbatches=2, folder=folder / "step_1"),
        "graphs": Rank(asked=tiny(LAYER_SPEC="te", CUDA_GRAPH_IMPLEMENTATION="local"), rank=0, microbatches=2),
        "graphs in a pipeline": Rank(asked=piped, rank=1, microbatches=4),
        "one graph": Rank(asked=tiny(LAYER_SPEC="te", FULL_CUDA_GRAPH="True"), rank=0, microbatches=2),
        "CP rank 0": Rank(asked=split, rank=0, microbatches=16),
        "CP rank 1": Rank(asked=split, rank=4, microbatches=16),
    }
    found = {}
    for rank, outcome in run(list(ranks.values())):
        assert isinstance(outcome, RankVerdict), outcome
        found[next(name for name, one in ranks.items() if one is rank)] = outcome
    return found


@pytest.mark.parametrize("name", ["te", "moments in bf16"])
def test_a_warm_up_leaves_transformer_engines_optimizer_as_it_was(verdicts: dict[str, RankVerdict], name: str) -> None:
    assert verdicts[name].answer.changed_by_warm_up == ()


def test_the_host_waits_as_often_however_many_microbatches_a_step_has(verdicts: dict[str, RankVerdict]) -> None:
    few, many = verdicts["te"].answer, verdicts["te, more microbatches"].answer
    assert (few.microbatches, many.microbatches) == (2, 8)
    assert few.step.waits == many.step.waits


def test_moments_in_bf16_are_saved_and_loaded(verdicts: dict[str, RankVerdict]) -> None:
    assert [phase.phase for phase in verdicts["moments in bf16"].answer.phases[-2:]] == ["save", "load"]


def test_graphs_without_a_pipeline_are_captured_and_replayed(verdicts: dict[str, RankVerdict]) -> None:
    """Each of the two layers has a forward and a backward graph, captured by CUDA's rules, with the model's
    products.
    """
    answer = verdicts["graphs"].answer
    assert (answer.graphs, answer.step.calls["cudaGraphLaunch"]) == (4, 4 * answer.microbatches)
    assert verdicts["graphs"].faults == []


def test_an_iteration_is_one_graph(verdicts: dict[str, RankVerdict]) -> None:
    """It is captured in the warm-up and replayed once a step, with the model's products; an evaluation replays none."""
    answer = verdicts["one graph"].answer
    assert (answer.graphs, answer.step.calls["cudaGraphLaunch"], answer.graphs_in_evaluation) == (1, 1, 0)
    assert answer.launches < verdicts["te"].answer.launches
    assert verdicts["one graph"].faults == []


def test_graphs_in_a_pipeline_are_replayed_in_the_order_of_their_capture(verdicts: dict[str, RankVerdict]) -> None:
    """One for each pass of each of the four microbatches; those of an evaluation, which has one, replay none, and the
    step after it begins with the first graph again."""
    answer = verdicts["graphs in a pipeline"].answer
    assert (answer.graphs, answer.step.calls["cudaGraphLaunch"]) == (8, 8)
    assert (answer.graphs_out_of_order, answer.graphs_in_evaluation) == (0, 0)
    assert verdicts["graphs in a pipeline"].faults == []


def test_every_context_parallel_rank_runs_the_same_kernels(verdicts: dict[str, RankVerdict]) -> None:
    first, second = verdicts["CP rank 0"].answer.step, verdicts["CP rank 1"].answer.step
    # How often differs: the first rank's first block has nothing before it.
    assert first.kernels.keys() == second.kernels.keys()
    assert first.calls["cudnnBackendExecute"] > 0


@pytest.mark.parametrize("module", ["harness", "reference_impl.pretrain"])
def test_a_run_on_the_null_device_leaves_nothing(null_python: str, tmp_path: Path, module: str) -> None:
    """A launch or a rank that uses it ends with one error, no log and no run.json."""
    told = variables(Path(null_python), {}) | {name: str(value) for name, value in ONE_RANK.items()}
    told |= {
        "LOGDIR": str(tmp_path / "logs"),
        "RESULT_FILE": str(tmp_path / "result.txt"),
        "NPY_INDEX_DIR": str(tmp_path),
    }
    arguments = ["run", str(ROOT / "config_tiny.sh")] if module == "harness" else []
    rank = {} if module == "harness" else {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    done = subprocess.run(
        [null_python, "-m", module, *arguments], cwd=ROOT, env=told | rank, capture_output=True, text=True, check=False
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("error: ")]
    assert (done.returncode, len(said), list(tmp_path.rglob("*.*"))) == (2, 1, []), done.stdout + done.stderr
    assert "is the null device, which counts but computes nothing: only `llama31 dryrun` uses it" in said[0]
