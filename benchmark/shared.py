"""Do all nodes see the same folder? A path says nothing about it: each node may have a disk of its own there.

Whoever asks puts a new file into each folder, asks the others for it while it is there, and removes it.
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
    """A new file in each folder, which is made if need be, until the block ends; both by the variable that names it.

    Raises:
        ConfigError: a folder cannot be made or written.
    """
    with ExitStack() as stack:
        made = {}
        for variable, folder in folders.items():
            make_folder(variable, folder)
            try:
                file = stack.enter_context(tempfile.NamedTemporaryFile(dir=folder.absolute(), prefix=_PREFIX))
            except OSError as error:
                raise ConfigError([f"{variable}={folder} cannot be written: {error.strerror}"]) from None
            made[variable] = Path(file.name)
        yield made


def make_folder(variable: str, folder: Path) -> None:
    """Make a folder that a variable names, and those above it, unless they are there.

    Raises:
        ConfigError: it cannot be made, or a link on the way leads nowhere.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError([f"{variable}={folder}: {_why(error)}"]) from None


def _why(error: OSError) -> str:
    return link_to_nowhere(Path(error.filename)) or f"{error.filename} cannot be made: {error.strerror}"


def unseen(seen_elsewhere: Mapping[str, Path]) -> Iterator[str]:
    """A fault for each folder that is another one here than where its token was made."""
    for variable, token in seen_elsewhere.items():
        if not token.exists():
            yield f"{variable}={token.parent} is not the folder of the first node: all nodes must share it"
