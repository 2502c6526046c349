"""Do the labelled heads' looks at their target matter for how a repeat is predicted?

1. The repeated rows are drawn anew, with another seed than those that gave the labels.
2. The labelled heads lose the attention to their target; the rest of the row is scaled up to sum to
   one, so that they look elsewhere as much as before. A head that looked nowhere else writes
   nothing.
3. Loss on the second half is compared with that of the whole model, row by row.
4. As many random heads without the label lose the same target. p is the share of these sets with as
   large a rise, the labelled set counted in.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float

from analyses.attention import scoring, sequences
from analyses.attention.head_scores import (
    BY_PLACE,
    INDUCTION,
    Head,
    HeadScores,
)
from workbench.core import evidence, plots, results
from workbench.core.engine import decoder as parts
from workbench.core.engine import running
from workbench.core.evidence import SURE

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ANALYSIS = "attention.verify_heads"
Tensor = torch.Tensor
_CHOICES = 1_000
# So little attention is not scaled up to all of it.
_NOTHING = 1e-6


@dataclasses.dataclass(frozen=True)
class HeadsVerified(results.Result):
    """What the labelled heads' attention to their target is worth.

    Attributes:
        name: Of the score.
        heads: The labelled heads, as "layer.head".
        loss: Of each fresh row's second half in the whole model.
        knocked_out: The same with all labelled heads' target taken away.
        alone: Mean rise of the loss where one labelled head alone loses its target.
        random: Mean rise for sets of as many random heads without the label.
        p_value: Share of random sets with as large a rise, the labelled set counted in.
        loss_fresh: Mean loss of the same tokens where nothing repeats.
        interval: 95% bootstrap interval of the rise, over rows.
        n_others: Heads without the label.
    """

    name: str
    heads: tuple[str, ...]
    loss: Float[np.ndarray, " row"]
    knocked_out: Float[np.ndarray, " row"]
    alone: Float[np.ndarray, " head"]
    random: Float[np.ndarray, " sample"]
    p_value: float
    loss_fresh: float
    interval: Float[np.ndarray, " bound"]
    n_others: int

    @property
    def rise(self) -> float:
        """Mean rise of the loss with the whole set knocked out."""
        return float((self.knocked_out - self.loss).mean())

    def to_frame(self) -> pd.DataFrame:
        """One row a set: all labelled heads, each alone, and the random ones."""
        sets = ["all labelled", *self.heads, *(f"random {i}" for i in range(len(self.random)))]
        columns: dict[str, Any] = {
            "heads": sets,
            "rise": np.concatenate([[self.rise], self.alone, self.random]),
        }
        return pd.DataFrame(columns)

    def figure(self) -> go.Figure:
        """Rise of the loss: all labelled heads, each alone, and the random sets' mean and range."""
        middle = float(self.random.mean())
        values = np.array([self.rise, *self.alone, middle])
        low = np.array([self.interval[0], *self.alone, self.random.min()])
        high = np.array([self.interval[1], *self.alone, self.random.max()])
        labels = ["all labelled", *self.heads, f"{len(self.random)} random sets (range)"]
        return plots.bars(
            values, low, high, labels=labels, value_title="rise of the loss (nats a token)"
        )

    def summary(self) -> str:
        """The rise against random sets, each head alone, and how far the repeat is lost."""
        gap = self.loss_fresh - float(self.loss.mean())
        share = f" ({self.rise / gap:.0%} of what the repeat is worth)" if gap > 0 else ""
        alone = ", ".join(
            f"{head} {rise:+.2f}" for head, rise in zip(self.heads, self.alone, strict=True)
        )
        low, high = self.interval
        n = len(self.random)
        least = 1 / (n + 1)
        lowest = (
            f" There are only {n} other sets of as many heads, so p cannot be below {least:.2g}."
            if least > SURE
            else ""
        )
        return (
            f"Without the attention to their target ({self.name}), the {len(self.heads)} labelled "
            f"heads of {self.provenance.model} leave the second half {self.rise:+.2f} nats a token "
            f"worse, 95% interval {low:.2f} to {high:.2f}, over {len(self.loss)} fresh sequences"
            f"{share}. The same taken from {n} random sets of as many of the {self.n_others} heads "
            f"without the label gives {self.random.mean():+.2f} on average and "
            f"{self.random.max():+.2f} at most (p = {self.p_value:.2g}).{lowest} Each alone: "
            f"{alone}."
        )


