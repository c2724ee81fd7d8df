"""What the official tools print, as messages of one line each, about the lines of the logs that the reader has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile

from benchmark.mllog import TOKEN, events_in
from compliance.findings import show
from compliance.log import Log

MOST_MESSAGES = 20
MESSAGE_LENGTH = 300

_MESSAGE = re.compile(r"^(?:ERROR|WARNING) - (.*?)(?=^(?:ERROR|WARNING|INFO) - |\Z)", re.MULTILINE | re.DOTALL)
_BETWEEN_MESSAGES = re.compile(r"^-{30}$", re.MULTILINE)
_PRINTED = re.compile(r"(?:\*\* )?(?:CRITICAL )?ERROR\b(?! - ).*|NOTICE: .*|Compliance check failed in .*")
"""What the summariser prints where the others log."""
_ECHO = "current context[s]="
"""From here on, a failed check repeats what the log says."""
_NO_NEWS = ("** Logging output also at", "** Detailed log output is also at")
_CHECKED_FILE = re.compile(r"INFO - Running compliance on file: (?P<path>.*)")
_FAILED_CHECK = re.compile(r"(?P<check>(?:WARNING -  )?CHECK for '.*' failed in line )(?P<index>[0-9]{1,12}):")


def messages(lines: Iterable[str], logs: Mapping[str, Log]) -> list[str]:
    """The errors and warnings of a tool's output, in its own words.

    Args:
        logs: by the path under which the tool read each.
    """
    lines = list(_with_lines(lines, logs))
    logged = (part for text in _MESSAGE.findall("\n".join(lines)) for part in _BETWEEN_MESSAGES.split(text))
    printed = (line for line in lines if _PRINTED.fullmatch(line))
    # A verdict says itself that it is no success.
    return [message for message in (*map(_one_line, logged), *map(_one_line, printed)) if message not in ("", "FAILED")]


def shortened(all_of_them: Iterable[str]) -> tuple[str, ...]:
    """The first messages, none of them too long, and how many there are besides."""
    first = [message[:MESSAGE_LENGTH] for message in all_of_them]
    rest = len(first) - MOST_MESSAGES
    return (*first[:MOST_MESSAGES], *([f"{rest} more messages"] if rest > 0 else ()))


def _one_line(text: str) -> str:
    """A message without what it repeats of the log: of the event that it is about, the value is told."""
    parts = []
    for line in takewhile(lambda line: not line.startswith(_ECHO), text.split("\n")):
        if line.startswith(TOKEN):
            parts += [f"value {show(event.value)}," for event in events_in(line)]
        elif not line.startswith(_NO_NEWS):
            parts += line.split()
    return " ".join(parts).removesuffix(",")


def _with_lines(lines: Iterable[str], logs: Mapping[str, Log]) -> Iterator[str]:
    """The text with the lines of the original logs in place of the ordinals that the checker gives to events."""
    log = None
    for text in lines:
        if named := _CHECKED_FILE.fullmatch(text):
            log = logs.get(named["path"])
        found = _FAILED_CHECK.fullmatch(text) if log is not None else None
        line = log.line(int(found["index"])) if log is not None and found is not None else None
        yield text if found is None or line is None else f"{found['check']}{line}:"
