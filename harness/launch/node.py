"""python -m harness.launch.node: does this node, inside its container, see what a run needs? One fault a line.

Exit status: 0 it does, 1 it does not.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path


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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness.launch.node", description=__doc__)
    parser.add_argument("--readable", type=Path, action="append", default=[])
    parser.add_argument("--writable", type=Path, action="append", default=[])
    parser.add_argument("--token", type=Path, required=True)
    given = parser.parse_args(arguments)
    found = list(faults(given.readable, given.writable, given.token))
    for fault in found:
        print(f"error: {socket.gethostname()}: {fault}", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
