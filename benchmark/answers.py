"""Mark the answers of commands that a job starts on its nodes, so that they are found among other output.

An image's entry point prints a banner and a site's TaskProlog a greeting, and both end up in the same pipe. So each
line of an answer carries a mark. Lines without one are not read.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

MARK = "llama31-answer: "
"""Text at the start of each line of an answer. A banner without a line end may precede it."""

_LABEL = re.compile(r"\s*(\d+): ")
"""The prefix that `srun --label` gives the lines of a task."""


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
    """Yield the text before the mark and the text after it, for each marked line."""
    parts = (line.partition(MARK) for line in printed.split("\n"))
    return ((before, text) for before, mark, text in parts if mark)
