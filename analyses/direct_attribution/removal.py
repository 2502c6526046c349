"""What a share is not: an effect. Parts are removed and the model is run on, exactly."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float

from analyses.direct_attribution import parts as naming
from analyses.direct_attribution import removing, summing
from analyses.direct_attribution.result import DirectAttribution
from workbench.core import evidence, plots, results
from workbench.core.engine import running
from workbench.core.engine.sums import StreamSum
from workbench.core.models import card
from workbench.core.prompts.prompt import Prompt

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ANALYSIS = "direct_attribution.check"
ABLATIONS = ("zero", "mean")
_SHUFFLES = 9999
# Shares and effects below this fraction of the largest share have no sign worth speaking of.
_NEGLIGIBLE = 0.01
_FEWEST = 3
_NAMED = 5


@dataclasses.dataclass(frozen=True)
class RemovalCheck(results.Result):
    """Each part's direct share beside what really changes when the part is removed.

    Attributes:
        names: The parts that were removed, the one with the largest share first.
        direct: What a part writes for the logit more than what is put in its place, in logits.
        total: The logit (before a soft cap) less that of the run without the part.
        before: The logit with everything in place.
        position: At which position of the prompt.
        everywhere: Whether parts were removed at all positions up to that one.
        ablation: What was put in their place: "zero" or "mean".
        asked: The logit, or the difference, in words.
        correlation: Pearson's, of direct shares and total effects, single neurons left out since
            their MLPs are in; NaN for fewer than three parts.
        p_value: How often effects that are shuffled among parts correlate as strongly.
    """

    names: tuple[str, ...]
    direct: Float[np.ndarray, " part"]
    total: Float[np.ndarray, " part"]
    before: float
    position: int
    everywhere: bool
    ablation: str
    asked: str
    correlation: float
    p_value: float

    @property
    def opposed(self) -> tuple[str, ...]:
        """Parts whose removal moves the logit against what their share says."""
        least = _NEGLIGIBLE * np.abs(self.direct).max(initial=0)
        clear = np.minimum(np.abs(self.direct), np.abs(self.total)) > least
        wrong = clear & (np.sign(self.direct) != np.sign(self.total))
        return tuple(self.names[i] for i in np.flatnonzero(wrong))

    def to_frame(self) -> pd.DataFrame:
        """One row a part."""
        return pd.DataFrame(
            {
                "part": self.names,
                "direct share": self.direct,
                "total effect": self.total,
                "opposed": [name in self.opposed for name in self.names],
            }
        )

    def figure(self) -> go.Figure:
        """Total effects over direct shares; on the line, nothing happens on the way."""
        opposed = [name in self.opposed for name in self.names]
        ends = [float(f(np.append(self.direct, 0.0))) for f in (np.min, np.max)]
        figure = go.Figure(
            go.Scatter(
                x=ends,
                y=ends,
                mode="lines",
                line={"dash": "dot", "color": plots.COLOURS[-1]},
                hoverinfo="skip",
            )
        )
        # Those that are furthest out have room for a name.
        far = {*range(_NAMED), *np.argsort(-np.abs(self.total - self.direct))[:_NAMED].tolist()}
        named = [name if i in far else "" for i, name in enumerate(self.names)]
        figure.add_trace(
            go.Scatter(
                x=self.direct,
                y=self.total,
                mode="markers+text",
                text=named,
                textposition="top center",
                customdata=list(self.names),
                marker={"size": 8, "color": [plots.COLOURS[int(one)] for one in opposed]},
                hovertemplate="%{customdata}<br>direct share %{x:+.4g}<br>"
                "total effect %{y:+.4g}<extra></extra>",
            )
        )
        figure.update_layout(template=plots.TEMPLATE, showlegend=False, height=380)
        figure.update_xaxes(title="direct share (logits)", zeroline=True)
        figure.update_yaxes(title="total effect of removal (logits)", zeroline=True)
        return figure

    def summary(self) -> str:
        """How well shares foretell what removing does."""
        where = "at every position up to" if self.everywhere else "at"
        put = "zero" if self.ablation == "zero" else "their mean"
        opposed = ", ".join(self.opposed[:_NAMED]) + (" …" if len(self.opposed) > _NAMED else "")
        whole = sum(not naming.is_neuron(name) for name in self.names)
        correlation = (
            f"Shares and effects correlate at {self.correlation:.2f} (p = {self.p_value:.2g} "
            f"against shuffled parts, n = {whole} heads, MLPs and embeddings of one prompt)."
            if np.isfinite(self.correlation)
            else "There are too few parts, or they are too alike, for a correlation."
        )
        signs = (
            f"{len(self.opposed)} of {len(self.names)} parts move it against the sign of their "
            f"share: {opposed}."
            if self.opposed
            else "No part moves it against the sign of its share."
        )
        return (
            f"Each of {len(self.names)} parts was replaced by {put} {where} position "
            f"{self.position} and the model was run on; {self.asked} is {self.before:.4g} with "
            f"everything in place. {correlation} {signs} Later parts that react to what is missing "
            "make the difference: they repair it, or they carried it."
        )


def check(
    model: TransformerBridge,
    attribution: DirectAttribution,
    *,
    ablation: str = "zero",
    reference: Sequence[str] = (),
    everywhere: bool = False,
    top: int = 50,
    top_neurons: int = 10,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> RemovalCheck:
    """Remove the parts with the largest shares, one at a time, and run the model on.

    Biases are left out: they are no activations, and the same for every prompt.

    Args:
        model: The bridge that was attributed; it is not changed.
        attribution: What `attribute` gave; its position is the one that is looked at.
        ablation: "zero", or "mean" over tokens of the reference.
        reference: Texts to average over, the BOS left out; none for the prompt itself, all of its
            positions up to the one that is looked at.
        everywhere: Remove a part at all positions up to that one instead of there alone. A share
            is of what is written at that one position.
        top: How many embeddings, heads and MLPs.
        top_neurons: How many neurons besides.
        seed: Of the shuffles.
        progress: Called with the fraction done and a note; may raise to cancel.

    Returns:
        Direct shares and total effects, side by side.

    Raises:
        ValueError: If the attribution is of another model, an argument is out of range, or a mean
            is over nothing but the activation itself.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    _require_arguments(model, attribution, ablation, reference, top)
    at = attribution.position
    prompt = Prompt.of(model, attribution.ids[: at + 1])
    stream = StreamSum.of(model, prompt.batch)
    chosen = [name for name in attribution.largest if not naming.is_bias(name)][:top]
    chosen += list(attribution.neurons())[:top_neurons]
    with running.lock_of(model), torch.no_grad():
        put = (
            removing.Put.zeros(stream)
            if ablation == "zero"
            else removing.Put.means(model, stream, reference)
        )
        read = summing.reading(stream, *_two(attribution.answer_ids))
        direct = removing.direct_shares(stream, put, read, chosen)
        before = float(removing.logit(stream, stream.kept.resid[-1][:, -1], read)[0])
    after = removing.without(
        model, stream, chosen, put, read=read, everywhere=everywhere, report=report
    )
    total = before - after
    order = np.argsort(-np.abs(direct), kind="stable")
    direct, total = direct[order], total[order]
    whole = np.array([not naming.is_neuron(chosen[i]) for i in order])
    correlation, p_value = _correlation(direct[whole], total[whole], seed)
    return RemovalCheck(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={
                **attribution.provenance.parameters,
                "ablation": ablation,
                "reference": list(reference),
                "everywhere": everywhere,
                "top": top,
                "checked_neurons": top_neurons,
            },
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        names=tuple(chosen[i] for i in order),
        direct=direct,
        total=total,
        before=before,
        position=at,
        everywhere=everywhere,
        ablation=ablation,
        asked=attribution.asked,
        correlation=correlation,
        p_value=p_value,
    )


