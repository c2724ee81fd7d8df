"""Every config of the repository sources, is named after its content, passes preflight and can be rehearsed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from click import ClickException
from click.testing import CliRunner

from benchmark.benchmarks import BENCHMARKS, LLAMA31_405B
from benchmark.checkout import ROOT
from benchmark.config import NAMES, ConfigError, RunConfig, config_files, libraries, resolve, source_config
from benchmark.rules import Rules, Schedule
from compliance.check import check_paths
from compliance.findings import Severity
from harness.__main__ import main
from harness.config_file import write_config
from harness.plan.config_new import new_config
from harness.plan.job import TrainingJob, from_config, precision_of
from harness.plan.measured import read_table
from harness.preflight import check_plan, make_plan
from harness.simulate import SimulatedPace, VirtualClock, simulate
from perf import plan_accuracy
from tests.fakes import EPOCH, environment
from tests.harness.test_simulate import run_of
from tests.official import accepts_directories, accepts_seeds, needs_official, rejections

CONFIGS = {path: resolve(path).config for path in config_files()}
OFFICIAL = {path: config for path, config in CONFIGS.items() if config.benchmark_row.submittable}
SHAPED = {path: config for path, config in OFFICIAL.items() if path.parent.name == "configs"}
"""All but the templates, whose names have no content to state."""
BARE = {"PATH": os.environ["PATH"]}
"""An environment in which nobody has set anything."""


def test_config_is_the_same_after_another_one() -> None:
    """Whatever was sourced before in a shell, a config leaves nothing of it, also when a command sources it."""
    first = ROOT / "configs/config_DGXH100_64x8x288xtp8pp8cp2.sh"
    for path, config in CONFIGS.items():
        if path.name != "config_tiny.sh":
            left = BARE | source_config(first, BARE)
            after = source_config(path, left)
            assert RunConfig.from_environment(left | after) == config, path.name
            assert resolve(path, left).config == config, path.name


def test_what_configs_set_is_what_another_one_unsets() -> None:
    """The list in config_common.sh misses no variable that a config of the repository sets."""
    text = (ROOT / "config_common.sh").read_text(encoding="utf-8")
    unset = set(text.split("unset ")[1].split("fi\n")[0].replace("\\", " ").split())
    files = [path for path in CONFIGS if path.name != "config_tiny.sh"]
    exported = {name for path in files for name in source_config(path, BARE) if name in NAMES}
    assert exported - unset == {"DGXSYSTEM", "CONFIG_FILENAME"}
    # A config that `llama31 config new` writes may choose any recomputation.
    assert {name for name in unset - exported if not name.startswith("RECOMPUTE_")} == set()


def test_config_describes_a_run_of_its_name(subtests: pytest.Subtests) -> None:
    """A config exports a possible run, nothing that is not ours, its own name and, for the log, its file's."""
    for path, config in CONFIGS.items():
        with subtests.test(path.stem):
            exported = source_config(path)
            assert path.name == f"config_{RunConfig.from_environment(exported, complete=True).system}.sh"
            # Ruleset 6.1.0 asks for it.
            assert not config.benchmark_row.submittable or exported["CONFIG_FILENAME"] == path.name


