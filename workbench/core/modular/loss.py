"""Loss and gradient of the network in one pass over pieces that stay in the processor's cache.

Automatic differentiation would keep every pair's neurons in memory between the forward and the
backward pass; at thousands of pairs these are mapped and unmapped by the system at each step, which
takes as long as the arithmetic. Here a piece of pairs goes forward and back at once, and only the
gradients of the tables (`network.Tables`) are kept; torch takes them on to the weights.

The cross-entropy is computed in float64: near 1e-7 nats float32 would round most pairs' losses to
0 and stop their gradients.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from workbench.core.modular import network

# Pairs in a piece, over all seeds together. On a GPU everything is one piece.
_PIECE = 1024


class Batch(NamedTuple):
    """The pairs that are trained on, with what is looked up for them.

    Attributes:
        first: Rows of the operands a (`network.lookup_rows`).
        second: Rows of the operands b.
        labels: What is trained towards.
    """

    first: Int64[Tensor, "seed pair"]
    second: Int64[Tensor, "seed pair"]
    labels: Int64[Tensor, "seed pair"]


def mean_losses(made: network.Tables, batch: Batch, dtype: torch.dtype) -> Float64[Tensor, " seed"]:
    """Mean cross-entropy of each seed's pairs, in nats, differentiable once.

    Args:
        made: The networks' tables.
        batch: The pairs.
        dtype: Of the matrix products over the pairs.

    Returns:
        One loss a seed, in float64.
    """
    losses: Any = _Losses.apply(*made, batch, dtype)
    return losses


class _Losses(torch.autograd.Function):
    """Computes the gradients of the tables beside the losses."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *parts, batch, dtype = arguments
        made = network.Tables(*parts)
        gradients = network.Tables(*(torch.zeros_like(table) for table in made))
        cast = network.Tables(*parts[:2], *(table.to(dtype) for table in parts[2:]))
        seeds, pairs = batch.labels.shape
        size = pairs if made.scores.is_cuda else max(1, _PIECE // seeds)
        losses = torch.zeros(seeds, dtype=torch.float64, device=made.scores.device)
        for start in range(0, pairs, size):
            some = Batch(*(part[:, start : start + size] for part in batch))
            losses += _forward_and_back(cast, some, pairs, gradients)
        ctx.save_for_backward(*gradients)
        return losses / pairs

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        scale = outer[0].float()
        tables = ctx.saved_tensors
        scaled = (table * scale.view(-1, *[1] * (table.dim() - 1)) for table in tables)
        return (*scaled, None, None)


def _forward_and_back(
    made: network.Tables, some: Batch, count: int, gradients: network.Tables
) -> Float64[Tensor, " seed"]:
    """Sum of the losses of a few pairs; their gradients are added to `gradients`."""
    dtype = made.into.dtype
    piece = network.attend(made, some.first, some.second)
    mixed = piece.mixed.to(dtype)
    hidden = _affine(made.into_bias, mixed, made.into).relu_()
    logits = _add_product(_affine(made.past_bias, mixed, made.past), hidden, made.out)
    losses, exact = _cross_entropy(logits, some.labels, count)

    of_logits = exact.to(dtype)
    _accumulate(gradients.out, hidden, of_logits)
    _accumulate(gradients.past, mixed, of_logits)
    gradients.past_bias.add_(exact.sum(1))
    of_hidden = _where_active(_product(of_logits, made.out.transpose(1, 2)), hidden)
    _accumulate(gradients.into, mixed, of_hidden)
    gradients.into_bias.add_(of_hidden.sum(1))
    of_mixed = _product(of_hidden, made.into.transpose(1, 2))
    of_mixed = _add_product(of_mixed, of_logits, made.past.transpose(1, 2))
    _attend_back(made, some, piece, of_mixed.float(), gradients)
    return losses


def _cross_entropy(
    logits: Float[Tensor, "seed pair d_vocab"], labels: Int64[Tensor, "seed pair"], count: int
) -> tuple[Float64[Tensor, " seed"], Float64[Tensor, "seed pair d_vocab"]]:
    """Sum of the losses, and the gradient of their mean over `count` pairs."""
    wanted = labels[:, :, None]
    odds = logits.double()
    # Relative to the wanted answer: what is left after the largest term cancels stays exact.
    odds.sub_(odds.gather(2, wanted))
    top = odds.amax(2, keepdim=True)
    odds.sub_(top).exp_()
    total = odds.sum(2, keepdim=True)
    losses = (total.log() + top).sum((1, 2))
    odds.div_(total * count)
    minus = torch.full_like(wanted, -1 / count, dtype=odds.dtype)
    return losses, odds.scatter_add_(2, wanted, minus)


def _attend_back(
    made: network.Tables,
    some: Batch,
    piece: network.Piece,
    mixed: Float[Tensor, "seed pair width"],
    gradients: network.Tables,
) -> None:
    """Take the gradient of the heads' outputs back to scores and values."""
    seeds, rows, n_heads = made.scores.shape
    back = mixed.view(*mixed.shape[:2], n_heads, -1)
    itself = made.values[:, -1:].view(seeds, 1, n_heads, -1)
    of_pattern = torch.stack([(back * sent).sum(-1) for sent in (*piece.sent, itself)], -1)
    pattern = piece.pattern
    of_scores = pattern * (of_pattern - (pattern * of_pattern).sum(-1, keepdim=True))
    for at, where in enumerate((some.first, some.second)):
        values = (pattern[..., at, None] * back).view(-1, mixed.shape[2])
        gradients.values.view(seeds * rows, -1).add_(_by_row(values, where, seeds * rows))
        scores = of_scores[..., at].reshape(-1, n_heads)
        gradients.scores.view(seeds * rows, -1).add_(_by_row(scores, where, seeds * rows))
    gradients.values[:, -1].add_((pattern[..., 2, None] * back).sum(1).flatten(1))
    gradients.scores[:, -1].add_(of_scores[..., 2].sum(1))


def _where_active(gradient: Tensor, hidden: Tensor) -> Tensor:
    """Set a gradient to zero where the ReLU did, in place."""
    # Multiplying by a mask would first write the mask out as numbers.
    backward: Any = torch.ops.aten.threshold_backward.grad_input
    return backward(gradient, hidden, 0, grad_input=gradient)


def _by_row(values: Tensor, where: Int64[Tensor, "seed pair"], rows: int) -> Tensor:
    """Sums of values over the pairs that looked up each row."""
    # The backward of an embedding: a sum over rows in a fixed order, 10 times as fast as index_add.
    backward: Any = torch.ops.aten.embedding_dense_backward
    return backward(values, where.reshape(-1), rows, -1, False)


# One seed goes through plain matrix products, which use all threads on one of them.


def _product(a: Tensor, b: Tensor) -> Tensor:
    return torch.mm(a[0], b[0])[None] if len(a) == 1 else torch.bmm(a, b)


def _affine(bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    if len(a) == 1:
        return torch.addmm(bias[0], a[0], b[0])[None]
    return torch.baddbmm(bias[:, None], a, b)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Add a product to a tensor, in place."""
    if len(a) == 1:
        total[0].addmm_(a[0], b[0])
        return total
    return total.baddbmm_(a, b)


def _accumulate(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add the product of a transposed with b to a float32 total."""
    if a.dtype == total.dtype:
        _add_product(total, a.transpose(1, 2), b)
    else:
        total.add_(_product(a.transpose(1, 2), b))
