"""python -m harness.launch.node: check that this node, inside its container, sees what a run needs; a line per fault.

Exit status: 0 it does, 1 it does not.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from benchmark import driver
from benchmark.errors import error_lines
from benchmark.shared import unseen


def faults(
    readable: Sequence[Path], writable: Sequence[Path], tokens: Mapping[str, Path], ranks: int = 0
) -> Iterator[str]:
    """Yield what is missing.

    Args:
        tokens: files that the job has just made in the folders that all nodes must share, by the folder's variable.
        ranks: number of the run's ranks on this node, one for each GPU.
    """
    yield from driver.faults(ranks, _gpus())
    for path in (*readable, *writable):
        if not path.exists():
            yield f"{path} is not there"
        elif not os.access(path, os.R_OK):
            yield f"{path} cannot be read"
    for path in filter(Path.exists, writable):
        try:
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            yield f"{path} cannot be written: {error.strerror}"
    yield from unseen(tokens)


def _gpus() -> tuple[str, ...] | None:
    """Return the GPUs of this node; None if each task sees only its own, so that this one cannot count them."""
    handed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = driver.gpu_names()
    return None if names and not driver.null_fault(names) and handed and "," not in handed else names


@click.command()
@click.option("--readable", multiple=True, type=click.Path(path_type=Path))
@click.option("--writable", multiple=True, type=click.Path(path_type=Path))
@click.option("--token", "tokens", multiple=True, type=(str, click.Path(path_type=Path)), metavar="VARIABLE FILE")
@click.option("--ranks", default=0)
def main(readable: Sequence[Path], writable: Sequence[Path], tokens: Sequence[tuple[str, Path]], ranks: int) -> None:
    """Print what a run needs and this node does not see."""
    found = list(faults(readable, writable, dict(tokens), ranks))
    click.echo(error_lines(f"{socket.gethostname()}: {fault}" for fault in found), err=True, nl=False)
    raise SystemExit(int(bool(found)))


if __name__ == "__main__":
    main()