def test_config_of_a_system_sets_what_the_libraries_read(subtests: pytest.Subtests) -> None:
    """It depends on architecture and precision; the one for CPUs sets nothing."""
    for path, config in CONFIGS.items():
        with subtests.test(path.stem):
            expected = dict(libraries.settings(path.stem.removeprefix("config_"))) if path in OFFICIAL else {}
            expected |= libraries.of_precision(config.benchmark_row, precision_of(config.kernels))
            assert resolve(path, BARE).libraries == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"CUDA_DEVICE_MAX_CONNECTIONS": "32"}, {"CUDA_DEVICE_MAX_CONNECTIONS": "32"}),
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, {"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}),
        ({"PYTORCH_ALLOC_CONF": "backend:native"}, {"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}),
        ({"NVTE_FWD_LAYERNORM_SM_MARGIN": "0"}, {"NVTE_FWD_LAYERNORM_SM_MARGIN": "0"}),
    ],
)
def test_a_setting_of_the_user_wins(given: dict[str, str], expected: dict[str, str]) -> None:
    """It wins under either of torch's two names for the allocator's variable."""
    before = {**BARE, **given}
    after = before | dict(resolve(ROOT / "config_DGX.sh", before).libraries)
    assert {name: after[name] for name in libraries.HOPPER} == dict(libraries.HOPPER) | expected


@pytest.mark.parametrize(
    ("system", "precision", "expected"),
    [
        ("X", "fp8", libraries.HOPPER),
        ("GB200", "fp8", libraries.BLACKWELL),
        ("GB200", "nvfp4", {**libraries.BLACKWELL, **libraries.of_precision(LLAMA31_405B, "nvfp4")}),
    ],
)
def test_a_config_outside_the_repository_sets_the_same(
    tmp_path: Path, system: str, precision: str, expected: dict[str, str]
) -> None:
    """Files of `plan --write` and `config new` do too."""
    values = environment(DGXSYSTEM=system, DGXNNODES=8, MINIBS=18, PRECISION=precision)
    path = write_config(tmp_path, system, values, "a draft")
    assert resolve(path, BARE).libraries == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "0"),
        ({"SBATCH_MEM_PER_NODE": "500G"}, "500G"),
        ({"SBATCH_MEM_PER_CPU": "4G"}, None),
        ({"SBATCH_MEM_PER_GPU": "200G"}, None),
    ],
)
def test_a_job_asks_for_all_memory_of_its_nodes(given: dict[str, str], expected: str | None, tmp_path: Path) -> None:
    """It does unless a site counts memory otherwise, also with a config from elsewhere."""
    elsewhere = write_config(tmp_path, "X", environment(DGXSYSTEM="X", DGXNNODES=8, MINIBS=18), "a draft")
    for path in (ROOT / "config_DGX.sh", elsewhere):
        resolve(path, BARE | given)
        assert (BARE | given | source_config(path, BARE | given)).get("SBATCH_MEM_PER_NODE") == expected


def test_name_states_the_content(subtests: pytest.Subtests) -> None:
    """The name of a config states nodes, GPUs, batch and layout."""
    for path, config in SHAPED.items():
        cut = config.layout
        layout = f"tp{cut.tensor_model_parallel}pp{cut.pipeline_model_parallel}cp{cut.context_parallel}"
        stated = f"_{cut.nodes}x{cut.gpus_per_node}x{cut.minibatch}x{layout}"
        with subtests.test(path.stem):
            assert path.stem.endswith(stated) or f"{stated}_" in path.stem


def test_config_sourced_by_hand_is_the_same_run(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """`source config_X.sh` in a strict shell, from any folder, gives the run that naming the file gives."""
    for path, by_file in CONFIGS.items():
        script = f'set -euo pipefail; source "{path}"; exec env -0'
        text = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        exported = dict(entry.split("=", 1) for entry in text.split("\0") if entry)
        by_hand = resolve(None, {name: value for name, value in exported.items() if name in NAMES}).config
        with subtests.test(path.stem):
            assert by_hand.changed(CONFIG_FILENAME="") == by_file.changed(CONFIG_FILENAME="")


def test_config_passes_preflight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests) -> None:
    """With data and a place for results, no config breaks a rule."""
    monkeypatch.setenv("DATADIR", str(tmp_path))
    monkeypatch.setenv("LOGDIR", str(tmp_path))
    for path in CONFIGS:
        with subtests.test(path.stem):
            assert [f for f in check_plan(make_plan(path)) if f.severity is Severity.ERROR] == []


def rehearsed(config: RunConfig, folder: Path) -> list[Path]:
    """The logs of three runs, in a new folder."""
    folder.mkdir()
    logs = [folder / f"result_{seed}.txt" for seed in range(3)]
    for seed, log in enumerate(logs):
        simulate(config.for_experiment(seed=seed, result_file=log), VirtualClock(EPOCH), SimulatedPace())
    return logs


Scheduled = tuple[Rules, Schedule]
"""What the events of a rehearsal depend on."""


def scheduled(config: RunConfig) -> Scheduled:
    return config.rules, config.schedule


DIFFERENT = {scheduled(config): config for config in CONFIGS.values()}
"""A config of each kind: a rehearsal of 8B has ten thousand steps."""


@pytest.fixture(scope="module")
def rehearsals(tmp_path_factory: pytest.TempPathFactory) -> dict[Scheduled, list[Path]]:
    """The logs of three runs of each kind."""
    folder = tmp_path_factory.mktemp("rehearsals")
    return {kind: rehearsed(config, folder / config.system) for kind, config in DIFFERENT.items()}


