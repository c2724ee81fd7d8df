"""Training state on disk: saved while training continues, and loaded bit for bit, or within rounding under another
layout.
"""

from __future__ import annotations

import errno
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import psutil
import pytest
import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex

from benchmark.checkout import ROOT
from benchmark.checkpoints import bytes_of_one
from benchmark.config import RunConfig
from reference_impl import parallel
from reference_impl.checkpoint import writing
from reference_impl.checkpoint.arrays import CheckpointError
from reference_impl.checkpoint.training import damage
from reference_impl.data.read.configured import dataset_of
from reference_impl.preserve import torch_optimizers
from reference_impl.step import MegatronStep
from tests.reference_impl.conftest import run_ranks
from tests.reference_impl.test_step import GRAD_NORM_TOLERANCE, LAYOUTS, LOSS_TOLERANCE, build, fingerprint, slow_down

Tiny = Callable[..., RunConfig]

BEFORE, AFTER = 2, 2
"""Steps before the save, and after it."""

TWO_PROCESSES = LAYOUTS["DP=2"]


def nothing() -> None:
    return None


def refuse(fault: str) -> None:
    raise AssertionError(fault)


def state(step: MegatronStep) -> dict[str, str]:
    # Loading leaves a step count in the optimizer's groups, which nothing reads.
    groups = [
        {name: value for name, value in group.items() if name not in ("params", "step")}
        for inner in torch_optimizers(step.optimizer)
        for group in inner.param_groups
    ]
    return {**fingerprint(step), "optimizer groups": repr(groups)}


def go_on(step: MegatronStep) -> dict[str, Any]:
    """Train a few steps and evaluate."""
    stats = list(step.train(AFTER))
    return {
        "losses": [one.loss for one in stats],
        "grad_norms": [one.grad_norm for one in stats],
        "learning_rates": [one.learning_rate for one in stats],
        "evaluation": step.evaluate(8),
    }


def train_and_save(config: RunConfig, *, folder: Path) -> dict[str, Any]:
    """A few steps, a save that is waited for, another of the same state that is not, and a few steps more."""
    step = build(config)
    slow_down(step)
    step.open_data()
    list(step.train(BEFORE))
    saved = state(step)
    step.save(folder / "waited", nothing, refuse)
    step.finish_saving()
    step.save(folder / "not waited", nothing, refuse)
    after = go_on(step)
    step.finish_saving()
    return {"saved": saved, **after}


def load(config: RunConfig, *, folder: Path) -> MegatronStep:
    step = build(config)
    step.load(folder)
    return step


def load_and_go_on(config: RunConfig, *, folder: Path) -> dict[str, Any]:
    step = load(config, folder=folder)
    loaded = state(step)
    step.open_data()
    return {"saved": loaded, **go_on(step)}


@pytest.mark.parametrize("precision", [pytest.param("fp32", marks=pytest.mark.slow), "bf16"])
def test_a_loaded_state_goes_on_bit_for_bit(precision: str, tiny: Tiny, tmp_path: Path) -> None:
    """On two processes, every bit of state, and the steps and the evaluation that follow, are those of the run itself.

    It is saved while training goes on: what is on disk is the state at the time of the call.
    """
    config = tiny(**TWO_PROCESSES, PRECISION=precision)
    run = run_ranks(config, partial(train_and_save, folder=tmp_path))

    assert run_ranks(config, partial(load_and_go_on, folder=tmp_path / "not waited")) == run


def loaded_state(config: RunConfig, *, folder: Path) -> dict[str, str]:
    return state(load(config, folder=folder))


