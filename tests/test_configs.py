"""Every config of the repository: it sources, is named after what it holds, passes preflight and can be rehearsed."""

from __future__ import annotations

import csv
import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmark.__main__ import main
from benchmark.config import NAMES, ROOT, ConfigError, RunConfig, config_files, source_config
from benchmark.config_new import new_config
from benchmark.resolve import resolve
from benchmark.simulate import Pace, VirtualClock, simulate
from compliance.check import check_paths
from compliance.findings import Severity
from compliance.preflight import check_plan, make_plan
from tests.fakes import EPOCH
from tests.official import accepts_directories, accepts_log, accepts_seeds

ALL = pytest.mark.parametrize("path", config_files(), ids=lambda path: path.stem)
OFFICIAL = [path for path in config_files() if resolve(path).config.benchmark_row.submittable]
SHAPED = [path for path in OFFICIAL if path.name != "config_DGX.sh"]
"""All but the template, whose name has no content to state."""
ONE_OF_EACH_BATCH_SIZE = list(
    {(config.rules, config.global_batch_size): config for path in OFFICIAL if (config := resolve(path).config)}.values()
)
PUBLISHED = ROOT.parent / "shared" / "published" / "llama31_405b_runs.csv"


@ALL
def test_config_describes_a_run_of_its_name(path: Path) -> None:
    """A config exports a possible run, nothing that is not ours, and its own name."""
    config = RunConfig.from_environment(source_config(path), complete=True)
    assert path.name == f"config_{config.system}.sh"


@pytest.mark.parametrize("path", SHAPED, ids=lambda path: path.stem)
def test_name_states_the_content(path: Path) -> None:
    """The name of a config states nodes, GPUs, batch and layout."""
    config = resolve(path).config
    layout = f"tp{config.tensor_model_parallel}pp{config.pipeline_model_parallel}cp{config.context_parallel}"
    stated = f"_{config.nodes}x{config.gpus_per_node}x{config.minibatch}x{layout}"
    assert path.stem.endswith(stated) or f"{stated}_" in path.stem


@ALL
def test_config_sourced_by_hand_is_the_same_run(path: Path, tmp_path: Path) -> None:
    """`source config_X.sh` in a strict shell, from any folder, gives the run that naming the file gives."""
    script = f'set -euo pipefail; source "{path}"; exec env -0'
    text = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    exported = dict(entry.split("=", 1) for entry in text.split("\0") if entry)
    ours = {name: value for name, value in exported.items() if name in NAMES}
    by_hand, by_file = (resolve(file, environment).config for file, environment in ((None, ours), (path, os.environ)))
    unnamed = {"config_filename": ""}
    assert by_hand.model_copy(update=unnamed) == by_file.model_copy(update=unnamed)


@pytest.mark.parametrize("path", OFFICIAL, ids=lambda path: path.stem)
def test_config_sourced_by_hand_names_its_file(path: Path) -> None:
    """The log names the config file, however it was read: ruleset 6.1.0 asks for it."""
    assert source_config(path)["CONFIG_FILENAME"] == path.name


