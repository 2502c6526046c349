"""Decoder: a bridge taken apart into its residual rewrite, and proven to be the same model.

A decoder block reads the residual stream twice and adds to it twice, and everything in it but the
attention's mixing of positions works on each position by itself. Whoever recomputes only what an
intervention changes (`recompute`), or needs what each edge between components carries (`graph`),
needs the block in these parts. The bridge names them alike for all architectures (ln1, attn.q, …);
what differs is read from one ordinary forward pass:

1. Run the bridge on one or two of the prompts and keep its activations, and with which rotations
   and masks each attention layer was called.
2. Run the parts on the same prompts, and compare every activation that both have, and the logits.
3. What differs by more than rounding is no decoder that we know: `NotTakenApart`, with where.

So no table of architectures can be out of date: a model is taken apart correctly, or not at all.
Nothing here sets or clears gradients; that is the caller's choice.
"""

from __future__ import annotations

import dataclasses
import itertools
import weakref
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch.nn import functional

from workbench.core.engine import running

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

# Largest difference of an activation, as a fraction of the largest one there, that rounding of
# float32 explains over a few dozen layers.
TOLERANCE = 2e-5
_NO_NEURONS = "its MLP has no output projection that reads the neurons"
# Queries of a prompt whose attention is compared; everything else is at every position.
_PROVEN_QUERIES = 128
Tensor = torch.Tensor
# Hook points that are compared, by the name that `Activations` has for them.
_HOOKS = {
    "resid": "blocks.{layer}.hook_resid_pre",
    "q": "blocks.{layer}.attn.hook_q",
    "k": "blocks.{layer}.attn.hook_k",
    "v": "blocks.{layer}.attn.hook_v",
    "pattern": "blocks.{layer}.attn.hook_pattern",
    "z": "blocks.{layer}.attn.hook_z",
    "attn_out": "blocks.{layer}.hook_attn_out",
    "neuron": "blocks.{layer}.mlp.hook_post",
    "mlp_out": "blocks.{layer}.hook_mlp_out",
}


class NotTakenApart(ValueError):
    """The bridge is no decoder that this module knows.

    Attributes:
        reason: What differs, as half a sentence about the model.
    """

    def __init__(self, reason: str) -> None:
        """Keep the reason, and make a sentence of it for whoever needs the parts."""
        super().__init__(f"the model cannot be taken apart into its components: {reason}")
        self.reason = reason


class _Reached(Exception):
    """The neurons are there; what the MLP makes of them is not asked for."""

    def __init__(self, activation: Tensor) -> None:
        super().__init__()
        self.activation = activation


@dataclasses.dataclass(frozen=True)
class Activations:
    """What one run left behind, one entry a layer.

    Attributes:
        resid: Residual stream before each layer and, last, after all of them.
        q: Queries as projected, before normalisation and rotation.
        k: Keys as projected.
        rotated_q: Queries as they meet the keys.
        rotated_k: Keys as they meet the queries.
        v: Values.
        z: Output of each head before the output projection.
        attn_out: What attention adds to the stream.
        mlp_out: What the MLP adds to the stream.
        pattern: Attention weights; empty unless they were asked for.
        neuron: MLP activations after the nonlinearity; empty unless they were asked for.
    """

    resid: list[Float[Tensor, "batch position d_model"]]
    q: list[Float[Tensor, "batch position head d_head"]]
    k: list[Float[Tensor, "batch position group d_head"]]
    rotated_q: list[Float[Tensor, "batch position head d_head"]]
    rotated_k: list[Float[Tensor, "batch position group d_head"]]
    v: list[Float[Tensor, "batch position group d_head"]]
    z: list[Float[Tensor, "batch position head d_head"]]
    attn_out: list[Float[Tensor, "batch position d_model"]]
    mlp_out: list[Float[Tensor, "batch position d_model"]]
    pattern: list[Float[Tensor, "batch head query key"]]
    neuron: list[Float[Tensor, "batch position neuron"]]


@dataclasses.dataclass(frozen=True)
class _Attended:
    """With what an attention layer was called besides its input."""

    rotation: tuple[Float[Tensor, "position rotary"], Float[Tensor, "position rotary"]] | None
    mask: Bool[Tensor, "query key"] | None


