"""From shards of text to `.bin`/`.idx` pairs: one process per shard, one file for all of them, restartable.

The tokens of a shard are first a part of their own. Parts are appended to `<prefix>.bin` in the order of the shards and
then removed; receipts stay. So a kill loses only the shards in work, the disk holds the dataset and one part for each
process, and the text is never copied. All this happens in `.<folder>.unfinished`, whose finished files become the
folder by one rename.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.files import flush, locked, write_at_once
from reference_impl.data.pair import write_idx
from reference_impl.data.prepare.documents import Fault, Shard
from reference_impl.data.prepare.tokenise import Lengths, Task, pool
from reference_impl.files.checksum import Advance, silent
from reference_impl.files.manifest import BlendPart, DataError, Manifest, describe_files
from reference_impl.tokenizer import Tokenizer

_PLAN = "plan"

FORMAT = 1
"""Version of an unfinished folder's files; raise it when their content changes."""
FAULTS_NAMED = 20
"""Faulty lines that a refusal names; the rest are counted."""


@dataclass(frozen=True, kw_only=True)
class PlannedPair:
    """One `.bin`/`.idx` pair."""

    prefix: str
    shards: tuple[Shard, ...]
    lines: int | None = None
    """Number of lines to take from the start of the joined shards; all if None."""
    weight: float | None = None
    """Share of the training blend; None for validation."""


@dataclass(frozen=True, kw_only=True)
class DatasetPlan:
    """A dataset to make."""

    corpus: str
    """Where the text comes from, for the manifest."""
    outputs: tuple[PlannedPair, ...]
    tokenizer: Path
    append_eod: bool
    """Whether documents end with the end-of-document token."""

    @property
    def size(self) -> int:
        """Bytes of all shards."""
        return sum(shard.size for output in self.outputs for shard in output.shards)


@dataclass(frozen=True)
class Counts:
    """What the lines of an output contained."""

    documents: int
    tokens: int
    empty: int
    """Lines whose text is empty; they make no document."""
    faulty: Mapping[str, int]
    """Number of lines left out, by fault."""
    examples: tuple[str, ...]
    """The first line of each fault in each shard."""


def prepare(
    folder: Path, plan: DatasetPlan, *, workers: int = 1, skip_faulty: bool = False, advance: Advance = silent
) -> dict[str, Counts]:
    """Make the dataset `folder`, which appears complete or not at all. Started again after a kill, it continues.

    Args:
        workers: processes that tokenise; with one, this process does.
        skip_faulty: leave faulty lines out instead of refusing the shard.
        advance: called with the bytes of each finished shard.

    Raises:
        DataError: the folder exists or is being made; the unfinished folder belongs to another plan; a shard cannot be
            read or has a faulty line; or the disk is full.
    """
    if folder.exists():
        raise DataError(f"{folder} already exists; remove it, or name another folder")
    tokenizer = Tokenizer(plan.tokenizer)
    unfinished = folder.parent / f".{folder.name}.unfinished"
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        with locked(unfinished, busy=DataError(f"another process is at work in {unfinished}")):
            return _prepare(folder, unfinished, plan, tokenizer, workers, skip_faulty=skip_faulty, advance=advance)
    except OSError as error:
        raise DataError(f"{error.filename or unfinished}: {error.strerror}") from None


def _prepare(
    folder: Path,
    unfinished: Path,
    plan: DatasetPlan,
    tokenizer: Tokenizer,
    workers: int,
    *,
    skip_faulty: bool,
    advance: Advance,
) -> dict[str, Counts]:
    """Do the work of `prepare` in the unfinished folder, which is locked."""
    dataset = unfinished / "dataset"
    _begin(unfinished, dataset, _described(plan, tokenizer))
    assemblies = [_Assembly(dataset, output, tokenizer.dtype, skip_faulty=skip_faulty) for output in plan.outputs]
    _tokenise_all(unfinished, plan, assemblies, workers, advance)
    counts = {assembly.output.prefix: assembly.finish() for assembly in assemblies}
    _manifest(dataset, plan, tokenizer).save(dataset)
    # From here on, whatever a kill leaves behind is made again.
    (unfinished / _PLAN).unlink()
    dataset.rename(folder)
    shutil.rmtree(unfinished)
    return counts


def _described(plan: DatasetPlan, tokenizer: Tokenizer) -> str:
    """Return everything that decides what the folder's receipts mean, as JSON."""
    outputs = {
        output.prefix: {"lines": output.lines, "shards": [shard.identity for shard in output.shards]}
        for output in plan.outputs
    }
    described = {"format": FORMAT, "tokenizer": tokenizer.sha256, "append_eod": plan.append_eod, "outputs": outputs}
    return json.dumps(described, indent=1)


def _begin(unfinished: Path, dataset: Path, described: str) -> None:
    """Prepare the folder for this plan, or keep it if it already belongs to this plan."""
    path = unfinished / _PLAN
    if path.exists():
        if path.read_text(encoding="utf-8") != described:
            raise DataError(f"{unfinished} was begun with other shards or another tokenizer; remove it to start anew")
        return
    for leftover in unfinished.iterdir():
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    dataset.mkdir()
    write_at_once(path, described)


def _manifest(folder: Path, plan: DatasetPlan, tokenizer: Tokenizer) -> Manifest:
    names = [f"{output.prefix}.{suffix}" for output in plan.outputs for suffix in ("bin", "idx")]
    weights = {output.prefix: output.weight for output in plan.outputs}
    return Manifest(
        corpus=plan.corpus,
        tokenizer_sha256=tokenizer.sha256,
        vocabulary=tokenizer.vocab_size,
        train=tuple(
            BlendPart(prefix=prefix, weight=weight) for prefix, weight in weights.items() if weight is not None
        ),
        validation=next(prefix for prefix, weight in weights.items() if weight is None),
        files=describe_files(folder, names),
    )


