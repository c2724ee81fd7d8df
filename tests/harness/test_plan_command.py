"""`llama31 plan`, as a user types it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click import ClickException
from click.testing import CliRunner, Result

from benchmark.checkout import ROOT
from benchmark.config import config_files, resolve, source_config
from benchmark.hardware import GPUS, gpu_of_system
from harness.__main__ import main
from harness.plan import memory
from harness.plan.planner import plan
from report import vega

GB200 = ROOT / "configs" / "config_GB200_128x4x144xtp4pp8cp2.sh"
H100 = ROOT / "configs" / "config_DGXH100_64x8x288xtp8pp8cp2.sh"


@pytest.fixture
def h100_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment for 512 H100 in bf16, without the settings with which its config makes room."""
    for name, value in source_config(H100).items():
        if not name.startswith(("GRAD_", "FP8_")):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("PRECISION", "bf16")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["plan", *map(str, arguments)])


def values(*arguments: object) -> dict[str, Any]:
    return json.loads(invoke(*arguments, "--json").stdout)


def test_every_config_with_a_gpu_fits(subtests: pytest.Subtests) -> None:
    """Each config of the repository fits and has a step and outcomes, and its WALLTIME is long enough."""
    for path in (path for path in config_files() if gpu_of_system(path.stem)):
        with subtests.test(path.stem):
            done = invoke(path)
            assert done.exit_code == 0, done.output
            assert "give or take" in done.stdout
            (asked,) = re.findall(r"Ask for WALLTIME=(\d+):", done.stdout)
            assert (resolve(path).config.job.walltime or 0) >= int(asked)


def test_text_and_values_say_the_same() -> None:
    """A number in the text is the number of --json."""
    text, found = invoke(GB200, "--precision", "nvfp4").stdout, values(GB200, "--precision", "nvfp4")
    assert f"Step {found['step']['seconds']:.2f} s" in text
    for outcome in found["outcomes"]:
        assert f"{outcome['samples']:,}" in text
        assert f"{outcome['minutes']:.1f}" in text
    assert sum(found["step"]["parts"].values()) == pytest.approx(found["step"]["seconds"])
    assert len(found["memory"]["stages"]) == 8


@pytest.mark.parametrize(("gpu", "gain"), [("GB200", 1.54), ("GB300", 1.79)])
def test_nvfp4_says_what_it_takes_without_a_graph(gpu: str, gain: float) -> None:
    """The constants are for runs with a graph of the whole iteration; this trainer's times are given too."""
    path = ROOT / "configs" / {"GB200": GB200.name, "GB300": "config_GB300_128x4x72xtp2pp8cp2.sh"}[gpu]
    text, found = invoke(path, "--precision", "nvfp4").stdout, values(path, "--precision", "nvfp4")
    without = found["without_graph"]
    assert without["step_seconds"] == pytest.approx(gain * found["step"]["seconds"])
    for slow, fast in zip(without["minutes"], found["outcomes"], strict=True):
        assert 1 < slow / fast["minutes"] <= gain
    assert "That is with a CUDA graph of the whole iteration" in text
    assert f"Without the graph: {without['step_seconds']:.2f} s a step, {gain} times as long" in text
    assert found["walltime_minutes"] >= without["minutes"][-1]
    search = ("--gpu", gpu, "--gpus", "512", "--precision", "nvfp4", "--top", "1")
    assert f"without FULL_CUDA_GRAPH=True a step takes {gain} times as long." in invoke(*search).stdout
    assert values(*search)["graph_gain"] == gain


def test_fp8_is_the_same_without_a_graph() -> None:
    """No gain was published for fp8, and nothing is said of graphs."""
    assert values(GB200, "--precision", "fp8")["without_graph"] is None
    assert "graph" not in invoke(GB200, "--precision", "fp8").stdout


@pytest.mark.usefixtures("h100_in_bf16")
def test_what_does_not_fit_is_told_what_would() -> None:
    """405B in bf16 with fp32 gradients is too large for 512 H100; every remedy that is named makes it fit."""
    done = invoke()
    assert done.exit_code == 1
    assert "Does not fit: stage 1 allocates" in done.stdout
    found = values()["memory"]
    remedies = found["remedies"]
    assert {"GRAD_REDUCE_IN_FP32": "False"} in [remedy["change"] for remedy in remedies]
    assert remedies == sorted(remedies, key=lambda remedy: remedy["step"])
    assert "layernorm" not in done.stdout
    assert all(remedy["total"] < found["capacity"] for remedy in remedies)


