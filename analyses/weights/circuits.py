"""Weights as the residual stream meets them: gains and centring of the norms folded in.

What reads the stream reads it through a norm. Its gain and its centring are part of what is read;
its scale, one number a position, depends on the whole stream and is not in the weights. Gain and
centring are read off what each norm does to a probe, so no architecture is assumed.

For tokens the scale is a choice: "own" takes that of the embedding alone, which is exactly what the
first layer reads of a token, positions left out; "one" sets it to 1, as folding a norm into the
weights does. Shared key/value heads are repeated, one for each of their query heads.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float

from workbench.core.engine import frozen_norms, running
from workbench.core.prompts import prompt, tokenization

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Tensor = torch.Tensor
SCALES = ("own", "one")
# Rows of an embedding that go through a norm together.
_ROWS = 8192
_SAME = 1e-4


@dataclasses.dataclass(frozen=True, eq=False)
class Heads:
    """A layer's attention as it reads and writes the stream: rows times these matrices.

    Attributes:
        query: What each head's queries read.
        key: What its keys read.
        value: What its values read.
        output: What its output writes.
    """

    query: Float[Tensor, "head d_model d_head"]
    key: Float[Tensor, "head d_model d_head"]
    value: Float[Tensor, "head d_model d_head"]
    output: Float[Tensor, "head d_head d_model"]


@dataclasses.dataclass(frozen=True, eq=False)
class Neurons:
    """A layer's MLP as it reads and writes the stream.

    Attributes:
        read: What each neuron reads.
        gate: What its gate reads; empty where the MLP has none.
        write: What it writes for an activation of one.
    """

    read: Float[Tensor, "neuron d_model"]
    gate: tuple[Float[Tensor, "neuron d_model"], ...]
    write: Float[Tensor, "neuron d_model"]


class Circuits:
    """Matrices of a model, taken out of it when they are asked for."""

    def __init__(self, model: TransformerBridge, *, folded: bool = True) -> None:
        """Look at a model.

        Args:
            model: The bridge.
            folded: Whether norms are folded in; without that, weights are as they are stored.
        """
        self._model, self._folded = model, folded
        self.n_layers, self.n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)

    @property
    def d_model(self) -> int:
        """Width of the stream."""
        return int(self._model.cfg.d_model)

    @property
    def centred(self) -> bool:
        """Whether nothing reads the mean over the stream's coordinates."""
        return self._folded and self._final().centred

    def layer(self, layer: int) -> int:
        """A layer that exists.

        Raises:
            ValueError: If it does not.
        """
        if not 0 <= layer < self.n_layers:
            raise ValueError(f"the model has layers 0 to {self.n_layers - 1}, not {layer}")
        return layer

    def head(self, layer: int, head: int) -> tuple[int, int]:
        """A head that exists.

        Raises:
            ValueError: If it does not.
        """
        self.layer(layer)
        if not 0 <= head < self.n_heads:
            raise ValueError(f"layer {layer} has heads 0 to {self.n_heads - 1}, not {head}")
        return layer, head

    def heads(self, layer: int) -> Heads:
        """The attention of a layer.

        Args:
            layer: Which one.

        Returns:
            Its matrices.

        Raises:
            ValueError: If there is no such layer, or it has no attention.
        """
        block: Any = self._model.blocks[self.layer(layer)]
        attention = getattr(block, "attn", None)
        if attention is None:
            raise ValueError(f"layer {layer} has no attention heads")
        reads, post = self._norm(block, "ln1"), self._norm(block, "ln1_post")
        query, key, value = (
            _read_through(reads, self._by_head(getattr(attention, name)))
            for name in ("W_Q", "W_K", "W_V")
        )
        if self._folded:
            query = query * self._head_gain(attention, "q_norm")
            key = key * self._head_gain(attention, "k_norm")
        output = self._written(post, attention.W_O.detach().float())
        return Heads(query, key, value, output)

    def neurons(self, layer: int) -> Neurons:
        """The MLP of a layer.

        Args:
            layer: Which one.

        Returns:
            Its matrices.

        Raises:
            ValueError: If there is no such layer, or it has no MLP with one row a neuron.
        """
        block: Any = self._model.blocks[self.layer(layer)]
        mlp: Any = getattr(block, "mlp", None)
        try:
            inside, outside = mlp.W_in.detach().float(), mlp.W_out.detach().float()
            gate = getattr(mlp, "W_gate", None)
        except AttributeError as error:
            raise ValueError(f"layer {layer} has no MLP whose neurons can be told apart") from error
        # Parallel blocks of some families normalise once for both readers.
        reads = self._norm(block, "ln2" if hasattr(block, "ln2") else "ln1")
        gates = () if gate is None else (reads.pulled(gate.detach().float().T),)
        write = self._written(self._norm(block, "ln2_post"), outside)
        return Neurons(reads.pulled(inside.T), gates, write)

    def tokens(
        self, layer: int, ids: Sequence[int] | None = None, *, scale: str = "own"
    ) -> Float[Tensor, "row d_model"]:
        """Embeddings as a layer's reading matrices take them: with the norm's scale, no gain.

        Args:
            layer: Whose norm.
            ids: Which tokens; all if not given.
            scale: "own" or "one".

        Returns:
            One row a token.
        """
        rows = self.embedding()
        rows = rows if ids is None else rows[list(ids)]
        return self.scaled(rows, "ln1", layer, scale=scale)

    def scaled(
        self, rows: Float[Tensor, "row d_model"], norm: str, layer: int, *, scale: str
    ) -> Float[Tensor, "row d_model"]:
        """Rows with the scale that a norm gives them."""
        require_scale(scale)
        module = getattr(self._model.blocks[layer], norm, None)
        if scale == "one" or not self._folded or module is None:
            return rows
        with running.lock_of(self._model), torch.no_grad():
            call = _Norm(module)
            return torch.cat(
                [some * frozen_norms.FrozenNorm.at(call, some).scale for some in rows.split(_ROWS)]
            )

    def same_scale(self, layer: int, other: int) -> bool:
        """Whether the norms before two layers' attention scale embeddings alike."""
        some = self.embedding()[:4]
        mine, theirs = (self.scaled(some, "ln1", each, scale="own") for each in (layer, other))
        return torch.allclose(mine, theirs, rtol=_SAME, atol=0)

    def embedding(self) -> Float[Tensor, "d_vocab d_model"]:
        """What each token puts into the stream, positions left out."""
        return self._model.W_E.detach().float()

    def unembedding(self) -> Float[Tensor, "d_vocab d_model"]:
        """What reads each token's logit off the stream, the final norm's scale being 1."""
        rows = self._model.W_U.detach().float().T
        return self._final().pulled(rows) if self._folded else rows

    def _final(self) -> frozen_norms.FrozenNorm:
        return self._norm(self._model, "ln_final")

    def _by_head(self, weight: Tensor) -> Tensor:
        weight = weight.detach().float()
        return weight.repeat_interleave(self.n_heads // weight.shape[0], dim=0)

    def _written(self, post: frozen_norms.FrozenNorm, weight: Tensor) -> Tensor:
        through = post.of(weight)
        return through - through.mean(-1, keepdim=True) if self.centred else through

    def _norm(self, holder: Any, name: str) -> frozen_norms.FrozenNorm:
        """A norm with scale 1; the identity where there is none."""
        module = getattr(holder, name, None) if self._folded else None
        return self._frozen(module, self.d_model)

    def _head_gain(self, attention: Any, name: str) -> Float[Tensor, " d_head"]:
        """Gain of a norm on queries or keys, the scale being 1."""
        module = attention.submodules.get(name) if hasattr(attention, "submodules") else None
        try:
            return self._frozen(module, int(self._model.cfg.d_head)).gain
        except RuntimeError as error:
            raise ValueError("its queries are normalised over all heads together") from error

    def _frozen(self, module: Any, width: int) -> frozen_norms.FrozenNorm:
        device = self._model.W_E.device
        with running.lock_of(self._model), torch.no_grad():
            found = frozen_norms.FrozenNorm.at(_Norm(module), torch.ones(1, width, device=device))
        return dataclasses.replace(found, scale=torch.ones(1, device=device))


class _Norm:
    """A norm applied to rows in float32, whatever its weights are kept in."""

    def __init__(self, module: Any) -> None:
        self._module: Any
        held = [] if module is None else list(module.parameters())
        coarse = any(value.dtype not in (torch.float32, torch.float64) for value in held)
        self._module = copy.deepcopy(module) if coarse else module
        if coarse:
            self._module.float()

    def __call__(self, rows: Tensor) -> Tensor:
        if self._module is None:
            return rows
        out = self._module(rows.reshape(1, -1, rows.shape[-1]))
        return (out[0] if isinstance(out, tuple) else out).reshape(rows.shape)


def _read_through(norm: frozen_norms.FrozenNorm, weight: Tensor) -> Tensor:
    return norm.pulled(weight.transpose(-1, -2)).transpose(-1, -2)


def require_scale(scale: str) -> None:
    """Check the name of a scale.

    Raises:
        ValueError: If it is not one of `SCALES`.
    """
    if scale not in SCALES:
        raise ValueError(f"scale {scale!r} is not known: use 'own' or 'one'")


def token_ids(model: TransformerBridge, tokens: Sequence[str | int]) -> tuple[int, ...]:
    """Ids of tokens that were written as text or as ids.

    Args:
        model: Whose vocabulary.
        tokens: Each a single token as text, with its leading space where it has one, or an id.

    Returns:
        The ids.

    Raises:
        ValueError: If one is no single token of the vocabulary.
    """
    ids: list[int] = []
    for token in tokens:
        if isinstance(token, str):
            ids.append(_single(model, token))
        else:
            (found,) = prompt.Prompt.of(model, [token]).ids
            ids.append(found)
    return tuple(ids)


def _single(model: TransformerBridge, written: str) -> int:
    if model.tokenizer is None:
        raise ValueError("the model has no tokenizer: give token ids")
    tokenization.require_known(model, written)
    found = tokenization.bare(model, written)
    if len(found) != 1:
        parts = " ".join(f"[{part}]" for part in tokenization.strings(model, found)) or "nothing"
        raise ValueError(f"{written!r} is {len(found)} tokens, {parts}; expected a single token")
    return int(found[0])


def names(model: TransformerBridge, ids: Sequence[int]) -> tuple[str, ...]:
    """Tokens as text."""
    return prompt.token_texts(model, ids)
