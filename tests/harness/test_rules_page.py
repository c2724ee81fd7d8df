"""docs/rules.md, and whether the rules cover everything that the harness logs and benchmark.rules states."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import compliance
import harness
from benchmark.benchmarks import find
from benchmark.checkout import ROOT
from benchmark.rules import Rules
from compliance.check import open_run
from compliance.checks.results import check_result
from compliance.checks.rule import Rulebook
from compliance.checks.runs import check_run
from compliance.findings import Finding
from compliance.result import Result
from harness.__main__ import main
from harness.rules_page import BOOKS, rules_page
from harness.simulate import SimulatedPace, VirtualClock, simulate
from tests.conftest import BASES
from tests.fakes import EPOCH, configured
from tests.logs import LogFile

PAGE = ROOT / "docs" / "rules.md"
RULES = [rule for _, book in BOOKS for rule in book.rules.values()]


# The page.


def test_page_is_what_the_command_prints() -> None:
    """docs/rules.md is what `llama31 rules` prints."""
    result = CliRunner().invoke(main, ["rules"])
    assert result.exit_code == 0
    assert result.output == PAGE.read_text(encoding="utf-8"), "renew it: llama31 rules > docs/rules.md"


def test_rule_has_an_entry_with_an_example(subtests: pytest.Subtests) -> None:
    """Every rule is described, with its source and an example of what breaks it."""
    page = rules_page()
    for rule in RULES:
        with subtests.test(rule.id):
            entry = page.split(f"### `{rule.id}`\n")[1].split("###")[0]
            assert rule.example
            assert all(text in entry for text in (rule.description, rule.severity, rule.source, rule.example))


def test_one_rule_is_printed_in_words() -> None:
    """`llama31 rules RULE` says what the rule is, how bad a breach is, since when, by whom, and what breaks it."""
    (rule,) = (rule for rule in RULES if rule.id == "hyperparameter.learning_rate_check")
    result = CliRunner().invoke(main, ["rules", rule.id])
    assert result.exit_code == 0
    assert all(text in result.output for text in (rule.id, rule.description, rule.severity, rule.source, rule.example))
    assert len(result.output.splitlines()) < 20


@pytest.mark.parametrize(("typed", "meant"), [("eval.cadance", "eval.cadence"), ("cadence", "eval.cadence")])
def test_unknown_rule_is_refused_with_what_it_may_mean(typed: str, meant: str) -> None:
    """An unknown rule exits 2, and the error names the nearest ones."""
    result = CliRunner().invoke(main, ["rules", typed])
    assert result.exit_code == 2
    assert meant in result.output


def test_every_rulebook_is_on_the_page() -> None:
    """No set of rules is left out."""
    packages = (compliance, harness)
    found = [
        module for package in packages for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    modules = [importlib.import_module(module.name) for module in found]
    books = {id(value) for module in modules for value in vars(module).values() if isinstance(value, Rulebook)}
    assert books == {id(book) for _, book in BOOKS}


# What is logged is judged.

UNJUDGED_VALUES = {
    "init_start": "an interval has no value",
    "init_stop": "an interval has no value",
    "run_start": "an interval has no value",
    "run_stop": "an interval has no value",
    "block_start": "an interval has no value",
    "block_stop": "an interval has no value",
    "eval_start": "an interval has no value",
    "eval_stop": "an interval has no value",
}
"""Key -> why no rule looks at its value."""

OPTIONAL = {
    "target_accuracy": "the official rules do not ask for it; where it is logged, its value is judged",
    "max_steps": "asked for where the ruleset fixes it (llama31_8b); where it is logged, its value is judged",
    **dict.fromkeys(
        ("micro_batch_size", "tensor_parallelism", "pipeline_parallelism", "context_parallelism", "expert_parallelism"),
        "asked for since 6.1.0, which 405B is not in; where it is logged, its value is judged",
    ),
    **dict.fromkeys(
        tuple(f"lowest_numerical_precision_in_{part}" for part in ("linear", "attn", "comm")),
        "asked for since 6.1.0, which 405B is not in; where it is logged, its value is judged",
    ),
    "config_filename": "asked for since 6.1.0, which 405B is not in",
}
"""Key -> why a log may lack it."""

UNJUDGED_IN = {
    "405b": {
        "max_steps": "405B may give up where it likes, at an evaluation",
        "config_filename": "asked for since 6.1.0, which 405B is not in",
    },
    "tiny": {
        "max_steps": "the harness's own benchmark may give up where it likes, at an evaluation",
        "config_filename": "asked for since 6.1.0, which the harness's own benchmark is not in",
    },
    "8b": {},
}
"""Benchmark -> key -> why no rule looks at its value there."""


def keys(log: LogFile) -> list[str]:
    return list(dict.fromkeys(event["key"] for event in log.events))


@pytest.mark.parametrize("base", BASES)
def test_every_logged_value_is_judged(valid: Callable[[str], LogFile], base: str, subtests: pytest.Subtests) -> None:
    """A meaningless value of any key is a finding, unless there is a written reason why not."""
    excused = UNJUDGED_VALUES | UNJUDGED_IN[base]
    for key in keys(valid(base)):
        log = valid(base)
        log.set(key, {"not": "a value"})
        log.save()
        with subtests.test(key=key):
            to_do = f"{key}: a @rule in compliance/checks/ has to judge it, or UNJUDGED_VALUES says why none does"
            assert bool(log.findings()) != (key in excused), to_do


@pytest.mark.parametrize("base", BASES)
def test_every_logged_event_is_asked_for(valid: Callable[[str], LogFile], base: str, subtests: pytest.Subtests) -> None:
    """A missing event is a finding, unless there is a written reason why it may be left out."""
    for key in keys(valid(base)):
        log = valid(base)
        log.events = [event for event in log.events if event["key"] != key]
        log.save()
        with subtests.test(key=key):
            to_do = f"{key}: a @rule in compliance/checks/ has to ask for it, or OPTIONAL says why a log may lack it"
            assert log.findings() or key in OPTIONAL, to_do


# What benchmark.rules says is judged by.

UNJUDGED_FIELDS = {
    "benchmark": "it is what selects the row",
    "ruleset": "it is what selects the row",
    "accepted_cadences": "it is of logs that leave the rules' own cadence; see test_run_rules",
    "convergence_allowance": "it is judged by compliance.convergence.rcp",
    "convergence_allowance_official": "it is judged by compliance.convergence.rcp",
}
"""Field of Rules -> why no rule over logs depends on it."""


def other(name: str, value: Any) -> object:
    """A value that a field could have instead."""
    special = {
        "official_open_fault": "" if value else "it does not fit",
        "reference_points": value[:-1] if isinstance(value, tuple) else (),
    }
    return special.get(name, 2 if value == 1 else 1)


def with_field(instance: Any, name: str, value: object) -> Any:
    """A dataclass in which one field has another value."""
    return replace(instance, **{name: value})


def changed(row: Rules) -> Iterator[tuple[str, Rules]]:
    """Each field of a row, and of what it holds, with the row in which only that field has another value."""
    for field in fields(row):
        value = getattr(row, field.name)
        if field.name in UNJUDGED_FIELDS:
            continue
        if is_dataclass(value) and not isinstance(value, type):
            for inner in fields(value):
                part = with_field(value, inner.name, other(inner.name, getattr(value, inner.name)))
                yield f"{field.name}.{inner.name}", with_field(row, field.name, part)
        else:
            yield field.name, with_field(row, field.name, other(field.name, value))


def verdict(paths: list[Path], row: Rules) -> list[tuple[Finding, ...]]:
    """What the rules find in logs when `row` is what applies."""
    runs = tuple(open_run(path) for path in paths)
    for run in runs:
        # The row is looked up once and kept; this is where it is kept.
        vars(run)["row"] = row
    return [*map(check_run, runs), check_result(Result(paths[0].parent, runs))]


@pytest.mark.parametrize("benchmark", ["llama31_405b", "llama31_8b"])
def test_every_field_of_the_rules_decides_something(tmp_path: Path, benchmark: str, subtests: pytest.Subtests) -> None:
    """Another value in any field of a row changes the verdict on valid logs of both divisions."""
    row = find(benchmark)
    common: dict[str, str | int] = {
        "BENCHMARK": benchmark,
        "RULESET": row.ruleset,
        "SEED": 1,
        "CONFIG_FILENAME": "config_TEST.sh",
    }
    paths = []
    for division in ("closed", "open"):
        size = row.reference_points[-1].global_batch_size
        config = configured(**common, DGXNGPU=1, MINIBS=size, MLPERF_SUBMISSION_DIVISION=division)
        paths.append(tmp_path / f"result_{division}.txt")
        simulate(config.changed(RESULT_FILE=paths[-1]), VirtualClock(EPOCH), SimulatedPace())
    before = verdict(paths, row)
    for name, changed_row in changed(row):
        with subtests.test(field=name):
            to_do = f"Rules.{name}: a @rule has to depend on it, or UNJUDGED_FIELDS says why none does"
            assert verdict(paths, changed_row) != before, to_do


def test_excused_fields_exist() -> None:
    """Every excuse is for a field that exists."""
    assert set(UNJUDGED_FIELDS) <= {field.name for field in fields(Rules)}
