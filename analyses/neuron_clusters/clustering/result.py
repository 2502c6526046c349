"""Clusters of units as a result: which, how sure, what they respond to and what they write."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float, Int

from analyses.neuron_clusters import maps
from analyses.neuron_clusters.clustering import stability as stabilities
from analyses.neuron_clusters.clustering.meaning import Meaning
from workbench.core import plots, results
from workbench.core.evidence import SURE

_SPOKEN, _NAMED = 6, 3
_HOW = {
    "coactivation": "squared correlations of their activations",
    "weights": "squared cosines of what they read and write with",
    "graph": "the weights that connect them",
    "function": "shares of their variance by frequency",
}


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """Units that are in no cluster.

    Attributes:
        reason: Why.
        count: How many.
    """

    reason: str
    count: int


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Units that belong together.

    Attributes:
        units: Their names.
        places: How many of them lie in each place.
        cohesion: Mean similarity within minus that with all others.
        cohesion_p: Of a cluster of shuffled data being as cohesive, the most cohesive of as many.
        meaning: What it responds to and writes.
    """

    units: tuple[str, ...]
    places: dict[str, int]
    cohesion: float
    cohesion_p: float
    meaning: Meaning

    @property
    def size(self) -> int:
        """How many units."""
        return len(self.units)

    def words(self) -> str:
        """What it is in a few words."""
        parts: list[str] = []
        for wave in self.meaning.wave:
            parts.append(
                f"frequency {wave.frequency} (explains {wave.explained:.0%} of its units' variance;"
                f" {wave.written_share:.0%} of what it writes is at {wave.written})"
            )
        if self.meaning.responds:
            told = [
                f"{one.what!r} ({one.count} of {one.examples}, elsewhere {one.share:.1%})"
                for one in self.meaning.responds[:_NAMED]
            ]
            parts.append("responds to " + ", ".join(told))
        raised = [one for one in self.meaning.writes if one.size > 0][:_NAMED]
        if raised:
            sure = [f" (p = {p:.2g} against random vectors)" for p in self.meaning.writes_p]
            parts.append("raises " + ", ".join(repr(o.what) for o in raised) + "".join(sure))
        return "; ".join(parts) or "nothing is known of what it does"


