"""Draws what a command printed as an SVG of a terminal: python docs/terminal_picture.py TITLE < output > picture.svg"""

import io
import re
import sys

from rich.console import Console
from rich.text import Text


def picture(title: str, output: str) -> str:
    console = Console(record=True, width=max(map(len, output.splitlines())) + 1, file=io.StringIO())
    for line in output.splitlines():
        console.print(Text(line, style="bold" if line.startswith(("PASS", "verdict", "$")) else ""))
    drawn = console.export_svg(title=title)
    # The picture loads nothing: a reader's own monospace font will do.
    return re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)


if __name__ == "__main__":
    sys.stdout.write(picture(sys.argv[1], sys.stdin.read()))
