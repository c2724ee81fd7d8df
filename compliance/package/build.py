"""Build the tree of a submission: complete and accepted by every check, or not written at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmark.checkout import ROOT
from benchmark.config import config_files
from benchmark.run_record import code_revision
from compliance.check import check_paths
from compliance.checks.packages import NAME
from compliance.checks.systems import REHEARSAL
from compliance.findings import Finding, Severity, count
from compliance.official import judge
from compliance.package import machine
from compliance.package.checklist import Item, Packed, checklist
from compliance.package.facts import Facts, read_facts
from compliance.package.readme import readme
from compliance.package.runs import ChosenRuns, NotPackageableError, choose
from compliance.package.system import describe

IMPLEMENTATION = (
    *("LICENSE", "pyproject.toml", "Dockerfile", "setup.sh", "run_and_time.sh", "run.sub"),
    *("requirements.lock", "requirements-host.lock", "requirements-dev.lock", "requirements-nodeps.lock"),
    *("requirements-null.lock", "config_common.sh", "config_tiny.sh"),
    *("benchmark", "compliance", "reference_impl", "report", "harness", "nullcuda", "docs"),
)
"""Files and folders of the checkout that are packaged besides the config file; those that do not exist are skipped.

README.md is not among them: each package has its own.
"""

OF_A_REHEARSAL = ("package.real_runs", "package.rehearsal")
"""Rules that every rehearsal breaks, so that nobody takes its tree for a submission."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltSubmission:
    """A tree that was built, and the findings about it."""

    path: Path
    """The folder of the submitter. It exists only if the submission passed."""
    chosen: tuple[ChosenRuns, ...]
    findings: tuple[Finding, ...]
    """Findings of this harness's checks and of the official tools, with the paths that the tree has once in place."""
    rehearsal: bool = False
    """Whether it is a rehearsal with simulated runs. The findings do not repeat that."""
    not_run: tuple[str, ...] = ()
    """As in compliance.check.Report."""
    checklist: tuple[Item, ...] = ()
    """What the policies also ask for."""
    doubts: tuple[str, ...] = ()
    """Fields that differ from this machine, if this machine has the processor of the runs."""

    @property
    def passed(self) -> bool:
        return count(self.findings, Severity.ERROR) == 0


def build(
    folders: Iterable[Path],
    out: Path,
    facts_file: Path,
    *,
    submitter: str | None = None,
    checkout: Path = ROOT,
    rehearsal: bool = False,
) -> BuiltSubmission:
    """Write the submission of the runs in or below some folders to `out`/<submitter>, if it passes every check.

    Args:
        folders: the folders of the runs, or folders above them.
        out: the folder that holds submissions.
        facts_file: the system.yaml.
        submitter: the name of the submitter; the submission_org of the runs if None.
        checkout: the folder from which the implementation is copied.
        rehearsal: take simulated runs only, and write their tree to `out`/REHEARSAL-<submitter>.

    Raises:
        NotPackageableError: the runs cannot be submitted; it lists every reason. Nothing has been written then.
    """
    facts, chosen = read_facts(facts_file), choose(folders, rehearsal=rehearsal)
    submitter = submitter or str(chosen[0].launch.config.submission.org)
    faults = [*_bad_names(submitter, chosen), *_missing_configs(checkout, chosen)]
    submitter = f"{REHEARSAL}{submitter}" if rehearsal else submitter
    target = out / submitter
    if target.exists() or target.is_symlink():
        faults.append(f"{target} exists; a submission is never changed: move it away")
    if faults:
        raise NotPackageableError(faults)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix="unfinished-") as folder:
        tree = Path(folder, submitter)
        described = {choice.launch.record.system: _write(tree, choice, submitter, facts, checkout) for choice in chosen}
        doubts = dict.fromkeys(doubt for facts in described.values() for doubt in machine.differences(facts))
        submission = replace(
            _judged(tree, target, chosen, rehearsal=rehearsal),
            checklist=checklist(Packed(chosen=chosen, descriptions=described, code=code_revision())),
            doubts=tuple(doubts),
        )
        if submission.passed:
            tree.rename(target)
    return submission


def _bad_names(submitter: str, chosen: Sequence[ChosenRuns]) -> Iterator[str]:
    for name in dict.fromkeys([submitter, *(choice.launch.record.system for choice in chosen)]):
        if not NAME.fullmatch(name):
            yield f"{name!r} cannot name a folder of a submission; use letters, digits and _ . + - @ = , no dot first"
    if submitter.startswith(REHEARSAL):
        yield f"{submitter!r} is reserved for rehearsals, which --rehearse makes"


def _missing_configs(checkout: Path, chosen: Sequence[ChosenRuns]) -> Iterator[str]:
    for choice in chosen:
        config = choice.launch.config.process.config_filename
        if not config:
            yield f"{choice.launch.folder}: the runs were not started from a config file, so nobody could repeat them"
        elif not _configs(checkout, config):
            yield f"{choice.launch.folder}: the runs used {config}, which is not in {checkout}"


def _configs(checkout: Path, name: str) -> list[str]:
    """Return the paths of a config in the checkout, relative to it; empty if there is none of that name."""
    return [str(path.relative_to(checkout)) for path in config_files(checkout) if path.name == name]


# Writing.


def _write(tree: Path, chosen: ChosenRuns, submitter: str, facts: Facts, checkout: Path) -> Facts:
    """Write one system with its runs and return its description."""
    system, benchmark = chosen.launch.record.system, chosen.launch.record.benchmark
    description = describe(chosen.launch.record, chosen.launch.config, submitter, facts)
    systems, results = tree / "systems", tree / "results" / system / benchmark
    systems.mkdir(parents=True, exist_ok=True)
    (systems / f"{system}.json").write_text(json.dumps(description, indent=4) + "\n", encoding="utf-8")
    results.mkdir(parents=True)
    for index, run in enumerate(chosen.runs):
        shutil.copyfile(run.log.path, results / f"result_{index}.txt")
    implementation = tree / "benchmarks" / benchmark / "implementations" / system
    config = chosen.launch.config.process.config_filename
    _copy_implementation(checkout, implementation, config)
    text = readme(chosen, checkout, _configs(checkout, config)[0])
    (implementation / "README.md").write_text(text, encoding="utf-8")
    return description


def _copy_implementation(checkout: Path, target: Path, config: str) -> None:
    target.mkdir(parents=True)
    for name in (*IMPLEMENTATION, *_configs(checkout, config)):
        source = checkout / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        elif source.is_file():
            (target / name).parent.mkdir(exist_ok=True)
            shutil.copy(source, target / name)


# Judging.


def _judged(tree: Path, target: Path, chosen: Sequence[ChosenRuns], *, rehearsal: bool) -> BuiltSubmission:
    ruleset = chosen[0].launch.record.ruleset
    report = check_paths([tree], ruleset)
    findings = [*report.findings, *judge(tree, ruleset).findings]
    if rehearsal:
        findings = [finding for finding in findings if finding.rule not in OF_A_REHEARSAL]
    return BuiltSubmission(
        path=target,
        chosen=tuple(chosen),
        findings=tuple(_renamed(finding, tree, target) for finding in findings),
        rehearsal=rehearsal,
        not_run=report.not_run,
    )


def _renamed(finding: Finding, tree: Path, target: Path) -> Finding:
    file, message = (text.replace(str(tree), str(target)) for text in (finding.file, finding.message))
    return replace(finding, file=file, message=message)
