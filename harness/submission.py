"""What a submission states before its runs, who submits and on what system: one file for the shell, one to package."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from benchmark.config import RunConfig
from benchmark.errors import RefusedError
from compliance.checks.packages import NAME
from compliance.package.facts import STACK, Facts
from compliance.package.fields import MEANINGS, RECORDED
from compliance.package.system import NEEDED

EXPORTS, SYSTEM_YAML = "submission.sh", "system.yaml"

_EXPORTS_HEAD = """\
# The submitter. Source this before a config: each run logs it, and a log cannot be changed later.
# The platform contains the number of nodes, so each size of a system needs its own file.
"""

_SYSTEM_HEAD = """\
# The system of a submission, for `llama31 package --system-yaml`. Values are plain text.
# A field marked BLANK may stay blank, and is then empty in the submission; `package` lists what the policies require.
# `llama31 preflight CONFIG --system-yaml system.yaml` checks it; on a node of the system, also against the machine.
"""


@dataclass(frozen=True, slots=True)
class Question:
    """One thing that a submission must state."""

    name: str
    """A variable of the configuration, or a field of the system."""
    flag: str
    meaning: str
    choices: Mapping[str, str] = field(default_factory=dict)
    """Valid value -> its meaning; any text if empty."""

    def __str__(self) -> str:
        choices = "; ".join(f"{value}: {meaning}" for value, meaning in self.choices.items())
        return f"{self.meaning} ({choices})" if choices else self.meaning


_ORG, _DIVISION, _STATUS, _PLATFORM = (
    f"MLPERF_SUBMISSION_{name}" for name in ("ORG", "DIVISION", "STATUS", "PLATFORM")
)

IDENTITY = (
    Question(
        _ORG,
        "--org",
        "the submitter, as the results tables spell it; join several with a +, such as: IBM+CoreWeave",
    ),
    Question(
        _DIVISION,
        "--division",
        "whether the reference's model and hyperparameters are kept",
        {"closed": "they are kept", "open": "others are used"},
    ),
    Question(
        _STATUS,
        "--status",
        "availability of the system",
        {
            "onprem": "customers can buy it",
            "cloud": "customers can rent it",
            "preview": "customers will be able to, within the time that the policies give",
            "research": "neither: research, development, or internal",
        },
    ),
    Question(_PLATFORM, "--platform", "number of nodes, x, and the node, such as: 64xNVIDIA HGX H100"),
)

SYSTEM = tuple(
    Question(name, f"--{name.replace('_', '-')}", f"{meaning.text}, such as: {meaning.example}")
    for name, meaning in MEANINGS.items()
    if name != STACK
)

_ASKED = (
    *(question for question in IDENTITY if question.name != _PLATFORM),
    *(question for question in SYSTEM if question.name in NEEDED and question.name not in RECORDED),
    # Last, since the other answers determine it.
    *(question for question in IDENTITY if question.name == _PLATFORM),
)
"""Questions that only a person can answer."""

Ask = Callable[[Question, str | None], str]
"""Asks a person; the second argument is what an empty answer means."""


@dataclass(frozen=True, slots=True)
class SubmissionFiles:
    """What is known of a submission before its runs."""

    identity: Mapping[str, str]
    """Shell name -> value."""
    facts: Facts
    """Fields of the system."""

    @property
    def exports(self) -> str:
        """The text of the shell file."""
        return _EXPORTS_HEAD + "".join(f"export {name}={quote(value)}\n" for name, value in self.identity.items())

    @property
    def system_yaml(self) -> str:
        """The text of system.yaml: every field with its meaning; empty fields are marked."""
        return _SYSTEM_HEAD + "".join(f"\n{_entry(name, self.facts)}\n" for name in MEANINGS)

    @property
    def blank(self) -> tuple[str, ...]:
        """The fields that are empty and will not be filled by the runs."""
        return tuple(name for name in MEANINGS if name not in self.facts and name not in RECORDED)


def complete(answered: Mapping[str, str], here: Facts, config: RunConfig | None, ask: Ask | None) -> SubmissionFiles:
    """Combine the user's answers with what this machine reports, and ask for the rest.

    Args:
        here: facts about this machine, if it is a node of the system.
        config: the runs' configuration, if it is known.
        ask: asks a person; None if there is nobody to ask.

    Raises:
        RefusedError: something is missing, or has an invalid value.
    """
    answers: dict[str, str | dict[str, str]] = {**here, **answered}
    missing = []
    for question in _ASKED:
        if question.name in answers:
            continue
        usual = _usual(question.name, answers, config)
        if ask is not None:
            answers[question.name] = ask(question, usual)
        elif usual is not None:
            answers[question.name] = usual
        else:
            missing.append(f"{question.flag} is missing: {question}")
    if faults := [*missing, *_faults(answers)]:
        raise RefusedError(faults)
    identity = {question.name: str(answers[question.name]) for question in IDENTITY}
    return SubmissionFiles(identity, {name: answers[name] for name in MEANINGS if name in answers})


def _usual(name: str, answers: Facts, config: RunConfig | None) -> str | None:
    """Return the usual value where the user gives none."""
    if name == _DIVISION:
        return "closed"
    if name == _PLATFORM and config is not None and "accelerator_model_name" in answers:
        return f"{config.layout.nodes}x{answers['accelerator_model_name']}"
    return None


def _faults(answers: Facts) -> Iterator[str]:
    flags = {question.name: question.flag for question in (*IDENTITY, *SYSTEM)}
    for name, value in answers.items():
        if found := fault(name, str(value)):
            yield f"{flags[name]} is {str(value)!r}; {found}"


def fault(name: str, value: str) -> str:
    """Return why an answer is not accepted; empty if it is."""
    if name == _ORG and not NAME.fullmatch(value):
        return "it names the folder of a submission: expected only letters, digits and _ . + - @ = , and no dot first"
    if name == "host_processors_per_node" and not (value.isascii() and value.isdecimal()):
        return "expected a whole number, which the official tools multiply"
    return ""


def other_node(here: Facts, config: RunConfig | None) -> str:
    """Return why this machine is not a node of the configuration; empty if it may be one."""
    found = here.get("accelerators_per_node")
    if config is None or found in (None, str(config.layout.gpus_per_node)):
        return ""
    return f"this machine has {found} accelerators, but a node of {config.system} has {config.layout.gpus_per_node}"


def _entry(name: str, facts: Facts) -> str:
    meaning, value = MEANINGS[name], facts.get(name)
    about = f"# {meaning.text[0].upper()}{meaning.text[1:]}, such as: {meaning.example}"
    if isinstance(value, dict):
        return "\n".join([about, f"{name}:", *(f"  {_quoted(key)}: {_quoted(text)}" for key, text in value.items())])
    if value:
        return f"{about}\n{name}: {_quoted(value)}"
    return f"{about}\n{name}:  # BLANK{' until the runs say it' if name in RECORDED else ''}"


def _quoted(text: str) -> str:
    """Quote a text for YAML, which reads JSON's strings."""
    return json.dumps(text)


def require_free(folder: Path) -> None:
    """Raise RefusedError if one of the files already exists in a folder."""
    paths = [folder / name for name in (EXPORTS, SYSTEM_YAML)]
    if there := [path for path in paths if path.exists() or path.is_symlink()]:
        raise RefusedError(
            [f"{path} already exists and is never overwritten; move it, or change --out" for path in there]
        )


def write(folder: Path, files: SubmissionFiles) -> tuple[Path, Path]:
    """Write both files, and return their paths.

    Raises:
        RefusedError: a file already exists, or the folder cannot be written.
    """
    require_free(folder)
    exports, system_yaml = folder / EXPORTS, folder / SYSTEM_YAML
    try:
        exports.write_text(files.exports, encoding="utf-8")
        system_yaml.write_text(files.system_yaml, encoding="utf-8")
    except OSError as error:
        raise RefusedError(f"--out {folder} cannot be written: {error.strerror}") from None
    return exports, system_yaml
