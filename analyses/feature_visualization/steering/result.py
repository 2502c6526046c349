"""What did each strength do, and up to which one is its price small?

1. `Steering` holds the metric of every prompt and the loss of every row at every strength, each
   against random directions; `at` gives one strength's numbers as a `Dose`.
2. `bearable` are the strengths up to which the loss rises by less than a bound, either way from 0;
   the summary speaks of the largest of them.

Source: Rimsky et al. 2024, arXiv 2312.06681 (dose-response of steering, and its side effects).

Units: strengths in units of the activation that is added; the metric in its own unit; loss and
divergence in nats a predicted token.

Limits: those of the package.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.subplots
from jaxtyping import Float, Int

from workbench.core import plots, results
from workbench.core.engine import metrics
from workbench.core.evidence import SURE

_NAMES = {"logit_difference": "logit difference", "kl_divergence": "KL divergence"}


@dataclasses.dataclass(frozen=True)
class Dose:
    """What one strength does.

    Attributes:
        strength: How much is added.
        share_of_stream: Length of what is added, relative to that of the residual stream there.
        effect: Mean change of the metric.
        interval: Of the effect, over prompts.
        p_value: Of the effect against random directions, adjusted.
        control_effect: Band that the random directions' effects lie in, at the result's confidence.
        loss_change: Of the unrelated text, nats a token.
        loss_interval: Of that, over rows.
        loss_p_value: Of as large a loss under random directions, adjusted.
        control_loss: Band of the random directions' changes of the loss.
        divergence: KL divergence from the unsteered model on the same text, nats a token.
        divergence_interval: Of that, over rows.
    """

    strength: float
    share_of_stream: float
    effect: float
    interval: tuple[float, float]
    p_value: float
    control_effect: tuple[float, float]
    loss_change: float
    loss_interval: tuple[float, float]
    loss_p_value: float
    control_loss: tuple[float, float]
    divergence: float
    divergence_interval: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Steering(results.Result):
    """A unit that was added at several strengths.

    Attributes:
        unit: Which unit.
        pairs: Name of the prompts.
        corpus: Name of the corpus that the unrelated text is from.
        metric: What was measured on the prompts.
        positions: Where it was added: "all", or "ordinary" for all but special tokens.
        strengths: How much, ascending; 0 is one of them.
        values: Metric of each prompt.
        interval: Of the mean change of the metric, over prompts.
        p_values: Share of random directions that move the metric as far, the unit counted in.
        adjusted_p: The same, Benjamini-Hochberg over the strengths other than 0.
        control_effects: Mean change of the metric under each random direction.
        loss: Cross-entropy of each row of text.
        divergence: KL divergence of each row from the unsteered model.
        predicted: Tokens of each row that are predicted, by which rows are weighted.
        loss_interval: Of the mean change of the loss, over rows.
        divergence_interval: Of the mean divergence, over rows.
        loss_p_values: Share of random directions that cost as much loss, the unit counted in.
        adjusted_loss_p: The same, adjusted likewise.
        control_losses: Mean change of the loss under each random direction.
        control_divergences: Mean divergence under each random direction.
        length: Of what a strength of 1 adds to the residual stream.
        stream: Mean length of the residual stream at that layer, on the text.
        seen: The unit's smallest and largest activation on the text.
        loss_bound: Largest change of the loss that `summary` accepts.
        confidence: Of the intervals and bands.
    """

    unit: str
    pairs: str
    corpus: str
    metric: str
    positions: str
    strengths: Float[np.ndarray, " point"]
    values: Float[np.ndarray, "prompt point"]
    interval: Float[np.ndarray, "bound point"]
    p_values: Float[np.ndarray, " point"]
    adjusted_p: Float[np.ndarray, " point"]
    control_effects: Float[np.ndarray, "sample point"]
    loss: Float[np.ndarray, "row point"]
    divergence: Float[np.ndarray, "row point"]
    predicted: Int[np.ndarray, " row"]
    loss_interval: Float[np.ndarray, "bound point"]
    divergence_interval: Float[np.ndarray, "bound point"]
    loss_p_values: Float[np.ndarray, " point"]
    adjusted_loss_p: Float[np.ndarray, " point"]
    control_losses: Float[np.ndarray, "sample point"]
    control_divergences: Float[np.ndarray, "sample point"]
    length: float
    stream: float
    seen: tuple[float, float]
    loss_bound: float
    confidence: float

    @property
    def changes(self) -> Float[np.ndarray, "prompt point"]:
        """Metric of each prompt less that at strength 0."""
        return self.values - self.values[:, [self._zero]]

    @property
    def effects(self) -> Float[np.ndarray, " point"]:
        """Mean change of the metric at each strength."""
        return self.changes.mean(0)

    @property
    def loss_changes(self) -> Float[np.ndarray, " point"]:
        """Change of the text's cross-entropy at each strength, nats a predicted token."""
        return self._over_text(self.loss - self.loss[:, [self._zero]])

    @property
    def divergences(self) -> Float[np.ndarray, " point"]:
        """KL divergence of the text at each strength, nats a predicted token."""
        return self._over_text(self.divergence)

    @property
    def shares_of_stream(self) -> Float[np.ndarray, " point"]:
        """Length of what each strength adds, relative to that of the residual stream there."""
        return np.abs(self.strengths) * self.length / self.stream

    @property
    def bearable(self) -> Float[np.ndarray, " point"]:
        """Strengths up to which the loss rises by less than `loss_bound`, either way from 0.

        The upper end of the interval counts; with a single row, which has none, the change itself.
        """
        upper = np.where(np.isnan(self.loss_interval[1]), self.loss_changes, self.loss_interval[1])
        fine = upper < self.loss_bound
        fine[self._zero] = True
        first = last = self._zero
        while first > 0 and fine[first - 1]:
            first -= 1
        while last + 1 < len(fine) and fine[last + 1]:
            last += 1
        return self.strengths[first : last + 1]

    @property
    def strongest(self) -> float:
        """The largest bearable strength; of two equally large ones that with the larger effect."""
        return max(self.bearable.tolist(), key=lambda one: (abs(one), abs(self.at(one).effect)))

    def at(self, strength: float | int) -> Dose:
        """What a measured strength does; nothing is interpolated.

        Args:
            strength: One of `strengths`.

        Returns:
            Its numbers.

        Raises:
            ValueError: If it was not measured.
        """
        near = int(np.abs(self.strengths - strength).argmin())
        if not math.isclose(self.strengths[near], strength, rel_tol=1e-6, abs_tol=1e-12):
            known = ", ".join(f"{one:.4g}" for one in self.strengths)
            raise ValueError(f"strength {strength} was not measured; choose one of {known}")
        effects, losses = (
            self._band(values)[:, near] for values in (self.control_effects, self.control_losses)
        )
        return Dose(
            strength=float(self.strengths[near]),
            share_of_stream=float(self.shares_of_stream[near]),
            effect=float(self.effects[near]),
            interval=_ends(self.interval[:, near]),
            p_value=float(self.adjusted_p[near]),
            control_effect=_ends(effects),
            loss_change=float(self.loss_changes[near]),
            loss_interval=_ends(self.loss_interval[:, near]),
            loss_p_value=float(self.adjusted_loss_p[near]),
            control_loss=_ends(losses),
            divergence=float(self.divergences[near]),
            divergence_interval=_ends(self.divergence_interval[:, near]),
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a strength: effect, side effects and the control."""
        effects, losses = self._band(self.control_effects), self._band(self.control_losses)
        return pd.DataFrame(
            {
                "strength": self.strengths,
                "share of stream": self.shares_of_stream,
                "metric": self.metric,
                "effect": self.effects,
                "low": self.interval[0],
                "high": self.interval[1],
                "p": self.p_values,
                "adjusted p": self.adjusted_p,
                "control low": effects[0],
                "control high": effects[1],
                "loss change": self.loss_changes,
                "loss low": self.loss_interval[0],
                "loss high": self.loss_interval[1],
                "loss p": self.loss_p_values,
                "adjusted loss p": self.adjusted_loss_p,
                "control loss low": losses[0],
                "control loss high": losses[1],
                "KL divergence": self.divergences,
                "KL low": self.divergence_interval[0],
                "KL high": self.divergence_interval[1],
                "control KL": np.median(self.control_divergences, axis=0),
                "n prompts": len(self.values),
                "n rows": len(self.loss),
                "n tokens": int(self.predicted.sum()),
            }
        )

    def figure(self) -> go.Figure:
        """The dose-response, and under it the side effect, each with the random directions."""
        figure = plotly.subplots.make_subplots(
            rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.6, 0.4]
        )
        own, random = plots.escape(self.unit), f"{len(self.control_effects)} random directions"
        shown = (
            (self.effects, self.interval, self.control_effects),
            (self.loss_changes, self.loss_interval, self.control_losses),
        )
        for row, (mean, interval, control) in enumerate(shown, start=1):
            lines = plots.line(
                self.strengths,
                {own: mean, random: np.median(control, axis=0)},
                x_title="",
                y_title="",
                bands={own: interval, random: self._band(control)},
            )
            traces: Any = lines.data
            for trace in traces:
                # The bands have no name; each curve is in the legend once.
                if trace.name is not None:
                    trace.update(mode="lines+markers", showlegend=row == 1)
                figure.add_trace(trace, row=row, col=1)
        grey = {"color": plots.COLOURS[-1], "dash": "dot", "width": 1}
        largest = max(map(abs, self.seen))
        for reach in (-largest, largest):
            if self.strengths[0] <= reach <= self.strengths[-1]:
                figure.add_vline(reach, line=grey)
        figure.add_hline(self.loss_bound, line=grey, row=2, col=1)  # pyright: ignore[reportArgumentType]
        figure.update_layout(template=plots.TEMPLATE, height=520, hovermode="x unified")
        measured = f"{plots.escape(_written(self.metric))} ({metrics.unit(self.metric)})"
        figure.update_yaxes(title=f"change of<br>{measured}", row=1, col=1)
        figure.update_yaxes(title="change of loss<br>(nats a token)", row=2, col=1)
        one = self.length / self.stream
        title = (
            f"strength (1 is {one:.3g} of the stream's length)<br>"
            "dotted: largest activation on the text, bound of the loss"
        )
        return figure.update_xaxes(title=title, row=2, col=1)

    def summary(self) -> str:
        """The effect at the largest bearable strength, its price and the control, in words."""
        tokens = (
            f"{int(self.predicted.sum()):,} predicted tokens in {len(self.loss)} rows of "
            f"{self.corpus}"
        )
        if self.strongest == 0:
            weakest = min(np.delete(self.strengths, self._zero).tolist(), key=abs)
            cost = self.at(weakest)
            return (
                f"No measured strength of {self.unit} of {self.provenance.model} keeps the rise of "
                f"the loss under {self.loss_bound:g} nats a token: the smallest, {weakest:.3g}, "
                f"changes it by {_signed(cost.loss_change, cost.loss_interval)} on {tokens}. "
                "Measure smaller strengths."
            )
        dose = self.at(self.strongest)
        band = f"{dose.control_effect[0]:+.3g} to {dose.control_effect[1]:+.3g}"
        costs = f"{dose.control_loss[0]:+.3g} to {dose.control_loss[1]:+.3g}"
        beyond = "further than" if dose.p_value < SURE else "not shown to be further than"
        dearer = "more than" if dose.loss_p_value < SURE else "not shown to be more than"
        return (
            f"{self.unit} of {self.provenance.model}, added at strength {dose.strength:+.3g}, "
            f"changes the {_written(self.metric)} by {_signed(dose.effect, dose.interval)} "
            f"{metrics.unit(self.metric)} on average ({self.confidence:.0%} interval over "
            f"{len(self.values)} prompts of {self.pairs}), {beyond} chance: "
            f"{len(self.control_effects)} random directions of the same length change it by "
            f"{band} (adjusted p = {dose.p_value:.2g}). This is the largest measured strength up "
            f"to which the loss rises by less than {self.loss_bound:g} nats a token: it changes by "
            f"{_signed(dose.loss_change, dose.loss_interval)} on {tokens}, {dearer} under random "
            f"directions ({costs}, adjusted p = {dose.loss_p_value:.2g}), with a KL divergence of "
            f"{dose.divergence:.3g}. What is added is {dose.share_of_stream:.2g} times as long as "
            f"the stream there; on this text the unit reads from {self.seen[0]:.3g} to "
            f"{self.seen[1]:.3g}."
        )

    @property
    def _zero(self) -> int:
        return int(np.flatnonzero(self.strengths == 0)[0])

    def _over_text(self, values: Float[np.ndarray, "row point"]) -> Float[np.ndarray, " point"]:
        return np.average(values, axis=0, weights=self.predicted)

    def _band(self, control: Float[np.ndarray, "sample point"]) -> Float[np.ndarray, "bound point"]:
        outside = (1 - self.confidence) / 2
        return np.quantile(control, [outside, 1 - outside], axis=0)


def _ends(bounds: Float[np.ndarray, " bound"]) -> tuple[float, float]:
    return float(bounds[0]), float(bounds[1])


def _signed(value: float, interval: tuple[float, float]) -> str:
    if np.isnan(interval[0]):
        return f"{value:+.3g} (no interval from one alone)"
    return f"{value:+.3g} [{interval[0]:+.3g}, {interval[1]:+.3g}]"


def _written(metric: str) -> str:
    return _NAMES.get(metric, metric)
