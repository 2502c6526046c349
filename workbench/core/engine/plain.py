"""The plain way of patching: one forward pass of the bridge a cell, under TransformerLens hooks.

It runs on every bridge, and is what the fast way (`fast`) is compared with.

Bridges with attention of their own (native ones) show their attention pattern at its hook point but
do not use what a hook returns. There a pattern is written where it matters: into the output of its
head, as the change of its weights times the values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from workbench.core.engine import cells, interventions, metrics, preflight, running

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.pairs import ContrastPairs

Tensor = torch.Tensor


class Runner:
    """Patches cells of batches of prompts, a forward pass each."""

    def __init__(
        self,
        model: TransformerBridge,
        pairs: ContrastPairs,
        place: cells.Place,
        layers: Sequence[int],
        measure: metrics.Measure,
    ) -> None:
        """Keep what every batch needs.

        Args:
            model: The bridge.
            pairs: The prompts.
            place: What is patched.
            layers: In which layers.
            measure: What is measured.
        """
        self._model, self._pairs, self._place, self._measure = model, pairs, place, measure
        self._names = [place.names[layer] for layer in layers]
        self.is_shown_only = place.site.kind == "pattern" and _is_shown_only(
            model, pairs, self._names[0]
        )

    def read(self, tokens: Int[Tensor, "batch position"]) -> dict[str, Tensor]:
        """Coordinates at the place of some prompts, by hook point."""
        _, kept = running.run_and_keep(self._model, tokens, self._names)
        with torch.inference_mode():
            return {name: self._place.read(value) for name, value in kept.items()}

    def batch(self, indices: Int[np.ndarray, " batch"], source: interventions.Source) -> Batch:
        """Prompts of one length: their baseline runs, and what is written into them."""
        return Batch(self._model, self._pairs, self._place, self._measure, indices, self, source)


class Batch:
    """Prompts of one length.

    Attributes:
        clean: Metric of each clean prompt.
        corrupted: Metric of each corrupted prompt.
    """

    def __init__(  # noqa: PLR0913, PLR0917 -- made by its runner only
        self,
        model: TransformerBridge,
        pairs: ContrastPairs,
        place: cells.Place,
        measure: metrics.Measure,
        indices: Int[np.ndarray, " batch"],
        runner: Runner,
        source: interventions.Source,
    ) -> None:
        self._model, self._place, self._metric = model, place, measure
        tokens = pairs.batch(indices)
        clean_logits, corrupted_logits = (running.run(model, rows)[:, -1] for rows in tokens)
        self._targets = metrics.targets(pairs, indices, clean_logits)
        self.clean, self.corrupted = map(self._values, (clean_logits, corrupted_logits))
        self._base = tokens[source.ends[0]]
        kept = [runner.read(rows) for rows in tokens]
        self._old = kept[source.ends[0]]
        self._new = source.written(indices, *kept)
        self._is_shown_only = runner.is_shown_only

    def logits(
        self, layer: int, part: int | None, where: cells.Spots, key: int | None
    ) -> Float[Tensor, "batch d_vocab"]:
        """Logits at the last position with one cell patched.

        Args:
            layer: Of the cell.
            part: Which part; None for the whole activation.
            where: At which positions.
            key: With patterns: the only key whose weight is written.

        Returns:
            The logits of every prompt of the batch.
        """
        name = self._place.names[layer]
        new = self._new[name]
        if self._is_shown_only:
            written = self._place.written(self._old[name], new, where, part, key)
            hooks = _through_heads(layer, written - self._old[name])
        else:
            hooks = {name: lambda value: self._place.written(value, new, where, part, key)}
        return running.run(self._model, self._base, hooks)[:, -1]

    def fill(
        self,
        out: Float[np.ndarray, "batch slot column"],
        slots: Sequence[cells.Slot],
        columns: Sequence[cells.Spots],
        keys: Sequence[int | None],
        wanted: Bool[np.ndarray, "slot column"],
    ) -> Iterator[int]:
        """Measure cells.

        Args:
            out: Where the metric goes; prompts that a column does not touch keep what is there.
            slots: Layer and part of each.
            columns: Where each writes in these prompts.
            keys: With patterns: the only key that each column writes.
            wanted: Which cells to measure.

        Yields:
            How many cells were measured since the last time.
        """
        for slot, column in np.argwhere(wanted):
            (layer, part), where = slots[slot], columns[column]
            if len(where.prompts):
                logits = self.logits(layer, part, where, keys[column])
                touched = np.unique(where.prompts)
                out[touched, slot, column] = self._values(logits)[touched]
            yield 1

    def _values(self, logits: Float[Tensor, "batch d_vocab"]) -> Float[np.ndarray, " batch"]:
        preflight.require_finite(self._model, logits)
        return metrics.values(self._metric, logits, self._targets)


def _is_shown_only(model: TransformerBridge, pairs: ContrastPairs, name: str) -> bool:
    """Whether what a hook makes of an attention pattern goes nowhere."""
    tokens = pairs.batch(pairs.groups()[0][:1])[0]
    output = name.replace("hook_pattern", "hook_z")
    (_, kept) = running.run_and_keep(model, tokens, [output])
    seen: list[Tensor] = []

    def look(value: Tensor) -> Tensor:
        seen.append(value)
        return value

    running.run(model, tokens, {name: torch.zeros_like, output: look})
    return bool(torch.equal(seen[0], kept[output]) and kept[output].any())


def _through_heads(
    layer: int, change: Float[Tensor, "batch head query key"]
) -> dict[str, running.HookFunction]:
    """Hooks that give each head the output of a changed pattern."""
    values: list[Tensor] = []

    def keep(value: Float[Tensor, "batch key group d_head"]) -> Tensor:
        values.append(value)
        return value

    def write(z: Float[Tensor, "batch query head d_head"]) -> Tensor:
        v = values[0].repeat_interleave(z.shape[2] // values[0].shape[2], dim=2)
        return z + torch.einsum("bhqk,bkhd->bqhd", change, v)

    return {f"blocks.{layer}.attn.hook_v": keep, f"blocks.{layer}.attn.hook_z": write}
