"""Write a checkpoint in separate processes while training continues. All ranks complete it together, or give it up.

Megatron-Core plans what each rank writes, and its function writes a file. The processes and everything after them are
ours: Megatron-Core's own wait forever for a process that was killed (out of memory), and when one rank meets a full
disk they leave the other ranks waiting.
"""

from __future__ import annotations

import gc
import os
import queue
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# Megatron-Core's writer calls psutil, and imports it only if it is installed.
import psutil  # noqa: F401
import torch.distributed as dist
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy

from benchmark.checkpoints import why_no_room
from benchmark.decode import one_line
from benchmark.files import sync_file
from reference_impl.files.checksum import digest
from reference_impl.files.manifest import DataError, FileEntry, FolderManifest, describe_files

BACKEND, VERSION = "torch_dist", 1
"""The format's name and version in Megatron-Core."""

_fork = get_context("fork")

# Megatron-Core's planning starts a process, once, to serve the queue of its own writers, and that process outlives a
# rank that is killed. It starts none if there already is a queue.
filesystem_async._results_queue = queue.SimpleQueue()


@dataclass(frozen=True)
class SavePlan:
    """The writer of this rank's part and, on the first rank, the index of all parts."""

    writer: FileSystemWriterAsync
    index: Any


class Planner(TorchDistSaveShardedStrategy):
    """Plans a save as Megatron-Core does, and returns the plan instead of the function that would carry it out."""

    def __init__(self) -> None:
        super().__init__(BACKEND, VERSION)

    def _get_save_and_finalize_callbacks(self, writer: FileSystemWriterAsync, save_state_dict_ret: Any) -> Any:
        _, index, _ = save_state_dict_ret
        return SavePlan(writer, index)


@dataclass(frozen=True)
class Files:
    """The files that a rank has written, or why it has not written them."""

    fault: str = ""
    entries: dict[str, FileEntry] = field(default_factory=dict)
    """The entries of the manifest, by file name."""
    results: list[Any] = field(default_factory=list)
    """What Megatron-Core's index must know about their content."""


class _Writer:
    """The process that writes one file."""

    def __init__(self, bucket: Any, transforms: Sequence[Any]) -> None:
        _, self._name, _ = bucket
        self._hears, says = _fork.Pipe(duplex=False)
        self.said: Files | None = None
        self._process = _fork.Process(target=_write, args=(bucket, transforms, says), daemon=True)
        try:
            self._process.start()
        except OSError as error:
            # Out of memory, or too many processes.
            self.said = Files(fault=f"cannot start a process to write {self._name}: {error.strerror}")
        # Now only the process has the other end, so its death ends the connection.
        says.close()

    def listen(self, *, wait: bool) -> None:
        """Take the process's answer, or note that it has ended."""
        if self.said is not None or not (wait or self._hears.poll()):
            return
        try:
            self.said = self._hears.recv()
            self._process.join()
        except (EOFError, OSError):
            self._process.join()
            self.said = Files(fault=f"the process that writes {self._name} {_end_of(self._process.exitcode or 0)}")

    def end(self) -> None:
        if self._process.pid is not None:
            self._process.kill()
            self._process.join()


def _end_of(exit_code: int) -> str:
    return f"was killed ({signal.Signals(-exit_code).name})" if exit_code < 0 else f"ended with status {exit_code}"


def _write(bucket: Any, transforms: Sequence[Any], says: Connection) -> None:
    """Write one file. This runs in a separate process, which `benchmark.processes` ends together with the rank."""
    # Collected garbage would be the rank's, on a GPU too.
    gc.disable()
    # Slurm sends these signals to all of a rank's processes; they ask the rank for a save and for its stack.
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    results, count = queue.SimpleQueue[Any](), queue.Queue[int]()
    count.put(0)
    FileSystemWriterAsync.write_preloaded_data(transforms, 0, bucket, results, count, use_fsync=True)
    _, written = results.get()
    path, name, _ = bucket
    if isinstance(written, Exception):
        says.send(Files(fault=why(written, path)))
        return
    try:
        entry = FileEntry(bytes=os.path.getsize(path), sha256=digest(Path(path)))
    except OSError as error:
        says.send(Files(fault=why(error, path)))
        return
    says.send(Files(entries={name: entry}, results=written))


