"""Notices a run that hangs, and reads from its ranks' stacks which of them is to blame.

It watches the log, from outside the timed processes. On SIGUSR2 every rank writes its stack to the console
(faulthandler, which works even if the interpreter is blocked); a rank that writes none is stopped or gone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<function>.+)')
_STACK = re.compile(r"Current thread 0x[0-9a-f]+.*\(most recent call first\):")
_LABEL = re.compile(r"^\s*(?P<rank>\d+): ?(?P<text>.*)$")


STOP_S = 4.0
"""Seconds that a run may take to stop after it is told to."""

END_S = 45.0
"""Seconds that processes may take to end after run_stop. Leaving a process group may hang, and a save that nobody needs
any more may take long."""

AGAIN_S = 10.0
"""Seconds between two SIGKILLs."""


class Awaited(Enum):
    """The next sign of life that a healthy run gives."""

    LINE = "a line in the log"
    END = "the end of its processes, after run_stop"
    STOP = "their end, after a signal"


class HangTimer:
    """Decides whether the next sign of life is overdue.

    Args:
        line_s: seconds without a line in the log; 0 for no limit.
        now: seconds of a clock that never goes back, here as in every method.
    """

    def __init__(self, line_s: float, now: float) -> None:
        self.awaited = Awaited.LINE
        self._line_s = line_s or math.inf
        self._until = now + self._line_s

    def heard(self, now: float, *, run_stop: bool) -> None:
        """Note that the log has grown, and whether it has run_stop."""
        if self.awaited is Awaited.LINE:
            self.awaited, limit = (Awaited.END, END_S) if run_stop else (Awaited.LINE, self._line_s)
            self._until = now + limit

    def told_to_stop(self, now: float) -> None:
        self.awaited, self._until = Awaited.STOP, now + STOP_S

    def killed(self, now: float) -> None:
        self._until = now + AGAIN_S

    def is_over(self, now: float) -> bool:
        return now > self._until


@dataclass(frozen=True, kw_only=True)
class RankPlace:
    """Where a rank is: the innermost frame of its main thread, and the innermost frame of our own code."""

    innermost: str
    ours: str = ""

    def __str__(self) -> str:
        return f"{self.innermost}, called from {self.ours}" if self.ours else self.innermost


def stacks_in(console: str) -> dict[int, RankPlace]:
    """Return each rank's last stack in a console whose lines srun has labelled with the rank."""
    lines: dict[int, list[str]] = {}
    for line in console.splitlines():
        match = _LABEL.match(line)
        if match:
            lines.setdefault(int(match["rank"]), []).append(match["text"])
    places = {rank: _place(of_rank) for rank, of_rank in lines.items()}
    return {rank: place for rank, place in places.items() if place is not None}


def _place(lines: Sequence[str]) -> RankPlace | None:
    starts = [index for index, line in enumerate(lines) if _STACK.search(line)]
    if not starts:
        return None
    frames = list(_frames(lines[starts[-1] + 1 :]))
    if not frames:
        return RankPlace(innermost="no Python code")
    ours = next((text for file, text in frames if "/reference_impl/" in file or "/benchmark/" in file), "")
    innermost = frames[0][1]
    return RankPlace(innermost=innermost, ours="" if ours == innermost else ours)


def _frames(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (file, text) for each frame of one stack, innermost first."""
    for line in lines:
        match = _FRAME.search(line)
        if match is None:
            return
        short = "/".join(match["file"].split("/")[-2:])
        yield match["file"], f"{match['function']} ({short}:{match['line']})"


def explain(places: Mapping[int, RankPlace], nodes: Sequence[str], ranks_per_node: int) -> list[str]:
    """Return lines that name the ranks that did not answer, and then where the others are, the rarest place first."""
    ranks = range(len(nodes) * ranks_per_node)
    lines = [
        f"rank {rank} on {nodes[rank // ranks_per_node]} does not answer: stopped or gone"
        for rank in ranks
        if rank not in places
    ]
    groups: dict[str, list[int]] = {}
    for rank, place in sorted(places.items()):
        groups.setdefault(str(place), []).append(rank)
    for place_text, group in sorted(groups.items(), key=lambda item: len(item[1])):
        lines.append(f"{_ranks(group, nodes, ranks_per_node)} in {place_text}")
    return lines


_NAMED = 8
"""Ranks that a line names; further ones are only counted."""


def _ranks(ranks: Sequence[int], nodes: Sequence[str], ranks_per_node: int) -> str:
    named = ", ".join(f"{rank} on {nodes[rank // ranks_per_node]}" for rank in ranks[:_NAMED])
    rest = f" and {len(ranks) - _NAMED} more" if len(ranks) > _NAMED else ""
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {named}{rest}"
