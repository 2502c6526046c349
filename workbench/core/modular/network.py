"""The network: a one-layer transformer that reads `a b =`, computed in tables, for several seeds.

1. One layer without normalisation, untied, biases in the MLP only; every weight is drawn from
   normal(0, 1/d_model), the unembedding from normal(0, 1/d_vocab), as in the code of the paper.
2. Without normalisation the query at `=` is one constant vector. So scores and values are tables of
   2p + 1 rows (p first operands, p second operands, `=`), and a pair picks its three.
3. Only the last position is computed. What follows the attention is linear up to the ReLU, so the
   output weights of the heads are multiplied into those of the MLP and the unembedding beforehand.

The function is that of TransformerLens' native bridge with the same weights. Every tensor has a
leading axis of seeds: networks of different seeds are trained side by side as one.

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
        values: What each of these rows sends through each head.
        into: From the heads' values to the neurons before the ReLU.
        into_bias: Of the neurons.
        past: From the heads' values to the logits, past the MLP.
        past_bias: Of the logits.
        out: From the neurons to the logits.
    """

    scores: Float[Tensor, "seed row head"]
    values: Float[Tensor, "seed row width"]
    into: Float[Tensor, "seed width neuron"]
    into_bias: Float[Tensor, "seed neuron"]
    past: Float[Tensor, "seed width d_vocab"]
    past_bias: Float[Tensor, "seed d_vocab"]
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
    values = rows @ weights[VALUE].transpose(1, 2)
    return Tables(
        scores,
        values,
        into=_product(weights[INTO], weights[OUTPUT]),
        into_bias=weights[INTO_BIAS] + _times(weights[INTO], equals),
        past=_product(weights[UNEMBEDDING], weights[OUTPUT]),
        past_bias=_times(weights[UNEMBEDDING], equals + weights[OUT_BIAS]),
        out=_product(weights[UNEMBEDDING], weights[OUT]),
    )


def _product(after: Tensor, before: Tensor) -> Tensor:
    """Two linear maps as one, laid out for vectors that are multiplied from the left."""
    return (after @ before).transpose(1, 2).contiguous()


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[:, :, None])[:, :, 0]


class Piece(NamedTuple):
    """What a few pairs do at `=`.

    Attributes:
        pattern: Attention from `=` to a, b and `=`.
        sent: The values of each pair's a and b.
        mixed: The heads' outputs.
    """

    pattern: Float[Tensor, "seed pair head 3"]
    sent: tuple[Tensor, Tensor]
    mixed: Float[Tensor, "seed pair width"]


def attend(
    made: Tables, first: Int64[Tensor, "seed pair"], second: Int64[Tensor, "seed pair"]
) -> Piece:
    """Attention of a few pairs, by looking up their rows.

    Args:
        made: The tables.
        first: Row of each pair's a, in all seeds' tables one after the other.
        second: Row of each pair's b.

    Returns:
        Pattern, the rows that were looked up, and the heads' outputs.
    """
    seeds, rows, n_heads = made.scores.shape
    shape = (*first.shape, n_heads, -1)
    scores, values = made.scores.view(seeds * rows, -1), made.values.view(seeds * rows, -1)
    own = made.scores[:, -1:].expand(*first.shape, n_heads)
    pattern = torch.stack([scores[first], scores[second], own], -1).softmax(-1)
    sent = values[first].view(shape), values[second].view(shape)
    itself = made.values[:, -1:].view(seeds, 1, n_heads, -1)
    mixed = pattern[..., :1] * sent[0]
    mixed = mixed.addcmul_(pattern[..., 1:2], sent[1]).addcmul_(pattern[..., 2:], itself)
    return Piece(pattern, sent, mixed.flatten(2))


def lookup_rows(
    pairs: Int64[Tensor, "seed pair 2"], p: int
) -> tuple[Int64[Tensor, "seed pair"], Int64[Tensor, "seed pair"]]:
    """Rows of the pairs' operands in all seeds' tables one after the other."""
    start = torch.arange(len(pairs), device=pairs.device)[:, None] * (2 * p + 1)
    return pairs[:, :, 0] + start, pairs[:, :, 1] + p + start


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
    first, second = lookup_rows(pairs, weights[EMBEDDING].shape[1] - 1)
    for start in range(0, pairs.shape[1], _PIECE):
        some = slice(start, start + _PIECE)
        piece = attend(made, first[:, some], second[:, some])
        hidden = torch.baddbmm(made.into_bias[:, None], piece.mixed, made.into).relu_()
        logits = torch.baddbmm(made.past_bias[:, None], piece.mixed, made.past)
        yield logits.baddbmm_(hidden, made.out), hidden, piece.pattern


def squared_weights(weights: Mapping[str, Tensor]) -> float:
    """Sum of squares of all trained weights, which weight decay drives down."""
    # In the order of the names, so that weights that were read back give the same bits.
    return sum(
        weights[name].detach().double().square().sum().item()
        for name in sorted(weights)
        if name not in FROZEN
    )
