"""Preflight reports what is wrong with a configuration before it runs, by the rules that its logs will meet."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from compliance.findings import Finding, Severity
from harness.__main__ import main
from harness.preflight import PREFLIGHT_RULES, PlannedRuns, check_plan, expected_minutes, make_plan
from harness.simulate import SimulatedPace, VirtualClock, simulate
from tests.fakes import EPOCH, configured, environment

VALID: dict[str, str | int] = {
    "DGXSYSTEM": "TEST_8x8x18xtp1pp1cp1",
    "DGXNNODES": 8,
    "MINIBS": 18,
    "NEXP": 3,
    "SEED_BASE": 1,
    "MLPERF_SUBMISSION_ORG": "Example",
    "MLPERF_SUBMISSION_STATUS": "onprem",
    "MLPERF_SUBMISSION_PLATFORM": "8xTest",
}
"""A run of 405B at the batch size of its smallest reference point."""


TINY: dict[str, str | int] = {"BENCHMARK": "llama31_tiny", "RULESET": "", "MINIBS": 2}


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return write(tmp_path)


def write(folder: Path, **overrides: str | int) -> Path:
    """A valid config file in `folder`, changed by `overrides`; the data and the results are in that folder."""
    values = environment(**{**VALID, "DATADIR": str(folder), "LOGDIR": str(folder / "logs"), **overrides})
    path = folder / f"config_{VALID['DGXSYSTEM']}.sh"
    path.write_text("".join(f"export {name}='{value}'\n" for name, value in values.items()), encoding="utf-8")
    return path


def found(path: Path, step_seconds: float | None = None) -> list[tuple[str, Severity]]:
    return [(f.rule, f.severity) for f in check_plan(make_plan(path, step_seconds=step_seconds))]


def test_valid_config_has_no_finding(config_file: Path) -> None:
    """A configuration that can run, with enough runs for a result, breaks no rule."""
    assert found(config_file) == []


@pytest.mark.parametrize(
    ("overrides", "rule", "severity"),
    [
        ({"MINIBS": 0}, "preflight.config", Severity.ERROR),
        ({"MINIBS": 17, "DGXSYSTEM": "TEST"}, "hyperparameter.reference_batch", Severity.WARNING),
        ({"MINIBS": 144, "DGXSYSTEM": "TEST"}, "hyperparameter.reference_batch", Severity.ERROR),
        ({"MINIBS": 31, "DGXSYSTEM": "TEST"}, "preflight.config", Severity.ERROR),
        ({"MINIBS": 19}, "preflight.config", Severity.ERROR),
        ({"DGXSYSTEM": "OTHER"}, "preflight.name", Severity.WARNING),
        ({"SEED": 1}, "preflight.config", Severity.ERROR),
        ({"NEXP": 2}, "result.count", Severity.INFO),
        ({"MLPERF_SUBMISSION_ORG": ""}, "preflight.identity", Severity.ERROR),
        ({"MLPERF_SUBMISSION_ORG": "My Lab"}, "preflight.identity", Severity.ERROR),
        ({"DATADIR": ""}, "preflight.data", Severity.ERROR),
        ({"DATADIR": "missing"}, "preflight.data", Severity.ERROR),
        ({"LOGDIR": "/dev/null/logs"}, "preflight.output", Severity.ERROR),
        ({"WALLTIME": 60}, "preflight.walltime", Severity.INFO),
        ({"DGXSYSTEM": "DGXH100"}, "preflight.memory", Severity.WARNING),
        ({"CONTAINER_RUNTIME": "docker", "CONT": "image"}, "preflight.container", Severity.ERROR),
        ({"CONT": "image", "TOKENIZER": "/data/with space"}, "preflight.container", Severity.ERROR),
        ({"TYPO": 1}, "preflight.config", Severity.ERROR),
    ],
)
def test_what_is_wrong_is_a_finding(
    tmp_path: Path, overrides: dict[str, str | int], rule: str, severity: Severity
) -> None:
    """Each fault is a finding of its rule; a fault of the configuration itself is the only finding."""
    findings = found(write(tmp_path, **overrides))
    assert (rule, severity) in findings
    assert {name for name, _ in findings} <= {rule, "preflight.name"}


def test_what_the_file_overrides_is_news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an INFO and breaks no rule."""
    monkeypatch.setenv("MINIBS", "36")
    (finding,) = check_plan(make_plan(write(tmp_path)))
    assert (finding.rule, finding.severity) == ("preflight.overridden", Severity.INFO)
    assert finding.message == f"MINIBS=36 of the environment has no effect: config_{VALID['DGXSYSTEM']}.sh sets 18"


def test_every_rule_here_is_broken_above() -> None:
    """Every rule of this module has a configuration that breaks it."""
    marks = test_what_is_wrong_is_a_finding.pytestmark  # type: ignore[attr-defined]
    elsewhere = {"preflight.overridden", "preflight.system"}
    missing = set(PREFLIGHT_RULES.rules) - {rule for _, rule, _ in marks[0].args[1]} - elsewhere
    assert not missing, "each needs a row above, with a configuration that breaks it"


