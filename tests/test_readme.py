"""The README is true: every command in it is run here, and every link leads somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.checkout import ROOT
from harness.simulate import SimulatedPace, VirtualClock, simulate
from tests.logs import llama31_405b

README = (ROOT / "README.md").read_text(encoding="utf-8")

RUN_ELSEWHERE = {
    "bash run_and_time.sh": "run whole by tests/test_run_and_time.py",
    "bash run_tests.sh": "what runs this test",
    "bash run_tests.sh --slow": "the same with another selection",
    "bash setup.sh --null-gpu": "what tests/nullcuda run in",
    "llama31 dryrun configs/config_GB200_128x4x144xtp4pp8cp2.sh --stages": "run by tests/nullcuda/test_shapes.py",
    "llama31 submission init configs/config_DGXH100_64x8x288xtp8pp8cp2.sh": "run by tests/harness/test_submission.py",
    "DATADIR=/data/c4 LOAD_CHECKPOINT=/data/405b NEXP=3 WALLTIME=970 llama31 preflight "
    "configs/config_DGXH100_64x8x288xtp8pp8cp2.sh --system-yaml system.yaml": "run by tests/harness/test_here.py",
    "llama31 data download llama31_405b /data/c4": "run from a local server by "
    "tests/reference_impl/test_data_download.py",
    "llama31 data prepare /data/c4 --c4 /data/c4/en": "run by tests/reference_impl/test_data_prepare.py",
    "llama31 data verify --quick --expect llama31_405b /data/c4": "run by tests/reference_impl/test_data_manifest.py",
    "llama31 checkpoint inspect /data/405b": "run by tests/reference_impl/test_checkpoint_cli.py",
    "llama31 rcp --write rcp.json PATH...": "run by tests/compliance/test_rcp.py",
    "llama31 official PATH": "run by tests/compliance/test_official.py",
    "llama31 package results/logs/DGXH100_64x8x288xtp8pp8cp2 --out results "
    "--system-yaml system.yaml": "run by tests/compliance/test_package.py",
    "llama31 package results/simulated/DGXH100_64x8x288xtp8pp8cp2 --rehearse --out rehearsal "
    "--system-yaml system.yaml": "run by tests/compliance/test_package.py",
}


def commands() -> list[str]:
    """The commands of the README's indented blocks, without their comments."""
    lines = re.findall(r"^ {4}((?:[A-Z_]+=\S+ )*(?:bash|(?:\.venv/bin/)?llama31) .*)$", README, re.MULTILINE)
    return [line.split("  #")[0].strip() for line in lines]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three runs of llama31_405b."""
    folder = tmp_path_factory.mktemp("runs")
    clock = VirtualClock(1.8e9)
    for seed in range(3):
        simulate(llama31_405b(SEED=seed, RESULT_FILE=str(folder / f"result_{seed}.txt")), clock, SimulatedPace())
    return folder


def runnable(command: str, runs: Path, out: Path) -> list[str]:
    """A command of the README as it can be run here: a variant of the main job is shown instead of trained."""
    command = command.replace("bash run_and_time.sh", "llama31 show config_tiny.sh").removeprefix(".venv/bin/")
    command = re.sub(r"PATH(\.\.\.)?(?= |/|$)|results/logs$", shlex.quote(str(runs)), command)
    command = command.replace("-o report.html", f"-o {shlex.quote(str(out))}")
    command = command.replace("llama31 simulate", f"llama31 simulate --out {shlex.quote(str(out))}")
    return ["bash", "-euc", command.replace("llama31 ", f"{shlex.quote(sys.executable)} -m harness ")]


@pytest.mark.parametrize("command", [command for command in commands() if command not in RUN_ELSEWHERE])
def test_a_command_of_the_readme_works(command: str, runs: Path, tmp_path: Path) -> None:
    """Each command ends with status 0."""
    arguments = runnable(command, runs, tmp_path / "out")
    done = subprocess.run(arguments, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_shows_both_first_commands() -> None:
    """The main job and the check are what a reader meets first."""
    assert commands()[0] == "bash run_and_time.sh"
    assert commands()[1].startswith(".venv/bin/llama31 check")
