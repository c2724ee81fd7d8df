"""The pages are true: their commands and options exist, cheap ones are run, and every link leads somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

from benchmark.arguments import SETTINGS
from benchmark.checkout import ROOT
from harness.__main__ import main

PAGES = [
    *(
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "nullcuda/README.md", "perf/steps/README.md")
    ),
    *sorted((ROOT / "docs").glob("*.md")),
]

PLACEHOLDER = r"config_(<SYSTEM>|<DGXSYSTEM>|X|MINE|OLD)\.sh"
"""Config files that stand for the reader's own."""

OPEN_DIVISION = (
    "MLPERF_SUBMISSION_DIVISION=open LEARNING_RATE=1e-4 WARMUP_STEPS=100 "
    "llama31 show configs/config_DGXH100_64x8x288xtp8pp8cp2.sh"
)
PLANS = [
    "llama31 plan configs/config_GB200_128x4x144xtp4pp8cp2.sh --precision nvfp4",
    "llama31 plan --gpu GB300 --gpus 512 --precision nvfp4 --write",
    "llama31 plan --gpu GB300 --gpus 256,512,1024 --precision nvfp4",
    "llama31 plan --gpu GB300 --minutes 60 --precision nvfp4",
]


def lines(page: Path) -> Iterator[str]:
    """The code of a page: lines of its blocks, without their comments, and what is set as code within its text."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    code = "\n".join([*blocks, *re.findall(r"^ {4}(.*(?:\n {4}.*)*)", rest, re.MULTILINE)]).replace("\\\n", " ")
    # A comment begins after two spaces, as in the README's test.
    yield from (line.split("  #")[0].strip() for line in code.splitlines())
    prose = re.sub(r"^ {4}.*", "", rest, flags=re.MULTILINE)
    yield from (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose))


def commands(page: Path) -> Iterator[str]:
    """The simple commands of a page's code, in pipes and lists as well, without redirections."""
    for line in lines(page):
        yield from (part.split(" > ")[0].strip() for part in re.split(r" \|\| | && | \| |; ", line))


def arguments(command: str) -> list[str]:
    """The arguments of a `llama31` command, after variables; none if it is another command."""
    found = re.fullmatch(r"(?:[A-Z_0-9]+=\S* )*(?:srun -N 1 )?(?:\S*/)?llama31((?: .*)?)", command)
    return [] if found is None else shlex.split(found[1])


def refusal(words: list[str]) -> str | None:
    """What click says against the verb and the options of a command; values are not looked at."""
    command: click.Command = main
    context = click.Context(main, info_name="llama31", **SETTINGS)
    try:
        while isinstance(command, click.Group):
            # `plan FILE` is short for `plan layout FILE`.
            if command.name == "plan" and words[:1] != ["calibrate"] and words[:1] != ["layout"]:
                words = ["layout", *words]
            if not words or words[0].startswith("-"):
                break
            name, found, words = command.resolve_command(context, words)
            assert found is not None
            command, context = found, click.Context(found, info_name=name, parent=context)
        command.make_parser(context).parse_args(list(words))
    except click.UsageError as error:
        return error.format_message()
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_verb_and_option_exists(page: Path) -> None:
    """Each `llama31` command of a page names a verb that there is, with options that it takes."""
    asked = {command: arguments(command) for command in commands(page)}
    refused = {command: refusal(words) for command, words in asked.items() if words[:1] not in ([], ["VERB"])}
    assert {command: reason for command, reason in refused.items() if reason is not None} == {}


def test_a_verb_or_option_that_does_not_exist_is_found() -> None:
    """The test above can fail."""
    assert refusal(["chekc", "results"]) == "No such command 'chekc'."
    assert str(refusal(["plan", "--gpus", "512", "--gpu-count", "4"])).startswith("No such option '--gpu-count'")
    assert refusal(["plan", "--gpus"]) == "Option '--gpus' requires an argument."


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_script_and_module_exists(page: Path) -> None:
    """Each script that a page starts or sources is a file, and each module after -m can be found."""
    missing = []
    for command in commands(page):
        script = re.match(r"(?:[A-Z_0-9]+=\S* )*(?:bash|source) (\S+\.sh)\b", command)
        # submission.sh is what `llama31 submission init` writes.
        if script and script[1] != "submission.sh" and not re.search(PLACEHOLDER, script[1]):
            missing += [] if (ROOT / script[1]).is_file() else [script[1]]
        module = re.match(r"\S*python[0-9.]* -m ([\w.]+)", command)
        if module and module[1] != "pip":
            missing += [] if find_spec(module[1]) else [module[1]]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_named_config_exists(page: Path) -> None:
    """A config file that a page names is shipped, unless it stands for the reader's own."""
    named = set(re.findall(r"config_[\w<>]+\.sh", page.read_text(encoding="utf-8")))
    shipped = {path.name for path in (*ROOT.glob("config_*.sh"), *(ROOT / "configs").glob("config_*.sh"))}
    assert {name for name in named - shipped if not re.search(PLACEHOLDER, name)} == set()


@pytest.mark.parametrize("command", [OPEN_DIVISION, *(pytest.param(plan, marks=pytest.mark.slow) for plan in PLANS)])
def test_a_command_of_a_page_works(command: str, tmp_path: Path) -> None:
    """A command that stands in a page, and needs no more than the shipped configs, ends with status 0."""
    assert any(command in commands(page) for page in PAGES)
    typed = command.replace("--write", f"--write {shlex.quote(str(tmp_path))}")
    typed = typed.replace("llama31 ", f"{shlex.quote(sys.executable)} -m harness ")
    done = subprocess.run(
        ["bash", "-euc", typed], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """Relative links are files or folders of the checkout, and headings of a page are there."""
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
        found = page.parent / target if target else page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), f"{target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """The headings of a page, as links spell them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
