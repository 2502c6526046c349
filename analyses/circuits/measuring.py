"""What is the metric when only some edges carry the clean prompt?

1. Run the clean prompts, and find what each component's output is where an edge is off: that of
   the corrupted prompts, its mean over clean and corrupted prompts position by position, or zero.
2. For a set of edges, run the clean prompts once more with all other edges off (`graph.run`).
3. Measure the metric at the last position, per prompt.

Source: Wang et al. 2022, arXiv 2211.00593 (mean ablation); Conmy et al. 2023, arXiv 2304.14997
(corrupted activations on edges).

Units and sign: the metric's own unit; faithfulness is (set − nothing) / (full − nothing), the ratio
of means over prompts.

Limits: the outputs of all components are held for all pairs, clean and off: components × prompts ×
positions × width numbers, twice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from workbench.core.engine import decoder, graph, metrics, preflight, running
from workbench.core.prompts.pairs import ContrastPairs

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ABLATIONS = ("corrupted", "mean", "zero")
# Sets of edges in one call; between two calls progress is told, and may cancel.
_AT_ONCE = 32
# Numbers that runs hold at once on a CPU: of more, half of the time goes into getting the memory.
_CPU_ELEMENTS = 4_000_000

Masks = Bool[np.ndarray, "run sender receiver"]
Mask = Bool[np.ndarray, "sender receiver"]


@dataclasses.dataclass(frozen=True)
class _Group:
    """Pairs of one length, ready to be run."""

    indices: Int[np.ndarray, " batch"]
    parts: decoder.Decoder
    clean: graph.Traced
    off: Float[torch.Tensor, "sender batch position d_model"]
    targets: metrics.Targets


class Measured:
    """The metric of every pair under any set of edges.

    Attributes:
        graph: The model's components and edges.
        pairs: What is run.
        metric: What is measured.
        full: Metric of each prompt with all edges on: the clean run.
        nothing: Metric of each prompt with all edges off: the corrupted run, where edges that are
            off carry corrupted outputs.
    """

    def __init__(
        self,
        model: TransformerBridge,
        pairs: ContrastPairs,
        *,
        metric: str = "logit_difference",
        ablation: str = "corrupted",
    ) -> None:
        """Run the clean and the corrupted prompts.

        Args:
            model: The bridge.
            pairs: Clean and corrupted prompts of equal length.
            metric: What is measured.
            ablation: What edges carry that are off: "corrupted", "mean" or "zero".

        Raises:
            ValueError: If an argument is unknown, the pairs are aligned, the model cannot be taken
                apart, or clean and corrupted metrics are too close to divide by.
        """
        require_pairs(pairs, metric)
        if ablation not in ABLATIONS:
            known = ", ".join(map(repr, ABLATIONS))
            raise ValueError(f"unknown ablation {ablation!r}; expected one of {known}")
        self._model, self.pairs, self.metric = model, pairs, metric
        with running.lock_of(model), torch.inference_mode():
            self._groups = [_prepared(model, pairs, group, ablation) for group in pairs.groups()]
        self.graph = graph.Graph.of(self._groups[0].parts)
        ends = np.stack([self.graph.allowed, np.zeros_like(self.graph.allowed)])
        self.full, self.nothing = self.under(ends)
        if preflight.too_close(self.full, self.nothing):
            raise ValueError(
                f"the {metric.replace('_', ' ')} is {self.full.mean():.3g} on the clean prompts "
                f"and {self.nothing.mean():.3g} with every edge off, which is too close to divide "
                "by: faithfulness needs pairs between which the metric clearly differs"
            )

    def under(
        self, masks: Masks, progress: Callable[[float], None] | None = None
    ) -> Float[np.ndarray, "run prompt"]:
        """Metric of every prompt under each of several sets of edges, equal sets run once.

        Args:
            masks: Which edges are on, one set a run.
            progress: Called between batches with the fraction done; may raise to cancel.

        Returns:
            The metric.
        """
        places: dict[bytes, int] = {}
        at = [places.setdefault(mask.tobytes(), len(places)) for mask in masks]
        different = masks[[at.index(place) for place in range(len(places))]]
        found = np.empty((len(different), len(self.pairs)))
        for start in range(0, len(different), _AT_ONCE):
            if progress is not None:
                progress(start / len(different))
            chosen = different[start : start + _AT_ONCE]
            for group in self._groups:
                found[start : start + len(chosen), group.indices] = self._run(group, chosen)
        return found[at]

    def _run(self, group: _Group, masks: Masks) -> Float[np.ndarray, "run batch"]:
        measure = metrics.find(self.metric)
        with running.lock_of(self._model), torch.inference_mode():
            on = torch.from_numpy(np.ascontiguousarray(masks)).to(group.off.device)
            most = graph.MAX_ELEMENTS if on.is_cuda else _CPU_ELEMENTS
            ends = graph.run(group.parts, self.graph, group.clean, group.off, on, max_elements=most)
            return np.stack(
                [metrics.values(measure, group.parts.logits(end), group.targets) for end in ends]
            )

    def faithfulness(
        self, masks: Masks, progress: Callable[[float], None] | None = None
    ) -> Float[np.ndarray, " run"]:
        """Faithfulness of each of several sets of edges, as ratio of means over prompts."""
        return self.as_fraction(self.under(masks, progress))

    def as_fraction(self, measured: Float[np.ndarray, "*run prompt"]) -> Float[np.ndarray, "*run"]:
        """Faithfulness, given the metric of every prompt."""
        return (measured - self.nothing).mean(-1) / (self.full - self.nothing).mean()

    def without(self, mask: Mask, nodes: Iterable[str]) -> Mask:
        """The set of edges with nodes removed: every edge that leaves one of them is off.

        What enters a removed node is left as it is, since nothing of it gets out.
        """
        kept = mask.copy()
        kept[[self.graph.senders.index(node) for node in nodes]] = False
        return kept


def require_pairs(pairs: ContrastPairs, metric: str) -> None:
    """Check that edges can be measured on the pairs.

    Raises:
        ValueError: If the metric is unknown or needs what the pairs lack, or the pairs are aligned.
    """
    preflight.require_metric(pairs, metric)
    if pairs.aligned:
        raise ValueError(
            "circuits need clean and corrupted prompts of equal token length, because an edge "
            "carries all positions at once; these pairs are aligned"
        )


def _prepared(
    model: TransformerBridge,
    pairs: ContrastPairs,
    indices: Int[np.ndarray, " batch"],
    ablation: str,
) -> _Group:
    clean_tokens, corrupted_tokens = pairs.batch(indices)
    parts = decoder.taken_apart(model, clean_tokens[:2])
    clean = graph.trace(parts, clean_tokens)
    logits = parts.logits(clean.resid[-1][:, -1]).float()
    preflight.require_finite(model, logits)
    off = _off(parts, clean, corrupted_tokens, ablation)
    return _Group(indices, parts, clean, off, metrics.targets(pairs, indices, logits))


def _off(
    parts: decoder.Decoder,
    clean: graph.Traced,
    corrupted: Int[torch.Tensor, "batch position"],
    ablation: str,
) -> Float[torch.Tensor, "sender batch position d_model"]:
    if ablation == "zero":
        return torch.zeros_like(clean.outputs)
    outputs = graph.trace(parts, corrupted).outputs
    if ablation == "corrupted":
        return outputs
    mean = (clean.outputs.mean(1, keepdim=True) + outputs.mean(1, keepdim=True)) / 2
    return mean.expand_as(outputs)


def part(progress: running.Progress, low: float, high: float, note: str) -> Callable[[float], None]:
    """Progress of one step of a longer run: its fraction becomes a share of the whole."""
    return lambda fraction: progress(low + (high - low) * fraction, note)
