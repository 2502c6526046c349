"""The residual stream of a prompt as the exact sum of what every component wrote into it.

1. A model is taken apart (`decoder`), and the prompt is run once.
2. The stream after the last layer is the embedding, plus what every head and every neuron wrote,
   plus biases. Where a model normalises what attention or the MLP adds, that norm's scale is
   frozen (`frozen_norms`), so that it stays a sum over heads and neurons.
3. The final norm's scale is frozen, too: a logit is then a direction of the stream, and each
   component's share of it is that direction's product with what the component wrote.

Terms are handed out layer by layer, so that a long prompt in a large model fits into memory.
Whoever frozen scales are not enough for, changes the component and runs the model again.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int

from workbench.core.engine import decoder as parts
from workbench.core.engine import frozen_norms, running

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Tensor = torch.Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class StreamSum:
    """One run of some prompts of equal length, as a sum.

    Attributes:
        decoder: The model in parts.
        kept: Activations of the run, neurons included.
        embedded: What enters the first layer, by name: "embed" and, where it is added to that,
            "pos_embed".
        final: The final norm, frozen.
        attn_posts: The norm on what attention adds, frozen; the identity where there is none.
        mlp_posts: The norm on what the MLP adds.
    """

    decoder: parts.Decoder
    kept: parts.Activations
    embedded: dict[str, Float[Tensor, "batch position d_model"]]
    final: frozen_norms.FrozenNorm
    attn_posts: tuple[frozen_norms.FrozenNorm, ...]
    mlp_posts: tuple[frozen_norms.FrozenNorm, ...]

    @classmethod
    def of(cls, model: TransformerBridge, tokens: Int[Tensor, "batch position"]) -> StreamSum:
        """Run prompts and keep what the sum is made of.

        Args:
            model: The bridge.
            tokens: Prompts of one length.

        Returns:
            The sum.

        Raises:
            NotTakenApart: If the model is no sum that we know.
        """
        tokens = tokens.to(model.cfg.device)
        with running.lock_of(model), torch.no_grad():
            decoder = parts.taken_apart(model, tokens[:1])
            embedded = _embedded(model, tokens)
            kept = decoder.run(torch.stack(list(embedded.values())).sum(0), also=("neuron",))
            posts = [
                (
                    frozen_norms.FrozenNorm.at(layer.attn_post, layer.attn_projected(z)),
                    frozen_norms.FrozenNorm.at(layer.mlp_post, _mlp_projected(layer, z, neurons)),
                )
                for layer, z, neurons in zip(decoder.layers, kept.z, kept.neuron, strict=True)
            ]
            final = frozen_norms.FrozenNorm.at(decoder.final_norm, kept.resid[-1])
        attn_posts, mlp_posts = zip(*posts, strict=True)
        return cls(decoder, kept, embedded, final, attn_posts, mlp_posts)

    @property
    def n_layers(self) -> int:
        """How many layers there are."""
        return len(self.decoder.layers)

    def heads(self, layer: int) -> Float[Tensor, "batch position head d_model"]:
        """What each head of a layer wrote."""
        weight = self.decoder.layers[layer].attn_weights()[0].detach()
        wrote = torch.einsum("bphd,hdm->bphm", self.kept.z[layer], weight)
        post = self.attn_posts[layer]
        return _per_part(post).of(wrote)

    def heads_by_key(
        self, layer: int, pattern: Float[Tensor, "batch head query key"], query: int
    ) -> Float[Tensor, "batch head key d_model"]:
        """What each head wrote at one position, by the position that it came from.

        Args:
            layer: Which one.
            pattern: Its attention; see `pattern`.
            query: The position that it was written at.

        Returns:
            Terms that sum over keys to `heads` at that position.
        """
        weight = self.decoder.layers[layer].attn_weights()[0].detach()
        value = self.kept.v[layer]
        value = value.repeat_interleave(weight.shape[0] // value.shape[2], dim=2)
        moved = torch.einsum("bhk,bkhd,hdm->bhkm", pattern[:, :, query], value, weight)
        post = self.attn_posts[layer]
        at = dataclasses.replace(post, scale=post.scale[:, query, None, None])
        return at.of(moved)

    def pattern(self, layer: int) -> Float[Tensor, "batch head query key"]:
        """Attention of a layer's heads, computed anew from what the run kept."""
        return self.decoder.layers[layer].pattern(
            self.kept.rotated_q[layer], self.kept.rotated_k[layer]
        )

    def attn_constant(self, layer: int) -> Float[Tensor, "batch position d_model"]:
        """What attention adds whatever its heads do: biases."""
        bias = self.decoder.layers[layer].attn_weights()[1]
        return _constant(self.attn_posts[layer], bias, self.kept.resid[layer])

    def neuron_shares(
        self, layer: int, direction: Float[Tensor, "batch position d_model"]
    ) -> Float[Tensor, "batch position neuron"]:
        """Product of a direction with what each neuron of a layer wrote."""
        weights = self.decoder.layers[layer].mlp_weights()
        if weights is None:
            return direction[..., :0]
        reading = self.mlp_posts[layer].pulled(direction) @ weights[0].detach().T
        return self.kept.neuron[layer] * reading

    def mlp_constant(self, layer: int) -> Float[Tensor, "batch position d_model"]:
        """What the MLP adds whatever its neurons do: biases."""
        weights = self.decoder.layers[layer].mlp_weights()
        bias = None if weights is None else weights[1]
        return _constant(self.mlp_posts[layer], bias, self.kept.resid[layer])

    def logit_direction(
        self, weights: Float[Tensor, " d_model"] | Float[Tensor, "position d_model"]
    ) -> Float[Tensor, "batch position d_model"]:
        """What reads the stream after the last layer as unembedding weights read it, frozen.

        Args:
            weights: Of a token, or of one token less another; of each position, if they differ.

        Returns:
            A direction for each position. The product of a stream with it, plus that of the final
            norm's bias with the weights, plus the unembedding's bias, is the logit (before a soft
            cap, where a model has one).
        """
        return self.final.pulled(weights.expand_as(self.kept.resid[-1]))