@pytest.fixture(scope="module")
def of_one_process(make_tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A checkpoint that one process has written, and what it did then."""
    folder = tmp_path_factory.mktemp("checkpoint")
    (answer,) = run_ranks(make_tiny(), partial(train_and_save, folder=folder))
    return folder, answer


def test_waiting_for_a_save_makes_no_difference(of_one_process: tuple[Path, dict[str, Any]], tiny: Tiny) -> None:
    """A state written during training equals one that training waited for."""
    folder, run = of_one_process

    for name in ("waited", "not waited"):
        assert run_ranks(tiny(), partial(loaded_state, folder=folder / name)) == [run["saved"]]


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name not in ("one process", "DP=2, micro 1")])
def test_a_checkpoint_goes_on_under_any_layout(
    layout: str, of_one_process: tuple[Path, dict[str, Any]], tiny: Tiny
) -> None:
    """Saved by one process and loaded by two in any layout, it gives the same curve within rounding, on every rank."""
    folder, run = of_one_process

    for answer in run_ranks(tiny(**LAYOUTS[layout]), partial(load_and_go_on, folder=folder / "waited")):
        agrees(answer, run)


def test_one_process_goes_on_from_two(tiny: Tiny, tmp_path: Path) -> None:
    """A state saved under tensor parallelism loads without it."""
    run = run_ranks(tiny(**LAYOUTS["TP=2 with sequence parallel"]), partial(train_and_save, folder=tmp_path))[0]
    (answer,) = run_ranks(tiny(), partial(load_and_go_on, folder=tmp_path / "waited"))
    agrees(answer, run)


@pytest.mark.slow
def test_a_checkpoint_goes_on_in_another_order_of_ranks(tiny: Tiny, tmp_path: Path) -> None:
    """Saved where the ranks of a stage are neighbours, loaded where those of a copy of the model are.

    The same bits of state, and the same curve but for the order in which ranks are summed.
    """
    layout = {"DGXNGPU": 4, "PIPELINE_MODEL_PARALLEL": 2, "MINIBS": 2, "MICRO_BATCH_SIZE": 1}
    first, second, third, fourth = run_ranks(tiny(**layout), partial(train_and_save, folder=tmp_path))
    answers = run_ranks(tiny(**layout, TP_PP_DP_MAPPING=1), partial(load_and_go_on, folder=tmp_path / "waited"))

    for answer, run in zip(answers, (first, third, second, fourth), strict=True):
        assert answer["saved"] == run["saved"]
        agrees(answer, run)


def load_and_save(config: RunConfig, *, folder: Path, target: Path) -> None:
    step = load(config, folder=folder)
    step.save(target, nothing, refuse)
    step.finish_saving()


def train_and_only_save(config: RunConfig, *, folder: Path) -> dict[str, str]:
    step = build(config)
    step.open_data()
    list(step.train(BEFORE))
    step.save(folder, nothing, refuse)
    step.finish_saving()
    return state(step)


def test_layouts_there_and_back_change_no_bit(tiny: Tiny, tmp_path: Path) -> None:
    """Two data-parallel ranks cut matrices in the middle of a row; by way of two other layouts all bits come back."""
    config = tiny(**TWO_PROCESSES)
    folder = tmp_path / "DP=2"
    saved = run_ranks(config, partial(train_and_only_save, folder=folder))
    for layout in ("TP=2 with sequence parallel", "PP=2 interleaved, embedding and loss as layers"):
        target = tmp_path / layout
        run_ranks(tiny(**LAYOUTS[layout]), partial(load_and_save, folder=folder, target=target))
        folder = target

    assert run_ranks(config, partial(loaded_state, folder=folder)) == saved


def agrees(answer: dict[str, Any], run: dict[str, Any]) -> None:
    assert answer["losses"] == pytest.approx(run["losses"], abs=LOSS_TOLERANCE)
    assert answer["grad_norms"] == pytest.approx(run["grad_norms"], rel=GRAD_NORM_TOLERANCE)
    assert answer["learning_rates"] == run["learning_rates"]
    assert answer["evaluation"] == pytest.approx(run["evaluation"], abs=LOSS_TOLERANCE)


# A save that fails.


def killed(*_: object) -> None:
    """Stands in for the function that writes a file, when memory has run out."""
    os.kill(os.getpid(), signal.SIGKILL)


def hanging(*_: object) -> None:
    """Stands in for a writer that never ends."""
    signal.pause()


def on_a_full_disk(*arguments: Any) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    WRITE(*arguments)


def refuse_to_complete() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/state/resume.json")


WRITE = writing._write


def failed_saves(config: RunConfig, *, folder: Path) -> dict[str, list[str]]:
    """What a rank is told of saves that fail each in another way, and then of one that does not."""
    step = build(config)
    step.open_data()
    list(step.train(1))
    told: dict[str, list[str]] = {}

    def save(name: str, complete: Callable[[], None] = nothing) -> None:
        step.save(folder / name, complete, told.setdefault(name, []).append)

    first = config.process.rank == 0
    with patch.object(writing, "_write", hanging if first else killed):
        save("killed")
        # Training goes on for as long as it takes until a rank knows.
        while not told["killed"]:
            list(step.train(1))
    with patch.object(writing, "_write", killed):
        save("killed on both")
    step.finish_saving()
    with patch.object(writing, "_write", on_a_full_disk):
        save("full")
        step.finish_saving()
    with patch.object(writing._fork.Process, "start", side_effect=OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))):
        save("no process")
    step.finish_saving()
    save("not completed", refuse_to_complete)
    step.finish_saving()
    with patch.object(shutil, "disk_usage", return_value=SimpleNamespace(free=1)):
        save("no room")
    save("saved")
    step.finish_saving()
    told["processes left"] = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    return told


def test_a_save_that_fails_is_told_to_all_ranks(tiny: Tiny, tmp_path: Path) -> None:
    """With one reason, that of the first rank that has one; none waits for a writer that hangs; the next save works.

    No process is left of any.
    """
    config = tiny(**TWO_PROCESSES)
    told, other = run_ranks(config, partial(failed_saves, folder=tmp_path))
    assert told == other
    needed = f"{bytes_of_one(config)[0]:,}"
    assert {name: faults[0] if faults else "" for name, faults in told.items()} == {
        "killed": "rank 1: the process that writes __1_0.distcp was killed (SIGKILL)",
        "killed on both": "rank 0: the process that writes __0_0.distcp was killed (SIGKILL)",
        "full": f"rank 0: {tmp_path}/full/__0_0.distcp: File too large",
        "no process": ("rank 0: cannot start a process to write __0_0.distcp: Resource temporarily unavailable"),
        "not completed": "/state/resume.json: No space left on device",
        "no room": f"{tmp_path}/no room has 1 bytes free, and a checkpoint takes {needed}",
        "saved": "",
        "processes left": "",
    }
    assert not (tmp_path / "no room").exists()


# A checkpoint that is no longer as it was written.


def flip(path: Path) -> None:
    """One bit in the middle."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "none": (lambda folder: None, ""),
    "truncated": (lambda folder: os.truncate(folder / "__0_0.distcp", 9), r"__0_0\.distcp has 9 bytes, expected \d+"),
    "missing": (lambda folder: (folder / "__0_1.distcp").unlink(), r"__0_1\.distcp: No such file"),
    "weights": (lambda folder: flip(folder / "__0_1.distcp"), r"__0_1\.distcp has sha256 \w+, expected"),
    "index": (lambda folder: flip(folder / ".metadata"), r"\.metadata has sha256 \w+, expected"),
    "common": (lambda folder: flip(folder / "common.pt"), r"common\.pt has sha256 \w+, expected"),
    "manifest": (lambda folder: (folder / "manifest.json").write_text("{"), r"manifest\.json is not a manifest: "),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), r"manifest\.json does not exist"),
}


