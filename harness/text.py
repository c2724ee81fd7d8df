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


def _scaling(scaling: Scaling, summarised: float | None) -> Iterator[str]:
    """Yield what is wrong with the scaling.json next to a result."""
    if scaling.fault:
        yield f"{'WARNING':>14}  {scaling.path}: {scaling.fault}; the official summariser crashes on it"
    if scaling.too_small or scaling.too_large:
        yield f"{'WARNING':>14}  {scaling.path} has factor {scaling.stated}, but the runs give {scaling.own}"
    if (scaling.too_small or scaling.too_large) and summarised is not None:
        until = " until its convergence check rewrites the file" if scaling.is_rewritten else ""
        yield f"{summarised:>10.3f} min  with that file, as the official summariser computes it{until}"


def convergence_lines(convergence: Convergence) -> Iterator[str]:
    """Yield the samples that a result needed, those that the reference needs, and the two limits."""
    yield f"{'open' if convergence.is_open else _pass(convergence.passed)}  {convergence.directory}"
    if convergence.is_open:
        yield f"  {'division'.ljust(10)}open, in which convergence is not judged; the reference below is for closed"
    folders = Counter(str(Path(log).parent) for log in convergence.logs)
    if len(folders) > 1:
        yield f"  {'pooled':<10}{len(convergence.logs)} runs of {_launches(folders)} of one system"
        yield from (f"  {'':<10}{count} of {folder}" for folder, count in folders.items())
    if convergence.marks:
        yield f"  {in_capitals(convergence.marks):<10} {_NO_RESULT}"
    yield f"  {'result':<10}{_samples(convergence)}"
    if convergence.fault:
        yield f"  {'fault':<10}{convergence.fault}"
    if convergence.record is not None and convergence.match is not None:
        record = convergence.record
        yield (
            f"  {'reference':<10}{convergence.match}: mean {record.mean:.1f}, standard deviation {record.deviation:.1f}"
            f" at global batch size {record.global_batch_size}"
        )
    for name, limit in (("policy", convergence.policy), ("official", convergence.official)):
        if limit is not None and not convergence.is_open:
            yield f"  {name:<10}{_limit(limit)}"
    if not convergence.fault and not convergence.is_open:
        yield f"  {'score':<10}x {convergence.factor}"


def _samples(convergence: Convergence) -> str:
    needed = ", ".join("not converged" if samples is None else str(samples) for samples in convergence.samples)
    mean = "" if convergence.mean is None else f"; olympic mean {convergence.mean:.1f}"
    size = convergence.global_batch_size
    return f"{convergence.benchmark} {judged_by(convergence)}, global batch size {size}: {needed}{mean}"


def _limit(limit: Limit) -> str:
    where = "above" if limit.margin >= 0 else "below"
    margin = f"{abs(limit.margin):.1f} samples {where} the smallest accepted mean, {limit.minimum:.1f}"
    return f"{_pass(limit.passed)}: {margin}"


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
    for chosen in submission.chosen:
        of = f"{len(chosen.runs)} of {chosen.launched} runs of {chosen.launch.record.system}"
        yield f"{of}, {chosen.launch.record.benchmark}:"
        yield from (f"  {run.file}" for run in chosen.runs)
    if submission.passed:
        yield "what the policies ask for (docs/submission.md):"
        # Finished items first, those left to do last.
        for item in sorted(submission.checklist, key=lambda item: item.state):
            yield f"  {item.state:<6} {item.what}: {item.said}"
    yield f"written to {submission.path}" if submission.passed else f"{submission.path} was not written"
    if submission.rehearsal:
        verdict = (
            "every check passes except that it is a rehearsal"
            if submission.passed
            else "a submission would be refused for the same reasons"
        )
        yield f"REHEARSAL  of simulated runs, not a submission: {verdict}"


def _messages(verdict: OfficialVerdict) -> Iterator[str]:
    return (f"        {message}" for message in verdict.messages)


def _pass(passed: bool) -> str:
    return "PASS" if passed else "FAIL"
