"""Find out whether all nodes see the same folder: one path may be a disk of its own on each node.

One node puts a new file into each folder, the others look for it, and then it is removed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmark.config import ConfigError
from benchmark.files import link_to_nowhere

_PREFIX = ".shared_"


@contextmanager
def tokens(folders: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """Keep a new file in each folder until the block ends; missing folders are made.

    Args:
        folders: name of a variable -> the folder that it names.

    Returns:
        Name of a variable -> the new file.

    Raises:
        ConfigError: a folder cannot be made or written to.
    """
    with ExitStack() as stack:
        files = {}
        for variable, folder in folders.items():
            make_folder(variable, folder)
            try:
                file = stack.enter_context(tempfile.NamedTemporaryFile(dir=folder.absolute(), prefix=_PREFIX))
            except OSError as error:
                raise ConfigError([f"{variable}={folder} cannot be written: {error.strerror}"]) from None
            files[variable] = Path(file.name)
        yield files


def make_folder(variable: str, folder: Path) -> None:
    """Make a folder that a variable names, and those above it, unless they exist.

    Raises:
        ConfigError: it cannot be made, or a link in its path is broken.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError([f"{variable}={folder}: {_why(error)}"]) from None


def _why(error: OSError) -> str:
    return link_to_nowhere(Path(error.filename)) or f"{error.filename} cannot be made: {error.strerror}"


def unseen(seen_elsewhere: Mapping[str, Path]) -> Iterator[str]:
    """Yield a fault for each folder in which this node does not see the file that the first node made."""
    for variable, token in seen_elsewhere.items():
        if not token.exists():
            yield f"{variable}={token.parent} is not the folder of the first node: all nodes must share it"