@ALL
def test_config_passes_preflight(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With data and a place for results, no config breaks a rule."""
    monkeypatch.setenv("DATADIR", str(tmp_path))
    monkeypatch.setenv("LOGDIR", str(tmp_path))
    assert [f for f in check_plan(make_plan(path)) if f.severity is Severity.ERROR] == []


def rehearsed(config: RunConfig, folder: Path) -> list[Path]:
    """The logs of three runs, in a new folder."""
    folder.mkdir()
    logs = [folder / f"result_{seed}.txt" for seed in range(3)]
    for seed, log in enumerate(logs):
        simulate(config.for_experiment(seed=seed, result_file=log), VirtualClock(EPOCH), Pace())
    return logs


@ALL
def test_a_rehearsal_passes(path: Path, tmp_path: Path) -> None:
    """Three rehearsed runs pass the checks that end a job."""
    config = resolve(path).config
    report = check_paths(rehearsed(config, tmp_path / "logs"), config.rules.ruleset)
    assert report.passed, report.findings


def test_the_official_checkers_accept_a_rehearsal(tmp_path: Path) -> None:
    """Of each batch size that a config has."""
    sets = {tmp_path / str(index): config for index, config in enumerate(ONE_OF_EACH_BATCH_SIZE)}
    for folder, config in sets.items():
        logs = rehearsed(config, folder)
        assert accepts_log(logs[0], config.rules.ruleset), config.system
        assert accepts_seeds(logs, config.rules.ruleset), config.system
    for ruleset in {config.rules.ruleset for config in sets.values()}:
        assert accepts_directories([folder for folder in sets if sets[folder].rules.ruleset == ruleset], ruleset)


@pytest.mark.skipif(not PUBLISHED.exists(), reason=f"{PUBLISHED} is not there")
def test_published_systems_have_their_config() -> None:
    """Layout, batch and precision of every published submission are those of a config here."""
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = ("gpus", "tp", "pp", "vp", "cp", "mbs", "gbs", "precision")
    published = {tuple(row[column] for column in columns) for row in rows}
    assert published - {_columns(resolve(path).config) for path in SHAPED} == set()


def _columns(config: RunConfig) -> tuple[str, ...]:
    """As the table of published runs has them."""
    names = ("TENSOR_MODEL_PARALLEL", "PIPELINE_MODEL_PARALLEL", "INTERLEAVED_PIPELINE", "CONTEXT_PARALLEL")
    values = config.to_environment()
    layout = (values[name] for name in (*names, "MICRO_BATCH_SIZE"))
    return (str(config.world_size), *layout, str(config.global_batch_size), config.precision)


@pytest.mark.parametrize(
    ("gpu", "nodes"), [("H200", 96), ("H200", 64), ("H100", 72), ("H100", 16), ("GB300", 1000), ("B200", 32)]
)
def test_a_new_config_is_one_like_these(gpu: str, nodes: int, tmp_path: Path) -> None:
    """`config new` writes a file that sources, has the name of its content and describes a possible run that fits."""
    done = CliRunner().invoke(main, ["config", "new", "--gpu", gpu, "--nodes", str(nodes), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    path = Path(done.output.strip())
    (tmp_path / "config_common.sh").write_bytes((ROOT / "config_common.sh").read_bytes())
    config = RunConfig.from_environment(source_config(path), complete=True)
    assert (config.nodes, path.name) == (nodes, f"config_{config.system}.sh")
    planned = CliRunner().invoke(main, ["plan", str(path)])
    assert planned.exit_code == 0, planned.output
    assert f"Ask for WALLTIME={config.walltime}:" in planned.output
    assert abs(config.global_batch_size - 1152) <= config.data_parallel * config.pipeline_model_parallel


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (17, r"17 x 8 H100 can be cut by no layout near .* multiples of 16"),
        (8, r"8 x 8 H100 hold no layout near .* `python -m benchmark plan --gpu H100 --gpus 64`"),
    ],
)
def test_a_system_that_nothing_fits_is_refused(nodes: int, message: str) -> None:
    """With the numbers of nodes that would do, or where to look for other layouts."""
    with pytest.raises(ConfigError, match=message):
        new_config("H100", nodes, global_batch_size=1152)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--system", "a/b"], "--system a/b: expected the first part of a file's name"),
        (["--system", "long" * 80], "cannot be written: File name too long"),
    ],
)
def test_a_new_config_that_cannot_be_written_is_an_error(arguments: list[str], message: str, tmp_path: Path) -> None:
    """One line, no traceback."""
    command = ["config", "new", "--gpu", "H100", "--nodes", "64", "--out", str(tmp_path)]
    with pytest.raises(ConfigError, match=message):
        main([*command, *arguments], standalone_mode=False)


def test_one_config_has_more_than_ten_thousand_gpus() -> None:
    """What is shown at scale is shown on a config of that scale."""
    assert max(resolve(path).config.world_size for path in OFFICIAL) > 10_000
