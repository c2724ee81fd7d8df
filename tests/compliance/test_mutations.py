"""Every mutation is judged as its label says; the labels were committed before the checker was run on any of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from compliance.check import check_paths
from compliance.debatable import DEBATABLE
from tests.compliance.mutations.__main__ import errors_of_ours
from tests.compliance.mutations.bases import Bases
from tests.compliance.mutations.mutation import Label, LogMutation, Mutation, TreeMutation, named
from tests.compliance.mutations.official_tools import log_refusals, tree_refusals
from tests.compliance.mutations.table import CHANGED, LOGS, TREES
from tests.compliance.mutations.trees import BENCHMARKS
from tests.official import needs_official


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    return Bases(tmp_path_factory.mktemp("bases"))


def judge(mutation: Mutation, path: Path) -> None:
    """Compare what the checker finds with the label; of a debatable one, with what is said to be found."""
    errors = errors_of_ours(path, mutation.ruleset)
    assert not [error for error in errors if "crashed" in error]
    if mutation.label is Label.DEBATABLE:
        assert errors == DEBATABLE[mutation.id].rules
    else:
        assert bool(errors) == (mutation.label is not Label.PASS), errors


@pytest.mark.parametrize("mutation", LOGS, ids=named)
def test_log_is_judged_as_labelled(mutation: LogMutation, bases: Bases, tmp_path: Path) -> None:
    """A log in which a rule is broken, or that is refused officially, has an ERROR; any other has none."""
    judge(mutation, bases.mutated_log(mutation, tmp_path))


@pytest.mark.parametrize("mutation", [log for log in LOGS if log.label is Label.OFFICIAL], ids=named)
def test_official_tools_refuse_log(mutation: LogMutation, bases: Bases, tmp_path: Path) -> None:
    """A log that is labelled as refused only officially is refused officially."""
    needs_official(mutation.ruleset)
    assert log_refusals(bases.mutated_log(mutation, tmp_path), mutation.ruleset)


@pytest.mark.slow
@pytest.mark.parametrize("mutation", TREES, ids=named)
def test_submission_is_judged_as_labelled(mutation: TreeMutation, bases: Bases, tmp_path: Path) -> None:
    """A submission in which a rule is broken, or that is refused officially, has an ERROR; any other has none."""
    judge(mutation, bases.mutated_tree(mutation, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("mutation", [tree for tree in TREES if tree.label is Label.OFFICIAL], ids=named)
def test_official_tools_refuse_submission(mutation: TreeMutation, bases: Bases, tmp_path: Path) -> None:
    """A submission that is labelled as refused only officially is refused officially."""
    needs_official(mutation.ruleset)
    assert tree_refusals(bases.mutated_tree(mutation, tmp_path), mutation.ruleset)


@pytest.mark.parametrize("ruleset", BENCHMARKS)
def test_unchanged_logs_and_submissions_pass(ruleset: str, bases: Bases) -> None:
    """The logs and submissions that mutations are made from have neither ERROR nor WARNING."""
    logs = [bases.log(benchmark, ruleset) for benchmark in BENCHMARKS[ruleset]]
    for path in (*logs, bases.tree(ruleset).root):
        assert {finding.severity.name for finding in check_paths([path], ruleset).findings} <= {"INFO"}


def test_table_names_each_once() -> None:
    """No two mutations have one name, and a changed label is the one in the table."""
    labels = {mutation.id: mutation.label for mutation in (*LOGS, *TREES)}
    assert [name for name, times in Counter(mutation.id for mutation in (*LOGS, *TREES)).items() if times > 1] == []
    assert all(labels[change.id] is change.after is not change.before for change in CHANGED)
    assert {name for name, label in labels.items() if label is Label.DEBATABLE} == set(DEBATABLE)