def test_a_rehearsal_passes(rehearsals: dict[Scheduled, list[Path]], subtests: pytest.Subtests) -> None:
    """Three rehearsed runs of each schedule that a config has pass the checks that end a job."""
    for kind, config in DIFFERENT.items():
        with subtests.test(config.system):
            report = check_paths(rehearsals[kind], config.rules.ruleset)
            assert report.passed, report.findings


@pytest.mark.slow
def test_the_official_checkers_accept_a_rehearsal(
    rehearsals: dict[Scheduled, list[Path]], tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """They accept one for each batch size of a config, and each benchmark under each ruleset."""
    of_configs = {
        (config.rules, config.layout.global_batch_size): rehearsals[scheduled(config)] for config in OFFICIAL.values()
    }
    submittable = [rules for row in BENCHMARKS.values() if row.submittable for rules in row.rules]
    others = [rules for rules in submittable if rules not in {rules for rules, _ in of_configs}]
    of_rules = {
        (rules, 0): rehearsed(run_of(rules), tmp_path / f"{rules.benchmark} {rules.ruleset}") for rules in others
    }
    for ruleset in sorted({rules.ruleset for rules in submittable}):
        results = [logs for (rules, _), logs in (of_configs | of_rules).items() if rules.ruleset == ruleset]
        with subtests.test(ruleset):
            needs_official(ruleset)
            assert [rejections(logs[0], ruleset) for logs in results] == [[]] * len(results)
            assert accepts_seeds(results, ruleset)
            assert accepts_directories([logs[0].parent for logs in results], ruleset)


def test_published_systems_have_their_config() -> None:
    """GPU, layout, batch and precision of every published submission that states them are those of a config here."""
    configured = {_shape(from_config(config)) for config in SHAPED.values()}
    tables = (plan_accuracy.RUNS, plan_accuracy.EIGHT)
    published = {_shape(row.job) for table in tables for row in read_table(table)}
    assert len(published) > 30
    assert published - configured == set()


def _shape(job: TrainingJob) -> tuple[str | int, ...]:
    cut = (job.tensor, job.pipeline, job.chunks, job.context, job.micro_batch)
    return (job.size.name, job.gpu.name, job.gpus, *cut, job.global_batch_size, job.precision)


@pytest.mark.parametrize(
    ("gpu", "nodes"), [("H200", 96), ("H200", 64), ("H100", 72), ("H100", 16), ("GB300", 1000), ("B200", 32)]
)
def test_a_new_config_is_one_like_these(gpu: str, nodes: int, tmp_path: Path) -> None:
    """`config new` writes a file that sources, is named after its content, and describes a possible run that fits."""
    done = CliRunner().invoke(main, ["config", "new", "--gpu", gpu, "--nodes", str(nodes), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    path = Path(done.output.strip())
    config = RunConfig.from_environment(source_config(path), complete=True)
    assert (config.layout.nodes, path.name) == (nodes, f"config_{config.system}.sh")
    planned = CliRunner().invoke(main, ["plan", str(path)])
    assert planned.exit_code == 0, planned.output
    assert f"Ask for WALLTIME={config.job.walltime}:" in planned.output
    assert (
        abs(config.layout.global_batch_size - 1152)
        <= config.layout.data_parallel * config.layout.pipeline_model_parallel
    )


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (17, r"17 x 8 H100 are not a multiple of any layout near .* a multiple of 16"),
        (8, r"8 x 8 H100 have no layout near .* `llama31 plan --gpu H100 --gpus 64`"),
    ],
)
def test_a_system_that_nothing_fits_is_refused(nodes: int, message: str) -> None:
    """The error has the numbers of nodes that would work, or a command that finds other layouts."""
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
    """The error is one line, without a traceback."""
    command = ["config", "new", "--gpu", "H100", "--nodes", "64", "--out", str(tmp_path)]
    with pytest.raises(ClickException, match=message):
        main([*command, *arguments], standalone_mode=False)


def test_one_config_has_more_than_ten_thousand_gpus() -> None:
    """Claims about scale are tested with a config of that scale."""
    assert max(config.layout.world_size for config in OFFICIAL.values()) > 10_000
