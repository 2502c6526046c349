"""Intervention: what is written over an activation, and where it comes from.

Denoising takes clean activations into the corrupted prompts, noising corrupted ones into the clean
prompts. An ablation takes away what a cell carries in the clean prompts, instead of bringing in its
own corrupted activation: zero; the mean over clean and corrupted prompts of that length, position
by position, or over the tokens of reference texts; or the corrupted activation of another prompt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int

from workbench.core.prompts import tokenization

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.pairs import ContrastPairs

ABLATIONS = ("zero", "mean", "resample")
# Activations of a batch of prompts of one length, by hook point.
Reader = Callable[[Int[torch.Tensor, "batch position"]], dict[str, torch.Tensor]]


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


class Source:
    """What an intervention writes over a cell, for any prompts of a set of pairs."""

    def __init__(
        self,
        model: TransformerBridge,
        pairs: ContrastPairs,
        intervention: Intervention,
        read: Reader,
        batch_size: int,
    ) -> None:
        """Find what depends on all prompts: the means, and who takes from whom.

        Args:
            model: Any bridge.
            pairs: The prompts.
            intervention: What is put where.
            read: How to get the activations of other prompts.
            batch_size: Most prompts in one forward pass.

        Raises:
            ValueError: If another prompt's activation is asked for and there is none.
        """
        self._pairs, self._read = pairs, read
        self.intervention = intervention
        self._donors = _donors(pairs, intervention)
        self._means = _means(model, pairs, intervention, read, batch_size)

    @property
    def ends(self) -> tuple[int, int]:
        """Which of (clean, corrupted) is written over, and which has what is written."""
        if self.intervention.ablation in ("zero", "mean"):
            return 0, 0
        return (1, 0) if self.intervention.denoising else (0, 1)

    def written(
        self,
        indices: Int[np.ndarray, " batch"],
        clean: dict[str, torch.Tensor],
        corrupted: dict[str, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Activations to write, by hook point, at the positions of the prompts that have them.

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
            return self._read(self._pairs.batch(self._donors[indices])[1])
        if ablation == "mean":
            means = self._means[self._pairs.lengths(int(indices[0]))]
            return {name: means[name].expand_as(value) for name, value in clean.items()}
        return clean if self.intervention.denoising else corrupted


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
    intervention: Intervention,
    read: Reader,
    batch_size: int,
) -> dict[tuple[int, int], dict[str, torch.Tensor]]:
    """Mean activations for each length of a pair, of shape [1, position or 1, ...]."""
    if intervention.ablation != "mean":
        return {}
    groups = pairs.groups()
    lengths = [pairs.lengths(int(group[0])) for group in groups]
    if intervention.reference:
        return dict.fromkeys(lengths, _reference_means(model, read, intervention.reference))
    if pairs.aligned:
        raise ValueError(
            "a mean over clean and corrupted prompts of different length is not defined position "
            "by position: give reference texts to average over"
        )
    means: dict[tuple[int, int], dict[str, torch.Tensor]] = {}
    for length, group in zip(lengths, groups, strict=True):
        totals: dict[str, torch.Tensor] = {}
        for start in range(0, len(group), batch_size):
            for tokens in pairs.batch(group[start : start + batch_size]):
                sums = {name: kept.sum(0, keepdim=True) for name, kept in read(tokens).items()}
                totals = {name: totals.get(name, 0) + value for name, value in sums.items()}
        means[length] = {name: total / (2 * len(group)) for name, total in totals.items()}
    return means


def _reference_means(
    model: TransformerBridge, read: Reader, texts: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    """Mean activation over every token of some texts, without the BOS where there is one."""
    totals: dict[str, torch.Tensor] = {}
    count = 0
    for text in texts:
        ids = tokenization.encode(model, text)
        start = int(len(ids) > len(tokenization.bare(model, text)))
        kept = read(torch.tensor([ids]))
        sums = {name: value[:, start:].sum(1, keepdim=True) for name, value in kept.items()}
        totals = {name: totals.get(name, 0) + value for name, value in sums.items()}
        count += len(ids) - start
    return {name: total / count for name, total in totals.items()}
