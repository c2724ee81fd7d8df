"""A shard's texts as tokens, in files that a later call can trust: in this process, or in several others.

The tokens go to `<base>.part`, the number of tokens in each line to `.lengths`, and the faulty lines to `.receipt`.
The receipt appears last and complete, so if it is there, the other files are whole.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.files import flush, write_at_once
from reference_impl.data.prepare.documents import Fault, Shard
from reference_impl.files.manifest import DataError
from reference_impl.tokenizer import Tokenizer

BATCH_CHARACTERS = 1 << 20
"""Texts that are encoded at a time."""

Lengths = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True)
class Task:
    """A shard to tokenise; the properties describe its files once that is done."""

    shard: Shard
    base: Path
    """Path of its files without suffix: folder, prefix and number."""
    tokenizer: Path
    append_eod: bool
    lines: int | None
    """Number of lines to take; all if None."""

    @property
    def part(self) -> Path:
        """Its tokens, as they stand in a `.bin`."""
        return self._file("part")

    @property
    def done(self) -> bool:
        return self._file("receipt").exists()

    @property
    def lengths(self) -> Lengths:
        """Tokens of each line; 0 for a line that makes no document."""
        return np.fromfile(self._file("lengths"), np.int32)

    @property
    def faults(self) -> list[Fault]:
        return [Fault(*values) for values in json.loads(self._file("receipt").read_text(encoding="utf-8"))]

    def run(self) -> None:
        """Write the files, unless an earlier call did."""
        if self.done:
            return
        tokenizer = _opened(self.tokenizer, self.tokenizer.stat().st_mtime_ns)
        faults: list[Fault] = []
        with self.part.open("wb") as part, self._file("lengths").open("wb") as lengths:
            for batch in _batches(islice(self.shard.lines(), self.lines)):
                faults += [line for line in batch if isinstance(line, Fault)]
                encoded = tokenizer.encode_batch(["" if isinstance(line, Fault) else line for line in batch])
                tokens, counts = encoded.tokens, encoded.lengths
                if self.append_eod:
                    tokens = np.insert(tokens, np.cumsum(counts)[counts > 0], tokenizer.eod)
                    counts = counts + (counts > 0)
                part.write(tokens.astype(tokenizer.dtype).data)
                lengths.write(counts.astype(np.int32).data)
            flush(part)
            flush(lengths)
        receipt = [[fault.line, fault.kind, fault.detail] for fault in faults]
        write_at_once(self._file("receipt"), json.dumps(receipt))

    def _file(self, suffix: str) -> Path:
        return self.base.with_name(f"{self.base.name}.{suffix}")


@lru_cache(maxsize=1)
def _opened(path: Path, _mtime_ns: int) -> Tokenizer:
    """Open a tokenizer once per process, not once per shard: opening takes half a second."""
    return Tokenizer(path)


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


@contextmanager
def pool(workers: int) -> Iterator[Callable[[Task], Callable[[], object]]]:
    """Yield a function that starts a task and returns a function that waits for it.

    With one worker, waiting does the work in this process.
    """
    if workers == 1:
        yield lambda task: task.run
        return
    context = multiprocessing.get_context("spawn")
    watched, held = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_die_with, initargs=(watched,))
    try:
        yield lambda task: partial(_result, executor.submit(task.run))
    finally:
        # This also ends the processes that are still working.
        held.close()
        executor.shutdown(cancel_futures=True)


def _result(future: Future[None]) -> None:
    try:
        future.result()
    except BrokenProcessPool:
        raise DataError(
            "a process that tokenises was killed, perhaps because memory ran out; "
            "run the command again with fewer --workers to continue"
        ) from None


def _die_with(held: Connection) -> None:
    """End this process when the other end of the pipe closes: the process that started it has ended, or gave up."""

    def wait() -> None:
        held.poll(None)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
