"""Files that are complete wherever they are, and folders that one process works in at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

RUN_JSON = "run.json"
"""Name of the file beside the logs in which `run_record` writes down what ran."""


def flush(file: IO[Any]) -> None:
    """To the disk, so that a power failure cannot undo what is written after it."""
    file.flush()
    os.fsync(file.fileno())


UNFINISHED = ".new"
"""Ending of the name of a file that is still being written. A killed writer leaves such a file behind."""


def write_at_once(path: Path, text: str) -> None:
    """Replace a file whole: afterwards it holds all of `text`, or what it held before, even after a power failure."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
            flush(file)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_names(path.parent)


def overwrite(path: Path, text: str) -> bool:
    """Replace what a file holds within the blocks that it has, for a disk that has no others.

    Returns:
        False where they are too few, or there is no such file; it is as it was.

    Raises:
        OSError: it cannot be written.
    """
    content = text.encode()
    if not path.exists():
        return False
    with path.open("r+b") as file:
        if len(content) > os.fstat(file.fileno()).st_blocks * _BLOCK_BYTES:
            return False
        file.write(content)
        file.truncate()
        flush(file)
    return True


_BLOCK_BYTES = 512
"""Unit of st_blocks, whatever the file system's own blocks are."""


def sync_file(path: Path) -> None:
    """Write a file that others have written to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_names(folder: Path) -> None:
    """Write the names of a folder's files to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


DEEPEST = 64
"""Folders one in another that are entered; the trees of published submissions have under ten."""


def _give_up(error: OSError) -> NoReturn:
    raise error


def walk(
    folder: Path, unreadable: Callable[[OSError], object] = _give_up
) -> Iterator[tuple[str, list[str], list[str]]]:
    """As os.walk, folder by folder from the top, for a tree that anybody may have made: os.walk recurses.

    Args:
        unreadable: told of each folder that cannot be read, or lies deeper than DEEPEST; raises by default, because
            what nobody sees is nothing that passes.
    """
    waiting = [(os.fspath(folder), 0)]
    while waiting:
        here, depth = waiting.pop()
        try:
            folders, names = _names_in(here, depth)
        except OSError as error:
            unreadable(error)
            continue
        yield here, folders, names
        below = (os.path.join(here, name) for name in reversed(folders))
        waiting += [(path, depth + 1) for path in below if not os.path.islink(path)]


def _names_in(folder: str, depth: int) -> tuple[list[str], list[str]]:
    """Of the folders in it, links to folders among them, and of all else."""
    if depth > DEEPEST:
        raise OSError(errno.ENAMETOOLONG, f"more than {DEEPEST} folders one in another", folder[:200])
    folders: list[str] = []
    names: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            (folders if _is_folder(entry) else names).append(entry.name)
    return folders, names


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself.
        return False


def links_in(folder: Path) -> Iterator[Path]:
    """The symbolic links in a folder and in those below it, in the order of their names; none is followed."""
    for parent, subfolders, names in walk(folder, unreadable=lambda _: None):
        subfolders.sort()
        yield from (path for name in sorted([*subfolders, *names]) if (path := Path(parent, name)).is_symlink())


def link_to_nowhere(path: Path) -> str:
    """What is wrong with a link whose target is not there; empty for anything else."""
    broken = path.is_symlink() and not path.exists()
    return f"{path} is a link to {os.readlink(path)}, which is not there" if broken else ""


def new_folder(path: Path) -> Path:
    """Make a folder that nobody else has: `path`, or the first of `<path>-2`, `<path>-3` and so on that is not taken.

    Raises:
        OSError: it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder, number = path, 1
    while True:
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
            folder = path.with_name(f"{path.name}-{number}")
        else:
            return folder


def point_link(link: Path, folder: Path) -> None:
    """Make a relative link to a folder, in place of the link that was there; at no moment is there none.

    Raises:
        OSError: it cannot be made, or there is something else than a link.
    """
    if os.path.lexists(link) and not link.is_symlink():
        raise FileExistsError(errno.EEXIST, "is no link", str(link))
    temporary = link.with_name(f"{link.name}.{secrets.token_hex(4)}{UNFINISHED}")
    temporary.symlink_to(os.path.relpath(folder, link.parent), target_is_directory=True)
    try:
        temporary.replace(link)
    except OSError:
        temporary.unlink()
        raise


def beside(path: Path, what: str) -> Path:
    """The first name `<path>.<what>-<k>`, from 1, that is not taken: for what a file held and is to hold no more."""
    number = 1 + sum(1 for _ in path.parent.glob(f"{path.name}.{what}-*"))
    return path.with_name(f"{path.name}.{what}-{number}")


@contextmanager
def locked(folder: Path, *, busy: Exception | None = None, link: bool = True) -> Iterator[None]:
    """Holds the folder's lock, which the system lets go of when the process ends, however it does.

    Args:
        busy: raised where another process has the lock; it is waited for if None.
        link: whether the folder may be a symbolic link.

    Raises:
        OSError: the folder cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | (0 if link else os.O_NOFOLLOW))
    try:
        if busy is None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        else:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise busy from None
        yield
    finally:
        os.close(descriptor)


def hold(file: IO[Any]) -> bool:
    """Take the lock of an open file, for this process and all that inherit it open; False where another one has it.

    A file system without locks has none to take.
    """
    for _ in range(10):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Who only looks whether it is held has it for an instant.
            time.sleep(0.05)
        except OSError:
            return True
        else:
            return True
    return False


def is_held(path: Path) -> bool | None:
    """Whether any process has the lock of a file, on any machine; None where that cannot be told."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except (OSError, ValueError):
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or _locks_are_local(status.st_dev):
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


_LOCAL_LOCKS = {"nolock", "local_lock=flock", "local_lock=all", "localflock"}
"""Options of nfs(5) and of Lustre with which a machine sees no lock of another one."""


def _locks_are_local(device: int) -> bool:
    """Whether a file system that machines share keeps the locks of each to itself."""
    number = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        options = (line.split()[-1] for line in mounts if line.split()[2] == number)
        return any(_LOCAL_LOCKS & set(text.split(",")) for text in options)


def existing_above(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there; a link that leads nowhere is there, too."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if os.path.lexists(place))


_PROBE_BYTES = 4096
"""As many as a line of a log needs, and a disk gives at least."""


def why_unwritable(folder: Path) -> str:
    """Why nothing can be written into a folder, which would be made if it is not there; empty if it can."""
    existing = existing_above(folder)
    if nowhere := link_to_nowhere(existing):
        return nowhere
    if not existing.is_dir():
        return f"{existing} is no folder"
    try:
        # Asked by doing it: permissions say nothing of a file system that is read-only, or of a quota.
        with tempfile.TemporaryFile(dir=existing) as file:
            # A full disk has room for a file of nothing.
            file.write(bytes(_PROBE_BYTES))
            flush(file)
            return ""
    except OSError as error:
        return f"{existing}: {error.strerror}"
