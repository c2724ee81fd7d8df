"""What a run may be: every refusal with its equation, and how variables become a run and a run becomes variables."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.announce import announce
from benchmark.checkout import ROOT
from benchmark.config import NAMES, ConfigError, RunConfig, resolve, source_config
from benchmark.seeds import SEED_LIMIT
from tests.fakes import configured, environment

TINY = ROOT / "config_tiny.sh"


def faults(**overrides: str | int) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        configured(**overrides)
    return caught.value.faults


# Each refusal: variables, and the start of its text with the numbers put in.
REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "an interval without a folder": (
        {"SAVE_INTERVAL": 16},
        "SAVE_INTERVAL(16) needs SAVE_CHECKPOINT, the folder to save to",
    ),
    "an interval beyond the end": (
        {"SAVE_CHECKPOINT": "state", "SAVE_INTERVAL": 600, "MAX_STEPS": 500},
        "SAVE_INTERVAL(600) is above the 500 steps that the run can take: nothing would be saved",
    ),
    "ranks": (
        {"TENSOR_MODEL_PARALLEL": 4, "PIPELINE_MODEL_PARALLEL": 3},
        "DGXNNODES(1) x DGXNGPU(8) = 8 ranks is not a multiple of TENSOR_MODEL_PARALLEL(4) x "
        "PIPELINE_MODEL_PARALLEL(3) x CONTEXT_PARALLEL(1) = 12; the remainder is 8",
    ),
    "microbatches": (
        {"MICRO_BATCH_SIZE": 5},
        "MINIBS(144) is not a multiple of MICRO_BATCH_SIZE(5); "
        "valid: 1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24, 36, 48, 72, 144",
    ),
    "query groups": (
        {"DGXNGPU": 16, "TENSOR_MODEL_PARALLEL": 16, "MINIBS": 1152},
        "TENSOR_MODEL_PARALLEL(16) does not divide the 8 query groups; valid: 1, 2, 4, 8",
    ),
    "heads": (
        {"DGXNGPU": 3, "TENSOR_MODEL_PARALLEL": 3, "MINIBS": 384},
        "TENSOR_MODEL_PARALLEL(3) does not divide the 128 attention heads; valid: 1, 2, 4, 8",
    ),
    "vocabulary": (
        {"DGXNGPU": 3, "TENSOR_MODEL_PARALLEL": 3, "MINIBS": 384},
        "TENSOR_MODEL_PARALLEL(3) does not divide the 32000 vocabulary entries; valid: 1, 2, 4, 8",
    ),
    "pipeline": (
        {"DGXNNODES": 5, "PIPELINE_MODEL_PARALLEL": 5},
        "PIPELINE_MODEL_PARALLEL(5) x INTERLEAVED_PIPELINE(1) = 5 divides neither the 126 layers nor 126 + 2 "
        "(embedding and loss counted as layers); valid products: 1, 2, 3, 6, 7, 9, 14, 18, 21, 42, 63, 126 or "
        "1, 2, 4, 8, 16, 32, 64, 128",
    ),
    "interleaved without a pipeline": (
        {"INTERLEAVED_PIPELINE": 2},
        "INTERLEAVED_PIPELINE(2) needs a pipeline; PIPELINE_MODEL_PARALLEL is 1",
    ),
    "interleaved microbatches": (
        {"PIPELINE_MODEL_PARALLEL": 8, "INTERLEAVED_PIPELINE": 8, "MINIBS": 1154},
        "MINIBS(1154) / MICRO_BATCH_SIZE(1) = 1154 microbatches is not a multiple of PIPELINE_MODEL_PARALLEL(8), as an "
        "interleaved pipeline needs",
    ),
    "context": (
        {"DGXNGPU": 3, "CONTEXT_PARALLEL": 3},
        "CONTEXT_PARALLEL(3) x 2 does not divide the sequence of 8192 tokens",
    ),
    "sequence parallel": (
        {"DGXNNODES": 2048, "CONTEXT_PARALLEL": 2048, "TENSOR_MODEL_PARALLEL": 8},
        "TENSOR_MODEL_PARALLEL(8) does not divide the 4 tokens of a context-parallel rank",
    ),
    "batch too large": (
        {"MINIBS": 1153},
        "MINIBS(1153) x data-parallel size(8) = global batch size 9224 is above the 9216 that "
        "llama31_405b 6.0.0 allows",
    ),
    "no double passes": (
        {"MINIBS": 248},
        "MINIBS(248) x data-parallel size(8) = global batch size 1984: no double satisfies the official check, "
        "learning rate x 1152 == 1984 x 8e-05; nearest global batch sizes that have one: 1983 and 1986",
    ),
    "no evaluation": (
        {"MAX_STEPS": 239},
        "MAX_STEPS(239) ends after 239 steps, before the first evaluation at step (14 skipped + 1) x 16 = 240; a run "
        "without an evaluation has no result",
    ),
    "fixed learning rate": (
        {"LEARNING_RATE": "0.001"},
        "LEARNING_RATE=0.001: llama31_405b 6.0.0 derives learning rate and warm-up from global batch size 1152; unset "
        "them, or set MLPERF_SUBMISSION_DIVISION=open",
    ),
    "free learning rate": (
        {"BENCHMARK": "llama31_8b", "MINIBS": 3},
        "LEARNING_RATE and WARMUP_STEPS: llama31_8b 6.0.0 leaves them to the submitter and has no reference point at "
        "global batch size 24 (it has points at 16, 32, 64, 96, 128); set both",
    ),
    "name against content": (
        {"DGXSYSTEM": "DGXH100_2x8x144xtp1pp1cp1"},
        "DGXSYSTEM=DGXH100_2x8x144xtp1pp1cp1 says DGXNNODES=2, but DGXNNODES is 1; a config's name states its content",
    ),
    "two seeds": ({"SEED": 1, "SEED_BASE": 2}, "SEED=1 and SEED_BASE=2: set one of them"),
    "one seed for several runs": (
        {"SEED": 1, "NEXP": 2},
        "SEED=1 with NEXP=2: runs need distinct seeds; set SEED_BASE instead",
    ),
    "seeds too large": (
        {"SEED_BASE": SEED_LIMIT - 1, "NEXP": 2},
        "SEED_BASE(2147483647) + NEXP(2) - 1 = 2147483648 is not below 2147483648",
    ),
    "ranks started": (
        {"WORLD_SIZE": 16, "RANK": 0},
        "WORLD_SIZE(16) ranks were started, but DGXNNODES(1) x DGXNGPU(8) = 8",
    ),
    "benchmark": (
        {"BENCHMARK": "llama2_70b"},
        "BENCHMARK=llama2_70b RULESET=6.0.0: benchmark 'llama2_70b' is unknown; known: "
        "llama31_405b, llama31_8b, llama31_tiny",
    ),
    "ruleset": (
        {"RULESET": "6.1.0"},
        "BENCHMARK=llama31_405b RULESET=6.1.0: llama31_405b is not in ruleset '6.1.0'; it is in: 5.0.0, 5.1.0, 6.0.0",
    ),
    "unset": ({"MINIBS": ""}, "MINIBS is not set; a config file exports it (source configs/config_<SYSTEM>.sh)"),
    "a path for a name": (
        {"DGXSYSTEM": "../other"},
        "DGXSYSTEM='../other' names the folder of the results below LOGDIR: expected a name, not a path",
    ),
    "white space for a name": (
        {"DGXSYSTEM": " "},
        "DGXSYSTEM='' names the folder of the results below LOGDIR: expected a name, not a path",
    ),
    "misspelt": (
        {"TENSOR_MODEL_PARALEL": 2},
        "TENSOR_MODEL_PARALEL is not a variable of the harness; did you mean TENSOR_MODEL_PARALLEL? "
        "(if TENSOR_MODEL_PARALEL is another's, unset it)",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusal_shows_its_numbers(case: str) -> None:
    """An impossible run is refused with the equation, its numbers and the valid choices."""
    overrides, expected = REFUSALS[case]
    assert expected in faults(**overrides)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DGXNGPU", "eight"),
        ("DGXNGPU", "0"),
        ("DGXNNODES", "-1"),
        ("MINIBS", "1.5"),
        ("SEED", "-1"),
        ("SEED", str(SEED_LIMIT)),
        ("PRECISION", "fp6"),
        ("LEARNING_RATE", "nan"),
        ("LEARNING_RATE", "inf"),
        ("LEARNING_RATE", "0"),
        ("WARMUP_STEPS", "-5"),
        ("MAX_STEPS", "0"),
        ("NEXP", "none"),
        ("MLPERF_SUBMISSION_DIVISION", "Closed"),
        ("MLPERF_SUBMISSION_STATUS", "available"),
    ],
)
def test_value_of_the_wrong_kind_is_refused_by_name(name: str, value: str) -> None:
    """A malformed value is one fault that shows the variable with the value."""
    (fault,) = faults(**{name: value})
    assert fault.startswith(f"{name}={value}: ")


@pytest.mark.parametrize("overrides", [{"NEXP": 10**12}, {"MINIBS": 10**15, "MICRO_BATCH_SIZE": 7}], ids=str)
def test_absurd_number_is_refused_at_once(overrides: dict[str, str | int]) -> None:
    """A number that no run has is refused immediately, without counting up to it."""
    assert faults(**overrides)


def test_all_faults_of_the_layout_are_shown_at_once() -> None:
    """Independent mistakes are listed together, so that one edit repairs them all."""
    found = faults(MICRO_BATCH_SIZE=5, INTERLEAVED_PIPELINE=2, SEED=1, NEXP=2, WORLD_SIZE=16)
    assert [fault.split("(")[0].split("=")[0] for fault in found] == [
        "MINIBS",
        "INTERLEAVED_PIPELINE",
        "SEED",
        "WORLD_SIZE",
    ]


def test_all_malformed_values_are_shown_at_once() -> None:
    """Malformed, missing and misspelt variables are listed together."""
    found = faults(DGXNGPU="x", MINIBS="", SEED="y", PRECISON="bf16")
    assert sorted(fault.split("=")[0].split(" ")[0] for fault in found) == ["DGXNGPU", "MINIBS", "PRECISON", "SEED"]


def test_error_text_is_its_faults() -> None:
    """Printing the error prints every fault on its own line."""
    assert str(ConfigError(["one", "two"])) == "one\ntwo"


def test_name_that_states_the_content_is_accepted() -> None:
    """A config's name may say what it holds, with a suffix after it."""
    config = configured(DGXSYSTEM="DGXH100_1x8x144xtp1pp1cp1_bf16")
    assert config.system == "DGXH100_1x8x144xtp1pp1cp1_bf16"


