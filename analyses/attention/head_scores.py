"""What `score_heads` returns: scores with nulls, p-values and labels."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Bool, Float, Float32

from workbench.core import evidence, plots, results
from workbench.core.evidence import SURE

PREVIOUS, CURRENT, FIRST = "previous token", "current token", "first position"
# Scores that depend on the place alone; all others on what stands there.
BY_PLACE = (PREVIOUS, CURRENT, FIRST)
DUPLICATE, INDUCTION = "duplicate token", "induction"
# Smallest excess over the null that makes a label, and the corrected p that it needs besides.
LEAST = 0.3
_SPOKEN = 12
Head = tuple[int, int]


# How far behind the earlier occurrence is looked.
FURTHEST = 4


def match_name(lag: int) -> str:
    """Name of the score of looking some tokens behind the earlier occurrence."""
    return (DUPLICATE, INDUCTION)[lag] if lag <= 1 else f"match + {lag}"


# All that there are; a short context or few tokens leave some out.
NAMES = (*BY_PLACE, *(match_name(lag) for lag in range(FURTHEST + 1)))


@dataclasses.dataclass(frozen=True)
class HeadScores(results.Result):
    """Where every head looks on random sequences, against nulls.

    Attributes:
        names: Of the scores.
        score: Mean share of attention at each score's target; NaN where not measurable.
        null: The same where there is nothing to find.
        per_row: Score minus null of each random sequence.
        interval: 95% bootstrap interval over rows of score minus null; NaN where it is far from a
            label.
        p_value: One-sided, corrected over all heads and scores by the maximum statistic.
        entropy: Mean entropy of attention without a repeat, relative to a uniform look.
        first_elsewhere: Attention to the first position where another token stands there; NaN where
            the model has no BOS.
        loss_repeated: Loss of each row's second half, after itself.
        loss_fresh: Loss of the same tokens after others.
        least: Smallest excess that makes a label.
        length: Tokens of a half; 0 where there is no room for a repeat.
        n_tokens: How many tokens the sequences are made of.
        not_measurable: What could not be measured, and why.
    """

    names: tuple[str, ...]
    score: Float[np.ndarray, "score layer head"]
    null: Float[np.ndarray, "score layer head"]
    per_row: Float32[np.ndarray, "row score layer head"]
    interval: Float[np.ndarray, "bound score layer head"]
    p_value: Float[np.ndarray, "score layer head"]
    entropy: Float[np.ndarray, "layer head"]
    first_elsewhere: Float[np.ndarray, "layer head"]
    loss_repeated: Float[np.ndarray, " row"]
    loss_fresh: Float[np.ndarray, " row"]
    least: float
    length: int
    n_tokens: int
    not_measurable: tuple[str, ...]

    @functools.cached_property
    def excess(self) -> Float[np.ndarray, "score layer head"]:
        """Score minus null."""
        return self.score - self.null

    @functools.cached_property
    def halves(self) -> Float[np.ndarray, "half score layer head"]:
        """Score minus null in either half of the rows, whose tokens differ where there are enough.

        Where they do, a score that holds in both holds for tokens that the other half never shows.
        """
        middle = len(self.per_row) // 2
        return np.stack([self.per_row[:middle].mean(0), self.per_row[middle:].mean(0)])

    def labelled(self, least: float | int | None = None) -> Bool[np.ndarray, "score layer head"]:
        """Which heads have which label.

        Args:
            least: Smallest excess; None for that of the run.

        Returns:
            True where the excess is as large and the corrected p at most 0.05.
        """
        floor = self.least if least is None else least
        # NaN, which is not measurable, compares as False.
        return (self.excess >= floor) & (self.p_value <= SURE)

    def heads(self, name: str, least: float | int | None = None) -> tuple[Head, ...]:
        """The heads with a label, the largest excess first.

        Args:
            name: Of the score.
            least: Smallest excess; None for that of the run.

        Returns:
            Layer and head of each.
        """
        place = self.place(name)
        found = np.argwhere(self.labelled(least)[place])
        order = sorted(found.tolist(), key=lambda one: -self.excess[place, one[0], one[1]])
        return tuple((layer, head) for layer, head in order)

    def labels(self, layer: int, head: int, least: float | int | None = None) -> tuple[str, ...]:
        """Labels of one head, the largest excess first; empty if it has none."""
        has, excess = self.labelled(least)[:, layer, head], self.excess[:, layer, head]
        return tuple(self.names[i] for i in np.argsort(-np.nan_to_num(excess)) if has[i])

    def place(self, name: str) -> int:
        """Number of a score.

        Raises:
            ValueError: If there is none of that name.
        """
        if name not in self.names:
            raise ValueError(f"there is no score {name!r}; expected one of {', '.join(self.names)}")
        return self.names.index(name)

    def to_frame(self) -> pd.DataFrame:
        """One row a head and score."""
        _, layers, heads = self.score.shape
        score, layer, head = (one.ravel() for one in np.indices(self.score.shape))
        first, second = self.halves
        columns: dict[str, Any] = {
            "head": [f"{a}.{b}" for a, b in zip(layer, head, strict=True)],
            "about": np.array(self.names)[score],
            "score": self.score.ravel(),
            "null": self.null.ravel(),
            "excess": self.excess.ravel(),
            "low": self.interval[0].ravel(),
            "high": self.interval[1].ravel(),
            "p": self.p_value.ravel(),
            "first half": first.ravel(),
            "second half": second.ravel(),
            "label": self.labelled().ravel(),
            "entropy": np.broadcast_to(self.entropy, (len(self.names), layers, heads)).ravel(),
        }
        return pd.DataFrame(columns)

    def figure(self, name: str = INDUCTION) -> go.Figure:
        """Excess of every head over the null, layers upward.

        Args:
            name: Of the score.

        Returns:
            The grid; blank where it is not measurable.
        """
        place = self.place(name)
        excess = self.excess[place]
        layers, heads = excess.shape
        hover = np.array(
            [
                [
                    f"score {self.score[place, i, j]:.3f}, null {self.null[place, i, j]:.3f}, "
                    f"p = {self.p_value[place, i, j]:.2g}<br>labels: "
                    f"{', '.join(self.labels(i, j)) or 'none'}"
                    for j in range(heads)
                ]
                for i in range(layers)
            ]
        )
        return plots.heatmap(
            excess,
            row_labels=[f"layer {layer}" for layer in range(layers)],
            column_labels=[f"head {head}" for head in range(heads)],
            row_title="",
            column_title="",
            colour_title="above the null",
            hover=hover,
        )

    def summary(self) -> str:
        """Which heads have which label with score and p, replication, and the model's own loss."""
        _, layers, heads = self.score.shape
        n = layers * heads
        said = [
            f"{n} heads of {self.provenance.model} on {len(self.per_row)} random sequences"
            + (f" of {self.length} tokens twice" if self.length else " without a repeat")
            + f", drawn from {self.n_tokens:,} different tokens."
        ]
        if np.isfinite(self.excess).any():
            said.append(
                f"A label needs a corrected p of at most {SURE} (sign flips, maximum over all "
                f"heads and scores) and {self.least:.2g} of a head's attention above the null."
            )
            said += [self._said(name) for name in self.names if self._measured(name)]
            none = int((~self.labelled().any(0)).sum())
            said.append(f"{none} heads have no label.")
            said.append(self._replication())
        said += [f"Not measurable: {reason}." for reason in self.not_measurable]
        if self.length:
            said.append(self._losses())
        return " ".join(said)

    def _measured(self, name: str) -> bool:
        return bool(np.isfinite(self.excess[self.place(name)]).any())

    def _said(self, name: str) -> str:
        place, found = self.place(name), self.heads(name)
        if not found:
            best = np.unravel_index(np.nanargmax(self.excess[place]), self.excess[place].shape)
            at = (place, *best)
            return (
                f"{name}: no head (the largest excess is {self.excess[at]:.2f}, of "
                f"{best[0]}.{best[1]})."
            )
        listed = ", ".join(
            f"{layer}.{head} ({self.score[place, layer, head]:.2f}, null "
            f"{self.null[place, layer, head]:.2f}, p = {self.p_value[place, layer, head]:.2g})"
            for layer, head in found[:_SPOKEN]
        )
        more = f" and {len(found) - _SPOKEN} more" if len(found) > _SPOKEN else ""
        return f"{name}: {listed}{more}."

    def _replication(self) -> str:
        first, second = self.halves.reshape(2, -1)
        has = self.labelled().ravel()
        if not has.any():
            return ""
        low = float(np.minimum(first, second)[has].min())
        return f"In either half of the rows by itself, every label's excess is at least {low:.2f}."

    @functools.cached_property
    def _p_of_the_gain(self) -> float:
        """Kept, because a page says it again at every click."""
        return float(evidence.sign_flip_p_values(self._gain[:, None])[0])

    @property
    def _gain(self) -> Float[np.ndarray, " row"]:
        return self.loss_fresh - self.loss_repeated

    def _losses(self) -> str:
        p = self._p_of_the_gain
        return (
            f"The model's loss on a second half is {self.loss_repeated.mean():.2f} nats a token "
            f"after itself and {self.loss_fresh.mean():.2f} after other tokens (p = {p:.2g})"
            + (
                "."
                if self._gain.mean() > 0 and p <= SURE
                else ": it does not make use of the repeat of these tokens, so induction is not to "
                "be expected here."
            )
        )
