"""From runs to a submission: which runs are chosen, what is refused, and a tree that the official checker accepts."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from mlperf_logging.benchmark_meta import get_allowed_benchmarks

from benchmark.benchmarks import OTHER_BENCHMARKS, every_rules
from benchmark.checkout import ROOT
from benchmark.config import RunConfig, config_files, resolve
from benchmark.files import RUN_JSON
from compliance.bypass import PARAMETERS
from compliance.check import NoLogsError, check_paths, find_logs, open_result
from compliance.checks import packages as package_checks
from compliance.checks.packages import PACKAGE_RULES, SUBMITTABLE, Package, check_package
from compliance.checks.systems import FIELDS, STATUSES
from compliance.convergence.olympic import olympic_mean
from compliance.findings import Severity
from compliance.log import NOT_A_RUN, SIMULATED
from compliance.official import rulesets
from compliance.package import build as building
from compliance.package import machine
from compliance.package import runs as choosing
from compliance.package import system as describing
from compliance.package.build import BuiltSubmission, _copy_implementation, build
from compliance.package.facts import Facts
from compliance.package.runs import NotPackageableError, choose, median_window
from harness import simulate as simulating
from harness.__main__ import main
from harness.text import submission_lines
from tests.fakes import configured
from tests.launches import CONFIG, launch, llama31_405b
from tests.logs import LogFile, llama31_8b, tiny
from tests.official import accepts_package

FACTS = "system_name: Test system\naccelerator_model_name: Test accelerator\nhost_processors_per_node: 2\n"


# Which runs.


def window(minutes: Sequence[float | None], size: int) -> list[int] | None:
    """Indices of the chosen ones among runs that took so many minutes; None for one that did not converge."""
    runs: Any = [
        SimpleNamespace(index=index, minutes=time, log=SimpleNamespace(defects=[]))
        for index, time in enumerate(minutes)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "minutes_to_target", lambda run: run.minutes)
        chosen: Any = median_window(runs, size)
    return None if chosen is None else [run.index for run in chosen]


@pytest.mark.parametrize(
    ("minutes", "chosen"),
    [
        ([3, 1, 2], [0, 1, 2]),
        # Windows score 2, 3, 4: the middle one.
        ([1, 2, 3, 4, 5], [1, 2, 3]),
        # Windows score 2, 3, 4, 5: of the two in the middle the slower.
        ([1, 2, 3, 4, 5, 6], [2, 3, 4]),
        # A run that did not converge is the slowest of its window.
        ([1, None, 2], [0, 1, 2]),
        # Windows score 2, infinite, infinite, infinite, 4: the median is no result.
        ([1, 2, None, None, None, 3, 4], None),
        # Windows score 2, 3, 4, infinite, infinite: the others do not count for nothing.
        ([1, 2, 3, 4, None, None, 5], [2, 3, 4]),
        ([1, 2], None),
    ],
)
def test_median_of_consecutive_runs_is_chosen(minutes: list[float | None], chosen: list[int] | None) -> None:
    """The set of consecutive runs with the median score is chosen; none if that set is not a result."""
    assert window(minutes, 3) == chosen


@given(st.lists(st.one_of(st.none(), st.integers(1, 1000)), min_size=3, max_size=20))
def test_as_many_sets_are_faster_as_slower(minutes: list[int | None]) -> None:
    """At most half of all sets of consecutive runs score better than the chosen one, and at most half worse."""
    chosen = window(minutes, 3)
    scores = [olympic_mean(minutes[first : first + 3]) or 1e9 for first in range(len(minutes) - 2)]
    score = scores[chosen[0]] if chosen else 1e9
    assert sum(other < score for other in scores) <= len(scores) / 2
    assert sum(other > score for other in scores) <= len(scores) / 2


def test_runs_are_ordered_by_their_launch(tmp_path: Path) -> None:
    """Runs of several launches of a system are one group, in the order they were launched."""
    config = llama31_405b()
    later = launch(tmp_path / "a", config, seeds=range(2), step_seconds=30, hours=9)
    first = launch(tmp_path / "b", config, seeds=range(2, 5), step_seconds=10)
    (chosen,) = choose([later, first], rehearsal=True)
    assert [run.log.path for run in chosen.runs] == [
        *(first / f"result_{n}.txt" for n in (1, 2)),
        later / "result_0.txt",
    ]
    assert (chosen.launched, chosen.launch.folder) == (5, first)


def test_run_without_a_log_counts(tmp_path: Path) -> None:
    """A run that was launched and left no log is one of the group, and no set with it is a result."""
    folder = launch(tmp_path / "runs", llama31_405b(), seeds=range(4))
    (folder / "result_0.txt").unlink()
    with pytest.raises(NotPackageableError, match="1 of 4 runs did not converge"):
        choose([folder], rehearsal=True)


# The tree.


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small implementation."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in (
        "README.md",
        "run_and_time.sh",
        CONFIG,
        "not_part_of_it.txt",
        "benchmark/loop.py",
        "benchmark/.hidden",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launch(tmp_path_factory.mktemp("launched") / "TEST" / "20231114T221320Z", llama31_405b())


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("facts") / "system.yaml"
    path.write_text(FACTS, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def submission(
    launched: Path, checkout: Path, facts: Path, tmp_path_factory: pytest.TempPathFactory
) -> BuiltSubmission:
    """A submission of three runs whose logs do not say that they were rehearsed."""
    folder = tmp_path_factory.mktemp("real")
    runs = without_marks(Path(shutil.copytree(launched, folder / "TEST" / launched.name)))
    return build([runs.parent], folder / "out", facts, checkout=checkout)


def without_marks(runs: Path) -> Path:
    """The runs of a launch as if they had trained."""
    for log in map(LogFile, runs.glob("result_*.txt")):
        log.drop("tracked_stats", 0)
        log.save()
    return runs


def test_an_implementation_can_be_set_up_and_configured(tmp_path: Path) -> None:
    """Everything that setup.sh and a config read is there; otherwise nobody could repeat the runs."""
    config, target = config_files()[-1], tmp_path / "implementation"
    _copy_implementation(ROOT, target, config.name)
    made = subprocess.run(["bash", "setup.sh", "--made"], cwd=target, capture_output=True, text=True, check=False)
    assert (made.returncode, made.stderr.count("\n")) == (2, 1), made.stderr
    assert "missing or out of date" in made.stderr
    copied = target / config.relative_to(ROOT)
    assert resolve(copied).config == resolve(config).config


def test_submission_passes_every_check(submission: BuiltSubmission) -> None:
    """A submission of good runs is written, and neither our checks nor the official tools find anything."""
    assert submission.findings == ()
    assert submission.path.is_dir()


def test_official_package_checker_accepts_the_tree(submission: BuiltSubmission, tmp_path: Path) -> None:
    """The official package checker finds no error in it."""
    assert accepts_package(Path(shutil.copytree(submission.path, tmp_path / "tree")), "6.0.0")


def test_tree_has_the_layout_of_a_submission(submission: BuiltSubmission) -> None:
    """systems/, results/ and benchmarks/ hold what the runs and their checkout have, and nothing else."""
    files = {path.relative_to(submission.path).as_posix() for path in submission.path.rglob("*") if path.is_file()}
    implementation = "benchmarks/llama31_405b/implementations/TEST"
    assert submission.path.name == "Example"
    assert files == {
        "systems/TEST.json",
        *(f"results/TEST/llama31_405b/result_{index}.txt" for index in range(3)),
        *(f"{implementation}/{name}" for name in ("README.md", "run_and_time.sh", CONFIG, "benchmark/loop.py")),
    }
    assert (submission.path / implementation / "README.md").read_text().startswith("# llama31_405b on TEST\n")


def test_logs_are_those_of_the_runs(submission: BuiltSubmission) -> None:
    """The logs are the runs' own, byte for byte."""
    (chosen,) = submission.chosen
    for index, run in enumerate(chosen.runs):
        packed = submission.path / "results/TEST/llama31_405b" / f"result_{index}.txt"
        assert packed.read_bytes() == run.log.path.read_bytes()


