"""Tests of watching a run: what is shown is true, early, and never taken back."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.benchmarks import find
from benchmark.checkout import ROOT
from benchmark.files import hold
from benchmark.mllog import TOKEN
from benchmark.run_record import RUNNING, Experiment, read, write
from compliance.check import find_logs, open_result
from compliance.checks.runs import check_run
from compliance.convergence.rcp import compare
from compliance.findings import Finding
from compliance.log import MAX_LINE, load
from compliance.run import Run
from harness.__main__ import main
from report.facts import RunFacts
from report.follow import follow, newest_log, other_samples, was_killed
from report.follower import FileFollower, LogFollower
from report.forecast import arrival, expected, margin, next_evaluation
from report.screen import DrawnScreen, Onlooker, PlainScreen
from report.watch import CERTAIN, PLAIN_BLOCKS, WatchView, certain, in_set, lines, phase, status
from tests.compliance.test_against_official import PUBLISHED, ROUNDS, published
from tests.compliance.test_log_reader import event as text_of
from tests.launches import launch, llama31_405b
from tests.logs import LogFile

V51 = sorted(PUBLISHED.glob("v5.1/*/results/*/llama31_405b/result_*.txt"))
RESULTS = sorted({log.parent for log in V51})


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result of three rehearsed 405B runs."""
    return launch(tmp_path_factory.mktemp("watch") / "runs", llama31_405b())


def growing(path: Path) -> Iterator[tuple[bytes, LogFollower]]:
    """Yield each line of a log, and the follower that has read up to it."""
    watch = LogFollower(path)
    for text in path.read_bytes().splitlines(keepends=True):
        watch.feed(text)
        yield text, watch


def milliseconds(run: Run, key: str) -> float:
    return run.first(key).event.time_ms


def whole(path: Path) -> LogFollower:
    """Return a follower that has read all of a log."""
    *_, (_, watch) = growing(path)
    return watch


def until(path: Path, key: str) -> LogFollower:
    """Return a follower that has read a log up to the first event of a key."""
    return next(watch for line, watch in growing(path) if f'"{key}"'.encode() in line)


# The forecast.


@published
@pytest.mark.parametrize("path", [pytest.param(log, id=f"{log.parent.parent.name}-{log.stem}") for log in V51])
def test_arrival_seen_from_half_way(path: Path) -> None:
    """Half-way through each published v5.1 run, its expected end is right to a tenth."""
    end = whole(path).run
    start, stop = milliseconds(end, "run_start"), milliseconds(end, "run_stop")
    # The clock of this test is that of the log: what is shown at a moment is made of the lines up to then.
    half = next(watch for line, watch in growing(path) if now(line) >= (start + stop) / 2)
    assert arrival(RunFacts(half.run)).minutes == pytest.approx((stop - start) / 60_000, rel=0.1)


def now(line: bytes) -> float:
    return float(json.loads(line.partition(TOKEN.encode())[2])["time_ms"])


def test_the_last_evaluations_correct_the_reference(rehearsed: Path) -> None:
    """From the second evaluation on, a run whose loss falls more slowly than the reference's is expected later."""
    log = LogFile(rehearsed / "result_0.txt")
    evaluations = log.indices("eval_accuracy")
    del log.events[evaluations[1] + 2 :]
    for index, value in zip(evaluations, (5.9, 5.85), strict=False):
        log.events[index]["value"] = value
    watch = LogFollower(rehearsed / "result_0.txt")
    for event in log.events:
        watch.feed(f"{TOKEN} {json.dumps(event)}\n".encode())
    # From 276480 and 294912 sequences, five more times 0.05 to 5.6.
    assert expected(watch.run) == (294912 + 5 * 18432, "its last evaluations")


def test_half_way_through_a_rehearsal_the_next_evaluation_is_the_first(rehearsed: Path) -> None:
    """Before the first evaluation, the next one is the first of the schedule."""
    watch = until(rehearsed / "result_0.txt", "block_start")
    assert next_evaluation(watch.run) == 276480


# Convergence.