def test_runs_that_name_no_submitter_are_told_before_they_are_made(tmp_path: Path) -> None:
    """The finding names the unset variables and the command that asks for them: an ERROR for a whole result, else a
    WARNING.
    """
    nobody = {"MLPERF_SUBMISSION_ORG": "", "MLPERF_SUBMISSION_PLATFORM": ""}
    (whole,) = check_plan(make_plan(write(tmp_path, **nobody)))
    assert whole.message == "MLPERF_SUBMISSION_ORG, MLPERF_SUBMISSION_PLATFORM not set: the runs cannot be packaged"
    assert "`llama31 submission init`" in whole.expected
    findings = found(write(tmp_path, **nobody, NEXP=1))
    assert findings == [("preflight.identity", Severity.WARNING), ("result.count", Severity.INFO)]


def test_a_benchmark_that_nobody_submits_needs_no_submitter() -> None:
    """The tiny one runs as often as one likes without a name."""
    plan = PlannedRuns(path=None, possible=configured(**TINY, NEXP=10))
    assert [finding for finding in check_plan(plan) if finding.rule == "preflight.identity"] == []


def test_batch_size_without_a_learning_rate_names_those_that_have_one(tmp_path: Path) -> None:
    """A batch size at which no double passes the official check is refused with the nearest that have one."""
    (finding,) = check_plan(make_plan(write(tmp_path, MINIBS=31, DGXSYSTEM="TEST")))
    assert "no double satisfies the official check" in finding.message
    assert "nearest global batch sizes" in finding.message


def test_a_logdir_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    """A link to a missing folder cannot be written; the finding names its target."""
    (tmp_path / "logs").symlink_to("/scratch/gone")
    (finding,) = check_plan(make_plan(write(tmp_path)))
    assert (finding.rule, finding.severity) == ("preflight.output", Severity.ERROR)
    assert finding.actual == f"{tmp_path}/logs is a link to /scratch/gone, which is not there"


def test_all_faults_are_found_at_once(tmp_path: Path) -> None:
    """Every fault of a configuration is a finding of its own."""
    path = write(tmp_path, TENSOR_MODEL_PARALLEL=3, MICRO_BATCH_SIZE=5)
    assert len(found(path)) > 2


def test_a_walltime_is_of_a_batch_job(tmp_path: Path) -> None:
    """Runs outside a job have no walltime to end before, and a newcomer's tiny run mentions no planner."""
    path = write(tmp_path, WALLTIME=99)
    plan = make_plan(path, step_seconds=10.0)
    assert "preflight.walltime" in {finding.rule for finding in check_plan(plan)}
    assert check_plan(replace(plan, in_batch=False)) == ()
    tiny = write(tmp_path, **TINY, DGXSYSTEM="tiny", WALLTIME=30, DATADIR="", NEXP=1)
    assert "preflight.walltime" not in dict(found(tiny))


@pytest.mark.parametrize(("walltime", "fits"), [(99, False), (1000, True)])
def test_walltime_is_compared_with_the_expected_time(tmp_path: Path, walltime: int, fits: bool) -> None:
    """A job that would be cut off is an ERROR with the minutes that it needs."""
    path = write(tmp_path, WALLTIME=walltime)
    assert found(path, step_seconds=10.0) == ([] if fits else [("preflight.walltime", Severity.ERROR)])


PLANNED: dict[str, str | int] = {
    "DGXSYSTEM": "DGXH100_64x8x288xtp8pp8cp2",
    "DGXNNODES": 64,
    "MINIBS": 288,
    "INTERLEAVED_PIPELINE": 8,
    "TENSOR_MODEL_PARALLEL": 8,
    "PIPELINE_MODEL_PARALLEL": 8,
    "CONTEXT_PARALLEL": 2,
    "GRAD_REDUCE_IN_FP32": "False",
}
"""What the planner has at 94 s a step, and three runs at 1,160 to 1,580 minutes."""


@pytest.mark.parametrize(
    ("job", "severity"),
    [
        ({"WALLTIME": 1000}, Severity.ERROR),
        ({"WALLTIME": 1200}, Severity.WARNING),
        ({"WALLTIME": 1700}, None),
        # The run goes on in another job.
        ({"WALLTIME": 1000, "SAVE_CHECKPOINT": "state"}, Severity.WARNING),
        ({"WALLTIME": 600, "SAVE_CHECKPOINT": "state", "NPAR": 3}, None),
    ],
)
def test_walltime_is_judged_by_the_planner(
    tmp_path: Path, job: dict[str, str | int], severity: Severity | None
) -> None:
    """It is an ERROR if the fastest likely runs do not end in time, a WARNING if slower ones may not."""
    findings = found(write(tmp_path, **PLANNED, **job))
    assert dict(findings).get("preflight.walltime") == severity


