"""Exact patching of every cell of a site: one forward pass a cell, through TransformerLens hooks.

1. Run clean and corrupted prompts of one length as a batch, and keep the site's activations.
2. For each cell, run the base prompts again with the source's activation written over that cell.
3. Measure every run at the last position, prompt by prompt.

Denoising takes clean activations into the corrupted prompts, noising corrupted ones into the clean
prompts. In a causal model nothing before the first difference of a pair differs between its runs,
so patching there changes nothing: those cells get the unpatched value itself instead of a run.

An ablation takes away what a cell carries in the clean prompts, instead of bringing in its own
corrupted activation: zero; the mean over clean and corrupted prompts of that length, position by
position, or over the tokens of reference texts; or the corrupted activation of another prompt.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int

from workbench.core.engine import metrics, preflight, running, sites
from workbench.core.prompts import tokenization

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.pairs import ContrastPairs


ABLATIONS = ("zero", "mean", "resample")


@dataclasses.dataclass(frozen=True)
class Intervention:
    """What is put where.

    Attributes:
        denoising: Clean activations into corrupted prompts; otherwise into clean prompts.
        ablation: One of `ABLATIONS`, into clean prompts; None for the prompt's own activation.
        reference: Texts whose tokens a mean ablation averages over, BOS left out; without any it
            averages over the pairs themselves, position by position.
        seed: Which other prompt a resample ablation takes.
    """

    denoising: bool = True
    ablation: str | None = None
    reference: tuple[str, ...] = ()
    seed: int = 0


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
    intervention: Intervention,
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
        intervention: What is put where.
        each_position: Patch one position at a time; otherwise all at once.
        batch_size: Most prompts in one forward pass.
        progress: Called before each forward pass; may raise to cancel.

    Returns:
        The metric everywhere.

    Raises:
        ValueError: If site or metric are unknown, logits are not finite, or another prompt's
            activation is asked for where there is no other prompt of that length.
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
    source = Source(model, pairs, names, intervention, batch_size)
    n = len(pairs)
    patched, clean, corrupted = np.empty((n, *shape)), np.empty(n), np.empty(n)
    for i, indices in enumerate(batches):
        batch = _Batch(model, pairs, indices, names, metric=metric, source=source)
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


def _donors(pairs: ContrastPairs, intervention: Intervention) -> Int[np.ndarray, " prompt"]:
    """For each prompt another one of its length, which a resample ablation takes from."""
    donors = np.arange(len(pairs))
    if intervention.ablation != "resample":
        return donors
    rng = np.random.default_rng(intervention.seed)
    for group in pairs.groups():
        if len(group) == 1:
            raise ValueError(
                "a resample ablation takes another prompt's activation, and there is only one "
                f"prompt of {len(pairs.clean_tokens[group[0]])} tokens: add pairs of that length"
            )
        # A shift along a random order gives everybody another prompt, and each prompt once.
        order = rng.permutation(group)
        donors[order] = np.roll(order, 1)
    return donors


def _means(
    model: TransformerBridge,
    pairs: ContrastPairs,
    names: list[str],
    intervention: Intervention,
    batch_size: int,
) -> dict[int, dict[str, torch.Tensor]]:
    """Mean activations for each prompt length, of shape [1, position or 1, ...]."""
    if intervention.ablation != "mean":
        return {}
    lengths = [len(pairs.clean_tokens[group[0]]) for group in pairs.groups()]
    if intervention.reference:
        return dict.fromkeys(lengths, _reference_means(model, names, intervention.reference))
    means: dict[int, dict[str, torch.Tensor]] = {}
    for length, group in zip(lengths, pairs.groups(), strict=True):
        totals = dict.fromkeys(names, torch.zeros(()))
        for start in range(0, len(group), batch_size):
            for tokens in pairs.batch(group[start : start + batch_size]):
                _, kept = running.run_and_keep(model, tokens, names)
                totals = {name: totals[name] + kept[name].sum(0, keepdim=True) for name in names}
        means[length] = {name: total / (2 * len(group)) for name, total in totals.items()}
    return means


def _reference_means(
    model: TransformerBridge, names: list[str], texts: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    """Mean activation over every token of some texts, without the BOS where there is one."""
    totals = dict.fromkeys(names, torch.zeros(()))
    count = 0
    for text in texts:
        ids = tokenization.encode(model, text)
        start = int(len(ids) > len(tokenization.bare(model, text)))
        _, kept = running.run_and_keep(model, torch.tensor([ids]), names)
        sums = {name: kept[name][:, start:].sum(1, keepdim=True) for name in names}
        totals = {name: totals[name] + sums[name] for name in names}
        count += len(ids) - start
    return {name: total / count for name, total in totals.items()}


class Source:
    """What an intervention writes over a cell, for any prompts of a set of pairs."""

    def __init__(
        self,
        model: TransformerBridge,
        pairs: ContrastPairs,
        names: list[str],
        intervention: Intervention,
        batch_size: int,
    ) -> None:
        """Find what depends on all prompts: the means, and who takes from whom.

        Args:
            model: Any bridge.
            pairs: The prompts.
            names: Hook points that may be written over.
            intervention: What is put where.
            batch_size: Most prompts in one forward pass.

        Raises:
            ValueError: If another prompt's activation is asked for and there is none.
        """
        self._model, self._pairs, self._names = model, pairs, names
        self.intervention = intervention
        self._donors = _donors(pairs, intervention)
        self._means = _means(model, pairs, names, intervention, batch_size)

    def written(
        self,
        indices: Int[np.ndarray, " batch"],
        clean: dict[str, torch.Tensor],
        corrupted: dict[str, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Activations to write, by hook point.

        Args:
            indices: Prompts of one length.
            clean: Their activations in the clean run.
            corrupted: Their activations in the corrupted run.

        Returns:
            One activation a prompt.
        """
        ablation = self.intervention.ablation
        if ablation == "zero":
            return {name: torch.zeros_like(value) for name, value in clean.items()}
        if ablation == "resample":
            others = self._pairs.batch(self._donors[indices])[1]
            return running.run_and_keep(self._model, others, self._names)[1]
        if ablation == "mean":
            means = self._means[len(self._pairs.clean_tokens[indices[0]])]
            return {name: means[name].expand_as(value) for name, value in clean.items()}
        return clean if self.intervention.denoising else corrupted


class _Batch:
    """Prompts of one length: their two baseline runs, and any cell of them patched."""

    def __init__(
        self,
        model: TransformerBridge,
        pairs: ContrastPairs,
        indices: Int[np.ndarray, " batch"],
        names: list[str],
        *,
        metric: str,
        source: Source,
    ) -> None:
        self._model, self._names, self._metric = model, names, metric
        clean, corrupted = pairs.batch(indices)
        clean_logits, clean_kept = running.run_and_keep(model, clean, names)
        corrupted_logits, corrupted_kept = running.run_and_keep(model, corrupted, names)
        self._targets = metrics.targets(pairs, indices, clean_logits[:, -1])
        self.clean, self.corrupted = self._measure(clean_logits), self._measure(corrupted_logits)
        denoising = source.intervention.denoising
        self._base = corrupted if denoising else clean
        self._unpatched = self.corrupted if denoising else self.clean
        self._source = source.written(indices, clean_kept, corrupted_kept)
        first = pairs.first_differences()[indices]
        # Only a prompt's own other run is known to agree with it before the first difference.
        own = source.intervention.ablation is None and preflight.is_causal(model)
        self._first = first if own else np.zeros_like(first)

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
