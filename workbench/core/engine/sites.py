"""Site: a component kind and its axes, resolved to validated hook names.

Each kind names the hook point of a layer at which its activation is read and replaced. Whether
replacing it there really changes everything downstream is proven by a test that compares with an
independent forward pass (editing `hook_resid_mid` on a bridge, for one, changes only the MLP
branch, which is why it is not offered).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from workbench.core.engine import running

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclasses.dataclass(frozen=True)
class Site:
    """A place in a transformer block that an activation can be patched at.

    Attributes:
        kind: Its name in calls and links.
        title: Its name for readers.
        hook: Hook point, with `{layer}` for the block.
        axes: What a result over this site is indexed by, in order, when positions are patched one
            at a time. The activation has shape [batch, position, (head,) width].
    """

    kind: str
    title: str
    hook: str
    axes: tuple[str, ...]

    @property
    def per_head(self) -> bool:
        """Whether each attention head is patched by itself."""
        return "head" in self.axes

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
            ("layer", "position"),
        ),
        Site(
            "attn_out",
            "output of each attention layer",
            "blocks.{layer}.hook_attn_out",
            ("layer", "position"),
        ),
        Site("mlp_out", "output of each MLP", "blocks.{layer}.hook_mlp_out", ("layer", "position")),
        Site(
            "z",
            "output of each attention head",
            "blocks.{layer}.attn.hook_z",
            ("layer", "position", "head"),
        ),
    )
}


def resolve(model: TransformerBridge, kind: str) -> tuple[Site, list[str]]:
    """Look up a site and check that the model has it in every layer.

    Args:
        model: The bridge.
        kind: One of `SITES`.

    Returns:
        The site and its hook name in each layer.

    Raises:
        ValueError: If the kind is unknown or the model lacks its hook points.
    """
    if kind not in SITES:
        raise ValueError(f"unknown site {kind!r}; expected one of {', '.join(SITES)}")
    site = SITES[kind]
    names = [site.hook_name(layer) for layer in range(model.cfg.n_layers)]
    running.require_hooks(model, names)
    return site, names
