"""The text of a config file, made from the variables that it exports.

`source_config` reads it back. `llama31 plan --write` and `config new` write such files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from shlex import quote
from types import MappingProxyType

from benchmark.benchmarks import BENCHMARKS
from benchmark.checkout import CONFIGS, IS_CHECKOUT
from benchmark.config import NAMES, ConfigError, libraries

# Variables that are read together share a line; every other one has its own.
_LINES = (
    ("BENCHMARK", "RULESET"),
    ("DGXNNODES", "DGXNGPU"),
    ("TENSOR_MODEL_PARALLEL", "PIPELINE_MODEL_PARALLEL", "INTERLEAVED_PIPELINE", "CONTEXT_PARALLEL"),
    ("TP_PP_DP_MAPPING",),
    ("MINIBS", "MICRO_BATCH_SIZE"),
)

_OF_THE_NAME = ("DGXSYSTEM", "CONFIG_FILENAME")
"""config_common.sh takes both from the name of the file that sources it."""

_OVERRIDABLE = ("WALLTIME",)
"""A value that is already in the environment wins."""


def file_name(system: str, values: Mapping[str, str]) -> str:
    """Return `config_<system>_<nodes>x<gpus>x<MINIBS>xtp<TP>pp<PP>cp<CP>.sh`, the name that states these values."""

    def of(name: str) -> str:
        return values.get(name, "1")

    shape = f"{of('DGXNNODES')}x{of('DGXNGPU')}x{of('MINIBS')}"
    layout = f"tp{of('TENSOR_MODEL_PARALLEL')}pp{of('PIPELINE_MODEL_PARALLEL')}cp{of('CONTEXT_PARALLEL')}"
    return f"config_{system}_{shape}x{layout}.sh"


_IN_CONFIGS = ('source "$(dirname "${BASH_SOURCE[0]}")/../config_common.sh"',)

_ELSEWHERE = (
    'DGXSYSTEM=$(basename "${BASH_SOURCE[0]}" .sh)',
    "export DGXSYSTEM=${DGXSYSTEM#config_}",
    "export CONFIG_FILENAME=config_$DGXSYSTEM.sh",
    "PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-${PYTORCH_ALLOC_CONF:-}}",
    "[[ -n ${SBATCH_MEM_PER_CPU:-}${SBATCH_MEM_PER_GPU:-} ]] || export SBATCH_MEM_PER_NODE=${SBATCH_MEM_PER_NODE:-0}",
)
"""Lines that replace config_common.sh in a config outside configs/; `libraries.settings` follows them."""


def write_config(folder: Path, system: str, values: Mapping[str, str], comment: str) -> Path:
    """Write a config file, which can be sourced in that folder; never overwrite an existing one.

    Raises:
        ConfigError: the file exists, or cannot be written.
    """
    path = folder / file_name(system, values)
    library = {} if IS_CHECKOUT and folder.resolve() == CONFIGS else libraries.settings(system)
    text = render(values, comment, library=library)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError([f"{path} cannot be written: {error.strerror}"]) from None
    return path


def render(values: Mapping[str, str], comment: str, *, library: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return a config file that exports `values` (shell name -> value).

    Args:
        library: defaults that it sets for the libraries of the system's GPU; if empty, as in configs/, it sources
            config_common.sh, which sets them.

    DGXSYSTEM and CONFIG_FILENAME are left out, since the file's name implies them. So is an empty value, which means
    unset.

    Raises:
        ConfigError: a name is not a variable of the harness.
    """
    unknown = [name for name in values if name not in NAMES]
    if unknown:
        raise ConfigError([f"{name} is not a variable of the harness; known: {', '.join(NAMES)}" for name in unknown])
    filled = {name: value for name, value in values.items() if value != "" and name not in _OF_THE_NAME}
    together = {name for names in _LINES for name in names}
    alone = ((name,) for name in NAMES if name not in together)
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    lines += _ELSEWHERE if library else _IN_CONFIGS
    if (benchmark := BENCHMARKS.get(values.get("BENCHMARK", ""))) is not None:
        library = {**library, **libraries.of_precision(benchmark, values.get("PRECISION", ""))}
    lines += [f"export {name}=${{{name}:-{value}}}" for name, value in library.items()]
    lines += [
        _export(present) for names in (*_LINES, *alone) if (present := [(n, filled[n]) for n in names if n in filled])
    ]
    return "\n".join(lines) + "\n"


def _export(pairs: Iterable[tuple[str, str]]) -> str:
    return "export " + " ".join(f"{name}={_value(name, value)}" for name, value in pairs)


def _value(name: str, value: str) -> str:
    return f"${{{name}:-{value}}}" if name in _OVERRIDABLE else quote(value)
