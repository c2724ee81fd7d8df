"""One row for each benchmark: its values, that they are stated nowhere else, and that a new benchmark needs only a
row.
"""

from __future__ import annotations

import ast
import gzip
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark.benchmarks import BENCHMARKS, LLAMA31_8B, LLAMA31_405B, Benchmark, benchmark_named
from benchmark.checkout import ROOT
from benchmark.config import config_files, resolve
from reference_impl.data.prepare import c4

PACKAGES = ("benchmark", "compliance", "reference_impl", "report", "harness")
NAMED_IN = {"benchmark/benchmarks.py", "benchmark/rules.py"}
"""Where the name of a benchmark may be code."""


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("llama31_405b", 402_699_272_192), ("llama31_8b", 8_030_261_248), ("llama31_tiny", 8_569_472)],
)
def test_parameters_count_the_benchmarks_own_vocabulary(name: str, parameters: int) -> None:
    """405B has 32,000 rows in embedding and output, 8B the 128,256 of Llama 3.1."""
    assert benchmark_named(name).parameters == parameters


@pytest.mark.parametrize("row", BENCHMARKS.values(), ids=lambda row: row.name)
def test_initial_weights_are_logged_where_there_are_some(row: Benchmark) -> None:
    """A benchmark that starts from a checkpoint logs init_checkpoint_step by all of its rulesets; no other does."""
    assert {rules.init_checkpoint_step is not None for rules in row.rules} == {row.initial_weights is not None}


def test_rules_of_another_benchmark_are_refused() -> None:
    """A row cannot be judged by another's rules."""
    with pytest.raises(ValueError, match="the rules of llama31_8b are of"):
        replace(LLAMA31_8B, rules=LLAMA31_405B.rules)


def names_in_code(path: Path) -> list[str]:
    """Strings that are exactly the name of a benchmark; longer texts are for people."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and node.value in BENCHMARKS]


def test_nothing_else_names_a_benchmark() -> None:
    """No module outside the rows asks for one benchmark by its name."""
    modules = [path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    found = {path.as_posix(): names for path in modules if (names := names_in_code(ROOT / path))}
    assert found.keys() <= NAMED_IN, found


# A new ruleset.


def test_a_new_ruleset_changes_no_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """With different rows for 6.2.0, every config of the repository still describes the run that it was."""
    before = {path.name: resolve(path).config for path in config_files()}
    rules = {path: config.rules for path, config in before.items()}
    for row in list(BENCHMARKS.values()):
        newest = replace(row.rules[-1], ruleset="6.2.0", eval_every_sequences=3 * row.rules[-1].eval_every_sequences)
        monkeypatch.setitem(BENCHMARKS, row.name, replace(row, rules=(*row.rules, newest)))

    after = {path.name: resolve(path).config for path in config_files()}
    assert after == before
    assert {path: config.rules for path, config in after.items()} == rules


# A new benchmark.

ROW = """
LLAMA31_70B = Benchmark(
    name="llama31_70b",
    size=SIZES["70b"],
    tokenizer=MIXTRAL_8X22B,
    dataset=Dataset(
        corpus="C4 en, shards 768-895",
        train=(_TRAIN_6,),
        validation=_VALIDATION,
        files=FileSet(about="dataset of llama31_70b", sizes=dict.fromkeys(LLAMA31_8B.dataset.files.sizes)),
    ),
    initial_train_loss=random_first_loss(SIZES["70b"], MIXTRAL_8X22B.vocabulary),
    rules=(replace(LLAMA31_405B_RULES[-1], benchmark="llama31_70b", init_checkpoint_step=None),),
)
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the packages whose benchmark/benchmarks.py has one more row."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "config_common.sh", tmp_path)
    path = tmp_path / "benchmark" / "benchmarks.py"
    text = path.read_text(encoding="utf-8")
    text = text.replace("from dataclasses import dataclass\n", "from dataclasses import dataclass, replace\n")
    text = text.replace("\nBENCHMARKS:", f"{ROW}\nBENCHMARKS:")
    path.write_text(text.replace("LLAMA31_8B, LLAMA31_TINY)}", "LLAMA31_8B, LLAMA31_TINY, LLAMA31_70B)}"))
    return tmp_path


def shards(folder: Path) -> Path:
    """C4's shards for one training file and for validation, with as few lines as possible."""
    folder.mkdir()
    line = json.dumps({"text": "a page"}).encode() + b"\n"
    for number in range(768, 768 + c4.SHARDS_PER_FILE):
        (folder / f"c4-train.{number:05}-of-01024.json.gz").write_bytes(gzip.compress(line))
    validation = gzip.compress(line * c4.VALIDATION_LINES)
    (folder / f"c4-validation-{c4.VALIDATION_LINES}-samples.en.json.gz").write_bytes(validation)
    return folder


@pytest.mark.slow
def test_a_row_is_all_that_a_new_benchmark_takes(checkout: Path, tmp_path: Path) -> None:
    """llama31_70b is configured, shown, planned, searched, prepared, verified, preflighted, rehearsed and checked."""
    data, runs, corpus = tmp_path / "data", tmp_path / "runs", shards(tmp_path / "c4")
    identity = {"ORG": "Example", "STATUS": "onprem", "PLATFORM": "64xDGXH100"}
    environment = os.environ | {"PYTHONPATH": str(checkout), "DATADIR": str(data), "NEXP": "3", "WALLTIME": "600"}
    environment |= {f"MLPERF_SUBMISSION_{name}": value for name, value in identity.items()}

    def llama31(*arguments: str | Path) -> str:
        command = [sys.executable, "-m", "harness", *map(str, arguments)]
        done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    new = ("config", "new", "--benchmark", "llama31_70b", "--gpu", "H100", "--nodes", "64")
    config = llama31(*new, "--out", checkout).strip()
    assert "70b, vocabulary 32,000" in llama31("show", config)
    assert "llama31_70b 6.0.0" in llama31("plan", config)
    llama31("plan", "--gpu", "H100", "--gpus", "64", "--benchmark", "llama31_70b")
    llama31("data", "prepare", "--benchmark", "llama31_70b", "--c4", corpus, data)
    llama31("data", "verify", "--expect", "llama31_70b", data)
    llama31("preflight", config)
    llama31("simulate", config, "--out", runs)
    llama31("check", runs)
