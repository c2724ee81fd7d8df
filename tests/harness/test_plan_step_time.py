"""The step-time model: its terms, its constants, and its predictions of published steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.hardware import GPUS
from benchmark.sizes import SIZES
from harness.plan import calibration
from harness.plan.calibration import Constants, Measured, calibrate, fit
from harness.plan.job import TrainingJob
from harness.plan.step_time import KINDS, PARTS, breakdown, seconds, step, terms, total
from perf.plan_accuracy import constant_rate, errors, fitted, read_eight
from tests.harness.plan_data import GB200, jobs, published

ONE = Constants()


@given(jobs(), st.integers(1, 500))
def test_a_step_is_linear_in_its_microbatches(job: TrainingJob, microbatches: int) -> None:
    """Its time is a microbatch's time for each and for the bubble, plus what is paid once."""
    parts, job = step(job), replace(job, microbatches=microbatches)
    expected = total(parts.microbatch, ONE) * (microbatches + job.bubble) + total(parts.once, ONE)
    assert seconds(job, ONE) == pytest.approx(expected)


@given(jobs())
def test_the_parts_make_the_step(job: TrainingJob) -> None:
    """Every second is in one part, and every part is shown."""
    parts = breakdown(job, ONE)
    assert tuple(parts) == PARTS
    assert sum(parts.values()) == pytest.approx(seconds(job, ONE))
    assert min(parts.values()) >= 0


def test_every_part_is_of_one_kind() -> None:
    """The kinds that a search shows hold all parts, each once."""
    assert sorted(part for parts in KINDS.values() for part in parts) == sorted(PARTS)


@given(jobs(), st.sampled_from(["bf16", "memory_bandwidth", "nvlink", "nic", "nvlink_domain"]), st.integers(1, 4))
def test_a_better_gpu_is_never_slower(job: TrainingJob, what: str, times: int) -> None:
    """Whatever part of a GPU or of its links gets faster, no step gets longer."""
    better = replace(job.gpu, **{what: times * getattr(job.gpu, what)})
    assert seconds(replace(job, gpu=better), ONE) <= seconds(job, ONE)


@given(jobs(), st.integers(1, 8))
def test_more_gpus_are_never_more_than_so_much_faster(job: TrainingJob, times: int) -> None:
    """With the same batch over more replicas, a step costs at least as many GPU-seconds."""
    few = replace(job, microbatches=times * job.microbatches)
    many = replace(job, gpus=times * job.gpus)
    assert many.global_batch_size == few.global_batch_size
    assert times * seconds(many, ONE) >= seconds(few, ONE) * (1 - 1e-12)


@given(jobs())
def test_recomputing_more_takes_longer(job: TrainingJob) -> None:
    """Nothing, the MLPs, whole layers: each step takes longer than the one before, the last by less than half."""
    each = [seconds(replace(job, recompute=frozenset(what)), ONE) for what in ((), ("mlp",), ("full",))]
    assert each[0] < each[1] < each[2] < 1.5 * each[0]


@given(jobs())
def test_recomputing_layers_repeats_their_forward_pass(job: TrainingJob) -> None:
    """A third of the matrix products and elementwise work, on stages without the output layer."""
    job = replace(job, vocabulary=1)
    kept, again = (breakdown(replace(job, recompute=frozenset(what)), ONE) for what in ((), ("full",)))
    for part in ("matrix products", "elementwise"):
        assert again[part] == pytest.approx(kept[part] * 4 / 3, rel=1e-4)


def test_matrix_products_are_those_of_the_model() -> None:
    """On one GPU, products and attention are the FLOPs that the model's size states, but for the norms."""
    job = replace(GB200, gpus=1, tensor=1, pipeline=1, chunks=1, context=1, microbatches=1, precision="bf16")
    flops = {term.part: 0.0 for term in terms(job)}
    for term in terms(job):
        flops[term.part] += term.seconds * job.gpu.bf16 * 1e12
    # Flash attention's backward pass is 2.5 times the forward one; counted are twice.
    found = flops["matrix products"] + flops["attention"] * 3 / 3.5
    assert found == pytest.approx(job.size.flops_per_sample(8192, 32_000), rel=1e-5)


def test_no_pipeline_has_no_bubble() -> None:
    """The bubble is (PP - 1) / VP microbatches."""
    assert replace(GB200, pipeline=1, chunks=1).bubble == 0
    assert GB200.bubble == 7 / 8


def test_a_gpu_without_the_precision_is_refused() -> None:
    """An H100 has no fp4 matrix products."""
    with pytest.raises(ValueError, match="H100 has no nvfp4"):
        seconds(replace(GB200, gpu=GPUS["H100"]), ONE)


def steps_of(constants: Constants) -> list[Measured]:
    """Steps that take exactly what the model says with `constants`, on layouts that tell its parts apart."""
    cuts = [
        replace(GB200, microbatches=microbatches, gpus=gpus, precision=precision, tensor=tensor)
        for microbatches, gpus in ((8, 8192), (48, 1024), (144, 512))
        for precision in ("bf16", "fp8", "nvfp4")
        for tensor in (2, 4)
    ]
    return [Measured(job=job, seconds=seconds(job, constants), source="made") for job in cuts]