def test_expected_time_is_that_of_a_rehearsal(tmp_path: Path) -> None:
    """The minutes of all runs together are what a rehearsal takes on its clock."""
    clock = VirtualClock(EPOCH)
    simulate(configured(SEED=0), clock, SimulatedPace(step=7.0))
    assert expected_minutes(configured(NEXP=3), 7.0) == pytest.approx(3 * (clock.now() - EPOCH) / 60, rel=1e-6)


def test_findings_name_the_file_and_no_line(tmp_path: Path) -> None:
    """A configuration has no lines of a log to point at."""
    path = write(tmp_path, MINIBS=17, DGXSYSTEM="TEST")
    places = {(finding.file, finding.line) for finding in check_plan(make_plan(path))}
    assert places == {(str(path), None)}


# The description of the system.

SYSTEM_YAML = "system_name: A\naccelerator_model_name: Test\nhost_processors_per_node: 2\n"


def described(folder: Path, text: str) -> list[Finding]:
    """What preflight finds of a system.yaml."""
    (folder / "system.yaml").write_text(text, encoding="utf-8")
    plan = make_plan(write(folder), system_yaml=folder / "system.yaml")
    return [finding for finding in check_plan(plan) if finding.rule == "preflight.system"]


def test_a_description_that_can_be_packaged_has_no_finding(tmp_path: Path) -> None:
    """That holds before the runs, which will fill in their own part."""
    assert described(tmp_path, SYSTEM_YAML) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SYSTEM_YAML + "cooling: a\ncooling: b\n", "line 5: cooling is given again"),
        (SYSTEM_YAML.replace("2", "two"), "system.counts: host_processors_per_node"),
        (SYSTEM_YAML.replace("2", ""), "host_processors_per_node is empty"),
        (SYSTEM_YAML + "number_of_nodes: 9\n", "number_of_nodes: system.yaml states '9', but the runs have '8'"),
    ],
)
def test_what_packaging_would_refuse_of_a_description_is_an_error(tmp_path: Path, text: str, said: str) -> None:
    """The same rules judge it as afterwards, and the finding has the line."""
    findings = described(tmp_path, text)
    assert any(said in finding.message for finding in findings), findings
    assert {finding.severity for finding in findings} == {Severity.ERROR}


def test_what_a_description_says_otherwise_than_the_logs_is_told(tmp_path: Path) -> None:
    """A platform with other nodes than the description's is found, as a reviewer would find it."""
    text = SYSTEM_YAML.replace("Test", "NVIDIA GB300")
    (tmp_path / "system.yaml").write_text(text, encoding="utf-8")
    path = write(tmp_path, MLPERF_SUBMISSION_PLATFORM="8xGB200")
    assert ("preflight.system", Severity.WARNING) in [
        (finding.rule, finding.severity)
        for finding in check_plan(make_plan(path, system_yaml=tmp_path / "system.yaml"))
    ]


# The command.


@pytest.fixture
def nothing_to_find(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the findings about this machine, whose rules are tested in test_here."""
    monkeypatch.setattr("harness.here.check_here", lambda _plan: ())


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["preflight", *(str(argument) for argument in arguments)])


@pytest.mark.usefixtures("nothing_to_find")
def test_command_passes_a_valid_config(config_file: Path) -> None:
    """A valid configuration exits 0; switches that have never run on a GPU get a line each, but are not faults."""
    result = run(config_file)
    origins, *unproven, last = result.output.splitlines()
    assert origins.startswith(f"{config_file.name}: BENCHMARK=llama31_405b RULESET=6.0.0 ")
    assert (result.exit_code, last) == (0, "PASS  1 configuration, 0 errors, 0 warnings")
    assert "never run on a GPU: LAYER_SPEC=te (only on the null device)" in unproven
    assert all(line.startswith("never run on a GPU: ") for line in unproven)
    assert json.loads(run(config_file, "--json").output)["warnings"] == unproven


def test_command_fails_an_impossible_config(tmp_path: Path) -> None:
    """A configuration that cannot run exits 1 with its faults, as text and as JSON."""
    path = write(tmp_path, MINIBS=-1)
    assert run(path).exit_code == 1
    (finding,) = json.loads(run(path, "--json").output)["findings"]
    assert finding["rule"] == "preflight.config"


@pytest.mark.parametrize("arguments", [["missing.sh"], ["--step-seconds", "0"]])
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    """A file that does not exist and a step that takes no time exit 2 with one clear error."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Error: " in result.output


@pytest.mark.usefixtures("nothing_to_find")
def test_command_checks_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a file, the configuration that was sourced by hand is checked."""
    for name, value in environment(**VALID, DATADIR=str(tmp_path), LOGDIR=str(tmp_path)).items():
        monkeypatch.setenv(name, value)
    assert run().exit_code == 0
