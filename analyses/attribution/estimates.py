"""First-order estimates of patching every node, prompt by prompt, from one gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int

from analyses.attribution import gradients
from workbench.core.engine import decoder, metrics, preflight, running, sites
from workbench.core.prompts.pairs import ContrastPairs

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

SITES = ("resid_pre", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v", "neuron")
DEFAULT_SITES = ("resid_pre", "attn_out", "mlp_out", "z")
DIRECTIONS = ("denoising", "noising")
# Sites that act through the softmax alone.
_THROUGH_SOFTMAX = ("q", "k")


@dataclasses.dataclass(frozen=True)
class Estimates:
    """First-order estimates of every node, before any interval.

    Attributes:
        numerators: Estimated numerator of each prompt, in the metric's unit, by site: patched −
            corrupted for denoising, clean − patched for noising.
        clean: Metric of each clean prompt.
        corrupted: Metric of each corrupted prompt.
        notes: What a reader must know about how they were made.
    """

    numerators: dict[str, Float[np.ndarray, "prompt *cell"]]
    clean: Float[np.ndarray, " prompt"]
    corrupted: Float[np.ndarray, " prompt"]
    notes: tuple[str, ...]


def estimate(
    model: TransformerBridge,
    pairs: ContrastPairs,
    *,
    kinds: Sequence[str] = DEFAULT_SITES,
    metric: str | metrics.Function = "logit_difference",
    direction: str = "denoising",
    softmax_correction: bool = True,
    batch_size: int = 256,
    progress: running.Progress = running.no_progress,
) -> Estimates:
    """The estimates themselves: two forward passes and one backward pass of each batch.

    Args:
        model: The bridge.
        pairs: Clean and corrupted prompts of one length or alignment.
        kinds: Sites out of `SITES`.
        metric: Name of a metric, or a differentiable function.
        direction: "denoising" or "noising".
        softmax_correction: Put patched queries and keys through the softmax exactly.
        batch_size: Most prompts in one pass.
        progress: Told before each batch; may raise to cancel.

    Returns:
        The estimates of each prompt.

    Raises:
        ValueError: As for `attribute_nodes`.
    """
    require_gradient(pairs, metric, at_clean=direction == "noising")
    for kind in kinds:
        sites.resolve(model, kind)
    pairs.position_labels()
    denoising = direction == "denoising"
    runner, notes = _runner(model, pairs, kinds, denoising, softmax_correction)
    clean, corrupted = np.empty(len(pairs)), np.empty(len(pairs))
    parts: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    for start in range(0, len(pairs), batch_size):
        progress(start / len(pairs), f"prompts {start + 1} of {len(pairs)} and on")
        indices = np.arange(start, min(start + batch_size, len(pairs)))
        batch = _Batch(model, pairs, indices, metric=metric, denoising=denoising, runner=runner)
        clean[indices], corrupted[indices] = batch.clean, batch.corrupted
        for kind in kinds:
            parts[kind].append(batch.numerators(kind, softmax_correction))
    numerators = {kind: np.concatenate(pieces) for kind, pieces in parts.items()}
    return Estimates(numerators, clean, corrupted, notes)


def require_gradient(
    pairs: ContrastPairs, metric: str | metrics.Function, *, at_clean: bool
) -> None:
    """Check that a metric can be differentiated where it will be.

    Args:
        pairs: Where the answers stand.
        metric: Name of a metric, or a function.
        at_clean: Whether the gradient is taken at the clean run.

    Raises:
        ValueError: If not.
    """
    if not isinstance(metric, str):
        return
    preflight.require_metric(pairs, metric)
    if metric == "rank":
        raise ValueError(
            "a rank has no gradient, so nothing can be attributed to it: choose logit_difference, "
            "probability, kl_divergence or cross_entropy"
        )
    if metric == "kl_divergence" and at_clean:
        raise ValueError(
            "kl_divergence is at its minimum in the clean run, so its gradient there is zero: "
            "choose a run that differs from it (denoising, or eap_ig for edges) or another metric"
        )


Runner = gradients.Parts | gradients.Hooks


def _runner(
    model: TransformerBridge,
    pairs: ContrastPairs,
    kinds: Sequence[str],
    denoising: bool,
    softmax_correction: bool,
) -> tuple[Runner, tuple[str, ...]]:
    """How the model is run, and what a reader must know about it."""
    clean, corrupted = pairs.batch([0])
    longer = clean if clean.shape[1] >= corrupted.shape[1] else corrupted
    try:
        return gradients.Parts(model, longer, kinds), ()
    except decoder.NotTakenApart as error:
        note = f"The model could not be taken apart ({error.reason}), so its own hooks were used"
    lacks = softmax_correction and any(kind in _THROUGH_SOFTMAX for kind in kinds)
    note += ": queries and keys have no softmax correction." if lacks else "."
    return gradients.Hooks(model, kinds), (note,)


class _Batch:
    """Some of the pairs: base run with gradients, and what would be written over its nodes."""

    def __init__(
        self,
        model: TransformerBridge,
        pairs: ContrastPairs,
        indices: Int[np.ndarray, " batch"],
        *,
        metric: str | metrics.Function,
        denoising: bool,
        runner: Runner,
    ) -> None:
        self._runner, self._denoising = runner, denoising
        clean, corrupted = pairs.batch(indices)
        source = runner.look(clean if denoising else corrupted)
        goals: list[metrics.Targets] = []
        function = metrics.find(metric).function

        def measure(logits: torch.Tensor) -> torch.Tensor:
            preflight.require_finite(model, logits.detach())
            known = source.logits if denoising else logits.detach()
            goals.append(metrics.targets(pairs, indices, known.float()))
            return function(logits, goals[-1])

        preflight.require_finite(model, source.logits)
        self._base = runner.differentiate(corrupted if denoising else clean, measure)
        with torch.no_grad():
            both = (source.logits, self._base.run.logits)
            first, second = (_numbers(function(x.float(), goals[0])) for x in both)
        self.clean, self.corrupted = (first, second) if denoising else (second, first)
        self._source = source.values
        # Equal for all pairs, because their positions line up.
        columns = np.array(pairs.columns(int(indices[0])))
        self._from, self._to = (columns if denoising else columns[:, ::-1]).T.tolist()

    def numerators(self, kind: str, softmax_correction: bool) -> Float[np.ndarray, "batch *cell"]:
        """Estimates of one site at the matched positions."""
        corrected = softmax_correction and kind in _THROUGH_SOFTMAX
        one = self._through_softmax if corrected and self._runner.corrects else self._linear
        layers = [one(kind, layer)[:, self._to] for layer in range(len(self._source[kind]))]
        changes = _numbers(torch.stack(layers, 1))
        return changes if self._denoising else -changes

    def _moved(self, kind: str, layer: int) -> torch.Tensor:
        """The base run's activation with the source's at matched positions."""
        moved = self._base.run.values[kind][layer].clone()
        moved[:, self._to] = self._source[kind][layer][:, self._from]
        return moved

    def _linear(self, kind: str, layer: int) -> torch.Tensor:
        gap = self._moved(kind, layer) - self._base.run.values[kind][layer]
        product = gap * self._base.gradients[kind][layer]
        return product if kind == "neuron" else product.sum(-1)

    def _through_softmax(self, kind: str, layer: int) -> torch.Tensor:
        assert isinstance(self._runner, gradients.Parts)
        changes = self._runner.query_changes if kind == "q" else self._runner.key_changes
        return changes(self._base, layer, self._moved(kind, layer))


def _numbers(values: torch.Tensor) -> Float[np.ndarray, "*cell"]:
    # Some accelerators have no float64.
    return values.detach().cpu().double().numpy()