@pytest.mark.usefixtures("h100_in_bf16")
def test_a_remedy_is_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exported, a remedy makes the configuration fit."""
    monkeypatch.setenv("GRAD_REDUCE_IN_FP32", "False")
    assert invoke().exit_code == 0


def test_a_gpu_that_was_never_measured_is_labelled() -> None:
    """For B200 in bf16, which nobody published, the plan has a wide band and the label."""
    done = invoke(ROOT / "configs" / "config_DGXB200_32x8x144xtp4pp8cp2.sh", "--precision", "bf16")
    assert "UNCALIBRATED: no step of B200 in bf16 training 405b was measured" in done.stdout
    assert "give or take 30%" in done.stdout


def test_a_search_writes_a_config_that_is_planned_alike(tmp_path: Path) -> None:
    """The first layout of a search, written and planned, takes the step that the search promised."""
    search = ["--gpu", "GB300", "--gpus", "512", "--precision", "nvfp4"]
    first = values(*search)["layouts"][0]
    done = invoke(*search, "--write", tmp_path)
    assert done.exit_code == 0, done.output
    (path,) = tmp_path.glob("config_GB300_*.sh")
    assert values(path)["step"]["seconds"] == pytest.approx(first["step_seconds"])
    made = plan(resolve(path).config, _shipped())
    assert made.config.job.walltime == made.walltime
    with pytest.raises(ClickException, match="cannot be written: File exists"):
        main(["plan", *search, "--write", str(tmp_path)], standalone_mode=False)


def test_a_search_says_why_each_row_is_where_it_is() -> None:
    """Text and values have memory, the parts of the minutes, and which rows are too close to rank."""
    search = ["--gpu", "GB200", "--gpus", "1536", "--precision", "fp8"]
    lines, found = invoke(*search).stdout.splitlines(), values(*search)
    assert lines[1].split()[-8:] == ["=", "compute", "+", "transfers", "+", "bubble", "+", "once"]
    for line, layout in zip(lines[2:], found["layouts"], strict=False):
        assert line.split()[-4:] == [f"{minutes:.2f}" for minutes in layout["minutes_by_kind"].values()]
    first = found["layouts"][0]["minutes"]
    close = sum(layout["minutes"] <= first * (1 + found["spread"]) for layout in found["layouts"])
    assert any(line.startswith(f"Rows 1 to {close} differ by less than") for line in lines)


EIGHT = ("--gpu", "H100", "--benchmark", "llama31_8b")
"""A search of the smaller model, which takes less time."""


def test_several_numbers_of_gpus_are_a_row_each() -> None:
    """Each has its fastest layout and its efficiency in GPU-hours, the same in text and values."""
    text, found = invoke(*EIGHT, "--gpus", "64,8").stdout.splitlines(), values(*EIGHT, "--gpus", "8,64")["counts"]
    alone = [values(*EIGHT, "--gpus", gpus, "--top", "1")["layouts"][0] for gpus in ("8", "64")]
    assert [each["layouts"] for each in found] == [[layout] for layout in alone]
    assert found[1]["efficiency"] == pytest.approx(alone[0]["minutes"] / alone[1]["minutes"] / 8)
    assert [line.split()[0] for line in text[2:4]] == ["8", "64"]
    assert [line.split()[-1] for line in text[2:4]] == ["100.0%", f"{found[1]['efficiency']:.1%}"]


def test_memory_of_graphs_is_not_counted_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    """With CUDA graphs the plan names the command that counts their pools; without, it has no such line."""
    assert "pools" not in invoke(GB200).stdout
    monkeypatch.setenv("FULL_CUDA_GRAPH", "True")
    assert "  llama31 dryrun CONFIG --microbatches 144\n" in invoke(GB200).stdout


def test_a_number_that_nothing_fits_on_is_a_row_that_says_what_would(tmp_path: Path) -> None:
    """It names the nearest numbers that fit; other rows are listed and written. Exit status 1."""
    done = invoke(*EIGHT, "--gpus", "3,8,56", "--write", tmp_path)
    assert done.exit_code == 1
    assert "      3   no layout fits; what would: 4 GPUs, " in done.stdout
    assert "     56   no layout fits; what would: 48 GPUs, " in done.stdout
    assert "; 64 GPUs, " in done.stdout
    assert len(list(tmp_path.iterdir())) == 1


def test_a_search_that_finds_nothing_says_what_would_fit() -> None:
    """Text and values have the memory that the nearest miss lacks, and how many GPUs would do."""
    done, found = invoke(*EIGHT, "--gpus", "2"), values(*EIGHT, "--gpus", "2")
    assert (done.exit_code, found["layouts"]) == (1, [])
    assert re.search(r"of 79\.6 GiB, [\d.]+ missing\n", done.stdout)
    (other,) = found["instead"]
    (best,) = other["layouts"]
    assert (other["what"], best["memory"] < GPUS["H100"].memory) == ("4 GPUs", True)
    assert f"What would fit:\n  4 GPUs, {best['minutes']:,.0f} minutes at " in done.stdout


def test_the_fewest_gpus_for_so_many_minutes(tmp_path: Path) -> None:
    """Their layouts equal those of a search on that number, also when started from a config."""
    done = invoke(*EIGHT, "--minutes", "100", "--top", "1", "--write", tmp_path)
    assert done.exit_code == 0, done.output
    assert "32 H100 (4 nodes) are the fewest that reach the target in 100 minutes:\n" in done.stdout
    (config,) = tmp_path.iterdir()
    found = values(config, "--minutes", "200")
    assert found["gpus"] == 16
    assert found["layouts"][0]["minutes"] < 200


def test_minutes_that_no_number_of_gpus_reaches() -> None:
    """The answer names the fastest number there is, with exit status 1."""
    done = invoke(*EIGHT, "--minutes", "2")
    assert (done.exit_code, done.stdout) == (1, "")
    assert re.match(
        r"error: no number of H100 .* in 2 minutes in bf16: the fastest layout takes [\d.]+ on", done.stderr
    )


def test_the_fewest_without_a_graph_say_so() -> None:
    """In nvfp4 this trainer needs longer than 405B's constants say; 8B's are for graphs that it has."""
    search = ("--gpu", "GB300", "--precision", "nvfp4", "--minutes", "60")
    found = values(*search)
    slow = found["graph_gain"] * found["layouts"][0]["minutes"]
    assert f"{slow:.1f} without a CUDA graph of the whole iteration" in invoke(*search).stdout
    assert values(*search, "--benchmark", "llama31_8b")["graph_gain"] is None


def _shipped() -> Any:
    from harness.plan.calibration import load

    return load()


def test_a_config_can_be_searched_from() -> None:
    """--search keeps what the file says but for the layout, whatever the file's name states."""
    found = values(GB200, "--search", "--precision", "nvfp4", "--top", 3)
    assert [layout["variables"]["DGXNNODES"] for layout in found["layouts"]] == ["128"] * 3
    assert found["layouts"][0]["variables"]["BENCHMARK"] == "llama31_405b"


