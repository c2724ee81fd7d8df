"""Turn the output of the official tools into messages of one line, with line numbers of the original logs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile

from benchmark.mllog import TOKEN, events_in
from benchmark.plurals import counted
from compliance.findings import show
from compliance.log import Log

MOST_MESSAGES = 20
"""Messages of a tool that are shown; the rest are counted."""

MESSAGE_LENGTH = 300
"""Characters of a message that are shown."""

_MESSAGE = re.compile(r"^(?:ERROR|WARNING) - (.*?)(?=^(?:ERROR|WARNING|INFO) - |\Z)", re.MULTILINE | re.DOTALL)
_BETWEEN_MESSAGES = re.compile(r"^-{30}$", re.MULTILINE)
_PRINTED = re.compile(r"(?:\*\* )?(?:CRITICAL )?ERROR\b(?! - ).*|NOTICE: .*|Compliance check failed in .*")
"""The lines that the summariser prints where the other tools log."""
_ECHO = "current context[s]="
"""From this text on, a failed check repeats the log."""
_NO_NEWS = ("** Logging output also at", "** Detailed log output is also at")
_CHECKED_FILE = re.compile(r"INFO - Running compliance on file: (?P<path>.*)")
_FAILED_CHECK = re.compile(r"(?P<check>(?:WARNING -  )?CHECK for '.*' failed in line )(?P<index>[0-9]{1,12}):")


def messages(lines: Iterable[str], logs: Mapping[str, Log]) -> list[str]:
    """Return the errors and warnings in a tool's output, in its own words.

    Args:
        logs: path that the tool read -> log.
    """
    lines = list(_with_lines(lines, logs))
    logged = (part for text in _MESSAGE.findall("\n".join(lines)) for part in _BETWEEN_MESSAGES.split(text))
    printed = (line for line in lines if _PRINTED.fullmatch(line))
    # The verdict already says that the check failed.
    return [message for message in (*map(_one_line, logged), *map(_one_line, printed)) if message not in ("", "FAILED")]


def shortened(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the first messages, cut to MESSAGE_LENGTH, and the number of the rest."""
    cut = [text[:MESSAGE_LENGTH] for text in texts]
    rest = len(cut) - MOST_MESSAGES
    return (*cut[:MOST_MESSAGES], *([counted(rest, "more message")] if rest > 0 else ()))


def _one_line(text: str) -> str:
    """Return a message on one line, without the log that it repeats: of the event that it is about, only the value."""
    parts = []
    for line in takewhile(lambda line: not line.startswith(_ECHO), text.split("\n")):
        if line.startswith(TOKEN):
            parts += [f"value {show(event.value)}," for event in events_in(line)]
        elif not line.startswith(_NO_NEWS):
            parts += line.split()
    return " ".join(parts).removesuffix(",")


def _with_lines(lines: Iterable[str], logs: Mapping[str, Log]) -> Iterator[str]:
    """Yield the lines of output with line numbers of the original logs in place of the checker's numbers of events."""
    log = None
    for text in lines:
        if checked := _CHECKED_FILE.fullmatch(text):
            log = logs.get(checked["path"])
        failed = _FAILED_CHECK.fullmatch(text) if log is not None else None
        line = log.line(int(failed["index"])) if log is not None and failed is not None else None
        yield text if failed is None or line is None else f"{failed['check']}{line}:"
