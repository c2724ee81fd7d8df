"""The end of the model: from hidden states to losses, without all logits of a microbatch in fp32.

With Transformer Engine's layers, its cross entropy works in place on the logits. Otherwise logits are made, used and
dropped some tokens at a time. Shapes in comments: s sequence (of this context-parallel rank), b batch, h hidden, n
tokens, v this tensor-parallel rank's rows of the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.extensions.transformer_engine import te_parallel_cross_entropy
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel.layers import ColumnParallelLinear
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

# Tokens whose logits exist together. For each chunk the weight's gradient is read and written once, which takes as long
# as the matrix products of some hundred tokens. In fp32 a chunk takes 0.5 GiB at Llama 3.1's 128,256 vocabulary
# entries.
CHUNK = 1024


class Llama(GPTModel):
    """GPTModel that gets the loss mask with the labels, and returns the masked losses [b, s].

    `cross_entropy_loss_fusion` decides who computes them: Megatron-Core and the libraries it calls, or this file's
    Head.
    """

    def __init__(self, config: TransformerConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        if self.post_process and not config.cross_entropy_loss_fusion:
            self.output_layer: ColumnParallelLinear = Head(self.output_layer, config)

    def _postprocess(
        self, hidden_states: Tensor, *, labels: Tensor | None, loss_mask: Tensor | None, **rest: Any
    ) -> Tensor:
        if self.post_process and labels is not None and isinstance(self.output_layer, Head):
            losses: Tensor = self.output_layer(hidden_states, labels=labels, mask=loss_mask)
            return losses
        out: Tensor = super()._postprocess(hidden_states, labels=labels, loss_mask=loss_mask, **rest)
        return out if loss_mask is None else out * loss_mask

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        if self.config.cross_entropy_fusion_impl != "te":
            losses: Tensor = super().compute_language_model_loss(labels, logits)
            return losses
        # As Megatron-Core calls it, except for the last argument: without it, each backward pass makes the host wait.
        return te_parallel_cross_entropy(logits, labels.t().flatten(), self.pg_collection.tp, True).t()


class Head(ColumnParallelLinear):
    """The output layer; with labels, it returns losses in place of logits.

    It is called as a layer, because Megatron-Core waits for a layer's gathered weight when the layer is called.
    """

    def __init__(self, plain: ColumnParallelLinear, config: TransformerConfig) -> None:
        super().__init__(
            plain.input_size,
            plain.output_size,
            config=config,
            init_method=config.init_method,
            bias=False,
            skip_weight_param_allocation=True,
            tp_group=plain.tp_group,
        )
        self.weight = plain.weight

    def forward(
        self, hidden: Tensor, *args: Any, labels: Tensor | None = None, mask: Tensor | None = None, **kwargs: Any
    ) -> Any:
        """Return the losses times the mask, [b, s] in fp32, of hidden states [s, b, h], labels and mask [b, s].

        They can only be summed: `backward` refuses a gradient that is not one number for all.
        """
        if labels is None:
            return super().forward(hidden, *args, **kwargs)
        # Here tensor parallelism always comes with sequence parallelism.
        hidden = gather_from_sequence_parallel_region(hidden, group=self.tp_group)
        return _MaskedLosses.apply(hidden, self.weight, labels, mask, self.tp_group, torch.is_grad_enabled())


class _MaskedLosses(torch.autograd.Function):
    """Computes the gradient of the sum of all losses together with them, while a chunk's logits exist."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        mask: Tensor,
        group: torch.distributed.ProcessGroup,
        training: bool,
    ) -> Tensor:
        tokens, targets, counts = hidden.flatten(0, 1), labels.t().flatten(), mask.t().flatten()
        targets = targets - group.rank() * weight.size(0)
        losses = torch.empty(len(tokens), device=tokens.device)
        d_tokens, d_weight = torch.empty_like(tokens) if training else None, None
        for start in range(0, len(tokens), CHUNK):
            some = slice(start, start + CHUNK)
            losses[some], delta = _chunk(tokens[some], weight, targets[some], group)
            if d_tokens is not None:
                count = counts[some].unsqueeze(1).to(tokens.dtype)
                torch.mm(delta, weight, out=d_tokens[some]).mul_(count)
                # Not delta.t() @ tokens: at a hidden size of 128 that takes MKL 1.5 times as long.
                part = (tokens[some] * count).t() @ delta
                if len(tokens) > CHUNK:
                    # Parts are summed in fp32; a single part needs no sum.
                    part = part.float() if d_weight is None else d_weight.add_(part)
                d_weight = part
            del delta  # before the next one is made
        if group.size() > 1:
            torch.distributed.all_reduce(losses, group=group)
        ctx.save_for_backward(d_tokens, d_weight, weight)
        ctx.shape = hidden.shape
        return losses.mul_(counts).view(hidden.shape[:2]).t()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if any(grad.stride()):
            raise RuntimeError(
                f"the head's losses can only be summed; their gradient has strides {grad.stride()}, not 0"
            )
        d_tokens, d_weight, weight = ctx.saved_tensors
        one = grad[0, 0]
        d_hidden = (d_tokens * one.to(d_tokens.dtype)).view(ctx.shape)
        return d_hidden, _weight_gradient(weight, d_weight.t(), one), None, None, None, None


def _chunk(
    tokens: Tensor, weight: Tensor, targets: Tensor, group: torch.distributed.ProcessGroup
) -> tuple[Tensor, Tensor]:
    """Return the rank's part of each loss, and the gradient of its logits [n, v].

    Targets count from the rank's first row. A target outside the rank's rows belongs to another rank.
    """
    mine = (targets >= 0) & (targets < weight.size(0))
    where = torch.arange(len(mine), device=mine.device), targets.where(mine, 0)
    logits = tokens @ weight.t()
    scores = logits[where].float() * mine
    probabilities, log_sum = _softmax(logits, group)
    losses = log_sum * (group.rank() == 0) - scores
    probabilities[where] -= mine.float()
    return losses, probabilities.to(tokens.dtype)


def _softmax(logits: Tensor, group: torch.distributed.ProcessGroup) -> tuple[Tensor, Tensor]:
    """Return, for logits [n, v], the softmax over the whole vocabulary in fp32 and the log-sum-exp [n].

    fp32 logits are overwritten.
    """
    largest = logits.amax(-1).float()
    # torch does not promise that `out` may be the input. Its kernels work row by row, and a test checks this.
    in_place = logits if logits.dtype is torch.float32 else None
    probabilities = torch.softmax(logits, -1, dtype=torch.float32, out=in_place)
    # The largest probability is at least 1 / v, whatever the logits are, so its logarithm is finite.
    mine = largest - probabilities.amax(-1).log()
    if group.size() == 1:
        return probabilities, mine
    every = mine.new_empty(group.size() * len(mine))
    torch.distributed.all_gather_into_tensor(every, mine, group=group)
    log_sum = every.view(group.size(), -1).logsumexp(0)
    return probabilities.mul_((mine - log_sum).exp().unsqueeze(1)), log_sum


def _weight_gradient(weight: Tensor, gradient: Tensor, factor: Tensor) -> Tensor:
    """Add to the buffer of Megatron-Core's DDP if there is one, and mark that; otherwise return the gradient."""
    if not hasattr(weight, "main_grad"):
        return gradient * factor
    weight.main_grad.addcmul_(gradient, factor)
    weight.grad_added_to_main_grad = True  # type: ignore[attr-defined]
    # DDP's hook requires a gradient of this shape, but does not read it.
    return torch.empty_like(weight)
