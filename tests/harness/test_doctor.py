"""`llama31 doctor`: what a bug report needs, and no secret."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from harness import doctor
from harness.__main__ import main


def test_a_report_names_versions_and_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows the harness's own variables that are set, and none that may hold a password."""
    monkeypatch.setenv("PRECISION", "fp8")
    monkeypatch.setenv("CONT", "user:hunter2@registry#image")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter3")
    said = CliRunner().invoke(main, ["doctor"]).stdout
    names = [line.split()[0] for line in said.splitlines()]
    assert {"llama31", "Python", "torch", "processor", "memory", "GPU", "Slurm", "containers", "disk"} <= set(names)
    assert "variables           PRECISION=fp8 CONT=(set)" in said
    assert "hunter" not in said


def test_what_is_missing_is_said_with_what_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a reviewer's machine, each missing library is listed with the verbs that need it."""
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor, "IS_CHECKOUT", False)
    missing = [value for name, value in doctor.report() if name == "missing"]
    assert missing[0].startswith("torch, for run, job")
    assert missing[-1] == "a checkout of the repository, for run, job and package"


def test_a_program_that_fails_or_hangs_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Slurm without a configuration, or a driver that does not answer, counts as absent."""
    monkeypatch.setattr(doctor, "_TIMEOUT_S", 0.1)
    assert doctor._said("sleep", "60") == ""
    assert doctor._said("false") == ""
    assert doctor._said("no-such-program") == ""
