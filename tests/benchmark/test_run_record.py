"""run.json: what is written is read back, and so are the files of earlier versions."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmark import driver
from benchmark.checkout import ROOT
from benchmark.config import resolve
from benchmark.config.kernels import never_on_a_gpu
from benchmark.config.libraries import RECORDED
from benchmark.errors import UnwritableError
from benchmark.files import RUN_JSON
from benchmark.run_record import (
    _CODE,
    LARGEST,
    VERSION,
    Experiment,
    RunRecord,
    UnreadableRecordError,
    code_revision,
    read,
    record,
    seen_here,
    write,
)
from tests.fakes import EPOCH, environment

OLD = ROOT / "tests" / "golden" / "run.json"
"""Written before the record had a version."""


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    """It comes back with its version and every run."""
    started = datetime.fromtimestamp(EPOCH, UTC)
    resolved = resolve(None, environment(NEXP=2, SEED_BASE=3))
    made = record(resolved, seen_here(resolved.config, {"simulated": True}), started).with_experiments(
        [Experiment(result=f"result_{index}.txt", seed=3 + index) for index in range(2)]
    )
    write(tmp_path, made)
    assert read(tmp_path / RUN_JSON) == made
    assert json.loads((tmp_path / RUN_JSON).read_text())["version"] == VERSION
    assert made.config() == resolved.config


def test_a_record_is_written_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reuses the space of the last record if that is enough; otherwise one line says so and the last one stays."""

    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    made = RunRecord(experiments=(Experiment(result="result_0.txt", seed=1),))
    write(tmp_path, made)
    monkeypatch.setattr("benchmark.run_record.write_at_once", full)
    ended = made.with_experiments([made.experiments[0].model_copy(update={"status": "aborted"})])
    write(tmp_path, ended)
    assert read(tmp_path / RUN_JSON) == ended
    with pytest.raises(UnwritableError, match=r"run\.json cannot be written: No space left on device$"):
        write(tmp_path, made.model_copy(update={"system": "x" * 10_000}))
    assert read(tmp_path / RUN_JSON) == ended


def test_a_record_of_an_earlier_version_is_read() -> None:
    """Its configuration describes the same run, and nothing in it is lost."""
    old = read(OLD)
    assert old.config().layout.global_batch_size == 1152
    assert [one.seed for one in old.experiments] == [5, 6]
    written = json.loads(OLD.read_text(encoding="utf-8"))
    again = old.model_dump(mode="json")
    assert {name: again[name] for name in written if name != "started"} == {
        name: value for name, value in written.items() if name != "started"
    }


def test_what_an_earlier_version_did_not_write_is_empty() -> None:
    """Missing fields are not made up."""
    old = read(OLD)
    assert (old.libraries, old.never_on_a_gpu) == ({}, ())


def test_what_the_libraries_were_told_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only listed names are recorded, since an environment holds secrets; so are switches that had never run on a
    GPU.
    """
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    monkeypatch.setenv("NCCL_SECRET", "hunter2")
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    resolved = resolve(None, environment(PRECISION="bf16", LAYER_SPEC="torch"))
    assert seen_here(resolved.config, {}).never_on_a_gpu == ()
    monkeypatch.setattr(driver, "gpu_names", lambda: ("NVIDIA H200",))
    seen = seen_here(resolved.config, {})
    made = record(resolved, seen, datetime.fromtimestamp(EPOCH, UTC))
    assert made.libraries["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
    assert set(made.libraries) <= set(RECORDED) - {"PYTORCH_ALLOC_CONF"}
    expected = [row.name for row in never_on_a_gpu(resolved.config.kernels, resolved.config.layout)]
    assert list(made.never_on_a_gpu) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "the file: Invalid JSON"),
        ("[" * 10_000, "the file: Invalid JSON: recursion limit exceeded"),
        (json.dumps({"version": VERSION + 1}), f"version: Input should be less than or equal to {VERSION}"),
        (json.dumps({"ruleset": 6}), "ruleset: Input should be a valid string"),
        (json.dumps({"experiments": [{"result": "result_0.txt"}]}), "experiments.0.seed: Field required"),
        (" " * (LARGEST + 1), "larger than 1,048,576 bytes"),
    ],
)
def test_what_is_no_record_is_refused(content: str, said: str, tmp_path: Path) -> None:
    """The error gives the place and the reason, whoever wrote the file."""
    (tmp_path / RUN_JSON).write_text(content, encoding="utf-8")
    with pytest.raises(UnreadableRecordError) as refusal:
        read(tmp_path / RUN_JSON)
    assert said in str(refusal.value)


def test_a_setting_that_was_not_recorded_has_no_value() -> None:
    """A variable that is newer than the record has no value."""
    assert RunRecord().setting("PRECISION") is None


# The code.


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout with one commit, in place of this one."""
    monkeypatch.setattr("benchmark.run_record.ROOT", tmp_path)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for name in ("harness/step.py", "config_tiny.sh", "requirements.lock"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for command in (["init", "--quiet"], ["add", "."], [*who, "commit", "--quiet", "--message=first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "modified"),
    [
        ("llama31-42.log", False),
        ("config_tiny.sh", False),
        ("harness/step.py", True),
        ("harness/new.py", True),
        ("requirements.lock", True),
    ],
)
def test_what_a_run_does_not_use_modifies_nothing(name: str, modified: bool, checkout: Path) -> None:
    """Neither the job's own log in the checkout nor a config, whose values are recorded, counts as a modification."""
    (checkout / name).write_text("other")
    code = code_revision()
    assert code["modified"] is modified
    assert len(str(code["revision"])) == 40


def test_a_git_that_refuses_is_quoted(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If git refuses, for example another user's checkout, its message is recorded and nothing is guessed."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert code_revision() == {
        "revision": None,
        "modified": None,
        "error": f"git: detected dubious ownership in repository at '{checkout}'",
    }


def test_without_git_that_is_said(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record says so, also in a folder that is not a checkout."""
    shutil.rmtree(checkout / ".git")
    assert "not a git repository" in str(code_revision()["error"])
    monkeypatch.setenv("PATH", "")
    assert code_revision()["error"] == "git: No such file or directory"


def test_the_code_of_a_run_is_every_package_that_is_installed() -> None:
    """A new package cannot be forgotten."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= set(_CODE)
