"""What a run would refuse on this machine is found before it runs, and nothing is left behind."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import pytest

from benchmark.benchmarks import LLAMA31_405B
from benchmark.checkpoints import bytes_of_one
from benchmark.files import why_unwritable
from compliance.findings import Finding, Severity
from harness.here import HERE_RULES, check_here
from harness.preflight import PlannedRuns
from reference_impl.data.pair import _HEADER, _MAGIC, _VERSION
from tests.fakes import configured

_UINT16 = 8
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The published dataset by its sizes: files of nothing behind their headers."""
    folder = tmp_path / "c4"
    folder.mkdir()
    published = LLAMA31_405B.dataset.files
    assert published is not None
    for name, size in published.sizes.items():
        with (folder / name).open("wb") as file:
            if name.endswith(".idx"):
                file.write(_HEADER.pack(_MAGIC, _VERSION, _UINT16, 1, 2))
            file.truncate(size)
    return folder


def found(**variables: str | int | Path) -> list[Finding]:
    values = {name: value if isinstance(value, int) else str(value) for name, value in variables.items()}
    findings = check_here(PlannedRuns(path=None, possible=configured(**values)))
    return [finding for finding in findings if finding.rule != "preflight.weights" or "LOAD_CHECKPOINT" in values]


def rules(findings: list[Finding]) -> set[str]:
    return {finding.rule for finding in findings}


def test_the_published_sizes_pass_and_nothing_is_left(data: Path) -> None:
    """Folders that could be made are not made."""
    others = {"NPY_INDEX_DIR": data.parent / "index" / "of it", "SAVE_CHECKPOINT": data.parent / "state"}
    findings = found(DATADIR=data, **others)
    assert rules(findings) <= {"preflight.checkpoints"}
    assert [path.name for path in data.parent.iterdir()] == ["c4"]


def test_a_file_of_another_size_is_an_error_with_both(data: Path) -> None:
    """The finding has both sizes, and the command that tells more."""
    path = data / "c4-train.en_6_text_document.bin"
    with path.open("r+b") as file:
        file.truncate(5)
    (finding,) = found(DATADIR=data)
    assert finding.message == f"{path} has 5 bytes, expected 47578969786"
    assert f"`llama31 data verify --quick --expect llama31_405b {data}`" in finding.expected


def test_a_tokenizer_that_is_not_there_is_an_error(data: Path, tmp_path: Path) -> None:
    """The finding names its file, besides the faults of the data."""
    (data / "c4-train.en_6_text_document.bin").unlink()
    messages = [finding.message for finding in found(DATADIR=data, TOKENIZER=tmp_path / "gone.model")]
    assert [message.partition(": ")[0] for message in messages] == [
        str(tmp_path / "gone.model"),
        str(data / "c4-train.en_6_text_document.bin"),
    ]


def test_weights_that_are_not_set_are_an_error(data: Path) -> None:
    """405B needs LOAD_CHECKPOINT, since it starts from a checkpoint."""
    plan = PlannedRuns(path=None, possible=configured(DATADIR=str(data)))
    (finding,) = check_here(plan)
    assert (finding.rule, finding.severity) == ("preflight.weights", Severity.ERROR)
    assert "set LOAD_CHECKPOINT" in finding.message


def test_weights_that_a_run_would_refuse_are_errors(data: Path) -> None:
    """The finding has the run's own words, and the command that inspects the weights."""
    findings = found(DATADIR=data, LOAD_CHECKPOINT=data)
    assert rules(findings) == {"preflight.weights"}
    assert findings[0].message.startswith(f"{data} is not a checkpoint: ")
    assert f"`llama31 checkpoint inspect {data}`" in findings[0].expected


@pytest.mark.parametrize(
    ("room", "interval", "severity"),
    [(1, 8, Severity.ERROR), (2, 8, Severity.WARNING), (6, 8, Severity.WARNING), (7, 8, None), (4, "", None)],
)
def test_room_for_checkpoints_is_counted(
    data: Path, monkeypatch: pytest.MonkeyPatch, room: int, interval: int | str, severity: Severity | None
) -> None:
    """Two are needed; three runs keep two each while another is written, or one if only an end saves."""
    config = configured()
    each, state = bytes_of_one(config)
    assert (each, state) == (402_699_272_192 * 14, 14)
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, room * each))
    findings = found(DATADIR=data, SAVE_CHECKPOINT=data.parent / "state", NEXP=3, SAVE_INTERVAL=interval)
    assert [finding.severity for finding in findings] == ([] if severity is None else [severity])
    assert all("402,699,272,192 parameters x 14" in finding.expected for finding in findings)


@pytest.mark.parametrize("name", ["NPY_INDEX_DIR", "SAVE_CHECKPOINT"])
def test_a_folder_that_cannot_be_written_is_an_error(data: Path, name: str) -> None:
    """The finding names the existing folder above it that refuses."""
    (data.parent / "file").touch()
    (finding,) = found(**{"DATADIR": data, name: data.parent / "file" / "folder"})
    assert finding.message == f"{name}={data.parent}/file/folder cannot be written"
    assert finding.actual == f"{data.parent}/file is not a folder"


def test_a_link_that_leads_nowhere_cannot_be_written(tmp_path: Path) -> None:
    """The finding names the link and its target."""
    (tmp_path / "logs").symlink_to("gone")
    assert why_unwritable(tmp_path / "logs") == f"{tmp_path}/logs is a link to gone, which is not there"
    assert why_unwritable(tmp_path / "new" / "folder") == ""


def test_a_link_that_leads_nowhere_is_named_beside_the_file_that_is_missing(data: Path) -> None:
    """The broken link explains why the file is missing."""
    path = data / "c4-train.en_6_text_document.bin"
    path.unlink()
    path.symlink_to("/gone/elsewhere.bin")
    findings = found(DATADIR=data)
    assert rules(findings) == {"preflight.dataset", "preflight.links"}
    assert findings[-1].message == f"{path} leads to /gone/elsewhere.bin, which is not there"


def test_data_that_is_not_there_at_all_is_one_finding_of_another_rule() -> None:
    """preflight.data reports it, once."""
    assert found(DATADIR="/gone") == found() == []


def test_the_tiny_benchmark_needs_nothing() -> None:
    """Its corpus is made by its first run, and its weights are drawn."""
    assert found(BENCHMARK="llama31_tiny", RULESET="", MINIBS=2) == []


def test_every_rule_here_is_broken_above() -> None:
    """Every rule of this module has a test that breaks it."""
    assert set(HERE_RULES.rules) == {
        f"preflight.{name}" for name in ("dataset", "weights", "links", "checkpoints", "index")
    }
