"""A drawn graph whose edges can be clicked.

1. The figure's last trace has one marker an edge, with the edge's index as custom data
   (`workbench.core.plots.layered_graph`); Streamlit reports a click on one as a selection.
2. A click calls back before the page is drawn again, so that the page can put the edge wherever it
   keeps what is chosen: nothing is remembered here.
3. Clicks beside the edges, and the second click that takes a selection back, change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import plotly.graph_objects as go
import streamlit as st

from workbench.core import plots
from workbench.ui import showing

_PAPER = {"light": "#ffffff", "dark": "#12161c"}
# Thin lines of the two colours of effects, where they lie on a dark page.
_ON_DARK = {plots.COLOURS[0]: "#6aaee6", plots.COLOURS[1]: "#f0837c"}


def clickable(figure: go.Figure, *, key: str, on_click: Callable[[int], None]) -> None:
    """Show a graph and tell when one of its edges is clicked.

    Args:
        figure: Made by `plots.layered_graph`.
        key: Name of the widget on its page.
        on_click: Given the index of the edge, before the page is drawn again.
    """

    def tell() -> None:
        edge = clicked_edge(st.session_state.get(key))
        if edge is not None:
            on_click(edge)

    showing.figure(readable(figure, st.context.theme.type), key=key, on_click=tell)


def readable(figure: go.Figure, theme: str | None) -> go.Figure:
    """Copy a graph so that edges and the names of nodes can be read on a page.

    Args:
        figure: Made by `plots.layered_graph`.
        theme: "light" or "dark"; None reads as light.

    Returns:
        A copy; the figure handed in stays as it is.
    """
    dark = theme == "dark"
    shown = go.Figure(figure)
    # Edges run beneath the names of nodes: a halo in the page's own colour keeps these apart.
    halo = ", ".join([f"0 0 3px {_PAPER['dark' if dark else 'light']}"] * 4)
    shown.update_traces(textfont={"shadow": halo}, selector={"mode": "markers+text"})
    if dark:
        shown.for_each_trace(
            lambda trace: trace.update(line={"color": _ON_DARK[trace.line.color]}),
            selector=lambda trace: trace.mode == "lines" and trace.line.color in _ON_DARK,
        )
    return shown


def clicked_edge(event: Mapping[str, Any] | None) -> int | None:
    """The edge that a selection is about.

    Args:
        event: What Streamlit keeps for the chart.

    Returns:
        Its index, or None where nothing or something else was clicked.
    """
    if not event:
        return None
    points = cast("list[dict[str, Any]]", event["selection"]["points"])
    marked = points[0].get("customdata") if points else None
    # Plotly gives a number, or a list of it, depending on how the figure was serialised.
    first = marked[0] if isinstance(marked, list) and marked else marked
    return int(first) if isinstance(first, int | float) else None
