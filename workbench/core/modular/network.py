"""The network: a one-layer transformer that reads `a b =`, computed in tables, for several seeds.

1. One layer without normalisation, untied, biases in the MLP only; every weight is drawn from
   normal(0, 1/d_model), the unembedding from normal(0, 1/d_vocab), as in the code of the paper.
2. Without normalisation the query at `=` is one constant vector. So the scores are a table of
   2p + 1 rows (p first operands, p second operands, `=`), and a pair picks its three.
3. Only the last position is computed. What follows the attention is linear up to the ReLU, so what
   each row sends through each head to the neurons, and past them to the logits, is a table, too: a
   pair's neurons are a sum of 3 rows a head, weighted by its attention. No matrix product over the
   pairs is left but the one from the neurons to the logits.

The function is that of TransformerLens' native bridge with the same weights. Every tensor has a
leading axis of seeds, so that networks of several seeds can go through the same calls as one.

Source: Nanda et al. 2023, arXiv 2301.05217.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn import functional

from workbench.core.modular import recipe as recipes
from workbench.core.modular import tasks

Weights = dict[str, Tensor]
EMBEDDING, POSITION, UNEMBEDDING = "tok_embed.weight", "pos.weight", "head.weight"
QUERY, KEY, VALUE, OUTPUT = (f"layers.0.attn.{name}.weight" for name in "qkvo")
INTO, INTO_BIAS = "layers.0.mlp.fc_in.weight", "layers.0.mlp.fc_in.bias"
OUT, OUT_BIAS = "layers.0.mlp.fc_out.weight", "layers.0.mlp.fc_out.bias"
# The native bridge's linear layers always carry biases; the paper's attention has none.
FROZEN = tuple(f"layers.0.attn.{name}.bias" for name in "qkvo")
# Pairs at a time where nothing is trained: what a piece needs stays in the processor's cache.
_PIECE = 1024


def bridge_settings(recipe: recipes.Recipe, p: int) -> dict[str, Any]:
    """Fields of TransformerBridgeConfig that describe the network."""
    return {
        "d_model": recipe.d_model,
        "d_head": recipe.d_head,
        "n_heads": recipe.n_heads,
        "n_layers": 1,
        "n_ctx": 3,
        "d_vocab": p + 1,
        "d_vocab_out": p + 1,
        "d_mlp": recipe.d_mlp,
        "act_fn": "relu",
        "normalization_type": None,
        "positional_embedding_type": "standard",
        "gated_mlp": False,
    }


def initial_weights(recipe: recipes.Recipe, p: int, seed: int) -> Weights:
    """Weights before training, under the native bridge's own names, of one seed.

    Args:
        recipe: Sizes and initial scale.
        p: The modulus.
        seed: Of torch's generator.

    Returns:
        Float32 tensors on the CPU, those of `FROZEN` zero.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, width: int) -> Tensor:
        drawn = torch.randn(*shape, generator=generator) / math.sqrt(width)
        return drawn if recipe.initial_scale == 1 else drawn * recipe.initial_scale

    d_model, d_attention = recipe.d_model, recipe.n_heads * recipe.d_head
    weights = {
        EMBEDDING: normal(p + 1, d_model, width=d_model),
        POSITION: normal(3, d_model, width=d_model),
        QUERY: normal(d_attention, d_model, width=d_model),
        KEY: normal(d_attention, d_model, width=d_model),
        VALUE: normal(d_attention, d_model, width=d_model),
        OUTPUT: normal(d_model, d_attention, width=d_model),
        INTO: normal(recipe.d_mlp, d_model, width=d_model),
        INTO_BIAS: torch.zeros(recipe.d_mlp),
        OUT: normal(d_model, recipe.d_mlp, width=d_model),
        OUT_BIAS: torch.zeros(d_model),
        UNEMBEDDING: normal(p + 1, d_model, width=p + 1),
    }
    for name in FROZEN:
        weights[name] = torch.zeros(d_model if ".o." in name else d_attention)
    return weights


