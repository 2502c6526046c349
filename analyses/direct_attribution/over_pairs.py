"""Shares of the logit difference over many prompts: means with intervals and p-values."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int

from analyses.direct_attribution import summing
from workbench.core import evidence, plots, results
from workbench.core.engine import preflight, running
from workbench.core.engine.sums import StreamSum
from workbench.core.evidence import SURE
from workbench.core.prompts.pairs import ContrastPairs

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ANALYSIS = "direct_attribution.attribute_pairs"
# False-discovery rate of "more than chance".
Tensor = torch.Tensor
# Tokens of the prompts that go through the model together.
_TOKENS_AT_ONCE = 2048
_SHOWN = 24
_NAMED = 3


@dataclasses.dataclass(frozen=True)
class DirectAttributionOverPairs(results.Result):
    """Each part's share of the logit difference at the answer, over clean prompts.

    Attributes:
        names: What each part is called.
        per_prompt: Share of each part in the clean prompts, in logits.
        corrupted: Its share of the same difference, so of the clean prompt's answers, in the
            corrupted prompts.
        difference: Logit difference of each clean prompt, before a soft cap.
        corrupted_difference: That of each corrupted prompt, of the same answers.
        error: Largest gap between the parts' sum and the logit difference.
        interval: Bootstrap interval of the mean share over clean prompts; NaN with one pair.
        adjusted_p: Sign-flip p-value of it, Benjamini-Hochberg adjusted over parts.
        moved_interval: Bootstrap interval of the mean share that is gone in the corrupted prompts.
        moved_p: Sign-flip p-value of that, adjusted over parts.
        confidence: Level of the intervals.
        pairs: What was run.
    """

    names: tuple[str, ...]
    per_prompt: Float[np.ndarray, "prompt part"]
    corrupted: Float[np.ndarray, "prompt part"]
    difference: Float[np.ndarray, " prompt"]
    corrupted_difference: Float[np.ndarray, " prompt"]
    error: float
    interval: Float[np.ndarray, "bound part"]
    adjusted_p: Float[np.ndarray, " part"]
    moved_interval: Float[np.ndarray, "bound part"]
    moved_p: Float[np.ndarray, " part"]
    confidence: float
    pairs: ContrastPairs

    @property
    def mean(self) -> Float[np.ndarray, " part"]:
        """Mean share of each part over the clean prompts."""
        return self.per_prompt.mean(0)

    @property
    def moved(self) -> Float[np.ndarray, " part"]:
        """Mean share that depends on what differs between clean and corrupted prompts."""
        return (self.per_prompt - self.corrupted).mean(0)

    @property
    def largest(self) -> tuple[str, ...]:
        """Every part, the one with the largest mean share (by size) first."""
        return tuple(self.names[i] for i in np.argsort(-np.abs(self.mean), kind="stable"))

    def to_frame(self) -> pd.DataFrame:
        """One row a part."""
        return pd.DataFrame(
            {
                "part": self.names,
                "share": self.mean,
                "low": self.interval[0],
                "high": self.interval[1],
                "adjusted p": self.adjusted_p,
                "gone in corrupted": self.moved,
                "gone low": self.moved_interval[0],
                "gone high": self.moved_interval[1],
                "gone adjusted p": self.moved_p,
                "n": len(self.per_prompt),
            }
        )

    def figure(self) -> go.Figure:
        """Mean shares with their intervals, and beside them those in the corrupted prompts."""
        top = self.largest[:_SHOWN]
        index = [i for i, name in enumerate(self.names) if name in top]
        figure = plots.bars(
            self.mean[index],
            self.interval[0, index],
            self.interval[1, index],
            labels=[self.names[i] for i in index],
            value_title="mean share (logits)",
        )
        figure.update_traces(name="clean prompts")
        figure.add_trace(
            go.Scatter(
                x=list(range(len(index))),
                y=self.corrupted.mean(0)[index],
                mode="markers",
                name="corrupted prompts, same answers",
                marker={"symbol": "diamond", "size": 9, "color": plots.COLOURS[3]},
                hovertemplate="corrupted: %{y:.4g}<extra></extra>",
            )
        )
        return figure.update_layout(showlegend=True, height=400)

    def summary(self) -> str:
        """The largest parts, how many are more than chance, and what depends on the prompt."""
        n = len(self.per_prompt)
        level = f"{self.confidence:.0%}"
        index = {name: i for i, name in enumerate(self.names)}
        largest = "; ".join(
            f"{name} {self.mean[i]:+.3g} ({self.interval[0, i]:+.3g} to {self.interval[1, i]:+.3g})"
            for name in self.largest[:_NAMED]
            for i in [index[name]]
        )
        moved = np.argsort(-np.abs(self.moved), kind="stable")[:_NAMED]
        depends = ", ".join(f"{self.names[i]} {self.moved[i]:+.3g}" for i in moved)
        return (
            f"Over {n} clean prompts of {self.pairs.name}, {self.provenance.model} has a logit "
            f"difference of {self.difference.mean():.4g} (corrupted prompts, same answers: "
            f"{self.corrupted_difference.mean():.4g}), to which {len(self.names)} parts sum within "
            f"{self.error:.1g}. The largest mean shares, with {level} intervals over prompts: "
            f"{largest}. {(self.adjusted_p < SURE).sum()} parts differ from zero and "
            f"{(self.moved_p < SURE).sum()} from their share in the corrupted prompts at a "
            f"false-discovery rate of {SURE:.0%}; the most by {depends}. These are direct "
            "shares, not effects of removal."
        )


def attribute_pairs(
    model: TransformerBridge,
    pairs: ContrastPairs,
    *,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> DirectAttributionOverPairs:
    """Take the logit difference at the end of many prompts apart.

    Args:
        model: Any bridge that can be taken apart; it is not changed.
        pairs: Clean prompts with answers and wrong answers; of several answers the mean logit
            counts. Corrupted prompts are the control.
        confidence: Level of the intervals.
        n_resamples: Bootstrap resamples.
        seed: Of everything random.
        progress: Called with the fraction done and a note; may raise to cancel.

    Returns:
        Mean shares with intervals and p-values.

    Raises:
        ValueError: If pairs have no wrong answers, the level is none, or the model cannot be taken
            apart.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    preflight.require_metric(pairs, "logit_difference")
    evidence.require_confidence(confidence)
    found = [
        _side(model, pairs, side, lambda done, note, side=side: report((done + side) * 0.4, note))
        for side in (0, 1)
    ]
    (names, clean, difference, gap), (_, corrupted, corrupted_difference, other_gap) = found
    report(0.8, "intervals and p-values")
    bootstrap = evidence.Bootstrap(confidence=confidence, n_resamples=n_resamples, seed=seed)
    moved = clean - corrupted

    def adjusted(values: Float[np.ndarray, "prompt part"]) -> Float[np.ndarray, " part"]:
        return evidence.adjusted_for_discoveries(evidence.sign_flip_p_values(values, seed=seed))

    return DirectAttributionOverPairs(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={"pairs": pairs.digest(), **bootstrap},
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        names=names,
        per_prompt=clean,
        corrupted=corrupted,
        difference=difference,
        corrupted_difference=corrupted_difference,
        error=max(gap, other_gap),
        interval=evidence.mean_interval(clean, **bootstrap),
        adjusted_p=adjusted(clean),
        moved_interval=evidence.mean_interval(moved, **bootstrap),
        moved_p=adjusted(moved),
        confidence=confidence,
        pairs=pairs,
    )


