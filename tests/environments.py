"""Environments that only some tests need. Continuous integration makes them; elsewhere they are used where they are."""

from __future__ import annotations

import os
import subprocess

import pytest

from benchmark.checkout import ROOT

# Status of setup.sh: it cannot be tried, or no package index answers.
CANNOT = 2


def interpreter_of(option: str, folder: str, size: str) -> str:
    """Return the interpreter of the environment that `setup.sh OPTION` makes in `folder`; skip the test without one."""
    if "CI" not in os.environ and not (ROOT / folder).exists():
        pytest.skip(f"an environment of its own, {size}: bash setup.sh {option} makes it")
    command = ["bash", str(ROOT / "setup.sh"), option]
    setup = subprocess.run(command, capture_output=True, text=True, check=False)
    if setup.returncode == CANNOT:
        pytest.skip(setup.stderr.splitlines()[-1])
    assert setup.returncode == 0, setup.stderr
    return setup.stdout.strip()
