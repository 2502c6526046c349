"""Pictures of distributions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int

from analyses.activations import outliers
from workbench.core import plots

if TYPE_CHECKING:
    from analyses.activations.over_corpus import ActivationDistribution

# Coordinates that are drawn one by one; beyond, the largest ones.
_POINTS = 5000


def histogram(
    edges: Float[np.ndarray, " end"], counts: Int[np.ndarray, " cell"], *, title: str
) -> go.Figure:
    """Counts in cells, on a logarithmic scale: rare large numbers are what one looks for.

    Args:
        edges: Of the cells.
        counts: In each of them.
        title: What is counted.

    Returns:
        The figure.
    """
    figure = go.Figure(
        go.Bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=counts,
            width=np.diff(edges),
            marker={"color": plots.COLOURS[0]},
            customdata=np.stack([edges[:-1], edges[1:]], axis=1),
            hovertemplate="%{customdata[0]:.4g} to %{customdata[1]:.4g}<br>%{y:,}<extra></extra>",
        )
    )
    figure.update_layout(template=plots.TEMPLATE, bargap=0, height=320)
    figure.update_xaxes(title=plots.escape(title))
    figure.update_yaxes(title="numbers", type="log", **plots.POWERS_OF_TEN)
    return figure


def sizes(found: ActivationDistribution) -> go.Figure:
    """Root mean square of each coordinate, and what random directions reach."""
    out = found.outliers
    chosen = np.argsort(-np.nan_to_num(out.rms), kind="stable")[:_POINTS]
    marked = set(out.found.tolist())
    colours = [plots.COLOURS[1] if int(one) in marked else plots.COLOURS[0] for one in chosen]
    labels = [plots.escape(found.layout.label(int(one))) for one in chosen]
    figure = go.Figure(
        plots.scatter(len(chosen))(
            x=chosen,
            y=out.rms[chosen],
            mode="markers",
            showlegend=False,
            marker={"size": 6, "color": colours},
            customdata=labels,
            hovertemplate="%{customdata}<br>%{y:.4g}<extra></extra>",
        )
    )
    live = out.rms[np.isfinite(out.rms) & (out.rms > 0)]
    distances = out.distance[np.isfinite(out.distance)]
    if len(live) and len(out.null) and len(distances) > 1 and np.ptp(distances) > 0:
        # Distance is linear in the logarithm, so two coordinates give the scale back.
        logs = np.log(out.rms[np.isfinite(out.distance)])
        step, start = np.polyfit(distances, logs, 1)
        reach = float(np.quantile(out.null, 0.95))
        ends = [int(chosen.min()), int(chosen.max())]
        for value, text, colour in (
            (reach, "furthest random direction, 95 % of rounds", plots.COLOURS[-1]),
            (outliers.BEYOND, f"{outliers.BEYOND:g} robust deviations", plots.COLOURS[1]),
        ):
            figure.add_scatter(
                x=ends,
                y=[float(np.exp(start + step * value))] * 2,
                mode="lines",
                name=text,
                line={"dash": "dot", "color": colour},
                hoverinfo="skip",
            )
    figure.update_layout(template=plots.TEMPLATE, height=340)
    figure.update_xaxes(title="coordinate")
    figure.update_yaxes(title="root mean square", type="log", **plots.POWERS_OF_TEN)
    return figure