def test_system_is_what_runs_machine_and_facts_say(submission: BuiltSubmission, launched: Path) -> None:
    """The description has every field: of the configuration, of the machine of the runs, of the file of facts."""
    system = json.loads((submission.path / "systems/TEST.json").read_text(encoding="utf-8"))
    record = json.loads((launched / RUN_JSON).read_text(encoding="utf-8"))
    assert list(system) == list(FIELDS)
    assert (system["submitter"], system["division"], system["status"]) == ("Example", "closed", STATUSES["research"])
    assert (system["number_of_nodes"], system["accelerators_per_node"]) == ("1", "8")
    assert system["host_processor_model_name"] == record["machine"]["processor"]
    assert system["other_software_stack"]["torch"] == record["versions"]["torch"]
    assert (system["system_name"], system["host_processors_per_node"]) == ("Test system", "2")


def test_another_machine_is_not_described(launched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with another processor, only the runs' own records are used."""
    monkeypatch.setattr(machine, "machine", lambda: {"processor": "another"})
    (chosen,) = choose([launched], rehearsal=True)
    facts: Facts = {"system_name": "a", "accelerator_model_name": "b", "host_processors_per_node": "2"}
    found = describing.describe(chosen.launch.record, chosen.launch.config, "Example", facts)
    assert (found["host_processor_caches"], found["operating_system"]) == ("", "")
    assert found["host_memory_capacity"]


def test_software_that_the_facts_name_joins_that_of_the_runs(launched: Path) -> None:
    """A driver that a person states is listed together with the versions that the runs recorded."""
    (chosen,) = choose([launched], rehearsal=True)
    facts: Facts = {
        "system_name": "a",
        "accelerator_model_name": "b",
        "host_processors_per_node": "2",
        "other_software_stack": {"nvidia_kernel_driver": "550.10"},
    }
    stack = describing.describe(chosen.launch.record, chosen.launch.config, "Example", facts)["other_software_stack"]
    assert isinstance(stack, dict)
    assert stack["nvidia_kernel_driver"] == "550.10"
    assert stack["torch"] == chosen.launch.record.versions["torch"]


# What is refused, with nothing written.


@pytest.fixture
def runs(launched: Path, tmp_path: Path) -> Path:
    """A launch that a test may change."""
    return Path(shutil.copytree(launched, tmp_path / "TEST" / launched.name))


class Attempt:
    """A call of `build` that is to be refused."""

    def __init__(self, runs: Path, out: Path, facts: Path, checkout: Path) -> None:
        self.runs, self.out, self.facts, self.checkout = [runs], out, facts, checkout
        self.submitter: str | None = None
        self.rehearsal = True

    def say(self, text: str) -> None:
        """State other facts."""
        self.facts = self.out.parent / "other.yaml"
        self.facts.write_text(text, encoding="utf-8")

    def faults(self) -> list[str]:
        with pytest.raises(NotPackageableError) as refusal:
            build(
                self.runs,
                self.out,
                self.facts,
                submitter=self.submitter,
                checkout=self.checkout,
                rehearsal=self.rehearsal,
            )
        return refusal.value.faults


@pytest.fixture
def attempt(runs: Path, tmp_path: Path, facts: Path, checkout: Path) -> Attempt:
    return Attempt(runs, tmp_path / "out", facts, checkout)


def _record(attempt: Attempt, **changes: object) -> None:
    path = attempt.runs[0] / RUN_JSON
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def _another_checkout(attempt: Attempt) -> None:
    attempt.checkout = attempt.out.parent


def _no_config(attempt: Attempt) -> None:
    attempt.runs = [launch(attempt.out.parent / "bare", llama31_405b(CONFIG_FILENAME=""))]


def _simulated(attempt: Attempt) -> None:
    attempt.rehearsal = False


def _trained(attempt: Attempt) -> None:
    without_marks(attempt.runs[0])


def _named_a_rehearsal(attempt: Attempt) -> None:
    attempt.submitter = "REHEARSAL-Example"


def _tiny(attempt: Attempt) -> None:
    attempt.runs = [launch(attempt.out.parent / "tiny", tiny(CONFIG_FILENAME=CONFIG))]


def _nobody(attempt: Attempt) -> None:
    attempt.runs = [launch(attempt.out.parent / "nobody", configured(CONFIG_FILENAME=CONFIG))]


def _two_rulesets(attempt: Attempt) -> None:
    attempt.runs.append(launch(attempt.out.parent / "old", llama31_405b(RULESET="5.1.0"), hours=1))


def _no_record(attempt: Attempt) -> None:
    (attempt.runs[0] / RUN_JSON).unlink()


def _broken_record(attempt: Attempt) -> None:
    (attempt.runs[0] / RUN_JSON).write_text('{"benchmark": 1}', encoding="utf-8")


def _too_few(attempt: Attempt) -> None:
    attempt.runs = [launch(attempt.out.parent / "few", llama31_405b(), seeds=range(2))]


def _other_log(attempt: Attempt) -> None:
    log = LogFile(attempt.runs[0] / "result_1.txt")
    log.set("opt_adamw_beta_2", 0.99)
    log.save()


def _existing(attempt: Attempt) -> None:
    (attempt.out / "REHEARSAL-Example").mkdir(parents=True)


def _bad_submitter(attempt: Attempt) -> None:
    attempt.submitter = "../Example"


REFUSALS: list[tuple[str, Callable[[Attempt], None]]] = [
    ("the log has the mark simulated; --rehearse packages such runs", _simulated),
    ("not have the mark of a simulated run; a rehearsal takes no other: leave out --rehearse", _trained),
    ("'REHEARSAL-Example' is reserved for rehearsals", _named_a_rehearsal),
    ("llama31_tiny exists only in this harness and cannot be submitted", _tiny),
    ("MLPERF_SUBMISSION_ORG, MLPERF_SUBMISSION_STATUS, MLPERF_SUBMISSION_PLATFORM not set", _nobody),
    ("the runs have several rulesets (5.1.0, 6.0.0)", _two_rulesets),
    (f"no {RUN_JSON} in", _no_record),
    ("is not a record of runs", _broken_record),
    ("2 of the 3 runs", _too_few),
    (f"opt_adamw_beta_2 is 0.99 in the log, but 0.95 by its {RUN_JSON}", _other_log),
    ("exists; a submission is never changed", _existing),
    ("'../Example' cannot name a folder", _bad_submitter),
    ("which is not in", _another_checkout),
    ("not started from a config file", _no_config),
    ("'my system' cannot name a folder", lambda attempt: _record(attempt, system="my system")),
    ("not in ruleset '6.1.0'", lambda attempt: _record(attempt, ruleset="6.1.0")),
    ("line 1: expected the node content", lambda attempt: attempt.say("a: [")),
    ("system_name is empty", lambda attempt: attempt.say("accelerator_model_name: B")),
    (
        "number_of_nodes: system.yaml states '2', but the runs have '1'",
        lambda attempt: attempt.say(FACTS + "number_of_nodes: 2"),
    ),
]


@pytest.mark.parametrize(("fault", "arrange"), REFUSALS, ids=[fault for fault, _ in REFUSALS])
def test_refusal_says_why_and_writes_nothing(attempt: Attempt, fault: str, arrange: Callable[[Attempt], None]) -> None:
    """A set of runs that cannot be submitted is refused with its reason, and the folder of submissions is unchanged."""
    arrange(attempt)
    before = sorted(attempt.out.rglob("*"))
    assert any(fault in found for found in attempt.faults())
    assert sorted(attempt.out.rglob("*")) == before


@pytest.mark.parametrize("mark", sorted(NOT_A_RUN))
def test_log_that_disowns_itself_is_refused(attempt: Attempt, mark: str) -> None:
    """A log that says simulated, proxy, mock data or forced success is refused, whichever run has it."""
    attempt.rehearsal = False
    for index in range(3):
        log = LogFile(attempt.runs[0] / f"result_{index}.txt")
        log.set("tracked_stats", {mark: index == 1})
        log.save()
    (fault,) = attempt.faults()
    assert f"result_1.txt: the log has the mark {mark}" in fault


@pytest.mark.parametrize("mark", sorted(NOT_A_RUN - {SIMULATED}))
def test_rehearsal_takes_no_other_mark(attempt: Attempt, mark: str) -> None:
    """A simulated run that is also a proxy, or of mock data, is refused by a rehearsal, too."""
    log = LogFile(attempt.runs[0] / "result_1.txt")
    log.set("tracked_stats", {mark: True, SIMULATED: True})
    log.save()
    (fault,) = attempt.faults()
    assert f"result_1.txt: the log has the mark {mark}" in fault


def test_what_is_left_to_do_is_said_of_a_tree_that_is_there(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a check refuses the runs, the checklist says so."""
    monkeypatch.setattr(building, "judge", lambda *_: SimpleNamespace(findings=()))
    log = LogFile(attempt.runs[0] / "result_0.txt")
    log.drop("tracked_stats", -1)
    log.save()
    submission = build(attempt.runs, attempt.out, attempt.facts, checkout=attempt.checkout, rehearsal=True)
    assert not any("policies" in line for line in submission_lines(submission))


def test_failed_check_leaves_no_tree(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    """A submission that a check refuses is not written, and the finding has the name that it would have had."""
    monkeypatch.setattr(building, "judge", lambda *_: SimpleNamespace(findings=()))
    log = LogFile(attempt.runs[0] / "result_0.txt")
    log.drop("tracked_stats", -1)
    log.save()
    submission = build(attempt.runs, attempt.out, attempt.facts, checkout=attempt.checkout, rehearsal=True)
    assert not submission.passed
    (finding,) = submission.findings
    assert finding.rule == "train.steps"
    assert finding.file == str(attempt.out / "REHEARSAL-Example/results/TEST/llama31_405b/result_0.txt")
    assert list(attempt.out.iterdir()) == []


# The command.


def command(attempt: Attempt, *arguments: str) -> Any:
    values = [str(attempt.runs[0]), "--out", str(attempt.out), "--system-yaml", str(attempt.facts), *arguments]
    return CliRunner().invoke(main, ["package", *values])


def test_command_refuses_simulated_runs(attempt: Attempt) -> None:
    """`package` refuses simulated runs with exit status 1, and no option takes them for a submission."""
    done = command(attempt)
    assert done.exit_code == 1
    assert "error: " in done.output
    assert "simulated" in done.output
    assert not attempt.out.exists()


def test_command_says_what_it_wrote(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    """`package` lists the chosen runs and where the submission is."""
    without_marks(attempt.runs[0])
    monkeypatch.setattr(building, "judge", lambda *_: SimpleNamespace(findings=()))
    monkeypatch.setattr(building, "_configs", lambda *_: ["config_tiny.sh"])
    done = command(attempt, "--submitter", "Other")
    assert done.exit_code == 0, done.output
    assert "3 of 3 runs of TEST, llama31_405b:" in done.output
    assert f"written to {attempt.out / 'Other'}" in done.output
    assert "REHEARSAL" not in done.output
    assert "  to do  upload: encrypt a tarball" in done.output


# Rehearsals.


def test_command_says_that_it_was_a_rehearsal(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    """`package --rehearse` exits with 3, and its last line says REHEARSAL; where a check refuses it, with 1."""
    monkeypatch.setattr(building, "judge", lambda *_: SimpleNamespace(findings=()))
    monkeypatch.setattr(building, "_configs", lambda *_: ["config_tiny.sh"])
    done = command(attempt, "--rehearse")
    assert done.exit_code == 3, done.output
    assert f"written to {attempt.out / 'REHEARSAL-Example'}\n" in done.output
    assert done.output.splitlines()[-1].startswith("REHEARSAL  of simulated runs, not a submission")
    log = LogFile(attempt.runs[0] / "result_0.txt")
    log.drop("tracked_stats", -1)
    log.save()
    done = command(attempt, "--rehearse", "--submitter", "Other")
    assert (done.exit_code, done.output.splitlines()[-1][:9]) == (1, "REHEARSAL")


def rehearsed_8b(**overrides: str) -> RunConfig:
    said = {"ORG": "Example", "STATUS": "research", "PLATFORM": "1xTEST"}
    return llama31_8b(**{f"MLPERF_SUBMISSION_{name}": value for name, value in said.items()}, **overrides)


REHEARSED = {
    "405b closed": llama31_405b(),
    "405b open": llama31_405b(MLPERF_SUBMISSION_DIVISION="open", LEARNING_RATE="1e-4", MINIBS=1160),
    "8b closed": rehearsed_8b(),
}


# Ten runs of 8B, of 3000 steps each, take ten seconds.
@pytest.mark.parametrize("kind", [*list(REHEARSED)[:2], pytest.param("8b closed", marks=pytest.mark.slow)])
def test_rehearsed_package_is_read_officially_and_is_no_submission(
    kind: str, tmp_path: Path, checkout: Path, facts: Path
) -> None:
    """Official tools accept its tree in both benchmarks and divisions; `check` refuses it, with or without marks."""
    config = REHEARSED[kind]
    runs = launch(tmp_path / "runs", config, seeds=range(config.rules.runs))
    submission = build([runs], tmp_path, facts, checkout=checkout, rehearsal=True)
    assert (submission.findings, submission.path.name) == ((), "REHEARSAL-Example")
    logs = sorted(submission.path.rglob("result_*.txt"))
    assert {log.read_bytes() for log in logs} == {log.read_bytes() for log in runs.glob("result_*.txt")}
    assert {finding.rule for finding in check_paths([submission.path]).findings} == set(building.OF_A_REHEARSAL)
    for folder in {log.parent for log in logs}:
        without_marks(folder)
    assert [finding.rule for finding in check_paths([submission.path]).findings] == ["package.rehearsal"]


def test_rehearsal_of_8b_in_the_open_division_says_what_is_refused(
    tmp_path: Path, checkout: Path, facts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The official file asks 8B for an eval_accuracy below 1.0: no tree is written, and the finding says so."""
    monkeypatch.setattr(simulating, "expected_samples", lambda *_: 12_288)
    monkeypatch.setattr(building, "judge", lambda *_: SimpleNamespace(findings=()))
    config = rehearsed_8b(MLPERF_SUBMISSION_DIVISION="open")
    runs = launch(tmp_path / "runs", config, seeds=range(config.rules.runs))
    submission = build([runs], tmp_path / "out", facts, checkout=checkout, rehearsal=True)
    assert {finding.rule for finding in submission.findings} == {"run.official_open"}
    assert "asks for an eval_accuracy below 1.0" in submission.findings[0].message
    assert not submission.path.exists()


# The rules over a tree.


@pytest.fixture
def tree(submission: BuiltSubmission, tmp_path: Path) -> Path:
    """The submission, which a test may change."""
    return Path(shutil.copytree(submission.path, tmp_path / "Example"))


def found(tree: Path) -> list[tuple[str, Severity]]:
    results = tuple(open_result(group) for group in find_logs([tree / "results"]))
    return [(finding.rule, finding.severity) for finding in check_package(Package(tree, results))]


RESULT = "results/TEST/llama31_405b"


def _result(tree: Path) -> Path:
    return tree / RESULT


def _parameters(tree: Path, folder: str, text: str) -> None:
    (tree / folder / PARAMETERS).write_text(text, encoding="utf-8")


def _a_mark(tree: Path) -> None:
    log = LogFile(_result(tree) / "result_0.txt")
    log.events.insert(0, dict(log.get("tracked_stats"), value={"proxy": True}))
    log.save()


def _misspelt(tree: Path) -> None:
    _result(tree).rename(_result(tree).with_name("llama3_405b"))
    (tree / "benchmarks/llama31_405b").rename(tree / "benchmarks/llama3_405b")


def _a_linked_result(tree: Path) -> None:
    (tree / "results/OTHER").mkdir()
    (tree / "results/OTHER/llama31_405b").symlink_to(_result(tree))


def _another_system(tree: Path, **fields: str) -> None:
    """A second one, with logs of its own."""
    _the_same_runs(tree, but_for=0.001)
    for log in map(LogFile, (tree / "results/OTHER").rglob("result_*.txt")):
        for index in log.indices("tracked_stats"):
            log.events[index]["value"]["reduced_train_loss"] += 0.001
        log.save()
    description = tree / "systems" / "OTHER.json"
    changed = json.loads(description.read_text(encoding="utf-8")) | fields
    description.write_text(json.dumps(changed), encoding="utf-8")


def _the_same_runs(tree: Path, but_for: float = 0.0) -> None:
    """A second system with the logs of the first, in which evaluations differ by `but_for`."""
    shutil.copytree(tree / "results/TEST", tree / "results/OTHER")
    shutil.copy(tree / "systems/TEST.json", tree / "systems/OTHER.json")
    for log in map(LogFile, (tree / "results/OTHER").rglob("result_*.txt")):
        for index in log.indices("eval_accuracy"):
            log.events[index]["value"] += but_for
        log.save()


def _a_system_without_results(tree: Path) -> None:
    shutil.copy(tree / "systems/TEST.json", tree / "systems/OTHER.json")


def _our_own_benchmark(tree: Path) -> None:
    for folder in (_result(tree), tree / "benchmarks/llama31_405b"):
        folder.rename(folder.with_name("llama31_tiny"))


def _a_mark_among_the_losses(tree: Path) -> None:
    log = LogFile(_result(tree) / "result_0.txt")
    log.get("tracked_stats")["value"]["simulated"] = True
    log.save()


def _rename_submitter(tree: Path, name: str) -> None:
    description = tree / "systems/TEST.json"
    changed = json.loads(description.read_text(encoding="utf-8")) | {"submitter": name}
    description.write_text(json.dumps(changed), encoding="utf-8")


def _a_broken_link(tree: Path) -> None:
    (tree / "link").symlink_to("nowhere")


def _a_large_file(tree: Path) -> None:
    with (tree / "large").open("wb") as stream:
        stream.truncate(package_checks.LARGEST_FILE + 1)


BREAKS: list[tuple[str, Severity, Callable[[Path], object]]] = [
    ("package.real_runs", Severity.ERROR, _a_mark),
    ("package.real_runs", Severity.ERROR, _a_mark_among_the_losses),
    ("package.rehearsal", Severity.ERROR, lambda tree: _rename_submitter(tree, "REHEARSAL-Example")),
    ("package.benchmark", Severity.ERROR, _misspelt),
    ("package.benchmark", Severity.ERROR, _our_own_benchmark),
    ("package.benchmark", Severity.ERROR, lambda tree: (tree / "results/TEST/notes").mkdir()),
    ("package.links", Severity.ERROR, _a_linked_result),
    ("package.distinct", Severity.ERROR, _the_same_runs),
    ("package.distinct", Severity.ERROR, lambda tree: _the_same_runs(tree, but_for=0.001)),
    ("package.submitter", Severity.WARNING, lambda tree: _another_system(tree, submitter="Another")),
    ("package.spare", Severity.INFO, _a_system_without_results),
    ("package.file_count", Severity.ERROR, lambda tree: (_result(tree) / "result_2.txt").unlink()),
    ("package.empty", Severity.ERROR, lambda tree: (tree / "results/OTHER").mkdir()),
    ("package.names", Severity.ERROR, lambda tree: (tree / ".hidden").touch()),
    ("package.names", Severity.ERROR, lambda tree: (tree / "a file").touch()),
    ("package.names", Severity.ERROR, _a_broken_link),
    ("package.names", Severity.ERROR, _a_large_file),
    (
        "package.scaling",
        Severity.ERROR,
        lambda tree: (_result(tree) / "scaling.json").write_text('{"scaling_factor": 0.9}'),
    ),
    ("package.parameters", Severity.WARNING, lambda tree: _parameters(tree, "results/TEST", "rcp-bypass")),
    ("package.parameters", Severity.WARNING, lambda tree: _parameters(tree, RESULT, "seed-checker-bypass")),
    ("package.parameters", Severity.WARNING, lambda tree: _parameters(tree, RESULT, "rcp-bypass\n")),
    ("package.parameters", Severity.WARNING, lambda tree: _parameters(tree, RESULT, "--rcp-bypass")),
    ("package.parameters", Severity.WARNING, lambda tree: _parameters(tree, RESULT, "")),
    ("package.parameters", Severity.WARNING, lambda tree: _parameters(tree, "", "rcp-bypass")),
    ("package.parameters", Severity.WARNING, lambda tree: (tree / RESULT / "package_checker_params.txt").touch()),
    ("package.parameters", Severity.ERROR, lambda tree: (tree / RESULT / "package_checker_params").mkdir()),
    ("package.implementation", Severity.WARNING, lambda tree: shutil.rmtree(tree / "benchmarks")),
]


def test_good_tree_has_no_finding(tree: Path) -> None:
    """A tree of real runs breaks no rule."""
    assert found(tree) == []


@pytest.mark.parametrize(("rule", "severity", "break_it"), BREAKS)
def test_rule_finds_what_breaks_it(
    tree: Path, rule: str, severity: Severity, break_it: Callable[[Path], object]
) -> None:
    """A tree that is good but for one thing has exactly that thing's finding."""
    break_it(tree)
    assert found(tree) == [(rule, severity)]


def test_logs_of_other_benchmarks_are_not_judged(tree: Path, log: LogFile) -> None:
    """An organisation's whole tree is judged by what this harness has, and says of what there is more."""
    other = next((tree / "results").iterdir()) / "flux1"
    other.mkdir()
    log.set("submission_benchmark", "flux1")
    log.save().rename(other / "result_0.txt")
    report = check_paths([tree])
    assert (report.passed, str(other / "result_0.txt") in report.logs) == (True, False)
    assert any("flux1" in sentence for sentence in report.not_run)
    with pytest.raises(NoLogsError, match="flux1"):
        check_paths([other])


def test_folder_of_another_benchmark_hides_no_log(tree: Path, log: LogFile) -> None:
    """A log of ours in the folder of a benchmark that is not judged here is judged, and found in the wrong folder."""
    other = next((tree / "results").iterdir()) / "flux1"
    other.mkdir()
    log.save().rename(other / "result_0.txt")
    assert not check_paths([tree]).passed


def test_other_benchmarks_are_the_official_ones() -> None:
    """The names of benchmarks that are not judged here are those of the official tools, of every round of ours."""
    rounds = {row.ruleset for row in every_rules()} & set(rulesets())
    official = {name for ruleset in rounds for name in get_allowed_benchmarks("training", ruleset)}
    assert official == {*OTHER_BENCHMARKS, *SUBMITTABLE}


def test_every_rule_has_a_tree_that_breaks_it() -> None:
    """No rule over trees is without a test of what it finds."""
    assert {rule for rule, _, _ in BREAKS} == set(PACKAGE_RULES.rules)