# Variables that are not ours.


def test_other_variables_are_left_alone() -> None:
    """The rest of a user's environment does not concern the harness."""
    config = RunConfig.from_environment(environment() | {"HOME": "/", "SLURM_JOB_ID": "7", "SLURM_LOCALID": "0"})
    assert config == configured()


@pytest.mark.parametrize("name", ["NCCL_DEBUG", "CUDA_DEVICE_MAX_CONNECTIONS", "NVTE_FUSED_ATTN", "OMP_NUM_THREADS"])
def test_config_files_may_export_knobs_of_the_libraries(name: str) -> None:
    """Settings that the libraries underneath read themselves pass through."""
    assert RunConfig.from_environment(environment() | {name: "1"}, complete=True) == configured()


def test_empty_variable_is_an_unset_one() -> None:
    """Exporting an empty value equals not exporting the variable."""
    unset = configured()
    assert [name for name in NAMES.keys() - environment().keys() if configured(**{name: ""}) != unset] == []


def test_a_run_that_can_be_submitted_says_its_round() -> None:
    """It is refused without RULESET, with the choices: the next ruleset must not change an existing run."""
    with pytest.raises(ConfigError, match=r"RULESET is not set.* llama31_405b .*valid: 5\.0\.0, 5\.1\.0, 6\.0\.0"):
        configured(RULESET="")