@published
@pytest.mark.parametrize("round_name", ROUNDS)
def test_the_last_factor_is_that_of_the_result(round_name: str) -> None:
    """With the other runs of its result, a published run's factor at the end is the one that scores the result."""
    for group in find_logs([PUBLISHED / round_name]):
        found = compare(open_result(group, ROUNDS[round_name]))
        samples = found.samples
        assert samples[-1] is not None
        rules = find("llama31_405b", ROUNDS[round_name])
        assert found.global_batch_size is not None
        shown = margin(rules, found.global_batch_size, samples[-1], samples[:-1])
        assert shown is not None
        assert (shown.factor, shown.mean) == (found.factor, found.mean)
        assert found.policy is not None
        assert (shown.minimum, shown.margin) == (found.policy.minimum, found.policy.margin)


@published
@pytest.mark.parametrize("folder", [pytest.param(folder, id=folder.parent.name) for folder in RESULTS])
def test_the_factor_that_is_shown_at_the_end(folder: Path) -> None:
    """Fed line by line, the last run of each published v5.1 result ends with the factor of `llama31 rcp`."""
    path = folder / "result_2.txt"
    watch = whole(path)
    found = compare(open_result(find_logs([folder])[0], "5.1.0"))
    said = "\n".join(lines(watch.run, WatchView(others=other_samples(path))))
    assert f"minutes are multiplied by {found.factor:.4f} (mean of 3 runs)" in said


def test_a_run_that_missed_counts_as_the_slowest() -> None:
    """One of three runs may miss the target; the mean is then that of the slower of the others."""
    found = margin(find("llama31_405b"), 1152, 294912, [None, 276480])
    assert found is not None
    assert (found.mean, found.factor) == (294912, 313344 / 294912)
    assert margin(find("llama31_405b"), 1152, 294912, [None, None]) is None


def test_stopping_early_is_said_to_cost(rehearsed: Path) -> None:
    """Before the first evaluation, stopping there is shown to cost a factor of 313344 / 276480 = 1.1333."""
    watch = until(rehearsed / "result_0.txt", "block_start")
    (said,) = (line for line in lines(watch.run, WatchView()) if line.startswith("convergence"))
    assert "276,480 samples if it stops at the next evaluation" in said
    assert "BELOW the smallest accepted mean; minutes would be multiplied by 1.1333" in said


# Findings.


def names(findings: list[Finding] | tuple[Finding, ...]) -> set[str]:
    return {finding.rule for finding in findings}


@pytest.mark.parametrize("name", ["tiny", "405b", "8b"])
def test_no_finding_on_any_prefix_of_a_valid_log(valid: Callable[[str], LogFile], name: str) -> None:
    """No prefix of a valid log has a finding."""
    for _, watch in growing(valid(name).path):
        assert certain(watch.run) == []


@published
@pytest.mark.parametrize("path", [pytest.param(log, id=log.parent.parent.name) for log in V51 if log.stem[-1] == "0"])
def test_findings_of_published_logs_stay(path: Path) -> None:
    """Every finding that is shown during a published run is among those at its end, on the same line."""
    shown = set()
    for number, (_, watch) in enumerate(growing(path)):
        if number % 9 == 0:
            shown |= {(finding.rule, finding.line) for finding in certain(watch.run)}
    assert shown <= {(finding.rule, finding.line) for finding in check_run(watch.run)}