def why(error: Exception, path: str | Path) -> str:
    """Return one line on why a file could not be written."""
    # While torch.save closes the half-written file it raises another error, with the system's error behind it.
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, OSError) and chain.strerror:
            return f"{chain.filename or path}: {chain.strerror}"
        chain = chain.__context__
    return f"{path}: {one_line(error)}"


class Saving:
    """A save that is being written.

    Args:
        needed: bytes that the save takes.
        complete, failed: see `benchmark.loop.Step.save`.
    """

    def __init__(
        self, folder: Path, plan: SavePlan, *, needed: int, complete: Callable[[], None], failed: Callable[[str], None]
    ) -> None:
        self._folder, self._plan, self._needed = folder, plan, needed
        self._complete, self._failed = complete, failed
        buckets = FileSystemWriterAsync.preload_tensors(plan.writer.write_buckets or [], non_blocking=True)
        transforms = [plan.writer.transforms]
        self._writers = [_Writer(bucket, transforms) for bucket in buckets]

    def look(self) -> tuple[bool, bool]:
        """Return whether this rank is still writing, and whether it has failed, without asking another rank."""
        for writer in self._writers:
            writer.listen(wait=False)
        failed = any(writer.said is not None and writer.said.fault for writer in self._writers)
        return not failed and any(writer.said is None for writer in self._writers), failed

    def finish(self, *, give_up: bool = False) -> None:
        """Complete the checkpoint once all ranks have written, or give it up; all ranks call this together.

        Args:
            give_up: a rank has failed to write, so wait for none.
        """
        mine = self._end() if give_up else self._wait()
        everybodys: list[Files] | None = [mine] * dist.get_world_size() if dist.get_rank() == 0 else None
        dist.gather_object(mine, everybodys)
        fault = agreed(lambda: self._conclude(everybodys or []))
        if fault:
            self._failed(fault)

    def _wait(self) -> Files:
        for writer in self._writers:
            writer.listen(wait=True)
            if self.look()[1]:
                break
        return self._end()

    def _end(self) -> Files:
        """Stop writing, and return what this rank has written."""
        for writer in self._writers:
            writer.listen(wait=False)
            writer.end()
        written = [writer.said for writer in self._writers if writer.said is not None]
        return Files(
            fault=next((files.fault for files in written if files.fault), ""),
            entries={name: entry for files in written for name, entry in files.entries.items()},
            results=[result for files in written for result in files.results],
        )

    def _conclude(self, everybodys: Sequence[Files]) -> str:
        """Complete the checkpoint on the first rank, or return why that is impossible."""
        faults = [f"rank {rank}: {files.fault}" for rank, files in enumerate(everybodys) if files.fault]
        if not faults:
            try:
                self._write_index(everybodys)
                self._complete()
            except (OSError, DataError) as error:
                faults = [why(error, self._folder)]
        return "; ".join([*faults[:1], *filter(None, [why_no_room(self._folder, self._needed)])]) if faults else ""

    def _write_index(self, everybodys: Sequence[Files]) -> None:
        """Write the index and, last of all, the manifest, which tells a later start that every byte is as written."""
        self._plan.writer.finish(self._plan.index, [files.results for files in everybodys])
        save_config(CheckpointingConfig(BACKEND, VERSION), str(self._folder))
        entries = {name: entry for files in everybodys for name, entry in files.entries.items()}
        others = sorted(path.name for path in self._folder.iterdir() if path.name not in entries)
        for name in others:
            sync_file(self._folder / name)
        described = entries | describe_files(self._folder, others)
        FolderManifest(files=dict(sorted(described.items()))).save(self._folder)


def agreed(decide: Callable[[], str]) -> str:
    """Return on every rank what the first rank decides."""
    said = [decide() if dist.get_rank() == 0 else ""]
    dist.broadcast_object_list(said)
    return said[0]
