"""From shards of text to `.bin`/`.idx` pairs: a process for each shard, one file for all of them, restartable.

The tokens of a shard go to `<prefix>.<number>.part`, the tokens that each line gave to `.lengths`, its faults to
`.receipt`, which appears last and complete. Parts are appended to `<prefix>.bin` in the order of the shards and
removed, receipts stay. So a kill loses the shards at work and no other, the disk holds the dataset and a part for each
process, and the text is copied nowhere. All this happens in `.<folder>.unfinished`; what is finished of it becomes the
folder by one rename.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.files import flush, locked, write_at_once
from reference_impl.data.checksum import Advance, silent
from reference_impl.data.documents import Fault, Shard
from reference_impl.data.indexed import write_idx
from reference_impl.data.manifest import DataError, Manifest, Part, describe_files
from reference_impl.tokenizer import Tokenizer

_PLAN, _PART, _LENGTHS, _RECEIPT = "plan", ".part", ".lengths", ".receipt"

FORMAT = 1
"""Of an unfinished folder; raise it when what one holds changes."""
BATCH_CHARACTERS = 1 << 20
"""Texts encoded at a time."""
FAULTS_NAMED = 20
"""Faulty lines in a refusal; the rest are counted."""

_Lengths = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True, kw_only=True)
class Output:
    """One `.bin`/`.idx` pair."""

    prefix: str
    shards: tuple[Shard, ...]
    lines: int | None = None
    """Only the first so many lines of the shards together; all if None."""
    weight: float | None = None
    """Share of the training blend; None for validation."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A dataset to be made."""

    corpus: str
    """For the manifest."""
    outputs: tuple[Output, ...]
    tokenizer: Path
    append_eod: bool
    """Whether documents end with the end-of-document token."""

    @property
    def size(self) -> int:
        """Bytes of all shards."""
        return sum(shard.size for output in self.outputs for shard in output.shards)


@dataclass(frozen=True)
class Counts:
    """What the lines of an output held."""

    documents: int
    tokens: int
    empty: int
    """Lines whose text is empty, which make no document."""
    faulty: Mapping[str, int]
    """Lines left out: their number by fault."""
    examples: tuple[str, ...]
    """The first line of each fault in each shard."""


def prepare(
    folder: Path, plan: Plan, *, workers: int = 1, skip_faulty: bool = False, advance: Advance = silent
) -> dict[str, Counts]:
    """Make the dataset `folder`, which appears complete or not at all. Started again after a kill, it goes on.

    Args:
        workers: processes that tokenise; with one, this process does.
        skip_faulty: leave faulty lines out instead of refusing the shard.
        advance: told the bytes of each shard that is done.

    Raises:
        DataError: the folder exists or is being made, the unfinished one is of another plan, or a shard cannot be read
            or has a faulty line.
    """
    if folder.exists():
        raise DataError(f"{folder} exists already; remove it, or name another")
    tokenizer = Tokenizer(plan.tokenizer)
    unfinished = folder.parent / f".{folder.name}.unfinished"
    unfinished.mkdir(parents=True, exist_ok=True)
    with locked(unfinished, busy=DataError(f"another process is at work in {unfinished}")):
        dataset = unfinished / "dataset"
        _begin(unfinished, dataset, _described(plan, tokenizer))
        assemblies = [_Assembly(dataset, output, tokenizer.dtype, skip_faulty=skip_faulty) for output in plan.outputs]
        _tokenise_all(unfinished, plan, assemblies, workers, advance)
        counts = {assembly.output.prefix: assembly.finish() for assembly in assemblies}
        _manifest(dataset, plan, tokenizer).save(dataset)
        # From here on nothing that is left behind counts.
        (unfinished / _PLAN).unlink()
        dataset.rename(folder)
        shutil.rmtree(unfinished)
    return counts


def _described(plan: Plan, tokenizer: Tokenizer) -> str:
    """All that decides what the receipts of the folder mean."""
    outputs = {
        output.prefix: {"lines": output.lines, "shards": [shard.identity for shard in output.shards]}
        for output in plan.outputs
    }
    described = {"format": FORMAT, "tokenizer": tokenizer.sha256, "append_eod": plan.append_eod, "outputs": outputs}
    return json.dumps(described, indent=1)