def stacked(every: Sequence[Weights]) -> Weights:
    """Networks of several seeds as one, on a leading axis."""
    return {name: torch.stack([weights[name] for weights in every]) for name in every[0]}


class Tables(NamedTuple):
    """A network multiplied out as far as it does not depend on the pair.

    Attributes:
        scores: Attention scores from `=` to each first operand, second operand, and `=`.
        sent: What each of these rows sends through each head to the neurons before the ReLU, and
            past them to the logits; the biases are spread over the heads.
        out: From the neurons to the logits.
    """

    scores: Float[Tensor, "seed row head"]
    sent: Float[Tensor, "seed head row width"]
    out: Float[Tensor, "seed neuron d_vocab"]


def tables(weights: Weights, n_heads: int) -> Tables:
    """Multiply out what does not depend on the pair.

    Args:
        weights: Of one seed or several, on a leading axis.
        n_heads: Attention heads.

    Returns:
        The tables; gradients flow through them.
    """
    embedding, position = weights[EMBEDDING], weights[POSITION]
    seeds, tokens, d_model = embedding.shape
    p = tokens - 1
    equals = embedding[:, p] + position[:, 2]
    first, second = (embedding[:, :p] + position[:, at, None] for at in (0, 1))
    rows = torch.cat([first, second, equals[:, None]], 1)
    query = (weights[QUERY] @ equals[:, :, None]).view(seeds, n_heads, -1, 1)
    looked_for = (weights[KEY].view(seeds, n_heads, -1, d_model) * query).sum(2)
    scores = rows @ looked_for.transpose(1, 2) / math.sqrt(query.shape[2])
    values = (rows @ weights[VALUE].transpose(1, 2)).view(seeds, 2 * p + 1, n_heads, -1)

    readers = torch.cat([weights[INTO], weights[UNEMBEDDING]], 1)
    past_bias = _times(weights[UNEMBEDDING], weights[OUT_BIAS])
    bias = torch.cat([weights[INTO_BIAS], past_bias], 1) + _times(readers, equals)
    # A head's attention sums to 1, so that a row of every head carries its share of the biases.
    share = (bias / n_heads).repeat_interleave(n_heads, 0)[:, None]
    through = (readers @ weights[OUTPUT]).view(seeds, readers.shape[1], n_heads, -1)
    sent = torch.baddbmm(
        share, values.transpose(1, 2).flatten(0, 1), through.permute(0, 2, 3, 1).flatten(0, 1)
    )
    out = (weights[UNEMBEDDING] @ weights[OUT]).transpose(1, 2).contiguous()
    return Tables(scores, sent.view(seeds, n_heads, *sent.shape[1:]), out)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[:, :, None])[:, :, 0]


class Lookup(NamedTuple):
    """Where a pair's rows lie.

    Attributes:
        scores: Rows of a, b and `=` in all seeds' tables of scores, one after the other.
        sent: Rows of the same in all seeds' and heads' tables of what is sent, a head's three
            together.
    """

    scores: Int64[Tensor, "seed pair 3"]
    sent: Int64[Tensor, "seed pair sender"]

    def part(self, pairs: slice) -> Lookup:
        """Those of some of the pairs."""
        return Lookup(self.scores[:, pairs], self.sent[:, pairs])


def lookup(pairs: Int64[Tensor, "seed pair 2"], p: int, n_heads: int) -> Lookup:
    """Find the rows of pairs of operands.

    Args:
        pairs: Of each seed.
        p: The modulus.
        n_heads: Attention heads.

    Returns:
        Their rows.
    """
    rows = 2 * p + 1
    equals = torch.full_like(pairs[:, :, 0], 2 * p)
    own = torch.stack([pairs[:, :, 0], pairs[:, :, 1] + p, equals], 2)
    seeds = torch.arange(len(pairs), device=pairs.device).view(-1, 1, 1)
    heads = torch.arange(n_heads, device=pairs.device).view(-1, 1)
    sent = own[:, :, None] + (seeds[..., None] * n_heads + heads) * rows
    return Lookup(own + seeds * rows, sent.flatten(2))


