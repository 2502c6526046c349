"""Which tokens a neuron reads and writes, by its weights."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float

from analyses.weights import circuits, nulls
from workbench.core import plots, results

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Tensor = torch.Tensor
ANALYSIS = "weights.neuron"
_SPOKEN = 5


@dataclasses.dataclass(frozen=True)
class TokenEnds:
    """Tokens at both ends of a product with a neuron's weights.

    Attributes:
        name: What the weights do: "reads", "gate reads" or "writes".
        most: Tokens with the largest products, the largest first.
        most_ids: Their ids.
        most_values: Their products.
        least: Tokens with the smallest, the smallest first.
        least_ids: Their ids.
        least_values: Their products.
        p_value: Share of random vectors of the same length whose largest product, of either sign,
            is as large.
    """

    name: str
    most: tuple[str, ...]
    most_ids: tuple[int, ...]
    most_values: tuple[float, ...]
    least: tuple[str, ...]
    least_ids: tuple[int, ...]
    least_values: tuple[float, ...]
    p_value: float


@dataclasses.dataclass(frozen=True)
class NeuronWeights(results.Result):
    """A neuron's weights in the space of tokens.

    Attributes:
        layer: Of the neuron.
        neuron: Its index.
        ends: Tokens that it reads, that its gate reads (where it has one), and that it writes.
        cosine: Of what it reads with what it writes.
        cosine_p: Share of random directions with a cosine as far from zero.
        gate_cosine: Of what its gate reads with what it writes; empty without a gate.
        read_length: Length of the vector that it reads with, norms folded in.
        write_length: Length of the one that it writes.
        read_place: Share of the layer's neurons that read with a shorter vector.
        write_place: Share of the layer's neurons that write a shorter one.
        n_random: Random vectors.
        scale: Of the norms on embeddings, "own" or "one".
    """

    layer: int
    neuron: int
    ends: tuple[TokenEnds, ...]
    cosine: float
    cosine_p: float
    gate_cosine: tuple[float, ...]
    read_length: float
    write_length: float
    read_place: float
    write_place: float
    n_random: int
    scale: str

    def of(self, name: str) -> TokenEnds:
        """Tokens by what the weights do.

        Raises:
            ValueError: If the neuron has no such weights.
        """
        for ends in self.ends:
            if ends.name == name:
                return ends
        raise ValueError(f"{name!r} is not known: use {' or '.join(e.name for e in self.ends)}")

    def to_frame(self) -> pd.DataFrame:
        """One row a token at an end."""
        rows = [
            {"weights": ends.name, "end": end, "token": token, "value": value, "p": ends.p_value}
            for ends in self.ends
            for end, tokens, values in (
                ("most", ends.most, ends.most_values),
                ("least", ends.least, ends.least_values),
            )
            for token, value in zip(tokens, values, strict=True)
        ]
        return pd.DataFrame(rows)

    def figure(self) -> go.Figure:
        """Products of the weights with the tokens at both ends."""
        figure = go.Figure()
        for i, ends in enumerate(self.ends):
            tokens = [*ends.most, *reversed(ends.least)]
            labels = [plots.escape(plots.visible(token)) for token in tokens]
            figure.add_trace(
                go.Bar(
                    x=np.arange(len(tokens)),
                    y=[*ends.most_values, *reversed(ends.least_values)],
                    name=ends.name,
                    marker={"color": plots.COLOURS[i]},
                    customdata=labels,
                    hovertemplate="%{customdata}<br>%{y:.3g}<extra></extra>",
                )
            )
        figure.update_layout(template=plots.TEMPLATE, barmode="group")
        figure.update_xaxes(
            title="tokens, the largest product to the smallest", showticklabels=False
        )
        return figure.update_yaxes(title="product with the token")

    def summary(self) -> str:
        """Tokens at the ends, and how what it reads lies to what it writes."""
        said = "; ".join(
            f"{ends.name} {_listed(ends.most)} against {_listed(ends.least)} (p = "
            f"{ends.p_value:.2g})"
            for ends in self.ends
        )
        return (
            f"Neuron {self.layer}.{self.neuron} by its weights: {said}. p: largest product of "
            f"{self.n_random} random vectors of the same length. Cosine of what it reads with what "
            f"it writes {self.cosine:+.3f} (p = {self.cosine_p:.2g} for a random direction). It "
            f"reads with a longer vector than {self.read_place:.0%} of the layer's neurons and "
            f"writes a longer one than {self.write_place:.0%}. Bare embeddings are what the first "
            "layer reads; later ones read what earlier ones wrote, too."
        )


def neuron(
    model: TransformerBridge,
    layer: int,
    neuron: int,
    *,
    k: int = 10,
    scale: str = "own",
    seed: int = 0,
) -> NeuronWeights:
    """Project a neuron's weights on the tokens.

    Args:
        model: The bridge.
        layer: Of the neuron.
        neuron: Its index.
        k: How many tokens at either end.
        scale: Of the norm on embeddings: "own", each token's by itself, or "one".
        seed: Of the random vectors.

    Returns:
        Tokens that it reads and writes, against random vectors.

    Raises:
        ValueError: If there is no such neuron, or k is below 1.
    """
    started = time.perf_counter()
    if k < 1:
        raise ValueError(f"k = {k}; expected at least 1 token at either end")
    of = circuits.Circuits(model)
    weights = of.neurons(layer)
    if not 0 <= neuron < len(weights.write):
        raise ValueError(f"layer {layer} has neurons 0 to {len(weights.write) - 1}, not {neuron}")
    norm = "ln2" if hasattr(model.blocks[layer], "ln2") else "ln1"
    embedded = of.scaled(of.embedding(), norm, layer, scale=scale)
    read_null = nulls.largest_products(embedded, seed)
    asked = [("reads", weights.read)]
    asked += [("gate reads", gate) for gate in weights.gate]
    ends = [
        _ends(model, name, vector=rows[neuron], rows=embedded, null=read_null, k=k)
        for name, rows in asked
    ]
    unembedding = of.unembedding()
    write_null = nulls.largest_products(unembedding, seed)
    ends.append(
        _ends(
            model,
            "writes",
            vector=weights.write[neuron],
            rows=unembedding,
            null=write_null,
            k=k,
        )
    )
    read, write = weights.read[neuron], weights.write[neuron]
    cosine = _cosine(read, write)
    lengths = [each.norm(dim=1) for each in (weights.read, weights.write)]
    return NeuronWeights(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={"layer": layer, "neuron": neuron, "k": k, "scale": scale},
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        layer=layer,
        neuron=neuron,
        ends=tuple(ends),
        cosine=cosine,
        cosine_p=float(nulls.cosine_p_value(cosine, of.d_model - int(of.centred))),
        gate_cosine=tuple(_cosine(gate[neuron], write) for gate in weights.gate),
        read_length=float(read.norm()),
        write_length=float(write.norm()),
        read_place=float((lengths[0] < lengths[0][neuron]).float().mean()),
        write_place=float((lengths[1] < lengths[1][neuron]).float().mean()),
        n_random=len(write_null),
        scale=scale,
    )


def _ends(
    model: TransformerBridge,
    name: str,
    *,
    vector: Tensor,
    rows: Tensor,
    null: Float[np.ndarray, " sample"],
    k: int,
) -> TokenEnds:
    products = rows @ vector
    high, low = (products.topk(min(k, len(products)), largest=up) for up in (True, False))
    length = float(vector.norm())
    largest = float(products.abs().max()) / length if length > 0 else 0.0
    parts = [
        (circuits.names(model, ids), tuple(ids), tuple(found.values.tolist()))
        for found in (high, low)
        for ids in [found.indices.tolist()]
    ]
    p_value = float(nulls.p_values(np.array([largest]), null)[0])
    return TokenEnds(name, *parts[0], *parts[1], p_value)


def _cosine(left: Tensor, right: Tensor) -> float:
    size = float(left.norm() * right.norm())
    return float(left @ right) / size if size > 0 else 0.0


def _listed(tokens: tuple[str, ...]) -> str:
    return " ".join(plots.visible(token) for token in tokens[:_SPOKEN])