def damages(config: RunConfig, *, folders: list[Path]) -> list[list[str]]:
    parallel.initialize(config)
    return [damage(folder) for folder in folders]


def test_every_damage_to_a_checkpoint_is_found(
    of_one_process: tuple[Path, dict[str, Any]], tiny: Tiny, tmp_path: Path
) -> None:
    """Every rank names the file, though each reads only a share: even for a flipped bit in the weights."""
    source, _ = of_one_process
    for name, (harm, _) in DAMAGES.items():
        harm(Path(shutil.copytree(source / "waited", tmp_path / name)))

    folders = [tmp_path / name for name in DAMAGES]
    found, others = run_ranks(tiny(**TWO_PROCESSES), partial(damages, folders=folders))
    assert found == others
    assert found[0] == []
    for (fault,), (_, message) in zip(found[1:], list(DAMAGES.values())[1:], strict=True):
        assert re.search(message, fault)


def reads_of_initial_weights(config: RunConfig) -> list[int]:
    parallel.initialize(config)
    counts = []
    with patch("reference_impl.step.load_initial_weights") as read:
        for resuming in (False, True):
            MegatronStep(config, dataset_of(config), resuming=resuming)
            counts.append(read.call_count)
    return counts


def test_a_run_that_goes_on_does_not_read_its_initial_weights(tiny: Tiny) -> None:
    """They would be overwritten at once, while the clock runs."""
    assert run_ranks(tiny(), reads_of_initial_weights) == [[1, 1]]


# What is in a checkpoint may not be what we wrote.

NORM = "decoder.final_layernorm.weight"


