"""What adding channels at a place, and elsewhere, did to a network.

Units and sign: measures as `measuring` has them; in contrasts, above 0 the place is better.

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
from jaxtyping import Float64, Int

from analyses.neuron_clusters.growth import comparing
from analyses.neuron_clusters.growth.measuring import MEASURES
from workbench.core import plots, results
from workbench.core.evidence import SURE

ELSEWHERE, SPREAD, NOWHERE = "the mean elsewhere", "spread evenly", "nowhere"
_COLOURS = {
    "place": plots.COLOURS[1],
    "elsewhere": plots.COLOURS[0],
    "spread": plots.COLOURS[3],
    "nowhere": plots.COLOURS[6],
}


@dataclasses.dataclass(frozen=True)
class Added:
    """Channels at one place.

    Attributes:
        place: Where.
        channels: How many more.
    """

    place: str
    channels: int


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to grow the network.

    Attributes:
        name: Of the place, or "spread evenly", or "nowhere".
        kind: "place", "elsewhere", "spread" or "nowhere".
        added: Channels, place by place.
        parameters: How many more.
        multiply_adds: How many more, of one input's forward pass.
    """

    name: str
    kind: str
    added: tuple[Added, ...]
    parameters: int
    multiply_adds: int


@dataclasses.dataclass(frozen=True)
class Growth(results.Result):
    """The advice experiment: channels added at a place, elsewhere, evenly and nowhere.

    Attributes:
        concept: Name of the concept.
        place: Where the advice says to add.
        n: Channels that were added there.
        metric: Which measure the experiment is about.
        measures: Names of all measures.
        variants: The place, the other places, evenly, nowhere.
        left_out: Other places at which no number of channels comes near enough in parameters.
        seeds: Of new weights and batches.
        before: Measures of the network as it was.
        values: Measures after fine-tuning.
        contrasts: The place against each other variant and against the mean of the other places.
        preserved: Largest change of a class score by any widening, before fine-tuning.
        parameters: Of the network as it was.
        multiply_adds: Of the network as it was.
        n_with: Held-out examples with the concept.
        n_without: Held-out examples without it.
        n_train: Training examples.
        steps: Of fine-tuning.
        confidence: Of the intervals.
    """

    concept: str
    place: str
    n: int
    metric: str
    measures: tuple[str, ...]
    variants: tuple[Variant, ...]
    left_out: tuple[str, ...]
    seeds: Int[np.ndarray, " seed"]
    before: Float64[np.ndarray, " measure"]
    values: Float64[np.ndarray, "seed variant measure"]
    contrasts: tuple[comparing.Contrast, ...]
    preserved: float
    parameters: int
    multiply_adds: int
    n_with: int
    n_without: int
    n_train: int
    steps: int
    confidence: float

    @property
    def rest_metric(self) -> str:
        """What is measured on the examples without the concept."""
        return MEASURES[self.metric].rest

    @property
    def primary(self) -> comparing.Contrast:
        """The place against the mean of the other places, by the metric."""
        return self.against(ELSEWHERE)

    @property
    def rest(self) -> comparing.Contrast:
        """The same by what is measured on the examples without the concept."""
        return self.against(ELSEWHERE, self.rest_metric)

    @property
    def verdict(self) -> comparing.Verdict:
        """One of "add here", "it makes no difference", "elsewhere is better"."""
        return comparing.verdict(self.primary, self.rest, self.against(NOWHERE))

    @property
    def rank(self) -> int:
        """How many places are as good as this one or better by the mean metric, itself counted."""
        own = [i for i, v in enumerate(self.variants) if v.kind in ("place", "elsewhere")]
        means = MEASURES[self.metric].sign * self.of(self.metric).mean(0)[own]
        return int((means >= means[0]).sum())

    def of(self, measure: str) -> Float64[np.ndarray, "seed variant"]:
        """One measure of every variant and seed."""
        return self.values[:, :, self.measures.index(measure)]

    def against(self, variant: str, measure: str | None = None) -> comparing.Contrast:
        """The place against another variant.

        Args:
            variant: Its name, or "the mean elsewhere".
            measure: By which measure; by the metric if not given.

        Returns:
            The comparison.

        Raises:
            ValueError: If there is none.
        """
        wanted = measure or self.metric
        for each in self.contrasts:
            if (each.against, each.measure) == (variant, wanted):
                return each
        known = ", ".join(dict.fromkeys(each.against for each in self.contrasts))
        raise ValueError(
            f"{self.place} was not compared with {variant!r} by {wanted!r}: it was with {known}, "
            f"by {self.metric} and {self.rest_metric}"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a variant and seed: what was added, and every measure afterwards."""
        rows: list[dict[str, Any]] = []
        for v, variant in enumerate(self.variants):
            for s, seed in enumerate(self.seeds):
                measured = zip(self.measures, self.values[s, v].tolist(), strict=True)
                rows.append(
                    {
                        "variant": variant.name,
                        "kind": variant.kind,
                        "channels": sum(each.channels for each in variant.added),
                        "parameters added": variant.parameters,
                        "multiply-adds added": variant.multiply_adds,
                        "seed": int(seed),
                        **dict(measured),
                    }
                )
        return pd.DataFrame(rows)

    def figure(self) -> go.Figure:
        """What growing did compared with not growing, concept and rest side by side."""
        names = (self.metric, self.rest_metric)
        figure = plotly.subplots.make_subplots(
            rows=1,
            cols=2,
            shared_yaxes=True,
            horizontal_spacing=0.06,
            subplot_titles=["with the concept", "the rest"],
        )
        grown = [variant for variant in self.variants if variant.kind != "nowhere"]
        for column, name in enumerate(names, start=1):
            changes = self.of(name) - self.of(name)[:, [len(grown)]]
            for row, variant in enumerate(grown):
                self._draw(figure, column, name, variant, changes[:, row])
            figure.add_vline(
                0,
                line={"color": plots.COLOURS[-1], "dash": "dot", "width": 1},
                col=column,  # pyright: ignore[reportArgumentType]
            )
            measure = MEASURES[name]
            better = "larger is better" if measure.sign > 0 else "smaller is better"
            figure.update_xaxes(
                title=f"change of {name.replace('_', ' ')} ({measure.unit})<br>{better}",
                exponentformat="none",
                col=column,
            )
        figure.update_layout(
            template=plots.TEMPLATE, showlegend=False, height=180 + 34 * len(grown)
        )
        figure.update_yaxes(autorange="reversed")
        title = "added at<br>(dotted: fine-tuned without adding)"
        return figure.update_yaxes(title=title, col=1)

    def _draw(
        self,
        figure: go.Figure,
        column: int,
        name: str,
        variant: Variant,
        changes: Float64[np.ndarray, " seed"],
    ) -> None:
        colour, label = _COLOURS[variant.kind], plots.escape(variant.name)
        channels = sum(each.channels for each in variant.added)
        figure.add_scatter(
            x=changes,
            y=[label] * len(changes),
            mode="markers",
            marker={"color": colour, "size": 5, "opacity": 0.4},
            customdata=self.seeds,
            hovertemplate=f"{label}<br>seed %{{customdata}}: %{{x:.4g}}<extra></extra>",
            row=1,
            col=column,
        )
        made = comparing.contrast(NOWHERE, name, changes, confidence=self.confidence)
        reach = 0.0 if math.isnan(made.interval[0]) else made.interval[1] - made.mean
        figure.add_scatter(
            x=[made.mean],
            y=[label],
            mode="markers",
            marker={"color": colour, "size": 11, "symbol": "diamond"},
            error_x={"type": "data", "array": [reach], "color": colour},
            hovertemplate=f"{label}: {channels} channels, {variant.parameters:,} parameters<br>"
            f"mean %{{x:.4g}}, {self.confidence:.0%} interval {made.interval[0]:.4g} to "
            f"{made.interval[1]:.4g}<extra></extra>",
            row=1,
            col=column,
        )

    def summary(self) -> str:
        """What was found, with intervals, what could have been found, and the price."""
        return " ".join(
            [
                self._finding(),
                self._whether(),
                self._sureness(),
                self._beside(),
                self._price(),
                self._limits(),
            ]
        )

    def _finding(self) -> str:
        others = [each for each in self.variants if each.kind == "elsewhere"]
        mean = self.of(self.metric).mean(0)
        own = self.variants[0].parameters
        low, high = (f(v.parameters for v in others) for f in (min, max))
        unit = MEASURES[self.metric].unit
        return (
            f"{self.verdict[0].upper()}{self.verdict[1:]}: {self.n} more channels at {self.place} "
            f"of {self.provenance.model} ({own:,} parameters), fine-tuned for {self.steps:,} "
            f"steps, give a {MEASURES[self.metric].words} ({self.concept}, {self.n_with:,} "
            f"held-out examples) of {mean[0]:.4g} {unit}; as nearly as many parameters at "
            f"{len(others)} other {'place' if len(others) == 1 else 'places'} ({low:,} to "
            f"{high:,}) give {mean[1 : 1 + len(others)].mean():.4g} on average. Before, it was "
            f"{self.before[self.measures.index(self.metric)]:.4g}. {self.place} is "
            f"{_told(self.primary, unit, self.confidence, 'that average')}, over "
            f"{len(self.seeds)} paired {'seed' if len(self.seeds) == 1 else 'seeds'}."
        )

    def _whether(self) -> str:
        """Whether adding helps at all: a place may beat others that do harm."""
        nowhere = self.against(NOWHERE)
        spread = np.ptp(self.of(self.metric).mean(0))
        told = (
            f"The means of all {len(self.variants)} variants, the one without any addition "
            f"included, lie within {spread:.2g} {MEASURES[self.metric].unit}."
        )
        if nowhere.mean > 0 and nowhere.p_value < SURE:
            return told
        return (
            f"Adding at {self.place} was not shown to be better than adding nothing "
            f"(p = {nowhere.p_value:.2g}), without which nothing says to add there. {told}"
        )

    def _sureness(self) -> str:
        if len(self.seeds) < comparing.FEWEST_SEEDS:
            return (
                f"With {len(self.seeds)} seeds no p-value can be below {2 ** (1 - len(self.seeds))}"
                f", so no difference could have been found: at least {comparing.FEWEST_SEEDS} "
                "seeds are needed."
            )
        return (
            f"A mean difference of {self.primary.detectable:.2g} {MEASURES[self.metric].unit} "
            "would have been found in 80 % of such experiments."
        )

    def _beside(self) -> str:
        unit, places = MEASURES[self.metric].unit, 1 + len(self._elsewhere)
        even, nowhere = (
            _told(self.against(name), unit, self.confidence, than)
            for name, than in (
                (SPREAD, "as many parameters spread evenly"),
                (NOWHERE, "the same fine-tuning without any addition"),
            )
        )
        return (
            f"By its mean it is number {self.rank} of the {places} places. Beside the decision, "
            f"with p-values that are not corrected: it is {even}, and {nowhere}."
        )

    def _price(self) -> str:
        unit = MEASURES[self.rest_metric].unit
        told = _told(self.rest, unit, self.confidence, "the mean elsewhere")
        sentence = f"On the {self.n_without:,} examples without the concept it is {told}."
        if self.primary.mean > 0 and self.primary.p_value < SURE:
            if comparing.harmed(self.rest):
                sentence += " The concept gains at the cost of the rest: no reason to add here."
            else:
                sentence += " No harm to the rest was found."
        return sentence

    def _limits(self) -> str:
        added = [v.multiply_adds for v in self.variants if v.kind != "nowhere"]
        left = f" Left out: {', '.join(self.left_out)}." if self.left_out else ""
        return (
            f"Equal parameters are not equal work: multiply-adds rise by {min(added):,} to "
            f"{max(added):,}, from {self.multiply_adds:,}.{left} Seeds are of new weights and "
            "batches around one trained network; this says nothing of training from scratch."
        )

    @property
    def _elsewhere(self) -> list[str]:
        return [variant.name for variant in self.variants if variant.kind == "elsewhere"]


def _told(contrast: comparing.Contrast, unit: str, confidence: float, than: str) -> str:
    low, high = contrast.interval
    direction = "better" if contrast.mean >= 0 else "worse"
    interval = (
        ""
        if math.isnan(low)
        else f"advantage {contrast.mean:+.2g}, {confidence:.0%} interval {low:+.2g} to "
        f"{high:+.2g}, "
    )
    return (
        f"{direction} by {abs(contrast.mean):.2g} {unit} than {than} ({interval}p = "
        f"{contrast.p_value:.2g})"
    )
