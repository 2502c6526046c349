"""Cells: what a sweep patches, as slots (which part of which layer) times columns (where).

- A slot is a layer and, where a position is not patched as a whole, one of its parts: a head, a
  key/value group, a neuron, a direction in the activation's space, or a dictionary's latent.
- A column says for each prompt which positions are written over, and which positions of the other
  prompt stand for them. It may be one position, all of them, or a set with a name.

A direction d carries x·d of an activation x; writing c there gives x + (c − x·d) d, which leaves
everything orthogonal to it. A latent f of a sparse autoencoder is written through its decoder:
x + (c − f(x)) W_dec[f], so the autoencoder's error and its other latents stay as they are.
"""

from __future__ import annotations

import dataclasses
import itertools
import typing
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int

from workbench.core.engine import sites

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.pairs import ContrastPairs

Tensor = torch.Tensor
Moves = tuple[tuple[int, int], ...]
# One position by index, a set by name, or a set by its indices.
PositionSet = str | int | tuple[int, ...]
Positions = str | Sequence[PositionSet]
Slot = tuple[int, int | None]
# Activations that are a vector at each position, in which directions and latents make sense.
VECTOR_SITES = ("resid_pre", "resid_post", "attn_out", "mlp_out", "neuron")


@typing.runtime_checkable
class Dictionary(Protocol):
    """What a sparse autoencoder has to offer; those of sae-lens do."""

    W_dec: Tensor

    def encode(self, x: Float[Tensor, "*row width"]) -> Float[Tensor, "*row latent"]:
        """Latents of activations."""
        ...


@dataclasses.dataclass(frozen=True)
class Column:
    """Where a patch is made, in every prompt.

    Attributes:
        label: What to call it.
        moves: For each prompt, (clean position, corrupted position) that stand for each other.
        key: With patterns: the only key whose weight is written; None for all keys.
    """

    label: str
    moves: tuple[Moves, ...]
    key: int | None = None


def columns(pairs: ContrastPairs, positions: Positions) -> tuple[Column, ...]:
    """Columns of some pairs.

    Args:
        pairs: The prompts.
        positions: "each" for one matched position at a time, "all" for all matched positions at
            once, "pairs" for one query position and one key position at a time, or a sequence of
            position sets: names, indices of matched positions (negative ones count from the end),
            or tuples of these indices.

    Returns:
        The columns, labelled by tokens or names.

    Raises:
        ValueError: If positions do not line up, or a set is unknown or empty.
    """
    matched = [pairs.columns(i) for i in range(len(pairs))]
    if positions == "all":
        return (Column("all positions", tuple(matched)),)
    if positions in ("each", "pairs"):
        labels = pairs.position_labels()
        single = [
            Column(label, tuple((moves[i],) for moves in matched)) for i, label in enumerate(labels)
        ]
        if positions == "each":
            return tuple(single)
        return tuple(
            dataclasses.replace(column, key=key, label=f"{column.label} ← {labels[key]}")
            for column in single
            for key in range(len(labels))
        )
    if isinstance(positions, str) or not len(positions):
        raise ValueError(
            f"positions = {positions!r}; expected 'each', 'all', 'pairs' (of a query and a key), "
            f"or a list of position sets: {', '.join(map(repr, pairs.position_names()))}, or "
            "indices"
        )
    return tuple(_set(pairs, matched, chosen) for chosen in positions)


def _set(pairs: ContrastPairs, matched: Sequence[Moves], chosen: PositionSet) -> Column:
    if isinstance(chosen, str):
        span = pairs.position_set(chosen)
        both = zip(span.clean, span.corrupted, strict=True)
        return Column(chosen, tuple(_paired(clean, corrupted) for clean, corrupted in both))
    indices = (chosen,) if isinstance(chosen, int) else tuple(chosen)
    shortest = min(map(len, matched))
    if not indices or not all(-shortest <= index < shortest for index in indices):
        raise ValueError(
            f"position {chosen!r} is not in every prompt; expected indices from {-shortest} to "
            f"{shortest - 1}"
        )
    name = ", ".join(map(str, indices))
    return Column(name, tuple(tuple(moves[index] for index in indices) for moves in matched))


def _paired(clean: Sequence[int], corrupted: Sequence[int]) -> Moves:
    """Positions of a set, one to one where there are as many; else only the last ones.

    A causal model has read all of a word or name at its last token, and at none before.
    """
    if len(clean) == len(corrupted):
        return tuple(zip(clean, corrupted, strict=True))
    return ((clean[-1], corrupted[-1]),) if clean and corrupted else ()


@dataclasses.dataclass(frozen=True)
class Spots:
    """Where a column is written in a batch of prompts, one entry a position.

    Attributes:
        prompts: Row of the batch.
        at: Position that is written over.
        taken: Position, in the prompt that it is taken from, of what is written.
    """

    prompts: Int[np.ndarray, " spot"]
    at: Int[np.ndarray, " spot"]
    taken: Int[np.ndarray, " spot"]

    def where(self, chosen: np.ndarray) -> Spots:
        """Some of the spots, by mask or index."""
        return Spots(self.prompts[chosen], self.at[chosen], self.taken[chosen])


def spots(column: Column, indices: Int[np.ndarray, " batch"], ends: tuple[int, int]) -> Spots:
    """Where a column is written in some prompts.

    Args:
        column: The column.
        indices: The prompts.
        ends: Which of (clean, corrupted) is written over, and which is taken from.

    Returns:
        One entry a position.
    """
    found = [
        (row, move[ends[0]], move[ends[1]])
        for row, i in enumerate(indices)
        for move in column.moves[int(i)]
    ]
    table = np.array(found, dtype=np.int64).reshape(-1, 3)
    return Spots(table[:, 0], table[:, 1], table[:, 2])


