"""Which heads carry the repeat to the prediction, wherever they look?

1. Rows "[BOS] A A" are run with one head at a time writing what it writes in the partner row,
   "[BOS] B A", where the same second half does not repeat; everything else stays.
2. The rise of the loss on the second half is what the model loses without what that head knows of
   the repeat. It is exact, and says nothing of other heads that could take its place.
3. Rises are tested over rows by sign flips, one-sided, corrected over all heads (`chance`). A head
   carries the repeat where the corrected p is at most 0.05 and the rise at least `least` of what
   the repeat is worth: the loss after other tokens minus the loss after itself.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float

from analyses.attention import chance, scoring, sequences
from analyses.attention.head_scores import Head
from workbench.core import evidence, plots, results
from workbench.core.engine import running, sites
from workbench.core.evidence import SURE

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ANALYSIS = "attention.repeat_carriers"
Tensor = torch.Tensor
# Share of what the repeat is worth that makes a head a carrier.
LEAST_SHARE = 0.1
_SPOKEN = 12


@dataclasses.dataclass(frozen=True)
class RepeatCarriers(results.Result):
    """How much of a repeat's worth is lost without what each head knows of it.

    Attributes:
        rise: Mean rise of the loss on the second half, in nats a token.
        per_row: The same for each row.
        interval: 95% bootstrap interval over rows.
        p_value: One-sided, corrected over all heads by the maximum statistic.
        loss_repeated: Loss of each row's second half, after itself.
        loss_fresh: Loss of the same tokens after others.
        least: Share of the repeat's worth that makes a carrier.
        length: Tokens of a half.
    """

    rise: Float[np.ndarray, "layer head"]
    per_row: Float[np.ndarray, "row layer head"]
    interval: Float[np.ndarray, "bound layer head"]
    p_value: Float[np.ndarray, "layer head"]
    loss_repeated: Float[np.ndarray, " row"]
    loss_fresh: Float[np.ndarray, " row"]
    least: float
    length: int

    @property
    def worth(self) -> float:
        """By how much the repeat lowers the loss, in nats a token."""
        return float((self.loss_fresh - self.loss_repeated).mean())

    @functools.cached_property
    def worth_p(self) -> float:
        """Sign-flip p of that, over rows."""
        gain = (self.loss_fresh - self.loss_repeated)[:, None]
        return float(evidence.sign_flip_p_values(gain)[0])

    @property
    def used(self) -> bool:
        """Whether the model makes use of the repeat at all."""
        return self.worth > 0 and self.worth_p <= SURE

    @functools.cached_property
    def carries(self) -> Bool[np.ndarray, "layer head"]:
        """Which heads carry the repeat."""
        large = self.rise >= self.least * max(self.worth, 0)
        return self.used & large & (self.p_value <= SURE)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads that carry it, the largest rise first."""
        found: list[list[int]] = np.argwhere(self.carries).tolist()
        ordered = sorted(found, key=lambda one: -self.rise[one[0], one[1]])
        return tuple((layer, head) for layer, head in ordered)

    def to_frame(self) -> pd.DataFrame:
        """One row a head."""
        layer, head = (one.ravel() for one in np.indices(self.rise.shape))
        columns: dict[str, Any] = {
            "head": [f"{a}.{b}" for a, b in zip(layer, head, strict=True)],
            "rise": self.rise.ravel(),
            "low": self.interval[0].ravel(),
            "high": self.interval[1].ravel(),
            "p": self.p_value.ravel(),
            "carries": self.carries.ravel(),
        }
        return pd.DataFrame(columns)

    def figure(self) -> go.Figure:
        """Rise of the loss without what each head knows of the repeat, layers upward."""
        layers, heads = self.rise.shape
        hover = np.array(
            [
                [
                    f"95% interval {self.interval[0, i, j]:.3g} to {self.interval[1, i, j]:.3g}, "
                    f"p = {self.p_value[i, j]:.2g}{', carries it' if self.carries[i, j] else ''}"
                    for j in range(heads)
                ]
                for i in range(layers)
            ]
        )
        return plots.heatmap(
            self.rise,
            row_labels=[f"layer {layer}" for layer in range(layers)],
            column_labels=[f"head {head}" for head in range(heads)],
            row_title="",
            column_title="",
            colour_title="rise of the loss (nats a token)",
            hover=hover,
        )

    def summary(self) -> str:
        """What the repeat is worth, and which heads carry it."""
        said = (
            f"{self.provenance.model} predicts the second half of {len(self.loss_repeated)} random "
            f"sequences of {self.length} tokens twice with {self.loss_repeated.mean():.2f} nats a "
            f"token, and the same tokens after others with {self.loss_fresh.mean():.2f} "
            f"(p = {self.worth_p:.2g})."
        )
        if not self.used:
            return f"{said} It does not make use of the repeat, so no head carries it."
        listed = ", ".join(
            f"{layer}.{head} ({self.rise[layer, head]:+.2f} "
            f"[{self.interval[0, layer, head]:.2f}, {self.interval[1, layer, head]:.2f}], "
            f"p = {self.p_value[layer, head]:.2g})"
            for layer, head in self.heads[:_SPOKEN]
        )
        rest = self.rise[~self.carries]
        others = (
            f" Of the other {rest.size} the largest rise is {rest.max():.2f}." if rest.size else ""
        )
        found = (
            f"Without what it knows of the repeat, the loss rises by at least {self.least:.0%} of "
            f"that for: {listed}."
            if listed
            else f"No single head's part of it is worth {self.least:.0%} of that."
        )
        return (
            f"{said} {found}{others} Each head is taken alone: heads that stand in for each other "
            "show less than they carry together."
        )