SAMPLES = st.sampled_from([0, 17, 4096, 10**15, 10**300, 10**400, 1e308])
VALUES: st.SearchStrategy[object] = st.sampled_from(
    [None, -1, 0, 1.5, 5.0, 1e300, 10**400, "", "open", "llama31_405b", True, [], {"reduced_train_loss": -1}]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_shown_is_never_taken_back(made_logs: dict[str, Path], data: st.DataObject) -> None:
    """However a log is broken, each rule that is reported on the way is broken at the end."""
    events = LogFile(made_logs["tiny"]).events
    for _ in range(data.draw(st.integers(1, 3))):
        index = data.draw(st.integers(0, len(events) - 1))
        match data.draw(st.sampled_from(["drop", "repeat", "move", "value", "late", "samples"])):
            case "drop":
                del events[index]
            case "repeat":
                events.insert(index, events[index])
            case "move":
                events.insert(data.draw(st.integers(0, len(events) - 1)), events.pop(index))
            case "value":
                events[index] = events[index] | {"value": data.draw(VALUES)}
            case "late":
                events[index] = events[index] | {"time_ms": events[index]["time_ms"] + 10_000_000}
            case "samples":
                metadata = {
                    **events[index]["metadata"],
                    "samples_count": data.draw(SAMPLES),
                }
                events[index] = events[index] | {"metadata": metadata}
    watch, shown = LogFollower(made_logs["tiny"]), set()
    for number, event in enumerate(events):
        watch.feed(f"{TOKEN} {json.dumps(event)}\n".encode())
        if number % 5 == 0:
            shown |= names(certain(watch.run))
    assert shown <= names(check_run(watch.run))
    assert list(lines(watch.run, WatchView()))
    assert list(status(watch.run, WatchView(number=1, runs=3)))


def test_a_wrong_value_is_shown_at_once(log: LogFile) -> None:
    """A wrong hyperparameter is a finding as soon as it is logged, long before the run ends."""
    log.set("opt_gradient_clip_norm", 0.5)
    watch = until(log.save(), "opt_gradient_clip_norm")
    assert names(certain(watch.run)) == {"hyperparameter.opt_gradient_clip_norm"}
    assert not watch.run.has("run_start")


def test_certain_rules_exist() -> None:
    """Every rule that may be shown early exists."""
    from compliance.run import RUN_RULES

    assert set(RUN_RULES.rules) >= CERTAIN


# Files that grow, shrink and change.


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "result_0.txt"


def test_a_line_is_read_when_it_is_complete(file: Path) -> None:
    """Half a line is not read; nothing is read twice; a missing file has no lines."""
    follower = LogFollower(file)
    assert not follower.poll()
    line = text_of("seed")
    file.write_text(f"{line}\n{line[:50]}")
    assert follower.poll()
    assert follower.run.log.counts == {"seed": 1}
    assert not follower.poll()
    with file.open("a") as stream:
        stream.write(f"{line[50:]}\n{line}\n")
    assert follower.poll()
    assert follower.run.log.counts == {"seed": 3}
    assert [kept.line for kept in follower.run.log.events["seed"]] == [1, 2, 3]


def test_a_log_that_is_cut_back_is_read_anew(file: Path) -> None:
    """When a resumed run cuts its log back to the checkpoint, the rest is read again."""
    file.write_bytes(b"one\ntwo\n")
    follower = FileFollower(file)
    follower.poll()
    os.truncate(file, 4)
    assert follower.poll() == (True, b"one\n")


def test_a_log_that_is_replaced_is_read_anew(file: Path) -> None:
    """A rotated log, another file of the same name, is read from its start, whatever its size."""
    file.write_bytes(b"one\n")
    follower = FileFollower(file)
    follower.poll()
    file.rename(file.with_suffix(".old"))
    file.write_bytes(b"another one\nmore\n")
    assert follower.poll() == (True, b"another one\nmore\n")


@pytest.mark.parametrize("length", [MAX_LINE - 1, MAX_LINE, MAX_LINE + 1, 3 * MAX_LINE])
@pytest.mark.parametrize("end", ["\n", ""])
def test_of_a_long_line_watch_says_what_check_says(file: Path, length: int, end: str) -> None:
    """A line that is too long is the same finding of `check` and `watch`, however its pieces arrive."""
    text = text_of("before") + "\n" + text_of("hidden").ljust(length) + end
    file.write_text(text)
    follower = LogFollower(file)
    for start in range(0, len(text), 300_001):
        follower.feed(text[start : start + 300_001].encode())
    found, expected = follower.run.log, load(file)
    assert found.counts["before"] == 1
    assert found.defects == expected.defects
    assert bool(found.defects) == (length >= MAX_LINE)
    assert ("log.long_line" in names(certain(follower.run))) == bool(found.defects)


def test_a_line_without_end_is_passed_over(file: Path) -> None:
    """A line too long to be read is recorded as such without its text, and the next one is read."""
    follower = LogFollower(file)
    for text in (b"x" * MAX_LINE * 2, b"x" * MAX_LINE + b"\n" + text_of("next").encode() + b"\n"):
        with file.open("ab") as stream:
            stream.write(text)
        follower.poll()
    assert [kept.line for kept in follower.run.log.events["next"]] == [2]
    assert follower.run.log.defects == []


def test_followed_to_its_end(rehearsed: Path, file: Path) -> None:
    """A log that is written piece by piece is shown after each piece, until its run has stopped."""
    raw = (rehearsed / "result_0.txt").read_bytes()
    pieces = [raw[: len(raw) // 2], raw[len(raw) // 2 :]]

    def sleep(_seconds: float) -> None:
        with file.open("ab") as stream:
            stream.write(pieces.pop(0) if pieces else b"")

    seen = [
        (look.run.log.counts["eval_accuracy"], look.run.has("run_stop"), look.last)
        for look in follow(file, sleep=sleep)
    ]
    assert seen[0] == (0, False, False)
    assert [last for _, _, last in seen] == [False] * (len(seen) - 1) + [True]
    assert seen[-1][1]


def test_the_last_line_is_waited_for(rehearsed: Path, file: Path) -> None:
    """Lines after run_stop are awaited: a valid log has no finding at its end, however slowly it is written."""
    head, stop, tail = (rehearsed / "result_0.txt").read_bytes().rpartition(b'"run_stop"')
    rest = stop + tail
    end = rest.index(b"\n") + 1
    pieces = [head + rest[:end], rest[end:]]

    def sleep(_seconds: float) -> None:
        with file.open("ab") as stream:
            stream.write(pieces.pop(0) if pieces else b"")

    *_, look = follow(file, sleep=sleep)
    assert look.last
    assert certain(look.run, final=True) == []


def test_a_killed_run_is_not_waited_for(rehearsed: Path, tmp_path: Path) -> None:
    """If run.json calls a run running but none of its processes is left, watching ends and says why."""
    log = tmp_path / "result_0.txt"
    log.write_bytes((rehearsed / "result_0.txt").read_bytes().partition(b'"run_stop"')[0])
    log.with_name("console_0.log").touch()
    recorded = read(rehearsed / "run.json")
    write(tmp_path, recorded.with_experiments([recorded.experiments[0].model_copy(update={"status": RUNNING})]))
    with log.with_name("console_0.log").open("ab") as console:
        hold(console)
        assert not was_killed(log)
    ended = CliRunner().invoke(main, ["watch", str(log)])
    assert (ended.exit_code, ended.output.splitlines()[-1]) == (1, "killed       no process of this run is left")


def test_plain_screen_says_little(rehearsed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A plain screen prints a line every ten seconds, two for each evaluation, and everything at the end."""
    now = 0.0
    screen = PlainScreen(lambda: now)
    evaluations = 0
    for _, watch in growing(rehearsed / "result_0.txt"):
        now += 0.01
        screen.show(watch.run, WatchView())
        evaluations = watch.run.log.counts["eval_accuracy"]
    printed = capsys.readouterr().out.splitlines()
    assert 2 * evaluations <= len(printed) <= 2 * evaluations + 2 + now / 10
    screen.show(watch.run, WatchView(final=True, blocks=PLAIN_BLOCKS), last=True)
    said = capsys.readouterr().out
    assert said.isascii()
    assert said.startswith("success      llama31_405b 6.0.0")


class Terminal(io.StringIO):
    """The part of a terminal that the screen needs: text, and a cursor that goes up and clears what follows."""

    def rows(self) -> list[str]:
        rows, row, column = [""], 0, 0
        for part in re.findall(r"\x1b\[\d*[A-Z]|.|\n", self.getvalue()):
            if part == "\n":
                row, column = row + 1, 0
                rows += [""] * (row + 1 - len(rows))
            elif part == "\r":
                column = 0
            elif part.endswith("A") and part.startswith("\x1b"):
                row -= int(part[2:-1])
            elif part == "\x1b[K":
                rows[row] = rows[row][:column]
            elif part == "\x1b[J":
                rows[row:] = [rows[row][:column]]
            else:
                rows[row], column = rows[row][:column].ljust(column) + part + rows[row][column + 1 :], column + 1
        return rows


def test_what_is_drawn_is_replaced_and_what_is_printed_stays(rehearsed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any width the cursor waits at the first line, other output goes above, everything is printed at the end."""
    terminal, now, columns = Terminal(), 0.0, 80
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr("report.screen._size", lambda _: (columns, 24))
    print("before")  # noqa: T201
    run = until(rehearsed / "result_0.txt", "eval_start").run
    with DrawnScreen(status, lambda: now) as screen:
        for columns in (80, 60, 200):
            now += 1
            screen.show(run, WatchView())
            assert terminal.getvalue().endswith("\x1b[J\r\x1b[1A")
            rows = terminal.rows()
            assert [row.split()[0] for row in rows] == ["before", "evaluating", "loss"]
            assert max(map(len, rows)) < columns
        print("between")  # noqa: T201
        now += 1
        screen.show(run, WatchView())
        assert [row.split()[0] for row in terminal.rows()] == ["before", "between", "evaluating", "loss"]
        screen.show(run, WatchView(), last=True)
    print("after")  # noqa: T201
    last = ["SIMULATED", "progress", "loss", "ETA", "convergence", "step"]
    rows = [row.split()[0] for row in terminal.rows() if row.strip() and not row.startswith(" ")]
    assert rows == ["before", "between", "evaluating", *last, "after"]


def test_a_display_that_fails_ends_no_run(rehearsed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A failing display is reported once, shows nothing from then on, and does not end the run."""

    class Broken(PlainScreen):
        def show(self, run: Run, view: WatchView, *, last: bool = False) -> None:
            raise ZeroDivisionError("a step of no time")

    watch = whole(rehearsed / "result_0.txt")
    with Onlooker(Broken()) as shown:
        for last in (False, True):
            shown.show(watch.run, WatchView(), last=last)
    assert capsys.readouterr().out == "display   given up: ZeroDivisionError: a step of no time\n"


def test_a_terminal_that_is_gone_ends_no_run(rehearsed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that is gone, which cannot even show the failure, does not end the run."""

    def gone(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(click, "echo", gone)
    with Onlooker(PlainScreen()) as shown:
        shown.show(whole(rehearsed / "result_0.txt").run, WatchView(), last=True)


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ([], ""),
        ([1.05, 1.0], ""),
        ([1.31, 1.05], "rank 7 on n2, 31% over the median"),
        ([1.5, 1.2, 1.2, 1.0], "rank 7 on n2, 50% over the median, 2 more"),
    ],
)
def test_a_rank_far_slower_than_others_is_named(ratios: list[float], said: str, rehearsed: Path) -> None:
    """A rank that is a tenth slower or more is named with its node, until the run is over."""
    watch = until(rehearsed / "result_0.txt", "eval_start")
    slowest = [{"rank": 7 - index, "node": "n2", "ratio": ratio} for index, ratio in enumerate(ratios)]
    event = json.loads((rehearsed / "result_0.txt").read_text(encoding="utf-8").splitlines()[-1].partition(TOKEN)[2])
    event |= {"key": "tracked_stats", "value": {"slowest_ranks": slowest}}
    watch.feed(f"{TOKEN} {json.dumps(event)}\n".encode())
    _, curve = status(watch.run, WatchView(width=160))
    assert said in curve
    assert ("over the median" in curve) is bool(said)


def test_checkpoints_that_are_missing_are_said(rehearsed: Path) -> None:
    """The latest failed save or damaged checkpoint is shown with the number of earlier ones, even of a hostile log."""
    watch = LogFollower(rehearsed / "result_0.txt")
    watch.poll()
    said: tuple[object, ...] = (
        {"save_failed": "no room"},
        {"damaged": ["step_8 is damaged: x", 7]},
        {"save_failed": {}},
    )
    for value in said:
        watch.feed(text_of("tracked_stats", value=value).encode() + b"\n")
    assert "checkpoint   step_8 is damaged: x; 1 before" in list(lines(watch.run, WatchView()))


@pytest.mark.parametrize(
    ("width", "head", "end"),
    [
        (199, "evaluating   ETA 0:06:10  run 2 of 3, all 0:57:21  step 240 of 272", "▁▁ 5.717  942,272 tokens/s"),
        (79, "evaluating   ETA 0:06:10  run 2 of 3, all 0:57:21  step 240 of 272", "▁▁ 5.717  942,272 tokens/s"),
        (59, "evaluating   ETA 0:06:10  run 2 of 3, all 0:57:21", "▁▁ 5.717  942,272 tokens/s"),
        (40, "evaluating   ETA 0:06:10", "▁▁ 5.717"),
    ],
)
def test_two_lines_hold_what_people_ask_for(rehearsed: Path, width: int, head: str, end: str) -> None:
    """Two lines show the ETAs of run and set, the step, the losses and the speed: as much as fits, the ETA first."""
    run = until(rehearsed / "result_0.txt", "eval_start").run
    first, second = status(run, WatchView(width=width, number=2, runs=3))
    assert first == head
    assert second.startswith("loss         7.751 █")
    assert second.endswith(end)
    assert len(second) <= width


def test_an_evaluation_is_shown_before_the_speed(rehearsed: Path) -> None:
    """Where there is room for one value, the latest evaluation and its target go before the speed."""
    _, curve = status(until(rehearsed / "result_0.txt", "eval_stop").run, WatchView(width=69))
    assert re.fullmatch(r"loss         7\.751 \S{8,} 5\.717  eval 5\.\d{4} \(target 5\.6\)", curve)


def test_an_eta_is_always_there(rehearsed: Path) -> None:
    """An ETA is shown from the start: by the runs that are over, or what it waits for; silence shortens it."""
    nothing, start = LogFollower(Path("none")).run, until(rehearsed / "result_0.txt", "init_start").run
    assert list(status(nothing, WatchView())) == ["starting     ETA after step 1"]
    view = WatchView(usual=600.0, number=2, runs=3, quiet=100.0)
    assert list(status(start, view)) == ["initialising ETA 0:08:20  run 2 of 3, all 0:18:20  quiet for 0:01:40"]
    for _, watch in growing(rehearsed / "result_0.txt"):
        head = next(status(watch.run, WatchView()))
        assert " ETA " in head or watch.run.has("run_stop")


def test_a_run_is_one_of_its_set() -> None:
    """run.json gives a run's number in its set, and the time of the runs that reached the target."""
    experiments = [Experiment(result=f"result_{run}.txt", seed=run) for run in range(4)]
    experiments[0] = experiments[0].model_copy(update={"status": "success", "minutes": 2.0})
    experiments[1] = experiments[1].model_copy(update={"status": "aborted", "minutes": 1.0})
    view = in_set(experiments, "result_2.txt")
    assert (view.number, view.runs, view.usual) == (3, 4, 120.0)
    assert in_set(experiments, "copy.txt") == WatchView()


def test_resuming_ends_with_the_first_new_step(rehearsed: Path) -> None:
    """A run is resuming from the start of its processes until its first step, whatever its log holds from before."""
    log = LogFile(rehearsed / "result_0.txt")
    step = next(event for event in log.events if "reduced_train_loss" in str(event["value"]))
    resumed = step | {"value": {"resumed": True, "recomputed_steps": 3, "outage": 1.0}}
    watch = until(log.path, "block_start")
    assert next(status(watch.run, WatchView(resuming=True))).startswith("resuming     ETA ")
    phases = []
    for event in (step, resumed, step):
        watch.feed(f"{TOKEN} {json.dumps(event)}\n".encode())
        phases.append(phase(watch.run))
    assert phases == ["training", "resuming", "training"]
    killed = until(log.path, "run_stop").run
    assert next(status(killed, WatchView(resuming=True))).startswith("resuming     ETA ")
    assert next(status(killed, WatchView())).startswith("success      step ")


def test_command(rehearsed: Path) -> None:
    """`watch --once` shows where a log stands and exits 0 if nothing is wrong."""
    done = CliRunner().invoke(main, ["watch", "--once", str(rehearsed / "result_0.txt")])
    assert done.exit_code == 0, done.output
    assert done.output.startswith(
        "success      llama31_405b 6.0.0 (from run.json), batch size 1152  result_0.txt  run 1 of 3\n"
    )
    assert "multiplied by" in done.output


def test_the_newest_log_of_a_folder_is_watched(rehearsed: Path, tmp_path: Path) -> None:
    """Of a folder, the log of the current run is watched, else the latest; without a log there is one clear error."""
    runs = tmp_path / "logs" / "tiny" / "20261129T000000Z"
    shutil.copytree(rehearsed, runs)
    for number in range(3):
        os.utime(runs / f"result_{number}.txt", (number, number))
    assert newest_log(tmp_path / "logs") == runs / "result_2.txt"
    text = (runs / "result_1.txt").read_bytes()
    (runs / "result_1.txt").write_bytes(text[: text.index(b'"run_stop"')])
    os.utime(runs / "result_1.txt", (1, 1))
    assert newest_log(runs) == runs / "result_1.txt"
    empty = tmp_path / "empty"
    empty.mkdir()
    done = CliRunner().invoke(main, ["watch", str(empty)])
    assert (done.exit_code, done.output) == (2, f"error: {empty} has no log: no file result_*.txt in it or below it\n")


@pytest.mark.parametrize("cut", [1, 20])
def test_an_unterminated_last_line_is_judged_as_check_judges_it(rehearsed: Path, file: Path, cut: int) -> None:
    """`--once` reads an unterminated last line as `check` does: a whole event counts, a truncated one is a finding."""
    file.write_bytes((rehearsed / "result_0.txt").read_bytes()[:-cut])
    (look,) = follow(file, once=True)
    checked = load(file)
    assert look.run.log.counts == checked.counts
    assert look.run.log.defects == checked.defects
    assert bool(checked.defects) == (cut > 1)


def test_on_a_terminal(rehearsed: Path) -> None:
    """A terminal shows everything when the run is over."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "harness", "watch", str(rehearsed / "result_0.txt")]
    terminal = os.environ | {"TERM": "xterm", "COLUMNS": "200", "LINES": "40"}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, cwd=ROOT, env=terminal) as process:
        os.close(theirs)
        drawn = b""
        # A terminal whose other side is closed is an error on Linux, not an end of file.
        with contextlib.suppress(OSError):
            while read := os.read(ours, 1 << 16):
                drawn += read
        assert process.wait() == 0, drawn.decode()
    os.close(ours)
    assert b"success      llama31_405b 6.0.0" in drawn
    assert "▁".encode() in drawn


def test_command_fails_on_a_broken_log(log: LogFile) -> None:
    """A broken rule exits 1, a missing log 2."""
    log.set("opt_gradient_clip_norm", 0.5)
    done = CliRunner().invoke(main, ["watch", "--once", str(log.save())])
    assert (done.exit_code, "opt_gradient_clip_norm" in done.output) == (1, True)


@pytest.mark.parametrize("options", [[], ["--once"]])
def test_command_refuses_what_is_no_file(file: Path, options: list[str]) -> None:
    """A missing log, a pipe and a device exit 2 with one line instead of waiting forever."""
    os.mkfifo(file)
    for path in (file, file.with_name("missing"), "/dev/zero"):
        done = CliRunner().invoke(main, ["watch", *options, str(path)])
        assert (done.exit_code, done.output.count("\n")) == (2, 1)


def test_command_says_what_is_wrong_with_a_run_that_is_on(log: LogFile) -> None:
    """`watch --once` shows what is wrong with a run that is not over."""
    log.set("opt_gradient_clip_norm", 0.5)
    del log.events[log.indices("run_stop")[0] :]
    done = CliRunner().invoke(main, ["watch", "--once", str(log.save())])
    assert (done.exit_code, "opt_gradient_clip_norm" in done.output) == (1, True)
    assert "event.missing" not in done.output


def test_command_ends_quietly_when_interrupted(log: LogFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends it silently, with the status of an interrupt."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("report.follow.follow", interrupted)
    done = CliRunner().invoke(main, ["watch", str(log.path)])
    assert (done.exit_code, done.output) == (130, "")


def test_hostile_log_reaches_no_terminal(log: LogFile) -> None:
    """Control characters of a log are escaped on the terminal, and numbers of any size are accepted."""
    log.set("run_stop", None)
    log.get("run_stop")["metadata"]["status"] = "\x1b[2J"
    for event in log.events:
        if event["key"] == "tracked_stats" and "train_step_time" in event["value"]:
            event["metadata"]["samples_count"] = 10**300
    done = CliRunner().invoke(main, ["watch", "--once", str(log.save())])
    assert "\x1b" not in done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