@dataclasses.dataclass(frozen=True)
class Place:
    """A site as it is read and written, part by part.

    An activation is read as coordinates: itself, or what it has along directions or latents.

    Attributes:
        site: The component kind.
        names: Its hook point in each layer.
        vectors: What each part adds to an activation, one row a direction or latent.
        encode: Coordinates along them; None where the coordinates are the activation itself.
    """

    site: sites.Site
    names: tuple[str, ...]
    vectors: Float[Tensor, "part width"] | None = None
    encode: Callable[[Tensor], Tensor] | None = None

    def read(self, activation: Tensor) -> Tensor:
        """Coordinates of an activation, or of some rows of it."""
        return activation if self.encode is None else self.encode(activation)

    def rows(
        self,
        old: Float[Tensor, "spot *activation"],
        new: Float[Tensor, "spot *coordinate"],
        part: Int[Tensor, " spot"] | None,
        key: int | None = None,
    ) -> Float[Tensor, "spot *activation"]:
        """Activations with one part of each written over.

        Args:
            old: Activations at single positions.
            new: Coordinates to write.
            part: Which part of each; None where a position is written as a whole.
            key: With patterns: the only key whose weight is written.

        Returns:
            New activations; the arguments stay as they are.
        """
        if part is None:
            return new
        spot = torch.arange(len(old), device=old.device)
        if self.vectors is not None:
            change = new[spot, part] - self.read(old)[spot, part]
            return old + change[:, None] * self.vectors[part]
        written = old.clone()
        index = (spot, part) if key is None else (spot, part, key)
        written[index] = new[index]
        return written

    def written(
        self, activation: Tensor, new: Tensor, where: Spots, part: int | None, key: int | None
    ) -> Tensor:
        """A whole activation with one part of some positions written over."""
        axis = self.site.query_axis
        out = activation.clone()
        target = out.movedim(axis, 1)
        prompts, at, taken = (
            torch.as_tensor(x, device=out.device) for x in (where.prompts, where.at, where.taken)
        )
        parts = None if part is None else torch.full_like(prompts, part)
        source = new.movedim(axis, 1)
        target[prompts, at] = self.rows(target[prompts, at], source[prompts, taken], parts, key)
        return out


def place(
    model: TransformerBridge,
    kind: str,
    *,
    directions: Float[Tensor, "direction width"] | None = None,
    dictionary: Dictionary | None = None,
    latents: Sequence[int] = (),
) -> Place:
    """A site of a model, with directions or latents of it where they are given.

    Args:
        model: The bridge.
        kind: One of `sites.SITES`.
        directions: Directions in the activation's space; their length does not matter.
        dictionary: A sparse autoencoder of the activation.
        latents: Which of its latents are parts.

    Returns:
        The place.

    Raises:
        ValueError: If the site is unknown or has no single vector at each position, or if the
            directions or the dictionary have another width than the activation.
    """
    site, names = sites.resolve(model, kind)
    if directions is None and dictionary is None:
        return Place(site, tuple(names))
    if kind not in VECTOR_SITES:
        raise ValueError(
            f"{kind} is no single vector at each position, so it has no directions or latents; "
            f"expected one of {', '.join(VECTOR_SITES)}"
        )
    width = int(model.cfg.d_mlp or 0) if kind == "neuron" else int(model.cfg.d_model)
    name = "direction" if dictionary is None else "latent"
    like = next(model.parameters())
    if dictionary is not None:
        vectors = dictionary.W_dec[list(latents)].detach()
    else:
        vectors = _unit(directions)
    vectors = vectors.to(like.device, like.dtype)
    if vectors.ndim != len(("part", "width")) or vectors.shape[1] != width:
        raise ValueError(
            f"the {name}s have shape {tuple(vectors.shape)}; {kind} of {model.cfg.model_name!r} "
            f"needs ({name}, {width})"
        )
    axes = ("layer", "position", name)
    chosen = torch.tensor(list(latents), device=like.device)

    def encode(activation: Tensor) -> Tensor:
        if dictionary is None:
            return activation @ vectors.T
        return dictionary.encode(activation)[..., chosen].to(activation.dtype)

    return Place(dataclasses.replace(site, axes=axes), tuple(names), vectors, encode)


def _unit(directions: Tensor | None) -> Tensor:
    assert directions is not None
    norms = directions.norm(dim=-1, keepdim=True)
    if not bool((norms > 0).all()):
        raise ValueError("a direction of length zero points nowhere; expected other vectors")
    return directions / norms


def parts(model: TransformerBridge, chosen: Place) -> list[int | None]:
    """Every part of a layer that a place patches by itself."""
    if chosen.vectors is not None:
        return list(range(len(chosen.vectors)))
    return list(range(chosen.site.parts(model))) if chosen.site.part else [None]


def slots(
    model: TransformerBridge, chosen: Place, layers: Sequence[int] | None = None
) -> tuple[Slot, ...]:
    """Every part of every layer, or of some layers.

    Args:
        model: The bridge.
        chosen: What is patched.
        layers: Which layers; None for all.

    Returns:
        The slots, layer by layer.

    Raises:
        ValueError: If a layer does not exist.
    """
    known = range(len(chosen.names))
    picked = sorted(set(known if layers is None else layers))
    if not picked or not all(layer in known for layer in picked):
        raise ValueError(f"layers = {picked}; expected some of 0 to {len(known) - 1}")
    return tuple(itertools.product(picked, parts(model, chosen)))
