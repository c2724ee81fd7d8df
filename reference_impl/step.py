"""The real Step: one optimizer step and one evaluation of Llama 3.1 on Megatron-Core."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func
from megatron.core.transformer.module import MegatronModule
from megatron.core.utils import get_model_config

from benchmark.checkpoints import bytes_of_one
from benchmark.config import RunConfig
from benchmark.loop import StepStats
from benchmark.stragglers import SlowRank, slowest
from reference_impl import graphs, quantised
from reference_impl.checkpoint import training
from reference_impl.checkpoint.initial import load_initial_weights
from reference_impl.checkpoint.writing import Saving
from reference_impl.data.read.ahead import read_ahead
from reference_impl.data.read.configured import data_folder, tokenizer_of
from reference_impl.data.read.datasets import Datasets, Microbatch, Reader, open_datasets
from reference_impl.files.manifest import Manifest
from reference_impl.gradients import finish_gradients
from reference_impl.model import build_model, unwrap
from reference_impl.optimizer import build_optimizer, build_schedule
from reference_impl.parallel import device, gather, nodes, reports_loss, sum_over_ranks
from reference_impl.preserve import preserved
from reference_impl.profiling import StepProfiler
from reference_impl.stopwatch import Stopwatch

# Enough to run every kernel, collective and allocation of a step; the published submissions use two to six.
WARM_UP_STEPS = 2


class MegatronStep:
    """Builds the model when constructed; opens no data before `open_data`.

    Args:
        resuming: `load` follows, so the initial weights need not be read.
        preempted: returns whether this process has been told to save and stop.
    """

    def __init__(
        self,
        config: RunConfig,
        manifest: Manifest,
        *,
        resuming: bool = False,
        preempted: Callable[[], bool] = lambda: False,
    ) -> None:
        self._config = config
        self._manifest = manifest
        self._preempted = preempted
        self.chunks: list[MegatronModule] = build_model(config)
        if not resuming:
            # Before the optimizer makes its own copies of the weights.
            load_initial_weights(config, self.chunks)
        self.optimizer = build_optimizer(config, self.chunks)
        self.schedule = build_schedule(config, self.optimizer)
        self._attach()
        self._forward_backward = self._training_pass = get_forward_backward_func()
        self._captured = config.kernels.full_cuda_graph
        if self._captured:
            self._training_pass = graphs.iteration(self._forward_backward, WARM_UP_STEPS - 1)
        self._reader = Reader(
            micro_batch_size=config.layout.micro_batch_size,
            replica=parallel_state.get_data_parallel_rank(),
            replicas=config.layout.data_parallel,
            cp_rank=parallel_state.get_context_parallel_rank(),
            cp_size=config.layout.context_parallel,
        )
        self._datasets: Datasets | None = None
        self._done = 0
        self._saving: Saving | None = None
        self._forward_pass = Stopwatch()
        self._forward_times: list[float] = []
        self._nodes = nodes()
        self._profiler = StepProfiler(config, torch.distributed.get_rank())
        # Ranks on CPUs share them with each other and everything else: their times show who had to wait, not who is
        # slow.
        self._compares_ranks = torch.cuda.is_available()

    def _attach(self) -> None:
        """Tell Megatron-Core's schedules how gradients are finished and scaled."""
        settings = get_model_config(self.chunks[0])
        settings.finalize_model_grads_func = finish_gradients
        settings.grad_scale_func = self.optimizer.scale_loss
        # Collectives slow down the computation that they overlap. If all pipeline stages start one at the same time,
        # they slow down together, and none waits for another; the published 405B runs do the same.
        overlap = self.chunks[0].ddp_config
        if overlap.overlap_grad_reduce:
            settings.no_sync_func = _one_or_list([chunk.no_sync for chunk in self.chunks])
            settings.grad_sync_func = _one_or_list([chunk.start_grad_sync for chunk in self.chunks])
        if overlap.align_param_gather:
            settings.param_sync_func = [chunk.start_param_sync for chunk in self.chunks]

    def warm_up(self) -> None:
        """Train and evaluate on random tokens, then restore every bit of state."""
        synthetic = synthetic_batches(self._config)
        with preserved(self.chunks, self.optimizer):
            for _ in range(WARM_UP_STEPS):
                self.train_once(synthetic)
            self._evaluate(synthetic, microbatches=self._whole_pipelines(1))

    def open_data(self) -> None:
        config = self._config
        self._datasets = open_datasets(config, data_folder(config), self._manifest, tokenizer_of(config))

    def train(self, steps: int) -> Iterator[StepStats]:
        start = self._done * self._config.layout.global_batch_size
        microbatches = steps * self._config.layout.gradient_accumulation_steps
        with _ahead(self._reader.training(self._open().train, start), microbatches) as batches:
            for left in reversed(range(steps)):
                stats = self.train_once(batches)
                self.schedule.step(1)
                self._done += 1
                self._profiler.step()
                if not self._captured:
                    self._forward_times.append(self._forward_pass.seconds())
                measured = bool(self._forward_times) and not left
                yield replace(stats, slowest=self._slowest_ranks()) if measured else stats

    def _slowest_ranks(self) -> tuple[SlowRank, ...]:
        """Judge by the last forward pass of each step since the last call; a step's first one may wait for weights."""
        mine = median(self._forward_times)
        self._forward_times.clear()
        if not self._compares_ranks:
            return ()
        times = gather(mine)
        return slowest(times, self._nodes, [self._config.layout.stage_of(rank) for rank in range(len(times))])

    def evaluate(self, sequences: int) -> float:
        microbatches = self._whole_pipelines(self._reader.evaluation_microbatches(sequences))
        with _ahead(self._reader.evaluation(self._open().validation, sequences), microbatches) as batches:
            return self._evaluate(batches, microbatches)

    def save(self, folder: Path, complete: Callable[[], None], failed: Callable[[str], None]) -> None:
        self.finish_saving()
        self._saving = training.save(
            folder,
            self.chunks,
            self.optimizer,
            self.schedule,
            step=self._done,
            needed=bytes_of_one(self._config)[0],
            complete=complete,
            failed=failed,
        )

    def finish_saving(self, *, give_up: bool = False) -> None:
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.finish(give_up=give_up)

    def load(self, folder: Path) -> None:
        self._done = training.load(folder, self.chunks, self.optimizer, self.schedule)

    def _open(self) -> Datasets:
        if self._datasets is None:
            raise RuntimeError("open_data() comes before training and evaluation")
        return self._datasets

    def train_once(self, batches: Iterator[Microbatch]) -> StepStats:
        """Take one optimizer step and return its statistics, the same on every rank; also end a save that is over."""
        for chunk in self.chunks:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        graphs.begin_step(self.chunks)
        reports = self._run(batches, self._config.layout.gradient_accumulation_steps, forward_only=False)
        learning_rate = self.optimizer.param_groups[0]["lr"]
        _, grad_norm, _ = self.optimizer.step()
        # What ranks must agree on travels with the loss: rare events get no collective of their own.
        writing, failed = (False, False) if self._saving is None else self._saving.look()
        loss, preempted, writing_ranks, failed_ranks = _mean_loss(reports, self._preempted(), writing, failed)
        if failed_ranks or not writing_ranks:
            self.finish_saving(give_up=bool(failed_ranks))
        return StepStats(loss=loss, grad_norm=float(grad_norm), learning_rate=learning_rate, preempted=bool(preempted))

    def _evaluate(self, batches: Iterator[Microbatch], microbatches: int) -> float:
        if self._captured and self.chunks[0].ddp_config.overlap_param_gather:
            # A replay does not tell Megatron-Core that there are new weights; otherwise layers would gather them.
            quantised.gather(self.chunks)
        for chunk in self.chunks:
            chunk.eval()
        with graphs.eager(self.chunks), torch.no_grad():
            reports = self._run(batches, microbatches, forward_only=True)
        for chunk in self.chunks:
            chunk.train()
        (loss,) = _mean_loss(reports)
        return loss

    def _whole_pipelines(self, microbatches: int) -> int:
        """Return at least `microbatches`, rounded up to the multiple that an interleaved pipeline takes."""
        group = self._config.layout.pipeline_model_parallel if len(self.chunks) > 1 else 1
        return -(-microbatches // group) * group

    def _run(
        self, batches: Iterator[Microbatch], microbatches: int, *, forward_only: bool
    ) -> list[dict[str, torch.Tensor]]:
        """Run Megatron-Core's schedule over `microbatches`; each report holds [loss sum, tokens], on the last stage."""
        interleaved = len(self.chunks) > 1
        # Among an interleaved pipeline's chunks on a rank, only the model's first and last read batches.
        drawn = [_drawn(batches) if _draws(unwrap(chunk)) else None for chunk in self.chunks]
        # Within a graph, operations cannot be timed.
        stopwatch = nullcontext() if self._captured else self._forward_pass
        forward_backward = self._forward_backward if forward_only else self._training_pass
        return forward_backward(
            forward_step_func=partial(_forward_step, stopwatch),
            data_iterator=drawn if interleaved else drawn[0],
            model=self.chunks if interleaved else self.chunks[0],
            num_microbatches=microbatches,
            seq_length=self._config.rules.sequence_length,
            micro_batch_size=self._config.layout.micro_batch_size,
            forward_only=forward_only,
        )


def _one_or_list(functions: list[Callable[..., Any]]) -> Any:
    """Return functions as Megatron-Core expects them: for one chunk the function, for several a list."""
    return functions if len(functions) > 1 else functions[0]


def _draws(chunk: GPTModel) -> bool:
    """Return whether a model chunk reads batches: the first stage reads tokens, the last one labels and mask.

    The other stages get the output of the stage before.
    """
    return bool(chunk.pre_process or chunk.post_process)


def _drawn(batches: Iterator[Microbatch]) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches in the form in which Megatron-Core's graph of an iteration copies them to its inputs."""
    for batch in batches:
        yield {"tokens": batch.tokens, "labels": batch.labels, "mask": batch.loss_mask}


def _forward_step(
    stopwatch: AbstractContextManager[Any],
    batches: Iterator[dict[str, torch.Tensor]] | None,
    model: torch.nn.Module,
) -> tuple[torch.Tensor, Any]:
    chunk = unwrap(model)
    tokens: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    loss: Any = None
    if batches is not None:
        batch = next(batches)
        if chunk.pre_process:
            tokens = _to_device(batch["tokens"])
        if chunk.post_process:
            # Megatron-Core computes the loss if there are labels.
            labels, mask = _to_device(batch["labels"]), _to_device(batch["mask"])
            loss = partial(_sum_loss, mask)
    # RoPE implies the positions, and causality the attention mask.
    with stopwatch:
        losses = model(tokens, None, None, labels=labels, loss_mask=mask)
    return losses, loss


def _ahead(batches: Iterator[Microbatch], microbatches: int) -> AbstractContextManager[Iterator[Microbatch]]:
    """Return that many of the batches, read ahead into memory that a GPU copies from without the host's help."""
    # A new thread starts on the first GPU, and would allocate memory there.
    own_gpu = partial(torch.cuda.set_device, torch.cuda.current_device()) if torch.cuda.is_available() else None
    return read_ahead(map(_pinned, islice(batches, microbatches)), own_gpu)


def _pinned(batch: Microbatch) -> Microbatch:
    """Return the batch in pinned memory for a GPU; unchanged on a CPU."""
    if not torch.cuda.is_available():
        return batch
    return Microbatch(
        tokens=batch.tokens.pin_memory(), labels=batch.labels.pin_memory(), loss_mask=batch.loss_mask.pin_memory()
    )


def _to_device(tensor: torch.Tensor) -> torch.Tensor:
    """Copy a tensor to the device; from pinned memory in the order of the GPU's stream, so the host does not wait."""
    return tensor.to(device(), non_blocking=True)


def _sum_loss(mask: torch.Tensor, losses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Return the loss as Megatron-Core expects it for per-token weighting: (sum, tokens, report).

    `mask` and `losses`, which are already masked, are [micro batch, tokens]. The report is a copy, since the schedule
    divides the sum in place.
    """
    total = losses.sum()
    tokens = mask.sum()
    return total, tokens.int(), {"loss": torch.stack([total.detach().clone(), tokens])}


def _mean_loss(reports: list[dict[str, torch.Tensor]], *flags: bool) -> list[float]:
    """Return the mean loss over all tokens and ranks, and how many ranks raise each flag; the same on every rank."""
    mine = reports if reports_loss() else []
    pairs = torch.stack([report["loss"].double() for report in mine]).sum(0).tolist() if mine else [0.0, 0.0]
    total, tokens, *raised = sum_over_ranks(*pairs, *map(float, flags))
    return [total / tokens, *raised]


def synthetic_batches(config: RunConfig) -> Iterator[Microbatch]:
    """Yield random tokens in the shapes of real batches, from a generator of their own."""
    generator = torch.Generator().manual_seed(0)
    shape = (config.layout.micro_batch_size, config.rules.sequence_length // config.layout.context_parallel)
    while True:
        tokens = torch.randint(0, config.vocabulary, shape, generator=generator)
        yield _pinned(Microbatch(tokens=tokens, labels=tokens.roll(-1, dims=1), loss_mask=torch.ones(shape)))