SVG = "{http://www.w3.org/2000/svg}"
draws = pytest.mark.skipif(not vega.available(), reason=f"draws: {vega.EXTRA}")


def words(picture: Path) -> set[str]:
    return {text.text or "" for text in ElementTree.parse(picture).iter(f"{SVG}text")}


@draws
def test_the_picture_is_an_image(tmp_path: Path) -> None:
    """Well-formed SVG with a bar for each part of each stage's memory and of the step."""
    invoke(GB200, "--picture", tmp_path / "plan.svg")
    paths = ElementTree.parse(tmp_path / "plan.svg").iter(f"{SVG}path")
    assert sum(path.get("aria-roledescription") == "bar" for path in paths) == 8 * len(memory.PARTS) + 12


@draws
def test_the_picture_in_the_documentation_is_the_current_one(tmp_path: Path) -> None:
    """docs/plan.svg is what the command at the top of docs/plan.md draws (python -m docs.pictures makes it)."""
    invoke(GB200, "--precision", "nvfp4", "--picture", tmp_path / "plan.svg")
    assert words(tmp_path / "plan.svg") == words(ROOT / "docs" / "plan.svg")


def test_without_the_libraries_there_is_no_picture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One line says how to install them."""
    monkeypatch.setattr(vega, "available", lambda: False)
    done = CliRunner().invoke(main, ["plan", "layout", str(GB200), "--picture", str(tmp_path / "plan.svg")])
    assert (done.exit_code, vega.EXTRA in done.output) == (2, True)


def test_own_logs_make_own_constants(tmp_path: Path) -> None:
    """Constants fitted to logs of runs at 21 seconds a step plan 21 seconds a step."""
    logs, mine = tmp_path / "logs", tmp_path / "mine.json"
    rehearsed = CliRunner().invoke(main, ["simulate", str(GB200), "--out", str(logs), "--step-seconds", "21"])
    assert rehearsed.exit_code == 0, rehearsed.output
    done = invoke("calibrate", logs, "--out", mine)
    assert done.exit_code == 0, done.output
    found = values(GB200, "--calibration", mine)
    assert found["step"]["seconds"] == pytest.approx(21, rel=0.02)
    assert found["software"] == "own mlperf"
    # The rehearsal's evaluations take 30 s.
    assert found["evaluation_seconds"] == pytest.approx(30, rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "A100", "--gpus", "8"], "'A100' is not one of 'H100', 'H200', 'B200', 'B300', 'GB200', 'GB300'"),
        (["--gpu", "H100", "--gpus", "12"], "--gpus 12 is not a multiple of the 8 GPUs of a node; 8 and 16 are"),
        (["--gpu", "H100", "--gpus", "8,"], "'8,': expected numbers of GPUs such as 512 or 256,512,1024"),
        (["--minutes", "60"], "--minutes needs --gpu or FILE"),
        (["--gpu", "H100", "--gpus", "8", "--minutes", "60"], "--minutes finds the number of GPUs that --gpus gives"),
        (["--gpus", "8"], "--gpus needs --gpu"),
        ([str(GB200), "--gpus", "8", "--gpu", "H100"], "--gpus and FILE both give the number of GPUs"),
        ([str(GB200), "--write"], "--write needs a search"),
        (["--gpu", "H100", "--gpus", "512", "--write", ".", "--quantised-weights"], "leave --quantised-weights out"),
        ([str(GB200), "--precision", "fp6"], "'fp6' is not one of 'bf16', 'fp8', 'mxfp8', 'nvfp4'"),
        ([str(H100), "--precision", "nvfp4"], "H100 has no matrix products in nvfp4; it has: bf16, fp8"),
        ([str(ROOT / "config_tiny.sh")], "DGXSYSTEM=tiny names no GPU"),
        ([str(GB200), "--picture", "/nowhere/plan.svg"], "/nowhere/plan.svg cannot be written: No such file"),
        (["--gpu", "GB200", "--gpus", "512", "--write", "/nowhere"], "cannot be written: No such file"),
        (["calibrate", "no.csv"], "No such file"),
        (["calibrate", str(ROOT / "docs")], "holds no result_*.txt"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_bad_input_gets_one_clear_error(arguments: list[str], message: str) -> None:
    """The error has what was asked for, and the valid choices."""
    with pytest.raises(ClickException) as error:
        main(["plan", *arguments], standalone_mode=False)
    assert message in str(error.value)


def test_a_log_of_another_batch_is_refused(tmp_path: Path) -> None:
    """Constants are not fitted to a run that differs from its configuration."""
    logs = tmp_path / "logs"
    CliRunner().invoke(main, ["simulate", str(GB200), "--out", str(logs)])
    other = str(ROOT / "configs" / "config_DGXB200_32x8x144xtp4pp8cp2.sh")
    with pytest.raises(ClickException, match="logs global_batch_size 1152, but its configuration has 576"):
        main(["plan", "calibrate", str(logs), "--config", other], standalone_mode=False)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("Z80,8,bf16,1,1,1,1,1,1,2,x", "gpu is 'Z80', expected one of H100, H200, B200, B300, GB200, GB300"),
        ("H100,8,bf16,8,1,1,1,1,1,2,", "expected a round (v5.0, v5.1, v6.0, own) or the source of a recipe"),
        ("H100", "expected a round"),
        ("H100,8,bf16,4,4,1,1,1,1,2,x", "8 GPUs are not a multiple of tp x pp x cp = 16"),
        ("H100,40,bf16,8,5,5,1,1,5,2,x", "pp x vp = 25 divides neither 126 layers nor 126 + 2"),
        ("H100,8,nvfp4,8,1,1,1,1,1,2,x", "H100 has no matrix products in 'nvfp4'"),
        ("H100,8,bf16,8,1,1,1,0,1,2,x", "a count is below 1"),
        ("H100,8,bf16,8,1,1,1,1,1,nan,x", "expected seconds above 0, read 'nan'"),
        ("H100,8,bf16,8,1,1,1,1,1,,x", "could not convert string to float"),
    ],
)
def test_a_broken_table_is_refused(row: str, message: str, tmp_path: Path) -> None:
    """The error names the line and what is wrong in it."""
    table = tmp_path / "steps.csv"
    table.write_text(f"gpu,gpus,precision,tp,pp,vp,cp,mbs,microbatches,step_s,source\n{row}\n", encoding="utf-8")
    with pytest.raises(ClickException, match=re.escape("steps.csv, line 2: ") + ".*" + re.escape(message)):
        main(["plan", "calibrate", str(table)], standalone_mode=False)


def own_table(path: Path, step: float, **columns: str) -> Path:
    """One step of 512 GB200, as a user writes it down."""
    row = {
        "gpu": "GB200",
        "gpus": "512",
        "precision": "fp8",
        "tp": "4",
        "pp": "8",
        "vp": "8",
        "cp": "2",
        "mbs": "1",
        "microbatches": "144",
        "step_median_s": str(step),
        "round": "own",
        **columns,
    }
    path.write_text(f"{','.join(row)}\n{','.join(row.values())}\n", encoding="utf-8")
    return path


def test_own_steps_in_a_table_are_preferred(tmp_path: Path) -> None:
    """With round=own, a plan for that GPU and precision uses the user's software and measured step."""
    mine = tmp_path / "mine.json"
    done = invoke("calibrate", own_table(tmp_path / "steps.csv", 30.0), "--out", mine)
    assert done.exit_code == 0, done.output
    found = values(GB200, "--precision", "fp8", "--quantised-weights", "--calibration", mine)
    assert found["step"]["seconds"] == pytest.approx(30, rel=0.02)
    assert found["software"] == "own mlperf"
    assert values(GB200, "--precision", "bf16", "--calibration", mine)["software"] == "v5.0 recipe"