def test_the_fit_finds_what_made_the_steps() -> None:
    """Steps made by other constants than the priors are reproduced, and predicted for another scale."""
    made = Constants(
        {"fixed": 0.4, "data": 0.9, "matmul.Blackwell.fp8": 1.2, "tensor": 0.5, "elementwise.Blackwell": 5.0}
    )
    found = fit(steps_of(made))
    assert all(seconds(row.job, found) == pytest.approx(row.seconds, rel=5e-3) for row in steps_of(made))
    elsewhere = replace(GB200, microbatches=16, gpus=4096, precision="fp8")
    assert seconds(elsewhere, found) == pytest.approx(seconds(elsewhere, made), rel=0.01)


def test_what_nothing_measures_stays_at_its_prior() -> None:
    """Without rows there are no constants, and any constant has its physical value."""
    found = fit([])
    assert found == {}
    assert found["attention"] == calibration.PRIORS["attention"].value


def test_a_calibration_of_ones_own_changes_what_it_measures() -> None:
    """One step, 20 % slower than shipped constants say, moves the prediction most of the way there."""
    shipped = calibration.load()
    job = replace(GB200, release=calibration.OWN)
    slow = 1.2 * seconds(job, shipped.of(job.size).constants)
    row = Measured(job=job, seconds=slow, source="result_0.txt")
    mine = calibrate([row], made="", command="", before=shipped)
    assert seconds(job, mine.of(job.size).constants) == pytest.approx(slow, rel=0.02)
    assert mine.software("GB200", "nvfp4", job.size) == (calibration.OWN, "mlperf")
    # What the row does not tell is as before, and so is the other size.
    hopper, eight = "matmul.Hopper.fp8", SIZES["8b"]
    assert mine.of(job.size).constants[hopper] == shipped.of(job.size).constants[hopper]
    assert mine.of(eight) == shipped.of(eight)
    assert mine.software("GB200", "nvfp4", eight) == ("v5.1", "mlperf")


def test_a_size_that_nobody_measured_takes_the_nearest_ones_constants() -> None:
    """70B uses 405B's, the tiny model 8B's; their spread shows that they were not measured."""
    shipped = calibration.load()
    for size, like in (("70b", "405b"), ("tiny", "8b")):
        assert shipped.of(SIZES[size]) is shipped.sizes[like]
        assert shipped.spread(replace(GB200, size=SIZES[size])) == 0.3


def test_the_spread_says_what_is_known() -> None:
    """It is 30 % for a GPU and precision never measured, 10 % measured once, less if the rows agree."""
    shipped = calibration.load()
    never, once, often = (
        shipped.spread(replace(GB200, gpu=GPUS[name], precision=precision))
        for name, precision in (("B200", "nvfp4"), ("B200", "fp8"), ("GB200", "nvfp4"))
    )
    assert (never, once) == (0.3, 0.1)
    assert 0.05 <= often < 0.1


def test_the_shipped_file_says_where_it_comes_from() -> None:
    """It has a date, the command, and each row's source and errors; written back, it is the same."""
    text = calibration.SHIPPED.read_text(encoding="utf-8")
    shipped = calibration.load()
    assert calibration.dump(shipped) == text
    assert shipped.made
    assert "plan calibrate --from-scratch" in shipped.command
    assert all(residual.source for residual in shipped.residuals)
    assert set(json.loads(text)["residuals"][0]) == {"source", "group", "software", "gpus", "error", "left_out"}


def test_constants_are_no_table_of_the_rows() -> None:
    """405B has under half as many constants as rows; 8B's predict each row that they were not fitted to."""
    shipped = calibration.load()
    rows = {size: [row for row in shipped.residuals if row.group.endswith(f" {size}")] for size in ("405b", "8b")}
    assert len(shipped.sizes["405b"].constants) < len(rows["405b"]) / 2
    left_out = np.abs([row.left_out for row in rows["8b"]])
    assert left_out.mean() <= 0.05
    assert left_out.max() <= 0.12


def test_a_file_that_is_no_calibration_is_refused(tmp_path: Path) -> None:
    """The message names the file and what is wrong with it."""
    path = tmp_path / "mine.json"
    path.write_text('{"made": "today"}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine\.json is not a calibration file"):
        calibration.load(path)


def test_the_shipped_constants_are_those_of_the_published_rows() -> None:
    """Fitted again, they come out the same to the digits of the file."""
    for size, rows in (("405b", published().all), ("8b", read_eight().all)):
        found, shipped = fit(rows), calibration.load().sizes[size].constants
        assert {name: round(value, 4) for name, value in found.items()} == shipped


def test_small_rows_predict_large_ones() -> None:
    """Fitted to at most 512 GPUs, it errs by 3 % on average on larger runs, 6 % at worst, half of a constant rate's."""
    data = published()
    small = [row for row in data.all if row.job.gpus <= 512]
    large = [row for row in data.runs if row.job.gpus > 512]
    found = np.abs(errors(large, fitted(small)))
    assert found.mean() <= 0.03
    assert found.max() <= 0.06
    assert found.mean() < np.abs(errors(large, constant_rate(small))).mean() / 2


def test_one_pipeline_depth_predicts_others() -> None:
    """Fitted to PP 8, it errs by 5 % on average for other depths, 15 % at worst."""
    rows = published().all
    other = [row for row in rows if row.job.pipeline != 8]
    found = np.abs(errors(other, fitted([row for row in rows if row.job.pipeline == 8])))
    assert found.mean() <= 0.05
    assert found.max() <= 0.15
