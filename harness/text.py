"""Results of the commands as text: lines without colour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compliance.convergence.rcp import Convergence, Limit
from compliance.convergence.scaling import Scaling
from compliance.convergence.score import Score
from compliance.official import Official, OfficialVerdict
from compliance.result import in_capitals
from compliance.ruleset import judged_by

if TYPE_CHECKING:
    from compliance.convergence.reference import Reference

    # This import takes a tenth of a second, for pydantic.
    from compliance.package.build import BuiltSubmission


_NO_RESULT = "these runs do not count, according to their logs"


def score_lines(score: Score) -> Iterator[str]:
    """Yield the ruleset, a line for each run, and the score."""
    yield f"{'ruleset':>14}  {judged_by(score)}"
    if score.marks:
        yield f"{in_capitals(score.marks):>14}  {_NO_RESULT}"
    for log, minutes in zip(score.logs, score.minutes, strict=True):
        yield f"{'no result' if minutes is None else f'{minutes:.3f} min':>14}  {log}"
    if score.olympic_minutes is not None:
        yield f"{score.olympic_minutes:>10.3f} min  {score.directory} (olympic mean)"
    if score.normalised_minutes is not None:
        yield f"{score.normalised_minutes:>10.3f} min  {score.directory} (normalised, x {score.factor})"
    if score.is_open:
        yield f"{'open':>14}  open division: convergence is not judged and gives no factor"
    if score.scaling is not None:
        yield from _scaling(score.scaling, score.summarised_minutes)


def _scaling(found: Scaling, summarised: float | None) -> Iterator[str]:
    """Yield what is wrong with the scaling.json next to a result."""
    if found.fault:
        yield f"{'WARNING':>14}  {found.path}: {found.fault}; the official summariser crashes on it"
    if found.too_small or found.too_large:
        yield f"{'WARNING':>14}  {found.path} has factor {found.stated}, but the runs give {found.own}"
    if (found.too_small or found.too_large) and summarised is not None:
        until = " until its convergence check rewrites the file" if found.is_rewritten else ""
        yield f"{summarised:>10.3f} min  with that file, as the official summariser computes it{until}"


def convergence_lines(found: Convergence) -> Iterator[str]:
    """Yield the samples that a result needed, those that the reference needs, and the two limits."""
    yield f"{'open' if found.is_open else _pass(found.passed)}  {found.directory}"
    if found.is_open:
        yield f"  {'division'.ljust(10)}open, in which convergence is not judged; the reference below is for closed"
    folders = Counter(str(Path(log).parent) for log in found.logs)
    if len(folders) > 1:
        yield f"  {'pooled':<10}{len(found.logs)} runs of {_launches(folders)} of one system"
        yield from (f"  {'':<10}{count} of {folder}" for folder, count in folders.items())
    if found.marks:
        yield f"  {in_capitals(found.marks):<10} {_NO_RESULT}"
    yield f"  {'result':<10}{_samples(found)}"
    if found.fault:
        yield f"  {'fault':<10}{found.fault}"
    if found.record is not None and found.match is not None:
        record = found.record
        yield (
            f"  {'reference':<10}{found.match}: mean {record.mean:.1f}, standard deviation {record.deviation:.1f} "
            f"at global batch size {record.global_batch_size}"
        )
    for name, limit in (("policy", found.policy), ("official", found.official)):
        if limit is not None and not found.is_open:
            yield f"  {name:<10}{_limit(limit)}"
    if not found.fault and not found.is_open:
        yield f"  {'score':<10}x {found.factor}"


def _samples(found: Convergence) -> str:
    needed = ", ".join("not converged" if samples is None else str(samples) for samples in found.samples)
    mean = "" if found.mean is None else f"; olympic mean {found.mean:.1f}"
    return f"{found.benchmark} {judged_by(found)}, global batch size {found.global_batch_size}: {needed}{mean}"


def _limit(limit: Limit) -> str:
    slower = "slower" if limit.margin >= 0 else "faster"
    return f"{_pass(limit.passed)} from {limit.minimum:.1f}; the result is {abs(limit.margin):.1f} samples {slower}"


def reference_lines(points: Sequence[Reference], file: Path) -> Iterator[str]:
    """Yield what each point consists of, what the official checker accepts with it, and what it lacks."""
    for point in points:
        folders = {Path(log).parent for log in point.logs}
        samples = point.fields["Epochs to converge"]
        yield f"{point.name}: {len(point.logs)} runs of {_launches(folders)}"
        yield f"  {'samples':<10}{samples}"
        yield (
            f"  {'reference':<10}mean {point.record.mean:.1f}, standard deviation {point.record.deviation:.1f}; "
            f"a result is accepted from {point.accepted_from:.1f}"
        )
        yield from (f"  {'WARNING':<10}{lack}" for lack in point.lacks)
    yield f"written to {file}"


def _launches(folders: Collection[object]) -> str:
    return "1 launch" if len(folders) == 1 else f"{len(folders)} launches"


def official_lines(official: Official) -> Iterator[str]:
    """Yield a line for each verdict, with its messages below."""
    for verdict in official.verdicts:
        yield f"{_pass(verdict.passed)}  {verdict.tool} {verdict.ruleset}  {verdict.path}"
        yield from _messages(verdict)


def submission_lines(submission: BuiltSubmission) -> Iterator[str]:
    """Yield possible faults of the description, the chosen runs, what is left to do, and where the tree is."""
    yield from (f"WARNING  {doubt}" for doubt in submission.doubts)
    for one in submission.chosen:
        of = f"{len(one.runs)} of {one.launched} runs of {one.launch.record.system}"
        yield f"{of}, {one.launch.record.benchmark}:"
        yield from (f"  {run.file}" for run in one.runs)
    if submission.passed:
        yield "what the policies ask for (docs/submission.md):"
        # Finished items first, those left to do last.
        for item in sorted(submission.checklist, key=lambda item: item.state):
            yield f"  {item.state:<6} {item.what}: {item.said}"
    yield f"written to {submission.path}" if submission.passed else f"{submission.path} was not written"
    if submission.rehearsal:
        kept = (
            "every check passes except that it is a rehearsal"
            if submission.passed
            else "a submission would be refused for the same reasons"
        )
        yield f"REHEARSAL  of simulated runs, not a submission: {kept}"


def _messages(verdict: OfficialVerdict) -> Iterator[str]:
    return (f"        {message}" for message in verdict.messages)


def _pass(passed: bool) -> str:
    return "PASS" if passed else "FAIL"