def _begin(unfinished: Path, dataset: Path, described: str) -> None:
    """Make the folder ready for this plan, or go on with it."""
    path = unfinished / _PLAN
    if path.exists():
        if path.read_text(encoding="utf-8") != described:
            raise DataError(f"{unfinished} was begun with other shards or another tokenizer; remove it to start anew")
        return
    for leftover in unfinished.iterdir():
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    dataset.mkdir()
    write_at_once(path, described)


def _manifest(folder: Path, plan: Plan, tokenizer: Tokenizer) -> Manifest:
    names = [f"{output.prefix}.{suffix}" for output in plan.outputs for suffix in ("bin", "idx")]
    weights = {output.prefix: output.weight for output in plan.outputs}
    return Manifest(
        corpus=plan.corpus,
        tokenizer_sha256=tokenizer.sha256,
        vocabulary=tokenizer.vocab_size,
        train=tuple(Part(prefix=prefix, weight=weight) for prefix, weight in weights.items() if weight is not None),
        validation=next(prefix for prefix, weight in weights.items() if weight is None),
        files=describe_files(folder, names),
    )


# One shard, in a process of its own.


@dataclass(frozen=True)
class _Task:
    shard: Shard
    base: Path
    """Folder, prefix and number."""
    tokenizer: Path
    append_eod: bool
    lines: int | None

    def file(self, ending: str) -> Path:
        return self.base.with_name(self.base.name + ending)

    @property
    def done(self) -> bool:
        return self.file(_RECEIPT).exists()


def _tokenise(task: _Task) -> None:
    """Write a shard's part, lengths and receipt. A new tokenizer each time: some remember all that they have seen."""
    tokenizer = Tokenizer(task.tokenizer)
    faults: list[Fault] = []
    with task.file(_PART).open("wb") as part, task.file(_LENGTHS).open("wb") as lengths:
        for batch in _batches(islice(task.shard.lines(), task.lines)):
            faults += [line for line in batch if isinstance(line, Fault)]
            encoded = tokenizer.encode_batch(["" if isinstance(line, Fault) else line for line in batch])
            tokens, counts = encoded.tokens, encoded.lengths
            if task.append_eod:
                tokens = np.insert(tokens, np.cumsum(counts)[counts > 0], tokenizer.eod)
                counts = counts + (counts > 0)
            part.write(tokens.astype(tokenizer.dtype).data)
            lengths.write(counts.astype(np.int32).data)
        flush(part)
        flush(lengths)
    write_at_once(task.file(_RECEIPT), json.dumps([[fault.line, fault.kind, fault.detail] for fault in faults]))


def _batches(lines: Iterable[str | Fault]) -> Iterator[list[str | Fault]]:
    batch: list[str | Fault] = []
    characters = 0
    for line in lines:
        batch.append(line)
        characters += len(line) if isinstance(line, str) else 0
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


# All shards, in order.


def _tokenise_all(folder: Path, plan: Plan, assemblies: list[_Assembly], workers: int, advance: Advance) -> None:
    def task(output: Output, number: int, shard: Shard) -> _Task:
        base = folder / f"{output.prefix}.{number:05}"
        return _Task(shard, base, plan.tokenizer, plan.append_eod, output.lines)

    tasks = (
        (assembly, task(assembly.output, number, shard))
        for assembly in assemblies
        for number, shard in enumerate(assembly.output.shards)
        if not assembly.full
    )
    with _pool(workers) as submit:
        waiting: deque[tuple[_Assembly, _Task, Callable[[], object]]] = deque()
        for assembly, next_task in tasks:
            waiting.append((assembly, next_task, submit(next_task)))
            # As many parts wait as there are processes, so that one slow shard does not stop the others.
            if len(waiting) > workers:
                _append_next(waiting, advance)
        while waiting:
            _append_next(waiting, advance)


def _append_next(waiting: deque[tuple[_Assembly, _Task, Callable[[], object]]], advance: Advance) -> None:
    assembly, task, wait = waiting.popleft()
    if assembly.full:
        return
    wait()
    assembly.append(task)
    advance(task.shard.size)


