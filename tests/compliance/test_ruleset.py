"""Which ruleset judges a log, and what the output says about it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from html import unescape
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmark.files import RUN_JSON
from compliance.check import check_paths, find_logs, open_result
from compliance.convergence.rcp import compare
from compliance.findings import Severity
from compliance.ruleset import LATEST, PUBLISHED, asked_for, choose, round_at
from harness.__main__ import main
from tests.compliance.test_against_official import PUBLISHED as LOGS
from tests.compliance.test_against_official import published
from tests.logs import LogFile, llama31_405b, make_log, reaching
from tests.official import accepts_log

EOS = LOGS / "v5.0/NVIDIA/results/eos-dfw_n256_ngc25.01_nemo"


def ms(year: int, month: int, day: int) -> float:
    return datetime(year, month, day, tzinfo=UTC).timestamp() * 1000


# The choice.


@pytest.mark.parametrize(
    ("folder", "ruleset", "named"),
    [
        ("training_results_v5.1/NVIDIA/results/A/llama31_405b", "5.1.0", "training_results_v5.1"),
        ("v5.0/NVIDIA", "5.0.0", "v5.0"),
        ("v5.0.0", "5.0.0", "v5.0.0"),
        ("v5.0/work/submission-v5.1/A", "5.1.0", "submission-v5.1"),
        ("v6.1", "6.1.0", "v6.1"),
        ("training_results_v7.0/A", "7.0.0", "training_results_v7.0"),
        ("v5.1/training_results_v4.1/A", "4.1.0", "training_results_v4.1"),
        ("v5.1/tool-v1.2/A", "5.1.0", "v5.1"),
        ("training_results_v5.1/Krai/results/n8_v5.0/llama31_8b", "5.1.0", "training_results_v5.1"),
        ("results/v5.0/A", "5.0.0", "v5.0"),
    ],
)
def test_the_nearest_folder_named_after_a_round_decides(folder: str, ruleset: str, named: str) -> None:
    """The round of a folder of the path is meant; one that is not known here only by its repository's name."""
    chosen = choose(Path("/x", folder))
    assert (chosen.ruleset, chosen.origin) == (ruleset, f"from the folder {named}")


@pytest.mark.parametrize("folder", ["runs", "v9.9/A", "rev5.1", "v5.1-backup", "v5.1.2", "v5"])
def test_other_names_mean_no_round(folder: str) -> None:
    """A name that only looks like that of a round leaves the latest ruleset."""
    assert choose(Path("/x", folder)) == LATEST


def test_run_json_is_before_the_folder_and_what_is_asked_for_before_both(tmp_path: Path) -> None:
    """The option has precedence, then the record next to the logs, then the folder."""
    folder = tmp_path / "v5.0"
    folder.mkdir()
    assert choose(folder).ruleset == "5.0.0"
    (folder / RUN_JSON).write_text(json.dumps({"ruleset": "5.1.0"}), encoding="utf-8")
    assert (choose(folder).ruleset, choose(folder).origin) == ("5.1.0", "from run.json")
    assert choose(folder, "6.0.0") == asked_for("6.0.0")


def test_a_record_that_cannot_be_read_leaves_the_folder(tmp_path: Path) -> None:
    """A truncated run.json is ignored, and the output says so."""
    folder = tmp_path / "v5.0"
    folder.mkdir()
    (folder / RUN_JSON).write_text("{", encoding="utf-8")
    assert choose(folder).ruleset == "5.0.0"
    assert choose(folder).fault


def test_a_link_to_the_tree_of_a_round_is_of_that_round(tmp_path: Path) -> None:
    """The name that was typed counts, and where it names no round the folder that a link leads to."""
    (tmp_path / "v5.0/A").mkdir(parents=True)
    for name in ("mine", "v5.1"):
        (tmp_path / name).symlink_to(tmp_path / "v5.0/A")
    assert [choose(tmp_path / name).ruleset for name in ("mine", "v5.1")] == ["5.0.0", "5.1.0"]


def test_a_ruleset_that_lacks_the_benchmark_is_an_error_that_says_why(
    valid: Callable[[str], LogFile], tmp_path: Path
) -> None:
    """A folder of a round that a benchmark is not in never makes a log pass."""
    (tmp_path / "v6.1").mkdir()
    log = valid("405b").path.rename(tmp_path / "v6.1/result_0.txt")
    (finding,) = check_paths([log]).findings
    assert (finding.rule, finding.severity) == ("run.benchmark", Severity.ERROR)
    assert "'llama31_405b' is not in ruleset '6.1.0' (from the folder v6.1)" in finding.message


# What is said, by every command alike.