@dataclasses.dataclass(frozen=True)
class Clusters(results.Result):
    """Groups of units that were found without a concept.

    Attributes:
        method: "coactivation", "weights", "graph" or "function".
        inputs: What was read, in words; empty for weights alone.
        n_examples: How many examples of it.
        names: Every unit.
        places: What units lie at.
        place: Number of each unit's place.
        labels: Cluster of each unit, the largest is 0; -1 where it is left out.
        k: Number of clusters; 1 where there are none beyond chance.
        most_stable: The number that the rule picks, whether beyond chance or not.
        given: Whether the number was given instead of chosen.
        stability: Of each number that was tried.
        p_value: Of the largest stability against shuffled data, over all numbers.
        z: Stability of the number that the rule picks, in standard deviations of shuffled data.
        clusters: In the order of the labels.
        left_out: Why some units are in no cluster.
        ncut: Of a graph: normalised cut of the number that the rule picks.
        ncut_null: The same of each round of shuffled weights.
        ncut_z: Of a graph: in standard deviations of shuffled weights; negative where less is cut.
        ncut_p: Of a graph: of shuffled weights being cut as little.
        drawn: Units of which the similarity is kept, in the order of their clusters.
        similarity: Of these.
        resamples: Parts of the data that were clustered.
        shuffles: Rounds of the null.
        confidence: Of the intervals.
    """

    method: str
    inputs: str
    n_examples: int
    names: tuple[str, ...]
    places: tuple[str, ...]
    place: Int[np.ndarray, " unit"]
    labels: Int[np.ndarray, " unit"]
    k: int
    most_stable: int
    given: bool
    stability: tuple[stabilities.Stability, ...]
    p_value: float
    z: float
    clusters: tuple[Cluster, ...]
    left_out: tuple[LeftOut, ...]
    ncut: tuple[float, ...]
    ncut_null: Float[np.ndarray, " sample"]
    ncut_z: tuple[float, ...]
    ncut_p: tuple[float, ...]
    drawn: Int[np.ndarray, " row"]
    similarity: Float[np.ndarray, "row row"]
    resamples: int
    shuffles: int
    confidence: float

    @property
    def from_weights(self) -> bool:
        """Whether no activation was looked at to find them: may be places to localize in."""
        return self.method in ("weights", "graph")

    @property
    def found(self) -> bool:
        """Whether there are clusters beyond chance."""
        return self.p_value <= SURE and all(p <= SURE for p in self.ncut_p)

    def members(self, cluster: int) -> tuple[str, ...]:
        """Names of a cluster's units.

        Raises:
            ValueError: If there is no such cluster.
        """
        if not 0 <= cluster < len(self.clusters):
            raise ValueError(f"there are clusters 0 to {len(self.clusters) - 1}, not {cluster}")
        return self.clusters[cluster].units

    def to_frame(self) -> pd.DataFrame:
        """One row a unit: place and cluster."""
        return pd.DataFrame(
            {
                "unit": self.names,
                "place": [self.places[i] for i in self.place],
                "cluster": self.labels,
            }
        )

    def clusters_frame(self) -> pd.DataFrame:
        """One row a cluster: size, cohesion, where it lies and what it does."""
        return pd.DataFrame(
            [
                {
                    "cluster": number,
                    "size": one.size,
                    "cohesion": one.cohesion,
                    "cohesion p": one.cohesion_p,
                    "places": ", ".join(f"{name}: {n}" for name, n in one.places.items()),
                    "meaning": one.words(),
                }
                for number, one in enumerate(self.clusters)
            ]
        )

    def stability_frame(self) -> pd.DataFrame:
        """One row a number of clusters."""
        return pd.DataFrame([dataclasses.asdict(one) for one in self.stability])

    def figure(self) -> go.Figure:
        """Similarity of the units, sorted by cluster."""
        names = [plots.escape(self.names[i]) for i in self.drawn]
        own = self.labels[self.drawn]
        # A few pairs are nearly equal and would leave the others white.
        high = float(np.quantile(self.similarity, 0.99)) if self.similarity.size else 1.0
        figure = go.Figure(
            go.Heatmap(
                z=self.similarity,
                zmin=0.0,
                zmax=high or 1.0,
                colorscale=plots.SEQUENTIAL,
                colorbar={"title": {"text": "similarity", "side": "right"}, "thickness": 12},
                customdata=np.array([[f"{a} and {b}" for b in names] for a in names]),
                hovertemplate="%{customdata}<br>%{z:.3f}<extra></extra>",
            )
        )
        for edge in np.flatnonzero(np.diff(own)) + 0.5:
            line = {"color": plots.COLOURS[1], "width": 1}
            figure.add_hline(y=float(edge), line=line).add_vline(x=float(edge), line=line)
        middle = [float(np.flatnonzero(own == i).mean()) for i in np.unique(own)]
        ticks: dict[str, Any] = {"tickvals": middle, "ticktext": [str(i) for i in np.unique(own)]}
        figure.update_layout(template=plots.TEMPLATE, height=560)
        figure.update_xaxes(title=f"{len(self.drawn)} units by cluster", showgrid=False, **ticks)
        return figure.update_yaxes(title="cluster", showgrid=False, autorange="reversed", **ticks)

    def stability_figure(self) -> go.Figure:
        """How stable each number of clusters is, and shuffled data beside it."""
        k = np.array([one.k for one in self.stability])
        mean, low, high, null, null_high = (
            np.array([getattr(one, name) for one in self.stability])
            for name in ("mean", "low", "high", "null_mean", "null_high")
        )
        figure = plots.line(
            k,
            {"these units": mean, "shuffled": null},
            x_title="number of clusters",
            y_title="agreement of parts with all<br>(adjusted Rand index)",
            bands={"these units": np.stack([low, high]), "shuffled": np.stack([null, null_high])},
        )
        figure.update_traces(mode="lines+markers", selector={"mode": "lines", "fill": None})
        figure.add_vline(
            x=self.most_stable, line={"color": plots.COLOURS[2], "dash": "dot"}
        ).update_xaxes(dtick=1)
        return figure.update_layout(showlegend=True)

    def map_figure(self, *, selected: plots.Cell | None = None) -> go.Figure:
        """The network: a row a place, a square a unit, coloured by its cluster.

        Args:
            selected: Square to outline.

        Returns:
            The map; `layout` says which unit a square is.
        """
        return maps.cluster_map(self.layout, self.names, self.labels, selected=selected)

    @property
    def layout(self) -> maps.NetworkMap:
        """Where each unit stands on the map: those of one cluster side by side, none last."""
        order = np.where(self.labels < 0, np.nan, -self.labels.astype(np.float64))
        return maps.laid_out(self.places, self.place, order)

    def summary(self) -> str:
        """How many clusters, how sure, and what the largest are."""
        used = len(self.names) - sum(one.count for one in self.left_out)
        said = self.stability[[one.k for one in self.stability].index(self.most_stable)]
        read = self.n_examples and not self.from_weights
        over = f" over {self.n_examples:,} examples of {self.inputs}" if read else ""
        left = ", ".join(f"{one.count:,} {one.reason}" for one in self.left_out)
        lines = [
            f"{used:,} of {len(self.names):,} units of {self.provenance.model} were compared by "
            f"{_HOW[self.method]}{over}{f'; left out: {left}' if left else ''}.",
            self._number(said),
        ]
        if self.ncut:
            lines.append(
                f"The normalised cut is {self.ncut[0]:.3f}, with shuffled weights "
                f"{self.ncut_null.mean():.3f} on average: z = {self.ncut_z[0]:.1f}, "
                f"p = {self.ncut_p[0]:.2g} ({self.shuffles} shuffles)."
            )
        for number, one in enumerate(self.clusters[:_SPOKEN]) if self.k > 1 else ():
            where = ", ".join(f"{n} in {name}" for name, n in one.places.items())
            lines.append(
                f"Cluster {number}: {one.size} units ({where}), cohesion {one.cohesion:.3f} (p = "
                f"{one.cohesion_p:.2g}): {one.words()}."
            )
        if self.k > _SPOKEN:
            lines.append(f"{self.k - _SPOKEN} smaller clusters are in the table.")
        lines.append(
            "Caveat: stable means that a part of the same data gives the same clusters, and more "
            "so than data without any dependence; it does not mean that the model uses them as "
            "parts, which an ablation would have to show."
        )
        return " ".join(lines)

    def _number(self, said: stabilities.Stability) -> str:
        tried = [one.k for one in self.stability]
        stable = (
            f"{said.k} clusters agree between parts and all of the data with an adjusted Rand "
            f"index of {said.mean:.2f} ({self.confidence:.0%} interval {said.low:.2f} to "
            f"{said.high:.2f}, {self.resamples} resamples), shuffled data with "
            f"{said.null_mean:.2f} (z = {self.z:.1f}, p = {self.p_value:.2g} over all numbers "
            f"tried, {self.shuffles} rounds)"
        )
        if self.given:
            return f"The number was given: {stable}." + (
                "" if self.found else " That is no more than chance."
            )
        how = f"The number was chosen out of {min(tried)} to {max(tried)}: {stabilities.RULE}."
        if not self.found:
            return f"No clusters beyond chance. {how} {stable}."
        return f"{how} {stable}."
