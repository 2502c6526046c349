"""Parts of a logit by name: what writes into the stream, and the biases on the way out.

`embed`, `pos_embed`; `a3.h1` a head, `a3.bias` what attention adds whatever its heads do; `m3` the
neurons of an MLP, `m3.bias` what it adds whatever they do; `neuron 3.17` one of them; `norm.bias`
the final norm's bias as the unembedding reads it, `unembed.bias` the unembedding's own.
"""

from __future__ import annotations

import re

from workbench.core.engine import graph, units

EMBEDDINGS = ("embed", "pos_embed")
OUTPUT_BIASES = ("norm.bias", "unembed.bias")
_IN_LAYER = re.compile(r"(?P<kind>[am])(?P<layer>\d+)(?:\.h(?P<head>\d+)|(?P<bias>\.bias))?")


def layer_of(part: str) -> int | None:
    """The layer that a part belongs to; None for embeddings and what comes after all layers."""
    if is_neuron(part):
        return units.Unit.parse(part).layer
    found = _IN_LAYER.fullmatch(part)
    return int(found["layer"]) if found else None


def head_of(part: str) -> int | None:
    """Which head of its layer a part is; None for anything else."""
    found = _IN_LAYER.fullmatch(part)
    return int(found["head"]) if found and found["head"] else None


def index_of(neuron: str) -> int:
    """Which neuron of its layer it is."""
    return units.Unit.parse(neuron).index


def is_bias(part: str) -> bool:
    """Whether it is the same whatever the prompt, up to the frozen scales."""
    return part.endswith(".bias")


def is_mlp(part: str) -> bool:
    """Whether it is what the neurons of a layer write."""
    return part.startswith("m") and not is_bias(part)


def is_neuron(part: str) -> bool:
    """Whether it is a single neuron."""
    return part.startswith("neuron ")


def unit_of(part: str) -> str | None:
    """Name of the unit that a part is, as in "head 3.1"; None where it is no single unit."""
    return part if is_neuron(part) else graph.unit_of(part)


def group_of(part: str) -> str:
    """What a part is counted to where layers are shown as wholes."""
    layer = layer_of(part)
    if layer is None:
        return "output biases" if part in OUTPUT_BIASES else part
    return f"{'attention' if part.startswith('a') else 'MLP'} {layer}"
