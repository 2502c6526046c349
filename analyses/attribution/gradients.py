"""How the activations of a run, and the metric's gradient with respect to each, are obtained.

1. `Parts`: through the model taken apart (`decoder`). Only the last position is unembedded, and the
   attention weights are at hand for the softmax correction.
2. `Hooks`: through the bridge's own hook points, for whatever cannot be taken apart.

Both give the metric's gradient for all sites and layers in one forward and one backward pass. The
parameters get no gradient: only activations are asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Generator
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int

from workbench.core.engine import decoder as decoders
from workbench.core.engine import running, sites

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Tensor = torch.Tensor
# Metric of each prompt, given its logits at the last position.
Measure = Callable[[Float[Tensor, "batch d_vocab"]], Float[Tensor, " batch"]]
# One activation a layer, by site.
ByLayer = dict[str, list[Tensor]]
# Fields of `decoder.Activations` that are differentiated as they are.
_PLAIN = ("attn_out", "z", "q", "k", "v")


@dataclasses.dataclass(frozen=True)
class Run:
    """What one forward pass left behind.

    Attributes:
        logits: At the last position.
        values: Activation of each layer, by site.
    """

    logits: Float[Tensor, "batch d_vocab"]
    values: ByLayer


@dataclasses.dataclass(frozen=True)
class Differentiated:
    """A run with the metric's gradient.

    Attributes:
        run: The forward pass.
        gradients: Gradient of each prompt's metric with respect to `run.values`.
        inner: The same for the output of each head, which the softmax correction needs; empty
            where it is not offered.
    """

    run: Run
    gradients: ByLayer
    inner: list[Tensor]


@contextlib.contextmanager
def differentiable(model: TransformerBridge) -> Generator[None]:
    """Gradients are on in the block, whatever the caller set, under the model's lock."""
    with running.lock_of(model), torch.inference_mode(False), torch.enable_grad():
        yield


def taken_apart(
    model: TransformerBridge, tokens: Int[Tensor, "batch position"]
) -> decoders.Decoder:
    """The model in parts that can be differentiated, proven on one of the prompts.

    Args:
        model: The bridge.
        tokens: Prompts of the length that will be run.

    Returns:
        The parts.

    Raises:
        NotTakenApart: If the parts do not give what the bridge gives.
    """
    parts = decoders.taken_apart(model, tokens[:1])
    with torch.inference_mode(False):
        for layer in parts.layers:
            # It was seen in inference mode, and what is made there cannot be saved for a gradient.
            layer.mask = None if layer.mask is None else layer.mask.clone()
    return parts


