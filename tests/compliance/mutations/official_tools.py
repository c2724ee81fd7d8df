"""The objections of the official tools to a log or a submission, asked in this process."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from tests.logs import LogFile
from tests.official import rejections

NOT_ASKED = "not asked: the tool would execute the file that the log names"


def log_refusals(log: Path, ruleset: str) -> list[str]:
    """What compliance_checker, and in the closed division the seed checker, have against one log.

    They see no log of an unknown division or benchmark, because they execute the files that it names.
    """
    announced = _announced(log)
    if not announced.get("submission_division", set()) <= {"closed", "open"}:
        return [NOT_ASKED]
    if not announced.get("submission_benchmark", set()) <= {"llama31_405b", "llama31_8b"}:
        return [NOT_ASKED]
    found = [_brief(rejection) for rejection in rejections(log, ruleset)]
    if "open" not in announced.get("submission_division", set()):
        found += [f"seed_checker: {_brief(error)}" for error in _seed_errors(log, ruleset)]
    return [refusal.replace(f"{log.parent}/", "") for refusal in found]


def _announced(log: Path) -> dict[str, set[str]]:
    """The values of what names a file, by key; nothing of a log that is not read as JSON lines."""
    try:
        events = LogFile(log).events
    except ValueError:
        # Broken lines name nothing that was not in the valid log.
        return {}
    announced: dict[str, set[str]] = {}
    for event in events:
        if event["key"] in ("submission_division", "submission_benchmark"):
            announced.setdefault(event["key"], set()).add(str(event["value"]))
    return announced


def _seed_errors(log: Path, ruleset: str) -> list[str]:
    from mlperf_logging.package_checker.seed_checker import SeedChecker

    with warnings.catch_warnings():
        # Several seeds in a run are a warning, which accepts.
        warnings.simplefilter("ignore")
        return list(SeedChecker(ruleset)._assert_unique_seed_per_run([str(log)]))


def tree_refusals(root: Path, ruleset: str) -> list[str]:
    """What package_checker, result_summarizer and repo_checker, in this order, have against a submission.

    They work on a copy, because they write into it.
    """
    from mlperf_logging.package_checker.package_checker import check_training_package
    from mlperf_logging.repo_checker.repo_checker import run_checks
    from mlperf_logging.result_summarizer import result_summarizer

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        copy = str(shutil.copytree(root, Path(folder, root.name), symlinks=True))
        arguments = (copy, "training", ruleset)
        summarizer = ["result_summarizer", *arguments, "--csv", "summary.csv"]
        with mock.patch.object(sys, "argv", summarizer):
            found = [
                *_said("package_checker", lambda: check_training_package(*arguments, *[False] * 5, os.devnull)),
                *_said("result_summarizer", result_summarizer.main),
                *_said("repo_checker", lambda: run_checks(copy)),
            ]
        return [refusal.replace(f"{folder}/", "") for refusal in found]


def _said(tool: str, run: Callable[[], Any]) -> list[str]:
    """Errors that a tool logs or prints, and its crash."""
    from mlperf_logging.compliance_checker import mlp_compliance

    mlp_compliance.enqueued_configs.clear()
    printed = io.StringIO()
    crash = []
    with (
        _errors_logged() as errors,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            run()
        except Exception as error:  # noqa: BLE001 - a crash is a refusal
            crash = [f"crashed: {error!r}"]
    lines = [line for line in printed.getvalue().splitlines() if "ERROR" in line]
    return [f"{tool}: {_brief(message)}" for message in (*errors, *lines, *crash)]


@contextlib.contextmanager
def _errors_logged() -> Iterator[list[str]]:
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    collector = Collector(logging.ERROR)
    logging.getLogger().addHandler(collector)
    try:
        yield messages
    finally:
        logging.getLogger().removeHandler(collector)


def _brief(message: str) -> str:
    """The lines of a message that name what failed; not the context, which is long."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    tests = [line for line in lines if line.startswith("failed test:")]
    return " ".join([*lines[:1], *tests])
