"""llama31 dryrun: which ranks it runs, and how it judges their answers. The answers are tested in tests/nullcuda."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmark.checkout import CONFIGS, ROOT
from benchmark.config import ConfigError, resolve
from benchmark.hardware import GPUS, OUTSIDE_ALLOCATOR
from harness.__main__ import main
from harness.dryrun import environment
from harness.dryrun.answer import Answer, RankVerdict
from harness.dryrun.lines import lines
from harness.dryrun.run import Asked, Rank, ask

H100 = CONFIGS / "config_DGXH100_64x8x288xtp8pp8cp2.sh"
SIXTEEN_LAYERS = 16 * (2 * 16384 * 128 * (128 + 8) + 3 * 16384 * 53248)


def answer(**changed: Any) -> Answer:
    """The answer of a rank of H100's second stage, with 16 microbatches of 4,096 tokens on an eighth of its layers."""
    values: dict[str, Any] = {
        "rank": 64,
        "stage": 1,
        "layer_spec": "te",
        "versions": {"torch": "2.13.0"},
        "parameters": 6_375_866_368,
        "layers": 16,
        "microbatches": 16,
        "changed_by_warm_up": [],
        "tensors": 100,
        "not_put_back": [],
        "not_read_back": [],
        "phases": [{"phase": "step 1", "allocated": 30 << 30, "peak": 60 << 30, "reserved": 70 << 30}],
        "holders": [{"what": "weights", "bytes": 12 << 30}],
        "graphs": 0,
        "graphs_out_of_order": 0,
        "graphs_in_evaluation": 0,
        "host": [{"wall_s": 2.0, "cpu_s": 1.6}],
        "step": {
            "calls": {"launches": 100, "matrix products": 10, "copy device to host": 1, "cudaEventRecord": 7},
            "waits": {"cudaStreamSynchronize": 3, "copy device to host, pageable": 1},
            "kernels": {},
            "products": {},
            "collectives": [{"operation": "all-gather", "group": "world", "calls": 4, "bytes": 1 << 30}],
            "faults": {},
            "unanswered": {},
        },
        "flops": {"step": 6 * SIXTEEN_LAYERS * 4096 * 16 // 8, "recomputed": 5, "attention": 7},
    }
    return Answer.model_validate(values | changed)


def verdict(**changed: Any) -> RankVerdict:
    return RankVerdict(config=ask(H100).config, gpu=GPUS["H100"], answer=answer(**changed))


def test_fewer_microbatches_keep_the_learning_rate_of_all() -> None:
    """8B's rate is free, and the reference has none at the smaller batch of a dry run."""
    asked = ask(ROOT / "config_DGX_8b.sh")
    fewer = asked.config.changed(MINIBS=asked.fewer_microbatches())
    assert fewer.schedule.base_learning_rate == resolve(ROOT / "config_DGX_8b.sh").config.schedule.base_learning_rate


def test_a_rank_that_fits_and_computes_the_model_passes() -> None:
    found = verdict()
    assert (found.faults, found.model_flops) == ([], found.flops)
    assert found.needed == (70 << 30) + OUTSIDE_ALLOCATOR
    assert (found.answer.waits, found.answer.launches, found.answer.host_ms) == (4, 115, 100.0)
    assert list(lines(found))[-1].startswith("PASS  fits: reserved 70.0 + outside the allocator ")


def test_what_is_reserved_and_not_what_is_allocated_has_to_fit() -> None:
    limit = GPUS["H100"].memory - OUTSIDE_ALLOCATOR
    phase = {"phase": "step 1", "allocated": 0, "peak": 60 << 30}
    assert verdict(phases=[phase | {"reserved": limit}]).fits
    (fault,) = verdict(phases=[phase | {"reserved": limit + 1}]).faults
    assert "is above the 79.6 GiB of a H100" in fault


@pytest.mark.parametrize("share", [0.998, 1.002])
def test_products_that_are_not_the_models_are_a_fault(share: float) -> None:
    (fault,) = verdict(flops={"step": int(verdict().model_flops * share)}).faults
    assert "the step computes something else" in fault


def test_a_rule_of_cuda_that_was_broken_is_a_fault() -> None:
    broken = answer().step.model_dump() | {"faults": {"cudaMalloc during a capture": 2}}
    assert verdict(step=broken).faults == ["2 x cudaMalloc during a capture: CUDA does not allow this"]


def test_a_warm_up_that_leaves_traces_is_a_fault() -> None:
    (fault,) = verdict(graphs_out_of_order=2).faults
    assert fault == "2 graphs are replayed out of the order of their capture"
    (fault,) = verdict(graphs_in_evaluation=2).faults
    assert fault == "an evaluation replays 2 graphs that belong to a step"
    (fault,) = verdict(not_put_back=["chunk 0, weight _scale_inv"]).faults
    assert fault == "the warm-up does not restore 1 tensor: chunk 0, weight _scale_inv ..."
    (fault,) = verdict(not_read_back=["chunk 0, weight _scale_inv"]).faults
    assert fault == "loading a checkpoint does not set 1 tensor: chunk 0, weight _scale_inv ..."
    (fault,) = verdict(changed_by_warm_up=["optimizer 0, group 0, step"]).faults
    assert fault == "the warm-up changes 1 entries of the optimizer: optimizer 0, group 0, step ..."


def test_the_head_counts_on_the_last_stage_alone() -> None:
    more = verdict(stage=7).model_flops - verdict().model_flops
    assert more == 6 * 32000 * 16384 * 4096 * 16 // 8


def test_json_says_what_the_text_says() -> None:
    document = json.loads(json.dumps(verdict().document()))
    assert (document["fits"], document["gpu"], document["own_microbatches"]) == (True, "H100", 288)
    assert (document["peak_bytes"], document["reserved_bytes"], document["host_waits"]) == (60 << 30, 70 << 30, 4)


@pytest.mark.parametrize(
    ("file", "stages", "ranks", "microbatches"),
    [
        (H100, [0, 1, 7], [0, 64, 448], 16),
        (CONFIGS / "config_GB200_2048x4x8xtp4pp8cp2.sh", [0, 1, 7], [0, 1024, 7168], 8),
        (CONFIGS / "config_DGXB200_1x8x4xtp1pp1cp1_8b.sh", [0], [0], 2),
    ],
)
def test_the_stages_that_may_need_most(file: Path, stages: list[int], ranks: list[int], microbatches: int) -> None:
    asked = ask(file)
    assert (asked.stages(), [asked.rank_of(stage) for stage in stages]) == (stages, ranks)
    assert asked.fewer_microbatches() == microbatches


def test_a_gpu_is_named_by_the_system_or_by_hand() -> None:
    template = ROOT / "config_DGX.sh"
    assert [ask(H100).gpu.name, ask(template).gpu.name, ask(template, gpu="GB300").gpu.name] == [
        "H100",
        "H100",
        "GB300",
    ]


def test_values_change_the_run_and_so_its_name() -> None:
    asked = ask(H100, {"PRECISION": "bf16", "FP8_PARAM_GATHER": "", "TENSOR_MODEL_PARALLEL": "4"})
    assert (asked.config.kernels.precision, asked.config.system) == ("bf16", "DGXH100_changed")
    with pytest.raises(ConfigError, match="PRECISON is not a variable of the harness; did you mean PRECISION"):
        ask(H100, {"PRECISON": "bf16"})


def test_a_rank_is_told_what_it_is_and_which_gpu_to_find() -> None:
    asked = ask(CONFIGS / "config_GB300_128x4x72xtp2pp8cp2.sh")
    told = json.loads(Rank(asked=asked, rank=130, microbatches=16).line())
    assert (told["variables"]["RANK"], told["variables"]["LOCAL_RANK"], told["microbatches"]) == ("130", "2", 16)
    assert (told["gpu"]["name"], told["gpu"]["capability"], told["gpu"]["count"]) == ("NVIDIA GB300", [10, 3], 4)
    assert isinstance(asked, Asked)
    assert asked.library["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rank", "512"], "--rank 512: expected 0 to 511, the ranks of the run"),
        (["--microbatches", "15"], "--microbatches 15: expected 16 (two for each pipeline stage) to 288 (the run's)"),
        (["--rank", "1", "--stages"], "give one"),
        (["PRECISION"], "PRECISION: expected NAME=VALUE"),
    ],
)
def test_wrong_use_is_refused(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(main, ["dryrun", str(H100), *arguments])
    assert (done.exit_code, said in done.output) == (2, True), done.output


def test_a_missing_environment_says_how_to_make_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("setup.sh", "pyproject.toml", "requirements.lock", "requirements-null.lock"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    done = CliRunner().invoke(main, ["dryrun", str(H100)])
    assert done.exit_code == 2
    assert "is missing or out of date: bash setup.sh --null-gpu makes it" in done.output


def test_nothing_of_this_machine_reaches_the_null_device(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    (tmp_path / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    told = environment.variables(
        python, {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}, {"LD_PRELOAD": "x", "CUDA_HOME": "y", "HOME": "z"}
    )
    assert (told["CUDA_DEVICE_MAX_CONNECTIONS"], told["HOME"]) == ("1", "z")
    assert not {"LD_PRELOAD", "CUDA_HOME"} & told.keys()