class Parts:
    """Runs of a model that is taken apart."""

    corrects = True

    def __init__(
        self,
        model: TransformerBridge,
        tokens: Int[Tensor, "batch position"],
        kinds: Collection[str],
    ) -> None:
        """Take the model apart.

        Args:
            model: The bridge.
            tokens: Prompts of the length that will be run.
            kinds: Sites that will be asked for.

        Raises:
            NotTakenApart: If the parts do not give what the bridge gives.
        """
        self._model, self._kinds = model, tuple(kinds)
        self._decoder = taken_apart(model, tokens)

    def look(self, tokens: Int[Tensor, "batch position"]) -> Run:
        """Run forward only."""
        with differentiable(self._model), torch.no_grad():
            made = self._decoder.run(self._decoder.embed(tokens))
            return Run(self._decoder.logits(made.resid[-1][:, -1]), self._values(made))

    def differentiate(
        self, tokens: Int[Tensor, "batch position"], measure: Measure
    ) -> Differentiated:
        """Run forward and backward."""
        with differentiable(self._model):
            with torch.no_grad():
                embedded = self._decoder.embed(tokens)
            made = self._decoder.run(embedded.requires_grad_())
            logits = self._decoder.logits(made.resid[-1][:, -1])
            known = self._backward(made, measure(logits.float()).sum())
        with torch.no_grad():
            run = Run(logits.detach(), self._values(made))
        gradients = {kind: self._gradient(kind, made, known) for kind in self._kinds}
        return Differentiated(run, gradients, known.get("z", []))

    def query_changes(
        self, base: Differentiated, layer: int, moved: Float[Tensor, "batch position head d_head"]
    ) -> Float[Tensor, "batch position head"]:
        """Change of the metric if one head's query at one position is another one.

        The other query goes through the softmax; only what follows is linearised.

        Args:
            base: The run that is changed.
            layer: Which layer.
            moved: The other queries, as projected.

        Returns:
            One change a position and head.
        """
        block = self._decoder.layers[layer]
        queries, keys, slope = self._attention(base, layer)
        positions = torch.arange(moved.shape[1], device=moved.device)
        with running.lock_of(self._model), torch.no_grad():
            gap = block.pattern(block.rotate_queries(moved, positions), keys)
            gap = gap - block.pattern(queries, keys)
        return (gap * slope).sum(-1).transpose(1, 2)

    def key_changes(
        self, base: Differentiated, layer: int, moved: Float[Tensor, "batch position group d_head"]
    ) -> Float[Tensor, "batch position group"]:
        """Change of the metric if one key/value head's key at one position is another one.

        Args:
            base: The run that is changed.
            layer: Which layer.
            moved: The other keys, as projected.

        Returns:
            One change a position and key/value head: the sum over the query heads that share it.
        """
        block = self._decoder.layers[layer]
        queries, keys, slope = self._attention(base, layer)
        positions = torch.arange(moved.shape[1], device=moved.device)
        changes = torch.zeros(moved.shape[:-1], dtype=moved.dtype, device=moved.device)
        with running.lock_of(self._model), torch.no_grad():
            others = block.rotate_keys(moved, positions)
            before = block.pattern(queries, keys)
            for position in range(moved.shape[1]):
                patched = keys.clone()
                patched[:, position] = others[:, position]
                gap = block.pattern(queries, patched) - before
                by_head = (gap * slope).sum((-2, -1))
                changes[:, position] = by_head.unflatten(-1, (moved.shape[2], -1)).sum(-1)
        return changes

    def _attention(
        self, base: Differentiated, layer: int
    ) -> tuple[
        Float[Tensor, "batch query head d_head"],
        Float[Tensor, "batch key group d_head"],
        Float[Tensor, "batch head query key"],
    ]:
        """Queries and keys as they meet, and the metric's gradient with respect to the pattern."""
        block, values = self._decoder.layers[layer], base.run.values
        q, k, v = (values[name][layer] for name in ("q", "k", "v"))
        positions = torch.arange(q.shape[1], device=q.device)
        with running.lock_of(self._model), torch.no_grad():
            queries, keys = block.rotate_queries(q, positions), block.rotate_keys(k, positions)
        each = v.repeat_interleave(q.shape[2] // v.shape[2], dim=2)
        return queries, keys, torch.einsum("bqhd,bkhd->bhqk", base.inner[layer], each)

    def _values(self, made: decoders.Activations) -> ByLayer:
        streams = {"resid_pre": made.resid[:-1], "resid_post": made.resid[1:]}
        kept = {**streams, "mlp_out": made.mlp_out} | {n: getattr(made, n) for n in _PLAIN}
        if "neuron" in self._kinds:
            kept["neuron"] = [self._neurons(made, i) for i in range(len(made.z))]
        return {name: [value.detach() for value in layers] for name, layers in kept.items()}

    def _neurons(self, made: decoders.Activations, layer: int) -> Tensor:
        block = self._decoder.layers[layer]
        with differentiable(self._model), torch.no_grad():
            read = block.mlp_reads(made.resid[layer], made.attn_out[layer])
            return block.neurons(read)

    def _backward(self, made: decoders.Activations, metric: Tensor) -> ByLayer:
        """Gradients of what is asked for, and of what these are computed from."""
        asked = set(self._kinds)
        wanted = {name: getattr(made, name) for name in _PLAIN if name in asked}
        if asked & {"q", "k"}:
            wanted["z"] = made.z
        wanted["resid"] = made.resid if "resid_pre" in asked else made.resid[1:]
        flat = [value for layers in wanted.values() for value in layers]
        found = iter(torch.autograd.grad(metric, flat, materialize_grads=True))
        return {name: [next(found) for _ in layers] for name, layers in wanted.items()}

    def _gradient(self, kind: str, made: decoders.Activations, known: ByLayer) -> list[Tensor]:
        after = known["resid"][-len(made.z) :]
        if kind == "resid_pre":
            return known["resid"][:-1]
        # What the MLP adds goes into the stream after the layer and nowhere else.
        if kind in ("resid_post", "mlp_out"):
            return after
        if kind == "neuron":
            return [self._neuron_gradient(made, i, after[i]) for i in range(len(after))]
        return known[kind]

    def _neuron_gradient(self, made: decoders.Activations, layer: int, after: Tensor) -> Tensor:
        neurons = self._neurons(made, layer)
        with differentiable(self._model):
            leaf = neurons.requires_grad_()
            written = self._decoder.layers[layer].neurons_out(leaf)
            return torch.autograd.grad(written, leaf, after)[0]


class Hooks:
    """Runs of any bridge, through its own hook points."""

    corrects = False

    def __init__(self, model: TransformerBridge, kinds: Collection[str]) -> None:
        """Look up the hook points.

        Args:
            model: The bridge.
            kinds: Sites that will be asked for.

        Raises:
            ValueError: If the model lacks a site.
        """
        self._model = model
        self._names = {kind: sites.resolve(model, kind)[1] for kind in kinds}

    def look(self, tokens: Int[Tensor, "batch position"]) -> Run:
        """Run forward only."""
        names = [name for layers in self._names.values() for name in layers]
        logits, kept = running.run_and_keep(self._model, tokens, names)
        return Run(logits[:, -1], self._by_layer(kept))

    def differentiate(
        self, tokens: Int[Tensor, "batch position"], measure: Measure
    ) -> Differentiated:
        """Run forward and backward."""
        kept: dict[str, Tensor] = {}
        first = sites.SITES["resid_pre"].hook_name(0)

        def keep_as(name: str) -> Callable[..., Tensor]:
            def keep(activation: Tensor, hook: Any = None) -> Tensor:
                if not activation.requires_grad:
                    activation = activation.detach().clone().requires_grad_()
                kept[name] = activation
                return activation

            return keep

        names = dict.fromkeys([first, *(n for layers in self._names.values() for n in layers)])
        with differentiable(self._model):
            with self._model.hooks(fwd_hooks=[(name, keep_as(name)) for name in names]):
                # Tokens made in inference mode could not be kept for the backward pass.
                ids = tokens.clone().to(self._model.cfg.device)
                logits = self._model(ids, return_type="logits")
            metric = measure(logits[:, -1].float()).sum()
            found = torch.autograd.grad(metric, list(kept.values()), materialize_grads=True)
        gradients = self._by_layer(dict(zip(kept, found, strict=True)))
        detached = self._by_layer({name: value.detach() for name, value in kept.items()})
        return Differentiated(Run(logits[:, -1].detach(), detached), gradients, [])

    def _by_layer(self, kept: dict[str, Tensor]) -> ByLayer:
        return {kind: [kept[name] for name in names] for kind, names in self._names.items()}
