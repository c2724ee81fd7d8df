"""A run that hangs: how it is noticed, and what its ranks' stacks say about which of them is to blame.

The log is what is watched, from outside the timed processes. Every rank writes its stack to the console on SIGUSR2
(faulthandler, which needs no help from a blocked interpreter); a rank that writes none is stopped or gone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<function>.+)')
_STACK = re.compile(r"Current thread 0x[0-9a-f]+.*\(most recent call first\):")
_LABEL = re.compile(r"^\s*(?P<rank>\d+): ?(?P<text>.*)$")


@dataclass
class Silence:
    """How long nothing has been heard."""

    limit: float
    """Seconds; 0 is no limit."""
    since: float

    def broken(self, now: float) -> None:
        self.since = now

    def too_long(self, now: float) -> bool:
        return self.limit > 0 and now - self.since > self.limit


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a rank is: the innermost frame of its main thread, and the innermost one of our own code."""

    innermost: str
    ours: str = ""

    def __str__(self) -> str:
        return f"{self.innermost}, called from {self.ours}" if self.ours else self.innermost


def stacks_in(console: str) -> dict[int, Place]:
    """The last stack of each rank in a console whose lines srun has labelled with the rank."""
    lines: dict[int, list[str]] = {}
    for line in console.splitlines():
        match = _LABEL.match(line)
        if match:
            lines.setdefault(int(match["rank"]), []).append(match["text"])
    places = {rank: _place(of_rank) for rank, of_rank in lines.items()}
    return {rank: place for rank, place in places.items() if place is not None}


def _place(lines: Sequence[str]) -> Place | None:
    starts = [index for index, line in enumerate(lines) if _STACK.search(line)]
    if not starts:
        return None
    frames = list(_frames(lines[starts[-1] + 1 :]))
    if not frames:
        return Place(innermost="no Python code")
    ours = next((text for file, text in frames if "/reference_impl/" in file or "/benchmark/" in file), "")
    innermost = frames[0][1]
    return Place(innermost=innermost, ours="" if ours == innermost else ours)


def _frames(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(file, text) of each frame of one stack, innermost first."""
    for line in lines:
        match = _FRAME.search(line)
        if match is None:
            return
        short = "/".join(match["file"].split("/")[-2:])
        yield match["file"], f"{match['function']} ({short}:{match['line']})"


def explain(places: Mapping[int, Place], nodes: Sequence[str], ranks_per_node: int) -> list[str]:
    """Lines that name the ranks that did not answer, and then where the others are, the rarest place first."""
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
"""Ranks that a line names before it only counts them."""


def _ranks(ranks: Sequence[int], nodes: Sequence[str], ranks_per_node: int) -> str:
    named = ", ".join(f"{rank} on {nodes[rank // ranks_per_node]}" for rank in ranks[:_NAMED])
    rest = f" and {len(ranks) - _NAMED} more" if len(ranks) > _NAMED else ""
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {named}{rest}"
