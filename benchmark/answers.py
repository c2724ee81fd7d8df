"""What a command that a job starts on its nodes answers, told from what else is printed there.

An image's entry point prints a banner, a site's TaskProlog a greeting, and both end up in the same pipe. So each line
of an answer carries a mark, and what carries none is not read.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

MARK = "llama31-answer: "
"""Before each line of an answer; a banner without a line end may stand before it."""

_LABEL = re.compile(r"\s*(\d+): ")
"""What `srun --label` puts before the lines of a task."""


def answer(text: str) -> None:
    """Print the lines of an answer."""
    sys.stdout.write("".join(f"{MARK}{line}\n" for line in text.split("\n")))
    sys.stdout.flush()


def answers(printed: str) -> list[str]:
    """Return the lines of the answers in what was printed."""
    return [text for _, text in _marked(printed)]


def labelled_answers(printed: str) -> list[tuple[int, str]]:
    """Return the lines of the answers in what `srun --label` printed, each with the number of its task."""
    return [(int(label[1]), text) for before, text in _marked(printed) if (label := _LABEL.match(before))]


def _marked(printed: str) -> Iterator[tuple[str, str]]:
    """Each marked line, as what stands before the mark and what follows it."""
    parts = (line.partition(MARK) for line in printed.split("\n"))
    return ((before, text) for before, mark, text in parts if mark)
