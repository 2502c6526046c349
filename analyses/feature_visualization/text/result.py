"""What text optimization gives: the Pareto front, the best of each restart, and chance."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Bool, Float, Int

from workbench.core import plots, results
from workbench.core.models import card

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

# Arguments of the call, in its order, that a script writes out.
_SCRIPT_ARGUMENTS = (
    "method",
    "length",
    "population",
    "children",
    "top_tokens",
    "iterations",
    "restart_every",
    "restarts",
    "diversity",
    "penalties",
    "start",
    "allowed",
    "maximise",
    "seed",
)
# Arguments that are too large to be written out, and must be at hand.
_AT_HAND = ("reference", "directions", "dictionary")
_GREY = plots.COLOURS[-1]


@dataclasses.dataclass(frozen=True)
class OptimizedText(results.Result):
    """Texts that make a unit fire, from the most fluent to the most active.

    Attributes:
        unit: Which unit.
        method: "epo" or "gcg".
        maximise: Whether large activations were sought; else small ones.
        prefix: Tokens in front of every text.
        tokens: Token ids of the Pareto front, the most fluent text first; the last one is the most
            active of all that was measured (with GCG: of all that was kept).
        texts: The same as they are written.
        activation: Of the unit at the last token.
        cross_entropy: Of each text under the model, nats a token.
        quantile: Share of the corpus whose activation is at most as large; NaN without a corpus.
        retokenises: Whether the written text gives these tokens back.
        found_in: In which restart each was found, from 0.
        best_tokens: Best text of each restart by what it searched for: at the lowest price, and
            with the cost of tokens of earlier restarts.
        best_texts: The same as they are written.
        best_activation: Activation of each.
        best_cross_entropy: Cross-entropy of each.
        best_quantile: Quantile of each.
        penalties: Prices of fluency, activation a nat; 0 for GCG.
        trace_activation: Activation of the text of each price after each iteration.
        trace_cross_entropy: Cross-entropy of the same.
        random_activation: Activation of random texts of the same length.
        random_cross_entropy: Cross-entropy of these.
        random_quantile: Quantile of these.
        start_text: The example that the search continued from; empty without one.
        start_activation: Its activation; NaN without one.
        start_cross_entropy: Its cross-entropy; NaN without one.
        start_quantile: Its quantile; NaN without one.
        n_reference: Activations in the corpus; 0 without one.
        n_evaluations: Texts that were measured, the random ones included.
    """

    unit: str
    method: str
    maximise: bool
    prefix: tuple[int, ...]
    tokens: Int[np.ndarray, "point position"]
    texts: tuple[str, ...]
    activation: Float[np.ndarray, " point"]
    cross_entropy: Float[np.ndarray, " point"]
    quantile: Float[np.ndarray, " point"]
    retokenises: Bool[np.ndarray, " point"]
    found_in: Int[np.ndarray, " point"]
    best_tokens: Int[np.ndarray, "restart position"]
    best_texts: tuple[str, ...]
    best_activation: Float[np.ndarray, " restart"]
    best_cross_entropy: Float[np.ndarray, " restart"]
    best_quantile: Float[np.ndarray, " restart"]
    penalties: Float[np.ndarray, " member"]
    trace_activation: Float[np.ndarray, "restart iteration member"]
    trace_cross_entropy: Float[np.ndarray, "restart iteration member"]
    random_activation: Float[np.ndarray, " sample"]
    random_cross_entropy: Float[np.ndarray, " sample"]
    random_quantile: Float[np.ndarray, " sample"]
    start_text: str
    start_activation: float
    start_cross_entropy: float
    start_quantile: float
    n_reference: int
    n_evaluations: int

    @property
    def length(self) -> int:
        """Tokens of a text, without those in front."""
        return int(self.tokens.shape[1])

    @property
    def optimum(self) -> float:
        """The most extreme activation of all texts of the front."""
        return float(self.activation[-1])

    @property
    def beaten(self) -> float:
        """Share of the random texts that the optimum is beyond."""
        sign = 1 if self.maximise else -1
        return float((sign * self.random_activation < sign * self.optimum).mean())

    def require_of(self, model: TransformerBridge, unit: str) -> None:
        """Check that these texts were optimized for this unit of this model.

        Args:
            model: The bridge.
            unit: The unit's name.

        Raises:
            ValueError: If they were not.
        """
        if self.unit != unit:
            raise ValueError(f"these texts were optimized for {self.unit}, not for {unit}")
        if self.provenance.fingerprint != card.fingerprint(model):
            raise ValueError(
                f"these texts were optimized on {self.provenance.model}, whose weights are not "
                "those of this model: optimize them anew"
            )

    def to_frame(self) -> pd.DataFrame:
        """One row a text: the front, the best of each restart, random texts and the example."""
        front = pd.DataFrame(
            {
                "kind": "front",
                "text": self.texts,
                "activation": self.activation,
                "cross_entropy": self.cross_entropy,
                "quantile": self.quantile,
                "restart": self.found_in,
                "retokenises": self.retokenises,
            }
        )
        best = pd.DataFrame(
            {
                "kind": "best of restart",
                "text": self.best_texts,
                "activation": self.best_activation,
                "cross_entropy": self.best_cross_entropy,
                "quantile": self.best_quantile,
                "restart": np.arange(len(self.best_texts)),
            }
        )
        chance = pd.DataFrame(
            {
                "kind": "random",
                "activation": self.random_activation,
                "cross_entropy": self.random_cross_entropy,
                "quantile": self.random_quantile,
            }
        )
        rows = [front, best, chance]
        if self.start_text:
            start = {
                "kind": "start",
                "text": self.start_text,
                "activation": self.start_activation,
                "cross_entropy": self.start_cross_entropy,
                "quantile": self.start_quantile,
            }
            rows.append(pd.DataFrame([start]))
        frame = pd.concat(rows, ignore_index=True)
        frame["restart"] = frame["restart"].astype("Int64")
        frame["retokenises"] = frame["retokenises"].astype("boolean")
        return frame

    def figure(self) -> go.Figure:
        """Activation against cross-entropy: front, random texts, and the example if there is one.

        Returns:
            The figure; hovering over a point of the front shows its text.
        """
        figure = go.Figure(
            [
                go.Scatter(
                    x=self.random_cross_entropy,
                    y=self.random_activation,
                    name="random texts",
                    mode="markers",
                    marker={"color": _GREY, "size": 5, "opacity": 0.6},
                    hovertemplate="random text<br>%{y:.4g} at %{x:.3g} nats<extra></extra>",
                ),
                go.Scatter(
                    x=self.cross_entropy,
                    y=self.activation,
                    name="Pareto front",
                    mode="lines+markers",
                    # What is between two points of a front is not reached: it goes in steps.
                    line={"color": plots.COLOURS[0], "shape": "hv"},
                    customdata=self._hover(),
                    hovertemplate="%{customdata}<br>%{y:.4g} at %{x:.3g} nats<extra></extra>",
                ),
            ]
        )
        if self.start_text and np.isfinite(self.start_cross_entropy):
            figure.add_trace(
                go.Scatter(
                    x=[self.start_cross_entropy],
                    y=[self.start_activation],
                    name="start",
                    mode="markers",
                    marker={"color": plots.COLOURS[1], "size": 12, "symbol": "star"},
                    customdata=[plots.escape(self.start_text)],
                    hovertemplate="%{customdata}<br>%{y:.4g} at %{x:.3g} nats<extra></extra>",
                )
            )
        figure.update_layout(template=plots.TEMPLATE, showlegend=True)
        figure.update_xaxes(title="cross-entropy (nats a token), fluent to the left")
        figure.update_yaxes(title=f"activation of {self.unit} at the last token")
        return figure

    def _hover(self) -> list[str]:
        rows: list[str] = []
        for text, quantile, again in zip(self.texts, self.quantile, self.retokenises, strict=True):
            at = f"<br>quantile {quantile:.4f}" if np.isfinite(quantile) else ""
            odd = "" if again else "<br>reads back as other tokens"
            rows.append(f"{plots.escape(text)}{at}{odd}")
        return rows

    def summary(self) -> str:
        """The optimum, the most fluent text, chance, the corpus, and how far restarts agree."""
        name = {"epo": "Evolutionary prompt optimization", "gcg": "Greedy coordinate gradient"}
        most, least = ("highest", "max") if self.maximise else ("lowest", "min")
        extreme = self.random_activation.max() if self.maximise else self.random_activation.min()
        lines = [
            f"{name[self.method]} of {self.unit} of {self.provenance.model}, {self.length} tokens "
            f"a text: {most} activation {self.optimum:.4g} at {self.cross_entropy[-1]:.2f} nats a "
            f"token ({self.texts[-1]!r}).",
            f"{len(self.random_activation)} random texts of that length: mean "
            f"{self.random_activation.mean():.4g}, {least} {extreme:.4g}; the optimum is beyond "
            f"{self.beaten:.0%} of them.",
        ]
        if self.n_reference:
            lines.append(
                f"At the optimum, {self.quantile[-1]:.2%} of {self.n_reference:,} activations of "
                "the corpus are at most as large."
            )
        if self.start_text:
            fluent = (
                f" at {self.start_cross_entropy:.2f} nats a token"
                if np.isfinite(self.start_cross_entropy)
                else ""
            )
            lines.append(f"It started from {self.start_activation:.4g}{fluent}.")
        lines.append(
            f"The Pareto front has {len(self.texts)} texts; the most fluent one has "
            f"{self.activation[0]:.4g} at {self.cross_entropy[0]:.2f} nats a token "
            f"({self.texts[0]!r}). {int(self.retokenises.sum())} of them read back as the same "
            "tokens."
        )
        each = ", ".join(f"{value:.4g}" for value in self.best_activation)
        several = f"Best text of each of {len(self.best_texts)} restarts: {each}"
        lines.append(f"{several}. {self.n_evaluations:,} texts were measured.")
        return " ".join(lines)

    def script(self) -> str:
        """Python code that computes this result again; corpus and vectors must be at hand."""
        made = dict(self.provenance.parameters)
        # JSON has no tuples.
        made["penalties"] = tuple(made["penalties"])
        arguments = "".join(f"    {name}={made[name]!r},\n" for name in _SCRIPT_ARGUMENTS)
        arguments += "".join(f"    {name}={name},\n" for name in _AT_HAND if made[name] is not None)
        return (
            "from workbench import load_model\n"
            "from analyses.feature_visualization import text\n\n"
            f"model = load_model({self.provenance.model!r})\n"
            f"result = text.optimize_text(\n    model,\n    {made['unit']!r},\n{arguments})\n"
            "print(result.summary())\n"
        )
