"""Units: what can be looked at one by one, as one number at every position of a text.

A family of units lies at one site: the neurons of an MLP, the coordinates of a stream, what each
head adds to the stream (its size), the latents of a dictionary, or given directions. `Family.read`
turns the site's activation into one number a unit, differentiably, so that a scan over a corpus, an
optimized prompt and a page about one unit all speak of the same number.

1. `neuron`: the activation after the nonlinearity.
2. `resid_pre`, `resid_post`, `attn_out`, `mlp_out`: the coordinate; or, with directions, the
   projection on each of them, which are made unit vectors.
3. `head`: the L2 norm of what the head adds to the stream, |z W_O|, never negative; where a model
   normalises what attention adds, before that.
4. `latent`: the activation of a latent of a sparse autoencoder that reads at one of these sites.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float

from workbench.core import results
from workbench.core.engine import running, sites

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Tensor = torch.Tensor
STREAMS = ("resid_pre", "resid_post", "attn_out", "mlp_out")
# Kinds that need nothing but the model.
KINDS = ("neuron", "head", *STREAMS)
_WRITTEN = re.compile(r"(?P<kind>[a-z_]+)[ .:](?P<layer>\d+)\.(?P<index>\d+)")


@dataclasses.dataclass(frozen=True)
class Unit:
    """One unit by name.

    Attributes:
        kind: Of its family.
        layer: In which block.
        index: Which one of the family.
    """

    kind: str
    layer: int
    index: int

    def __str__(self) -> str:
        """As it is written in calls and links: "neuron 2.13" is neuron 13 of layer 2."""
        return f"{self.kind} {self.layer}.{self.index}"

    @classmethod
    def parse(cls, text: str) -> Unit:
        """Read "neuron 2.13".

        Raises:
            ValueError: If it is not written like that.
        """
        found = _WRITTEN.fullmatch(text.strip())
        if not found:
            raise ValueError(f"{text!r} is no unit: write kind layer.index, as in 'neuron 2.13'")
        return cls(found["kind"], int(found["layer"]), int(found["index"]))


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """All units of a kind in one layer.

    Attributes:
        kind: One of `KINDS`, `direction` or `latent`.
        layer: In which block.
        site: Site that it is read from.
        hook: Its hook point.
        size: How many units there are.
        device: Where the model is, and so every vector of a unit.
    """

    kind: str
    layer: int
    site: str
    hook: str
    size: int
    device: torch.device
    _written: Float[Tensor, "head d_head d_model"] | None = None
    _directions: Float[Tensor, "direction width"] | None = None
    _dictionary: Any = None

    def read(
        self, activation: Float[Tensor, "batch position *part"]
    ) -> Float[Tensor, "batch position unit"]:
        """One number a unit of what was seen at the hook point."""
        if self._written is not None:
            return torch.einsum("bphd,hdm->bphm", activation, self._written).norm(dim=-1)
        flat = activation.flatten(2)
        if self._directions is not None:
            return flat @ self._directions.T
        return flat if self._dictionary is None else self._dictionary.encode(flat)

    def direction(self, index: int) -> Float[Tensor, " width"]:
        """Where a unit points in its site's activation; a head points nowhere.

        Raises:
            ValueError: If it is a head.
        """
        if self.kind == "head":
            raise ValueError("the size of a head's output has no direction")
        if self._directions is not None:
            return self._directions[index]
        if self._dictionary is not None:
            return self._dictionary.W_dec[index].detach().to(self.device)
        return torch.eye(self.size, device=self.device)[index]

    def unit(self, index: int) -> Unit:
        """One of them by name."""
        return Unit(self.kind, self.layer, index)


def family(
    model: TransformerBridge,
    kind: str,
    layer: int,
    *,
    directions: Float[Tensor, "direction width"] | None = None,
    dictionary: Any = None,
) -> Family:
    """The units of a kind in one layer.

    Args:
        model: The bridge.
        kind: One of `KINDS`; with directions or a dictionary, the site that they are read from.
        layer: Which block.
        directions: Instead of the coordinates; of any length but zero.
        dictionary: A sparse autoencoder with `encode` and `W_dec`, whose latents are the units.

    Returns:
        The family; it reads differentiably, and holds no gradients of its own.

    Raises:
        ValueError: If the kind or the layer does not exist, or sizes do not fit.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown units {kind!r}; expected one of {', '.join(KINDS)}")
    if directions is not None and dictionary is not None:
        raise ValueError("give directions or a dictionary, not both: a unit is of one of them")
    if not 0 <= layer < model.cfg.n_layers:
        raise ValueError(f"the model has layers 0 to {model.cfg.n_layers - 1}, not {layer}")
    site = "z" if kind == "head" else kind
    hook = sites.SITES[site].hook_name(layer)
    running.require_hooks(model, [hook])
    width = int(model.cfg.d_mlp or 0) if kind == "neuron" else int(model.cfg.d_model)
    device = torch.device(str(model.cfg.device))
    if directions is not None:
        vectors = _unit(directions, width).to(device)
        return Family("direction", layer, site, hook, len(vectors), device, _directions=vectors)
    if dictionary is not None:
        latents = _latents(dictionary, width)
        return Family("latent", layer, site, hook, latents, device, _dictionary=dictionary)
    if kind == "head":
        written = model.blocks[layer].attn.W_O.detach()
        return Family(kind, layer, site, hook, int(model.cfg.n_heads), device, written)
    return Family(kind, layer, site, hook, width, device)


def family_of(
    model: TransformerBridge,
    unit: Unit | str,
    *,
    directions: Float[Tensor, "direction width"] | None = None,
    dictionary: Any = None,
) -> tuple[Family, int]:
    """The family of a unit, and its index there.

    Args:
        model: The bridge.
        unit: Which one; with directions or a dictionary its kind is the site that they read.
        directions: As for `family`.
        dictionary: As for `family`.

    Returns:
        Both.

    Raises:
        ValueError: If there is no such unit.
    """
    named = Unit.parse(unit) if isinstance(unit, str) else unit
    found = family(model, named.kind, named.layer, directions=directions, dictionary=dictionary)
    if not 0 <= named.index < found.size:
        raise ValueError(
            f"layer {named.layer} has {found.kind} 0 to {found.size - 1}, not {named.index}"
        )
    return found, named.index


def marks(directions: Float[Tensor, "direction width"] | None, dictionary: Any) -> dict[str, str]:
    """What the provenance of a result says of the vectors that its units were read with.

    Args:
        directions: As for `family`.
        dictionary: As for `family`.

    Returns:
        A mark of the directions, or of the dictionary's decoder; nothing for a model's own units.
    """
    given = {
        "directions": directions,
        "dictionary": None if dictionary is None else dictionary.W_dec,
    }
    return {name: results.mark(array) for name, array in given.items() if array is not None}


def _unit(
    directions: Float[Tensor, "direction width"], width: int
) -> Float[Tensor, "direction width"]:
    if directions.shape != (len(directions), width):
        raise ValueError(
            f"directions have shape {tuple(directions.shape)}; expected [direction, {width}]"
        )
    lengths = directions.detach().norm(dim=1, keepdim=True)
    if not torch.isfinite(lengths).all() or not lengths.all():
        raise ValueError("a direction is zero or not finite: give vectors of some length")
    return directions.detach() / lengths


def _latents(dictionary: Any, width: int) -> int:
    latents, reads = dictionary.W_dec.shape
    if reads != width:
        raise ValueError(
            f"the dictionary reads vectors of {reads} numbers, the model has {width} there"
        )
    return int(latents)
