"""Every shipped shape runs on the null device, fits, and computes the model's products.

The stage of each that needs most; docs/dryrun.md has the others, too. What the planner says of a peak is compared with
tests/golden/null_peaks.json by tests/harness/test_plan_memory.py, and that file with the device here.
"""

from __future__ import annotations

import json

import pytest

from benchmark.checkout import ROOT
from benchmark.hardware import GPUS, gpu_of_system
from harness.dryrun.answer import RankVerdict
from harness.dryrun.run import DEFAULT_GPU, run
from perf.dryrun import planned, shipped, worst_ranks

pytestmark = pytest.mark.slow

REPEATED = 0.005
"""How far apart two measurements may be: of fp4's gathered inputs, more or fewer wait for a watchdog to be freed."""


PEAKS = json.loads((ROOT / "tests" / "golden" / "null_peaks.json").read_text())["peaks"]

SHAPES = {
    gpu: [path for path in shipped() if (gpu_of_system(path.stem) or DEFAULT_GPU) is GPUS[gpu]] for gpu in sorted(GPUS)
}


# Each GPU has a test of its own, so that a slow machine does not reach the time limit of one.
@pytest.mark.parametrize("gpu", [gpu for gpu, configs in SHAPES.items() if configs])
def test_every_shape_fits_and_needs_what_it_did(gpu: str, null_python: str, subtests: pytest.Subtests) -> None:
    """Each shape runs on the null device, fits, and needs the memory of before, which is at most what is planned."""
    del null_python  # made, or the test is skipped
    before = {(row["config"], row["stage"]): row["allocated"] for row in PEAKS}
    for rank, outcome in run(worst_ranks(SHAPES[gpu]), jobs=2):
        with subtests.test(msg=rank.asked.config.system, rank=rank.rank):
            assert isinstance(outcome, RankVerdict), outcome
            assert outcome.faults == []
            answer = outcome.answer
            assert answer.peak == pytest.approx(before[outcome.config.system, answer.stage], rel=REPEATED)
            assert answer.peak <= planned(outcome)
