"""llama31 submission: what a submission states before its runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

from benchmark.arguments import SETTINGS, PathArgument, Verbs
from benchmark.config import ConfigError, RunConfig, resolve
from compliance.formats import printable
from compliance.package import machine
from harness.arguments import CONFIG_FILE
from harness.submission import IDENTITY, SYSTEM, Question, complete, fault, other_node, require_free, write

Command = Callable[..., None]

_QUESTIONS = (*IDENTITY, *SYSTEM)


@click.group(cls=Verbs, context_settings=SETTINGS)
def submission() -> None:
    """Name the submitter and the system, before the runs log them for good."""


def _options(command: Command) -> Command:
    for question in reversed(_QUESTIONS):
        kind = click.Choice(list(question.choices)) if question.choices else None
        command = click.option(question.flag, _parameter(question), type=kind, help=str(question))(command)
    return command


def _parameter(question: Question) -> str:
    return question.name.lower().replace("-", "_")


@submission.command("init")
@CONFIG_FILE
@_options
@click.option(
    "--this-machine/--another-machine",
    default=None,
    help="Whether this machine is a node of the system and describes itself; if not given, it is if it has GPUs.",
)
@click.option("--out", default=".", type=PathArgument(exists=True, file_okay=False), help="Folder of the two files.")
@click.option("--print", "printing", is_flag=True, help="Print both files instead of writing them.")
def init(file: Path | None, this_machine: bool | None, out: Path, printing: bool, **options: str | None) -> None:
    """Write submission.sh, which names the submitter, and system.yaml, which describes the system. FILE is a config.

    On a terminal, it asks for missing values. Elsewhere, it names them and exits with status 2. A node of the system
    fills in what it knows about itself; the rest is marked BLANK.

    \b
    llama31 submission init configs/config_DGXH100_64x8x288xtp8pp8cp2.sh
    srun -N 1 llama31 submission init --org Example --status onprem --platform '64xNVIDIA HGX H100' --system-name Eos
    """
    if not printing:
        require_free(out)
    config = _config(file)
    is_node = bool(machine.accelerators()) if this_machine is None else this_machine
    here = machine.node() if is_node else {}
    if not is_node:
        _say("no node   this machine has no GPU, so it does not describe itself; run this on a node to fill in more")
    if doubt := other_node(here, config):
        _say(f"WARNING   {doubt}; --another-machine leaves this machine out")
    answers = {question.name: value for question in _QUESTIONS if (value := options[_parameter(question)])}
    files = complete(answers, here, config, _asker())
    if printing:
        click.echo(f"{files.exports}\n{files.system_yaml}", nl=False)
        return
    exports, system_yaml = write(out, files)
    _say(f"written   {exports}: {', '.join(f'{name}={value}' for name, value in files.identity.items())}")
    _say(f"written   {system_yaml}, blank: {', '.join(files.blank) or 'nothing'}")
    _say(f"next      source {exports}, then the config, in the shell of preflight and sbatch")
    _say(f"          llama31 preflight {file or 'CONFIG'} --system-yaml {system_yaml}")


def _config(file: Path | None) -> RunConfig | None:
    """Return the runs' configuration; None if neither a file nor the environment gives one."""
    try:
        return resolve(file).config
    except ConfigError:
        if file is not None:
            raise
        return None


def _asker() -> Callable[[Question, str | None], str] | None:
    return _ask if sys.stdin.isatty() else None


def _ask(question: Question, usual: str | None) -> str:
    kind = click.Choice(list(question.choices)) if question.choices else click.STRING

    def judged(text: str) -> str:
        value = str(kind.convert(text, None, None)).strip()
        # click asks again after a usage error.
        if refusal := fault(question.name, value):
            raise click.UsageError(refusal)
        return value

    click.echo(f"\n{question}", err=True)
    name = question.flag.removeprefix("--") + (" (required)" if usual is None else "")
    return str(click.prompt(name, type=kind, default=usual, value_proc=judged, err=True))


def _say(line: str) -> None:
    click.echo(printable(line), err=True)