class Layer:
    """One block in parts; every method but `attend` works on each position by itself.

    Attributes:
        parallel: Whether the MLP reads the stream beside attention instead of after it.
        mask: Which keys each query sees; None where that is all keys up to it.
    """

    def __init__(self, block: Any, cfg: Any, attended: _Attended, parallel: bool) -> None:
        self._block, self._attn = block, block.attn
        self.parallel, self.mask = parallel, attended.mask
        self._rotation = attended.rotation
        self._heads, self._groups = int(cfg.n_heads), int(cfg.n_key_value_heads or cfg.n_heads)
        inner = self._attn.original_component
        self._native_rotary = getattr(inner, "rotary", None)
        self._softcap = _softcap(inner)
        self._scaling = _scaling(inner, cfg, getattr(self._attn, "_layer_idx", None))
        # GPT-2's own is written as eight operations, which take a seventh of a sweep; it is the
        # same function as torch's, which is proven with everything else.
        act = getattr(getattr(self._mlp, "original_component", None), "act", None)
        self._has_slow_gelu = type(act).__name__ == "NewGELUActivation"
        self._q_norm, self._k_norm = (
            self._attn.submodules.get(name) for name in ("q_norm", "k_norm")
        )

    def queries(self, resid: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows head d_head"]:
        """Queries of the stream as projected; `rotate_queries` comes next."""
        return self._project("q", self._heads, self.normed(resid))

    def normed(self, resid: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """The stream as attention reads it."""
        return _normed(getattr(self._block, "ln1", None), resid)

    def project(
        self, name: str, normed: Float[Tensor, "*rows d_model"]
    ) -> Float[Tensor, "*rows part d_head"]:
        """Queries, keys or values ("q", "k", "v") of the stream as attention reads it."""
        return self._project(name, self._heads if name == "q" else self._groups, normed)

    def project_per_head(
        self, name: str, normed: Float[Tensor, "*rows part d_model"]
    ) -> Float[Tensor, "*rows part d_head"]:
        """Queries, keys or values where each head (or group) reads a stream of its own."""
        weight, bias = _weight_and_bias(getattr(self._attn, name).original_component)
        own = weight.unflatten(1, (normed.shape[-2], -1))
        out = torch.einsum("...pm,mpd->...pd", normed, own)
        return out if bias is None else out + bias.unflatten(0, (normed.shape[-2], -1))

    def _project(self, name: str, parts: int, normed: Tensor) -> Tensor:
        return _by_row(getattr(self._attn, name), normed).unflatten(-1, (parts, -1))

    def rotate_queries(
        self, q: Float[Tensor, "*rows head d_head"], positions: Int[Tensor, "..."]
    ) -> Float[Tensor, "*rows head d_head"]:
        """Queries as they meet the keys, given at which position each row stands."""
        return self._rotate(q if self._q_norm is None else self._q_norm(q), positions)

    def rotate_keys(
        self, k: Float[Tensor, "*rows group d_head"], positions: Int[Tensor, "..."]
    ) -> Float[Tensor, "*rows group d_head"]:
        """Keys as they meet the queries, given at which position each row stands."""
        return self._rotate(k if self._k_norm is None else self._k_norm(k), positions)

    def _rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        if self._native_rotary is not None:
            flat = x.reshape(1, -1, *x.shape[-2:]).transpose(1, 2)
            ids = positions.expand(x.shape[:-2]).reshape(1, -1)
            turned, _ = self._native_rotary.apply_rope(flat, flat, position_ids=ids)
            return turned.transpose(1, 2).reshape(x.shape)
        if self._rotation is None:
            return x
        cos, sin = (table[positions].unsqueeze(-2) for table in self._rotation)
        width = cos.shape[-1]
        if x.ndim > positions.ndim + len("head d_head".split()):
            # Written out for all heads, they meet a whole prompt at once instead of head by head.
            cos, sin = (table.expand(*x.shape[-3:-1], width).contiguous() for table in (cos, sin))
        turning, rest = x[..., :width], x[..., width:]
        first, second = turning.chunk(2, dim=-1)
        before, after = sin.chunk(2, dim=-1)
        turned = torch.addcmul(
            turning * cos, torch.cat((second, first), dim=-1), torch.cat((-before, after), dim=-1)
        )
        return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned

    def attend(
        self,
        rotated_q: Float[Tensor, "batch query head d_head"],
        rotated_k: Float[Tensor, "batch key group d_head"],
        v: Float[Tensor, "batch key group d_head"],
    ) -> Float[Tensor, "batch query head d_head"]:
        """Output of each head; the queries are the last ones of the prompt."""
        if self._softcap is not None:
            return self.mix(self.pattern(rotated_q, rotated_k), v)
        q, k, v = (x.transpose(1, 2) for x in (rotated_q, rotated_k, v))
        queries, keys = q.shape[2], k.shape[2]
        causal = self.mask is None and queries == keys
        # One query at the end of the prompt sees everything, which needs no mask.
        mask = None if causal or (self.mask is None and queries == 1) else self._seen(queries, keys)
        z = functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=causal,
            scale=self._scaling,
            enable_gqa=k.shape[1] != q.shape[1],
        )
        return z.transpose(1, 2)

    def pattern(
        self,
        rotated_q: Float[Tensor, "batch query head d_head"],
        rotated_k: Float[Tensor, "batch key group d_head"],
    ) -> Float[Tensor, "batch head query key"]:
        """Attention weights; the queries are the last ones of the prompt."""
        repeats = rotated_q.shape[2] // rotated_k.shape[2]
        k = rotated_k.repeat_interleave(repeats, dim=2)
        scores = torch.einsum("bqhd,bkhd->bhqk", rotated_q, k) * self._scaling
        if self._softcap is not None:
            scores = self._softcap * torch.tanh(scores / self._softcap)
        seen = self._seen(scores.shape[-2], scores.shape[-1])
        return scores.masked_fill(~seen, -torch.inf).softmax(-1)

    def mix(
        self,
        pattern: Float[Tensor, "batch head query key"],
        v: Float[Tensor, "batch key group d_head"],
    ) -> Float[Tensor, "batch query head d_head"]:
        """Output of each head, given where it attends."""
        repeats = pattern.shape[1] // v.shape[2]
        return torch.einsum("bhqk,bkhd->bqhd", pattern, v.repeat_interleave(repeats, dim=2))

    def _seen(self, queries: int, keys: int) -> Bool[Tensor, "query key"]:
        if self.mask is not None:
            return self.mask[keys - queries : keys, :keys]
        device = self._attn.o.original_component.weight.device
        return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)

    def attn_out(self, z: Float[Tensor, "*rows head d_head"]) -> Float[Tensor, "*rows d_model"]:
        """What attention adds to the stream, given the output of every head."""
        return self.attn_post(self.attn_projected(z))

    def head_outputs(
        self, z: Float[Tensor, "*rows head d_head"]
    ) -> Float[Tensor, "*rows head d_model"]:
        """What each head adds to the stream, without the output projection's bias.

        Raises:
            NotTakenApart: If attention's output is normalised before it is added, so that it is no
                sum over heads.
        """
        if self.attn_post_norm:
            raise NotTakenApart("attention's output is normalised, so it is no sum over heads")
        return torch.einsum("...hd,hdm->...hm", z, self.attn_weights()[0])

    def attn_projected(
        self, z: Float[Tensor, "*rows head d_head"]
    ) -> Float[Tensor, "*rows d_model"]:
        """What attention's output projection gives; `attn_post` makes of it what is added."""
        return _by_row(self._attn.o, z.flatten(-2))

    def attn_post(
        self, projected: Float[Tensor, "*rows d_model"]
    ) -> Float[Tensor, "*rows d_model"]:
        """The norm on what attention adds, where a model has one; else what it is given."""
        return _normed(getattr(self._block, "ln1_post", None), projected)

    def mlp_post(self, projected: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """The norm on what the MLP adds, where a model has one; else what it is given."""
        return _normed(getattr(self._block, "ln2_post", None), projected)

    def attn_weights(
        self,
    ) -> tuple[Float[Tensor, "head d_head d_model"], Float[Tensor, " d_model"] | None]:
        """The output projection by head, and its bias."""
        weight, bias = _weight_and_bias(self._attn.o.original_component)
        return weight.unflatten(0, (self._heads, -1)), bias

    def mlp_weights(
        self,
    ) -> tuple[Float[Tensor, "neuron d_model"], Float[Tensor, " d_model"] | None] | None:
        """What each neuron writes for an activation of one, and the bias; None without an MLP."""
        if self._mlp is None:
            return None
        return _weight_and_bias(self._mlp.out.original_component)

    @property
    def attn_post_norm(self) -> bool:
        """Whether attention's output is normalised before it is added to the stream."""
        return getattr(self._block, "ln1_post", None) is not None

    def mlp_out(self, read: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """What the MLP adds to the stream, given the stream that it reads."""
        mlp = self._mlp
        if mlp is None:
            return torch.zeros_like(read)
        normed = self._mlp_normed(read)
        if self._has_slow_gelu:
            hidden = functional.gelu(_by_row(getattr(mlp, "in"), normed), approximate="tanh")
            return self.mlp_post(_by_row(mlp.out, hidden))
        return self.mlp_post(_by_row(mlp, normed))

    def neurons_out(self, neurons: Float[Tensor, "*rows neuron"]) -> Float[Tensor, "*rows d_model"]:
        """What the MLP adds to the stream, given its activations after the nonlinearity."""
        return self.mlp_post(_by_row(self._mlp.out, neurons))

    def neurons(self, read: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows neuron"]:
        """MLP activations after the nonlinearity, given the stream that it reads."""

        def stop(_: Any, args: tuple[Tensor, ...]) -> None:
            raise _Reached(args[0])

        handle = self._mlp.out.register_forward_pre_hook(stop)
        try:
            self.mlp_out(read)
        except _Reached as reached:
            return reached.activation.reshape(*read.shape[:-1], -1)
        finally:
            handle.remove()
        raise NotTakenApart(_NO_NEURONS)

    def neurons_and_out(
        self, read: Float[Tensor, "*rows d_model"]
    ) -> tuple[Float[Tensor, "*rows neuron"], Float[Tensor, "*rows d_model"]]:
        """MLP activations after the nonlinearity, and what the MLP adds, in one pass."""
        if self._mlp is None:
            return read[..., :0], torch.zeros_like(read)
        kept: list[Tensor] = []
        handle = self._mlp.out.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
        try:
            out = self.mlp_out(read)
        finally:
            handle.remove()
        if not kept:
            raise NotTakenApart(_NO_NEURONS)
        return kept[0].reshape(*read.shape[:-1], -1), out

    @property
    def _mlp(self) -> Any:
        return getattr(self._block, "mlp", None)

    def _mlp_normed(self, read: Tensor) -> Tensor:
        # Parallel blocks of some families normalise once for both readers.
        name = "ln2" if hasattr(self._block, "ln2") else "ln1"
        return _normed(getattr(self._block, name, None), read)

    def mlp_reads(self, resid: Tensor, attn_out: Tensor) -> Tensor:
        """The stream that the MLP reads."""
        return resid if self.parallel else resid + attn_out

    def after(self, resid: Tensor, attn_out: Tensor) -> Tensor:
        """The stream after the layer, given the stream before it and what attention adds."""
        middle = resid + attn_out
        return middle + self.mlp_out(resid if self.parallel else middle)


class Decoder:
    """A model in parts, for prompts up to the length that it was proven on.

    Attributes:
        layers: The blocks.
        cfg: The bridge's configuration.
    """

    def __init__(self, model: TransformerBridge, tokens: Int[Tensor, "batch position"]) -> None:
        """Take a bridge apart and prove it on some prompts.

        Args:
            model: The bridge; nobody else's hooks may be on it.
            tokens: One or two prompts of the length that will be run.

        Raises:
            NotTakenApart: If the parts do not give what the bridge gives.
        """
        _require_decoder(model)
        # Not the model itself, which may go while `taken_apart` still remembers its parts.
        self._whole, self.cfg = weakref.ref(model), model.cfg
        self._modules = list(model.modules())[1:]
        self._points = list(model.hook_dict.values())
        tokens = tokens.to(model.cfg.device)
        attended, kept, logits = _ordinary_run(model, tokens)
        guess = type(model.blocks[0]).__name__.startswith("Parallel")
        reasons: list[str] = []
        for parallel in (guess, not guess):
            self.layers = [
                Layer(block, model.cfg, with_, parallel)
                for block, with_ in zip(model.blocks, attended, strict=True)
            ]
            reasons.append(self._differs(kept, tokens, logits))
            if not reasons[-1]:
                return
        raise NotTakenApart(reasons[0])

    @property
    def _model(self) -> TransformerBridge:
        model = self._whole()
        if model is None:
            raise ReferenceError("the model that was taken apart is gone")
        return model

    def still_holds(self) -> bool:
        """Whether the model is still built as it was, and nobody's hooks are on it.

        The parts are the model's own modules, so other weights in them change nothing here.
        """
        # The first module is the model itself, which this must not keep alive.
        both = itertools.zip_longest(self._modules, list(self._model.modules())[1:])
        same = all(mine is theirs for mine, theirs in both)
        return same and not any(point.fwd_hooks or point.bwd_hooks for point in self._points)

    def embed(
        self, tokens: Int[Tensor, "batch position"]
    ) -> Float[Tensor, "batch position d_model"]:
        """Residual stream before the first layer."""
        with running.lock_of(self._model):
            return self._model(tokens.to(self.cfg.device), stop_at_layer=0)

    def run(
        self, resid: Float[Tensor, "batch position d_model"], also: Collection[str] = ()
    ) -> Activations:
        """Run all layers, keeping what they pass on.

        Args:
            resid: Residual stream before the first layer.
            also: "pattern" and "neuron" are kept only if named.

        Returns:
            The activations of every layer.
        """
        kept = Activations(*([] for _ in dataclasses.fields(Activations)))
        for layer in self.layers:
            made, after = _through(layer, resid, also)
            for name, value in made.items():
                getattr(kept, name).append(value)
            resid = after
        kept.resid.append(resid)
        return kept

    def logits(
        self, resid: Float[Tensor, "*rows d_model"], tokens: Int[Tensor, " d_vocab"] | None = None
    ) -> Float[Tensor, "*rows d_vocab"]:
        """Logits of the stream after the last layer.

        Args:
            resid: The stream.
            tokens: Of which tokens; None for all, which costs as much as a layer or more.

        Returns:
            One logit a token.
        """
        normed = self.final_norm(resid)
        inner = self._model.unembed.original_component
        if tokens is None:
            out = _by_row(self._model.unembed, normed)
        else:
            bias = getattr(inner, "bias", None)
            chosen = None if bias is None else bias[tokens]
            out = functional.linear(normed, inner.weight[tokens], chosen)
        cap = self.logit_cap
        return cap * torch.tanh(out / cap) if cap else out

    def final_norm(self, resid: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """The stream as the unembedding reads it."""
        return _normed(self._model.ln_final, resid)

    def unembedding(
        self,
    ) -> tuple[Float[Tensor, "d_vocab d_model"], Float[Tensor, " d_vocab"] | None]:
        """What each token's logit is read with, and its bias."""
        weight, bias = _weight_and_bias(self._model.unembed.original_component)
        return weight.T.detach(), None if bias is None else bias.detach()

    @property
    def logit_cap(self) -> float:
        """The size beyond which logits are bent back (a soft cap); 0 where there is none."""
        return final_softcap(self._model)

    def _differs(self, kept: dict[str, Tensor], tokens: Tensor, logits: Tensor) -> str:
        """Where the parts differ from the bridge by more than rounding; empty if nowhere."""
        with torch.inference_mode():
            try:
                resid = self.embed(tokens)
                also = [
                    name for name in ("pattern", "neuron") if _HOOKS[name].format(layer=0) in kept
                ]
                for number, layer in enumerate(self.layers):
                    # Layer by layer: the attention of a long prompt fills gigabytes.
                    mine, resid = _through(layer, resid, also)
                    reason = _first_gap(mine, kept, number)
                    if reason:
                        return reason
                ends = self.logits(resid)
            except (AttributeError, RuntimeError, TypeError, ValueError, KeyError) as error:
                return f"its blocks are built differently ({type(error).__name__}: {error})"
        gap = _gap(ends, logits)
        return f"its logits differ by {gap:.1e} of their size" if gap > TOLERANCE else ""


def _through(
    layer: Layer, resid: Float[Tensor, "batch position d_model"], also: Collection[str]
) -> tuple[dict[str, Tensor], Float[Tensor, "batch position d_model"]]:
    """What one layer leaves behind, by the name that `Activations` has for it, and the stream."""
    positions = torch.arange(resid.shape[1], device=resid.device)
    normed = layer.normed(resid)
    made = {"resid": resid} | {name: layer.project(name, normed) for name in ("q", "k", "v")}
    made["rotated_q"] = layer.rotate_queries(made["q"], positions)
    made["rotated_k"] = layer.rotate_keys(made["k"], positions)
    made["z"] = layer.attend(made["rotated_q"], made["rotated_k"], made["v"])
    made["attn_out"] = layer.attn_out(made["z"])
    read = layer.mlp_reads(resid, made["attn_out"])
    if "neuron" in also:
        made["neuron"], made["mlp_out"] = layer.neurons_and_out(read)
    else:
        made["mlp_out"] = layer.mlp_out(read)
    if "pattern" in also:
        made["pattern"] = layer.pattern(made["rotated_q"], made["rotated_k"])
    return made, resid + made["attn_out"] + made["mlp_out"]


def _first_gap(mine: dict[str, Tensor], kept: dict[str, Tensor], layer: int) -> str:
    """Which activation of a layer differs from the bridge's by more than rounding, if one does."""
    for name, hook in _HOOKS.items():
        theirs = kept.get(hook.format(layer=layer))
        if theirs is None:
            continue
        ours = mine[name]
        if name == "pattern":
            ours = ours[:, :, _proven_queries(ours.shape[2])]
        gap = _gap(ours, theirs)
        if gap > TOLERANCE:
            return f"{name} of layer {layer} differs by {gap:.1e} of its size"
    return ""


def taken_apart(model: TransformerBridge, tokens: Int[Tensor, "batch position"]) -> Decoder:
    """A bridge in parts, proven on the given prompts under the model's lock.

    Args:
        model: The bridge.
        tokens: One or two prompts of the length that will be run.

    Returns:
        The parts.

    Raises:
        NotTakenApart: If the parts do not give what the bridge gives.
    """
    with running.lock_of(model):
        known = _known.setdefault(model, {})
        length = tokens.shape[1]
        # What was proven stays proven as long as the model is built of the same modules.
        if length not in known or not known[length].still_holds():
            known.pop(length, None)
            known[length] = Decoder(model, tokens)
        return known[length]


_known: weakref.WeakKeyDictionary[Any, dict[int, Decoder]] = weakref.WeakKeyDictionary()


def _require_decoder(model: TransformerBridge) -> None:
    if model.cfg.dtype not in (torch.float32, torch.float64):
        kind = str(model.cfg.dtype).removeprefix("torch.")
        raise NotTakenApart(f"its {kind} numbers are too coarse to prove that the parts are equal")
    if getattr(model.cfg, "attention_dir", "causal") != "causal":
        raise NotTakenApart("its attention is not causal")
    if not all(hasattr(block, "attn") for block in model.blocks):
        raise NotTakenApart("not every block has attention")
    hooked = [name for name, point in model.hook_dict.items() if point.fwd_hooks or point.bwd_hooks]
    if hooked:
        raise NotTakenApart(f"somebody's hooks are on it ({', '.join(hooked[:3])})")


def _ordinary_run(
    model: TransformerBridge, tokens: Tensor
) -> tuple[list[_Attended], dict[str, Tensor], Tensor]:
    """How each attention layer is called, activations by hook point, and logits."""
    attended: dict[int, _Attended] = {}

    def watch(layer: int) -> Callable[..., None]:
        def look(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            attended[layer] = _Attended(_rotation(kwargs), _mask(kwargs, tokens.shape[1]))

        return look

    handles = [
        block.attn.register_forward_pre_hook(watch(layer), with_kwargs=True)
        for layer, block in enumerate(model.blocks)
    ]
    layers = range(len(model.blocks))
    known = model.hook_dict
    names = [hook.format(layer=layer) for hook in _HOOKS.values() for layer in layers]
    kept: dict[str, Tensor] = {}
    queries = _proven_queries(tokens.shape[1])

    def keeper(name: str) -> running.HookFunction:
        def keep(activation: Tensor) -> Tensor:
            is_pattern = name.endswith("hook_pattern")
            kept[name] = activation[:, :, queries] if is_pattern else activation.clone()
            return activation

        return keep

    try:
        hooks = {name: keeper(name) for name in names if name in known}
        with running.observing(model, hooks):
            logits = model(tokens, return_type="logits")
    finally:
        for handle in handles:
            handle.remove()
    if len(attended) != len(model.blocks):
        raise NotTakenApart("some of its attention layers are never called")
    return [attended[layer] for layer in layers], kept, logits


def _proven_queries(length: int) -> Int[Tensor, " query"]:
    """Queries whose attention is compared: of a long prompt some, since all layers' fill memory."""
    return torch.linspace(0, length - 1, min(length, _PROVEN_QUERIES)).round().long()


def _rotation(kwargs: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
    """Cosines and sines of every position, the same for all prompts."""
    tables = kwargs.get("position_embeddings")
    if not isinstance(tables, tuple):
        return None
    cos, sin = (table.flatten(0, -3)[0] for table in tables)
    return cos, sin


def _mask(kwargs: dict[str, Any], length: int) -> Bool[Tensor, "query key"] | None:
    """Which keys each query sees; None where that is all keys up to it."""
    mask = kwargs.get("attention_mask")
    if not isinstance(mask, torch.Tensor) or mask.ndim != len("batch head query key".split()):
        return None
    one = mask[0, 0, :length, :length]
    seen = one if one.dtype == torch.bool else one == 0
    return None if bool((seen == torch.ones_like(seen).tril()).all()) else seen


def _softcap(attention: Any) -> float | None:
    for name in ("attn_logit_softcapping", "attn_scores_soft_cap"):
        value = getattr(attention, name, None)
        if value is not None and value > 0:
            return float(value)
    return None


def _scaling(attention: Any, cfg: Any, layer: int | None) -> float:
    """What scores are multiplied by."""
    if hasattr(attention, "rotary") and hasattr(attention, "scale"):
        return 1 / float(attention.scale)
    scaling = getattr(attention, "scaling", None)
    scaling = int(cfg.d_head) ** -0.5 if scaling is None else float(scaling)
    if getattr(cfg, "scale_attn_by_inverse_layer_idx", False) and layer is not None:
        scaling /= layer + 1
    return scaling


def final_softcap(model: TransformerBridge) -> float:
    """The size beyond which a model bends its logits back (a soft cap); 0 where it does not."""
    config = getattr(model.original_model, "config", None)
    for holder, name in (
        (config, "final_logit_softcapping"),
        (model.cfg, "output_logits_soft_cap"),
    ):
        value = getattr(holder, name, None)
        if value is not None and value > 0:
            return float(value)
    return 0.0


def _weight_and_bias(
    linear: Any,
) -> tuple[Float[Tensor, "d_in d_out"], Float[Tensor, " d_out"] | None]:
    """What a projection multiplies by and adds."""
    # A Conv1D keeps its weight the other way around from a Linear.
    weight = linear.weight if hasattr(linear, "nf") else linear.weight.T
    return weight, linear.bias


def _by_row(module: Any, rows: Tensor) -> Tensor:
    """Apply a module to each row; some take a batch of sequences only."""
    if module is None:
        return rows
    out = module(rows.reshape(1, -1, rows.shape[-1]))
    out = out[0] if isinstance(out, tuple) else out
    return out.reshape(*rows.shape[:-1], -1)


def _normed(module: Any, rows: Tensor) -> Tensor:
    """Apply a norm to each row, without the scale that a bridge computes beside it for its hooks.

    Where a bridge gives what its original component gives, that alone is run.
    """
    from transformer_lens.model_bridge.generalized_components import NormalizationBridge

    is_plain = type(module).__dict__.get("forward", NormalizationBridge.forward)
    if isinstance(module, NormalizationBridge) and is_plain is NormalizationBridge.forward:
        folded = getattr(module.config, "layer_norm_folding", False)
        if module.use_native_layernorm_autograd or folded:
            return _by_row(module.original_component, rows)
    return _by_row(module, rows)


def _gap(mine: Tensor, theirs: Tensor) -> float:
    """Largest difference as a fraction of the largest value (or of 1, where all are smaller)."""
    if mine.shape != theirs.shape:
        return float("inf")
    size = theirs.abs().max().clamp(min=1)
    gap = float(((mine - theirs).abs().max() / size).nan_to_num(torch.inf))
    return gap
