"""What a package tells its readers: the README with which its runs can be repeated, and the submitter's checklist."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmark.checkout import ROOT
from benchmark.config import RunConfig, resolve
from benchmark.files import RUN_JSON
from compliance.checks.systems import FIELDS
from compliance.package.build import _copy_implementation
from compliance.package.checklist import Item, Packed, State, checklist, names
from compliance.package.facts import Facts
from compliance.package.readme import readme
from compliance.package.runs import ChosenRuns, choose
from harness.__main__ import main
from tests.launches import IDENTITY, launch, llama31_405b

CONFIG = "configs/config_DGXH100_64x8x288xtp8pp8cp2.sh"
CHOSEN = {"MLPERF_SUBMISSION_DIVISION": "open", "LEARNING_RATE": "0.0001", "WEIGHT_DECAY": "0", "BUCKET_SIZE": "1000"}
ELSEWHERE = {"DATADIR": "/secret/c4", "LOAD_CHECKPOINT": "/secret/405b", "CONT": "/secret/image.sqsh"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> ChosenRuns:
    """Rehearsed runs of a config of the checkout, of the open division, with data that they compared."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (IDENTITY | CHOSEN | ELSEWHERE).items():
            patch.setenv(name, value)
        config = resolve(ROOT / CONFIG).config
    folder = launch(tmp_path_factory.mktemp("runs") / "runs", config, seeds=(41, 42, 43))
    record = json.loads((folder / RUN_JSON).read_text(encoding="utf-8"))
    files = {"train|1.bin": {"bytes": 7, "sha256": "ab" * 32}, "x.idx": {"bytes": 9}}
    record["data"] = {"compared": "sizes", "files": files}
    (folder / RUN_JSON).write_text(json.dumps(record), encoding="utf-8")
    (chosen,) = choose([folder], rehearsal=True)
    return chosen


@pytest.fixture(scope="module")
def text(runs: ChosenRuns) -> str:
    return readme(runs, ROOT, CONFIG)


def commands(text: str) -> list[str]:
    """The lines of the indented blocks, without their comments."""
    return [line.split("  #")[0].strip() for line in re.findall(r"^ {8}(.*)$", text, re.MULTILINE)]


# The README.


def test_every_link_of_a_package_leads_somewhere(text: str, tmp_path: Path) -> None:
    """In an implementation's README and the documents next to it, files, folders and headings exist."""
    _copy_implementation(ROOT, tmp_path / "here", Path(CONFIG).name)
    (tmp_path / "here/README.md").write_text(text, encoding="utf-8")
    pages = {page: page.read_text(encoding="utf-8") for page in (tmp_path / "here").rglob("*.md")}
    links = [(page, link) for page, said in pages.items() for link in re.findall(r"\]\(([^)\s]+)\)", said)]
    assert len(links) > 20
    assert [f"{page.name}: {link}" for page, link in links if not leads_somewhere(page, link)] == []


def leads_somewhere(page: Path, link: str) -> bool:
    name, _, heading = link.partition("#")
    target = page.parent / name if name else page
    if heading and target.is_file():
        titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
        return heading in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    return target.exists()


def test_the_steps_give_the_runs_again(text: str, runs: ChosenRuns) -> None:
    """A shell that sources and exports what the README says has the model, the layout and the choices of the runs."""
    steps = [line for line in commands(text) if line.startswith(("source ", "export "))]
    shell = ["bash", "-euc", "; ".join([*steps, "exec env -0"])]
    said = subprocess.run(shell, cwd=ROOT, env={"PATH": os.defpath}, capture_output=True, text=True, check=True).stdout
    again = RunConfig.from_environment(dict(line.split("=", 1) for line in said.split("\0") if "=" in line))
    config = runs.launch.config
    for group in ("benchmark", "ruleset", "system", "layout", "kernels", "hyperparameters", "submission"):
        assert getattr(again, group) == getattr(config, group), group
    assert config.job.walltime is not None
    assert (again.job.experiments, again.job.walltime) == (3, 3 * config.job.walltime)


def test_only_what_the_config_does_not_give_is_exported(text: str) -> None:
    """The README repeats no value of the config file, and names no folder of the runs' machine."""
    exported = {line.split("=")[0].removeprefix("export ") for line in commands(text) if line.startswith("export ")}
    assert exported == {*CHOSEN, *IDENTITY, "NEXP"}
    assert "/secret" not in text
    assert "`image.sqsh`" in text


def test_every_command_of_the_steps_exists(text: str) -> None:
    """Each `llama31` line has a verb and options that there are."""
    lines = [shlex.split(line) for line in commands(text) if line.startswith("llama31 ")]
    assert len(lines) == 4
    for _, *arguments in lines:
        verbs = [word for word in arguments if word in ("data", "checkpoint", "download", "verify", "inspect", "check")]
        help_text = CliRunner().invoke(main, [*verbs, "--help"]).output
        assert help_text.startswith(f"Usage: main {' '.join(verbs)} "), arguments
        assert all(word in help_text for word in arguments if word.startswith("--"))


