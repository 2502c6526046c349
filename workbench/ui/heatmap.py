"""A heat map whose cells can be clicked, with the chosen cell in the page's address.

1. The figure carries an invisible marker a cell (`workbench.core.plots`); Streamlit reports a click
   on one as a selection.
2. The click is read before the figure is drawn, so the outline is on the new cell at once.
3. A second click on a cell deselects it in plotly: the last cell is remembered, and stays.
4. With `query`, the cell is written to the address as `row.column`, and read from there when the
   page opens. What is not a cell of this grid is said, and no cell is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from workbench.core import plots
from workbench.ui import addresses, showing


def clickable(
    values: np.ndarray, *, key: str, query: str | None = None, **arguments: Any
) -> plots.Cell | None:
    """Show a heat map and tell which cell is chosen.

    Args:
        values: The grid, as for `plots.heatmap`.
        key: Name of the widget on its page.
        query: Name of the cell in the page's address, if it is to stand there.
        **arguments: The other arguments of `plots.heatmap`, without `selected`.

    Returns:
        The chosen (row, column), or None where none was chosen yet.
    """
    rows, columns = values.shape
    return clickable_figure(
        lambda cell: plots.heatmap(values, selected=cell, **arguments),
        (rows, columns),
        key=key,
        query=query,
    )


def clickable_figure(
    draw: Callable[[plots.Cell | None], go.Figure],
    shape: tuple[int, int],
    *,
    key: str,
    query: str | None = None,
) -> plots.Cell | None:
    """Show a figure made by `plots.heatmap` and tell which cell is chosen.

    Args:
        draw: Makes the figure for a chosen cell.
        shape: Rows and columns of its grid.
        key: Name of the widget on its page.
        query: Name of the cell in the page's address, if it is to stand there.

    Returns:
        The chosen (row, column), or None where none was chosen yet.
    """
    asked = "" if query is None else st.query_params.get(query, "")
    cell = _chosen(shape, key, query)
    if query is not None:
        known = addresses.cell(asked, shape) is not None
        chosen = "" if cell is None else f"{cell[0]}.{cell[1]}"
        addresses.tell(query, asked, chosen, known=known, why="which is no cell of this picture")
    # An outlined cell makes this another chart to Streamlit: its selection starts out empty.
    showing.figure(draw(cell), key=key, on_click="rerun")
    return cell


def _chosen(shape: tuple[int, int], key: str, query: str | None) -> plots.Cell | None:
    """The cell that was clicked last, else the remembered one, else the address's."""
    memory = f"{key}:cell"
    clicked = _within(_clicked(st.session_state.get(key)), shape)
    if clicked is not None:
        st.session_state[memory] = clicked
        if query is not None:
            st.query_params[query] = f"{clicked[0]}.{clicked[1]}"
        return clicked
    if memory not in st.session_state:
        address = st.query_params.get(query, "") if query is not None else ""
        st.session_state[memory] = addresses.cell(address, shape)
    return _within(st.session_state[memory], shape)


def _clicked(event: Mapping[str, Any] | None) -> plots.Cell | None:
    if not event:
        return None
    points = cast("list[dict[str, Any]]", event["selection"]["points"])
    return (int(points[0]["y"]), int(points[0]["x"])) if points else None


def _within(cell: plots.Cell | None, shape: tuple[int, int]) -> plots.Cell | None:
    """A cell of an earlier, larger grid is no cell of this one."""
    if cell is None or not (0 <= cell[0] < shape[0] and 0 <= cell[1] < shape[1]):
        return None
    return cell
