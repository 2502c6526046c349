"""Exact patching of every cell of a site: one forward pass a cell, through TransformerLens hooks.

1. Run clean and corrupted prompts of one length as a batch, and keep the site's activations.
2. For each cell, run the base prompts again with the source's activation written over that cell.
3. Measure every run at the last position, prompt by prompt.

Denoising takes clean activations into the corrupted prompts, noising corrupted ones into the clean
prompts. In a causal model nothing before the first difference of a pair differs between its runs,
so patching there changes nothing: those cells get the unpatched value itself instead of a run.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int

from workbench.core.engine import metrics, preflight, running, sites

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.pairs import ContrastPairs


@dataclasses.dataclass(frozen=True)
class Swept:
    """Metric of every prompt in every patched run, and in the two baselines.

    Attributes:
        axes: What the cells are indexed by, in order, out of layer, position, and head or group.
        patched: Metric in each patched run.
        clean: Metric of each clean prompt.
        corrupted: Metric of each corrupted prompt.
    """

    axes: tuple[str, ...]
    patched: Float[np.ndarray, "prompt *cell"]
    clean: Float[np.ndarray, " prompt"]
    corrupted: Float[np.ndarray, " prompt"]


def sweep(
    model: TransformerBridge,
    pairs: ContrastPairs,
    *,
    site: str,
    metric: str,
    denoising: bool,
    each_position: bool,
    batch_size: int,
    progress: running.Progress = running.no_progress,
) -> Swept:
    """Patch every cell of a site, one at a time.

    Args:
        model: Any bridge.
        pairs: Clean and corrupted prompts; of one length if each position is patched by itself.
        site: One of `sites.SITES`.
        metric: One of `metrics.METRICS`.
        denoising: Clean into corrupted; otherwise corrupted into clean.
        each_position: Patch one position at a time; otherwise all at once.
        batch_size: Most prompts in one forward pass.
        progress: Called before each forward pass; may raise to cancel.

    Returns:
        The metric everywhere.

    Raises:
        ValueError: If site or metric are unknown, or logits are not finite.
    """
    place, names = sites.resolve(model, site)
    axes = tuple(axis for axis in place.axes if each_position or axis != "position")
    length = len(pairs.clean_tokens[0])
    sizes = {"layer": len(names), "position": length, place.part: place.parts(model)}
    shape = tuple(sizes[axis] for axis in axes)
    batches = [
        group[start : start + batch_size]
        for group in pairs.groups()
        for start in range(0, len(group), batch_size)
    ]
    n = len(pairs)
    patched, clean, corrupted = np.empty((n, *shape)), np.empty(n), np.empty(n)
    for i, indices in enumerate(batches):
        batch = _Batch(model, pairs, indices, names, metric, denoising=denoising)
        clean[indices], corrupted[indices] = batch.clean, batch.corrupted
        for j, cell in enumerate(itertools.product(*map(range, shape))):
            done = (i + j / max(1, int(np.prod(shape)))) / len(batches)
            progress(done, f"cell {j + 1} of {int(np.prod(shape))}")
            at = dict(zip(axes, cell, strict=True))
            patched[(indices, *cell)] = batch.patched(
                at["layer"], at.get("position"), at.get(place.part or "")
            )
    return Swept(axes, patched, clean, corrupted)


def replacement(
    source: torch.Tensor, position: int | None = None, part: int | None = None
) -> running.HookFunction:
    """A hook function that writes another run's activation over a position, a head, or both.

    Args:
        source: The other run's activation at the same hook point.
        position: Which position; None for all.
        part: Which head or group; None for all, or where the site has none.

    Returns:
        The function, which leaves its argument as it is and returns a patched copy.
    """
    where = (slice(None), slice(None) if position is None else position)
    index = where if part is None else (*where, part)

    def replace(activation: torch.Tensor) -> torch.Tensor:
        patched = activation.clone()
        patched[index] = source[index]
        return patched

    return replace


class _Batch:
    """Prompts of one length: their two baseline runs, and any cell of them patched."""

    def __init__(
        self,
        model: TransformerBridge,
        pairs: ContrastPairs,
        indices: Int[np.ndarray, " batch"],
        names: list[str],
        metric: str,
        *,
        denoising: bool,
    ) -> None:
        self._model, self._names, self._metric = model, names, metric
        clean, corrupted = pairs.batch(indices)
        clean_logits, clean_kept = running.run_and_keep(model, clean, names)
        corrupted_logits, corrupted_kept = running.run_and_keep(model, corrupted, names)
        self._targets = preflight.targets(pairs, indices, clean_logits[:, -1])
        self.clean, self.corrupted = self._measure(clean_logits), self._measure(corrupted_logits)
        self._base = corrupted if denoising else clean
        self._source = clean_kept if denoising else corrupted_kept
        self._unpatched = self.corrupted if denoising else self.clean
        first = pairs.first_differences()[indices]
        self._first = first if preflight.is_causal(model) else np.zeros_like(first)

    def patched(
        self, layer: int, position: int | None, part: int | None
    ) -> Float[np.ndarray, " batch"]:
        """Metric of each prompt with one cell patched."""
        reached = self._first <= (np.inf if position is None else position)
        if not reached.any():
            return self._unpatched
        name = self._names[layer]
        hook = replacement(self._source[name], position, part)
        logits = running.run(self._model, self._base, {name: hook})
        return np.where(reached, self._measure(logits), self._unpatched)

    def _measure(
        self, logits: Float[torch.Tensor, "batch position d_vocab"]
    ) -> Float[np.ndarray, " batch"]:
        last = logits[:, -1]
        preflight.require_finite(self._model, last)
        values = metrics.METRICS[self._metric](last.float(), self._targets)
        # Some accelerators have no float64.
        return values.cpu().double().numpy()