def _correlation(
    direct: Float[np.ndarray, " part"], total: Float[np.ndarray, " part"], seed: int
) -> tuple[float, float]:
    """Pearson's correlation and, against shuffled parts, its two-sided p-value."""
    if len(direct) < _FEWEST or not (np.ptp(direct) > 0 and np.ptp(total) > 0):
        return float("nan"), 1.0
    x, y = ((one - one.mean()) / np.linalg.norm(one - one.mean()) for one in (direct, total))
    rng = np.random.default_rng(seed)
    null = np.abs(rng.permuted(np.tile(y, (_SHUFFLES, 1)), axis=1) @ x)
    value = float(x @ y)
    return value, evidence.p_value(abs(value), null)


def _two(ids: tuple[int, ...]) -> tuple[int, int | None]:
    return ids[0], ids[1] if len(ids) > 1 else None


def _require_arguments(
    model: TransformerBridge,
    attribution: DirectAttribution,
    ablation: str,
    reference: Sequence[str],
    top: int,
) -> None:
    if card.fingerprint(model) != attribution.provenance.fingerprint:
        raise ValueError(
            f"the attribution is of {attribution.provenance.model} with other weights: attribute "
            "and check the same model"
        )
    if ablation not in ABLATIONS:
        raise ValueError(f"ablation = {ablation!r}; expected one of {', '.join(ABLATIONS)}")
    if top < 1:
        raise ValueError(f"top = {top}; expected at least 1")
    if ablation == "mean" and not reference and attribution.position == 0:
        raise ValueError(
            "the mean over the first position alone is that position itself: give reference texts, "
            "or ablate by zero"
        )
