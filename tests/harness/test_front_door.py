"""The llama31 command: every verb helps, with an example, and is imported only when it is used."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from benchmark import __version__
from benchmark.checkout import ROOT
from harness.__main__ import VERBS, main


def commands(group: click.Group = main, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with its path, groups themselves left out."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


@pytest.mark.parametrize(("path", "command"), [pytest.param(*found, id=" ".join(found[0])) for found in commands()])
def test_every_verb_helps_with_an_example(path: tuple[str, ...], command: click.Command) -> None:
    """`-h` and `--help` print the same, with a line that can be typed."""
    short, long = (CliRunner().invoke(main, [*path, flag], prog_name="llama31") for flag in ("-h", "--help"))
    assert short.exit_code == 0
    assert short.stdout == long.stdout
    typed = "sbatch" if path == ("job",) else f"llama31 {' '.join(path)}"
    usage, *lines = short.stdout.splitlines()
    assert usage.startswith("Usage: ")
    assert any(typed in line for line in lines), short.stdout


def test_the_table_of_verbs_is_theirs() -> None:
    """The verbs that `llama31 --help` lists have the names that they give themselves."""
    context = click.Context(main)
    for name in VERBS:
        command = main.get_command(context, name)
        assert command is not None
        assert command.name == name


def test_help_imports_no_verb() -> None:
    """The list of verbs appears at once, because neither they nor what they need is imported."""
    heavy = "{'numpy', 'pydantic', 'rich', 'torch', 'scipy', 'yaml'}"
    code = f"import harness.__main__, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_it_works_from_any_folder(tmp_path: Path) -> None:
    """It prints its version from any folder, and refuses an unknown verb."""
    program = Path(sys.executable).with_name("llama31")
    done = subprocess.run([program, "--version"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"llama31, version {__version__}\n")
    assert CliRunner().invoke(main, ["chekc"]).exit_code == 2


def test_it_completes() -> None:
    """It completes words as click's programs do: eval "$(_LLAMA31_COMPLETE=bash_source llama31)"."""
    environment = os.environ | {"_LLAMA31_COMPLETE": "bash_complete", "COMP_WORDS": "llama31 che", "COMP_CWORD": "1"}
    program = Path(sys.executable).with_name("llama31")
    done = subprocess.run([program], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["plain,check", "plain,checkpoint"]


def test_a_refusal_is_said_without_a_traceback(tmp_path: Path) -> None:
    """Every fault is on a line of its own, and the status is 2."""
    done = CliRunner().invoke(main, ["check", str(tmp_path / "nothing")])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"error: {tmp_path}/nothing does not exist\n"
