"""Processes that end with the process that started them, and folders that are removed with their processes.

This holds however a process ends, even by SIGKILL: the kernel signals its children (a parent-death signal), gives the
processes that they leave behind to an ancestor that asked for them (a subreaper), and releases its locks.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

# From linux/prctl.h.
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

_GONE_S = 30.0
"""Seconds that processes may take to end after SIGKILL; one that waits for a disk or a GPU is slow."""

_libc = ctypes.CDLL(None)


def end_with(parent: int, number: int = signal.SIGKILL) -> None:
    """Have this process sent a signal when its parent ends; end now if the parent is no longer `parent`."""
    _libc.prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(128 + number)


def ending_with_this(number: int = signal.SIGKILL) -> Callable[[], None]:
    """Return a preexec_fn for Popen: the new process gets a signal when the thread that started it ends."""
    parent = os.getpid()
    return lambda: end_with(parent, number)


def bind_forks(*default: int) -> None:
    """Have every fork of this process killed when this process ends, and the forks of those likewise.

    Args:
        default: signals that end a fork as they would any process, whatever this process does on them.
    """
    parent = 0

    def before() -> None:
        nonlocal parent
        parent = os.getpid()

    def in_child() -> None:
        for number in default:
            signal.signal(number, signal.SIG_DFL)
        end_with(parent)

    os.register_at_fork(before=before, after_in_child=in_child)


class Family:
    """All processes that this one starts from now on, and all of their descendants."""

    def __init__(self) -> None:
        self._others = set(_descendants())

    def alive(self) -> list[psutil.Process]:
        return [process for process in _descendants() if process not in self._others]

    def end(self) -> bool:
        """Kill all of them and wait; return whether none is left."""
        deadline = time.monotonic() + _GONE_S
        while left := self.alive():
            if time.monotonic() > deadline:
                return False
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=1)
        return True


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


@contextmanager
def adopting() -> Iterator[Family]:
    """Adopt the orphans of what is started in the block, and end all that is left of it afterwards."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    family = Family()
    try:
        yield family
    finally:
        family.end()
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 0)


_SCRATCH = "llama31_"


@contextmanager
def scratch() -> Iterator[Path]:
    """Make a new temporary folder that only this user can open; remove those that killed processes have left.

    Whoever uses such a folder holds its lock, so a folder whose lock is free belongs to nobody any more. That holds
    across namespaces of processes, such as those of containers.
    """
    sweep()
    folder, lock = _made()
    while lock is None:
        # Another process removed it between its making and its locking.
        folder, lock = _made()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _made() -> tuple[Path, int | None]:
    folder = Path(tempfile.mkdtemp(prefix=_SCRATCH))
    return folder, _locked(folder, made=True)


def sweep() -> None:
    """Remove the temporary folders of processes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        if (lock := _locked(folder)) is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _locked(folder: Path, *, made: bool = False) -> int | None:
    """Open and lock a folder of this user; return None if another process has the lock, or the folder is gone.

    Args:
        made: this process has just made it, so it is its own even on a file system without locks.
    """
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    if _is_own(lock, folder, made=made):
        return lock
    os.close(lock)
    return None


def _is_own(lock: int, folder: Path, *, made: bool) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        opened = os.fstat(lock)
        return opened.st_uid == os.getuid() and os.path.samestat(opened, folder.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError:
        return made
