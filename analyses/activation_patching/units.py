"""Which neurons or latents are patched: those that are named, or those that seem to matter most."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from analyses.attribution import gradients
from workbench.core import results
from workbench.core.engine import cells, decoder, interventions, metrics, sites

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from analyses.activation_patching.result import PatchingResult
    from workbench.core.prompts.pairs import ContrastPairs

Units = tuple[tuple[int, int], ...]
# Prompts whose gradients are held at once.
_BATCH = 64


def site_of(dictionary: cells.Dictionary, at: str | None) -> tuple[str, int]:
    """At which site and layer a dictionary reads.

    Args:
        dictionary: A sparse autoencoder; those of sae-lens know their hook point.
        at: Its hook point, where it does not.

    Returns:
        The site's kind and the layer.

    Raises:
        ValueError: If nobody says where, or no site is there.
    """
    config: Any = getattr(dictionary, "cfg", None)
    metadata: Any = getattr(config, "metadata", None)
    name = at or getattr(metadata, "hook_name", None) or getattr(config, "hook_name", None)
    if name is None:
        raise ValueError(
            "the dictionary does not say at which hook point it reads: give it as "
            "at='blocks.3.hook_resid_post'"
        )
    return sites.of_hook(str(name))


def mark_of(dictionary: cells.Dictionary) -> str:
    """A short mark that tells dictionaries apart."""
    return results.mark(dictionary.W_dec)


def place_of(
    model: TransformerBridge, result: PatchingResult, dictionary: cells.Dictionary | None
) -> cells.Place:
    """What a result patched, to patch it again.

    Raises:
        ValueError: If it patched latents and their dictionary is not given, or is another one.
    """
    if result.site == "latent":
        if dictionary is None or mark_of(dictionary) != result.provenance.parameters["dictionary"]:
            raise ValueError(
                "this result patched latents of a dictionary: give that dictionary as dictionary="
            )
        kind, _ = site_of(dictionary, result.provenance.parameters["at"])
        latents = [unit for _, unit in result.units]
        return cells.place(model, kind, dictionary=dictionary, latents=latents)
    directions = torch.tensor(result.directions) if len(result.directions) else None
    return cells.place(model, result.site, directions=directions)


def strongest(
    model: TransformerBridge,
    pairs: ContrastPairs,
    *,
    kind: str,
    layers: Sequence[int],
    columns: Sequence[cells.Column],
    metric: metrics.Measure,
    intervention: interventions.Intervention,
    top: int,
    dictionary: cells.Dictionary | None = None,
) -> Units:
    """Neurons or latents with the largest estimated effect at any column.

    The estimate is (written − base activation) · gradient of the metric at the base run, summed
    over the column's positions and averaged over prompts (attribution patching).

    Args:
        model: The bridge.
        pairs: The prompts.
        kind: Site of the neurons or of the dictionary.
        layers: Which layers.
        columns: Where units will be patched.
        metric: What will be measured.
        intervention: What will be put where.
        top: How many.
        dictionary: Whose latents, if latents.

    Returns:
        Layer and index of each, strongest first.

    Raises:
        ValueError: If the metric has no gradient.
    """
    if metric.name == "rank":
        raise ValueError(
            "a rank has no gradient to choose units by: name them as units=, or choose another "
            "metric"
        )
    totals = _totals(model, pairs, kind, layers, columns, metric, intervention, dictionary)
    scores = totals.abs().amax(dim=1)
    order = scores.flatten().argsort(descending=True, stable=True)[:top].tolist()
    return tuple((layers[flat // scores.shape[1]], flat % scores.shape[1]) for flat in order)


def _totals(  # noqa: PLR0913, PLR0917 -- one step of `strongest`
    model: TransformerBridge,
    pairs: ContrastPairs,
    kind: str,
    layers: Sequence[int],
    columns: Sequence[cells.Column],
    metric: metrics.Measure,
    intervention: interventions.Intervention,
    dictionary: cells.Dictionary | None,
) -> torch.Tensor:
    """Sum over prompts of the estimates, of shape [layer, column, unit]."""
    names = {layer: sites.SITES[kind].hook_name(layer) for layer in layers}

    def runs(tokens: torch.Tensor) -> gradients.Parts | gradients.Hooks:
        try:
            return gradients.Parts(model, tokens, [kind])
        except decoder.NotTakenApart:
            return gradients.Hooks(model, [kind])

    def coordinates(run: gradients.Run) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            return {name: _read(run.values[kind][i], dictionary) for i, name in names.items()}

    def read(tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        return coordinates(runs(tokens).look(tokens))

    def estimated(indices: np.ndarray) -> torch.Tensor:
        tokens = pairs.batch(indices)
        looked = [runs(side).look(side) for side in tokens]
        target = metrics.targets(pairs, indices, looked[0].logits)
        base = tokens[source.ends[0]]
        found = runs(base).differentiate(base, lambda logits: metric.function(logits, target))
        new = source.written(indices, *map(coordinates, looked))
        where = [cells.spots(column, indices, source.ends) for column in columns]

        def at(layer: int) -> torch.Tensor:
            old, slope = found.run.values[kind][layer], found.gradients[kind][layer]
            moves = [_estimate(x, old, slope, new[names[layer]], dictionary) for x in where]
            return torch.stack(moves)

        with torch.no_grad():
            return torch.stack([at(layer) for layer in layers])

    source = interventions.Source(model, pairs, intervention, read, _BATCH)
    return functools.reduce(torch.add, map(estimated, pairs.batches(_BATCH)))


def _read(activation: torch.Tensor, dictionary: cells.Dictionary | None) -> torch.Tensor:
    return activation if dictionary is None else dictionary.encode(activation)


def _estimate(
    where: cells.Spots,
    base: torch.Tensor,
    gradient: torch.Tensor,
    new: torch.Tensor,
    dictionary: cells.Dictionary | None,
) -> torch.Tensor:
    prompts, at, taken = (
        torch.as_tensor(np.asarray(x)) for x in (where.prompts, where.at, where.taken)
    )
    change = new[prompts, taken] - _read(base[prompts, at], dictionary)
    slope = gradient[prompts, at]
    if dictionary is not None:
        slope = slope @ dictionary.W_dec.T.to(slope)
    return (change * slope).sum(0)