def verify_heads(
    model: TransformerBridge,
    scores: HeadScores,
    *,
    name: str = INDUCTION,
    rows: int = 32,
    n_random: int = 99,
    seed: int = 1,
    progress: running.Progress | None = None,
) -> HeadsVerified:
    """Take the attention to a score's target from the labelled heads, and from others.

    Args:
        model: The bridge that was scored.
        scores: What `score_heads` returned for it.
        name: Which label.
        rows: Fresh sequences, an even number.
        n_random: Random sets of heads; all sets, where there are fewer.
        seed: Of the sequences and the sets; another one than the scores'.
        progress: Told how far it is; may raise to cancel.

    Returns:
        The rises of the loss.

    Raises:
        ValueError: If no head has the label, no head is without it, nothing repeats, or the seed is
            that of the scores.
        NotTakenApart: If the model cannot be taken apart into its layers.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    heads = scores.heads(name)
    _require_sets(scores, name, heads, seed, n_random)
    made = scores.provenance.parameters
    drawn = sequences.drawn(
        model, rows=rows, length=scores.length, tokens=made["tokens"], seed=seed
    )
    run = _Run(model, drawn, name)
    loss, knocked_out = run.losses(()), run.losses(heads)
    alone = np.array([run.losses([head]).mean() for head in heads]) - loss.mean()
    others = [
        (layer, head)
        for layer, head in np.ndindex(*scores.entropy.shape)
        if (layer, head) not in heads
    ]
    sets = _random_sets(others, len(heads), n_random, seed)
    rises = np.empty(len(sets))
    for number, chosen in enumerate(sets):
        report(number / len(sets), f"{number} of {len(sets)} random sets of heads")
        rises[number] = run.losses(chosen).mean() - loss.mean()
    rise = knocked_out - loss
    logits = running.run(model, drawn.fresh)[:, slice(*drawn.second)]
    fresh = scoring.second_half_losses(logits, drawn.fresh, drawn)
    return HeadsVerified(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={"name": name, "rows": rows, "n_random": n_random, "scores": made},
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        name=name,
        heads=tuple(f"{layer}.{head}" for layer, head in heads),
        loss=loss,
        knocked_out=knocked_out,
        alone=alone,
        random=rises,
        p_value=evidence.p_value(float(rise.mean()), rises),
        loss_fresh=float(fresh.mean()),
        interval=evidence.mean_interval(rise[:, None])[:, 0],
        n_others=len(others),
    )


def _require_sets(
    scores: HeadScores, name: str, heads: tuple[Head, ...], seed: int, n_random: int
) -> None:
    if not heads:
        raise ValueError(f"no head has the label {name!r}, so there is nothing to take away")
    if scores.score[0].size == len(heads):
        raise ValueError(f"every head has the label {name!r}, so there are none to compare with")
    if not scores.length:
        raise ValueError("nothing repeats in these sequences, so there is no repeat to predict")
    if seed == scores.provenance.seed:
        raise ValueError(f"seed = {seed} drew the sequences that gave the labels: choose another")
    if n_random < 1:
        raise ValueError(f"n_random = {n_random}; expected at least one random set")


def _random_sets(others: list[Head], size: int, n: int, seed: int) -> list[tuple[Head, ...]]:
    """Different sets of heads, all where there are few; smaller ones where there are too few."""
    size = min(size, len(others))
    if math.comb(len(others), size) <= min(n, _CHOICES):
        return list(itertools.combinations(others, size))
    rng = np.random.default_rng(seed)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < n:
        chosen = sorted(rng.choice(len(others), size, replace=False).tolist())
        found[tuple(chosen)] = None
    return [tuple(others[i] for i in chosen) for chosen in found]


class _Run:
    """Repeated rows, run from the lowest layer that loses something."""

    def __init__(self, model: TransformerBridge, rows: sequences.Rows, name: str) -> None:
        self._model, self._rows, self._name = model, rows, name
        with running.lock_of(model), torch.inference_mode():
            self._decoder = parts.taken_apart(model, rows.repeated[:1])
            tokens = rows.repeated.to(model.cfg.device)
            self._before = self._decoder.run(self._decoder.embed(tokens)).resid

    def losses(self, heads: Collection[Head]) -> Float[np.ndarray, " row"]:
        """Loss of each row's second half with some heads' target taken away."""
        layers = self._decoder.layers
        first = min((layer for layer, _ in heads), default=len(layers))
        start, end = self._rows.second
        with running.lock_of(self._model), torch.inference_mode():
            resid = self._before[first]
            for number in range(first, len(layers)):
                gone = [head for layer, head in heads if layer == number]
                resid = self._through(layers[number], resid, gone)
            logits = self._decoder.logits(resid[:, start:end])
            return scoring.second_half_losses(logits, self._rows.repeated, self._rows)

    def _through(self, layer: parts.Layer, resid: Tensor, gone: list[int]) -> Tensor:
        normed = layer.normed(resid)
        q, k, v = (layer.project(name, normed) for name in ("q", "k", "v"))
        places = torch.arange(resid.shape[1], device=resid.device)
        pattern = layer.pattern(layer.rotate_queries(q, places), layer.rotate_keys(k, places))
        if gone:
            pattern[:, gone] = self._without_target(pattern[:, gone])
        return layer.after(resid, layer.attn_out(layer.mix(pattern, v)))

    def _without_target(
        self, pattern: Float[Tensor, "batch head query key"]
    ) -> Float[Tensor, "batch head query key"]:
        start, end = self._rows.second
        # What depends on the place is looked for everywhere, but where it is all there is to see.
        first = 1 if self._name in BY_PLACE else start
        queries = torch.arange(first, end, device=pattern.device)
        left = pattern.clone()
        left[:, :, queries, scoring.target_of(self._name, queries, self._rows.length)] = 0
        rest = left.sum(-1, keepdim=True)
        scaled = left / rest.clamp(min=_NOTHING)
        return torch.where(rest > _NOTHING, scaled, torch.zeros_like(left))
