"""`show`: each value with where it came from, each derived one with its equation."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmark.checkout import ROOT
from benchmark.config import NAMES, ConfigError, describe, overrides, resolve, resolve_for_nodes, source_config
from harness.__main__ import main
from tests.fakes import environment

TINY = ROOT / "config_tiny.sh"
SHELL = {"PATH": "/usr/bin:/bin"}


def test_each_variable_has_its_origin() -> None:
    """A config file's export, a variable of the environment, and a default are told apart."""
    origins = resolve(TINY, {**SHELL, "SEED": "3", "MINIBS": "16"}).origins

    assert (origins["BENCHMARK"], origins["SEED"], origins["NEXP"]) == ("config_tiny.sh", "environment", "default")
    assert origins["MINIBS"] == "environment"


def sourced(file: Path, **beforehand: str) -> dict[str, str]:
    """The environment of a shell that has sourced a file."""
    return {**SHELL, **beforehand, **source_config(file, {**SHELL, **beforehand})}


def test_what_was_sourced_by_hand_keeps_its_origin() -> None:
    """A job's environment does not show who set what, yet each value's origin is found."""
    origins = resolve(None, sourced(TINY) | {"NEXP": "3", "PRECISION": "bf16"}).origins
    expected = {"BENCHMARK": TINY.name, "MINIBS": TINY.name, "NEXP": "environment", "PRECISION": "environment"}
    assert {name: origins[name] for name in expected} == expected
    assert origins["SEED"] == "default"
    assert origins == {
        **resolve(TINY, {**SHELL, "NEXP": "3", "PRECISION": "bf16"}).origins,
        "CONFIG_FILENAME": "default",
    }


def test_a_value_that_a_file_works_out_is_the_files() -> None:
    """A computed value has the file as its origin, even if it depends on one that was set before."""
    origins = resolve(None, sourced(TINY, DGXNGPU="4")).origins
    assert (origins["DGXNGPU"], origins["MINIBS"]) == ("environment", TINY.name)


def test_a_config_of_nowhere_leaves_an_environment(tmp_path: Path) -> None:
    """A config that this checkout lacks, or that can no longer be sourced, is given no origin."""
    file = tmp_path / "config_OTHER.sh"
    file.write_text("".join(f"export {name}={value}\n" for name, value in environment(DGXSYSTEM="OTHER").items()))
    assert set(resolve(None, sourced(file)).origins.values()) == {"environment", "default"}
    assert resolve(file, SHELL).origins["MINIBS"] == file.name


def test_what_a_config_overrides_is_told() -> None:
    """A variable of the shell that has no effect is shown with both values, by `show` next to its origin."""
    file = ROOT / "config_DGX.sh"
    resolved = resolve(file, {**SHELL, "DGXNNODES": "32", "WALLTIME": "60"})
    assert overrides(resolved) == ["DGXNNODES=32 of the environment has no effect: config_DGX.sh sets 64"]
    (row,) = [line for line in describe(resolved).splitlines() if line.startswith("DGXNNODES ")]
    assert row.split(maxsplit=2) == ["DGXNNODES", "64", "config_DGX.sh, not the environment's 32"]
    assert resolved.origins["WALLTIME"] == "environment"


def test_a_config_that_leaves_its_nodes_open_takes_those_of_the_job() -> None:
    """Values computed from the nodes are computed again, and values that somebody set stay."""
    resolved = resolve_for_nodes(4, sourced(TINY, DGXNGPU="2") | {"SEED": "3"})
    layout, origins = resolved.config.layout, resolved.origins
    assert (layout.nodes, layout.minibatch, layout.global_batch_size) == (4, 2, 16)
    assert (origins["DGXNNODES"], origins["MINIBS"], origins["SEED"]) == ("the job", TINY.name, "environment")
    assert resolved.config.job.seed == 3


def test_other_nodes_are_kept() -> None:
    """A number of nodes that a config or the user fixes stays; a job of another size is then refused."""
    assert resolve_for_nodes(1, sourced(TINY, DGXNNODES="2")).config.layout.nodes == 2
    assert resolve_for_nodes(2, sourced(ROOT / "config_DGX.sh")).config.layout.nodes == 64
    assert resolve_for_nodes(2, environment()).config.layout.nodes == 1


@pytest.mark.parametrize("nodes", [1, 2, 4, 8])
def test_the_tiny_model_has_one_batch_size_on_any_nodes(nodes: int) -> None:
    """Its batch size is the only one in its rules, on any number of nodes."""
    layout = resolve(TINY, {**SHELL, "DGXNNODES": str(nodes), "DGXNGPU": "2"}).config.layout
    assert layout.global_batch_size == 16


def test_every_fault_of_a_file_is_said_at_once(tmp_path: Path) -> None:
    """One error lists names that nothing reads together with everything that makes the run impossible."""
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