def repeat_carriers(
    model: TransformerBridge,
    *,
    rows: int = 32,
    length: int | None = None,
    tokens: Sequence[int] | None = None,
    least: float | int = LEAST_SHARE,
    rounds: int = 9999,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> RepeatCarriers:
    """Measure for every head what its knowledge of a repeat is worth to the prediction.

    Args:
        model: The bridge.
        rows: Random sequences, an even number.
        length: Tokens of a half; None for what `usual_length` says.
        tokens: What the sequences are made of; None for what `usual_tokens` says.
        least: Share of the repeat's worth that makes a carrier.
        rounds: Sign patterns behind the p-values.
        seed: Of the sequences and the signs.
        progress: Told how far it is; may raise to cancel.

    Returns:
        The rises of the loss.

    Raises:
        ValueError: If a number is impossible, a token is outside the vocabulary, or the context has
            no room for a repeat.
    """
    started = time.perf_counter()
    asked = scoring.checked(rows=rows, length=length, tokens=tokens, least=least, rounds=rounds)
    report = progress or running.no_progress
    drawn = sequences.drawn(model, rows=rows, length=length, tokens=tokens, seed=seed)
    if not drawn.length:
        raise ValueError(
            f"the context or the tokens have no room for {sequences.LEAST_LENGTH} tokens twice, so "
            "nothing can repeat"
        )
    repeated, fresh, rise = _measured(model, drawn, report)
    flat = rise.reshape(rows, -1)
    shape = rise.shape[1:]
    return RepeatCarriers(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters=asked,
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        rise=rise.mean(0),
        per_row=rise,
        interval=evidence.mean_interval(flat, seed=seed).reshape(2, *shape),
        p_value=chance.family_p_values(flat, rounds=rounds, seed=seed).reshape(shape),
        loss_repeated=repeated,
        loss_fresh=fresh,
        least=float(least),
        length=drawn.length,
    )


def _measured(
    model: TransformerBridge, rows: sequences.Rows, report: running.Progress
) -> tuple[
    Float[np.ndarray, " row"], Float[np.ndarray, " row"], Float[np.ndarray, "row layer head"]
]:
    _, hooks = sites.resolve(model, "z")
    layers, heads = len(hooks), int(model.cfg.n_heads)
    n, width = rows.fresh.shape
    step, second = scoring.rows_at_once(model, n, width), slice(*rows.second)
    repeated, fresh = np.empty(n), np.empty(n)
    rise = np.empty((n, layers, heads))
    for start in range(0, n, step):
        part = slice(start, start + step)
        tokens, partner = rows.repeated[part], rows.fresh[part]
        logits, other = running.run_and_keep(model, partner, hooks)
        fresh[part] = scoring.second_half_losses(logits[:, second], partner, rows)
        logits = running.run(model, tokens)
        repeated[part] = scoring.second_half_losses(logits[:, second], tokens, rows)
        for layer, head in np.ndindex(layers, heads):
            done = (start + (layer * heads + head) / (layers * heads) * step) / n
            report(min(done, 1.0), f"head {layer}.{head}")
            hook = {hooks[layer]: _as_in(other[hooks[layer]], head)}
            logits = running.run(model, tokens, hook)[:, second]
            lost = scoring.second_half_losses(logits, tokens, rows)
            rise[part, layer, head] = lost - repeated[part]
    return repeated, fresh, rise


def _as_in(other: Tensor, head: int) -> running.HookFunction:
    """One head as it is in the partner row."""

    def replace(z: Tensor) -> Tensor:
        swapped = z.clone()
        swapped[:, :, head] = other[:, :, head]
        return swapped

    return replace