def _side(
    model: TransformerBridge, pairs: ContrastPairs, side: int, report: running.Progress
) -> tuple[tuple[str, ...], Float[np.ndarray, "prompt part"], Float[np.ndarray, " prompt"], float]:
    """Names, shares, logit differences and the largest gap, of clean (0) or corrupted prompts."""
    names: tuple[str, ...] = ()
    rows: list[tuple[int, np.ndarray, float]] = []
    longest = max(max(pairs.lengths(i)) for i in range(len(pairs)))
    batches = pairs.batches(max(1, _TOKENS_AT_ONCE // longest))
    for i, indices in enumerate(batches):
        report(i / len(batches), f"prompt {len(rows) + 1} of {len(pairs)}")
        tokens = pairs.batch(indices)[side]
        stream = StreamSum.of(model, tokens)
        own = _own_differences(model, pairs, indices, tokens)
        with torch.no_grad():
            weights, bias = _reading(stream, pairs, indices)
            each = [(one.name, one.share[:, -1]) for one in summing.terms(stream, weights, bias)]
        names = tuple(name for name, _ in each)
        shares = torch.stack([share for _, share in each], 1).double().cpu().numpy()
        rows += zip(indices.tolist(), shares, own.tolist(), strict=True)
    rows.sort(key=lambda row: row[0])
    shares, own = np.stack([row[1] for row in rows]), np.array([row[2] for row in rows])
    return names, shares, own, float(np.abs(shares.sum(1) - own).max())


def _reading(
    stream: StreamSum, pairs: ContrastPairs, indices: Int[np.ndarray, " batch"]
) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, " batch"]]:
    """What reads the difference of mean logits of each pair off the final norm's output."""
    weights, bias = stream.decoder.unembedding()
    bias = weights.new_zeros(len(weights)) if bias is None else bias
    sides = [(list(pairs.answers[i]), list(pairs.wrong_answers[i])) for i in indices]
    return (
        torch.stack([weights[right].mean(0) - weights[wrong].mean(0) for right, wrong in sides]),
        torch.stack([bias[right].mean() - bias[wrong].mean() for right, wrong in sides]),
    )


def _own_differences(
    model: TransformerBridge,
    pairs: ContrastPairs,
    indices: Int[np.ndarray, " batch"],
    tokens: Int[Tensor, "batch position"],
) -> Float[np.ndarray, " batch"]:
    """Logit difference of each prompt as the model itself gives it, before a soft cap."""
    chosen = sorted(
        {token for i in indices for token in (*pairs.answers[i], *pairs.wrong_answers[i])}
    )
    at = {token: place for place, token in enumerate(chosen)}
    last = summing.own_logits(model, tokens, chosen)[0][:, -1].double().cpu().numpy()
    return np.array(
        [
            row[[at[token] for token in pairs.answers[i]]].mean()
            - row[[at[token] for token in pairs.wrong_answers[i]]].mean()
            for i, row in zip(indices, last, strict=True)
        ]
    )
