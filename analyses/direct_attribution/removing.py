"""Removing parts of a prompt's run, one at a time, and running the model on, exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from analyses.direct_attribution import parts as naming
from analyses.direct_attribution import summing
from workbench.core.engine import recompute, running
from workbench.core.engine.sums import StreamSum
from workbench.core.prompts.prompt import Prompt

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Tensor = torch.Tensor
# What the unembedding reads a logit with, and what it adds.
Reading = tuple[Float[Tensor, "1 d_model"], Float[Tensor, " 1"]]
# Numbers of keys and values that runs hold at once: 64 MB of float32.
_MAX_ELEMENTS = 16_000_000


@dataclasses.dataclass(frozen=True)
class Put:
    """What stands in the place of a part that is removed, the same at every position."""

    embedded: dict[str, Float[Tensor, " d_model"]]
    z: list[Float[Tensor, "head d_head"]]
    neuron: list[Float[Tensor, " neuron"]]

    @classmethod
    def zeros(cls, stream: StreamSum) -> Put:
        """Nothing."""
        kept = stream.kept
        embedded = {name: torch.zeros_like(x[0, 0]) for name, x in stream.embedded.items()}
        z = [torch.zeros_like(x[0, 0]) for x in kept.z]
        return cls(embedded, z, [torch.zeros_like(x[0, 0]) for x in kept.neuron])

    @classmethod
    def means(cls, model: TransformerBridge, stream: StreamSum, texts: Sequence[str]) -> Put:
        """Means over the positions of a run, or over the tokens of texts."""
        from workbench.core.prompts import tokenization

        total, count = None, 0
        for text in texts:
            skipped = len(tokenization.front(model))
            one = StreamSum.of(model, Prompt.of(model, text).batch)
            sums = cls._sums(one, skipped)
            total = sums if total is None else total.plus(sums)
            count += one.kept.resid[0].shape[1] - skipped
        if total is None:
            total, count = cls._sums(stream, 0), stream.kept.resid[0].shape[1]
        return cls(
            {name: x / count for name, x in total.embedded.items()},
            [x / count for x in total.z],
            [x / count for x in total.neuron],
        )

    @classmethod
    def _sums(cls, stream: StreamSum, skipped: int) -> Put:
        kept = stream.kept
        embedded = {name: x[0, skipped:].sum(0) for name, x in stream.embedded.items()}
        z = [x[0, skipped:].sum(0) for x in kept.z]
        return cls(embedded, z, [x[0, skipped:].sum(0) for x in kept.neuron])

    def plus(self, other: Put) -> Put:
        """Both added up."""
        return Put(
            {name: x + other.embedded[name] for name, x in self.embedded.items()},
            [x + y for x, y in zip(self.z, other.z, strict=True)],
            [x + y for x, y in zip(self.neuron, other.neuron, strict=True)],
        )

    def in_place(self, stream: StreamSum) -> StreamSum:
        """The sum of a run in which every part is what is put, with the norms as they were."""
        kept = stream.kept
        z = [x.expand_as(old) for x, old in zip(self.z, kept.z, strict=True)]
        neuron = [x.expand_as(old) for x, old in zip(self.neuron, kept.neuron, strict=True)]
        embedded = {name: self.embedded[name].expand_as(x) for name, x in stream.embedded.items()}
        return dataclasses.replace(
            stream, embedded=embedded, kept=dataclasses.replace(kept, z=z, neuron=neuron)
        )


def direct_shares(
    stream: StreamSum, put: Put, read: Reading, chosen: Sequence[str]
) -> Float[np.ndarray, " part"]:
    """What parts write for a logit at the last position, more than what is put in their place.

    Args:
        stream: The prompt as a sum.
        put: What is put in the place of a part.
        read: What the logit is read with.
        chosen: Which parts.

    Returns:
        One share a part.
    """
    own, instead = (_shares(one, read, chosen) for one in (stream, put.in_place(stream)))
    return np.array([own[name] - instead[name] for name in chosen])


def _shares(stream: StreamSum, read: Reading, chosen: Sequence[str]) -> dict[str, float]:
    shares: dict[str, float] = {}
    by_layer: dict[int | None, list[str]] = {}
    for name in filter(naming.is_neuron, chosen):
        by_layer.setdefault(naming.layer_of(name), []).append(name)
    for term in summing.terms(stream, *read):
        shares[term.name] = float(term.share[0, -1])
        for neurons in term.neurons:
            for name in by_layer.get(naming.layer_of(term.name), ()):
                shares[name] = float(neurons[0, -1, naming.index_of(name)])
    return shares


def without(
    model: TransformerBridge,
    stream: StreamSum,
    chosen: Sequence[str],
    put: Put,
    *,
    read: Reading,
    everywhere: bool,
    report: running.Progress,
) -> Float[np.ndarray, " part"]:
    """The logit at the last position of the run without each of some parts.

    Args:
        model: The bridge.
        stream: The prompt as a sum.
        chosen: Which parts.
        put: What is put in their place.
        read: What the logit is read with.
        everywhere: At all positions, instead of the last one alone.
        report: Told how far it is.

    Returns:
        One logit a part, before a soft cap.
    """
    last = stream.kept.resid[0].shape[1] - 1
    start = 0 if everywhere else last
    per_run = (last + 1) * max(stream.kept.k[0][0, 0].numel(), stream.kept.z[0][0, 0].numel())
    # Rows that are changed pass through the MLPs, too.
    widths = [stream.kept.resid[0].shape[-1], *(one.shape[-1] for one in stream.kept.neuron)]
    at_once = max(1, _MAX_ELEMENTS // (per_run + (last + 1 - start) * max(widths)))
    found: list[Tensor] = []
    for first in range(0, len(chosen), at_once):
        report(first / len(chosen), f"part {first + 1} of {len(chosen)}")
        # Taken anew for each piece, so that others who use the model get their turn.
        with running.lock_of(model), torch.no_grad():
            entries = [_entry(stream, name, start, put) for name in chosen[first : first + at_once]]
            ends = recompute.ends(stream.decoder, stream.kept, entries)
            found.append(logit(stream, ends, read))
    return torch.cat(found).double().cpu().numpy()


def _entry(stream: StreamSum, name: str, start: int, put: Put) -> recompute.Entry:
    """A run that goes on without a part from a position on."""
    kept = stream.kept
    device = kept.resid[0].device
    if name in stream.embedded:
        entered = kept.resid[0][0, start:] - stream.embedded[name][0, start:]
        layer, rows = 0, entered + put.embedded[name]
    else:
        layer, rows = _after_layer(stream, name, start, put)
    where = torch.tensor([start], device=device)
    return recompute.Entry(layer, where, torch.zeros_like(where), rows[None])


def _after_layer(
    stream: StreamSum, name: str, start: int, put: Put
) -> tuple[int, Float[Tensor, "row d_model"]]:
    """The stream after the layer that a part is in, without the part."""
    kept, layer = stream.kept, naming.layer_of(name)
    assert layer is not None
    block = stream.decoder.layers[layer]
    resid, head = kept.resid[layer][0, start:], naming.head_of(name)
    if head is not None:
        z = kept.z[layer][0, start:].clone()
        z[:, head] = put.z[layer][head]
        return layer + 1, block.after(resid, block.attn_out(z))
    neurons = kept.neuron[layer][0, start:].clone()
    which = naming.index_of(name) if naming.is_neuron(name) else slice(None)
    neurons[:, which] = put.neuron[layer][which]
    return layer + 1, resid + kept.attn_out[layer][0, start:] + block.neurons_out(neurons)


def logit(
    stream: StreamSum, ends: Float[Tensor, "run d_model"], read: Reading
) -> Float[Tensor, " run"]:
    """The logit before a soft cap, of the stream after the last layer."""
    weights, bias = read
    return stream.decoder.final_norm(ends) @ weights[0] + bias