@contextmanager
def _pool(workers: int) -> Iterator[Callable[[_Task], Callable[[], object]]]:
    """A function that starts a task that is not done yet; it returns one that waits for it."""
    if workers == 1:
        yield lambda task: partial(_tokenise_if_needed, task)
        return
    context = multiprocessing.get_context("spawn")
    watched, held = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_die_with, initargs=(watched,))
    try:
        yield lambda task: partial(_result, pool.submit(_tokenise_if_needed, task))
    finally:
        # Ends the processes that are still at work, too.
        held.close()
        pool.shutdown(cancel_futures=True)


def _tokenise_if_needed(task: _Task) -> None:
    if not task.done:
        _tokenise(task)


def _result(future: Future[None]) -> None:
    try:
        future.result()
    except BrokenProcessPool:
        raise DataError(
            "a process that tokenises was killed, for want of memory perhaps; start again, with fewer, to go on"
        ) from None


def _die_with(held: Connection) -> None:
    """End this process when the other end of the pipe closes: the one that started it is gone, or gave up."""

    def wait() -> None:
        held.poll(None)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class _Assembly:
    """A `.bin` that grows by parts."""

    def __init__(self, folder: Path, output: Output, dtype: np.dtype[Any], *, skip_faulty: bool) -> None:
        self.output = output
        self._prefix = folder / output.prefix
        self._dtype = dtype
        self._skip_faulty = skip_faulty
        self._position = 0
        self._lengths: list[_Lengths] = []
        self._lines = 0
        self._faulty: Counter[str] = Counter()
        self._examples: list[str] = []

    @property
    def full(self) -> bool:
        return self._lines == self.output.lines

    def append(self, task: _Task) -> None:
        """Take a task's part in, unless an earlier call did.

        Raises:
            DataError: a line is faulty and is not to be skipped.
        """
        left = None if self.output.lines is None else self.output.lines - self._lines
        lengths: _Lengths = np.fromfile(task.file(_LENGTHS), np.int32)[:left]
        self._note_faults(task, len(lengths))
        size = int(lengths.sum(dtype=np.int64)) * self._dtype.itemsize
        part = task.file(_PART)
        # A part that is there was appended in part or not at all.
        if part.exists():
            _copy(part, self._file("bin"), self._position, size)
            part.unlink()
        self._position += size
        self._lines += len(lengths)
        self._lengths.append(lengths[lengths > 0])

    def _note_faults(self, task: _Task, lines: int) -> None:
        recorded = json.loads(task.file(_RECEIPT).read_text(encoding="utf-8"))
        faults = [Fault(*values) for values in recorded]
        faults = [fault for fault in faults if fault.line <= lines]
        if faults and not self._skip_faulty:
            raise DataError(_refusal(task.shard.name, faults))
        self._faulty.update(fault.kind for fault in faults)
        first = {fault.kind: fault for fault in reversed(faults)}
        self._examples += [_text(task.shard.name, fault) for fault in first.values()]

    def finish(self) -> Counts:
        """Write the `.idx`.

        Raises:
            DataError: there are fewer lines than asked for, or no document.
        """
        if self.output.lines is not None and not self.full:
            raise DataError(f"{self.output.prefix}: the shards have {self._lines} lines, expected {self.output.lines}")
        lengths: _Lengths = np.concatenate(self._lengths)
        if not len(lengths):
            raise DataError(f"{self.output.prefix}: no document in {len(self.output.shards)} shards")
        size = self._file("bin").stat().st_size
        if size != self._position:
            raise DataError(f"{self._file('bin')} has {size} bytes, its documents take {self._position}; start anew")
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
    """The first `size` bytes of `part` become those of `target` from `position` on, and its last."""
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
    return "\n".join(
        [*named, *more, "a damaged copy is better got again than used; --skip-faulty leaves such lines out"]
    )


def _text(shard: str, fault: Fault) -> str:
    return f"{shard}, line {fault.line}: {fault.kind} ({fault.detail})"


def report(counts: Mapping[str, Counts]) -> Iterator[str]:
    """Lines that account for every line of every shard."""
    for prefix, count in counts.items():
        left_out = [f"{number:,} {kind}" for kind, number in sorted(count.faulty.items())]
        lines = f"{count.empty:,} empty lines" + "".join(f", left out: {text}" for text in left_out)
        yield f"{prefix}: {count.documents:,} documents, {count.tokens:,} tokens, {lines}"
        yield from (f"  {example}" for example in count.examples)
