"""Write files completely or not at all, walk folders of others, and lock folders."""

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
"""Name of the file in the folder of the logs in which `run_record` records what ran."""


def flush(file: IO[Any]) -> None:
    """Write a file's data to the disk, so that a power failure cannot lose it."""
    file.flush()
    os.fsync(file.fileno())


UNFINISHED = ".new"
"""Suffix of a file that is still being written. A killed writer leaves such a file behind."""


def write_at_once(path: Path, text: str) -> None:
    """Replace a file as a whole: it holds either its old content or all of `text`, even after a power failure."""
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
    """Replace the content of a file within the blocks that it already has, for a full disk.

    Returns:
        False if the file has too few blocks or does not exist; then nothing is changed.

    Raises:
        OSError: the file cannot be written.
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
"""Bytes of the unit of st_blocks, which is independent of the file system's own blocks."""


def sync_file(path: Path) -> None:
    """Write to the disk what others have written into a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_names(folder: Path) -> None:
    """Write a folder's list of names to the disk, so that a power failure cannot lose a new name."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


DEEPEST = 64
"""Depth of nested folders that are entered; the trees of published submissions have under 10."""


def _give_up(error: OSError) -> NoReturn:
    raise error


def walk(
    folder: Path, unreadable: Callable[[OSError], object] = _give_up
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk a folder from the top as os.walk does, but limited in depth; links to folders are not followed.

    A tree of others may be so deep that os.walk recurses too far.

    Args:
        unreadable: called with the error of each folder that cannot be read or lies deeper than DEEPEST. By default it
            raises that error, because a folder that nobody has seen must not pass a check.
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
    """Return the names of the folders in a folder, including links to folders, and the names of everything else."""
    if depth > DEEPEST:
        raise OSError(errno.ENAMETOOLONG, f"folders are nested more than {DEEPEST} deep", folder[:200])
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
        # The entry is a link to itself.
        return False


def links_in(folder: Path) -> Iterator[Path]:
    """Yield the symbolic links in a folder and below it, in the order of their names; none is followed."""
    for parent, subfolders, names in walk(folder, unreadable=lambda _: None):
        subfolders.sort()
        yield from (path for name in sorted([*subfolders, *names]) if (path := Path(parent, name)).is_symlink())


def link_to_nowhere(path: Path) -> str:
    """Return the fault of a link whose target does not exist; empty for anything else."""
    broken = path.is_symlink() and not path.exists()
    return f"{path} is a link to {os.readlink(path)}, which is not there" if broken else ""


def new_folder(path: Path) -> Path:
    """Make a new folder and return it: `path`, or the first of `<path>-2`, `<path>-3` and so on that does not exist.

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
    """Make a relative link to a folder. It replaces an old link at once, so that there is a link at every moment.

    Raises:
        OSError: it cannot be made, or there is a file or folder of that name.
    """
    if os.path.lexists(link) and not link.is_symlink():
        raise FileExistsError(errno.EEXIST, "is not a link", str(link))
    temporary = link.with_name(f"{link.name}.{secrets.token_hex(4)}{UNFINISHED}")
    temporary.symlink_to(os.path.relpath(folder, link.parent), target_is_directory=True)
    try:
        temporary.replace(link)
    except OSError:
        temporary.unlink()
        raise


def beside(path: Path, what: str) -> Path:
    """Return the first free name `<path>.<what>-<k>`, from 1, to which the old content of a file can be moved."""
    number = 1 + sum(1 for _ in path.parent.glob(f"{path.name}.{what}-*"))
    return path.with_name(f"{path.name}.{what}-{number}")


@contextmanager
def locked(folder: Path, *, busy: Exception | None = None, link: bool = True) -> Iterator[None]:
    """Hold the lock of a folder. The system releases it when the process ends, however it ends.

    Args:
        busy: raised if another process holds the lock; None to wait for the lock.
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
    """Take the lock of an open file, for this process and all that inherit the open file.

    Returns:
        False if another process holds the lock. True on a file system without locks.
    """
    for _ in range(10):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # A process that only asks in is_held holds the lock for an instant.
            time.sleep(0.05)
        except OSError:
            return True
        else:
            return True
    return False


def is_held(path: Path) -> bool | None:
    """Return whether any process on any machine holds the lock of a file; None if that cannot be told."""
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
"""Mount options of nfs(5) and of Lustre with which a machine does not see the locks of others."""


def _locks_are_local(device: int) -> bool:
    """Return whether a shared file system keeps locks local to each machine."""
    number = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        options = (line.split()[-1] for line in mounts if line.split()[2] == number)
        return any(_LOCAL_LOCKS & set(text.split(",")) for text in options)


def existing_above(folder: Path) -> Path:
    """Return the folder or the nearest one above it that exists; a broken link counts as existing."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if os.path.lexists(place))


_PROBE_BYTES = 4096
"""Bytes to try: as many as a line of a log needs, and the smallest block of a disk."""


def why_unwritable(folder: Path) -> str:
    """Return why a folder, or one that would be made there, cannot be written to; empty if it can."""
    existing = existing_above(folder)
    if nowhere := link_to_nowhere(existing):
        return nowhere
    if not existing.is_dir():
        return f"{existing} is not a folder"
    try:
        # Tried by writing a file: permissions do not tell of a read-only file system or a quota.
        with tempfile.TemporaryFile(dir=existing) as file:
            # A full disk still takes an empty file.
            file.write(bytes(_PROBE_BYTES))
            flush(file)
            return ""
    except OSError as error:
        return f"{existing}: {error.strerror}"