def test_whole_runs_of_ones_own_give_their_pace(tmp_path: Path) -> None:
    """Evaluations and start-up are learnt from the user's own runs, by the latest rules."""
    whole = {"eval_s_median": "100", "run_minutes": "260;262", "steps": "240;240"}
    done = invoke("calibrate", own_table(tmp_path / "steps.csv", 60.0, **whole))
    assert done.exit_code == 0, done.output
    # The first evaluation is after 240 steps: with it they take 14,500 s of the runs' 15,600 and 15,720.
    assert json.loads(done.stdout)["sizes"]["405b"]["start"] == 1160.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"round": "v4.1"}, "round is 'v4.1', expected one of v5.0, v5.1, v6.0, own"),
        ({"eval_s_median": "100"}, "a column 'run_minutes' is needed"),
    ],
)
def test_a_table_of_ones_own_that_lacks_something(change: dict[str, str], message: str, tmp_path: Path) -> None:
    """The error names the line and the missing value."""
    with pytest.raises(ClickException, match=f"line 2: {message}"):
        main(["plan", "calibrate", str(own_table(tmp_path / "steps.csv", 60.0, **change))], standalone_mode=False)


def test_a_table_without_needed_columns_names_them(tmp_path: Path) -> None:
    """The error names all missing columns, including alternatives."""
    table = tmp_path / "steps.csv"
    table.write_text("gpu,gpus,precision,tp,pp,vp,mbs\nH100,8,bf16,8,1,1,1\n", encoding="utf-8")
    with pytest.raises(
        ClickException, match="also needs the columns cp, microbatches or gbs, step_median_s or step_s, round or"
    ):
        main(["plan", "calibrate", str(table)], standalone_mode=False)


def test_the_columns_of_a_table_are_documented() -> None:
    """The help and docs/plan.md have every column that is read, and the values of `round`."""
    from harness.plan.measured import COLUMNS, INSTEAD, OPTIONAL, ROUNDS, SECONDS

    assert "plan calibrate --help" in invoke("--help").stdout
    for text in (invoke("calibrate", "--help").stdout, (ROOT / "docs" / "plan.md").read_text()):
        words = {word.rstrip(".") for word in re.findall(r"[\w.]+", text)}
        instead = {name for names in INSTEAD.values() for name in names}
        assert {*COLUMNS, *OPTIONAL, *SECONDS, *ROUNDS, *instead, "round", "source"} <= words


def test_a_table_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """The error names the file."""
    table = tmp_path / "steps.csv"
    table.write_bytes(b"gpu,\xff")
    with pytest.raises(ClickException, match=r"steps\.csv: expected a table: 'utf-8' codec can't decode"):
        main(["plan", "calibrate", str(table)], standalone_mode=False)


def test_exit_status_and_no_traceback() -> None:
    """Bad input ends the process with status 2 and one line."""
    done = subprocess.run(
        [sys.executable, "-m", "harness", "plan", "no_such.sh"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: config file no_such.sh does not exist")
