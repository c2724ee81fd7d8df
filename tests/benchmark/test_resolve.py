"""`show`: each value with where it came from, each derived one with its equation."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmark.checkout import ROOT
from benchmark.config import NAMES, ConfigError, describe, resolve
from harness.__main__ import main
from tests.fakes import environment

TINY = ROOT / "config_tiny.sh"
SHELL = {"PATH": "/usr/bin:/bin"}


def test_each_variable_has_its_origin() -> None:
    """A config file's export, a variable of the environment, and a default are told apart."""
    origins = resolve(TINY, {**SHELL, "SEED": "3", "MINIBS": "16"}).origins

    assert (origins["BENCHMARK"], origins["SEED"], origins["NEXP"]) == ("config_tiny.sh", "environment", "default")
    assert origins["MINIBS"] == "environment"


def test_every_fault_of_a_file_is_said_at_once(tmp_path: Path) -> None:
    """Names that nothing reads, beside all that makes the run impossible."""
    path = tmp_path / "config_TEST.sh"
    path.write_text(f"source {TINY}\nexport MICRO_BATCH=4 WALLTIME=soon NEXP=0\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        resolve(path, SHELL)
    beginnings = [fault.split(" ")[0] for fault in caught.value.faults]
    assert beginnings == ["config_TEST.sh:", "WALLTIME=soon:", "NEXP=0:"]


def test_an_environment_that_was_sourced_by_hand_is_enough() -> None:
    """Without a file, the environment is the configuration, and the log names no file."""
    resolved = resolve(None, environment())

    assert resolved.origins["MINIBS"] == "environment"
    assert resolved.config.process.config_filename == ""


def test_the_description_has_every_variable_and_every_equation() -> None:
    """All names of the table are there, and the batch size is spelt out."""
    text = describe(resolve(TINY, {**SHELL, "DGXNGPU": "2", "MINIBS": "8"}))

    assert all(name in text for name in NAMES)
    assert "MINIBS 8 x data-parallel 2" in text
    assert "CEIL(256 / 16) steps, 256 sequences" in text


def test_a_missing_file_names_those_that_are_there() -> None:
    """A misspelt config file is answered with the list of files."""
    with pytest.raises(ConfigError, match=r"config_none\.sh does not exist; in .*config_tiny\.sh"):
        resolve(Path("config_none.sh"), SHELL)


def test_show_prints_the_description() -> None:
    """`llama31 show FILE` ends with status 0."""
    done = CliRunner().invoke(main, ["show", str(TINY)])

    assert done.exit_code == 0
    assert "opt_base_learning_rate" in done.output
