"""Loss and gradient of the network in one pass over pieces that stay in the processor's cache.

Automatic differentiation would keep every pair's neurons in memory between the forward and the
backward pass; at thousands of pairs these are mapped and unmapped by the system at each step, which
takes as long as the arithmetic. Here a piece of pairs goes forward and back at once, what it wants
is written to room that stays, and only the gradients of the tables (`network.Tables`) leave; torch
takes them on to the weights.

A pair's neurons are a weighted sum of a few rows, so their gradients are, too: that of a row sums
over the pairs that looked it up, and that of a weight is the product of one row with what its pair
wants. Neither needs a product of all rows with all pairs.

The cross-entropy is computed in float64: near 1e-7 nats float32 would round most pairs' losses to
0 and stop their gradients.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn import functional

from workbench.core.modular import network

# Pairs in a piece at the most, over all seeds together. On a GPU everything is one piece.
_PIECE = 1024


@dataclasses.dataclass(frozen=True)
class Batch:
    """The pairs that are trained on, with what is looked up for them.

    Attributes:
        labels: What is trained towards.
        where: The pairs' rows.
        pieces: Which pairs go together, and which row goes with which of them.
        users: The other way round: for one row after the other, the entries of all attention
            patterns that weigh it.
        using: Pairs of these.
        uses: How many they are for each row.
        starts: Where those of each row begin.
        wanted: Room for the gradients of what all pairs receive.
    """

    labels: Int64[Tensor, "seed pair"]
    where: network.Lookup
    pieces: tuple[tuple[slice, Tensor], ...]
    users: Int64[Tensor, " entry"]
    using: Int64[Tensor, " entry"]
    uses: Int64[Tensor, " row"]
    starts: Int64[Tensor, " row"]
    wanted: Float[Tensor, "seed pair width"]


def batch(
    pairs: Int64[Tensor, "seed pair 2"],
    labels: Int64[Tensor, "seed pair"],
    p: int,
    *,
    n_heads: int,
    n_neurons: int,
) -> Batch:
    """Look up all that stays the same from step to step.

    Args:
        pairs: Of each seed.
        labels: What is trained towards.
        p: The modulus.
        n_heads: Attention heads.
        n_neurons: Neurons of the MLP.

    Returns:
        The batch.
    """
    seeds, count = labels.shape
    where = network.lookup(pairs, p, n_heads)
    n_rows = seeds * n_heads * (2 * p + 1)
    pieces = 1 if labels.is_cuda else min(count, math.ceil(count * seeds / _PIECE))
    ends = [count * piece // pieces for piece in range(pieces + 1)]
    parts = [slice(start, end) for start, end in itertools.pairwise(ends)]
    senders = where.sent.flatten()
    users = senders.sort(stable=True).indices
    uses = torch.bincount(senders, minlength=n_rows)
    return Batch(
        labels,
        where,
        tuple((some, _entries(where.part(some).sent, n_rows)) for some in parts),
        users=users,
        using=users // where.sent.shape[2],
        uses=uses,
        starts=uses.cumsum(0) - uses,
        wanted=torch.empty(seeds, count, n_neurons + p + 1, device=labels.device),
    )


def _entries(senders: Int64[Tensor, "seed pair sender"], n_rows: int) -> Tensor:
    """A sparse matrix of pairs and rows with an entry where a pair looks a row up."""
    flat = senders.flatten(0, 1)
    starts = torch.arange(len(flat) + 1, device=flat.device) * flat.shape[1]
    nothing = torch.zeros(flat.numel(), device=flat.device)
    with warnings.catch_warnings():
        # Torch announces once that sparse rows are new to it.
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(
            starts, flat.flatten(), nothing, (len(flat), n_rows), check_invariants=False
        )


def losses_and_gradients(
    made: network.Tables, some: Batch, dtype: torch.dtype
) -> tuple[Float64[Tensor, " seed"], network.Tables]:
    """Mean cross-entropy of each seed's pairs, and what the tables want changed.

    Args:
        made: The networks' tables.
        some: The pairs.
        dtype: Of the matrix products over the pairs.

    Returns:
        One loss a seed, in nats; and the gradient of its own loss for each seed's tables.
    """
    made = network.Tables(*(table.detach() for table in made))
    pattern = network.attend(made, some.where)
    of_pattern = torch.empty_like(pattern)
    out, of_out = made.out.to(dtype), torch.zeros_like(made.out)
    losses = torch.zeros(len(pattern), dtype=torch.float64, device=pattern.device)
    count = some.labels.shape[1]
    for pairs, entries in some.pieces:
        received = network.receive(made, some.where.part(pairs), pattern[:, pairs])
        wanted = some.wanted[:, pairs]
        losses += _forward_and_back(
            received, out, some.labels[:, pairs], count, wanted=wanted, of_out=of_out
        )
        of_pattern[:, pairs] = _of_entries(wanted, made.sent, entries).view_as(pattern[:, pairs])
    of_scores = pattern * (of_pattern - (pattern * of_pattern).sum(-1, keepdim=True))
    return losses / count, network.Tables(
        scores=_of_rows(some, of_scores, made.sent.shape),
        sent=_of_senders(some, pattern).view_as(made.sent),
        out=of_out,
    )


def _forward_and_back(
    received: Float[Tensor, "seed pair width"],
    out: Float[Tensor, "seed neuron d_vocab"],
    labels: Int64[Tensor, "seed pair"],
    count: int,
    *,
    wanted: Float[Tensor, "seed pair width"],
    of_out: Float[Tensor, "seed neuron d_vocab"],
) -> Float64[Tensor, " seed"]:
    """Sum of the losses of a few pairs; writes the gradient of what they received to `wanted`."""
    n_neurons = out.shape[1]
    hidden = received[..., :n_neurons].relu_()
    rounded = hidden.to(out.dtype)
    logits = _add_product(received[..., n_neurons:], rounded, out)
    losses, exact = _cross_entropy(logits, labels, count)
    of_hidden, of_logits = wanted[..., :n_neurons], wanted[..., n_neurons:]
    of_logits.copy_(exact)
    rounded_back = of_logits.to(out.dtype)
    _add_product(of_out, rounded.transpose(1, 2), rounded_back)
    _product(rounded_back, out.transpose(1, 2), of_hidden)
    _where_active(of_hidden, hidden)
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


def _where_active(gradient: Tensor, hidden: Tensor) -> Tensor:
    """Set a gradient to zero where the ReLU did, in place."""
    # Multiplying by a mask would first write the mask out as numbers.
    backward: Any = torch.ops.aten.threshold_backward.grad_input
    return backward(gradient, hidden, 0, grad_input=gradient)


def _of_entries(
    wanted: Float[Tensor, "seed pair width"],
    sent: Float[Tensor, "seed head row width"],
    entries: Tensor,
) -> Float[Tensor, " entry"]:
    """Products of what each pair wants with the rows that it looked up."""
    rows = sent.flatten(0, 2).t()
    return torch.sparse.sampled_addmm(entries, wanted.flatten(0, 1), rows, beta=0).values()


def _of_senders(
    some: Batch, pattern: Float[Tensor, "seed pair head 3"]
) -> Float[Tensor, "row width"]:
    """Sums, for each row that is sent, of what the pairs want that looked it up."""
    return functional.embedding_bag(
        some.using,
        some.wanted.flatten(0, 1),
        some.starts,
        per_sample_weights=pattern.flatten()[some.users],
        mode="sum",
    )


def _of_rows(
    some: Batch, of_scores: Float[Tensor, "seed pair head 3"], shape: torch.Size
) -> Float[Tensor, "seed row head"]:
    """Sums, for each row of the scores, over the pairs that looked it up."""
    entries = of_scores.flatten()[some.users]
    sums = torch.segment_reduce(entries, "sum", lengths=some.uses, unsafe=True)
    return sums.view(shape[:3]).transpose(1, 2)


# One seed goes through plain matrix products, which use all threads on one of them.


def _product(a: Tensor, b: Tensor, into: Tensor) -> None:
    """Write a product to a float32 tensor."""
    if a.dtype != into.dtype:
        into.copy_(torch.bmm(a, b))
    elif len(a) == 1:
        torch.mm(a[0], b[0], out=into[0])
    else:
        torch.bmm(a, b, out=into)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Add a product to a float32 tensor, in place."""
    if a.dtype != total.dtype:
        total.add_(torch.bmm(a, b))
    elif len(a) == 1:
        total[0].addmm_(a[0], b[0])
    else:
        total.baddbmm_(a, b)
    return total
