"""Writes docs/variables.md, every variable of a run in words, from the groups that declare them."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

from pydantic import BaseModel

from benchmark.benchmarks import BENCHMARKS, every_rules
from benchmark.config import NAMES, RunConfig
from benchmark.errors import RefusedError

_HEAD = """\
# Variables

This page is for looking up a variable. Set variables in a config file, or for one command (`NEXP=3 bash
run_and_time.sh`). `llama31 show FILE` prints the value of each variable in a configuration and where it comes from.

An empty variable counts as unset. An invalid value is refused before anything runs, with the valid values.
`llama31 variables` writes this page from [benchmark/config/groups.py](../benchmark/config/groups.py), which declares
the variables.
"""


_LIMITS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
"""JSON schema's words for the ends of a range, and ours."""

_SETUP = """\
## The environment

setup.sh makes the Python environment and has variables of its own: `bash setup.sh --help`. A config file may also set
variables of the libraries (`NCCL_`, `NVTE_`, `CUDA_` ...). The libraries read them, and run.json records them.
"""


def variables_page() -> str:
    """Return the page, as Markdown: a section for each group, a table of its variables in each."""
    return "\n".join([_HEAD, *(_section(group) for group in _groups()), _SETUP])


def variable_text(name: str) -> str:
    """Return one variable, for a terminal.

    Raises:
        RefusedError: there is no variable of this name; the message names similar ones.
    """
    if name not in NAMES:
        close = get_close_matches(name.upper(), NAMES, cutoff=0.5)
        raise RefusedError(
            f"there is no variable {name!r}"
            + (f"; did you mean {' or '.join(close)}?" if close else "; `llama31 variables` has all")
        )
    group = next(group for group in _groups() if name in _schemas(group))
    schema = _schemas(group)[name]
    meaning = _meanings(group).get(name, "").replace("`", "")
    facts = {"values": _values(name, schema), "if unset": _default(group, name, schema)}
    return "\n".join(
        [name, "", *([meaning, ""] if meaning else []), *(f"{key:<9} {fact}" for key, fact in facts.items()), ""]
    )


def _groups() -> list[type[BaseModel]]:
    """Return the groups in the order in which they are declared, the run's own variables first."""
    groups = (info.annotation for info in RunConfig.model_fields.values())
    return [RunConfig, *(group for group in groups if isinstance(group, type) and issubclass(group, BaseModel))]


def _section(group: type[BaseModel]) -> str:
    title = "What is run" if group is RunConfig else group.__name__
    about = "" if group is RunConfig else " ".join((inspect.getdoc(group) or "").split()) + "\n\n"
    meanings = _meanings(group)
    rows = (
        f"| `{name}` | {_values(name, schema)} | {_default(group, name, schema)} | {meanings.get(name, '')} |".replace(
            "  ", " "
        )
        for name, schema in _schemas(group).items()
    )
    return "\n".join([f"## {title}\n", f"{about}| variable | values | if unset | |", "|---|---|---|---|", *rows, ""])


def _schemas(group: type[BaseModel]) -> Mapping[str, dict[str, Any]]:
    """Return the JSON schema of each variable of a group, by shell name."""
    properties = group.model_json_schema(by_alias=True)["properties"]
    return {name: schema for name, schema in properties.items() if name in NAMES}


def _meanings(group: type[BaseModel]) -> dict[str, str]:
    """Return the text below each field, by shell name.

    It is read from the source on demand; pydantic would read it on every start.
    """
    source = inspect.getsource(group)
    body = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)).body
    fields = group.model_fields
    meanings = {}
    for field, text in pairwise(body):
        match field, text:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(meaning))),
            ) if name in fields:
                meanings[str(fields[name].alias)] = " ".join(meaning.split())
    return meanings


def _values(name: str, schema: Mapping[str, Any]) -> str:
    """Return the valid values, in words."""
    if name == "BENCHMARK":
        return ", ".join(BENCHMARKS)
    if name == "RULESET":
        return ", ".join(sorted({rules.ruleset for rules in every_rules()}))
    schema = next((one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"), schema)
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    kind = str(schema.get("type"))
    if kind == "boolean":
        return "True, False"
    if kind == "string":
        return "a path" if schema.get("format") == "path" else "text"
    if kind == "integer" and schema.get("exclusiveMinimum") == 0:
        schema = {"minimum": 1, **schema}
        del schema["exclusiveMinimum"]
    limits = [f"{word} {schema[key]:,}" for key, word in _LIMITS.items() if key in schema]
    return " ".join([kind, *limits])


def _default(group: type[BaseModel], name: str, schema: Mapping[str, Any]) -> str:
    """Return the value of an unset variable, as far as its declaration decides it."""
    if "default" not in schema:
        return "must be set" if _is_required(group, name) else ""
    default = schema["default"]
    if default in (None, ""):
        return ""
    # This folder of the checkout differs from machine to machine.
    return "results/logs" if name == "LOGDIR" else str(default)


def _is_required(group: type[BaseModel], name: str) -> bool:
    return any(info.alias == name and info.is_required() for info in group.model_fields.values())