class Attack:
    """A pickle of it makes a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def change_index(folder: Path, change: Callable[[Any], None]) -> None:
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    change(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def attack_index(folder: Path, marker: Path) -> None:
    change_index(folder, lambda metadata: setattr(metadata, "planner_data", Attack(marker)))


def attack_common(folder: Path, marker: Path) -> None:
    torch.save({"step": Attack(marker)}, folder / "common.pt")


def attack_tensor(folder: Path, marker: Path) -> None:
    """Where the values of a tensor are to be."""
    torch.save(Attack(marker), folder / "__7_7.distcp")

    def change(metadata: Any) -> None:
        (where,) = (index for index in metadata.storage_data if index.fqn == NORM)
        size = (folder / "__7_7.distcp").stat().st_size
        metadata.storage_data[where] = replace(
            metadata.storage_data[where], relative_path="__7_7.distcp", offset=0, length=size
        )

    change_index(folder, change)


def attack_object(folder: Path, marker: Path) -> None:
    """And the index says that it is none, but an object."""
    attack_tensor(folder, marker)

    def change(metadata: Any) -> None:
        (where,) = (index for index in metadata.storage_data if index.fqn == NORM)
        metadata.storage_data[MetadataIndex(NORM)] = metadata.storage_data.pop(where)
        metadata.state_dict_metadata[NORM] = BytesStorageMetadata()

    change_index(folder, change)


ATTACKS: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "index": (
        attack_index,
        r"\.metadata is not an index of a distributed checkpoint: it names 'posix\.mkdir",
    ),
    "common": (attack_common, r"common\.pt: expected the common part of a checkpoint: it names posix\.mkdir"),
    "tensor": (attack_tensor, r"__7_7\.distcp, bytes 0 to \d+: expected a saved tensor: it names posix\.mkdir"),
    "object": (attack_object, rf"has nothing for {re.escape(NORM)}, expected"),
}


def refusals(config: RunConfig, *, folders: list[Path]) -> list[str]:
    """What each rank says of each folder."""
    step = build(config)
    said = []
    for folder in folders:
        try:
            step.load(folder)
        except CheckpointError as error:
            said.append(str(error))
        except BaseException as error:  # noqa: BLE001 - told to the test
            said.append(repr(error))
    return said


def test_resuming_runs_nothing_that_a_checkpoint_says(
    of_one_process: tuple[Path, dict[str, Any]], tiny: Tiny, tmp_path: Path
) -> None:
    """In each of its files, a pickle that calls something is refused by the first rank, by name."""
    source, _ = of_one_process
    for name, (attack, _) in ATTACKS.items():
        attack(Path(shutil.copytree(source / "waited", tmp_path / name)), tmp_path / f"{name} attacked")

    said, others = run_ranks(tiny(**TWO_PROCESSES), partial(refusals, folders=[tmp_path / name for name in ATTACKS]))
    assert not list(tmp_path.glob("*attacked"))
    for one, (_, message) in zip(said, ATTACKS.values(), strict=True):
        assert re.search(message, one)
    assert others == ["SystemExit(2)"] * len(ATTACKS)


# What Megatron-Core needs to be told.


def step_tensors(config: RunConfig, *, folder: Path) -> list[int]:
    """Where in memory the parameters' step counts are."""
    optimizers = torch_optimizers(load(config, folder=folder).optimizer)
    return [state["step"].data_ptr() for one in optimizers for state in one.state.values()]


def test_loaded_parameters_count_their_steps_apart(of_one_process: tuple[Path, dict[str, Any]], tiny: Tiny) -> None:
    """Megatron-Core loads one counter, which would count once for each parameter: a silent 1 % in the loss."""
    folder, _ = of_one_process

    (places,) = run_ranks(tiny(), partial(step_tensors, folder=folder / "waited"))
    assert len(places) > 1
    assert len(set(places)) == len(places)


@pytest.mark.slow
def test_a_missing_psutil_fails_at_once() -> None:
    """The import fails, where Megatron-Core would fail in each save."""
    code = "import sys; sys.modules['psutil'] = None; import reference_impl.checkpoint.training"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "psutil" in done.stderr.splitlines()[-1]


def test_the_program_of_a_rank_is_cheap_to_import() -> None:
    """Starting ranks, and refusing what cannot run, needs no torch."""
    code = "import sys; import reference_impl.pretrain; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def generators(config: RunConfig) -> bool:
    step = build(config)
    before = fingerprint(step)["random generator"]
    step.open_data()
    list(step.train(1))
    step.evaluate(4)
    return fingerprint(step)["random generator"] == before


def test_training_draws_no_random_numbers(tiny: Tiny) -> None:
    """So a checkpoint needs no random state: nothing after initialisation depends on any."""
    assert run_ranks(tiny(), generators) == [True]
