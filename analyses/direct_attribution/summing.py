"""A logit as a sum: one term after another, each a part's share at every position."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from analyses.direct_attribution.result import DirectAttribution
from workbench.core import results
from workbench.core.engine import running
from workbench.core.engine.sums import StreamSum
from workbench.core.prompts.prompt import Prompt, token_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformer_lens.model_bridge import TransformerBridge

ANALYSIS = "direct_attribution.attribute"
Tensor = torch.Tensor
# Of all architectures: the logits before a soft cap bends them.
_LOGITS = "unembed.hook_out"


class Term(NamedTuple):
    """One part's share of a logit.

    Attributes:
        name: Of the part.
        share: In logits.
        neurons: Where the part is an MLP, the share of each of its neurons; else empty.
    """

    name: str
    share: Float[Tensor, "batch position"]
    neurons: tuple[Float[Tensor, "batch position neuron"], ...] = ()


def terms(
    stream: StreamSum, weights: Float[Tensor, "batch d_model"], bias: Float[Tensor, " batch"]
) -> Iterator[Term]:
    """The terms that sum to a logit, in the order in which the model computes them.

    Biases that are zero for every prompt are no parts. One layer is held at a time.

    Args:
        stream: Some prompts as a sum.
        weights: What the unembedding reads the logit with, for each prompt.
        bias: What it adds.

    Yields:
        One term a part.
    """
    direction = stream.final.pulled(weights[:, None].expand_as(stream.kept.resid[-1]))
    for name, wrote in stream.embedded.items():
        yield Term(name, (wrote * direction).sum(-1))
    for layer in range(stream.n_layers):
        shares = (stream.heads(layer) * direction[:, :, None]).sum(-1)
        for head, share in enumerate(shares.unbind(-1)):
            yield Term(f"a{layer}.h{head}", share)
        constant = stream.attn_constant(layer)
        if bool(constant.any()):
            yield Term(f"a{layer}.bias", (constant * direction).sum(-1))
        neurons = stream.neuron_shares(layer, direction)
        if neurons.shape[-1]:
            yield Term(f"m{layer}", neurons.sum(-1), (neurons,))
        constant = stream.mlp_constant(layer)
        if bool(constant.any()):
            yield Term(f"m{layer}.bias", (constant * direction).sum(-1))
    if bool(stream.final.bias.any()):
        yield Term("norm.bias", (weights @ stream.final.bias)[:, None].expand(direction.shape[:2]))
    of_tokens = stream.decoder.unembedding()[1]
    if of_tokens is not None and bool(of_tokens.any()):
        yield Term("unembed.bias", bias[:, None].expand(direction.shape[:2]))


def reading(
    stream: StreamSum, answer: int, wrong: int | None
) -> tuple[Float[Tensor, "1 d_model"], Float[Tensor, " 1"]]:
    """What the unembedding reads a logit, or a difference of two, with, and what it adds."""
    weights, bias = stream.decoder.unembedding()
    bias = weights.new_zeros(len(weights)) if bias is None else bias
    less = None if wrong is None else (weights[wrong], bias[wrong])
    own = (weights[answer], bias[answer])
    read = own if less is None else (own[0] - less[0], own[1] - less[1])
    return read[0][None], read[1][None]


def attribute(
    model: TransformerBridge,
    prompt: Prompt | str | Sequence[int],
    answer: str | int,
    *,
    wrong: str | int | None = None,
    position: int = -1,
    top_neurons: int = 50,
) -> DirectAttribution:
    """Take the logit of an answer apart, at every position of a prompt.

    Args:
        model: Any bridge that can be taken apart; it is not changed.
        prompt: Text, token ids or a prompt.
        answer: Whose logit: a single token as text, with its leading space if any, or its id.
        wrong: Another one, whose logit is taken off; None for the logit alone.
        position: Which position summary and figures speak of, and heads are split up by source at;
            negative ones count from the end.
        top_neurons: How many neurons are kept at each position, those with the largest shares.

    Returns:
        The shares of all parts at all positions.

    Raises:
        ValueError: If the prompt or an answer cannot be read, the two answers are the same, there
            is no such position, fewer than one neuron is asked for, or the model cannot be taken
            apart.
    """
    started = time.perf_counter()
    prompt = Prompt.of(model, prompt)
    position = prompt.position(position)
    ids = [prompt.answer(model, written) for written in (answer, wrong) if written is not None]
    if len(set(ids)) != len(ids):
        raise ValueError(f"answer and wrong are the same token, {ids[0]}: nothing is left to split")
    if top_neurons < 1:
        raise ValueError(f"top_neurons = {top_neurons}; expected at least 1")
    stream = StreamSum.of(model, prompt.batch)
    before_cap, logit = _own_logits(model, prompt, ids)
    with torch.no_grad():
        weights, bias = reading(stream, *ids, *([None] if len(ids) == 1 else []))
        best = _Largest.none_yet(top_neurons, len(prompt))
        names: list[str] = []
        shares: list[np.ndarray] = []
        for term in terms(stream, weights, bias):
            names.append(term.name)
            shares.append(_plain(term.share[0]))
            for neurons in term.neurons:
                best.take(int(term.name[1:]), neurons[0])
        by_source = _by_source(stream, weights, position)
    parts = np.stack(shares)
    texts = token_texts(model, ids)
    return DirectAttribution(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={
                "prompt": list(prompt.ids),
                "answer": ids[0],
                "wrong": ids[1] if len(ids) > 1 else None,
                "position": position,
                "top_neurons": top_neurons,
            },
            seed=0,
            wall_time=time.perf_counter() - started,
        ),
        ids=prompt.ids,
        tokens=prompt.tokens,
        answer_ids=tuple(ids),
        answers=texts,
        position=position,
        names=tuple(names),
        parts=parts,
        logit=logit,
        before_cap=before_cap,
        cap=float(stream.decoder.logit_cap),
        error=float(np.abs(parts.sum(0, dtype=np.float64) - before_cap).max()),
        neuron_layers=best.layers,
        neuron_indices=best.indices,
        neuron_shares=best.shares,
        by_source=by_source,
    )


def own_logits(
    model: TransformerBridge, tokens: Int[Tensor, "batch position"], chosen: Sequence[int]
) -> tuple[Float[Tensor, "batch position answer"], Float[Tensor, "batch position answer"]]:
    """Logits of some tokens as the model itself gives them: before a soft cap, and after it."""
    seen: list[Tensor] = []

    def look(logits: Tensor) -> Tensor:
        # Of the vocabulary only what is asked for: the whole takes hundreds of megabytes.
        seen.append(logits[..., list(chosen)].clone())
        return logits

    after = running.run(model, tokens, {_LOGITS: look})[..., list(chosen)]
    return seen[0], after


def _own_logits(
    model: TransformerBridge, prompt: Prompt, ids: Sequence[int]
) -> tuple[Float[np.ndarray, " position"], Float[np.ndarray, " position"]]:
    before, after = (
        _plain(logits[0, :, 0] - logits[0, :, 1:].sum(-1))
        for logits in own_logits(model, prompt.batch, ids)
    )
    return before, after


def _by_source(
    stream: StreamSum, weights: Float[Tensor, "1 d_model"], position: int
) -> Float[np.ndarray, "layer head key"]:
    """Share of each head at one position, by the position that it brings it from."""
    direction = stream.final.pulled(weights[:, None].expand_as(stream.kept.resid[-1]))[0, position]
    layers = [
        stream.heads_by_key(layer, stream.pattern(layer), position)[0, :, : position + 1]
        @ direction
        for layer in range(stream.n_layers)
    ]
    return np.stack([_plain(layer) for layer in layers])


@dataclasses.dataclass
class _Largest:
    """The neurons with the largest shares at each position, over all layers seen so far."""

    most: int
    shares: Float[np.ndarray, "position k"]
    layers: Int[np.ndarray, "position k"]
    indices: Int[np.ndarray, "position k"]

    @classmethod
    def none_yet(cls, most: int, positions: int) -> _Largest:
        """Before any layer."""
        whole = np.zeros((positions, 0), np.int64)
        return cls(most, whole.astype(np.float32), whole, whole)

    def take(self, layer: int, shares: Float[Tensor, "position neuron"]) -> None:
        """Look at the neurons of one more layer."""
        top = shares.abs().topk(min(self.most, shares.shape[-1]), dim=-1).indices
        here, values = top.cpu().numpy(), _plain(shares.gather(-1, top))
        old, new = (self.shares, self.layers, self.indices), (values, here * 0 + layer, here)
        both = [np.concatenate(one, axis=1) for one in zip(old, new, strict=True)]
        order = np.argsort(-np.abs(both[0]), axis=1, kind="stable")[:, : self.most]
        self.shares, self.layers, self.indices = (
            np.take_along_axis(column, order, axis=1) for column in both
        )


def _plain(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()
