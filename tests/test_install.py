"""The package without a checkout, as a reviewer installs it; and the locks, for both kinds of processors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark import __version__
from benchmark.checkout import ROOT
from tests.compliance.test_against_official import PUBLISHED, published
from tests.launches import launch, llama31_405b

pytestmark = pytest.mark.slow

Llama31 = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def llama31(tmp_path_factory: pytest.TempPathFactory) -> Llama31:
    """The program of `pip install PATH` in an environment of its own, called in an empty folder."""
    folder = tmp_path_factory.mktemp("reviewer")
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    python, elsewhere = folder / "env" / "bin" / "python", folder / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [python, "-m", "pip", "install", ROOT], cwd=elsewhere, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(python.with_name("llama31")), *map(str, arguments)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)

    return call


def test_it_brings_no_torch(llama31: Llama31) -> None:
    """It has no torch, and says which verbs it has."""
    assert llama31("--version").stdout == f"llama31, version {__version__}\n"
    said = llama31("doctor").stdout.splitlines()
    assert "torch               not installed" in said
    assert any(line.startswith("missing ") and "torch, for run" in line for line in said)


@pytest.mark.parametrize("verb", [["run"], ["job", "--id", "1", "--nodes", "n1"], ["package", ".", "--out", "x"]])
def test_what_needs_a_checkout_says_so(verb: list[str], llama31: Llama31, tmp_path: Path) -> None:
    """Such a verb ends with one line and status 2."""
    system = tmp_path / "system.yaml"
    system.touch()
    more = ["--system-yaml", system] if verb[0] == "package" else []
    done = llama31(*verb, *more)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: `llama31 {verb[0]}` needs a checkout of the repository")


@published
def test_published_logs_are_checked(llama31: Llama31) -> None:
    """They are checked as in the checkout."""
    done = llama31("check", PUBLISHED / "v5.1", "--ruleset", "5.1.0")
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].startswith("PASS ")


def test_every_verb_that_trains_nothing_works(llama31: Llama31, tmp_path: Path, subtests: pytest.Subtests) -> None:
    """Plans, rehearsals, reports, rules, the official tools; results go below the folder that one works in."""
    runs = launch(tmp_path / "runs", llama31_405b())
    made = llama31("config", "new", "--gpu", "H200", "--nodes", 64)
    config = made.stdout.strip()
    log = runs / "result_0.txt"
    for verb in (
        ["show", config],
        ["plan", config],
        ["simulate", config],
        ["score", runs],
        ["rcp", runs],
        ["official", runs],
        ["report", runs, "-o", tmp_path / "report.html"],
        ["watch", "--once", log],
        ["rules"],
        ["checkpoint", "--help"],
        ["data", "--help"],
    ):
        with subtests.test(str(verb[0])):
            done = llama31(*verb)
            assert done.returncode == 0, done.stdout + done.stderr
            if verb[0] == "simulate":
                assert "results/simulated/" in done.stdout


@pytest.mark.parametrize("lock", ["requirements-host.lock", "requirements.lock", "requirements-dev.lock", "torch"])
def test_every_locked_package_is_there_for_aarch64(lock: str, tmp_path: Path) -> None:
    """pip, asked for the hosts of GB200 and GB300, finds a wheel of each; nothing is installed."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (torch,) = re.findall(r"torch==[0-9.]+", project)
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in (17, 24, 26, 27, 28, 34)]
    text = torch if lock == "torch" else (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    # pip judges conditions by the machine that it runs on.
    wanted = tmp_path / "wanted"
    lines = (line for line in text.splitlines() if "platform_machine == 'x86_64'" not in line)
    wanted.write_text("\n".join(lines), encoding="utf-8")
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--only-binary=:all:"]
    options = [
        *platforms,
        "--platform=manylinux2014_aarch64",
        "--python-version=3.11",
        f"--target={tmp_path}",
        "-r",
        str(wanted),
    ]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
