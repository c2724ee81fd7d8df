"""`llama31 submission init`: what it asks, whom it asks, and that the shell and `package` read its two files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmark.config import RunConfig
from benchmark.errors import RefusedError
from compliance.checks.systems import FIELDS
from compliance.package.facts import Facts, read_facts
from compliance.package.fields import MEANINGS
from compliance.package.system import FROM_THE_RUNS
from harness.__main__ import main
from harness.submission import Question, complete
from harness.verbs import submission as verb
from tests.fakes import configured, environment

FLAGS = ("--org", "A+B", "--status", "cloud", "--platform", "8xIt's new", "--system-name", 'A "new" system: 22.10')
NODE: Facts = {
    "accelerators_per_node": "8",
    "accelerator_model_name": "NVIDIA H200",
    "host_processors_per_node": "2",
    "other_software_stack": {"nvidia_kernel_driver": "550.10"},
}


@pytest.fixture(autouse=True)
def a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine is a node of a system."""
    monkeypatch.setattr("compliance.package.machine.accelerators", lambda: ("one",))
    monkeypatch.setattr("compliance.package.machine.node", lambda: NODE)


def init(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["submission", "init", *map(str, arguments)])


def test_both_files_say_what_was_given(tmp_path: Path) -> None:
    """The shell reads one, `package` the other; every character arrives, and so does what a node reports."""
    done = init(*FLAGS, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    script = f'source "{tmp_path}/submission.sh"; env -0'
    text = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    sourced = dict(entry.split("=", 1) for entry in text.split("\0") if entry.startswith("MLPERF_"))
    said = RunConfig.from_environment(environment(**sourced)).submission
    assert (said.org, said.division, said.status, said.platform) == ("A+B", "closed", "cloud", "8xIt's new")
    assert said.unset == ()
    facts = read_facts(tmp_path / "system.yaml")
    assert facts == {
        "system_name": 'A "new" system: 22.10',
        **{name: value for name, value in NODE.items() if name != "accelerators_per_node"},
    }


def test_blank_fields_are_marked_with_what_belongs_there(tmp_path: Path) -> None:
    """Every field is in the file, and an empty one is marked."""
    init(*FLAGS, "--out", tmp_path)
    text = (tmp_path / "system.yaml").read_text(encoding="utf-8")
    assert "# How the system is cooled, such as: Liquid\ncooling:  # BLANK\n" in text
    assert "\nframework:  # BLANK until the runs say it\n" in text
    assert all(f"\n{name}:" in text for name in MEANINGS)


def test_what_is_missing_is_named_where_nobody_can_be_asked(tmp_path: Path) -> None:
    """Without a terminal it never waits: status 2, a line for each flag with its valid values, and no file."""
    done = init("--another-machine", "--out", tmp_path)
    needed = "--org --status --system-name --host-processors-per-node --accelerator-model-name --platform"
    assert done.exit_code == 2
    assert [line.split()[1] for line in done.stderr.splitlines() if line.startswith("error: ")] == needed.split()
    assert "onprem: customers can buy it; cloud: customers can rent it" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_gpus_is_not_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login node does not count as a node of the system unless the user says so."""
    monkeypatch.setattr("compliance.package.machine.accelerators", lambda: ())
    flags = (*FLAGS, "--accelerator-model-name", "X1", "--host-processors-per-node", "1", "--print")
    assert "nvidia_kernel_driver" not in init(*flags).stdout
    assert "nvidia_kernel_driver" in init(*flags, "--this-machine").stdout
    assert list(tmp_path.iterdir()) == []


def test_only_what_nothing_says_is_asked() -> None:
    """On a terminal it asks only for unknown values, offers the usual answer, and asks for the platform last."""
    asked: list[tuple[str, str | None]] = []

    def ask(question: Question, usual: str | None) -> str:
        asked.append((question.flag, usual))
        return usual or "onprem"

    said = complete({"MLPERF_SUBMISSION_ORG": "A"}, NODE, configured(DGXNNODES=8, MINIBS=18), ask)
    assert asked == [
        ("--division", "closed"),
        ("--status", None),
        ("--system-name", None),
        ("--platform", "8xNVIDIA H200"),
    ]
    assert said.identity["MLPERF_SUBMISSION_STATUS"] == "onprem"


def test_a_person_knows_better_than_the_machine() -> None:
    """A given value replaces the machine's."""
    given = {"MLPERF_SUBMISSION_ORG": "A", "MLPERF_SUBMISSION_STATUS": "cloud", "system_name": "A"}
    said = complete({**given, "accelerator_model_name": "NVIDIA H200-SXM5-141GB"}, NODE, configured(), None)
    assert said.facts["accelerator_model_name"] == "NVIDIA H200-SXM5-141GB"
    assert said.identity["MLPERF_SUBMISSION_PLATFORM"] == "1xNVIDIA H200-SXM5-141GB"


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"MLPERF_SUBMISSION_ORG": "My Lab"}, "--org is 'My Lab'; it names the folder of a submission"),
        ({"host_processors_per_node": "two"}, "--host-processors-per-node is 'two'; expected a whole number"),
    ],
)
def test_what_package_would_refuse_is_refused_now(changed: dict[str, str], fault: str) -> None:
    """It refuses a name that cannot be a folder's, and a number that the official tools cannot multiply."""
    given = {"MLPERF_SUBMISSION_ORG": "A", "MLPERF_SUBMISSION_STATUS": "cloud", "system_name": "A"}
    with pytest.raises(RefusedError, match=fault):
        complete({**given, **changed}, NODE, configured(), None)


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    """If one of the two files exists, neither is written, and nothing is asked."""
    (tmp_path / "system.yaml").write_text("mine", encoding="utf-8")
    done = init("--out", tmp_path)
    assert (done.exit_code, [path.name for path in tmp_path.iterdir()]) == (2, ["system.yaml"])
    assert done.stderr.startswith(f"error: {tmp_path}/system.yaml already exists and is never overwritten")


def test_a_node_with_other_accelerators_is_told(tmp_path: Path) -> None:
    """A node of 8 accelerators does not belong to a system with 4."""
    config = tmp_path / "config_TEST.sh"
    values = environment(DGXNGPU=4)
    config.write_text("".join(f"export {name}={value}\n" for name, value in values.items()), encoding="utf-8")
    assert "this machine has 8 accelerators, but a node of TEST has 4" in init(config, *FLAGS, "--print").stderr


def test_every_field_has_a_meaning() -> None:
    """Every field that the configuration does not decide is explained, in the order of the official list."""
    assert tuple(MEANINGS) == tuple(name for name in FIELDS if name not in FROM_THE_RUNS)


def test_an_answer_that_cannot_be_taken_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An invalid name is asked for again at once, not after the last question."""
    monkeypatch.setattr("harness.verbs.submission._asker", lambda: verb._ask)
    answers = "My Lab\nMyLab\nclosed\nonprem\nA\n64xA\n" + "1\n" * 8
    result = CliRunner().invoke(main, ["submission", "init", "--print", "--another-machine"], input=answers)
    assert result.exit_code == 0, result.output
    assert "letters, digits" in result.stderr
    assert "export MLPERF_SUBMISSION_ORG=MyLab" in result.stdout
