"""A config file written from values exports those values."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.config import NAMES, ConfigError, RunConfig, config_files, source_config
from harness.config_file import file_name, render, write_config


def test_renders_the_configs_of_the_repository(subtests: pytest.Subtests) -> None:
    """Rendered from what it exports, each config of the repository is the file that a person wrote, to the letter."""
    for path in (path for path in config_files() if "tp" in path.stem):
        text = path.read_text(encoding="utf-8")
        comment = "\n".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("#"))
        # What config_common.sh exports for the libraries is no value of one config.
        values = {name: value for name, value in source_config(path).items() if name in NAMES}
        with subtests.test(path.stem):
            assert render(values, comment) == text
            stem = file_name(values["DGXSYSTEM"].split("_")[0], values).removesuffix(".sh")
            assert re.sub("_8b(_fp8)?$", "", path.stem) == stem


def test_a_rendered_file_is_the_run_it_was_rendered_from(tmp_path: Path) -> None:
    """Sourced, a rendered file gives back every value, and its name the system."""
    values = {
        "BENCHMARK": "llama31_405b",
        "RULESET": "6.0.0",
        "DGXNNODES": "64",
        "DGXNGPU": "8",
        "TENSOR_MODEL_PARALLEL": "8",
        "PIPELINE_MODEL_PARALLEL": "8",
        "MINIBS": "144",
        "NEXP": "3",
        "WALLTIME": "300",
        "DATADIR": "/a folder/with 'quotes' and $dollars",
    }
    path = write_config(tmp_path, "HERE", values, "One line.\n\nAnother.")
    exported = source_config(path, {})
    assert {name: exported[name] for name in values} == values
    assert RunConfig.from_environment(exported, complete=True).system == "HERE_64x8x144xtp8pp8cp1"


def test_walltime_of_the_environment_wins(tmp_path: Path) -> None:
    """Whoever submits a job may request another time."""
    path = write_config(tmp_path, "HERE", {"WALLTIME": "300"}, "A file.")
    assert "WALLTIME" not in source_config(path, {"WALLTIME": "20"})


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_no_value_escapes_its_quotes(value: str) -> None:
    """Whatever a value holds, bash reads exactly that."""
    text = render({"MLPERF_SUBMISSION_ORG": value}, "")
    export = text.split("\n", 1)[1]
    assert shlex.split(export) == ["export", f"MLPERF_SUBMISSION_ORG={value}"]


def test_an_unknown_name_is_refused() -> None:
    """A variable that nothing reads is not written."""
    with pytest.raises(ConfigError, match="MINBS"):
        render({"MINBS": "8"}, "A file.")