def attend(made: Tables, where: Lookup) -> Float[Tensor, "seed pair head 3"]:
    """Attention from `=` to a, b and `=`.

    Args:
        made: The tables.
        where: Rows of the pairs.

    Returns:
        The pattern.
    """
    scores = made.scores.flatten(0, 1)[where.scores]
    return scores.softmax(2).transpose(2, 3).contiguous()


def receive(
    made: Tables, where: Lookup, pattern: Float[Tensor, "seed pair head 3"]
) -> Float[Tensor, "seed pair width"]:
    """Add up what the pairs' rows send.

    Args:
        made: The tables.
        where: Rows of the pairs.
        pattern: Their attention.

    Returns:
        Neurons before the ReLU, and beside them the logits as far as the neurons do not make them.
    """
    received = functional.embedding_bag(
        where.sent.flatten(0, 1),
        made.sent.flatten(0, 2),
        per_sample_weights=pattern.reshape(-1, where.sent.shape[2]),
        mode="sum",
    )
    return received.view(*pattern.shape[:2], -1)


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Everything that a checkpoint's measures are made from, in the order of the task's pairs.

    Attributes:
        embedding: Rows of the residues.
        neuron_logit: W_U W_out, what each neuron adds to each residue's logit; `=` left out.
        logits: At `=`, of every pair; `=` left out.
        hidden: Neurons after the ReLU.
        pattern: Attention from `=` to a, b and `=`.
        squared_weights: Sum of squares of all trained weights.
    """

    embedding: Float64[np.ndarray, "residue d_model"]
    neuron_logit: Float64[np.ndarray, "residue neuron"]
    logits: Float64[np.ndarray, "pair residue"]
    hidden: Float[np.ndarray, "pair neuron"]
    pattern: Float[np.ndarray, "pair head 3"]
    squared_weights: float


def snapshot(weights: Mapping[str, Tensor], task: tasks.Task, n_heads: int) -> Snapshot:
    """Run every pair through a network.

    Args:
        weights: Of one seed, without a leading axis.
        task: Its task.
        n_heads: Attention heads.

    Returns:
        What its measures are made from.
    """
    one = {name: value.detach()[None] for name, value in weights.items()}
    with torch.inference_mode():
        parts = [
            (logits[0, :, : task.p], hidden[0], pattern[0])
            for logits, hidden, pattern in forward(one, task.pairs()[None], n_heads)
        ]
        logits, hidden, pattern = (
            torch.cat(kind).cpu().numpy() for kind in zip(*parts, strict=True)
        )
        unembedding = weights[UNEMBEDDING][: task.p].detach().double()
        neuron_logit = (unembedding @ weights[OUT].detach().double()).cpu().numpy()
    return Snapshot(
        embedding=weights[EMBEDDING][: task.p].detach().double().cpu().numpy(),
        neuron_logit=neuron_logit,
        logits=logits.astype(np.float64),
        hidden=hidden,
        pattern=pattern,
        squared_weights=squared_weights(weights),
    )


def forward(
    weights: Weights, pairs: Int64[Tensor, "seed pair 2"], n_heads: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Run pairs through networks, piece by piece.

    Args:
        weights: Of several seeds.
        pairs: Of each seed.
        n_heads: Attention heads.

    Yields:
        Logits (`=` included), neurons after the ReLU, and attention pattern of the next pairs.
    """
    made = tables(weights, n_heads)
    where = lookup(pairs, weights[EMBEDDING].shape[1] - 1, n_heads)
    n_neurons = made.out.shape[1]
    for start in range(0, pairs.shape[1], _PIECE):
        some = where.part(slice(start, start + _PIECE))
        pattern = attend(made, some)
        received = receive(made, some, pattern)
        hidden = received[..., :n_neurons].relu_()
        yield received[..., n_neurons:].baddbmm_(hidden, made.out), hidden, pattern


def squared_weights(weights: Mapping[str, Tensor]) -> float:
    """Sum of squares of all trained weights, which weight decay drives down."""
    # In the order of the names, so that weights that were read back give the same bits.
    return sum(
        weights[name].detach().double().square().sum().item()
        for name in sorted(weights)
        if name not in FROZEN
    )
