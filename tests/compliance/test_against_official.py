"""The checks against the world: logs that MLCommons published, and its own checker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmark.checkout import ROOT
from benchmark.mllog import TOKEN
from compliance.check import check_paths, find_logs, open_result, open_run
from compliance.checks.runs import check_run
from compliance.convergence.score import score
from compliance.findings import Severity
from compliance.log import load
from tests.logs import LogFile, errors, llama31_8b, llama31_405b, make_log, reaching
from tests.official import accepts_log, rejections

PUBLISHED = ROOT.parent / "shared" / "published"
ROUNDS = {"v5.0": "5.0.0", "v5.1": "5.1.0"}

published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published logs are not beside this checkout")


@published
@pytest.mark.parametrize("round_name", ROUNDS)
def test_published_logs_have_no_error(round_name: str) -> None:
    """A log that MLCommons accepted and published breaks no rule of its own round."""
    report = check_paths([PUBLISHED / round_name], ROUNDS[round_name])
    assert report.logs
    assert [finding for finding in report.findings if finding.severity is Severity.ERROR] == []


@published
@pytest.mark.parametrize("round_name", ROUNDS)
def test_published_results_have_a_score(round_name: str) -> None:
    """Every published result has a time for each run and an olympic mean."""
    scores = [score(open_result(group, ROUNDS[round_name])) for group in find_logs([PUBLISHED / round_name])]
    assert scores
    assert all(result.olympic_minutes in result.minutes for result in scores)


@pytest.mark.parametrize("ruleset", ["5.0.0", "5.1.0", "6.0.0"])
def test_official_checker_accepts_what_the_loop_logs(tmp_path: Path, ruleset: str) -> None:
    """The official compliance checker accepts a 405B log of the real loop, as ours does."""
    config = llama31_405b(RULESET=ruleset)
    log = make_log(tmp_path / "result_0.txt", config, reaching(config))
    assert accepts_log(log, ruleset)
    assert check_paths([log], ruleset).findings == ()


# What ours accepts, the official checker accepts.

VALUES: tuple[object, ...] = (
    *(None, True, False, -1, 0, -0.0, 0.5, 5.6, 8e-5, 5760, 8192.0, 1e308, 10**30, 10**400),
    *("", " ", "1152", "adamw", "closed", [], {}, {"samples_count": 1}),
)
CONFIGS = {
    "405b 5.0.0": llama31_405b(RULESET="5.0.0", MINIBS=576),
    "405b 5.1.0": llama31_405b(RULESET="5.1.0", MINIBS=576),
    "405b 6.0.0": llama31_405b(RULESET="6.0.0", MINIBS=576),
    "405b open": llama31_405b(RULESET="6.0.0", MINIBS=576, MLPERF_SUBMISSION_DIVISION="open"),
    "8b 6.1.0": llama31_8b(RULESET="6.1.0"),
    "8b open": llama31_8b(RULESET="6.1.0", MLPERF_SUBMISSION_DIVISION="open"),
}


@pytest.fixture(scope="module")
def short_logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LogFile]:
    """A valid log of each configuration, without its training steps, of which the official checker reads none."""
    folder, logs = tmp_path_factory.mktemp("short"), {}
    for name, config in CONFIGS.items():
        log = logs[name] = LogFile(make_log(folder / name, config, reaching(config, 2)), config.rules.ruleset)
        log.events = [event for event in log.events if event["key"] != "tracked_stats"]
    return logs


def broken(draw: Any, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events with one of them left out, repeated, moved or changed."""
    events = [event | {"metadata": dict(event["metadata"])} for event in events]
    index, place = (draw(st.integers(0, len(events) - 1)) for _ in range(2))
    event = events[index]
    # Its values name files that the official checker executes.
    is_a_name = event["key"] in ("submission_division", "submission_benchmark")
    match draw(st.sampled_from(["drop", "repeat", "move", "value", "number", "metadata", "time", "field"])):
        case "drop":
            del events[index]
        case "repeat":
            events.insert(place, event)
        case "move":
            events.insert(place, events.pop(index))
        case "value" if not is_a_name:
            event["value"] = draw(st.sampled_from(VALUES))
        case "number" if isinstance(event["value"], int | float) and not isinstance(event["value"], bool):
            factor = draw(st.sampled_from([-1, 0.5, 1 - 1e-16, 1.0, 1 + 1e-15, 1 + 1e-9, 2]))
            event["value"] = draw(st.sampled_from([event["value"] * factor, event["value"] + 1, event["value"] - 1]))
        case "metadata":
            name = draw(st.sampled_from(["samples_count", "status", "file", "lineno"]))
            event["metadata"] |= {name: draw(st.sampled_from(VALUES))}
            if draw(st.booleans()):
                del event["metadata"][name]
        case "time":
            event["time_ms"] = draw(st.sampled_from([0, event["time_ms"] - 1, event["time_ms"] + 10**7, "1", None]))
        case "field":
            del event[draw(st.sampled_from(sorted(event)))]
    return events


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=100)
@given(data=st.data())
def test_what_is_accepted_here_is_accepted_there(
    short_logs: dict[str, LogFile], name: str, data: st.DataObject
) -> None:
    """A log that is broken in any one way and has no ERROR here passes the official checker."""
    log = short_logs[name]
    lines = (f"{TOKEN} {json.dumps(event)}\n" for event in broken(data.draw, log.events))
    file = log.path.with_name("broken")
    file.write_text("".join(lines), encoding="utf-8")
    found = check_run(open_run(file, log.ruleset))
    if not errors(found):
        assert rejections(file, str(log.ruleset)) == []


def _event(key: str, value: object = 1) -> str:
    fields = {"namespace": "", "time_ms": 1, "event_type": "POINT_IN_TIME", "key": key, "value": value, "metadata": {}}
    return json.dumps(fields)


PIECES = st.sampled_from(
    [
        *(f"{TOKEN} {_event('a')}", f"{TOKEN} {_event('b', f'{TOKEN} ')}", f"{TOKEN}{_event('c')}"),
        *(f"{TOKEN}  \t{_event('d')}", f"{TOKEN} {_event('e').replace(' ', chr(13))}", f"{TOKEN} \u00a0{_event('f')}"),
        *("\n", "\n", "\r", "\r\n", " ", "0: ", "}", "\x00", "\x1c", "\u00a0", "\u2028", "\ufeff", " 10%|#  |"),
    ]
)


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=8))
@example([f"{TOKEN} {_event('a')}", "\n"])
def test_the_official_parser_reads_every_line_that_is_not_reported(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[str]
) -> None:
    """From any text whose events all stand alone, the official parser reads the same events."""
    from mlperf_logging.compliance_checker import mlp_parser

    file = tmp_path_factory.getbasetemp() / "pieces.txt"
    file.write_text("".join(pieces), encoding="utf-8", newline="")
    log = load(file)
    lines, faults = mlp_parser.parse_file(str(file), ruleset="6.0.0")
    stand_alone = not log.crowded and not log.defects
    assert stand_alone == ([mark.key for mark in log.marks] == [line.key for line in lines] and not faults)