@published
def test_every_command_judges_a_published_result_by_its_round() -> None:
    """The factor of a result of v5.0 is that round's, and each command says by which ruleset it judged, and why."""
    said = "5.0.0 (from the folder v5.0)"
    for verb in ("check", "check --all", "check --summary", "score", "rcp", "report --md"):
        output = CliRunner().invoke(main, [*verb.split(), str(EOS)]).output
        assert unescape(output).count(said) == 1, verb
    watched = CliRunner().invoke(main, ["watch", "--once", str(EOS / "llama31_405b/result_0.txt")]).output
    assert said in watched.splitlines()[0]
    for verb in ("score", "rcp"):
        (result,) = json.loads(CliRunner().invoke(main, [verb, "--json", str(EOS)]).output)["results"]
        assert (result["ruleset"], result["ruleset_from"]) == ("5.0.0", "from the folder v5.0")
        assert result["factor"] == pytest.approx(7 / 6)


# The round of a run.


@pytest.mark.parametrize(
    ("time_ms", "ruleset"),
    [
        (0, None),
        (ms(2024, 11, 12), None),
        (ms(2024, 11, 13), "5.0.0"),
        (ms(2025, 6, 3), "5.0.0"),
        (ms(2025, 6, 4), "5.1.0"),
        (ms(2026, 6, 15), "6.0.0"),
        (ms(2026, 6, 16), None),
        (1e300, None),
    ],
)
def test_a_time_is_of_the_round_that_is_published_next(time_ms: float, ruleset: str | None) -> None:
    """A run belongs to the first round whose results were published after it."""
    assert round_at(time_ms) == ruleset


@published
def test_published_logs_are_of_their_round_by_their_times() -> None:
    """No published log is taken for one of another round than that which published it."""
    for folder in LOGS.glob("v*"):
        for group in find_logs([folder]):
            assert {round_at(run.first("run_start").event.time_ms) for run in open_result(group).runs} == {
                f"{folder.name.removeprefix('v')}.0"
            }


def of_v50(log: Path) -> LogFile:
    """A log of the loop by the rules of 5.0.0, at a time when runs were for that round."""
    config = llama31_405b(RULESET="5.0.0", DGXNNODES=1, DGXNGPU=1, MINIBS=1152)
    made = LogFile(make_log(log, config, reaching(config, 7)))
    for event in made.events:
        event["time_ms"] += ms(2025, 4, 20) - ms(2023, 11, 14)
    made.save()
    return made


def test_logs_of_an_earlier_round_are_judged_by_its_evaluations_and_the_new_checkers(tmp_path: Path) -> None:
    """A log that the new round's checker accepts passes with its own evaluations; one that it refuses is an ERROR."""
    (tmp_path / "v5.1").mkdir()
    log = of_v50(tmp_path / "v5.1/result_0.txt")
    (finding,) = check_paths([log.path]).findings
    assert (finding.rule, finding.severity) == ("run.resubmitted", Severity.INFO)
    assert finding.message.endswith("its evaluations are judged by 5.0.0, everything else by 5.1.0")
    assert accepts_log(log.path, "5.1.0")
    log.set("opt_learning_rate_decay_steps", 1_100_000)
    log.save()
    assert not accepts_log(log.path, "5.1.0")
    assert not check_paths([log.path]).passed


def test_the_cadence_of_an_earlier_round_is_no_excuse_for_a_new_run(tmp_path: Path) -> None:
    """A run of the time of v5.1 has to evaluate as 5.1.0 says."""
    (tmp_path / "v5.1").mkdir()
    log = of_v50(tmp_path / "v5.1/result_0.txt")
    for event in log.events:
        event["time_ms"] += ms(2025, 10, 1) - ms(2025, 4, 20)
    log.save()
    assert "eval.cadence" in {finding.rule for finding in check_paths([log.path]).findings}


def test_a_run_that_was_made_early_is_of_the_new_round(tmp_path: Path) -> None:
    """A run of v5.0's time that evaluates by 5.1.0's rules does not count as one of v5.0."""
    config = llama31_405b(RULESET="5.1.0", DGXNNODES=1, DGXNGPU=1, MINIBS=1152)
    log = LogFile(make_log(tmp_path / "result_0.txt", config, reaching(config)), "5.1.0")
    for event in log.events:
        event["time_ms"] += ms(2025, 4, 20) - ms(2023, 11, 14)
    log.save()
    assert check_paths([log.path], "5.1.0").findings == ()


@published
def test_a_resubmitted_result_keeps_its_logs_and_takes_the_new_reference(tmp_path: Path) -> None:
    """Published logs of v5.0 in a tree of v5.1 break no rule of a log; their factor is that of 5.1.0."""
    tree = Path(shutil.copytree(EOS, tmp_path / "v5.1/NVIDIA/results" / EOS.name))
    report = check_paths([tree])
    assert {finding.rule for finding in report.findings if finding.severity is Severity.ERROR} == {"system.missing"}
    assert "run.resubmitted" in {finding.rule for finding in report.findings}
    assert {compare(open_result(group)).factor for group in find_logs([tree])} == {313344 / 276480}


def test_rounds_are_in_order() -> None:
    """The first round that was published after a run is the one meant."""
    assert list(PUBLISHED.values()) == sorted(PUBLISHED.values())