@pytest.mark.parametrize(
    "line",
    [
        "open division, on 64 nodes of 8 accelerators.",
        "**A rehearsal: these runs were simulated, and nothing was trained.**",
        "| result_1.txt | `42` | ",
        "| train/1.bin | `7` | `sha256 " + "ab" * 32 + "` |",
        "| x.idx | `9` |  |",
        "| opt_base_learning_rate | `0.0001` | `0.00016` |".replace("0.00016", "8e-05"),
        "| opt_adamw_weight_decay | `0.0` | `0.1` |",
        "| opt_adamw_beta_1 | `0.9` |  |",
        "| numpy | `",
        "| optimizer and schedule | [reference_impl/optimizer.py](reference_impl/optimizer.py)",
    ],
)
def test_readme_has_what_a_reviewer_asks_for(text: str, line: str) -> None:
    """It has division, seeds, data with checksums, hyperparameters next to the closed division's, versions and
    places.
    """
    assert any(one.startswith(line) for one in text.splitlines())


# The checklist.


FULL: Facts = dict.fromkeys(FIELDS, "something")
CODE: dict[str, Any] = {"revision": "a" * 40, "modified": False}


def packed(runs: ChosenRuns, **changes: Any) -> Packed:
    """A submission of which the harness can do all that it ever can; `changes` are of its runs' configuration."""
    record = runs.launch.record.model_copy(update={"code": CODE})
    launch = replace(runs.launch, record=record)
    config = llama31_405b(**changes)
    vars(launch)["config"] = config
    return Packed(chosen=[replace(runs, launch=launch)], descriptions={"A": FULL}, code=CODE)


def item(packed: Packed, what: str) -> Item:
    (found,) = (one for one in checklist(packed) if one.what == what)
    return found


def test_items_are_those_of_the_docs() -> None:
    """docs/submission.md explains every item, in the order in which it is printed, with its source."""
    page = (ROOT / "docs/submission.md").read_text(encoding="utf-8").partition("## What the policies ask for")[2]
    rows = re.findall(r"^\| (\w[\w ]*) \|.*\| (the same|(?:submission|training)_rules.*) \|$", page, re.MULTILINE)
    assert tuple(what for what, _ in rows) == names()


def test_what_the_harness_can_do_is_done(runs: ChosenRuns) -> None:
    """For runs that lack nothing, only tasks that no program can do are left."""
    left = {one.what for one in checklist(packed(runs)) if one.state is State.TO_DO}
    assert left == {"registration", "round", "category", "upload", "review", "publication"}


def test_blank_fields_are_named(runs: ChosenRuns) -> None:
    """A field that the rules want filled is to do, by name; one of cores and vcpus is enough; notes may be blank."""
    description = FULL | {"cooling": "", "hw_notes": "", "host_processor_core_count": ""}
    found = item(replace(packed(runs), descriptions={"A": description}), "system description")
    assert (found.state, found.said.endswith(": cooling of systems/A.json")) == (State.TO_DO, True)
    description["host_processor_vcpu_count"] = ""
    found = item(replace(packed(runs), descriptions={"A": description}), "system description")
    assert "cooling, host_processor_core_count or host_processor_vcpu_count of" in found.said


@pytest.mark.parametrize("code", [CODE | {"revision": "b" * 40}, CODE | {"modified": True}, {"revision": None}])
def test_code_that_is_not_that_of_the_runs_is_to_do(runs: ChosenRuns, code: dict[str, Any]) -> None:
    """Another revision, changed files, or a git that did not answer."""
    found = item(replace(packed(runs), code=code), "code")
    assert (found.state, "the runs had revision aaaaaaaaaaaa" in found.said) == (State.TO_DO, True)


@pytest.mark.parametrize(
    ("changes", "what", "state", "said"),
    [
        ({"MLPERF_SUBMISSION_DIVISION": "open"}, "seeds", State.NOT_APPLICABLE, "open division"),
        ({"MINIBS": 72}, "batch size", State.TO_DO, "576 of llama31_405b"),
        ({"MINIBS": 72, "MLPERF_SUBMISSION_DIVISION": "open"}, "batch size", State.NOT_APPLICABLE, ""),
        ({"CONT": "example/image:1"}, "software", State.TO_DO, "example/image:1"),
        ({"MLPERF_SUBMISSION_STATUS": "preview"}, "category", State.TO_DO, "in the next round after 140 days"),
        ({}, "round", State.TO_DO, "llama31_405b 6.0.0; the latest is 6.1.0"),
        ({"MLPERF_SUBMISSION_DIVISION": "open"}, "publication", State.TO_DO, "llama31_405b open"),
    ],
)
def test_items_follow_the_runs(runs: ChosenRuns, changes: dict[str, Any], what: str, state: State, said: str) -> None:
    """Division, batch size, image, status and ruleset decide what is left, and are named."""
    found = item(packed(runs, **changes), what)
    assert (found.state, said in found.said) == (state, True)