def test_a_benchmark_of_ours_follows_its_latest_rules() -> None:
    """A tiny run can do without RULESET."""
    tiny = configured(BENCHMARK="llama31_tiny", RULESET="", DGXNGPU=1, MINIBS=16)
    assert tiny.rules is tiny.benchmark_row.rules[-1]


# What follows from the variables.


def test_global_batch_size_follows_from_the_layout() -> None:
    """GBS = MINIBS x nodes x GPUs / (TP PP CP), and the microbatches fill each replica's share."""
    config = configured(
        DGXNNODES=64,
        TENSOR_MODEL_PARALLEL=4,
        PIPELINE_MODEL_PARALLEL=8,
        INTERLEAVED_PIPELINE=8,
        CONTEXT_PARALLEL=2,
        MINIBS=144,
        MICRO_BATCH_SIZE=2,
    )
    assert (config.layout.world_size, config.layout.model_parallel, config.layout.data_parallel) == (512, 64, 8)
    assert (config.layout.global_batch_size, config.layout.gradient_accumulation_steps) == (1152, 72)
    assert config.schedule == config.rules.schedule(1152)


def test_a_run_gives_up_within_the_schedule() -> None:
    """A run gives up after MAX_STEPS, which cannot lengthen the schedule, or after the number of samples in its row."""
    limits = [configured(**given).step_limit for given in ({}, {"MAX_STEPS": 500}, {"MAX_STEPS": 10**9})]
    assert limits == [1_152_000 // 1152, 500, 1_200_000]


def test_what_nobody_says_of_the_submission_is_logged_by_a_stand_in() -> None:
    """Since the official checker refuses empty values, unset ones are logged as stand-ins; they stay known as unset
    on the ranks.
    """
    config = configured(DGXNNODES=2, MINIBS=72, SEED=1)
    said = dict(announce(config))
    names = ("submission_org", "submission_division", "submission_status", "submission_platform")
    assert [said[name] for name in names] == ["reference", "closed", "research", "2xTEST"]
    again = RunConfig.from_environment(config.to_environment())
    assert again.submission.unset == (
        "MLPERF_SUBMISSION_ORG",
        "MLPERF_SUBMISSION_STATUS",
        "MLPERF_SUBMISSION_PLATFORM",
    )


def test_experiment_keeps_all_but_its_seed_and_log() -> None:
    """One of several runs is the same configuration with its own seed and result file."""
    config = configured(NEXP=3, SEED_BASE=10)
    one = config.for_experiment(seed=11, result_file=Path("result_1.txt"))
    assert (one.job.seed, one.job.seed_base, one.job.experiments) == (11, None, 1)
    assert one.process.result_file == Path("result_1.txt")
    assert one.schedule == config.schedule


# Out into variables and back.

LAYOUTS = st.fixed_dictionaries(
    {
        "DGXNNODES": st.sampled_from([1, 2, 4]),
        "MINIBS": st.sampled_from([144, 288]),
        "MICRO_BATCH_SIZE": st.sampled_from([1, 2, 4]),
        "TENSOR_MODEL_PARALLEL": st.sampled_from([1, 2]),
        "PIPELINE_MODEL_PARALLEL": st.sampled_from([1, 2]),
        "CONTEXT_PARALLEL": st.sampled_from([1, 2]),
        "PRECISION": st.sampled_from(["fp32", "bf16"]),
        "MAX_STEPS": st.integers(min_value=5000, max_value=10**6),
    },
    optional={
        "SEED": st.integers(min_value=0, max_value=SEED_LIMIT - 1),
        "DATADIR": st.sampled_from(["/data", "relative/data", "with space", "käse"]),
        "LOGDIR": st.just("/logs"),
        "RESULT_FILE": st.just("/logs/result_0.txt"),
        "MLPERF_SUBMISSION_ORG": st.sampled_from(["reference", 'He said "yes"', "a\nb"]),
        "RANK": st.integers(min_value=0, max_value=7),
    },
)


@given(variables=LAYOUTS)
def test_round_trip_through_the_environment(variables: dict[str, str | int]) -> None:
    """A run's own variables describe the same run."""
    config = configured(**variables)
    assert RunConfig.from_environment(config.to_environment(), complete=True) == config


@given(rate=st.floats(min_value=0, max_value=1, exclude_min=True))
def test_learning_rate_survives_the_environment_bit_for_bit(rate: float) -> None:
    """A learning rate read back from its variable is the same double."""
    config = configured(BENCHMARK="llama31_8b", LEARNING_RATE=repr(rate), WARMUP_STEPS=0)
    assert RunConfig.from_environment(config.to_environment()).hyperparameters.learning_rate == rate


def test_a_run_cannot_be_changed() -> None:
    """Configurations are immutable values."""
    with pytest.raises(ValueError, match="frozen"):
        configured().layout.nodes = 2


# Config files.


def test_a_variable_set_beforehand_wins(tmp_path: Path) -> None:
    """A value that the user exported before sourcing does not count as changed by the file."""
    exported = source_config(ROOT / "config_tiny.sh", os.environ | {"DGXNGPU": "1", "MINIBS": "16"})
    assert "MINIBS" not in exported


def sourced(tmp_path: Path, text: str, **variables: str) -> dict[str, str]:
    path = tmp_path / "config_TEST.sh"
    path.write_text(text, encoding="utf-8")
    return source_config(path, {"PATH": os.environ["PATH"], **variables})


HOSTILE = ["two words", "two\nlines", "tail\n", "'single'", '"double"', "$HOME `id` \\", "a=b=c", "käse 🧀", "* ?"]


def test_sourced_value_arrives_unchanged(tmp_path: Path) -> None:
    """Newlines, quotes, and what a shell would expand come through as they are."""
    values = {f"NCCL_{index}": value for index, value in enumerate(HOSTILE)}
    lines = [f"export {name}=" + "'" + value.replace("'", "'\\''") + "'" for name, value in values.items()]
    assert sourced(tmp_path, "\n".join(lines)) == values


def test_hostile_environment_does_not_leak_into_the_exports(tmp_path: Path) -> None:
    """Only what the file itself exports is returned, whatever the environment held."""
    held = {f"OTHER_{index}": value for index, value in enumerate(HOSTILE)}
    assert sourced(tmp_path, "export SEED=1\n", **held) == {"SEED": "1"}


def test_a_file_with_windows_line_ends_is_one_error(tmp_path: Path) -> None:
    """The error comes before bash stumbles; if a shell already sourced such a file, it names the variables."""
    with pytest.raises(ConfigError, match=r"config_TEST\.sh has Windows line ends"):
        sourced(tmp_path, "export DGXNNODES=2\r\nexport DGXNGPU=8\r\n")
    with pytest.raises(ConfigError, match=r"^DGXNNODES, DATADIR: the file that exported this has Windows line ends"):
        RunConfig.from_environment(source_config(ROOT / "config_tiny.sh") | {"DGXNNODES": "1\r", "DATADIR": "/data\r"})


def test_sourced_file_may_print(tmp_path: Path) -> None:
    """Output of a config file, NULs and assignments in it too, is not taken for exports."""
    assert sourced(tmp_path, "printf 'NEXP=9\\0'; echo NEXP=8; export SEED=1\n") == {"SEED": "1"}


def test_sourced_file_cannot_ask(tmp_path: Path) -> None:
    """A config file reads nothing from the terminal, where it would wait forever."""
    path = tmp_path / "config_TEST.sh"
    path.write_text(f"source {TINY}; SEED=$(head -n 1); export SEED=${{SEED:-1}}\n", encoding="utf-8")
    show = [sys.executable, "-m", "harness", "show", str(path)]
    shown = subprocess.run(show, cwd=ROOT, input="7\n", capture_output=True, text=True, check=True).stdout
    assert re.search(r"^SEED +1 +config_TEST\.sh$", shown, re.MULTILINE)


def test_sourced_file_may_compute(tmp_path: Path) -> None:
    """A config file is bash: arithmetic, defaults and command substitution work."""
    text = "export DGXNNODES=$((2 * 4)) NEXP=${NEXP:-$(echo 3)}\n"
    assert sourced(tmp_path, text) == {"DGXNNODES": "8", "NEXP": "3"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("false\nexport SEED=1\n", "failed with status 1"),
        ("exit 7\n", "failed with status 7"),
        ("export SEED=$UNDEFINED\n", "UNDEFINED: unbound variable"),
        ("export SEED=1\nif then\n", "syntax error"),
        ("no_such_command\n", "no_such_command: command not found"),
    ],
    ids=["false", "exit", "unset", "syntax", "command"],
)
def test_failing_file_is_one_fault_with_the_shells_words(tmp_path: Path, text: str, message: str) -> None:
    """A config file that fails is refused with its path and bash's message."""
    with pytest.raises(ConfigError, match=message) as caught:
        sourced(tmp_path, text)
    assert str(tmp_path / "config_TEST.sh") in caught.value.faults[0]


