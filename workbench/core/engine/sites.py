"""Site: a component kind and its axes, resolved to validated hook names.

Each kind names the hook point of a layer at which its activation is read and replaced. Whether
replacing it there really changes everything downstream is proven by a test that compares with an
independent forward pass (editing `hook_resid_mid` on a bridge, for one, changes only the MLP
branch, which is why it is not offered).
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from workbench.core.engine import running

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


_PLAIN = ("layer", "position")
_PER_HEAD = (*_PLAIN, "head")
_PER_GROUP = (*_PLAIN, "group")
_PER_NEURON = (*_PLAIN, "neuron")
# A pattern's position is that of the query: the row of weights with which one position looks back.
_PER_QUERY = ("layer", "query", "head")


@dataclasses.dataclass(frozen=True)
class Site:
    """A place in a transformer block that an activation can be patched at.

    Attributes:
        kind: Its name in calls and links.
        title: Its name for readers.
        hook: Hook point, with `{layer}` for the block.
        axes: What a result over this site is indexed by, in order, when positions are patched one
            at a time. The activation has shape [batch, position, width], or [batch, position,
            head or group, width] where the last axis is `head` or `group`.
    """

    kind: str
    title: str
    hook: str
    axes: tuple[str, ...]

    @property
    def part(self) -> str | None:
        """What of a position is patched by itself: head, group, neuron, …, or nothing."""
        return self.axes[2] if len(self.axes) > len(_PLAIN) else None

    @property
    def query_axis(self) -> int:
        """Which axis of the activation counts the positions that are written over."""
        return 2 if self.kind == "pattern" else 1

    def parts(self, model: TransformerBridge) -> int:
        """How many heads or groups a layer has; 1 where a position is patched as a whole."""
        counts = {
            "head": int(model.cfg.n_heads),
            "group": groups(model),
            "neuron": int(model.cfg.d_mlp or 0),
        }
        return counts[self.part] if self.part else 1

    def hook_name(self, layer: int) -> str:
        """Hook point of one layer."""
        return self.hook.format(layer=layer)


SITES: dict[str, Site] = {
    site.kind: site
    for site in (
        Site(
            "resid_pre",
            "residual stream before each layer",
            "blocks.{layer}.hook_resid_pre",
            _PLAIN,
        ),
        Site(
            "resid_post",
            "residual stream after each layer",
            "blocks.{layer}.hook_resid_post",
            _PLAIN,
        ),
        Site(
            "attn_out",
            "output of each attention layer",
            "blocks.{layer}.hook_attn_out",
            _PLAIN,
        ),
        Site("mlp_out", "output of each MLP", "blocks.{layer}.hook_mlp_out", _PLAIN),
        Site(
            "z",
            "output of each attention head",
            "blocks.{layer}.attn.hook_z",
            _PER_HEAD,
        ),
        Site("q", "query of each attention head", "blocks.{layer}.attn.hook_q", _PER_HEAD),
        Site("k", "key of each key/value head", "blocks.{layer}.attn.hook_k", _PER_GROUP),
        Site("v", "value of each key/value head", "blocks.{layer}.attn.hook_v", _PER_GROUP),
        Site("pattern", "attention of each head", "blocks.{layer}.attn.hook_pattern", _PER_QUERY),
        Site("neuron", "activation of MLP neurons", "blocks.{layer}.mlp.hook_post", _PER_NEURON),
    )
}


def groups(model: TransformerBridge) -> int:
    """Key/value heads of a layer; as many as query heads without grouped-query attention."""
    return int(getattr(model.cfg, "n_key_value_heads", None) or model.cfg.n_heads)


def of_hook(name: str) -> tuple[str, int]:
    """Which site and layer a hook point is.

    Args:
        name: Hook point, for example "blocks.3.hook_resid_pre".

    Returns:
        The site's kind and the layer.

    Raises:
        ValueError: If no site is there.
    """
    for site in SITES.values():
        found = re.fullmatch(re.escape(site.hook).replace(r"\{layer\}", r"(\d+)"), name)
        if found:
            return site.kind, int(found[1])
    raise ValueError(f"no site is at hook point {name!r}; sites: {', '.join(SITES)}")


def resolve(model: TransformerBridge, kind: str) -> tuple[Site, list[str]]:
    """Look up a site and check that the model has it in every layer.

    Args:
        model: The bridge.
        kind: One of `SITES`.

    Returns:
        The site and its hook name in each layer. Keys and values are indexed by `group` where
        several query heads share them, and by `head` where each has its own: never padded, so
        that what does not exist cannot look like an effect of zero.

    Raises:
        ValueError: If the kind is unknown or the model lacks its hook points.
    """
    if kind not in SITES:
        raise ValueError(f"unknown site {kind!r}; expected one of {', '.join(SITES)}")
    site = SITES[kind]
    if site.part == "group" and groups(model) == model.cfg.n_heads:
        site = dataclasses.replace(site, axes=_PER_HEAD)
    names = [site.hook_name(layer) for layer in range(model.cfg.n_layers)]
    running.require_hooks(model, names)
    return site, names