def _tokenise_all(folder: Path, plan: DatasetPlan, assemblies: list[_Assembly], workers: int, advance: Advance) -> None:
    def task(output: PlannedPair, number: int, shard: Shard) -> Task:
        base = folder / f"{output.prefix}.{number:05}"
        return Task(shard, base, plan.tokenizer, plan.append_eod, output.lines)

    tasks = (
        (assembly, task(assembly.output, number, shard))
        for assembly in assemblies
        for number, shard in enumerate(assembly.output.shards)
        if not assembly.full
    )
    with pool(workers) as submit:
        waiting: deque[tuple[_Assembly, Task, Callable[[], object]]] = deque()
        for assembly, next_task in tasks:
            waiting.append((assembly, next_task, submit(next_task)))
            # As many parts wait as there are processes, so one slow shard does not stop the others.
            if len(waiting) > workers:
                _append_next(waiting, advance)
        while waiting:
            _append_next(waiting, advance)


def _append_next(waiting: deque[tuple[_Assembly, Task, Callable[[], object]]], advance: Advance) -> None:
    assembly, task, wait = waiting.popleft()
    if assembly.full:
        return
    wait()
    assembly.append(task)
    advance(task.shard.size)


class _Assembly:
    """A `.bin` that grows part by part."""

    def __init__(self, folder: Path, output: PlannedPair, dtype: np.dtype[Any], *, skip_faulty: bool) -> None:
        self.output = output
        self._prefix = folder / output.prefix
        self._dtype = dtype
        self._skip_faulty = skip_faulty
        self._position = 0
        self._lengths: list[Lengths] = []
        self._lines = 0
        self._faulty: Counter[str] = Counter()
        self._examples: list[str] = []

    @property
    def full(self) -> bool:
        return self._lines == self.output.lines

    def append(self, task: Task) -> None:
        """Append a task's part, unless an earlier call did.

        Raises:
            DataError: a line is faulty, and faulty lines are not skipped.
        """
        left = None if self.output.lines is None else self.output.lines - self._lines
        lengths = task.lengths[:left]
        self._note_faults(task, len(lengths))
        size = int(lengths.sum(dtype=np.int64)) * self._dtype.itemsize
        # A part that still exists was appended partly or not at all.
        if task.part.exists():
            _copy(task.part, self._file("bin"), self._position, size)
            task.part.unlink()
        self._position += size
        self._lines += len(lengths)
        self._lengths.append(lengths[lengths > 0])

    def _note_faults(self, task: Task, lines: int) -> None:
        faults = [fault for fault in task.faults if fault.line <= lines]
        if faults and not self._skip_faulty:
            raise DataError(_refusal(task.shard.name, faults))
        self._faulty.update(fault.kind for fault in faults)
        first = {fault.kind: fault for fault in reversed(faults)}
        self._examples += [_text(task.shard.name, fault) for fault in first.values()]

    def finish(self) -> Counts:
        """Write the `.idx`.

        Raises:
            DataError: there are fewer lines than asked for, or no documents.
        """
        if self.output.lines is not None and not self.full:
            raise DataError(f"{self.output.prefix}: the shards have {self._lines} lines, expected {self.output.lines}")
        lengths: Lengths = np.concatenate(self._lengths)
        if not len(lengths):
            raise DataError(f"{self.output.prefix}: {len(self.output.shards)} shards hold no document")
        size = self._file("bin").stat().st_size
        if size != self._position:
            raise DataError(
                f"{self._file('bin')} has {size} bytes, but its documents take {self._position}; start anew"
            )
        write_idx(self._file("idx"), self._dtype, lengths)
        return Counts(
            documents=len(lengths),
            tokens=self._position // self._dtype.itemsize,
            empty=self._lines - len(lengths) - self._faulty.total(),
            faulty=dict(self._faulty),
            examples=tuple(self._examples),
        )

    def _file(self, suffix: str) -> Path:
        return self._prefix.with_name(f"{self._prefix.name}.{suffix}")


def _copy(part: Path, target: Path, position: int, size: int) -> None:
    """Copy the first `size` bytes of `part` to `target` at `position`, and cut off what follows there."""
    target.touch()
    with part.open("rb") as source, target.open("r+b") as file:
        file.truncate(position)
        file.seek(position)
        copied = 0
        while copied < size:
            copied += os.sendfile(file.fileno(), source.fileno(), copied, size - copied)
        flush(file)


def _refusal(shard: str, faults: list[Fault]) -> str:
    named = [_text(shard, fault) for fault in faults[:FAULTS_NAMED]]
    more = [f"and {len(faults) - FAULTS_NAMED} more lines of {shard}"] if len(faults) > FAULTS_NAMED else []
    return "\n".join([*named, *more, "download a damaged copy again; or leave such lines out with --skip-faulty"])


def _text(shard: str, fault: Fault) -> str:
    return f"{shard}, line {fault.line}: {fault.kind} ({fault.detail})"


def report(counts: Mapping[str, Counts]) -> Iterator[str]:
    """Yield lines that account for every line of every shard."""
    for prefix, count in counts.items():
        left_out = [f"{number:,} {kind}" for kind, number in sorted(count.faulty.items())]
        lines = f"{count.empty:,} empty lines" + "".join(f", left out: {text}" for text in left_out)
        yield f"{prefix}: {count.documents:,} documents, {count.tokens:,} tokens, {lines}"
        yield from (f"  {example}" for example in count.examples)
