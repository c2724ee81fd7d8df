"""python -m harness.launch.node: does this node, inside its container, see what a run needs? One fault a line.

Exit status: 0 it does, 1 it does not.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import click


def faults(readable: Sequence[Path], writable: Sequence[Path], token: Path) -> Iterator[str]:
    """What is missing. `token` is a file that the job has just made in LOGDIR, which all nodes must share."""
    for path in (*readable, *writable):
        if not path.exists():
            yield f"{path} is not there"
        elif not os.access(path, os.R_OK):
            yield f"{path} cannot be read"
    for path in writable:
        try:
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            yield f"{path} cannot be written: {error.strerror}"
    if not token.exists():
        yield f"{token.parent} (LOGDIR) is not the folder of the first node; all nodes must share it"


@click.command()
@click.option("--readable", multiple=True, type=click.Path(path_type=Path))
@click.option("--writable", multiple=True, type=click.Path(path_type=Path))
@click.option("--token", required=True, type=click.Path(path_type=Path))
def main(readable: Sequence[Path], writable: Sequence[Path], token: Path) -> None:
    """Print what this node does not see of what a run needs."""
    found = list(faults(readable, writable, token))
    for fault in found:
        click.echo(f"error: {socket.gethostname()}: {fault}", err=True)
    raise SystemExit(int(bool(found)))


if __name__ == "__main__":
    main()