def _embedded(model: TransformerBridge, tokens: Tensor) -> dict[str, Tensor]:
    """What enters the first layer, as two terms where it is the sum of two."""
    seen: dict[str, Tensor] = {}

    def keeper(name: str) -> running.HookFunction:
        def keep(activation: Tensor) -> Tensor:
            seen[name] = activation
            return activation

        return keep

    hooks = {"embed": "hook_embed", "pos_embed": "hook_pos_embed"}
    known = model.hook_dict
    watched = {hook: keeper(name) for name, hook in hooks.items() if hook in known}
    with running.observing(model, watched):
        whole = model(tokens, stop_at_layer=0)
    # Copies can take part in what has gradients; what was made under hooks cannot.
    whole, seen = whole.clone(), {name: activation.clone() for name, activation in seen.items()}
    if set(seen) == set(hooks):
        terms = {name: seen[name].expand_as(whole) for name in hooks}
        gap = (terms["embed"] + terms["pos_embed"] - whole).abs().max()
        if float(gap) <= parts.TOLERANCE * float(whole.abs().max().clamp(min=1)):
            return terms
    return {"embed": whole}


def _mlp_projected(layer: parts.Layer, z: Tensor, neurons: Tensor) -> Tensor:
    weights = layer.mlp_weights()
    if weights is None:
        return torch.zeros_like(layer.attn_projected(z))
    out = neurons @ weights[0]
    return out if weights[1] is None else out + weights[1]


def _per_part(post: frozen_norms.FrozenNorm) -> frozen_norms.FrozenNorm:
    """The same norm for rows that have one more axis, that of the parts, before the last."""
    return dataclasses.replace(post, scale=post.scale.unsqueeze(-2))


def _constant(post: frozen_norms.FrozenNorm, bias: Tensor | None, like: Tensor) -> Tensor:
    through = torch.zeros_like(like) if bias is None else post.of(bias.detach().expand_as(like))
    return through + post.bias
