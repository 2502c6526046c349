"""Routes as a picture: tokens left to right, states of the stream upward.

1. Every state of the stream at a position is a place. What is carried over runs straight up, what a
   head moved from the position that it came from, what the MLP wrote beside the stream.
2. Edges of one kind and width share a trace, so that a browser draws some dozens of traces and not
   thousands of lines; with many edges WebGL draws them.
3. Each edge and each node has one marker in the last trace, which is what a click reports.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int

from analyses.contributions import naming
from workbench.core import plots

# Kinds as they are drawn, with their colour; an edge with a negative share has the last one.
STYLES = {
    "carried over": "#8a9099",
    "bias": plots.COLOURS[4],
    "MLP": plots.COLOURS[2],
    "head": plots.COLOURS[0],
    "negative share": plots.COLOURS[1],
}
_WIDTHS = 6
_CURVE_POINTS = 11
# Where along its line an edge has its marker: heads of one pair of positions take turns.
_MARKED = (6, 7, 5, 8, 4)
# Columns that stay empty on either side of what the routes touch.
_MARGIN = 1
_MOST_TICKS = 40
_ROW, _LEAST, _MOST, _FRAME = 44, 340, 1200, 130
# Sideways steps of edges that would lie on others: heads of one pair of positions, MLPs, biases.
_FAN, _BESIDE = 0.10, 0.24
_SELECTED = ("#ffffff", "#111111")


def draw(
    edges: Sequence[naming.Edge],
    shares: Float[np.ndarray, " edge"],
    steps: Int[np.ndarray, " edge"],
    nodes: Sequence[naming.Node],
    *,
    layout: naming.Layout,
    tokens: Sequence[str],
    selected: naming.Edge | naming.Node | None = None,
) -> go.Figure:
    """Draw routes.

    Args:
        edges: What to draw.
        shares: Width of each edge; its sign is in the colour.
        steps: Step of each edge.
        nodes: States that the edges join.
        layout: The steps of the model.
        tokens: Of the prompt, up to the target.
        selected: Edge or node to mark.

    Returns:
        The figure; its last trace has a marker for each edge and then for each node, with their
        index, edges first, as custom data.
    """
    places = np.array([(node.position, layout.state(node)) for node in nodes], dtype=float)
    kind = plots.scatter(len(edges))
    scene = _Scene(edges, shares, nodes, tokens, _curves(edges, steps), places, kind)
    figure = go.Figure(scene.lines())
    if selected is not None:
        figure.add_traces(scene.mark(selected))
    figure.add_trace(scene.markers())
    _lay_out(figure, places, layout, tokens)
    return figure


def style(edge: naming.Edge, share: float) -> str:
    """The kind that an edge is drawn as: a key of `STYLES`.

    Args:
        edge: The edge.
        share: Its share.

    Returns:
        The key.
    """
    if share < 0:
        return "negative share"
    if edge.kind in naming.CARRIED:
        return "carried over"
    if edge.kind in naming.BIASES:
        return "bias"
    return "MLP" if edge.kind == naming.MLP else "head"


def _curves(edges: Sequence[naming.Edge], steps: np.ndarray) -> Float[np.ndarray, "edge point 2"]:
    """Points along each edge, upwards, bent so that it lies on no other."""
    t = np.linspace(0, 1, _CURVE_POINTS)[:, None]
    many: dict[tuple[int, int, int], int] = {}
    curves = np.zeros((len(edges), _CURVE_POINTS, 2))
    for i, (edge, step) in enumerate(zip(edges, steps, strict=True)):
        start = np.array([edge.source, float(step)])
        end = np.array([edge.target, step + 1.0])
        bend = 0.0
        if edge.kind == naming.HEAD:
            pair = (int(step), edge.source, edge.target)
            nth = many[pair] = many.get(pair, -1) + 1
            # Those that stay at their position keep off the line of what is carried over.
            bend = _FAN * nth if edge.source != edge.target else -_BESIDE - _FAN * nth
        elif edge.kind == naming.MLP:
            bend = _BESIDE
        elif edge.kind in naming.BIASES:
            # A bias comes from nowhere: a stub from the side.
            start = end + np.array([0.28, -0.45])
        middle = (start + end) / 2 + np.array([2 * bend, 0.0])
        curves[i] = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
    return curves


@dataclasses.dataclass(frozen=True, eq=False)
class _Scene:
    """What is drawn, and where."""

    edges: Sequence[naming.Edge]
    shares: Float[np.ndarray, " edge"]
    nodes: Sequence[naming.Node]
    tokens: Sequence[str]
    curves: Float[np.ndarray, "edge point 2"]
    places: Float[np.ndarray, "node 2"]
    kind: Any

    def styles(self) -> list[str]:
        """The kind that each edge is drawn as."""
        pairs = zip(self.edges, self.shares.tolist(), strict=True)
        return [style(edge, share) for edge, share in pairs]

    def lines(self) -> list[Any]:
        """A trace for each style and width of edges."""
        widths = np.ceil(np.abs(self.shares) * _WIDTHS).clip(1, _WIDTHS)
        styles = np.array(self.styles())
        gap = np.full((1, 2), np.nan)
        traces: list[Any] = []
        for name, colour in STYLES.items():
            shown = False
            for width in range(1, _WIDTHS + 1):
                chosen = np.flatnonzero((styles == name) & (widths == width))
                if not chosen.size:
                    continue
                points = np.concatenate([np.concatenate([self.curves[i], gap]) for i in chosen])
                traces.append(
                    self.kind(
                        x=points[:, 0],
                        y=points[:, 1],
                        mode="lines",
                        line={"color": colour, "width": 1 + 0.8 * width},
                        opacity=0.35 + 0.6 * width / _WIDTHS,
                        name=name,
                        legendgroup=name,
                        showlegend=not shown,
                        hoverinfo="skip",
                    )
                )
                shown = True
        return traces

    def mark(self, selected: naming.Edge | naming.Node) -> list[Any]:
        """An edge or node drawn twice, dark within light, so that it shows on every colour."""
        if isinstance(selected, naming.Edge) and selected in self.edges:
            found = self.curves[list(self.edges).index(selected)]
        elif isinstance(selected, naming.Node) and selected in self.nodes:
            found = self.places[[list(self.nodes).index(selected)]]
        else:
            return []
        return [
            go.Scatter(
                x=found[:, 0],
                y=found[:, 1],
                mode="lines" if len(found) > 1 else "markers",
                line={"color": colour, "width": 8 if wide else 4},
                marker={"color": colour, "size": 20 if wide else 16},
                hoverinfo="skip",
                showlegend=False,
            )
            for colour, wide in zip(_SELECTED, (True, False), strict=True)
        ]

    def markers(self) -> Any:
        """A marker on each edge and on each node."""
        edges, nodes, tokens = self.edges, self.nodes, self.tokens
        turns = [edge.head % len(_MARKED) if edge.kind == naming.HEAD else 0 for edge in edges]
        marked = np.array(_MARKED)[np.array(turns, dtype=int)]
        at = np.concatenate([self.curves[np.arange(len(edges)), marked], self.places])
        pairs = zip(edges, self.shares.tolist(), strict=True)
        texts = [f"{_told(edge, tokens)}<br><b>{_number(edge, share)}</b>" for edge, share in pairs]
        told = [f"{node}<br>{_token(tokens, node.position)}" for node in nodes]
        return self.kind(
            x=at[:, 0],
            y=at[:, 1],
            mode="markers",
            marker={
                "size": [7] * len(edges) + [10] * len(nodes),
                "color": [*(STYLES[name] for name in self.styles()), *["#5b6470"] * len(nodes)],
                "symbol": ["circle"] * len(edges) + ["square"] * len(nodes),
                "line": {"color": "#ffffff", "width": 1},
            },
            # What is clicked is marked by a line of its own: the others do not fade.
            selected={"marker": {"opacity": 1}},
            unselected={"marker": {"opacity": 1}},
            customdata=list(range(len(edges) + len(nodes))),
            text=[*texts, *told],
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
        )


def _told(edge: naming.Edge, tokens: Sequence[str]) -> str:
    if edge.kind == naming.HEAD:
        seen, at = _token(tokens, edge.source), _token(tokens, edge.target)
        return f"head {edge.layer}.{edge.head}: {seen} → {at}"
    return f"{edge.kind} {edge.layer}: {_token(tokens, edge.target)}"


def _number(edge: naming.Edge, share: float) -> str:
    # By the measure that shares out the update, what is carried over has none.
    return "no part of the update" if edge.kind in naming.CARRIED and not share else f"{share:.4g}"


def _token(tokens: Sequence[str], position: int) -> str:
    return f"{position} {plots.escape(plots.visible(tokens[position]))}"


def _lay_out(
    figure: go.Figure, places: np.ndarray, layout: naming.Layout, tokens: Sequence[str]
) -> None:
    low = max(0, int(places[:, 0].min()) - _MARGIN)
    high = min(len(tokens) - 1, int(places[:, 0].max()) + _MARGIN)
    rows = ["input", *(f"{adds} {i}" for adds, i in zip(layout.adds, layout.layers, strict=True))]
    height = float(np.clip(_FRAME + _ROW * len(rows), _LEAST, _MOST))
    figure.update_layout(
        template=plots.TEMPLATE, height=height, hovermode="closest", dragmode=False
    )
    # The last row first, then every so many down from it, where all would not fit.
    every = -(-len(rows) // _MOST_TICKS)
    ups = list(range(len(rows) - 1, -1, -every))
    overs = list(range(low, high + 1, -(-(high + 1 - low) // _MOST_TICKS)))
    labels = plots.token_labels(tokens)
    figure.update_xaxes(
        range=[low - 0.7, high + 0.7],
        title="position and token",
        tickmode="array",
        tickvals=overs,
        ticktext=[labels[i] for i in overs],
        showgrid=False,
        zeroline=False,
    )
    figure.update_yaxes(
        range=[-0.5, len(rows) - 0.3],
        title="the stream after",
        tickmode="array",
        tickvals=ups,
        ticktext=[rows[i] for i in ups],
        zeroline=False,
    )