def test_file_that_ends_the_shell_is_refused(tmp_path: Path) -> None:
    """`exit 0` in a config file is not the same as an empty config file."""
    with pytest.raises(ConfigError, match=r"config_TEST\.sh"):
        sourced(tmp_path, "export SEED=1\nexit 0\n")


def test_value_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """A value of ours that is not UTF-8 is a fault with the variable's name, not a crash."""
    exported = sourced(tmp_path, "export MLPERF_SUBMISSION_ORG=$'\\xff'\n")
    with pytest.raises(ConfigError, match="MLPERF_SUBMISSION_ORG"):
        RunConfig.from_environment(environment() | exported)


def test_variable_of_others_that_is_no_text_is_left_alone(tmp_path: Path) -> None:
    """A value that is not UTF-8 elsewhere in the user's environment does not matter."""
    assert sourced(tmp_path, "export SEED=1\n", OTHER=os.fsdecode(b"\xff")) == {"SEED": "1"}


def test_unknown_export_names_the_file(tmp_path: Path) -> None:
    """A name that nothing reads is refused together with the file that exports it."""
    path = tmp_path / "config_TEST.sh"
    path.write_text("export HIDDEN=1\n", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"config_TEST\.sh: HIDDEN is not a variable of the harness; known: BENCHMARK"
    ):
        resolve(path)
