"""Writes docs/commands.md, the help of every verb: `python -m harness.commands_page > docs/commands.md`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from benchmark.arguments import SETTINGS
from harness.__main__ import main

_HEAD = """\
# Commands

This page is for looking up a command: it has the output of `llama31 VERB -h` for each verb.
`python -m harness.commands_page > docs/commands.md` writes it.
"""

_WIDTH = 120
"""Characters of a line: a page must not depend on the width of a terminal."""


def commands_page() -> str:
    """Return the page, as Markdown: a heading and the help for each verb, followed by those of its own verbs."""
    top = click.Context(main, info_name="llama31", terminal_width=_WIDTH, **SETTINGS)
    return "\n".join([_HEAD, *_entries(main, top)])


def _entries(group: click.Group, context: click.Context) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context)
        yield f"## {inner.command_path}\n\n```\n{command.get_help(inner)}\n```\n"
        if isinstance(command, click.Group):
            yield from _entries(command, inner)


if __name__ == "__main__":
    click.echo(commands_page(), nl=False)
