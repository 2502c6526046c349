"""How shares of a logit look: a waterfall, stacked heads, neurons, parts over positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from analyses.direct_attribution import parts as naming
from workbench.core import plots

if TYPE_CHECKING:
    from analyses.direct_attribution.result import DirectAttribution, Grid

# Parts that are drawn by themselves; what is left is one bar.
SHOWN = 20
ORDERS = ("layers", "size")
_UP, _DOWN = plots.COLOURS[0], plots.COLOURS[1]
_GREY = plots.COLOURS[-1]
# What is taken together recedes behind the heads, which have the other colours.
_REST = "#c3c8cf"
_HEAD_COLOURS = len(plots.COLOURS) - 1
# A head is named on its bar if it takes up this share of the tallest stack.
_ROOM_FOR_NAME = 0.06


def waterfall(found: DirectAttribution, *, shown: int = SHOWN, order: str = "layers") -> go.Figure:
    """Draw how the largest parts, and all others together, sum to the logit.

    Args:
        found: The shares.
        shown: How many parts have a bar of their own.
        order: "layers" as the model computes them, or "size", the largest first.

    Returns:
        The figure; its last bar is the logit (before a soft cap).

    Raises:
        ValueError: If the order is unknown.
    """
    if order not in ORDERS:
        raise ValueError(f"order = {order!r}; expected one of {', '.join(ORDERS)}")
    top = found.largest[:shown]
    listed = [name for name in found.names if name in top] if order == "layers" else list(top)
    values = [found.share(name) for name in listed]
    n_rest = len(found.names) - len(listed)
    if n_rest:
        listed.append(f"{n_rest} others")
        values.append(float(found.here.sum(dtype=np.float64)) - sum(values))
    end = "logit" if len(found.answers) == 1 else "logit difference"
    figure = go.Figure(
        go.Waterfall(
            x=[*listed, end],
            y=[*values, 0.0],
            measure=["relative"] * len(listed) + ["total"],
            increasing={"marker": {"color": _UP}},
            decreasing={"marker": {"color": _DOWN}},
            totals={"marker": {"color": _GREY}},
            connector={"line": {"color": "rgba(128, 128, 128, 0.5)", "width": 1}},
            customdata=[f"{value:+.4g}" for value in values]
            + [f"{found.before_cap[found.position]:.4g}"],
            hovertemplate="%{x}<br><b>%{customdata}</b><extra></extra>",
        )
    )
    figure.update_layout(template=plots.TEMPLATE, showlegend=False, height=380)
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(title="sum of the shares so far", zeroline=True)
    return figure


def head_bars(found: DirectAttribution, *, shown: int = 2 * SHOWN) -> go.Figure:
    """Draw the shares of each layer's heads, stacked up where positive and down where negative.

    Args:
        found: The shares.
        shown: How many heads, the largest, have a bar of their own; a layer's others are two grey
            ones, what raises the logit and what lowers it.

    Returns:
        The figure; its last trace is the sum over each layer's heads.
    """
    table = _by_head(found)
    layers = np.arange(table.shape[1])
    least = np.sort(np.abs(table), axis=None)[::-1][:shown].min(initial=np.inf)
    own = np.abs(table) >= least
    tallest = float(max(table.clip(min=0).sum(0).max(), -table.clip(max=0).sum(0).min()))
    figure = go.Figure()
    for head in np.flatnonzero(own.any(1)):
        values = np.where(own[head], table[head], 0.0)
        names = [f"h{head}" if abs(one) > _ROOM_FOR_NAME * tallest else "" for one in values]
        bars = _stacked(values, plots.COLOURS[head % _HEAD_COLOURS], names)
        bars.update(
            customdata=[f"a{layer}.h{head}" for layer in layers],
            hovertemplate="%{customdata}<br><b>%{y:+.4g}</b><extra></extra>",
        )
        figure.add_trace(bars)
    if not own.all():
        rest = np.where(own, 0.0, table)
        for values in (rest.clip(min=0).sum(0), rest.clip(max=0).sum(0)):
            bars = _stacked(values, _REST, [""] * len(layers))
            bars.update(
                hovertemplate="other heads of layer %{x}<br><b>%{y:+.4g}</b><extra></extra>"
            )
            figure.add_trace(bars)
    sums = go.Scatter(
        x=layers,
        y=table.sum(0),
        mode="markers",
        # Dark within light, so that it shows on every bar and on every page.
        marker={
            "symbol": "diamond",
            "size": 9,
            "color": "#111111",
            "line": {"width": 2, "color": "#ffffff"},
        },
        hovertemplate="all heads of layer %{x}<br><b>%{y:+.4g}</b><extra></extra>",
    )
    figure.add_trace(sums)
    figure.update_layout(
        template=plots.TEMPLATE, barmode="relative", showlegend=False, height=360, bargap=0.25
    )
    figure.update_xaxes(
        title="layer",
        dtick=max(1, len(layers) // 24),
        range=[-0.6, len(layers) - 0.4],
        showgrid=False,
    )
    figure.update_yaxes(title=_unit(found), zeroline=True)
    return figure


def _by_head(found: DirectAttribution) -> Float[np.ndarray, "head layer"]:
    """Share of each head at the position that was asked about."""
    shares = {
        (naming.head_of(name), naming.layer_of(name)): float(share)
        for name, share in zip(found.names, found.here, strict=True)
        if naming.head_of(name) is not None
    }
    layers, heads, _ = found.by_source.shape
    return np.array([[shares[head, layer] for layer in range(layers)] for head in range(heads)])


def _stacked(values: Float[np.ndarray, " layer"], colour: str, names: list[str]) -> go.Bar:
    return go.Bar(
        x=list(range(len(values))),
        y=values,
        marker={"color": colour, "line": {"color": "#ffffff", "width": 0.5}},
        text=names,
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
    )


def neuron_bars(found: DirectAttribution, *, shown: int = SHOWN) -> go.Figure:
    """Draw the neurons with the largest shares at the position that was asked about."""
    top = list(found.neurons().items())[:shown]
    figure = plots.bars(
        np.array([share for _, share in top], dtype=np.float64),
        labels=[name.removeprefix("neuron ") for name, _ in top],
        value_title=_unit(found),
        label_title="neuron (layer.number)",
    )
    colours = [_UP if share >= 0 else _DOWN for _, share in top]
    return figure.update_traces(marker={"color": colours}).update_layout(height=320)


def positions(
    found: DirectAttribution, grid: Grid, *, selected: plots.Cell | None = None
) -> go.Figure:
    """Draw parts over positions, every cell clickable.

    Args:
        found: The shares.
        grid: What of them; see `DirectAttribution.grid`.
        selected: Row and column of a cell to outline.

    Returns:
        The figure.
    """
    return _grid(found, grid, "part", "position", selected)


def sources(
    found: DirectAttribution, grid: Grid, *, selected: plots.Cell | None = None
) -> go.Figure:
    """Draw heads over the positions that they bring their share from, every cell clickable.

    Args:
        found: The shares.
        grid: What of them; see `DirectAttribution.sources`.
        selected: Row and column of a cell to outline.

    Returns:
        The figure.
    """
    return _grid(found, grid, "head", "position that the share is brought from", selected)


def _grid(
    found: DirectAttribution,
    grid: Grid,
    row_title: str,
    column_title: str,
    selected: plots.Cell | None,
) -> go.Figure:
    labels = plots.token_labels(found.tokens)
    return plots.heatmap(
        grid.values,
        row_labels=list(grid.rows),
        column_labels=[labels[i] for i in grid.columns],
        row_title=row_title,
        column_title=column_title,
        colour_title=_unit(found),
        selected=selected,
    )


def _unit(found: DirectAttribution) -> str:
    return f"share of the {'logit' if len(found.answers) == 1 else 'logit difference'}"
